//! A call trace: what a program asked of its allocators, call by call, as `call,allocator,block,size`.

use std::collections::HashMap;

use super::error::{Error, Fault};
use super::memory::{headroom, push};
use super::packet::MAX_LIVE_BYTES;
use super::table::{Row, Table};

/// The columns of the file.
pub(super) const COLUMNS: &str = "call,allocator,block,size";

/// The most calls that a replay takes: 400 MB of bookkeeping.
pub const MAX_CALLS: usize = 1 << 25;

/// The largest block that a call may ask for.
pub const MAX_CALL_BYTES: u32 = 1 << 30;

/// The most allocators at once.
const MAX_ALLOCATORS: usize = 1 << 16;

/// What there is no memory for when reading fails.
const CALLS: &str = "the calls of the trace";

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CallKind {
    /// Makes an allocator.
    New = 0,
    /// Drops an allocator and all that it still holds.
    Drop = 1,
    /// Allocates a block.
    Allocate = 2,
    /// Frees a block.
    Free = 3,
    /// Changes the size of a block and keeps its contents.
    ReallocateCopy = 4,
    /// Changes the size of a block, whose contents do not matter.
    ReallocateDiscard = 5,
    /// Frees a block that goes with its allocator, right before the drop: for allocators that know no such thing.
    Release = 6,
}

impl CallKind {
    pub(super) const ALL: [Self; 7] = [
        Self::New,
        Self::Drop,
        Self::Allocate,
        Self::Free,
        Self::ReallocateCopy,
        Self::ReallocateDiscard,
        Self::Release,
    ];
}

/// One call, with numbers that are all in use at some time and none larger than need be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Which block, if the call is about one.
    pub slot: u32,
    /// Bytes asked for, at least 1 where the call asks for any.
    pub size: u32,
    /// Which allocator.
    pub allocator: u16,
    /// What it does.
    pub kind: CallKind,
}

/// How many calls of each kind the file has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallCounts {
    /// Allocators made.
    pub new: u64,
    /// Blocks allocated.
    pub allocate: u64,
    /// Blocks freed by a call of their own.
    pub free: u64,
    /// Blocks resized that kept their contents.
    pub reallocate_copy: u64,
    /// Blocks resized whose contents did not matter.
    pub reallocate_discard: u64,
}

/// A call trace that was read: as a program that ends with nothing allocated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallTrace {
    /// The calls; what an allocator holds at its drop, and what the file leaves allocated at its end, is released.
    pub calls: Vec<Call>,
    /// How many slots they use: the most blocks at once.
    pub slots: usize,
    /// How many allocators there are at once.
    pub allocators: usize,
    /// Calls of each kind in the file.
    pub counts: CallCounts,
    /// Bytes asked for in all, by allocations and by resizing.
    pub bytes: u64,
    /// The smallest block asked for.
    pub smallest: u32,
    /// The largest block asked for.
    pub largest: u32,
    /// The most bytes live at once.
    pub peak_bytes: u64,
    /// After how many calls that is so for the first time.
    pub peak_op: usize,
}

impl CallTrace {
    /// How many calls about blocks the file has.
    #[must_use]
    pub const fn units(&self) -> u64 {
        let CallCounts { allocate, free, reallocate_copy, reallocate_discard, .. } = self.counts;
        allocate + free + reallocate_copy + reallocate_discard
    }
}

impl CallTrace {
    /// What is known of it, without its calls.
    #[must_use]
    pub fn without_calls(&self) -> Self {
        Self { calls: Vec::new(), ..*self }
    }
}

/// A block that is live while the file is read.
struct Live {
    slot: u32,
    size: u32,
    allocator: u16,
}

/// Hands out the lowest numbers that are not in use.
#[derive(Default)]
struct Numbers {
    used: u32,
    free: Vec<u32>,
}

impl Numbers {
    fn take(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.used += 1;
            self.used - 1
        })
    }

    fn give_back(&mut self, number: u32) -> Result<(), Error> {
        push(&mut self.free, number, CALLS)
    }
}

