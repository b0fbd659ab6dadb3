//! Where the next extent comes from.
//!
//! ```text
//!                    ┌──── taken ◀─ Empty ◀──────────────────────┐
//!                    ▼                                           │ none lives
//!  reserved ──▶ Current ── its pass ends ──┬─ a quarter is free ─▶ Reusable ◀┐
//!                    ▲                     └─ less is ─▶ Full ───────────────┘ a quarter is free
//!                    └──── another pass ◀────────────────────── Reusable
//! ```
//!
//! The next hole of the current window comes first. When its pass ends, the next window is, in this order,
//!
//! 1. if more is free in the windows with blocks than whole windows need as slack: the emptiest of the first few
//!    reusable ones, so that what lives does not spread over all that a burst left;
//! 2. the one emptied last: its bookkeeping is in the processor's cache, and its extent is long;
//! 3. a reserved one, which takes memory from the system;
//! 4. if that is refused: any window with a hole that is large enough, also a full one.
//!
//! A window's holes are found once, when its pass begins, and kept as bits.

use core::ops::Range;

use super::{Cold, Heap};
use crate::error::AllocError;
use crate::geometry::Geometry;
use crate::region::{Place, Window};
use crate::system::System;

use super::decay::TICK;

/// The part of a window that must be free for it to get another pass.
const REUSE_PART: u32 = 4;
/// The part of all units that may be free before windows get another pass rather than memory being taken: whole windows
/// cost less.
const SLACK_PART: u64 = 16;
/// Windows whose worth of free units does not count: a queue drains one while it fills another.
const SLACK_WINDOWS: u64 = 2;
/// Windows that count among the empty ones that are kept: the current one, and what bookkeeping amounts to.
const IN_USE: usize = 4;
/// Windows whose worth of free units is not much yet.
const SPARSE_WINDOWS: u64 = 8;
/// Reusable windows among which the emptiest is looked for.
const CANDIDATES: usize = 8;
/// Reusable windows whose holes are looked at for one extent.
const TRIES: usize = 4;
/// Full windows that one refused call looks at.
const SWEPT_WINDOWS: usize = 256;
/// Of these, the most whose holes it looks at.
const SWEPT_MAPS: usize = 16;

/// What is known of the holes in full windows, while memory is refused: a refused call looks at a bounded number of
/// them and leaves the rest to the next one.
#[derive(Debug)]
pub(super) struct Sweep {
    /// The region, in order of address, and the window in it, at which the next call goes on.
    at: (usize, usize),
    /// Windows that were looked at since something was freed, and that have no hole of `wanted` units.
    seen: usize,
    wanted: u32,
}

impl Sweep {
    /// Nothing is known.
    pub(super) const fn new() -> Self {
        Self { at: (0, 0), seen: 0, wanted: 0 }
    }

    /// Something was freed.
    pub(super) fn restart(&mut self) {
        self.seen = 0;
    }

    /// Whether one of `windows` windows may still have a hole of `units` units.
    fn may_find(&mut self, units: u32, windows: usize) -> bool {
        if units < self.wanted {
            self.restart();
        }
        let may_find = self.seen < windows;
        if may_find {
            self.wanted = units;
        }
        may_find
    }
}

impl<G: Geometry, S: System> Heap<G, S> {
    /// Does what has to be done now and then: tends the cache, and gives an empty window back when one is due.
    #[cold]
    #[inline(never)]
    pub(super) fn tick(&self) {
        self.until_tick.set(TICK);
        let mut cold = self.cold.borrow_mut();
        let in_order = cold.order.is_kept();
        let empty = cold.empty.len();
        if cold.decay.tick(empty, self.settings.keep_empty_windows.saturating_sub(IN_USE)) {
            self.release_coldest(&mut cold);
        }
        drop(cold);
        self.tend_cache(in_order);
    }

    /// Opens an extent of at least `units` units, no more than a window has.
    #[cold]
    #[inline(never)]
    pub(super) fn refill(&self, units: u32) -> Result<(), AllocError> {
        if self.next_hole(&mut self.cold.borrow_mut(), units) {
            return Ok(());
        }
        self.settle();
        let mut outcome = self.next_window(&mut self.cold.borrow_mut(), units);
        if outcome.is_err() && !self.route.get().is_scarce() {
            // What is cached may be what is missing.
            self.set_route(true);
            self.close_cache();
            self.cold.borrow_mut().sweep.restart();
            outcome = self.next_window(&mut self.cold.borrow_mut(), units);
        }
        outcome
    }

