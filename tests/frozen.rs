//! Frozen packets: many handles to a block, on any thread, and what becomes of it.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use bytes::{Buf, BufMut, Bytes};
use pktalloc::{Allocator, Config, FrozenPacket, SharedAllocator, Space, flush_freed};
use proptest::prelude::*;

fn settings() -> [Config; 4] {
    [Config::new(), Config::new().check(true), Config::new().passthrough(true), Config::new().memory_limit(64 << 20)]
}

#[test]
fn a_packet_becomes_a_frozen_one_by_either_name() {
    let allocator = SharedAllocator::new();
    let packet = allocator.packet_from(b"frozen").unwrap();
    let address = packet.as_ptr();
    let frozen = FrozenPacket::from(packet);
    assert_eq!((frozen.as_ptr(), &frozen[..]), (address, &b"frozen"[..]));
}

#[test]
fn a_block_lives_as_long_as_a_part_of_it_is_held() {
    for config in settings() {
        let allocator = SharedAllocator::with_config(config).unwrap();
        // Every way in which a packet may end in its block, and blocks in no region.
        for len in (1..=130).chain([1400, 2040, 2048, 40_000, 300_000, 10 << 20]) {
            let bytes: Vec<u8> = (0..len).map(|at| at as u8).collect();
            let packet = allocator.packet_from(&bytes).unwrap();
            let (address, used) = (packet.as_ptr(), allocator.used_bytes());
            let frozen = packet.freeze();
            assert_eq!((frozen.as_ptr(), allocator.used_bytes()), (address, used), "freezing takes no memory");
            let (front, back) = (frozen.slice(..len / 2), frozen.slice(len / 2..));
            let clone = frozen.clone();
            drop(frozen);
            assert!(front == bytes[..len / 2] && back == bytes[len / 2..] && clone == bytes);
            drop(clone);
            drop(back);
            assert_eq!(allocator.used_bytes(), used);
            drop(front);
            assert_eq!(allocator.used_bytes(), 0, "{len}");
        }
        assert_eq!(allocator.integrity_check(), Ok(()));
    }
}

#[test]
fn the_only_handle_is_writable_again_with_room_on_both_sides() {
    for config in settings() {
        let allocator = SharedAllocator::with_config(config).unwrap();
        let mut packet = allocator.packet(Space::new(1000).headroom(30).tailroom(20)).unwrap();
        packet.fill(5);
        let (capacity, headroom) = (packet.capacity(), packet.headroom());
        let mut frozen = packet.freeze();
        frozen.advance(100);
        frozen.truncate(800);
        let other = frozen.clone();
        assert!(!frozen.is_unique());
        let frozen = frozen.try_into_packet().unwrap_err();
        drop(other);
        assert!(frozen.is_unique());
        let mut packet = frozen.try_into_packet().unwrap();
        assert_eq!((packet.len(), packet.headroom(), packet.capacity()), (800, headroom + 100, capacity - 100));
        packet.prepend(&[4; 130]).unwrap();
        packet.extend_from_slice(&[6; 120]).unwrap();
        assert!(packet[..130] == [4; 130] && packet[130..930] == [5; 800] && packet[930..] == [6; 120]);
        let again = packet.freeze();
        thread::spawn(move || {
            let mut packet = again.try_into_packet().unwrap();
            packet[0] = 1;
            drop(packet.freeze());
            flush_freed();
        })
        .join()
        .unwrap();
        allocator.collect();
        assert_eq!((allocator.used_bytes(), allocator.integrity_check()), (0, Ok(())));
    }
}

#[test]
fn empty_packets_are_handles_to_nothing() {
    let allocator = SharedAllocator::new();
    let empty = allocator.packet(0).unwrap().freeze();
    assert!(
        empty.is_empty() && empty.is_unique() && empty == FrozenPacket::new() && empty == FrozenPacket::<64>::default()
    );
    let (clone, part) = (empty.clone(), empty.slice(..));
    assert!(clone.try_into_packet().unwrap().is_empty() && part.try_into_packet().unwrap().is_empty());
    // A part of no bytes holds the packet all the same, as other parts do.
    let part = allocator.packet(100).unwrap().freeze().slice(50..50);
    assert!(part.is_empty() && allocator.used_bytes() == 128);
}

