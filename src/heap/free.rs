//! From a block's address to its region, its byte in the map, and what its window counts.

use core::ops::Range;
use core::ptr::NonNull;

use super::Heap;
use crate::geometry::Geometry;
use crate::map::{FIRST_LONG, exact_length, length_of};
use crate::region::{Place, Region};
use crate::system::System;

/// What the count of frees until the next tick becomes with the one that takes the slow path for it.
const DUE: u32 = u32::MAX;

impl<G: Geometry, S: System> Heap<G, S> {
    /// Frees a block.
    ///
    /// # Safety
    /// `block` is a live block of this heap; its pointer came from the call that allocated it.
    ///
    /// # Panics
    /// When `block` points into a region of this heap, but not at a live block.
    #[inline]
    pub(crate) unsafe fn free(&self, block: NonNull<u8>) {
        // SAFETY: the caller keeps the same contract.
        unsafe {
            if !self.free_hot(block, None) {
                self.free_long(block, None);
            }
        }
    }

    /// Frees a block of `size` bytes.
    ///
    /// # Safety
    /// As for [`free`](Self::free).
    ///
    /// # Panics
    /// As [`free`](Self::free), and with `check` on when `size` is not what was asked for.
    #[inline]
    pub(crate) unsafe fn free_sized(&self, block: NonNull<u8>, size: usize) {
        // 0 wraps around and becomes more than any block has.
        let units = (size.wrapping_sub(1) >> self.geometry.unit_shift()) + 1;
        // SAFETY: the caller keeps the same contract.
        unsafe {
            if !self.free_hot(block, Some(units)) {
                self.free_long(block, Some(size));
            }
        }
    }

    /// As [`free_sized`](Self::free_sized), in fewer instructions and without a look at the size with `check` on:
    /// `size` is the block's capacity, which elsewhere is whole units.
    ///
    /// # Safety
    /// As for [`free`](Self::free).
    ///
    /// # Panics
    /// As [`free`](Self::free).
    #[inline(always)]
    pub(crate) unsafe fn free_whole(&self, block: NonNull<u8>, size: usize) {
        // SAFETY: the caller keeps the same contract.
        unsafe {
            if !self.free_hot(block, Some(size >> self.geometry.unit_shift())) {
                self.free_long(block, None);
            }
        }
    }

    /// Frees a block unless something keeps calls off the hot path, which it tells; so does a `told` length in units
    /// that is not the map's.
    ///
    /// A length that is told leads to a stack of the cache before the map's byte has been read. Where lengths
    /// alternate, the next allocation's stack is the same one or not, and a processor that has to guess it loses twenty
    /// cycles whenever it is wrong.
    ///
    /// # Safety
    /// As for [`free`](Self::free).
    #[inline(always)]
    unsafe fn free_hot(&self, block: NonNull<u8>, told: Option<usize>) -> bool {
        let geometry = self.geometry;
        let number = self.number_of(block);
        if number < self.hot_units.get() {
            let unit = number + geometry.first_block_unit();
            // SAFETY: a block that starts at a unit for blocks lies in a region, since large blocks start where a
            // region would; `unit` is one of the region.
            let (region, code) = unsafe {
                let region = Region::of_block(block, geometry);
                (region, region.code(unit, geometry))
            };
            let units = match told {
                // A code that stands for no length becomes negative.
                Some(units) => (code.get() as i8 as usize == units).then_some(units as u32),
                None => exact_length(code.get()),
            };
            if let Some(units) = units {
                let (left, due) = self.until_tick.get().overflowing_sub(1);
                self.until_tick.set(left);
                if due {
                    return false;
                }
                if !self.cache_block(block, code, units) {
                    code.set(0);
                    self.give_back_block(region, unit, block, units);
                }
                return true;
            }
        }
        false
    }