#[derive(Default)]
struct Reader {
    calls: Vec<Call>,
    counts: CallCounts,
    bytes: u64,
    smallest: Option<u32>,
    largest: u32,
    live_bytes: u64,
    peak_bytes: u64,
    peak_op: usize,
    /// Allocators by their numbers in the file: how many blocks each holds.
    allocators: HashMap<u64, (u16, u64)>,
    allocator_numbers: Numbers,
    blocks: HashMap<u64, Live>,
    slots: Numbers,
}

/// Reads the calls of a table that has their columns.
pub(super) fn read(mut table: Table<'_, '_>) -> Result<CallTrace, Error> {
    let mut reader = Reader::default();
    while let Some(row) = table.next()? {
        reader.row(&row)?;
    }
    reader.end()
}

impl Reader {
    fn row(&mut self, row: &Row<'_>) -> Result<(), Error> {
        if self.calls.len() >= MAX_CALLS {
            let fault = Fault::Value {
                name: "number of calls",
                found: format!("more than {MAX_CALLS}"),
                allowed: format!("up to {MAX_CALLS}"),
            };
            return Err(row.error(fault));
        }
        let number = |column, name| row.number(column, name, 0, u64::MAX, "a whole number");
        let allocator = number(1, "allocator")?;
        match row.text(0) {
            b"new" => self.make(row, allocator),
            b"drop" => {
                let &(index, blocks) = self.allocators.get(&allocator).ok_or_else(|| no_allocator(row))?;
                self.drop(allocator, index, blocks)
            }
            b"allocate" => {
                let (block, size) = (number(2, "block")?, size(row)?);
                self.allocate(row, allocator, block, size)
            }
            b"free" => {
                let block = number(2, "block")?;
                let live = self.blocks.remove(&block).ok_or_else(|| not_live(row))?;
                if let Some((index, blocks)) = self.allocators.get_mut(&allocator)
                    && *index == live.allocator
                {
                    *blocks -= 1;
                } else {
                    return Err(row.fault(1, "allocator", "the one that the block came from"));
                }
                self.counts.free += 1;
                self.live_bytes -= u64::from(live.size);
                self.push(CallKind::Free, live.allocator, live.slot, 0)?;
                self.slots.give_back(live.slot)
            }
            b"reallocate_copy" => {
                self.counts.reallocate_copy += 1;
                self.reallocate(row, CallKind::ReallocateCopy, number(2, "block")?, size(row)?)
            }
            b"reallocate_discard" => {
                self.counts.reallocate_discard += 1;
                self.reallocate(row, CallKind::ReallocateDiscard, number(2, "block")?, size(row)?)
            }
            _ => Err(row.fault(0, "call", "new, drop, allocate, free, reallocate_copy, reallocate_discard")),
        }
    }

    fn make(&mut self, row: &Row<'_>, allocator: u64) -> Result<(), Error> {
        if self.allocators.contains_key(&allocator) {
            return Err(row.fault(1, "allocator", "one that there is not yet"));
        }
        if self.allocators.len() == MAX_ALLOCATORS {
            return Err(row.fault(1, "allocator", "65536 allocators at once"));
        }
        let index = u16::try_from(self.allocator_numbers.take()).expect("fewer than the most");
        self.allocators.try_reserve(1).map_err(|_| Error::NoMemory { what: CALLS })?;
        self.allocators.insert(allocator, (index, 0));
        self.counts.new += 1;
        self.push(CallKind::New, index, 0, 0)
    }

    fn allocate(&mut self, row: &Row<'_>, allocator: u64, block: u64, size: u32) -> Result<(), Error> {
        let (index, blocks) = self.allocators.get_mut(&allocator).ok_or_else(|| no_allocator(row))?;
        *blocks += 1;
        let index = *index;
        if self.blocks.len() == self.blocks.capacity() {
            self.blocks.try_reserve(1).map_err(|_| Error::NoMemory { what: CALLS })?;
            headroom(CALLS)?;
        }
        let slot = self.slots.take();
        if self.blocks.insert(block, Live { slot, size, allocator: index }).is_some() {
            return Err(row.fault(2, "block", "one that is not allocated"));
        }
        self.counts.allocate += 1;
        self.push(CallKind::Allocate, index, slot, size)?;
        self.grow(0, size)
    }

