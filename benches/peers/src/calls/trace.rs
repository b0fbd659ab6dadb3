//! A call trace: what a program asked of its allocators, read and checked before anything is measured.
//!
//! Rows are `call,allocator,block,size`, plain or gzip. `new` and `drop` make and end an allocator; `allocate`, `free`,
//! `reallocate_copy` and `reallocate_discard` name a block, and all but `free` a size. Numbers of allocators and blocks
//! are used again. Blocks that an allocator still holds end with it.

use std::fs::File;
use std::io::{BufReader, Read};
use std::ops::Range;
use std::path::Path;

use flate2::read::MultiGzDecoder;

/// What a call asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    New,
    Drop,
    Allocate,
    Free,
    /// The contents are kept.
    ReallocateCopy,
    /// The contents are of no use.
    ReallocateDiscard,
}

/// One call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) kind: Kind,
    pub(crate) allocator: u16,
    /// The block; for `Drop` where the blocks that are left begin in [`Trace::left`].
    pub(crate) block: u32,
    /// Bytes; for `Drop` the number of blocks that are left.
    pub(crate) size: u32,
}

impl Call {
    /// Where [`Trace::left`] has the blocks that end with this `Drop`.
    #[inline(always)]
    pub(crate) fn left(self) -> Range<usize> {
        self.block as usize..self.block as usize + self.size as usize
    }
}

/// The calls of a file.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    /// The calls, as they are in the file.
    pub(crate) calls: Vec<Call>,
    /// `Drop` for each allocator that the file leaves.
    pub(crate) closing: Vec<Call>,
    /// Blocks that end with their allocator, the oldest of each allocator first.
    pub(crate) left: Vec<u32>,
    /// Numbers of allocators are below this.
    pub(crate) allocators: usize,
    /// Numbers of blocks are below this.
    pub(crate) blocks: usize,
    /// The most bytes that were live at once, as they were asked for.
    pub(crate) peak: u64,
    /// The largest block.
    pub(crate) largest: usize,
}

/// Block numbers must be below this: they index an array.
const MOST_BLOCKS: u32 = 1 << 24;

impl Trace {
    /// Reads a file.
    pub(crate) fn load(path: &Path) -> Result<Self, String> {
        let at = |error: String| format!("{}: {error}", path.display());
        let text = read(path).map_err(|error| at(error.to_string()))?;
        Self::parse(&text).map_err(at)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut state = Checker::default();
        for (index, line) in text.lines().enumerate() {
            if line.starts_with('#') || line.is_empty() {
                continue;
            }
            state.row(line).map_err(|error| format!("line {}: {error}", index + 1))?;
        }
        Ok(state.finish())
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    const GZIP: [u8; 2] = [0x1F, 0x8B];
    let mut bytes = Vec::new();
    BufReader::new(File::open(path)?).read_to_end(&mut bytes)?;
    let mut text = String::new();
    if bytes.starts_with(&GZIP) {
        MultiGzDecoder::new(&bytes[..]).read_to_string(&mut text)?;
    } else {
        bytes.as_slice().read_to_string(&mut text)?;
    }
    Ok(text)
}

/// A live block.
#[derive(Clone, Copy)]
struct Live {
    allocator: u16,
    size: u32,
    /// When it was allocated.
    born: usize,
}

/// Turns rows into calls that can be carried out without a look at whether they make sense.
#[derive(Default)]
struct Checker {
    trace: Trace,
    allocators: Vec<bool>,
    blocks: Vec<Option<Live>>,
    live_bytes: u64,
}

impl Checker {
    fn row(&mut self, line: &str) -> Result<(), String> {
        let fields: Vec<&str> = line.split(',').collect();
        let [call, allocator, block, size] = fields[..] else {
            return Err(format!("{line:?} has {} fields; a row is call,allocator,block,size", fields.len()));
        };
        let allocator: u16 = number("allocator", allocator)?;
        let index = usize::from(allocator);
        if self.allocators.len() <= index {
            self.allocators.resize(index + 1, false);
        }
        if self.allocators[index] == (call == "new") {
            let state = if call == "new" { "already there" } else { "not there" };
            return Err(format!("{call} of allocator {allocator}, which is {state}"));
        }
        let call = match call {
            "new" => {
                self.allocators[index] = true;
                Call { kind: Kind::New, allocator, block: 0, size: 0 }
            }
            "drop" => self.drop(allocator),
            "allocate" => self.enter(Kind::Allocate, allocator, number("block", block)?, number("size", size)?)?,
            "reallocate_copy" | "reallocate_discard" => {
                let kind = if call == "reallocate_copy" { Kind::ReallocateCopy } else { Kind::ReallocateDiscard };
                let block = number("block", block)?;
                let born = self.leave(allocator, block)?;
                let call = self.enter(kind, allocator, block, number("size", size)?)?;
                if let Some(live) = &mut self.blocks[block as usize] {
                    live.born = born;
                }
                call
            }
            "free" => {
                let block = number("block", block)?;
                self.leave(allocator, block)?;
                Call { kind: Kind::Free, allocator, block, size: 0 }
            }
            _ => {
                return Err(format!(
                    "call {call:?}: use new, drop, allocate, free, reallocate_copy or reallocate_discard"
                ));
            }
        };
        self.trace.calls.push(call);
        Ok(())
    }

