//! Blocks that are handed out again before their window hears of it.
//!
//! Frees in any order leave a window full of small holes, and to look for each of them costs more than the block. So
//! when no window is empty and memory has holes enough, freed blocks are *parked*: put on a stack for their length,
//! from which the next allocation of that length takes the one freed last. When there is none of that length, a longer
//! one is split.
//!
//! A parked block goes on counting as live in its window, and its byte in the map says that it is parked, so that a
//! second free of it shows as ever. Parking ends, and every parked block goes back to its window, as soon as a window
//! is empty: a queue is served by whole windows, which costs less.
//!
//! Less, as long as that is a matter of instructions. A dozen packets that go round in whole windows are written to the
//! second-level cache, where a block that was just freed would be in the first; so a *short queue*, of blocks of one
//! length, is parked as well, and its parked blocks are handed out before the rest of the extent.

use alloc::vec::Vec;
use core::cell::{Cell, OnceCell};
use core::ptr::{self, NonNull};

use super::Heap;
use super::free::Freed;
use crate::descriptor::Window;
use crate::geometry::Geometry;
use crate::system::System;
use crate::window::{LONGEST_PARKED, parked_code};

/// Stacks: one for each length in units, and one for the length 0 that nothing has.
const STACKS: usize = LONGEST_PARKED as usize + 1;
/// Bytes of all maps from which on they are a large part of a second-level cache, so that it is worth while to defer.
/// Fuzzed programs are too short to get there.
const COLD_MAP_BYTES: usize = if cfg!(fuzzing) { 0 } else { 512 << 10 };
/// What the blocks of a short queue take at most, less than a first-level cache has.
const SHORT_BYTES: usize = 32 << 10;
/// What the current window must have had freed before it is looked at for a short queue.
const TURN_BYTES: usize = 24 << 10;
/// How many of the newest blocks have to be alike.
const ALIKE: u32 = 8;
/// Bytes and alignment of a stack, so that the address of a place tells which place it is.
const STACK_BYTES: usize = 1024;
/// Places of a stack. The last one stays empty, so that a full stack differs from the empty one behind it.
const PLACES: usize = STACK_BYTES / size_of::<Freed>();

/// A stack of parked blocks of one length.
#[repr(align(1024))]
struct Stack([Cell<Freed>; PLACES]);

impl Stack {
    /// A stack whose places nobody reads before they are written.
    fn new() -> Self {
        Self([const { Cell::new(Freed::NOTHING) }; PLACES])
    }
}

const _: () = assert!(size_of::<Stack>() == STACK_BYTES && align_of::<Stack>() == STACK_BYTES);

/// Where the next block of a length goes: the first free place of its stack.
///
/// Invariant: either there are no stacks, and every top is `Top::NOWHERE`; or the top of each length points into that
/// length's stack, and all places below it are taken.
#[derive(Clone, Copy)]
struct Top(*const Cell<Freed>);

impl Top {
    /// No stack, which looks like an empty one.
    const NOWHERE: Self = Self(ptr::without_provenance(STACK_BYTES));

    /// How many blocks the stack has.
    #[inline(always)]
    fn taken(self) -> usize {
        self.0.addr() % STACK_BYTES / size_of::<Freed>()
    }
}

/// Stacks of parked blocks, by their length in units.
pub(crate) struct Parking {
    /// The stacks, once there was a use for them. A vector, because it may move while the tops point into its memory.
    stacks: OnceCell<Vec<Stack>>,
    tops: [Cell<Top>; STACKS],
}

impl Parking {
    /// No stacks, and no memory for them.
    pub(crate) const fn new() -> Self {
        Self { stacks: OnceCell::new(), tops: [const { Cell::new(Top::NOWHERE) }; STACKS] }
    }

    /// Makes room; false when the heap refuses it.
    fn open(&self) -> bool {
        if self.stacks.get().is_none() {
            let mut stacks = Vec::new();
            if stacks.try_reserve_exact(STACKS).is_err() {
                return false;
            }
            stacks.resize_with(STACKS, Stack::new);
            for (stack, top) in self.stacks.get_or_init(|| stacks).iter().zip(&self.tops) {
                top.set(Top(stack.0.as_ptr()));
            }
        }
        true
    }

    /// Parks a live block; false when there is no room for its length.
    ///
    /// # Safety
    /// The stacks are open.
    #[inline(always)]
    pub(super) unsafe fn put(&self, freed: Freed, units: u32) -> bool {
        if units > LONGEST_PARKED {
            return false;
        }
        let top = &self.tops[units as usize];
        let place = top.get();
        let next = Top(place.0.wrapping_add(1));
        if next.taken() == 0 {
            // That is the first place of the stack behind this one, which therefore is full.
            return false;
        }
        // SAFETY: the caller vouches for the stacks, so this is a place of one; it was written when they were opened.
        unsafe { &*place.0 }.set(freed);
        top.set(next);
        freed.code().set(parked_code(units));
        true
    }

