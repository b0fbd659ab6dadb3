//! With `check` on: what free units contain, so that a write through a pointer to a freed block shows.
//!
//! Every unit of a window that is in no block is filled with one byte: when its window comes from the system, when its
//! block is freed, and when it is cut off a block's end. It is compared when it is handed out again, and by
//! [`integrity_check`](crate::Allocator::integrity_check), which looks at all of them. The self-check around each call
//! does not: it would read all the memory that is held.
//!
//! A large block goes back to the system when it is freed, which is out of reach here.

use core::ops::Range;
use core::ptr::NonNull;

use super::Heap;
use crate::check::{IntegrityError, WriteAfterFree};
use crate::descriptor::Window;
use crate::geometry::Geometry;
use crate::poison;
use crate::system::System;

/// What the bytes of free units contain; neither 0 nor 0xff, which stray writes often are.
const FREED: u8 = 0xDE;
/// Bytes that are compared together.
const CHUNK: usize = 128;

impl<G: Geometry, S: System> Heap<G, S> {
    /// Fills the units for blocks of a window that was just taken from the system, or hides them from the sanitizer.
    pub(super) fn bury_window(&self, window: Window) {
        let free = self.run_of(window, self.geometry.block_units());
        if self.settings.check {
            // SAFETY: the window is held, and no block is in it yet.
            unsafe { bury(free) };
        } else {
            poison::hide(free);
        }
    }

    /// Compares the bytes of every free unit. The maps are in order: the self-check has seen them.
    pub(crate) fn check_freed(&self) -> Result<(), IntegrityError> {
        for (_, window) in self.cold.borrow().windows.iter() {
            let map = window.map(self.geometry);
            let Range { start: mut from, end } = self.geometry.block_units();
            while let Some(hole) = map.next_hole(from..end, 1) {
                from = hole.end;
                // SAFETY: the window is held; with `check` on the bytes of its free units were written.
                unsafe { expect_freed(self.run_of(window, hole))? };
            }
        }
        Ok(())
    }

    /// The bytes of a run of units of a window.
    fn run_of(&self, window: Window, units: Range<u32>) -> NonNull<[u8]> {
        // SAFETY: the units lie in the window, which is held.
        let start = unsafe { window.base().add(self.geometry.bytes(units.start)) };
        NonNull::slice_from_raw_parts(start, self.geometry.bytes(units.end - units.start))
    }
}

/// Fills bytes that are no longer a block's.
///
/// # Safety
/// They lie in a window that is held, and nobody uses them.
pub(super) unsafe fn bury(bytes: NonNull<[u8]>) {
    // SAFETY: the caller says so.
    unsafe { bytes.cast::<u8>().write_bytes(FREED, bytes.len()) };
}

/// Compares bytes that were in no block until now.
///
/// # Safety
/// They lie in a window that is held and whose free units were filled.
pub(super) unsafe fn expect_freed(bytes: NonNull<[u8]>) -> Result<(), IntegrityError> {
    // SAFETY: the caller says so.
    let bytes = unsafe { bytes.as_ref() };
    let differs = |chunk: &[u8]| chunk.iter().fold(0, |all, byte| all | (byte ^ FREED)) != 0;
    if !bytes.chunks(CHUNK).any(differs) {
        return Ok(());
    }
    let stray = |byte: &u8| *byte != FREED;
    match (bytes.iter().position(stray), bytes.iter().rposition(stray)) {
        (Some(first), Some(last)) => Err(IntegrityError::WriteAfterFree(WriteAfterFree {
            address: bytes.as_ptr().addr() + first,
            bytes: last + 1 - first,
        })),
        _ => Ok(()),
    }
}
