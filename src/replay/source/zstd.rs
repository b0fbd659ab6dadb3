//! Zstandard: one frame after the other.

use std::io::{self, BufRead, Read};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::Tail;

/// The first bytes of every frame with data.
const MAGIC: u32 = 0xfd2f_b528;
/// The first of sixteen numbers that begin a frame to be passed over.
const SKIPPABLE: u32 = 0x184d_2a50;

pub(super) fn is_zstd(head: &[u8]) -> bool {
    head.first_chunk().is_some_and(|&magic| {
        let magic = u32::from_le_bytes(magic);
        magic == MAGIC || magic & !0xf == SKIPPABLE
    })
}

/// What the frames hold, one behind the other.
pub(super) struct Zstd<R> {
    decoder: FrameDecoder,
    input: Input<R>,
    position: Position,
    /// How many bytes came out.
    bytes: u64,
    tail: Option<Tail>,
}

#[derive(Clone, Copy)]
enum Position {
    BeforeFrame,
    InFrame,
    End,
}

impl<R: BufRead> Zstd<R> {
    pub(super) fn new(reader: R) -> Self {
        let input = Input { reader, ended: false, failure: None };
        Self { decoder: FrameDecoder::new(), input, position: Position::BeforeFrame, bytes: 0, tail: None }
    }

    pub(super) fn tail(&self) -> Option<Tail> {
        self.tail
    }

    /// What to make of an error of the decoder: the input's own, its end, or damage.
    fn fail(&mut self, error: &FrameDecoderError) -> io::Result<Position> {
        if let Some(failure) = self.input.failure.take() {
            return Err(failure);
        }
        if self.input.ended {
            self.tail = Some(Tail::CutOff { format: "zstd" });
            return Ok(Position::End);
        }
        let bytes = self.bytes;
        Err(io::Error::other(match error {
            FrameDecoderError::WindowSizeTooBig { requested, max } => {
                format!("the zstd data needs a window of {requested} bytes; allowed: at most {max}")
            }
            FrameDecoderError::DictNotProvided { .. } => "the zstd data needs a dictionary".to_owned(),
            _ => format!("the zstd data is damaged after {bytes} bytes of its contents"),
        }))
    }

    fn begin_frame(&mut self) -> io::Result<Position> {
        if self.input.reader.fill_buf()?.is_empty() {
            return Ok(Position::End);
        }
        match self.decoder.init(&mut self.input) {
            Ok(()) => Ok(Position::InFrame),
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                let length = u64::from(length);
                if io::copy(&mut (&mut self.input.reader).take(length), &mut io::sink())? < length {
                    self.tail = Some(Tail::CutOff { format: "zstd" });
                }
                Ok(Position::BeforeFrame)
            }
            Err(error) => self.fail(&error),
        }
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.position = match self.position {
                Position::End => return Ok(0),
                Position::BeforeFrame => self.begin_frame()?,
                Position::InFrame if self.decoder.can_collect() > 0 => {
                    let count = self.decoder.read(buffer)?;
                    self.bytes += count as u64;
                    return Ok(count);
                }
                Position::InFrame if self.decoder.is_finished() => {
                    let (written, found) =
                        (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum());
                    if written.is_some() && written != found {
                        return Err(io::Error::other(format!(
                            "the zstd data is damaged: its checksum is wrong after {} bytes of its contents",
                            self.bytes
                        )));
                    }
                    Position::BeforeFrame
                }
                Position::InFrame => {
                    match self.decoder.decode_blocks(&mut self.input, BlockDecodingStrategy::UptoBlocks(1)) {
                        Ok(_) => Position::InFrame,
                        Err(error) => self.fail(&error)?,
                    }
                }
            };
        }
    }
}

/// The compressed bytes, for a decoder that wraps every error into one of its own.
struct Input<R> {
    reader: R,
    /// Whether the decoder asked for more than there is.
    ended: bool,
    failure: Option<io::Error>,
}

impl<R: Read> Read for Input<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.reader.read(buffer) {
            Ok(count) => {
                self.ended |= count == 0 && !buffer.is_empty();
                Ok(count)
            }
            Err(error) => {
                let kind = error.kind();
                self.failure = Some(error);
                Err(kind.into())
            }
        }
    }
}
