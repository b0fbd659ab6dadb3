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
//! grows as long as the holes that are held amount to less than a window and a sixteenth of all, which leaves a queue
//! its whole windows; above that the windows with holes get another pass, the one that has drained longest first, and
//! blocks that are freed from then on are parked ([`super::recycle`]).

use core::alloc::Layout;
use core::ops::Range;
use core::ptr::NonNull;

use super::{Cold, Heap};
use crate::config::Settings;
use crate::descriptor::{Place, Window};
use crate::error::AllocError;
use crate::geometry::Geometry;
use crate::list::List;
use crate::system::{Role, System};

/// The part of a window that must have been freed since its last pass before it gets another.
const NOTICE_PART: u32 = 8;
/// The part of all units that may lie in holes before holes are filled rather than windows taken from the system.
const SLACK_PART: u64 = 16;
/// Windows with holes in which an extent is looked for before memory grows.
const TRIES: usize = 4;
/// Bytes and alignment of a transparent huge page.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Bytes of a region: what is taken from the system at a time, one window or a huge page's worth.
pub(super) fn region_bytes<G: Geometry>(geometry: G, settings: &Settings) -> usize {
    if settings.huge_pages { geometry.window_bytes().max(HUGE_PAGE_BYTES) } else { geometry.window_bytes() }
}

impl<G: Geometry, S: System> Heap<G, S> {
    /// Opens an extent of at least `units` units.
    #[cold]
    #[inline(never)]
    pub(super) fn refill(&self, units: u32) -> Result<(), AllocError> {
        if self.parks.get() && self.cold.borrow().empty.len() > 0 {
            self.stop_parking();
        }
        let outcome = self.refill_from_windows(units);
        if outcome.is_err() && self.parks.get() {
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
                    self.start_parking();
                    return Ok(());
                }
                self.window.set(None);
                window.place.set(Place::Reusable);
                passed_over.push_back(window);
            } else {
                // Without memory from the system every hole counts, also in windows that are not worth a pass.
                let full = |window: &Window| window.place.get() == Place::Full;
                let windows = cold.windows.iter().map(|(_, window)| window).filter(full);
                return match windows.into_iter().find(|&window| self.hole_in(window, 0, units).is_some()) {
                    Some(window) => {
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
        units - self.live_units.get() < units / SLACK_PART + self.geometry.window_units() as u64
    }

    /// Makes a window that is in no list the current one, before its first hole.
    fn make_current(&self, window: Window) {
        window.place.set(Place::Current);
        window.notice_at(0);
        self.window.set(Some(window));
        self.base.set(window.base());
        self.cursor.set(0);
        self.set_limit(0);
    }

    /// Takes the next hole of at least `units` units of the current window as the extent.
    fn open_extent(&self, window: Window, units: u32) -> bool {
        let Some(Range { start, end }) = self.hole_in(window, self.limit.get(), units) else {
            return false;
        };
        self.count(window, end - start);
        self.cursor.set(start);
        self.set_limit(end);
        true
    }

    /// The first hole of at least `units` units of a window at or behind `from`.
    fn hole_in(&self, window: Window, from: u32, units: u32) -> Option<Range<u32>> {
        let map = window.map(self.geometry);
        self.geometry
            .spans(window.address())
            .into_iter()
            .map(|span| (span.start as u32).max(from)..span.end as u32)
            .filter(|span| !span.is_empty())
            .find_map(|span| map.next_hole(span, units))
    }

    /// Gives back what is left of the extent.
    fn close_extent(&self, window: Window) {
        let rest = self.limit.get() - self.cursor.get();
        self.live_units.set(self.live_units.get() - u64::from(rest));
        window.discount(rest);
        self.cursor.set(self.limit.get());
    }

    /// Ends the pass over the current window, whose extent is closed.
    fn retire(&self, cold: &mut Cold, window: Window) {
        self.window.set(None);
        self.cursor.set(0);
        self.set_limit(0);
        let live = window.live_units();
        if live == 0 {
            cold.add_empty(window);
            return;
        }
        window.place.set(Place::Full);
        let part = self.geometry.usable_units(window.address()) / NOTICE_PART;
        window.notice_at(live.saturating_sub(part));
    }

    /// Looks at a window of which enough was freed.
    #[cold]
    #[inline(never)]
    pub(super) fn drained(&self, window: Window) {
        let cold = &mut *self.cold.borrow_mut();
        match window.place.get() {
            Place::Full if window.live_units() > 0 => {
                window.place.set(Place::Reusable);
                window.notice_at(0);
                cold.reusable.push_back(window);
                return;
            }
            Place::Full => window.notice_at(0),
            Place::Reusable => cold.reusable.remove(window),
            // The current window is looked at when its pass ends, and an empty one has nothing to free.
            Place::Current | Place::Empty => return,
        }
        cold.add_empty(window);
        let keep = self.settings.keep_empty_windows;
        if cold.empty.len() > 2 * keep {
            self.release_empty(cold, keep, self.settings.preallocated_windows);
        }
    }

    /// Takes a region from the system and adds its windows to the empty ones; the first time as many regions as are
    /// to be preallocated.
    fn grow(&self, cold: &mut Cold) -> Result<(), AllocError> {
        let first = cold.windows.len() == 0;
        self.take_region(cold)?;
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
        let leader = unsafe { Window::found(region, self.geometry) };
        leader.region_windows.set(windows as u32);
        for index in (0..windows).rev() {
            let window = if index == 0 {
                leader
            } else {
                // SAFETY: as above, for the windows behind the first.
                unsafe { Window::found(region.add(index * window_bytes), self.geometry) }
            };
            window.leader.set(leader);
            if self.settings.check {
                self.bury_window(window);
            }
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
            && window.live_units() == self.limit.get() - self.cursor.get()
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
        let mut marked: Option<(Window, u32)> = None;
        windows.retain(|window| {
            let leader = window.leader.get();
            if leader.region_empty.get() != u32::MAX {
                return true;
            }
            empty.remove(window);
            // The windows of a region follow one another; with the last of them the region can go.
            let count = marked.map_or(0, |(_, count)| count) + 1;
            if count == leader.region_windows.get() {
                self.free_region(leader);
                marked = None;
            } else {
                marked = Some((leader, count));
            }
            false
        });
        cold.held_bytes -= ((before - windows.len()) * self.geometry.window_bytes()) as u64;
    }

    /// Returns the region of `leader` to the system.
    fn free_region(&self, leader: Window) {
        let base: NonNull<u8> = leader.base();
        if let Ok(layout) = self.region_layout() {
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
