//! Growing and shrinking blocks, in place where the room is there.

use core::ptr::NonNull;

use super::Heap;
use crate::descriptor::Window;
use crate::error::AllocError;
use crate::geometry::Geometry;
use crate::system::System;
use crate::window::{exact_length, whole_length};

/// What [`reallocate`](crate::Allocator::reallocate) does with the block's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Realloc {
    /// Keeps the first `min(old, new)` bytes.
    CopyExisting,
    /// Keeps nothing: what the block contains afterwards is unspecified, or zero with
    /// [`zero`](crate::Config::zero) on. Cheaper than copying when the block has to move.
    Uninitialized,
}

/// Where a live block lies.
#[derive(Clone, Copy)]
pub(super) enum Site {
    /// A run of units in a window.
    Units { window: Window, start: u32, end: u32 },
    /// Straight from the system, with this many bytes.
    Large { bytes: usize },
}

impl<G: Geometry, S: System> Heap<G, S> {
    /// Gives a live block room for `size` bytes, in place where that is possible.
    ///
    /// # Safety
    /// As for [`free`](Self::free).
    ///
    /// # Panics
    /// As [`free`](Self::free).
    pub(crate) unsafe fn reallocate(
        &self,
        block: NonNull<u8>,
        size: usize,
        how: Realloc,
    ) -> Result<NonNull<[u8]>, AllocError> {
        if size == 0 {
            return Err(AllocError::ZeroSize);
        }
        if self.settings.check {
            return self.reallocate_checked(block, size, how);
        }
        let (moved, kept) = self.resize(block, size, how)?;
        if self.settings.zero && kept < moved.len() {
            // SAFETY: the bytes behind the kept ones belong to the block and are not yet known to the caller.
            unsafe { moved.cast::<u8>().add(kept).write_bytes(0, moved.len() - kept) };
        }
        Ok(moved)
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
        let before = self.units_before(block);
        // 0 wraps around and is refused below.
        if size.wrapping_sub(1) < self.geometry.largest_exact()
            && self.settings.trusts_pointers()
            && before < self.units_behind_first()
        {
            // SAFETY: the caller vouches for the block; see `free`.
            let (window, code) = unsafe { self.entry_of(block, before) };
            let units = self.geometry.units(size);
            if let Some(more) = exact_length(code.get()).and_then(|old| old.checked_sub(units)) {
                if more > 0 {
                    code.set(units as u8);
                    // SAFETY: the tail lies in the block.
                    let tail = unsafe { block.add(self.geometry.bytes(units)) };
                    self.give_back_block(window, tail, more);
                }
                return Ok(self.geometry.bytes(units));
            }
        }
        self.shrink_slowly(block, size)
    }

