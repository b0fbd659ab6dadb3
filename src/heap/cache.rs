//! Blocks that were freed and are handed out again before their window hears of it.
//!
//! ```text
//! length   1    2   …   22   …   32      units
//!          ┌──┐ ┌──┐    ┌──┐    ┌──┐
//!          │  │ │  │    │ ▲│    │  │     a stack each: a free pushes,
//!          └──┘ └──┘    └─┼┘    └──┘     the next allocation of that length pops
//! ```
//!
//! Packets that leave in order empty one window after the other, and the extent serves the next ones at the least cost:
//! nothing is cached then. Blocks are cached while windows are filled again between blocks that live in them
//! ([`order`](super::order)): packets leave in any order, or some of them stay. To hand out the block freed last costs a load
//! and three stores whatever the order, and what lives long comes to lie close together, because what lives shortly goes
//! round in the same few blocks.
//!
//! A stack that is full leaves frees to the windows; an empty one leaves allocations to the extent. A cached block goes on
//! counting as live in its window, and its byte in the map says that it is cached, so that a second free of it shows. That
//! pins its window, so each stack gives half of its blocks back now and then, and nothing is cached while
//! [much is free](Heap::is_sparse) in windows with blocks.
//!
//! The stacks lie in the bookkeeping of a region. Regions of one window, which are for memory that is scarce, have none.

use core::cell::Cell;
use core::ptr::{self, NonNull};

use super::{Cold, Heap};
use crate::error::AllocError;
use crate::geometry::{CACHE_DEPTH, CACHE_PLACES, Geometry};
use crate::map::{LONGEST_CACHED, cached_code};
use crate::region::{CACHE, Region};
use crate::system::System;

/// Ticks from one stack that gives half of its blocks back to the next. A stack that nobody uses is empty after a quarter of
/// a million packets; one that is in use has always as many as its length's share of a queue goes up and down by.
const AGING: u32 = if cfg!(fuzzing) { 1 } else { 16 };

/// One for each length, from 0 on.
const STACKS: usize = LONGEST_CACHED as usize + 1;

/// Where a cached block's address is kept, or [`NOTHING`].
type Place = Option<NonNull<u8>>;

/// What lies below each stack.
const NOTHING: Place = None;

/// The stacks, by length in units. There is one for length 0, too, which nothing has.
pub(super) struct Cache {
    /// Blocks of up to so many units are cached; the stacks of longer ones are empty. At most
    /// `LONGEST_CACHED`, and 0 while the cache is not open.
    taking: Cell<usize>,
    /// Where the last block of each stack is, or the place below all, which has [`NOTHING`].
    tops: [Cell<*mut Place>; STACKS],
    /// The first place behind each stack.
    ends: [Cell<*mut Place>; STACKS],
    /// The region in whose bookkeeping the stacks lie, and the place below the first one; `None` while the cache is not
    /// open.
    open: Cell<Option<(Region, NonNull<Place>)>>,
    /// Ticks, which say when a stack gives back.
    ticks: Cell<u32>,
    /// The stack that gave back last.
    last: Cell<u32>,
    /// Whether much was free in windows with blocks when that was looked at last.
    is_sparse: Cell<bool>,
}

impl Cache {
    /// A cache that is not open.
    pub(super) const fn new() -> Self {
        Self {
            taking: Cell::new(0),
            tops: [const { Cell::new(ptr::null_mut()) }; STACKS],
            ends: [const { Cell::new(ptr::null_mut()) }; STACKS],
            open: Cell::new(None),
            ticks: Cell::new(0),
            last: Cell::new(0),
            is_sparse: Cell::new(false),
        }
    }

    /// Puts a block of `units` units on its stack; false where there is no room.
    #[inline(always)]
    fn push(&self, block: NonNull<u8>, units: u32) -> bool {
        if units as usize > self.taking.get() {
            return false;
        }
        // SAFETY: invariant: `taking` is at most `LONGEST_CACHED`.
        let (top, end) = unsafe { (self.tops.get_unchecked(units as usize), self.ends.get_unchecked(units as usize)) };
        let place = top.get().wrapping_add(1);
        let has_room = place != end.get();
        if has_room {
            // SAFETY: a place of the stack.
            unsafe { place.write(Some(block)) };
            top.set(place);
        }
        has_room
    }

