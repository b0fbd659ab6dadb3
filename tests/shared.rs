//! Packets that other threads hold and free: contents, memory, and who goes last.

use std::alloc::Layout;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use pktalloc::system::{Os, Role, System};
use pktalloc::workload::SplitMix64;
use pktalloc::{AllocError, Config, Room, SharedAllocator, SharedPacket, flush_freed};

/// The system's memory, with a count of the regions that are held.
#[derive(Clone, Default)]
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn regions(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

// SAFETY: the regions are those of `Os`.
unsafe impl System for Counted {
    fn allocate(&self, layout: Layout, role: Role) -> Option<NonNull<u8>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Os.allocate(layout, role)
    }

    unsafe fn free(&self, region: NonNull<u8>, layout: Layout, role: Role) {
        self.0.fetch_sub(1, Ordering::SeqCst);
        // SAFETY: as the caller promises.
        unsafe { Os.free(region, layout, role) };
    }
}

type Allocator = SharedAllocator<64, 2048, Counted>;
type Packet = SharedPacket<64, 2048, Counted>;

fn counted(config: Config) -> (Allocator, Counted) {
    let system = Counted::default();
    let allocator = SharedAllocator::with_config_in(config, system.clone()).expect("the settings make sense");
    (allocator, system)
}

fn below(random: &mut SplitMix64, bound: usize) -> usize {
    random.below(bound as u64) as usize
}

/// Bytes that say which packet they belong to.
fn pattern(seed: usize, len: usize) -> impl Iterator<Item = u8> {
    (0..len).map(move |at| (seed.wrapping_mul(31) + at * 7) as u8)
}

fn verify(seed: usize, packet: &[u8]) {
    assert!(packet.iter().copied().eq(pattern(seed, packet.len())), "packet {seed} of {} bytes changed", packet.len());
}

#[test]
fn a_packet_crosses_threads_and_its_block_comes_back() {
    let allocator = SharedAllocator::new();
    let mut packet = allocator.packet(1400).unwrap();
    assert!(packet.iter().all(|&byte| byte == 0));
    assert_eq!((packet.len(), packet.capacity()), (1400, 1400));
    packet[0] = 7;
    thread::spawn(move || assert_eq!(packet[0], 7)).join().unwrap();
    assert_eq!(allocator.used_bytes(), 1408);
    assert_eq!(allocator.collect(), 1);
    assert_eq!(allocator.used_bytes(), 0);
    allocator.integrity_check().unwrap();
}

#[test]
fn on_its_own_thread_a_packet_is_freed_at_once() {
    let allocator = SharedAllocator::new();
    let packet = allocator.packet_from(b"here").unwrap();
    assert_eq!(allocator.used_bytes(), 64);
    drop(packet);
    assert_eq!(allocator.used_bytes(), 0);
    assert_eq!(allocator.collect(), 0);
}

#[test]
fn the_owner_takes_back_by_itself_when_its_extent_is_used_up() {
    let allocator = SharedAllocator::new();
    let (sender, receiver) = mpsc::sync_channel::<SharedPacket>(64);
    let worker = thread::spawn(move || receiver.into_iter().count());
    for _ in 0..200_000 {
        sender.send(allocator.packet(1000).unwrap()).unwrap();
    }
    drop(sender);
    assert_eq!(worker.join().unwrap(), 200_000);
    // In flight: the queue, the worker's bundle, and what came back since the last extent.
    assert!(allocator.stats().windows <= 4, "{}", allocator.stats());
}

#[test]
fn packets_outlive_their_owner_and_the_last_one_takes_the_memory() {
    for on_another_thread in [false, true] {
        let (allocator, system) = counted(Config::new());
        let packets: Vec<Packet> = (0..500)
            .map(|seed| allocator.packet_from(&pattern(seed, 100 + seed).collect::<Vec<_>>()).unwrap())
            .collect();
        let large = allocator.packet(1 << 20).unwrap();
        drop(allocator);
        let rest = move || {
            for (seed, packet) in packets.into_iter().enumerate() {
                verify(seed, &packet);
            }
            assert!(large.iter().all(|&byte| byte == 0));
            drop(large);
            flush_freed();
        };
        assert!(system.regions() > 1);
        if on_another_thread {
            thread::spawn(rest).join().unwrap();
        } else {
            rest();
        }
        assert_eq!(system.regions(), 0);
    }
}

#[test]
fn an_owner_without_packets_takes_its_memory_along() {
    let (allocator, system) = counted(Config::new());
    drop(allocator.packet(100).unwrap());
    let packet = allocator.packet(1400).unwrap();
    thread::spawn(|| drop(packet)).join().unwrap();
    assert!(system.regions() > 0);
    drop(allocator);
    assert_eq!(system.regions(), 0);
}