    /// A block begins, or has another size.
    fn enter(&mut self, kind: Kind, allocator: u16, block: u32, size: u32) -> Result<Call, String> {
        if block >= MOST_BLOCKS {
            return Err(format!("block {block}: numbers of blocks are below {MOST_BLOCKS}"));
        }
        if size == 0 {
            return Err(format!("block {block} of 0 bytes: a block has at least 1"));
        }
        let index = block as usize;
        if self.blocks.len() <= index {
            self.blocks.resize(index + 1, None);
        }
        if self.blocks[index].is_some() {
            return Err(format!("allocate of block {block}, which is live"));
        }
        self.blocks[index] = Some(Live { allocator, size, born: self.trace.calls.len() });
        self.live_bytes += u64::from(size);
        self.trace.peak = self.trace.peak.max(self.live_bytes);
        self.trace.largest = self.trace.largest.max(size as usize);
        Ok(Call { kind, allocator, block, size })
    }

    /// A block ends; when it began.
    fn leave(&mut self, allocator: u16, block: u32) -> Result<usize, String> {
        match self.blocks.get_mut(block as usize).and_then(Option::take) {
            Some(live) if live.allocator == allocator => {
                self.live_bytes -= u64::from(live.size);
                Ok(live.born)
            }
            Some(live) => Err(format!("block {block} is of allocator {}, not {allocator}", live.allocator)),
            None => Err(format!("block {block} is not live")),
        }
    }

    fn drop(&mut self, allocator: u16) -> Call {
        self.allocators[usize::from(allocator)] = false;
        let begin = self.trace.left.len();
        let mut left = Vec::new();
        for (block, slot) in (0..).zip(&mut self.blocks) {
            if let Some(live) = slot.take_if(|live| live.allocator == allocator) {
                self.live_bytes -= u64::from(live.size);
                left.push((live.born, block));
            }
        }
        left.sort_unstable();
        self.trace.left.extend(left.iter().map(|&(_, block): &(usize, u32)| block));
        let index =
            |count: usize| u32::try_from(count).expect("a trace of calls fits into memory as numbers of 32 bits");
        Call { kind: Kind::Drop, allocator, block: index(begin), size: index(left.len()) }
    }

    fn finish(mut self) -> Trace {
        for index in 0..self.allocators.len() {
            if self.allocators[index] {
                let call = self.drop(u16::try_from(index).expect("allocators have numbers of 16 bits"));
                self.trace.closing.push(call);
            }
        }
        self.trace.allocators = self.allocators.len();
        self.trace.blocks = self.blocks.len();
        self.trace
    }
}

fn number<T: std::str::FromStr<Err: std::fmt::Display>>(what: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|error| format!("{what} {text:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# call,allocator,block,size\nnew,0,,\nnew,1,,\nallocate,0,5,100\nallocate,1,0,7\nallocate,0,1,30\n\
        reallocate_copy,0,5,200\nfree,1,0,\ndrop,0,,\nnew,0,,\nallocate,0,5,1\n";

    #[test]
    fn what_an_allocator_holds_ends_with_it() {
        let trace = Trace::parse(GOOD).unwrap();
        let drop = trace.calls[7];
        assert_eq!(drop.kind, Kind::Drop);
        // The oldest first; a block that was reallocated is as old as before.
        assert_eq!(trace.left[drop.left()], [5, 1]);
        assert_eq!((trace.allocators, trace.blocks, trace.peak, trace.largest), (2, 6, 237, 200));
        let closing: Vec<_> = trace.closing.iter().map(|call| (call.allocator, &trace.left[call.left()])).collect();
        assert_eq!(closing, [(0, &[5][..]), (1, &[][..])]);
    }

    #[test]
    fn rows_that_make_no_sense_are_refused_with_their_line() {
        let refused = |rows: &str| Trace::parse(&format!("new,0,,\n{rows}")).unwrap_err();
        assert_eq!(refused("new,0,,"), "line 2: new of allocator 0, which is already there");
        assert_eq!(refused("allocate,1,0,1"), "line 2: allocate of allocator 1, which is not there");
        assert_eq!(refused("allocate,0,0,1\nallocate,0,0,1"), "line 3: allocate of block 0, which is live");
        assert_eq!(refused("free,0,0,"), "line 2: block 0 is not live");
        assert_eq!(refused("new,1,,\nallocate,0,0,1\nfree,1,0,"), "line 4: block 0 is of allocator 0, not 1");
        assert_eq!(refused("allocate,0,0,0"), "line 2: block 0 of 0 bytes: a block has at least 1");
        assert!(refused("allocate,0,99999999,1").contains("below 16777216"));
        assert!(refused("allocate,0,x,1").contains("block \"x\""));
        assert!(refused("allocate,0,1").contains("has 3 fields"));
        assert!(refused("grow,0,1,2").contains("use new, drop"));
    }
}
