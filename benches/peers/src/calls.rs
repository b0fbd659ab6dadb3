//! Call traces of real programs, replayed on every subject: nanoseconds a call, page faults, memory, instructions.
//!
//! Every subject has a process of its own in every round, and the rounds of all subjects are interleaved. A process
//! replays the trace once from cold, then again and again on what the rounds before have left; both are reported.
//! Allocators that the trace leaves at its end are dropped between replays, while the clock stands still.
//!
//! The first replay is what a program sees that starts, does this and ends; the others are what one sees that goes on.

mod heaps;
mod replay;
mod trace;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

pub(crate) use self::heaps::{Heaps, KeptCapacity};
use self::replay::{Bytes, Observed, Player};
use self::trace::Trace;
use crate::cell::TraceCell;
use crate::clock::{minor_faults, processor_time, reset_peak, resident_bytes, resident_peak, stay_on_one_core};
use crate::instructions;
use crate::matrix::Figure;
use crate::names::{HeapsVisitor, Name, Role};
use crate::process::ask;
use crate::targets::{Case, Target};

/// Replays of one process after the cold one.
const WARM_REPLAYS: usize = 8;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Call traces; without any, all in the directory `calls` of the traces (PKTALLOC_TRACES)
    files: Vec<PathBuf>,
    /// Subjects; all unless named
    #[arg(long, value_delimiter = ',')]
    subjects: Vec<Name>,
    /// How much of a block is written
    #[arg(long, value_delimiter = ',', default_value = "first,every")]
    bytes: Vec<Bytes>,
    /// Rounds; each subject has a new process in each
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Five rounds
    #[arg(long)]
    quick: bool,
    /// Count instructions a call instead, under callgrind
    #[arg(long)]
    instructions: bool,
}

/// What a subject took for a trace.
#[derive(Clone, Debug)]
struct Outcome {
    name: Name,
    /// Nanoseconds a call, the first replay of a process.
    cold: Figure,
    /// Nanoseconds a call, the replays after it.
    warm: Figure,
    /// What does not change from round to round: the last round's.
    facts: Facts,
}

/// What a replay did beside taking time.
#[derive(Clone, Copy, Debug)]
struct Facts {
    cold_faults: u64,
    warm_faults: u64,
    /// The most by which the process grew during the cold replay.
    grown: Option<u64>,
    observed: Observed,
}

/// A trace with what every subject took for it.
pub(crate) struct Row {
    file: String,
    bytes: Bytes,
    live: u64,
    outcomes: Vec<Outcome>,
}

/// Where call traces are, unless they are named.
fn directory() -> PathBuf {
    TraceCell::directory().join("calls")
}

/// The call traces of the directory, in the order of their names.
fn traces() -> Vec<PathBuf> {
    let directory = directory();
    let mut files: Vec<PathBuf> = match fs::read_dir(&directory) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
        Err(error) => {
            println!("no call traces: {}: {error}; PKTALLOC_TRACES names another directory", directory.display());
            return Vec::new();
        }
    };
    files.retain(|file| file.file_name().is_some_and(|name| name.to_string_lossy().contains(".csv")));
    files.sort();
    files
}

/// Measures and prints.
pub(crate) fn compare(options: &Options) -> Result<(), String> {
    let files = if options.files.is_empty() { traces() } else { options.files.clone() };
    let subjects = subjects(&options.subjects);
    if options.instructions {
        return count_all(&files, &subjects, &options.bytes);
    }
    let rounds = if options.quick { options.rounds.min(5) } else { options.rounds };
    let rows = measure(&files, &subjects, &options.bytes, rounds as usize)?;
    print!("{}", table(&rows));
    println!("{}", crate::targets::table(&targets(&rows)));
    Ok(())
}

/// Measures every trace of the directory, for the targets.
pub(crate) fn measure_all(rounds: usize) -> Result<Vec<Row>, String> {
    measure(&traces(), &subjects(&[]), Bytes::value_variants(), rounds)
}

/// Those that can serve a trace; all unless some are named.
fn subjects(named: &[Name]) -> Vec<Name> {
    let named = if named.is_empty() { Name::value_variants() } else { named };
    named.iter().copied().filter(|name| !matches!(name, Name::Floor | Name::Pool | Name::Bytes)).collect()
}

fn measure(files: &[PathBuf], subjects: &[Name], bytes: &[Bytes], rounds: usize) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    let mut absent = BTreeMap::new();
    for file in files {
        let live = Trace::load(file)?.peak;
        for &bytes in bytes {
            let outcomes = measure_one(file, subjects, bytes, rounds, &mut absent)?;
            rows.push(Row { file: short(file), bytes, live, outcomes });
        }
    }
    for (name, reason) in absent {
        println!("{name} took no part: {reason}");
    }
    Ok(rows)
}