    /// All that [`shrink`](Self::shrink) leaves over.
    #[cold]
    #[inline(never)]
    fn shrink_slowly(&self, block: NonNull<u8>, size: usize) -> Result<usize, AllocError> {
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
            Site::Large { bytes } if size <= bytes => Ok(bytes),
            Site::Units { window, start, end } if size <= self.geometry.bytes(end - start) => {
                let units = whole_length(self.geometry.units(size));
                self.cut(window, start, start + units, end);
                Ok(self.geometry.bytes(units))
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
        let old = match site {
            Site::Large { bytes } => bytes,
            Site::Units { start, end, .. } => self.geometry.bytes(end - start),
        };
        let kept = if how == Realloc::CopyExisting { old.min(size) } else { 0 };
        if let Some(capacity) = self.resize_in_place(site, size) {
            // All of the old bytes are still there, also those between the size and the capacity.
            let kept = if how == Realloc::CopyExisting { old.min(capacity) } else { 0 };
            return Ok((NonNull::slice_from_raw_parts(block, capacity), kept));
        }
        let moved = match (self.place_intact(size), site) {
            (Ok(moved), _) => moved,
            // A large block that could move to less memory has the room all the same.
            (Err(_), Site::Large { bytes }) if size <= bytes => {
                return Ok((
                    NonNull::slice_from_raw_parts(block, bytes),
                    if how == Realloc::CopyExisting { bytes } else { 0 },
                ));
            }
            (Err(error), _) => return Err(error),
        };
        // SAFETY: both are live blocks of at least `kept` bytes, and different ones.
        unsafe { moved.cast::<u8>().copy_from_nonoverlapping(block, kept) };
        self.release(block, site);
        Ok((moved, kept))
    }

    /// Resizes a live block where it lies; `None` when there is no room.
    fn resize_in_place(&self, site: Site, size: usize) -> Option<usize> {
        match site {
            Site::Large { bytes } => {
                let fits = size <= bytes && (self.settings.passthrough || size > self.geometry.largest_in_window());
                fits.then_some(bytes)
            }
            Site::Units { window, start, end } => {
                if size > self.geometry.largest_in_window() {
                    return None;
                }
                let new_end = start + whole_length(self.geometry.units(size));
                if new_end <= end {
                    self.cut(window, start, new_end, end);
                } else if self.extend(window, start, end, new_end) {
                    // SAFETY: the units lie in the window.
                    let behind = unsafe { window.base().add(self.geometry.bytes(end)) };
                    self.shown(behind, new_end - end);
                } else {
                    return None;
                }
                Some(self.geometry.bytes(new_end - start))
            }
        }
    }

    /// Moves the end of the live block at `start` forward, from `end` to `new_end`.
    fn cut(&self, window: Window, start: u32, new_end: u32, end: u32) {
        if new_end < end {
            window.map(self.geometry).set(start, new_end - start);
            self.give_back(window, new_end, end - new_end);
        }
    }

    /// Moves the end of the live block at `start` backward, from `end` to `new_end`; false when the units between are
    /// not free.
    fn extend(&self, window: Window, start: u32, end: u32, new_end: u32) -> bool {
        let map = window.map(self.geometry);
        let extent = self.extent().filter(|&(current, _)| current == window).map(|(_, extent)| extent);
        if let Some(extent) = &extent
            && end == extent.start
        {
            if new_end > extent.end {
                return false;
            }
            map.set(start, new_end - start);
            self.cursor.set(self.first_unit(window) + new_end as usize);
            return true;
        }
        // A block never reaches into the extent, whose free units are spoken for.
        let bound = match extent {
            Some(extent) if end < extent.start => extent.start,
            _ => self.geometry.window_units() as u32,
        };
        if new_end > bound || map.next_taken(end..new_end) < new_end {
            return false;
        }
        map.set(start, new_end - start);
        self.count(window, new_end - end);
        true
    }

    /// Cuts a live block into `blocks` of them: the first one of `first` bytes, each behind it of `part`, the last one of
    /// all that is left. Nothing moves. False, with nothing changed, where that is not possible: for a large block, for
    /// lengths that are no whole units or that a map cannot keep, and with `check` on, which guards the end of a block.
    ///
    /// # Safety
    /// As for [`free`](Self::free).
    ///
    /// # Panics
    /// As [`free`](Self::free).
    #[cfg_attr(not(feature = "python"), allow(dead_code))]
    pub(crate) unsafe fn split(&self, block: NonNull<u8>, first: usize, part: usize, blocks: usize) -> bool {
        let unit = self.geometry.unit_bytes();
        let Site::Units { window, start, end } = self.site(block) else { return false };
        if self.settings.check || !first.is_multiple_of(unit) || !part.is_multiple_of(unit) || first == 0 || part == 0 {
            return false;
        }
        let (total, first, part) = ((end - start) as usize, first / unit, part / unit);
        let before_last = part.checked_mul(blocks.saturating_sub(2)).and_then(|middle| middle.checked_add(first));
        let Some(last) = before_last.and_then(|before| total.checked_sub(before)).filter(|&last| last > 0) else {
            return false;
        };
        let kept = |units: usize| whole_length(units as u32) == units as u32;
        if blocks < 2 || !kept(first) || !kept(last) || (blocks > 2 && !kept(part)) {
            return false;
        }
        let map = window.map(self.geometry);
        let mut at = start;
        for place in 0..blocks {
            let units = if place == blocks - 1 {
                last
            } else if place == 0 {
                first
            } else {
                part
            } as u32;
            map.set(at, units);
            at += units;
        }
        debug_assert_eq!(at, end);
        true
    }

    /// Where a live block lies.
    ///
    /// # Panics
    /// When no live block starts at `block`.
    pub(super) fn site(&self, block: NonNull<u8>) -> Site {
        let before = self.units_before(block);
        if self.settings.trusts_pointers() && before < self.units_behind_first() {
            // SAFETY: the caller of `reallocate` or `shrink` vouches for the block; see `free`.
            let window = unsafe { Window::of_block(block, self.geometry) };
            let start = before as u32 + 1;
            if let Some(units) = window.map(self.geometry).block_at(start) {
                return Site::Units { window, start, end: start + units };
            }
        }
        match self.find(block) {
            Ok(site) => site,
            Err(error) => panic!("not a live block: {error}"),
        }
    }

    /// Frees the block at a site.
    pub(super) fn release(&self, block: NonNull<u8>, site: Site) {
        self.bury_block(block, site);
        self.release_untouched(block, site);
    }

    /// Frees the block at a site, with what it contains.
    pub(super) fn release_untouched(&self, block: NonNull<u8>, site: Site) {
        match site {
            Site::Large { .. } => {
                self.release_large(block.addr().get());
            }
            Site::Units { window, start, end } => {
                window.map(self.geometry).release(start);
                self.give_back(window, start, end - start);
            }
        }
    }
}
