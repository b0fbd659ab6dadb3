//! How windows come from the system and go back to it, in regions.
//!
//! A region is address space. A window of it that is *claimed* is held: it counts as taken from the system, whether or
//! not its pages were touched. A window that is *released* gives its pages back and becomes reserved again; a region
//! without a claimed window goes back as a whole. A region that is one window cannot be released in part.

use core::alloc::Layout;
use core::ops::Range;
use core::ptr::NonNull;

use super::route::Route;
use super::{Cold, Heap};
use crate::bitset::Bitset;
use crate::error::AllocError;
use crate::geometry::{Geometry, MOST_REGION_WINDOWS};
use crate::poison;
use crate::region::{Place, Region, Window};
use crate::system::{Role, System};

/// The windows, a bit for each, that lie side by side.
fn runs(windows: u64) -> impl Iterator<Item = Range<usize>> {
    let windows = Bitset::over([windows], MOST_REGION_WINDOWS);
    let mut from = 0;
    core::iter::from_fn(move || {
        let run = windows.first_set_run_in(from..MOST_REGION_WINDOWS, 1)?;
        from = run.end;
        Some(run)
    })
}

/// The least that is taken from the system to have a window: the least memory limit.
pub(super) fn least_bytes<G: Geometry>(geometry: G) -> usize {
    geometry.fixed_bytes() + geometry.map_bytes() + geometry.window_bytes()
}

/// The regions with reserved windows, linked through their headers.
#[derive(Debug)]
pub(crate) struct Spare {
    first: Option<Region>,
}

impl Spare {
    /// No region.
    pub(super) const fn new() -> Self {
        Self { first: None }
    }

    /// Puts a region that is not in the list in front.
    fn push<G: Geometry>(&mut self, region: Region, geometry: G) {
        let header = region.header(geometry);
        header.previous.set(None);
        header.next.set(self.first);
        if let Some(first) = self.first {
            first.header(geometry).previous.set(Some(region));
        }
        self.first = Some(region);
    }

    /// Takes a region of the list out of it.
    fn remove<G: Geometry>(&mut self, region: Region, geometry: G) {
        let header = region.header(geometry);
        match header.previous.get() {
            Some(previous) => previous.header(geometry).next.set(header.next.get()),
            None => self.first = header.next.get(),
        }
        if let Some(next) = header.next.get() {
            next.header(geometry).previous.set(header.previous.get());
        }
    }

    /// The regions of the list.
    pub(crate) fn iter<G: Geometry>(&self, geometry: G) -> impl Iterator<Item = Region> + use<G> {
        core::iter::successors(self.first, move |region| region.header(geometry).next.get())
    }
}

impl<G: Geometry, S: System> Heap<G, S> {
    /// Claims a window, and adds it to the empty ones; the first time as many as are to be preallocated.
    pub(super) fn claim_windows(&self, cold: &mut Cold) -> Result<(), AllocError> {
        let first = self.route.get() == Route::Unused;
        self.claim_any(cold)?;
        if first {
            self.set_route(false);
        }
        // What the system refuses now is asked for again when it is needed.
        while first && cold.held_windows < self.settings.preallocated_windows && self.claim_any(cold).is_ok() {}
        Ok(())
    }

    /// Claims a window and adds it to the empty ones.
    fn claim_any(&self, cold: &mut Cold) -> Result<(), AllocError> {
        let geometry = self.geometry;
        let region = match cold.spare.first {
            Some(region) => region,
            None => self.take_region(cold, least_bytes(geometry))?,
        };
        let header = region.header(geometry);
        // One with pages behind it costs no page fault.
        let reserved = header.reserved.word();
        let resident = reserved & header.resident.word();
        let index = if resident != 0 { resident } else { reserved }.trailing_zeros() as usize;
        let window = match self.claim(cold, region, index) {
            Ok(window) => window,
            Err(refused) => {
                self.drop_unused(cold, region);
                return Err(refused);
            }
        };
        self.add_empty(cold, window);
        Ok(())
    }

