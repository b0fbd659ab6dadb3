//! Memory for an allocator whose blocks Python may still point into after they are freed.
//!
//! Some users of the buffer protocol keep a pointer without an export: `numpy.ndarray(buffer=p)` holds a reference to
//! the packet and nothing else. Such a pointer must never lead to memory that was unmapped, or that another library
//! or the allocator's own bookkeeping now uses. So regions that are freed give their pages back to the system, but
//! keep their addresses: these are used again for regions of the same role, and unmapped with the Python object of the
//! allocator.
//!
//! A region's bookkeeping lies at a place that depends on its address alone, so a region that is mapped where another
//! was has its bookkeeping where the other's was, and no packet ever covered that.

use core::alloc::Layout;
use core::cell::RefCell;
use core::ops::Range;
use core::ptr::{NonNull, with_exposed_provenance_mut};

use crate::system::{Role, System};

/// Free large regions are discarded together, when they amount to this many bytes, so that a loop over datagrams of
/// 64 KiB does not ask the system twice for each.
const MOST_DIRTY_BYTES: usize = 1 << 20;

/// Memory that is kept until this value goes.
pub(super) struct Kept(NonNull<RefCell<Ranges>>);

/// A handle to it.
pub(super) struct Retained(NonNull<RefCell<Ranges>>);

impl Kept {
    /// `None` when there is no memory.
    pub(super) fn new() -> Option<Self> {
        let mut ranges = Vec::new();
        ranges.try_reserve_exact(1).ok()?;
        ranges.push(RefCell::new(Ranges::default()));
        Some(Self(NonNull::from(Box::leak(ranges.into_boxed_slice())).cast()))
    }

    /// # Safety
    /// The handle goes before this value.
    pub(super) unsafe fn handle(&self) -> Retained {
        Retained(self.0)
    }

    /// Gives back all pages that were freed.
    pub(super) fn trim(&self) {
        // SAFETY: the ranges live as long as this value.
        unsafe { self.0.as_ref() }.borrow_mut().discard_dirty();
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // SAFETY: `new` leaked a box of one, and no handle is left.
        drop(unsafe { Box::from_raw(NonNull::slice_from_raw_parts(self.0, 1).as_ptr()) });
    }
}

impl Retained {
    fn ranges(&self) -> &RefCell<Ranges> {
        // SAFETY: the ranges live longer than the handle.
        unsafe { self.0.as_ref() }
    }
}

/// What is mapped, and which of it is free.
#[derive(Default)]
struct Ranges {
    mappings: Vec<pages::Mapping>,
    windows: FreeRanges,
    large: FreeRanges,
    /// Regions in use.
    regions: usize,
    /// Bytes of free large regions that were not discarded yet.
    dirty_bytes: usize,
}

/// Free addresses in ascending order; ranges that touch are one.
#[derive(Default)]
struct FreeRanges(Vec<Range<usize>>);

impl FreeRanges {
    /// Takes `bytes` at a multiple of `align` out of the range in which they leave the least over.
    ///
    /// There must be capacity for one more range.
    fn take(&mut self, bytes: usize, align: usize) -> Option<usize> {
        let fit = |range: &Range<usize>| {
            let start = range.start.checked_next_multiple_of(align)?;
            (start < range.end && range.end - start >= bytes).then_some(start)
        };
        let fitting = self.0.iter().enumerate().filter_map(|(at, range)| Some((at, fit(range)?)));
        let (at, start) = fitting.min_by_key(|&(at, _)| self.0[at].len())?;
        let Range { start: first, end } = self.0[at];
        let rest = start + bytes..end;
        match (first == start, rest.is_empty()) {
            (true, true) => drop(self.0.remove(at)),
            (true, false) => self.0[at] = rest,
            (false, empty) => {
                self.0[at] = first..start;
                if !empty {
                    self.0.insert(at + 1, rest);
                }
            }
        }
        Some(start)
    }

    /// Puts a range back.
    ///
    /// There must be capacity for one more range.
    fn give(&mut self, range: Range<usize>) {
        let at = self.0.partition_point(|other| other.start < range.start);
        let joins_next = self.0.get(at).is_some_and(|next| next.start == range.end);
        let joins_previous = at > 0 && self.0[at - 1].end == range.start;
        match (joins_previous, joins_next) {
            (true, true) => self.0[at - 1].end = self.0.remove(at).end,
            (true, false) => self.0[at - 1].end = range.end,
            (false, true) => self.0[at].start = range.start,
            (false, false) => self.0.insert(at, range),
        }
    }
}

impl Ranges {
    fn free_ranges(&mut self, role: Role) -> &mut FreeRanges {
        match role {
            Role::Region => &mut self.windows,
            Role::Large => &mut self.large,
        }
    }

