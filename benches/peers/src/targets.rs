//! What pktalloc promises, and whether the figures keep it.

use std::fmt::Write;

use pktalloc::workload::{Pattern, Sizes};

use crate::cell::{Cell, Touch};
use crate::matrix::{Growth, Row};
use crate::memory::{Held, Question, WINDOW_BYTES, Weight, after_burst, floor_bytes, overhead, received_in_batches};
use crate::names::{Name, Role};

/// A promise, with every case that it was tested in.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    /// What a ratio may be at most.
    pub(crate) limit: f64,
    /// Whether the limit itself is too much.
    strict: bool,
    pub(crate) cases: Vec<Case>,
}

/// One case of a promise.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) ratio: f64,
    /// What was divided by what.
    pub(crate) of: String,
}

impl Target {
    pub(crate) fn at_most(name: &'static str, limit: f64, cases: Vec<Case>) -> Self {
        Self { name, limit, strict: false, cases }
    }

    /// A promise whose limit itself is too much.
    pub(crate) fn below(name: &'static str, limit: f64, cases: Vec<Case>) -> Self {
        Self { strict: true, ..Self::at_most(name, limit, cases) }
    }

    pub(crate) fn misses(&self) -> impl Iterator<Item = &Case> {
        self.cases.iter().filter(|case| case.ratio > self.limit || (self.strict && case.ratio >= self.limit))
    }

    pub(crate) fn worst(&self) -> Option<&Case> {
        self.cases.iter().max_by(|a, b| a.ratio.total_cmp(&b.ratio))
    }
}

/// The promises about time.
pub(crate) fn of_time(rows: &[Row], growths: &[Growth]) -> Vec<Target> {
    let select = |keep: &dyn Fn(&Cell) -> bool| rows.iter().filter(|row| keep(&row.cell)).collect::<Vec<_>>();
    let fifo = |touch| select(&|cell| cell.pattern() == Some(Pattern::Fifo) && cell.touch() == touch);
    let random = select(&|cell| cell.pattern() == Some(Pattern::Random));
    let relays = select(&|cell| is_real_queue(cell));
    let queues = select(&|cell| {
        matches!(cell, Cell::Queue(_)) && cell.pattern() != Some(Pattern::Random) && !is_real_queue(cell)
    });
    let captures = select(&|cell| matches!(cell, Cell::Trace(_)));
    let against = |rows: Vec<&Row>, peer| rows.into_iter().filter_map(|row| case_against(row, peer)).collect();
    let fastest = |rows: Vec<&Row>| {
        let case = |row: &Row| {
            let peers = row.figures.iter().map(|(name, _)| *name).filter(|name| name.role() == Role::Peer);
            peers.filter_map(|peer| case_against(row, peer)).max_by(|a, b| a.ratio.total_cmp(&b.ratio))
        };
        rows.into_iter().filter_map(case).collect()
    };
    let new_and_drop = select(&|cell| *cell == Cell::NewAndDrop);
    vec![
        Target::at_most("fifo, untouched: of the floor", 1.5, against(fifo(Touch::Untouched), Name::Floor)),
        Target::at_most("fifo, written: of the floor", 1.15, against(fifo(Touch::Written), Name::Floor)),
        Target::below("queues: of the fastest peer", 1.0, fastest(queues)),
        Target::below("relay, interleaved: of the fastest peer", 1.0, fastest(relays)),
        Target::below("captures, 1 to 64 copies: of the fastest peer", 1.0, fastest(captures)),
        Target::at_most("random: of the fastest peer", 1.1, fastest(random)),
        Target::at_most("fifo, untouched: 262144 deep of 64 deep", 1.3, growths.iter().map(growth_case).collect()),
        Target::at_most("new, ten packets, drop: of calloc", 1.2, against(new_and_drop, Name::Malloc)),
    ]
}

/// Whether packets leave a queue as real programs have them leave.
fn is_real_queue(cell: &Cell) -> bool {
    matches!(cell.pattern(), Some(Pattern::Relay { .. } | Pattern::Interleaved))
}

fn case_against(row: &Row, peer: Name) -> Option<Case> {
    let (ours, theirs) = (row.get(Name::Pktalloc)?, row.get(peer)?);
    let peer = if row.cell == Cell::NewAndDrop { "calloc".to_owned() } else { peer.to_string() };
    Some(Case {
        name: row.cell.to_string(),
        ratio: ours.ratio(theirs),
        of: format!("{:.2} ns of {:.2} ns ({peer})", ours.median(), theirs.median()),
    })
}

fn growth_case(Growth { sizes, shallow, deep }: &Growth) -> Case {
    Case {
        name: format!("fifo/{sizes}"),
        ratio: deep.ratio(shallow),
        of: format!("{:.2} ns of {:.2} ns", deep.median(), shallow.median()),
    }
}

