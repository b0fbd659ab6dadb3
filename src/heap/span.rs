//! Spans: blocks longer than a window. A span starts where a window does, takes idle windows side by side, and ends
//! where it ends: what is left of its last window serves other blocks.
//!
//! ```text
//! │ window             │ window             │ window             │
//! [ span ───────────────────────────────────────── ] free
//!   length in the map    lead: all of it      lead
//! ```

use core::ops::Range;
use core::ptr::NonNull;

use super::{Cold, Heap};
use crate::error::AllocError;
use crate::geometry::Geometry;
use crate::poison;
use crate::region::Region;
use crate::system::System;

/// Regions in which a run of idle windows is looked for before another region is taken.
const CANDIDATES: usize = 32;

impl<G: Geometry, S: System> Heap<G, S> {
    /// A block of `units` units, more than a window and no more than a region has.
    pub(super) fn allocate_span(&self, units: u32) -> Result<NonNull<[u8]>, AllocError> {
        let geometry = self.geometry;
        let windows = (units as usize).div_ceil(geometry.window_units());
        // A cached block may be all that there is in a window.
        if self.cold.borrow().empty.len() < windows {
            self.look_for_space();
        }
        let cold = &mut *self.cold.borrow_mut();
        let placed = match self.take_run(cold, windows) {
            // What empty windows hold may be what is missing.
            Err(AllocError::MemoryLimit | AllocError::OutOfMemory) => {
                (0..windows).for_each(|_| _ = self.release_coldest(cold));
                self.take_run(cold, windows)
            }
            placed => placed,
        };
        let (region, first) = placed?;
        let start = first * geometry.window_units();
        self.lay(cold, region, start..start, start + units as usize);
        Ok(self.shown(region, start..start + units as usize))
    }

    /// The bytes of units of a region that are handed out, or that a block grows by.
    pub(super) fn shown(&self, region: Region, units: Range<usize>) -> NonNull<[u8]> {
        let bytes = region.bytes(units, self.geometry);
        poison::show(bytes);
        bytes
    }

    /// Takes idle windows side by side: out of the list of empty ones, or from the system.
    fn take_run(&self, cold: &mut Cold, windows: usize) -> Result<(Region, usize), AllocError> {
        let geometry = self.geometry;
        let run_in = |region: Region| {
            let idle = region.header(geometry).idle.get();
            idle.first_set_run_in(geometry.first_window()..geometry.region_windows(), windows)
        };
        let of_empty = cold.empty.iter().take(CANDIDATES).map(|window| window.region(geometry));
        let regions = of_empty.chain(cold.spare.iter(geometry).take(CANDIDATES));
        let found = regions.filter_map(|region| Some((region, run_in(region)?.start))).next();
        let (region, first) = match found {
            Some(found) => found,
            None => (self.take_region(cold, windows * geometry.window_bytes())?, geometry.first_window()),
        };
        self.take_windows(cold, region, first..first + windows).map(|()| (region, first))
    }

    /// Takes these idle windows, all or none.
    pub(super) fn take_windows(
        &self,
        cold: &mut Cold,
        region: Region,
        windows: Range<usize>,
    ) -> Result<(), AllocError> {
        let geometry = self.geometry;
        let header = region.header(geometry);
        for index in windows.clone() {
            let window = region.window(index, geometry);
            let taken = if header.reserved.test(index) {
                self.claim(cold, region, index).map(drop)
            } else if self.hold_discarded(cold, window) {
                cold.empty.remove(window);
                cold.decay.taken(cold.empty.len());
                Ok(())
            } else {
                Err(AllocError::MemoryLimit)
            };
            if let Err(refused) = taken {
                for index in windows.start..index {
                    self.add_empty(cold, region.window(index, geometry));
                }
                self.drop_unused(cold, region);
                return Err(refused);
            }
            header.idle.clear(index);
        }
        Ok(())
    }

    /// Moves the end of the block that starts at `block.start` from `block.end` to `end`, over windows that were taken
    /// for it and, in the window in which it ended, over units that were free; all are counted from the start of the
    /// region.
    pub(super) fn lay(&self, cold: &mut Cold, region: Region, block: Range<usize>, end: usize) {
        let geometry = self.geometry;
        let per_window = geometry.window_units();
        let first = region.window(block.start / per_window, geometry);
        first.map(geometry).set((block.start % per_window) as u32, (end - block.start) as u32);
        for index in block.end / per_window..end.div_ceil(per_window) {
            let window = region.window(index, geometry);
            let start = index * per_window;
            let units = block.end.max(start)..end.min(start + per_window);
            if block.start < start {
                window.lead.set((units.end - start) as u32);
            }
            self.count(window, units.len() as u32);
            if block.end <= start {
                self.file(cold, window);
            }
        }
    }
}
