//! With `check` on: what free units contain, so that a write through a pointer to a freed block shows.
//!
//! Every unit of a window that is in no block is filled with one byte: when its window is claimed, when its block is
//! freed, and when it is cut off a block's end. It is compared when it is handed out again, and by
//! [`integrity_check`](crate::Allocator::integrity_check), which looks at all of them. The self-check around each call
//! does not: it would read all the memory that is held.
//!
//! A large block beyond a region goes back to the system when it is freed, which is out of reach here.

use core::ops::Range;
use core::ptr::NonNull;

use super::Heap;
use crate::error::{IntegrityError, WriteAfterFree};
use crate::geometry::Geometry;
use crate::poison;
use crate::region::Window;
use crate::system::System;

/// What the bytes of free units contain; neither 0 nor 0xff, which stray writes often are.
const FREED: u8 = 0xDE;
/// Bytes that are compared together.
const CHUNK: usize = 128;

impl<G: Geometry, S: System> Heap<G, S> {
    /// Fills the units for blocks of a window that was just claimed, or hides them from the sanitizer.
    pub(super) fn fill_window(&self, window: Window) {
        let free = window.bytes(self.geometry.block_units(), self.geometry);
        if self.settings.check {
            // SAFETY: the window is held, and no block is in it yet.
            unsafe { fill(free) };
        } else {
            poison::hide(free);
        }
    }

    /// Compares the bytes of every free unit. The maps are in order: the self-check has seen them.
    pub(super) fn check_freed(&self) -> Result<(), IntegrityError> {
        let geometry = self.geometry;
        for (_, region) in self.cold.borrow().regions.iter() {
            for window in region.held(geometry) {
                let map = window.map(geometry);
                let Range { start: mut from, end } = window.own_units(geometry);
                while let Some(hole) = map.next_hole(from..end, 1) {
                    from = hole.end;
                    // SAFETY: the window is held; with `check` on the bytes of its free units were written.
                    unsafe { expect_freed(window.bytes(hole, geometry))? };
                }
            }
        }
        Ok(())
    }
}

/// Fills bytes that are no longer a block's.
///
/// # Safety
/// They lie in a window that is held, and nobody uses them.
pub(super) unsafe fn fill(bytes: NonNull<[u8]>) {
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
