//! A trace: what arrived, how big it was, and when.

use std::fs::File;
use std::io;
use std::path::Path;

use super::calls::CallTrace;
use super::error::{Error, Fault, Place};
use super::note::{Format, Note};
use super::packet::{Packet, Packets};
use super::progress::{Progress, Watch};
use super::source::Source;
use super::table::Table;
use super::{calls, capture, link, rows};

/// How a file is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// Whether a capture with something wrong at its end is refused, instead of read up to there with a [`Note`].
    pub strict: bool,
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recording {
    /// Packets: of a capture or of a text file.
    Packets(Trace),
    /// The calls of a program.
    Calls(CallTrace),
}

impl Recording {
    /// Reads a pcap, a pcapng or a CSV file, plain or compressed with gzip or zstd, in time that grows with its length
    /// and memory that grows with the number of its packets or calls.
    ///
    /// # Errors
    /// Everything of [`Error`] that has a path: what cannot be opened, is no such file, is damaged, or holds nothing.
    /// [`Error::TooManyPackets`] beyond [`MAX_PACKETS`](super::MAX_PACKETS); [`Error::NoMemory`],
    /// [`Error::Interrupted`].
    pub fn load(path: &Path, options: ReadOptions, progress: &mut Progress<'_>) -> Result<Self, Error> {
        let watch = Watch::new(progress);
        let recording = Self::read(path, options, Source::open(path, &watch));
        if watch.stopped() { Err(Error::Interrupted) } else { recording }
    }

    /// The same for a file that is open, such as standard input; `name` is for messages.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn from_file(
        file: File,
        name: &Path,
        options: ReadOptions,
        progress: &mut Progress<'_>,
    ) -> Result<Self, Error> {
        let watch = Watch::new(progress);
        let recording = Self::read(name, options, Source::of_file(file, &watch));
        if watch.stopped() { Err(Error::Interrupted) } else { recording }
    }

    fn read(path: &Path, options: ReadOptions, source: io::Result<Source<'_>>) -> Result<Self, Error> {
        let source = source.map_err(|source| Error::Io { path: path.to_owned(), source })?;
        let Some(magic) = capture::Magic::of(source.head()) else {
            return read_text(path, source);
        };
        let (packets, notes) = capture::read(path, magic, source)?;
        if options.strict
            && let Some(note) = notes.first()
        {
            return Err(refused(path, note));
        }
        Trace::new(path, magic.format(), packets, notes).map(Self::Packets)
    }
}

/// Packets in the order of their arrival; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    packets: Vec<Packet>,
    format: Format,
    notes: Vec<Note>,
}

impl Trace {
    /// Reads a file that holds packets, as [`Recording::load`] does.
    ///
    /// Packets are put in the order of their timestamps; those with the same one stay in the order of the file.
    ///
    /// # Errors
    /// Those of [`Recording::load`]; [`Error::CallsNotPackets`].
    pub fn load(path: &Path, options: ReadOptions, progress: &mut Progress<'_>) -> Result<Self, Error> {
        match Recording::load(path, options, progress)? {
            Recording::Packets(trace) => Ok(trace),
            Recording::Calls(_) => Err(Error::CallsNotPackets { path: path.to_owned() }),
        }
    }

    fn new(path: &Path, format: Format, packets: Packets, notes: Vec<Note>) -> Result<Self, Error> {
        if packets.len() == 0 {
            return Err(Error::Empty { path: path.to_owned(), what: "packets" });
        }
        Ok(Self { packets: packets.in_order()?, format, notes })
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

    /// What is wrong with the end of the file.
    #[must_use]
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// Nanoseconds from the first arrival to the last.
    #[must_use]
    pub fn duration(&self) -> u64 {
        self.packets.last().map_or(0, Packet::arrival)
    }
}

fn read_text(path: &Path, source: Source<'_>) -> Result<Recording, Error> {
    let unrecognized = |found| Error::Unrecognized { path: path.to_owned(), found };
    if let Some(found) = known_by_name(source.head()) {
        return Err(unrecognized(Some(found)));
    }
    let table = Table::open(path, source)?.ok_or_else(|| unrecognized(None))?;
    match table.columns() {
        link::COLUMNS => Err(Error::LinkNotPackets { path: path.to_owned() }),
        "size,frequency" => Err(Error::HistogramNotPackets { path: path.to_owned() }),
        calls::COLUMNS => {
            let trace = calls::read(table)?;
            if trace.units() == 0 {
                return Err(Error::Empty { path: path.to_owned(), what: "allocations" });
            }
            Ok(Recording::Calls(trace))
        }
        columns if rows::are_packets(columns) => {
            Trace::new(path, Format::Csv, rows::read(table)?, Vec::new()).map(Recording::Packets)
        }
        _ => Err(unrecognized(None)),
    }
}

/// Files that people take for captures, by their first bytes.
fn known_by_name(head: &[u8]) -> Option<&'static str> {
    const KNOWN: [(&[u8], &str); 12] = [
        (b"snoop\0\0\0", "a snoop capture, which editcap can convert to pcapng"),
        (b"version https://git-lfs", "a Git LFS pointer and not the file itself, which `git lfs pull` fetches"),
        (b"GMBU", "a Network Monitor capture, which editcap can convert to pcapng"),
        (b"RTSS", "a Network Monitor capture, which editcap can convert to pcapng"),
        (b"\xfd7zXZ\0", "xz data; decompress it first"),
        (b"BZh", "bzip2 data; decompress it first"),
        (b"\x04\x22\x4d\x18", "lz4 data; decompress it first"),
        (b"PK\x03\x04", "a zip archive; unpack it first"),
        (b"\x1f\x8b", "gzip data within gzip data; decompress it first"),
        (b"\x28\xb5\x2f\xfd", "zstd data within compressed data; decompress it first"),
        (b"<!DOCTYPE", "an HTML page"),
        (b"<html", "an HTML page"),
    ];
    KNOWN.into_iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, name)| name)
}

/// What a strict reader says.
fn refused(path: &Path, note: &Note) -> Error {
    let (place, fault) = match *note {
        Note::CutOff { place, .. } => (place, Fault::CutOff),
        Note::CompressedCutOff { format: "gzip" } => (Place::End, Fault::Malformed("the gzip data is cut off")),
        Note::CompressedCutOff { .. } => (Place::End, Fault::Malformed("the zstd data is cut off")),
        Note::Zeros { place, .. } => (place, Fault::Malformed("zeros where a record should begin")),
        Note::ZerosBehind { .. } => (Place::End, Fault::Malformed("zeros behind the compressed data")),
    };
    Error::Fault { path: path.to_owned(), place, fault }
}
