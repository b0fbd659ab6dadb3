//! The verifying pass: the bytes of every packet are written when it comes and checked when it leaves.

use core::mem::MaybeUninit;
use core::ops::Range;
use core::ptr::NonNull;
use core::slice;

use crate::workload::Stream;

use super::error::Error;
use super::memory::filled;
use super::progress::{PROGRESS_STRIDE, Phase, Progress, report_progress};
use super::subject::Verifiable;

/// The largest packet of which every byte is written: no packet of a network is larger. Of what claims to be, the
/// first and the last half of this are written, so that a file of a few bytes cannot claim gigabytes of work.
pub(super) const FULLY_WRITTEN_BYTES: u32 = 1 << 16;

/// Progress is reported after this many bytes, which take milliseconds to write and check.
const REPORT_BYTES: u64 = 16 << 20;

/// Runs the stream once over all bytes, then the allocator's self-check. Returns the most bytes that the allocator
/// had taken from the system.
///
/// # Errors
/// [`Error::Corrupted`] if a packet's bytes changed while it was held; [`Error::Integrity`], [`Error::OutOfMemory`],
/// [`Error::Interrupted`].
pub(super) fn verify<S: Verifiable>(
    subject: &mut S,
    stream: &Stream,
    progress: &mut Progress<'_>,
) -> Result<u64, Error> {
    let mut queue = VerifiedPackets { subject, held: filled(None, stream.slots, "the packets to verify")? };
    let mut packets = 0;
    let mut peak = 0;
    let mut bytes = 0;
    for (index, &op) in stream.ops.iter().enumerate() {
        bytes += u64::from(op.size.min(FULLY_WRITTEN_BYTES));
        if index.is_multiple_of(PROGRESS_STRIDE) || bytes > REPORT_BYTES {
            bytes = 0;
            report_progress(progress, Phase::Verifying, index, stream.ops.len())?;
        }
        if op.is_free() {
            queue.check_and_free(op.slot as usize)?;
        } else {
            packets += 1;
            queue.allocate_and_fill(op.slot as usize, op.size, packets)?;
            peak = peak.max(queue.subject.held_bytes());
        }
    }
    for slot in 0..stream.slots {
        queue.check_and_free(slot)?;
    }
    report_progress(progress, Phase::Verifying, stream.ops.len(), stream.ops.len())?;
    queue.subject.self_check().map_err(|finding| Error::Integrity { subject: S::NAME, finding })?;
    Ok(peak)
}

/// A packet whose bytes are all written: `block` came from the subject, is live, and has `size` bytes that were filled
/// with the pattern of `packet`.
#[derive(Clone, Copy)]
struct Held {
    block: NonNull<u8>,
    size: u32,
    /// Counted from 1 in the order of allocation.
    packet: u64,
}

/// The packets in their slots; all are freed on drop.
struct VerifiedPackets<'a, S: Verifiable> {
    subject: &'a mut S,
    held: Vec<Option<Held>>,
}

impl<S: Verifiable> VerifiedPackets<'_, S> {
    fn allocate_and_fill(&mut self, slot: usize, size: u32, packet: u64) -> Result<(), Error> {
        self.check_and_free(slot)?;
        let block = self.subject.allocate(size).ok_or(Error::OutOfMemory { subject: S::NAME, size })?;
        for part in parts(size) {
            // SAFETY: the block is new and has at least `size` bytes, the part included, which nothing else refers to.
            let bytes = unsafe { slice::from_raw_parts_mut(block.add(part.start).cast().as_ptr(), part.len()) };
            fill(bytes, packet);
        }
        self.held[slot] = Some(Held { block, size, packet });
        Ok(())
    }

    /// Does nothing for an empty slot.
    fn check_and_free(&mut self, slot: usize) -> Result<(), Error> {
        let Some(Held { block, size, packet }) = self.held[slot].take() else {
            return Ok(());
        };
        let changed = parts(size).into_iter().find_map(|part| {
            // SAFETY: the block is live and this part of its `size` bytes was filled.
            let bytes = unsafe { slice::from_raw_parts(block.add(part.start).as_ptr(), part.len()) };
            first_change(bytes, packet).map(|byte| part.start + byte)
        });
        // SAFETY: it is freed once, having been taken out of its slot.
        unsafe { self.subject.free(block) };
        match changed {
            Some(byte) => Err(Error::Corrupted { subject: S::NAME, packet, byte }),
            None => Ok(()),
        }
    }
}

impl<S: Verifiable> Drop for VerifiedPackets<'_, S> {
    fn drop(&mut self) {
        for held in self.held.drain(..).flatten() {
            // SAFETY: it is freed once, having been taken out of its slot.
            unsafe { self.subject.free(held.block) };
        }
    }
}

/// The bytes of a packet that are written: all, or the first and the last of a huge one.
fn parts(size: u32) -> [Range<usize>; 2] {
    let (size, whole) = (size as usize, FULLY_WRITTEN_BYTES as usize);
    if size <= whole { [0..size, size..size] } else { [0..whole / 2, size - whole / 2..size] }
}

