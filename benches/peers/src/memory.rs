//! What a workload leaves in memory.

use pktalloc::Allocator;
use pktalloc::workload::{Cycle, Op, Pattern, Pinned, Sizes, drained_burst};

use crate::cell::{Cell, QueueCell, Touch};
use crate::clock::resident_bytes;
use crate::driver::{Driver, Endless};
use crate::names::{Name, Visitor};
use crate::process::ask;
use crate::subject::{Plan, Subject};

/// A window of pktalloc's default size.
pub(crate) const WINDOW_BYTES: usize = 128 << 10;

/// A workload that runs once, written, and is weighed afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Question {
    /// Of every 45 packets 12 stay
    Pinned,
    /// Of every 100 packets 1 stays
    OnePercent,
    /// 100,000 packets enter, all leave, memory is trimmed
    DrainedBurst,
}

impl Question {
    pub(crate) const ALL: [Self; 3] = [Self::Pinned, Self::OnePercent, Self::DrainedBurst];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pinned => "pinned",
            Self::OnePercent => "one-percent",
            Self::DrainedBurst => "drained-burst",
        }
    }

    /// The program, as the fill of a cycle that has nothing else.
    fn cycle(self) -> Cycle {
        let stream = match self {
            Self::Pinned => Pinned::QUARTER.stream(),
            Self::OnePercent => Pinned::ONE_PERCENT.stream(),
            Self::DrainedBurst => drained_burst(&Sizes::Uniform, 100_000, 1),
        };
        Cycle { fill: stream.ops, steady: Vec::new(), slots: stream.slots }
    }
}

/// What was there after a workload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weight {
    /// Bytes asked for and not freed.
    pub(crate) live: u64,
    /// Bytes asked for in all.
    pub(crate) asked: u64,
    /// Bytes held from the system, if the subject knows.
    pub(crate) allocated: Option<u64>,
    /// Bytes by which the process grew.
    pub(crate) resident: u64,
}

/// Weighs a subject, in a process of its own. The inner error says why it is absent.
pub(crate) fn weigh(name: Name, question: Question) -> Result<Result<Weight, String>, String> {
    let text = ask(name, &["weigh", &name.to_string(), question.name()])?;
    let numbers: Vec<Option<u64>> = text.split_ascii_whitespace().map(|number| number.parse().ok()).collect();
    Ok(match numbers[..] {
        [Some(live), Some(asked), allocated, Some(resident)] => Ok(Weight { live, asked, allocated, resident }),
        _ => Err(text.trim_end().to_owned()),
    })
}

/// The far side: prints the bytes of a [`Weight`], or why the subject is absent.
pub(crate) fn serve(name: Name, question: Question) -> Result<(), String> {
    let answer = match name.visit(Weigh(question))? {
        Ok(Weight { live, asked, allocated, resident }) => {
            let allocated = allocated.map_or("unknown".to_owned(), |bytes| bytes.to_string());
            format!("{live} {asked} {allocated} {resident}")
        }
        Err(reason) => reason,
    };
    println!("{answer}");
    Ok(())
}

struct Weigh(Question);

impl Visitor for Weigh {
    type Output = Result<Result<Weight, String>, String>;

    fn visit<S: Subject>(self) -> Self::Output {
        let cycle = self.0.cycle();
        let asked = cycle.fill.iter().map(|op| u64::from(op.size)).sum();
        let live = live_bytes(&cycle.fill, cycle.slots, cycle.fill.len())[0];
        let subject = match S::new(&Plan::of(&cycle)) {
            Ok(subject) => subject,
            Err(reason) => return Ok(Err(reason)),
        };
        let driver = Driver::new(subject, cycle.slots, Touch::Written);
        let before = resident_bytes()?;
        let mut endless = Endless::start(driver, cycle);
        if self.0 == Question::DrainedBurst {
            endless.subject().trim();
        }
        let resident = resident_bytes()?.saturating_sub(before);
        Ok(Ok(Weight { live, asked, allocated: endless.subject().allocated_bytes(), resident }))
    }
}

/// Bytes asked for and not freed, after each `step` operations and after the last.
pub(crate) fn live_bytes(ops: &[Op], slots: usize, step: usize) -> Vec<u64> {
    let mut sizes = vec![0; slots];
    let mut live = 0;
    let after = |ops: &[Op]| {
        for op in ops {
            let size = &mut sizes[op.slot as usize];
            live -= *size;
            *size = u64::from(op.size);
            live += *size;
        }
        live
    };
    ops.chunks(step).map(after).collect()
}

/// The bytes that an allocator holds after its first use, trimmed.
pub(crate) fn floor_bytes() -> Result<u64, String> {
    let allocator: Allocator = Allocator::new();
    let block = allocator.allocate(1).map_err(|error| format!("cannot allocate a byte: {error}"))?;
    // SAFETY: allocated above and freed once.
    unsafe { allocator.free(block.cast()) };
    allocator.trim();
    Ok(allocator.allocated_bytes())
}

/// The worst of `(allocated bytes - 3 windows) / live bytes` in a queue at any time once it is full.
pub(crate) fn overhead(sizes: &Sizes, depth: u32) -> Result<f64, String> {
    let queue = QueueCell { pattern: Pattern::Fifo, sizes: sizes.clone(), depth, touch: Touch::Untouched };
    let cycle = Cell::Queue(queue).cycle()?;
    let allocator: Allocator = Allocator::new();
    let mut slots = vec![None; cycle.slots];
    let (mut live, mut worst) = (0_u64, 0.0_f64);
    for (index, op) in cycle.unroll(1).ops.iter().enumerate() {
        let slot = &mut slots[op.slot as usize];
        if let Some((block, size)) = slot.take() {
            // SAFETY: allocated below, and taken out of its slot.
            unsafe { allocator.free(block) };
            live -= u64::from(size);
        } else {
            let block = allocator.allocate(op.size as usize).map_err(|error| format!("{sizes}, {depth}: {error}"))?;
            *slot = Some((block.cast(), op.size));
            live += u64::from(op.size);
            if index >= cycle.fill.len() {
                let beyond = allocator.allocated_bytes().saturating_sub(3 * WINDOW_BYTES as u64);
                worst = worst.max(beyond as f64 / live as f64);
            }
        }
    }
    Ok(worst)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_bytes_are_counted_after_each_step_and_the_last() {
        let ops = [Op::allocate(0, 10), Op::allocate(1, 5), Op::free(0), Op::allocate(0, 3), Op::free(1)];
        assert_eq!(live_bytes(&ops, 2, 2), [15, 8, 3]);
    }
}
