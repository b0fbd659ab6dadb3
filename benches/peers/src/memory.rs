//! What a workload holds in memory while it runs, and what it leaves.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;

use pktalloc::workload::{Cycle, Op, Pattern, Pinned, Queue, Sizes, Stream, drained_burst};
use pktalloc::{AllocError, Allocator, Room};

use crate::cell::{Cell, QueueCell, Touch, TraceCell};
use crate::clock::{reset_peak, resident_bytes, resident_peak};
use crate::driver::{Driver, Endless};
use crate::names::{Name, Visitor};
use crate::native::Pktalloc;
use crate::process::ask;
use crate::subject::{Plan, Subject};

/// A window of pktalloc's default size.
pub(crate) const WINDOW_BYTES: usize = 128 << 10;
/// Empty windows that pktalloc keeps unless told otherwise.
const KEPT_WINDOWS: usize = 32;

/// A workload that runs once, written, and is weighed while it runs and afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// Of every 45 packets 12 stay
    Pinned,
    /// Of every 100 packets 1 stays
    OnePercent,
    /// 100,000 packets enter, all leave, memory is trimmed
    DrainedBurst,
    /// A million packets of a relay: one in so many stays for so many packets. Written `relay-50-10000`.
    Relay { one_in: u32, stays: u32 },
    /// A capture in so many copies. Written `capture-pcpp_example-16`.
    Capture { name: String, copies: u32 },
    /// 200,000 packets enter, all but one in so many leave, memory is trimmed. Written `survivors-100`.
    Survivors { one_in: u32 },
}

const RELAY: &str = "relay";
const CAPTURE: &str = "capture";
const SURVIVORS: &str = "survivors";

impl Question {
    /// Those that every subject is asked.
    pub(crate) const ALL: [Self; 3] = [Self::Pinned, Self::OnePercent, Self::DrainedBurst];

    pub(crate) fn relays() -> Vec<Self> {
        let all = [10, 50, 200].into_iter().flat_map(|one_in| [1000, 10_000, 100_000].map(|stays| (one_in, stays)));
        all.map(|(one_in, stays)| Self::Relay { one_in, stays }).collect()
    }

    /// Captures, each in 1, 4, 16 and 64 copies.
    pub(crate) fn captures(cells: &[TraceCell]) -> Vec<Self> {
        cells.iter().map(|cell| Self::Capture { name: cell.name.clone(), copies: cell.copies }).collect()
    }

    pub(crate) fn survivors() -> [Self; 3] {
        [10, 100, 1000].map(|one_in| Self::Survivors { one_in })
    }

    /// The program, as the fill of a cycle that has nothing else.
    fn cycle(&self) -> Result<Cycle, String> {
        let stream = match self {
            Self::Pinned => Pinned::QUARTER.stream(),
            Self::OnePercent => Pinned::ONE_PERCENT.stream(),
            Self::DrainedBurst => drained_burst(&Sizes::Uniform, 100_000, 1),
            &Self::Relay { one_in, stays } => relay(1_000_000, one_in, stays),
            Self::Capture { name, copies } => {
                let trace = TraceCell { name: name.clone(), copies: *copies, touch: Touch::Written };
                Cell::Trace(trace).cycle()?.unroll(1)
            }
            &Self::Survivors { one_in } => {
                let mut stream = drained_burst(&Sizes::Fixed(1400), 200_000, 1);
                stream.ops.retain(|op| !op.is_free() || !op.slot.is_multiple_of(one_in));
                stream
            }
        };
        Ok(Cycle { fill: stream.ops, steady: Vec::new(), slots: stream.slots })
    }

    /// Whether memory is trimmed at the end.
    fn trims(&self) -> bool {
        matches!(self, Self::DrainedBurst | Self::Survivors { .. })
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pinned => f.pad("pinned"),
            Self::OnePercent => f.pad("one-percent"),
            Self::DrainedBurst => f.pad("drained-burst"),
            Self::Relay { one_in, stays } => f.pad(&format!("{RELAY}-{one_in}-{stays}")),
            Self::Capture { name, copies } => f.pad(&format!("{CAPTURE}-{name}-{copies}")),
            Self::Survivors { one_in } => f.pad(&format!("{SURVIVORS}-{one_in}")),
        }
    }
}

impl FromStr for Question {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(question) = Self::ALL.into_iter().find(|question| question.to_string() == text) {
            return Ok(question);
        }
        let numbered = || {
            let (rest, last) = text.rsplit_once('-')?;
            let last: u32 = last.parse().ok().filter(|&number| number > 0)?;
            if rest == SURVIVORS {
                return Some(Self::Survivors { one_in: last });
            }
            let (kind, first) = rest.split_once('-')?;
            match kind {
                RELAY => {
                    let one_in = first.parse().ok().filter(|one_in| (2..=Queue::MAX_ONE_IN).contains(one_in))?;
                    (last >= one_in).then_some(Self::Relay { one_in, stays: last })
                }
                CAPTURE => Some(Self::Capture { name: first.to_owned(), copies: last }),
                _ => None,
            }
        };
        numbered().ok_or_else(|| {
            format!(
                "question {text:?}: use pinned, one-percent, drained-burst, {RELAY}-50-10000, {CAPTURE}-NAME-16 or \
                 {SURVIVORS}-100"
            )
        })
    }
}

