//! The longest single call, in ten million of them.
//!
//! A call that is long because of what the allocator does is long every time the same program runs; one that was
//! interrupted is not. So every scene runs several times, each in a process of its own, with the same calls in the same
//! order, and a call counts with the least that it took. What is left is its processor time, page faults and system
//! calls included.
//!
//! Blocks are written (their first byte, which is a page at least of every third one) outside of the timed calls:
//! giving back memory that was never touched costs next to nothing.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use pktalloc::workload::{Cycle, Op, Pattern, Queue, Sizes, drained_burst};
use pktalloc::{Allocator, Config, Packet, SharedAllocator, SharedPacket};

use crate::clock::stay_on_one_core;
use crate::names::{Name, Role, Visitor};
use crate::process::ask;
use crate::subject::{Plan, Subject};
use crate::targets::{Case, Target};

/// What a call may take, in microseconds.
const LIMIT: f64 = 50.0;
/// Calls of a scene.
const CALLS: usize = 10_000_000;
/// The longest calls of a run that are reported.
const REPORTED: usize = 4096;
/// A gigabyte of packets of 1400 bytes.
const GIBIBYTE: u32 = (1 << 30) / 1408;
/// The longest that refusals, and packets that take the place of the oldest, go on.
const PART: Duration = Duration::from_secs(2);
/// Packets that come back from another thread.
const RETURNED: usize = 700_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scene {
    /// 1 GiB comes and goes, then a queue of 1024 packets
    Burst,
    /// 64 MiB come and go, again and again
    Bursts,
    /// A queue of 1024
    Fifo,
    /// 16,384 deep, 1 % of packets live 100 times as long
    Straggler,
    /// Freed in bursts, some held back
    Sack,
    /// Any of 262,144, uniform sizes
    Random,
    /// One in 50 stays for 10,000 packets
    Relay,
    /// 32 queues of 64
    Interleaved,
    /// 1 GiB of pktalloc's packets comes and goes, then a queue of 1024
    Packets,
    /// The same with shared packets
    SharedPackets,
    /// A limit of 1 GiB is reached: packets are refused, then the oldest is dropped for each new one
    Limit,
    /// 700,000 shared packets were dropped by another thread; their owner goes on
    Returned,
}

impl fmt::Display for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.to_possible_value().expect("no scene is hidden").get_name())
    }
}

impl Scene {
    /// Whether only pktalloc can play it.
    fn is_own(self) -> bool {
        matches!(self, Self::Packets | Self::SharedPackets | Self::Limit | Self::Returned)
    }

    fn cycle(self) -> Cycle {
        let queue = |pattern, sizes, depth| Queue { sizes, pattern, depth, seed: 1 }.cycle();
        let fixed = Sizes::Fixed(1400);
        match self {
            Self::Burst | Self::Packets | Self::SharedPackets => {
                let burst = drained_burst(&fixed, GIBIBYTE, 1);
                let queue = queue(Pattern::Fifo, fixed, 1024);
                let fill = burst.ops.into_iter().chain(queue.fill).collect();
                Cycle { fill, steady: queue.steady, slots: burst.slots.max(queue.slots) }
            }
            Self::Bursts => queue(Pattern::Burst, fixed, 48_000),
            Self::Fifo => queue(Pattern::Fifo, fixed, 1024),
            Self::Straggler => queue(Pattern::Straggler, fixed, 16_384),
            Self::Sack => queue(Pattern::Sack, fixed, 16_384),
            Self::Random => queue(Pattern::Random, Sizes::Uniform, 262_144),
            Self::Relay => queue(Pattern::Relay { one_in: 50 }, fixed, 200),
            Self::Interleaved => queue(Pattern::Interleaved, fixed, 2048),
            Self::Limit | Self::Returned => Cycle::default(),
        }
    }
}

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Scenes; all unless named
    #[arg(long, value_delimiter = ',')]
    scenes: Vec<Scene>,
    /// Subjects
    #[arg(long, value_delimiter = ',', default_value = "pktalloc,malloc,jemalloc,mimalloc")]
    subjects: Vec<Name>,
    /// Runs of each scene
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// pktalloc alone, three runs
    #[arg(long)]
    quick: bool,
}

/// The longest calls of one run.
struct Longest {
    calls: usize,
    /// All calls that are not listed took at most this long, in nanoseconds.
    floor: u64,
    /// Which call, and its nanoseconds.
    listed: BTreeMap<usize, u64>,
}

