//! What lies at a pointer: one that is trusted, or any pointer value.

use core::ops::Range;
use core::ptr::NonNull;

use super::Heap;
use crate::error::FreeError;
use crate::geometry::Geometry;
use crate::region::Region;
use crate::system::System;

/// Where a live block lies.
#[derive(Clone, Debug)]
pub(super) enum Site {
    /// A run of units, counted from the start of their region.
    Units(Region, Range<usize>),
    /// Straight from the system, with this many bytes.
    Large(usize),
}

impl<G: Geometry, S: System> Heap<G, S> {
    /// Where a live block lies.
    ///
    /// # Panics
    /// When no live block starts at `block`.
    pub(super) fn site(&self, block: NonNull<u8>) -> Site {
        let geometry = self.geometry;
        let number = self.number_of(block);
        let blocks = geometry.region_units() - geometry.first_block_unit();
        if self.settings.trusts_pointers() && number < blocks {
            // SAFETY: the caller of `reallocate`, `shrink` or `capacity` vouches for the block; see `free_hot`.
            let region = unsafe { Region::of_block(block, geometry) };
            let unit = number + geometry.first_block_unit();
            let (window, start) = (unit / geometry.window_units(), unit % geometry.window_units());
            if let Some(units) = region.window(window, geometry).map(geometry).block_at(start as u32) {
                return Site::Units(region, unit..unit + units as usize);
            }
        }
        match self.find(block) {
            Ok(site) => site,
            Err(error) => panic!("not a live block: {error}"),
        }
    }

    /// The live block that starts at `block`, which may be any pointer.
    pub(super) fn find(&self, block: NonNull<u8>) -> Result<Site, FreeError> {
        let address = block.addr().get();
        let geometry = self.geometry;
        let cold = self.cold.borrow();
        if let Some((start, large)) = cold.large.at_or_below(address) {
            let bytes = large.layout.size();
            if start == address {
                return Ok(Site::Large(bytes));
            }
            if address - start < bytes {
                return Err(FreeError::Interior { address, block: start });
            }
        }
        let inside = |base: &usize| address - base < geometry.region_bytes();
        let Some((base, region)) = cold.regions.at_or_below(address).filter(|(base, _)| inside(base)) else {
            return Err(FreeError::Foreign { address });
        };
        let unit = (address - base) >> geometry.unit_shift();
        if unit < geometry.first_block_unit() {
            return Err(FreeError::Bookkeeping { address });
        }
        let Some(units) = self.block_around(region, unit) else {
            return Err(FreeError::DoubleFree { address });
        };
        let start = base + (units.start << geometry.unit_shift());
        if start == address {
            Ok(Site::Units(region, units))
        } else {
            Err(FreeError::Interior { address, block: start })
        }
    }

    /// The block of a region that a unit belongs to.
    fn block_around(&self, region: Region, unit: usize) -> Option<Range<usize>> {
        let geometry = self.geometry;
        let per_window = geometry.window_units();
        let is_held = |index: usize| !region.header(geometry).reserved.test(index);
        let mut index = unit / per_window;
        // The last unit of the window that can tell.
        let mut last = unit % per_window;
        while is_held(index) {
            let window = region.window(index, geometry);
            let first = index * per_window;
            if let Some((block, is_live)) = window.map(geometry).last_start(last as u32) {
                let block = first + block.start as usize..first + block.end as usize;
                return (is_live && block.contains(&unit)).then_some(block);
            }
            // In a span that starts further in front?
            if last >= window.lead.get() as usize {
                return None;
            }
            index = index.checked_sub(1).filter(|&index| index >= geometry.first_window())?;
            last = per_window - 1;
        }
        None
    }
}
