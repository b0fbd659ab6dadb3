//! A retransmission buffer as QUIC has it: what was sent stays until it is acknowledged, in whatever order that
//! happens.
//!
//! A packet that is lost is sent again under a new number; its bytes stay where they are. Acknowledgements arrive out
//! of order and as ranges, so blocks are freed nearly, but not quite, in the order in which they were allocated. `cargo
//! run --example retransmit`

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;

use pktalloc::workload::SplitMix64;
use pktalloc::{AllocError, Allocator, Packet};

/// Bytes of the stream that is sent.
const STREAM_BYTES: usize = 8 << 20;
/// Bytes of the stream in a packet, at most.
const PAYLOAD: usize = 1350;
/// Bytes in front of it: the offset in the stream.
const HEADER: usize = 8;
/// Packets in flight, at most.
const IN_FLIGHT: usize = 256;
/// A packet counts as lost when one that was sent this much later is acknowledged (RFC 9002 says 3).
const REORDERING: u64 = 3;

fn main() -> Result<(), AllocError> {
    let stream: Vec<u8> = (0..STREAM_BYTES).map(|index| (index * index / 7) as u8).collect();
    let allocator = Allocator::new();
    let mut sender = Sender::new(&allocator, &stream);
    let mut network = Network::new();
    let mut receiver = Receiver { stream: vec![0; STREAM_BYTES], acknowledged: Vec::new() };

    while !sender.is_done() {
        while sender.may_send() {
            let (number, packet) = sender.send()?;
            network.carry(number, packet);
        }
        for (number, packet) in network.deliver() {
            receiver.receive(number, &packet);
        }
        let acknowledged = receiver.acknowledge();
        if acknowledged.is_empty() {
            // Nothing is under way any more, so nothing will show that it is missing: the timer's case.
            sender.expire();
        }
        for numbers in acknowledged {
            sender.acknowledge(numbers);
        }
    }

    assert!(receiver.stream == stream, "the stream did not arrive as it was sent");
    assert_eq!(allocator.used_bytes(), 0);
    let (sent, again) = (sender.next_number, sender.sent_again);
    let held = allocator.stats().peak_allocated_bytes / 1024;
    println!("retransmit: 8 MiB in {sent} packets, {again} of them sent again, out of {held} KiB");
    Ok(())
}

/// Cuts a stream into packets and keeps each until it is acknowledged.
struct Sender<'a> {
    allocator: &'a Allocator,
    stream: &'a [u8],
    /// Where the first byte lies that was never sent.
    offset: usize,
    next_number: u64,
    in_flight: BTreeMap<u64, Packet<&'a Allocator>>,
    lost: VecDeque<Packet<&'a Allocator>>,
    sent_again: u64,
}

impl<'a> Sender<'a> {
    fn new(allocator: &'a Allocator, stream: &'a [u8]) -> Self {
        let (in_flight, lost) = (BTreeMap::new(), VecDeque::new());
        Self { allocator, stream, offset: 0, next_number: 0, in_flight, lost, sent_again: 0 }
    }

    fn is_done(&self) -> bool {
        self.offset == self.stream.len() && self.lost.is_empty() && self.in_flight.is_empty()
    }

    fn may_send(&self) -> bool {
        let something = self.offset < self.stream.len() || !self.lost.is_empty();
        something && self.in_flight.len() < IN_FLIGHT
    }

    /// Sends what was lost, or the next piece of the stream.
    fn send(&mut self) -> Result<(u64, &[u8]), AllocError> {
        let packet = match self.lost.pop_front() {
            Some(packet) => {
                self.sent_again += 1;
                packet
            }
            None => self.next_piece()?,
        };
        let number = self.next_number;
        self.next_number += 1;
        Ok((number, self.in_flight.entry(number).or_insert(packet)))
    }

    fn next_piece(&mut self) -> Result<Packet<&'a Allocator>, AllocError> {
        // Pieces of any length up to the whole payload, as an application writes them.
        let length = (200 + self.offset * 13 % 1151).min(self.stream.len() - self.offset);
        let piece = &self.stream[self.offset..self.offset + length];
        let (packet, ()) = self.allocator.packet_with(HEADER + PAYLOAD, |room| {
            room.append(&(self.offset as u64).to_be_bytes());
            room.append(piece);
            Ok::<_, AllocError>(())
        })?;
        self.offset += length;
        Ok(packet)
    }

    /// Frees what arrived; what was sent well before it and has not arrived is lost.
    fn acknowledge(&mut self, numbers: RangeInclusive<u64>) {
        let largest = *numbers.end();
        for number in numbers {
            self.in_flight.remove(&number);
        }
        while let Some(oldest) = self.in_flight.first_entry()
            && *oldest.key() + REORDERING <= largest
        {
            self.lost.push_back(oldest.remove());
        }
    }

    /// Takes everything in flight as lost.
    fn expire(&mut self) {
        self.lost.extend(std::mem::take(&mut self.in_flight).into_values());
    }
}

/// Loses one packet in 50, and swaps one in 10 with the next.
struct Network {
    under_way: VecDeque<(u64, Vec<u8>)>,
    random: SplitMix64,
}

impl Network {
    fn new() -> Self {
        Self { under_way: VecDeque::new(), random: SplitMix64::new(1) }
    }

    fn chance(&mut self, chances: u64) -> bool {
        self.random.below(chances) == 0
    }

    fn carry(&mut self, number: u64, packet: &[u8]) {
        if self.chance(50) {
            return;
        }
        self.under_way.push_back((number, packet.to_vec()));
        let last = self.under_way.len() - 1;
        if last > 0 && self.chance(10) {
            self.under_way.swap(last - 1, last);
        }
    }

    /// What arrives next; the rest stays under way, so that acknowledgements lag behind.
    fn deliver(&mut self) -> impl Iterator<Item = (u64, Vec<u8>)> {
        let arriving = self.under_way.len().min(IN_FLIGHT / 4);
        self.under_way.drain(..arriving)
    }
}

/// Puts the stream together and notes what to acknowledge.
struct Receiver {
    stream: Vec<u8>,
    acknowledged: Vec<u64>,
}

impl Receiver {
    fn receive(&mut self, number: u64, packet: &[u8]) {
        self.acknowledged.push(number);
        let (offset, piece) = packet.split_first_chunk::<HEADER>().expect("every packet has a header");
        let offset = u64::from_be_bytes(*offset) as usize;
        self.stream[offset..offset + piece.len()].copy_from_slice(piece);
    }

    /// The ranges of numbers that arrived since the last call.
    fn acknowledge(&mut self) -> Vec<RangeInclusive<u64>> {
        let mut numbers = std::mem::take(&mut self.acknowledged);
        numbers.sort_unstable();
        let ranges = numbers.chunk_by(|one, next| one + 1 == *next);
        ranges.map(|range| range[0]..=range[range.len() - 1]).collect()
    }
}
