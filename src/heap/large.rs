//! Large blocks beyond a region, in memory of their own, and every block in passthrough mode.
//!
//! A block beyond a region starts where a region would, at no unit for blocks; that is how a free tells them apart. In
//! passthrough mode blocks are aligned to a unit only, and every free looks into the table.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::{Cold, Heap};
use crate::error::AllocError;
use crate::geometry::Geometry;
use crate::system::{Role, System};

/// The part of a block by which it grows at least, so that one that grows by little asks the system seldom.
const GROWTH_PART: usize = 8;

/// A block straight from the system.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Large {
    /// The block, with the system's pointer.
    pub(crate) block: NonNull<u8>,
    /// What the system was asked for.
    pub(crate) layout: Layout,
}

impl<G: Geometry, S: System> Heap<G, S> {
    /// A block of `size` bytes, not 0, straight from the system.
    pub(super) fn allocate_large(&self, size: usize) -> Result<NonNull<[u8]>, AllocError> {
        let layout = self.large_layout(size)?;
        let cold = &mut *self.cold.borrow_mut();
        cold.large.reserve(1).map_err(|_| AllocError::OutOfMemory)?;
        self.make_room(cold, layout.size())?;
        let block = loop {
            match self.system.allocate(layout, Role::Large) {
                Some(block) => break block,
                // What empty windows hold may be what is missing.
                None if self.release_any(cold) > 0 => {}
                None => return Err(AllocError::OutOfMemory),
            }
        };
        cold.hold(layout.size());
        cold.large_bytes += layout.size() as u64;
        cold.large.insert(block.addr().get(), Large { block, layout });
        Ok(NonNull::slice_from_raw_parts(block, layout.size()))
    }

    /// Gives back empty windows as far as `bytes` more bytes need it to stay within the limit.
    fn make_room(&self, cold: &mut Cold, bytes: usize) -> Result<(), AllocError> {
        while !cold.within_limit(bytes, self.settings.memory_limit) {
            if self.release_any(cold) == 0 {
                return Err(AllocError::MemoryLimit);
            }
        }
        Ok(())
    }

    /// What to ask the system for: whole units at a region's alignment, or in passthrough mode the exact size.
    fn large_layout(&self, size: usize) -> Result<Layout, AllocError> {
        let unit = self.geometry.unit_bytes();
        let (size, align) = if self.settings.passthrough {
            (size, unit)
        } else {
            (size.checked_next_multiple_of(unit).ok_or(AllocError::TooLarge)?, self.geometry.region_bytes())
        };
        Layout::from_size_align(size, align).map_err(|_| AllocError::TooLarge)
    }

    /// Gives the large block at `block` room for `size` bytes, more than it has, where the system can do that without
    /// copying; the block may move. Returns it with its capacity.
    pub(super) fn grow_large(&self, block: NonNull<u8>, size: usize) -> Option<NonNull<[u8]>> {
        let address = block.addr().get();
        let cold = &mut *self.cold.borrow_mut();
        let Large { block, layout } = cold.large.get(address)?;
        let grown = |size| {
            let new = self.large_layout(size).ok()?;
            let more = new.size().checked_sub(layout.size())?;
            cold.within_limit(more, self.settings.memory_limit).then_some(new)
        };
        let ample = size.max(layout.size().saturating_add(layout.size() / GROWTH_PART));
        let new = grown(ample).or_else(|| grown(size))?;
        // SAFETY: `allocate_large` or this function took the block with this layout, and the new one is larger.
        let moved = unsafe { self.system.grow(block, layout, new) }?;
        cold.hold(new.size() - layout.size());
        cold.large_bytes += (new.size() - layout.size()) as u64;
        // The entry of the old block makes room for the new one's.
        cold.large.remove(address);
        cold.large.insert(moved.addr().get(), Large { block: moved, layout: new });
        Some(NonNull::slice_from_raw_parts(moved, new.size()))
    }

    /// Takes the block at exactly `address` out of the table and gives it back; false when there is none.
    pub(super) fn release_large(&self, address: usize) -> bool {
        let cold = &mut *self.cold.borrow_mut();
        let Some(large) = cold.large.remove(address) else {
            return false;
        };
        cold.held_bytes -= large.layout.size() as u64;
        cold.large_bytes -= large.layout.size() as u64;
        self.free_large(large);
        true
    }

    /// Returns the memory of a block that is in no table any more, or never will be looked up again.
    pub(super) fn free_large(&self, large: Large) {
        // SAFETY: `allocate_large` took the block with this layout.
        unsafe { self.system.free(large.block, large.layout, Role::Large) };
    }
}
