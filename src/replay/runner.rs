//! Running a program on one allocator: a first pass that looks at everything, then rounds that are timed.

use core::ptr::NonNull;
use core::time::Duration;
use std::time::Instant;

use crate::workload::Op;
use crate::{Config, Occupancy, WindowState};

use super::calls::{Call, CallKind};
use super::clock::{give_back_what_is_free, processor_time, resident_bytes};
use super::error::Error;
use super::memory::{filled, push};
use super::pattern::{FULLY_WRITTEN_BYTES, find_change, write};
use super::program::{Action, Program, Steps};
use super::progress::{PROGRESS_STRIDE, Phase, Progress, report_progress};
use super::subject::{Competitor, Maker, Setup, Subject, maker_of};

/// At how many moments of the first pass memory is looked at.
const MOMENTS: usize = 200;
/// Progress is reported after this many bytes, which take milliseconds to write and check.
const REPORT_BYTES: u64 = 16 << 20;
/// How many steps the longest call is looked for in at a time.
const CALLS_AT_A_TIME: usize = 64;

/// How long a round lasts at least: a thousand times what reading the clock and being interrupted once cost.
const ROUND: Duration = Duration::from_millis(10);
/// More passes than a round can need: each takes a nanosecond at least.
const MOST_PASSES: u32 = 1 << 24;
/// How many operations run between two looks at the clock, which are a part of the time: 25 ns for a thousand times
/// that.
const STRETCH: usize = 1 << 13;
/// How many where packets are huge, and each may take the system milliseconds.
const HUGE_STRETCH: usize = 1 << 4;
/// A block that is larger than any packet of a network.
const HUGE: u32 = 1 << 17;
/// How often progress is reported.
const TICK: Duration = Duration::from_millis(50);

/// Memory at a moment of the first pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// After how many steps of the program.
    pub step: usize,
    /// Bytes of blocks that are live.
    pub live_bytes: u64,
    /// Bytes that the allocator has taken from the system, if it says.
    pub held_bytes: Option<u64>,
    /// By how many bytes the process has grown in memory, where the system says.
    pub resident_bytes: Option<u64>,
}

/// What the first pass found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstPass {
    /// The most bytes that the allocator had taken from the system, if it says.
    pub held_bytes: Option<u64>,
    /// By how many bytes the process had grown in memory at most, where the system says.
    pub resident_bytes: Option<u64>,
    /// The processor time of the longest call about a block.
    pub longest: Duration,
    /// What that call was: `allocate`, `reallocate` or `free`.
    pub longest_call: &'static str,
    /// Evenly spaced moments, and that of the most live bytes.
    pub moments: Vec<Moment>,
}

/// A program and an allocator to run it on.
pub struct Runner<'p> {
    program: &'p Program,
    name: String,
    maker: Maker,
    /// Bytes of a unit of the windows to be shown.
    unit: usize,
    /// By the numbers that the program uses; the packets of a trace have one allocator, which lasts.
    subjects: Vec<Option<Box<dyn Subject>>>,
    slots: Vec<Slot>,
    stretch: usize,
}

/// What a slot holds: a block that is live, and the most bytes it was asked for.
#[derive(Clone, Copy)]
struct Slot {
    block: Option<NonNull<u8>>,
    asked: u32,
    allocator: u32,
}

const EMPTY: Slot = Slot { block: None, asked: 0, allocator: 0 };

impl<'p> Runner<'p> {
    /// Makes an allocator ready to run a program.
    ///
    /// # Errors
    /// [`Error::Config`] and [`Error::Option`] for settings that make no sense, [`Error::Library`],
    /// [`Error::NoMemory`].
    pub fn new(program: &'p Program, competitor: &Competitor) -> Result<Self, Error> {
        let mut runner = Self::with_maker(program, competitor.name(), competitor.maker()?)?;
        if let Competitor::Pktalloc(setup) = competitor {
            runner.unit = setup.alignment;
        }
        Ok(runner)
    }

