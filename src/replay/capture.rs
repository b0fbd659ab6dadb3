//! Packets of a pcap or pcapng capture.
//!
//! `pcap-parser` takes the blocks apart. What it leaves to its caller is done here: to grow its buffer, to know where
//! in the file a block stands, and to tell a block that is cut off from one that contradicts itself (the parser asks
//! for more data in both cases).

use core::fmt::Display;
use std::io::{self, Read};
use std::path::Path;

use pcap_parser::traits::PcapReaderIterator;
use pcap_parser::{
    Block, EPB_MAGIC, IDB_MAGIC, InterfaceDescriptionBlock, LegacyPcapReader, OptionCode, PcapBlockOwned, PcapError,
    PcapNGReader, SHB_MAGIC, SPB_MAGIC,
};

use super::error::{Error, Fault, Place};
use super::trace::{Format, Lifetime, MAX_PACKET_BYTES, MAX_PACKETS, Packet};
use super::{PROGRESS_STRIDE, Phase, Progress, report_progress};

/// The buffer to start with: two packets of the largest snapshot that is usual.
const BUFFER_BYTES: usize = 128 << 10;
/// The largest block that is read; a length beyond it is a damaged file.
const MAX_BLOCK_BYTES: usize = 64 << 20;
/// The obsolete Packet Block of pcapng, which `pcap-parser` hands over undecoded.
const OBSOLETE_PACKET: u32 = 2;
/// Type and length of a pcapng block, and the byte-order mark of a section header behind them.
const BLOCK_HEAD_BYTES: usize = 12;
/// The least length of a pcapng block: its type, and its length in front and behind.
const MIN_BLOCK_BYTES: usize = 12;
/// The byte-order mark of a pcapng section.
const BYTE_ORDER_MARK: u32 = 0x1a2b_3c4d;

const NANOSECONDS: u128 = 1_000_000_000;

/// What the first four bytes of a capture say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Magic {
    format: Format,
    big_endian: bool,
    nanoseconds: bool,
    record_header: usize,
}

impl Magic {
    /// Recognises a capture by its first bytes.
    pub(super) fn of(head: &[u8]) -> Option<Self> {
        let magic = |format, big_endian, nanoseconds, record_header| {
            Some(Self { format, big_endian, nanoseconds, record_header })
        };
        match u32::from_le_bytes(head.get(..4)?.try_into().ok()?) {
            0xa1b2_c3d4 => magic(Format::Pcap, false, false, 16),
            0xd4c3_b2a1 => magic(Format::Pcap, true, false, 16),
            0xa1b2_3c4d => magic(Format::Pcap, false, true, 16),
            0x4d3c_b2a1 => magic(Format::Pcap, true, true, 16),
            // The variant of Alexey Kuznetsov's patched libpcap, with 8 more bytes in each record's header.
            0xa1b2_cd34 => magic(Format::Pcap, false, false, 24),
            SHB_MAGIC => magic(Format::Pcapng, false, false, 0),
            _ => None,
        }
    }

    pub(super) const fn format(self) -> Format {
        self.format
    }
}

/// The clock of a pcapng interface.
#[derive(Clone, Copy)]
struct Clock {
    ticks_per_second: u128,
    offset_seconds: i64,
}

impl Clock {
    fn of(interface: &InterfaceDescriptionBlock<'_>, big_endian: bool) -> Option<Self> {
        let exponent = u32::from(interface.if_tsresol & 0x7f);
        let base: u128 = if interface.if_tsresol & 0x80 == 0 { 10 } else { 2 };
        // Read from the option and not from the parser's field, which takes every file to be little endian.
        let offset = interface.options.iter().find(|option| option.code == OptionCode::IfTsoffset);
        let offset_seconds = match offset.and_then(|option| option.value().first_chunk()) {
            Some(&bytes) if big_endian => i64::from_be_bytes(bytes),
            Some(&bytes) => i64::from_le_bytes(bytes),
            None => 0,
        };
        Some(Self { ticks_per_second: base.checked_pow(exponent)?, offset_seconds })
    }

    /// Nanoseconds since 1970, at the nearest time that 64 bits can say.
    fn nanoseconds(self, high: u32, low: u32) -> u64 {
        let ticks = u128::from(high) << 32 | u128::from(low);
        let since_offset = (ticks * NANOSECONDS / self.ticks_per_second).cast_signed();
        let time = since_offset + i128::from(self.offset_seconds) * NANOSECONDS.cast_signed();
        u64::try_from(time.max(0)).unwrap_or(u64::MAX)
    }
}

