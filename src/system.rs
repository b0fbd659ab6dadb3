//! Where memory comes from: the only place that asks the system.

mod buffer;
#[cfg(all(any(feature = "std", test), target_os = "linux", not(miri)))]
mod linux;
#[cfg(any(feature = "std", test))]
mod os;

use core::alloc::Layout;
use core::ptr::NonNull;

pub use buffer::Buffer;
#[cfg(any(feature = "std", test))]
pub use os::Os;

/// What memory is for. Memory that was freed in one role must not come back in the other while stale views of it may
/// exist; implementations that recycle address space use this to keep them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A region: windows, with the allocator's bookkeeping in front of them or inside.
    Region,
    /// One block that was too large for a region, or any block in passthrough mode.
    Large,
}

/// A source of aligned memory.
///
/// Two methods are all that it takes; the others have defaults that do nothing, for systems that cannot do better.
///
/// # Safety
/// Memory that [`allocate`](Self::allocate) returns is valid for reads and writes of `layout.size()` bytes, aligned to
/// `layout.align()`, and used by nobody else until it is passed to [`free`](Self::free). Moving the `System` value does
/// not move it. No method may unwind or call into the allocator that uses it.
pub unsafe trait System {
    /// Bytes of address space that the allocator reserves at a time: a region, of up to 64 windows. Pages that nobody
    /// touches should cost nothing. Below two windows, which is the default, a region is a single window.
    const REGION_BYTES: usize = 0;

    /// Memory of `layout`, or `None` where the system refuses. The content may be anything.
    fn allocate(&self, layout: Layout, role: Role) -> Option<NonNull<u8>>;

    /// Takes memory back.
    ///
    /// # Safety
    /// `memory` came from [`allocate`](Self::allocate) or [`grow`](Self::grow) of this value with the same `layout` and
    /// `role`, and is not used any more.
    unsafe fn free(&self, memory: NonNull<u8>, layout: Layout, role: Role);

    /// Takes the whole pages of `bytes` back, all or none, but not their addresses: they stay valid, and contain
    /// anything. Returns how many bytes that were. The default takes none.
    ///
    /// # Safety
    /// The bytes lie in one region of this value, and nobody uses what they contain any more.
    unsafe fn discard(&self, bytes: NonNull<[u8]>) -> usize {
        let _ = bytes;
        0
    }

    /// Makes pages inaccessible for as long as their region is held, where the system can; a stray write then ends
    /// there. A hint; the default ignores it.
    ///
    /// # Safety
    /// The bytes lie in one region of this value, and nobody uses them from here on.
    unsafe fn guard(&self, bytes: NonNull<[u8]>) {
        let _ = bytes;
    }

    /// Makes a [large](Role::Large) block longer without copying it, if need be at another address. The default
    /// refuses.
    ///
    /// # Safety
    /// `memory` came from [`allocate`](Self::allocate) or from here, with layout `old`; `new` is larger and has the
    /// same alignment. On `Some` only the returned memory is used.
    unsafe fn grow(&self, memory: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<u8>> {
        let _ = (memory, old, new);
        None
    }

    /// Keeps a region, with the pages behind it, for an allocator to come; false if it has to be freed instead, which
    /// is the default. Bit `n` of `resident` says whether the `n`th 64th of the region may have pages behind it.
    ///
    /// # Safety
    /// As for [`free`](Self::free), unless this returns false.
    unsafe fn keep(&self, region: NonNull<u8>, layout: Layout, resident: u64) -> bool {
        let _ = (region, layout, resident);
        false
    }

    /// A region that was [kept](Self::keep), with its pages. The default has none.
    fn take_kept(&self, layout: Layout) -> Option<(NonNull<u8>, u64)> {
        let _ = layout;
        None
    }

    /// Asks for huge pages behind a region. A hint; the default ignores it.
    fn advise_huge_pages(&self, region: NonNull<u8>, bytes: usize) {
        let _ = (region, bytes);
    }
}

/// For tests: the operating system's memory in regions of so many bytes, with no more than the two methods that it takes.
#[cfg(test)]
pub(crate) struct Least<const REGION_BYTES: usize>;

// SAFETY: `Os` keeps the contract.
#[cfg(test)]
unsafe impl<const REGION_BYTES: usize> System for Least<REGION_BYTES> {
    const REGION_BYTES: usize = REGION_BYTES;

    fn allocate(&self, layout: Layout, role: Role) -> Option<NonNull<u8>> {
        Os.allocate(layout, role)
    }

    unsafe fn free(&self, memory: NonNull<u8>, layout: Layout, role: Role) {
        // SAFETY: the caller keeps the same contract.
        unsafe { Os.free(memory, layout, role) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_aligned_their_own_and_writable_to_the_last_byte() {
        for shift in [12, 16, 17, 18, 21] {
            let layout = Layout::from_size_align(1 << shift, 1 << shift).unwrap();
            let regions: Vec<_> = (0..9).map(|_| Os.allocate(layout, Role::Region).unwrap()).collect();
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
                    Os.free(region, layout, Role::Region);
                }
            }
        }
    }

    #[test]
    fn what_no_system_has_is_refused() {
        let bytes = usize::try_from(1_u64 << 46).unwrap_or(1 << 30);
        let layout = Layout::from_size_align(bytes, 1 << 21).unwrap();
        let regions: Vec<_> = (0..8).map_while(|_| Os.allocate(layout, Role::Region)).collect();
        assert!(regions.len() < 8);
        for region in regions {
            // SAFETY: the region is ours and is not used afterwards.
            unsafe { Os.free(region, layout, Role::Region) };
        }
    }
}
