//! The queue of remote frees: what a thread that is not the owner's does with blocks that it has freed.
//!
//! Freed blocks come back in *bundles*. The bundle lies in the first of its blocks, so that nothing has to be allocated
//! for it, and names the others:
//!
//! ```text
//! block, freed:  │ next bundle │ seals, blocks │ second block │ third block │ …
//! ```
//!
//! A packet that overflows may overwrite a bundle behind it. So a bundle is sealed when it is pushed. The owner follows
//! no pointer of it before it has looked at the seals, and copies what it names, since blocks are freed little by
//! little. A bundle with a broken seal is a panic; its blocks, and the bundles behind it where it does not say which
//! that is, stay live for ever.
//!
//! [`Queue`] is a stack of bundles. Any thread pushes, with one atomic exchange; the owner alone takes, and takes all
//! of them at once, so no bundle can be popped and pushed again while somebody looks at it. The owner closes the queue
//! when it goes; a push then fails, and the pusher keeps its blocks.
//!
//! A push releases and the owner's taking acquires: what a thread did with a block happens before the owner hands it
//! out again. Pushes between the two are read-modify-writes and carry on the release of those before them.

use core::ptr::{self, NonNull};

use super::sync::{AtomicPtr, Ordering};
use crate::prefetch::prefetch;
use crate::region::SEAL;

/// The part of a bundle in front of its blocks; the others follow, a pointer each.
#[repr(C)]
pub(super) struct Bundle {
    /// The bundle below on the stack.
    next: *mut Bundle,
    /// How many blocks there are, the bundle's own included, in the lowest [`COUNT_BITS`]. Above them the seals, of
    /// [`SEAL_BITS`] each: that of the blocks that are named, and on top that of what lies in front of those.
    label: usize,
}

/// The most blocks of a bundle.
pub(super) const MOST_BLOCKS: usize = 31;
/// Bits for their number.
const COUNT_BITS: u32 = 8;
const SEAL_BITS: u32 = (usize::BITS - COUNT_BITS) / 2;