#[test]
fn a_thread_that_ends_hands_in_what_it_freed() {
    let (allocator, system) = counted(Config::new());
    let packets: Vec<Packet> = (0..77).map(|_| allocator.packet(1000).unwrap()).collect();
    thread::spawn(|| drop(packets)).join().unwrap();
    assert_eq!(allocator.collect(), 77);
    assert_eq!(allocator.used_bytes(), 0);
    drop(allocator);
    assert_eq!(system.regions(), 0);
}

#[test]
fn a_thread_that_is_told_to_hands_in_what_it_freed() {
    let allocator = SharedAllocator::new();
    let packets: Vec<SharedPacket> = (0..5).map(|_| allocator.packet(1000).unwrap()).collect();
    let (said, hear) = mpsc::channel();
    let (end, ends) = mpsc::channel::<()>();
    let worker = thread::spawn(move || {
        drop(packets);
        said.send(()).unwrap();
        ends.recv().unwrap();
        flush_freed();
        said.send(()).unwrap();
        ends.recv().unwrap();
    });
    hear.recv().unwrap();
    assert_eq!(allocator.collect(), 0);
    end.send(()).unwrap();
    hear.recv().unwrap();
    assert_eq!(allocator.collect(), 5);
    end.send(()).unwrap();
    worker.join().unwrap();
}

#[test]
fn blocks_of_several_owners_are_handed_in_together() {
    let owners = [SharedAllocator::new(), SharedAllocator::new()];
    let packets: Vec<SharedPacket> = (0..40).map(|at| owners[at % 2].packet(1000).unwrap()).collect();
    let collected = || owners.each_ref().map(SharedAllocator::collect);
    let (send, receive) = mpsc::sync_channel(0);
    let (said, hear) = mpsc::channel();
    let worker = thread::spawn(move || {
        for packet in receive {
            drop(packet);
            said.send(()).unwrap();
        }
    });
    for (at, packet) in packets.into_iter().enumerate() {
        send.send(packet).unwrap();
        hear.recv().unwrap();
        // The thread keeps 31, however they alternate, and hands them in when there is one more.
        assert_eq!(collected(), if at == 31 { [16, 15] } else { [0, 0] }, "packet {at}");
    }
    drop(send);
    worker.join().unwrap();
    assert_eq!(collected(), [4, 5]);
    for owner in owners {
        assert_eq!(owner.used_bytes(), 0);
        owner.integrity_check().unwrap();
    }
}

/// The system's memory, which drops a packet of another allocator's whenever a region goes back.
struct Entangled(RefCell<Vec<Packet>>);

// SAFETY: the regions are those of `Os`.
unsafe impl System for Entangled {
    fn allocate(&self, layout: Layout, role: Role) -> Option<NonNull<u8>> {
        Os.allocate(layout, role)
    }

    unsafe fn free(&self, region: NonNull<u8>, layout: Layout, role: Role) {
        // SAFETY: as the caller promises.
        unsafe { Os.free(region, layout, role) };
        self.0.borrow_mut().pop();
    }
}

#[test]
fn a_home_that_is_taken_down_may_drop_packets() {
    for packets in [1, 31, 32, 70] {
        let (other, system) = counted(Config::new());
        let held = (0..50).map(|_| other.packet(1000).unwrap()).collect();
        let config = Config::new().passthrough(true);
        let allocator: SharedAllocator<64, 2048, Entangled> =
            SharedAllocator::with_config_in(config, Entangled(RefCell::new(held))).unwrap();
        let packets: Vec<_> = (0..packets).map(|_| allocator.packet(1000).unwrap()).collect();
        drop(allocator);
        thread::spawn(|| drop(packets)).join().unwrap();
        assert_eq!((other.collect(), other.used_bytes()), (50, 0));
        drop(other);
        assert_eq!(system.regions(), 0);
    }
}

#[test]
fn packets_may_be_dropped_while_a_thread_is_taken_down() {
    thread_local! {
        static EARLY: RefCell<Vec<Packet>> = const { RefCell::new(Vec::new()) };
        static LATE: RefCell<Vec<Packet>> = const { RefCell::new(Vec::new()) };
    }
    let (allocator, system) = counted(Config::new());
    let mut packets: Vec<Packet> = (0..30).map(|_| allocator.packet(1000).unwrap()).collect();
    thread::spawn(move || {
        // One of the two is destroyed before the thread's own bundle, the other after it.
        EARLY.set(packets.split_off(20));
        drop(packets.split_off(10));
        LATE.set(packets);
    })
    .join()
    .unwrap();
    assert_eq!(allocator.collect(), 30);
    drop(allocator);
    assert_eq!(system.regions(), 0);
}

