//! What is replayed: operations on slots that hold packets, or the calls of a call trace.

use std::io::{self, Read, Write};

use crate::workload::{Op, Stream};

use super::calls::{Call, CallKind, CallTrace, MAX_CALLS};
use super::error::Error;
use super::memory::{filled, reserve};
use super::packet::MAX_PACKETS;
use super::plan::Plan;

/// A program of allocations and frees that ends with nothing allocated, the same for every allocator that runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    pub(super) steps: Steps,
    /// Packets, or calls of the file: what a time is divided by.
    pub(super) units: u64,
    /// After how many steps the most bytes are live, and how many.
    pub(super) peak_step: usize,
    pub(super) peak_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Steps {
    Packets(Stream),
    Calls { calls: Vec<Call>, slots: usize, allocators: usize },
}

/// What a step does, whichever kind it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Allocate {
        slot: usize,
        size: u32,
    },
    Resize {
        slot: usize,
        size: u32,
        copy: bool,
    },
    Free {
        slot: usize,
    },
    /// As `Free`, for what goes with its allocator.
    Release {
        slot: usize,
    },
    New,
    Drop,
}

impl From<Plan> for Program {
    fn from(plan: Plan) -> Self {
        Self {
            units: plan.packets,
            peak_step: plan.peak_op,
            peak_bytes: plan.peak_bytes,
            steps: Steps::Packets(plan.stream),
        }
    }
}

impl From<CallTrace> for Program {
    fn from(trace: CallTrace) -> Self {
        Self {
            units: trace.units(),
            peak_step: trace.peak_op,
            peak_bytes: trace.peak_bytes,
            steps: Steps::Calls { calls: trace.calls, slots: trace.slots, allocators: trace.allocators },
        }
    }
}

/// The first bytes of a program that was written.
const MAGIC: [u8; 8] = *b"pktprog1";
/// How many steps are written or read at a time.
const CHUNK: usize = 4096;
const OP_BYTES: usize = 8;
const CALL_BYTES: usize = 12;

impl Program {
    /// Packets or calls.
    #[must_use]
    pub const fn units(&self) -> u64 {
        self.units
    }

    /// How many steps there are: allocations, frees and whatever else.
    #[must_use]
    pub const fn len(&self) -> usize {
        match &self.steps {
            Steps::Packets(stream) => stream.ops.len(),
            Steps::Calls { calls, .. } => calls.len(),
        }
    }

    /// Whether there are no steps.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many slots for blocks there are.
    pub(super) const fn slots(&self) -> usize {
        match &self.steps {
            Steps::Packets(stream) => stream.slots,
            Steps::Calls { slots, .. } => *slots,
        }
    }

    /// How many allocators there are at once.
    pub(super) const fn allocators(&self) -> usize {
        match &self.steps {
            Steps::Packets(_) => 1,
            Steps::Calls { allocators, .. } => *allocators,
        }
    }

    /// What a step does, and on which allocator.
    pub(super) fn action(&self, step: usize) -> (usize, Action) {
        match &self.steps {
            Steps::Packets(stream) => {
                let Op { slot, size } = stream.ops[step];
                let slot = slot as usize;
                (0, if size == 0 { Action::Free { slot } } else { Action::Allocate { slot, size } })
            }
            Steps::Calls { calls, .. } => {
                let Call { slot, size, allocator, kind } = calls[step];
                let slot = slot as usize;
                let action = match kind {
                    CallKind::New => Action::New,
                    CallKind::Drop => Action::Drop,
                    CallKind::Allocate => Action::Allocate { slot, size },
                    CallKind::Free => Action::Free { slot },
                    CallKind::Release => Action::Release { slot },
                    CallKind::ReallocateCopy => Action::Resize { slot, size, copy: true },
                    CallKind::ReallocateDiscard => Action::Resize { slot, size, copy: false },
                };
                (allocator.into(), action)
            }
        }
    }

