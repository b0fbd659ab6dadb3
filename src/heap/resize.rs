//! Growing and shrinking blocks, in place where the room is there.

use core::ops::Range;
use core::ptr::NonNull;

use super::Heap;
use super::find::Site;
use crate::error::AllocError;
use crate::geometry::Geometry;
use crate::map::{FIRST_LONG, exact_length, whole_length};
use crate::region::{Region, Window};
use crate::system::System;

/// What [`reallocate`](crate::Allocator::reallocate) does with the block's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Realloc {
    /// Keeps the first `min(old, new)` bytes.
    CopyExisting,
    /// Keeps nothing: what the block contains afterwards is unspecified, or zero with
    /// [`zero`](crate::Config::zero) on. Cheaper than copying when the block has to move.
    Uninitialized,
}

impl<G: Geometry, S: System> Heap<G, S> {
    /// Gives a live block room for `size` bytes, in place where that is possible.
    ///
    /// # Safety
    /// As for [`free`](Self::free).
    ///
    /// # Panics
    /// As [`free`](Self::free).
    #[inline]
    pub(crate) unsafe fn reallocate(
        &self,
        block: NonNull<u8>,
        size: usize,
        how: Realloc,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller keeps the same contract.
        if let Some(capacity) = unsafe { self.capacity_hot(block) }
            // 0 wraps around and is refused on the slow path.
            && size.wrapping_sub(1) < capacity
            && capacity - size < KEPT_BYTES
            && !self.settings.zero
        {
            return Ok(NonNull::slice_from_raw_parts(block, capacity));
        }
        self.reallocate_slow(block, size, how).ok_or_else(|| self.refusal.get())
    }

    /// The slow path of [`reallocate`](Self::reallocate). `None` leaves the reason in `refusal`.
    #[cold]
    #[inline(never)]
    fn reallocate_slow(&self, block: NonNull<u8>, size: usize, how: Realloc) -> Option<NonNull<[u8]>> {
        // SAFETY: the caller of `reallocate` vouches for the block.
        if let Some(moved) = unsafe { self.move_hot(block, size, how) } {
            return Some(moved);
        }
        let resized = if size == 0 {
            Err(AllocError::ZeroSize)
        } else if self.settings.check {
            self.reallocate_checked(block, size, how)
        } else {
            self.resize(block, size, how).map(|(moved, kept)| {
                if self.settings.zero && kept < moved.len() {
                    // SAFETY: the bytes behind the kept ones belong to the block and are not yet known to the caller.
                    unsafe { moved.cast::<u8>().add(kept).write_bytes(0, moved.len() - kept) };
                }
                moved
            })
        };
        resized.inspect_err(|&error| self.refusal.set(error)).ok()
    }

    /// Moves a block that has to grow and has another one right behind it, if the hot path serves `size` bytes.
    ///
    /// # Safety
    /// As for [`free`](Self::free).
    #[inline(always)]
    unsafe fn move_hot(&self, block: NonNull<u8>, size: usize, how: Realloc) -> Option<NonNull<[u8]>> {
        // SAFETY: the caller keeps the same contract.
        let capacity =
            unsafe { self.capacity_hot(block) }.filter(|&capacity| size > capacity && !self.settings.zero)?;
        // SAFETY: a block whose length is exact ends in its window; what is behind it there is a unit of the region.
        let is_hemmed_in = unsafe {
            let (region, unit) = self.unit_of(block);
            let behind = unit + self.geometry.units(capacity) as usize;
            !behind.is_multiple_of(self.geometry.window_units()) && region.code(behind, self.geometry).get() != 0
        };
        let moved = is_hemmed_in.then(|| self.allocate_hot(size))??;
        if how == Realloc::CopyExisting {
            // SAFETY: both are live blocks of at least so many bytes, and different ones.
            unsafe { moved.cast::<u8>().copy_from_nonoverlapping(block, capacity) };
        }
        // SAFETY: the caller's block, which is live until now.
        unsafe { self.free_sized(block, capacity) };
        Some(moved)
    }