    /// Takes the block of `units` units that was pushed last.
    #[inline(always)]
    fn pop(&self, units: u32) -> Option<NonNull<u8>> {
        if units as usize > self.taking.get() {
            return None;
        }
        // SAFETY: invariant: `taking` is at most `LONGEST_CACHED`.
        let top = unsafe { self.tops.get_unchecked(units as usize) };
        // SAFETY: a place of the stack, or the one below.
        let block = unsafe { top.get().read() }?;
        top.set(top.get().wrapping_sub(1));
        Some(block)
    }

    /// The place below the stack of a length, where the first one is known.
    fn below(first: NonNull<Place>, units: u32) -> *mut Place {
        first.as_ptr().wrapping_add(units as usize * CACHE_PLACES)
    }

    /// Opens the cache in places that are its own; it does not take blocks yet.
    ///
    /// # Safety
    /// `CACHE_PLACES` places for each stack start at `first`, which nobody else uses until the cache is closed.
    unsafe fn open(&self, region: Region, first: NonNull<Place>) {
        for (units, (top, end)) in (0..).zip(self.tops.iter().zip(&self.ends)) {
            let below = Self::below(first, units);
            // SAFETY: the caller says so.
            unsafe { below.write(NOTHING) };
            top.set(below);
            end.set(below.wrapping_add(CACHE_DEPTH + 1));
        }
        self.open.set(Some((region, first)));
    }

    /// Closes the cache, which is empty; returns the region where it lay.
    fn close(&self) -> Option<Region> {
        self.taking.set(0);
        self.open.take().map(|(region, _)| region)
    }

    /// The region in whose bookkeeping the stacks lie, while the cache is open.
    pub(super) fn region(&self) -> Option<Region> {
        self.open.get().map(|(region, _)| region)
    }

    /// How many blocks of a length are cached.
    fn len(&self, units: u32) -> usize {
        self.open.get().map_or(0, |(_, first)| self.len_above(first, units))
    }

    /// The same, where the place below the first stack is known.
    fn len_above(&self, first: NonNull<Place>, units: u32) -> usize {
        (self.tops[units as usize].get().addr() - Self::below(first, units).addr()) / size_of::<Place>()
    }

    /// Units of all cached blocks.
    pub(super) fn units(&self) -> u64 {
        self.open.get().map_or(0, |(_, first)| {
            (1..=LONGEST_CACHED).map(|units| (self.len_above(first, units) * units as usize) as u64).sum()
        })
    }