    /// The same for this crate's allocator in any shape.
    ///
    /// # Errors
    /// [`Error::Config`] for settings that make no sense, [`Error::NoMemory`].
    pub fn with_config<const UNIT: usize, const WINDOW_UNITS: usize>(
        program: &'p Program,
        config: Config<UNIT, WINDOW_UNITS>,
    ) -> Result<Self, Error> {
        let make = maker_of(config);
        make().map(drop)?;
        let mut runner = Self::with_maker(program, "pktalloc".to_owned(), Box::new(make))?;
        runner.unit = UNIT;
        Ok(runner)
    }

    fn with_maker(program: &'p Program, name: String, maker: Maker) -> Result<Self, Error> {
        let huge = (0..program.len()).any(|step| match program.action(step).1 {
            Action::Allocate { size, .. } | Action::Resize { size, .. } => size > HUGE,
            _ => false,
        });
        let mut subjects = Vec::new();
        for _ in 0..program.allocators() {
            push(&mut subjects, None, "the allocators of the trace")?;
        }
        let mut runner = Self {
            program,
            name,
            maker,
            unit: Setup::default().alignment,
            subjects,
            slots: filled(EMPTY, program.slots(), "the blocks of the replay")?,
            stretch: if huge { HUGE_STRETCH } else { STRETCH },
        };
        runner.begin()?;
        Ok(runner)
    }

