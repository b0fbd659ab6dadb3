//! The allocator itself, over any geometry and any system: the hot path, and what everything else hangs on.
//!
//! Allocation bumps a cursor through an *extent*, a hole of the current window that is taken as a whole. While packets
//! do not leave in order, a freed block of up to 1920 units goes into a *cache*, from which the next allocation of that
//! length takes it:
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
//! is left of it is given back when it is closed. A free reads the block's length from the map; where the cache does
//! not take the block, it clears it, and counts.
//!
//! A size goes one way, bytes → units → cursor → address, and a block the other: address → region → byte in the map →
//! credit of its window. On the hot path the cursor is counted in units from address 0, so that one addition leads from
//! it to the byte in the map, one shift to the block, and one comparison tells whether a block is the newest one.
//! Everywhere else units are counted from the start of their region or window.
//!
//! Calls come in three steps: the hot path, which is compiled into its callers, serves blocks of up to 127 units
//! ([`allocate_hot`](Heap::allocate_hot)); where it does not, one function goes the same way for blocks of up to a
//! window ([`allocate_long`](Heap::allocate_long)), and leads the rest to the slow path
//! ([`allocate_slow`](Heap::allocate_slow)). A free has the same three steps.
//!
//! Everything rarer is in the submodules:
//!
//! - [`route`]: which way calls take;
//! - [`free`]: from a block to its window;
//! - [`order`]: whether packets leave in order;
//! - [`cache`]: blocks that are handed out again before their window hears of it;
//! - [`refill`]: where the next extent comes from;
//! - [`aside`]: blocks apart from the extent;
//! - [`regions`]: windows from the system, and back to it;
//! - [`decay`]: when they go back;
//! - [`span`]: blocks longer than a window;
//! - [`large`]: blocks beyond a region;
//! - [`resize`]: growing and shrinking;
//! - [`find`]: what lies at any pointer;
//! - [`checked`], [`filled`], [`check`]: what the setting `check` adds, and the self-check.

mod aside;
mod cache;
mod check;
mod checked;
mod decay;
mod filled;
mod find;
mod free;
mod large;
mod order;
mod refill;
mod regions;
mod resize;
mod route;
mod span;

use core::cell::{Cell, RefCell};
use core::ops::Range;
use core::ptr::NonNull;

use crate::address_map::AddressMap;
use crate::config::{ConfigError, Settings};
use crate::error::AllocError;
use crate::geometry::Geometry;
use crate::list::List;
use crate::map::{FIRST_LONG, LONGEST, length_number, length_of, live_codes, whole_length};
use crate::poison;
use crate::region::{Region, Window};
use crate::system::System;

use cache::Cache;
use decay::{Decay, TICK};
pub(crate) use large::Large;
use order::Order;
use refill::Sweep;
use regions::Spare;
pub use resize::Realloc;
use route::Route;

/// An allocator over geometry `G` and system `S`.
pub(crate) struct Heap<G: Geometry, S: System> {
    /// The next unit to hand out, counted from address 0.
    cursor: Cell<usize>,
    /// Where the extent ends for the hot path: at `limit` or in front of it, or at 0 when that is not to be taken.
    hot_limit: Cell<usize>,
    /// Where the extent ends, counted from address 0.
    limit: Cell<usize>,
    /// Where the current region's map would have the byte of the unit at address 0; may reach the whole region.
    map_origin: Cell<*mut u8>,
    /// How many of a region's units for blocks a free may take the hot path for: all, or none.
    hot_units: Cell<usize>,
    /// Units of live and cached blocks in windows, and of the extent.
    live_units: Cell<u64>,
    /// The current window.
    window: Cell<Option<Window>>,
    /// The unit of the current window from which on its holes were not used yet.
    holes_from: Cell<u32>,
    /// Frees until the next one that takes the slow path, to do what has to be done now and then.
    until_tick: Cell<u32>,
    cache: Cache,
    route: Cell<Route>,
    /// Units after which an allocation from the extent takes the slow path: see [`stop_every`](Self::stop_every).
    hot_units_at_once: Cell<usize>,
    /// Why the last allocation failed.
    refusal: Cell<AllocError>,
    geometry: G,
    /// What every region leads to: see [`set_owner`](Self::set_owner). Null for nothing.
    owner: Cell<*const ()>,
    pub(crate) settings: Settings,
    pub(crate) cold: RefCell<Cold>,
    system: S,
}

