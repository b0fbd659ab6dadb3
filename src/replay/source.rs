//! Opening a file: plain or gzip, recognised by its first bytes and never by its name.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;

/// The first bytes of every gzip member that can be decoded (magic, and the only method there is).
const GZIP_MAGIC: [u8; 3] = [0x1f, 0x8b, 8];

/// How many bytes it takes to tell the formats apart.
const HEAD_BYTES: u64 = 4;

/// The uncompressed bytes of a file.
pub(super) struct Source {
    /// The first [`HEAD_BYTES`], fewer only if the file is shorter.
    pub(super) head: Vec<u8>,
    /// All bytes, the head included.
    pub(super) bytes: Box<dyn Read + Send>,
}

impl Source {
    /// Opens the file and looks at its first bytes.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let raw = Self::peek(BufReader::new(File::open(path)?))?;
        if raw.head.starts_with(&GZIP_MAGIC) {
            Self::peek(Inflated { decoder: MultiGzDecoder::new(raw.bytes), bytes: 0 })
        } else {
            Ok(raw)
        }
    }

    fn peek(mut reader: impl Read + Send + 'static) -> io::Result<Self> {
        let mut head = Vec::new();
        reader.by_ref().take(HEAD_BYTES).read_to_end(&mut head)?;
        Ok(Self { bytes: Box::new(io::Cursor::new(head.clone()).chain(reader)), head })
    }
}

/// Gzip data that says where it is damaged.
struct Inflated<R> {
    decoder: MultiGzDecoder<R>,
    /// How many bytes came out so far.
    bytes: u64,
}

impl<R: Read> Read for Inflated<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.decoder.read(buffer) {
            Ok(count) => {
                self.bytes += count as u64;
                Ok(count)
            }
            // What has no number of the system's is the decoder's finding.
            Err(error) if error.raw_os_error().is_none() && error.kind() != io::ErrorKind::Interrupted => {
                let bytes = self.bytes;
                Err(io::Error::other(format!(
                    "the gzip data is cut off or damaged after {bytes} bytes of its contents"
                )))
            }
            Err(error) => Err(error),
        }
    }
}
