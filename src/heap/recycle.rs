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

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::{Cell, OnceCell};
use core::ptr::NonNull;

use super::Heap;
use crate::descriptor::Window;
use crate::geometry::Geometry;
use crate::system::System;
use crate::window::{LONGEST_PARKED, parked_code};

/// Blocks of each length that may be parked.
const DEPTH: usize = 64;
/// Stacks: one for each length in units, and one for the length 0 that nothing has.
const STACKS: usize = LONGEST_PARKED as usize + 1;

/// A parked block, and its byte in its window's map.
#[derive(Clone, Copy)]
struct Parked {
    block: NonNull<u8>,
    code: NonNull<Cell<u8>>,
}

impl Parked {
    /// The byte in the map.
    #[inline(always)]
    fn code(&self) -> &Cell<u8> {
        // SAFETY: a parked block counts as live in its window, which therefore is held, and so is its map.
        unsafe { self.code.as_ref() }
    }
}

/// A stack of parked blocks of one length.
type Stack = [Cell<Parked>; DEPTH];

/// Stacks of parked blocks, by their length in units.
pub(crate) struct Parking {
    /// The stacks, once there was a use for them.
    stacks: OnceCell<Box<[Stack]>>,
    /// How many blocks each of them has: none without stacks, at most `DEPTH` with them.
    taken: [Cell<u8>; STACKS],
}

const _: () = assert!(DEPTH <= u8::MAX as usize);

impl Parking {
    /// No stacks, and no memory for them.
    pub(crate) const fn new() -> Self {
        Self { stacks: OnceCell::new(), taken: [const { Cell::new(0) }; STACKS] }
    }

    /// Makes room; false when the heap refuses it.
    fn open(&self) -> bool {
        if self.stacks.get().is_none() {
            let mut stacks = Vec::new();
            if stacks.try_reserve_exact(STACKS).is_err() {
                return false;
            }
            const NOTHING: Parked = Parked { block: NonNull::dangling(), code: NonNull::dangling() };
            stacks.resize_with(STACKS, || [const { Cell::new(NOTHING) }; DEPTH]);
            // The capacity is exact, so this moves nothing; and nobody was here first.
            let _ = self.stacks.set(stacks.into_boxed_slice());
        }
        true
    }

    /// The stack for a length, which is at most `LONGEST_PARKED`.
    #[inline(always)]
    fn stack(&self, length: usize) -> Option<&Stack> {
        self.stacks.get()?.get(length)
    }

    /// Parks a live block whose byte in the map is `code`; false when there is no room for its length.
    #[inline]
    pub(super) fn put(&self, block: NonNull<u8>, code: &Cell<u8>, units: u32) -> bool {
        let length = units as usize;
        let (Some(taken), Some(stack)) = (self.taken.get(length), self.stack(length)) else {
            return false;
        };
        let Some(place) = stack.get(usize::from(taken.get())) else {
            return false;
        };
        place.set(Parked { block, code: NonNull::from(code) });
        taken.set(taken.get() + 1);
        code.set(parked_code(units));
        true
    }

    /// The block of `length` units that was parked last.
    #[inline]
    fn pop(&self, length: usize) -> Option<Parked> {
        let taken = self.taken.get(length)?;
        let left = taken.get().checked_sub(1)?;
        let parked = self.stack(length)?.get(usize::from(left))?.get();
        taken.set(left);
        Some(parked)
    }

    /// Hands out the block of exactly `units` units that was parked last.
    #[inline]
    pub(super) fn take(&self, units: u32) -> Option<NonNull<u8>> {
        let parked = self.pop(units as usize)?;
        parked.code().set(units as u8);
        Some(parked.block)
    }

    /// The block that was parked last of those with the smallest length that is at least `units`, and that length.
    fn pop_longer(&self, units: u32) -> Option<(Parked, u32)> {
        let length = (units as usize..STACKS).find(|&length| self.taken[length].get() > 0)?;
        Some((self.pop(length)?, length as u32))
    }

