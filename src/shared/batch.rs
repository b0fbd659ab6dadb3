//! Blocks that a thread has freed and not yet handed in.
//!
//! A thread that frees packets of other threads' allocators keeps their blocks, and hands them in when there are more
//! than [`MOST_BLOCKS`], when it ends, or when it is told to ([`flush`]): those of one owner together, as bundles. One
//! atomic exchange then serves many blocks, and the owner finds them named side by side rather than each in its own
//! cold cache line.

use core::cell::Cell;
use core::ptr::NonNull;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::owner::Owner;
use super::queue::{Bundle, MOST_BLOCKS};

/// A block that a thread has freed and not handed in. It counts as live, so that its owner stands.
#[derive(Clone, Copy)]
struct Kept {
    block: NonNull<u8>,
    /// The block's bytes, no fewer than `BUNDLE_BYTES`.
    capacity: usize,
    owner: NonNull<Owner>,
}

impl Kept {
    /// Nothing, for a place that nobody reads.
    const NOTHING: Self = Self { block: NonNull::dangling(), capacity: 0, owner: NonNull::dangling() };
}

/// The blocks that a thread keeps, the one freed last at the end.
struct Batch {
    /// How many there are.
    count: Cell<usize>,
    /// How many there may be: `MOST_BLOCKS`, or none as long as nobody would hand them in when the thread ends.
    most: Cell<usize>,
    places: [Cell<Kept>; MOST_BLOCKS],
}

/// Hands in what a thread keeps when that ends.
struct End;

std::thread_local! {
    // Has no destructor, so that nobody who comes here has to look whether it is still there.
    static BATCH: Batch = const {
        Batch { count: Cell::new(0), most: Cell::new(0), places: [const { Cell::new(Kept::NOTHING) }; MOST_BLOCKS] }
    };
    static END: End = const { End };
}

impl Drop for End {
    fn drop(&mut self) {
        BATCH.with(|batch| {
            batch.most.set(0);
            // A panic in here would end the process. Each time round there is a bundle less.
            while catch_unwind(AssertUnwindSafe(|| batch.flush())).is_err() {}
        });
    }
}

impl Batch {
    /// Keeps one more; false when there is no room.
    #[inline(always)]
    fn keep(&self, owner: NonNull<Owner>, block: NonNull<u8>, capacity: usize) -> bool {
        let count = self.count.get();
        if count >= self.most.get() {
            return false;
        }
        // SAFETY: `most` is at most the number of places.
        unsafe { self.places.get_unchecked(count) }.set(Kept { block, capacity, owner });
        self.count.set(count + 1);
        true
    }

    /// Hands everything in and keeps one more, or hands that in as well when the thread is about to be gone.
    ///
    /// # Safety
    /// As for [`hand_in`].
    #[cold]
    #[inline(never)]
    unsafe fn make_room(&self, owner: NonNull<Owner>, block: NonNull<u8>, capacity: usize) {
        self.flush();
        if END.try_with(|_| self.most.set(MOST_BLOCKS)).is_err() || !self.keep(owner, block, capacity) {
            // SAFETY: as the caller promises: a bundle of its own block alone.
            unsafe { Owner::push(owner, block.cast(), 1) };
        }
    }

    /// Hands everything in.
    #[cold]
    #[inline(never)]
    fn flush(&self) {
        while let Some((owner, bundle, blocks)) = self.gather() {
            // SAFETY: the blocks of the bundle are this owner's, and nobody else holds them.
            unsafe { Owner::push(owner, bundle, blocks) };
        }
    }

    /// Makes a bundle of the first block and of as many of the same owner's as that has room to name, which are not
    /// kept any more; returns whose they are, the bundle, and how many.
    fn gather(&self) -> Option<(NonNull<Owner>, NonNull<Bundle>, usize)> {
        let kept = &self.places[..self.count.get()];
        let (first, others) = kept.split_first()?;
        let Kept { block, capacity, owner } = first.get();
        let bundle = block.cast();
        let room = Bundle::room(capacity);
        let mut blocks = 1;
        let mut left = 0;
        for other in others {
            let other = other.get();
            if other.owner == owner && blocks < room {
                // SAFETY: the bundle lies in a block that this thread holds, and has room for one more.
                unsafe { Bundle::name(bundle, blocks, other.block) };
                blocks += 1;
            } else {
                kept[left].set(other);
                left += 1;
            }
        }
        self.count.set(left);
        Some((owner, bundle, blocks))
    }
}

/// Takes a block that was freed on a thread that is not its owner's.
///
/// # Safety
/// The block is live, lies in a region of `owner`'s, starts at its first byte, has `capacity` bytes, no
/// fewer than `BUNDLE_BYTES`, and is not used any more.
#[inline]
pub(super) unsafe fn hand_in(owner: NonNull<Owner>, block: NonNull<u8>, capacity: usize) {
    BATCH.with(|batch| {
        if !batch.keep(owner, block, capacity) {
            // SAFETY: as the caller promises.
            unsafe { batch.make_room(owner, block, capacity) };
        }
    });
}

/// Hands in what this thread has freed and not yet handed in.
pub(super) fn flush() {
    BATCH.with(Batch::flush);
}
