//! The public allocator: [`Heap`] with a geometry that is known at compile time.

use alloc::vec::Vec;
use core::fmt;
use core::ptr::NonNull;

use crate::config::{Config, ConfigError, Settings};
use crate::error::{AllocError, FreeError, IntegrityError};
use crate::geometry::Fixed;
use crate::heap::{Heap, Realloc};
use crate::stats::{Occupancy, Stats};
#[cfg(feature = "std")]
use crate::system::Os;
use crate::system::System;

/// An allocator for packets: one instance with its own windows.
///
/// `UNIT` is the granule and the alignment of every block in bytes (a power of two from 16 to 4096; 64 is a cache
/// line), `WINDOW_UNITS` the units of a window (a power of two from 64 to 65,536; 2048 units of 64 bytes are 128 KiB),
/// and `S` where memory comes from. Other values do not compile.
///
/// Every method takes `&self`. An allocator is for one thread at a time: it can be sent to another thread, not shared
/// between two. Moving it never moves a block. Dropping it frees every block, large ones included.
///
/// A block is at least as long as was asked for: whole units, and the returned slice spans all of them. Up to a window
/// it lies in one; above that it is a span of windows side by side; what is longer than a region (8 MiB, less its
/// bookkeeping) is mapped by itself.
///
/// ```
/// use pktalloc::{Allocator, Realloc};
///
/// let allocator = Allocator::new();
/// let block = allocator.allocate(1400)?;
/// assert_eq!(block.len(), 1408); // 22 units of 64 bytes
/// assert!(block.cast::<u8>().addr().get() % 64 == 0);
///
/// // SAFETY: `block` is live, and afterwards only the block that it became is used.
/// let block = unsafe { allocator.reallocate(block.cast(), 2000, Realloc::CopyExisting)? };
/// assert_eq!(allocator.used_bytes(), 2048);
/// // SAFETY: `block` is live and not used afterwards.
/// unsafe { allocator.free(block.cast()) };
/// assert_eq!(allocator.used_bytes(), 0);
/// # Ok::<(), pktalloc::AllocError>(())
/// ```
#[cfg(feature = "std")]
pub struct Allocator<const UNIT: usize = 64, const WINDOW_UNITS: usize = 2048, S: System = Os> {
    pub(crate) heap: Heap<Fixed<UNIT, WINDOW_UNITS, S>, S>,
}

/// See the documentation with the feature `std`, with which `S` has a default.
#[cfg(not(feature = "std"))]
pub struct Allocator<const UNIT: usize, const WINDOW_UNITS: usize, S: System> {
    pub(crate) heap: Heap<Fixed<UNIT, WINDOW_UNITS, S>, S>,
}

#[cfg(feature = "std")]
impl Allocator {
    /// An allocator of the default shape and configuration. Asks the system for nothing until the first allocation.
    ///
    /// For another shape: `Allocator::<32, 1024>::default()`.
    #[must_use]
    pub const fn new() -> Self {
        Self::new_in(Os)
    }
}

#[cfg(feature = "std")]
impl<const UNIT: usize, const WINDOW_UNITS: usize> Allocator<UNIT, WINDOW_UNITS> {
    /// An allocator that behaves as `config` says. Asks the system for nothing until the first allocation.
    ///
    /// # Errors
    /// [`ConfigError`] names a setting that makes no sense, and what is allowed.
    pub fn with_config(config: Config<UNIT, WINDOW_UNITS>) -> Result<Self, ConfigError> {
        Self::with_config_in(config, Os)
    }
}

