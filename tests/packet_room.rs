//! Room on both sides of packets, for each kind of owner; batches; and the traits of things that are bytes.

#![cfg(feature = "std")]

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashSet, VecDeque};
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use pktalloc::{AllocError, Allocator, Config, Owner, Packet, RcAllocator, Room, Space};
use proptest::prelude::*;

fn address(bytes: &[u8]) -> usize {
    bytes.as_ptr().addr()
}

/// What DPDK, `sk_buff` and the others call by these names, for a packet of any owner.
fn headers_and_trailers<O: Owner>(make: impl Fn(Space) -> Result<Packet<O>, AllocError>) {
    for headroom in [0, 1, 14, 20, 63, 64, 65, 128, 5000] {
        let mut packet = make(Space::new(1400).headroom(headroom).tailroom(16)).unwrap();
        assert_eq!((address(&packet) % 64, packet.len()), (0, 1400));
        assert!(packet.headroom() >= headroom && packet.headroom() < headroom + 64, "{packet:?}");
        assert!(packet.tailroom() >= 16 && packet.capacity() == 1400 + packet.tailroom(), "{packet:?}");
        assert_eq!(packet, [0; 1400]);
        packet.fill(9);
        let (payload, room) = (address(&packet), packet.headroom());
        packet.prepend(&vec![7; headroom]).unwrap();
        packet.extend_from_slice(&[8; 16]).unwrap();
        assert_eq!(address(&packet[headroom..]), payload, "a header and a tag move nothing");
        assert_eq!((packet.headroom(), packet.len()), (room - headroom, headroom + 1400 + 16));
        assert!(packet[..headroom].iter().all(|&byte| byte == 7) && packet[headroom + 1400..] == [8; 16]);
        packet.advance(headroom);
        packet.truncate(1400);
        assert_eq!((address(&packet), packet.headroom()), (payload, room));
        assert_eq!(packet, [9; 1400]);
    }
}

/// What does not fit changes nothing.
fn no_room<O: Owner>(make: impl Fn(Space) -> Result<Packet<O>, AllocError>) {
    let mut packet = make(Space::new(100).headroom(8)).unwrap();
    let room = packet.headroom();
    assert_eq!(packet.prepend(&vec![1; room + 1]), Err(AllocError::NoHeadroom));
    assert_eq!((packet.headroom(), packet.len()), (room, 100));
    packet.prepend(&vec![1; room]).unwrap();
    assert_eq!(packet.prepend(&[1]), Err(AllocError::NoHeadroom));
    packet.prepend(&[]).unwrap();
    let message =
        *catch_unwind(AssertUnwindSafe(|| packet.advance(room + 101))).unwrap_err().downcast::<String>().unwrap();
    assert_eq!(message, format!("cannot advance by {} bytes in a packet of {}", room + 101, room + 100));
    packet.advance(room + 100);
    assert!(packet.is_empty() && packet.headroom() == room + 100);
    packet.prepend(&[5; 100]).unwrap();
    assert_eq!(packet, [5; 100]);
}

/// The payload behind a header of known length is the aligned part.
fn aligned_payload<O: Owner>(make: impl Fn(Space) -> Result<Packet<O>, AllocError>) {
    for header in [0, 1, 14, 18, 42, 64, 100] {
        for headroom in [0, 10, 64, 200] {
            let mut packet = make(Space::new(1514).header(header).headroom(headroom)).unwrap();
            assert_eq!(address(&packet[header..]) % 64, 0, "{header} {headroom}");
            assert!(packet.headroom() >= headroom);
            packet.advance(header);
            assert_eq!(address(&packet) % 64, 0);
        }
    }
}

fn all_of_them<O: Owner>(make: impl Fn(Space) -> Result<Packet<O>, AllocError>) {
    headers_and_trailers(&make);
    no_room(&make);
    aligned_payload(&make);
    assert_eq!(make(Space::new(usize::MAX).headroom(64)).unwrap_err(), AllocError::TooLarge);
    assert_eq!(make(Space::new(64).tailroom(usize::MAX)).unwrap_err(), AllocError::TooLarge);
}

