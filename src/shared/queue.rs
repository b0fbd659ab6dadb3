//! The queue of remote frees: what a thread that is not the owner's does with blocks that it has freed.
//!
//! Freed blocks come back in *bundles*. The bundle lies in the first of its blocks, so that nothing has to be allocated
//! for it, and names the others:
//!
//! ```text
//! block, freed:  │ next bundle │ blocks │ second block │ third block │ …
//! ```
//!
//! [`Queue`] is a stack of bundles. Any thread pushes, with one atomic exchange; the owner alone takes, and takes all of
//! them at once, so no bundle can be popped and pushed again while somebody looks at it. The owner closes the queue when
//! it goes; a push then fails, and the pusher keeps its blocks.
//!
//! A push releases and the owner's taking acquires: what a thread did with a block happens before the owner hands it out
//! again. Pushes between the two are read-modify-writes and carry on the release of those before them.

use core::ptr::{self, NonNull};

use super::sync::{AtomicPtr, Ordering};
use crate::prefetch::prefetch;

/// The part of a bundle in front of its blocks; the others follow, a pointer each.
#[repr(C)]
pub(super) struct Bundle {
    /// The bundle below on the stack.
    next: *mut Bundle,
    /// How many blocks there are, the bundle's own included.
    blocks: usize,
}

/// Cache lines of a bundle that is full.
const BUNDLE_LINES: usize = 4;
/// Bytes that every block has at least, so that it can be a bundle by itself.
pub(super) const BUNDLE_BYTES: usize = size_of::<Bundle>();

impl Bundle {
    /// Blocks of a bundle that lies in a block of `capacity` bytes, its own included.
    pub(super) const fn room(capacity: usize) -> usize {
        (capacity - BUNDLE_BYTES) / size_of::<NonNull<u8>>() + 1
    }

    /// Names one more block; `index` counts those named before, the bundle's own included.
    ///
    /// # Safety
    /// The bundle lies in a freed block that this thread holds, with room for more than `index` blocks.
    #[inline(always)]
    pub(super) unsafe fn name(bundle: NonNull<Self>, index: usize, block: NonNull<u8>) {
        // SAFETY: the caller says so.
        unsafe { Self::names(bundle).add(index - 1).write(block) };
    }

    /// The block that was named with this `index`.
    ///
    /// # Safety
    /// The bundle lies in a freed block that this thread holds, and names more than `index` blocks, its own included.
    #[inline(always)]
    pub(super) unsafe fn named(bundle: NonNull<Self>, index: usize) -> NonNull<u8> {
        // SAFETY: the caller says so.
        unsafe { Self::names(bundle).add(index - 1).read() }
    }

    /// Where the blocks are named.
    ///
    /// # Safety
    /// The bundle lies in a block of at least `BUNDLE_BYTES`.
    #[inline(always)]
    unsafe fn names(bundle: NonNull<Self>) -> NonNull<NonNull<u8>> {
        // SAFETY: behind the bundle, at most at its end.
        unsafe { bundle.add(1).cast() }
    }
}

/// The queue is closed: there is no owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Closed;

/// The queue of freed blocks of one owner.
pub(super) struct Queue {
    top: AtomicPtr<Bundle>,
}

/// What `top` is once the owner has gone.
const CLOSED: *mut Bundle = ptr::without_provenance_mut(1);

impl Queue {
    /// An open queue.
    pub(super) fn new() -> Self {
        Self { top: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Hands a bundle of `blocks` blocks in.
    ///
    /// # Safety
    /// The bundle lies in a freed block of the owner's, aligned for it, and names `blocks - 1` others; nobody else holds
    /// any of them. On `Ok` they are the owner's, and `self` may be gone.
    pub(super) unsafe fn push(&self, bundle: NonNull<Bundle>, blocks: usize) -> Result<(), Closed> {
        // What the owner did when it went happens before whatever a thread that finds the queue closed does.
        let mut top = self.top.load(Ordering::Acquire);
        while top != CLOSED {
            // SAFETY: the block is this thread's until the exchange below.
            unsafe { bundle.write(Bundle { next: top, blocks }) };
            match self.top.compare_exchange_weak(top, bundle.as_ptr(), Ordering::Release, Ordering::Acquire) {
                Ok(_) => return Ok(()),
                Err(other) => top = other,
            }
        }
        Err(Closed)
    }

    /// Whether nothing is on the queue. Needs no exchange, and may miss what comes in this moment.
    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.top.load(Ordering::Relaxed).is_null()
    }

    /// Whether the owner has closed the queue. For the holder of the lock, under which that happens.
    pub(super) fn is_closed(&self) -> bool {
        self.top.load(Ordering::Relaxed) == CLOSED
    }

    /// Takes every bundle. For the owner, while the queue is open.
    pub(super) fn take(&self) -> Taken {
        Taken { next: self.top.swap(ptr::null_mut(), Ordering::Acquire), rest: 0, bundle: ptr::null_mut() }
    }

    /// Takes every bundle and closes the queue. For the owner, once.
    pub(super) fn close(&self) -> Taken {
        Taken { next: self.top.swap(CLOSED, Ordering::AcqRel), rest: 0, bundle: ptr::null_mut() }
    }
}

/// The blocks of the bundles that the owner took. A block is free to be used, or to go, once it was handed out.
pub(super) struct Taken {
    /// The bundle behind the one at hand.
    next: *mut Bundle,
    /// The bundle at hand, if there is one.
    bundle: *mut Bundle,
    /// Blocks that it names and that were not handed out yet; its own comes last.
    rest: usize,
}

impl Taken {
    /// No block.
    pub(super) const fn none() -> Self {
        Self { next: ptr::null_mut(), rest: 0, bundle: ptr::null_mut() }
    }

    /// The blocks of a bundle that no queue took.
    ///
    /// # Safety
    /// As for [`Queue::push`].
    pub(super) unsafe fn one(bundle: NonNull<Bundle>, blocks: usize) -> Self {
        Self { next: ptr::null_mut(), rest: blocks - 1, bundle: bundle.as_ptr() }
    }

    /// The next `most` blocks.
    pub(super) fn take(&mut self, most: usize) -> impl Iterator<Item = NonNull<u8>> {
        Iterator::take(self, most)
    }
}

impl Iterator for Taken {
    type Item = NonNull<u8>;

    #[inline]
    fn next(&mut self) -> Option<NonNull<u8>> {
        let bundle = match NonNull::new(self.bundle) {
            Some(bundle) => bundle,
            None => {
                let bundle = NonNull::new(self.next)?;
                self.bundle = self.next;
                // SAFETY: a bundle on the stack is in a block that its pusher gave away, and the owner took the stack.
                let Bundle { next, blocks } = unsafe { bundle.read() };
                self.next = next;
                self.rest = blocks - 1;
                // Another core wrote it last.
                prefetch(next.cast(), BUNDLE_LINES);
                bundle
            }
        };
        if self.rest == 0 {
            self.bundle = ptr::null_mut();
            return Some(bundle.cast());
        }
        self.rest -= 1;
        // SAFETY: the bundle names as many blocks, and its own block was not handed out yet.
        Some(unsafe { Bundle::named(bundle, self.rest + 1) })
    }
}
