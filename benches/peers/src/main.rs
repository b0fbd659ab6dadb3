//! Measures pktalloc beside other allocators, and says which of its targets it meets.

mod calls;
mod cell;
mod clock;
mod driver;
mod duels;
mod foreign;
mod instructions;
mod lane;
mod matrix;
mod memory;
mod names;
mod native;
mod plots;
mod process;
mod report;
mod subject;
mod tails;
mod targets;
mod threads;

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use pktalloc::workload::{Pattern, Sizes};

use crate::cell::{Cell, QueueCell, Touch, TraceCell};
use crate::matrix::Matrix;
use crate::memory::{Question, Weight};
use crate::names::Name;

#[derive(Parser)]
#[command(about, version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
}

#[derive(Subcommand)]
enum Command {
    /// One subject in one cell, asked by the parent process
    #[command(hide = true)]
    Lane { subject: Name, cell: Cell },
    /// Count instructions per pair under callgrind; an error if one is over 3 % more than the baseline
    Instructions {
        /// Write the baseline anew
        #[arg(long)]
        update: bool,
        /// The counts to compare with
        #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.txt"))]
        baseline: PathBuf,
    },
    /// One subject in one cell under callgrind
    #[command(hide = true)]
    Count { subject: Name, cell: Cell },
    /// Draw the cost of depth, and memory in a burst and with pinned packets, measuring no more than that
    Plots {
        /// Where depth.svg, burst.svg and pinned.svg go
        directory: PathBuf,
        /// Rounds of each depth
        #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
    },
    /// What one subject holds while a workload runs, asked by the parent process
    #[command(hide = true)]
    Watch { subject: Name, story: plots::Story },
    /// Producers and consumers: packets that one thread allocates and others free
    Threads {
        /// Rounds of each scene
        #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
        /// Keep all threads on one core and count processor time
        #[arg(long)]
        one_core: bool,
    },
    /// One slice of one subject in one scene, asked by the parent process
    #[command(hide = true)]
    ThreadsSlice { subject: Name, scene: threads::Scene, content: threads::Content },
    /// Relays alone: packets that leave at once, but for one in so many that stays for a while
    Relay(Part),
    /// Interleaved queues alone: 32 in one allocator
    Interleaved(Part),
    /// Captures alone, in 1, 4, 16 and 64 copies
    Captures(Part),
    /// Memory alone: what is held while workloads run, and what they leave
    Memory(MemoryPart),
    /// The longest single call of ten million, in many scenes
    Tails(tails::Options),
    /// One run of one scene, asked by the parent process
    #[command(hide = true)]
    TailsRun { subject: Name, scene: tails::Scene, calls: usize },
    /// Growth, large reserves, short-lived allocators, packets: one way against another
    Duels(duels::Options),
    /// One side of a duel, asked by the parent process
    #[command(hide = true)]
    DuelSide { duel: duels::Duel, side: duels::Side },
    /// Call traces of real programs: nanoseconds a call, page faults, memory
    Calls(calls::Options),
    /// One subject with one call trace, asked by the parent process
    #[command(hide = true)]
    CallsSlice(calls::Slot),
    /// One subject with one call trace under callgrind
    #[command(hide = true)]
    CallsCount(calls::Slot),
    /// What one subject leaves in memory, asked by the parent process
    #[command(hide = true)]
    Weigh { subject: Name, question: Question },
}

/// Which part of a row to measure.
#[derive(clap::Args)]
struct Part {
    /// 1400 bytes and imix alone, five rounds
    #[arg(long)]
    quick: bool,
    /// Subjects; all unless named
    #[arg(long, value_delimiter = ',')]
    subjects: Vec<Name>,
    /// Whether packets are written
    #[arg(long, value_delimiter = ',', default_value = "untouched,written")]
    touch: Vec<Touch>,
    /// Rounds of each cell; 5 with --quick, 9 without
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
}

impl Part {
    /// Measures these patterns.
    fn queues(&self, patterns: &[Pattern]) -> Result<(), String> {
        let sizes = if self.quick { &[Sizes::Fixed(1400), Sizes::Imix][..] } else { &Sizes::SYNTHETIC };
        self.measure(queue_cells(patterns, sizes, &[], &self.touch).into_iter().map(Cell::Queue).collect())
    }

