//! Where the next extent comes from, and how windows come and go.
//!
//! ```text
//!            refill                exhausted
//!   Empty ───────────▶ Current ────────────────▶ Full
//!     ▲                  ▲                        │ an eighth more of it is free
//!     │ all free         └─────── Reusable ◀──────┘
//!     └─────────────────────────────┘
//! ```
//!
//! An empty window is preferred, the one emptied last first: its bookkeeping is in the cache. Without one, memory
//! grows as long as the holes that are held amount to less than a few windows and a sixteenth of all, which leaves a
//! queue its whole windows; above that the windows with holes get another pass, the one that has drained longest first,
//! and blocks that are freed from then on are parked ([`super::recycle`]).
//!
//! Empty windows go back to the system once they have turned out to be a [`Surplus`].

use core::alloc::Layout;
use core::ops::Range;
use core::ptr::NonNull;

use super::{Cold, Heap};
use crate::config::Settings;
use crate::descriptor::{Place, Window};
use crate::error::AllocError;
use crate::geometry::Geometry;
use crate::list::List;
use crate::poison;
use crate::system::{Role, System};

/// The part of a window that must have been freed since its last pass before it gets another.
const NOTICE_PART: u32 = 8;
/// The part of all units that may lie in holes before holes are filled rather than windows taken from the system.
const SLACK_PART: u64 = 16;
/// Windows whose worth of holes does not count: a queue that is out of order at its end drains that many at a time.
const SLACK_WINDOWS: u64 = 4;
/// Windows with holes in which an extent is looked for before memory grows.
const TRIES: usize = 4;
/// Bytes and alignment of a transparent huge page.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Bytes of a region: what is taken from the system at a time, one window or a huge page's worth.
pub(super) fn region_bytes<G: Geometry>(geometry: G, settings: &Settings) -> usize {
    if settings.huge_pages { geometry.window_bytes().max(HUGE_PAGE_BYTES) } else { geometry.window_bytes() }
}

/// Which of the empty windows nobody needs.
///
/// Bursts come again, and to take their windows from the system each time would cost more than the packets. So time is
/// cut into turns, in each of which as many windows become empty as there are; the fewest empty windows in a turn, less
/// those to be kept in any case, were not needed in it and go back during the next, an eighth of them at a time, so
/// that no single free pays for all.
pub(crate) struct Surplus {
    /// The fewest empty windows of this turn.
    fewest: usize,
    /// Windows that became empty in this turn.
    emptied: usize,
    /// Windows that are to go back.
    due: usize,
}

impl Surplus {
    /// The part of the windows that are due that goes back at a time.
    const PART: usize = 8;

    /// Nothing is known.
    pub(super) const fn new() -> Self {
        Self { fewest: 0, emptied: 0, due: 0 }
    }

    /// An empty window was taken, which left `empty`.
    pub(super) fn taken(&mut self, empty: usize) {
        self.fewest = self.fewest.min(empty);
        self.due = self.due.min(empty);
    }

    /// A window became empty, one of now `empty` among `windows`; returns how many are to go back now, with `keep` kept.
    fn emptied(&mut self, empty: usize, windows: usize, keep: usize) -> usize {
        self.emptied += 1;
        if self.emptied >= windows {
            let fewest = core::mem::replace(&mut self.fewest, empty);
            self.due = fewest.saturating_sub(keep);
            self.emptied = 0;
        }
        // A trim may have come first.
        let due = self.due.min(empty);
        let now = due.div_ceil(Self::PART);
        self.due = due - now;
        self.fewest = self.fewest.min(empty - now);
        now
    }
}

impl<G: Geometry, S: System> Heap<G, S> {
    /// Opens an extent of at least `units` units.
    #[cold]
    #[inline(never)]
    pub(super) fn refill(&self, units: u32) -> Result<(), AllocError> {
        self.settle();
        if self.parks() && self.cold.borrow().empty.len() > 0 {
            self.stop_parking();
        }
        let outcome = self.refill_from_windows(units);
        if outcome.is_err() && self.parks() {
            // What is parked may be what is missing.
            self.stop_parking();
            return self.refill_from_windows(units);
        }
        outcome
    }

