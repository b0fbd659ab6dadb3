//! Every pattern of traffic over one allocator, for as long as wanted, with a new depth every few moments.
//!
//! `soak [SECONDS [FOLDER]]` (3 and `target/soak`) writes `FOLDER/soak.csv` and `FOLDER/soak.svg`: the memory over
//! time. It verifies what it wrote into each block, runs the self-check every second, and after each phase expects the
//! memory back at the floor. Any of these that fails ends it with a panic that says so.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use pktalloc::Allocator;
use pktalloc::workload::{Cycle, Op, Pattern, Queue, Sizes, SplitMix64};

/// Between two self-checks, and two points of the plot.
const INTERVAL: Duration = Duration::from_secs(1);
/// Operations between two looks at the clock.
const STRIDE: usize = 4096;
/// The longest phase.
const PHASE: Duration = Duration::from_secs(5);
/// Depths are powers of two and what lies between, from 16 to this one.
const LARGEST_DEPTH_SHIFT: u64 = 16;
/// What an allocator of the default configuration keeps when it is trimmed: two windows, and the bookkeeping of the
/// regions that they lie in, at most a byte a unit and a few KiB each.
const FLOOR: u64 = 2 * (131_072 + (64 << 10) + 4096);

/// The memory at one moment.
struct Sample {
    seconds: f64,
    live: u64,
    held: u64,
    resident: u64,
}

/// A live block: where it is, its size, and what its first and last byte are.
#[derive(Clone, Copy)]
struct Slot {
    block: NonNull<u8>,
    size: usize,
    tag: u8,
}

struct Soak {
    allocator: Allocator,
    start: Instant,
    checked: Instant,
    slots: Vec<Option<Slot>>,
    samples: Vec<Sample>,
    operations: u64,
    checks: u64,
}

impl Soak {
    fn new() -> Self {
        let start = Instant::now();
        Self {
            allocator: Allocator::new(),
            start,
            checked: start,
            slots: Vec::new(),
            samples: Vec::new(),
            operations: 0,
            checks: 0,
        }
    }

    fn apply(&mut self, op: Op) {
        self.operations += 1;
        let tag = self.operations as u8;
        let slot = &mut self.slots[op.slot as usize];
        match slot.take() {
            Some(Slot { block, size, tag }) if op.is_free() => {
                // SAFETY: the block is live and not used afterwards.
                unsafe {
                    let ends = (block.read(), block.add(size - 1).read());
                    assert_eq!(ends, (tag, tag), "a byte of the {size} at {block:p} was lost");
                    self.allocator.free(block);
                }
            }
            None if !op.is_free() => {
                let size = op.size as usize;
                let block = self.allocator.allocate(size).expect("memory").cast::<u8>();
                // SAFETY: the block was just allocated with this size.
                unsafe {
                    block.write(tag);
                    block.add(size - 1).write(tag);
                }
                *slot = Some(Slot { block, size, tag });
            }
            _ => panic!("{op:?} does not fit its slot"),
        }
    }

    /// The self-check and a point of the plot, when they are due.
    fn look(&mut self) {
        let now = Instant::now();
        if now - self.checked >= INTERVAL {
            self.checked = now;
            self.checks += 1;
            self.allocator.integrity_check().expect("the self-check");
            self.samples.push(Sample {
                seconds: (now - self.start).as_secs_f64(),
                live: self.allocator.used_bytes(),
                held: self.allocator.allocated_bytes(),
                resident: resident_bytes(),
            });
        }
    }

    /// Runs a queue until `end`, drains it, and expects its memory back.
    fn phase(&mut self, cycle: &Cycle, end: Instant) {
        self.slots.clear();
        self.slots.resize(cycle.slots, None);
        for &op in &cycle.fill {
            self.apply(op);
        }
        'steady: loop {
            for ops in cycle.steady.chunks(STRIDE) {
                for &op in ops {
                    self.apply(op);
                }
                self.look();
                if Instant::now() >= end {
                    break 'steady;
                }
            }
        }
        for slot in 0..self.slots.len() {
            if self.slots[slot].is_some() {
                self.apply(Op::free(slot as u32));
            }
        }
        assert_eq!(self.allocator.used_bytes(), 0);
        self.allocator.trim();
        let held = self.allocator.allocated_bytes();
        assert!(held <= FLOOR, "{held} bytes are held after everything was freed, more than {FLOOR}");
    }
}