    /// The cached blocks and their lengths.
    pub(super) fn blocks(&self) -> impl Iterator<Item = (NonNull<u8>, u32)> {
        let on_stack = |units| {
            let top = self.tops[units as usize].get();
            // SAFETY: only places below the top are read, and what was pushed is there.
            (0..self.len(units)).filter_map(move |index| unsafe { top.sub(index).read() })
        };
        (1..=LONGEST_CACHED).flat_map(move |units| on_stack(units).map(move |block| (block, units)))
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

    /// The cached block of exactly `units` units that was freed last.
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
    pub(super) unsafe fn unit_of(&self, block: NonNull<u8>) -> (Region, usize) {
        let unit = (block.addr().get() & (self.geometry.region_bytes() - 1)) >> self.geometry.unit_shift();
        // SAFETY: the caller says so.
        (unsafe { Region::of_block(block, self.geometry) }, unit)
    }

    /// Opens the cache in the bookkeeping of the current window's region, if blocks may be cached.
    fn open_cache(&self) {
        let bytes = self.geometry.cache_bytes();
        let Some(window) = self.window.get().filter(|_| bytes > 0 && self.route.get().caches()) else { return };
        let cold = &mut *self.cold.borrow_mut();
        let region = window.region(self.geometry);
        let header = region.header(self.geometry);
        if header.has_cache.get() || cold.within_limit(bytes, self.settings.memory_limit) {
            if !header.has_cache.replace(true) {
                cold.hold(bytes);
                header.resident.set(CACHE);
            }
            // SAFETY: this part of the bookkeeping is the cache's, and as long as all stacks.
            unsafe { self.cache.open(region, region.cache(self.geometry).cast()) };
        }
    }

    /// Gives every cached block back to its window and closes the cache.
    pub(super) fn close_cache(&self) {
        self.empty_cache();
        if let Some(region) = self.cache.close() {
            self.discard_stacks(&mut self.cold.borrow_mut(), region);
        }
    }

    /// Gives back the pages behind the stacks of a region, which are closed.
    pub(super) fn discard_stacks(&self, cold: &mut Cold, region: Region) {
        let (geometry, header) = (self.geometry, region.header(self.geometry));
        if geometry.cache_bytes() == 0 || !header.resident.test(CACHE) {
            return;
        }
        // SAFETY: nobody uses the stacks. The pages at either end, which hold something else, stay.
        let gone = unsafe { self.system.discard(region.cache(geometry)) } > 0;
        if gone {
            header.resident.clear(CACHE);
            if header.has_cache.replace(false) {
                cold.held_bytes -= geometry.cache_bytes() as u64;
            }
        }
    }

    /// Asks for memory, and once more without the cache if it is refused: what is cached may be what is missing.
    pub(super) fn or_without_cache<T>(&self, ask: impl Fn() -> Result<T, AllocError>) -> Result<T, AllocError> {
        match ask() {
            Err(AllocError::MemoryLimit | AllocError::OutOfMemory) if self.cache.open.get().is_some() => {
                self.close_cache();
                ask()
            }
            outcome => outcome,
        }
    }

    /// Whether the stacks lie in `region`, which must not go then.
    pub(super) fn has_cache(&self, region: Region) -> bool {
        self.cache.region() == Some(region)
    }

    /// Gives every cached block back to its window.
    pub(super) fn empty_cache(&self) {
        for units in 1..=LONGEST_CACHED {
            self.give_back_cached(units, 0);
        }
    }

    /// Has the cache take blocks, and one stack give half of its own back now and then; or take no more.
    pub(super) fn tend_cache(&self, in_order: bool) {
        let cache = &self.cache;
        let ticks = cache.ticks.get().wrapping_add(1);
        cache.ticks.set(ticks);
        let is_due = ticks.is_multiple_of(AGING);
        if is_due {
            self.look_for_space();
        }
        if in_order || cache.is_sparse.get() {
            self.drain_cache();
            return;
        }
        if cache.taking.get() < LONGEST_CACHED as usize {
            if cache.open.get().is_none() {
                self.open_cache();
            }
            cache.taking.set(if cache.open.get().is_some() { LONGEST_CACHED as usize } else { 0 });
        }
        if is_due {
            let units = cache.last.get() % LONGEST_CACHED + 1;
            cache.last.set(units);
            self.give_back_cached(units, cache.len(units) / 2);
        }
    }

    /// Finds out whether much is free in windows with blocks, and has the cache take no more if so.
    pub(super) fn look_for_space(&self) {
        let is_sparse = self.is_sparse(&self.cold.borrow());
        self.cache.is_sparse.set(is_sparse);
        if is_sparse {
            self.drain_cache();
        }
    }

    /// Has the cache take no more blocks of the greatest length that it takes, and give these back.
    fn drain_cache(&self) {
        let taking = self.cache.taking.get();
        if taking > 0 {
            self.give_back_cached(taking as u32, 0);
            self.cache.taking.set(taking - 1);
        }
    }

    /// Gives cached blocks of a length back to their windows, until `keep` are left.
    fn give_back_cached(&self, units: u32, keep: usize) {
        for _ in keep..self.cache.len(units) {
            let Some(block) = self.cache.pop(units) else { break };
            // SAFETY: a cached block lies in a region that is held.
            let (region, unit) = unsafe { self.unit_of(block) };
            // SAFETY: the unit is one of the region.
            unsafe { region.code(unit, self.geometry) }.set(0);
            self.give_back_block(region, unit, block, units);
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
    use crate::geometry::Runtime;
    use crate::system::Os;

    fn block(address: usize) -> NonNull<u8> {
        NonNull::new(ptr::without_provenance_mut(address)).unwrap()
    }

    /// An open cache over memory of its own, and how many blocks it has.
    fn with_cache(test: impl FnOnce(&Cache, &dyn Fn() -> usize)) {
        let mut places = vec![NOTHING; STACKS * CACHE_PLACES];
        let first = NonNull::from(&mut places[..]).cast();
        let cache = Cache::new();
        // SAFETY: the places live longer than the cache; the region is never looked at.
        unsafe { cache.open(Region::of_block(block(1 << 23), Runtime::new::<Os>(64, 128 << 10).unwrap()), first) };
        assert!(!cache.push(block(64), 1) && cache.pop(1).is_none());
        cache.taking.set(LONGEST_CACHED as usize);
        test(&cache, &|| cache.blocks().count());
        assert_eq!(cache.units(), cache.blocks().map(|(_, units)| u64::from(units)).sum::<u64>());
    }

    #[test]
    fn the_block_freed_last_of_a_length_comes_back_first() {
        with_cache(|cache, blocks| {
            for (address, units) in [(64, 3), (128, 7), (192, 7), (256, LONGEST_CACHED)] {
                assert!(cache.push(block(address), units));
            }
            assert_eq!((cache.units(), blocks()), (u64::from(3 + 7 + 7 + LONGEST_CACHED), 4));
            assert_eq!(
                [7, 7, 7, 3].map(|units| cache.pop(units)),
                [Some(block(192)), Some(block(128)), None, Some(block(64))]
            );
            assert_eq!((cache.pop(LONGEST_CACHED), cache.units()), (Some(block(256)), 0));
        });
    }

    #[test]
    fn a_full_stack_takes_no_more_and_leaves_the_others_alone() {
        with_cache(|cache, blocks| {
            assert!((0..CACHE_DEPTH).all(|index| cache.push(block(64 * (index + 1)), 5)));
            assert!(!cache.push(block(64), 5));
            assert!(cache.push(block(64), 6) && cache.push(block(64), 4));
            assert_eq!((cache.len(4), cache.len(5), cache.len(6), blocks()), (1, CACHE_DEPTH, 1, CACHE_DEPTH + 2));
            assert!((0..CACHE_DEPTH).rev().all(|index| cache.pop(5) == Some(block(64 * (index + 1)))));
            assert_eq!(cache.pop(5), None);
        });
    }

    #[test]
    fn a_cache_that_is_not_open_takes_and_has_nothing() {
        let cache = Cache::new();
        let has_room = |units| cache.push(block(64), units) || cache.pop(units).is_some();
        assert!(!(1..=LONGEST_CACHED).any(has_room));
        assert_eq!((cache.units(), cache.blocks().count(), cache.close()), (0, 0, None));
    }

    /// A heap with as many cached blocks of each of two lengths, and live ones between them.
    fn with_cached(blocks: usize) -> Heap<Runtime, Os> {
        let geometry = Runtime::new::<Os>(64, 128 << 10).unwrap();
        let heap = Heap::with_settings(geometry, crate::config::Settings::new(), Os).unwrap();
        let all: Vec<_> = (0..4 * blocks).map(|index| heap.allocate(64 + index / 2 % 2 * 64).unwrap()).collect();
        heap.tend_cache(false);
        for block in all.into_iter().step_by(2) {
            // SAFETY: live, and not used afterwards.
            unsafe { heap.free(block.cast()) };
        }
        assert_eq!((heap.cache.len(1), heap.cache.len(2), heap.integrity_check()), (blocks, blocks, Ok(())));
        heap
    }

    #[test]
    fn while_packets_leave_in_order_a_length_after_the_other_is_cached_no_more() {
        let heap = with_cached(8);
        for taking in (0..LONGEST_CACHED as usize).rev() {
            heap.tend_cache(true);
            assert_eq!(heap.cache.taking.get(), taking);
            assert_eq!((heap.cache.len(1), heap.cache.len(2)), (8 * taking.min(1), 8 * usize::from(taking >= 2)));
            assert_eq!(heap.integrity_check(), Ok(()));
        }
    }

    #[test]
    fn each_stack_gives_half_of_its_blocks_back_in_its_turn() {
        let heap = with_cached(8);
        for left in [4, 2, 1, 0] {
            (0..AGING * LONGEST_CACHED).for_each(|_| heap.tend_cache(false));
            assert_eq!((heap.cache.len(1), heap.cache.len(2), heap.integrity_check()), (left, left, Ok(())));
        }
    }
}
