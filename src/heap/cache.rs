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
//! ([`order`](super::order)): packets leave in any order, or some of them stay. To hand out the block freed last costs
//! a load and three stores whatever the order, and what lives long comes to lie close together, because what lives
//! shortly goes round in the same few blocks.
//!
//! A stack that is full leaves frees to the windows; an empty one leaves allocations to the extent. A cached block goes
//! on counting as live in its window, and its byte in the map says that it is cached, so that a second free of it
//! shows. That pins its window, so each stack gives half of its blocks back now and then, and nothing is cached while
//! [much is free](Heap::is_sparse) in windows with blocks.
//!
//! The stacks lie in the bookkeeping of a region, and take memory as they become deeper: lengths that nobody uses take
//! none. Regions of one window, which are for memory that is scarce, have no stacks.

use core::cell::Cell;
use core::ptr::{self, NonNull};

use super::{Cold, Heap};
use crate::error::AllocError;
use crate::geometry::{CACHE_STEPS, Geometry, cache_stack_start};
use crate::map::{LONGEST_CACHED, cached_code};
use crate::region::{CACHE, Region};
use crate::system::System;

/// Ticks from one stack that gives half of its blocks back to the next. A stack that nobody uses is empty after a
/// quarter of a million packets; one that is in use has always as many as its length's share of a queue goes up and
/// down by.
const AGING: u32 = if cfg!(fuzzing) { 1 } else { 16 };

/// One for each length, from 0 on.
const STACKS: usize = LONGEST_CACHED as usize + 1;

/// Where a cached block's address is kept, or [`NOTHING`].
type Slot = Option<NonNull<u8>>;

/// What lies below each stack.
const NOTHING: Slot = None;

/// The place below stacks that have no memory yet. Nobody writes to it, since they have no room.
struct Nowhere(Slot);

// SAFETY: it never changes.
unsafe impl Sync for Nowhere {}

fn nowhere() -> *mut Slot {
    static NOWHERE: Nowhere = Nowhere(NOTHING);
    (&raw const NOWHERE.0).cast_mut()
}

/// The part of what lives that may be cached when a stack becomes deeper than its first step.
const DEEP_PART: u64 = 8;

/// The most cached blocks that one tick gives back to their windows.
const DRAINED: usize = 256;

