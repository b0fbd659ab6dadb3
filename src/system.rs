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

/// The operating system's memory, through the standard library's system allocator.
#[cfg(any(feature = "std", test))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Os;

#[cfg(any(feature = "std", test))]
// SAFETY: `std::alloc::System` promises exactly this of its regions, and neither unwinds nor calls back.
unsafe impl System for Os {
    fn allocate(&self, layout: Layout, _role: Role) -> Option<NonNull<u8>> {
        use std::alloc::GlobalAlloc;
        debug_assert!(layout.size() != 0);
        // SAFETY: the allocator asks for at least one unit.
        NonNull::new(unsafe { std::alloc::System.alloc(layout) })
    }

    unsafe fn free(&self, region: NonNull<u8>, layout: Layout, _role: Role) {
        use std::alloc::GlobalAlloc;
        // SAFETY: the caller passes back a region of `allocate` with its layout.
        unsafe { std::alloc::System.dealloc(region.as_ptr(), layout) }
    }

    fn advise_huge_pages(&self, region: NonNull<u8>, bytes: usize) {
        #[cfg(target_os = "linux")]
        {
            const MADV_HUGEPAGE: i32 = 14;
            unsafe extern "C" {
                fn madvise(address: *mut core::ffi::c_void, length: usize, advice: i32) -> i32;
            }
            // SAFETY: the region is ours, and this advice changes neither content nor validity. A kernel without huge
            // pages answers with an error, which leaves small pages: the outcome that a hint allows.
            let _ = unsafe { madvise(region.as_ptr().cast(), bytes, MADV_HUGEPAGE) };
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (region, bytes);
    }
}