#[test]
fn packets_of_every_owner_have_room_on_both_sides() {
    for config in [Config::new(), Config::new().check(true), Config::new().zero(true), Config::new().passthrough(true)]
    {
        let allocator = Allocator::with_config(config).unwrap();
        all_of_them(|space| allocator.packet(space));
        assert_eq!((allocator.used_bytes(), allocator.integrity_check()), (0, Ok(())));
        let shared = RcAllocator::with_config(config).unwrap();
        all_of_them(|space| shared.packet(space));
        assert_eq!((shared.used_bytes(), shared.integrity_check()), (0, Ok(())));
        #[cfg(feature = "shared")]
        {
            let allocator = pktalloc::SharedAllocator::with_config(config).unwrap();
            all_of_them(|space| allocator.packet(space));
            assert_eq!((allocator.used_bytes(), allocator.integrity_check()), (0, Ok(())));
        }
    }
}

#[test]
fn a_packet_grows_behind_its_headroom() {
    let allocator = Allocator::new();
    let mut packet = allocator.packet_for(Space::new(100).headroom(40)).unwrap();
    packet.extend_from_slice(&[3; 100]).unwrap();
    let neighbour = allocator.packet(64).unwrap();
    for _ in 0..10 {
        packet.extend_from_slice(&[3; 1000]).unwrap();
        assert!(packet.headroom() >= 40);
    }
    packet.prepend(&[2; 40]).unwrap();
    assert!(packet[..40] == [2; 40] && packet[40..] == [3; 10_100]);
    packet.resize(20).unwrap();
    assert_eq!(packet, [2; 20]);
    packet.resize(30).unwrap();
    assert!(packet[..20] == [2; 20] && packet[20..] == [0; 10]);
    drop((packet, neighbour));
    assert_eq!(allocator.used_bytes(), 0);
}

#[test]
fn what_is_received_keeps_its_room() {
    let allocator = Allocator::new();
    let most = Space::new(2048).headroom(28).tailroom(16);
    let (mut packet, ()) = allocator.packet_with(most, |room| room.write_all(&[1; 500])).unwrap();
    assert!(packet.headroom() >= 28 && packet.tailroom() >= 16);
    assert_eq!(allocator.used_bytes(), 64 + 576);
    let at = address(&packet);
    packet.extend_from_slice(&[2; 16]).unwrap();
    packet.prepend(&[0; 28]).unwrap();
    assert_eq!((address(&packet[28..]), packet.len()), (at, 544));
    packet.advance(544);
    packet.shrink_to_fit();
    assert!(packet.is_empty() && packet.headroom() > 544, "headroom stays");
}

#[test]
fn pieces_are_filled_in_behind_and_a_failure_changes_nothing() {
    let allocator = Allocator::new();
    let mut packet = allocator.packet_for(2000).unwrap();
    packet.extend_with(1000, |room| room.write_all(b"first ")).unwrap();
    packet.extend_with(1000, |room| room.write_all(b"second")).unwrap();
    assert_eq!(packet, b"first second");
    let failed = packet.extend_with(500, |room| {
        room.append(b"third");
        Err::<(), _>(io::Error::from(io::ErrorKind::ConnectionReset))
    });
    assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(packet, b"first second");
    let used = allocator.used_bytes();
    packet.clear();
    assert_eq!((packet.len(), allocator.used_bytes()), (0, used), "its room is kept");
}

#[test]
// What hashes and orders is the packet's bytes, not its allocator.
#[allow(clippy::mutable_key_type)]
fn packets_behave_as_the_bytes_they_are() {
    let allocator = RcAllocator::new();
    let packet = |bytes: &[u8]| allocator.packet_from(bytes).unwrap();
    let one = packet(b"one");
    assert!(*b"one" == one && b"one" == one && b"one"[..] == one && b"one".to_vec() == one);
    assert!(one == b"one".to_vec() && one != packet(b"two") && one == packet(b"one"));
    assert!(one < packet(b"two") && one < *b"onf" && one.cmp(&packet(b"on")) == Ordering::Greater);
    let set: HashSet<_> = [packet(b"a"), packet(b"b"), packet(b"a")].into_iter().collect();
    assert!(set.len() == 2 && set.contains(&b"a"[..]) && !set.contains(&b"c"[..]));
    let sorted: BTreeSet<_> = [packet(b"b"), packet(b""), packet(b"a")].into_iter().collect();
    assert!(sorted.iter().eq([&b""[..], b"a", b"b"].iter()));
    let mut bytes = packet(b"12");
    bytes.extend([b'3'; 3]);
    bytes.extend(b"45");
    bytes.extend((0..1000u32).map(|byte| byte as u8));
    assert!(bytes[..7] == *b"1233345" && bytes.len() == 1007);
    assert_eq!((&bytes).into_iter().count(), 1007);
}

