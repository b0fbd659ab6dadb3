//! Blocks straight from the system: those too large for a window, and every block in passthrough mode.
//!
//! A large block is aligned to a window and so starts where no block of a window does, at unit 0; that is how a free
//! tells them apart. In passthrough mode blocks are aligned to a unit only, and every free looks into the table.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::Heap;
use crate::error::AllocError;
use crate::geometry::Geometry;
use crate::system::{Role, System};

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
        if !cold.within_limit(layout.size(), self.settings.memory_limit) {
            return Err(AllocError::MemoryLimit);
        }
        cold.large.reserve(1).map_err(|_| AllocError::OutOfMemory)?;
        let block = self.system.allocate(layout, Role::Large).ok_or(AllocError::OutOfMemory)?;
        cold.hold(layout.size());
        cold.large_bytes += layout.size() as u64;
        cold.large.insert(block.addr().get(), Large { block, layout });
        Ok(NonNull::slice_from_raw_parts(block, layout.size()))
    }

    /// What to ask the system for: whole units at a window's alignment, or in passthrough mode the exact size.
    fn large_layout(&self, size: usize) -> Result<Layout, AllocError> {
        let unit = self.geometry.unit_bytes();
        let (size, align) = if self.settings.passthrough {
            (size, unit)
        } else {
            (size.checked_next_multiple_of(unit).ok_or(AllocError::TooLarge)?, self.geometry.window_bytes())
        };
        Layout::from_size_align(size, align).map_err(|_| AllocError::TooLarge)
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
