//! The way back: from a block's address to its byte in the map, and from there to what its window counts.
//!
//! While blocks are parked they are freed in no order, and where there are many, each byte is a miss of every cache: as
//! long as the processor waits for it, it gets no further than a few packets ahead. So a free may *defer*: it asks for the
//! byte, lets the block wait behind a few others, and goes on with the one that has waited longest, whose byte is
//! there by now.

use core::cell::Cell;
use core::ptr::NonNull;

use super::Heap;
use crate::descriptor::Window;
use crate::geometry::Geometry;
use crate::prefetch::prefetch;
use crate::system::System;
use crate::window::exact_length;

/// A freed block, and its byte in its window's map.
#[derive(Clone, Copy)]
pub(super) struct Freed {
    pub(super) block: NonNull<u8>,
    code: NonNull<Cell<u8>>,
}

impl Freed {
    #[inline(always)]
    pub(super) fn new(block: NonNull<u8>, code: &Cell<u8>) -> Self {
        Self { block, code: NonNull::from(code) }
    }

    /// The byte in the map.
    #[inline(always)]
    pub(super) fn code(&self) -> &Cell<u8> {
        // SAFETY: a block that waits or is parked counts as live in its window, which therefore is held, and so is its
        // map.
        unsafe { self.code.as_ref() }
    }

    /// Nothing, for a place that nobody reads.
    pub(super) const NOTHING: Self = Self { block: NonNull::dangling(), code: NonNull::dangling() };
}

/// Blocks that may wait.
const WAITING: usize = 16;
/// Frees between one look at how scattered they are and the next. Fuzzed programs are short.
const TURN: usize = if cfg!(fuzzing) { WAITING } else { 1024 };
/// Of the last frees, how many have to be in another window than the one before, so that the next ones wait.
const SCATTERED: usize = if cfg!(fuzzing) { WAITING / 4 } else { WAITING / 4 * 3 };

const _: () =
    assert!(WAITING.is_power_of_two() && TURN.is_multiple_of(WAITING), "the place goes by the number of frees");

/// The last frees. While they *wait*, their bytes in the map are on their way into the cache, and to the map, and to all
/// that counts, they are live.
///
/// They wait while frees are scattered, which is to say most in another window than the one before. Blocks that are
/// freed where their neighbours were have their bytes in the cache; such a block had better not wait, so that the next
/// packet gets it and the queue keeps the order of its addresses.
pub(crate) struct Waiting {
    /// The blocks. Those that do not wait are no more than addresses: their windows may be gone.
    places: [Cell<Option<Freed>>; WAITING],
    /// Whether they wait.
    wait: Cell<bool>,
    /// How many there have been, all in all.
    frees: Cell<usize>,
}

impl Waiting {
    /// Nobody waits.
    pub(super) const fn new() -> Self {
        Self { places: [const { Cell::new(None) }; WAITING], wait: Cell::new(false), frees: Cell::new(0) }
    }

    /// Whether the next frees are to wait, to judge by the last ones.
    fn scattered(&self, window_shift: u32) -> bool {
        let window = |place: &Cell<Option<Freed>>| place.get().map(|freed| freed.block.addr().get() >> window_shift);
        let elsewhere = |pair: &&[Cell<Option<Freed>>]| {
            let (before, after) = (window(&pair[0]), window(&pair[1]));
            before.is_some() && after.is_some() && before != after
        };
        // Not to and fro: each change costs the queue some of its order.
        let enough = if self.wait.get() { SCATTERED / 3 } else { SCATTERED };
        self.places.windows(2).filter(elsewhere).count() >= enough
    }
}

impl<G: Geometry, S: System> Heap<G, S> {
    /// Frees a block.
    ///
    /// # Safety
    /// `block` is a live block of this heap; its pointer came from the call that allocated it.
    ///
    /// # Panics
    /// When `block` points into a window of this heap, but not at a live block.
    #[inline]
    pub(crate) unsafe fn free(&self, block: NonNull<u8>) {
        let before = self.units_before(block);
        // SAFETY: the caller keeps the same contract.
        if !unsafe { self.free_hot(block, before) } {
            self.free_other(block, before);
        }
    }

    /// Frees a block, which may have to wait.
    ///
    /// # Safety
    /// As for [`free`](Self::free).
    ///
    /// # Panics
    /// As [`free`](Self::free), perhaps in a later call.
    #[inline]
    pub(crate) unsafe fn free_deferred(&self, block: NonNull<u8>) {
        let before = self.units_before(block);
        // SAFETY: the caller keeps the same contract.
        if !unsafe { self.free_hot(block, before) } {
            self.free_deferred_other(block, before);
        }
    }