#[test]
fn an_extend_that_finds_no_memory_says_so() {
    let config = Config::<64, 64>::default().preallocated_windows(1).memory_limit(8192);
    let allocator = Allocator::with_config(config).unwrap();
    let mut packet = allocator.packet_from(b"kept").unwrap();
    let panicked = catch_unwind(AssertUnwindSafe(|| packet.extend(std::iter::repeat_n(1, 100_000))));
    let message = *panicked.unwrap_err().downcast::<String>().unwrap();
    assert_eq!(message, "cannot extend the packet: the memory limit of this allocator is reached");
    assert_eq!(packet, b"kept");
}

/// Datagrams in batches into rooms, the last so many of them held, with a memory that is checked after each: returns
/// the most bytes that were held, and the live ones.
fn held_of_batches<const UNIT: usize>(batch: usize, room: usize, bytes: usize) -> (u64, u64) {
    const HELD: usize = 16_384;
    let allocator = Allocator::<UNIT>::default();
    let mut held = VecDeque::new();
    let mut most = 0;
    for round in 0..3 * HELD / batch {
        let mut packets = Vec::new();
        allocator
            .packets_with(batch, room, &mut packets, |rooms| {
                for room in rooms.iter_mut() {
                    room.append(&vec![round as u8; bytes]);
                }
                if round % 97 == 0 {
                    // The rooms are blocks as others are, and others can be had meanwhile.
                    drop(allocator.packet(bytes)?);
                    assert_eq!(allocator.integrity_check(), Ok(()));
                }
                Ok::<_, AllocError>(rooms.len())
            })
            .unwrap();
        assert!(packets.len() == batch && packets.iter().all(|packet| *packet == vec![round as u8; bytes]));
        held.extend(packets);
        if held.len() > HELD {
            held.drain(..held.len() - HELD);
            most = most.max(allocator.allocated_bytes());
        }
    }
    let live = allocator.used_bytes();
    assert_eq!(live as usize, HELD * bytes.next_multiple_of(UNIT));
    assert_eq!(allocator.integrity_check(), Ok(()));
    (most, live)
}

/// Rooms that were cut where they are would leave 2048 bytes each, and windows half filled.
#[test]
fn what_a_batch_reserved_is_not_held_after_it() {
    for (batch, room, bytes) in [(64, 2048, 200), (16, 2048, 200), (64, 1400, 200), (64, 2048, 1400), (1, 2048, 200)] {
        let (most, live) = held_of_batches::<64>(batch, room, bytes);
        assert!(most * 100 <= live * 112, "{batch} of {bytes} in {room}: {most} bytes held for {live} live ones");
    }
}

#[test]
fn rooms_of_a_zeroing_allocator_are_zero_whatever_was_there_before() {
    let allocator = Allocator::with_config(Config::new().zero(true)).unwrap();
    for round in 0..4 {
        let mut packets = Vec::new();
        let fill = |rooms: &mut [Room<'_>]| {
            for room in rooms.iter_mut() {
                // SAFETY: every byte that this allocator hands out is initialised.
                assert!(room.uninit().iter().all(|byte| unsafe { byte.assume_init() } == 0), "round {round}");
                room.append(&[7; 2048]);
            }
            Ok::<_, AllocError>(rooms.len() / 2)
        };
        allocator.packets_with(64, 2048, &mut packets, fill).unwrap();
        assert!(packets.len() == 32 && packets.iter().all(|packet| *packet == [7; 2048]));
    }
}

/// In units that suit them: the whole units alone are 1.28 times the bytes with units of 64, and 1.12 with units of 32.
#[test]
fn batches_of_short_datagrams_hold_little_more_than_their_bytes() {
    let asked = 16_384 * 200;
    for most in [held_of_batches::<32>(64, 2048, 200).0, held_of_batches::<16>(64, 2048, 200).0] {
        assert!(most * 10 <= asked * 13, "{most} bytes held for {asked}");
    }
}

