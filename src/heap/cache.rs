//! Blocks that were freed and are handed out again before their window hears of it.
//!
//! ```text
//! length   1    2   …   22   …   127   128  144  …  1920     units
//!          ┌──┐ ┌──┐    ┌──┐    ┌──┐   ┌──┐ ┌──┐    ┌──┐
//!          │  │ │  │    │ ▲│    │  │   │  │ │  │    │  │      a stack each: a free pushes,
//!          └──┘ └──┘    └─┼┘    └──┘   └──┘ └──┘    └──┘      the next allocation of that length pops
//! stack    1    2   …   22   …   127   128  129  …  159
//! ```
//!
//! The stacks of up to 32 units, those of most packets, and of 128 units and more take blocks at once. In between are
//! many lengths: one of them is cached once it was [wanted](WANTED) for a while, as buffers of one size are.
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
use core::ops::Range;
use core::ptr::{self, NonNull};

use super::{Cold, Heap};
use crate::error::AllocError;
use crate::geometry::{CACHE_ROWS, Geometry, ROW_STACKS, cache_stack_start};
use crate::map::{FIRST_LONG, LAST_CACHED, cached_code, cached_long_codes, length_of, live_codes};
use crate::region::{CACHE, Region};
use crate::system::System;

/// Ticks from one stack of a row that gives half of its blocks back to the next. A stack that nobody uses is empty
/// after a quarter of a million packets; one that is in use has always as many as its length's share of a queue goes up
/// and down by.
const AGING: u32 = if cfg!(fuzzing) { 1 } else { 16 };

/// The last stack. Each has the number of its blocks' length.
const LAST: u32 = LAST_CACHED;

/// One for each length that is cached, and one for length 0, which nothing has.
const STACKS: usize = LAST as usize + 1;

/// The row of deeper stacks, which are those of the first row again.
const DEEP: usize = 1;

/// The first stack of each other row.
const FIRST_STACKS: [u32; CACHE_ROWS.len() - 1] = [1, 33, 65, 97, FIRST_LONG];

/// Which of [`FIRST_STACKS`] a stack follows, and how many stacks behind it.
fn group_of(stack: u32) -> (usize, usize) {
    let group = FIRST_STACKS.iter().rposition(|&first| first <= stack).unwrap_or(0);
    (group, (stack - FIRST_STACKS[group]) as usize)
}

/// The rows in which a stack may lie, and its index there.
fn rows_of(stack: u32) -> (Range<usize>, usize) {
    let (group, index) = group_of(stack);
    (if group == 0 { 0..DEEP + 1 } else { group + DEEP..group + DEEP + 1 }, index)
}

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

/// The part of what lives from which on no stack moves to the row of deeper ones, and no more longer blocks are cached.
const MUCH: u64 = 8;

/// The most cached blocks that one tick gives back to their windows.
const DRAINED: usize = 256;

/// The most stacks that one tick has take no more.
const DRAINED_STACKS: usize = 4;

/// Ticks in a row at which the last block without a place had the same length, one from 33 to 127 units, before blocks
/// of that length are cached. Where a program uses many of them alike, the next allocation of the same one is far off,
/// and what is cached keeps windows from becoming empty; where it has buffers of one size, that is soon.
const WANTED: u32 = if cfg!(fuzzing) { 1 } else { 4 };