    /// Units of all parked blocks.
    pub(crate) fn units(&self) -> u64 {
        self.taken.iter().zip(0..).map(|(taken, length)| u64::from(taken.get()) * length).sum()
    }

    /// The parked blocks and their lengths.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (NonNull<u8>, u32)> {
        let stacks = self.stacks.get().into_iter().flatten();
        stacks.zip(&self.taken).zip(0..).flat_map(|((stack, taken), length)| {
            stack.iter().take(usize::from(taken.get())).map(move |place| (place.get().block, length))
        })
    }
}

impl<G: Geometry, S: System> Heap<G, S> {
    /// Sets where freed blocks go: to their windows, or to the stacks of parked ones.
    pub(super) fn direct_frees(&self, park: bool) {
        let (units, none) = (self.block_units(), 0);
        let trusts = self.settings.trusts_pointers();
        self.hot_units.set(if trusts && !park { units } else { none });
        self.parking_units.set(if trusts && park { units } else { none });
    }

    /// Whether freed blocks are parked.
    pub(super) fn parks(&self) -> bool {
        self.parking_units.get() > 0
    }

    /// Starts parking, where it is of use and there is room for it.
    pub(super) fn start_parking(&self) {
        if self.plain && self.parking.open() {
            self.direct_frees(true);
        }
    }

    /// Ends parking: every parked block goes back to its window.
    pub(super) fn stop_parking(&self) {
        if !self.parks() {
            return;
        }
        self.direct_frees(false);
        for length in 1..=LONGEST_PARKED {
            while let Some(Parked { block, code }) = self.parking.pop(length as usize) {
                let parked = Parked { block, code };
                parked.code().set(0);
                // SAFETY: a parked block counts as live in its window, which therefore is held.
                let window = unsafe { Window::of_block(block, self.geometry) };
                self.give_back_block(window, block, length);
            }
        }
    }

    /// A block of `units` units from a longer parked one, the rest of which is parked or goes back.
    pub(super) fn split_parked(&self, units: u32) -> Option<NonNull<u8>> {
        if !self.parks() || units >= LONGEST_PARKED {
            return None;
        }
        let (parked, length) = self.parking.pop_longer(units + 1)?;
        parked.code().set(units as u8);
        // SAFETY: the rest lies in the block, and its window is held.
        let (window, rest) =
            unsafe { (Window::of_block(parked.block, self.geometry), parked.block.add(self.geometry.bytes(units))) };
        // SAFETY: the unit is one of the window.
        let code = unsafe { window.code(self.unit_of(rest)) };
        if !self.parking.put(rest, code, length - units) {
            self.give_back_block(window, rest, length - units);
        }
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

    fn block(address: usize) -> NonNull<u8> {
        NonNull::new(core::ptr::without_provenance_mut(address)).unwrap()
    }

    #[test]
    fn the_block_parked_last_of_the_closest_length_comes_back_first() {
        let codes = [const { Cell::new(0) }; 4];
        let parking = Parking::new();
        assert!(parking.open());
        for ((address, units), code) in [(64, 3), (128, 7), (192, 7), (256, LONGEST_PARKED)].into_iter().zip(&codes) {
            assert!(parking.put(block(address), code, units));
            assert_eq!(code.get(), parked_code(units));
        }
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
        let parking = Parking::new();
        assert!(parking.open());
        for _ in 0..DEPTH {
            assert!(parking.put(block(64), &code, 5));
        }
        code.set(5);
        assert!(!parking.put(block(64), &code, 5));
        assert_eq!(code.get(), 5, "a block that is not parked stays as it is");
        assert!(parking.put(block(64), &code, 6));
    }

    #[test]
    fn nothing_is_parked_without_stacks_or_beyond_them() {
        let code = Cell::new(0);
        let parking = Parking::new();
        assert!(!parking.put(block(64), &code, 5));
        assert_eq!(parking.take(5), None);
        assert!(parking.open());
        assert!(!parking.put(block(64), &code, LONGEST_PARKED + 1));
        assert_eq!(parking.take(LONGEST_PARKED + 1), None);
    }
}
