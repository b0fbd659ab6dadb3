//! The allocator itself, over any geometry and any system: the hot path, and what everything else hangs on.
//!
//! Allocation bumps through an *extent*, a hole of the current window that is taken as a whole:
//!
//! ```text
//!            extent of the current window
//!            ┌───────────┬──────────────┐
//! [A][B] ....[C][D][E]   │   not yet    │[F] ....
//!            └───────────┴──────────────┘
//!                        cursor         limit
//! ```
//!
//! The units of an extent count as live from the moment it is opened, so that an allocation has nothing to count; what
//! is left of it is given back when it is closed. A free reads the block's length from the map, clears it, and counts.
//! Everything rarer is in the submodules:
//!
//! - [`windows`]: where the next extent comes from; windows from the system and back to it;
//! - [`recycle`]: blocks that are handed out again before their window hears of it;
//! - [`resize`]: growing and shrinking;
//! - [`large`]: blocks straight from the system;
//! - [`checked`]: verified frees and canaries;
//! - [`freed`]: what free units contain, so that writes to them show.

mod checked;
mod freed;
mod large;
mod recycle;
mod resize;
mod windows;

use core::cell::{Cell, RefCell};
use core::ptr::NonNull;

use crate::address_map::AddressMap;
use crate::config::{ConfigError, Settings};
use crate::descriptor::{Place, Window};
use crate::error::AllocError;
use crate::geometry::Geometry;
use crate::list::List;
use crate::system::System;
use crate::window::{Released, whole_length};

pub(crate) use large::Large;
use recycle::Parking;
pub use resize::Realloc;

/// An allocator over geometry `G` and system `S`.
pub(crate) struct Heap<G: Geometry, S: System> {
    /// The next unit to hand out of the current window.
    cursor: Cell<u32>,
    /// Where the extent ends for the hot path: at `limit`, or at 0 when every call takes the cold one.
    hot_limit: Cell<u32>,
    /// Where the extent ends; the search for the next one goes on from here.
    limit: Cell<u32>,
    /// The current window.
    window: Cell<Option<Window>>,
    /// The first byte of the current window.
    base: Cell<NonNull<u8>>,
    /// Units of live and parked blocks in windows, and of the extent.
    live_units: Cell<u64>,
    /// Whether a free may take the hot path: neither `check` nor `passthrough` is on, and nothing is parked.
    hot_frees: Cell<bool>,
    /// Whether freed blocks are parked.
    parks: Cell<bool>,
    /// Whether neither `zero`, `check` nor `passthrough` is on.
    plain: bool,
    geometry: G,
    pub(crate) settings: Settings,
    pub(crate) cold: RefCell<Cold>,
    pub(crate) parking: RefCell<Parking>,
    system: S,
}

/// What the hot path does not touch.
pub(crate) struct Cold {
    /// Every window, by its address.
    pub(crate) windows: AddressMap<Window>,
    /// Every block straight from the system.
    pub(crate) large: AddressMap<Large>,
    /// With `check`: the size that was asked for, of every live block.
    pub(crate) requested: AddressMap<usize>,
    /// Windows without live blocks, the one emptied last in front.
    pub(crate) empty: List,
    /// Windows that are worth another pass, the one noticed first in front.
    pub(crate) reusable: List,
    /// Bytes taken from the system.
    pub(crate) held_bytes: u64,
    /// The most that `held_bytes` has been.
    pub(crate) peak_held_bytes: u64,
    /// Bytes of blocks straight from the system.
    pub(crate) large_bytes: u64,
}

// SAFETY: all memory that the pointers lead to belongs to this heap alone, and none of it cares which thread it is on.
unsafe impl<G: Geometry + Send, S: System + Send> Send for Heap<G, S> {}

impl<G: Geometry, S: System> Heap<G, S> {
    /// A heap that has asked for nothing yet.
    pub(crate) const fn new(geometry: G, settings: Settings, system: S) -> Self {
        Self {
            cursor: Cell::new(0),
            hot_limit: Cell::new(0),
            limit: Cell::new(0),
            window: Cell::new(None),
            base: Cell::new(NonNull::dangling()),
            live_units: Cell::new(0),
            hot_frees: Cell::new(settings.trusts_pointers()),
            parks: Cell::new(false),
            plain: settings.trusts_pointers() && !settings.zero,
            geometry,
            settings,
            cold: RefCell::new(Cold {
                windows: AddressMap::new(),
                large: AddressMap::new(),
                requested: AddressMap::new(),
                empty: List::new(),
                reusable: List::new(),
                held_bytes: 0,
                peak_held_bytes: 0,
                large_bytes: 0,
            }),
            parking: RefCell::new(Parking::new()),
            system,
        }
    }