    /// Frees a block of `size` bytes, which may have to wait.
    ///
    /// # Safety
    /// As for [`free`](Self::free).
    ///
    /// # Panics
    /// As [`free_deferred`](Self::free_deferred), and with `check` on when `size` is not what was asked for.
    #[inline]
    pub(crate) unsafe fn free_sized(&self, block: NonNull<u8>, size: usize) {
        let before = self.units_before(block);
        // SAFETY: the caller keeps the same contract.
        if !unsafe { self.free_hot(block, before) } {
            self.free_sized_other(block, size, before);
        }
    }

    /// Frees a block unless something keeps calls off the hot path, which it tells.
    ///
    /// # Safety
    /// As for [`free`](Self::free). `before` is the block's [`units_before`](Self::units_before).
    #[inline(always)]
    unsafe fn free_hot(&self, block: NonNull<u8>, before: usize) -> bool {
        if before < self.hot_units.get() {
            // SAFETY: a block that starts behind the first unit of an aligned window lies in one, since large blocks
            // start at a window's alignment; `hot_units` is below the units of a window.
            let (window, code) = unsafe { self.entry_of(block, before) };
            if let Some(units) = exact_length(code.get()) {
                code.set(0);
                self.give_back_block(window, block, units);
                return true;
            }
        }
        false
    }

    /// What [`free`](Self::free) leaves over.
    #[inline(never)]
    fn free_other(&self, block: NonNull<u8>, before: usize) {
        // SAFETY: as in `free_hot`, for either number of units.
        let freed = || unsafe { self.freed(block, before) };
        if before < self.parking_units.get() || before < self.deferring_units.get() {
            return self.park(freed());
        }
        self.free_cold(block, None);
    }

    /// What [`free_deferred`](Self::free_deferred) leaves over.
    #[inline(never)]
    fn free_deferred_other(&self, block: NonNull<u8>, before: usize) {
        if !self.park_or_defer(block, before) {
            self.free_cold(block, None);
        }
    }

    /// What [`free_sized`](Self::free_sized) leaves over. Takes the size where that one has it, so that a queue does not
    /// pay for it.
    #[inline(never)]
    fn free_sized_other(&self, block: NonNull<u8>, size: usize, before: usize) {
        if !self.park_or_defer(block, before) {
            self.free_cold(block, Some(size));
        }
    }

    /// Parks a block, or has it wait and parks the one whose turn it is, if blocks are being parked, which it tells.
    #[inline(always)]
    fn park_or_defer(&self, block: NonNull<u8>, before: usize) -> bool {
        // SAFETY: as in `free_hot`, for either number of units.
        let freed = || unsafe { self.freed(block, before) };
        if before < self.parking_units.get() {
            self.park(freed());
        } else if before < self.deferring_units.get() {
            self.defer(freed());
        } else {
            return false;
        }
        true
    }

    /// Parks a block, or has it wait and parks the one that has waited longest.
    ///
    /// A call, so that blocks that are parked at once do not pay for its registers.
    #[inline(never)]
    fn defer(&self, freed: Freed) {
        let waiting = &self.waiting;
        let frees = waiting.frees.get();
        waiting.frees.set(frees.wrapping_add(1));
        let oldest = waiting.places[frees % WAITING].replace(Some(freed));
        if frees.is_multiple_of(TURN) {
            return self.take_turn(freed, oldest);
        }
        if !waiting.wait.get() {
            return self.park(freed);
        }
        prefetch(freed.code.as_ptr().cast(), 1);
        if let Some(waited) = oldest {
            self.park(waited);
        }
    }

    /// [`defer`](Self::defer), which took `oldest` out for `freed`, and sees whether the next frees are to wait.
    #[cold]
    #[inline(never)]
    fn take_turn(&self, freed: Freed, oldest: Option<Freed>) {
        let waiting = &self.waiting;
        let wait = waiting.scattered(self.geometry.window_shift());
        // Blocks are parked before anything changes: a misuse that shows ends the call, and loses none of them.
        if waiting.wait.get() {
            if let Some(waited) = oldest {
                self.park(waited);
            }
            if !wait {
                self.catch_up();
                waiting.wait.set(false);
            }
        } else {
            self.park(freed);
            if wait {
                waiting.places.iter().for_each(|place| place.set(None));
                waiting.wait.set(true);
            }
        }
    }

