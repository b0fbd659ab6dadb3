//! A packet of a trace: when it came, how big it was, and how long it is held.

use core::fmt;

use super::error::Error;
use super::memory::push;

/// The largest packet that a trace may hold. Captures of whole USB transfers reach megabytes, of frames 256 KiB; a
/// length beyond this is a damaged file.
pub const MAX_PACKET_BYTES: u32 = 16 << 20;

/// The most packets that a replay takes, copies included: a gigabyte of bookkeeping.
pub const MAX_PACKETS: u64 = 1 << 24;

/// The most bytes that a replay holds at once.
pub const MAX_LIVE_BYTES: u64 = 4 << 30;

/// How long a packet is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// The trace does not say: the packet is freed on departure.
    Unrecorded,
    /// This many nanoseconds from its arrival.
    Nanoseconds(u64),
    /// To the end of the replay.
    Forever,
}

/// A packet of a trace.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    arrival: u64,
    /// A lifetime in one word, since there are millions of packets: nanoseconds, or one of the two values below.
    lifetime: u64,
    size: u32,
}

const FOREVER: u64 = u64::MAX;
const UNRECORDED: u64 = u64::MAX - 1;

impl Packet {
    /// A packet that came `arrival` nanoseconds after the first one of its trace. Lifetimes over 584 years are cut to
    /// that.
    #[must_use]
    pub const fn new(arrival: u64, size: u32, lifetime: Lifetime) -> Self {
        let lifetime = match lifetime {
            Lifetime::Unrecorded => UNRECORDED,
            Lifetime::Forever => FOREVER,
            Lifetime::Nanoseconds(time) if time >= UNRECORDED => UNRECORDED - 1,
            Lifetime::Nanoseconds(time) => time,
        };
        Self { arrival, lifetime, size }
    }

    /// Nanoseconds since the first packet of the trace.
    #[must_use]
    pub const fn arrival(&self) -> u64 {
        self.arrival
    }

    /// Bytes on the wire, also where the capture kept fewer of them; may be 0.
    #[must_use]
    pub const fn size(&self) -> u32 {
        self.size
    }

    /// How long it is held.
    #[must_use]
    pub const fn lifetime(&self) -> Lifetime {
        match self.lifetime {
            UNRECORDED => Lifetime::Unrecorded,
            FOREVER => Lifetime::Forever,
            time => Lifetime::Nanoseconds(time),
        }
    }
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packet")
            .field("arrival", &self.arrival)
            .field("size", &self.size)
            .field("lifetime", &self.lifetime())
            .finish()
    }
}

/// The packets of a file, in the order of the file.
#[derive(Default)]
pub(super) struct Packets {
    packets: Vec<Packet>,
    /// The time of the last packet that had one.
    time: Option<u64>,
}

impl Packets {
    pub(super) fn len(&self) -> u64 {
        self.packets.len() as u64
    }

    /// Adds a packet with a time of its own.
    pub(super) fn push(&mut self, packet: Packet) -> Result<(), Error> {
        if self.time.is_none() {
            // What came before it without a time came with it.
            for earlier in &mut self.packets {
                earlier.arrival = packet.arrival;
            }
        }
        self.time = Some(packet.arrival);
        self.add(packet)
    }

    /// Adds a packet that has no time of its own: it came with the one before, or with the first.
    pub(super) fn push_untimed(&mut self, size: u32) -> Result<(), Error> {
        self.add(Packet::new(self.time.unwrap_or(0), size, Lifetime::Unrecorded))
    }

    fn add(&mut self, packet: Packet) -> Result<(), Error> {
        if self.len() == MAX_PACKETS {
            return Err(Error::TooManyPackets { allowed: MAX_PACKETS });
        }
        push(&mut self.packets, packet, "the packets of the trace")
    }

    /// The packets in the order of time, counted from the first one. Those with the same time stay in the order of the
    /// file.
    pub(super) fn in_order(self) -> Result<Vec<Packet>, Error> {
        let mut packets = self.packets;
        if !packets.is_sorted_by_key(Packet::arrival) {
            // Sorting in place needs no memory, and the second key keeps the order of equals.
            let start = packets.iter().map(Packet::arrival).min().unwrap_or(0);
            let mut order = Vec::new();
            super::memory::reserve(&mut order, packets.len(), "the order of the packets")?;
            order.extend((0..).zip(&packets).map(|(index, packet): (u32, &Packet)| (packet.arrival - start, index)));
            order.sort_unstable();
            let mut sorted = Vec::new();
            super::memory::reserve(&mut sorted, packets.len(), "the packets of the trace")?;
            sorted.extend(order.iter().map(|&(_, index)| packets[index as usize]));
            packets = sorted;
        }
        let start = packets.first().map_or(0, Packet::arrival);
        for packet in &mut packets {
            packet.arrival -= start;
        }
        Ok(packets)
    }
}
