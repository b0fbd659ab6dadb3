//! Reading forward, and knowing where.

use std::io::{self, BufRead, BufReader, Read};

use super::{Order, Stop};
use crate::replay::source::Source;

const BUFFER_BYTES: usize = 64 << 10;

pub(super) struct Cursor<'w> {
    reader: BufReader<Source<'w>>,
    position: u64,
}

impl<'w> Cursor<'w> {
    pub(super) fn new(source: Source<'w>) -> Self {
        Self { reader: BufReader::with_capacity(BUFFER_BYTES, source), position: 0 }
    }

    pub(super) fn into_source(self) -> Source<'w> {
        self.reader.into_inner()
    }

    /// How many bytes were read.
    pub(super) const fn position(&self) -> u64 {
        self.position
    }

    /// Fills the buffer, or as much of it as there is.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            let count = self.reader.read(&mut buffer[filled..])?;
            if count == 0 {
                break;
            }
            filled += count;
        }
        self.position += filled as u64;
        Ok(filled)
    }

    /// The next bytes, all of them.
    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let mut bytes = [0; N];
        if self.fill(&mut bytes)? == N { Ok(bytes) } else { Err(Stop::CutOff) }
    }

    pub(super) fn u32(&mut self, order: Order) -> Result<u32, Stop> {
        Ok(order.u32(self.take()?))
    }

    /// Passes over bytes, all of them.
    pub(super) fn skip(&mut self, bytes: u64) -> Result<(), Stop> {
        let mut left = bytes;
        while left > 0 {
            let ahead = self.reader.fill_buf()?.len();
            if ahead == 0 {
                return Err(Stop::CutOff);
            }
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(ahead);
            self.reader.consume(count);
            self.position += count as u64;
            left -= count as u64;
        }
        Ok(())
    }

    /// Passes over zeros: whether there is nothing else up to the end.
    pub(super) fn skip_zeros(&mut self) -> io::Result<bool> {
        loop {
            let ahead = self.reader.fill_buf()?;
            if ahead.is_empty() {
                return Ok(true);
            }
            let zeros = ahead.iter().position(|&byte| byte != 0).unwrap_or(ahead.len());
            let only_zeros = zeros == ahead.len();
            self.reader.consume(zeros);
            self.position += zeros as u64;
            if !only_zeros {
                return Ok(false);
            }
        }
    }
}
