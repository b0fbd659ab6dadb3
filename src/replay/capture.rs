//! Packets of a pcap or pcapng capture.
//!
//! Only the heads of records and blocks are read, what packets hold is passed over: a capture of any length is read
//! in a fixed amount of memory beside the packets found.

mod cursor;
mod pcap;
mod pcapng;

use std::io;
use std::path::Path;

use super::error::{Error, Fault, Place};
use super::note::{Format, Note};
use super::packet::{MAX_PACKET_BYTES, Packets};
use super::source::{Source, Tail};
use cursor::Cursor;

/// What the first bytes of a capture say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Magic {
    Pcap(pcap::Variant),
    Pcapng,
}

impl Magic {
    /// Recognises a capture by its first bytes.
    pub(super) fn of(head: &[u8]) -> Option<Self> {
        let magic = *head.first_chunk()?;
        if u32::from_le_bytes(magic) == pcapng::SECTION_HEADER {
            return Some(Self::Pcapng);
        }
        pcap::Variant::of(magic).map(Self::Pcap)
    }

    pub(super) const fn format(self) -> Format {
        match self {
            Self::Pcap(_) => Format::Pcap,
            Self::Pcapng => Format::Pcapng,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Little,
    Big,
}

impl Order {
    fn u16(self, bytes: [u8; 2]) -> u16 {
        match self {
            Self::Little => u16::from_le_bytes(bytes),
            Self::Big => u16::from_be_bytes(bytes),
        }
    }

    fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }

    /// The number at an offset of a head.
    fn u32_at(self, head: &[u8], offset: usize) -> u32 {
        self.u32(*head[offset..].first_chunk().expect("the head is longer"))
    }
}

/// How the records of a capture end.
enum End {
    /// Behind the last record.
    Whole,
    /// In the middle of a record.
    CutOff(Place),
    /// In zeros, which begin where a record would.
    Zeros { byte: u64, bytes: u64 },
}

/// Why reading ends early.
enum Stop {
    /// The file ends in the middle of what is read.
    CutOff,
    Fault(Place, Fault),
    Io(io::Error),
    Error(Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// Reads all packets. What is wrong with the end of the file becomes a note, unless there is no packet before it.
pub(super) fn read(path: &Path, magic: Magic, source: Source<'_>) -> Result<(Packets, Vec<Note>), Error> {
    let mut cursor = Cursor::new(source);
    let mut packets = Packets::default();
    let result = match magic {
        Magic::Pcap(variant) => pcap::read(variant, &mut cursor, &mut packets),
        Magic::Pcapng => pcapng::read(&mut cursor, &mut packets),
    };
    let path = || path.to_owned();
    let end = result.map_err(|stop| match stop {
        Stop::CutOff => Error::Fault { path: path(), place: Place::Byte(0), fault: Fault::CutOff },
        Stop::Fault(place, fault) => Error::Fault { path: path(), place, fault },
        Stop::Io(source) => Error::Io { path: path(), source },
        Stop::Error(error) => error,
    })?;
    let mut notes = Vec::new();
    match end {
        End::Whole => {}
        End::CutOff(place) if packets.len() == 0 => {
            return Err(Error::Fault { path: path(), place, fault: Fault::CutOff });
        }
        End::CutOff(place) => notes.push(Note::CutOff { place, packets: packets.len() }),
        End::Zeros { byte, bytes } => notes.push(Note::Zeros { place: Place::Byte(byte), bytes }),
    }
    match cursor.into_source().tail() {
        None => {}
        Some(Tail::CutOff { format }) => notes.push(Note::CompressedCutOff { format }),
        Some(Tail::Zeros { bytes }) => notes.push(Note::ZerosBehind { bytes }),
    }
    Ok((packets, notes))
}

fn value(name: &'static str, found: impl ToString, allowed: impl Into<String>) -> Fault {
    Fault::Value { name, found: found.to_string(), allowed: allowed.into() }
}

/// Checks the two lengths of a packet: captured, and on the wire.
fn check_lengths(captured: u32, size: u32) -> Result<(), Fault> {
    if size > MAX_PACKET_BYTES {
        return Err(value("size", size, format!("0 to {MAX_PACKET_BYTES} bytes")));
    }
    if captured > size {
        return Err(value("captured length", captured, format!("at most the {size} bytes on the wire")));
    }
    Ok(())
}