    /// A heap with `settings`, once they make sense.
    pub(crate) fn with_settings(geometry: G, settings: Settings, system: S) -> Result<Self, ConfigError> {
        settings.validate(windows::region_bytes(geometry, &settings))?;
        Ok(Self::new(geometry, settings, system))
    }

    /// The shape of the windows.
    #[inline(always)]
    pub(crate) fn geometry(&self) -> G {
        self.geometry
    }

    /// A block of at least `size` bytes.
    #[inline]
    pub(crate) fn allocate(&self, size: usize) -> Result<NonNull<[u8]>, AllocError> {
        // 0 wraps around and is refused there, too.
        if size.wrapping_sub(1) < self.geometry.largest_exact() {
            let units = self.geometry.units(size);
            let start = self.cursor.get();
            let end = start + units;
            if end <= self.hot_limit.get() {
                self.cursor.set(end);
                // SAFETY: the limit is above zero only while there is a current window, and within its map.
                unsafe { self.window.get().unwrap_unchecked().map(self.geometry).mark(start, units) };
                return Ok(self.run(start, units));
            }
            if let Some(block) = self.unpark(units) {
                return Ok(NonNull::slice_from_raw_parts(block, self.geometry.bytes(units)));
            }
        }
        self.allocate_cold(size)
    }

    /// The bytes of a run of units of the current window.
    #[inline(always)]
    fn run(&self, start: u32, units: u32) -> NonNull<[u8]> {
        // SAFETY: the caller passes units of the current window, whose first byte is `base`.
        let block = unsafe { self.base.get().add(self.geometry.bytes(start)) };
        NonNull::slice_from_raw_parts(block, self.geometry.bytes(units))
    }

    /// Moves the end of the extent.
    fn set_limit(&self, limit: u32) {
        self.limit.set(limit);
        self.hot_limit.set(if self.plain { limit } else { 0 });
    }

    /// All that [`allocate`](Self::allocate) leaves over.
    #[cold]
    #[inline(never)]
    fn allocate_cold(&self, size: usize) -> Result<NonNull<[u8]>, AllocError> {
        if size == 0 {
            return Err(AllocError::ZeroSize);
        }
        if self.settings.check {
            return self.allocate_checked(size);
        }
        let block = self.place(size)?;
        if self.settings.zero {
            // SAFETY: the block is ours to hand out, and nobody else knows it yet.
            unsafe { block.cast::<u8>().write_bytes(0, block.len()) };
        }
        Ok(block)
    }

    /// A block of at least `size` bytes, all zero.
    pub(crate) fn allocate_zeroed(&self, size: usize) -> Result<NonNull<[u8]>, AllocError> {
        let block = self.allocate(size)?;
        if !self.settings.zero {
            // SAFETY: the block is ours to hand out, and nobody else knows it yet.
            unsafe { block.cast::<u8>().write_bytes(0, block.len()) };
        }
        Ok(block)
    }

    /// A block of at least `size` bytes for each of `blocks`, or none; returns the capacity of each.
    pub(crate) fn allocate_batch(&self, size: usize, blocks: &mut [NonNull<u8>]) -> Result<usize, AllocError> {
        let mut capacity = 0;
        for done in 0..blocks.len() {
            match self.allocate(size) {
                Ok(block) => {
                    capacity = block.len();
                    blocks[done] = block.cast();
                }
                Err(error) => {
                    // SAFETY: these blocks were allocated just now, and nobody else knows them yet.
                    unsafe { self.free_batch(&blocks[..done]) };
                    return Err(error);
                }
            }
        }
        Ok(capacity)
    }

    /// Frees each of `blocks`.
    ///
    /// # Safety
    /// As for [`free`](Self::free).
    ///
    /// # Panics
    /// As [`free`](Self::free).
    pub(crate) unsafe fn free_batch(&self, blocks: &[NonNull<u8>]) {
        for &block in blocks {
            // SAFETY: the caller keeps the same contract.
            unsafe { self.free(block) };
        }
    }

    /// A block of at least `size` bytes, with whatever it contains; `size` is not 0.
    fn place(&self, size: usize) -> Result<NonNull<[u8]>, AllocError> {
        if self.settings.passthrough || size > self.geometry.largest_in_window() {
            let block = self.allocate_large(size);
            // What empty windows hold may be what is missing.
            return match block {
                Err(AllocError::MemoryLimit | AllocError::OutOfMemory) if self.give_back_empty(0) > 0 => {
                    self.allocate_large(size)
                }
                _ => block,
            };
        }
        let units = whole_length(self.geometry.units(size));
        loop {
            let start = self.cursor.get();
            if let Some(window) = self.window.get()
                && start + units <= self.limit.get()
            {
                self.cursor.set(start + units);
                window.map(self.geometry).set(start, units);
                return Ok(self.run(start, units));
            }
            self.refill(units)?;
        }
    }