    fn reallocate(&mut self, row: &Row<'_>, kind: CallKind, block: u64, size: u32) -> Result<(), Error> {
        let live = self.blocks.get_mut(&block).ok_or_else(|| not_live(row))?;
        let old = core::mem::replace(&mut live.size, size);
        let (slot, allocator) = (live.slot, live.allocator);
        self.push(kind, allocator, slot, size)?;
        self.grow(old, size)
    }

    /// Counts a block that has a new size.
    fn grow(&mut self, old: u32, new: u32) -> Result<(), Error> {
        self.bytes += u64::from(new);
        self.smallest = Some(self.smallest.map_or(new, |smallest| smallest.min(new)));
        self.largest = self.largest.max(new);
        self.live_bytes = self.live_bytes - u64::from(old) + u64::from(new);
        if self.live_bytes > MAX_LIVE_BYTES {
            return Err(Error::TooManyBytes { allowed: MAX_LIVE_BYTES });
        }
        if self.live_bytes > self.peak_bytes || self.peak_op == 0 {
            (self.peak_bytes, self.peak_op) = (self.live_bytes, self.calls.len());
        }
        Ok(())
    }

    fn drop(&mut self, allocator: u64, index: u16, blocks: u64) -> Result<(), Error> {
        if blocks > 0 {
            let mut held = Vec::new();
            for (&block, live) in self.blocks.iter().filter(|(_, live)| live.allocator == index) {
                push(&mut held, (live.slot, block), CALLS)?;
            }
            // The order of a hash map is another one each time.
            held.sort_unstable();
            for (slot, block) in held {
                let live = self.blocks.remove(&block).expect("found above");
                self.live_bytes -= u64::from(live.size);
                self.push(CallKind::Release, index, slot, 0)?;
                self.slots.give_back(slot)?;
            }
        }
        self.allocators.remove(&allocator);
        self.allocator_numbers.give_back(index.into())?;
        self.push(CallKind::Drop, index, 0, 0)
    }

    fn push(&mut self, kind: CallKind, allocator: u16, slot: u32, size: u32) -> Result<(), Error> {
        push(&mut self.calls, Call { slot, size: size.max(u32::from(asks(kind))), allocator, kind }, CALLS)
    }

    /// What is still there at the end of the file goes.
    fn end(mut self) -> Result<CallTrace, Error> {
        let mut left: Vec<_> =
            self.allocators.iter().map(|(&number, &(index, blocks))| (index, number, blocks)).collect();
        left.sort_unstable();
        for (index, number, blocks) in left {
            self.drop(number, index, blocks)?;
        }
        Ok(CallTrace {
            calls: self.calls,
            slots: self.slots.used as usize,
            allocators: self.allocator_numbers.used as usize,
            counts: self.counts,
            bytes: self.bytes,
            smallest: self.smallest.unwrap_or(0),
            largest: self.largest,
            peak_bytes: self.peak_bytes,
            peak_op: self.peak_op,
        })
    }
}

/// Whether a call asks for bytes: 0 of them are served with the smallest block.
const fn asks(kind: CallKind) -> bool {
    matches!(kind, CallKind::Allocate | CallKind::ReallocateCopy | CallKind::ReallocateDiscard)
}

fn size(row: &Row<'_>) -> Result<u32, Error> {
    let allowed = format!("0 to {MAX_CALL_BYTES} bytes");
    let size = row.number(3, "size", 0, MAX_CALL_BYTES.into(), &allowed)?;
    Ok(u32::try_from(size).expect("checked against the limit"))
}

fn no_allocator(row: &Row<'_>) -> Error {
    row.fault(1, "allocator", "one that was made by `new` and not dropped")
}

fn not_live(row: &Row<'_>) -> Error {
    row.fault(2, "block", "one that is allocated")
}
