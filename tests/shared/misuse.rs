//! Bookkeeping that stray bytes have overwritten, seen from other threads.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;

use pktalloc::system::{Os, System};
use pktalloc::{Allocator, Config, IntegrityError, Pool, SharedAllocator, SharedPacket, flush_freed};

#[test]
fn a_packet_whose_owner_pointer_was_overwritten_is_not_freed() {
    // The header of a region lies behind its guard.
    let (region, header) = (Os::REGION_BYTES, 4096);
    for (check, large) in [(false, false), (false, true), (true, false), (true, true)] {
        let allocator = SharedAllocator::with_config(Config::new().check(check)).unwrap();
        let packet = allocator.packet(if large { 10 << 20 } else { 1000 }).unwrap();
        let front =
            packet.as_ptr().map_addr(|address| if large { address - 64 } else { (address & !(region - 1)) + header });
        // SAFETY: that is memory of the allocator's, which nobody uses meanwhile.
        let flip = |byte: usize| unsafe { front.add(byte).cast_mut().write(!front.add(byte).read()) };
        let drop_while_overwritten = |byte, elsewhere| {
            // SAFETY: dropping the copy frees nothing; the packet is there afterwards.
            let copy = unsafe { std::ptr::read(&packet) };
            flip(byte);
            let outcome = if elsewhere {
                thread::spawn(|| drop(copy)).join()
            } else {
                catch_unwind(AssertUnwindSafe(|| drop(copy)))
            };
            flip(byte);
            let message = *outcome.unwrap_err().downcast::<String>().unwrap();
            assert!(message.starts_with("cannot ") && message.contains("overwritten"), "{message}");
        };
        let word = size_of::<usize>();
        // A label says how long the block is as well, and has a seal for that.
        for byte in 0..if large { 4 } else { 2 } * word {
            drop_while_overwritten(byte, true);
            // Where a region leads to the owner at hand nobody looks at the seal behind that, unless every call checks.
            if byte < word || large || check {
                drop_while_overwritten(byte, false);
            }
        }
        if large {
            flip(2 * word);
            let message = *catch_unwind(|| packet.capacity()).unwrap_err().downcast::<String>().unwrap();
            flip(2 * word);
            assert!(message.starts_with("cannot ") && message.contains("overwritten"), "{message}");
        }
        drop(packet);
        assert_eq!(allocator.used_bytes(), 0);
    }
}

/// Zeros over it, as a stray write leaves them, look like no owner at all.
#[test]
fn a_zeroed_owner_pointer_is_a_panic_on_every_thread() {
    let allocator = SharedAllocator::new();
    let packet = allocator.packet(1000).unwrap();
    let header = packet
        .as_ptr()
        .map_addr(|address| (address & !(Os::REGION_BYTES - 1)) + 4096)
        .cast_mut()
        .cast::<[u8; 2 * size_of::<usize>()]>();
    // SAFETY: that is the region's owner pointer, which nobody reads meanwhile.
    let before = unsafe { header.replace([0; 2 * size_of::<usize>()]) };
    for elsewhere in [true, false] {
        // SAFETY: dropping the copy frees nothing; the packet is there afterwards.
        let copy = unsafe { std::ptr::read(&packet) };
        let outcome =
            if elsewhere { thread::spawn(|| drop(copy)).join() } else { catch_unwind(AssertUnwindSafe(|| drop(copy))) };
        let message = *outcome.unwrap_err().downcast::<String>().unwrap();
        assert!(message.contains("overwritten"), "{message}");
    }
    assert!(matches!(allocator.integrity_check(), Err(IntegrityError::Header { .. })));
    // SAFETY: as above.
    unsafe { header.write(before) };
    drop(packet);
    assert_eq!((allocator.used_bytes(), allocator.integrity_check()), (0, Ok(())));
}

