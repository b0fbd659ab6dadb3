//! Where memory comes from: the only place that asks the system.

mod buffer;

use core::alloc::Layout;
use core::ptr::NonNull;

pub use buffer::Buffer;

/// What a region is for. A region that was freed in one role must not come back in the other while stale views of it
/// may exist; implementations that recycle address space use this to keep them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// One or more windows, with the allocator's bookkeeping inside.
    Window,
    /// One block that was too large for a window, or any block in passthrough mode.
    Large,
}

/// A source of aligned memory.
///
/// # Safety
/// A region that [`allocate`](Self::allocate) returns is valid for reads and writes of `layout.size()` bytes, aligned
/// to `layout.align()`, and used by nobody else until it is passed to [`free`](Self::free). Moving the `System` value
/// does not move its regions. Neither method may unwind or call into the allocator that uses it.
pub unsafe trait System {
    /// A region of `layout`, or `None` where the system refuses. The content may be anything.
    fn allocate(&self, layout: Layout, role: Role) -> Option<NonNull<u8>>;

    /// Takes a region back.
    ///
    /// # Safety
    /// `region` came from [`allocate`](Self::allocate) of this value with the same `layout` and `role`, and is not
    /// used any more.
    unsafe fn free(&self, region: NonNull<u8>, layout: Layout, role: Role);

    /// Asks for huge pages behind a region. A hint; the default ignores it.
    fn advise_huge_pages(&self, region: NonNull<u8>, bytes: usize) {
        let _ = (region, bytes);
    }
}

/// The operating system's memory.
///
/// On Linux windows are mapped by themselves, so that a window that is given back leaves the process at once, and a few
/// of the default size are kept for the next allocator of this process: to make and drop an allocator then costs no
/// system call. Everything else comes from the standard library's system allocator.
#[cfg(any(feature = "std", test))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Os;

#[cfg(any(feature = "std", test))]
// SAFETY: `mapped` and `std::alloc::System` promise exactly this of their regions, and neither unwinds nor calls back.
unsafe impl System for Os {
    fn allocate(&self, layout: Layout, role: Role) -> Option<NonNull<u8>> {
        use std::alloc::GlobalAlloc;
        debug_assert!(layout.size() != 0);
        #[cfg(all(target_os = "linux", not(miri)))]
        if mapped::serves(layout, role) {
            return mapped::allocate(layout);
        }
        let _ = role;
        // SAFETY: the allocator asks for at least one unit.
        NonNull::new(unsafe { std::alloc::System.alloc(layout) })
    }

    unsafe fn free(&self, region: NonNull<u8>, layout: Layout, role: Role) {
        use std::alloc::GlobalAlloc;
        #[cfg(all(target_os = "linux", not(miri)))]
        if mapped::serves(layout, role) {
            // SAFETY: the caller passes back a region of `allocate`, which came from the same place.
            return unsafe { mapped::free(region, layout) };
        }
        let _ = role;
        // SAFETY: the caller passes back a region of `allocate` with its layout.
        unsafe { std::alloc::System.dealloc(region.as_ptr(), layout) }
    }

    fn advise_huge_pages(&self, region: NonNull<u8>, bytes: usize) {
        #[cfg(all(target_os = "linux", not(miri)))]
        mapped::advise_huge_pages(region, bytes);
        let _ = (region, bytes);
    }
}

/// Regions mapped from Linux.
#[cfg(all(any(feature = "std", test), target_os = "linux", not(miri)))]
mod mapped {
    use core::alloc::Layout;
    use core::ffi::{c_int, c_void};
    use core::ptr::{self, NonNull};
    use core::sync::atomic::{AtomicPtr, Ordering};

    use super::Role;

    const PROT_READ_WRITE: c_int = 1 | 2;
    const MAP_PRIVATE_ANONYMOUS: c_int = 0x02 | 0x20;
    const MADV_HUGEPAGE: c_int = 14;
    /// The largest page that Linux may have as its smallest.
    const PAGE_BYTES: usize = 64 << 10;

    // The constants above are those of the architectures that Linux runs on, except for three old ones.
    const _: () = assert!(cfg!(not(any(target_arch = "mips", target_arch = "mips64", target_arch = "sparc64"))));

    unsafe extern "C" {
        fn mmap(at: *mut c_void, bytes: usize, access: c_int, flags: c_int, file: c_int, offset: isize) -> *mut c_void;
        fn munmap(at: *mut c_void, bytes: usize) -> c_int;
        fn madvise(at: *mut c_void, bytes: usize, advice: c_int) -> c_int;
    }

    /// Bytes of a region that may be kept: the default window.
    const KEPT_BYTES: usize = 128 << 10;
    /// Regions that nobody uses, for whoever needs one next.
    static KEPT: [AtomicPtr<u8>; 4] = [const { AtomicPtr::new(ptr::null_mut()) }; 4];

    /// Whether a region comes from here: windows of whole pages.
    pub(super) fn serves(layout: Layout, role: Role) -> bool {
        role == Role::Window && layout.align() >= PAGE_BYTES && layout.size().is_multiple_of(layout.align())
    }

