//! `bytes::Bytes` from shared packets.

use std::thread;

use bytes::Bytes;
use pktalloc::{SharedAllocator, flush_freed};

#[test]
fn the_bytes_are_the_packets_own() {
    let allocator = SharedAllocator::new();
    let packet = allocator.packet_from(b"header|payload").unwrap();
    let address = packet.as_ptr();
    let bytes = Bytes::from(packet);
    assert_eq!(bytes.as_ptr(), address);
    let payload = bytes.slice(7..);
    drop(bytes);
    assert_eq!(payload, "payload");
    assert_eq!(allocator.used_bytes(), 64);
    drop(payload);
    assert_eq!(allocator.used_bytes(), 0);
}

#[test]
fn slices_cross_threads_and_outlive_everything() {
    let allocator = SharedAllocator::new();
    let slices: Vec<Bytes> = (0..100u8)
        .flat_map(|at| {
            let bytes = Bytes::from(allocator.packet_from(&[at; 1400]).unwrap());
            [bytes.slice(..700), bytes.slice(700..)]
        })
        .collect();
    drop(allocator);
    let (front, back): (Vec<_>, Vec<_>) = slices.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).unzip();
    drop(slices);
    let workers = [front, back].map(|half| {
        thread::spawn(move || {
            for (at, bytes) in half.iter().enumerate() {
                assert!(bytes.len() == 700 && bytes.iter().all(|&byte| usize::from(byte) == at));
            }
        })
    });
    workers.into_iter().for_each(|worker| worker.join().unwrap());
}

#[test]
fn a_block_comes_back_with_the_last_slice_on_any_thread() {
    let allocator = SharedAllocator::new();
    let bytes = Bytes::from(allocator.packet_from(&[9; 1000]).unwrap());
    let slice = bytes.slice(10..20);
    thread::spawn(move || drop(bytes)).join().unwrap();
    assert_eq!(allocator.collect(), 0);
    thread::spawn(move || {
        assert_eq!(slice, [9; 10][..]);
        drop(slice);
        flush_freed();
    })
    .join()
    .unwrap();
    assert_eq!(allocator.collect(), 1);
    assert_eq!(allocator.used_bytes(), 0);
}

#[test]
fn a_datagram_that_was_cut_becomes_bytes() {
    let allocator = SharedAllocator::new();
    let mut packet = allocator.packet(2048).unwrap();
    packet[..3].copy_from_slice(b"abc");
    packet.truncate(3);
    assert_eq!(Bytes::from(packet), "abc");
}
