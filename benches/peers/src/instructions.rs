//! Instructions per pair, counted under callgrind: the same on every run, so that small changes show.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::{fs, hint};

use pktalloc::workload::{Pattern, Sizes};

use crate::cell::{Cell, QueueCell, Touch};
use crate::lane::begin;
use crate::names::{Name, Visitor};
use crate::process::program;
use crate::subject::Subject;
use crate::targets::{Case, Target};

/// Instructions that the functions of [`Name::Empty`] have: two returns, and one to load the address.
const EMPTY_FUNCTIONS: f64 = 3.0;
/// Operations that are counted.
const OPS: usize = 1 << 17;
/// How much more than the baseline is too much.
const TOLERANCE: f64 = 1.03;
/// What a pair may cost in fifo.
const LIMIT: f64 = 60.0;

/// What is counted.
fn cells() -> Vec<Cell> {
    let sizes = [Sizes::Fixed(1400), Sizes::Uniform, Sizes::Imix];
    let cell = |pattern| {
        sizes.iter().map(move |sizes| {
            Cell::Queue(QueueCell { pattern, sizes: sizes.clone(), depth: 1024, touch: Touch::Untouched })
        })
    };
    [Pattern::Fifo, Pattern::Reorder, Pattern::Random].into_iter().flat_map(cell).collect()
}

/// Whether valgrind is here.
pub(crate) fn available() -> bool {
    Command::new("valgrind").arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Instructions per pair of pktalloc in each cell, the loop and its two call instructions left out.
pub(crate) fn count_all() -> Result<BTreeMap<String, f64>, String> {
    let mut counts = BTreeMap::new();
    for cell in cells() {
        let looped = count(Name::Empty, &cell)? - EMPTY_FUNCTIONS;
        counts.insert(cell.to_string(), count(Name::Pktalloc, &cell)? - looped);
    }
    Ok(counts)
}

/// The promise about instructions.
pub(crate) fn target(counts: &BTreeMap<String, f64>) -> Target {
    let fifo = counts.iter().filter(|(cell, _)| cell.starts_with(Pattern::Fifo.name()));
    let case =
        |(cell, &count): (&String, &f64)| Case { name: cell.clone(), ratio: count, of: "instructions".to_owned() };
    Target::at_most("fifo: instructions per pair", LIMIT, fifo.map(case).collect())
}

/// Prints the counts beside the baseline; an error if one has grown too much. With `update`, writes the baseline anew.
pub(crate) fn compare(baseline: &Path, update: bool) -> Result<(), String> {
    if !available() {
        println!("instructions are not counted: there is no valgrind (Debian: apt-get install valgrind)");
        return Ok(());
    }
    let at_baseline = |error| format!("{}: {error}", baseline.display());
    let counts = count_all()?;
    if update {
        let mut text =
            "# Instructions per pair, loop excluded: cargo run --release -- instructions --update\n".to_owned();
        for (cell, count) in &counts {
            let _ = writeln!(text, "{cell} {count:.2}");
        }
        return fs::write(baseline, text).map_err(|error| at_baseline(error.to_string()));
    }
    let before = fs::read_to_string(baseline).map_err(|error| at_baseline(error.to_string()))?;
    let before = parse(&before).map_err(at_baseline)?;
    println!("{:<34} {:>9} {:>9} {:>8}", "instructions per pair", "baseline", "now", "change");
    let mut grown = 0;
    for (cell, &now) in &counts {
        let &then = before.get(cell).ok_or_else(|| at_baseline(format!("it has no line for {cell}")))?;
        println!("{cell:<34} {then:>9.2} {now:>9.2} {:>+7.1} %", 100.0 * (now / then - 1.0));
        grown += usize::from(now > then * TOLERANCE);
    }
    if grown > 0 {
        let percent = 100.0 * (TOLERANCE - 1.0);
        return Err(format!(
            "{grown} of {} cells take over {percent:.0} % more instructions than before",
            counts.len()
        ));
    }
    Ok(())
}

fn parse(text: &str) -> Result<BTreeMap<String, f64>, String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let entry = |line: &str| {
        let (cell, count) = line.split_once(' ')?;
        Some((cell.to_owned(), count.parse().ok()?))
    };
    lines.map(|line| entry(line).ok_or_else(|| format!("a line is a cell and a number, not {line:?}"))).collect()
}

/// All instructions per pair of a subject in a cell, the loop included.
fn count(name: Name, cell: &Cell) -> Result<f64, String> {
    let mut command = callgrind()?;
    command.args(["count", &name.to_string(), &cell.to_string()]);
    collected(&mut command).map(|count| count / (OPS / 2) as f64)
}

/// This program under callgrind, which counts what runs in [`counted`].
pub(crate) fn callgrind() -> Result<Command, String> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=counted"]).arg(program()?);
    Ok(command)
}

/// Runs it, and returns the instructions that were counted.
pub(crate) fn collected(command: &mut Command) -> Result<f64, String> {
    let output = command.output().map_err(|error| format!("cannot start valgrind: {error}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    let what = || command.get_args().skip(4).map(|argument| argument.to_string_lossy()).collect::<Vec<_>>().join(" ");
    if !output.status.success() {
        // What the program says, without valgrind's own lines.
        let own = text.lines().find(|line| !line.starts_with("==") && !line.is_empty()).unwrap_or("no reason given");
        return Err(format!("{} under valgrind: {own}", what()));
    }
    let collected = text.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse::<f64>().ok());
    collected.ok_or_else(|| format!("valgrind did not say what it collected: {}", text.trim_end()))
}

/// The far side, under valgrind: carries out operations in [`counted`].
pub(crate) fn serve(name: Name, cell: &Cell) -> Result<(), String> {
    name.visit(Count(cell))
}

struct Count<'a>(&'a Cell);

impl Visitor for Count<'_> {
    type Output = Result<(), String>;

    fn visit<S: Subject>(self) -> Result<(), String> {
        let mut endless = begin::<S>(self.0)??;
        endless.advance(OPS);
        counted(&mut || endless.advance(OPS));
        Ok(())
    }
}

/// What callgrind counts: the operations that run in here.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) fn counted(operations: &mut dyn FnMut()) {
    operations();
    // Not a tail call, so that leaving this function is seen.
    hint::black_box(());
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_baseline_is_read() {
        let baseline = parse("# comment\nfifo/1400/1024/untouched 41.50\n").unwrap();
        assert_eq!(baseline.into_iter().collect::<Vec<_>>(), [("fifo/1400/1024/untouched".to_owned(), 41.5)]);
        assert!(parse("fifo").is_err());
        assert!(parse("fifo many").is_err());
    }
}