    /// Bytes that a live block has.
    ///
    /// # Safety
    /// As for [`free`](Self::free).
    ///
    /// # Panics
    /// As [`free`](Self::free).
    #[inline]
    pub(crate) unsafe fn capacity(&self, block: NonNull<u8>) -> usize {
        // SAFETY: the caller keeps the same contract.
        match unsafe { self.capacity_hot(block) } {
            Some(capacity) => capacity,
            None => self.capacity_slow(block),
        }
    }

    /// The bytes of a block whose length its map keeps exactly, unless calls have to verify.
    ///
    /// # Safety
    /// As for [`free`](Self::free).
    #[inline(always)]
    unsafe fn capacity_hot(&self, block: NonNull<u8>) -> Option<usize> {
        let geometry = self.geometry;
        let number = self.number_of(block);
        if number >= self.hot_units.get() {
            return None;
        }
        let unit = number + geometry.first_block_unit();
        // SAFETY: as in `free_hot`.
        let code = unsafe { Region::of_block(block, geometry).code(unit, geometry) };
        exact_length(code.get()).map(|units| geometry.bytes(units))
    }

    #[cold]
    #[inline(never)]
    fn capacity_slow(&self, block: NonNull<u8>) -> usize {
        if self.settings.check { self.requested(block) } else { self.whole_capacity(block) }
    }

    /// The bytes of a live block, with `check` on those of its canary included.
    pub(super) fn whole_capacity(&self, block: NonNull<u8>) -> usize {
        match self.site(block) {
            Site::Large(bytes) => bytes,
            Site::Units(_, units) => units.len() << self.geometry.unit_shift(),
        }
    }

    /// Gives the tail of a live block back; returns the capacity that it keeps.
    ///
    /// # Safety
    /// As for [`free`](Self::free).
    ///
    /// # Panics
    /// As [`free`](Self::free).
    #[inline]
    pub(crate) unsafe fn shrink(&self, block: NonNull<u8>, size: usize) -> Result<usize, AllocError> {
        // 0 wraps around and is refused on the slow path.
        if size.wrapping_sub(1) < self.geometry.largest_exact()
            // SAFETY: the caller keeps the same contract.
            && let Some(capacity) = unsafe { self.capacity_hot(block) }
        {
            let units = self.geometry.units(size);
            let kept = self.geometry.bytes(units);
            if kept <= capacity {
                if kept < capacity {
                    // SAFETY: the caller vouches for the block, which is longer.
                    unsafe { self.cut_hot(block, units, self.geometry.units(capacity)) };
                }
                return Ok(kept);
            }
        }
        self.shrink_slow(block, size)
    }

    /// The slow path of [`shrink`](Self::shrink).
    #[cold]
    #[inline(never)]
    fn shrink_slow(&self, block: NonNull<u8>, size: usize) -> Result<usize, AllocError> {
        if size == 0 {
            return Err(AllocError::ZeroSize);
        }
        if self.settings.check {
            return self.shrink_checked(block, size);
        }
        self.shorten(block, size)
    }

    /// Gives the tail of a live block back; returns the capacity that it keeps.
    pub(super) fn shorten(&self, block: NonNull<u8>, size: usize) -> Result<usize, AllocError> {
        match self.site(block) {
            Site::Large(bytes) if size <= bytes => Ok(bytes),
            Site::Units(region, units) if size <= units.len() << self.geometry.unit_shift() => {
                let kept =
                    self.length_at(units.start, whole_length(self.geometry.units(size)) as usize).min(units.len());
                self.cut(region, units, kept);
                Ok(kept << self.geometry.unit_shift())
            }
            _ => Err(AllocError::NotSmaller),
        }
    }