/// Collects the longest calls while they are made.
struct Stopwatch {
    /// The number of the next call.
    next: usize,
    /// Calls that were made.
    made: usize,
    floor: u64,
    seen: Vec<(u64, usize)>,
}

impl Stopwatch {
    const ROOM: usize = 16 * REPORTED;

    fn new() -> Self {
        Self { next: 0, made: 0, floor: 1000, seen: Vec::with_capacity(Self::ROOM) }
    }

    /// Times a call.
    #[inline(always)]
    fn time<T>(&mut self, call: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = call();
        let took = start.elapsed().as_nanos() as u64;
        if took > self.floor {
            self.note(took);
        }
        self.next += 1;
        self.made += 1;
        result
    }

    #[cold]
    fn note(&mut self, took: u64) {
        if self.seen.len() == Self::ROOM {
            self.shorten();
        }
        self.seen.push((took, self.next));
    }

    /// Keeps those that will be reported.
    fn shorten(&mut self) {
        self.seen.sort_unstable_by(|a, b| b.cmp(a));
        if let Some(&(first_left_out, _)) = self.seen.get(REPORTED) {
            self.floor = first_left_out;
        }
        self.seen.truncate(REPORTED);
    }

    /// How many calls, how long those took at most that are not listed, and the longest.
    fn print(mut self) {
        self.shorten();
        let listed: Vec<String> = self.seen.iter().map(|(took, call)| format!("{call}:{took}")).collect();
        println!("{} {} {}", self.made, self.floor, listed.join(" "));
    }
}

fn parse(text: &str) -> Option<Longest> {
    let mut fields = text.split_ascii_whitespace();
    let calls = fields.next()?.parse().ok()?;
    let floor = fields.next()?.parse().ok()?;
    let entry = |field: &str| {
        let (call, took) = field.split_once(':')?;
        Some((call.parse().ok()?, took.parse().ok()?))
    };
    let listed = fields.map(entry).collect::<Option<_>>()?;
    Some(Longest { calls, floor, listed })
}

/// The least that each call took in all runs, with its number, the longest of these first; and the longest call of any
/// run. In nanoseconds.
fn repeated(runs: &[Longest]) -> (Vec<(u64, usize)>, u64) {
    let Some((first, others)) = runs.split_first() else { return (Vec::new(), 0) };
    let in_run = |run: &Longest, call: &usize| run.listed.get(call).copied().unwrap_or(run.floor);
    let least =
        |(call, &took): (&usize, &u64)| (others.iter().map(|run| in_run(run, call)).fold(took, u64::min), *call);
    let mut least: Vec<(u64, usize)> = first.listed.iter().map(least).collect();
    least.sort_unstable_by(|a, b| b.cmp(a));
    let any = runs.iter().flat_map(|run| run.listed.values().copied()).max().unwrap_or(0);
    (least, any)
}

/// One line of the table.
pub(crate) struct Row {
    scene: Scene,
    name: Name,
    calls: usize,
    /// Microseconds.
    longest: f64,
    /// Which call that was, from 0.
    number: usize,
    over: usize,
    any: f64,
}

/// Measures and prints.
pub(crate) fn compare(options: &Options) -> Result<(), String> {
    let runs = if options.quick { options.runs.min(3) } else { options.runs };
    let subjects = if options.quick { &[Name::Pktalloc][..] } else { &options.subjects };
    let scenes = if options.scenes.is_empty() { Scene::value_variants() } else { &options.scenes };
    let rows = measure(scenes, subjects, runs)?;
    print!("{}", table(&rows));
    println!("\n{}", crate::targets::table(&[target(&rows)]));
    Ok(())
}

/// All scenes for pktalloc, for the targets.
pub(crate) fn measure_all(quick: bool) -> Result<Vec<Row>, String> {
    measure(Scene::value_variants(), &[Name::Pktalloc], if quick { 3 } else { 5 })
}

fn measure(scenes: &[Scene], subjects: &[Name], runs: u32) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for &scene in scenes {
        for &name in subjects {
            if scene.is_own() && name != Name::Pktalloc {
                continue;
            }
            let arguments = ["tails-run", &name.to_string(), &scene.to_string(), &CALLS.to_string()];
            let mut seen = Vec::new();
            for _ in 0..runs {
                let answer = ask(name, &arguments)?;
                match parse(&answer) {
                    Some(longest) => seen.push(longest),
                    None => {
                        println!("{name} took no part in {scene}: {}", answer.trim_end());
                        break;
                    }
                }
            }
            let Some(first) = seen.first() else { continue };
            let (least, any) = repeated(&seen);
            let micros = |nanos: u64| nanos as f64 / 1000.0;
            rows.push(Row {
                scene,
                name,
                calls: first.calls,
                longest: least.first().map_or(0.0, |&(took, _)| micros(took)),
                number: least.first().map_or(0, |&(_, call)| call),
                over: least.iter().filter(|&&(took, _)| micros(took) > LIMIT).count(),
                any: micros(any),
            });
        }
    }
    Ok(rows)
}

