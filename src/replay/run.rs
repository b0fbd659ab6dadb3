//! Running a plan: one verifying pass, then interleaved timing rounds.

use core::ptr::NonNull;
use core::time::Duration;
use std::time::Instant;

use crate::Allocator;
use crate::workload::{Op, Stream};

use super::error::Error;
use super::memory::filled;
use super::plan::Plan;
use super::progress::{Phase, Progress, report_progress};
use super::report::{Report, Spread};
use super::subject::{BareLoop, Malloc, Subject};
use super::verify::verify;

/// How many rounds are timed unless the caller says otherwise or a round is long: enough for quartiles.
pub const DEFAULT_ROUNDS: u32 = 21;

/// How many rounds are timed however long they are, unless the caller says otherwise.
pub const LEAST_ROUNDS: u32 = 5;

/// How long all rounds may last for there to be more than the least.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a round lasts at least: a thousand times what reading the clock and being interrupted once cost.
const ROUND: Duration = Duration::from_millis(10);

/// More passes than a round can need: each takes a nanosecond at least.
const MOST_PASSES: u32 = 1 << 24;

/// How many operations run between two looks at the clock, which are a part of the time: 25 ns for a thousand times
/// that.
const STRETCH: usize = 1 << 13;

/// How many where packets are huge, and each may take the system milliseconds.
const HUGE_STRETCH: usize = 1 << 4;

/// A packet that is larger than any of a network.
const HUGE: u32 = 1 << 17;

/// How often progress is reported.
const TICK: Duration = Duration::from_millis(50);

/// Replays a plan against this allocator and against malloc.
///
/// First a pass that writes every byte of every packet and checks it when the packet is freed, and the allocator's
/// self-check after it; then `rounds` rounds for each, one after the other in turn, in which packets are not touched.
/// A plan that is over sooner is repeated until a round lasts 10 milliseconds. Without a number there are
/// [`DEFAULT_ROUNDS`], or as many as 10 seconds allow but [`LEAST_ROUNDS`] in any case.
///
/// # Errors
/// [`Error::Option`] for no rounds, [`Error::OutOfMemory`], [`Error::Corrupted`], [`Error::Integrity`] and
/// [`Error::Interrupted`]; nothing stays allocated.
pub fn replay(plan: &Plan, rounds: Option<u32>, progress: &mut Progress<'_>) -> Result<Report, Error> {
    if rounds == Some(0) {
        return Err(Error::Option { name: "rounds", allowed: "at least 1" });
    }
    let held_bytes = verify(&mut Allocator::new(), &plan.stream, progress)?;
    let mut ours = Blocks::new(Allocator::new(), plan.stream.slots)?;
    let mut malloc = Blocks::new(Malloc, plan.stream.slots)?;
    let mut bare_loop = Blocks::new(BareLoop, plan.stream.slots)?;
    let mut tick = || report_progress(progress, Phase::Timing, 0, 0);
    let passes = passes_per_round(&mut ours, &plan.stream, &mut tick)?;
    // A round off the record: each has its memory by the time that counts, and the length of a round is known.
    let round = ours.time(&plan.stream, passes, &mut tick)?
        + malloc.time(&plan.stream, passes, &mut tick)?
        + bare_loop.time(&plan.stream, passes, &mut tick)?;
    let rounds = rounds.unwrap_or_else(|| {
        let fitting = PATIENCE.as_nanos() / round.as_nanos().max(1);
        u32::try_from(fitting).unwrap_or(u32::MAX).clamp(LEAST_ROUNDS, DEFAULT_ROUNDS)
    });

    let (mut our_times, mut malloc_times, mut loop_times) = (Vec::new(), Vec::new(), Vec::new());
    let packets = plan.packets as f64 * f64::from(passes);
    for round in 0..rounds {
        let mut tick = || report_progress(progress, Phase::Timing, round as usize, rounds as usize);
        our_times.push(ours.time(&plan.stream, passes, &mut tick)?.as_secs_f64() * 1e9 / packets);
        malloc_times.push(malloc.time(&plan.stream, passes, &mut tick)?.as_secs_f64() * 1e9 / packets);
        loop_times.push(bare_loop.time(&plan.stream, passes, &mut tick)?.as_secs_f64() * 1e9 / packets);
    }
    report_progress(progress, Phase::Timing, rounds as usize, rounds as usize)?;
    Ok(Report {
        rounds,
        passes,
        speedup: Spread::of(core::iter::zip(&malloc_times, &our_times).map(|(malloc, ours)| malloc / ours).collect()),
        ours: Spread::of(our_times),
        malloc: Spread::of(malloc_times),
        bare_loop: Spread::of(loop_times),
        held_bytes,
        live_bytes: plan.peak_bytes,
    })
}

/// Called now and then, off the clock; an error ends the run.
type Tick<'a> = dyn FnMut() -> Result<(), Error> + 'a;

/// How often the stream must run for a round to last long enough; runs it to find out.
fn passes_per_round<S: Subject>(blocks: &mut Blocks<S>, stream: &Stream, tick: &mut Tick<'_>) -> Result<u32, Error> {
    let mut passes = 1;
    while blocks.time(stream, passes, tick)? < ROUND && passes < MOST_PASSES {
        passes *= 2;
    }
    Ok(passes)
}

/// Blocks in their slots; all are freed on drop.
struct Blocks<S: Subject> {
    subject: S,
    /// Each block came from the subject and is live.
    slots: Vec<Option<NonNull<u8>>>,
}

impl<S: Subject> Blocks<S> {
    fn new(subject: S, slots: usize) -> Result<Self, Error> {
        Ok(Self { subject, slots: filled(None, slots, "the packets to time")? })
    }

    /// Runs the whole stream as often as told and returns how long that took, ticks excluded.
    fn time(&mut self, stream: &Stream, passes: u32, tick: &mut Tick<'_>) -> Result<Duration, Error> {
        let stretch = if stream.ops.iter().any(|op| op.size > HUGE) { HUGE_STRETCH } else { STRETCH };
        let mut elapsed = Duration::ZERO;
        tick()?;
        let mut start = Instant::now();
        for ops in (0..passes).flat_map(|_| stream.ops.chunks(stretch)) {
            self.run(ops)?;
            let now = start.elapsed();
            if now > TICK {
                elapsed += now;
                tick()?;
                start = Instant::now();
            }
        }
        Ok(elapsed + start.elapsed())
    }

    /// One body of machine code per subject, not merged with its callers.
    #[inline(never)]
    fn run(&mut self, ops: &[Op]) -> Result<(), Error> {
        for op in ops {
            let slot = &mut self.slots[op.slot as usize];
            // An allocation into a slot in use would lose the block; a plan has none, and a free there costs nothing.
            if op.is_free() {
                if let Some(block) = slot.take() {
                    // SAFETY: it is live and leaves its slot, so it is freed once.
                    unsafe { self.subject.free(block) };
                }
            } else {
                let block =
                    self.subject.allocate(op.size).ok_or(Error::OutOfMemory { subject: S::NAME, size: op.size })?;
                *slot = Some(block);
            }
        }
        Ok(())
    }
}

impl<S: Subject> Drop for Blocks<S> {
    fn drop(&mut self) {
        for block in self.slots.drain(..).flatten() {
            // SAFETY: it is live and leaves its slot, so it is freed once.
            unsafe { self.subject.free(block) };
        }
    }
}
