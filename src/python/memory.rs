//! The memory behind an allocator object: the one place that knows the crate's heap. Everything that the Python face
//! asks of it is a method here, and no method runs Python code.
//!
//! What the rest of the Python face leans on: the bytes of every block stay mapped until the [`Memory`] is dropped,
//! also after the block was freed and after [`Memory::close`], and until then they are never used for bookkeeping. Some
//! users of the buffer protocol keep a pointer without an export (see [`super::retained`]).

use core::cell::{Ref, RefCell};
use core::ptr::NonNull;

use super::retained::{Kept, Retained};
use crate::config::Settings;
use crate::geometry::{Fixed, Runtime};
use crate::heap::Heap;
use crate::{AllocError, ConfigError, FreeError, IntegrityError, Occupancy, Realloc, Stats};

/// Bytes of a unit, unless another alignment is asked for.
pub(super) const DEFAULT_UNIT: usize = 64;
/// Units of a window, unless another window size is asked for.
pub(super) const DEFAULT_UNITS: usize = 2048;

/// A heap that can be closed while its memory may still be pointed to.
pub(super) struct Memory {
    /// `None` once closed.
    heap: RefCell<Option<AnyHeap>>,
    /// Keeps the addresses of freed blocks mapped.
    kept: Kept,
}

impl Memory {
    /// Takes no memory for blocks yet; `None` when there is none for the bookkeeping.
    pub(super) fn new(alignment: usize, window_bytes: usize, settings: Settings) -> Option<Result<Self, ConfigError>> {
        let kept = Kept::new()?;
        // SAFETY: the heap goes first, see the order of the fields.
        let heap = AnyHeap::new(alignment, window_bytes, settings, unsafe { kept.handle() });
        Some(heap.map(|heap| Self { heap: RefCell::new(Some(heap)), kept }))
    }

    /// The heap, unless it is closed. No Python code may run while it is borrowed.
    #[inline(always)]
    pub(super) fn heap(&self) -> Option<Ref<'_, AnyHeap>> {
        Ref::filter_map(self.heap.borrow(), Option::as_ref).ok()
    }

    /// Frees every block and gives all pages back; the addresses stay mapped.
    pub(super) fn close(&self) {
        self.heap.take();
    }

    /// Gives back what no block needs; returns how many bytes that were.
    pub(super) fn trim(&self) -> Option<u64> {
        let bytes = self.heap()?.trim();
        self.kept.trim();
        Some(bytes)
    }
}

/// A heap of either kind of geometry: the default one is known at compile time, which makes it faster, any other is
/// chosen at run time.
pub(super) enum AnyHeap {
    Default(Heap<Fixed<DEFAULT_UNIT, DEFAULT_UNITS, Retained>, Retained>),
    Chosen(Heap<Runtime, Retained>),
}

/// Calls the same method of either heap.
macro_rules! either {
    ($self:ident, $heap:ident => $call:expr) => {
        match $self {
            Self::Default($heap) => $call,
            Self::Chosen($heap) => $call,
        }
    };
}

impl AnyHeap {
    fn new(alignment: usize, window_bytes: usize, settings: Settings, memory: Retained) -> Result<Self, ConfigError> {
        if (alignment, window_bytes) == (DEFAULT_UNIT, DEFAULT_UNIT * DEFAULT_UNITS) {
            Heap::with_settings(Fixed::new(), settings, memory).map(Self::Default)
        } else {
            Heap::with_settings(Runtime::new::<Retained>(alignment, window_bytes)?, settings, memory).map(Self::Chosen)
        }
    }

    #[inline]
    pub(super) fn allocate(&self, size: usize) -> Result<NonNull<[u8]>, AllocError> {
        either!(self, heap => heap.allocate(size))
    }

    #[inline]
    pub(super) fn allocate_batch(&self, size: usize, blocks: &mut [NonNull<u8>]) -> Result<usize, AllocError> {
        either!(self, heap => heap.allocate_batch(size, blocks))
    }

    /// # Safety
    /// `block` is a live block of this heap, with the pointer that it was handed out with.
    #[inline]
    pub(super) unsafe fn free(&self, block: NonNull<u8>) {
        // SAFETY: the caller's promise.
        either!(self, heap => unsafe { heap.free(block) });
    }

    /// # Safety
    /// As for [`free`](Self::free).
    pub(super) unsafe fn try_free(&self, block: NonNull<u8>) -> Result<(), FreeError> {
        either!(self, heap => heap.try_free(block, None))
    }

    /// # Safety
    /// As for [`free`](Self::free); on `Ok` only the returned block is live.
    pub(super) unsafe fn reallocate(
        &self,
        block: NonNull<u8>,
        size: usize,
        how: Realloc,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's promise.
        either!(self, heap => unsafe { heap.reallocate(block, size, how) })
    }

    /// # Safety
    /// As for [`free`](Self::free).
    #[inline]
    pub(super) unsafe fn shrink(&self, block: NonNull<u8>, size: usize) -> Result<usize, AllocError> {
        // SAFETY: the caller's promise.
        either!(self, heap => unsafe { heap.shrink(block, size) })
    }

    /// Cuts a block into `blocks` of them without moving anything: the first one of `first` bytes, each behind it of
    /// `part`, the last one of all that is left. False, with nothing changed, where that is not possible.
    ///
    /// # Safety
    /// As for [`free`](Self::free).
    pub(super) unsafe fn split(&self, block: NonNull<u8>, first: usize, part: usize, blocks: usize) -> bool {
        // SAFETY: the caller's promise.
        either!(self, heap => unsafe { heap.split(block, first, part, blocks) })
    }

    pub(super) fn used_bytes(&self) -> u64 {
        either!(self, heap => heap.used_bytes())
    }

    pub(super) fn allocated_bytes(&self) -> u64 {
        either!(self, heap => heap.allocated_bytes())
    }

    pub(super) fn stats(&self) -> Stats {
        either!(self, heap => heap.stats())
    }

    /// `None` when there is no memory for the answer.
    pub(super) fn windows(&self) -> Option<Vec<Occupancy>> {
        either!(self, heap => heap.try_windows()).ok()
    }

    pub(super) fn integrity_check(&self) -> Result<(), IntegrityError> {
        either!(self, heap => heap.integrity_check())
    }

    fn trim(&self) -> u64 {
        either!(self, heap => heap.trim())
    }
}
