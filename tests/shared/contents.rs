//! What packets for any thread hold: contents, sizes, what is cut off.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use pktalloc::{AllocError, Config, Room, SharedAllocator, SharedPacket, flush_freed};

use super::{counted, pattern, verify};

#[test]
fn a_packet_keeps_what_was_filled() {
    let allocator = SharedAllocator::new();
    let fill = |room: &mut Room<'_>, bytes: &[u8]| {
        room.append(bytes);
        Ok::<_, AllocError>(room.remaining())
    };
    let (packet, rest) = allocator.packet_with(2048, |room| fill(room, b"fifteen or more")).unwrap();
    assert_eq!((&packet[..], rest), (&b"fifteen or more"[..], 2033));
    assert_eq!(allocator.used_bytes(), 64);
    let (nothing, _) = allocator.packet_with(2048, |room| fill(room, b"")).unwrap();
    assert!(nothing.is_empty());
    assert_eq!(allocator.used_bytes(), 64);
    drop((packet, nothing));

    let panics = catch_unwind(AssertUnwindSafe(|| allocator.packet_with(100, |room| fill(room, &[0; 101]))));
    assert!(panics.is_err());
    assert_eq!(allocator.packet_with(100, |_| Err::<(), _>(AllocError::Alignment)).unwrap_err(), AllocError::Alignment);
    assert_eq!(allocator.used_bytes(), 0);
}

#[test]
fn a_packet_says_what_it_is() {
    fn is_sent_and_shared<T: Send + Sync + 'static>(_: &T) {}
    let allocator = SharedAllocator::new();
    let packet = allocator.packet_from(b"12345").unwrap();
    is_sent_and_shared(&packet);
    if cfg!(target_pointer_width = "64") {
        assert_eq!([size_of::<SharedPacket>(), size_of::<Option<SharedPacket>>()], [16; 2]);
    }
    assert!(format!("{packet:?}").starts_with("Packet { len: 5, headroom: 0, tailroom: 51, at: 0x"));
    assert!(format!("{allocator:?}").starts_with("SharedAllocator<64, 2048> { 1 blocks use 64 of "));
    let unbound = allocator.unbind();
    assert_eq!(format!("{unbound:?}"), "Unbound { .. }");
}

#[test]
fn sizes_that_cannot_be_served_are_errors() {
    let allocator = SharedAllocator::with_config(Config::new().memory_limit(1 << 20)).unwrap();
    assert!(allocator.packet(0).unwrap().is_empty());
    assert!(allocator.packet_from(b"").unwrap().is_empty());
    assert_eq!(allocator.packet(usize::MAX).unwrap_err(), AllocError::TooLarge);
    // With fewer bits in an address these are beyond what it has room for.
    #[cfg(target_pointer_width = "64")]
    {
        assert_eq!(allocator.packet((2 << 30) - 4095).unwrap_err(), AllocError::TooLarge);
        assert_eq!(allocator.packet((2 << 30) - 4096).unwrap_err(), AllocError::MemoryLimit);
    }
    assert_eq!(allocator.packet(2 << 20).unwrap_err(), AllocError::MemoryLimit);
    // What other threads gave back is found before the limit is reached.
    for _ in 0..10 {
        let packets: Vec<SharedPacket> = (0..600).map(|_| allocator.packet(1400).unwrap()).collect();
        thread::spawn(|| drop(packets)).join().unwrap();
    }
}

#[test]
fn the_tail_goes_back_at_once_on_the_owners_thread_and_later_elsewhere() {
    let allocator = SharedAllocator::new();
    let mut packet = allocator.packet(2048).unwrap();
    packet.truncate(4096);
    assert_eq!(packet.len(), 2048);
    packet.truncate(900);
    assert_eq!((packet.len(), packet.capacity(), allocator.used_bytes()), (900, 952, 960));
    let packet = thread::spawn(move || {
        packet.truncate(100);
        assert_eq!((packet.len(), packet.capacity()), (100, 952));
        packet
    })
    .join()
    .unwrap();
    assert_eq!(allocator.used_bytes(), 960);
    let mut packet = packet;
    packet.truncate(1);
    assert_eq!((packet.len(), packet.capacity(), allocator.used_bytes()), (1, 56, 64));
    packet.truncate(0);
    assert_eq!((packet.len(), packet.capacity(), allocator.used_bytes()), (0, 0, 0));
    drop(packet);
    assert_eq!(allocator.used_bytes(), 0);
}

#[test]
fn a_long_packet_holds_a_unit_more_and_is_freed_as_others_are() {
    for (config, large) in [
        (Config::new(), vec![32 << 10, (32 << 10) + 1, 100_000, 128 << 10, (256 << 10) - 64, 1_000_000]),
        (Config::new().check(true), vec![(32 << 10) - 16, (32 << 10) - 15, 100_000]),
        (Config::new().passthrough(true), vec![1, 64, 1400, 128 << 10]),
    ] {
        let (allocator, system) = counted(config);
        for len in large {
            let make = || allocator.packet_from(&pattern(len, len).collect::<Vec<_>>()).unwrap();
            let (here, mut cut, there) = (make(), make(), make());
            assert!(here.capacity() >= len && here.as_ptr().addr() % 64 == 0, "{len} bytes: {here:?}");
            cut.truncate(len / 2);
            verify(len, &cut);
            assert!((len / 2..=here.capacity()).contains(&cut.capacity()), "{cut:?} beside {here:?}");
            thread::spawn(move || {
                let mut there = there;
                verify(len, &there);
                there.truncate(len / 3);
                there.fill(0xff);
                drop(there);
                flush_freed();
            })
            .join()
            .unwrap();
            assert_eq!(allocator.collect(), 1, "{len} bytes");
            verify(len, &here);
            drop((here, cut));
            assert_eq!(allocator.used_bytes(), 0, "{len} bytes");
            allocator.integrity_check().unwrap();
        }
        // One that outlives its owner takes the memory along.
        let last = allocator.packet(100_000).unwrap();
        drop(allocator);
        assert!(last.iter().all(|&byte| byte == 0) && system.regions() > 0);
        drop(last);
        flush_freed();
        assert_eq!(system.regions(), 0);
    }
    let allocator = SharedAllocator::new();
    let large = allocator.packet(10 << 20).unwrap();
    assert_eq!((large.capacity(), allocator.used_bytes()), ((10 << 20) + 56, (10 << 20) + 128));
}

/// A block has whole units, of which a packet uses no more than the longest may have, also after something was cut off.
#[test]
#[cfg(target_pointer_width = "64")]
fn what_is_cut_off_the_longest_packet_makes_it_no_longer() {
    const LONGEST: usize = (2 << 30) - 4096;
    let allocator = SharedAllocator::<4096, 64>::default();
    // Its pages are never touched.
    let Ok(mut packet) = allocator.packet_for(LONGEST) else {
        eprintln!("skipped: the system has no 2 GiB of address space");
        return;
    };
    assert_eq!(packet.capacity(), LONGEST);
    packet.shrink_to(LONGEST / 2);
    assert_eq!(packet.capacity(), LONGEST, "a block in no region keeps its memory");
    let packet = packet.freeze().try_into_packet().unwrap();
    assert_eq!(packet.capacity(), LONGEST);
}
