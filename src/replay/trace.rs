//! A trace: what arrived, how big it was, and when.

use std::path::Path;

use super::source::Source;
use super::{Error, Progress, capture, table};

/// The largest packet that a trace may hold. Captures of whole USB transfers reach megabytes, of frames 256 KiB; a
/// length beyond this is a damaged file.
pub const MAX_PACKET_BYTES: u32 = 16 << 20;

/// The most packets that a replay takes, copies included: a gigabyte of bookkeeping.
pub const MAX_PACKETS: u64 = 1 << 24;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Nanoseconds since the first packet of the trace.
    pub arrival: u64,
    /// Bytes on the wire, also where the capture kept fewer of them.
    pub size: u32,
    /// How long it is held.
    pub lifetime: Lifetime,
}

/// What kind of file a trace was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A libpcap capture.
    Pcap,
    /// A pcapng capture.
    Pcapng,
    /// A text file of times and sizes.
    Csv,
}

impl Format {
    /// Its usual name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pcap => "pcap",
            Self::Pcapng => "pcapng",
            Self::Csv => "csv",
        }
    }
}

/// Packets in the order of their arrival; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    packets: Vec<Packet>,
    format: Format,
}

impl Trace {
    /// Reads a pcap, pcapng or CSV file, plain or gzip, in time that grows with its length.
    ///
    /// Packets are put in the order of their timestamps; those with the same one stay in the order of the file.
    ///
    /// # Errors
    /// Everything of [`Error`] that has a path: what cannot be opened, is no such file, is cut off or damaged, has a
    /// size of zero, or holds no packet. [`Error::TooManyPackets`] beyond [`MAX_PACKETS`]; [`Error::Interrupted`].
    pub fn load(path: &Path, progress: &mut Progress<'_>) -> Result<Self, Error> {
        let source = Source::open(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        let (format, mut packets) = match capture::Magic::of(&source.head) {
            Some(magic) => (magic.format(), capture::read(path, magic, source.bytes, progress)?),
            None => (Format::Csv, table::read_packets(path, source.bytes, progress)?),
        };
        if packets.is_empty() {
            return Err(Error::Empty { path: path.to_owned(), what: "packets" });
        }
        packets.sort_by_key(|packet| packet.arrival);
        let start = packets[0].arrival;
        for packet in &mut packets {
            packet.arrival -= start;
        }
        Ok(Self { packets, format })
    }

    /// The packets, in the order of their arrival.
    #[must_use]
    pub fn packets(&self) -> &[Packet] {
        &self.packets
    }

    /// What kind of file it was read from.
    #[must_use]
    pub const fn format(&self) -> Format {
        self.format
    }

    /// Nanoseconds from the first arrival to the last.
    #[must_use]
    pub fn duration(&self) -> u64 {
        self.packets.last().map_or(0, |packet| packet.arrival)
    }
}