/// The stacks.
pub(super) struct Cache {
    /// Up to this stack, blocks are cached; those behind it are empty. At most `LAST`, and 0 while the cache is not
    /// open.
    taking: Cell<usize>,
    /// Where the last block of each stack is, or the place below all, which has [`NOTHING`].
    tops: [Cell<*mut Slot>; STACKS],
    /// The first place behind each stack.
    ends: [Cell<*mut Slot>; STACKS],
    /// The place below each stack.
    bottoms: [Cell<*mut Slot>; STACKS],
    /// The region in whose bookkeeping the stacks lie; `None` while the cache is not open.
    region: Cell<Option<Region>>,
    /// Units of the cached blocks of longer lengths.
    long_units: Cell<u64>,
    /// Which stacks have places: a word for each of [`FIRST_STACKS`], with a bit for each stack.
    placed: [Cell<u32>; FIRST_STACKS.len()],
    /// Ticks, which say when a stack gives back.
    ticks: Cell<u32>,
    /// The stack that had no room for a block last, if any had none since it was looked at.
    full: Cell<u32>,
    /// The stack that was full at the last tick, and at how many ticks in a row.
    wanted: Cell<(u32, u32)>,
    /// The index of the stacks that gave back last.
    last: Cell<usize>,
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
            long_units: Cell::new(0),
            placed: [const { Cell::new(0) }; FIRST_STACKS.len()],
            ticks: Cell::new(0),
            full: Cell::new(0),
            wanted: Cell::new((0, 0)),
            last: Cell::new(0),
            is_sparse: Cell::new(false),
        }
    }

    /// Whether a stack takes blocks.
    #[inline(always)]
    fn takes(&self, stack: u32) -> bool {
        stack as usize <= self.taking.get()
    }

    /// Puts a block on a stack that takes blocks; false where there is no room.
    #[inline(always)]
    fn push(&self, block: NonNull<u8>, stack: u32) -> bool {
        debug_assert!(self.takes(stack));
        // SAFETY: invariant: `taking` is at most `LAST`.
        let (top, end) = unsafe { (self.tops.get_unchecked(stack as usize), self.ends.get_unchecked(stack as usize)) };
        let place = top.get().wrapping_add(1);
        let has_room = place != end.get();
        if has_room {
            // SAFETY: a place of the stack.
            unsafe { place.write(Some(block)) };
            top.set(place);
        } else {
            self.full.set(stack);
        }
        has_room
    }

    /// Takes the block that was pushed last off a stack that takes blocks.
    #[inline(always)]
    fn pop(&self, stack: u32) -> Option<NonNull<u8>> {
        debug_assert!(self.takes(stack));
        // SAFETY: invariant: `taking` is at most `LAST`.
        let top = unsafe { self.tops.get_unchecked(stack as usize) };
        // SAFETY: a place of the stack, or the one below.
        let block = unsafe { top.get().read() }?;
        top.set(top.get().wrapping_sub(1));
        Some(block)
    }

    /// Notes which stack was the last without room for a block at a tick; tells whether it is to have more places.
    fn note_full(&self, stack: u32) -> bool {
        let (last, times) = self.wanted.get();
        let times = if stack == last { times + 1 } else { 1 };
        self.wanted.set((stack, times));
        let is_one_of_many = (FIRST_STACKS[1]..FIRST_LONG).contains(&stack);
        times >= WANTED || !is_one_of_many
    }

    /// Opens the cache in the bookkeeping of a region; its stacks have no memory yet, and it does not take blocks yet.
    fn open(&self, region: Region) {
        for stack in 0..STACKS {
            self.place_stack(stack, nowhere(), 0, 1);
        }
        self.placed.iter().for_each(|placed| placed.set(0));
        self.region.set(Some(region));
    }

    /// Has a stack of `len` blocks lie above `bottom`, with so many places, that one among them.
    fn place_stack(&self, stack: usize, bottom: *mut Slot, len: usize, places: usize) {
        self.bottoms[stack].set(bottom);
        self.tops[stack].set(bottom.wrapping_add(len));
        self.ends[stack].set(bottom.wrapping_add(places));
    }

    /// Closes the cache, which is empty; returns the region where it lay.
    fn close(&self) -> Option<Region> {
        self.taking.set(0);
        self.region.take()
    }

    /// The row in which a stack has more places, if there is one.
    fn next_row(&self, stack: u32) -> Option<usize> {
        let (end, bottom) = (&self.ends[stack as usize], &self.bottoms[stack as usize]);
        let places = (end.get().addr() - bottom.get().addr()) / size_of::<Slot>();
        rows_of(stack).0.find(|&row| CACHE_ROWS[row] > places)
    }

    /// Moves a stack to its places of another row, which begin at `first`.
    ///
    /// # Safety
    /// `places` places begin there, more than the stack has, and nobody else uses them until the cache is closed.
    unsafe fn deepen(&self, stack: u32, first: NonNull<Slot>, places: usize) {
        let (bottom, len) = (self.bottoms[stack as usize].get(), self.len(stack));
        // SAFETY: the caller says so; the place below goes with the blocks.
        unsafe { first.copy_from_nonoverlapping(NonNull::new_unchecked(bottom), len + 1) };
        self.place_stack(stack as usize, first.as_ptr(), len, places);
        let (group, index) = group_of(stack);
        self.placed[group].set(self.placed[group].get() | 1 << index);
    }

    /// How many blocks a stack has.
    fn len(&self, stack: u32) -> usize {
        let stack = stack as usize;
        (self.tops[stack].get().addr() - self.bottoms[stack].get().addr()) / size_of::<Slot>()
    }

    /// The stacks that have places, in order; the others are empty.
    #[inline(always)]
    fn placed_stacks(&self) -> impl Iterator<Item = u32> {
        self.placed.iter().zip(FIRST_STACKS).flat_map(|(placed, first)| {
            let mut left = placed.get();
            core::iter::from_fn(move || {
                let index = left.trailing_zeros();
                left &= left.wrapping_sub(1);
                (index < u32::BITS).then_some(first + index)
            })
        })
    }

    /// Units of all cached blocks.
    pub(super) fn units(&self) -> u64 {
        // Those that take no blocks have none.
        if self.taking.get() == 0 {
            return 0;
        }
        let exact = self.placed_stacks().take_while(|&stack| stack < FIRST_LONG);
        exact.map(|units| self.len(units) as u64 * u64::from(units)).sum::<u64>() + self.long_units.get()
    }

    /// The cached blocks and their lengths.
    pub(super) fn blocks(&self) -> impl Iterator<Item = (NonNull<u8>, u32)> {
        let on_stack = |stack| {
            let top = self.tops[stack as usize].get();
            // SAFETY: only places below the top are read, and what was pushed is there.
            (0..self.len(stack)).filter_map(move |index| unsafe { top.sub(index).read() })
        };
        self.placed_stacks().flat_map(move |stack| on_stack(stack).map(move |block| (block, length_of(stack))))
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

    /// As [`cache_block`](Self::cache_block), for a longer block of one window that starts at `unit` of a region and
    /// has this number of length.
    ///
    /// # Safety
    /// The region is held, and the caller may not use the block any more.
    #[inline(always)]
    pub(super) unsafe fn cache_long(&self, block: NonNull<u8>, region: Region, unit: usize, number: u32) -> bool {
        // Few of them are much memory. What counts as live is a little more than what lives.
        let is_little = self.cache.long_units.get() <= self.live_units.get() / MUCH;
        let cached = is_little && self.cache.takes(number) && self.cache.push(block, number);
        if cached {
            self.cache.long_units.set(self.cache.long_units.get() + u64::from(length_of(number)));
            // SAFETY: the block has more than two units.
            unsafe { region.set_codes(unit, cached_long_codes(number), self.geometry) };
            self.hide(block, length_of(number));
        }
        cached
    }

    /// Makes a stack that is full deeper: the first time in any case, then while little is cached.
    pub(super) fn deepen(&self, stack: u32) {
        let next = self.cache.next_row(stack);
        let may_grow = |&row: &usize| row != DEEP || self.cache.units() <= self.used_units() / MUCH;
        let (Some(row), Some(region)) = (next.filter(may_grow), self.cache.region.get()) else { return };
        let header = region.header(self.geometry);
        let (_, index) = rows_of(stack);
        let (stacks, bit) = (&region.stacks_held(self.geometry)[row], 1 << index);
        if stacks.get() & bit == 0 {
            let cold = &mut *self.cold.borrow_mut();
            let bytes = CACHE_ROWS[row] * size_of::<Slot>();
            if !cold.within_limit(bytes, self.settings.memory_limit) {
                return;
            }
            cold.hold(bytes);
            stacks.set(stacks.get() | bit);
            header.resident.set(CACHE);
        }
        // SAFETY: the cache's part of the bookkeeping is as long as all rows, where each stack has its own places.
        unsafe {
            let first = region.cache(self.geometry).cast::<u8>().add(cache_stack_start(row, index));
            self.cache.deepen(stack, first.cast(), CACHE_ROWS[row]);
        }
    }

    /// Bytes of the memory of stacks in the bookkeeping of `region` that counts as held.
    pub(super) fn stack_bytes_held(&self, region: Region) -> usize {
        if self.geometry.cache_bytes() == 0 {
            return 0;
        }
        let stacks = region.stacks_held(self.geometry);
        let places = stacks.iter().zip(CACHE_ROWS).map(|(stacks, places)| stacks.get().count_ones() as usize * places);
        places.sum::<usize>() * size_of::<Slot>()
    }

    /// The cached block of exactly `units` units that was freed last.
    #[inline(always)]
    pub(super) fn cached_block(&self, units: u32) -> Option<NonNull<u8>> {
        if !self.cache.takes(units) {
            return None;
        }
        let block = self.cache.pop(units)?;
        // SAFETY: a cached block lies in a region that is held.
        unsafe {
            let (region, unit) = self.unit_of(block);
            region.code(unit, self.geometry).set(units as u8);
        }
        Some(block)
    }

    /// The cached longer block with this number of length that was freed last.
    #[inline(always)]
    pub(super) fn cached_long(&self, number: u32) -> Option<NonNull<u8>> {
        if number < FIRST_LONG || !self.cache.takes(number) {
            return None;
        }
        let block = self.cache.pop(number)?;
        self.cache.long_units.set(self.cache.long_units.get() - u64::from(length_of(number)));
        // SAFETY: a cached block lies in a region that is held, and has more than two units.
        unsafe {
            let (region, unit) = self.unit_of(block);
            region.set_codes(unit, live_codes(number), self.geometry);
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
            region.stacks_held(geometry).iter().for_each(|stacks| stacks.set(0));
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
        self.cache.placed_stacks().for_each(|stack| self.give_back_cached(stack, 0));
    }

    /// Has the cache take blocks, a full stack become deeper, and one of a row give half of its own back now and then;
    /// or has it take no more.
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
        if cache.taking.get() < LAST as usize {
            if cache.region.get().is_none() {
                self.open_cache();
            }
            cache.taking.set(if cache.region.get().is_some() { LAST as usize } else { 0 });
        }
        let full = cache.full.replace(0);
        if full > 0 && cache.note_full(full) {
            self.deepen(full);
        }
        if is_due {
            let index = (cache.last.get() + 1) % ROW_STACKS;
            cache.last.set(index);
            let stacks = FIRST_STACKS.iter().map(|first| first + index as u32);
            for stack in stacks.filter(|&stack| group_of(stack).1 == index) {
                let len = cache.len(stack);
                self.give_back_cached(stack, (len / 2).max(len.saturating_sub(DRAINED)));
            }
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

    /// Has the last stacks that take blocks take no more, the first of them that has any after it gave them back.
    fn drain_cache(&self) {
        for _ in 0..DRAINED_STACKS {
            let last = self.cache.taking.get();
            if last == 0 {
                return;
            }
            let len = self.cache.len(last as u32);
            let left = len.saturating_sub(DRAINED);
            self.give_back_cached(last as u32, left);
            if left == 0 {
                self.cache.taking.set(last - 1);
            }
            if len > 0 {
                return;
            }
        }
    }

    /// Gives the blocks of a stack back to their windows, until `keep` are left.
    fn give_back_cached(&self, stack: u32, keep: usize) {
        for _ in keep..self.cache.len(stack) {
            let Some(block) = self.cache.pop(stack) else { break };
            // SAFETY: a cached block lies in a region that is held.
            let (region, unit) = unsafe { self.unit_of(block) };
            // SAFETY: a unit of the region; a longer block has more than two.
            unsafe {
                if stack >= FIRST_LONG {
                    self.cache.long_units.set(self.cache.long_units.get() - u64::from(length_of(stack)));
                    region.set_codes(unit, [0, 0], self.geometry);
                } else {
                    region.code(unit, self.geometry).set(0);
                }
            }
            self.give_back_block(region, unit, block, length_of(stack));
        }
    }

    /// Has every window without a live block count as empty, if no block lives at all.
    pub(crate) fn settle(&self) {
        // A cache that takes no blocks has none.
        if self.cache.taking.get() > 0 && self.used_units() == 0 {
            self.empty_cache();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use crate::geometry::{ROW_STACKS, Runtime};
    use crate::system::{Least, Os};

    fn block(address: usize) -> NonNull<u8> {
        NonNull::new(ptr::without_provenance_mut(address)).unwrap()
    }

    /// Calls `test` with an open cache whose stacks have no memory yet, and with what gives one its next places.
    fn with_cache(test: impl FnOnce(&Cache, &dyn Fn(u32))) {
        let end = cache_stack_start(CACHE_ROWS.len() - 1, ROW_STACKS);
        let mut places = vec![NOTHING; end / size_of::<Slot>()];
        let first = NonNull::from(&mut places[..]).cast::<u8>();
        let cache = Cache::new();
        // SAFETY: the region is never looked at.
        cache.open(unsafe { Region::of_block(block(1 << 23), Runtime::new::<Os>(64, 128 << 10).unwrap()) });
        assert!(!cache.takes(1));
        cache.taking.set(LAST as usize);
        let deepen = |stack: u32| {
            let (row, index) = (cache.next_row(stack).unwrap(), rows_of(stack).1);
            // SAFETY: the places live longer than the cache, and each stack of each row has its own.
            unsafe { cache.deepen(stack, first.add(cache_stack_start(row, index)).cast(), CACHE_ROWS[row]) };
        };
        test(&cache, &deepen);
        assert_eq!(cache.units(), cache.blocks().map(|(_, units)| u64::from(units)).sum::<u64>());
    }

    #[test]
    fn every_length_has_a_stack_of_its_own_and_every_stack_a_place_in_each_of_its_rows() {
        let mut lengths: Vec<_> = (1..=LAST).map(length_of).collect();
        assert!(lengths.is_sorted() && lengths[..127].iter().copied().eq(1..=127));
        lengths.dedup();
        assert_eq!((lengths.len(), lengths.last()), (LAST as usize, Some(&1920)));
        let row = |row| {
            let stacks = (1..=LAST).map(rows_of).filter(|(rows, _)| rows.contains(&row));
            stacks.map(|(_, index)| index).collect::<Vec<_>>()
        };
        for number in 0..CACHE_ROWS.len() {
            // There is no stack between that of 127 units and that of 128.
            let stacks = ROW_STACKS - usize::from(number == CACHE_ROWS.len() - 2);
            assert_eq!(row(number), (0..stacks).collect::<Vec<_>>(), "row {number}");
        }
    }

    #[test]
    fn the_block_freed_last_of_a_length_comes_back_first() {
        with_cache(|cache, deepen| {
            [3, 7, 127].into_iter().for_each(deepen);
            for (address, units) in [(64, 3), (128, 7), (192, 7), (256, 127)] {
                assert!(cache.push(block(address), units));
            }
            assert_eq!((cache.units(), cache.blocks().count()), (3 + 7 + 7 + 127, 4));
            assert_eq!(
                [7, 7, 7, 3].map(|units| cache.pop(units)),
                [Some(block(192)), Some(block(128)), None, Some(block(64))]
            );
            assert_eq!((cache.pop(127), cache.units()), (Some(block(256)), 0));
        });
    }

    #[test]
    fn a_full_stack_takes_no_more_until_it_is_deeper_and_leaves_the_others_alone() {
        with_cache(|cache, deepen| {
            let fill = || (1..).take_while(|index| cache.push(block(64 * index), 5)).count();
            assert!(fill() == 0 && cache.pop(5).is_none());
            [4, 5, 6].into_iter().for_each(deepen);
            let [short, long, ..] = CACHE_ROWS;
            // One place is the one below.
            assert_eq!((fill(), cache.next_row(5), cache.next_row(7)), (short - 1, Some(1), Some(0)));
            deepen(5);
            assert_eq!((fill(), cache.next_row(5), fill()), (long - short, None, 0));
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
        assert!(!(1..=LAST).any(|stack| cache.takes(stack)));
        assert_eq!((cache.units(), cache.blocks().count(), cache.close()), (0, 0, None));
    }

    /// A heap with as many cached blocks of each of two lengths, and live ones between them.
    fn with_cached(blocks: usize) -> Heap<Runtime, Os> {
        let geometry = Runtime::new::<Os>(64, 128 << 10).unwrap();
        let heap = Heap::with_settings(geometry, Settings::new(), Os).unwrap();
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
    fn stacks_count_as_held_once_they_have_memory_and_become_deeper_while_little_is_cached() {
        let heap = with_cached(8);
        let [short, deep, .., long] = CACHE_ROWS.map(|places| (places * size_of::<Slot>()) as u64);
        let held = heap.allocated_bytes();
        let held_more = || heap.allocated_bytes() - held;
        heap.deepen(3);
        heap.deepen(FIRST_LONG + 1);
        assert_eq!(held_more(), short + long);
        // As much lives as is cached.
        heap.deepen(1);
        assert_eq!((heap.cache.next_row(1), held_more()), (Some(DEEP), short + long));
        for _ in 0..9 {
            heap.allocate(1024).unwrap();
        }
        assert_eq!(heap.used_units() / MUCH, heap.cache.units() - 3);
        heap.deepen(1);
        assert_eq!(heap.cache.next_row(1), Some(DEEP));
        heap.allocate(24 * 64).unwrap();
        heap.deepen(1);
        assert_eq!((heap.cache.next_row(1), held_more()), (None, short + long + deep));
        assert_eq!(heap.integrity_check(), Ok(()));
        // Opened and closed again they count once more, and no more.
        for _ in 0..2 {
            heap.close_cache();
            assert_eq!((heap.allocated_bytes(), heap.integrity_check()), (held - 2 * short, Ok(())));
            heap.tend_cache(false);
            heap.deepen(1);
            heap.deepen(2);
            assert_eq!((heap.allocated_bytes(), heap.integrity_check()), (held, Ok(())));
        }
    }

    #[test]
    fn stacks_that_the_system_does_not_take_back_go_on_counting_and_count_once() {
        // Memory goes back as whole regions only.
        let system = Least::<{ Os::REGION_BYTES }>;
        let heap = Heap::with_settings(Runtime::new::<Os>(64, 128 << 10).unwrap(), Settings::new(), system).unwrap();
        heap.allocate(1000).unwrap();
        let mut held = Vec::new();
        for _ in 0..3 {
            heap.tend_cache(false);
            heap.deepen(1);
            held.push(heap.allocated_bytes());
            heap.close_cache();
            held.push(heap.allocated_bytes());
        }
        assert_eq!((held.as_slice(), heap.integrity_check()), ([held[0]; 6].as_slice(), Ok(())));
    }

    #[test]
    fn nothing_is_cached_where_stacks_have_no_place_or_every_free_is_verified() {
        let verified = Settings { check: true, ..Settings::new() };
        for (unit, window, settings) in [(16, 1024, Settings::new()), (64, 128 << 10, verified)] {
            let heap = Heap::with_settings(Runtime::new::<Os>(unit, window).unwrap(), settings, Os).unwrap();
            heap.allocate(100).unwrap();
            heap.tend_cache(false);
            assert_eq!((heap.cache.region.get(), heap.cache.taking.get()), (None, 0), "units of {unit} bytes");
        }
    }

    #[test]
    fn one_length_among_many_is_cached_once_it_was_the_one_without_a_place_at_a_few_ticks_in_a_row() {
        let heap = with_cached(8);
        let tick = |units: usize| {
            let block = heap.allocate(units * 64).unwrap();
            // SAFETY: live, and not used afterwards.
            unsafe { heap.free(block.cast()) };
            heap.tend_cache(false);
            heap.cache.len(units as u32)
        };
        assert_eq!([64, 65, 64, 65, 127, 64, 64, 64].map(tick), [0; 8]);
        // It has places now, and the others do not.
        assert_eq!([64, 64, 64].map(tick), [0, 1, 1]);
        assert_eq!([65, 127, 33, 64].map(tick), [0, 0, 0, 1]);
        // The shortest and the longer ones have them at once.
        assert_eq!([32, 32, 128, 128].map(tick), [0, 1, 0, 1]);
        assert_eq!((heap.cache.len(64), heap.integrity_check()), (1, Ok(())));
    }

    /// Lengths in bytes that lie in one window of 128 KiB: longer ones, some of them too long for the cache, and a few
    /// short ones in between.
    const LENGTHS: [usize; 8] = [8193, 9000, 16_000, 64, 65_535, 122_880, 122_881, 4000];

    #[test]
    fn a_longer_block_that_was_freed_comes_back_whole_and_cannot_be_freed_twice() {
        let heap = with_cached(8);
        let (block, other) = (heap.allocate(9000).unwrap(), heap.allocate(9000).unwrap());
        let (start, second) = (block.addr().get(), block.addr().get() + 64);
        let error = heap.try_free(NonNull::new(ptr::without_provenance_mut(second)).unwrap(), None);
        assert_eq!(error, Err(crate::FreeError::Interior { address: second, block: start }));
        // SAFETY: live, and not used afterwards.
        unsafe {
            heap.free(other.cast());
            heap.deepen(FIRST_LONG + 1);
            heap.free(block.cast());
        }
        assert_eq!((heap.cache.len(FIRST_LONG + 1), heap.cache.long_units.get()), (1, 144));
        let address = block.addr().get();
        for inside in [0, 64, 128, 9000] {
            // SAFETY: inside of what was a block.
            let error = heap.try_free(unsafe { block.cast::<u8>().add(inside) }, None);
            assert_eq!(error, Err(crate::FreeError::DoubleFree { address: address + inside }));
        }
        assert_eq!(heap.integrity_check(), Ok(()));
        let again = heap.allocate(8700).unwrap();
        assert_eq!((again.cast::<u8>(), again.len(), heap.cache.long_units.get()), (block.cast(), 144 * 64, 0));
        assert_eq!(heap.try_free(again.cast(), None), Ok(()));
        assert_eq!(heap.integrity_check(), Ok(()));
    }

    #[test]
    fn an_eighth_of_what_lives_may_be_cached_in_longer_blocks_and_one_in_any_case() {
        let heap = with_cached(1);
        let blocks: Vec<_> = (0..64).map(|_| heap.allocate(9000).unwrap()).collect();
        heap.deepen(FIRST_LONG + 1);
        for block in blocks {
            // SAFETY: live, and not used afterwards.
            unsafe { heap.free(block.cast()) };
        }
        let (cached, window) = (heap.cache.len(FIRST_LONG + 1), 2048 / 144);
        assert!((64 / 8..=(64 + window) / 8 + 1).contains(&cached), "{cached} of 64 are cached");
        heap.empty_cache();
        let block = heap.allocate(122_880).unwrap();
        heap.tend_cache(false);
        heap.deepen(LAST);
        // SAFETY: live, and not used afterwards.
        unsafe { heap.free(block.cast()) };
        assert_eq!((heap.cache.long_units.get(), heap.integrity_check()), (1920, Ok(())));
    }

    /// Blocks of longer lengths come and go in any order, with a check after each step; what is cached, handed out
    /// again, and given back in between.
    #[test]
    fn longer_blocks_in_any_order_keep_their_bytes() {
        let geometry = Runtime::new::<Os>(64, 128 << 10).unwrap();
        let heap = Heap::with_settings(geometry, Settings::new(), Os).unwrap();
        let mut live: Vec<(NonNull<[u8]>, u8)> = Vec::new();
        let mut random = 1_u32;
        let mut draw = |below: usize| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 8) as usize % below
        };
        let mut most = 0;
        for step in 0..6000 {
            if live.len() > 20 + draw(20) {
                let (block, mark) = live.swap_remove(draw(live.len()));
                // SAFETY: live until it is freed here, and written when it was allocated.
                unsafe {
                    let bytes = block.as_ref();
                    assert_eq!((bytes[0], bytes[bytes.len() - 1]), (mark, mark));
                    heap.free(block.cast());
                }
            } else {
                let block = heap.allocate(LENGTHS[draw(LENGTHS.len())]).unwrap();
                // SAFETY: just handed out.
                unsafe { block.cast::<u8>().write_bytes(step as u8, block.len()) };
                live.push((block, step as u8));
            }
            // As if windows were never empty; at times as if they were.
            heap.tend_cache(step / 500 % 4 == 3);
            most = most.max(heap.cache.long_units.get());
            assert_eq!(heap.integrity_check(), Ok(()), "after step {step}");
            let units: usize = live.iter().map(|(block, _)| block.len() / 64).sum();
            assert_eq!(heap.used_units(), units as u64);
        }
        assert!(most > 2000, "{most} units were cached at most");
        for (block, _) in live {
            // SAFETY: live, and not used afterwards.
            unsafe { heap.free(block.cast()) };
        }
        heap.close_cache();
        assert_eq!((heap.used_units(), heap.cache.long_units.get(), heap.integrity_check()), (0, 0, Ok(())));
    }

    #[test]
    fn while_packets_leave_in_order_a_length_after_the_other_is_cached_no_more() {
        let heap = with_cached(8);
        let mut taken = Vec::new();
        while heap.cache.taking.get() > 0 {
            heap.tend_cache(true);
            let taking = heap.cache.taking.get();
            taken.push(taking);
            assert_eq!((heap.cache.len(1), heap.cache.len(2)), (8 * taking.min(1), 8 * usize::from(taking >= 2)));
            assert_eq!(heap.integrity_check(), Ok(()));
        }
        // A few empty stacks a tick, and one that has blocks.
        let empty = (1..=(LAST as usize - 2) / DRAINED_STACKS).map(|ticks| LAST as usize - ticks * DRAINED_STACKS);
        assert!(taken.iter().copied().eq(empty.chain([1, 0])), "{taken:?}");
    }

    #[test]
    fn each_stack_gives_half_of_its_blocks_back_in_its_turn() {
        let heap = with_cached(8);
        for left in [4, 2, 1, 0] {
            (0..AGING * ROW_STACKS as u32).for_each(|_| heap.tend_cache(false));
            assert_eq!((heap.cache.len(1), heap.cache.len(2), heap.integrity_check()), (left, left, Ok(())));
        }
    }
}