/// The top bits of a product, on which all bits of `value` have a say.
fn seal_of(value: usize) -> usize {
    value.wrapping_mul(SEAL) >> (usize::BITS - SEAL_BITS)
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

    /// Says how many blocks a bundle has, which bundle is behind it, and that nobody has overwritten either.
    fn head_label(bundle: NonNull<Self>, next: *mut Self, blocks: usize) -> usize {
        let seal = seal_of(bundle.addr().get() ^ next.addr().rotate_left(usize::BITS / 2) ^ !blocks);
        seal << (COUNT_BITS + SEAL_BITS) | blocks
    }

    /// The part of the label that seals the names.
    fn names_label(names: &[*mut u8]) -> usize {
        let mixed = names.iter().fold(SEAL, |mixed, name| mixed.rotate_left(7) ^ name.addr());
        seal_of(mixed) << COUNT_BITS
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
    /// The bundle lies in a freed block of the owner's, aligned for it, and names `blocks - 1` others; nobody else
    /// holds any of them. On `Ok` they are the owner's, and `self` may be gone.
    pub(super) unsafe fn push(&self, bundle: NonNull<Bundle>, blocks: usize) -> Result<(), Closed> {
        // SAFETY: the bundle names as many, and is this thread's.
        let names = unsafe { NonNull::slice_from_raw_parts(Bundle::names(bundle).cast(), blocks - 1).as_ref() };
        let names = Bundle::names_label(names);
        // What the owner did when it went happens before whatever a thread that finds the queue closed does.
        let mut top = self.top.load(Ordering::Acquire);
        while top != CLOSED {
            // SAFETY: the block is this thread's until the exchange below.
            unsafe { bundle.write(Bundle { next: top, label: Bundle::head_label(bundle, top, blocks) | names }) };
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

    /// Takes every bundle, once all blocks of `taken` were handed out. For the owner, while the queue is open.
    pub(super) fn take(&self, taken: &mut Taken) {
        taken.next = self.top.swap(ptr::null_mut(), Ordering::Acquire);
    }

    /// Takes every bundle and closes the queue. For the owner, once.
    pub(super) fn close(&self) -> Taken {
        Taken { next: self.top.swap(CLOSED, Ordering::AcqRel), ..Taken::none() }
    }
}

/// The blocks of the bundles that the owner took. A block is free to be used, or to go, once it was handed out.
pub(super) struct Taken {
    /// The bundle behind the one at hand.
    next: *mut Bundle,
    /// Blocks of the bundle at hand that were not handed out yet. Its own, the first, comes last.
    rest: usize,
    blocks: [*mut u8; MOST_BLOCKS],
}

impl Taken {
    /// No block.
    pub(super) const fn none() -> Self {
        Self { next: ptr::null_mut(), rest: 0, blocks: [ptr::null_mut(); MOST_BLOCKS] }
    }

    /// The blocks of a bundle that no queue took.
    ///
    /// # Safety
    /// As for [`Queue::push`].
    pub(super) unsafe fn one(bundle: NonNull<Bundle>, blocks: usize) -> Self {
        let mut this = Self::none();
        // SAFETY: the caller says so.
        unsafe { this.copy(bundle, blocks) };
        this
    }

    /// The next `most` blocks.
    pub(super) fn take(&mut self, most: usize) -> impl Iterator<Item = NonNull<u8>> {
        Iterator::take(self, most)
    }

    /// Makes the blocks of a bundle those at hand; returns those that it names.
    ///
    /// # Safety
    /// The bundle lies in a freed block that this thread holds, and has room to name `blocks - 1` others.
    unsafe fn copy(&mut self, bundle: NonNull<Bundle>, blocks: usize) -> &[*mut u8] {
        self.rest = blocks;
        self.blocks[0] = bundle.as_ptr().cast();
        let names = &mut self.blocks[1..blocks];
        // SAFETY: that is where they are named; any bytes are pointers that nobody follows yet.
        unsafe {
            let named = Bundle::names(bundle).cast::<*mut u8>().as_ptr();
            named.copy_to_nonoverlapping(names.as_mut_ptr(), names.len());
        }
        names
    }

    /// Makes the blocks of the next bundle those at hand, if there is one; false if somebody has overwritten it.
    fn go_on(&mut self) -> bool {
        let Some(bundle) = NonNull::new(core::mem::replace(&mut self.next, ptr::null_mut())) else { return true };
        // SAFETY: a bundle on the stack is in a block that its pusher gave away, and the owner took the stack.
        let Bundle { next, label } = unsafe { bundle.read() };
        let blocks = label & ((1 << COUNT_BITS) - 1);
        let names_mask = ((1 << SEAL_BITS) - 1) << COUNT_BITS;
        if !(1..=MOST_BLOCKS).contains(&blocks) || label & !names_mask != Bundle::head_label(bundle, next, blocks) {
            return false;
        }
        self.next = next;
        // Another core wrote it last.
        prefetch(next.cast(), BUNDLE_LINES);
        // SAFETY: the bundle has as many blocks as its pusher has sealed.
        let names = unsafe { self.copy(bundle, blocks) };
        if label & names_mask != Bundle::names_label(names) {
            self.rest = 0;
            return false;
        }
        true
    }
}

impl Iterator for Taken {
    type Item = NonNull<u8>;

    #[inline]
    fn next(&mut self) -> Option<NonNull<u8>> {
        while self.rest == 0 {
            if self.next.is_null() {
                return None;
            }
            let bundle = self.next;
            // A second panic would end the process.
            if !self.go_on() && !std::thread::panicking() {
                overwritten(bundle);
            }
        }
        self.rest -= 1;
        NonNull::new(self.blocks[self.rest])
    }
}

#[cold]
fn overwritten(bundle: *mut Bundle) {
    panic!("cannot take back what another thread has freed: the freed block at {bundle:p} was overwritten");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_tells_which_of_two_bundles_is_in_front() {
        let [one, other] = [0x7f00_1040, 0x7f00_2080].map(ptr::without_provenance_mut::<Bundle>);
        let label = |bundle, next| Bundle::head_label(NonNull::new(bundle).unwrap(), next, 3);
        assert_ne!(label(one, other), label(other, one));
        assert_ne!(label(one, one), label(other, other));
    }
}