/// Packets of 1400 bytes that enter an empty relay: each leaves when the next one has entered, but one in `one_in`
/// stays for `stays` packets more. That begins with nothing, so those that stay lie as far apart as they arrive.
fn relay(packets: u32, one_in: u32, stays: u32) -> Stream {
    let (mut ops, mut slots) = (Vec::new(), 0);
    let (mut free_slots, mut staying, mut passing) = (Vec::new(), VecDeque::new(), None);
    for number in 0..packets {
        let slot = free_slots.pop().unwrap_or_else(|| {
            slots += 1;
            slots - 1
        });
        ops.push(Op::allocate(slot, 1400));
        let mut leave = |slot| {
            ops.push(Op::free(slot));
            free_slots.push(slot);
        };
        passing.take().into_iter().for_each(&mut leave);
        if number.is_multiple_of(one_in) {
            staying.push_back((number, slot));
        } else {
            passing = Some(slot);
        }
        while let Some(&(entered, slot)) = staying.front()
            && entered + stays < number
        {
            leave(slot);
            staying.pop_front();
        }
    }
    Stream { ops, slots: slots as usize }
}

/// What was there during and after a workload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weight {
    /// Bytes asked for and not freed.
    pub(crate) live: u64,
    /// The most of these at any time.
    pub(crate) peak_live: u64,
    /// Bytes asked for in all.
    pub(crate) asked: u64,
    /// Bytes held from the system, if the subject knows.
    pub(crate) allocated: Option<u64>,
    /// The most of these at any time.
    pub(crate) peak_allocated: Option<u64>,
    /// Bytes by which the process grew.
    pub(crate) resident: u64,
    /// The most of these at any time, if the system says so.
    pub(crate) peak_resident: Option<u64>,
}

/// Weighs a subject, in a process of its own. The inner error says why it is absent.
pub(crate) fn weigh(name: Name, question: &Question) -> Result<Result<Weight, String>, String> {
    let text = ask(name, &["weigh", &name.to_string(), &question.to_string()])?;
    let numbers: Vec<Option<u64>> = text.split_ascii_whitespace().map(|number| number.parse().ok()).collect();
    Ok(match numbers[..] {
        [Some(live), Some(peak_live), Some(asked), allocated, peak_allocated, Some(resident), peak_resident] => {
            Ok(Weight { live, peak_live, asked, allocated, peak_allocated, resident, peak_resident })
        }
        _ => Err(text.trim_end().to_owned()),
    })
}

/// The far side: prints the bytes of a [`Weight`], or why the subject is absent.
pub(crate) fn serve(name: Name, question: Question) -> Result<(), String> {
    match name.visit(Weigh(question))? {
        Ok(Weight { live, peak_live, asked, allocated, peak_allocated, resident, peak_resident }) => {
            let known = |bytes: Option<u64>| bytes.map_or("unknown".to_owned(), |bytes| bytes.to_string());
            let (allocated, peak_allocated) = (known(allocated), known(peak_allocated));
            let peak_resident = known(peak_resident);
            println!("{live} {peak_live} {asked} {allocated} {peak_allocated} {resident} {peak_resident}");
        }
        Err(reason) => println!("{reason}"),
    }
    Ok(())
}

struct Weigh(Question);

impl Visitor for Weigh {
    type Output = Result<Result<Weight, String>, String>;