/// The stacks, by length in units. There is one for length 0, too, which nothing has.
pub(super) struct Cache {
    /// Blocks of up to so many units are cached; the stacks of longer ones are empty. At most `LONGEST_CACHED`, and 0
    /// while the cache is not open.
    taking: Cell<usize>,
    /// Where the last block of each stack is, or the place below all, which has [`NOTHING`].
    tops: [Cell<*mut Slot>; STACKS],
    /// The first place behind each stack.
    ends: [Cell<*mut Slot>; STACKS],
    /// The place below each stack.
    bottoms: [Cell<*mut Slot>; STACKS],
    /// The region in whose bookkeeping the stacks lie; `None` while the cache is not open.
    region: Cell<Option<Region>>,
    /// Ticks, which say when a stack gives back.
    ticks: Cell<u32>,
    /// The stack that had no room for a block last, if any had none since it was looked at.
    full: Cell<u32>,
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
            bottoms: [const { Cell::new(ptr::null_mut()) }; STACKS],
            region: Cell::new(None),
            ticks: Cell::new(0),
            full: Cell::new(0),
            last: Cell::new(0),
            is_sparse: Cell::new(false),
        }
    }

    /// Whether blocks of `units` units are cached.
    #[inline(always)]
    fn takes(&self, units: u32) -> bool {
        units as usize <= self.taking.get()
    }

    /// Puts a block of `units` units, which the cache takes, on its stack; false where there is no room.
    #[inline(always)]
    fn push(&self, block: NonNull<u8>, units: u32) -> bool {
        debug_assert!(self.takes(units));
        // SAFETY: invariant: `taking` is at most `LONGEST_CACHED`.
        let (top, end) = unsafe { (self.tops.get_unchecked(units as usize), self.ends.get_unchecked(units as usize)) };
        let place = top.get().wrapping_add(1);
        let has_room = place != end.get();
        if has_room {
            // SAFETY: a place of the stack.
            unsafe { place.write(Some(block)) };
            top.set(place);
        } else {
            self.full.set(units);
        }
        has_room
    }

    /// Takes the block of `units` units that was pushed last.
    #[inline(always)]
    fn pop(&self, units: u32) -> Option<NonNull<u8>> {
        if !self.takes(units) {
            return None;
        }
        // SAFETY: invariant: `taking` is at most `LONGEST_CACHED`.
        let top = unsafe { self.tops.get_unchecked(units as usize) };
        // SAFETY: a place of the stack, or the one below.
        let block = unsafe { top.get().read() }?;
        top.set(top.get().wrapping_sub(1));
        Some(block)
    }

    /// Opens the cache in the bookkeeping of a region; its stacks have no memory yet, and it does not take blocks yet.
    fn open(&self, region: Region) {
        for units in 0..STACKS {
            self.place_stack(units, nowhere(), 0, 1);
        }
        self.region.set(Some(region));
    }

    /// Has a stack of `len` blocks lie above `bottom`, with so many places, that one among them.
    fn place_stack(&self, units: usize, bottom: *mut Slot, len: usize, places: usize) {
        self.bottoms[units].set(bottom);
        self.tops[units].set(bottom.wrapping_add(len));
        self.ends[units].set(bottom.wrapping_add(places));
    }

    /// Closes the cache, which is empty; returns the region where it lay.
    fn close(&self) -> Option<Region> {
        self.taking.set(0);
        self.region.take()
    }

    /// The next step of a stack, if it has one.
    fn next_step(&self, units: u32) -> Option<usize> {
        let (end, bottom) = (&self.ends[units as usize], &self.bottoms[units as usize]);
        let places = (end.get().addr() - bottom.get().addr()) / size_of::<Slot>();
        CACHE_STEPS.iter().position(|&step| step > places)
    }

    /// Moves a stack to the places of its next step, which begin at `first`.
    ///
    /// # Safety
    /// `places` places begin there, more than the stack has, and nobody else uses them until the cache is closed.
    unsafe fn deepen(&self, units: u32, first: NonNull<Slot>, places: usize) {
        let (bottom, len) = (self.bottoms[units as usize].get(), self.len(units));
        // SAFETY: the caller says so; the place below goes with the blocks.
        unsafe { first.copy_from_nonoverlapping(NonNull::new_unchecked(bottom), len + 1) };
        self.place_stack(units as usize, first.as_ptr(), len, places);
    }

    /// How many blocks of a length are cached.
    fn len(&self, units: u32) -> usize {
        let units = units as usize;
        (self.tops[units].get().addr() - self.bottoms[units].get().addr()) / size_of::<Slot>()
    }

    /// Units of all cached blocks.
    pub(super) fn units(&self) -> u64 {
        // Nothing longer than what is taken is cached.
        (1..=self.taking.get() as u32).map(|units| (self.len(units) * units as usize) as u64).sum()
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
    /// Puts a block that was freed into the cache; false where it takes none, or there is no room.
    #[inline(always)]
    pub(super) fn cache_block(&self, block: NonNull<u8>, code: &Cell<u8>, units: u32) -> bool {
        let cached = self.cache.takes(units) && self.cache.push(block, units);
        if cached {
            code.set(cached_code(units));
            self.hide(block, units);
        }
        cached
    }

    /// Makes a stack that is full deeper: the first time in any case, then while little is cached.
    pub(super) fn deepen(&self, units: u32) {
        let next = self.cache.next_step(units);
        let may_grow = |&step: &usize| step == 0 || self.cache.units() <= self.used_units() / DEEP_PART;
        let (Some(step), Some(region)) = (next.filter(may_grow), self.cache.region.get()) else { return };
        let header = region.header(self.geometry);
        let (stacks, bit) = (&header.stacks[step], 1 << (units - 1));
        if stacks.get() & bit == 0 {
            let cold = &mut *self.cold.borrow_mut();
            let bytes = CACHE_STEPS[step] * size_of::<Slot>();
            if !cold.within_limit(bytes, self.settings.memory_limit) {
                return;
            }
            cold.hold(bytes);
            stacks.set(stacks.get() | bit);
            header.resident.set(CACHE);
        }
        // SAFETY: the cache's part of the bookkeeping is as long as all steps of all stacks, each of which has its own
        // places.
        unsafe {
            let first = region.cache(self.geometry).cast::<u8>().add(cache_stack_start(units, step));
            self.cache.deepen(units, first.cast(), CACHE_STEPS[step]);
        }
    }

    /// Bytes of the memory of stacks in the bookkeeping of `region` that counts as held.
    pub(super) fn stack_bytes_held(&self, region: Region) -> usize {
        let stacks = &region.header(self.geometry).stacks;
        let places = stacks.iter().zip(CACHE_STEPS).map(|(stacks, places)| stacks.get().count_ones() as usize * places);
        places.sum::<usize>() * size_of::<Slot>()
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
        let may_cache = self.geometry.cache_bytes() > 0 && self.route.get().caches();
        if let Some(window) = self.window.get().filter(|_| may_cache) {
            self.cache.open(window.region(self.geometry));
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
            cold.held_bytes -= self.stack_bytes_held(region) as u64;
            header.stacks.iter().for_each(|stacks| stacks.set(0));
        }
    }

    /// Asks for memory, and once more without the cache if it is refused: what is cached may be what is missing.
    pub(super) fn or_without_cache<T>(&self, ask: impl Fn() -> Result<T, AllocError>) -> Result<T, AllocError> {
        match ask() {
            Err(AllocError::MemoryLimit | AllocError::OutOfMemory) if self.cache.region.get().is_some() => {
                self.close_cache();
                ask()
            }
            outcome => outcome,
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

    /// Has the cache take blocks, a full stack become deeper, and one give half of its own back now and then; or has it
    /// take no more.
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
            if cache.region.get().is_none() {
                self.open_cache();
            }
            cache.taking.set(if cache.region.get().is_some() { LONGEST_CACHED as usize } else { 0 });
        }
        let full = cache.full.replace(0);
        if full > 0 {
            self.deepen(full);
        }
        if is_due {
            let units = cache.last.get() % LONGEST_CACHED + 1;
            cache.last.set(units);
            let len = cache.len(units);
            self.give_back_cached(units, (len / 2).max(len.saturating_sub(DRAINED)));
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

    /// Has the cache give blocks of the greatest length that it takes back, and then take no more of these.
    fn drain_cache(&self) {
        let taking = self.cache.taking.get();
        if taking > 0 {
            let left = self.cache.len(taking as u32).saturating_sub(DRAINED);
            self.give_back_cached(taking as u32, left);
            if left == 0 {
                self.cache.taking.set(taking - 1);
            }
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

    /// Calls `test` with an open cache whose stacks have no memory yet, and with what gives one its next step.
    fn with_cache(test: impl FnOnce(&Cache, &dyn Fn(u32))) {
        let end = cache_stack_start(LONGEST_CACHED + 1, 1);
        let mut places = vec![NOTHING; end / size_of::<Slot>()];
        let first = NonNull::from(&mut places[..]).cast::<u8>();
        let cache = Cache::new();
        // SAFETY: the region is never looked at.
        cache.open(unsafe { Region::of_block(block(1 << 23), Runtime::new::<Os>(64, 128 << 10).unwrap()) });
        assert!(!cache.takes(1));
        cache.taking.set(LONGEST_CACHED as usize);
        let deepen = |units: u32| {
            let step = cache.next_step(units).unwrap();
            // SAFETY: the places live longer than the cache, and each step of each stack has its own.
            unsafe { cache.deepen(units, first.add(cache_stack_start(units, step)).cast(), CACHE_STEPS[step]) };
        };
        test(&cache, &deepen);
        assert_eq!(cache.units(), cache.blocks().map(|(_, units)| u64::from(units)).sum::<u64>());
    }

    #[test]
    fn the_block_freed_last_of_a_length_comes_back_first() {
        with_cache(|cache, deepen| {
            [3, 7, LONGEST_CACHED].into_iter().for_each(deepen);
            for (address, units) in [(64, 3), (128, 7), (192, 7), (256, LONGEST_CACHED)] {
                assert!(cache.push(block(address), units));
            }
            assert_eq!((cache.units(), cache.blocks().count()), (u64::from(3 + 7 + 7 + LONGEST_CACHED), 4));
            assert_eq!(
                [7, 7, 7, 3].map(|units| cache.pop(units)),
                [Some(block(192)), Some(block(128)), None, Some(block(64))]
            );
            assert_eq!((cache.pop(LONGEST_CACHED), cache.units()), (Some(block(256)), 0));
        });
    }

    #[test]
    fn a_full_stack_takes_no_more_until_it_is_deeper_and_leaves_the_others_alone() {
        with_cache(|cache, deepen| {
            let fill = || (1..).take_while(|index| cache.push(block(64 * index), 5)).count();
            assert!(fill() == 0 && cache.pop(5).is_none());
            [4, 5, 6].into_iter().for_each(deepen);
            let [short, long] = CACHE_STEPS;
            // One place is the one below.
            assert_eq!((fill(), cache.next_step(5), cache.next_step(7)), (short - 1, Some(1), Some(0)));
            deepen(5);
            assert_eq!((fill(), cache.next_step(5), fill()), (long - short, None, 0));
            assert!(cache.push(block(64), 6) && cache.push(block(64), 4));
            assert_eq!([4, 5, 6, 7].map(|units| cache.len(units)), [1, long - 1, 1, 0]);
            let order = (1..=long - short).rev().chain((1..short).rev()).map(|index| Some(block(64 * index)));
            assert!(order.eq((1..long).map(|_| cache.pop(5))));
            assert_eq!(cache.pop(5), None);
        });
    }

    #[test]
    fn a_cache_that_is_not_open_takes_and_has_nothing() {
        let cache = Cache::new();
        assert!(!(1..=LONGEST_CACHED).any(|units| cache.takes(units) || cache.pop(units).is_some()));
        assert_eq!((cache.units(), cache.blocks().count(), cache.close()), (0, 0, None));
    }

    /// A heap with as many cached blocks of each of two lengths, and live ones between them.
    fn with_cached(blocks: usize) -> Heap<Runtime, Os> {
        let geometry = Runtime::new::<Os>(64, 128 << 10).unwrap();
        let heap = Heap::with_settings(geometry, crate::config::Settings::new(), Os).unwrap();
        let all: Vec<_> = (0..4 * blocks).map(|index| heap.allocate(64 + index / 2 % 2 * 64).unwrap()).collect();
        heap.tend_cache(false);
        [1, 2].into_iter().for_each(|units| heap.deepen(units));
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
