//! What lies in front of a long block that any thread may hold: whose it is, and how long.
//!
//! ```text
//! block ├ owner pointer │ size │ seal ┼──────── what the packet may use ────────┼ tail ┤
//! ```

use core::ptr::NonNull;

use crate::region::{OwnerPointer, SEAL};

/// The label of a block.
#[repr(C)]
pub(super) struct Label {
    owner: OwnerPointer,
    /// Bytes that the packet may use.
    size: usize,
    /// Distinguishes a size from anything else that may lie here.
    seal: usize,
}

impl Label {
    /// Bytes that a label takes, so that what follows is aligned to a unit.
    pub(super) const fn bytes(unit: usize) -> usize {
        const { assert!(align_of::<Self>() <= crate::geometry::UNIT_BYTES.start) };
        size_of::<Self>().next_multiple_of(unit)
    }

    /// Labels a block of `owner`'s, of which a packet may use `size` bytes.
    ///
    /// # Safety
    /// The block begins with room for a label, which nobody else uses.
    pub(super) unsafe fn write(block: NonNull<u8>, owner: *const (), size: usize) {
        let address = block.addr().get();
        let label = Self { owner: OwnerPointer::new(address, owner), size, seal: seal_of(address, size) };
        // SAFETY: the caller says so.
        unsafe { block.cast().write(label) };
    }

    /// Where it says whose the block is.
    pub(super) fn owner_pointer(this: NonNull<Self>) -> NonNull<OwnerPointer> {
        this.cast()
    }

    /// How many bytes the packet may use; `None` if somebody has written to it.
    ///
    /// # Safety
    /// There is a label, or what stray bytes have left of it, and its block is this thread's.
    pub(super) unsafe fn size(this: NonNull<Self>) -> Option<usize> {
        // SAFETY: the caller says so.
        let (size, seal) = unsafe { ((*this.as_ptr()).size, (*this.as_ptr()).seal) };
        (seal == seal_of(this.addr().get(), size)).then_some(size)
    }

    /// Changes how many bytes the packet may use.
    ///
    /// # Safety
    /// As for [`size`](Self::size).
    pub(super) unsafe fn set_size(this: NonNull<Self>, size: usize) {
        // SAFETY: the caller says so.
        unsafe {
            (*this.as_ptr()).size = size;
            (*this.as_ptr()).seal = seal_of(this.addr().get(), size);
        }
    }
}

fn seal_of(address: usize, size: usize) -> usize {
    address.rotate_left(7) ^ size ^ SEAL
}