    /// Opens the next hole of the current window, or ends its pass; false in the second case.
    fn next_hole(&self, cold: &mut Cold, units: u32) -> bool {
        let Some(window) = self.window.get() else { return false };
        self.close_extent(window);
        let opened = self.open_hole(window, units);
        if !opened {
            self.retire(cold, window);
        }
        opened
    }

    /// Makes another window with a hole of at least `units` units the current one, and opens it.
    fn next_window(&self, cold: &mut Cold, units: u32) -> Result<(), AllocError> {
        let is_scarce = self.route.get().is_scarce();
        if !is_scarce && self.free_units(cold) >= self.slack_units(cold) && self.reuse(cold, units) {
            cold.order.filled(false);
            return Ok(());
        }
        let refused = loop {
            if let Some(window) = cold.empty.pop_front() {
                if !self.hold_discarded(cold, window) {
                    cold.empty.push_front(window);
                    break AllocError::MemoryLimit;
                }
                self.set_route(false);
                cold.decay.taken(cold.empty.len());
                cold.order.filled(true);
                self.begin_empty(window);
                return Ok(());
            }
            match self.claim_windows(cold) {
                // They are the empty ones.
                Ok(()) => {}
                Err(refused) => break refused,
            }
        };
        let windows = cold.regions.len() * self.geometry.region_windows();
        let may_fit = !is_scarce || cold.sweep.may_find(units, windows);
        if may_fit && (self.reuse(cold, units) || (is_scarce && self.sweep(cold, units, windows))) {
            return Ok(());
        }
        Err(refused)
    }

    /// Units in which no block lives, over all windows that have blocks; those of cached blocks are among them.
    fn free_units(&self, cold: &Cold) -> u64 {
        let with_blocks = cold.held_windows - cold.empty.len();
        with_blocks as u64 * self.geometry.block_units().len() as u64 - self.used_units()
    }

    /// Whether much is free in windows that have blocks, be they cached ones: half of what lives, and a few windows.
    pub(super) fn is_sparse(&self, cold: &Cold) -> bool {
        let window = self.geometry.block_units().len() as u64;
        self.free_units(cold) > self.used_units() / 2 + SPARSE_WINDOWS * window
    }

    /// How many free units whole windows need.
    fn slack_units(&self, cold: &Cold) -> u64 {
        let window = self.geometry.block_units().len() as u64;
        let with_blocks = cold.held_windows - cold.empty.len();
        SLACK_WINDOWS * window + with_blocks as u64 * window / SLACK_PART
    }

    /// Begins a pass over a reusable window that has a hole of at least `units` units; false when none of those that
    /// are looked at has one.
    fn reuse(&self, cold: &mut Cold, units: u32) -> bool {
        for _ in 0..TRIES {
            let candidates = cold.reusable.iter().take(CANDIDATES);
            let Some(window) = candidates.min_by_key(|window| window.live_units(self.geometry)) else { return false };
            if window.free_units(self.geometry) < units {
                return false;
            }
            cold.reusable.remove(window);
            if self.begin_pass(cold, window, units) {
                return true;
            }
            // Smaller requests may still be served by it.
            window.place.set(Place::Reusable);
            cold.reusable.push_back(window);
        }
        false
    }

    /// Begins a pass over a full window that has a hole of at least `units` units, if one of those, of `all` windows,
    /// that it is the turn of has. Memory was refused.
    fn sweep(&self, cold: &mut Cold, units: u32, all: usize) -> bool {
        let geometry = self.geometry;
        let (mut windows, mut maps) = (0, 0);
        while windows < SWEPT_WINDOWS && maps < SWEPT_MAPS && cold.sweep.seen < all {
            let (at, index) = cold.sweep.at;
            let Some(region) = cold.regions.nth(at) else {
                cold.sweep.at = (0, 0);
                continue;
            };
            let behind = index + 1;
            cold.sweep.at = if behind < geometry.region_windows() { (at, behind) } else { (at + 1, 0) };
            cold.sweep.seen += 1;
            windows += 1;
            let held = geometry.windows_mask() & !region.header(geometry).reserved.word();
            if held >> index & 1 == 0 {
                continue;
            }
            let window = region.window(index, geometry);
            let is_listed = window.place.get() == Place::Reusable;
            if !(is_listed || window.place.get() == Place::Full) || window.free_units(geometry) < units {
                continue;
            }
            maps += 1;
            if is_listed {
                cold.reusable.remove(window);
            }
            if self.begin_pass(cold, window, units) {
                // It may have more holes when its pass ends, or when something larger is asked for in between.
                cold.sweep.at = (at, index);
                cold.sweep.seen -= 1;
                return true;
            }
            if is_listed {
                window.place.set(Place::Reusable);
                cold.reusable.push_back(window);
            } else {
                self.file(cold, window);
            }
        }
        false
    }