    /// Writes it for another process, which can [`read`](Self::read) it.
    ///
    /// # Errors
    /// What writing fails with.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let kind = u64::from(matches!(self.steps, Steps::Calls { .. }));
        out.write_all(&MAGIC)?;
        let numbers = [
            kind,
            self.len() as u64,
            self.slots() as u64,
            self.allocators() as u64,
            self.units,
            self.peak_step as u64,
            self.peak_bytes,
        ];
        for number in numbers {
            out.write_all(&number.to_le_bytes())?;
        }
        let mut chunk = Vec::with_capacity(CHUNK * CALL_BYTES);
        match &self.steps {
            Steps::Packets(stream) => {
                for ops in stream.ops.chunks(CHUNK) {
                    chunk.clear();
                    for op in ops {
                        chunk.extend_from_slice(&op.slot.to_le_bytes());
                        chunk.extend_from_slice(&op.size.to_le_bytes());
                    }
                    out.write_all(&chunk)?;
                }
            }
            Steps::Calls { calls, .. } => {
                for calls in calls.chunks(CHUNK) {
                    chunk.clear();
                    for call in calls {
                        chunk.extend_from_slice(&call.slot.to_le_bytes());
                        chunk.extend_from_slice(&call.size.to_le_bytes());
                        chunk.extend_from_slice(&call.allocator.to_le_bytes());
                        chunk.extend_from_slice(&[call.kind as u8, 0]);
                    }
                    out.write_all(&chunk)?;
                }
            }
        }
        Ok(())
    }

    /// Reads what [`write`](Self::write) wrote.
    ///
    /// # Errors
    /// [`Error::NoMemory`]; [`Error::Option`] for what is no program.
    pub fn read(input: &mut impl Read) -> Result<Self, Error> {
        const WHAT: &str = "the program to replay";
        let damaged = |_| Error::Option { name: WHAT, allowed: "what was written as one" };
        let mut magic = [0; 8];
        input.read_exact(&mut magic).map_err(damaged)?;
        let mut numbers = [0; 7];
        for number in &mut numbers {
            let mut bytes = [0; 8];
            input.read_exact(&mut bytes).map_err(damaged)?;
            *number = u64::from_le_bytes(bytes);
        }
        let [kind, length, slots, allocators, units, peak_step, peak_bytes] = numbers;
        let most = 2 * MAX_PACKETS.max(MAX_CALLS as u64) + 2;
        let fits = [length, slots, allocators, peak_step].iter().all(|&number| number <= most);
        if magic != MAGIC || !fits {
            return Err(Error::Option { name: WHAT, allowed: "what was written as one" });
        }
        let size = |number: u64| usize::try_from(number).expect("checked above");
        let (length, slots, allocators, peak_step) = (size(length), size(slots), size(allocators), size(peak_step));
        let step_bytes = if kind == 0 { OP_BYTES } else { CALL_BYTES };
        let mut chunk = filled(0_u8, CHUNK * step_bytes, WHAT)?;
        let (mut ops, mut calls) = (Vec::new(), Vec::new());
        if kind == 0 {
            reserve(&mut ops, length, WHAT)?;
        } else {
            reserve(&mut calls, length, WHAT)?;
        }
        let mut left = length;
        while left > 0 {
            let count = left.min(CHUNK);
            let bytes = &mut chunk[..count * step_bytes];
            input.read_exact(bytes).map_err(damaged)?;
            for step in bytes.chunks_exact(step_bytes) {
                let word = |offset: usize| u32::from_le_bytes(*step[offset..].first_chunk().expect("8 bytes or more"));
                if kind == 0 {
                    ops.push(Op { slot: word(0), size: word(4) });
                } else {
                    let kind = *CallKind::ALL
                        .get(usize::from(step[10]))
                        .ok_or_else(|| damaged(io::ErrorKind::Other.into()))?;
                    let allocator = u16::from_le_bytes([step[8], step[9]]);
                    calls.push(Call { slot: word(0), size: word(4), allocator, kind });
                }
            }
            left -= count;
        }
        let steps =
            if kind == 0 { Steps::Packets(Stream { ops, slots }) } else { Steps::Calls { calls, slots, allocators } };
        Ok(Self { steps, units, peak_step, peak_bytes })
    }
}

impl Program {
    /// The first `steps` of it, and the frees of what is live then, so that nothing stays allocated.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub fn head(&self, steps: usize) -> Result<Self, Error> {
        const WHAT: &str = "the first part of the program";
        let steps = steps.min(self.len());
        let mut held = filled((0_u32, 0_usize), self.slots(), WHAT)?;
        let mut live = filled(false, self.allocators(), WHAT)?;
        let (mut live_bytes, mut peak_bytes, mut peak_step, mut units) = (0, 0, 0, 0);
        for step in 0..steps {
            let (allocator, action) = self.action(step);
            match action {
                Action::New => live[allocator] = true,
                Action::Drop => live[allocator] = false,
                Action::Allocate { slot, size } | Action::Resize { slot, size, .. } => {
                    live_bytes = live_bytes - u64::from(held[slot].0) + u64::from(size);
                    held[slot] = (size, allocator);
                    units += 1;
                }
                Action::Free { slot } | Action::Release { slot } => {
                    live_bytes -= u64::from(core::mem::take(&mut held[slot].0));
                    units += u64::from(matches!((&self.steps, action), (Steps::Calls { .. }, Action::Free { .. })));
                }
            }
            if live_bytes > peak_bytes || peak_step == 0 {
                (peak_bytes, peak_step) = (live_bytes, step + 1);
            }
        }
        let left = held.iter().enumerate().filter(|(_, (size, _))| *size > 0);
        let number = |slot: usize| u32::try_from(slot).expect("slots are counted in 32 bits");
        let steps = match &self.steps {
            Steps::Packets(stream) => {
                let mut ops = Vec::new();
                reserve(&mut ops, steps + stream.slots, WHAT)?;
                ops.extend_from_slice(&stream.ops[..steps]);
                ops.extend(left.map(|(slot, _)| Op::free(number(slot))));
                Steps::Packets(Stream { ops, slots: stream.slots })
            }
            Steps::Calls { calls: all, slots, allocators } => {
                let mut calls = Vec::new();
                reserve(&mut calls, steps + slots + allocators, WHAT)?;
                calls.extend_from_slice(&all[..steps]);
                let end = |slot, allocator: usize, kind| Call {
                    slot,
                    size: 0,
                    allocator: u16::try_from(allocator).expect("at most 65536 allocators"),
                    kind,
                };
                calls.extend(left.map(|(slot, &(_, allocator))| end(number(slot), allocator, CallKind::Release)));
                let still = live.iter().enumerate().filter(|(_, live)| **live);
                calls.extend(still.map(|(allocator, _)| end(0, allocator, CallKind::Drop)));
                Steps::Calls { calls, slots: *slots, allocators: *allocators }
            }
        };
        Ok(Self { steps, units, peak_step, peak_bytes })
    }
}

