//! Text traces: packets (`dt_us,size`, with lifetimes if they are known) and the departures of a link (`dt_ms,count`).

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use csv::{ByteRecord, ReaderBuilder, Trim};

use super::error::{Error, Fault, Place};
use super::source::Source;
use super::trace::{Lifetime, MAX_PACKET_BYTES, MAX_PACKETS, Packet};
use super::{PROGRESS_STRIDE, Phase, Progress, report_progress};

/// The columns of packets; the last two may be left out.
pub(super) const PACKET_COLUMNS: &str = "dt_us,size,life_us,kind";
/// The columns of a link's departures.
pub(super) const LINK_COLUMNS: &str = "dt_ms,count";
/// The columns of a histogram of sizes.
const HISTOGRAM_COLUMNS: &str = "size,frequency";

/// How much of a file is searched for the end of its first line.
const MAX_HEADER_BYTES: u64 = 4096;

/// How much of a wrong value an error repeats.
const MAX_QUOTED_CHARS: usize = 32;

const NANOSECONDS_PER_MICROSECOND: u64 = 1_000;
const NANOSECONDS_PER_MILLISECOND: u64 = 1_000_000;

/// Reads packets; their times count from 0.
pub(super) fn read_packets(
    path: &Path,
    bytes: Box<dyn Read + Send>,
    progress: &mut Progress<'_>,
) -> Result<Vec<Packet>, Error> {
    let mut rows = Rows::open(path, bytes)?;
    match rows.columns.as_str() {
        LINK_COLUMNS => {
            return Err(Error::LinkNotPackets { path: path.to_owned() });
        }
        HISTOGRAM_COLUMNS => {
            return Err(Error::HistogramNotPackets { path: path.to_owned() });
        }
        "dt_us,size" | "dt_us,size,life_us" | PACKET_COLUMNS => {}
        _ => {
            return Err(Error::Unrecognized { path: path.to_owned() });
        }
    }
    let mut packets = Vec::new();
    let mut clock = 0;
    while let Some(row) = rows.next()? {
        clock = row.advance(clock, "dt_us", NANOSECONDS_PER_MICROSECOND)?;
        let recorded = match row.optional(2) {
            None | Some(b"-1") => Lifetime::Unrecorded,
            Some(_) => {
                let micros = row.number(2, "life_us", 0, u64::MAX / NANOSECONDS_PER_MICROSECOND, "-1 or more")?;
                Lifetime::Nanoseconds(micros * NANOSECONDS_PER_MICROSECOND)
            }
        };
        let lifetime = match row.optional(3) {
            None | Some(b"A" | b"L") => recorded,
            Some(b"N") => Lifetime::Forever,
            Some(_) => {
                return Err(row.fault(3, "kind", "A (acknowledged), L (lost), N (never freed)"));
            }
        };
        let size = row.number(1, "size", 1, u64::from(MAX_PACKET_BYTES), &format!("1 to {MAX_PACKET_BYTES} bytes"))?;
        packets.push(Packet {
            arrival: clock,
            size: u32::try_from(size).expect("checked against the limit"),
            lifetime,
        });
        let count = packets.len();
        if count as u64 > MAX_PACKETS {
            return Err(Error::TooManyPackets { allowed: MAX_PACKETS });
        }
        if count.is_multiple_of(PROGRESS_STRIDE) {
            report_progress(progress, Phase::Reading, count, 0)?;
        }
    }
    Ok(packets)
}

/// Reads a link's departures: the time of each row in nanoseconds, and how many packets may leave then.
pub(super) fn read_link(path: &Path) -> Result<Vec<(u64, u64)>, Error> {
    let source = Source::open(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    let not_a_link = || Error::NotALink { path: path.to_owned() };
    let mut rows = Rows::open(path, source.bytes).map_err(|error| match error {
        Error::Unrecognized { .. } => not_a_link(),
        other => other,
    })?;
    if rows.columns != LINK_COLUMNS {
        return Err(not_a_link());
    }
    let mut departures = Vec::new();
    let mut clock = 0;
    while let Some(row) = rows.next()? {
        clock = row.advance(clock, "dt_ms", NANOSECONDS_PER_MILLISECOND)?;
        departures.push((clock, row.number(1, "count", 0, u64::MAX, "0 or more")?));
    }
    Ok(departures)
}

/// The rows of a text trace.
struct Rows<'a> {
    path: &'a Path,
    /// The column names, separated by commas.
    columns: String,
    reader: csv::Reader<BufReader<Box<dyn Read + Send>>>,
    record: ByteRecord,
}