    /// Makes a reserved window a held one, without blocks and in no list.
    pub(super) fn claim(&self, cold: &mut Cold, region: Region, index: usize) -> Result<Window, AllocError> {
        let geometry = self.geometry;
        let header = region.header(geometry);
        let window = region.window(index, geometry);
        let unmapped = !header.mapped.test(index);
        let bytes = self.window_cost() + if unmapped { geometry.map_bytes() } else { 0 };
        if !cold.within_limit(bytes, self.settings.memory_limit) {
            return Err(AllocError::MemoryLimit);
        }
        if unmapped {
            window.clear_map(geometry);
            header.mapped.set(index);
        }
        window.initialise(geometry);
        cold.hold(bytes);
        cold.held_windows += 1;
        header.resident.set(index);
        header.reserved.clear(index);
        if header.reserved.word() == 0 {
            cold.spare.remove(region, geometry);
        }
        self.fill_window(window);
        Ok(window)
    }

    /// Bytes of a window that count when it is claimed; a region of one window counts as a whole.
    fn window_cost(&self) -> usize {
        if self.geometry.is_single() { 0 } else { self.geometry.window_bytes() }
    }

    /// Bytes of a region that count from the moment it is taken.
    fn region_cost(&self) -> usize {
        if self.geometry.is_single() { self.geometry.region_bytes() } else { self.geometry.fixed_bytes() }
    }

    /// Bytes of a region that count as held, to judge by its windows.
    pub(super) fn region_bytes_held(&self, region: Region) -> u64 {
        let geometry = self.geometry;
        let maps = region.header(geometry).mapped.word().count_ones() as usize * geometry.map_bytes();
        let (windows, discarded) = region.held(geometry).fold((0, 0), |(windows, discarded), window| {
            (windows + self.window_cost() as u64, discarded + u64::from(window.discarded.get()))
        });
        (self.region_cost() + maps + self.stack_bytes_held(region)) as u64 + windows - discarded
    }

    /// Takes a region from the system, of whose windows none is held. `needed` bytes of it will be.
    pub(super) fn take_region(&self, cold: &mut Cold, needed: usize) -> Result<Region, AllocError> {
        let geometry = self.geometry;
        let layout = self.region_layout()?;
        if !cold.within_limit(needed, self.settings.memory_limit) {
            return Err(AllocError::MemoryLimit);
        }
        cold.regions.reserve(1).map_err(|_| AllocError::OutOfMemory)?;
        let kept = if self.may_keep() { self.system.take_kept(layout) } else { None };
        let (base, resident) = match kept {
            Some(kept) => kept,
            None => {
                let base = self.system.allocate(layout, Role::Region).ok_or(AllocError::OutOfMemory)?;
                if self.settings.huge_pages {
                    self.system.advise_huge_pages(base, layout.size());
                }
                if geometry.header_start() > 0 {
                    // SAFETY: nobody uses what lies in front of the header.
                    unsafe { self.system.guard(NonNull::slice_from_raw_parts(base, geometry.header_start())) };
                }
                (base, 0)
            }
        };
        // SAFETY: the memory is ours alone, of a region's size and alignment.
        let region = unsafe { Region::found(base, self.owner.get(), geometry.windows_of(resident), geometry) };
        cold.hold(self.region_cost());
        cold.regions.insert(region.address(), region);
        cold.spare.push(region, geometry);
        Ok(region)
    }

    /// Whether regions of this shape and these settings may serve other allocators afterwards: they look alike to the
    /// system, guard included.
    fn may_keep(&self) -> bool {
        !self.geometry.is_single() && !self.settings.huge_pages
    }

    fn region_layout(&self) -> Result<Layout, AllocError> {
        let bytes = self.geometry.region_bytes();
        Layout::from_size_align(bytes, bytes).map_err(|_| AllocError::TooLarge)
    }

