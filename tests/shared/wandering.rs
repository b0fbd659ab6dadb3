//! Packets that wander between threads at random.

use std::sync::mpsc;
use std::thread;

use pktalloc::workload::SplitMix64;
use pktalloc::{Config, flush_freed};

use super::{Packet, below, counted, pattern, verify};

/// Packets wander between workers, change, are cut, and are dropped anywhere, the owner among the first to go.
#[test]
fn packets_wander_between_threads_and_outlive_owners() {
    const WORKERS: usize = 4;
    let packets = if cfg!(debug_assertions) { 20_000 } else { 200_000 };
    let (allocator, system) = counted(Config::new());
    let (senders, receivers): (Vec<_>, Vec<_>) =
        (0..WORKERS).map(|_| mpsc::sync_channel::<(usize, usize, Packet)>(256)).unzip();
    let mut workers: Vec<_> = receivers
        .into_iter()
        .enumerate()
        .map(|(at, receiver)| {
            // The last worker only drops, so that no two wait for each other.
            let next = senders.get(at + 1).cloned();
            thread::spawn(move || {
                let mut random = SplitMix64::new(at as u64 + 1);
                let mut held = Vec::new();
                let mut verified = 0;
                for (seed, hops, mut packet) in receiver {
                    verify(seed, &packet);
                    verified += 1;
                    let (seed, mut packet) = if below(&mut random, 4) == 0 {
                        for (byte, value) in packet.iter_mut().zip(pattern(seed + 1, usize::MAX)) {
                            *byte = value;
                        }
                        (seed + 1, packet)
                    } else {
                        (seed, packet)
                    };
                    if below(&mut random, 8) == 0 {
                        packet.truncate(below(&mut random, packet.len() + 1));
                    }
                    match (&next, below(&mut random, 3)) {
                        (Some(next), 0) if hops < WORKERS => next.send((seed, hops + 1, packet)).unwrap(),
                        (_, 1) => held.push((seed, packet)),
                        _ => drop(packet),
                    }
                    if held.len() > 300 {
                        let (seed, packet) = held.swap_remove(below(&mut random, 300));
                        verify(seed, &packet);
                    }
                }
                (verified, held)
            })
        })
        .collect();
    let mut random = SplitMix64::new(99);
    let mut own = Vec::new();
    for seed in 0..packets {
        let len = match below(&mut random, 50) {
            0 => 1 + below(&mut random, 60_000),
            _ => 1 + below(&mut random, 2000),
        };
        let bytes: Vec<u8> = pattern(seed, len).collect();
        let packet = allocator.packet_from(&bytes).unwrap();
        if below(&mut random, 10) == 0 {
            own.push((seed, packet));
            if own.len() > 200 {
                let (seed, packet) = own.swap_remove(below(&mut random, 200));
                verify(seed, &packet);
            }
        } else {
            senders[below(&mut random, WORKERS)].send((seed, 0, packet)).unwrap();
        }
        if seed % 5000 == 0 {
            allocator.integrity_check().unwrap();
        }
    }
    drop(senders);
    allocator.integrity_check().unwrap();
    drop(allocator);
    let mut verified = 0;
    for worker in workers.drain(..) {
        let (count, held) = worker.join().unwrap();
        verified += count;
        assert!(system.regions() > 0);
        held.iter().for_each(|(seed, packet)| verify(*seed, packet));
    }
    assert!(verified > packets * 8 / 10);
    own.iter().for_each(|(seed, packet)| verify(*seed, packet));
    drop(own);
    flush_freed();
    assert_eq!(system.regions(), 0);
}
