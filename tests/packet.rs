//! Packets: who owns their memory, what they show of it, and when it comes back.

#![cfg(feature = "std")]

use std::borrow::{Borrow, BorrowMut};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use pktalloc::{AllocError, Allocator, Config, Packet, RcAllocator, Realloc, Room, Space};
use proptest::prelude::*;

/// An allocator whose next blocks contain `0xee`.
fn dirty() -> Allocator {
    let allocator = Allocator::new();
    let mut packets: Vec<_> = (0..100).map(|_| allocator.packet(1400).unwrap()).collect();
    packets.iter_mut().for_each(|packet| packet.fill(0xee));
    drop(packets);
    assert_eq!(allocator.used_bytes(), 0);
    allocator
}

#[test]
fn a_packet_is_zero_also_where_another_has_been() {
    let allocator = dirty();
    let mut packet = allocator.packet(1400).unwrap();
    assert_eq!((packet.len(), packet.capacity()), (1400, 1408));
    assert_eq!(packet, [0; 1400]);
    assert_eq!(packet.as_ptr().addr() % 64, 0);
    packet.resize(100).unwrap();
    packet.fill(0xdd);
    packet.resize(300).unwrap();
    assert_eq!(packet[..100], [0xdd; 100]);
    assert_eq!(packet[100..], [0; 200]);
}

#[test]
fn receiving_keeps_what_arrived_and_gives_the_rest_back() {
    let allocator = dirty();
    let (first, received) = allocator
        .packet_with(2048, |room| {
            let received = (&[5; 900][..]).read(room.zeroed())?;
            room.advance(received);
            Ok::<_, io::Error>(received)
        })
        .unwrap();
    assert_eq!((received, first.len(), first.capacity()), (900, 900, 960));
    assert_eq!(first, [5; 900]);
    let second = allocator.packet(1).unwrap();
    assert_eq!(second.as_ptr().addr() - first.as_ptr().addr(), 960, "the next packet starts right behind");
}

#[test]
fn what_fails_or_panics_while_filling_leaves_nothing_behind() {
    let allocator = Allocator::new();
    let failed = allocator.packet_with(2048, |room| {
        room.append(b"some of it");
        Err::<(), _>(io::Error::from(io::ErrorKind::ConnectionReset))
    });
    assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        allocator.packet_with(2048, |_| -> Result<(), AllocError> { panic!("as expected") }).map(drop)
    }));
    assert!(panicked.is_err());
    assert_eq!(allocator.used_bytes(), 0);

    let refused: Result<(Packet<_>, ()), io::Error> =
        allocator.packet_with(usize::MAX, |_| panic!("there is nothing to fill"));
    assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn no_claim_makes_a_packet_longer_than_what_was_written() {
    let allocator = dirty();
    type Claim = (&'static str, fn(&mut Room<'_>));
    let claims: [Claim; 6] = [
        ("nothing was written", |room| room.advance(1)),
        ("one more than was appended", |room| {
            room.append(b"abc");
            room.advance(1);
        }),
        ("more than there is", |room| {
            room.zeroed();
            room.advance(101);
        }),
        ("what was zeroed has been handed out uninitialised since", |room| {
            room.zeroed();
            room.uninit().fill(MaybeUninit::uninit());
            room.advance(1);
        }),
        ("appended beyond the end", |room| room.append(&[1; 101])),
        // SAFETY: never reached with bytes that are not there.
        ("vouched for beyond the end", |room| unsafe { room.assume_init(101) }),
    ];
    for (claim, make) in claims {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            allocator
                .packet_with(100, |room| {
                    make(room);
                    Ok::<_, AllocError>(())
                })
                .map(drop)
        }));
        assert!(outcome.is_err(), "{claim}");
        assert_eq!(allocator.used_bytes(), 0, "{claim}");
    }
}

