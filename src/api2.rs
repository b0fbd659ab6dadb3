//! The allocator trait of the `allocator-api2` crate, so that boxes, vectors and hash maps live in an [`Allocator`].
//!
//! An alignment up to a unit is every block's. For a larger one the block is longer by that alignment, and what was
//! asked for lies at the first multiple of it that leaves room for the block's own address in front:
//!
//! ```text
//! block ├──── … ────┤ address of the block ├──── what was asked for, aligned ────┤
//! ```

use core::alloc::Layout;
use core::ptr::NonNull;

use allocator_api2::alloc::{AllocError, Allocator as Api};

use crate::allocator::Allocator;
use crate::heap::Realloc;
use crate::rc_allocator::RcAllocator;
use crate::system::System;

// SAFETY: a block stays where it is and valid until it is freed or the allocator is dropped, and moving the allocator
// does not move it. An allocator cannot be cloned. A size of 0 takes no block, and never meets the heap.
unsafe impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Api for Allocator<UNIT, WINDOW_UNITS, S> {
    #[inline]
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if layout.size() == 0 {
            Ok(nothing(layout))
        } else if layout.align() <= UNIT {
            Self::allocate(self, layout.size()).map_err(|_| AllocError)
        } else {
            self.allocate_overaligned(layout)
        }
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if layout.size() != 0 && layout.align() <= UNIT {
            return Self::allocate_zeroed(self, layout.size()).map_err(|_| AllocError);
        }
        let block = Api::allocate(self, layout)?;
        // SAFETY: the block was just allocated.
        unsafe { block.cast::<u8>().write_bytes(0, block.len()) };
        Ok(block)
    }

    #[inline]
    unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout) {
        if layout.size() != 0 {
            // SAFETY: the caller passes what `allocate` returned, with a layout that fits it.
            unsafe {
                if layout.align() <= UNIT {
                    self.free_sized(block, layout.size());
                } else {
                    // What fits is any size up to the length that was returned, which says little of the block's.
                    self.free(whole_block(block));
                }
            }
        }
    }

    unsafe fn grow(&self, block: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller keeps the contract of `resize`.
        unsafe { self.resize(block, old, new) }
    }

    unsafe fn grow_zeroed(&self, block: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller keeps the contract of `resize`.
        let block = unsafe { self.resize(block, old, new)? };
        // SAFETY: the bytes behind the old size belong to the block.
        unsafe { block.cast::<u8>().add(old.size()).write_bytes(0, block.len() - old.size()) };
        Ok(block)
    }

    unsafe fn shrink(&self, block: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller keeps the contract of `resize`.
        unsafe { self.resize(block, old, new) }
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Allocator<UNIT, WINDOW_UNITS, S> {
    /// A block for a layout whose alignment is beyond a unit, and whose size is not 0.
    #[cold]
    fn allocate_overaligned(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        let size = layout.size().checked_add(layout.align()).ok_or(AllocError)?;
        let block = Self::allocate(self, size).map_err(|_| AllocError)?;
        let start = block.cast::<u8>();
        let behind_address = start.addr().get() + size_of::<NonNull<u8>>();
        let offset = behind_address.next_multiple_of(layout.align()) - start.addr().get();
        // SAFETY: both the block's start and the alignment are multiples of a unit, which has room for an address; so
        // the offset is at least a unit and at most the alignment, and what is written lies in the block and is
        // aligned.
        let aligned = unsafe {
            let aligned = start.add(offset);
            aligned.cast::<NonNull<u8>>().sub(1).write(start);
            aligned
        };
        Ok(NonNull::slice_from_raw_parts(aligned, block.len() - offset))
    }

    /// Gives a block another layout: in place where that is possible. Keeps as many bytes as both layouts have.
    ///
    /// # Safety
    /// `block` came from this allocator, is live, and `old` fits it.
    unsafe fn resize(&self, block: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if old.size() != 0 && new.size() != 0 && old.align() <= UNIT && new.align() <= UNIT {
            // SAFETY: the caller's block is a block of this allocator as it is.
            return unsafe { self.reallocate(block, new.size(), Realloc::CopyExisting) }.map_err(|_| AllocError);
        }
        let moved = Api::allocate(self, new)?;
        // SAFETY: both blocks are live, different, and at least that long; the old one is not used afterwards.
        unsafe {
            moved.cast::<u8>().copy_from_nonoverlapping(block, old.size().min(new.size()));
            self.deallocate(block, old);
        }
        Ok(moved)
    }
}

/// What stands for no bytes: an aligned address.
fn nothing(layout: Layout) -> NonNull<[u8]> {
    let aligned = NonNull::new(core::ptr::without_provenance_mut::<u8>(layout.align()));
    NonNull::slice_from_raw_parts(aligned.unwrap_or(NonNull::dangling()), 0)
}

/// The allocator's block in which `block` lies.
///
/// # Safety
/// `block` came from `Api::allocate` with an alignment beyond a unit and a size that is not 0, and is live.
unsafe fn whole_block(block: NonNull<u8>) -> NonNull<u8> {
    // SAFETY: `allocate_overaligned` wrote the address there.
    unsafe { block.cast::<NonNull<u8>>().sub(1).read() }
}

// SAFETY: all handles lead to the same allocator, which lives as long as one of them does. It is never moved out of the
// `Rc`: that takes the last handle, which a collection with a block of it has.
unsafe impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Api for RcAllocator<UNIT, WINDOW_UNITS, S> {
    #[inline]
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        Api::allocate(&**self, layout)
    }

    #[inline]
    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        Api::allocate_zeroed(&**self, layout)
    }

    #[inline]
    unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller keeps the same contract.
        unsafe { (**self).deallocate(block, layout) }
    }

    #[inline]
    unsafe fn grow(&self, block: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller keeps the same contract.
        unsafe { (**self).grow(block, old, new) }
    }

    #[inline]
    unsafe fn grow_zeroed(&self, block: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller keeps the same contract.
        unsafe { (**self).grow_zeroed(block, old, new) }
    }

    #[inline]
    unsafe fn shrink(&self, block: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller keeps the same contract. `Allocator::shrink` of the crate is another one.
        unsafe { Api::shrink(&**self, block, old, new) }
    }
}