    /// Frees everything, and begins again with a new allocator.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn begin(&mut self) -> Result<(), Error> {
        self.clear();
        if let Steps::Packets(_) = self.program.steps {
            self.subjects[0] = Some((self.maker)()?);
        }
        Ok(())
    }

    fn clear(&mut self) {
        for slot in &mut self.slots {
            if let (Some(block), Some(subject)) = (slot.block.take(), &mut self.subjects[slot.allocator as usize]) {
                // SAFETY: it is live and leaves its slot, so it is freed once.
                unsafe { subject.free(block) };
            }
        }
        self.subjects.iter_mut().for_each(|subject| *subject = None);
    }

    fn out_of_memory(&self, size: u32) -> Error {
        Error::OutOfMemory { subject: self.name.clone(), size }
    }

    /// Does one step; the block that a step is about, if it has one afterwards.
    fn step(&mut self, allocator: usize, action: Action) -> Result<(), Error> {
        match action {
            Action::New => self.subjects[allocator] = Some((self.maker)()?),
            Action::Drop => self.subjects[allocator] = None,
            Action::Allocate { slot, size } => {
                let subject = self.subjects[allocator].as_mut();
                let block = subject.and_then(|subject| subject.allocate(size));
                let block = block.ok_or_else(|| self.out_of_memory(size))?;
                self.slots[slot] = Slot { block: Some(block), asked: size, allocator: number(allocator) };
            }
            Action::Resize { slot, size, copy } => {
                let Slot { block, asked, .. } = self.slots[slot];
                let subject = self.subjects[allocator].as_mut();
                let resized = block.zip(subject).and_then(|(block, subject)| {
                    // SAFETY: the block is live, and its slot holds what takes its place.
                    unsafe { subject.resize(block, asked, size, copy) }
                });
                let block = resized.ok_or_else(|| self.out_of_memory(size))?;
                self.slots[slot] = Slot { block: Some(block), asked: asked.max(size), allocator: number(allocator) };
            }
            Action::Free { slot } | Action::Release { slot } => {
                if let (Some(block), Some(subject)) = (self.slots[slot].block.take(), &mut self.subjects[allocator])
                    && (matches!(action, Action::Free { .. }) || !subject.frees_on_drop())
                {
                    // SAFETY: it is live and left its slot, so it is freed once.
                    unsafe { subject.free(block) };
                }
            }
        }
        Ok(())
    }

    /// Runs the program once over all bytes: every block is filled with a pattern of its own and checked when it is
    /// resized or freed, memory is looked at between the calls, and each call is timed. The allocator's self-check
    /// comes last. To compare memory, make this the first thing that a process does.
    ///
    /// Of blocks over 64 KiB the first and the last 32 KiB are written.
    ///
    /// # Errors
    /// [`Error::Corrupted`] if a block's bytes changed while it was held; [`Error::Integrity`],
    /// [`Error::OutOfMemory`], [`Error::NoMemory`], [`Error::Interrupted`].
    pub fn first_pass(&mut self, progress: &mut Progress<'_>) -> Result<FirstPass, Error> {
        self.begin()?;
        let program = self.program;
        let mut watcher = Watcher {
            written: filled((0, 0), program.slots(), "the blocks of the replay")?,
            moments: Vec::new(),
            baseline: 0,
            held_bytes: None,
            resident_bytes: None,
            live_bytes: 0,
            packets: 0,
            bytes: 0,
        };
        watcher.moments.reserve_exact(MOMENTS + 2);
        let (mut longest, mut longest_call) = (Duration::ZERO, "none");
        give_back_what_is_free();
        watcher.baseline = resident_bytes().unwrap_or(0);
        let stride = program.len().div_ceil(MOMENTS).max(1);
        let mut next_report = 0;
        for first in (0..program.len()).step_by(CALLS_AT_A_TIME) {
            if first >= next_report || watcher.bytes > REPORT_BYTES {
                report_progress(progress, Phase::Verifying, first, program.len())?;
                next_report = first + PROGRESS_STRIDE;
                watcher.bytes = 0;
            }
            let start = processor_time();
            let (mut longest_here, mut call_here) = (Duration::ZERO, "none");
            for step in first..program.len().min(first + CALLS_AT_A_TIME) {
                let (allocator, action) = program.action(step);
                watcher.before(self, action)?;
                let before = Instant::now();
                self.step(allocator, action)?;
                let elapsed = before.elapsed();
                if let Some(call) = action.block_call()
                    && elapsed > longest_here
                {
                    (longest_here, call_here) = (elapsed, call);
                }
                watcher.after(self, action)?;
                if (step + 1).is_multiple_of(stride) || step + 1 == program.peak_step {
                    watcher.look(self, step + 1)?;
                }
                watcher.look_at_held(self, allocator);
            }
            // A call in which the thread was not running took less than the clock says.
            if longest_here > longest {
                let here = longest_here.min(processor_time() - start);
                if here > longest {
                    (longest, longest_call) = (here, call_here);
                }
            }
        }
        report_progress(progress, Phase::Verifying, program.len(), program.len())?;
        for subject in self.subjects.iter().flatten() {
            let subject_name = || self.name.clone();
            subject.self_check().map_err(|finding| Error::Integrity { subject: subject_name(), finding })?;
        }
        Ok(FirstPass {
            held_bytes: watcher.held_bytes,
            resident_bytes: watcher.resident_bytes,
            longest,
            longest_call,
            moments: watcher.moments,
        })
    }

    /// How often the program must run for a round to last 10 milliseconds; runs it to find out.
    ///
    /// # Errors
    /// As for [`round`](Self::round).
    pub fn passes_per_round(&mut self, tick: &mut Tick<'_>) -> Result<u32, Error> {
        let mut passes = 1;
        // The shorter of two: the system may have held one of them up.
        while passes < MOST_PASSES && self.round(passes, tick)?.min(self.round(passes, tick)?) < ROUND {
            passes *= 2;
        }
        Ok(passes)
    }

    /// Runs the program as often as told and returns how long that took. Blocks are not touched.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], and what `tick` returns, which is called 20 times a second, off the clock.
    pub fn round(&mut self, passes: u32, tick: &mut Tick<'_>) -> Result<Duration, Error> {
        let mut elapsed = Duration::ZERO;
        tick()?;
        let mut start = Instant::now();
        let (length, stretch) = (self.program.len(), self.stretch);
        for first in (0..passes).flat_map(|_| (0..length).step_by(stretch)) {
            self.run(first..length.min(first + stretch))?;
            let now = start.elapsed();
            if now > TICK {
                elapsed += now;
                tick()?;
                start = Instant::now();
            }
        }
        Ok(elapsed + start.elapsed())
    }

    /// One body of machine code for all allocators, not merged with its callers.
    #[inline(never)]
    fn run(&mut self, steps: core::ops::Range<usize>) -> Result<(), Error> {
        match &self.program.steps {
            Steps::Packets(stream) => self.run_packets(&stream.ops[steps]),
            Steps::Calls { calls, .. } => self.run_calls(&calls[steps]),
        }
    }

    fn run_packets(&mut self, ops: &[Op]) -> Result<(), Error> {
        let Some(subject) = &mut self.subjects[0] else { return Ok(()) };
        for op in ops {
            let slot = &mut self.slots[op.slot as usize].block;
            // An allocation into a slot in use would lose the block; a plan has none, and a free there costs nothing.
            if op.is_free() {
                if let Some(block) = slot.take() {
                    // SAFETY: it is live and leaves its slot, so it is freed once.
                    unsafe { subject.free(block) };
                }
            } else if let Some(block) = subject.allocate(op.size) {
                *slot = Some(block);
            } else {
                return Err(self.out_of_memory(op.size));
            }
        }
        Ok(())
    }

    fn run_calls(&mut self, calls: &[Call]) -> Result<(), Error> {
        for call in calls {
            let allocator = usize::from(call.allocator);
            let action = match call.kind {
                CallKind::New => {
                    self.subjects[allocator] = Some((self.maker)()?);
                    continue;
                }
                CallKind::Drop => {
                    self.subjects[allocator] = None;
                    continue;
                }
                CallKind::Allocate => Action::Allocate { slot: call.slot as usize, size: call.size },
                CallKind::Free => Action::Free { slot: call.slot as usize },
                CallKind::Release => Action::Release { slot: call.slot as usize },
                CallKind::ReallocateCopy => Action::Resize { slot: call.slot as usize, size: call.size, copy: true },
                CallKind::ReallocateDiscard => {
                    Action::Resize { slot: call.slot as usize, size: call.size, copy: false }
                }
            };
            self.step(allocator, action)?;
        }
        Ok(())
    }

    /// Runs the program up to the first moment of the most live bytes, and looks at the windows of all allocators.
    /// Blocks that lie in no window are shown as windows with one block.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], and what `tick` returns.
    pub fn windows_at_peak(&mut self, tick: &mut Tick<'_>) -> Result<Vec<Occupancy>, Error> {
        self.begin()?;
        for step in 0..self.program.peak_step {
            if step.is_multiple_of(STRETCH) {
                tick()?;
            }
            let (allocator, action) = self.program.action(step);
            self.step(allocator, action)?;
        }
        let mut windows: Vec<Occupancy> =
            self.subjects.iter().flatten().flat_map(|subject| subject.windows()).collect();
        windows.sort_by_key(|window: &Occupancy| window.address);
        let (in_windows, unit) = (windows.len(), self.unit);
        for slot in &self.slots {
            let Some(block) = slot.block else { continue };
            let address = block.addr().get();
            let before = windows[..in_windows].partition_point(|window| window.address <= address);
            if windows[..before].last().is_some_and(|window| address < window.address + window.units * unit) {
                continue;
            }
            let units = (slot.asked as usize).div_ceil(unit);
            windows.push(Occupancy {
                address,
                units,
                live_units: units,
                bookkeeping: 0..0,
                blocks: core::iter::once(0..units).collect(),
                state: WindowState::Full,
            });
        }
        windows.sort_by_key(|window| window.address);
        self.begin()?;
        Ok(windows)
    }
}