fn measure_one(
    file: &Path,
    subjects: &[Name],
    bytes: Bytes,
    rounds: usize,
    absent: &mut BTreeMap<String, String>,
) -> Result<Vec<Outcome>, String> {
    let mut outcomes: Vec<Outcome> = Vec::new();
    for round in 0..rounds {
        for turn in 0..subjects.len() {
            let name = subjects[(round + turn) % subjects.len()];
            let path = file.to_string_lossy();
            let answer = ask(name, &["calls-slice", &name.to_string(), &path, &bytes_name(bytes)])?;
            let Some((cold, warm, facts)) = parse(&answer) else {
                absent.insert(name.to_string(), answer.trim_end().to_owned());
                continue;
            };
            match outcomes.iter_mut().find(|outcome| outcome.name == name) {
                Some(outcome) => {
                    outcome.cold.push(cold);
                    outcome.warm.push(warm);
                    outcome.facts = facts;
                }
                None => {
                    let (mut first, mut rest) = (Figure::default(), Figure::default());
                    first.push(cold);
                    rest.push(warm);
                    outcomes.push(Outcome { name, cold: first, warm: rest, facts });
                }
            }
        }
    }
    outcomes.sort_by_key(|outcome| subjects.iter().position(|&name| name == outcome.name));
    Ok(outcomes)
}

/// What [`serve`] prints: two figures, two counts of faults, growth, peak, reallocations and those that moved.
fn parse(answer: &str) -> Option<(f64, f64, Facts)> {
    let fields: Vec<&str> = answer.split_ascii_whitespace().collect();
    let [cold, warm, cold_faults, warm_faults, grown, peak, reallocations, moved] = fields[..] else {
        return None;
    };
    let observed =
        Observed { peak: peak.parse().ok(), reallocations: reallocations.parse().ok()?, moved: moved.parse().ok()? };
    let facts = Facts {
        cold_faults: cold_faults.parse().ok()?,
        warm_faults: warm_faults.parse().ok()?,
        grown: grown.parse().ok(),
        observed,
    };
    Some((cold.parse().ok()?, warm.parse().ok()?, facts))
}

/// The far side: one process of one subject.
pub(crate) fn serve(name: Name, file: &Path, bytes: Bytes) -> Result<(), String> {
    stay_on_one_core()?;
    let trace = Trace::load(file)?;
    name.visit_heaps(Slice { trace: &trace, bytes }).unwrap_or(Err(format!("{name} serves no trace")))
}

struct Slice<'a> {
    trace: &'a Trace,
    bytes: Bytes,
}

impl HeapsVisitor for Slice<'_> {
    type Output = Result<(), String>;

    fn visit<H: Heaps>(self) -> Self::Output {
        let mut player = match Player::<H>::new(self.trace, self.bytes) {
            Ok(player) => player,
            Err(reason) => {
                println!("{reason}");
                return Ok(());
            }
        };
        let watches_peak = reset_peak().is_ok();
        let before = resident_bytes()?;
        let mut replay = || {
            let (start, faults) = (processor_time(), minor_faults());
            player.play();
            let time = (processor_time() - start).as_nanos() as f64 / self.trace.calls.len().max(1) as f64;
            let faults = minor_faults() - faults;
            let grown = if watches_peak { resident_peak()?.checked_sub(before) } else { None };
            player.close();
            Ok::<_, String>((time, faults, grown))
        };
        let (cold, cold_faults, grown) = replay()?;
        let mut warm = Figure::default();
        let mut warm_faults = 0;
        for _ in 0..WARM_REPLAYS {
            let (time, faults, _) = replay()?;
            warm.push(time);
            warm_faults = faults;
        }
        let Observed { peak, reallocations, moved } = player.observe();
        player.close();
        let or_unknown = |bytes: Option<u64>| bytes.map_or("unknown".to_owned(), |bytes| bytes.to_string());
        let (grown, peak) = (or_unknown(grown), or_unknown(peak));
        let warm = warm.median();
        println!("{cold} {warm} {cold_faults} {warm_faults} {grown} {peak} {reallocations} {moved}");
        Ok(())
    }
}