#[cfg(feature = "std")]
impl<const UNIT: usize, const WINDOW_UNITS: usize> Default for Allocator<UNIT, WINDOW_UNITS> {
    fn default() -> Self {
        Self::new_in(Os)
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Allocator<UNIT, WINDOW_UNITS, S> {
    /// An allocator of the default configuration that takes its memory from `system`. Asks it for nothing until the
    /// first allocation, so that it can be made in a constant or a static.
    ///
    /// ```
    /// # #[cfg(not(feature = "std"))] fn main() {}
    /// # #[cfg(feature = "std")] fn main() -> Result<(), pktalloc::AllocError> {
    /// use pktalloc::Allocator;
    /// use pktalloc::system::Os; // or a system of yours
    /// use std::sync::Mutex;
    ///
    /// static ALLOCATOR: Mutex<Allocator<64, 256, Os>> = Mutex::new(Allocator::new_in(Os));
    ///
    /// let allocator = ALLOCATOR.lock().unwrap();
    /// assert_eq!(allocator.packet_from(b"ping")?, b"ping");
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub const fn new_in(system: S) -> Self {
        Self { heap: Heap::new(Fixed::new(), Settings::new(), system) }
    }

    /// An allocator that behaves as `config` says and takes its memory from `system`.
    ///
    /// # Errors
    /// As for [`with_config`](Allocator::with_config).
    pub fn with_config_in(config: Config<UNIT, WINDOW_UNITS>, system: S) -> Result<Self, ConfigError> {
        Heap::with_settings(Fixed::new(), config.settings, system).map(|heap| Self { heap })
    }

    /// A block of at least `size` bytes, aligned to `UNIT`. What it contains is unspecified and may be uninitialised.
    ///
    /// The length of the slice is the block's capacity: `size` rounded up to whole units; with
    /// [`check`](Config::check) on exactly `size`.
    ///
    /// Takes constant time, except when the extent is used up: then time linear in the units of a few windows, or a
    /// call to the system. A call that is refused memory looks for holes in a bounded number of windows, and the next
    /// one goes on from there.
    ///
    /// # Errors
    /// [`AllocError::ZeroSize`]; [`AllocError::TooLarge`]; [`AllocError::OutOfMemory`] and
    /// [`AllocError::MemoryLimit`], after which everything allocated so far is as it was and the allocator goes on
    /// working; [`AllocError::Damaged`] with `check` on.
    #[inline]
    pub fn allocate(&self, size: usize) -> Result<NonNull<[u8]>, AllocError> {
        self.heap.allocate(size)
    }

    /// A block like [`allocate`](Self::allocate)'s, with every byte of its capacity zero.
    ///
    /// # Errors
    /// As for [`allocate`](Self::allocate).
    pub fn allocate_zeroed(&self, size: usize) -> Result<NonNull<[u8]>, AllocError> {
        self.heap.allocate_zeroed(size)
    }

    /// A block for each element of `blocks`, all of `size` bytes; returns the capacity of each. All or none.
    ///
    /// ```
    /// use core::ptr::NonNull;
    /// let allocator = pktalloc::Allocator::new();
    /// let mut burst = [NonNull::dangling(); 64];
    /// let capacity = allocator.allocate_batch(1400, &mut burst)?;
    /// assert_eq!(capacity, 1408);
    /// // SAFETY: the blocks are live and not used afterwards.
    /// unsafe { allocator.free_batch(&burst) };
    /// # Ok::<(), pktalloc::AllocError>(())
    /// ```
    ///
    /// # Errors
    /// As for [`allocate`](Self::allocate); then no block was allocated, and what `blocks` contains is unspecified.
    pub fn allocate_batch(&self, size: usize, blocks: &mut [NonNull<u8>]) -> Result<usize, AllocError> {
        self.heap.allocate_batch(size, blocks)
    }

    /// Gives a block room for `size` bytes, in place when it has the room or what lies behind it is free, also over
    /// whole windows. Otherwise the block moves: the old one is freed. A block beyond a region grows without being
    /// copied.
    ///
    /// A block that has the room keeps it, so that a buffer that is used again and again stays where it is, unless more
    /// than half of it, and 4096 bytes at least, would be of no use; that is then given back. [`shrink`](Self::shrink)
    /// gives back to the unit.
    ///
    /// For a block that has the room this is a load and two comparisons.
    ///
    /// # Errors
    /// As for [`allocate`](Self::allocate). The block is untouched then and still live.
    ///
    /// # Panics
    /// As [`free`](Self::free).
    ///
    /// # Safety
    /// As for [`free`](Self::free); on `Ok` only the returned block is live.
    #[inline]
    pub unsafe fn reallocate(
        &self,
        block: NonNull<u8>,
        size: usize,
        how: Realloc,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller keeps the same contract.
        unsafe { self.heap.reallocate(block, size, how) }
    }

    /// Bytes that a block has: what [`reallocate`](Self::reallocate) can use without moving it. One load; with
    /// [`check`](Config::check) on it is what was asked for.
    ///
    /// ```
    /// let allocator = pktalloc::Allocator::new();
    /// let block = allocator.allocate(1400)?;
    /// // SAFETY: the block is live.
    /// assert_eq!(unsafe { allocator.capacity(block.cast()) }, 1408);
    /// # Ok::<(), pktalloc::AllocError>(())
    /// ```
    ///
    /// # Panics
    /// As [`free`](Self::free).
    ///
    /// # Safety
    /// As for [`free`](Self::free), but the block stays live.
    #[inline]
    #[must_use]
    pub unsafe fn capacity(&self, block: NonNull<u8>) -> usize {
        // SAFETY: the caller keeps the same contract.
        unsafe { self.heap.capacity(block) }
    }

    /// Gives the units behind the first `size` bytes of a block back at once. Never moves the block.
    ///
    /// After `allocate(2048)`, a receive of 900 bytes and `shrink(900)`, the next block starts right behind the 900.
    /// A block beyond a region keeps its memory until it is freed.
    ///
    /// # Errors
    /// [`AllocError::ZeroSize`]; [`AllocError::NotSmaller`] when `size` is beyond the block's capacity;
    /// [`AllocError::Damaged`] with `check` on. The block is untouched then.
    ///
    /// # Panics
    /// As [`free`](Self::free).
    ///
    /// # Safety
    /// As for [`free`](Self::free); the bytes behind the new capacity are no longer the caller's.
    #[inline]
    pub unsafe fn shrink(&self, block: NonNull<u8>, size: usize) -> Result<(), AllocError> {
        // SAFETY: the caller keeps the same contract.
        unsafe { self.heap.shrink(block, size) }.map(drop)
    }

    /// Frees a block. Takes constant time for blocks of up to a window; for longer ones time logarithmic in the number
    /// of regions, and linear in the windows that a span takes. A free gives at most one window back to the system.
    ///
    /// # Panics
    /// When `block` points into a window of this allocator but not at a live block: a double free or an interior
    /// pointer. Nothing was changed then. With [`check`](Config::check) on, whenever [`try_free`](Self::try_free) would
    /// return an error. On a thread that panics already, where a second panic would end the process, the block stays.
    ///
    /// # Safety
    /// `block` came from this allocator, was not freed since, and is not used afterwards. The pointer is derived from
    /// the one that was handed out.
    #[inline]
    pub unsafe fn free(&self, block: NonNull<u8>) {
        // SAFETY: the caller keeps the same contract.
        unsafe { self.heap.free(block) }
    }

    /// Frees a block of `size` bytes: the size that was last asked for, the capacity, or anything between.
    ///
    /// Takes less time than [`free`](Self::free) where lengths alternate; with [`check`](Config::check) on, the size is
    /// verified.
    ///
    /// ```
    /// let allocator = pktalloc::Allocator::new();
    /// let packet = allocator.allocate(1400)?;
    /// // SAFETY: the block is live and not used afterwards.
    /// unsafe { allocator.free_sized(packet.cast(), 1400) };
    /// # Ok::<(), pktalloc::AllocError>(())
    /// ```
    ///
    /// # Panics
    /// As [`free`](Self::free), and with [`check`](Config::check) on when `size` is not exactly what was asked for;
    /// with `check` off a wrong size does no harm.
    ///
    /// # Safety
    /// As for [`free`](Self::free).
    #[inline]
    pub unsafe fn free_sized(&self, block: NonNull<u8>, size: usize) {
        // SAFETY: the caller keeps the same contract.
        unsafe { self.heap.free_sized(block, size) }
    }

    /// Frees every block of a slice, as [`free`](Self::free) would one after the other.
    ///
    /// # Panics
    /// As [`free`](Self::free), at the first block that is not live; those before it are freed.
    ///
    /// # Safety
    /// As for [`free`](Self::free), for each of the blocks.
    pub unsafe fn free_batch(&self, blocks: &[NonNull<u8>]) {
        // SAFETY: the caller keeps the same contract.
        unsafe { self.heap.free_batch(blocks) }
    }

    /// Frees a block after finding out that there is one. Any pointer value may be passed; none is read through.
    ///
    /// Takes time logarithmic in the number of regions.
    ///
    /// ```
    /// use pktalloc::{Allocator, FreeError};
    /// let allocator = Allocator::new();
    /// let block = allocator.allocate(100)?.cast::<u8>();
    /// // SAFETY: if this frees a block, it is not used afterwards.
    /// unsafe {
    ///     assert!(matches!(allocator.try_free(block.add(1)), Err(FreeError::Interior { .. })));
    ///     assert!(allocator.try_free(block).is_ok());
    ///     assert!(matches!(allocator.try_free(block), Err(FreeError::DoubleFree { .. })));
    /// }
    /// # Ok::<(), pktalloc::AllocError>(())
    /// ```
    ///
    /// # Errors
    /// [`FreeError`] names what `block` is instead. Nothing was changed then.
    ///
    /// # Safety
    /// If a live block starts at `block`, it is not used after it was freed.
    pub unsafe fn try_free(&self, block: NonNull<u8>) -> Result<(), FreeError> {
        self.heap.try_free(block, None)
    }

    /// Moves `value` into a block of its own.
    ///
    /// Dropping the allocator frees the memory without dropping the value; [`destruct`](Self::destruct) drops it.
    ///
    /// # Errors
    /// As for [`allocate`](Self::allocate), and [`AllocError::Alignment`] when `T` needs more than `UNIT`. `value` is
    /// dropped then.
    ///
    /// ```
    /// let allocator = pktalloc::Allocator::new();
    /// let header = allocator.construct([4u32, 7, 9])?;
    /// // SAFETY: the object is live, and not used after it was destructed.
    /// unsafe {
    ///     assert_eq!(header.as_ref()[1], 7);
    ///     allocator.destruct(header);
    /// }
    /// # Ok::<(), pktalloc::AllocError>(())
    /// ```
    pub fn construct<T>(&self, value: T) -> Result<NonNull<T>, AllocError> {
        if align_of::<T>() > UNIT {
            return Err(AllocError::Alignment);
        }
        // An object without bytes has a block like any other, so that it has an address of its own.
        let object = self.allocate(size_of::<T>().max(1))?.cast::<T>();
        // SAFETY: the block is large enough, aligned to a unit and ours.
        unsafe { object.write(value) };
        Ok(object)
    }

    /// Drops an object and frees its block, even when the drop panics.
    ///
    /// # Panics
    /// As [`free`](Self::free), and when dropping the object panics.
    ///
    /// # Safety
    /// `object` came from [`construct`](Self::construct) of this allocator, was not destructed since, and is not used
    /// afterwards.
    pub unsafe fn destruct<T>(&self, object: NonNull<T>) {
        struct Block<'a, const UNIT: usize, const WINDOW_UNITS: usize, S: System> {
            allocator: &'a Allocator<UNIT, WINDOW_UNITS, S>,
            block: NonNull<u8>,
        }
        impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Drop for Block<'_, UNIT, WINDOW_UNITS, S> {
            fn drop(&mut self) {
                // SAFETY: the caller of `destruct` vouches for the block.
                unsafe { self.allocator.free(self.block) }
            }
        }
        let _block = Block { allocator: self, block: object.cast() };
        // SAFETY: the caller vouches for the object.
        unsafe { object.drop_in_place() };
    }

