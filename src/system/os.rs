//! The operating system's memory.

use core::alloc::Layout;
use core::ptr::NonNull;
use std::alloc::GlobalAlloc;

#[cfg(all(target_os = "linux", not(miri)))]
use super::linux;
use super::{Role, System};

/// The operating system's memory.
///
/// On Linux regions and large blocks are mapped by themselves: pages that are given back leave the process at once,
/// large blocks grow without being copied, and what a dropped allocator had is kept for the next one of this process,
/// up to a [number of bytes](Self::set_kept_bytes), so that to make, use and drop an allocator costs neither system
/// calls nor page faults. Elsewhere memory comes from the standard library's system allocator, and goes back by whole
/// regions.
#[derive(Clone, Copy, Debug, Default)]
pub struct Os;

impl Os {
    /// Sets how many bytes dropped allocators may leave to later ones of this process, of any shape. They count in no
    /// allocator's [`allocated_bytes`](crate::Allocator::allocated_bytes). Default 16 MiB; at most 64 regions are kept,
    /// whatever the number. What is kept beyond it now goes back at once; 0 keeps nothing.
    ///
    /// Linux; elsewhere nothing is kept.
    ///
    /// ```
    /// // Codecs of 20 MB each come and go, two at a time.
    /// pktalloc::system::Os::set_kept_bytes(40 << 20);
    /// ```
    pub fn set_kept_bytes(bytes: usize) {
        #[cfg(all(target_os = "linux", not(miri)))]
        linux::kept::set_limit(bytes);
        let _ = bytes;
    }

    /// How many bytes are kept at this moment.
    #[must_use]
    pub fn kept_bytes() -> usize {
        #[cfg(all(target_os = "linux", not(miri)))]
        return linux::kept::bytes();
        #[cfg(not(all(target_os = "linux", not(miri))))]
        0
    }
}

// SAFETY: `linux` and `std::alloc::System` promise exactly this of their memory, and neither unwinds nor calls back.
unsafe impl System for Os {
    // A block of 4 MiB grows where it is. Address space is scarce where pointers are short.
    const REGION_BYTES: usize = if cfg!(miri) {
        0
    } else if cfg!(target_pointer_width = "64") {
        8 << 20
    } else {
        4 << 20
    };

    fn allocate(&self, layout: Layout, _role: Role) -> Option<NonNull<u8>> {
        debug_assert!(layout.size() != 0);
        #[cfg(all(target_os = "linux", not(miri)))]
        if linux::serves(layout) {
            return linux::map(layout);
        }
        // SAFETY: the allocator asks for at least one unit.
        NonNull::new(unsafe { std::alloc::System.alloc(layout) })
    }

    unsafe fn free(&self, memory: NonNull<u8>, layout: Layout, _role: Role) {
        #[cfg(all(target_os = "linux", not(miri)))]
        if linux::serves(layout) {
            // SAFETY: the caller passes back what `allocate` or `grow` returned, which came from the same place.
            return unsafe { linux::unmap(memory, layout) };
        }
        // SAFETY: the caller passes back what `allocate` returned with its layout.
        unsafe { std::alloc::System.dealloc(memory.as_ptr(), layout) }
    }

    #[cfg(all(target_os = "linux", not(miri)))]
    unsafe fn discard(&self, bytes: NonNull<[u8]>) -> usize {
        // SAFETY: the caller keeps the same contract. Regions are mapped unless they are smaller than a page, and then
        // hold no whole one.
        unsafe { linux::discard(bytes) }
    }

    #[cfg(all(target_os = "linux", not(miri)))]
    unsafe fn guard(&self, bytes: NonNull<[u8]>) {
        // SAFETY: the caller keeps the same contract.
        unsafe { linux::guard(bytes) }
    }

    #[cfg(all(target_os = "linux", not(miri)))]
    unsafe fn grow(&self, memory: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<u8>> {
        // SAFETY: the caller keeps the same contract.
        if linux::serves(old) { unsafe { linux::grow(memory, old, new) } } else { None }
    }

    #[cfg(all(target_os = "linux", not(miri)))]
    unsafe fn keep(&self, region: NonNull<u8>, layout: Layout, resident: u64) -> bool {
        // SAFETY: the caller keeps the same contract.
        linux::serves(layout) && unsafe { linux::kept::put(region, layout, resident) }
    }

    #[cfg(all(target_os = "linux", not(miri)))]
    fn take_kept(&self, layout: Layout) -> Option<(NonNull<u8>, u64)> {
        linux::kept::take(layout)
    }

    fn advise_huge_pages(&self, region: NonNull<u8>, bytes: usize) {
        #[cfg(all(target_os = "linux", not(miri)))]
        linux::advise_huge_pages(region, bytes);
        let _ = (region, bytes);
    }
}