/// Counts the instructions of a warm replay, a call.
fn count_all(files: &[PathBuf], subjects: &[Name], bytes: &[Bytes]) -> Result<(), String> {
    if !instructions::available() {
        println!("instructions are not counted: there is no valgrind (Debian: apt-get install valgrind)");
        return Ok(());
    }
    println!("instructions a call, writing and the loop left out");
    for file in files {
        let calls = Trace::load(file)?.calls.len().max(1) as f64;
        for &bytes in bytes {
            let count = |name: Name| {
                let mut command = instructions::callgrind()?;
                command
                    .args(["calls-count", &name.to_string()])
                    .arg(file)
                    .arg(bytes_name(bytes))
                    .envs(name.environment());
                instructions::collected(&mut command).map(|count| count / calls)
            };
            let empty = count(Name::Empty)?;
            for &name in subjects.iter().filter(|&&name| name != Name::Empty) {
                match count(name) {
                    Ok(count) => println!("{:<24} {name:<14} {:>9.1}", cell(&short(file), bytes), count - empty),
                    Err(error) => println!("{:<24} {name:<14} {error}", cell(&short(file), bytes)),
                }
            }
        }
    }
    Ok(())
}

/// The far side, under valgrind: a warm replay is counted.
pub(crate) fn serve_count(name: Name, file: &Path, bytes: Bytes) -> Result<(), String> {
    struct Count<'a>(&'a Trace, Bytes);
    impl HeapsVisitor for Count<'_> {
        type Output = Result<(), String>;

        fn visit<H: Heaps>(self) -> Self::Output {
            let mut player = Player::<H>::new(self.0, self.1)?;
            player.play();
            player.close();
            instructions::counted(&mut || player.play());
            Ok(())
        }
    }
    let trace = Trace::load(file)?;
    name.visit_heaps(Count(&trace, bytes)).unwrap_or(Err(format!("{name} serves no trace")))
}

fn bytes_name(bytes: Bytes) -> String {
    bytes.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned())
}

fn short(file: &Path) -> String {
    let name = file.file_name().map_or(String::new(), |name| name.to_string_lossy().into_owned());
    name.split('.').next().unwrap_or_default().to_owned()
}

fn cell(file: &str, bytes: Bytes) -> String {
    format!("{file}/{}", bytes_name(bytes))
}

/// One line for each trace and subject.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    for Row { file, bytes, live, outcomes } in rows {
        let _ = writeln!(
            text,
            "{:<24} {:>9} {:>9} {:>9} {:>12} {:>12} {:>11} {:>11} {:>8}",
            cell(file, *bytes),
            "ns/call",
            "spread",
            "cold",
            "faults cold",
            "faults warm",
            "grown KiB",
            "held KiB",
            "moved"
        );
        for Outcome { name, cold, warm, facts } in outcomes {
            let kib = |bytes: Option<u64>| bytes.map_or("".to_owned(), |bytes| (bytes >> 10).to_string());
            let Observed { peak, reallocations, moved } = facts.observed;
            let moved = if reallocations == 0 { 0.0 } else { 100.0 * moved as f64 / reallocations as f64 };
            let _ = writeln!(
                text,
                "  {name:<22} {:>9.1} {:>7.0} % {:>9.1} {:>12} {:>12} {:>11} {:>11} {moved:>6.1} %",
                warm.median(),
                100.0 * warm.spread() / warm.median(),
                cold.median(),
                facts.cold_faults,
                facts.warm_faults,
                kib(facts.grown),
                kib(peak),
            );
        }
        let _ = writeln!(text, "  at most {} KiB live, as asked for\n", live >> 10);
    }
    text
}

/// The promises about call traces.
pub(crate) fn targets(rows: &[Row]) -> Vec<Target> {
    let cases = |pick: fn(&Outcome) -> &Figure| {
        let case = |row: &Row| {
            let ours = row.outcomes.iter().find(|outcome| outcome.name == Name::Pktalloc)?;
            let peers = row.outcomes.iter().filter(|outcome| outcome.name.role() == Role::Peer);
            let against = |peer: &Outcome| Case {
                name: cell(&row.file, row.bytes),
                ratio: pick(ours).ratio(pick(peer)),
                of: format!("{:.1} ns of {:.1} ns ({})", pick(ours).median(), pick(peer).median(), peer.name),
            };
            peers.map(against).max_by(|a, b| a.ratio.total_cmp(&b.ratio))
        };
        rows.iter().filter_map(case).collect::<Vec<_>>()
    };
    vec![
        Target::below("call traces: of the fastest peer", 1.0, cases(|outcome| &outcome.warm)),
        Target::below("call traces, first replay: of the fastest peer", 1.0, cases(|outcome| &outcome.cold)),
    ]
}

/// The far sides, as arguments of this program.
#[derive(clap::Args)]
pub(crate) struct Slot {
    pub(crate) subject: Name,
    pub(crate) file: PathBuf,
    pub(crate) bytes: Bytes,
}