#[test]
fn a_room_is_filled_from_the_front_by_any_means() {
    let allocator = dirty();
    let (packet, ()) = allocator
        .packet_with(20, |room| {
            room.append(b"ab");
            room.zeroed()[..2].copy_from_slice(b"cd");
            room.advance(2);
            assert_eq!((room.filled(), room.remaining()), (&b"abcd"[..], 16));
            assert_eq!(room.zeroed()[..2], [0, 0]);
            room.uninit()[0].write(b'e');
            // SAFETY: the byte was just written.
            unsafe { room.assume_init(1) };
            assert_eq!(room.write(&[b'f'; 100])?, 15, "what does not fit is not written");
            assert_eq!(format!("{room:?}"), "Room { filled: 20, remaining: 0 }");
            Ok::<_, io::Error>(())
        })
        .unwrap();
    assert_eq!(packet, b"abcdefffffffffffffff");
}

#[test]
fn a_packet_can_be_made_while_another_is_filled() {
    let allocator = RcAllocator::new();
    let (outer, inner) = allocator
        .packet_with(2048, |room| {
            let inner = allocator.packet_from(room.zeroed())?;
            allocator.trim();
            room.append(b"outer");
            Ok::<_, AllocError>(inner)
        })
        .unwrap();
    assert_eq!(outer, b"outer");
    assert_eq!(inner, [0; 2048]);
    assert_eq!(allocator.integrity_check(), Ok(()));
}

#[test]
fn empty_packets_hold_no_memory() {
    let allocator = Allocator::new();
    let mut packets = vec![
        Packet::empty(&allocator),
        allocator.packet(0).unwrap(),
        allocator.packet_from(&[]).unwrap(),
        allocator.packet_with(1500, |_| Ok::<_, AllocError>(())).unwrap().0,
        allocator
            .packet_with(0, |room| if room.remaining() == 0 { Ok(()) } else { Err(AllocError::TooLarge) })
            .unwrap()
            .0,
    ];
    let mut cut = allocator.packet(1400).unwrap();
    cut.truncate(0);
    packets.push(cut);
    let mut reserved = Packet::empty(&allocator);
    reserved.reserve(1500).unwrap();
    assert_eq!((reserved.len(), reserved.capacity()), (0, 1536));
    reserved.shrink_to_fit();
    packets.push(reserved);
    for packet in &mut packets {
        assert_eq!((&packet[..], packet.capacity(), allocator.used_bytes()), (&[][..], 0, 0));
        packet.truncate(0);
        packet.resize(0).unwrap();
    }
    assert!(packets.windows(2).all(|pair| pair[0] == pair[1]));
    packets[0].resize(3).unwrap();
    assert_eq!((&packets[0][..], allocator.used_bytes()), (&[0; 3][..], 64));
}

#[test]
fn pieces_are_added_in_place_while_the_units_behind_are_free() {
    let allocator = Allocator::new();
    // Opens an extent that has room for more.
    drop(allocator.packet(5000).unwrap());
    let mut packet = Packet::empty(&allocator);
    packet.reserve(1500).unwrap();
    let start = packet.as_ptr();
    for piece in 0..15u8 {
        packet.write_all(&[piece; 100]).unwrap();
    }
    assert_eq!((packet.len(), packet.as_ptr()), (1500, start));
    packet.extend_from_slice(&[15; 100]).unwrap();
    assert_eq!(packet.as_ptr(), start, "nothing lies behind it");
    assert!(packet.capacity() >= 1500 + 750);
    packet.shrink_to_fit();
    assert_eq!(packet.capacity(), 1600);
    assert!(packet.chunks(100).zip(0..16u8).all(|(chunk, piece)| chunk == [piece; 100]));
}

#[test]
fn many_small_pieces_take_few_moves() {
    let allocator = Allocator::new();
    let mut packets = [Packet::empty(&allocator), Packet::empty(&allocator)];
    let mut moves = 0;
    for byte in 0..100_000u32 {
        for packet in &mut packets {
            let before = packet.as_ptr();
            packet.extend_from_slice(&[byte as u8]).unwrap();
            moves += usize::from(packet.as_ptr() != before);
        }
    }
    assert!(moves < 60, "{moves} moves");
    assert!(packets.iter().all(|packet| packet.iter().zip(0u32..).all(|(&byte, index)| byte == index as u8)));
}