    /// A block and its byte in the map.
    ///
    /// # Safety
    /// As for [`entry_of`](Self::entry_of).
    #[inline(always)]
    pub(super) unsafe fn freed(&self, block: NonNull<u8>, before: usize) -> Freed {
        // SAFETY: the caller keeps the same contract.
        let (_, code) = unsafe { self.entry_of(block, before) };
        Freed::new(block, code)
    }

    /// Parks a block, or frees it where that cannot be. Blocks are being parked.
    #[inline(always)]
    fn park(&self, freed: Freed) {
        match exact_length(freed.code().get()) {
            Some(units) => self.park_units(freed, units),
            None => self.free_cold(freed.block, None),
        }
    }

    /// Parks a block of `units` units, or returns it to its window where there is no room. Blocks are being parked.
    #[inline(always)]
    pub(super) fn park_units(&self, freed: Freed, units: u32) {
        // SAFETY: blocks are being parked, so the stacks are open.
        if unsafe { self.parking.put(freed, units) } {
            self.hide(freed.block, units);
        } else {
            self.return_to_window(freed, units);
        }
    }

    /// Returns a block of `units` units, which counted as live until now, to its window.
    #[inline(always)]
    pub(super) fn return_to_window(&self, freed: Freed, units: u32) {
        freed.code().set(0);
        // SAFETY: the block counted as live in its window, which therefore is held.
        let window = unsafe { Window::of_block(freed.block, self.geometry) };
        self.give_back_block(window, freed.block, units);
    }

    /// Frees the blocks that wait; none do unless frees are being deferred.
    pub(super) fn catch_up(&self) {
        if !self.waiting.wait.get() {
            return;
        }
        for place in &self.waiting.places {
            if let Some(freed) = place.take() {
                self.park(freed);
            }
        }
    }

    /// All that is left over: large blocks, verified frees, misuse.
    #[cold]
    #[inline(never)]
    fn free_cold(&self, block: NonNull<u8>, size: Option<usize>) {
        if let Err(error) = self.try_free(block, size) {
            panic!("cannot free: {error}");
        }
    }

    /// Takes back the units of a block that the map does not show any more.
    #[inline(always)]
    pub(super) fn give_back_block(&self, window: Window, block: NonNull<u8>, units: u32) {
        self.hide(block, units);
        let start = block.addr().get() >> self.geometry.unit_shift();
        if start + units as usize == self.cursor.get() {
            return self.take_back(start);
        }
        self.live_units.set(self.live_units.get().wrapping_sub(u64::from(units)));
        if window.discount(units) {
            self.drained(window);
        }
    }

    /// Has the extent take back the units of the newest block, from `start` on; they go on counting as live.
    ///
    /// A call, so that a free of any other block goes straight ahead.
    #[cold]
    #[inline(never)]
    fn take_back(&self, start: usize) {
        self.cursor.set(start);
        if let Some(window) = self.window.get()
            && self.is_idle(window)
        {
            self.rewind(window);
        }
    }
}

#[cfg(test)]
mod tests {
    use core::ptr;

    use super::*;

    const WINDOW_SHIFT: u32 = 17;

    /// Frees of blocks that differ, each in the window whose number it has; none where it is `None`.
    fn freed(windows: [Option<usize>; WAITING], wait: bool) -> Waiting {
        let waiting = Waiting::new();
        for (index, (place, window)) in waiting.places.iter().zip(windows).enumerate() {
            let block = window.map(|window| ((window + 1) << WINDOW_SHIFT) + 4096 + index * 64);
            let block = block.and_then(|address| NonNull::new(ptr::without_provenance_mut(address)));
            place.set(block.map(|block| Freed { block, ..Freed::NOTHING }));
        }
        waiting.wait.set(wait);
        waiting
    }

    #[test]
    fn frees_wait_once_three_of_four_are_in_another_window_and_until_fewer_than_one_of_four_is() {
        for changes in 0..WAITING {
            let windows = core::array::from_fn(|index| Some(index.min(changes)));
            assert_eq!(freed(windows, false).scattered(WINDOW_SHIFT), changes >= 12, "{changes} changes");
            assert_eq!(freed(windows, true).scattered(WINDOW_SHIFT), changes >= 4, "{changes} changes");
        }
    }

    #[test]
    fn frees_that_never_were_are_in_no_window() {
        let windows = core::array::from_fn(|index| (index % 2 == 0).then_some(index));
        assert!(!freed(windows, true).scattered(WINDOW_SHIFT));
        assert!(!freed([None; WAITING], true).scattered(WINDOW_SHIFT));
    }
}
