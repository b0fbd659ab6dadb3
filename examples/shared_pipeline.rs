//! A pipeline: one thread receives packets, workers decode them, one thread gathers what came of it.
//!
//! The receiver allocates, and each packet is freed wherever its way ends: by a worker that finds it broken, or by the
//! thread at the end. When the receiver is done its allocator goes, while packets are still on their way.
//! `cargo run --features shared --example shared_pipeline`

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use pktalloc::{AllocError, SharedAllocator, SharedPacket};

/// Packets that arrive.
const PACKETS: u32 = 100_000;
/// Threads that decode.
const WORKERS: usize = 3;
/// Packets between two stages.
const DEPTH: usize = 256;
/// The most bytes that a packet can have.
const MOST: usize = 2048;
/// Bytes in front of the payload: a number and a checksum.
const HEADER: usize = 8;
/// What the sender scrambled payloads with.
const KEY: u8 = 0x5A;

fn main() {
    let (to_workers, from_receiver): (Vec<_>, Vec<_>) = (0..WORKERS).map(|_| sync_channel(DEPTH)).unzip();
    let (to_end, from_workers) = sync_channel(DEPTH);

    let receiver = thread::spawn(move || receive(&to_workers));
    for packets in from_receiver {
        let to_end = to_end.clone();
        thread::spawn(move || decode(packets, &to_end));
    }
    drop(to_end);
    let (packets, bytes) = gather(from_workers);

    let windows = receiver.join().expect("the receiver ends").expect("there is memory for packets in flight");
    let broken = u64::from(PACKETS.div_ceil(100));
    assert_eq!(packets, u64::from(PACKETS) - broken);
    println!(
        "{packets} packets of {bytes} bytes decoded, {broken} found broken; {windows} windows of memory served them"
    );
}

/// Receives packets and hands them to the workers in turn; returns how many windows it took.
fn receive(workers: &[SyncSender<SharedPacket>]) -> Result<u64, AllocError> {
    // Made on the thread that allocates.
    let allocator = SharedAllocator::new();
    for (number, worker) in (0..PACKETS).zip(workers.iter().cycle()) {
        let (packet, ()) = allocator.packet_with(MOST, |room| {
            let arrived = arrive(number, room.zeroed());
            room.advance(arrived);
            Ok::<_, AllocError>(())
        })?;
        worker.send(packet).expect("workers end after the receiver");
    }
    Ok(allocator.stats().windows)
}

/// Unscrambles packets in place and passes on those whose checksum is right; the others end here.
fn decode(packets: Receiver<SharedPacket>, end: &SyncSender<SharedPacket>) {
    for mut packet in packets {
        let (header, payload) = packet.split_at_mut(HEADER);
        payload.iter_mut().for_each(|byte| *byte ^= KEY);
        if header[4..] == checksum(payload) {
            end.send(packet).expect("the end comes after the workers");
        }
    }
}

/// Counts packets and their bytes.
fn gather(packets: Receiver<SharedPacket>) -> (u64, usize) {
    packets.into_iter().fold((0, 0), |(count, bytes), packet| (count + 1, bytes + packet.len()))
}

/// What a socket would do: writes the next packet to `room` and says how long it is. One in a hundred is broken.
fn arrive(number: u32, room: &mut [u8]) -> usize {
    let len = 100 + number as usize * 37 % 1300;
    let (header, payload) = room[..len].split_at_mut(HEADER);
    payload.fill(number as u8);
    header[..4].copy_from_slice(&number.to_be_bytes());
    header[4..].copy_from_slice(&checksum(payload));
    payload.iter_mut().for_each(|byte| *byte ^= KEY);
    if number.is_multiple_of(100) {
        payload[0] ^= 1;
    }
    len
}

fn checksum(payload: &[u8]) -> [u8; 4] {
    payload.iter().fold(0u32, |sum, &byte| sum.rotate_left(5) ^ u32::from(byte)).to_be_bytes()
}