#[test]
fn a_queue_sits_beside_its_allocator_whichever_goes_first() {
    struct AllocatorFirst {
        _allocator: RcAllocator,
        queue: VecDeque<Packet<RcAllocator>>,
    }
    struct QueueFirst {
        _queue: VecDeque<Packet<RcAllocator>>,
        _allocator: RcAllocator,
    }
    let fill = || {
        let allocator = Rc::new(Allocator::new());
        let watch = Rc::downgrade(&allocator);
        let allocator = RcAllocator::from(allocator);
        let queue: VecDeque<_> = (0..50).map(|tag| allocator.packet_from(&[tag; 1000]).unwrap()).collect();
        (watch, allocator, queue)
    };
    let (watch, allocator, queue) = fill();
    let mut first = AllocatorFirst { _allocator: allocator, queue };
    let survivor = first.queue.pop_back().unwrap();
    drop(first);
    assert_eq!(watch.upgrade().unwrap().used_bytes(), 1024);
    assert_eq!(survivor, [49; 1000], "a packet keeps its memory alive");
    drop(survivor);
    assert!(watch.upgrade().is_none());

    let (watch, allocator, queue) = fill();
    drop(QueueFirst { _queue: queue, _allocator: allocator });
    assert!(watch.upgrade().is_none());
}

#[test]
fn a_forgotten_packet_is_freed_with_its_allocator() {
    let allocator = Allocator::new();
    std::mem::forget(allocator.packet_from(b"forgotten").unwrap());
    std::mem::forget(allocator.packet(100_000).unwrap());
    assert_eq!(allocator.used_bytes(), 64 + 106_496);
    // Moving the allocator is allowed again, and frees both where it ends up.
    drop(Box::new(allocator));
}

#[test]
fn a_packet_can_be_taken_apart_and_put_together() {
    let allocator = Rc::new(Allocator::new());
    let packet = RcAllocator::from(Rc::clone(&allocator)).packet_from(&[3; 500]).unwrap();
    let (owner, block) = packet.into_raw();
    assert_eq!((Rc::strong_count(&allocator), allocator.used_bytes()), (2, 512));
    // SAFETY: both are what `into_raw` returned.
    let mut packet = unsafe { Packet::from_raw(owner, block) };
    packet.extend_from_slice(&[4; 12]).unwrap();
    assert_eq!((packet.len(), packet.capacity(), allocator.used_bytes()), (512, 512, 512));
    drop(packet);
    assert_eq!((Rc::strong_count(&allocator), allocator.used_bytes()), (1, 0));

    let mut empty = Packet::empty(&*allocator);
    empty.reserve(1500).unwrap();
    let (owner, block) = empty.into_raw();
    assert_eq!((block, allocator.used_bytes()), (None, 0));
    // SAFETY: as above.
    assert_eq!(unsafe { Packet::from_raw(owner, block) }, []);

    let block = allocator.allocate_zeroed(700).unwrap();
    // SAFETY: the block is live, all of it is zero, and only the packet knows it.
    let packet = unsafe { Packet::from_raw(&*allocator, Some(block)) };
    assert_eq!(packet, [0; 704]);
}

#[test]
fn a_packet_that_cannot_grow_is_as_it_was() {
    let config = Config::<64, 64>::default().preallocated_windows(1).memory_limit(8192);
    let allocator = Allocator::with_config(config).unwrap();
    let mut packet = allocator.packet_from(&[9; 600]).unwrap();
    let others: Vec<_> = std::iter::from_fn(|| allocator.packet(64).ok()).collect();
    for outcome in [packet.resize(900), packet.reserve(400), packet.extend_from_slice(&[0; 400])] {
        assert_eq!(outcome, Err(AllocError::MemoryLimit));
    }
    assert_eq!(packet.write(&[0; 400]).unwrap_err().kind(), io::ErrorKind::OutOfMemory);
    assert_eq!(packet.reserve(usize::MAX), Err(AllocError::TooLarge));
    assert_eq!(packet, [9; 600]);
    drop(others);
    packet.resize(900).unwrap();
    assert_eq!(packet[600..], [0; 300]);
}