/// Fills the whole buffer of a read unless the data ends, and keeps the error that `pcap-parser` drops.
struct Feed<'a> {
    bytes: Box<dyn Read + Send>,
    failure: &'a mut Option<io::Error>,
}

impl Read for Feed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.bytes.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    *self.failure = Some(error);
                    return Err(io::ErrorKind::Other.into());
                }
            }
        }
        Ok(filled)
    }
}

/// Reads all packets.
pub(super) fn read(
    path: &Path,
    magic: Magic,
    bytes: Box<dyn Read + Send>,
    progress: &mut Progress<'_>,
) -> Result<Vec<Packet>, Error> {
    let mut failure = None;
    let feed = Feed { bytes, failure: &mut failure };
    let result = match magic.format {
        Format::Pcapng => {
            PcapNGReader::new(BUFFER_BYTES, feed).map(|mut reader| read_blocks(magic, &mut reader, progress))
        }
        _ => LegacyPcapReader::new(BUFFER_BYTES, feed).map(|mut reader| read_blocks(magic, &mut reader, progress)),
    };
    let stop = match result {
        Ok(Ok(packets)) => return Ok(packets),
        Ok(Err(stop)) => stop,
        Err(PcapError::Incomplete(_)) => Stop::Fault(Place::Byte(0), Fault::CutOff),
        Err(_) => Stop::Fault(Place::Byte(0), Fault::Malformed("the header of the capture is damaged")),
    };
    let path = path.to_owned();
    Err(match (failure, stop) {
        (Some(source), _) => Error::Io { path, source },
        (None, Stop::Fault(place, fault)) => Error::Fault { path, place, fault },
        (None, Stop::Error(error)) => error,
    })
}

/// Why reading ends early: what the file is to blame for, and everything else.
enum Stop {
    Fault(Place, Fault),
    Error(Error),
}

/// What to do next with the parser's buffer.
enum Step {
    Consume(usize),
    NeedMore,
    End,
}

fn read_blocks(
    magic: Magic,
    reader: &mut impl PcapReaderIterator,
    progress: &mut Progress<'_>,
) -> Result<Vec<Packet>, Stop> {
    let mut decoder = Decoder { magic, clocks: Vec::new(), time: None, packets: Vec::new() };
    let mut capacity = BUFFER_BYTES;
    loop {
        let byte = reader.consumed() as u64;
        let number = decoder.packets.len() as u64 + 1;
        let place = if byte == 0 { Place::Byte(0) } else { Place::Packet { number, byte } };
        let fail = |fault| Stop::Fault(place, fault);
        let available = reader.data().len();
        // The file header of a pcap is not a record; the parser hands it over first.
        let length = if magic.format == Format::Pcap && byte == 0 { None } else { decoder.block_length(reader.data()) };
        if let Some(length) = length {
            if magic.format == Format::Pcapng && length < MIN_BLOCK_BYTES {
                return Err(fail(Fault::Malformed("the block is shorter than its own header")));
            }
            if length > MAX_BLOCK_BYTES {
                return Err(fail(value("length", length, format!("at most {MAX_BLOCK_BYTES} bytes"))));
            }
        }
        let complete = length.is_some_and(|length| length <= available);
        let step = if let Some(length) = length.filter(|_| complete && !decoder.is_wanted(reader.data())) {
            Step::Consume(length)
        } else {
            match reader.next() {
                Ok((length, block)) => {
                    decoder.take(block).map_err(fail)?;
                    Step::Consume(length)
                }
                Err(PcapError::Eof) => Step::End,
                Err(PcapError::UnexpectedEof) if available == 0 => Step::End,
                Err(PcapError::UnexpectedEof) if !complete => return Err(fail(Fault::CutOff)),
                Err(PcapError::Incomplete(_) | PcapError::BufferTooSmall) if !complete => Step::NeedMore,
                Err(_) => return Err(fail(Fault::Malformed("the block contradicts itself"))),
            }
        };
        match step {
            Step::Consume(length) => {
                reader.consume(length);
                let count = decoder.packets.len();
                if count as u64 > MAX_PACKETS {
                    return Err(Stop::Error(Error::TooManyPackets { allowed: MAX_PACKETS }));
                }
                if count.is_multiple_of(PROGRESS_STRIDE) {
                    report_progress(progress, Phase::Reading, count, 0).map_err(Stop::Error)?;
                }
            }
            Step::NeedMore => {
                if available == capacity {
                    capacity *= 2;
                    reader.grow(capacity);
                }
                // A failure is kept by the feed, which knows more about it.
                reader.refill().map_err(|_| Stop::Fault(place, Fault::CutOff))?;
            }
            Step::End => return Ok(decoder.packets),
        }
    }
}