    /// Has a block of `old` units, whose length its map keeps exactly, keep the first `units`.
    ///
    /// # Safety
    /// As for [`free`](Self::free); `units` is not 0, and below `old`.
    #[inline(always)]
    pub(super) unsafe fn cut_hot(&self, block: NonNull<u8>, units: u32, old: u32) {
        let geometry = self.geometry;
        let unit = self.number_of(block) + geometry.first_block_unit();
        // SAFETY: as in `free_hot`; the tail lies in the block.
        let (region, code, tail) = unsafe {
            let region = Region::of_block(block, geometry);
            (region, region.code(unit, geometry), block.add(geometry.bytes(units)))
        };
        code.set(units as u8);
        self.give_back_block(region, unit + units as usize, tail, old - units);
    }

    /// Frees a longer block of one window, unless something keeps calls off the hot path; leads all else to the slow
    /// path. `size` is the block's if that is to be compared.
    ///
    /// # Safety
    /// As for [`free`](Self::free).
    ///
    /// # Panics
    /// As [`free`](Self::free), and with `check` on when `size` is not what was asked for.
    #[cold]
    #[inline(never)]
    unsafe fn free_long(&self, block: NonNull<u8>, size: Option<usize>) {
        let geometry = self.geometry;
        let number = self.number_of(block);
        if number < self.hot_units.get() && self.until_tick.get() != DUE {
            let unit = number + geometry.first_block_unit();
            // SAFETY: as in `free_hot`.
            let (region, number) = unsafe {
                let region = Region::of_block(block, geometry);
                (region, region.length_number_at(unit, geometry))
            };
            let room = geometry.window_units() - unit % geometry.window_units();
            let is_long_one = |&number: &u32| number >= FIRST_LONG && length_of(number) as usize <= room;
            if let Some(number) = number.filter(is_long_one) {
                // SAFETY: the caller's block, which is live until now; it has more than two units.
                unsafe {
                    if !self.cache_long(block, region, unit, number) {
                        region.set_codes(unit, [0; 2], geometry);
                        self.give_back_block(region, unit, block, length_of(number));
                    }
                }
                self.count_free();
                return;
            }
        }
        // SAFETY: the caller keeps the same contract.
        unsafe { self.free_slow(block, size) }
    }

    /// The slow path of all frees: spans and large blocks, verified frees, misuse, every free while memory is scarce,
    /// and one in [`TICK`](super::decay::TICK).
    ///
    /// # Safety
    /// As for [`free_long`](Self::free_long).
    #[inline(never)]
    unsafe fn free_slow(&self, block: NonNull<u8>, size: Option<usize>) {
        // SAFETY: the caller keeps the same contract.
        if !unsafe { self.free_again(block) } {
            self.free_or_panic(block, size);
        }
    }

    /// Takes the hot path after it was left, once what is due now and then is done.
    ///
    /// # Safety
    /// As for [`free`](Self::free).
    #[inline]
    unsafe fn free_again(&self, block: NonNull<u8>) -> bool {
        loop {
            if self.until_tick.get() == DUE {
                self.tick();
            }
            // SAFETY: the caller keeps the same contract.
            if unsafe { self.free_hot(block, None) } {
                return true;
            }
            if self.until_tick.get() != DUE {
                return false;
            }
        }
    }

    /// Counts a free that the hot path did not serve, and does what is due now and then.
    pub(super) fn count_free(&self) {
        let (left, due) = self.until_tick.get().overflowing_sub(1);
        self.until_tick.set(left);
        if due {
            self.tick();
        }
    }

    /// Frees any block, or panics with what is wrong; where the thread panics already, the block stays: a second panic
    /// would end the process.
    #[inline(never)]
    fn free_or_panic(&self, block: NonNull<u8>, size: Option<usize>) {
        if let Err(error) = self.try_free(block, size)
            && !is_panicking()
        {
            panic!("cannot free: {error}");
        }
    }

