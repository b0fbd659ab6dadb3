//! A sender in the manner of QUIC: the stream's data is written once, into frozen packets. What is in flight are parts
//! of those, sent with a header of their own each time; what is lost goes out again in another packet, and what is
//! acknowledged frees its block with the last part.
//!
//! `cargo run --example quic_sender --features bytes`

use std::collections::{BTreeMap, VecDeque};
use std::error::Error;

use bytes::{Buf, BufMut};
use pktalloc::workload::SplitMix64;
use pktalloc::{AllocError, FrozenPacket, SharedAllocator};

/// What the application writes at a time.
const CHUNK: usize = 4000;
/// The most payload of a packet.
const MOST: usize = 1200;
/// The most packets in flight.
const WINDOW: usize = 64;
/// Number, offset and length.
const HEADER: usize = 8 + 8 + 2;

/// A part of the stream. A clone is the same bytes.
#[derive(Clone)]
struct Frame {
    offset: u64,
    data: FrozenPacket,
}

#[derive(Default)]
struct Sender {
    waiting: VecDeque<Frame>,
    in_flight: BTreeMap<u64, Frame>,
    offset: u64,
    next: u64,
    sent_again: usize,
}

impl Sender {
    /// Takes data of the application, cut into frames without a copy.
    fn write(&mut self, mut data: FrozenPacket) {
        while data.has_remaining() {
            let part = data.split_to(data.len().min(MOST));
            let len = part.len() as u64;
            self.waiting.push_back(Frame { offset: self.offset, data: part });
            self.offset += len;
        }
    }

    /// The next datagram, for one gathering send: its header, and its frame.
    fn transmit(&mut self) -> Option<([u8; HEADER], FrozenPacket)> {
        if self.in_flight.len() >= WINDOW {
            return None;
        }
        let frame = self.waiting.pop_front()?;
        let (number, mut header) = (self.next, [0; HEADER]);
        self.next += 1;
        let mut fields = &mut header[..];
        fields.put_u64(number);
        fields.put_u64(frame.offset);
        fields.put_u16(frame.data.len() as u16);
        let data = frame.data.clone();
        self.in_flight.insert(number, frame);
        Some((header, data))
    }

    /// Notes that a packet arrived; those sent long before it are lost, and wait again, under a new number.
    fn acknowledge(&mut self, number: u64) {
        self.in_flight.remove(&number);
        while let Some(entry) = self.in_flight.first_entry()
            && *entry.key() + 8 < number
        {
            self.waiting.push_front(entry.remove());
            self.sent_again += 1;
        }
    }

    /// Has the last packets, after which nothing was acknowledged, wait again.
    fn time_out(&mut self) {
        self.sent_again += self.in_flight.len();
        self.waiting.extend(core::mem::take(&mut self.in_flight).into_values());
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let allocator = SharedAllocator::new();
    let mut random = SplitMix64::new(1);
    let mut sender = Sender::default();
    let mut received: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut most_used = 0;
    let (chunks, mut written) = (2000, 0);
    while written < chunks || !sender.waiting.is_empty() || !sender.in_flight.is_empty() {
        while written < chunks && sender.waiting.len() < 16 {
            let (packet, ()) = allocator.packet_with(CHUNK, |room| {
                (0..CHUNK).for_each(|at| room.put_u8((written * CHUNK + at) as u8));
                Ok::<_, AllocError>(())
            })?;
            sender.write(packet.freeze());
            written += 1;
        }
        most_used = most_used.max(allocator.used_bytes());
        let mut arrived = Vec::new();
        while let Some((header, data)) = sender.transmit() {
            // The network loses one in ten.
            if random.below(10) == 0 {
                continue;
            }
            let mut fields = &header[..];
            let (number, offset, len) = (fields.get_u64(), fields.get_u64(), fields.get_u16());
            assert_eq!(usize::from(len), data.len());
            received.entry(offset).or_insert_with(|| data.to_vec());
            arrived.push(number);
        }
        arrived.iter().for_each(|&number| sender.acknowledge(number));
        if arrived.is_empty() {
            sender.time_out();
        }
    }
    let stream = received.into_iter().fold(Vec::new(), |mut stream, (offset, data)| {
        assert_eq!(offset, stream.len() as u64, "the stream has no gap");
        stream.extend(data);
        stream
    });
    assert!(stream.len() == chunks * CHUNK && stream.iter().enumerate().all(|(at, &byte)| byte == at as u8));
    assert!(sender.sent_again > 500);
    assert_eq!(allocator.used_bytes(), 0, "what was acknowledged is free");
    println!(
        "{} bytes arrived; {} frames were sent again from the same memory, of which {most_used} bytes were used at most",
        stream.len(),
        sender.sent_again
    );
    Ok(())
}
