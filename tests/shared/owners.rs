//! Owners that go to another thread, or go before their packets do.

use std::alloc::Layout;
use std::cell::RefCell;
use std::ptr::NonNull;
use std::sync::mpsc;
use std::thread;

use pktalloc::system::{Os, Role, System};
use pktalloc::workload::SplitMix64;
use pktalloc::{Config, SharedAllocator, flush_freed};

use super::{Allocator, Counted, Packet, below, counted, pattern, verify};

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
fn memory_that_goes_back_may_take_packets_along() {
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