    /// Which of its region's units for blocks `block` starts at, counted from the first one. Where no block can be, in
    /// the bookkeeping or between units, that is a number beyond all of them.
    #[inline(always)]
    pub(super) fn number_of(&self, block: NonNull<u8>) -> usize {
        let geometry = self.geometry;
        let first = geometry.first_block_unit() << geometry.unit_shift();
        let offset = block.addr().get().wrapping_sub(first) & (geometry.region_bytes() - 1);
        // Bits below a unit end up on top.
        offset.rotate_right(geometry.unit_shift())
    }

    /// Takes back the units of a block in one window that the map does not show any more; `unit` is counted from the
    /// start of the region.
    #[inline(always)]
    pub(super) fn give_back_block(&self, region: Region, unit: usize, block: NonNull<u8>, units: u32) {
        self.hide(block, units);
        let start = block.addr().get() >> self.geometry.unit_shift();
        if start + units as usize == self.cursor.get() && self.take_back(start) {
            return;
        }
        self.live_units.set(self.live_units.get().wrapping_sub(u64::from(units)));
        let geometry = self.geometry;
        // Counted from the first unit for blocks, as callers have it: one addition less.
        let index = geometry.first_window() + (unit - geometry.first_block_unit()) / geometry.window_units();
        // SAFETY: the unit is one of the region.
        let credit = unsafe { region.credit(index, self.geometry) };
        let (left, reached) = credit.get().overflowing_sub(units);
        credit.set(left);
        if reached {
            self.drained(region, index);
        }
    }

    /// Has the extent take back the units from `start` to the cursor, and go on counting them; false when they lie in
    /// the window in front, at whose end an extent may begin.
    #[inline(always)]
    fn take_back(&self, start: usize) -> bool {
        let window_shift = self.geometry.window_shift() - self.geometry.unit_shift();
        let is_current = (start ^ (self.limit.get() - 1)) >> window_shift == 0;
        if is_current {
            self.cursor.set(start);
        }
        is_current
    }

    /// Takes back units of a region that no block in the map claims any more, be it in one window or in several. They
    /// belonged to a block that starts at unit `block`, and what they lead into is its no more.
    pub(super) fn give_back(&self, region: Region, block: usize, units: Range<usize>) {
        let geometry = self.geometry;
        let bytes = region.bytes(units.clone(), geometry);
        let first = bytes.addr().get() >> geometry.unit_shift();
        self.hide(bytes.cast(), units.len() as u32);
        let per_window = geometry.window_units();
        let in_one_window = units.start / per_window == (units.end - 1) / per_window;
        let of_extent = first + units.len() == self.cursor.get() && in_one_window && self.take_back(first);
        if !of_extent {
            self.live_units.set(self.live_units.get() - units.len() as u64);
        }
        for index in units.start / per_window..units.end.div_ceil(per_window) {
            let window = region.window(index, geometry);
            let start = index * per_window;
            let part = units.start.max(start)..units.end.min(start + per_window);
            if block < start {
                window.lead.set((part.start - start) as u32);
            }
            if !of_extent && window.discount(part.len() as u32, geometry) {
                self.drained(region, index);
            }
            if self.route.get().is_scarce() {
                self.offer(window);
            }
        }
    }

    /// Looks at a window of which enough was freed.
    #[cold]
    #[inline(never)]
    pub(super) fn drained(&self, region: Region, index: usize) {
        let geometry = self.geometry;
        let cold = &mut *self.cold.borrow_mut();
        let window = region.window(index, geometry);
        match window.place.get() {
            Place::Full => {
                window.set_threshold(0, geometry);
                if window.live_units(geometry) > 0 {
                    window.place.set(Place::Reusable);
                    cold.reusable.push_back(window);
                    return;
                }
            }
            Place::Reusable => cold.reusable.remove(window),
            // Looked at when its pass ends; an empty one has nothing to free.
            Place::Current | Place::Empty => return,
        }
        self.add_empty(cold, window);
    }
}