    fn captures(&self) -> Result<(), String> {
        self.measure(captures(self.touch.iter().copied()).into_iter().map(Cell::Trace).collect())
    }

    fn measure(&self, cells: Vec<Cell>) -> Result<(), String> {
        let rounds = self.rounds.unwrap_or(if self.quick { 5 } else { 9 });
        let mut matrix = Matrix::new(or_all(&self.subjects), rounds as usize);
        let rows = matrix.measure_all(&cells)?;
        println!("{}", report::table(&rows));
        println!("{}", targets::table(&targets::of_time(&rows, &[])));
        for (name, reason) in matrix.absent() {
            println!("{name} took no part: {reason}");
        }
        Ok(())
    }
}

/// The subjects that are named, or all.
fn or_all(named: &[Name]) -> Vec<Name> {
    if named.is_empty() { Name::value_variants().to_vec() } else { named.to_vec() }
}

/// The cells of queues; `depths` are those of patterns that have none of their own.
fn queue_cells(patterns: &[Pattern], sizes: &[Sizes], depths: &[u32], touch: &[Touch]) -> Vec<QueueCell> {
    let mut cells = Vec::new();
    for &touch in touch {
        for &pattern in patterns {
            for sizes in sizes {
                for &depth in own_depths(pattern).unwrap_or(depths) {
                    cells.push(QueueCell { pattern, sizes: sizes.clone(), depth, touch });
                }
            }
        }
    }
    cells
}

/// The relays that are measured.
const RELAYS: [Pattern; 3] =
    [Pattern::Relay { one_in: 10 }, Pattern::Relay { one_in: 50 }, Pattern::Relay { one_in: 200 }];

#[derive(clap::Args)]
struct MemoryPart {
    /// pktalloc, and what it is judged by, alone
    #[arg(long)]
    quick: bool,
    /// Subjects of relays, captures and survivors
    #[arg(long, value_delimiter = ',', default_value = "pktalloc,malloc,jemalloc,mimalloc")]
    subjects: Vec<Name>,
    /// These questions alone: relay-50-10000, capture-pcpp_example-16, survivors-100, pinned, one-percent,
    /// drained-burst
    #[arg(long, value_delimiter = ',')]
    questions: Vec<Question>,
}

impl MemoryPart {
    fn measure(&self) -> Result<(), String> {
        if !self.questions.is_empty() {
            println!("{}", report::weights(&weigh(&self.subjects, &self.questions)?));
            return Ok(());
        }
        let few = if self.quick { &[Name::Pktalloc][..] } else { &self.subjects };
        let weights = weigh_all(few, few)?;
        println!("{}", report::weights(&weights));
        let targets = targets::of_memory(&Sizes::SYNTHETIC, &[64, 1024, 16_384, 262_144], &weights)?;
        println!("{}", targets::table(&targets));
        Ok(())
    }
}

#[derive(clap::Args)]
struct Run {
    /// Measure enough cells to judge every target in a few minutes; without it, all cells
    #[arg(long)]
    quick: bool,
    /// Packet sizes: uniform, imix or a number of bytes
    #[arg(long, value_delimiter = ',', default_value = "1000,1400,uniform,imix")]
    sizes: Vec<Sizes>,
    /// Patterns
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "fifo,reorder,straggler,sack,burst,random,relay-10,relay-50,relay-200,interleaved"
    )]
    patterns: Vec<Pattern>,
    /// Depths of the queue, even numbers; relays and interleaved queues have their own
    #[arg(long, value_delimiter = ',', default_value = "64,1024,16384,262144")]
    depths: Vec<u32>,
    /// Whether packets are written
    #[arg(long, value_delimiter = ',', default_value = "untouched,written")]
    touch: Vec<Touch>,
    /// Subjects, pktalloc and empty among them or not; all unless named
    #[arg(long, value_delimiter = ',')]
    subjects: Vec<Name>,
    /// Rounds of each cell; 5 with --quick, 9 without
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Leave out traces, call traces, new and dropped allocators, the cost of depth, and memory
    #[arg(long)]
    queues_only: bool,
    /// Write all figures to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Draw pictures into this directory, as the subcommand `plots` does
    #[arg(long, value_name = "DIRECTORY")]
    plots: Option<PathBuf>,
    /// End with an error if a target is missed
    #[arg(long)]
    strict: bool,
}