    pub(super) fn allocate(layout: Layout) -> Option<NonNull<u8>> {
        if layout.size() == KEPT_BYTES && layout.align() == KEPT_BYTES {
            let kept = KEPT.iter().filter(|kept| !kept.load(Ordering::Relaxed).is_null());
            let region = kept.map(|kept| kept.swap(ptr::null_mut(), Ordering::Acquire)).find_map(NonNull::new);
            if region.is_some() {
                return region;
            }
        }
        map_aligned(layout.size(), layout.align())
    }

    /// Takes a region back.
    ///
    /// # Safety
    /// `region` came from [`allocate`] with this layout and is not used any more.
    pub(super) unsafe fn free(region: NonNull<u8>, layout: Layout) {
        if layout.size() == KEPT_BYTES && layout.align() == KEPT_BYTES {
            for kept in KEPT.iter().filter(|kept| kept.load(Ordering::Relaxed).is_null()) {
                let (none, some) = (ptr::null_mut(), region.as_ptr());
                if kept.compare_exchange(none, some, Ordering::Release, Ordering::Relaxed).is_ok() {
                    return;
                }
            }
        }
        // SAFETY: the region is a mapping of this size and is not used any more.
        unsafe { unmap(region.as_ptr(), layout.size()) };
    }

    /// A mapping of `bytes` bytes that is aligned to `align`, which `bytes` is a multiple of.
    fn map_aligned(bytes: usize, align: usize) -> Option<NonNull<u8>> {
        // Mappings of one size come to lie side by side, so that only the first of them tends to be out of line.
        let region = map(bytes)?;
        if region.addr().get().is_multiple_of(align) {
            return Some(region);
        }
        // SAFETY: the mapping is ours and nobody knows it.
        unsafe { unmap(region.as_ptr(), bytes) };
        let more = bytes.checked_add(align)?;
        let first = map(more)?.as_ptr();
        let before = first.addr().wrapping_neg() & (align - 1);
        let region = first.wrapping_add(before);
        // SAFETY: both parts are of the mapping, in front of the region and behind it, and whole pages since the mapping
        // and the alignment are.
        unsafe {
            unmap(first, before);
            unmap(region.wrapping_add(bytes), align - before);
        }
        NonNull::new(region)
    }

    fn map(bytes: usize) -> Option<NonNull<u8>> {
        const FAILED: usize = usize::MAX;
        // SAFETY: a new mapping, at an address of the system's choice, touches nothing that exists.
        let region = unsafe { mmap(ptr::null_mut(), bytes, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0) };
        if region.addr() == FAILED { None } else { NonNull::new(region.cast()) }
    }

    /// Gives pages back.
    ///
    /// # Safety
    /// They belong to a mapping of this module and are not used any more.
    unsafe fn unmap(first: *mut u8, bytes: usize) {
        if bytes > 0 {
            // SAFETY: the caller says so. The system can refuse this only for want of memory for its own tables; the
            // pages then stay with the process.
            let _ = unsafe { munmap(first.cast(), bytes) };
        }
    }

    pub(super) fn advise_huge_pages(region: NonNull<u8>, bytes: usize) {
        // SAFETY: the region is ours, and this advice changes neither content nor validity. A kernel without huge pages
        // answers with an error, which leaves small pages: the outcome that a hint allows.
        let _ = unsafe { madvise(region.as_ptr().cast(), bytes, MADV_HUGEPAGE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_aligned_their_own_and_writable_to_the_last_byte() {
        for shift in [12, 16, 17, 18, 21] {
            let layout = Layout::from_size_align(1 << shift, 1 << shift).unwrap();
            let regions: Vec<_> = (0..9).map(|_| Os.allocate(layout, Role::Window).unwrap()).collect();
            for (region, fill) in regions.iter().zip(0..) {
                assert!(region.addr().get().is_multiple_of(layout.align()));
                // SAFETY: the region is ours and has as many bytes.
                unsafe { region.write_bytes(fill, layout.size()) };
            }
            for (region, fill) in regions.into_iter().zip(0..) {
                // SAFETY: the region is ours, has as many bytes, and is not used afterwards.
                unsafe {
                    assert_eq!(region.read(), fill);
                    assert_eq!(region.add(layout.size() - 1).read(), fill);
                    Os.free(region, layout, Role::Window);
                }
            }
        }
    }

    #[test]
    fn what_no_system_has_is_refused() {
        let bytes = usize::try_from(1_u64 << 46).unwrap_or(1 << 30);
        let layout = Layout::from_size_align(bytes, 1 << 21).unwrap();
        let regions: Vec<_> = (0..8).map_while(|_| Os.allocate(layout, Role::Window)).collect();
        assert!(regions.len() < 8);
        for region in regions {
            // SAFETY: the region is ours and is not used afterwards.
            unsafe { Os.free(region, layout, Role::Window) };
        }
    }
}
