//! The way back: what a thread that is not the owner does with a block that it has freed, and what the owner's end means.
//!
//! Freed blocks come back in *bundles*. The bundle lies in the first of its blocks, so that nothing has to be allocated
//! for it, and names the others:
//!
//! ```text
//! block, freed:  │ next bundle │ blocks │ second block │ third block │ …
//! ```
//!
//! [`Returns`] is a stack of bundles. Any thread pushes, with one atomic exchange; the owner alone takes, and takes all
//! of them at once, so no bundle can be popped and pushed again while somebody looks at it.
//!
//! # The protocol
//!
//! | state | `top` | `outstanding` | a push | moves on when |
//! |---|---|---|---|---|
//! | open | null or a bundle | 0 | puts its bundle on the stack | the owner goes and takes what is there |
//! | closing | `CLOSED` | 0, or less by what was pushed | subtracts its blocks | the owner has counted who is missing |
//! | orphaned | `CLOSED` | blocks that are still out | subtracts its blocks | that leaves 0 |
//! | gone | – | – | cannot happen: no block is out | |
//!
//! The owner counts nothing while it works. When it goes, it closes the stack, gives the heap what was on it, and then
//! asks the heap how many blocks live: exactly those whose threads will find the stack closed, or found it closed already.
//! Adding their number to `outstanding` settles it: whoever brings it to 0, the owner or a thread that frees, is the last
//! one that knows of the memory, and takes it down. Before the owner's addition `outstanding` only falls, from 0, and so
//! reaches 0 for nobody.
//!
//! # Ordering
//!
//! A push releases and the owner's taking acquires: what a thread did with a block happens before the owner hands it out
//! again. Pushes between the two are read-modify-writes and carry on the release of those before them. Every subtraction,
//! and the owner's addition, releases and acquires, so all that happened to the memory happens before it is taken down.

use core::ptr::{self, NonNull};

use super::sync::{AtomicIsize, AtomicPtr, Ordering};
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

/// Who takes down what the blocks lie in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Last {
    /// The caller: nobody else knows of it.
    Yes,
    /// Somebody else, perhaps already.
    No,
}

/// The stack of freed blocks of one owner.
pub(super) struct Returns {
    top: AtomicPtr<Bundle>,
    outstanding: AtomicIsize,
}

/// What `top` is once the owner has gone.
const CLOSED: *mut Bundle = ptr::without_provenance_mut(1);

impl Returns {
    /// An open stack.
    pub(super) fn new() -> Self {
        Self { top: AtomicPtr::new(ptr::null_mut()), outstanding: AtomicIsize::new(0) }
    }

    /// Hands a bundle of `blocks` blocks in.
    ///
    /// # Safety
    /// The bundle lies in a freed block of the owner's, aligned for it, and names `blocks - 1` others; nobody else holds
    /// any of them. Unless this returns [`Last::Yes`], `self` may be gone afterwards.
    pub(super) unsafe fn push(&self, bundle: NonNull<Bundle>, blocks: usize) -> Last {
        let mut top = self.top.load(Ordering::Relaxed);
        while top != CLOSED {
            // SAFETY: the block is this thread's until the exchange below.
            unsafe { bundle.write(Bundle { next: top, blocks }) };
            match self.top.compare_exchange_weak(top, bundle.as_ptr(), Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return Last::No,
                Err(other) => top = other,
            }
        }
        self.settle(-(blocks as isize))
    }

    /// Whether nothing is on the stack. Needs no exchange, and may miss what comes in this moment.
    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.top.load(Ordering::Relaxed).is_null()
    }

    /// Takes every bundle. For the owner, while the stack is open.
    pub(super) fn take(&self) -> Taken {
        Taken { next: self.top.swap(ptr::null_mut(), Ordering::Acquire), rest: 0, bundle: ptr::null_mut() }
    }

    /// Takes every bundle and closes the stack. For the owner, once.
    pub(super) fn close(&self) -> Taken {
        Taken { next: self.top.swap(CLOSED, Ordering::Acquire), rest: 0, bundle: ptr::null_mut() }
    }

    /// Adds to the blocks that are out while the stack is closed: the owner all of them, a thread what it freed, negative.
    ///
    /// Unless this returns [`Last::Yes`], `self` may be gone afterwards.
    pub(super) fn settle(&self, blocks: isize) -> Last {
        let before = self.outstanding.fetch_add(blocks, Ordering::AcqRel);
        if before + blocks == 0 { Last::Yes } else { Last::No }
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