#[test]
fn a_batch_keeps_the_rooms_it_is_told_in_their_order() {
    let allocator = Allocator::new();
    let mut packets = vec![allocator.packet_from(b"before").unwrap()];
    let most = Space::new(2000).headroom(30).tailroom(10);
    allocator
        .packets_with(8, most, &mut packets, |rooms| {
            for (room, len) in rooms.iter_mut().zip([0, 1, 200, 1900, 2000]) {
                room.append(&vec![len as u8; len]);
            }
            rooms.swap(0, 4);
            Ok::<_, AllocError>(5)
        })
        .unwrap();
    let lens: Vec<_> = packets.iter().map(|packet| packet.len()).collect();
    assert_eq!(lens, [6, 2000, 1, 200, 1900, 0]);
    for packet in &packets[1..] {
        assert!(packet.iter().all(|&byte| byte == packet.len() as u8));
        assert!(packet.headroom() >= 30 && packet.tailroom() >= 10, "{packet:?}");
    }
    assert_eq!(allocator.used_bytes(), 64 + 64 * (33 + 2 + 5 + 31 + 2));
    let none = allocator.packets_with(0, 2048, &mut packets, |rooms| Ok::<_, AllocError>(rooms.len()));
    assert_eq!((none, packets.len()), (Ok(()), 6));
}

#[test]
fn a_batch_that_fails_leaves_nothing_behind() {
    let allocator = Allocator::with_config(Config::new().memory_limit(1 << 20)).unwrap();
    let mut packets = Vec::new();
    let failed = allocator.packets_with(8, 2048, &mut packets, |rooms| {
        rooms[0].append(b"some of it");
        Err(io::Error::from(io::ErrorKind::ConnectionReset))
    });
    assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    let refused = allocator.packets_with(8, 500_000, &mut packets, |_| -> Result<usize, AllocError> { unreachable!() });
    assert_eq!(refused, Err(AllocError::MemoryLimit));
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        allocator.packets_with(8, 2048, &mut Vec::new(), |rooms: &mut [Room<'_>]| Ok::<_, AllocError>(rooms.len() + 1))
    }));
    assert_eq!(*panicked.unwrap_err().downcast::<String>().unwrap(), "cannot keep 9 of 8 rooms");
    assert!(packets.is_empty());
    assert_eq!((allocator.used_bytes(), allocator.integrity_check()), (0, Ok(())));
}

/// A call on a packet and on the queue of bytes that it must be equal to.
#[derive(Clone, Debug)]
enum Call {
    Prepend(usize),
    Advance(usize),
    Extend(usize),
    Fill(usize, usize),
    Truncate(usize),
    Resize(usize),
    ShrinkTo(usize),
    Clear,
    New(usize, usize, usize),
}

fn call() -> impl Strategy<Value = Call> {
    let size = || prop_oneof![4 => 0usize..100, 2 => 0usize..3000, 1 => 30_000usize..40_000];
    prop_oneof![
        4 => size().prop_map(Call::Prepend),
        4 => size().prop_map(Call::Advance),
        4 => size().prop_map(Call::Extend),
        2 => (size(), size()).prop_map(|(most, filled)| Call::Fill(most, filled)),
        2 => size().prop_map(Call::Truncate),
        2 => size().prop_map(Call::Resize),
        2 => size().prop_map(Call::ShrinkTo),
        1 => Just(Call::Clear),
        1 => (size(), size(), size()).prop_map(|(bytes, headroom, tailroom)| Call::New(bytes, headroom, tailroom)),
    ]
}