/// The promises about memory, for fifo queues of these sizes and depths.
pub(crate) fn of_memory(
    sizes: &[Sizes],
    depths: &[u32],
    weights: &[(Question, Name, Weight)],
) -> Result<Vec<Target>, String> {
    let mut fifo = Vec::new();
    for sizes in sizes {
        for &depth in depths {
            let ratio = overhead(sizes, depth)?;
            fifo.push(Case { name: format!("fifo/{sizes}/{depth}"), ratio, of: "live bytes".to_owned() });
        }
    }
    let weight = |question: &Question, name| {
        weights.iter().find(|(other, by, _)| (other, *by) == (question, name)).map(|(_, _, weight)| weight)
    };
    let ours = |question: &Question| {
        let weight = weight(question, Name::Pktalloc)?;
        Some((weight.allocated?, weight.live))
    };
    let case = |question: &Question, allocated: u64, of: u64| Case {
        name: question.to_string(),
        ratio: allocated as f64 / of as f64,
        of: format!("{allocated} bytes of {of}"),
    };
    let live = |question| ours(question).map(|(held, live)| case(question, held, live)).into_iter().collect();
    let drained = &Question::DrainedBurst;
    let floor = floor_bytes()?;
    let drained_of_floor = ours(drained).map(|(held, _)| case(drained, held, floor));
    let resident = weight(drained, Name::Pktalloc).map(|weight| case(drained, weight.resident, weight.asked));
    let real = weights.iter().filter(|(question, name, _)| {
        *name == Name::Pktalloc && matches!(question, Question::Relay { .. } | Question::Capture { .. })
    });
    let real = real.filter_map(|(question, _, weight)| {
        let beyond = weight.peak_allocated?.saturating_sub(4 * WINDOW_BYTES as u64);
        Some(Case {
            name: question.to_string(),
            ratio: beyond as f64 / weight.peak_live as f64,
            of: format!("{} KiB held of {} KiB live", weight.peak_allocated? >> 10, weight.peak_live >> 10),
        })
    });
    let survivors = Question::survivors().into_iter().filter_map(|question| {
        let (ours, theirs) = (weight(&question, Name::Pktalloc)?, weight(&question, Name::Jemalloc)?);
        Some(case(&question, ours.resident, theirs.resident))
    });
    let held = |Held { name, held, allowed }: Held| Case {
        name,
        ratio: held as f64 / allowed as f64,
        of: format!("{} KiB of {} KiB", held >> 10, allowed >> 10),
    };
    Ok(vec![
        Target::at_most("memory, fifo: less 3 windows, of live bytes", 1.08, fifo),
        Target::at_most("memory, 12 of 45 stay: of live bytes", 1.5, live(&Question::Pinned)),
        Target::at_most("memory, 1 % stays: of live bytes", 1.3, live(&Question::OnePercent)),
        Target::at_most("memory, drained and trimmed: of the floor", 1.0, drained_of_floor.into_iter().collect()),
        // Not only the allocator's own word: what the system still sees of the burst.
        Target::at_most("memory, drained and trimmed: still resident", 0.02, resident.into_iter().collect()),
        Target::at_most("memory, relays and captures: less 4 windows", 1.5, real.collect()),
        Target::at_most(
            "memory, a queue after 1 GiB: of what it may hold",
            1.0,
            after_burst().into_iter().map(held).collect(),
        ),
        Target::at_most("trim with survivors: resident, of jemalloc", 1.0, survivors.collect()),
        Target::at_most(
            "memory, batches of 200 in slots of 2048: of live",
            1.3,
            vec![held(received_in_batches::<64>()?), held(received_in_batches::<32>()?)],
        ),
    ])
}

/// One line for each target, and one for each case in which one is missed.
pub(crate) fn table(targets: &[Target]) -> String {
    let mut text = format!("{:<48} {:>6} {:>7} {:>9}  worst case\n", "target", "limit", "worst", "met");
    for target in targets.iter().filter(|target| !target.cases.is_empty()) {
        let (misses, all) = (target.misses().count(), target.cases.len());
        let met = if misses == 0 { "met".to_owned() } else { format!("{}/{all}", all - misses) };
        let limit = format!("{}{}", if target.strict { "<" } else { "" }, target.limit);
        if let Some(worst) = target.worst() {
            let Case { name, ratio, of } = worst;
            let _ = writeln!(text, "{:<48} {limit:>6} {ratio:>7.3} {met:>9}  {name}: {of}", target.name);
        }
    }
    for target in targets.iter().filter(|target| target.misses().next().is_some()) {
        let _ = writeln!(text, "\nmissed, {}:", target.name);
        for Case { name, ratio, of } in target.misses() {
            let _ = writeln!(text, "  {ratio:>7.3}  {name:<32} {of}");
        }
    }
    text
}
