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
//!
//! On the hot path a unit goes by its number counted from address 0, so that one addition leads from the cursor to the
//! byte in the map, one shift to the block, and one comparison tells whether a block is the newest one. Everywhere
//! else units are counted from the start of their window.
//!
//! Everything rarer is in the submodules:
//!
//! - [`free`]: the way back;
//! - [`windows`]: where the next extent comes from; windows from the system and back to it;
//! - [`recycle`]: blocks that are handed out again before their window hears of it;
//! - [`resize`]: growing and shrinking;
//! - [`large`]: blocks straight from the system;
//! - [`checked`]: verified frees and canaries;
//! - [`freed`]: what free units contain, so that writes to them show.

mod checked;
mod free;
mod freed;
mod large;
mod recycle;
mod resize;
mod windows;

use core::cell::{Cell, RefCell};
use core::ops::Range;
use core::ptr::NonNull;

use crate::address_map::AddressMap;
use crate::config::{ConfigError, Settings};
use crate::descriptor::{Place, Window};
use crate::error::AllocError;
use crate::geometry::Geometry;
use crate::list::List;
use crate::poison;
use crate::system::System;
use crate::window::{LONGEST_PARKED, whole_length};

use free::Waiting;
pub(crate) use large::Large;
use recycle::Parking;
pub use resize::Realloc;
use windows::Surplus;

