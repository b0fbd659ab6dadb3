//! What can go wrong in a replay, each in one line that names the file and the place.

use core::fmt;
use std::io;
use std::path::PathBuf;

/// Why a replay cannot go on.
#[derive(Debug)]
pub enum Error {
    /// The file cannot be opened or read.
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is neither a capture nor a trace.
    Unrecognized {
        /// The file.
        path: PathBuf,
        /// What it is, where its first bytes tell.
        found: Option<&'static str>,
    },
    /// The file is a link's departures where packets were expected.
    LinkNotPackets {
        /// The file.
        path: PathBuf,
    },
    /// The file is a call trace where packets were expected.
    CallsNotPackets {
        /// The file.
        path: PathBuf,
    },
    /// The file is a histogram of sizes where packets were expected.
    HistogramNotPackets {
        /// The file.
        path: PathBuf,
    },
    /// The file is something else where a link's departures were expected.
    NotALink {
        /// The file.
        path: PathBuf,
    },
    /// The file is in order but holds no packet (or, of a link, no departure).
    Empty {
        /// The file.
        path: PathBuf,
        /// What it has none of.
        what: &'static str,
    },
    /// Something in the file is wrong.
    Fault {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        place: Place,
        /// What is wrong there.
        fault: Fault,
    },
    /// The system has no memory for the trace or the plan.
    NoMemory {
        /// What was to be held.
        what: &'static str,
    },
    /// The trace, times its copies, has more packets than a replay takes.
    TooManyPackets {
        /// How many are allowed.
        allowed: u64,
    },
    /// The packets held at once are more bytes than a replay takes.
    TooManyBytes {
        /// How many are allowed.
        allowed: u64,
    },
    /// An option has a value that makes no sense.
    Option {
        /// The option.
        name: &'static str,
        /// What it may be.
        allowed: &'static str,
    },
    /// A setting of the allocator makes no sense; the text names it and what is allowed.
    Config(String),
    /// A shared library cannot be used as an allocator.
    Library {
        /// The library.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The one who watches the progress asked for the end.
    Interrupted,
    /// An allocator gave no memory.
    OutOfMemory {
        /// Which allocator.
        subject: String,
        /// How many bytes it was asked for.
        size: u32,
    },
    /// A packet's bytes changed while it was held: two blocks overlapped.
    Corrupted {
        /// Which allocator.
        subject: String,
        /// Which packet, counted from 1 in the order of allocation.
        packet: u64,
        /// The first byte of it that changed.
        byte: usize,
    },
    /// The allocator's self-check found damage after the verifying pass.
    Integrity {
        /// Which allocator.
        subject: String,
        /// What the self-check said.
        finding: String,
    },
}

/// Where in a file something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A byte, counted from 0 in the uncompressed data.
    Byte(u64),
    /// A packet (counted from 1) of a capture, and the byte at which its record starts.
    Packet {
        /// The packet.
        number: u64,
        /// The byte.
        byte: u64,
    },
    /// A block of a pcapng capture that holds no packet, and the byte at which it starts.
    Block {
        /// What kind of block.
        kind: &'static str,
        /// The byte.
        byte: u64,
    },
    /// A line of a text file, counted from 1.
    Line(u64),
    /// The end of the file.
    End,
}

/// What is wrong at a place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The file ends in the middle of a record.
    CutOff,
    /// A record contradicts itself or the format.
    Malformed(&'static str),
    /// A value is not one of those allowed.
    Value {
        /// Which value.
        name: &'static str,
        /// What stands there.
        found: String,
        /// What may stand there.
        allowed: String,
    },
    /// A row has too many or too few columns.
    Columns {
        /// How many the row has.
        found: usize,
        /// How many the header announces.
        expected: usize,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Byte(byte) => write!(f, "byte {byte}"),
            Self::Packet { number, byte } => write!(f, "packet {number} at byte {byte}"),
            Self::Block { kind, byte } => write!(f, "{kind} at byte {byte}"),
            Self::Line(line) => write!(f, "line {line}"),
            Self::End => f.write_str("the end"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CutOff => f.write_str("the file ends in the middle of it"),
            Self::Malformed(what) => f.write_str(what),
            Self::Value { name, found, allowed } => write!(f, "{name} is {found}; allowed: {allowed}"),
            Self::Columns { found, expected } => {
                write!(f, "columns: {found}; expected: {expected}")
            }
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, source } => write!(f, "{}: {}", path.display(), plain(source)),
            Self::Unrecognized { path, found } => {
                write!(f, "{}: ", path.display())?;
                if let Some(found) = found {
                    write!(f, "{found}; ")?;
                }
                f.write_str(
                    "neither a capture (pcap, pcapng) nor a trace (CSV that starts with `# dt_us,size,life_us,kind` or \
                     `# call,allocator,block,size`)",
                )
            }
            Self::LinkNotPackets { path } => write!(
                f,
                "{}: the departures of a link, not packets; name it with --link and replay a capture through it",
                path.display()
            ),
            Self::CallsNotPackets { path } => write!(f, "{}: a call trace, not packets", path.display()),
            Self::HistogramNotPackets { path } => write!(
                f,
                "{}: a histogram of sizes, not packets in time; it can set sizes in a benchmark but not be replayed",
                path.display()
            ),
            Self::NotALink { path } => {
                write!(f, "{}: not the departures of a link (CSV that starts with `# dt_ms,count`)", path.display())
            }
            Self::Empty { path, what } => write!(f, "{}: holds no {what}", path.display()),
            Self::Fault { path, place, fault } => write!(f, "{}: {place}: {fault}", path.display()),
            Self::NoMemory { what } => write!(f, "there is no memory for {what}"),
            Self::TooManyPackets { allowed } => {
                write!(f, "more than {allowed} packets, copies included: too many to replay at once")
            }
            Self::TooManyBytes { allowed } => {
                write!(
                    f,
                    "more than {allowed} bytes would be held at once; hold less with --depth, --delay or --copies"
                )
            }
            Self::Option { name, allowed } => write!(f, "{name} must be {allowed}"),
            Self::Config(text) => f.write_str(text),
            Self::Library { path, why } => write!(f, "{}: cannot be loaded as an allocator: {why}", path.display()),
            Self::Interrupted => f.write_str("interrupted"),
            Self::OutOfMemory { subject, size } => {
                write!(f, "{subject} has no memory for a packet of {size} bytes")
            }
            Self::Corrupted { subject, packet, byte } => {
                write!(f, "{subject}: byte {byte} of packet {packet} changed while the packet was held")
            }
            Self::Integrity { subject, finding } => {
                write!(f, "{subject}: the self-check found damage: {finding}")
            }
        }
    }
}

impl core::error::Error for Error {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// What the system said, without the number that Rust puts behind it.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}
