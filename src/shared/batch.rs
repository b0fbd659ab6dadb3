//! What a thread has freed and not yet handed in.
//!
//! A thread keeps one bundle open, for the owner whose packet it dropped last, and hands it in when it is full, when a
//! packet of another owner is dropped, when the thread ends, or when it is told to ([`flush`]). One atomic exchange then
//! serves up to [`MOST_BLOCKS`] blocks, and the owner finds them named side by side rather than each in its own cold
//! cache line.
//!
//! A thread that allocates as well takes blocks of its open bundle for its own packets where they fit ([`borrow`]): they
//! are in its cache, and to send them home while others are fetched would double the memory that goes round.

use core::cell::Cell;
use core::ptr::NonNull;

use super::home::{Door, Kind};
use super::returns::Bundle;

/// The most blocks of a bundle: with them it fills four cache lines.
const MOST_BLOCKS: usize = 31;

/// A thread's open bundle, if there is one.
struct Batch {
    /// Whose blocks are in it; `None` when there is no open bundle, and then the rest means nothing.
    door: Cell<Option<NonNull<Door>>>,
    bundle: Cell<NonNull<Bundle>>,
    /// Blocks in it, at least 1.
    blocks: Cell<usize>,
    /// Blocks that it can hold, more than there are.
    room: Cell<usize>,
    /// Bytes of each block; 0 when they differ.
    capacity: Cell<usize>,
}

std::thread_local! {
    static BATCH: Batch = const {
        Batch {
            door: Cell::new(None),
            bundle: Cell::new(NonNull::dangling()),
            blocks: Cell::new(0),
            room: Cell::new(0),
            capacity: Cell::new(0),
        }
    };
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.flush();
    }
}

impl Batch {
    /// Hands the open bundle in.
    #[inline(never)]
    fn flush(&self) {
        if let Some(door) = self.door.take() {
            // SAFETY: the bundle was opened for this owner and names so many blocks.
            unsafe { Door::push(door, self.bundle.get(), self.blocks.get()) };
        }
    }

    /// Opens a bundle in `block`.
    ///
    /// # Safety
    /// As for [`hand_in`].
    #[inline(never)]
    unsafe fn open(&self, door: NonNull<Door>, block: NonNull<u8>, capacity: usize) {
        self.flush();
        let room = Bundle::room(capacity).min(MOST_BLOCKS);
        let bundle = block.cast();
        if room > 1 {
            self.door.set(Some(door));
            self.bundle.set(bundle);
            self.blocks.set(1);
            self.room.set(room);
            self.capacity.set(capacity);
        } else {
            // SAFETY: as the caller promises.
            unsafe { Door::push(door, bundle, 1) };
        }
    }
}

/// Takes a block that was freed on a thread that is not its owner's. A call, so that a drop is small enough to become a
/// part of what drops.
///
/// # Safety
/// The block is live, belongs to the owner behind `door`, starts at its first byte, has `capacity` bytes, no fewer than
/// `BUNDLE_BYTES`, and is not used any more.
#[inline(never)]
pub(super) unsafe fn hand_in(door: NonNull<Door>, block: NonNull<u8>, capacity: usize) {
    let kept = BATCH.try_with(|batch| {
        if batch.door.get() != Some(door) {
            // SAFETY: as the caller promises.
            return unsafe { batch.open(door, block, capacity) };
        }
        let blocks = batch.blocks.get();
        // SAFETY: an open bundle has room for one more.
        unsafe { Bundle::name(batch.bundle.get(), blocks, block) };
        batch.blocks.set(blocks + 1);
        if batch.capacity.get() != capacity {
            batch.capacity.set(0);
        }
        if blocks + 1 == batch.room.get() {
            batch.flush();
        }
    });
    if kept.is_err() {
        // The thread is ending and its batch is gone.
        // SAFETY: as the caller promises: a bundle of its own block alone.
        unsafe { Door::push(door, block.cast(), 1) };
    }
}

/// The block that this thread freed last and has not handed in, and where it is at home, if that is a home of `kind`
/// that lends and the block has `capacity` bytes. It is the caller's then, and live.
#[inline]
pub(super) fn borrow(kind: Kind, capacity: usize) -> Option<(NonNull<u8>, NonNull<Door>)> {
    BATCH
        .try_with(|batch| {
            let door = batch.door.get()?;
            // SAFETY: the home stands while blocks of it are out, and those of the bundle are.
            if batch.capacity.get() != capacity || !unsafe { Door::lends(door, kind) } {
                return None;
            }
            let blocks = batch.blocks.get() - 1;
            batch.blocks.set(blocks);
            if blocks == 0 {
                batch.door.set(None);
                return Some((batch.bundle.get().cast(), door));
            }
            // SAFETY: the bundle names one block less than it has.
            Some((unsafe { Bundle::named(batch.bundle.get(), blocks) }, door))
        })
        .ok()
        .flatten()
}

/// Hands in what this thread has freed and not yet handed in.
pub(super) fn flush() {
    // When the batch is gone, it was handed in.
    let _ = BATCH.try_with(Batch::flush);
}
