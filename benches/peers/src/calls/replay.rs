//! Carries out the calls of a trace on a subject.

use std::ptr::{self, NonNull};

use pktalloc::Realloc;

use super::heaps::Heaps;
use super::trace::{Call, Kind, Trace};
use crate::subject::{Block, Plan};

/// How much of a block is written when it is allocated or reallocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Bytes {
    /// The first byte
    First,
    /// Every byte that was asked for
    Every,
}

/// A subject with the allocators and blocks of a trace.
pub(crate) struct Player<'a, H: Heaps> {
    subject: H,
    trace: &'a Trace,
    bytes: Bytes,
    heaps: Vec<Option<H::Heap>>,
    blocks: Vec<Block>,
}

/// What was seen call by call.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Observed {
    /// The most bytes that all allocators together held from the system, if they say so.
    pub(crate) peak: Option<u64>,
    /// Reallocations.
    pub(crate) reallocations: usize,
    /// Those of them that moved the block.
    pub(crate) moved: usize,
}

impl<'a, H: Heaps> Player<'a, H> {
    /// Gets ready.
    pub(crate) fn new(trace: &'a Trace, bytes: Bytes) -> Result<Self, String> {
        // Every block of at least 64 bytes, as floors and pools round them up.
        let peak = usize::try_from(trace.peak).map_err(|_| "the trace holds more than this machine can address")?;
        let subject = H::start(&Plan { peak: peak + 64 * trace.blocks, largest: trace.largest })?;
        let heaps = (0..trace.allocators).map(|_| None).collect();
        let blocks = vec![Block { address: NonNull::dangling(), size: 0 }; trace.blocks];
        Ok(Self { subject, trace, bytes, heaps, blocks })
    }

    /// Carries out all calls of the file.
    pub(crate) fn play(&mut self) {
        // SAFETY: the trace was checked, and its calls are carried out in their order.
        unsafe { self.run(&self.trace.calls) };
    }

    /// Drops the allocators that the file leaves.
    pub(crate) fn close(&mut self) {
        // SAFETY: as in `play`; this comes after all calls.
        unsafe { self.run(&self.trace.closing) };
    }

    /// Carries out all calls of the file and looks at the subject after each.
    pub(crate) fn observe(&mut self) -> Observed {
        let mut seen = Observed::default();
        let mut held = vec![0; self.heaps.len()];
        let mut total = 0;
        for &call in &self.trace.calls {
            let reallocates = matches!(call.kind, Kind::ReallocateCopy | Kind::ReallocateDiscard);
            let before =
                if reallocates { self.blocks.get(call.block as usize).map(|block| block.address) } else { None };
            // SAFETY: as in `play`.
            unsafe { self.run(&[call]) };
            if let Some(before) = before {
                seen.reallocations += 1;
                seen.moved += usize::from(self.blocks[call.block as usize].address != before);
            }
            let index = usize::from(call.allocator);
            let holds = self.heaps[index].as_ref().map_or(Some(0), H::allocated_bytes);
            if let Some(holds) = holds {
                total = total - held[index] + holds;
                held[index] = holds;
            }
            if self.heaps[index].is_some() && holds.is_some() {
                seen.peak = seen.peak.max(Some(total));
            }
        }
        seen
    }

    /// # Safety
    ///
    /// The calls are those of the trace, in their order.
    unsafe fn run(&mut self, calls: &[Call]) {
        // SAFETY: as the caller promises.
        unsafe {
            match self.bytes {
                Bytes::First => self.run_writing::<false>(calls),
                Bytes::Every => self.run_writing::<true>(calls),
            }
        }
    }

    /// The measured loop.
    ///
    /// # Safety
    ///
    /// As [`run`](Self::run).
    #[inline(never)]
    unsafe fn run_writing<const EVERY: bool>(&mut self, calls: &[Call]) {
        for &call in calls {
            // SAFETY: the trace was checked: its allocators and blocks are below these numbers, and the allocator is
            // there, unless it is made.
            let heap = unsafe { self.heaps.get_unchecked_mut(usize::from(call.allocator)) };
            if call.kind == Kind::New {
                *heap = Some(self.subject.create());
                continue;
            }
            if call.kind == Kind::Drop {
                let left = self.trace.left[call.left()].iter().map(|&block| self.blocks[block as usize]);
                if let Some(heap) = heap.take() {
                    // SAFETY: the trace knows what is left.
                    unsafe { self.subject.destroy(heap, left) };
                }
                continue;
            }
            // SAFETY: as above.
            let (heap, block) =
                unsafe { (heap.as_mut().unwrap_unchecked(), self.blocks.get_unchecked_mut(call.block as usize)) };
            let size = call.size as usize;
            *block = match call.kind {
                Kind::Allocate => self.subject.allocate(heap, size),
                Kind::Free => {
                    // SAFETY: the block is live, and of this heap.
                    unsafe { self.subject.free(heap, *block) };
                    continue;
                }
                // SAFETY: the block is live, and of this heap.
                Kind::ReallocateCopy => unsafe { self.subject.reallocate(heap, *block, size, Realloc::CopyExisting) },
                // SAFETY: as above.
                _ => unsafe { self.subject.reallocate(heap, *block, size, Realloc::Uninitialized) },
            };
            // SAFETY: the block has at least as many bytes.
            unsafe { ptr::write_bytes(block.address.as_ptr(), call.size as u8, if EVERY { size } else { 1 }) };
        }
    }
}