    /// The block of `length` units, at most `LONGEST_PARKED`, that was parked last.
    #[inline(always)]
    fn pop(&self, length: usize) -> Option<Freed> {
        let top = &self.tops[length];
        if top.get().taken() == 0 {
            return None;
        }
        let last = Top(top.get().0.wrapping_sub(1));
        top.set(last);
        // SAFETY: the stack has a block, so there are stacks, and the place below the top is taken.
        Some(unsafe { &*last.0 }.get())
    }

    /// Hands out the block of exactly `units` units, at most `LONGEST_PARKED`, that was parked last.
    #[inline(always)]
    pub(super) fn take(&self, units: u32) -> Option<NonNull<u8>> {
        let parked = self.pop(units as usize)?;
        parked.code().set(units as u8);
        Some(parked.block)
    }

    /// The block that was parked last of those with the smallest length that is at least `units`, and that length.
    fn pop_longer(&self, units: u32) -> Option<(Freed, u32)> {
        let length = (units as usize..STACKS).find(|&length| self.tops[length].get().taken() > 0)?;
        Some((self.pop(length)?, length as u32))
    }

    /// Units of all parked blocks.
    pub(crate) fn units(&self) -> u64 {
        self.tops.iter().zip(0..).map(|(top, length)| top.get().taken() as u64 * length).sum()
    }

    /// The parked blocks and their lengths.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (NonNull<u8>, u32)> {
        let stacks = self.stacks.get().into_iter().flatten();
        stacks.zip(&self.tops).zip(0..).flat_map(|((stack, top), length)| {
            stack.0.iter().take(top.get().taken()).map(move |place| (place.get().block, length))
        })
    }
}

impl<G: Geometry, S: System> Heap<G, S> {
    /// Sets where freed blocks go: to their windows, or to the stacks of parked ones, and whether frees may defer.
    pub(super) fn direct_frees(&self, park: bool, defer: bool) {
        let units = |way: bool| if way && self.settings.trusts_pointers() { self.units_behind_first() } else { 0 };
        self.hot_units.set(units(!park));
        self.parking_units.set(units(park && !defer));
        self.deferring_units.set(units(park && defer));
    }

    /// Whether freed blocks are parked.
    pub(super) fn parks(&self) -> bool {
        self.parking_units.get() > 0 || self.deferring_units.get() > 0
    }

    /// Starts parking, where it is of use and there is room for it; with `cold_maps` frees may defer.
    pub(super) fn start_parking(&self, cold_maps: bool) {
        if self.settings.is_plain() && self.parking.open() {
            // Under a sanitizer, which hides a block when it is parked, that comes at once.
            self.direct_frees(true, cold_maps && !cfg!(pktalloc_asan));
        }
    }

    /// Whether the maps of so many windows are as likely as not out of the second-level cache.
    pub(super) fn are_maps_cold(&self, windows: usize) -> bool {
        windows * self.geometry.window_units() >= COLD_MAP_BYTES
    }

    /// Ends parking: every parked block goes back to its window.
    pub(super) fn stop_parking(&self) {
        if !self.parks() {
            return;
        }
        self.catch_up();
        self.direct_frees(false, false);
        self.set_limit(self.limit.get());
        for length in 1..=LONGEST_PARKED {
            while let Some(parked) = self.parking.pop(length as usize) {
                self.return_to_window(parked, length);
            }
        }
    }

    /// Has [`keep_short_queue`](Self::keep_short_queue) called once enough of the current window was freed.
    pub(super) fn await_turn(&self, window: Window) {
        window.notice_at(window.live_units().saturating_sub(self.most_units(TURN_BYTES)));
    }

    /// Starts parking if the blocks of the current window are a short queue of one length, to judge by the newest.
    ///
    /// A call, so that windows of a long queue pass by without it.
    #[cold]
    #[inline(never)]
    pub(super) fn keep_short_queue(&self, window: Window) {
        let Some((_, extent)) = self.extent() else { return };
        let live = window.live_units() - extent.len() as u32;
        if self.parks() || live > self.most_units(SHORT_BYTES) {
            return;
        }
        let map = window.map(self.geometry);
        let Some(newest) = map.block_around(extent.start - 1) else { return };
        let length = newest.len() as u32;
        let count = (live / length).min(ALIKE);
        let alike = |index| {
            let start = extent.start.checked_sub(index * length);
            start.and_then(|start| map.block_at(start)) == Some(length)
        };
        if length <= LONGEST_PARKED && (1..=count).all(alike) {
            // Whoever frees a few blocks in turn has their map in the cache.
            self.start_parking(false);
            if self.parks() {
                // Parked blocks first.
                self.hot_limit.set(0);
            }
        }
    }

