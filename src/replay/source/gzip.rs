//! Gzip: one member after the other, and what stands behind the last one.

use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;

use super::Tail;

/// The first bytes of every gzip member.
const MAGIC: [u8; 2] = [0x1f, 0x8b];

pub(super) fn is_gzip(head: &[u8]) -> bool {
    head.starts_with(&MAGIC)
}

/// What the members hold, one behind the other.
pub(super) struct Gzip<R> {
    state: State<R>,
    /// How many bytes came out.
    bytes: u64,
    tail: Option<Tail>,
}

enum State<R> {
    Member(GzDecoder<R>),
    /// Behind a member.
    Between(R),
    End,
}

impl<R: BufRead> Gzip<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { state: State::Member(GzDecoder::new(reader)), bytes: 0, tail: None }
    }

    pub(super) fn tail(&self) -> Option<Tail> {
        self.tail
    }

    fn fault(&self, what: &str) -> io::Error {
        io::Error::other(format!("{what} after {} bytes of its contents", self.bytes))
    }

    /// Looks for another member; what is no member must be zeros, as tapes and disks pad with.
    fn between(&mut self, mut reader: R) -> io::Result<State<R>> {
        let mut zeros = 0;
        loop {
            let ahead = reader.fill_buf()?;
            let (Some(&first), length) = (ahead.first(), ahead.len()) else {
                self.tail = (zeros > 0).then_some(Tail::Zeros { bytes: zeros });
                return Ok(State::End);
            };
            if zeros == 0 && first == MAGIC[0] {
                return Ok(State::Member(GzDecoder::new(reader)));
            }
            if ahead.iter().any(|&byte| byte != 0) {
                return Err(self.fault("the gzip data is followed by something else"));
            }
            zeros += length as u64;
            reader.consume(length);
        }
    }
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match core::mem::replace(&mut self.state, State::End) {
                State::End => return Ok(0),
                State::Between(reader) => self.state = self.between(reader)?,
                State::Member(mut decoder) => match decoder.read(buffer) {
                    Ok(0) => self.state = State::Between(decoder.into_inner()),
                    Ok(count) => {
                        self.bytes += count as u64;
                        self.state = State::Member(decoder);
                        return Ok(count);
                    }
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                        self.tail = Some(Tail::CutOff { format: "gzip" });
                    }
                    // What has no number of the system's is the decoder's finding.
                    Err(error) if error.raw_os_error().is_none() && error.kind() != io::ErrorKind::Other => {
                        return Err(self.fault("the gzip data is damaged"));
                    }
                    Err(error) => return Err(error),
                },
            }
        }
    }
}