/// A packet whose label was overwritten is dropped while what that has caused unwinds. A second panic would end the
/// process.
#[test]
fn what_was_overwritten_is_one_panic_however_many_packets_have_it() {
    type Use = fn(Vec<SharedPacket>);
    let uses: [Use; 4] = [
        drop,
        |mut packets| packets[0].truncate(10),
        |mut packets| _ = packets[0].extend_from_slice(&[1; 1000]),
        |packets| drop(packets.into_iter().map(SharedPacket::freeze).collect::<Vec<_>>()),
    ];
    for (size, check) in [(40_000, false), (40_000, true), (10 << 20, false)] {
        for overwritten in uses {
            let allocator = SharedAllocator::with_config(Config::new().check(check)).unwrap();
            let mut packets: Vec<SharedPacket> = (0..3).map(|_| allocator.packet(size).unwrap()).collect();
            for packet in &mut packets {
                // SAFETY: that is memory of the packet's block, which nobody reads meanwhile.
                unsafe { packet.as_mut_ptr().sub(64).write_bytes(0xf8, 64) };
            }
            let panicked = catch_unwind(AssertUnwindSafe(|| overwritten(packets)));
            let message = *panicked.unwrap_err().downcast::<String>().unwrap();
            assert!(message.starts_with("cannot ") && message.contains("overwritten"), "{message}");
            assert!(allocator.used_bytes() >= 3 * size as u64, "what cannot be freed is kept");
        }
    }
}

/// With `check` on, every free after an overflow finds it.
#[test]
fn an_overflow_is_one_panic_however_many_packets_are_dropped() {
    let config = Config::new().check(true);
    let (allocator, local) = (SharedAllocator::with_config(config).unwrap(), Allocator::with_config(config).unwrap());
    // SAFETY: what lies behind the packet is its block's, and nobody reads it meanwhile.
    let overflow = |packet: *mut u8| unsafe { packet.add(1000).write_bytes(0xf8, 12) };
    let mut shared: Vec<SharedPacket> = (0..3).map(|_| allocator.packet(1000).unwrap()).collect();
    shared.iter_mut().for_each(|packet| overflow(packet.as_mut_ptr()));
    let mut packets: Vec<_> = (0..3).map(|_| local.packet(1000).unwrap()).collect();
    packets.iter_mut().for_each(|packet| overflow(packet.as_mut_ptr()));
    for panicked in [catch_unwind(AssertUnwindSafe(|| drop(shared))), catch_unwind(AssertUnwindSafe(|| drop(packets)))]
    {
        let message = *panicked.unwrap_err().downcast::<String>().unwrap();
        assert!(message.starts_with("cannot free: "), "{message}");
    }
}

/// What a thread still has to do when it ends finds overflows as well, where a panic would end the process.
#[test]
fn an_overflow_that_is_found_when_a_thread_ends_does_not_end_the_process() {
    let config = Config::new().check(true);
    let overflow = |mut packet: SharedPacket| {
        // SAFETY: what lies behind the packet is its block's, and nobody reads it meanwhile.
        unsafe { packet.as_mut_ptr().add(1000).write_bytes(0xf8, 12) };
        drop(packet);
    };
    // The last to free a packet of an allocator that is gone.
    let packets: Vec<SharedPacket> = {
        let allocator = SharedAllocator::with_config(config).unwrap();
        (0..3).map(|_| allocator.packet(1000).unwrap()).collect()
    };
    thread::spawn(move || packets.into_iter().for_each(overflow)).join().unwrap();
    // The owner of a pool's memory, which takes back what others have freed.
    let pool = Pool::with_config(config).unwrap();
    let (packets, received) = mpsc::channel();
    let (freed, wait) = mpsc::channel::<()>();
    let worker = thread::spawn({
        let pool = pool.clone();
        move || {
            (0..3).for_each(|_| packets.send(pool.packet(1000).unwrap()).unwrap());
            wait.recv().unwrap();
        }
    });
    let packets: Vec<SharedPacket> = received.into_iter().take(3).collect();
    packets.into_iter().for_each(overflow);
    flush_freed();
    freed.send(()).unwrap();
    worker.join().unwrap();
}