/// An allocator over geometry `G` and system `S`.
pub(crate) struct Heap<G: Geometry, S: System> {
    /// The next unit to hand out, counted from address 0.
    cursor: Cell<usize>,
    /// Where the extent ends for the hot path: at `limit`, or at 0 when every call takes the cold one or parked blocks come
    /// first.
    hot_limit: Cell<usize>,
    /// Where the extent ends, counted from address 0; the search for the next one goes on from here.
    limit: Cell<usize>,
    /// Where the current window's map would have the byte of the unit at address 0; may reach the whole window.
    map_origin: Cell<*mut u8>,
    /// How many units of a window a free may take the hot path for: all but the first, or none when `check` or
    /// `passthrough` is on or blocks are parked.
    hot_units: Cell<usize>,
    /// The same for a free that parks its block at once: all but the first while blocks are parked and maps are not cold.
    parking_units: Cell<usize>,
    /// The same for a free that may have to wait before it parks its block: all but the first while blocks are parked and
    /// maps are cold.
    deferring_units: Cell<usize>,
    /// Units of live and parked blocks in windows, and of the extent.
    live_units: Cell<u64>,
    /// The current window.
    window: Cell<Option<Window>>,
    /// Whether no block lies behind the extent in the current window.
    fresh: Cell<bool>,
    /// Why the last allocation failed.
    refusal: Cell<AllocError>,
    geometry: G,
    /// What every window leads to: see [`lead_to`](Self::lead_to). Null for nothing.
    home: Cell<*const ()>,
    pub(crate) settings: Settings,
    pub(crate) parking: Parking,
    waiting: Waiting,
    pub(crate) cold: RefCell<Cold>,
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
    /// Windows of which too little is free, the one filled first in front.
    pub(crate) full: List,
    /// What is known of how many empty windows are needed.
    pub(crate) surplus: Surplus,
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
            map_origin: Cell::new(core::ptr::null_mut()),
            hot_units: Cell::new(0),
            parking_units: Cell::new(0),
            deferring_units: Cell::new(0),
            live_units: Cell::new(0),
            window: Cell::new(None),
            fresh: Cell::new(false),
            refusal: Cell::new(AllocError::ZeroSize),
            geometry,
            home: Cell::new(core::ptr::null()),
            settings,
            parking: Parking::new(),
            waiting: Waiting::new(),
            cold: RefCell::new(Cold {
                windows: AddressMap::new(),
                large: AddressMap::new(),
                requested: AddressMap::new(),
                empty: List::new(),
                reusable: List::new(),
                full: List::new(),
                surplus: Surplus::new(),
                held_bytes: 0,
                peak_held_bytes: 0,
                large_bytes: 0,
            }),
            system,
        }
    }

    /// A heap with `settings`, once they make sense.
    pub(crate) fn with_settings(geometry: G, settings: Settings, system: S) -> Result<Self, ConfigError> {
        settings.validate(windows::region_bytes(geometry, &settings))?;
        Ok(Self::new(geometry, settings, system))
    }

    /// Has every window lead to `home`, for whoever has a block of it and looks for where it belongs
    /// ([`Window::plate`]); on a heap that has asked for nothing yet.
    ///
    /// The first blocks of such windows begin at different distances from the windows' starts. Whoever looks at the
    /// first bytes of many packets, as threads do that they are sent to, would find them in a few sets of each cache if
    /// all began at the same distance: those of 1024 bytes in one of 16.
    #[cfg(feature = "shared")]
    pub(crate) fn lead_to(&self, home: NonNull<()>) {
        debug_assert_eq!(self.allocated_bytes(), 0);
        self.home.set(home.as_ptr());
    }

    /// The shape of the windows.
    #[inline(always)]
    pub(crate) fn geometry(&self) -> G {
        self.geometry
    }

    /// A block of at least `size` bytes.
    #[inline]
    pub(crate) fn allocate(&self, size: usize) -> Result<NonNull<[u8]>, AllocError> {
        match self.bump(size) {
            Some(block) => Ok(block),
            // Not a `Result`: this comes back in registers, so that the call is the last thing a caller does.
            None => self.allocate_elsewhere(size).ok_or_else(|| self.refusal.get()),
        }
    }

    /// The next block of the extent; `None` when that has not the room or something keeps calls off the hot path.
    #[inline(always)]
    pub(crate) fn bump(&self, size: usize) -> Option<NonNull<[u8]>> {
        // 0 wraps around and is refused there, too.
        if size.wrapping_sub(1) < self.geometry.largest_exact() {
            let units = self.geometry.units(size);
            let start = self.cursor.get();
            let end = start + units as usize;
            if end <= self.hot_limit.get() {
                self.cursor.set(end);
                // SAFETY: the limit is above zero only while there is a current window; the unit is one of its extent,
                // so its byte is one of its map, which is written through cells alone.
                unsafe { self.map_origin.get().wrapping_add(start).write(units as u8) };
                return Some(self.run(start, units));
            }
        }
        None
    }

    /// The bytes of a run of units of the current window, the first one counted from address 0.
    #[inline(always)]
    fn run(&self, start: usize, units: u32) -> NonNull<[u8]> {
        let block = self.map_origin.get().with_addr(start << self.geometry.unit_shift());
        // SAFETY: the address of a unit is not 0.
        let block = unsafe { NonNull::new_unchecked(block) };
        self.shown(block, units)
    }

    /// The bytes of a run of units that is handed out.
    #[inline(always)]
    fn shown(&self, block: NonNull<u8>, units: u32) -> NonNull<[u8]> {
        let bytes = NonNull::slice_from_raw_parts(block, self.geometry.bytes(units));
        poison::show(bytes);
        bytes
    }

    /// Hides a run of units that is in no block any more.
    #[inline(always)]
    fn hide(&self, block: NonNull<u8>, units: u32) {
        if cfg!(pktalloc_asan) && !self.settings.check {
            poison::hide(NonNull::slice_from_raw_parts(block, self.geometry.bytes(units)));
        }
    }

    /// Moves the end of the extent.
    fn set_limit(&self, limit: usize) {
        self.limit.set(limit);
        self.hot_limit.set(if self.settings.is_plain() { limit } else { 0 });
    }

    /// Makes units the extent; they are counted from address 0.
    fn set_extent(&self, units: Range<usize>) {
        self.cursor.set(units.start);
        self.set_limit(units.end);
    }

    /// A block from anywhere but the front of the extent; `None` leaves the reason in `refusal`. Called cold so that it is
    /// out of the way of the straight path.
    #[cold]
    #[inline(never)]
    fn allocate_elsewhere(&self, size: usize) -> Option<NonNull<[u8]>> {
        if size.wrapping_sub(1) < self.geometry.bytes(LONGEST_PARKED) {
            let units = self.geometry.units(size);
            if let Some(block) = self.parking.take(units) {
                return Some(self.shown(block, units));
            }
        }
        self.allocate_cold(size)
    }

    /// All that [`allocate`](Self::allocate) leaves over.
    #[cold]
    #[inline(never)]
    fn allocate_cold(&self, size: usize) -> Option<NonNull<[u8]>> {
        match self.allocate_slowly(size) {
            Ok(block) => Some(block),
            Err(error) => {
                self.refusal.set(error);
                None
            }
        }
    }

    fn allocate_slowly(&self, size: usize) -> Result<NonNull<[u8]>, AllocError> {
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
        if self.is_large(size) {
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
        self.leave_short_queue();
        if let Some(block) = self.split_parked(units) {
            return Ok(self.shown(block, units));
        }
        loop {
            let start = self.cursor.get();
            if let Some(window) = self.window.get()
                && start + units as usize <= self.limit.get()
            {
                self.cursor.set(start + units as usize);
                window.map(self.geometry).set(self.within(window, start), units);
                return Ok(self.run(start, units));
            }
            self.refill(units)?;
        }
    }

    /// Whether a block of `size` bytes comes straight from the system.
    fn is_large(&self, size: usize) -> bool {
        self.settings.passthrough || size > self.geometry.largest_in_window()
    }

    /// Whether a block that is asked for with `size` bytes lies in a window.
    #[cfg(feature = "shared")]
    pub(crate) fn stays_in_window(&self, size: usize) -> bool {
        let size = if self.settings.check { checked::with_canary(size) } else { Ok(size) };
        size.is_ok_and(|size| !self.is_large(size))
    }

    /// The number in `window` of a unit counted from address 0.
    fn within(&self, window: Window, unit: usize) -> u32 {
        (unit - self.first_unit(window)) as u32
    }

    /// The number of a window's first unit, counted from address 0.
    fn first_unit(&self, window: Window) -> usize {
        window.address() >> self.geometry.unit_shift()
    }

    /// How many units lie between the first unit of the window that `block` lies in and `block`. Where no block can be,
    /// at the start of the window or between units, that is a number beyond
    /// [`units_behind_first`](Self::units_behind_first).
    #[inline(always)]
    fn units_before(&self, block: NonNull<u8>) -> usize {
        let behind_first = block.addr().get().wrapping_sub(self.geometry.unit_bytes());
        let offset = behind_first & (self.geometry.window_bytes() - 1);
        // Bits below a unit end up on top.
        offset.rotate_right(self.geometry.unit_shift())
    }

    /// How many units a window has behind the first, where only a large block can be.
    fn units_behind_first(&self) -> usize {
        self.geometry.window_units() - 1
    }

    /// The window of a block, and the block's byte in its map.
    ///
    /// # Safety
    /// `block` lies in a window that is held. `before` is its [`units_before`](Self::units_before), and below
    /// [`units_behind_first`](Self::units_behind_first).
    #[inline(always)]
    unsafe fn entry_of<'a>(&self, block: NonNull<u8>, before: usize) -> (Window, &'a Cell<u8>) {
        // SAFETY: as the caller promises.
        unsafe {
            let window = Window::of_block(block, self.geometry);
            (window, window.code(before + 1))
        }
    }

    /// Takes back units that no block in the map claims any more.
    fn give_back(&self, window: Window, start: u32, units: u32) {
        // SAFETY: the units lie in the window.
        let first = unsafe { window.base().add(self.geometry.bytes(start)) };
        self.give_back_block(window, first, units);
    }

    /// Whether no block is left in the current window.
    fn is_idle(&self, window: Window) -> bool {
        window.live_units() as usize == self.limit.get() - self.cursor.get()
    }

    /// Counts `units` of `window` as live.
    fn count(&self, window: Window, units: u32) {
        self.live_units.set(self.live_units.get() + u64::from(units));
        window.count(units);
    }

    /// Units of live blocks in windows.
    fn used_units(&self) -> u64 {
        self.catch_up();
        let rest = (self.limit.get() - self.cursor.get()) as u64;
        self.live_units.get() - rest - self.parking.units()
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
    pub(crate) fn extent(&self) -> Option<(Window, Range<u32>)> {
        let extent = |window| (window, self.within(window, self.cursor.get())..self.within(window, self.limit.get()));
        self.window.get().map(extent)
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
        self.surplus.taken(self.empty.len());
        let region = window.leader.get();
        region.region_empty.set(region.region_empty.get() - 1);
        Some(window)
    }
}
