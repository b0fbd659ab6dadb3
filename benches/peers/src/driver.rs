//! Runs operations on a subject: the loop that all subjects share.

use std::mem::MaybeUninit;
use std::ptr;

use pktalloc::workload::{Cycle, Op};

use crate::cell::Touch;
use crate::subject::Subject;

/// A subject and the slots of its workload.
pub(crate) struct Driver<S: Subject> {
    subject: S,
    slots: Vec<MaybeUninit<S::Handle>>,
    touch: Touch,
    /// Which of the places of the loop is used: see [`run`].
    place: usize,
}

impl<S: Subject> Driver<S> {
    pub(crate) fn new(subject: S, slots: usize, touch: Touch) -> Self {
        let mut empty: Vec<MaybeUninit<S::Handle>> = Vec::with_capacity(slots);
        // The slots' own memory is there before anything is measured: it is written once.
        // SAFETY: any bytes will do for what may be uninitialized, and the vector has room for as many.
        unsafe {
            ptr::write_bytes(empty.as_mut_ptr(), 0, slots);
            empty.set_len(slots);
        }
        Self { subject, slots: empty, touch, place: std::process::id() as usize }
    }

    /// Carries out operations.
    ///
    /// # Safety
    ///
    /// Their slots are below the number of slots; those that they free are full, and those that they fill are empty.
    unsafe fn run(&mut self, ops: &[Op]) {
        // SAFETY: as the caller promises.
        unsafe {
            let run = match (self.touch, self.place % PLACES) {
                (Touch::Untouched, 0) => run::<S, false, 0>,
                (Touch::Untouched, 1) => run::<S, false, 1>,
                (Touch::Untouched, 2) => run::<S, false, 2>,
                (Touch::Untouched, _) => run::<S, false, 3>,
                (Touch::Written, 0) => run::<S, true, 0>,
                (Touch::Written, 1) => run::<S, true, 1>,
                (Touch::Written, 2) => run::<S, true, 2>,
                (Touch::Written, _) => run::<S, true, 3>,
            };
            run(&mut self.subject, &mut self.slots, ops);
        }
    }
}

/// Places of the loop in a cache line.
const PLACES: usize = 4;

/// The measured loop, at one of four places in a cache line: where it lies changes what a pair costs by a tenth, with
/// some subjects one way and with others the other way, so each is measured at all of them.
///
/// # Safety
///
/// As [`Driver::run`].
#[inline(never)]
unsafe fn run<S: Subject, const WRITTEN: bool, const PLACE: usize>(
    subject: &mut S,
    slots: &mut [MaybeUninit<S::Handle>],
    ops: &[Op],
) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: instructions that do nothing.
    unsafe {
        std::arch::asm!(".rept {bytes}", "nop", ".endr", bytes = const 16 * PLACE, options(nomem, nostack, preserves_flags));
    }
    for op in ops {
        // SAFETY: the caller promises that there is such a slot.
        let slot = unsafe { slots.get_unchecked_mut(op.slot as usize) };
        if op.is_free() {
            // SAFETY: the caller promises that the slot is full; it is not read again before it is filled again.
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

/// A workload without end, on a subject.
pub(crate) struct Endless<S: Subject> {
    driver: Driver<S>,
    cycle: Cycle,
    cursor: usize,
}

impl<S: Subject> Endless<S> {
    /// Carries out the fill.
    ///
    /// # Panics
    ///
    /// If the cycle cannot be carried out.
    pub(crate) fn start(driver: Driver<S>, cycle: Cycle) -> Self {
        let whole = cycle.fill.len().max(1);
        Self::start_watched(driver, cycle, whole, |_| ())
    }

    /// Carries out the fill, and calls `watch` after each `step` operations and after the last.
    ///
    /// # Panics
    ///
    /// If the cycle cannot be carried out, or `step` is 0.
    pub(crate) fn start_watched(
        mut driver: Driver<S>,
        cycle: Cycle,
        step: usize,
        mut watch: impl FnMut(&mut S),
    ) -> Self {
        cycle.check().expect("the workload can be carried out");
        assert!(driver.slots.len() >= cycle.slots, "the driver has slots for the workload");
        for ops in cycle.fill.chunks(step) {
            // SAFETY: the cycle was checked, and these are its beginning, in their order.
            unsafe { driver.run(ops) };
            watch(&mut driver.subject);
        }
        Self { driver, cycle, cursor: 0 }
    }

    /// Carries out the next `ops` operations of the steady part, from its beginning again after its end.
    pub(crate) fn advance(&mut self, mut ops: usize) {
        while ops > 0 {
            let end = self.cycle.steady.len().min(self.cursor + ops);
            // SAFETY: the cycle was checked, and its operations are carried out in their order.
            unsafe { self.driver.run(&self.cycle.steady[self.cursor..end]) };
            ops -= end - self.cursor;
            self.cursor = end % self.cycle.steady.len();
        }
    }

    /// Has the loop run at its next place.
    pub(crate) fn next_place(&mut self) {
        self.driver.place += 1;
    }

    pub(crate) fn subject(&mut self) -> &mut S {
        &mut self.driver.subject
    }

    /// How many operations one round of the steady part has.
    pub(crate) fn round(&self) -> usize {
        self.cycle.steady.len()
    }
}
