//! Measures cells: all subjects in interleaved rounds.

use std::ops::Range;
use std::time::Instant;

use pktalloc::workload::{Pattern, Sizes};

use crate::cell::{Cell, QueueCell, Touch};
use crate::lane::Lane;
use crate::names::Name;

/// The depths between which cost must hardly grow.
const SHALLOW: u32 = 64;
const DEEP: u32 = 262_144;

/// What a subject took in a cell: nanoseconds per pair, round by round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figure(Vec<f64>);

impl Figure {
    /// Adds what a round took.
    pub(crate) fn push(&mut self, nanoseconds: f64) {
        self.0.push(nanoseconds);
    }

    pub(crate) fn median(&self) -> f64 {
        median(&self.0)
    }

    /// The distance of the quartiles.
    pub(crate) fn spread(&self) -> f64 {
        quantile(&self.0, 0.75) - quantile(&self.0, 0.25)
    }

    /// The median of the rounds' ratios. In a round both ran within a fraction of a second, so whatever slowed the
    /// machine for longer than that cancels out.
    pub(crate) fn ratio(&self, other: &Self) -> f64 {
        let ratios: Vec<f64> = self.0.iter().zip(&other.0).map(|(ours, theirs)| ours / theirs).collect();
        median(&ratios)
    }
}

/// The value in the middle.
fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value below which `share` of the values lie, between two values in proportion.
fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let position = share * (sorted.len() - 1) as f64;
    let (low, high) = (position.floor(), position.ceil());
    sorted[low as usize] + (sorted[high as usize] - sorted[low as usize]) * (position - low)
}

/// A cell with the figures of the subjects that ran it.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) cell: Cell,
    pub(crate) figures: Vec<(Name, Figure)>,
}

impl Row {
    pub(crate) fn get(&self, name: Name) -> Option<&Figure> {
        self.figures.iter().find(|(other, _)| *other == name).map(|(_, figure)| figure)
    }
}

/// One cell against another, in rounds of their own: pktalloc in both.
#[derive(Clone, Debug)]
pub(crate) struct Growth {
    pub(crate) sizes: Sizes,
    pub(crate) shallow: Figure,
    pub(crate) deep: Figure,
}

/// Asks all lanes in turn, round after round. Each round begins with another lane, so that none always follows the
/// same.
fn interleave(lanes: &mut [Lane], rounds: Range<usize>) -> Result<Vec<Figure>, String> {
    let mut figures = vec![Figure::default(); lanes.len()];
    for round in rounds {
        for turn in 0..lanes.len() {
            let index = (round + turn) % lanes.len();
            figures[index].push(lanes[index].slice()?);
        }
    }
    Ok(figures)
}

/// Measures subjects in cells, and knows which subjects are not to be had here.
pub(crate) struct Matrix {
    subjects: Vec<Name>,
    rounds: usize,
    absent: Vec<(Name, String)>,
}

impl Matrix {
    pub(crate) fn new(subjects: Vec<Name>, rounds: usize) -> Self {
        Self { subjects, rounds, absent: Vec::new() }
    }

    /// The subjects that are not known to be absent.
    pub(crate) fn subjects(&self) -> &[Name] {
        &self.subjects
    }

    /// The subjects that are not to be had, and why.
    pub(crate) fn absent(&self) -> &[(Name, String)] {
        &self.absent
    }

    /// Measures all subjects in one cell.
    ///
    /// Where packets are written, every round has new processes. Which physical pages a process happens to get decides
    /// how much of a queue about as large as a cache fits into it, a fifth of the time and more, and it keeps them for
    /// life.
    pub(crate) fn measure(&mut self, cell: &Cell) -> Result<Row, String> {
        let rounds = if cell.touch() == Touch::Written { 1 } else { self.rounds };
        let mut figures: Vec<(Name, Figure)> = Vec::new();
        for first in (0..self.rounds).step_by(rounds) {
            let mut lanes = self.start(cell)?;
            let more = interleave(&mut lanes, first..first + rounds).map_err(|error| format!("{cell}: {error}"))?;
            for (lane, more) in lanes.iter().zip(more) {
                match figures.iter_mut().find(|(name, _)| *name == lane.name) {
                    Some((_, figure)) => figure.0.extend(more.0),
                    None => figures.push((lane.name, more)),
                }
            }
        }
        Ok(Row { cell: cell.clone(), figures })
    }

    /// Starts a process for each subject that can run the cell, and waits until all are ready.
    fn start(&mut self, cell: &Cell) -> Result<Vec<Lane>, String> {
        let able = self.subjects.iter().filter(|name| name.takes_part(cell));
        let started = able.map(|&name| Lane::start(name, cell)).collect::<Result<Vec<_>, _>>()?;
        let mut lanes = Vec::with_capacity(started.len());
        for mut lane in started {
            match lane.ready().map_err(|error| format!("{cell}: {error}"))? {
                Ok(()) => lanes.push(lane),
                Err(reason) => self.absent.push((lane.name, reason)),
            }
        }
        self.subjects.retain(|name| !self.absent.iter().any(|(absent, _)| absent == name));
        Ok(lanes)
    }

    /// Measures what depth costs: pktalloc in the deepest fifo queue beside pktalloc in the shallowest.
    pub(crate) fn measure_growth(&self, sizes: &Sizes) -> Result<Growth, String> {
        let start = |depth| {
            let queue = QueueCell { pattern: Pattern::Fifo, sizes: sizes.clone(), depth, touch: Touch::Untouched };
            Lane::start(Name::Pktalloc, &Cell::Queue(queue))
        };
        let mut lanes = [start(SHALLOW)?, start(DEEP)?];
        for lane in &mut lanes {
            lane.ready()??;
        }
        let [shallow, deep] = interleave(&mut lanes, 0..self.rounds)?.try_into().expect("two lanes have two figures");
        Ok(Growth { sizes: sizes.clone(), shallow, deep })
    }

    /// Measures all cells, and says on standard error how far it is.
    pub(crate) fn measure_all(&mut self, cells: &[Cell]) -> Result<Vec<Row>, String> {
        let begin = Instant::now();
        let mut rows = Vec::with_capacity(cells.len());
        for (done, cell) in cells.iter().enumerate() {
            if done.is_multiple_of(10) {
                eprintln!("{done} of {} cells after {:.0} s", cells.len(), begin.elapsed().as_secs_f64());
            }
            rows.push(self.measure(cell)?);
        }
        eprintln!("{0} of {0} cells after {1:.0} s", cells.len(), begin.elapsed().as_secs_f64());
        Ok(rows)
    }
}