#[test]
fn debug_says_how_long_and_not_what() {
    let allocator = Allocator::new();
    let packet = allocator.packet_from(b"secret").unwrap();
    let text = format!("{packet:?}");
    assert!(text.starts_with("Packet { len: 6, headroom: 0, tailroom: 58, at: 0x"), "{text}");
}

#[test]
fn packets_compare_with_whatever_has_bytes() {
    let allocator = Allocator::new();
    let rc = RcAllocator::<32, 1024>::default();
    let packet = allocator.packet_from(b"same").unwrap();
    let other = rc.packet_from(b"same").unwrap();
    assert!(packet == other && packet == *b"same" && packet == b"same" && packet == b"same"[..]);
    assert!(packet == vec![b's', b'a', b'm', b'e'] && packet == "same" && packet != "other");
}

#[test]
#[cfg(target_pointer_width = "64")]
fn a_packet_takes_three_words() {
    assert_eq!(size_of::<Packet<&Allocator>>(), 3 * size_of::<usize>());
    assert_eq!(size_of::<Option<Packet<RcAllocator>>>(), 3 * size_of::<usize>());
}

#[test]
fn with_check_on_a_write_behind_a_packet_is_reported() {
    let allocator = Allocator::with_config(Config::new().check(true)).unwrap();
    let mut packet = allocator.packet(100).unwrap();
    assert_eq!(packet.capacity(), 100);
    // SAFETY: inside of the block, whose units go up to 128; not behind its end, which is the point.
    unsafe { packet.as_mut_ptr().add(100).write(1) };
    packet.truncate(10);
    assert_eq!((packet.len(), packet.capacity()), (10, 100), "damaged memory is kept");
    assert_eq!(packet.resize(200), Err(AllocError::Damaged));
    let dropped = catch_unwind(AssertUnwindSafe(|| drop(packet)));
    let message = *dropped.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("past"), "{message}");
}

/// A call on one of a few packets.
#[derive(Clone, Debug)]
enum Call {
    Zeroed(usize),
    Copied(usize),
    Filled(usize, usize),
    Truncate(usize),
    Resize(usize),
    Reserve(usize),
    Extend(usize),
    Shrink,
    Raw,
}

fn call() -> impl Strategy<Value = (usize, Call)> {
    let size = || prop_oneof![8 => 0usize..3000, 1 => 30_000usize..40_000];
    let call = prop_oneof![
        size().prop_map(Call::Zeroed),
        size().prop_map(Call::Copied),
        (size(), size()).prop_map(|(most, filled)| Call::Filled(most, filled)),
        size().prop_map(Call::Truncate),
        size().prop_map(Call::Resize),
        size().prop_map(Call::Reserve),
        size().prop_map(Call::Extend),
        Just(Call::Shrink),
        Just(Call::Raw),
    ];
    (0usize..8, call)
}