    /// Frees a block.
    ///
    /// # Safety
    /// `block` is a live block of this heap; its pointer came from the call that allocated it.
    ///
    /// # Panics
    /// When `block` points into a window of this heap, but not at a live block.
    #[inline]
    pub(crate) unsafe fn free(&self, block: NonNull<u8>) {
        if self.hot_frees.get()
            && let Some(start) = self.unit_of(block)
        {
            // SAFETY: a block that starts behind the first unit of an aligned window lies in one, since large blocks
            // start at a window's alignment.
            let window = unsafe { Window::of_block(block, self.geometry) };
            if let Released::Units(units) = window.map(self.geometry).release_short(start) {
                return self.give_back(window, start, units);
            }
        }
        self.free_other(block);
    }

    /// Frees a block while blocks are parked, or what [`free`](Self::free) leaves over.
    #[inline(never)]
    fn free_other(&self, block: NonNull<u8>) {
        if self.parks.get()
            && let Some(start) = self.unit_of(block)
        {
            // SAFETY: as in `free`.
            let window = unsafe { Window::of_block(block, self.geometry) };
            if let Released::Units(units) = window.map(self.geometry).release_short(start) {
                if !self.park(block, window, start, units) {
                    self.give_back(window, start, units);
                }
                return self.settle();
            }
        }
        self.free_cold(block);
    }

    /// The unit that starts at `block`; `None` for unit 0, which is never handed out, and between units.
    #[inline(always)]
    fn unit_of(&self, block: NonNull<u8>) -> Option<u32> {
        let offset = block.addr().get() & (self.geometry.window_bytes() - 1);
        // Bits below a unit end up on top, which makes the number too large.
        let unit = offset.rotate_right(self.geometry.unit_shift());
        (unit.wrapping_sub(1) < self.geometry.window_units() - 1).then_some(unit as u32)
    }

    /// Takes back units that no block in the map claims any more.
    #[inline(always)]
    fn give_back(&self, window: Window, start: u32, units: u32) {
        if start + units == self.cursor.get() && self.window.get() == Some(window) {
            // Those of the newest block: the extent takes them back, and they go on counting as live.
            self.cursor.set(start);
            return;
        }
        self.live_units.set(self.live_units.get().wrapping_sub(u64::from(units)));
        if window.discount(units) {
            self.drained(window);
        }
    }

    /// Counts `units` of `window` as live.
    fn count(&self, window: Window, units: u32) {
        self.live_units.set(self.live_units.get() + u64::from(units));
        window.count(units);
    }

    /// All that is left over: large blocks, verified frees, misuse.
    #[cold]
    #[inline(never)]
    fn free_cold(&self, block: NonNull<u8>) {
        if let Err(error) = self.try_free(block) {
            panic!("cannot free: {error}");
        }
    }

    /// Units of live blocks in windows.
    fn used_units(&self) -> u64 {
        let rest = u64::from(self.limit.get() - self.cursor.get());
        self.live_units.get() - rest - self.parking.borrow().units()
    }

    /// Bytes of live blocks.
    pub(crate) fn used_bytes(&self) -> u64 {
        (self.used_units() << self.geometry.unit_shift()) + self.cold.borrow().large_bytes
    }

    /// Bytes taken from the system.
    pub(crate) fn allocated_bytes(&self) -> u64 {
        self.cold.borrow().held_bytes
    }

    /// The current window and its extent.
    pub(crate) fn extent(&self) -> Option<(Window, core::ops::Range<u32>)> {
        self.window.get().map(|window| (window, self.cursor.get()..self.limit.get()))
    }

    /// Counts units that do not exist.
    #[cfg(test)]
    pub(crate) fn miscount(&self, units: u64) {
        self.live_units.set(self.live_units.get() + units);
    }

    /// Units of live and parked blocks in windows, and of the extent.
    pub(crate) fn counted_units(&self) -> u64 {
        self.live_units.get()
    }
}

impl Cold {
    /// Whether `more` bytes from the system stay within the limit.
    fn within_limit(&self, more: usize, limit: Option<u64>) -> bool {
        limit.is_none_or(|limit| self.held_bytes.saturating_add(more as u64) <= limit)
    }

    /// Counts bytes taken from the system.
    fn hold(&mut self, bytes: usize) {
        self.held_bytes += bytes as u64;
        self.peak_held_bytes = self.peak_held_bytes.max(self.held_bytes);
    }

    /// Puts a window without live blocks on its list.
    fn add_empty(&mut self, window: Window) {
        window.place.set(Place::Empty);
        let region = window.leader.get();
        region.region_empty.set(region.region_empty.get() + 1);
        self.empty.push_front(window);
    }

    /// Takes the window that was emptied last.
    fn take_empty(&mut self) -> Option<Window> {
        let window = self.empty.pop_front()?;
        let region = window.leader.get();
        region.region_empty.set(region.region_empty.get() - 1);
        Some(window)
    }
}