    /// Puts a window of which something was freed where the next allocation looks. Memory is scarce.
    pub(super) fn offer(&self, window: Window) {
        let cold = &mut *self.cold.borrow_mut();
        cold.sweep.restart();
        if window.place.get() == Place::Full {
            window.set_threshold(0, self.geometry);
            window.place.set(Place::Reusable);
            cold.reusable.push_front(window);
        }
    }

    /// Makes a window without blocks that is in no list the current one.
    fn begin_empty(&self, window: Window) {
        let geometry = self.geometry;
        window.region(geometry).header(geometry).idle.clear(window.index(geometry));
        let blocks = geometry.block_units();
        self.make_current(window, blocks.end);
        self.open_extent(window, blocks);
    }

    /// Makes a window with blocks that is in no list the current one, if it has a hole of at least `units` units, and
    /// opens the first such hole.
    fn begin_pass(&self, cold: &mut Cold, window: Window, units: u32) -> bool {
        if !self.hold_discarded(cold, window) {
            return false;
        }
        let geometry = self.geometry;
        let mut holes = window.holes(geometry);
        holes.clear_range(0..geometry.window_units());
        let map = window.map(geometry);
        let Range { start: mut from, end } = window.own_units(geometry);
        while let Some(hole) = map.next_hole(from..end, 1) {
            from = hole.end;
            holes.set_range(hole.start as usize..hole.end as usize);
        }
        self.make_current(window, 0);
        if self.open_hole(window, units) {
            return true;
        }
        self.leave_window();
        false
    }

    /// Makes a window that is in no list the current one, without an extent.
    fn make_current(&self, window: Window, holes_from: u32) {
        let geometry = self.geometry;
        window.place.set(Place::Current);
        window.set_threshold(0, geometry);
        self.window.set(Some(window));
        self.holes_from.set(holes_from);
        self.map_origin.set(window.region(geometry).map_origin(geometry));
    }

    /// Is left without a current window.
    pub(super) fn leave_window(&self) {
        self.window.set(None);
        self.set_extent(0..0);
    }

    /// Takes the next hole of at least `units` units of the current window as the extent.
    fn open_hole(&self, window: Window, units: u32) -> bool {
        let (from, end) = (self.holes_from.get() as usize, self.geometry.window_units());
        let hole = window.holes(self.geometry).first_set_run_in(from..end, units as usize);
        let Some(Range { start, end }) = hole else {
            return false;
        };
        self.holes_from.set(end as u32);
        self.open_extent(window, start as u32..end as u32);
        true
    }

    /// Makes free units of the current window the extent.
    fn open_extent(&self, window: Window, units: Range<u32>) {
        let first = window.address(self.geometry) >> self.geometry.unit_shift();
        self.count(window, units.len() as u32);
        self.set_extent(first + units.start as usize..first + units.end as usize);
    }

    /// Gives back what is left of the extent.
    pub(super) fn close_extent(&self, window: Window) {
        let rest = self.limit.get() - self.cursor.get();
        self.live_units.set(self.live_units.get() - rest as u64);
        // Whether anything is left of the window is looked at when its pass ends.
        let _ = window.discount(rest as u32, self.geometry);
        self.cursor.set(self.limit.get());
    }

    /// Ends the pass over the current window, whose extent is closed.
    pub(super) fn retire(&self, cold: &mut Cold, window: Window) {
        self.leave_window();
        self.file(cold, window);
    }