/// What a program looks like, for pictures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Of how many bytes blocks are, and how many there are of each size: the upper ends of ranges that adjoin. They
    /// are of equal length where all blocks are as small as packets, and grow with the size otherwise.
    pub sizes: Vec<(u32, u64)>,
    /// How many blocks live while less than 1, 2, 4, 8, … further ones are allocated.
    pub lifetimes: Vec<u64>,
    /// Live bytes after evenly spaced numbers of steps.
    pub live: Vec<(usize, u64)>,
}

/// How many ranges of sizes there are where they are equal.
const SIZE_RANGES: u32 = 32;
/// The largest block up to which they are: in equal ranges up to a larger one, packets would all be in the first.
const LARGEST_IN_EQUAL_RANGES: u32 = 16 << 10;
/// Where the first range ends if they are not.
const FIRST_RANGE: u32 = 64;
/// At how many moments live bytes are looked at.
const MOMENTS: usize = 400;

impl Program {
    /// Looks at sizes, lifetimes and live bytes.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub fn profile(&self) -> Result<Profile, Error> {
        const WHAT: &str = "the pictures of the trace";
        let largest = (0..self.len()).map(|step| size_of(self.action(step).1)).max().unwrap_or(0).max(1);
        let mut sizes: Vec<(u32, u64)> = size_ranges(largest).map(|end| (end, 0)).collect();
        let mut lifetimes = Vec::new();
        let mut live = Vec::new();
        let mut held = filled((0_u32, 0_u64), self.slots(), WHAT)?;
        let (mut live_bytes, mut born) = (0, 0_u64);
        let stride = self.len().div_ceil(MOMENTS).max(1);
        for step in 0..self.len() {
            let action = self.action(step).1;
            if let Action::Allocate { slot, size } | Action::Resize { slot, size, .. } = action {
                live_bytes = live_bytes - u64::from(held[slot].0) + u64::from(size);
                held[slot].0 = size;
                let range = sizes.partition_point(|&(end, _)| end < size);
                sizes[range].1 += 1;
                if matches!(action, Action::Allocate { .. }) {
                    born += 1;
                    held[slot].1 = born;
                }
            } else if let Action::Free { slot } | Action::Release { slot } = action {
                let (size, number) = core::mem::take(&mut held[slot]);
                live_bytes -= u64::from(size);
                let doublings = (u64::BITS - (born - number).leading_zeros()) as usize;
                if lifetimes.len() <= doublings {
                    lifetimes.resize(doublings + 1, 0);
                }
                lifetimes[doublings] += 1;
            }
            if (step + 1).is_multiple_of(stride) || step + 1 == self.peak_step {
                live.push((step + 1, live_bytes));
            }
        }
        Ok(Profile { sizes, lifetimes, live })
    }
}

/// The upper ends of ranges of sizes up to the largest: equal ones, or two for each power of two.
fn size_ranges(largest: u32) -> impl Iterator<Item = u32> {
    let equal = largest.div_ceil(SIZE_RANGES);
    let (first, next): (u32, fn(u32, u32) -> u32) = if largest <= LARGEST_IN_EQUAL_RANGES {
        (equal, |end, equal| end + equal)
    } else {
        (FIRST_RANGE, |end, _| end + if end.is_power_of_two() { end / 2 } else { end / 3 })
    };
    core::iter::successors(Some(first), move |&end| (end < largest).then(|| next(end, equal)))
}

fn size_of(action: Action) -> u32 {
    match action {
        Action::Allocate { size, .. } | Action::Resize { size, .. } => size,
        _ => 0,
    }
}