/// Packets and the vectors that they must be equal to.
fn run(allocator: RcAllocator<64, 1024>, calls: &[(usize, Call)]) {
    let mut packets: Vec<_> = (0..8).map(|_| (Packet::empty(&allocator), Vec::new())).collect();
    for (step, (which, call)) in calls.iter().enumerate() {
        let pattern = |bytes: usize| -> Vec<u8> { (0..bytes).map(|index| (index * 7 + step * 31) as u8).collect() };
        let (packet, model) = &mut packets[*which];
        match *call {
            Call::Zeroed(len) => (*packet, *model) = (allocator.packet(len).unwrap(), vec![0; len]),
            Call::Copied(len) => (*packet, *model) = (allocator.packet_from(&pattern(len)).unwrap(), pattern(len)),
            Call::Filled(most, filled) => {
                let bytes = pattern(filled.min(most));
                let fill = |room: &mut Room<'_>| room.write_all(&bytes);
                let (new, ()) = allocator.packet_with(most, fill).unwrap();
                (*packet, *model) = (new, bytes);
            }
            Call::Truncate(len) => {
                packet.truncate(len);
                model.truncate(len);
            }
            Call::Resize(len) => {
                packet.resize(len).unwrap();
                model.resize(len, 0);
            }
            Call::Reserve(additional) => {
                packet.reserve(additional).unwrap();
                assert!(packet.capacity() >= model.len() + additional);
            }
            Call::Extend(more) => {
                packet.extend_from_slice(&pattern(more)).unwrap();
                model.extend_from_slice(&pattern(more));
            }
            Call::Shrink => packet.shrink_to_fit(),
            Call::Raw => {
                let (owner, block) = std::mem::replace(packet, Packet::empty(&allocator)).into_raw();
                // SAFETY: both are what `into_raw` returned.
                *packet = unsafe { Packet::from_raw(owner, block) };
            }
        }
        for (packet, model) in &packets {
            assert_eq!(packet, model);
            assert!(packet.capacity() >= packet.len());
        }
    }
    assert_eq!(allocator.integrity_check(), Ok(()));
    drop(packets);
    assert_eq!(allocator.used_bytes(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn packets_hold_what_vectors_hold(
        calls in prop::collection::vec(call(), 1..120),
        (zero, check, passthrough) in any::<(bool, bool, bool)>(),
    ) {
        let config = Config::<64, 1024>::default().zero(zero).check(check).passthrough(passthrough);
        run(RcAllocator::with_config(config).unwrap(), &calls);
    }
}

#[test]
fn a_packet_that_is_taken_apart_begins_at_its_block() {
    let allocator = Allocator::new();
    let mut packet = allocator.packet_for(Space::new(100).headroom(30)).unwrap();
    packet.extend_from_slice(b"behind the headroom").unwrap();
    assert!(packet.headroom() >= 30);
    let (owner, block) = packet.into_raw();
    // SAFETY: both are what `into_raw` returned.
    let packet = unsafe { Packet::from_raw(owner, block) };
    assert_eq!((&packet[..], packet.headroom()), (&b"behind the headroom"[..], 0));
}

#[test]
fn bytes_are_lent_under_every_name() {
    let allocator = Allocator::new();
    let mut packet = allocator.packet_from(b"bytes").unwrap();
    AsMut::<[u8]>::as_mut(&mut packet)[0] = b'B';
    BorrowMut::<[u8]>::borrow_mut(&mut packet)[4] = b'S';
    assert_eq!((AsRef::<[u8]>::as_ref(&packet), Borrow::<[u8]>::borrow(&packet)), (&b"ByteS"[..], &b"ByteS"[..]));
}

#[test]
fn each_refusal_is_an_error_of_its_kind_for_io() {
    use io::ErrorKind;
    for (error, kind) in [
        (AllocError::OutOfMemory, ErrorKind::OutOfMemory),
        (AllocError::MemoryLimit, ErrorKind::OutOfMemory),
        (AllocError::Damaged, ErrorKind::Other),
        (AllocError::NoHeadroom, ErrorKind::WriteZero),
        (AllocError::NoTailroom, ErrorKind::WriteZero),
        (AllocError::ZeroSize, ErrorKind::InvalidInput),
        (AllocError::TooLarge, ErrorKind::InvalidInput),
        (AllocError::NotSmaller, ErrorKind::InvalidInput),
        (AllocError::Alignment, ErrorKind::InvalidInput),
    ] {
        let io = io::Error::from(error);
        assert_eq!((io.kind(), io.to_string()), (kind, error.to_string()));
    }
}

#[test]
fn a_packet_outlives_a_reallocation_by_hand() {
    let allocator = Allocator::new();
    let (owner, block) = allocator.packet_from(b"by hand").unwrap().into_raw();
    // SAFETY: the block is live; afterwards only the one that it became is used, whose first seven bytes were kept.
    let packet = unsafe {
        let moved =
            owner.allocate(1).and_then(|_| owner.reallocate(block.unwrap().cast(), 5000, Realloc::CopyExisting));
        let kept = std::ptr::NonNull::slice_from_raw_parts(moved.unwrap().cast(), 7);
        Packet::from_raw(owner, Some(kept))
    };
    assert_eq!(packet, b"by hand");
}
