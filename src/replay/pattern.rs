//! What blocks are filled with, so that two that overlap cannot go unseen.

use core::mem::MaybeUninit;
use core::ops::Range;
use core::ptr::NonNull;
use core::slice;

/// The largest packet of which every byte is written: no packet of a network is larger. Of what claims to be, the
/// first and the last half of this are written, so that a file of a few bytes cannot claim gigabytes of work.
pub(super) const FULLY_WRITTEN_BYTES: u32 = 1 << 16;

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

/// Fills a block with the pattern of a packet.
///
/// # Safety
/// The block has at least `size` bytes, which nothing else refers to.
pub(super) unsafe fn write(block: NonNull<u8>, size: u32, packet: u64) {
    for part in parts(size) {
        // SAFETY: the part lies within the block.
        let bytes = unsafe { slice::from_raw_parts_mut(block.add(part.start).cast().as_ptr(), part.len()) };
        fill(bytes, packet);
    }
}

/// The first byte of a block's first `keep` bytes that is not as [`write`] left it.
///
/// # Safety
/// [`write`] was called with the same `size` and `packet` for this block, or for one whose first `keep` bytes were
/// copied to it; `keep` is at most `size`.
pub(super) unsafe fn find_change(block: NonNull<u8>, size: u32, packet: u64, keep: u32) -> Option<usize> {
    parts(size).into_iter().find_map(|part| {
        let part = part.start.min(keep as usize)..part.end.min(keep as usize);
        // SAFETY: the part lies within what was written.
        let bytes = unsafe { slice::from_raw_parts(block.add(part.start).as_ptr(), part.len()) };
        first_change(bytes, packet).map(|byte| part.start + byte)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
