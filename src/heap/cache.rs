//! Blocks that were freed and are handed out again before their window hears of it.
//!
//! ```text
//! length   1    2   …   22   …   32      units
//!          ┌──┐ ┌──┐    ┌──┐    ┌──┐
//!          │  │ │  │    │ ▲│    │  │     a stack each: a free pushes,
//!          └──┘ └──┘    └─┼┘    └──┘     the next allocation of that length pops
//! ```
//!
//! The block freed last is the one most likely in the processor's cache, and to hand it out again costs a load and three
//! stores whatever the order in which blocks are freed. A stack that is full leaves frees to the windows; an empty one
//! leaves allocations to the extent.
//!
//! A cached block goes on counting as live in its window, and its byte in the map says that it is cached, so that a second
//! free of it shows. That pins its window, so each stack gives half of its blocks back now and then.
//!
//! The stacks lie in the bookkeeping of a region. Regions of one window, which are for memory that is scarce, have none.

use core::cell::Cell;
use core::ptr::{self, NonNull};

use super::{Cold, Heap};
use crate::geometry::{CACHE_DEPTH, Geometry};
use crate::map::{LONGEST_CACHED, LONGEST_EXACT, cached_code};
use crate::region::Region;
use crate::system::System;

/// Ticks from one stack that gives half of its blocks back to the next. A stack that nobody uses is empty after a quarter of
/// a million packets; one that is in use has always as many as its length's share of a queue goes up and down by.
const AGING: u32 = if cfg!(fuzzing) { 1 } else { 32 };

/// The stacks, by length in units.
pub(super) struct Cache {
    /// Where the stack of length 0, which nothing has, starts; [`CACHE_DEPTH`] places each.
    places: Cell<*mut NonNull<u8>>,
    /// How many blocks each stack has. There is one for every length that the hot path serves; the longest stay empty.
    lens: [Cell<u16>; LONGEST_EXACT as usize + 1],
    /// How many blocks a stack may have: [`CACHE_DEPTH`], or none while the cache is closed.
    room: Cell<u16>,
    /// The region in whose bookkeeping the stacks lie.
    region: Cell<Option<Region>>,
    /// Ticks, which say when a stack gives back and which.
    ticks: Cell<u32>,
}

impl Cache {
    /// A closed cache.
    pub(super) const fn new() -> Self {
        Self {
            places: Cell::new(ptr::null_mut()),
            lens: [const { Cell::new(0) }; LONGEST_EXACT as usize + 1],
            room: Cell::new(0),
            region: Cell::new(None),
            ticks: Cell::new(0),
        }
    }

    /// Where the block with this index in the stack of a length is.
    ///
    /// # Safety
    /// The cache is open, the length is at most `LONGEST_CACHED`, and the index below `CACHE_DEPTH`.
    #[inline(always)]
    unsafe fn place(&self, units: u32, index: u16) -> NonNull<NonNull<u8>> {
        // SAFETY: the caller says so: a place of the stacks.
        unsafe { NonNull::new_unchecked(self.places.get().add(units as usize * CACHE_DEPTH + usize::from(index))) }
    }

    /// Puts a block of `units` units, no more than `LONGEST_EXACT`, on its stack; false where there is no room.
    #[inline(always)]
    fn push(&self, block: NonNull<u8>, units: u32) -> bool {
        if units > LONGEST_CACHED {
            return false;
        }
        let len = &self.lens[units as usize];
        let index = len.get();
        if index >= self.room.get() {
            return false;
        }
        // SAFETY: there is room only while the cache is open, and no more than `CACHE_DEPTH`.
        unsafe { self.place(units, index).write(block) };
        len.set(index + 1);
        true
    }

    /// Takes the block of `units` units, no more than `LONGEST_EXACT`, that was pushed last.
    #[inline(always)]
    fn pop(&self, units: u32) -> Option<NonNull<u8>> {
        let len = &self.lens[units as usize];
        let index = len.get().checked_sub(1)?;
        len.set(index);
        // SAFETY: only what was pushed is on a stack.
        Some(unsafe { self.place(units, index).read() })
    }

    /// Units of all cached blocks.
    pub(super) fn units(&self) -> u64 {
        let stacks = self.lens[..=LONGEST_CACHED as usize].iter().zip(0..);
        stacks.map(|(len, units)| u64::from(len.get()) * units).sum()
    }

    /// The cached blocks and their lengths.
    pub(super) fn blocks(&self) -> impl Iterator<Item = (NonNull<u8>, u32)> {
        (1..=LONGEST_CACHED).flat_map(move |units| {
            let len = self.lens[units as usize].get();
            // SAFETY: only what was pushed is on a stack.
            (0..len).map(move |index| (unsafe { self.place(units, index).read() }, units))
        })
    }
}

impl<G: Geometry, S: System> Heap<G, S> {
    /// Puts a block that was freed into the cache; false where there is no room.
    #[inline(always)]
    pub(super) fn cache_block(&self, block: NonNull<u8>, code: &Cell<u8>, units: u32) -> bool {
        let cached = self.cache.push(block, units);
        if cached {
            code.set(cached_code(units));
            self.hide(block, units);
        }
        cached
    }

    /// The block of exactly `units` units, no more than `LONGEST_EXACT`, that was freed last.
    #[inline(always)]
    pub(super) fn cached_block(&self, units: u32) -> Option<NonNull<u8>> {
        let block = self.cache.pop(units)?;
        // SAFETY: a cached block lies in a region that is held.
        unsafe {
            let (region, unit) = self.unit_of(block);
            region.code(unit, self.geometry).set(units as u8);
        }
        Some(block)
    }