/// The bytes of this process that are in memory; 0 where the system does not say.
fn resident_bytes() -> u64 {
    const PAGE_BYTES: u64 = 4096;
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    pages.and_then(|line| line.split(' ').nth(1)?.parse::<u64>().ok()).unwrap_or(0) * PAGE_BYTES
}

fn csv(samples: &[Sample]) -> String {
    let mut text = String::from("seconds,live_bytes,allocated_bytes,resident_bytes\n");
    for Sample { seconds, live, held, resident } in samples {
        let _ = writeln!(text, "{seconds:.1},{live},{held},{resident}");
    }
    text
}

/// The memory over time: what is live, what is held, and what the process has in memory.
fn svg(samples: &[Sample]) -> String {
    const WIDTH: f64 = 900.0;
    const HEIGHT: f64 = 300.0;
    const MARGIN: f64 = 50.0;
    const MIB: f64 = (1 << 20) as f64;
    let seconds = samples.last().map_or(1.0, |last| last.seconds);
    let most = samples.iter().map(|sample| sample.held.max(sample.resident)).max().unwrap_or(1) as f64;
    let line = |of: fn(&Sample) -> u64, colour: &str, name: &str, row: f64| {
        let points: String = samples.iter().fold(String::new(), |mut points, sample| {
            let x = MARGIN + sample.seconds / seconds * WIDTH;
            let y = MARGIN + HEIGHT - of(sample) as f64 / most * HEIGHT;
            let _ = write!(points, "{x:.1},{y:.1} ");
            points
        });
        format!(
            "<polyline fill='none' stroke='{colour}' points='{points}'/>\
             <text x='{MARGIN}' y='{y}' fill='{colour}'>{name}</text>\n",
            y = MARGIN + HEIGHT + 18.0 * row,
        )
    };
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {} {}' font-family='sans-serif' font-size='13'>\n\
         <text x='{MARGIN}' y='20'>memory over {seconds:.0} s; the line above is at {:.1} MiB</text>\n\
         <path d='M{MARGIN} {MARGIN}h{WIDTH}M{MARGIN} {}h{WIDTH}' stroke='#999'/>\n{}{}{}</svg>\n",
        WIDTH + 2.0 * MARGIN,
        HEIGHT + 2.0 * MARGIN + 30.0,
        most / MIB,
        MARGIN + HEIGHT,
        line(|sample| sample.resident, "#888888", "resident", 3.0),
        line(|sample| sample.held, "#d55e00", "taken from the system", 1.0),
        line(|sample| sample.live, "#0072b2", "live", 2.0),
    )
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let seconds = arguments.next().unwrap_or_else(|| "3".to_owned());
    let Ok(seconds) = seconds.parse::<u64>() else {
        eprintln!("soak: SECONDS is {seconds:?}, must be a whole number");
        return ExitCode::FAILURE;
    };
    let folder = PathBuf::from(arguments.next().unwrap_or_else(|| "target/soak".to_owned()));
    let mut random = SplitMix64::new(seconds);
    let mut soak = Soak::new();
    let end = soak.start + Duration::from_secs(seconds);
    let mut phases = 0;
    while Instant::now() < end {
        let shift = 4 + random.below(LARGEST_DEPTH_SHIFT - 3);
        let depth = (1 << shift) + random.below(1 << shift);
        let queue = Queue {
            sizes: Sizes::SYNTHETIC[random.below(Sizes::SYNTHETIC.len() as u64) as usize].clone(),
            // Each pattern has its turn.
            pattern: Pattern::ALL[phases % Pattern::ALL.len()],
            depth: depth as u32 & !1,
            seed: random.next(),
        };
        let until = end.min(Instant::now() + PHASE);
        soak.phase(&queue.cycle(), until);
        phases += 1;
    }
    std::fs::create_dir_all(&folder).expect("a folder to write to");
    std::fs::write(folder.join("soak.csv"), csv(&soak.samples)).expect("a file to write to");
    std::fs::write(folder.join("soak.svg"), svg(&soak.samples)).expect("a file to write to");
    println!(
        "soak: {} s, {phases} phases, {:.1} million operations, {} self-checks, at most {:.1} MiB; back at the floor of {} KiB \
         after each phase; {}",
        seconds,
        soak.operations as f64 / 1e6,
        soak.checks,
        soak.allocator.stats().peak_allocated_bytes as f64 / f64::from(1 << 20),
        FLOOR >> 10,
        folder.join("soak.svg").display(),
    );
    ExitCode::SUCCESS
}