/// One line for each scene and subject.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<16} {:<14} {:>10} {:>14} {:>10} {:>12} {:>16}\n",
        "longest call", "", "calls", "us, every run", "which", "over 50 us", "us, in any run"
    );
    for Row { scene, name, calls, longest, number, over, any } in rows {
        text.push_str(&format!(
            "{scene:<16} {name:<14} {calls:>10} {longest:>14.1} {number:>10} {over:>12} {any:>16.1}\n"
        ));
    }
    text
}

/// The promise about long calls.
pub(crate) fn target(rows: &[Row]) -> Target {
    let case = |row: &Row| Case {
        name: row.scene.to_string(),
        ratio: row.longest,
        of: format!("microseconds, the longest of {} calls; {} are over {LIMIT}", row.calls, row.over),
    };
    let ours = rows.iter().filter(|row| row.name.role() == Role::Candidate);
    Target::at_most("tails: the longest call, microseconds", LIMIT, ours.map(case).collect())
}

/// The far side: one run.
pub(crate) fn serve(name: Name, scene: Scene, calls: usize) -> Result<(), String> {
    stay_on_one_core()?;
    match scene {
        Scene::Packets => play::<Packets>(scene, calls),
        Scene::SharedPackets => play::<SharedPackets>(scene, calls),
        Scene::Limit => limit(calls),
        Scene::Returned => returned(calls),
        _ => name.visit(Play { scene, calls }),
    }
}

struct Play {
    scene: Scene,
    calls: usize,
}

impl Visitor for Play {
    type Output = Result<(), String>;

    fn visit<S: Subject>(self) -> Self::Output {
        play::<S>(self.scene, self.calls)
    }
}

/// Times every call of a cycle, over and over until there were as many.
fn play<S: Subject>(scene: Scene, calls: usize) -> Result<(), String> {
    let cycle = scene.cycle();
    cycle.check().map_err(|error| error.to_string())?;
    let mut subject = match S::new(&Plan::of(&cycle)) {
        Ok(subject) => subject,
        Err(reason) => {
            println!("{reason}");
            return Ok(());
        }
    };
    let mut slots: Vec<MaybeUninit<S::Handle>> = (0..cycle.slots).map(|_| MaybeUninit::uninit()).collect();
    let mut watch = Stopwatch::new();
    let ops = cycle.fill.iter().chain(cycle.steady.iter().cycle());
    for &Op { slot, size } in ops.take(calls.max(cycle.fill.len())) {
        let slot = &mut slots[slot as usize];
        if size == 0 {
            // SAFETY: the cycle was checked: the slot is full, and is filled before it is read again.
            let handle = unsafe { slot.assume_init_read() };
            watch.time(|| subject.free(handle));
        } else {
            let handle = slot.write(watch.time(|| subject.allocate(size as usize)));
            // SAFETY: the block has at least one byte.
            unsafe { S::bytes(handle).write(1) };
        }
    }
    watch.print();
    Ok(())
}