    /// Gives a live block room for `size` bytes; also returns how many of its first bytes were kept.
    pub(super) fn resize(
        &self,
        block: NonNull<u8>,
        size: usize,
        how: Realloc,
    ) -> Result<(NonNull<[u8]>, usize), AllocError> {
        let site = self.site(block);
        let old = match &site {
            Site::Large(bytes) => *bytes,
            Site::Units(_, units) => units.len() << self.geometry.unit_shift(),
        };
        let keeps = |bytes: usize| if how == Realloc::CopyExisting { bytes } else { 0 };
        if let Some(resized) = self.resize_in_place(block, &site, size) {
            // All of the old bytes are still there, also those between the size and the capacity.
            return Ok((resized, keeps(old.min(resized.len()))));
        }
        let kept = keeps(old.min(size));
        let placed = self.allocate_hot(size).map_or_else(|| self.place_intact(size), Ok);
        let moved = match placed {
            Ok(moved) => moved,
            // A block that could move to less memory has the room all the same.
            Err(_) if size <= old => return Ok((NonNull::slice_from_raw_parts(block, old), keeps(old))),
            Err(error) => return Err(error),
        };
        // SAFETY: both are live blocks of at least `kept` bytes, and different ones.
        unsafe { moved.cast::<u8>().copy_from_nonoverlapping(block, kept) };
        if self.settings.check {
            self.free_filled(block, &site);
        } else {
            // SAFETY: the caller's block, which is live until now.
            unsafe { self.free(block) };
        }
        Ok((moved, kept))
    }

    /// Resizes a live block without copying it; `None` when there is no room.
    fn resize_in_place(&self, block: NonNull<u8>, site: &Site, size: usize) -> Option<NonNull<[u8]>> {
        match site {
            Site::Large(bytes) if size <= *bytes => {
                is_kept(*bytes, size).then(|| NonNull::slice_from_raw_parts(block, *bytes))
            }
            Site::Large(_) => self.grow_large(block, size),
            Site::Units(region, units) => {
                if !self.lies_in_region(size) {
                    return None;
                }
                let new = self.length_at(units.start, whole_length(self.geometry.units(size)) as usize);
                let mut end = units.start + new;
                if is_kept(units.len() << self.geometry.unit_shift(), size) {
                    end = units.end;
                } else if end < units.end {
                    self.cut(*region, units.clone(), new);
                } else if self.extend(*region, units.clone(), end) {
                    self.shown(*region, units.end..end);
                } else {
                    return None;
                }
                Some(NonNull::slice_from_raw_parts(block, (end - units.start) << self.geometry.unit_shift()))
            }
        }
    }

    /// The length of a block of `units` units that starts at `start`: longer where it would be a short one in two
    /// windows.
    fn length_at(&self, start: usize, units: usize) -> usize {
        let per_window = self.geometry.window_units();
        let is_in_one = start / per_window == (start + units - 1) / per_window;
        if is_in_one { units } else { units.max(FIRST_LONG as usize) }
    }

    /// Has the live block in `units` keep its first `kept` units.
    fn cut(&self, region: Region, units: Range<usize>, kept: usize) {
        if kept < units.len() {
            let geometry = self.geometry;
            let window = region.window(units.start / geometry.window_units(), geometry);
            window.map(geometry).set((units.start % geometry.window_units()) as u32, kept as u32);
            self.give_back(region, units.start, units.start + kept..units.end);
        }
    }