#[test]
fn parts_are_those_of_a_slice_and_what_is_out_of_bounds_panics() {
    let allocator = SharedAllocator::new();
    let mut packet = allocator.packet_from(b"0123456789").unwrap().freeze();
    assert!(packet.slice(2..=4) == b"234" && packet.slice(..=1) == b"01" && packet.slice(..) == packet);
    assert!(packet.slice((std::ops::Bound::Excluded(7), std::ops::Bound::Unbounded)) == b"89");
    type Call = (fn(&mut FrozenPacket), &'static str);
    let calls: [Call; 6] = [
        (|packet| drop(packet.slice(11..)), "cannot slice 11..10 of a packet of 10 bytes"),
        (|packet| drop(packet.slice(..11)), "cannot slice 0..11 of a packet of 10 bytes"),
        (|packet| drop(packet.slice(..=usize::MAX)), "cannot slice 0..18446744073709551615 of a packet of 10 bytes"),
        (|packet| drop(packet.split_to(11)), "cannot slice 0..11 of a packet of 10 bytes"),
        (|packet| drop(packet.split_off(11)), "cannot slice 11..10 of a packet of 10 bytes"),
        (|packet| packet.advance(11), "cannot advance by 11 bytes in a packet of 10"),
    ];
    for (call, message) in calls {
        let panic = catch_unwind(AssertUnwindSafe(|| call(&mut packet))).unwrap_err();
        if cfg!(target_pointer_width = "64") {
            assert_eq!(*panic.downcast::<String>().unwrap(), message);
        }
        assert!(packet == b"0123456789" && packet.is_unique());
    }
    let front = packet.split_to(3);
    let back = packet.split_off(4);
    assert!(front == b"012" && packet == b"3456" && back == b"789");
}

#[test]
fn handles_compare_order_and_hash_as_bytes() {
    let allocator = SharedAllocator::new();
    let frozen = |bytes: &[u8]| allocator.packet_from(bytes).unwrap().freeze();
    assert!(frozen(b"a") < frozen(b"b") && b"a"[..] == frozen(b"a") && frozen(b"a") == *"a");
    assert!(frozen(b"ab") == allocator.packet_from(b"ab").unwrap());
    let set: HashSet<FrozenPacket> = [frozen(b"a"), frozen(b"b"), frozen(b"a")].into();
    assert!(set.len() == 2 && set.contains(&b"b"[..]));
    assert!(format!("{:?}", frozen(b"secret")).starts_with("FrozenPacket { len: 6, at: 0x"));
    assert_eq!([size_of::<FrozenPacket>(), size_of::<Option<FrozenPacket>>()], [2 * size_of::<usize>() + 8; 2]);
}

#[test]
fn a_packet_whose_end_was_overwritten_is_not_freed() {
    let allocator = SharedAllocator::new();
    let frozen = allocator.packet_from(&[1; 1400]).unwrap().freeze();
    // The 4 bytes in front of the count are a seal.
    let seal = frozen[1396..].as_ptr().wrapping_add(4).cast_mut();
    for bit in 0..32 {
        // SAFETY: that is memory of the packet's block, which nobody reads meanwhile.
        let flip = || unsafe { *seal.add(bit / 8) ^= 1 << (bit % 8) };
        // SAFETY: dropping the copy frees nothing; the packet is there afterwards.
        let copy = unsafe { std::ptr::read(&frozen) };
        flip();
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(copy)));
        flip();
        let message = *dropped.unwrap_err().downcast::<String>().unwrap();
        assert!(message.starts_with("cannot free: "), "bit {bit}: {message}");
        assert_eq!((allocator.used_bytes(), allocator.integrity_check()), (1408, Ok(())));
    }
    drop(frozen);
    assert_eq!(allocator.used_bytes(), 0);
}

