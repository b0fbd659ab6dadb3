//! What a workload is made of: operations on numbered slots.

use std::fmt;

/// One operation on a slot.
///
/// A slot holds at most one block. `size` 0 frees the block that the slot holds; any other size allocates that many
/// bytes into the slot, which is empty then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Op {
    /// The slot, below [`Stream::slots`].
    pub slot: u32,
    /// Bytes to allocate, or 0 to free.
    pub size: u32,
}

impl Op {
    /// Frees the block in `slot`.
    #[must_use]
    pub const fn free(slot: u32) -> Self {
        Self { slot, size: 0 }
    }

    /// Allocates `size` bytes (at least 1) into `slot`.
    #[must_use]
    pub const fn allocate(slot: u32, size: u32) -> Self {
        Self { slot, size }
    }

    /// Whether this operation frees.
    #[must_use]
    pub const fn is_free(self) -> bool {
        self.size == 0
    }
}

/// A program of allocations and frees, the same for every allocator that runs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    /// The operations, in order.
    pub ops: Vec<Op>,
    /// How many slots they use.
    pub slots: usize,
}

impl Stream {
    /// Checks that the operations can be carried out: slots below [`slots`](Self::slots), blocks allocated only into
    /// empty slots and freed only from full ones.
    ///
    /// # Errors
    ///
    /// The first operation that cannot be carried out, and why.
    pub fn check(&self) -> Result<(), StreamError> {
        Occupancy::new(self.slots).run(&self.ops)
    }
}

/// A workload without end: operations that fill a queue, and operations that are repeated for ever after.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cycle {
    /// The operations that come once, first.
    pub fill: Vec<Op>,
    /// The operations to repeat. They end with the same slots full as they began with.
    pub steady: Vec<Op>,
    /// How many slots both use.
    pub slots: usize,
}

impl Cycle {
    /// How many pairs of a free and an allocation one round of the steady part holds.
    #[must_use]
    pub fn pairs(&self) -> usize {
        self.steady.len() / 2
    }

    /// The cycle as a program that ends: the fill and `rounds` times the steady part.
    #[must_use]
    pub fn unroll(&self, rounds: usize) -> Stream {
        let mut ops = self.fill.clone();
        for _ in 0..rounds {
            ops.extend_from_slice(&self.steady);
        }
        Stream { ops, slots: self.slots }
    }

    /// The most bytes that are live at once, with every size rounded up to a multiple of `unit`.
    ///
    /// # Panics
    ///
    /// If `unit` is 0.
    #[must_use]
    pub fn peak_bytes(&self, unit: usize) -> usize {
        let mut sizes = vec![0_usize; self.slots];
        let (mut live, mut peak) = (0, 0);
        // Twice: the second round frees blocks of the first, whose sizes differ from those of the fill.
        for op in self.fill.iter().chain(&self.steady).chain(&self.steady) {
            let slot = &mut sizes[op.slot as usize];
            live -= *slot;
            *slot = (op.size as usize).next_multiple_of(unit);
            live += *slot;
            peak = peak.max(live);
        }
        peak
    }

    /// Identifies the operations: FNV-1a (64 bits) over slot and size of each, as little-endian 32-bit numbers, first
    /// those of the fill, then those of the steady part.
    #[must_use]
    pub fn checksum(&self) -> u64 {
        let mut hash = 0xCBF2_9CE4_8422_2325_u64;
        for op in self.fill.iter().chain(&self.steady) {
            for byte in op.slot.to_le_bytes().into_iter().chain(op.size.to_le_bytes()) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
            }
        }
        hash
    }

    /// Checks that the operations can be carried out, and the steady part again and again.
    ///
    /// # Errors
    ///
    /// The first operation that cannot be carried out, counted from the first of the fill, and why.
    pub fn check(&self) -> Result<(), StreamError> {
        let mut occupancy = Occupancy::new(self.slots);
        occupancy.run(&self.fill)?;
        let filled = occupancy.full.clone();
        occupancy.run(&self.steady)?;
        match (0..self.slots).find(|&slot| occupancy.full[slot] != filled[slot]) {
            None => Ok(()),
            Some(slot) => Err(StreamError::NotRepeatable { slot }),
        }
    }
}