    /// Moves the end of the live block in `units` back, to `end`; false when what lies between is not free.
    fn extend(&self, region: Region, units: Range<usize>, end: usize) -> bool {
        let geometry = self.geometry;
        let per_window = geometry.window_units();
        // From there it would become a longer one, which does not start at the last unit of a window.
        let is_last_of_window = (units.start + 1).is_multiple_of(per_window);
        if end > geometry.region_units() || is_last_of_window {
            return false;
        }
        let index = (units.end - 1) / per_window;
        let window = region.window(index, geometry);
        let first = index * per_window;
        // What it takes of the window in which it ends now.
        let here = units.end..end.min(first + per_window);
        let in_window = (here.start - first) as u32..(here.end - first) as u32;
        let cold = &mut *self.cold.borrow_mut();
        let Some(of_extent) = self.is_free(window, in_window.clone()) else { return false };
        if !self.hold_discarded(cold, window) {
            return false;
        }
        if end > here.end {
            let windows = index + 1..end.div_ceil(per_window);
            let idle = region.header(geometry).idle.get();
            if idle.count_range(windows.clone()) < windows.len() || self.take_windows(cold, region, windows).is_err() {
                return false;
            }
        }
        if of_extent {
            // These units count already.
            self.cursor.set(self.cursor.get() + here.len());
            if units.start < first {
                window.lead.set(in_window.end);
            }
            self.lay(cold, region, units.start..here.end, end);
        } else {
            if self.window.get() == Some(window) {
                window.holes(geometry).clear_range(in_window.start as usize..in_window.end as usize);
            }
            self.lay(cold, region, units, end);
        }
        true
    }

    /// Cuts a live block into `blocks` of them: the first one of `first` bytes, each behind it of `part`, the last one
    /// of all that is left. Nothing moves. False, with nothing changed, where that is not possible: for a block that
    /// lies in several windows or in none, for lengths that are no whole units or that a map cannot keep, and with
    /// `check` on, which guards the end of a block.
    ///
    /// # Safety
    /// As for [`free`](Self::free).
    ///
    /// # Panics
    /// As [`free`](Self::free).
    #[cfg_attr(not(feature = "python"), allow(dead_code))]
    pub(crate) unsafe fn split(&self, block: NonNull<u8>, first: usize, part: usize, blocks: usize) -> bool {
        let geometry = self.geometry;
        let (unit, per_window) = (geometry.unit_bytes(), geometry.window_units());
        let Site::Units(region, units) = self.site(block) else { return false };
        let in_one_window = units.start / per_window == (units.end - 1) / per_window;
        if self.settings.check || !in_one_window || blocks < 2 || first == 0 || part == 0 {
            return false;
        }
        if !first.is_multiple_of(unit) || !part.is_multiple_of(unit) {
            return false;
        }
        let (first, part) = (first / unit, part / unit);
        let before_last = part.checked_mul(blocks - 2).and_then(|middle| middle.checked_add(first));
        let Some(last) = before_last.and_then(|before| units.len().checked_sub(before)).filter(|&last| last > 0) else {
            return false;
        };
        let is_whole = |units: usize| whole_length(units as u32) == units as u32;
        if !is_whole(first) || !is_whole(last) || (blocks > 2 && !is_whole(part)) {
            return false;
        }
        let map = region.window(units.start / per_window, geometry).map(geometry);
        let mut at = units.start % per_window;
        for place in 0..blocks {
            let length = match place {
                0 => first,
                _ if place == blocks - 1 => last,
                _ => part,
            };
            map.set(at as u32, length as u32);
            at += length;
        }
        true
    }

    /// Whether no block lies in these units of a window: `None` if one does, and otherwise whether they are the next
    /// ones of the extent.
    fn is_free(&self, window: Window, units: Range<u32>) -> Option<bool> {
        let mut bound = self.geometry.window_units() as u32;
        if let Some((current, extent)) = self.extent()
            && current == window
        {
            if units.start == extent.start && !extent.is_empty() {
                return (units.end <= extent.end).then_some(true);
            }
            if units.start <= extent.start {
                // The free units of the extent are spoken for.
                bound = extent.start;
            }
        }
        let free = units.end <= bound && window.map(self.geometry).next_start(units.clone()) == units.end;
        free.then_some(false)
    }
}

/// What is not worth giving back: less than the smallest page.
const KEPT_BYTES: usize = 4096;

/// Whether a block with room for `capacity` bytes keeps it when `size` is asked for: unless more than half of it, and a
/// page at least, would be of no use. `size` 0 is an error, which the slow path tells.
#[inline(always)]
fn is_kept(capacity: usize, size: usize) -> bool {
    size > 0 && size <= capacity && (capacity - size < KEPT_BYTES || capacity - size <= size)
}
