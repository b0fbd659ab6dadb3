//! Blocks apart from the extent: rooms that are filled, copied and freed in the same call.
//!
//! Taken from the extent they would end it before its window is full, and leave holes in front of what is allocated
//! next. Apart from it they lie side by side in windows without other blocks, which are empty again afterwards and
//! serve the next rooms, while what stays goes on filling the extent.

use core::ptr::NonNull;

use super::{Cold, Heap};
use crate::geometry::Geometry;
use crate::map::whole_length;
use crate::region::Window;
use crate::system::System;

impl<G: Geometry, S: System> Heap<G, S> {
    /// Hands at most `blocks` blocks of `size` bytes to `take`, from windows that have no others. Fewer, or none, where
    /// windows or the hot path are not to be had; the rest are then to be [allocated](Self::allocate).
    pub(crate) fn allocate_aside(&self, size: usize, mut blocks: usize, mut take: impl FnMut(NonNull<[u8]>)) {
        let geometry = self.geometry;
        if size == 0 || size > geometry.largest_in_window() {
            return;
        }
        let units = whole_length(geometry.units(size));
        while blocks > 0 && self.route.get().frees_hot() {
            let cold = &mut *self.cold.borrow_mut();
            let Some(window) = self.take_empty(cold) else { return };
            let mut at = geometry.block_units().start;
            while blocks > 0 && at + units <= geometry.block_units().end {
                window.map(geometry).set(at, units);
                let block = self.handed_out(window.bytes(at..at + units, geometry).cast(), units);
                if self.settings.zero {
                    // SAFETY: the block is ours to hand out, and nobody else knows it yet.
                    unsafe { block.cast::<u8>().write_bytes(0, block.len()) };
                }
                take(block);
                at += units;
                blocks -= 1;
            }
            self.count(window, at - geometry.block_units().start);
            self.file(cold, window);
        }
    }

    /// Takes a window without blocks: the one emptied last, or one from the system.
    fn take_empty(&self, cold: &mut Cold) -> Option<Window> {
        if cold.empty.len() == 0 {
            self.claim_windows(cold).ok()?;
        }
        let window = cold.empty.pop_front()?;
        if !self.hold_discarded(cold, window) {
            cold.empty.push_front(window);
            return None;
        }
        cold.decay.taken(cold.empty.len());
        window.region(self.geometry).header(self.geometry).idle.clear(window.index(self.geometry));
        Some(window)
    }
}