/// Why a stream cannot be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamError {
    /// An operation names a slot that the stream does not have.
    NoSuchSlot {
        /// Which operation, from 0.
        op: usize,
        /// The slot it names.
        slot: usize,
        /// How many slots there are.
        slots: usize,
    },
    /// An operation allocates into a slot that holds a block.
    SlotFull {
        /// Which operation, from 0.
        op: usize,
        /// The slot it names.
        slot: usize,
    },
    /// An operation frees from a slot that holds no block.
    SlotEmpty {
        /// Which operation, from 0.
        op: usize,
        /// The slot it names.
        slot: usize,
    },
    /// A round of the steady part leaves a slot full that it found empty, or the other way round.
    NotRepeatable {
        /// The slot.
        slot: usize,
    },
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchSlot { op, slot, slots } => {
                write!(f, "operation {op} uses slot {slot}; the stream has slots below {slots}")
            }
            Self::SlotFull { op, slot } => write!(f, "operation {op} allocates into slot {slot}, which holds a block"),
            Self::SlotEmpty { op, slot } => {
                write!(f, "operation {op} frees slot {slot}, which holds no block")
            }
            Self::NotRepeatable { slot } => write!(f, "the steady part leaves slot {slot} other than it found it"),
        }
    }
}

impl std::error::Error for StreamError {}

/// Which slots hold a block, while a stream is checked.
struct Occupancy {
    full: Vec<bool>,
    done: usize,
}

impl Occupancy {
    fn new(slots: usize) -> Self {
        Self { full: vec![false; slots], done: 0 }
    }

    fn run(&mut self, ops: &[Op]) -> Result<(), StreamError> {
        let slots = self.full.len();
        for op in ops {
            let (index, slot) = (self.done, op.slot as usize);
            let full = self.full.get_mut(slot).ok_or(StreamError::NoSuchSlot { op: index, slot, slots })?;
            match (*full, op.is_free()) {
                (true, false) => return Err(StreamError::SlotFull { op: index, slot }),
                (false, true) => return Err(StreamError::SlotEmpty { op: index, slot }),
                _ => *full = !*full,
            }
            self.done += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Cycle, Op, Stream, StreamError};

    #[test]
    fn a_program_that_works_is_accepted() {
        let stream = Stream { ops: vec![Op::allocate(0, 9), Op::free(0), Op::allocate(0, 5)], slots: 1 };
        assert_eq!(stream.check(), Ok(()));
    }

    #[test]
    fn each_fault_is_named() {
        let fault = |ops: Vec<Op>| Stream { ops, slots: 2 }.check();
        assert_eq!(
            fault(vec![Op::allocate(0, 1), Op::allocate(2, 1)]),
            Err(StreamError::NoSuchSlot { op: 1, slot: 2, slots: 2 }),
        );
        assert_eq!(fault(vec![Op::allocate(1, 1), Op::allocate(1, 1)]), Err(StreamError::SlotFull { op: 1, slot: 1 }));
        assert_eq!(fault(vec![Op::free(0)]), Err(StreamError::SlotEmpty { op: 0, slot: 0 }));
    }

    #[test]
    fn a_steady_part_that_ends_elsewhere_is_refused() {
        let cycle = Cycle { fill: vec![Op::allocate(0, 1)], steady: vec![Op::free(0), Op::allocate(1, 1)], slots: 2 };
        assert_eq!(cycle.check(), Err(StreamError::NotRepeatable { slot: 0 }));
        assert_eq!(
            StreamError::NotRepeatable { slot: 0 }.to_string(),
            "the steady part leaves slot 0 other than it found it"
        );
    }

    #[test]
    fn peak_counts_rounded_sizes_also_of_the_second_round() {
        let cycle = Cycle {
            fill: vec![Op::allocate(0, 64), Op::allocate(1, 1)],
            steady: vec![Op::free(0), Op::allocate(0, 65), Op::free(1), Op::allocate(1, 200)],
            slots: 2,
        };
        assert_eq!(cycle.check(), Ok(()));
        assert_eq!(cycle.peak_bytes(64), 128 + 256);
        assert_eq!(cycle.pairs(), 2);
        assert_eq!(cycle.unroll(2).ops.len(), 2 + 2 * 4);
        assert_eq!(cycle.unroll(2).check(), Ok(()));
    }

    #[test]
    fn checksum_is_fnv_1a() {
        assert_eq!(Cycle::default().checksum(), 0xCBF2_9CE4_8422_2325);
        // FNV-1a of the eight bytes 61 00 00 00 00 00 00 00.
        let cycle = Cycle { fill: vec![Op::free(0x61)], steady: vec![], slots: 0x62 };
        let mut expected = 0xCBF2_9CE4_8422_2325_u64;
        for byte in [0x61, 0, 0, 0, 0, 0, 0, 0] {
            expected = (expected ^ byte).wrapping_mul(1_099_511_628_211);
        }
        assert_eq!(cycle.checksum(), expected);
    }
}