    /// Puts a window that is in no list where it belongs, by what is free in it.
    pub(super) fn file(&self, cold: &mut Cold, window: Window) {
        let geometry = self.geometry;
        let blocks = geometry.block_units().len() as u32;
        let enough = blocks / REUSE_PART;
        let free = window.free_units(geometry);
        if free == blocks {
            self.add_empty(cold, window);
        } else if free >= enough {
            window.set_threshold(0, geometry);
            window.place.set(Place::Reusable);
            cold.reusable.push_back(window);
        } else {
            window.place.set(Place::Full);
            window.set_threshold(blocks - enough, geometry);
        }
    }

    /// Puts a window without blocks that is in no list to the empty ones.
    pub(super) fn add_empty(&self, cold: &mut Cold, window: Window) {
        let geometry = self.geometry;
        window.place.set(Place::Empty);
        window.region(geometry).header(geometry).idle.set(window.index(geometry));
        cold.empty.push_front(window);
    }
}

#[cfg(test)]
mod tests {
    use core::ptr::NonNull;

    use super::*;
    use crate::config::Settings;
    use crate::geometry::Runtime;
    use crate::system::Os;

    fn geometry() -> Runtime {
        Runtime::new::<Os>(64, 16 << 10).unwrap()
    }

    /// As many blocks of so many bytes as windows of 16 KiB with 64-byte units have room for; all windows are full.
    fn filled(windows: usize, size: usize, settings: Settings) -> (Heap<Runtime, Os>, Vec<NonNull<u8>>) {
        let heap = Heap::with_settings(geometry(), settings, Os).unwrap();
        let count = windows * (16 << 10) / size;
        let blocks: Vec<_> = (0..count).map(|_| heap.allocate(size).unwrap().cast::<u8>()).collect();
        assert_eq!(heap.cold.borrow().held_windows, windows);
        (heap, blocks)
    }

    fn free_every(heap: &Heap<Runtime, Os>, blocks: &[NonNull<u8>], nth: usize) {
        for &block in blocks.iter().step_by(nth) {
            // SAFETY: live, and not used afterwards.
            unsafe { heap.free(block) };
        }
    }

    #[test]
    fn a_window_of_which_exactly_enough_is_free_is_filled_again() {
        let (heap, blocks) = filled(40, 8192, Settings::new());
        free_every(&heap, &blocks, 2);
        for _ in 0..20 {
            heap.allocate(8192).unwrap();
        }
        assert_eq!(heap.cold.borrow().held_windows, 40);
        assert_eq!(heap.integrity_check(), Ok(()));
    }

    /// A refused call looks at so many windows, and at so many of their maps, and the next one goes on there.
    #[test]
    fn a_refused_call_looks_at_a_bounded_number_of_windows() {
        const WINDOWS: usize = 300;
        let limit = {
            let (heap, _) = filled(WINDOWS, 1024, Settings::new());
            heap.allocated_bytes()
        };
        let refused = |nth: usize| {
            let (heap, blocks) = filled(WINDOWS, 1024, Settings { memory_limit: Some(limit), ..Settings::new() });
            let refusal = heap.allocate(2000);
            assert_eq!(refusal.map(|_| ()), Err(AllocError::MemoryLimit));
            free_every(&heap, &blocks, nth);
            let mut seen = Vec::new();
            for _ in 0..2 {
                assert_eq!(heap.allocate(2000).map(|_| ()), Err(AllocError::MemoryLimit));
                seen.push(heap.cold.borrow().sweep.seen);
            }
            assert_eq!(heap.integrity_check(), Ok(()));
            seen
        };
        // A unit too few is free in each window, and no map is looked at.
        let seen = refused(16);
        assert_eq!(seen[0], SWEPT_WINDOWS);
        assert!(seen[1] > SWEPT_WINDOWS && seen[1] <= 2 * SWEPT_WINDOWS, "{seen:?}");
        // Enough is free in each, in holes that are too small.
        let seen = refused(2);
        let of_bookkeeping = geometry().first_window();
        assert!((SWEPT_MAPS..=SWEPT_MAPS + of_bookkeeping).contains(&seen[0]), "{seen:?}");
        assert!(seen[1] >= seen[0] + SWEPT_MAPS, "{seen:?}");
    }