/// Whether this thread panics; without the standard library nobody can tell.
fn is_panicking() -> bool {
    #[cfg(any(feature = "std", test))]
    return std::thread::panicking();
    #[cfg(not(any(feature = "std", test)))]
    return false;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use crate::geometry::Runtime;
    use crate::heap::decay::TICK;
    use crate::system::Os;

    /// A block whose length its map does not keep exactly leaves the slow way, and its units are the next ones to be
    /// handed out all the same.
    #[test]
    fn the_newest_long_block_goes_back_to_the_extent() {
        let heap = Heap::with_settings(Runtime::new::<Os>(64, 128 << 10).unwrap(), Settings::new(), Os).unwrap();
        heap.allocate(1000).unwrap();
        let (_, before) = heap.extent().unwrap();
        let long = heap.allocate(10_000).unwrap();
        assert_eq!((long.len(), heap.extent().unwrap().1.start), (10_240, before.start + 160));
        // SAFETY: live, and not used afterwards.
        unsafe { heap.free(long.cast()) };
        assert_eq!(heap.extent().unwrap().1, before);
        assert_eq!(heap.allocate(64).unwrap().cast::<u8>(), long.cast());
        assert_eq!(heap.integrity_check(), Ok(()));
    }

    /// A span may end right in front of the extent. What is cut off it goes there, and is its no more.
    #[test]
    fn the_end_of_a_span_goes_back_to_the_extent() {
        let heap = Heap::with_settings(Runtime::new::<Os>(64, 128 << 10).unwrap(), Settings::new(), Os).unwrap();
        let units = |units: usize| heap.allocate(units * 64).unwrap().cast::<u8>();
        let spans: Vec<_> = (0..12).map(|_| units(3072)).collect();
        let ends: Vec<_> = spans.iter().map(|span| span.addr().get() + 3072 * 64).collect();
        let (block, span) = (0..12 * 1024)
            .find_map(|_| {
                let block = units(1);
                Some((block, ends.iter().position(|&end| end == block.addr().get())?))
            })
            .unwrap();
        // SAFETY: both are live, and the block is not used afterwards.
        unsafe {
            heap.free(block);
            assert_eq!(heap.shrink(spans[span], 2560 * 64), Ok(2560 * 64));
        }
        assert_eq!(heap.integrity_check(), Ok(()));
        assert_eq!(units(1).addr().get(), spans[span].addr().get() + 2560 * 64);
        assert_eq!(heap.integrity_check(), Ok(()));
    }

    /// What is due now and then is done whichever way blocks are freed.
    #[test]
    fn memory_goes_back_also_where_no_free_takes_the_hot_path() {
        let geometry = Runtime::new::<Os>(64, 128 << 10).unwrap();
        let settings = Settings { keep_empty_windows: 0, ..Settings::new() };
        let use_one = |heap: &Heap<Runtime, Os>| {
            let block = heap.allocate(9000).unwrap().cast();
            // SAFETY: live, and not used afterwards.
            unsafe { heap.free(block) };
        };
        let heap = Heap::with_settings(geometry, settings, Os).unwrap();
        let blocks: Vec<_> = (0..1000).map(|_| heap.allocate(9000).unwrap().cast()).collect();
        // SAFETY: live, and not used afterwards.
        unsafe { heap.free_batch(&blocks) };
        let high = heap.allocated_bytes();
        (0..500_000).for_each(|_| use_one(&heap));
        assert!(heap.allocated_bytes() < high / 4, "{high}, {}", heap.allocated_bytes());

        let heap = Heap::with_settings(geometry, Settings { check: true, ..settings }, Os).unwrap();
        let left = |frees: u32| {
            (0..frees).for_each(|_| use_one(&heap));
            heap.until_tick.get()
        };
        assert_eq!((left(3), left(TICK), left(1)), (TICK - 3, TICK - 2, TICK - 3));
    }
}