/// The traces to replay, and how many copies of each at once.
const TRACES: [&str; 4] =
    ["quic_server_sent_acked", "pcpp_example", "trex_rtp_250k", "pcpp_example+lte_verizon_short_down"];
const COPIES: [u32; 4] = [1, 4, 16, 64];

impl Run {
    /// The cells, untouched ones first.
    fn cells(&self) -> Vec<Cell> {
        let mut cells = queue_cells(&self.patterns, &self.sizes, &self.depths, &self.touch);
        if self.quick {
            cells.retain(is_quick);
        }
        let mut cells: Vec<Cell> = cells.into_iter().map(Cell::Queue).collect();
        if !self.queues_only {
            cells.extend(self.traces().into_iter().map(Cell::Trace));
            cells.push(Cell::NewAndDrop);
        }
        cells
    }

    /// Recorded traffic, single and overlaid, if there is any.
    fn traces(&self) -> Vec<TraceCell> {
        captures(self.touch.iter().copied().filter(|touch| !self.quick || *touch == Touch::Untouched))
    }
}

/// Captures in so many copies each, if there are any.
fn captures(touch: impl Iterator<Item = Touch>) -> Vec<TraceCell> {
    let directory = TraceCell::directory();
    if !directory.is_dir() {
        println!("no traces: {} is no directory; PKTALLOC_TRACES names another", directory.display());
        return Vec::new();
    }
    let mut traces = Vec::new();
    for touch in touch {
        for name in TRACES {
            traces.extend(COPIES.map(|copies| TraceCell { name: name.to_owned(), copies, touch }));
        }
    }
    traces
}

/// How deep the queues of a pattern are, unless it goes with all depths. Packets of a relay stay for 1,000 to 100,000
/// packets; an allocator has 32 queues of 64.
fn own_depths(pattern: Pattern) -> Option<&'static [u32]> {
    match pattern {
        Pattern::Relay { one_in: 10 } => Some(&[100, 10_000]),
        Pattern::Relay { one_in: 200 } => Some(&[6, 500]),
        Pattern::Relay { .. } => Some(&[20, 200, 2000]),
        Pattern::Interleaved => Some(&[2048]),
        _ => None,
    }
}