    /// Ends the parking of a short queue if no parked block has the length that is asked for.
    pub(super) fn leave_short_queue(&self) {
        if self.parks() && self.hot_limit.get() != self.limit.get() && self.parking.units() > 0 {
            self.stop_parking();
        }
    }

    /// Units of so many bytes, or of a quarter of a window where that is less.
    fn most_units(&self, bytes: usize) -> u32 {
        self.geometry.units(bytes.min(self.geometry.window_bytes() / 4))
    }

    /// A block of `units` units from a longer parked one, the rest of which is parked or goes back.
    pub(super) fn split_parked(&self, units: u32) -> Option<NonNull<u8>> {
        if !self.parks() || units >= LONGEST_PARKED {
            return None;
        }
        let (parked, length) = self.parking.pop_longer(units + 1)?;
        parked.code().set(units as u8);
        // SAFETY: the rest lies in the block, whose window is held.
        let rest = unsafe {
            let rest = parked.block.add(self.geometry.bytes(units));
            self.freed(rest, self.units_before(rest))
        };
        self.park_units(rest, length - units);
        Some(parked.block)
    }

    /// Ends parking if nothing lives, so that the windows count as empty.
    pub(crate) fn settle(&self) {
        if self.parks() && self.used_units() == 0 {
            self.stop_parking();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks of each length that may be parked.
    const DEPTH: usize = PLACES - 1;

    fn block(address: usize) -> NonNull<u8> {
        NonNull::new(ptr::without_provenance_mut(address)).unwrap()
    }

    /// Stacks that are open.
    struct Open(Parking);

    impl Open {
        fn new() -> Self {
            let parking = Parking::new();
            assert!(parking.open());
            Self(parking)
        }

        fn put(&self, address: usize, code: &Cell<u8>, units: u32) -> bool {
            // SAFETY: `new` opened them.
            unsafe { self.0.put(Freed::new(block(address), code), units) }
        }
    }

    #[test]
    fn the_block_parked_last_of_the_closest_length_comes_back_first() {
        let codes = [const { Cell::new(0) }; 4];
        let open = Open::new();
        for ((address, units), code) in [(64, 3), (128, 7), (192, 7), (256, LONGEST_PARKED)].into_iter().zip(&codes) {
            assert!(open.put(address, code, units));
            assert_eq!(code.get(), parked_code(units));
        }
        let parking = &open.0;
        assert_eq!(parking.units(), u64::from(3 + 7 + 7 + LONGEST_PARKED));
        assert_eq!(parking.blocks().count(), 4);
        let longer = |units| parking.pop_longer(units).map(|(parked, length)| (parked.block, length));
        assert_eq!(longer(4), Some((block(192), 7)));
        assert_eq!(parking.take(7), Some(block(128)));
        assert_eq!(codes[1].get(), 7);
        assert_eq!(parking.take(7), None);
        assert_eq!(longer(3), Some((block(64), 3)));
        assert_eq!(longer(LONGEST_PARKED), Some((block(256), LONGEST_PARKED)));
        assert_eq!(longer(1), None);
        assert_eq!(parking.units(), 0);
    }

    #[test]
    fn a_full_stack_takes_no_more() {
        let code = Cell::new(5);
        let open = Open::new();
        for _ in 0..DEPTH {
            assert!(open.put(64, &code, 5));
        }
        code.set(5);
        assert!(!open.put(64, &code, 5));
        assert_eq!(code.get(), 5, "a block that is not parked stays as it is");
        assert_eq!(open.0.blocks().count(), DEPTH);
        assert!(open.put(64, &code, 6) && !open.put(64, &code, LONGEST_PARKED + 1));
    }

    #[test]
    fn without_stacks_nothing_is_parked() {
        let parking = Parking::new();
        assert!((1..=LONGEST_PARKED).all(|units| parking.take(units).is_none()));
        assert!(parking.pop_longer(1).is_none());
        assert_eq!((parking.units(), parking.blocks().count()), (0, 0));
    }

    #[test]
    fn stacks_may_move() {
        let code = Cell::new(5);
        let open = Open::new();
        assert!(open.put(64, &code, 5));
        let moved = Box::new(open);
        assert!(moved.put(128, &code, 5));
        assert_eq!((moved.0.take(5), moved.0.take(5)), (Some(block(128)), Some(block(64))));
    }
}
