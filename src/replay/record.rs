//! What the recorder noted (`src/recorder`), turned into a call trace.

use std::collections::HashMap;
use std::io::{self, Read, Write};

use super::calls::{COLUMNS, MAX_CALL_BYTES};
use super::error::Error;
use super::memory::headroom;

const MAGIC: u64 = u64::from_le_bytes(*b"pktrec01");
const HEADER_BYTES: usize = 128;
const SLOT_BYTES: usize = 32;
/// How many slots are read at a time.
const SLOTS_AT_A_TIME: usize = 4096;

/// The kinds of notes.
const START: u32 = 1;
const ALLOCATE: u32 = 2;
const FREE: u32 = 3;
const REALLOCATE: u32 = 4;
const END: u32 = 5;

/// What a recording holds, and what was left out of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Programs that ran, and children of forks.
    pub processes: u64,
    /// Blocks allocated, those that grew into the recorded sizes included.
    pub allocated: u64,
    /// Blocks freed, those that left the recorded sizes included.
    pub freed: u64,
    /// Blocks resized.
    pub resized: u64,
    /// Left out: calls for smaller blocks.
    pub smaller: u64,
    /// Left out: calls for larger blocks.
    pub larger: u64,
    /// Left out: frees of blocks whose allocation was not recorded, such as aligned ones and those of before a fork.
    pub unknown: u64,
    /// Left out: calls after the file was full.
    pub over_limit: u64,
    /// Left out: notes that a process did not live to finish.
    pub unfinished: u64,
}

/// The header of a new recording with room for so many notes, of blocks of `least` to `most` bytes; the rest of the
/// file is zeros.
#[must_use]
pub fn recording_header(slots: u64, least: u64, most: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    for (place, number) in
        header.chunks_exact_mut(8).zip([MAGIC, slots, 0, 0, 0, least, most.min(MAX_CALL_BYTES.into())])
    {
        place.copy_from_slice(&number.to_le_bytes());
    }
    header
}

/// How long such a file is.
#[must_use]
pub const fn recording_bytes(slots: u64) -> u64 {
    HEADER_BYTES as u64 + slots * SLOT_BYTES as u64
}

/// A process while its notes are read.
struct Process {
    allocator: u64,
    /// The numbers of its live blocks, by address.
    blocks: HashMap<u64, u64>,
}

struct Converter<W> {
    out: W,
    processes: HashMap<u32, Option<Process>>,
    allocators: u64,
    blocks: u64,
    found: Recorded,
}

/// Writes a recording as a call trace.
///
/// # Errors
/// What reading or writing fails with; [`Error::NoMemory`] wrapped in it. A file that is no recording is
/// [`io::ErrorKind::InvalidData`].
pub fn convert_recording(input: &mut impl Read, out: impl Write) -> io::Result<Recorded> {
    let mut header = [0; HEADER_BYTES];
    input.read_exact(&mut header)?;
    let number = |index: usize| u64::from_le_bytes(*header[8 * index..].first_chunk().expect("the header is longer"));
    if number(0) != MAGIC {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a recording"));
    }
    let (slots, next) = (number(1), number(2));
    let found = Recorded {
        smaller: number(3),
        larger: number(4),
        over_limit: next.saturating_sub(slots),
        ..Recorded::default()
    };
    let mut converter = Converter { out, processes: HashMap::new(), allocators: 0, blocks: 0, found };
    writeln!(converter.out, "# {COLUMNS}")?;
    let mut left = slots.min(next);
    let mut buffer = vec![0; SLOTS_AT_A_TIME * SLOT_BYTES];
    while left > 0 {
        let count = left.min(SLOTS_AT_A_TIME as u64);
        let bytes = &mut buffer[..usize::try_from(count).expect("a few thousand") * SLOT_BYTES];
        input.read_exact(bytes)?;
        for slot in bytes.chunks_exact(SLOT_BYTES) {
            converter.note(slot)?;
        }
        left -= count;
    }
    converter.out.flush()?;
    Ok(converter.found)
}

impl<W: Write> Converter<W> {
    fn note(&mut self, slot: &[u8]) -> io::Result<()> {
        let word = |at: usize| u64::from_le_bytes(*slot[at..].first_chunk().expect("a slot is longer"));
        let half = |at: usize| u32::from_le_bytes(*slot[at..].first_chunk().expect("a slot is longer"));
        let (kind, process, size, address, before) = (half(0), half(4), word(8), word(16), word(24));
        match kind {
            START => {
                // A program that takes the place of another one in the same process.
                self.end(process)?;
                self.begin(process)
            }
            END => {
                self.end(process)?;
                self.processes.insert(process, None);
                Ok(())
            }
            ALLOCATE => self.allocate(process, address, size),
            FREE => self.free(process, address),
            REALLOCATE => self.reallocate(process, before, address, size),
            _ => {
                self.found.unfinished += 1;
                Ok(())
            }
        }
    }

    fn begin(&mut self, process: u32) -> io::Result<()> {
        let allocator = self.allocators;
        self.allocators += 1;
        self.found.processes += 1;
        self.processes.insert(process, Some(Process { allocator, blocks: HashMap::new() }));
        writeln!(self.out, "new,{allocator},,")
    }

    fn end(&mut self, process: u32) -> io::Result<()> {
        match self.processes.remove(&process).flatten() {
            Some(Process { allocator, .. }) => writeln!(self.out, "drop,{allocator},,"),
            None => Ok(()),
        }
    }

    /// The process of a note: known, new as the child of a fork, or at its end.
    fn process(&mut self, process: u32) -> io::Result<Option<&mut Process>> {
        if !self.processes.contains_key(&process) {
            self.begin(process)?;
        }
        Ok(self.processes.get_mut(&process).and_then(Option::as_mut))
    }