/// Neither the count nor the seal at the end of a block ends the process, and nobody frees what others hold.
#[test]
fn an_overwritten_end_is_one_panic_however_many_handles_there_are() {
    let allocator = SharedAllocator::new();
    let end_of = |frozen: &FrozenPacket| frozen[1400..].as_ptr().cast_mut().cast::<u32>();
    let frozen = allocator.packet_from(&[1; 1400]).unwrap().freeze();
    // SAFETY: that is the end of the packet's block, which nobody reads meanwhile.
    let count = unsafe { end_of(&frozen).add(1) };
    // SAFETY: as above.
    unsafe { count.write(0xf8f8_f8f8) };
    let message = *catch_unwind(|| frozen.clone()).unwrap_err().downcast::<String>().unwrap();
    assert!(message.starts_with("cannot ") && message.contains("overwritten"), "{message}");
    // SAFETY: as above.
    assert_eq!(unsafe { count.replace(1) }, 0xf8f8_f8f8, "a refused handle does not count");
    drop(frozen);
    for bytes in [0, 1, u32::MAX, 0xf8f8_f8f8] {
        let frozen = [1, 2].map(|byte| allocator.packet_from(&[byte; 1400]).unwrap().freeze());
        for frozen in &frozen {
            // SAFETY: as above.
            unsafe { end_of(frozen).cast::<[u32; 2]>().write([bytes, 1]) };
        }
        let message = *catch_unwind(AssertUnwindSafe(|| drop(frozen))).unwrap_err().downcast::<String>().unwrap();
        assert!(message.contains("overwritten"), "{message}");
    }
    assert_eq!(allocator.used_bytes(), 8 * 1408, "what cannot be freed is kept");
}

#[test]
fn handles_are_made_and_dropped_on_many_threads() {
    let allocator = SharedAllocator::new();
    let rounds = if cfg!(debug_assertions) { 200 } else { 2000 };
    for round in 0..rounds {
        let packet = allocator.packet_from(&[round as u8; 700]).unwrap().freeze();
        thread::scope(|scope| {
            let workers = [0; 3].map(|_| {
                let packet = packet.clone();
                scope.spawn(move || {
                    let parts: Vec<_> = (0..20).map(|at| packet.slice(at * 30..)).collect();
                    drop(packet);
                    assert!(parts.iter().all(|part| part.iter().all(|&byte| byte == round as u8)));
                })
            });
            // The last handle frees it, on this thread or on the other.
            drop(packet);
            // A thread that was waited for has handed in what it freed.
            workers.into_iter().for_each(|worker| worker.join().unwrap());
        });
    }
    allocator.collect();
    assert_eq!((allocator.used_bytes(), allocator.integrity_check()), (0, Ok(())));
}

#[test]
fn frozen_packets_outlive_their_allocator() {
    let allocator = SharedAllocator::new();
    let frozen: Vec<_> = (0..200).map(|at| allocator.packet_from(&[at as u8; 1000]).unwrap().freeze()).collect();
    let copies = frozen.clone();
    drop((frozen, allocator));
    thread::spawn(move || {
        assert!(copies.iter().enumerate().all(|(at, packet)| *packet == [at as u8; 1000]));
        let packet = copies.into_iter().nth(7).unwrap().try_into_packet().unwrap();
        assert_eq!(packet, [7; 1000]);
    })
    .join()
    .unwrap();
}

#[test]
fn the_traits_of_bytes_read_and_write() {
    let allocator = SharedAllocator::new();
    let mut packet = allocator.packet_for(Space::new(64).headroom(8)).unwrap();
    packet.put_u32(0xdead_beef);
    packet.put_slice(b"payload");
    assert_eq!(packet.remaining_mut(), packet.tailroom());
    let mut reader = packet.freeze();
    let copy = reader.clone();
    assert_eq!((reader.get_u32(), reader.remaining(), reader.chunk()), (0xdead_beef, 7, &b"payload"[..]));
    let mut chain = reader.clone().chain(allocator.packet_from(b"|more").unwrap().freeze());
    assert_eq!(chain.copy_to_bytes(12), "payload|more");
    let bytes = reader.copy_to_bytes(7);
    assert!(bytes == "payload" && !reader.has_remaining());
    drop((reader, chain));
    let mut packet = copy.try_into_packet().unwrap();
    assert_eq!((packet.get_u8(), packet.remaining()), (0xde, 10));
    let room = packet.tailroom();
    let full = catch_unwind(AssertUnwindSafe(|| packet.put_bytes(1, room + 1)));
    assert!(full.is_err(), "a packet does not grow by itself");

    let local = Allocator::new();
    let (packet, ()) = local
        .packet_with(100, |room| {
            room.put_u16(0x8060);
            room.put_slice(b"rtp");
            assert_eq!((room.remaining_mut(), room.filled()), (95, &b"\x80\x60rtp"[..]));
            Ok::<_, pktalloc::AllocError>(())
        })
        .unwrap();
    assert_eq!(packet, b"\x80\x60rtp");
}