    /// Releases the empty window that has been empty longest; returns the bytes that went back.
    pub(super) fn release_coldest(&self, cold: &mut Cold) -> u64 {
        let Some(window) = cold.empty.last() else { return 0 };
        let before = cold.held_bytes;
        cold.empty.remove(window);
        if self.release(cold, window) {
            cold.decay.gone(cold.empty.len());
        } else {
            cold.empty.push_front(window);
        }
        before - cold.held_bytes
    }

    /// Releases the first empty window that the system takes back, beginning with the one that has been empty longest;
    /// returns the bytes that went back.
    pub(super) fn release_any(&self, cold: &mut Cold) -> u64 {
        (0..cold.empty.len()).map(|_| self.release_coldest(cold)).find(|&bytes| bytes > 0).unwrap_or(0)
    }

    /// Makes a window without blocks that is in no list a reserved one, if the system takes its pages; where it takes
    /// whole regions only, all windows of an idle one. With the last window of a region, the region goes.
    pub(super) fn release(&self, cold: &mut Cold, window: Window) -> bool {
        let geometry = self.geometry;
        let (region, index) = (window.region(geometry), window.index(geometry));
        let header = region.header(geometry);
        let last = header.reserved.word() | 1 << index == geometry.windows_mask();
        if last && self.has_cache(region) {
            return false;
        }
        // A huge page goes as a whole.
        if last || (!self.settings.huge_pages && self.discard_window(region, index)) {
            self.reserve(cold, window);
        } else {
            let held = region.held(geometry).count();
            let all_idle = header.idle.word() == geometry.windows_mask();
            let too_few = cold.held_windows - held < self.settings.preallocated_windows;
            if !all_idle || self.has_cache(region) || too_few {
                return false;
            }
            for other in region.held(geometry) {
                if other != window {
                    cold.empty.remove(other);
                }
                self.reserve(cold, other);
            }
        }
        self.drop_unused(cold, region);
        true
    }

    /// Counts a window without blocks that is in no list as reserved.
    fn reserve(&self, cold: &mut Cold, window: Window) {
        let geometry = self.geometry;
        let region = window.region(geometry);
        let header = region.header(geometry);
        cold.held_bytes += u64::from(window.discarded.replace(0));
        cold.held_bytes -= self.window_cost() as u64;
        cold.held_windows -= 1;
        if header.reserved.word() == 0 {
            cold.spare.push(region, geometry);
        }
        header.reserved.set(window.index(geometry));
    }

    /// Gives the pages of a window back; false where the system does not take them.
    fn discard_window(&self, region: Region, index: usize) -> bool {
        let geometry = self.geometry;
        let units = geometry.window_units();
        let bytes = region.bytes(index * units..(index + 1) * units, geometry);
        poison::show(bytes);
        // SAFETY: no block lies in the window, and its bookkeeping lies elsewhere: a region of one window is never
        // released in part.
        let gone = unsafe { self.system.discard(bytes) } == bytes.len();
        if gone {
            region.header(geometry).resident.clear(index);
        }
        gone
    }

    /// Returns a region of which no window is held.
    pub(super) fn drop_unused(&self, cold: &mut Cold, region: Region) {
        let geometry = self.geometry;
        if region.header(geometry).reserved.word() != geometry.windows_mask() {
            return;
        }
        cold.spare.remove(region, geometry);
        cold.regions.remove(region.address());
        // What is left of it: its windows count no more.
        cold.held_bytes -= self.region_bytes_held(region);
        self.free_region(region);
    }

    /// Returns the memory of a region that is in no table or list any more.
    fn free_region(&self, region: Region) {
        if let Ok(layout) = self.region_layout() {
            poison::show(NonNull::slice_from_raw_parts(region.base(), layout.size()));
            // SAFETY: `take_region` took the region with this layout.
            unsafe { self.system.free(region.base(), layout, Role::Region) };
        }
    }

