//! Verified frees, and what the `check` setting adds: the self-check around every call, canaries, and free units whose
//! content is known ([`super::filled`]).
//!
//! ```text
//! block  ├── size that was asked for ──┼── canary, at least 16 bytes ──┤
//! ```
//!
//! The size that was asked for is kept outside of the block, so that no write can reach it. The self-check runs before
//! a call changes anything; in debug builds again behind it, where only a defect of this crate can make it fail.

use core::ptr::NonNull;

use super::filled::{expect_freed, fill};
use super::find::Site;
use super::{Heap, Realloc};
use crate::error::{AllocError, FreeError, IntegrityError, Overflow};
use crate::geometry::Geometry;
use crate::system::System;

/// The fewest canary bytes behind a block.
const CANARY_BYTES: usize = 16;
/// What canary bytes contain; neither 0 nor 0xff, which stray writes often are.
const CANARY: u8 = 0xC5;

impl<G: Geometry, S: System> Heap<G, S> {
    /// Frees a block after finding out that there is one at `block`, which may be any pointer, and with `check` on
    /// that it is of `size` bytes, if that is told.
    pub(crate) fn try_free(&self, block: NonNull<u8>, size: Option<usize>) -> Result<(), FreeError> {
        self.verify().map_err(FreeError::Damaged)?;
        let site = self.find(block)?;
        if let Some(size) = size {
            self.expect_size(block, size)?;
        }
        if self.settings.check {
            self.cold.borrow_mut().requested.remove(block.addr().get());
        }
        self.free_filled(block, &site);
        self.count_free();
        debug_assert_eq!(self.verify(), Ok(()));
        Ok(())
    }

    /// With `check` on, whether the block at a site was asked for with `size` bytes.
    fn expect_size(&self, block: NonNull<u8>, size: usize) -> Result<(), FreeError> {
        let requested = self.requested(block);
        if !self.settings.check || size == requested {
            return Ok(());
        }
        Err(FreeError::WrongSize { address: block.addr().get(), size, requested })
    }

    /// With `check` on, the self-check.
    fn verify(&self) -> Result<(), IntegrityError> {
        if self.settings.check { self.bookkeeping_check() } else { Ok(()) }
    }

    /// A block of at least `size` bytes, with whatever it contains; with `check` on, only if nobody wrote to its bytes
    /// since they were freed.
    pub(super) fn place_intact(&self, size: usize) -> Result<NonNull<[u8]>, AllocError> {
        let block = self.place(size)?;
        if self.settings.check
            && let site @ Site::Units(..) = self.site(block.cast())
        {
            // SAFETY: the block lies in a region, and its units were free until now.
            if unsafe { expect_freed(block) }.is_err() {
                // As it was, so that the self-check can say what is wrong.
                self.free_at(block.cast(), &site);
                return Err(AllocError::Damaged);
            }
        }
        Ok(block)
    }

    /// Frees the block at a site; with `check` on, fills its units first.
    pub(super) fn free_filled(&self, block: NonNull<u8>, site: &Site) {
        if self.settings.check
            && let Site::Units(region, units) = site
        {
            // SAFETY: the block is live until it is freed below, and its owner does not use it any more.
            unsafe { fill(region.bytes(units.clone(), self.geometry())) };
        }
        self.free_at(block, site);
    }

    /// Frees the block at a site, with what it contains.
    fn free_at(&self, block: NonNull<u8>, site: &Site) {
        match site {
            Site::Large(_) => {
                self.release_large(block.addr().get());
            }
            Site::Units(region, units) => {
                let geometry = self.geometry();
                let window = region.window(units.start / geometry.window_units(), geometry);
                window.map(geometry).release((units.start % geometry.window_units()) as u32);
                self.give_back(*region, units.start, units.clone());
            }
        }
    }

    /// The bytes of the block at `block` between two capacities.
    fn tail(&self, block: NonNull<u8>, from: usize, to: usize) -> NonNull<[u8]> {
        // SAFETY: the caller passes capacities of a block in a region, which bound runs of units of that region.
        NonNull::slice_from_raw_parts(unsafe { block.add(from) }, to - from)
    }