    /// Opens an extent of at least `units` units, whatever is parked.
    fn refill_from_windows(&self, units: u32) -> Result<(), AllocError> {
        let cold = &mut *self.cold.borrow_mut();
        if let Some(window) = self.window.get() {
            self.close_extent(window);
            if self.open_extent(window, units) {
                return Ok(());
            }
            self.retire(cold, window);
        }
        // Windows without a hole that is large enough; smaller requests may still be served by them.
        let mut passed_over = List::new();
        let found = self.find_window(cold, units, &mut passed_over);
        while let Some(window) = passed_over.pop_front() {
            cold.reusable.push_back(window);
        }
        found
    }

    /// Makes a window with a hole of at least `units` units the current one and opens an extent in it.
    fn find_window(&self, cold: &mut Cold, units: u32, passed_over: &mut List) -> Result<(), AllocError> {
        let mut refused = None;
        loop {
            if let Some(window) = cold.take_empty() {
                self.make_current(window);
                self.open_extent(window, units);
                return Ok(());
            }
            let tried = passed_over.len() >= TRIES;
            if refused.is_none() && (tried || cold.reusable.len() == 0 || self.prefers_growth(cold)) {
                refused = self.grow(cold).err();
            } else if let Some(window) = cold.reusable.pop_front() {
                self.make_current(window);
                if self.open_extent(window, units) {
                    if !self.parks() {
                        self.start_parking(self.are_maps_cold(cold.windows.len()));
                    }
                    return Ok(());
                }
                self.leave_window();
                window.place.set(Place::Reusable);
                passed_over.push_back(window);
            } else {
                // Without memory from the system every hole counts, also in windows that are not worth a pass.
                let has_hole = |window: &Window| {
                    let blocks = self.geometry.block_units();
                    window.map(self.geometry).next_hole(blocks, units).is_some()
                };
                return match cold.full.iter().find(has_hole) {
                    Some(window) => {
                        cold.full.remove(window);
                        self.make_current(window);
                        self.open_extent(window, units);
                        Ok(())
                    }
                    None => Err(refused.unwrap_or(AllocError::OutOfMemory)),
                };
            }
        }
    }

    /// Whether the holes held are too small a part of memory to look for one.
    fn prefers_growth(&self, cold: &Cold) -> bool {
        let units = (cold.windows.len() * self.geometry.window_units()) as u64;
        let slack = SLACK_WINDOWS * self.geometry.window_units() as u64;
        units - self.live_units.get() < units / SLACK_PART + slack
    }

    /// Makes a window that is in no list the current one, before its first hole.
    fn make_current(&self, window: Window) {
        window.place.set(Place::Current);
        window.notice_at(0);
        self.window.set(Some(window));
        self.fresh.set(window.live_units() == 0);
        self.map_origin.set(window.map_origin(self.geometry));
        let first = self.first_unit(window);
        self.set_extent(first..first);
    }

    /// Takes the next hole of at least `units` units of the current window as the extent.
    fn open_extent(&self, window: Window, units: u32) -> bool {
        let first = self.first_unit(window);
        let from = (self.limit.get() - first) as u32;
        let rest = |whole: Range<u32>| whole.start.max(from)..whole.end;
        let hole = if self.fresh.get() {
            Some(rest(self.fresh_units(window)))
        } else {
            window.map(self.geometry).next_hole(rest(self.geometry.block_units()), units)
        };
        let Some(Range { start, end }) = hole.filter(|hole| hole.len() >= units as usize) else {
            return false;
        };
        self.count(window, end - start);
        self.await_turn(window);
        self.set_extent(first + start as usize..first + end as usize);
        true
    }

    /// The units that the extent of a window without blocks gets.
    fn fresh_units(&self, window: Window) -> Range<u32> {
        let shared = !self.home.get().is_null();
        if shared { self.geometry.staggered_units(window.address()) } else { self.geometry.block_units() }
    }

    /// Begins again at the front of the current window, in which no block is left: what was in use last is in the cache.
    pub(super) fn rewind(&self, window: Window) {
        let blocks = self.fresh_units(window);
        let rest = (self.limit.get() - self.cursor.get()) as u32;
        self.count(window, blocks.len() as u32 - rest);
        self.fresh.set(true);
        let first = self.first_unit(window);
        self.set_extent(first + blocks.start as usize..first + blocks.end as usize);
    }