    /// Counts the pages of a window that were given back as held again, since it is about to be used; false at the
    /// limit.
    pub(super) fn hold_discarded(&self, cold: &mut Cold, window: Window) -> bool {
        let bytes = window.discarded.get() as usize;
        if bytes > 0 {
            if !cold.within_limit(bytes, self.settings.memory_limit) {
                return false;
            }
            cold.hold(bytes);
            window.discarded.set(0);
        }
        true
    }

    /// Gives every page without a live byte back to the system, down to the preallocated windows; returns the bytes.
    pub(crate) fn trim(&self) -> u64 {
        let geometry = self.geometry;
        let before = self.allocated_bytes();
        self.close_cache();
        let cold = &mut *self.cold.borrow_mut();
        if let Some(window) = self.window.get() {
            self.close_extent(window);
            self.retire(cold, window);
        }
        // The ones with the lowest addresses stay, side by side, so that their maps share pages.
        for index in 0..cold.regions.len() {
            let Some(region) = cold.regions.nth(index) else { break };
            for window in region.held(geometry).filter(|window| window.place.get() == Place::Empty) {
                cold.empty.remove(window);
                cold.empty.push_back(window);
            }
        }
        // Windows that cannot go back stay in front, each looked at once.
        for _ in 0..cold.empty.len() {
            if cold.held_windows > self.settings.preallocated_windows {
                self.release_coldest(cold);
            }
        }
        for index in 0..cold.regions.len() {
            let Some(region) = cold.regions.nth(index) else { break };
            let header = region.header(geometry);
            for index in runs(header.reserved.word() & header.resident.word()).flatten() {
                self.discard_window(region, index);
            }
            self.discard_maps(cold, region);
            self.discard_stacks(cold, region);
            for window in region.held(geometry) {
                if window.place.get() != Place::Empty {
                    self.discard_holes(cold, window);
                }
            }
        }
        before - cold.held_bytes
    }

    /// Gives back every page without a live byte, the preallocated windows included: nothing will be allocated any
    /// more.
    #[cfg(feature = "shared")]
    pub(crate) fn trim_all(&self) {
        self.trim();
        self.release_empty();
    }

    /// Gives back every empty window.
    #[cfg(feature = "shared")]
    pub(crate) fn release_empty(&self) {
        self.close_cache();
        let cold = &mut *self.cold.borrow_mut();
        while self.release_any(cold) > 0 {}
    }

    /// Gives back the maps of the windows of a region that are not held.
    ///
    /// A page of the map may have the maps of one window or of all of them: the smallest page has 4 KiB, and others 64.
    fn discard_maps(&self, cold: &mut Cold, region: Region) {
        let geometry = self.geometry;
        if geometry.map_bytes() == 0 {
            return;
        }
        let header = region.header(geometry);
        let left = header.left.replace(false);
        if left {
            let first = geometry.first_window();
            // SAFETY: no block lies in the bookkeeping, so nobody uses its part of the map.
            unsafe { self.system.discard(region.maps(first..first, geometry)) };
        }
        for run in runs(header.reserved.word()) {
            let mapped = run.clone().filter(|&window| header.mapped.test(window)).count();
            if mapped == 0 && !left {
                continue;
            }
            // SAFETY: no block lies in these windows.
            if unsafe { self.system.discard(region.maps(run.clone(), geometry)) } > 0 {
                // All whole pages went. The maps at either end lie in pages that others have, and count as theirs.
                run.for_each(|window| header.mapped.clear(window));
                cold.held_bytes -= (mapped * geometry.map_bytes()) as u64;
            }
        }
    }

    /// Gives back the pages of a window with blocks in which no block lies.
    fn discard_holes(&self, cold: &mut Cold, window: Window) {
        // With `check` on, what free units contain must stay.
        if self.settings.check || self.settings.huge_pages {
            return;
        }
        let geometry = self.geometry;
        let map = window.map(geometry);
        let own = window.own_units(geometry);
        let (mut from, mut gone) = (own.start, 0);
        while let Some(hole) = map.next_hole(from..own.end, 1) {
            from = hole.end;
            let bytes = window.bytes(hole, geometry);
            poison::show(bytes);
            // SAFETY: no block lies in the hole, and no bookkeeping.
            gone += unsafe { self.system.discard(bytes) } as u32;
            poison::hide(bytes);
        }
        let again = gone.max(window.discarded.get());
        cold.held_bytes -= u64::from(again - window.discarded.get());
        window.discarded.set(again);
    }
}