const WORD: usize = size_of::<u64>();
/// The odd number nearest to 2^64 divided by the golden ratio: its multiples differ in all bytes.
const STRIDE: u64 = 0x9e37_79b9_7f4a_7c15;

/// The word of a packet's pattern at an index. No two packets share one at any pair of indices that can occur: the
/// packet counts in steps of the stride squared, which 2^64 does not bring back to a small multiple of the stride.
fn word(packet: u64, index: usize) -> [u8; WORD] {
    packet.wrapping_mul(STRIDE.wrapping_mul(STRIDE)).wrapping_add((index as u64).wrapping_mul(STRIDE)).to_le_bytes()
}

fn fill(bytes: &mut [MaybeUninit<u8>], packet: u64) {
    for (index, chunk) in bytes.chunks_mut(WORD).enumerate() {
        for (byte, pattern) in chunk.iter_mut().zip(word(packet, index)) {
            byte.write(pattern);
        }
    }
}

fn first_change(bytes: &[u8], packet: u64) -> Option<usize> {
    let mut chunks = bytes.chunks(WORD).enumerate();
    let (index, chunk) = chunks.find(|&(index, chunk)| chunk != &word(packet, index)[..chunk.len()])?;
    let within = chunk.iter().zip(word(packet, index)).position(|(&byte, pattern)| byte != pattern)?;
    Some(index * WORD + within)
}

#[cfg(test)]
mod tests {
    use core::ops::ControlFlow;

    use super::*;
    use crate::replay::subject::Subject;
    use crate::workload::Op;

    fn proceed(_: Phase, _: u64, _: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// Hands out blocks of one arena at a fixed distance, so that larger ones overlap.
    struct Overlapping {
        arena: Vec<u8>,
        next: usize,
        live: usize,
    }

    impl Subject for Overlapping {
        const NAME: &'static str = "overlapping";

        fn allocate(&mut self, size: u32) -> Option<NonNull<u8>> {
            assert!(self.next + size as usize <= self.arena.len(), "the arena is too small for the test");
            self.live += 1;
            let block = NonNull::from(&mut self.arena[self.next..]);
            self.next += 100;
            Some(block.cast())
        }

        unsafe fn free(&mut self, _: NonNull<u8>) {
            self.live -= 1;
        }
    }

    // SAFETY: the blocks lie within the arena.
    unsafe impl Verifiable for Overlapping {
        fn held_bytes(&self) -> u64 {
            self.next as u64
        }

        fn self_check(&self) -> Result<(), String> {
            if self.live == 0 { Ok(()) } else { Err(format!("{} live", self.live)) }
        }
    }

    fn stream(sizes: [u32; 3]) -> Stream {
        let fill = sizes.iter().zip(0..).map(|(&size, slot)| Op::allocate(slot, size));
        Stream { ops: fill.chain((0..3).map(Op::free)).collect(), slots: 3 }
    }

    #[test]
    fn an_overlap_is_found_at_its_first_byte() {
        let mut subject = Overlapping { arena: vec![0; 1000], next: 0, live: 0 };
        assert_eq!(verify(&mut subject, &stream([100, 99, 7]), &mut proceed).unwrap(), 300);
        subject.next = 0;
        let error = verify(&mut subject, &stream([100, 103, 7]), &mut proceed).unwrap_err();
        assert!(matches!(error, Error::Corrupted { subject: "overlapping", packet: 2, byte: 100 }), "{error}");
        assert_eq!(subject.live, 0);
    }

    #[test]
    fn every_byte_counts() {
        for size in 1..40 {
            let mut bytes = vec![MaybeUninit::new(0); size];
            fill(&mut bytes, 77);
            // SAFETY: all of them are written.
            let bytes: Vec<u8> = bytes.iter().map(|byte| unsafe { byte.assume_init() }).collect();
            assert_eq!(first_change(&bytes, 77), None);
            for changed in 0..size {
                let mut bytes = bytes.clone();
                bytes[changed] ^= 0x10;
                assert_eq!(first_change(&bytes, 77), Some(changed));
            }
        }
    }

    #[test]
    fn of_a_huge_packet_both_ends_are_written() {
        let most = FULLY_WRITTEN_BYTES as usize;
        assert_eq!(parts(FULLY_WRITTEN_BYTES), [0..most, most..most]);
        assert_eq!(parts(16 << 20), [0..most / 2, (16 << 20) - most / 2..16 << 20]);
        assert_eq!(parts(0), [0..0, 0..0]);
    }

    #[test]
    fn an_interruption_frees_what_is_held() {
        let mut subject = Overlapping { arena: vec![0; 1000], next: 0, live: 0 };
        let mut open = stream([10, 10, 10]);
        open.ops.truncate(3);
        let mut stop = |_, done, _| {
            if done == 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        assert!(matches!(verify(&mut subject, &open, &mut stop), Err(Error::Interrupted)));
        assert_eq!(subject.live, 0);
    }
}
