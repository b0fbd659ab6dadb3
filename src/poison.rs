//! Units that are in no block, hidden from AddressSanitizer's point of view: a read or write of one is a report.
//!
//! Only in builds with `--cfg pktalloc_asan`, which `make sanitize` makes; in all others there is nothing here to call.
//! Not with `check` on, where free units are read to find writes to them.

use core::ptr::NonNull;

#[cfg(pktalloc_asan)]
unsafe extern "C" {
    fn __asan_poison_memory_region(start: *const core::ffi::c_void, bytes: usize);
    fn __asan_unpoison_memory_region(start: *const core::ffi::c_void, bytes: usize);
}

/// Hides bytes that nobody may use: those of a block that was freed, or that were never handed out.
#[inline(always)]
pub(crate) fn hide(bytes: NonNull<[u8]>) {
    #[cfg(pktalloc_asan)]
    // SAFETY: the caller holds the bytes from the system; nothing but the sanitizer's record of them changes.
    unsafe {
        __asan_poison_memory_region(bytes.as_ptr().cast(), bytes.len());
    }
    let _ = bytes;
}

/// Shows bytes that are handed out, or given back to the system.
#[inline(always)]
pub(crate) fn show(bytes: NonNull<[u8]>) {
    #[cfg(pktalloc_asan)]
    // SAFETY: as in `hide`.
    unsafe {
        __asan_unpoison_memory_region(bytes.as_ptr().cast(), bytes.len());
    }
    let _ = bytes;
}