impl Drop for Runner<'_> {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Called now and then, off the clock; an error ends the run.
pub type Tick<'a> = dyn FnMut() -> Result<(), Error> + 'a;

fn number(allocator: usize) -> u32 {
    u32::try_from(allocator).expect("at most 65536 allocators")
}

impl Action {
    /// The name of a call about one block. To make and to drop an allocator are calls that only some allocators have,
    /// and take time for all that it holds.
    const fn block_call(self) -> Option<&'static str> {
        match self {
            Self::Allocate { .. } => Some("allocate"),
            Self::Resize { .. } => Some("reallocate"),
            Self::Free { .. } | Self::Release { .. } => Some("free"),
            Self::New | Self::Drop => None,
        }
    }
}

/// What the first pass sees between the calls.
struct Watcher {
    /// What the block of each slot was filled with: its size, and the packet by number, counted from 1.
    written: Vec<(u32, u64)>,
    moments: Vec<Moment>,
    /// Resident bytes before the first call.
    baseline: u64,
    held_bytes: Option<u64>,
    resident_bytes: Option<u64>,
    live_bytes: u64,
    packets: u64,
    /// Bytes written since progress was reported.
    bytes: u64,
}

impl Watcher {
    fn before(&mut self, runner: &Runner<'_>, action: Action) -> Result<(), Error> {
        match action {
            Action::Free { slot } | Action::Release { slot } => {
                let (size, packet) = self.written[slot];
                self.check(runner, slot, size)?;
                self.written[slot] = (0, packet);
                self.live_bytes -= u64::from(size);
            }
            Action::Resize { slot, .. } => self.check(runner, slot, self.written[slot].0)?,
            Action::Allocate { .. } | Action::New | Action::Drop => {}
        }
        Ok(())
    }

