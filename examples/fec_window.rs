//! A sliding window with forward error correction: parities over the latest packets bring back what the network lost.
//!
//! After every fourth packet the sender adds a parity, the exclusive or of the eight packets before it, so that each
//! packet is covered twice. The receiver keeps a window of packets and parities; a parity with one packet missing gives
//! that packet back, which may complete another parity. `cargo run --example fec_window`

use std::collections::VecDeque;
use std::ops::Range;

use pktalloc::workload::SplitMix64;
use pktalloc::{AllocError, Packet, RcAllocator};

/// Packets that are sent.
const PACKETS: u64 = 20_000;
/// Packets between two parities.
const STRIDE: u64 = 4;
/// Packets under a parity.
const COVERED: u64 = 8;
/// Packets that the receiver keeps.
const WINDOW: u64 = 64;
/// Bytes in front of a packet that hold its length: parities cover it, since packets differ in length.
const HEADER: usize = 2;

type Owned = Packet<RcAllocator>;

fn main() -> Result<(), AllocError> {
    let allocator = RcAllocator::new();
    let mut sender = Window::new(allocator.clone());
    let mut receiver = Receiver::new(allocator.clone());
    let mut network = SplitMix64::new(7);
    let mut lost = 0;

    for number in 0..PACKETS {
        sender.push(Some(allocator.packet_from(&packet(number))?));
        let arrives = network.below(20) > 0;
        lost += u64::from(!arrives);
        receiver.receive(arrives.then(|| packet(number)).as_deref())?;
        if (number + 1) % STRIDE == 0 && number + 1 >= COVERED {
            let covered = number + 1 - COVERED..number + 1;
            let parity = sender.parity(covered.clone())?;
            if network.below(20) > 0 {
                receiver.receive_parity(covered, parity)?;
            }
        }
    }

    let recovered = receiver.recovered;
    assert!(recovered * 100 >= lost * 80, "only {recovered} of {lost} packets came back");
    drop((sender, receiver));
    assert_eq!(allocator.used_bytes(), 0);
    let held = allocator.stats().peak_allocated_bytes / 1024;
    println!("fec_window: of {PACKETS} packets {lost} were lost and {recovered} brought back, in {held} KiB");
    Ok(())
}

/// A packet of 200 to 1399 bytes, with its length in front.
fn packet(number: u64) -> Vec<u8> {
    let length = 200 + (number * 7919 % 1200) as usize;
    let payload = (0..length).map(|index| (number as usize * 31 + index) as u8);
    (length as u16).to_be_bytes().into_iter().chain(payload).collect()
}

/// The latest packets by number; `None` for those that did not arrive.
struct Window {
    allocator: RcAllocator,
    first: u64,
    packets: VecDeque<Option<Owned>>,
}

impl Window {
    fn new(allocator: RcAllocator) -> Self {
        Self { allocator, first: 0, packets: VecDeque::new() }
    }

    fn end(&self) -> u64 {
        self.first + self.packets.len() as u64
    }

    fn slot(&mut self, number: u64) -> &mut Option<Owned> {
        &mut self.packets[(number - self.first) as usize]
    }

    /// Adds the next packet; the oldest leaves, and its memory with it.
    fn push(&mut self, packet: Option<Owned>) {
        self.packets.push_back(packet);
        if self.packets.len() as u64 > WINDOW {
            self.packets.pop_front();
            self.first += 1;
        }
    }

    /// The exclusive or of those of the packets that are there, as long as the longest of them.
    fn parity(&self, covered: Range<u64>) -> Result<Owned, AllocError> {
        let mut parity = Packet::empty(&self.allocator);
        for number in covered {
            if let Some(packet) = &self.packets[(number - self.first) as usize] {
                add(&mut parity, packet)?;
            }
        }
        Ok(parity)
    }
}

/// Adds `packet` to `sum`, byte by byte without carry; the shorter one counts as ending in zeros.
fn add(sum: &mut Owned, packet: &[u8]) -> Result<(), AllocError> {
    if sum.len() < packet.len() {
        sum.resize(packet.len())?;
    }
    sum.iter_mut().zip(packet).for_each(|(sum, byte)| *sum ^= byte);
    Ok(())
}

/// A window with losses, and the parities that may undo them.
struct Receiver {
    window: Window,
    parities: VecDeque<(Range<u64>, Owned)>,
    recovered: u64,
}

impl Receiver {
    fn new(allocator: RcAllocator) -> Self {
        Self { window: Window::new(allocator), parities: VecDeque::new(), recovered: 0 }
    }

    /// Takes the next packet, or notes that it is missing.
    fn receive(&mut self, datagram: Option<&[u8]>) -> Result<(), AllocError> {
        let packet = datagram.map(|bytes| self.window.allocator.packet_from(bytes)).transpose()?;
        self.window.push(packet);
        let first = self.window.first;
        self.parities.retain(|(covered, _)| covered.start >= first);
        Ok(())
    }

    fn receive_parity(&mut self, covered: Range<u64>, parity: Owned) -> Result<(), AllocError> {
        assert!(covered.end <= self.window.end());
        self.parities.push_back((covered, parity));
        // What one parity brings back may be what another was missing.
        while let Some((number, packet)) = self.recover()? {
            assert_eq!(packet, crate::packet(number), "packet {number} came back changed");
            *self.window.slot(number) = Some(packet);
            self.recovered += 1;
        }
        Ok(())
    }

    /// Solves a parity that misses one packet; drops those that miss none.
    fn recover(&mut self) -> Result<Option<(u64, Owned)>, AllocError> {
        let window = &mut self.window;
        self.parities.retain(|(covered, _)| covered.clone().any(|number| window.slot(number).is_none()));
        let mut missing_one = self.parities.iter().enumerate().filter_map(|(index, (covered, _))| {
            let mut missing = covered.clone().filter(|&number| window.slot(number).is_none());
            missing.next().filter(|_| missing.next().is_none()).map(|number| (index, number))
        });
        let Some((index, number)) = missing_one.next() else {
            return Ok(None);
        };
        let Some((covered, mut packet)) = self.parities.remove(index) else {
            return Ok(None);
        };
        add(&mut packet, &window.parity(covered)?)?;
        // The parity is as long as the longest packet under it; the rest of its memory goes back.
        let length = u16::from_be_bytes([packet[0], packet[1]]);
        packet.truncate(HEADER + usize::from(length));
        Ok(Some((number, packet)))
    }
}