#[test]
fn packets_of_several_owners_find_their_way() {
    let owners: Vec<_> = (0..3).map(|_| counted(Config::new())).collect();
    let packets: Vec<Packet> = (0..300).map(|at| owners[at % 7 % 3].0.packet(40 + at).unwrap()).collect();
    thread::spawn(|| drop(packets)).join().unwrap();
    for (allocator, system) in owners {
        assert!(allocator.used_bytes() > 0 && allocator.collect() > 80);
        assert_eq!(allocator.used_bytes(), 0);
        allocator.integrity_check().unwrap();
        drop(allocator);
        assert_eq!(system.regions(), 0);
    }
}

#[test]
fn an_unbound_allocator_goes_to_another_thread_and_back() {
    let (allocator, system) = counted(Config::new());
    let stays = allocator.packet_from(b"stays").unwrap();
    let goes = allocator.packet_from(b"goes").unwrap();
    let unbound = allocator.unbind();
    let worker = thread::spawn(move || {
        let allocator = unbound.bind();
        drop(goes);
        assert_eq!(allocator.used_bytes(), 64);
        let news = allocator.packet_from(b"news").unwrap();
        (allocator.unbind(), news)
    });
    let (unbound, news) = worker.join().unwrap();
    drop(stays);
    flush_freed();
    let allocator = unbound.bind();
    assert_eq!(allocator.used_bytes(), 128);
    assert_eq!(allocator.collect(), 1);
    drop(news);
    assert_eq!(allocator.used_bytes(), 0);
    drop(allocator.unbind());
    assert_eq!(system.regions(), 0);
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
fn a_packet_too_large_for_a_window_holds_a_unit_more_and_goes_home_as_others_do() {
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
            assert!(message.starts_with("cannot free: ") && message.contains("overwritten"), "{message}");
        };
        let word = size_of::<usize>();
        for byte in 0..2 * word {
            drop_while_overwritten(byte, true);
            // Where a region leads to the owner at hand nobody looks at the seal behind that, unless every call checks.
            if byte < word || large || check {
                drop_while_overwritten(byte, false);
            }
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
    // SAFETY: as above.
    unsafe { header.write(before) };
    drop(packet);
    assert_eq!((allocator.used_bytes(), allocator.integrity_check()), (0, Ok(())));
}

/// Packets that overflow run away from their region's bookkeeping.
#[test]
#[cfg(target_os = "linux")]
fn the_bookkeeping_of_a_region_lies_in_front_of_its_packets() {
    let allocator = SharedAllocator::new();
    let packets: Vec<SharedPacket> = (0..5000).map(|_| allocator.packet(1400).unwrap()).collect();
    // With pointers of four bytes it fits into one window.
    let bookkeeping = if cfg!(target_pointer_width = "64") { 2 } else { 1 } * (128 << 10);
    for packet in &packets {
        let offset = packet.as_ptr().addr() % Os::REGION_BYTES;
        assert!(offset >= bookkeeping, "a packet lies {offset} bytes into its region");
    }
}

/// Threads keep freed blocks for a while, except those of a bounded pool, which would wait for them for ever.
#[test]
fn a_bounded_pool_gets_every_packet_back_at_once() {
    let allocator = SharedAllocator::with_config(Config::new().memory_limit(256 << 10)).unwrap();
    for _ in 0..3 {
        let packets: Vec<SharedPacket> = std::iter::from_fn(|| allocator.packet(9000).ok()).collect();
        assert!((10..30).contains(&packets.len()), "{} packets", packets.len());
        let (dropped, wait) = mpsc::channel();
        let (end, ends) = mpsc::channel::<()>();
        let consumer = thread::spawn(move || {
            drop(packets);
            dropped.send(()).unwrap();
            // Goes on living, and does nothing.
            ends.recv().unwrap();
        });
        wait.recv().unwrap();
        assert!(allocator.packet(9000).is_ok(), "the consumer holds what the pool waits for");
        end.send(()).unwrap();
        consumer.join().unwrap();
    }
}

/// Once the owner is gone, its memory goes with the packets, not with the last of them.
#[test]
fn the_memory_of_an_owner_that_is_gone_goes_with_its_packets() {
    let (allocator, system) = counted(Config::new());
    let mut packets: Vec<Packet> = (0..5000).map(|_| allocator.packet(1400).unwrap()).collect();
    let all = system.regions();
    assert!(all > 50);
    drop(allocator);
    let last = packets.pop();
    thread::spawn(|| drop(packets)).join().unwrap();
    assert_eq!(system.regions(), 1, "of {all} regions");
    drop(last);
    flush_freed();
    assert_eq!(system.regions(), 0);
}

/// However many packets come back at once, an allocation takes a bounded number of them.
#[test]
fn what_came_back_is_taken_little_by_little() {
    let allocator = SharedAllocator::new();
    let packets: Vec<SharedPacket> = (0..20_000).map(|_| allocator.packet(1400).unwrap()).collect();
    thread::spawn(|| drop(packets)).join().unwrap();
    let mut before = allocator.used_bytes();
    assert_eq!(before, 20_000 * 1408);
    let mut kept = Vec::new();
    while before > kept.len() as u64 * 1408 {
        kept.push(allocator.packet(1400).unwrap());
        let used = allocator.used_bytes();
        assert!(before <= used + 64 * 1408, "{} bytes in one call", before - used);
        before = used;
        assert!(kept.len() <= 40_000);
    }
    assert_eq!(allocator.integrity_check(), Ok(()));
}

#[test]
fn what_a_thread_dropped_before_it_binds_the_allocator_is_back_then() {
    let allocator = SharedAllocator::with_config(Config::new().memory_limit(1 << 20)).unwrap();
    let packets: Vec<SharedPacket> = (0..24).map(|_| allocator.packet(32_000).unwrap()).collect();
    let unbound = allocator.unbind();
    drop(packets);
    let allocator = unbound.bind();
    assert_eq!((allocator.collect(), allocator.used_bytes()), (24, 0));
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

#[test]
fn of_several_allocators_on_a_thread_each_frees_its_own_at_once() {
    let allocators: [SharedAllocator; 3] = Default::default();
    let packets = allocators.each_ref().map(|allocator| allocator.packet(1400).unwrap());
    for (allocator, packet) in allocators.iter().zip(packets) {
        drop(packet);
        assert_eq!(allocator.used_bytes(), 0);
    }
    // The last one to be bound goes to another thread, and what it leaves behind comes back by the stack.
    let [first, second, last] = allocators;
    let packets = [&first, &second, &last].map(|allocator| allocator.packet(1400).unwrap());
    let unbound = last.unbind();
    thread::scope(|scope| {
        let (send, bound) = mpsc::channel();
        let (dropped, wait) = mpsc::channel();
        let worker = scope.spawn(move || {
            let last = unbound.bind();
            send.send(()).unwrap();
            wait.recv().unwrap();
            assert_eq!((last.used_bytes(), last.collect(), last.used_bytes()), (22 * 64, 1, 0));
        });
        bound.recv().unwrap();
        drop(packets);
        assert_eq!(first.used_bytes() + second.used_bytes(), 0);
        flush_freed();
        dropped.send(()).unwrap();
        worker.join().unwrap();
    });
}

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
        allocator.collect();
        assert_eq!(allocator.used_bytes(), 0);
        allocator.integrity_check().unwrap();
    }
}

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

