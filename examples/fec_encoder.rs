//! A parity packet for every eight: what an encoder for forward error correction does for each packet that it sends.
//! Once with safe packets, once with raw blocks, in turns; shows what the safe loop costs.
//!
//! `cargo run --release --example fec_encoder`

use std::error::Error;
use std::hint::black_box;
use std::ptr::NonNull;
use std::time::Instant;

use pktalloc::{AllocError, Allocator, Packet};

/// Packets of a group.
const GROUP: usize = 8;
const BYTES: usize = 1200;

/// Adds a packet to the parity.
fn add(parity: &mut [u8], packet: &[u8]) {
    for (parity, byte) in parity.iter_mut().zip(packet) {
        *parity ^= byte;
    }
}

/// Makes a group and its parity, of packets.
fn safe<'a>(allocator: &'a Allocator, payload: &[u8]) -> Result<(Vec<Packet<&'a Allocator>>, u8), AllocError> {
    let mut group = Vec::with_capacity(GROUP + 1);
    let mut parity = allocator.packet(payload.len())?;
    for _ in 0..GROUP {
        let packet = allocator.packet_from(payload)?;
        add(&mut parity, &packet);
        group.push(packet);
    }
    let first = parity[0];
    group.push(parity);
    Ok((group, first))
}

/// The same by hand. The blocks are to be freed.
fn by_hand(allocator: &Allocator, payload: &[u8]) -> Result<(Vec<NonNull<u8>>, u8), AllocError> {
    let (mut group, bytes) = (Vec::with_capacity(GROUP + 1), payload.len());
    let block = allocator.allocate(bytes)?.cast::<u8>();
    // SAFETY: all blocks are live, nobody else's, and have as many bytes as the payload, which are written before they
    // are read.
    unsafe {
        block.write_bytes(0, bytes);
        let parity = NonNull::slice_from_raw_parts(block, bytes).as_mut();
        for _ in 0..GROUP {
            let packet = allocator.allocate(bytes)?.cast::<u8>();
            packet.copy_from_nonoverlapping(NonNull::from(payload).cast(), bytes);
            add(parity, NonNull::slice_from_raw_parts(packet, bytes).as_ref());
            group.push(packet);
        }
        let first = parity[0];
        group.push(block);
        Ok((group, first))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let (of_packets, of_blocks) = (Allocator::new(), Allocator::new());
    let payload: Vec<u8> = (0..BYTES).map(|at| at as u8 ^ 0x5a).collect();
    let (mut group, first) = safe(&of_packets, &payload)?;
    assert_eq!(first, 0, "an even number of equal packets");
    // One is lost, and comes back from the parity of the others.
    let lost = group.swap_remove(3);
    let mut recovered = of_packets.packet(BYTES)?;
    group.iter().for_each(|packet| add(&mut recovered, packet));
    assert_eq!(recovered, lost);
    drop((group, lost, recovered));

    let groups = if cfg!(debug_assertions) { 200 } else { 2000 };
    let mut ratios: Vec<f64> = Vec::new();
    for _ in 0..31 {
        let start = Instant::now();
        for _ in 0..groups {
            black_box(safe(&of_packets, black_box(&payload))?);
        }
        let packets = start.elapsed();
        let start = Instant::now();
        for _ in 0..groups {
            let (blocks, first) = black_box(by_hand(&of_blocks, black_box(&payload))?);
            black_box(first);
            // SAFETY: each of them is freed once.
            blocks.into_iter().for_each(|block| unsafe { of_blocks.free(block) });
        }
        ratios.push(packets.as_secs_f64() / start.elapsed().as_secs_f64());
    }
    ratios.sort_by(f64::total_cmp);
    assert_eq!((of_packets.used_bytes(), of_blocks.used_bytes()), (0, 0));
    println!("the safe encoder takes {:.2} times as long as the one by hand", ratios[ratios.len() / 2]);
    Ok(())
}