    /// Gives back what is left of the extent.
    fn close_extent(&self, window: Window) {
        let rest = self.limit.get() - self.cursor.get();
        self.live_units.set(self.live_units.get() - rest as u64);
        // Whether anything is left of the window is looked at when its pass ends.
        let _ = window.discount(rest as u32);
        self.cursor.set(self.limit.get());
    }

    /// Ends the pass over the current window, whose extent is closed.
    fn retire(&self, cold: &mut Cold, window: Window) {
        self.leave_window();
        let live = window.live_units();
        if live == 0 {
            cold.add_empty(window);
            return;
        }
        window.place.set(Place::Full);
        cold.full.push_back(window);
        let part = self.geometry.window_units() as u32 / NOTICE_PART;
        window.notice_at(live.saturating_sub(part));
    }

    /// Is left without a current window.
    fn leave_window(&self) {
        self.window.set(None);
        self.set_extent(0..0);
    }

    /// Looks at a window of which enough was freed.
    #[cold]
    #[inline(never)]
    pub(super) fn drained(&self, window: Window) {
        let cold = &mut *self.cold.borrow_mut();
        match window.place.get() {
            Place::Full => {
                cold.full.remove(window);
                window.notice_at(0);
                // The blocks of a queue leave in order, so that the window filled next is the one that drains next. The
                // one behind that is brought into the cache, which is there when it is needed: the list leads to it
                // through a descriptor that was brought in the same way.
                if let Some(next) = cold.full.first().and_then(|next| next.next.get()) {
                    next.prefetch();
                }
                if window.live_units() > 0 {
                    window.place.set(Place::Reusable);
                    cold.reusable.push_back(window);
                    return;
                }
            }
            Place::Reusable => cold.reusable.remove(window),
            Place::Current => {
                window.notice_at(0);
                return self.keep_short_queue(window);
            }
            // It has nothing to free.
            Place::Empty => return,
        }
        cold.add_empty(window);
        let empty = cold.empty.len();
        let due = cold.surplus.emptied(empty, cold.windows.len(), self.settings.keep_empty_windows);
        if due > 0 {
            self.release_empty(cold, empty - due, self.settings.preallocated_windows);
        }
    }

    /// Frees blocks that were given up in the opposite order; returns how many.
    ///
    /// Of the windows that become empty the one that was in use last comes to be in front, as it would have if each
    /// block had been freed when it was given up: it is the one that is most likely in a cache.
    ///
    /// # Safety
    /// As for [`free`](Self::free), for each of them.
    #[cfg(feature = "shared")]
    pub(crate) unsafe fn free_latest_first(&self, blocks: impl Iterator<Item = NonNull<u8>>) -> usize {
        let empty = || self.cold.borrow().empty.len();
        let before = empty();
        let mut count = 0;
        for block in blocks {
            // SAFETY: the caller keeps the same contract.
            unsafe { self.free_deferred(block) };
            count += 1;
        }
        let emptied = empty().saturating_sub(before);
        self.cold.borrow_mut().empty.turn_front(emptied);
        count
    }