/// Turns blocks into packets.
struct Decoder {
    magic: Magic,
    /// One clock per interface of the current section of a pcapng.
    clocks: Vec<Clock>,
    /// The time of the last packet that had one.
    time: Option<u64>,
    packets: Vec<Packet>,
}

impl Decoder {
    fn u32_at(&self, data: &[u8], offset: usize) -> Option<u32> {
        let bytes = *data.get(offset..)?.first_chunk()?;
        Some(if self.magic.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    /// How long the block at the start of `data` says it is, as soon as that much can be seen.
    fn block_length(&mut self, data: &[u8]) -> Option<usize> {
        let length = if self.magic.format == Format::Pcapng {
            let head = data.get(..BLOCK_HEAD_BYTES)?;
            // Each section has a byte order of its own, which the type of its header does not depend on.
            if self.u32_at(head, 0)? == SHB_MAGIC {
                self.magic.big_endian = head[8..] == BYTE_ORDER_MARK.to_be_bytes();
            }
            u64::from(self.u32_at(head, 4)?)
        } else {
            self.magic.record_header as u64 + u64::from(self.u32_at(data, 8)?)
        };
        Some(usize::try_from(length).unwrap_or(usize::MAX))
    }

    /// Whether the block at the start of `data` says anything about packets or their times. The others are passed
    /// over, damaged or not.
    fn is_wanted(&self, data: &[u8]) -> bool {
        self.magic.format == Format::Pcap
            || matches!(self.u32_at(data, 0), Some(SHB_MAGIC | IDB_MAGIC | EPB_MAGIC | SPB_MAGIC | OBSOLETE_PACKET))
    }

    fn take(&mut self, block: PcapBlockOwned<'_>) -> Result<(), Fault> {
        match block {
            PcapBlockOwned::LegacyHeader(_) => Ok(()),
            PcapBlockOwned::Legacy(record) => {
                let unit = if self.magic.nanoseconds { 1 } else { 1000 };
                let time = u64::from(record.ts_sec) * 1_000_000_000 + u64::from(record.ts_usec) * unit;
                self.push_timed(time, record.origlen)
            }
            PcapBlockOwned::NG(Block::SectionHeader(_)) => {
                self.clocks.clear();
                Ok(())
            }
            PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                let resolution = interface.if_tsresol;
                let clock = Clock::of(&interface, self.magic.big_endian)
                    .ok_or_else(|| value("if_tsresol", resolution, "10^-0 to 10^-38, 2^-0 to 2^-127".to_owned()))?;
                self.clocks.push(clock);
                Ok(())
            }
            PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                let clock = self.clock(packet.if_id)?;
                self.push_timed(clock.nanoseconds(packet.ts_high, packet.ts_low), packet.origlen)
            }
            PcapBlockOwned::NG(Block::SimplePacket(packet)) => {
                // It has no time of its own: it came with the one before.
                self.push(self.time.unwrap_or(0), packet.origlen)
            }
            PcapBlockOwned::NG(Block::Unknown(packet)) => {
                // The obsolete Packet Block: interface and drops (16 bits each), time, captured and original length.
                let short = || Fault::Malformed("the packet block is too short");
                let field = |offset| self.u32_at(packet.data, offset).ok_or_else(short);
                let (both, high, low, size) = (field(0)?, field(4)?, field(8)?, field(16)?);
                let interface = if self.magic.big_endian { both >> 16 } else { both & 0xffff };
                let clock = self.clock(interface)?;
                self.push_timed(clock.nanoseconds(high, low), size)
            }
            PcapBlockOwned::NG(_) => Ok(()),
        }
    }

    fn clock(&self, interface: u32) -> Result<Clock, Fault> {
        self.clocks
            .get(interface as usize)
            .copied()
            .ok_or_else(|| value("interface", interface, format!("one of the {} described before", self.clocks.len())))
    }

    fn push_timed(&mut self, arrival: u64, size: u32) -> Result<(), Fault> {
        if self.time.is_none() {
            // What came before it without a time came with it.
            for packet in &mut self.packets {
                packet.arrival = arrival;
            }
        }
        self.time = Some(arrival);
        self.push(arrival, size)
    }

    fn push(&mut self, arrival: u64, size: u32) -> Result<(), Fault> {
        if size == 0 || size > MAX_PACKET_BYTES {
            return Err(value("size", size, format!("1 to {MAX_PACKET_BYTES} bytes")));
        }
        self.packets.push(Packet { arrival, size, lifetime: Lifetime::Unrecorded });
        Ok(())
    }
}

fn value(name: &'static str, found: impl Display, allowed: String) -> Fault {
    Fault::Value { name, found: found.to_string(), allowed }
}
