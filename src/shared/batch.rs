//! What a thread has freed and not yet handed in.
//!
//! A thread keeps one bundle open, for the owner whose packet it dropped last, and hands it in when it is full, when a
//! packet of another owner is dropped, when the thread ends, or when it is told to ([`flush`]). One atomic exchange then
//! serves up to [`MOST_BLOCKS`] blocks, and the owner finds them named side by side rather than each in its own cold
//! cache line.

use core::cell::Cell;
use core::ptr::NonNull;

use super::home::Door;
use super::returns::Bundle;

/// The most blocks of a bundle: with them it fills four cache lines.
const MOST_BLOCKS: usize = 31;

/// The open bundle of a thread.
#[derive(Clone, Copy)]
struct Open {
    door: NonNull<Door>,
    bundle: NonNull<Bundle>,
    /// Blocks in it, at least 1.
    blocks: usize,
    /// Blocks that it can hold, more than there are.
    room: usize,
}

/// A thread's place for an open bundle.
struct Batch(Cell<Option<Open>>);

std::thread_local! {
    static BATCH: Batch = const { Batch(Cell::new(None)) };
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.flush();
    }
}

impl Batch {
    /// Hands the open bundle in.
    fn flush(&self) {
        if let Some(open) = self.0.take() {
            // SAFETY: the bundle was opened for this owner and names so many blocks.
            unsafe { Door::push(open.door, open.bundle, open.blocks) };
        }
    }

    /// Opens a bundle in `block`.
    ///
    /// # Safety
    /// As for [`hand_in`].
    #[cold]
    #[inline(never)]
    unsafe fn open(&self, door: NonNull<Door>, block: NonNull<u8>, capacity: usize) {
        self.flush();
        let room = Bundle::room(capacity).min(MOST_BLOCKS);
        let bundle = block.cast();
        if room > 1 {
            self.0.set(Some(Open { door, bundle, blocks: 1, room }));
        } else {
            // SAFETY: as the caller promises.
            unsafe { Door::push(door, bundle, 1) };
        }
    }
}

/// Takes a block that was freed on a thread that is not its owner's.
///
/// # Safety
/// The block is live, belongs to the owner behind `door`, starts at its first byte, has at least `capacity` bytes, no
/// fewer than `BUNDLE_BYTES`, and is not used any more.
#[inline]
pub(super) unsafe fn hand_in(door: NonNull<Door>, block: NonNull<u8>, capacity: usize) {
    let kept = BATCH.try_with(|batch| {
        if let Some(mut open) = batch.0.get()
            && open.door == door
        {
            // SAFETY: an open bundle has room for one more.
            unsafe { Bundle::name(open.bundle, open.blocks, block) };
            open.blocks += 1;
            batch.0.set(Some(open));
            if open.blocks == open.room {
                batch.flush();
            }
        } else {
            // SAFETY: as the caller promises.
            unsafe { batch.open(door, block, capacity) };
        }
    });
    if kept.is_err() {
        // The thread is ending and its batch is gone.
        // SAFETY: as the caller promises: a bundle of its own block alone.
        unsafe { Door::push(door, block.cast(), 1) };
    }
}

/// Hands in what this thread has freed and not yet handed in.
pub(super) fn flush() {
    // When the batch is gone, it was handed in.
    let _ = BATCH.try_with(Batch::flush);
}