/// Runs calls on a packet of any owner. One that cannot grow refuses exactly where its tailroom ends.
fn run<O: Owner>(make: impl Fn(Space) -> Result<Packet<O>, AllocError>, grows: bool, calls: &[Call]) {
    let mut packet = make(Space::new(0).headroom(100).tailroom(100)).unwrap();
    let mut model = VecDeque::new();
    for (step, call) in calls.iter().enumerate() {
        let pattern = |bytes: usize| -> Vec<u8> { (0..bytes).map(|index| (index * 7 + step * 31) as u8).collect() };
        let (headroom, tailroom, len) = (packet.headroom(), packet.tailroom(), packet.len());
        let fits = |more: usize| if grows || more <= tailroom { Ok(()) } else { Err(AllocError::NoTailroom) };
        match *call {
            Call::Prepend(bytes) => {
                let fits = if bytes <= headroom { Ok(()) } else { Err(AllocError::NoHeadroom) };
                assert_eq!(packet.prepend(&pattern(bytes)), fits);
                if fits.is_ok() {
                    pattern(bytes).into_iter().rev().for_each(|byte| model.push_front(byte));
                    assert_eq!((packet.headroom(), packet.tailroom()), (headroom - bytes, tailroom));
                }
            }
            Call::Advance(bytes) => {
                let bytes = bytes.min(len);
                packet.advance(bytes);
                model.drain(..bytes);
                assert_eq!((packet.headroom(), packet.tailroom()), (headroom + bytes, tailroom));
            }
            Call::Extend(bytes) => {
                assert_eq!(packet.extend_from_slice(&pattern(bytes)), fits(bytes));
                if fits(bytes).is_ok() {
                    model.extend(pattern(bytes));
                    assert_eq!(packet.headroom(), headroom);
                }
            }
            Call::Fill(most, filled) => {
                let bytes = pattern(filled.min(most));
                let outcome = packet.extend_with(most, |room| {
                    room.append(&bytes);
                    Ok::<_, AllocError>(())
                });
                assert_eq!(outcome, fits(most));
                if outcome.is_ok() {
                    model.extend(bytes);
                }
            }
            Call::Truncate(bytes) => {
                packet.truncate(bytes);
                model.truncate(bytes);
            }
            Call::Resize(bytes) => {
                let outcome = fits(bytes.saturating_sub(len));
                assert_eq!(packet.resize(bytes), outcome);
                if outcome.is_ok() {
                    model.resize(bytes, 0);
                }
            }
            Call::ShrinkTo(bytes) => {
                packet.shrink_to(bytes);
                assert!(packet.tailroom() >= bytes.min(tailroom) && packet.tailroom() <= tailroom);
            }
            Call::Clear => {
                packet.clear();
                model.clear();
                assert_eq!((packet.headroom(), packet.tailroom()), (headroom, tailroom + len));
            }
            Call::New(bytes, headroom, tailroom) => {
                packet = make(Space::new(bytes).headroom(headroom).tailroom(tailroom)).unwrap();
                model = vec![0; bytes].into();
                assert!(packet.headroom() >= headroom && packet.tailroom() >= tailroom);
            }
        }
        assert_eq!(packet, *model.make_contiguous());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn packets_with_room_hold_what_queues_hold(
        calls in prop::collection::vec(call(), 1..150),
        (zero, check, passthrough) in any::<(bool, bool, bool)>(),
    ) {
        let config = Config::<64, 1024>::default().zero(zero).check(check).passthrough(passthrough);
        let allocator = Allocator::with_config(config).unwrap();
        run(|space| allocator.packet(space), true, &calls);
        assert_eq!((allocator.used_bytes(), allocator.integrity_check()), (0, Ok(())));
        #[cfg(feature = "shared")]
        {
            let allocator = pktalloc::SharedAllocator::with_config(config).unwrap();
            run(|space| allocator.packet(space), false, &calls);
            assert_eq!((allocator.used_bytes(), allocator.integrity_check()), (0, Ok(())));
        }
    }
}

/// Calls on packets whose blocks are about as long as the longest of which the packet itself knows the size.
fn calls_around_32_kib() -> Vec<Call> {
    let around = (32_700..32_800).flat_map(|bytes| {
        [
            Call::New(bytes, 20, 0),
            Call::Extend(16),
            Call::Prepend(20),
            Call::Advance(40),
            Call::Resize(32_768),
            Call::Truncate(bytes - 100),
            Call::Extend(100),
            Call::ShrinkTo(0),
            Call::New(0, 0, bytes),
            Call::Extend(bytes),
            Call::Advance(bytes),
            Call::Clear,
            Call::Fill(bytes, 40),
            Call::Truncate(0),
            Call::Extend(bytes),
        ]
    });
    around.collect()
}

/// Runs them with units of one size.
fn run_around_32_kib<const UNIT: usize, const WINDOW_UNITS: usize>(calls: &[Call]) {
    for check in [false, true] {
        let config = Config::<UNIT, WINDOW_UNITS>::default().check(check);
        let allocator = Allocator::with_config(config).unwrap();
        run(|space| allocator.packet(space), true, calls);
        assert_eq!((allocator.used_bytes(), allocator.integrity_check()), (0, Ok(())));
        #[cfg(feature = "shared")]
        {
            let allocator = pktalloc::SharedAllocator::with_config(config).unwrap();
            run(|space| allocator.packet(space), false, calls);
            assert_eq!((allocator.used_bytes(), allocator.integrity_check()), (0, Ok(())));
        }
    }
}

#[test]
fn packets_that_cannot_tell_their_size_hold_what_others_do() {
    let calls = calls_around_32_kib();
    run_around_32_kib::<16, 2048>(&calls);
    run_around_32_kib::<64, 2048>(&calls);
    run_around_32_kib::<512, 256>(&calls);
    run_around_32_kib::<4096, 256>(&calls);
}

/// The rows of the table beside other buffers each name the test that shows them.
#[test]
fn every_row_of_the_table_beside_other_buffers_is_a_test() {
    let tests = [
        include_str!("packet_room.rs"),
        include_str!("frozen.rs"),
        include_str!("pool.rs"),
        include_str!("shared/contents.rs"),
        include_str!("shared/frees.rs"),
    ];
    let page = include_str!("../docs/packets.md");
    let (_, table) = page.split_once("| shown by |").unwrap();
    let rows: Vec<_> = table.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 15);
    for row in rows {
        let (_, shown_by) = row.trim_end_matches(['|', ' ']).rsplit_once("| ").unwrap();
        let name = shown_by.trim_matches('`');
        let is_there = tests.iter().any(|tests| tests.contains(&format!("fn {name}(")));
        assert!(is_there || shown_by == "documentation of `Packet`", "{row}");
    }
}

