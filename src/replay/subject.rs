//! The allocators that a replay runs, behind one face.
//!
//! What a call costs is the same for all of them: the caller's loop makes one call that is not inlined per operation.
//! For malloc that is the call into the C library; the others forbid their inlining.

use core::ffi::c_void;
use core::hint::black_box;
use core::ptr::NonNull;

use crate::Allocator;

/// An allocator under test.
pub(super) trait Subject {
    /// Its name in tables and errors.
    const NAME: &'static str;

    /// A block of at least `size` bytes (at least 1), or `None` when there is no memory.
    fn allocate(&mut self, size: u32) -> Option<NonNull<u8>>;

    /// Frees a block.
    ///
    /// # Safety
    /// The block came from `allocate` of the same subject and is freed once.
    unsafe fn free(&mut self, block: NonNull<u8>);
}

/// An allocator whose work can be checked.
///
/// # Safety
/// As many bytes of a block as were asked for may be written and read until the block is freed. (That blocks do not
/// overlap is not taken for granted: the verifying pass is there to see it, and touches one block at a time.)
pub(super) unsafe trait Verifiable: Subject {
    /// Bytes it has taken from the system at this moment.
    fn held_bytes(&self) -> u64;

    /// Its self-check: what is damaged.
    fn self_check(&self) -> Result<(), String>;
}

impl Subject for Allocator {
    const NAME: &'static str = "pktalloc";

    #[inline(never)]
    fn allocate(&mut self, size: u32) -> Option<NonNull<u8>> {
        Allocator::allocate(self, size as usize).ok().map(NonNull::cast)
    }

    #[inline(never)]
    unsafe fn free(&mut self, block: NonNull<u8>) {
        // SAFETY: the caller frees a block of this allocator, once.
        unsafe { Allocator::free(self, block) }
    }
}

// SAFETY: the allocator's blocks may be written and read.
unsafe impl Verifiable for Allocator {
    fn held_bytes(&self) -> u64 {
        self.allocated_bytes()
    }

    fn self_check(&self) -> Result<(), String> {
        self.integrity_check().map_err(|damage| damage.to_string())
    }
}

unsafe extern "C" {
    fn malloc(size: usize) -> *mut c_void;
    fn free(block: *mut c_void);
}

/// The malloc of the process: the C library's, or what is preloaded in its place.
pub(super) struct Malloc;

impl Subject for Malloc {
    const NAME: &'static str = "malloc";

    #[inline]
    fn allocate(&mut self, size: u32) -> Option<NonNull<u8>> {
        // SAFETY: malloc may be called with any size.
        NonNull::new(unsafe { malloc(size as usize) }.cast())
    }

    #[inline]
    unsafe fn free(&mut self, block: NonNull<u8>) {
        // SAFETY: the caller frees a block of malloc, once.
        unsafe { free(block.as_ptr().cast()) }
    }
}

/// Allocates nothing: what is left is the replay's own loop, and a call that does nothing.
pub(super) struct BareLoop;

impl Subject for BareLoop {
    const NAME: &'static str = "loop";

    #[inline(never)]
    fn allocate(&mut self, size: u32) -> Option<NonNull<u8>> {
        black_box(size);
        Some(NonNull::dangling())
    }

    #[inline(never)]
    unsafe fn free(&mut self, block: NonNull<u8>) {
        black_box(block);
    }
}