impl<'a> Rows<'a> {
    fn open(path: &'a Path, bytes: Box<dyn Read + Send>) -> Result<Self, Error> {
        let mut reader = BufReader::new(bytes);
        let mut header = Vec::new();
        (&mut reader)
            .take(MAX_HEADER_BYTES)
            .read_until(b'\n', &mut header)
            .map_err(|source| Error::Io { path: path.to_owned(), source })?;
        if header.is_empty() {
            return Err(Error::Empty { path: path.to_owned(), what: "bytes" });
        }
        let columns = columns(&header).ok_or_else(|| Error::Unrecognized { path: path.to_owned() })?;
        let reader = ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .quoting(false)
            .comment(Some(b'#'))
            .trim(Trim::All)
            .from_reader(reader);
        Ok(Self { path, columns, reader, record: ByteRecord::new() })
    }

    fn next(&mut self) -> Result<Option<Row<'_>>, Error> {
        let more = self
            .reader
            .read_byte_record(&mut self.record)
            .map_err(|error| Error::Io { path: self.path.to_owned(), source: error.into() })?;
        if !more {
            return Ok(None);
        }
        // The reader did not see the first line.
        let line = self.record.position().map_or(0, csv::Position::line) + 1;
        let row = Row { path: self.path, line, record: &self.record };
        let expected = self.columns.split(',').count();
        if self.record.len() != expected {
            return Err(row.error(Fault::Columns { found: self.record.len(), expected }));
        }
        Ok(Some(row))
    }
}

/// The column names of a first line such as `# dt_us,size,life_us,kind(A=acked) free text`.
fn columns(header: &[u8]) -> Option<String> {
    let text = core::str::from_utf8(header).ok()?.trim_start_matches(['\u{feff}', '#', ' ']);
    let names = text.split([' ', '(', '\t', '\r', '\n']).next()?;
    (!names.is_empty()).then(|| names.to_owned())
}

/// One row, and where it stands.
struct Row<'a> {
    path: &'a Path,
    line: u64,
    record: &'a ByteRecord,
}

impl Row<'_> {
    fn optional(&self, column: usize) -> Option<&[u8]> {
        self.record.get(column)
    }

    /// The whole number in a column, from `least` to `most`.
    fn number(&self, column: usize, name: &'static str, least: u64, most: u64, allowed: &str) -> Result<u64, Error> {
        let text = core::str::from_utf8(&self.record[column]).ok();
        text.and_then(|text| text.parse().ok())
            .filter(|number| (least..=most).contains(number))
            .ok_or_else(|| self.fault(column, name, allowed))
    }

    /// The time of this row: `clock` and the step in the first column, which counts in `unit` nanoseconds.
    fn advance(&self, clock: u64, name: &'static str, unit: u64) -> Result<u64, Error> {
        let room = (u64::MAX - clock) / unit;
        Ok(clock + self.number(0, name, 0, room, "0 or more, and 584 years in all")? * unit)
    }

    fn fault(&self, column: usize, name: &'static str, allowed: &str) -> Error {
        let text = String::from_utf8_lossy(&self.record[column]);
        let found = match text.char_indices().nth(MAX_QUOTED_CHARS) {
            Some((end, _)) => format!("`{}...`", text[..end].escape_debug()),
            None => format!("`{}`", text.escape_debug()),
        };
        self.error(Fault::Value { name, found, allowed: allowed.to_owned() })
    }

    fn error(&self, fault: Fault) -> Error {
        Error::Fault { path: self.path.to_owned(), place: Place::Line(self.line), fault }
    }
}
