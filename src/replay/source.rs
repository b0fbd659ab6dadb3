//! The bytes of a file: plain, gzip or zstd, recognised by the first of them and never by a name.

mod gzip;
mod raw;
mod zstd;

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use super::progress::Watch;
use gzip::Gzip;
use raw::Raw;
use zstd::Zstd;

/// How many bytes it takes to tell the formats apart.
const HEAD_BYTES: usize = 64;
/// How many bytes come out between two reports of progress.
const REPORT_BYTES: u64 = 1 << 20;
/// How far data may expand: beyond what deflate can do, and what only made-up data reaches.
const MAX_EXPANSION: u64 = 4096;
/// Below this much it does not matter how far it expands.
const MAX_FREE_BYTES: u64 = 64 << 20;
/// How much is read at a time.
const BUFFER_BYTES: usize = 64 << 10;

/// The uncompressed bytes of a file, the head included.
pub(super) struct Source<'w> {
    stage: Stage<'w>,
    watch: &'w Watch<'w>,
    /// The first bytes, and how many of them were read again.
    head: Vec<u8>,
    given: usize,
    /// How many bytes came out, and after how many of them progress is reported.
    produced: u64,
    next_report: u64,
}

enum Stage<'w> {
    Plain(Raw<'w>),
    Gzip(Box<Gzip<BufReader<Again<Raw<'w>>>>>),
    Zstd(Box<Zstd<BufReader<Again<Raw<'w>>>>>),
}

/// A reader in front of which stand bytes that were read from it before.
type Again<R> = io::Chain<io::Cursor<Vec<u8>>, R>;

/// What is wrong with the end of compressed data that could be read so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// It ends in the middle.
    CutOff {
        /// Of which format.
        format: &'static str,
    },
    /// This many zeros follow it.
    Zeros {
        /// How many.
        bytes: u64,
    },
}

impl<'w> Source<'w> {
    /// Opens a file and looks at its first bytes.
    pub(super) fn open(path: &Path, watch: &'w Watch<'w>) -> io::Result<Self> {
        Self::new(Raw::open(path, watch)?, watch)
    }

    /// Takes over an open file and looks at its first bytes.
    pub(super) fn of_file(file: File, watch: &'w Watch<'w>) -> io::Result<Self> {
        Self::new(Raw::new(file, watch)?, watch)
    }

    fn new(mut raw: Raw<'w>, watch: &'w Watch<'w>) -> io::Result<Self> {
        let head = read_head(&mut raw)?;
        let again =
            |raw, head: &[u8]| BufReader::with_capacity(BUFFER_BYTES, io::Cursor::new(head.to_vec()).chain(raw));
        let (stage, head) = if gzip::is_gzip(&head) {
            let mut gzip = Box::new(Gzip::new(again(raw, &head)));
            let head = read_head(&mut gzip)?;
            (Stage::Gzip(gzip), head)
        } else if zstd::is_zstd(&head) {
            let mut zstd = Box::new(Zstd::new(again(raw, &head)));
            let head = read_head(&mut zstd)?;
            (Stage::Zstd(zstd), head)
        } else {
            (Stage::Plain(raw), head)
        };
        Ok(Self { stage, watch, head, given: 0, produced: 0, next_report: REPORT_BYTES })
    }

    /// The first [`HEAD_BYTES`], fewer only if there are no more.
    pub(super) fn head(&self) -> &[u8] {
        &self.head
    }

    /// What is wrong behind the bytes that came out, once all have.
    pub(super) fn tail(&self) -> Option<Tail> {
        match &self.stage {
            Stage::Plain(_) => None,
            Stage::Gzip(gzip) => gzip.tail(),
            Stage::Zstd(zstd) => zstd.tail(),
        }
    }
}

fn read_head(reader: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    reader.take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    Ok(head)
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.given < self.head.len() {
            let count = (&self.head[self.given..]).read(buffer)?;
            self.given += count;
            return Ok(count);
        }
        let count = match &mut self.stage {
            Stage::Plain(raw) => raw.read(buffer)?,
            Stage::Gzip(gzip) => gzip.read(buffer)?,
            Stage::Zstd(zstd) => zstd.read(buffer)?,
        };
        self.produced += count as u64;
        if self.produced >= self.next_report {
            self.next_report = self.produced + REPORT_BYTES;
            self.watch.report()?;
            if self.produced > MAX_FREE_BYTES && self.produced / MAX_EXPANSION > self.watch.read_bytes() {
                return Err(io::Error::other(format!(
                    "the compressed data expands more than {MAX_EXPANSION} times, as no capture does"
                )));
            }
        }
        Ok(count)
    }
}