/// Blocks that wait for their owner name each other in their own memory, which the packet in front may overwrite.
#[test]
fn freed_blocks_that_were_overwritten_before_their_owner_took_them_are_a_panic() {
    let word = size_of::<usize>();
    // Bundles of one, of as many as a unit has room for, and of as many as a thread keeps.
    for (size, freed) in [(40, 1), (40, 4), (1000, 31)] {
        let named = if size < 64 { freed.min(7) } else { freed };
        for byte in 0..(1 + named) * word {
            for fill in [None, Some(0), Some(0xff)] {
                let allocator = SharedAllocator::new();
                let mut packets: Vec<SharedPacket> = (0..=freed).map(|_| allocator.packet(size).unwrap()).collect();
                let behind = packets.split_off(1);
                let [packet] = &mut packets[..] else { unreachable!("one is left") };
                let bundle = behind[0].as_ptr().addr() - packet.as_ptr().addr();
                assert!(bundle <= size.next_multiple_of(64), "it lies right behind");
                let used = allocator.used_bytes();
                thread::spawn(|| drop(behind)).join().unwrap();
                // SAFETY: the freed block that lies there is nobody's to read meanwhile.
                unsafe {
                    let stray = packet.as_mut_ptr().add(bundle + byte);
                    stray.write(fill.filter(|&fill| fill != stray.read()).unwrap_or(!stray.read()));
                }
                let message = catch_unwind(AssertUnwindSafe(|| allocator.collect())).unwrap_err();
                let message = *message.downcast::<String>().unwrap();
                assert!(message.starts_with("cannot take back") && message.contains("overwritten"), "{message}");
                // They stay live, and all else goes on.
                assert_eq!((allocator.used_bytes(), allocator.collect()), (used, 0));
                drop(allocator.packet(size).unwrap());
                assert_eq!(allocator.integrity_check(), Ok(()));
            }
        }
    }
}

/// They are seen once, also when an owner finds several at its end, and while a thread unwinds.
#[test]
fn overwritten_freed_blocks_are_one_panic_however_many_there_are() {
    for unwinds in [false, true] {
        let allocator = SharedAllocator::new();
        let mut packets: Vec<SharedPacket> = (0..93).map(|_| allocator.packet(1000).unwrap()).collect();
        let starts: Vec<*mut u8> = packets.iter_mut().map(|packet| packet.as_mut_ptr()).collect();
        thread::spawn(|| drop(packets)).join().unwrap();
        for bundle in starts.into_iter().step_by(31) {
            // SAFETY: the block is nobody's to read meanwhile.
            unsafe { bundle.write_bytes(0xf8, 4) };
        }
        let ended = catch_unwind(AssertUnwindSafe(|| {
            let allocator = allocator;
            assert!(!unwinds, "cannot go on");
            drop(allocator);
        }));
        let message = ended.unwrap_err();
        let message = message.downcast_ref::<String>().map(String::as_str).or(message.downcast_ref::<&str>().copied());
        assert!(message.is_some_and(|message| message.starts_with("cannot ")), "{message:?}");
    }
}

/// Packets that overflow run away from their region's bookkeeping.
#[test]
#[cfg(target_os = "linux")]
fn the_bookkeeping_of_a_region_lies_in_front_of_its_packets() {
    let allocator = SharedAllocator::new();
    let packets: Vec<SharedPacket> = (0..5000).map(|_| allocator.packet(1400).unwrap()).collect();
    // The map, and the places of cached blocks, which are a pointer each.
    let bookkeeping = if cfg!(target_pointer_width = "64") { 3 } else { 2 } * (128 << 10);
    for packet in &packets {
        let offset = packet.as_ptr().addr() % Os::REGION_BYTES;
        assert!(offset >= bookkeeping, "a packet lies {offset} bytes into its region");
    }
}