    /// Takes a region from the system and adds its windows to the empty ones; the first time as many regions as are
    /// to be preallocated.
    fn grow(&self, cold: &mut Cold) -> Result<(), AllocError> {
        let first = cold.windows.len() == 0;
        self.take_region(cold)?;
        if first {
            self.direct_frees(false, false);
        }
        while first && cold.windows.len() < self.settings.preallocated_windows {
            // What the system refuses now is asked for again when it is needed.
            if self.take_region(cold).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Takes a region from the system and adds its windows to the empty ones.
    fn take_region(&self, cold: &mut Cold) -> Result<(), AllocError> {
        let layout = self.region_layout()?;
        if !cold.within_limit(layout.size(), self.settings.memory_limit) {
            return Err(AllocError::MemoryLimit);
        }
        let window_bytes = self.geometry.window_bytes();
        let windows = layout.size() / window_bytes;
        cold.windows.reserve(windows).map_err(|_| AllocError::OutOfMemory)?;
        let region = self.system.allocate(layout, Role::Window).ok_or(AllocError::OutOfMemory)?;
        if self.settings.huge_pages {
            self.system.advise_huge_pages(region, layout.size());
        }
        cold.hold(layout.size());
        // SAFETY: the region starts with a window's worth of memory that is ours alone, and is aligned to it.
        let leader = unsafe { Window::found(region, self.home.get(), self.geometry) };
        leader.region_windows.set(windows as u32);
        for index in (0..windows).rev() {
            let window = if index == 0 {
                leader
            } else {
                // SAFETY: as above, for the windows behind the first.
                unsafe { Window::found(region.add(index * window_bytes), self.home.get(), self.geometry) }
            };
            window.leader.set(leader);
            self.bury_window(window);
            cold.windows.insert(window.address(), window);
            cold.add_empty(window);
        }
        Ok(())
    }

    fn region_layout(&self) -> Result<Layout, AllocError> {
        let bytes = region_bytes(self.geometry, &self.settings);
        Layout::from_size_align(bytes, bytes).map_err(|_| AllocError::TooLarge)
    }

    /// Gives empty windows back to the system, down to the preallocated number; returns how many bytes.
    pub(crate) fn trim(&self) -> u64 {
        self.give_back_empty(self.settings.preallocated_windows)
    }

    /// Gives empty windows back to the system, as long as more than `floor` windows remain; returns how many bytes.
    pub(super) fn give_back_empty(&self, floor: usize) -> u64 {
        let before = self.allocated_bytes();
        self.stop_parking();
        let cold = &mut *self.cold.borrow_mut();
        if let Some(window) = self.window.get()
            && self.is_idle(window)
        {
            self.close_extent(window);
            self.retire(cold, window);
        }
        self.release_empty(cold, 0, floor);
        before - cold.held_bytes
    }

    /// Gives regions without live blocks back, coldest first, as long as more than `keep` empty windows and `floor`
    /// windows in all remain. Takes time linear in the number of windows if anything can be given back.
    fn release_empty(&self, cold: &mut Cold, keep: usize, floor: usize) {
        let mut spare = cold.empty.len().saturating_sub(keep);
        spare = spare.min(cold.windows.len().saturating_sub(floor));
        let mut next = cold.empty.last();
        let mut released = false;
        while let Some(window) = next.filter(|_| spare > 0) {
            next = window.previous.get();
            let windows = window.region_windows.get();
            let whole = window.leader.get() == window && window.region_empty.get() == windows;
            if whole && windows as usize <= spare {
                spare -= windows as usize;
                // Marks the region; its windows leave their list and the table below.
                window.region_empty.set(u32::MAX);
                released = true;
            }
        }
        if released {
            self.release_marked(cold);
        }
    }

    /// Gives the marked regions back.
    fn release_marked(&self, cold: &mut Cold) {
        let Cold { windows, empty, .. } = cold;
        let before = windows.len();
        windows.retain(|window| {
            let leader = window.leader.get();
            if leader.region_empty.get() != u32::MAX {
                return true;
            }
            empty.remove(window);
            // The first window of a region, which knows where it starts, is seen last.
            if leader == window {
                self.free_region(leader);
            }
            false
        });
        cold.held_bytes -= ((before - windows.len()) * self.geometry.window_bytes()) as u64;
    }

    /// Returns the region of `leader` to the system.
    fn free_region(&self, leader: Window) {
        let base: NonNull<u8> = leader.base();
        if let Ok(layout) = self.region_layout() {
            poison::show(NonNull::slice_from_raw_parts(base, layout.size()));
            // SAFETY: `take_region` took the region with this layout, and its windows are in no list or table any more.
            unsafe { self.system.free(base, layout, Role::Window) };
        }
    }
}

impl<G: Geometry, S: System> Drop for Heap<G, S> {
    fn drop(&mut self) {
        let cold = self.cold.borrow();
        // From the top, so that a region's first window, which knows where the region starts, is read before it goes.
        for (_, window) in cold.windows.iter().rev() {
            if window.leader.get() == window {
                self.free_region(window);
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
    use crate::geometry::Runtime;
    use crate::system::Os;

    /// A burst that takes all of `windows` and empties them again; returns how many went back meanwhile.
    fn burst(surplus: &mut Surplus, windows: usize, keep: usize) -> usize {
        (0..windows).rev().for_each(|empty| surplus.taken(empty));
        let mut gone = 0;
        (1..=windows).for_each(|empty| gone += surplus.emptied(empty - gone, windows - gone, keep));
        gone
    }

    #[test]
    fn bursts_keep_the_windows_that_they_need() {
        let mut surplus = Surplus::new();
        assert_eq!((0..20).map(|_| burst(&mut surplus, 1000, 32)).sum::<usize>(), 0);
    }

    #[test]
    fn what_no_turn_needs_goes_back_little_by_little() {
        let mut surplus = Surplus::new();
        burst(&mut surplus, 1000, 32);
        let mut windows = 1000;
        let mut most = 0;
        // One window at a time comes and goes.
        for _ in 0..4000 {
            surplus.taken(windows - 1);
            let gone = surplus.emptied(windows, windows, 32);
            most = most.max(gone);
            windows -= gone;
        }
        assert_eq!(windows, 33, "the window in use and those to be kept");
        assert!(most <= 1000 / 8 + 1, "{most} windows went back in one call");
    }

    #[test]
    fn a_window_that_went_back_is_not_one_of_those_that_were_not_needed() {
        let mut surplus = Surplus::new();
        // With one window a turn ends each time. All nine are due after the first, and two go at once.
        let gone = [9, 9, 9].map(|empty| surplus.emptied(empty, 1, 0));
        // Seven are due after the second: one goes.
        assert_eq!(gone, [0, 2, 1]);
    }

    #[test]
    fn windows_that_were_trimmed_are_not_given_back_again() {
        let mut surplus = Surplus::new();
        burst(&mut surplus, 100, 0);
        burst(&mut surplus, 100, 0);
        for _ in 0..300 {
            // All but one went back in a trim.
            surplus.taken(0);
            assert!(surplus.emptied(1, 1, 0) <= 1);
        }
    }

    /// Windows of 4 KiB with 64-byte units.
    fn heap(settings: Settings) -> Heap<Runtime, Os> {
        Heap::with_settings(Runtime::new(64, 4096).unwrap(), settings, Os).unwrap()
    }

    #[test]
    fn memory_grows_while_four_windows_and_a_sixteenth_of_all_are_holes() {
        let heap = heap(Settings { preallocated_windows: 32, ..Settings::new() });
        heap.allocate(1).unwrap();
        let units = 32 * 64;
        let holes = 4 * 64 + units / 16;
        for (live, grows) in [(units - holes, false), (units - holes + 1, true)] {
            heap.live_units.set(live);
            assert_eq!(heap.prefers_growth(&heap.cold.borrow()), grows, "{live} of {units} units are live");
        }
    }

    #[test]
    fn frees_defer_where_maps_take_half_a_megabyte() {
        let heap = heap(Settings::new());
        assert!(!heap.are_maps_cold(8191) && heap.are_maps_cold(8192));
    }

    #[test]
    fn parking_ends_when_an_extent_is_needed_and_a_window_is_empty() {
        let heap = heap(Settings { memory_limit: Some(8 * 4096), ..Settings::new() });
        let blocks: Vec<_> = core::iter::from_fn(|| heap.allocate(64).ok()).map(NonNull::cast).collect();
        let free = |block: &NonNull<u8>| {
            // SAFETY: live, and not used afterwards.
            unsafe { heap.free(*block) };
        };
        let (stays, leave) = blocks.split_last().unwrap();
        leave.iter().step_by(2).for_each(free);
        // Opens an extent among the holes.
        heap.allocate(64).unwrap();
        assert!(heap.parking_units.get() > 0 && heap.deferring_units.get() == 0, "the maps are small");
        // More than can be parked.
        leave.iter().skip(1).step_by(2).for_each(free);
        assert!(heap.parking.units() > 0 && heap.cold.borrow().empty.len() > 0);
        heap.allocate(128).unwrap();
        assert!(!heap.parks() && heap.parking.units() == 0);
        free(stays);
        assert_eq!(heap.integrity_check(), Ok(()));
    }
}