    /// [`allocate`](Self::allocate) with `check` on.
    pub(super) fn allocate_checked(&self, size: usize) -> Result<NonNull<[u8]>, AllocError> {
        self.verify().map_err(|_| AllocError::Damaged)?;
        self.cold.borrow_mut().requested.reserve(1).map_err(|_| AllocError::OutOfMemory)?;
        let block = self.place_intact(with_canary(size)?)?;
        self.cold.borrow_mut().requested.insert(block.addr().get(), size);
        let block = self.guard(block, size, if self.settings.zero { 0 } else { size });
        debug_assert_eq!(self.verify(), Ok(()));
        Ok(block)
    }

    /// [`reallocate`](Self::reallocate) with `check` on.
    pub(super) fn reallocate_checked(
        &self,
        block: NonNull<u8>,
        size: usize,
        how: Realloc,
    ) -> Result<NonNull<[u8]>, AllocError> {
        self.verify().map_err(|_| AllocError::Damaged)?;
        let (old, old_capacity) = (self.requested(block), self.whole_capacity(block));
        let (moved, kept) = self.resize(block, with_canary(size)?, how)?;
        if moved.cast() == block && moved.len() > old_capacity && matches!(self.site(block), Site::Units(..)) {
            // SAFETY: the block grew over these units, which were free until now.
            if unsafe { expect_freed(self.tail(block, old_capacity, moved.len())) }.is_err() {
                self.shorten(block, old_capacity)?;
                return Err(AllocError::Damaged);
            }
        } else if moved.cast() == block && moved.len() < old_capacity {
            // SAFETY: these units were cut off the block; nothing has released a window since.
            unsafe { fill(self.tail(block, moved.len(), old_capacity)) };
        }
        let cold = &mut *self.cold.borrow_mut();
        // The entry for the old block makes room for that of the new one.
        cold.requested.remove(block.addr().get());
        cold.requested.insert(moved.addr().get(), size);
        let kept = if self.settings.zero { kept.min(old) } else { size };
        Ok(self.guard(moved, size, kept))
    }

    /// [`shrink`](Self::shrink) with `check` on.
    pub(super) fn shrink_checked(&self, block: NonNull<u8>, size: usize) -> Result<usize, AllocError> {
        self.verify().map_err(|_| AllocError::Damaged)?;
        if size > self.requested(block) {
            return Err(AllocError::NotSmaller);
        }
        let old_capacity = self.whole_capacity(block);
        let capacity = self.shorten(block, with_canary(size)?)?;
        // SAFETY: these units were cut off the block; nothing has released a window since.
        unsafe { fill(self.tail(block, capacity, old_capacity)) };
        self.cold.borrow_mut().requested.replace(block.addr().get(), size);
        self.guard(NonNull::slice_from_raw_parts(block, capacity), size, size);
        Ok(size)
    }

    /// The size that was asked for.
    pub(super) fn requested(&self, block: NonNull<u8>) -> usize {
        match self.cold.borrow().requested.get(block.addr().get()) {
            Some(size) => size,
            // Not a live block: `site` says why.
            None => self.whole_capacity(block),
        }
    }

    /// Zeroes a block from `kept` to `size` and fills the rest with canary bytes; returns its first `size` bytes.
    fn guard(&self, block: NonNull<[u8]>, size: usize, kept: usize) -> NonNull<[u8]> {
        let start = block.cast::<u8>();
        // SAFETY: the block is live and `block.len()` bytes long, and `kept <= size <= block.len()`.
        unsafe {
            if kept < size {
                start.add(kept).write_bytes(0, size - kept);
            }
            start.add(size).write_bytes(CANARY, block.len() - size);
        }
        NonNull::slice_from_raw_parts(start, size)
    }

    /// Whether the canary of the block of `capacity` bytes at `block`, of which `size` were asked for, is whole.
    pub(super) fn canary_is_whole(&self, block: NonNull<u8>, size: usize, capacity: usize) -> Result<(), Overflow> {
        // SAFETY: with `check` on, the bytes from `size` to `capacity` of a live block are written by `guard`, and
        // the caller passes the sizes of a live block.
        let canary = unsafe { core::slice::from_raw_parts(block.add(size).as_ptr(), capacity - size) };
        match canary.iter().rposition(|&byte| byte != CANARY) {
            None => Ok(()),
            Some(last) => Err(Overflow { block: block.addr().get(), size, past_end: last + 1 }),
        }
    }
}

/// The size of a block with room for its canary.
pub(super) fn with_canary(size: usize) -> Result<usize, AllocError> {
    size.checked_add(CANARY_BYTES).ok_or(AllocError::TooLarge)
}