    /// The region of a block, and the unit of it at which the block starts.
    ///
    /// # Safety
    /// The block starts at a unit for blocks of a region that is held.
    #[inline(always)]
    unsafe fn unit_of(&self, block: NonNull<u8>) -> (Region, usize) {
        let unit = (block.addr().get() & (self.geometry.region_bytes() - 1)) >> self.geometry.unit_shift();
        // SAFETY: the caller says so.
        (unsafe { Region::of_block(block, self.geometry) }, unit)
    }

    /// Opens the cache in the bookkeeping of `region`, if it is not open and blocks may be cached.
    pub(super) fn open_cache(&self, cold: &mut Cold, region: Region) {
        let bytes = self.geometry.cache_bytes();
        if self.cache.room.get() > 0 || bytes == 0 || !self.route.get().caches() {
            return;
        }
        let header = region.header(self.geometry);
        if header.has_cache.get() || cold.within_limit(bytes, self.settings.memory_limit) {
            if !header.has_cache.replace(true) {
                cold.hold(bytes);
            }
            self.cache.places.set(region.cache(self.geometry).cast().as_ptr());
            self.cache.region.set(Some(region));
            self.cache.room.set(CACHE_DEPTH as u16);
        }
    }

    /// Gives every cached block back to its window and closes the cache.
    pub(super) fn close_cache(&self) {
        self.empty_cache();
        self.cache.room.set(0);
        if let Some(region) = self.cache.region.take() {
            // SAFETY: the stacks are empty and closed. The pages at either end, which hold something else, stay.
            let gone = unsafe { self.system.discard(region.cache(self.geometry)) } > 0;
            if gone {
                region.header(self.geometry).has_cache.set(false);
                self.cold.borrow_mut().held_bytes -= self.geometry.cache_bytes() as u64;
            }
        }
    }

    /// Whether the stacks lie in `region`, which must not go then.
    pub(super) fn has_cache(&self, region: Region) -> bool {
        self.cache.region.get() == Some(region)
    }

    /// Gives every cached block back to its window.
    pub(super) fn empty_cache(&self) {
        for units in 1..=LONGEST_CACHED {
            self.give_back_cached(units, 0);
        }
    }

    /// Has one stack give half of its blocks back.
    pub(super) fn age_cache(&self) {
        let ticks = self.cache.ticks.get().wrapping_add(1);
        self.cache.ticks.set(ticks);
        if ticks.is_multiple_of(AGING) {
            let units = ticks / AGING % LONGEST_CACHED + 1;
            let len = self.cache.lens[units as usize].get();
            self.give_back_cached(units, len / 2);
        }
    }

    /// Gives cached blocks of a length back to their windows, until `keep` are left.
    fn give_back_cached(&self, units: u32, keep: u16) {
        while self.cache.lens[units as usize].get() > keep {
            let Some(block) = self.cache.pop(units) else { break };
            // SAFETY: a cached block lies in a region that is held.
            let (region, unit) = unsafe { self.unit_of(block) };
            // SAFETY: the unit is one of the region.
            unsafe { region.code(unit, self.geometry) }.set(0);
            self.give_back(region, unit, unit..unit + units as usize);
        }
    }

    /// Has every window without a live block count as empty, if no block lives at all.
    pub(crate) fn settle(&self) {
        if self.used_units() == 0 {
            self.empty_cache();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(address: usize) -> NonNull<u8> {
        NonNull::new(ptr::without_provenance_mut(address)).unwrap()
    }

    /// A cache over memory of its own.
    fn open(places: &mut Vec<NonNull<u8>>) -> Cache {
        places.resize((LONGEST_CACHED as usize + 1) * CACHE_DEPTH, NonNull::dangling());
        let cache = Cache::new();
        cache.places.set(places.as_mut_ptr());
        cache.room.set(CACHE_DEPTH as u16);
        cache
    }

    #[test]
    fn the_block_freed_last_of_a_length_comes_back_first() {
        let mut places = Vec::new();
        let cache = open(&mut places);
        for (address, units) in [(64, 3), (128, 7), (192, 7), (256, LONGEST_CACHED)] {
            assert!(cache.push(block(address), units));
        }
        assert_eq!((cache.units(), cache.blocks().count()), (u64::from(3 + 7 + 7 + LONGEST_CACHED), 4));
        assert_eq!(
            [7, 7, 7, 3].map(|units| cache.pop(units)),
            [Some(block(192)), Some(block(128)), None, Some(block(64))]
        );
        assert_eq!((cache.pop(LONGEST_CACHED), cache.units()), (Some(block(256)), 0));
    }

    #[test]
    fn a_full_stack_takes_no_more_and_long_blocks_have_none() {
        let mut places = Vec::new();
        let cache = open(&mut places);
        assert!((0..CACHE_DEPTH).all(|index| cache.push(block(64 * (index + 1)), 5)));
        assert!(!cache.push(block(64), 5));
        assert!(cache.push(block(64), 6) && cache.push(block(64), 4));
        assert!(!cache.push(block(64), LONGEST_CACHED + 1) && !cache.push(block(64), LONGEST_EXACT));
        assert_eq!(cache.pop(LONGEST_EXACT), None);
    }

    #[test]
    fn a_closed_cache_takes_and_has_nothing() {
        let cache = Cache::new();
        assert!(!(1..=LONGEST_EXACT).any(|units| cache.push(block(64), units) || cache.pop(units).is_some()));
        assert_eq!((cache.units(), cache.blocks().count()), (0, 0));
    }
}