    fn after(&mut self, runner: &Runner<'_>, action: Action) -> Result<(), Error> {
        match action {
            Action::Allocate { slot, size } => self.fill(runner, slot, size),
            Action::Resize { slot, size, copy } => {
                let old = self.written[slot].0;
                if copy {
                    self.check(runner, slot, old.min(size))?;
                }
                self.live_bytes -= u64::from(old);
                self.fill(runner, slot, size);
            }
            Action::Free { .. } | Action::Release { .. } | Action::New | Action::Drop => {}
        }
        Ok(())
    }

    fn fill(&mut self, runner: &Runner<'_>, slot: usize, size: u32) {
        self.packets += 1;
        self.live_bytes += u64::from(size);
        self.bytes += u64::from(size.min(FULLY_WRITTEN_BYTES));
        self.written[slot] = (size, self.packets);
        if let Some(block) = runner.slots[slot].block {
            // SAFETY: the block has at least `size` bytes, and nothing refers to them.
            unsafe { write(block, size, self.packets) };
        }
    }

    /// Checks the first bytes of what was written.
    fn check(&self, runner: &Runner<'_>, slot: usize, keep: u32) -> Result<(), Error> {
        let (size, packet) = self.written[slot];
        let Some(block) = runner.slots[slot].block else { return Ok(()) };
        // SAFETY: the block was filled like this, or its first bytes were copied from one that was.
        match unsafe { find_change(block, size, packet, keep) } {
            Some(byte) => Err(Error::Corrupted { subject: runner.name.clone(), packet, byte }),
            None => Ok(()),
        }
    }

    /// Held bytes are looked at after every call: a peak is short.
    fn look_at_held(&mut self, runner: &Runner<'_>, allocator: usize) {
        let held = if runner.subjects.len() == 1 {
            runner.subjects[allocator].as_ref().and_then(|subject| subject.held_bytes())
        } else {
            runner.subjects.iter().flatten().filter_map(|subject| subject.held_bytes()).reduce(|a, b| a + b)
        };
        self.held_bytes = self.held_bytes.max(held);
    }

    fn look(&mut self, runner: &Runner<'_>, step: usize) -> Result<(), Error> {
        let held_bytes = runner.subjects.iter().flatten().filter_map(|subject| subject.held_bytes());
        let moment = Moment {
            step,
            live_bytes: self.live_bytes,
            held_bytes: held_bytes.reduce(|a, b| a + b),
            resident_bytes: resident_bytes().map(|bytes| bytes.saturating_sub(self.baseline)),
        };
        self.resident_bytes = self.resident_bytes.max(moment.resident_bytes);
        push(&mut self.moments, moment, "the moments of the replay")
    }
}

#[cfg(test)]
mod tests {
    use core::ops::ControlFlow;

    use super::*;
    use crate::workload::Stream;

