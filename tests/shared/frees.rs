//! How packets come back that other threads have dropped.

use std::sync::mpsc;
use std::thread;

use pktalloc::{Config, SharedAllocator, SharedPacket, flush_freed};

use super::{Packet, Worker, counted};

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
fn packets_of_several_owners_each_go_back_to_their_own() {
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
    let worker = Worker::new();
    worker.run(move || drop(packets));
    assert_eq!(allocator.collect(), 0);
    worker.run(flush_freed);
    assert_eq!(allocator.collect(), 5);
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
fn blocks_of_several_owners_are_handed_in_together() {
    let owners = [SharedAllocator::new(), SharedAllocator::new()];
    let packets: Vec<SharedPacket> = (0..40).map(|at| owners[at % 2].packet(1000).unwrap()).collect();
    let collected = || owners.each_ref().map(SharedAllocator::collect);
    let worker = Worker::new();
    for (at, packet) in packets.into_iter().enumerate() {
        worker.run(move || drop(packet));
        // The thread keeps 31, however they alternate, and hands them in when there is one more.
        assert_eq!(collected(), if at == 31 { [16, 15] } else { [0, 0] }, "packet {at}");
    }
    drop(worker);
    assert_eq!(collected(), [4, 5]);
    for owner in owners {
        assert_eq!(owner.used_bytes(), 0);
        owner.integrity_check().unwrap();
    }
}

/// Threads keep freed blocks for a while, except those of a bounded pool, which would wait for them for ever.
#[test]
fn a_bounded_pool_gets_every_packet_back_at_once() {
    let allocator = SharedAllocator::with_config(Config::new().memory_limit(256 << 10)).unwrap();
    for _ in 0..3 {
        let packets: Vec<SharedPacket> = std::iter::from_fn(|| allocator.packet(9000).ok()).collect();
        assert!((10..30).contains(&packets.len()), "{} packets", packets.len());
        // It goes on living, and does nothing more.
        let consumer = Worker::new();
        consumer.run(move || drop(packets));
        assert!(allocator.packet(9000).is_ok(), "the consumer holds what the pool waits for");
    }
}