/// The table of handles says how many words each one is.
#[test]
#[cfg(all(feature = "shared", target_pointer_width = "64"))]
fn handles_are_as_long_as_their_table_says() {
    let page = include_str!("../docs/packets.md");
    let words = |handle: &str| {
        let row = page.lines().find(|line| line.starts_with(&format!("| `{handle}`"))).unwrap();
        row.split('|').nth(3).unwrap().trim().parse::<usize>().unwrap()
    };
    assert_eq!(words("Packet<&Allocator>") * 8, size_of::<Packet<&Allocator>>());
    assert_eq!(words("Packet<RcAllocator>") * 8, size_of::<Packet<RcAllocator>>());
    assert_eq!(words("SharedPacket") * 8, size_of::<pktalloc::SharedPacket>());
    assert_eq!(words("FrozenPacket") * 8, size_of::<pktalloc::FrozenPacket>());
}

/// Nothing that was received is lost because there is no memory for a block that fits it better.
#[test]
fn a_batch_keeps_its_rooms_where_there_is_no_memory_for_smaller_ones() {
    let allocator = Allocator::with_config(Config::new().memory_limit(140 << 10)).unwrap();
    let mut packets = Vec::new();
    let fill = |rooms: &mut [Room<'_>]| {
        rooms.iter_mut().for_each(|room| room.append(b"datagram"));
        Ok::<_, AllocError>(rooms.len())
    };
    allocator.packets_with(60, 2048, &mut packets, fill).unwrap();
    assert!(packets.len() == 60 && packets.iter().all(|packet| *packet == b"datagram"[..]));
    assert!(allocator.used_bytes() <= 60 * 64 + 2048, "{}", allocator.stats());
    drop(packets);
    assert_eq!((allocator.used_bytes(), allocator.integrity_check()), (0, Ok(())));
}

/// A long room of several becomes its packet's block unless half of that would be of no use, what lies in front of the
/// packet included; one alone always does.
#[test]
fn a_long_room_is_copied_where_most_of_it_would_be_of_no_use() {
    let allocator = Allocator::new();
    for (count, headroom, len, stays) in [
        (1, 0, 10, true),
        (2, 0, 10, false),
        (2, 0, 4000, false),
        (2, 0, 4001, true),
        (2, 4000, 1000, false),
        (2, 4000, 2500, true),
    ] {
        let (mut packets, mut places) = (Vec::new(), Vec::new());
        allocator
            .packets_with(count, Space::new(8000).headroom(headroom), &mut packets, |rooms| {
                for room in rooms.iter_mut() {
                    places.push(room.uninit().as_ptr().addr());
                    room.append(&vec![1; len]);
                }
                Ok::<_, AllocError>(rooms.len())
            })
            .unwrap();
        assert!(packets.len() == count && packets.iter().all(|packet| *packet == vec![1; len]));
        let stayed = packets.iter().map(|packet| packet.as_ptr().addr()).eq(places);
        assert_eq!(stayed, stays, "{count} of {len} bytes behind {headroom}");
    }
}