#[test]
fn bytes_of_a_frozen_packet_share_its_block() {
    let allocator = SharedAllocator::new();
    let frozen = allocator.packet_from(b"header|payload").unwrap().freeze();
    let bytes = Bytes::from(frozen.slice(7..));
    assert_eq!(bytes.as_ptr(), frozen[7..].as_ptr());
    drop(frozen);
    assert!(bytes == "payload" && allocator.used_bytes() == 64);
    // The way back is a copy: what `Bytes` holds is not ours to write to.
    let copy = allocator.packet_from(&bytes).unwrap();
    drop(bytes);
    assert!(copy == b"payload" && allocator.used_bytes() == 64);
}

/// A call on one of a few handles.
#[derive(Clone, Debug)]
enum Call {
    Clone,
    Slice(usize, usize),
    SplitTo(usize),
    SplitOff(usize),
    Advance(usize),
    Truncate(usize),
    Thaw,
    Drop,
}

fn call() -> impl Strategy<Value = (usize, Call)> {
    let at = || 0usize..3000;
    let call = prop_oneof![
        3 => Just(Call::Clone),
        3 => (at(), at()).prop_map(|(start, len)| Call::Slice(start, len)),
        2 => at().prop_map(Call::SplitTo),
        2 => at().prop_map(Call::SplitOff),
        2 => at().prop_map(Call::Advance),
        2 => at().prop_map(Call::Truncate),
        3 => Just(Call::Thaw),
        5 => Just(Call::Drop),
    ];
    (any::<usize>(), call)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Handles, and the vectors that they must be equal to; which packet each is of says whether it is the only one.
    #[test]
    fn frozen_packets_hold_what_vectors_hold(calls in prop::collection::vec(call(), 1..200), check in any::<bool>()) {
        let allocator = SharedAllocator::with_config(Config::new().check(check)).unwrap();
        let mut handles: Vec<(FrozenPacket, Vec<u8>, usize)> = Vec::new();
        for (step, (which, call)) in calls.iter().enumerate() {
            if handles.is_empty() {
                let bytes: Vec<u8> = (0..step * 97 % 3000).map(|at| (at + step) as u8).collect();
                handles.push((allocator.packet_from(&bytes).unwrap().freeze(), bytes, step));
            }
            let place = which % handles.len();
            let (handle, model, packet) = &mut handles[place];
            let len = model.len();
            let new = match *call {
                Call::Clone => Some((handle.clone(), model.clone(), *packet)),
                Call::Slice(start, more) => {
                    let start = start.min(len);
                    let end = (start + more).min(len);
                    Some((handle.slice(start..end), model[start..end].to_vec(), *packet))
                }
                Call::SplitTo(at) => {
                    let at = at.min(len);
                    Some((handle.split_to(at), model.drain(..at).collect(), *packet))
                }
                Call::SplitOff(at) => {
                    let at = at.min(len);
                    Some((handle.split_off(at), model.split_off(at), *packet))
                }
                Call::Advance(by) => {
                    handle.advance(by.min(len));
                    model.drain(..by.min(len));
                    None
                }
                Call::Truncate(to) => {
                    handle.truncate(to);
                    model.truncate(to);
                    None
                }
                Call::Thaw => {
                    let packet = *packet;
                    let (handle, mut model, _) = handles.swap_remove(place);
                    let is_only = !handles.iter().any(|(_, _, other)| *other == packet);
                    // A packet of no bytes has no block to share.
                    let is_only = is_only || packet * 97 % 3000 == 0;
                    match handle.try_into_packet() {
                        Ok(mut writable) => {
                            assert!(is_only && writable == model);
                            writable.iter_mut().zip(&mut model).for_each(|(byte, model)| {
                                *byte ^= 0x55;
                                *model ^= 0x55;
                            });
                            Some((writable.freeze(), model, packet))
                        }
                        Err(handle) => {
                            assert!(!is_only);
                            Some((handle, model, packet))
                        }
                    }
                }
                Call::Drop => {
                    handles.swap_remove(place);
                    None
                }
            };
            handles.extend(new);
            assert!(handles.iter().all(|(handle, model, _)| handle == model));
        }
        drop(handles);
        assert_eq!((allocator.used_bytes(), allocator.integrity_check()), (0, Ok(())));
    }
}