    /// Bytes of live blocks, in whole units, large blocks included. Takes constant time.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.heap.used_bytes()
    }

    /// Bytes taken from the system: windows that are in use or kept empty, the bookkeeping in use, and blocks beyond a
    /// region. Takes constant time.
    #[must_use]
    pub fn allocated_bytes(&self) -> u64 {
        self.heap.allocated_bytes()
    }

    /// All figures of this moment. Takes time linear in the number of windows.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.heap.stats()
    }

    /// The occupancy of every window, in order of address: for maps and tests.
    #[must_use]
    pub fn windows(&self) -> Vec<Occupancy> {
        self.heap.windows()
    }

    /// The self-check: walks all bookkeeping, and with [`check`](Config::check) on the canary of every block. Takes
    /// time linear in the memory held.
    ///
    /// # Errors
    /// [`IntegrityError`] says what is damaged, and where.
    pub fn integrity_check(&self) -> Result<(), IntegrityError> {
        self.heap.integrity_check()
    }

    /// Gives every page without a live byte back to the system, down to the preallocated windows: empty windows, and
    /// the holes of windows with blocks; returns how many bytes. What the system refuses to take back does not count.
    ///
    /// Takes time linear in the memory held. With [`check`](Config::check) on, holes stay.
    pub fn trim(&self) -> usize {
        // What lies in this address space fits a `usize`.
        self.heap.trim() as usize
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> fmt::Debug for Allocator<UNIT, WINDOW_UNITS, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Allocator<{UNIT}, {WINDOW_UNITS}> {{ {} }}", self.stats())
    }
}