    /// A heap that gets no more memory than these windows have, full of blocks of one unit. Nothing was refused yet.
    fn at_limit(windows: usize, settings: Settings) -> (Heap<Runtime, Os>, Vec<NonNull<u8>>) {
        let geometry = geometry();
        let regions = windows.div_ceil(geometry.windows_mask().count_ones() as usize);
        let limit = regions * geometry.fixed_bytes() + windows * (geometry.map_bytes() + geometry.window_bytes());
        let settings = Settings { memory_limit: Some(limit as u64), preallocated_windows: 0, ..settings };
        let heap = Heap::with_settings(geometry, settings, Os).unwrap();
        // With `check` on, a canary comes to it.
        let blocks = (0..windows * 256).map(|_| heap.allocate(40).unwrap().cast()).collect();
        (heap, blocks)
    }

    fn free(heap: &Heap<Runtime, Os>, blocks: impl IntoIterator<Item = NonNull<u8>>) {
        for block in blocks {
            // SAFETY: live, and not used afterwards.
            unsafe { heap.free(block) };
        }
    }

    /// The units of so many bytes, if they are to be had.
    fn request(heap: &Heap<Runtime, Os>, units: usize) -> Option<NonNull<u8>> {
        let block = heap.allocate(units * 64);
        assert_eq!(heap.integrity_check(), Ok(()));
        block.ok().map(NonNull::cast)
    }

    #[test]
    fn a_large_request_that_was_refused_says_nothing_about_smaller_ones() {
        for windows in [1, 3] {
            let (heap, blocks) = at_limit(windows, Settings::new());
            free(&heap, blocks[100..105].iter().chain(&blocks[200..230]).copied());
            assert_eq!((request(&heap, 128), request(&heap, 31)), (None, None));
            assert_eq!(request(&heap, 30), Some(blocks[200]));
            assert_eq!((0..6).filter_map(|_| request(&heap, 1)).count(), 5);
        }
    }

    #[test]
    fn a_hole_of_exactly_the_length_that_is_wanted_is_found_in_any_region() {
        for hole in [300, 17_000, 130 * 256 - 100] {
            let (heap, blocks) = at_limit(130, Settings::new());
            assert!(heap.cold.borrow().regions.len() > 2);
            free(&heap, blocks[hole..hole + 12].iter().copied());
            assert_eq!(request(&heap, 12), Some(blocks[hole]));
        }
    }

    /// Units that the extent takes back may be all that a hole was short of.
    #[test]
    fn a_request_is_served_once_what_was_freed_makes_room_for_it() {
        let (heap, blocks) = at_limit(1, Settings::new());
        free(&heap, blocks[100..105].iter().copied());
        assert_eq!(request(&heap, 12), None);
        let newest = request(&heap, 5);
        free(&heap, newest);
        free(&heap, blocks[90..100].iter().rev().copied());
        assert_eq!(request(&heap, 20), None);
        assert_eq!(request(&heap, 12), Some(blocks[90]));
    }

    /// A window that a request was served from may have more holes.
    #[test]
    fn a_window_that_serves_a_request_counts_as_not_looked_at() {
        let (heap, blocks) = at_limit(3, Settings::new());
        free(&heap, blocks[300..305].iter().chain(&blocks[310..320]).copied());
        assert_eq!(request(&heap, 12), None);
        assert!(request(&heap, 3).is_some());
        let cold = heap.cold.borrow();
        let (region, index) = cold.sweep.at;
        let window = cold.regions.nth(region).unwrap().window(index, heap.geometry);
        // The sweep began with the first window.
        assert_eq!((heap.window.get(), cold.sweep.seen), (Some(window), index));
    }

    /// At the limit every hole is found, also in full windows, and also by an allocator that verifies.
    #[test]
    fn all_that_is_free_can_be_had_at_the_limit() {
        for settings in
            [Settings::new(), Settings { zero: true, ..Settings::new() }, Settings { check: true, ..Settings::new() }]
        {
            let (heap, blocks) = at_limit(4, settings);
            let holes: Vec<_> = blocks.iter().copied().step_by(10).collect();
            free(&heap, holes.iter().copied());
            let again: Vec<_> = core::iter::from_fn(|| heap.allocate(40).ok()).collect();
            assert_eq!(again.len(), holes.len(), "{settings:?}");
            assert_eq!(heap.integrity_check(), Ok(()));
        }
    }
}