/// Packets of an allocator, through its safe face.
struct Packets(&'static Allocator);

impl Subject for Packets {
    type Handle = Packet<&'static Allocator>;

    fn new(_: &Plan) -> Result<Self, String> {
        Ok(Self(Box::leak(Box::new(Allocator::new()))))
    }

    fn allocate(&mut self, size: usize) -> Self::Handle {
        self.0.packet(size).expect("there is memory for packets")
    }

    fn free(&mut self, packet: Self::Handle) {
        drop(packet);
    }

    fn bytes(packet: &mut Self::Handle) -> *mut u8 {
        packet.as_mut_ptr()
    }
}

/// Packets that any thread may drop; here their owner's does.
struct SharedPackets(SharedAllocator);

impl Subject for SharedPackets {
    type Handle = SharedPacket;

    fn new(_: &Plan) -> Result<Self, String> {
        Ok(Self(SharedAllocator::new()))
    }

    fn allocate(&mut self, size: usize) -> SharedPacket {
        self.0.packet(size).expect("there is memory for packets")
    }

    fn free(&mut self, packet: SharedPacket) {
        drop(packet);
    }

    fn bytes(packet: &mut SharedPacket) -> *mut u8 {
        packet.as_mut_ptr()
    }
}

/// Until the limit, then as many refusals as there is room for, then the oldest is dropped for each new packet.
fn limit(calls: usize) -> Result<(), String> {
    let failed = |error: &dyn fmt::Display| format!("the limit: {error}");
    let allocator: Allocator =
        Allocator::with_config(Config::new().memory_limit(1 << 30)).map_err(|error| failed(&error))?;
    let mut watch = Stopwatch::new();
    let mut queue: VecDeque<NonNull<u8>> = VecDeque::with_capacity(GIBIBYTE as usize);
    while let Ok(block) = watch.time(|| allocator.allocate(1400)) {
        // SAFETY: the block is live.
        unsafe { block.cast::<u8>().write(1) };
        queue.push_back(block.cast());
    }
    // Each part ends when its time is over: a refusal may cost a walk over all memory. The calls of the second part
    // have the same numbers in all runs, however far the first got.
    let half = calls.saturating_sub(watch.next) / 2;
    let second = watch.next + half;
    let start = Instant::now();
    while watch.next < second && start.elapsed() < PART {
        if watch.time(|| allocator.allocate(1400)).is_ok() {
            return Err(failed(&"a packet was refused, and the next one was not"));
        }
    }
    watch.next = second;
    let start = Instant::now();
    while watch.next < calls && start.elapsed() < PART {
        match watch.time(|| allocator.allocate(1400)) {
            Ok(block) => {
                // SAFETY: the block is live.
                unsafe { block.cast::<u8>().write(1) };
                queue.push_back(block.cast());
            }
            Err(_) => {
                let oldest = queue.pop_front().ok_or_else(|| failed(&"nothing is live, and all is refused"))?;
                // SAFETY: allocated above, and taken out of the queue.
                watch.time(|| unsafe { allocator.free(oldest) });
            }
        }
    }
    watch.print();
    Ok(())
}

/// Another thread drops all packets at once; then the owner has a queue of 1024.
fn returned(calls: usize) -> Result<(), String> {
    let owner = SharedAllocator::new();
    let packet = || owner.packet(1400).map_err(|error| format!("returned: {error}"));
    let mut watch = Stopwatch::new();
    let mut packets = Vec::with_capacity(RETURNED);
    for _ in 0..RETURNED {
        packets.push(watch.time(packet)?);
    }
    thread::spawn(move || drop(packets)).join().map_err(|_| "the other thread panicked".to_owned())?;
    let mut queue = VecDeque::with_capacity(1025);
    while watch.next < calls {
        queue.push_back(watch.time(packet)?);
        if queue.len() > 1024 {
            let oldest = queue.pop_front();
            watch.time(|| drop(oldest));
        }
    }
    watch.print();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(floor: u64, listed: &[(usize, u64)]) -> Longest {
        Longest { calls: 10, floor, listed: listed.iter().copied().collect() }
    }

    #[test]
    fn a_call_counts_with_the_least_that_it_took() {
        let runs = [run(10, &[(1, 90), (5, 70)]), run(20, &[(5, 60), (7, 95)])];
        assert_eq!(repeated(&runs), (vec![(60, 5), (20, 1)], 95));
    }

    #[test]
    fn the_longest_calls_are_kept() {
        let mut watch = Stopwatch::new();
        for call in 0..3 * Stopwatch::ROOM {
            watch.next = call;
            let took = 2000 + call as u64;
            if took > watch.floor {
                watch.note(took);
            }
        }
        watch.shorten();
        assert_eq!(watch.seen.len(), REPORTED);
        assert_eq!(watch.seen[0].1, 3 * Stopwatch::ROOM - 1);
        assert_eq!(watch.seen[REPORTED - 1].1, 3 * Stopwatch::ROOM - REPORTED);
        assert_eq!(watch.floor, 2000 + (3 * Stopwatch::ROOM - REPORTED - 1) as u64);
    }

    #[test]
    fn what_is_printed_is_read() {
        let longest = parse("10 1000 3:5000 1:2000\n").unwrap();
        assert_eq!((longest.calls, longest.floor), (10, 1000));
        assert_eq!(longest.listed.into_iter().collect::<Vec<_>>(), [(1, 2000), (3, 5000)]);
        assert!(parse("libtcmalloc is not installed").is_none());
    }
}