impl<G: Geometry, S: System> Drop for Heap<G, S> {
    fn drop(&mut self) {
        let geometry = self.geometry;
        let cold = self.cold.borrow();
        for (_, region) in cold.regions.iter() {
            // The bookkeeping has pages as well; to an allocator of another shape they may be windows.
            let resident = geometry.parts_of(region.header(geometry).resident.word() | !geometry.windows_mask());
            let kept = self.may_keep()
                && self.region_layout().is_ok_and(|layout| {
                    poison::show(NonNull::slice_from_raw_parts(region.base(), layout.size()));
                    // SAFETY: `take_region` took the region with this layout, and nobody uses it any more.
                    unsafe { self.system.keep(region.base(), layout, resident) }
                });
            if !kept {
                self.free_region(region);
            }
        }
        for (_, large) in cold.large.iter() {
            self.free_large(large);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConfigError, Settings};
    use crate::geometry::Runtime;
    use crate::system::Os;

    // Elsewhere descriptors are shorter.
    #[cfg(target_pointer_width = "64")]
    #[test]
    fn what_is_taken_counts_to_the_byte_and_the_least_limit_has_room_for_one_window() {
        const LEAST: u64 = 135_832;
        let geometry = Runtime::new::<Os>(64, 128 << 10).unwrap();
        let heap = |settings| Heap::with_settings(geometry, settings, Os);
        let limited = |limit| heap(Settings { memory_limit: Some(limit), ..Settings::new() });
        assert_eq!(limited(LEAST - 1).err(), Some(ConfigError::MemoryLimit { bytes: LEAST - 1, least: LEAST }));
        let limited = limited(LEAST).unwrap();
        let blocks = core::iter::from_fn(|| limited.allocate(1024).ok()).count();
        assert_eq!((blocks, limited.refusal(), limited.allocated_bytes()), (128, AllocError::MemoryLimit, LEAST));
        let heap = heap(Settings::new()).unwrap();
        heap.allocate(1).unwrap();
        assert_eq!((heap.allocated_bytes(), heap.cold.borrow().held_windows), (268_952, 2));
    }

    /// The stacks of the cache lie in a region, which has to stay also when no window of it is needed any more.
    #[test]
    fn the_region_with_the_cache_keeps_its_last_window() {
        let geometry = Runtime::new::<Os>(64, 128 << 10).unwrap();
        let heap = Heap::with_settings(geometry, Settings::new(), Os).unwrap();
        let mut blocks = vec![heap.allocate(10_000).unwrap()];
        heap.tend_cache(false);
        let region = heap.window.get().unwrap().region(geometry);
        assert!(heap.has_cache(region));
        while heap.cold.borrow().regions.len() == 1 {
            blocks.push(heap.allocate(10_000).unwrap());
        }
        let stays = blocks.pop().unwrap();
        for block in blocks {
            // SAFETY: live, and not used afterwards.
            unsafe { heap.free(block.cast()) };
        }
        let release_all = || while heap.release_coldest(&mut heap.cold.borrow_mut()) > 0 {};
        release_all();
        assert_eq!(heap.cold.borrow().regions.get(region.address()), Some(region));
        assert_eq!((region.held(geometry).count(), heap.integrity_check()), (1, Ok(())));
        heap.close_cache();
        release_all();
        assert_eq!(heap.cold.borrow().regions.get(region.address()), None);
        // SAFETY: live, and not used afterwards.
        unsafe { heap.free(stays.cast()) };
        assert_eq!(heap.integrity_check(), Ok(()));
    }
}