    /// Makes sure that taking a region, and giving all regions in use back, needs no memory.
    fn reserve(&mut self, role: Role) -> Option<()> {
        let more = self.regions + 2;
        self.free_ranges(role).0.try_reserve(more).ok()?;
        self.mappings.try_reserve(1).ok()
    }

    fn allocate(&mut self, layout: Layout, role: Role) -> Option<NonNull<u8>> {
        let bytes = layout.size().checked_next_multiple_of(pages::granule())?;
        let align = layout.align().max(pages::granule());
        self.reserve(role)?;
        let start = match self.free_ranges(role).take(bytes, align) {
            Some(start) => {
                if role == Role::Large {
                    self.dirty_bytes = self.dirty_bytes.saturating_sub(bytes);
                }
                start
            }
            None => {
                let mapping = pages::Mapping::new(bytes, align)?;
                let start = mapping.start();
                self.mappings.push(mapping);
                start
            }
        };
        self.regions += 1;
        NonNull::new(with_exposed_provenance_mut(start))
    }

    fn free(&mut self, start: usize, layout: Layout, role: Role) {
        let bytes = layout.size().next_multiple_of(pages::granule());
        let range = start..start + bytes;
        self.regions -= 1;
        match role {
            Role::Region => {
                let _ = pages::discard(&range);
                self.windows.give(range);
            }
            Role::Large => {
                self.large.give(range);
                self.dirty_bytes += bytes;
                if self.dirty_bytes > MOST_DIRTY_BYTES {
                    self.discard_dirty();
                }
            }
        }
    }

    /// Gives the pages of free large regions back to the system.
    fn discard_dirty(&mut self) {
        self.large.0.iter().for_each(|range| _ = pages::discard(range));
        self.dirty_bytes = 0;
    }
}

// SAFETY: a region is a part of a mapping that is readable and writable and this value's alone; it is in no free range
// while it is in use, and mappings outlive the handle.
unsafe impl System for Retained {
    // Elsewhere pages do not go back one by one, and are not free until they are touched.
    const REGION_BYTES: usize = if cfg!(unix) { 8 << 20 } else { 0 };

    fn allocate(&self, layout: Layout, role: Role) -> Option<NonNull<u8>> {
        self.ranges().borrow_mut().allocate(layout, role)
    }

    unsafe fn free(&self, region: NonNull<u8>, layout: Layout, role: Role) {
        self.ranges().borrow_mut().free(region.addr().get(), layout, role);
    }

    unsafe fn discard(&self, bytes: NonNull<[u8]>) -> usize {
        let start = bytes.addr().get().next_multiple_of(pages::granule());
        let end = (bytes.addr().get() + bytes.len()) / pages::granule() * pages::granule();
        if start < end && pages::discard(&(start..end)) { end - start } else { 0 }
    }

    fn advise_huge_pages(&self, region: NonNull<u8>, bytes: usize) {
        pages::advise_huge(&(region.addr().get()..region.addr().get() + bytes));
    }
}

/// Memory of the operating system, in pages.
#[cfg(unix)]
mod pages {
    use core::ops::Range;
    use core::ptr::{null_mut, with_exposed_provenance_mut};

    /// Bytes of a page.
    pub(super) fn granule() -> usize {
        // SAFETY: asks for a constant of the system.
        let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        usize::try_from(bytes).unwrap_or(4096)
    }

    /// Pages that are mapped as long as this value lives; they come zeroed.
    pub(super) struct Mapping(Range<usize>);

    impl Mapping {
        /// `bytes` at a multiple of `align`; both are whole pages.
        pub(super) fn new(bytes: usize, align: usize) -> Option<Self> {
            let with_slack = bytes.checked_add(align - granule())?;
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: a new anonymous mapping, wherever the system likes.
            let address = unsafe {
                libc::mmap(null_mut(), with_slack, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
            };
            if address == libc::MAP_FAILED {
                return None;
            }
            let whole = address.expose_provenance();
            let whole = whole..whole + with_slack;
            let start = whole.start.next_multiple_of(align);
            let used = start..start + bytes;
            unmap(&(whole.start..used.start));
            unmap(&(used.end..whole.end));
            Some(Self(used))
        }

        pub(super) fn start(&self) -> usize {
            self.0.start
        }
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            unmap(&self.0);
        }
    }

    /// Unmaps whole pages of a mapping that nobody uses.
    fn unmap(range: &Range<usize>) {
        if !range.is_empty() {
            // SAFETY: the pages were mapped by `Mapping::new`, and only its value knew them.
            if unsafe { libc::munmap(with_exposed_provenance_mut(range.start), range.len()) } != 0 {
                // Refused for want of memory for the system's own tables: the pages need not stay.
                discard(range);
            }
        }
    }