    fn visit<S: Subject>(self) -> Self::Output {
        let cycle = self.0.cycle()?;
        let asked = cycle.fill.iter().map(|op| u64::from(op.size)).sum();
        let live_bytes = live_bytes(&cycle.fill, cycle.slots, 1);
        let peak_live = live_bytes.iter().copied().max().unwrap_or(0);
        let live = live_bytes.last().copied().unwrap_or(0);
        drop(live_bytes);
        let subject = match S::new(&Plan::of(&cycle)) {
            Ok(subject) => subject,
            Err(reason) => return Ok(Err(reason)),
        };
        let driver = Driver::new(subject, cycle.slots, Touch::Written);
        let watches_peak = reset_peak().is_ok();
        let before = resident_bytes()?;
        let mut peak_allocated = None;
        let watch = |subject: &mut S| peak_allocated = peak_allocated.max(subject.allocated_bytes());
        let mut endless = Endless::start_watched(driver, cycle, 1, watch);
        let peak_resident = if watches_peak { Some(resident_peak()?.saturating_sub(before)) } else { None };
        if self.0.trims() {
            endless.subject().trim();
        }
        let resident = resident_bytes()?.saturating_sub(before);
        let allocated = endless.subject().allocated_bytes();
        Ok(Ok(Weight { live, peak_live, asked, allocated, peak_allocated, resident, peak_resident }))
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

/// What an allocator holds and may hold.
pub(crate) struct Held {
    pub(crate) name: String,
    pub(crate) held: u64,
    pub(crate) allowed: u64,
}

/// What is held when 1 GiB came and went, and a steady queue has seen a million packets since; it may be twice what
/// lives, and the empty windows that are kept.
pub(crate) fn after_burst() -> Vec<Held> {
    const BURST: u32 = (1 << 30) / 1408;
    const PACKETS: usize = 1_000_000;
    let fifo = [16, 64, 86, 200, 1024].map(|depth| (Pattern::Fifo, Sizes::Fixed(1400), depth));
    let others = [
        (Pattern::Fifo, Sizes::Imix, 1024),
        (Pattern::Random, Sizes::Uniform, 1024),
        (Pattern::Relay { one_in: 50 }, Sizes::Fixed(1400), 200),
        (Pattern::Interleaved, Sizes::Fixed(1400), 2048),
    ];
    let measure = |(pattern, sizes, depth): (Pattern, Sizes, u32)| {
        let mut fill = drained_burst(&Sizes::Fixed(1400), BURST, 1).ops;
        let queue = Queue { sizes: sizes.clone(), pattern, depth, seed: 1 }.cycle();
        let live = live_bytes(&queue.unroll(1).ops, queue.slots, 1).into_iter().max().unwrap_or(0);
        fill.extend(queue.fill);
        let cycle = Cycle { fill, steady: queue.steady, slots: queue.slots.max(BURST as usize) };
        let subject = <Pktalloc as Subject>::new(&Plan::of(&cycle)).expect("pktalloc is there");
        let mut endless = Endless::start(Driver::new(subject, cycle.slots, Touch::Untouched), cycle);
        endless.advance(2 * PACKETS);
        let held = endless.subject().allocated_bytes().unwrap_or(0);
        let allowed = 2 * live + (KEPT_WINDOWS * WINDOW_BYTES) as u64;
        Held { name: format!("{pattern}/{sizes}/{depth}"), held, allowed }
    };
    fifo.into_iter().chain(others).map(measure).collect()
}

/// Datagrams of 200 bytes that are received in batches of 64 into slots of 2048, the last 16,384 of them held, with
/// units of `UNIT` bytes. The whole units that 200 bytes take are 1.28 times as much with units of 64, 1.12 with units
/// of 32.
pub(crate) fn received_in_batches<const UNIT: usize>() -> Result<Held, String> {
    const BATCH: usize = 64;
    const SLOT: usize = 2048;
    const BYTES: usize = 200;
    const HELD: usize = 16_384;
    let allocator = Allocator::<UNIT>::default();
    let mut queue = VecDeque::with_capacity(HELD + BATCH);
    let mut batch = Vec::with_capacity(BATCH);
    let mut worst = 0;
    for round in 0..4 * HELD / BATCH {
        let receive = |rooms: &mut [Room<'_>]| {
            rooms.iter_mut().for_each(|room| room.append(&[7; BYTES]));
            Ok(rooms.len())
        };
        allocator
            .packets_with(BATCH, SLOT, &mut batch, receive)
            .map_err(|error: AllocError| format!("batches: {error}"))?;
        queue.extend(batch.drain(..));
        queue.drain(..queue.len().saturating_sub(HELD));
        if round >= 2 * HELD / BATCH {
            worst = worst.max(allocator.allocated_bytes());
        }
    }
    Ok(Held { name: format!("64 of 200 bytes, units of {UNIT}"), held: worst, allowed: (HELD * BYTES) as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_bytes_are_counted_after_each_step_and_the_last() {
        let ops = [Op::allocate(0, 10), Op::allocate(1, 5), Op::free(0), Op::allocate(0, 3), Op::free(1)];
        assert_eq!(live_bytes(&ops, 2, 2), [15, 8, 3]);
    }

    #[test]
    fn questions_are_read_as_they_are_written() {
        let captures = [Question::Capture { name: "pcpp_example+lte_verizon_short_down".to_owned(), copies: 16 }];
        let all = Question::ALL.into_iter().chain(Question::relays()).chain(Question::survivors()).chain(captures);
        for question in all {
            assert_eq!(question.to_string().parse(), Ok(question));
        }
        for wrong in ["relay-1-10", "relay-50-49", "relay-50", "survivors-0", "capture-3", "all"] {
            assert!(wrong.parse::<Question>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn one_in_so_many_stays_in_a_relay() {
        let stream = relay(10_000, 50, 1000);
        assert_eq!(stream.check(), Ok(()));
        // 20 that stay, one that comes to stay, and the one that leaves.
        let live = live_bytes(&stream.ops, stream.slots, 1);
        assert_eq!(live.into_iter().max(), Some(22 * 1400));
    }

    #[test]
    fn one_in_so_many_survives() {
        let cycle = Question::Survivors { one_in: 100 }.cycle().unwrap();
        assert_eq!(live_bytes(&cycle.fill, cycle.slots, cycle.fill.len()), [2000 * 1400]);
        assert_eq!(cycle.check(), Ok(()));
    }
}
