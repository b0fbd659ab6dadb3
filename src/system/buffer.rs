//! Memory that the user brings, for targets without an operating system.
//!
//! ```text
//! ┌────────────┬─────────────────┬──────────────┬─────────────────┐
//! │ in use     │ bytes, next     │ in use       │ bytes, next     │
//! └────────────┴─────────────────┴──────────────┴─────────────────┘
//!               └ a free run: its length and where the next one starts, in its own first bytes
//! ```
//!
//! Free runs are linked in order of address, never touch one another, and start and end at multiples of a grain.

use core::alloc::Layout;
use core::cell::Cell;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use super::{Role, System};

/// A [`System`] over a slice of memory: takes regions from the first place where they fit.
///
/// A window is aligned to its own size. Memory that is not loses up to a window's worth in front of the first one,
/// where only [large blocks in passthrough mode](crate::Config::passthrough) find room.
///
/// ```
/// use core::mem::MaybeUninit;
/// use pktalloc::system::Buffer;
/// use pktalloc::{AllocError, Allocator, Config};
///
/// #[repr(align(16384))]
/// struct Memory([MaybeUninit<u8>; 65_536]);
///
/// let mut memory = Memory([MaybeUninit::uninit(); 65_536]);
/// // Windows of 256 units of 64 bytes: 16 KiB, so that there are four.
/// let config = Config::<64, 256>::default();
/// let allocator = Allocator::with_config_in(config, Buffer::new(&mut memory.0))?;
/// let packets: Vec<_> = core::iter::from_fn(|| allocator.packet(1400).ok()).collect();
/// assert_eq!(packets.len(), 44);
/// assert_eq!(allocator.allocate(1400), Err(AllocError::OutOfMemory));
/// # Ok::<(), pktalloc::ConfigError>(())
/// ```
///
/// Both calls take time linear in the number of free runs.
#[derive(Debug)]
pub struct Buffer<'a> {
    start: NonNull<u8>,
    /// Where the first free run starts, in bytes from `start`; [`NONE`] when there is none.
    first: Cell<usize>,
    memory: PhantomData<&'a mut [MaybeUninit<u8>]>,
}

/// What lies at the start of a free run.
#[derive(Clone, Copy)]
#[repr(C)]
struct Run {
    bytes: usize,
    /// Where the next run starts, in bytes from the start of the buffer.
    next: usize,
}

/// Granule of lengths and positions: what a free run needs for itself.
const GRAIN: usize = size_of::<Run>();
/// Behind the last run.
const NONE: usize = usize::MAX;

const _: () = assert!(GRAIN.is_power_of_two() && GRAIN >= align_of::<Run>());

// SAFETY: the memory is borrowed mutably, so nobody else has it, and none of it cares which thread it is on.
unsafe impl Send for Buffer<'_> {}

impl<'a> Buffer<'a> {
    /// A system that hands out `memory`, less a few bytes at either end where it is not aligned to two words.
    #[must_use]
    pub fn new(memory: &'a mut [MaybeUninit<u8>]) -> Self {
        let skipped = memory.as_ptr().addr().wrapping_neg() % GRAIN;
        let memory = memory.get_mut(skipped..).unwrap_or_default();
        let bytes = memory.len() / GRAIN * GRAIN;
        let buffer = Self { start: NonNull::from(memory).cast(), first: Cell::new(NONE), memory: PhantomData };
        if bytes > 0 {
            buffer.first.set(0);
            buffer.write(0, Run { bytes, next: NONE });
        }
        buffer
    }

    /// Bytes that are in no region. Takes time linear in the number of free runs.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        let (mut bytes, mut at) = (0, self.first.get());
        while at != NONE {
            let run = self.read(at);
            bytes += run.bytes;
            at = run.next;
        }
        bytes
    }

    fn read(&self, at: usize) -> Run {
        // SAFETY: the callers pass where a free run starts, which `write` has written.
        unsafe { self.start.add(at).cast::<Run>().read() }
    }

    fn write(&self, at: usize, run: Run) {
        // SAFETY: the callers pass the multiple of a grain at which `run.bytes` free bytes start, a grain at least.
        unsafe { self.start.add(at).cast::<Run>().write(run) }
    }

    /// Makes `next` the run behind the one at `previous`, or the first one.
    fn link(&self, previous: Option<usize>, next: usize) {
        match previous {
            Some(at) => self.write(at, Run { next, ..self.read(at) }),
            None => self.first.set(next),
        }
    }

    /// Where a region of `size` bytes aligned to `align` would start in the run at `at`.
    fn fit(&self, at: usize, run: Run, size: usize, align: usize) -> Option<usize> {
        let address = self.start.addr().get() + at;
        let aligned = at + (address.checked_next_multiple_of(align)? - address);
        (aligned.checked_add(size)? <= at + run.bytes).then_some(aligned)
    }
}

// SAFETY: regions lie in memory that is borrowed for as long as the buffer exists, where it says that nothing is in
// use, and aligned. Nothing here unwinds or calls anything.
unsafe impl System for Buffer<'_> {
    fn allocate(&self, layout: Layout, _role: Role) -> Option<NonNull<u8>> {
        let size = layout.size().max(1).checked_next_multiple_of(GRAIN)?;
        let align = layout.align().max(GRAIN);
        let (mut previous, mut at) = (None, self.first.get());
        while at != NONE {
            let run = self.read(at);
            let Some(start) = self.fit(at, run, size, align) else {
                (previous, at) = (Some(at), run.next);
                continue;
            };
            let (front, back) = (start - at, at + run.bytes - (start + size));
            let mut next = run.next;
            if back > 0 {
                next = start + size;
                self.write(next, Run { bytes: back, next: run.next });
            }
            if front > 0 {
                self.write(at, Run { bytes: front, next });
            } else {
                self.link(previous, next);
            }
            // SAFETY: the region lies in the memory.
            return Some(unsafe { self.start.add(start) });
        }
        None
    }

    unsafe fn free(&self, region: NonNull<u8>, layout: Layout, _role: Role) {
        let start = region.addr().get() - self.start.addr().get();
        let mut run = Run { bytes: layout.size().max(1).next_multiple_of(GRAIN), next: self.first.get() };
        let mut previous = None;
        while run.next < start {
            previous = Some(run.next);
            run.next = self.read(run.next).next;
        }
        if run.next == start + run.bytes {
            let behind = self.read(run.next);
            run = Run { bytes: run.bytes + behind.bytes, next: behind.next };
        }
        match previous.map(|at| (at, self.read(at))) {
            Some((at, before)) if at + before.bytes == start => {
                self.write(at, Run { bytes: before.bytes + run.bytes, next: run.next });
            }
            _ => {
                self.write(start, run);
                self.link(previous, start);
            }
        }
    }
}