    /// Gives pages back to the system; they stay readable and writable, and their content is lost. False if the system
    /// refuses.
    pub(super) fn discard(range: &Range<usize>) -> bool {
        // SAFETY: the range is mapped, and no live block lies in it. If the system refuses, the pages stay.
        unsafe { libc::madvise(with_exposed_provenance_mut(range.start), range.len(), libc::MADV_DONTNEED) == 0 }
    }

    /// Asks for huge pages.
    pub(super) fn advise_huge(range: &Range<usize>) {
        #[cfg(target_os = "linux")]
        // SAFETY: the range is mapped; the advice changes neither content nor validity. A system that refuses it goes
        // on with small pages.
        unsafe {
            libc::madvise(with_exposed_provenance_mut(range.start), range.len(), libc::MADV_HUGEPAGE);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = range;
    }
}

/// Memory of the standard library's allocator, kept whole until the end.
#[cfg(not(unix))]
mod pages {
    use core::alloc::Layout;
    use core::ops::Range;
    use core::ptr::with_exposed_provenance_mut;
    use std::alloc::{GlobalAlloc, System};

    /// What sizes are rounded up to.
    pub(super) fn granule() -> usize {
        4096
    }

    /// Memory that is held as long as this value lives; it comes zeroed.
    pub(super) struct Mapping {
        start: usize,
        layout: Layout,
    }

    impl Mapping {
        pub(super) fn new(bytes: usize, align: usize) -> Option<Self> {
            let layout = Layout::from_size_align(bytes, align).ok()?;
            // SAFETY: a region has at least one byte.
            let address = unsafe { System.alloc_zeroed(layout) };
            (!address.is_null()).then(|| Self { start: address.expose_provenance(), layout })
        }

        pub(super) fn start(&self) -> usize {
            self.start
        }
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            // SAFETY: `new` took the memory with this layout.
            unsafe { System.dealloc(with_exposed_provenance_mut(self.start), self.layout) };
        }
    }

    /// Nothing can be given back in parts.
    pub(super) fn discard(_: &Range<usize>) -> bool {
        false
    }

    /// There is nobody to ask.
    pub(super) fn advise_huge(_: &Range<usize>) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_range_that_fits_is_used_and_what_is_left_stays_free() {
        let mut free = FreeRanges(Vec::with_capacity(8));
        free.give(0x1000..0x9000);
        free.give(0x20000..0x23000);
        assert_eq!(free.take(0x2000, 0x1000), Some(0x20000));
        assert_eq!(free.take(0x2000, 0x4000), Some(0x4000));
        assert_eq!(free.0, [0x1000..0x4000, 0x6000..0x9000, 0x22000..0x23000]);
        assert_eq!(free.take(0x4000, 0x1000), None);
    }

    #[test]
    fn ranges_that_touch_become_one() {
        let mut free = FreeRanges(Vec::with_capacity(8));
        for start in [0x1000, 0x3000, 0x2000, 0x8000, 0x7000] {
            free.give(start..start + 0x1000);
        }
        assert_eq!(free.0, [0x1000..0x4000, 0x7000..0x9000]);
    }

    #[test]
    fn addresses_come_back_in_their_own_role_only() {
        let kept = Kept::new().unwrap();
        // SAFETY: the handle goes first.
        let memory = unsafe { kept.handle() };
        let layout = Layout::from_size_align(1 << 17, 1 << 17).unwrap();
        let window = memory.allocate(layout, Role::Region).unwrap();
        // SAFETY: the region is held, and not used after it was freed, except that it must still be readable.
        unsafe {
            window.write_bytes(7, layout.size());
            memory.free(window, layout, Role::Region);
            assert!(window.read() == 0 || window.read() == 7);
        }
        let large = memory.allocate(layout, Role::Large).unwrap();
        assert_ne!(large, window);
        assert_eq!(memory.allocate(layout, Role::Region), Some(window));
        assert_eq!(large.addr().get() % layout.align(), 0);
    }

    #[test]
    fn a_block_that_grows_page_by_page_uses_old_addresses_again() {
        let kept = Kept::new().unwrap();
        // SAFETY: the handle goes first.
        let memory = unsafe { kept.handle() };
        for pages in 1..200 {
            let layout = Layout::from_size_align(pages * 4096, 4096).unwrap();
            let region = memory.allocate(layout, Role::Large).unwrap();
            // SAFETY: the region is held, and not used afterwards.
            unsafe { memory.free(region, layout, Role::Large) };
        }
        let ranges = memory.ranges().borrow();
        let mapped: usize = ranges.large.0.iter().map(Range::len).sum();
        assert!(
            mapped <= 4 * 200 * pages::granule(),
            "{mapped} bytes of address space for blocks of at most 200 pages"
        );
    }
}