/// Owners come and go while their packets are being freed: the two ends meet in every order.
#[test]
fn owners_go_while_their_packets_are_freed() {
    let regions = Counted::default();
    let rounds = if cfg!(debug_assertions) { 2_000 } else { 20_000 };
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..3).map(|_| mpsc::sync_channel::<Vec<Packet>>(4)).unzip();
    let workers: Vec<_> =
        receivers.into_iter().map(|receiver| thread::spawn(move || receiver.into_iter().for_each(drop))).collect();
    let mut random = SplitMix64::new(5);
    for round in 0..rounds {
        let allocator: Allocator = SharedAllocator::with_config_in(Config::new(), regions.clone()).unwrap();
        for sender in &senders {
            let packets =
                (0..below(&mut random, 70)).map(|_| allocator.packet_from(&[round as u8; 200]).unwrap()).collect();
            sender.send(packets).unwrap();
        }
    }
    drop(senders);
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    assert_eq!(regions.regions(), 0);
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

/// A limit is no reason to refuse while what is missing has come back, however many small packets that are.
#[test]
fn what_came_back_is_taken_before_a_packet_is_refused() {
    let allocator = SharedAllocator::with_config(Config::new().memory_limit(8 << 20)).unwrap();
    for (small, size) in [(50, 200_000), (1400, 1400), (1400, 1 << 20)] {
        let packets: Vec<_> = std::iter::from_fn(|| allocator.packet(small).ok()).collect();
        assert!(packets.len() > 1000);
        thread::spawn(move || drop(packets)).join().unwrap();
        assert!(allocator.packet_for(size).is_ok(), "{size} behind packets of {small}: {}", allocator.stats());
    }
}
