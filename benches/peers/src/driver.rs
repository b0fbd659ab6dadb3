//! Runs operations on a subject: the loop that all subjects share.

use std::mem::MaybeUninit;
use std::ptr;

use pktalloc::workload::{Cycle, Op};

use crate::subject::Subject;

/// A subject, the slots of its workload, and where it is in the steady part.
pub(crate) struct Driver<S: Subject> {
    subject: S,
    slots: Vec<MaybeUninit<S::Handle>>,
    cycle: Cycle,
    cursor: usize,
    written: bool,
}

impl<S: Subject> Driver<S> {
    /// Carries out the fill.
    ///
    /// # Panics
    ///
    /// If the cycle cannot be carried out.
    pub(crate) fn new(subject: S, cycle: Cycle, written: bool) -> Self {
        cycle.check().expect("the workload can be carried out");
        let mut slots = Vec::new();
        slots.resize_with(cycle.slots, MaybeUninit::uninit);
        let mut driver = Self { subject, slots, cursor: 0, written, cycle };
        run(&mut driver.subject, &mut driver.slots, &driver.cycle.fill, written);
        driver
    }

    /// Carries out the next `ops` operations of the steady part, from its beginning again after its end.
    pub(crate) fn advance(&mut self, mut ops: usize) {
        while ops > 0 {
            let end = self.cycle.steady.len().min(self.cursor + ops);
            run(&mut self.subject, &mut self.slots, &self.cycle.steady[self.cursor..end], self.written);
            ops -= end - self.cursor;
            self.cursor = end % self.cycle.steady.len();
        }
    }

    /// How many operations one round of the steady part has.
    pub(crate) fn round(&self) -> usize {
        self.cycle.steady.len()
    }
}

/// Carries out operations. `ops` is part of a checked cycle, in its turn; `slots` are all of the cycle's.
fn run<S: Subject>(subject: &mut S, slots: &mut [MaybeUninit<S::Handle>], ops: &[Op], written: bool) {
    if written {
        run_touching::<S, true>(subject, slots, ops);
    } else {
        run_touching::<S, false>(subject, slots, ops);
    }
}

/// The measured loop.
#[inline(never)]
fn run_touching<S: Subject, const WRITTEN: bool>(
    subject: &mut S,
    slots: &mut [MaybeUninit<S::Handle>],
    ops: &[Op],
) {
    for op in ops {
        // SAFETY: the cycle was checked, all its slots are below `slots.len()`.
        let slot = unsafe { slots.get_unchecked_mut(op.slot as usize) };
        if op.is_free() {
            // SAFETY: the cycle was checked: this slot was filled, and is not read again before it is filled again.
            subject.free(unsafe { slot.assume_init_read() });
        } else {
            let handle = slot.write(subject.allocate(op.size as usize));
            if WRITTEN {
                // SAFETY: the block has at least as many bytes.
                unsafe { ptr::write_bytes(S::bytes(handle), op.size as u8, op.size as usize) };
            }
        }
    }
}
