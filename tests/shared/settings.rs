//! Every setting and shape of allocators whose packets other threads free.

use std::thread;

use pktalloc::system::System;
use pktalloc::{Config, SharedAllocator};

use super::{Packet, counted, pattern, verify};

#[test]
fn every_setting_and_shape_takes_part() {
    let settings = [
        Config::new().check(true),
        Config::new().zero(true),
        Config::new().passthrough(true),
        Config::new().check(true).zero(true),
        Config::new().check(true).passthrough(true),
        Config::new().huge_pages(true),
    ];
    for config in settings {
        let (allocator, system) = counted(config);
        exchange(&allocator);
        drop(allocator);
        assert_eq!(system.regions(), 0, "{config:?}");
    }
    exchange(&SharedAllocator::<16, 64>::default());
    exchange(&SharedAllocator::<4096, 64>::default());
}

/// Sends packets of all sizes to a worker that frees them, half of them after the owner looked.
fn exchange<const UNIT: usize, const WINDOW_UNITS: usize, S: System + Send + 'static>(
    allocator: &SharedAllocator<UNIT, WINDOW_UNITS, S>,
) {
    for _ in 0..2 {
        let sizes = [1, 2, 15, 16, 17, 63, 64, 65, 200, 1400, 9000, 100_000];
        let packets: Vec<_> = (0..120)
            .map(|at| {
                let size = sizes[at % sizes.len()];
                let packet = allocator.packet_from(&pattern(at, size).collect::<Vec<_>>()).unwrap();
                assert!(packet.len() == size && packet.capacity() >= size);
                (at, packet)
            })
            .collect();
        thread::spawn(|| {
            for (at, mut packet) in packets {
                verify(at, &packet);
                packet.truncate(5);
                verify(at, &packet);
            }
        })
        .join()
        .unwrap();
        assert!(allocator.allocated_bytes() >= allocator.used_bytes() && allocator.used_bytes() > 0);
        assert_eq!(allocator.allocated_bytes(), allocator.stats().allocated_bytes);
        allocator.collect();
        assert_eq!(allocator.used_bytes(), 0);
        allocator.integrity_check().unwrap();
    }
}

#[test]
fn every_region_with_huge_pages_leads_to_its_owner() {
    let (allocator, system) = counted(Config::new().huge_pages(true));
    let packets: Vec<Packet> = (0..2000).map(|_| allocator.packet(1400).unwrap()).collect();
    assert!(system.regions() > 1);
    let (here, there): (Vec<_>, Vec<_>) = packets.into_iter().enumerate().partition(|(at, _)| at % 2 == 0);
    drop(here);
    thread::spawn(|| drop(there)).join().unwrap();
    assert_eq!((allocator.collect(), allocator.used_bytes()), (1000, 0));
}