    fn proceed(_: Phase, _: u64, _: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// Hands out blocks of one arena at a fixed distance, so that larger ones overlap.
    struct Overlapping {
        arena: Vec<u8>,
        next: usize,
    }

    // SAFETY: the blocks lie within the arena.
    unsafe impl Subject for Overlapping {
        fn allocate(&mut self, size: u32) -> Option<NonNull<u8>> {
            assert!(self.next + size as usize <= self.arena.len(), "the arena is too small for the test");
            let block = NonNull::from(&mut self.arena[self.next..]);
            self.next += 100;
            Some(block.cast())
        }

        unsafe fn free(&mut self, _: NonNull<u8>) {
            self.next = 0;
        }

        unsafe fn resize(&mut self, block: NonNull<u8>, _: u32, _: u32, _: bool) -> Option<NonNull<u8>> {
            Some(block)
        }

        fn held_bytes(&self) -> Option<u64> {
            Some(self.next as u64)
        }
    }

    fn program(ops: Vec<Op>, slots: usize) -> Program {
        Program { steps: Steps::Packets(Stream { ops, slots }), units: 3, peak_step: 3, peak_bytes: 0 }
    }

    fn three(sizes: [u32; 3]) -> Program {
        let fill = sizes.iter().zip(0..).map(|(&size, slot)| Op::allocate(slot, size));
        program(fill.chain((0..3).map(Op::free)).collect(), 3)
    }

    fn first_pass(program: &Program) -> Result<FirstPass, Error> {
        let mut runner = Runner::new(program, &Competitor::Malloc).unwrap();
        runner.maker = Box::new(|| Ok(Box::new(Overlapping { arena: vec![0; 1000], next: 0 })));
        runner.first_pass(&mut proceed)
    }

    #[test]
    fn an_overlap_is_found_at_its_first_byte() {
        assert_eq!(first_pass(&three([100, 99, 7])).unwrap().held_bytes, Some(300));
        let error = first_pass(&three([100, 103, 7])).unwrap_err();
        assert!(matches!(error, Error::Corrupted { packet: 2, byte: 100, .. }), "{error}");
    }

    #[test]
    fn an_interruption_frees_what_is_held() {
        let open = program((0..300_000).map(|slot| Op::allocate(slot, 10)).collect(), 300_000);
        let mut runner = Runner::new(&open, &Competitor::Pktalloc(Setup::default())).unwrap();
        let mut stop = |_, done, _| if done == 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
        assert!(matches!(runner.first_pass(&mut stop), Err(Error::Interrupted)));
        runner.clear();
        assert!(runner.slots.iter().all(|slot| slot.block.is_none()));
    }

    #[test]
    fn every_shape_runs_and_others_are_refused() {
        let program = three([60, 1500, 9000]);
        let setup = |alignment, window_bytes| Setup { alignment, window_bytes, ..Setup::default() };
        let run = |setup| -> Result<FirstPass, Error> {
            let mut runner = Runner::new(&program, &Competitor::Pktalloc(setup))?;
            let found = runner.first_pass(&mut proceed)?;
            runner.begin()?;
            runner.round(2, &mut || Ok(()))?;
            Ok(found)
        };
        for alignment in [16, 32, 64, 128, 256] {
            for shift in 14..=if alignment == 16 { 20 } else { 21 } {
                run(setup(alignment, 1 << shift)).unwrap();
            }
        }
        assert!(run(setup(48, 1 << 17)).unwrap_err().to_string().starts_with("alignment is 48, must be"));
        assert!(run(setup(64, 1 << 23)).unwrap_err().to_string().starts_with("window_bytes is 8388608, must be"));
        let mut runner = Runner::with_config(&program, Config::<256, 64>::default()).unwrap();
        assert!(runner.first_pass(&mut proceed).unwrap().held_bytes.unwrap() >= 10560);
    }

    #[test]
    fn the_first_peak_is_shown() {
        let mut two = program(vec![Op::allocate(0, 1000), Op::allocate(1, 40 << 10), Op::free(0), Op::free(1)], 2);
        two.peak_step = 2;
        let mut runner = Runner::new(&two, &Competitor::Pktalloc(Setup::default())).unwrap();
        let windows = runner.windows_at_peak(&mut || Ok(())).unwrap();
        let mut lengths: Vec<_> =
            windows.iter().flat_map(|window| &window.blocks).map(ExactSizeIterator::len).collect();
        lengths.sort_unstable();
        assert_eq!(lengths, [16, 640], "small and large blocks alike");
    }
}
