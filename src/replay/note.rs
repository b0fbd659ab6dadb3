//! What is said of a file that was read: its format, and what was wrong with its end.

use core::fmt;

use super::error::Place;

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

/// What is wrong with the end of a capture that was read up to there, as one finds it after the program that wrote it
/// was killed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// It ends in the middle of a record.
    CutOff {
        /// Where that record begins.
        place: Place,
        /// How many packets there are before it.
        packets: u64,
    },
    /// The compressed data ends in the middle.
    CompressedCutOff {
        /// Its format.
        format: &'static str,
    },
    /// Zeros follow the last record.
    Zeros {
        /// Where they begin.
        place: Place,
        /// How many.
        bytes: u64,
    },
    /// Zeros follow the compressed data.
    ZerosBehind {
        /// How many.
        bytes: u64,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CutOff { place, packets } => write!(
                f,
                "{place}: the file ends in the middle of it; replaying the {packets} packet{} before it",
                if *packets == 1 { "" } else { "s" }
            ),
            Self::CompressedCutOff { format } => {
                write!(f, "the {format} data is cut off; replaying what comes before that")
            }
            Self::Zeros { place, bytes } => write!(f, "{place}: passing over {bytes} zeros behind the last record"),
            Self::ZerosBehind { bytes } => write!(f, "passing over {bytes} zeros behind the compressed data"),
        }
    }
}
