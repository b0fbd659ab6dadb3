//! Forward error correction: a sender and a receiver on a Reed-Solomon code.
//!
//! The sender keeps the packets of a block until it is encoded; the receiver keeps what arrives of several blocks, in
//! any order, restores what was lost when enough is there, and delivers blocks in order.

use std::collections::BTreeMap;

use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};

use crate::link::{Link, checksum, fill};
use crate::memory::Memory;

const ORIGINALS: usize = 32;
const REPAIRS: usize = 8;
/// The bytes of a packet, all payload; the code wants a multiple of 64.
const BYTES: usize = 1216;
const BLOCKS: u64 = 2000;
/// Blocks that the receiver waits for; an older one that is not complete is given up.
const WAITS: u64 = 8;

/// A packet with its header, as parsed.
struct Received<P> {
    block: u64,
    index: usize,
    packet: P,
}

/// What has arrived of a block, by index: originals, then repairs.
struct Block<P> {
    packets: [Option<P>; ORIGINALS + REPAIRS],
    arrived: usize,
}

pub(crate) fn run<M: Memory>(memory: &M) -> u64 {
    let mut encoder = ReedSolomonEncoder::new(ORIGINALS, REPAIRS, BYTES).expect("the code has these parameters");
    let mut decoder = ReedSolomonDecoder::new(ORIGINALS, REPAIRS, BYTES).expect("the code has these parameters");
    let mut link = Link::new(3, 100, (1, 60));
    let mut waiting: BTreeMap<u64, Block<M::Packet>> = BTreeMap::new();
    let mut payload = [0; BYTES];
    let (mut result, mut now, mut next, mut delivered) = (0_u64, 0, 0, 0);
    for block in 0..BLOCKS + WAITS {
        if block < BLOCKS {
            let originals: Vec<M::Packet> = (0..ORIGINALS)
                .map(|index| {
                    fill(&mut payload, block * ORIGINALS as u64 + index as u64);
                    memory.packet(&payload)
                })
                .collect();
            for original in &originals {
                encoder.add_original_shard(&original[..]).expect("a block has so many packets of this size");
            }
            let encoded = encoder.encode().expect("all packets of the block are there");
            let repairs: Vec<M::Packet> = encoded.recovery_iter().map(|repair| memory.packet(repair)).collect();
            for (index, packet) in originals.into_iter().chain(repairs).enumerate() {
                // The link carries a copy, as a socket does; the packet itself is free again.
                let packet = memory.packet(&packet);
                link.send(now, Received { block, index, packet });
                now += 1;
            }
        } else {
            now += (ORIGINALS + REPAIRS) as u64;
        }
        while let Some(Received { block, index, packet }) = link.receive(now) {
            if block < next {
                continue;
            }
            let entry = waiting
                .entry(block)
                .or_insert_with(|| Block { packets: [const { None }; ORIGINALS + REPAIRS], arrived: 0 });
            entry.packets[index] = Some(packet);
            entry.arrived += 1;
        }
        while let Some(first) = waiting.get(&next) {
            if first.arrived < ORIGINALS && block < next + WAITS {
                break;
            }
            if let Some(mut first) = waiting.remove(&next) {
                restore(memory, &mut decoder, &mut first);
                for packet in first.packets[..ORIGINALS].iter().flatten() {
                    result = result.rotate_left(7) ^ checksum(packet);
                    delivered += 1;
                }
            }
            next += 1;
        }
    }
    // One of ten is lost on the way, and one of a hundred or so cannot be restored.
    assert!(delivered > BLOCKS * ORIGINALS as u64 * 98 / 100, "{delivered} packets were delivered");
    result
}

/// Restores what was lost, if enough is there.
fn restore<M: Memory>(memory: &M, decoder: &mut ReedSolomonDecoder, block: &mut Block<M::Packet>) {
    let complete = block.packets[..ORIGINALS].iter().all(Option::is_some);
    if complete || block.arrived < ORIGINALS {
        return;
    }
    for (index, packet) in block.packets.iter().enumerate() {
        let Some(packet) = packet else { continue };
        let added = if index < ORIGINALS {
            decoder.add_original_shard(index, &packet[..])
        } else {
            decoder.add_recovery_shard(index - ORIGINALS, &packet[..])
        };
        added.expect("each packet of a block arrives once");
    }
    let decoded = decoder.decode().expect("enough packets are there");
    for (index, restored) in decoded.restored_original_iter() {
        block.packets[index] = Some(memory.packet(restored));
    }
}
