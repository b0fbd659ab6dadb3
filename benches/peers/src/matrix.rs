//! Measures cells: all subjects in interleaved rounds.

use std::time::Instant;

use crate::cell::Cell;
use crate::lane::Lane;
use crate::names::Name;

/// What a subject took in a cell, over all rounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figure {
    /// Nanoseconds per pair, the median of the rounds.
    pub(crate) median: f64,
    /// The quartiles' distance.
    pub(crate) spread: f64,
}

impl Figure {
    fn of(mut rounds: Vec<f64>) -> Self {
        rounds.sort_by(f64::total_cmp);
        Self { median: quantile(&rounds, 0.5), spread: quantile(&rounds, 0.75) - quantile(&rounds, 0.25) }
    }
}

/// The value below which `share` of the sorted values lie, between two values in proportion.
fn quantile(sorted: &[f64], share: f64) -> f64 {
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
    pub(crate) fn get(&self, name: Name) -> Option<Figure> {
        self.figures.iter().find(|(other, _)| *other == name).map(|(_, figure)| *figure)
    }
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
    pub(crate) fn measure(&mut self, cell: &Cell) -> Result<Row, String> {
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

        let mut rounds = vec![Vec::with_capacity(self.rounds); lanes.len()];
        for round in 0..self.rounds {
            // Each round begins with another subject, so that none always follows the same one.
            for turn in 0..lanes.len() {
                let index = (round + turn) % lanes.len();
                rounds[index].push(lanes[index].slice().map_err(|error| format!("{cell}: {error}"))?);
            }
        }
        let figures = lanes.iter().map(|lane| lane.name).zip(rounds.into_iter().map(Figure::of)).collect();
        Ok(Row { cell: cell.clone(), figures })
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