    fn allocate(&mut self, process: u32, address: u64, size: u64) -> io::Result<()> {
        let block = self.blocks;
        let Some(known) = self.process(process)? else {
            self.found.unknown += 1;
            return Ok(());
        };
        if known.blocks.len() == known.blocks.capacity() {
            let no_memory = || io::Error::from(io::ErrorKind::OutOfMemory);
            known.blocks.try_reserve(1).map_err(|_| no_memory())?;
            headroom("the recording").map_err(|_: Error| no_memory())?;
        }
        let allocator = known.allocator;
        let stale = known.blocks.insert(address, block);
        self.blocks += 1;
        if let Some(stale) = stale {
            // Its free is noted right behind this, by another thread, or was not noted at all.
            self.found.freed += 1;
            writeln!(self.out, "free,{allocator},{stale},")?;
        }
        self.found.allocated += 1;
        writeln!(self.out, "allocate,{allocator},{block},{size}")
    }

    fn free(&mut self, process: u32, address: u64) -> io::Result<()> {
        let known = self.process(process)?.and_then(|known| Some((known.allocator, known.blocks.remove(&address)?)));
        match known {
            Some((allocator, block)) => {
                self.found.freed += 1;
                writeln!(self.out, "free,{allocator},{block},")
            }
            None => {
                self.found.unknown += 1;
                Ok(())
            }
        }
    }

    fn reallocate(&mut self, process: u32, before: u64, address: u64, size: u64) -> io::Result<()> {
        let known = self.process(process)?.and_then(|known| Some((known.allocator, known.blocks.remove(&before)?)));
        let Some((allocator, block)) = known else {
            return self.allocate(process, address, size);
        };
        if size > MAX_CALL_BYTES.into() {
            self.found.freed += 1;
            return writeln!(self.out, "free,{allocator},{block},");
        }
        let stale = self.process(process)?.and_then(|known| known.blocks.insert(address, block));
        if let Some(stale) = stale {
            self.found.freed += 1;
            writeln!(self.out, "free,{allocator},{stale},")?;
        }
        self.found.resized += 1;
        writeln!(self.out, "reallocate_copy,{allocator},{block},{size}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recording(notes: &[(u32, u32, u64, u64, u64)], next: u64) -> Vec<u8> {
        let mut file = recording_header(notes.len() as u64, 64, 1 << 20).to_vec();
        file[16..24].copy_from_slice(&next.to_le_bytes());
        for &(kind, process, size, address, before) in notes {
            file.extend([kind.to_le_bytes(), process.to_le_bytes()].concat());
            file.extend([size.to_le_bytes(), address.to_le_bytes(), before.to_le_bytes()].concat());
        }
        file
    }

    fn converted(notes: &[(u32, u32, u64, u64, u64)]) -> (String, Recorded) {
        let mut out = Vec::new();
        let found = convert_recording(&mut &*recording(notes, notes.len() as u64), &mut out).unwrap();
        (String::from_utf8(out).unwrap(), found)
    }

    #[test]
    fn notes_become_calls() {
        let (text, found) = converted(&[
            (START, 7, 0, 0, 0),
            (ALLOCATE, 7, 100, 0x1000, 0),
            (REALLOCATE, 7, 200, 0x2000, 0x1000),
            (ALLOCATE, 7, 300, 0x1000, 0),
            (FREE, 7, 0, 0x2000, 0),
            (FREE, 7, 0, 0x9999, 0),
            // The child of a fork frees what its parent allocated, and grows a block of it.
            (FREE, 8, 0, 0x1000, 0),
            (REALLOCATE, 8, 500, 0x3000, 0x1000),
            (0, 0, 0, 0, 0),
            // Another program in the first process, and its end.
            (START, 7, 0, 0, 0),
            (ALLOCATE, 7, 64, 0x1000, 0),
            (END, 7, 0, 0, 0),
            (FREE, 7, 0, 0x1000, 0),
        ]);
        let expected = "# call,allocator,block,size\nnew,0,,\nallocate,0,0,100\nreallocate_copy,0,0,200\n\
                        allocate,0,1,300\nfree,0,0,\nnew,1,,\nallocate,1,2,500\ndrop,0,,\nnew,2,,\nallocate,2,3,64\ndrop,2,,\n";
        assert_eq!(text, expected);
        let counts = Recorded {
            processes: 3,
            allocated: 4,
            freed: 1,
            resized: 1,
            unknown: 3,
            unfinished: 1,
            ..Recorded::default()
        };
        assert_eq!(found, counts);
    }

    #[test]
    fn a_block_that_is_handed_out_again_was_freed() {
        let (text, found) = converted(&[(ALLOCATE, 1, 70, 0x10, 0), (ALLOCATE, 1, 80, 0x10, 0), (FREE, 1, 0, 0x10, 0)]);
        assert!(text.ends_with("allocate,0,0,70\nfree,0,0,\nallocate,0,1,80\nfree,0,1,\n"), "{text}");
        assert_eq!((found.allocated, found.freed), (2, 2));
    }

    #[test]
    fn a_file_that_is_full_says_so_and_no_other_is_taken() {
        let notes = [(ALLOCATE, 1, 70, 0x10, 0)];
        let found = convert_recording(&mut &*recording(&notes, 5), io::sink()).unwrap();
        assert_eq!(found.over_limit, 4);
        let mut other = recording(&notes, 1);
        other[0] = 0;
        assert_eq!(convert_recording(&mut &*other, io::sink()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(recording_bytes(3), 128 + 96);
    }
}