/// What the hot path does not touch.
pub(crate) struct Cold {
    /// Every region, by its address.
    pub(crate) regions: AddressMap<Region>,
    /// Every block straight from the system.
    pub(crate) large: AddressMap<Large>,
    /// With `check`: the size that was asked for, of every live block.
    pub(crate) requested: AddressMap<usize>,
    /// Windows without live blocks, the one emptied last in front.
    pub(crate) empty: List,
    /// Windows that are worth another pass, the one that got there first in front.
    pub(crate) reusable: List,
    /// Regions with windows that are not held.
    pub(crate) spare: Spare,
    /// What is known of how many empty windows are needed.
    pub(crate) decay: Decay,
    /// What is known of the windows that were filled.
    order: Order,
    /// What is known of the holes in full windows, while memory is refused.
    sweep: Sweep,
    /// Windows that are held.
    pub(crate) held_windows: usize,
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
            live_units: Cell::new(0),
            window: Cell::new(None),
            holes_from: Cell::new(0),
            until_tick: Cell::new(TICK),
            cache: Cache::new(),
            route: Cell::new(Route::Unused),
            hot_units_at_once: Cell::new(usize::MAX),
            refusal: Cell::new(AllocError::ZeroSize),
            geometry,
            owner: Cell::new(core::ptr::null()),
            settings,
            cold: RefCell::new(Cold {
                regions: AddressMap::new(),
                large: AddressMap::new(),
                requested: AddressMap::new(),
                empty: List::new(),
                reusable: List::new(),
                spare: Spare::new(),
                decay: Decay::new(),
                order: Order::new(),
                sweep: Sweep::new(),
                held_windows: 0,
                held_bytes: 0,
                peak_held_bytes: 0,
                large_bytes: 0,
            }),
            system,
        }
    }

    /// A heap with `settings`, once they make sense.
    pub(crate) fn with_settings(geometry: G, settings: Settings, system: S) -> Result<Self, ConfigError> {
        settings.validate(regions::least_bytes(geometry))?;
        Ok(Self::new(geometry, settings, system))
    }

    /// Stores the owner in the header of every region to come.
    #[cfg(feature = "shared")]
    pub(crate) fn set_owner(&self, owner: NonNull<()>) {
        debug_assert!(self.cold.borrow().regions.len() == 0, "regions name their owner from the beginning");
        self.owner.set(owner.as_ptr());
    }

    /// Has one allocation in every so many units of an extent take the slow path, so that its caller hears of it.
    #[cfg(feature = "shared")]
    pub(crate) fn stop_every(&self, units: usize) {
        self.hot_units_at_once.set(units);
    }

    /// The shape of regions, windows and units.
    #[inline(always)]
    pub(crate) fn geometry(&self) -> G {
        self.geometry
    }

    /// A block of at least `size` bytes.
    #[inline]
    pub(crate) fn allocate(&self, size: usize) -> Result<NonNull<[u8]>, AllocError> {
        match self.allocate_hot(size) {
            Some(block) => Ok(block),
            // Not a `Result`: this comes back in registers, so that the call is the last thing a caller does.
            None => self.allocate_long(size).ok_or_else(|| self.refusal.get()),
        }
    }

    /// The block of that length that was freed last, or the next one of the extent; `None` when neither is there or the
    /// hot path is not to be taken.
    #[inline(always)]
    pub(crate) fn allocate_hot(&self, size: usize) -> Option<NonNull<[u8]>> {
        // 0 wraps around and is refused there, too.
        if size.wrapping_sub(1) < self.geometry.largest_exact() {
            let units = self.geometry.units(size);
            if let Some(block) = self.cached_block(units) {
                return Some(self.handed_out(block, units));
            }
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

    /// The bytes of a run of units of the current region that is handed out, the first one counted from address 0.
    #[inline(always)]
    fn run(&self, start: usize, units: u32) -> NonNull<[u8]> {
        let block = self.map_origin.get().with_addr(start << self.geometry.unit_shift());
        // SAFETY: the address of a unit for blocks is not 0.
        self.handed_out(unsafe { NonNull::new_unchecked(block) }, units)
    }

    /// The bytes of a block that is handed out.
    #[inline(always)]
    fn handed_out(&self, block: NonNull<u8>, units: u32) -> NonNull<[u8]> {
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

    /// Has calls take the route that the settings and the state of memory ask for.
    fn set_route(&self, scarce: bool) {
        let route = Route::new(&self.settings, scarce);
        self.route.set(route);
        let blocks = self.geometry.region_units() - self.geometry.first_block_unit();
        self.hot_units.set(if route.frees_hot() { blocks } else { 0 });
        self.set_limit(self.limit.get());
    }

    /// Moves the end of the extent.
    fn set_limit(&self, limit: usize) {
        self.limit.set(limit);
        let stop = self.cursor.get().saturating_add(self.hot_units_at_once.get());
        self.hot_limit.set(if self.route.get().allocates_hot() { limit.min(stop) } else { 0 });
    }

    /// Makes units the extent; they are counted from address 0.
    fn set_extent(&self, units: Range<usize>) {
        self.cursor.set(units.start);
        self.set_limit(units.end);
    }

    /// Why the last allocation failed.
    pub(crate) fn refusal(&self) -> AllocError {
        self.refusal.get()
    }

    /// As [`allocate_hot`](Self::allocate_hot), for longer blocks of one window; leads all else to the slow path.
    /// `None` leaves the reason in `refusal`.
    #[cold]
    #[inline(never)]
    pub(crate) fn allocate_long(&self, size: usize) -> Option<NonNull<[u8]>> {
        let (shorter, longest) = (self.geometry.largest_exact(), self.geometry.window_bytes());
        // One comparison: 0, and what the hot path serves, wrap around.
        if size.wrapping_sub(shorter + 1) < longest - shorter {
            let number = length_number(self.geometry.units(size));
            let units = length_of(number);
            if let Some(block) = self.cached_long(number) {
                return Some(self.handed_out(block, units));
            }
            let start = self.cursor.get();
            let end = start + units as usize;
            if end <= self.hot_limit.get() {
                self.cursor.set(end);
                // SAFETY: as in `allocate_hot`; the block has more than two units.
                unsafe { self.map_origin.get().wrapping_add(start).cast::<[u8; 2]>().write(live_codes(number)) };
                return Some(self.run(start, units));
            }
        }
        self.allocate_slow(size)
    }

    /// The slow path of [`allocate`](Self::allocate). `None` leaves the reason in `refusal`.
    #[inline(never)]
    fn allocate_slow(&self, size: usize) -> Option<NonNull<[u8]>> {
        let block = if size == 0 {
            Err(AllocError::ZeroSize)
        } else if self.settings.check {
            self.allocate_checked(size)
        } else {
            self.place(size).inspect(|block| {
                if self.settings.zero {
                    // SAFETY: the block is ours to hand out, and nobody else knows it yet.
                    unsafe { block.cast::<u8>().write_bytes(0, block.len()) };
                }
            })
        };
        block.inspect_err(|&error| self.refusal.set(error)).ok()
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
        if !self.lies_in_region(size) {
            return self.or_without_cache(|| self.allocate_large(size));
        }
        let units = whole_length(self.geometry.units(size));
        if units as usize > self.geometry.block_units().len() {
            return self.or_without_cache(|| self.allocate_span(units.max(FIRST_LONG)));
        }
        loop {
            let start = self.cursor.get();
            let end = start + units as usize;
            if let Some(window) = self.window.get()
                && end <= self.limit.get()
            {
                self.cursor.set(end);
                self.set_limit(self.limit.get());
                let first = window.region(self.geometry).address() >> self.geometry.unit_shift();
                let in_window = start - first - window.first_unit(self.geometry);
                window.map(self.geometry).set(in_window as u32, units);
                return Ok(self.run(start, units));
            }
            self.refill(units)?;
        }
    }

    /// Whether a block that is asked for with `size` bytes lies in a region, rather than in memory of its own.
    pub(crate) fn lies_in_region(&self, size: usize) -> bool {
        let windows = self.geometry.region_windows() - self.geometry.first_window();
        let most = (windows * self.geometry.block_units().len()).min(LONGEST as usize);
        let bytes = most << self.geometry.unit_shift();
        let of_windows = size > self.geometry.bytes(self.geometry.block_units().len() as u32);
        let least = if of_windows { FIRST_LONG } else { 0 };
        !self.settings.passthrough
            && size <= bytes
            && whole_length(self.geometry.units(size)).max(least) as usize <= most
    }

    /// Whether a block that is asked for with `size` bytes lies in a region, what is put behind it included.
    #[cfg(feature = "shared")]
    pub(crate) fn stays_in_region(&self, size: usize) -> bool {
        let size = if self.settings.check { checked::with_canary(size) } else { Ok(size) };
        size.is_ok_and(|size| self.lies_in_region(size))
    }

    /// Counts `units` of `window` as live.
    fn count(&self, window: Window, units: u32) {
        self.live_units.set(self.live_units.get() + u64::from(units));
        window.count(units, self.geometry);
    }

    /// Units of live blocks in windows.
    fn used_units(&self) -> u64 {
        let rest = (self.limit.get() - self.cursor.get()) as u64;
        self.live_units.get() - rest - self.cache.units()
    }

    /// Bytes of live blocks.
    pub(crate) fn used_bytes(&self) -> u64 {
        (self.used_units() << self.geometry.unit_shift()) + self.cold.borrow().large_bytes
    }

    /// Bytes taken from the system.
    pub(crate) fn allocated_bytes(&self) -> u64 {
        self.cold.borrow().held_bytes
    }

    /// The current window and its extent, counted from the start of the window.
    pub(crate) fn extent(&self) -> Option<(Window, Range<u32>)> {
        self.window.get().map(|window| {
            let first = window.address(self.geometry) >> self.geometry.unit_shift();
            (window, (self.cursor.get() - first) as u32..(self.limit.get() - first) as u32)
        })
    }

    /// Counts units that do not exist.
    #[cfg(test)]
    pub(crate) fn miscount(&self, units: u64) {
        self.live_units.set(self.live_units.get() + units);
    }

    /// Units of live and cached blocks in windows, and of the extent.
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
}