/// Whether a cell is worth its time in a quick run. Depths over 16384 take seconds to fill: they are there for fifo
/// alone, whose cost must not grow with depth. Written cells differ least between allocators, and 1000 bytes differ
/// little from 1400.
fn is_quick(cell: &QueueCell) -> bool {
    if cell.pattern == Pattern::Fifo {
        return cell.touch == Touch::Untouched || cell.depth <= 16_384;
    }
    match cell.touch {
        _ if cell.pattern == Pattern::Interleaved => cell.sizes != Sizes::Fixed(1000),
        Touch::Untouched => cell.depth <= 16_384 && cell.sizes != Sizes::Fixed(1000),
        Touch::Written => cell.depth <= 1024 && matches!(cell.sizes, Sizes::Fixed(1400) | Sizes::Imix),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Some(Command::Lane { subject, cell }) => lane::serve(subject, &cell),
        Some(Command::Weigh { subject, question }) => memory::serve(subject, question),
        Some(Command::Plots { directory, rounds }) => plots::draw(&directory, rounds as usize),
        Some(Command::Watch { subject, story }) => plots::serve(subject, story),
        Some(Command::Instructions { update, baseline }) => instructions::compare(&baseline, update),
        Some(Command::Count { subject, cell }) => instructions::serve(subject, &cell),
        Some(Command::Threads { rounds, one_core }) => threads::compare(rounds as usize, one_core),
        Some(Command::ThreadsSlice { subject, scene, content }) => threads::serve(subject, scene, content),
        Some(Command::Relay(part)) => part.queues(&RELAYS),
        Some(Command::Interleaved(part)) => part.queues(&[Pattern::Interleaved]),
        Some(Command::Captures(part)) => part.captures(),
        Some(Command::Memory(part)) => part.measure(),
        Some(Command::Duels(options)) => duels::compare(&options),
        Some(Command::DuelSide { duel, side }) => duels::serve(duel, side),
        Some(Command::Tails(options)) => tails::compare(&options),
        Some(Command::TailsRun { subject, scene, calls }) => tails::serve(subject, scene, calls),
        Some(Command::Calls(options)) => calls::compare(&options),
        Some(Command::CallsSlice(slot)) => calls::serve(slot.subject, &slot.file, slot.bytes),
        Some(Command::CallsCount(slot)) => calls::serve_count(slot.subject, &slot.file, slot.bytes),
        None => run(&arguments.run),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(run: &Run) -> Result<(), String> {
    let rounds = run.rounds.unwrap_or(if run.quick { 5 } else { 9 });
    let mut matrix = Matrix::new(or_all(&run.subjects), rounds as usize);
    let rows = matrix.measure_all(&run.cells())?;
    println!("{}", report::table(&rows));

    let growths = if run.queues_only {
        Vec::new()
    } else {
        run.sizes.iter().map(|sizes| matrix.measure_growth(sizes)).collect::<Result<_, _>>()?
    };
    let mut targets = targets::of_time(&rows, &growths);
    let mut weights = Vec::new();
    if !run.queues_only {
        let some = [Name::Pktalloc, Name::Malloc, Name::Jemalloc, Name::Mimalloc];
        weights = weigh_all(matrix.subjects(), if run.quick { &some[..1] } else { &some })?;
        println!("{}", report::weights(&weights));
        targets.extend(targets::of_memory(&run.sizes, &run.depths, &weights)?);
    }
    if !run.queues_only {
        targets.extend(duels::measure_all(rounds as usize)?);
        let tails = tails::measure_all(run.quick)?;
        println!("{}", tails::table(&tails));
        targets.push(tails::target(&tails));
        let calls = calls::measure_all(rounds as usize)?;
        print!("{}", calls::table(&calls));
        targets.extend(calls::targets(&calls));
        if instructions::available() {
            targets.push(instructions::target(&instructions::count_all()?));
        } else {
            println!("instructions are not counted: there is no valgrind (Debian: apt-get install valgrind)");
        }
    }
    println!("{}", targets::table(&targets));
    for (name, reason) in matrix.absent() {
        println!("{name} took no part: {reason}");
    }
    if let Some(path) = &run.json {
        let file = File::create(path).map_err(|error| format!("{}: {error}", path.display()))?;
        serde_json::to_writer_pretty(file, &report::json(&rows, &weights, &targets))
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    if let Some(directory) = &run.plots {
        plots::draw(directory, rounds as usize)?;
    }
    let missed = targets.iter().filter(|target| target.misses().next().is_some()).count();
    if run.strict && missed > 0 {
        return Err(format!("{missed} of {} targets missed", targets.len()));
    }
    Ok(())
}

/// Weighs subjects that can free in any order: all of them where each is asked, some where many questions are.
fn weigh_all(all: &[Name], some: &[Name]) -> Result<Vec<(Question, Name, Weight)>, String> {
    let mut weights = weigh(all, &Question::ALL)?;
    weights.extend(weigh(some, &Question::relays())?);
    weights.extend(weigh(some, &Question::captures(&captures([Touch::Written].into_iter())))?);
    // jemalloc is what pktalloc is compared with here.
    let mut survivors = some.to_vec();
    if !survivors.contains(&Name::Jemalloc) {
        survivors.push(Name::Jemalloc);
    }
    weights.extend(weigh(&survivors, &Question::survivors())?);
    Ok(weights)
}

fn weigh(subjects: &[Name], questions: &[Question]) -> Result<Vec<(Question, Name, Weight)>, String> {
    let mut weights = Vec::new();
    for question in questions {
        for &name in subjects.iter().filter(|name| !matches!(name, Name::Empty | Name::Floor)) {
            if let Ok(weight) = memory::weigh(name, question)? {
                weights.push((question.clone(), name, weight));
            }
        }
    }
    Ok(weights)
}
