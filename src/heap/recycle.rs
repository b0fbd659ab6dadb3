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

use alloc::vec::Vec;
use core::ptr::NonNull;

use super::Heap;
use crate::descriptor::Window;
use crate::geometry::Geometry;
use crate::system::System;
use crate::window::LONGEST_PARKED;

/// Blocks of each length that may be parked.
const DEPTH: usize = 64;
/// Stacks: one for each length in units, and one for the length 0 that nothing has.
const STACKS: usize = LONGEST_PARKED as usize + 1;

/// Stacks of parked blocks, by their length in units.
pub(crate) struct Parking {
    /// `DEPTH` places for each length.
    places: Vec<NonNull<u8>>,
    /// How many of them are taken.
    taken: [u8; STACKS],
    /// A bit for each length of which a block is parked.
    lengths: u64,
    /// Units of all parked blocks.
    units: u64,
}

// The lengths have a bit each.
const _: () = assert!(STACKS <= u64::BITS as usize && DEPTH <= u8::MAX as usize);

impl Parking {
    /// No stacks, and no memory for them.
    pub(crate) const fn new() -> Self {
        Self { places: Vec::new(), taken: [0; STACKS], lengths: 0, units: 0 }
    }

    /// Makes room; false when the heap refuses it.
    fn open(&mut self) -> bool {
        if self.places.is_empty() && self.places.try_reserve_exact(STACKS * DEPTH).is_ok() {
            self.places.resize(STACKS * DEPTH, NonNull::dangling());
        }
        !self.places.is_empty()
    }

    /// Parks a block; false when there is no room for its length.
    #[inline]
    fn push(&mut self, block: NonNull<u8>, units: u32) -> bool {
        let length = units as usize;
        let taken = usize::from(self.taken[length]);
        if taken == DEPTH {
            return false;
        }
        self.places[length * DEPTH + taken] = block;
        self.taken[length] += 1;
        self.lengths |= 1 << length;
        self.units += u64::from(units);
        true
    }

    /// The block parked last of those with the smallest length that is at least `units`, and that length.
    #[inline]
    fn pop(&mut self, units: u32) -> Option<(NonNull<u8>, u32)> {
        let fitting = self.lengths & (u64::MAX << units);
        if fitting == 0 {
            return None;
        }
        let length = fitting.trailing_zeros() as usize;
        self.taken[length] -= 1;
        let taken = usize::from(self.taken[length]);
        if taken == 0 {
            self.lengths &= !(1 << length);
        }
        self.units -= length as u64;
        Some((self.places[length * DEPTH + taken], length as u32))
    }

    /// Units of all parked blocks.
    pub(crate) fn units(&self) -> u64 {
        self.units
    }

    /// The parked blocks and their lengths.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (NonNull<u8>, u32)> {
        self.taken.iter().enumerate().flat_map(|(length, &taken)| {
            let first = length * DEPTH;
            self.places.iter().skip(first).take(usize::from(taken)).map(move |&block| (block, length as u32))
        })
    }
}

impl<G: Geometry, S: System> Heap<G, S> {
    /// Starts parking, where it is of use and there is room for it.
    pub(super) fn start_parking(&self) {
        if self.plain && self.parking.borrow_mut().open() {
            self.hot_frees.set(false);
            self.parks.set(true);
        }
    }

    /// Ends parking: every parked block goes back to its window.
    pub(super) fn stop_parking(&self) {
        self.hot_frees.set(self.settings.trusts_pointers());
        self.parks.set(false);
        loop {
            let parked = self.parking.borrow_mut().pop(1);
            let Some((block, units)) = parked else {
                return;
            };
            let (window, start) = self.parked_at(block);
            window.map(self.geometry).release(start);
            self.give_back(window, start, units);
        }
    }

    /// A parked block of at least `units` units, which are at most `LONGEST_EXACT`; what it has more goes back.
    #[inline(never)]
    pub(super) fn unpark(&self, units: u32) -> Option<NonNull<u8>> {
        if !self.parks.get() || units > LONGEST_PARKED {
            return None;
        }
        let (block, length) = self.parking.borrow_mut().pop(units)?;
        let (window, start) = self.parked_at(block);
        let map = window.map(self.geometry);
        map.set(start, units);
        if length > units {
            let (rest, more) = (start + units, length - units);
            map.park(rest, more);
            // SAFETY: the rest lies in the block.
            let behind = unsafe { block.add(self.geometry.bytes(units)) };
            if !self.parking.borrow_mut().push(behind, more) {
                map.release(rest);
                self.give_back(window, rest, more);
            }
        }
        Some(block)
    }

    /// Parks a block that was just taken out of its window's map; false when it has to go back.
    #[inline]
    pub(super) fn park(&self, block: NonNull<u8>, window: Window, start: u32, units: u32) -> bool {
        if units > LONGEST_PARKED || !self.parking.borrow_mut().push(block, units) {
            return false;
        }
        window.map(self.geometry).park(start, units);
        true
    }

    /// Ends parking once nothing lives, so that the windows become empty.
    #[inline]
    pub(super) fn settle(&self) {
        if self.parks.get() && self.used_units() == 0 {
            self.stop_parking();
        }
    }

    /// Where a parked block lies.
    #[inline]
    fn parked_at(&self, block: NonNull<u8>) -> (Window, u32) {
        // SAFETY: a parked block counts as live in its window, which therefore is held.
        let window = unsafe { Window::of_block(block, self.geometry) };
        let offset = block.addr().get() & (self.geometry.window_bytes() - 1);
        (window, (offset >> self.geometry.unit_shift()) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_parked_last_of_the_closest_length_comes_back_first() {
        let mut parking = Parking::new();
        assert!(parking.open());
        let at = |address: usize| NonNull::new(core::ptr::without_provenance_mut(address)).unwrap();
        for (address, units) in [(64, 3), (128, 7), (192, 7), (256, LONGEST_PARKED)] {
            assert!(parking.push(at(address), units));
        }
        assert_eq!(parking.units(), u64::from(3 + 7 + 7 + LONGEST_PARKED));
        assert_eq!(parking.blocks().count(), 4);
        assert_eq!(parking.pop(4), Some((at(192), 7)));
        assert_eq!(parking.pop(3), Some((at(64), 3)));
        assert_eq!(parking.pop(3), Some((at(128), 7)));
        assert_eq!(parking.pop(LONGEST_PARKED), Some((at(256), LONGEST_PARKED)));
        assert_eq!(parking.pop(1), None);
        assert_eq!(parking.units(), 0);
    }

    #[test]
    fn a_full_stack_takes_no_more() {
        let mut parking = Parking::new();
        assert!(parking.open());
        for _ in 0..DEPTH {
            assert!(parking.push(NonNull::dangling(), 5));
        }
        assert!(!parking.push(NonNull::dangling(), 5));
        assert!(parking.push(NonNull::dangling(), 6));
    }
}
