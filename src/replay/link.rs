//! A link in front of which packets queue: a list of moments at which one packet each may leave.

use std::path::{Path, PathBuf};

use super::error::{Error, Fault, Place};
use super::memory::push;
use super::progress::{Progress, Watch};
use super::source::Source;
use super::table::Table;

/// The columns of the file.
pub(super) const COLUMNS: &str = "dt_ms,count";
/// The most rows: a day of a link that may carry something every 20 ms.
const MAX_ROWS: u64 = 1 << 22;

const NANOSECONDS_PER_MILLISECOND: u64 = 1_000_000;

/// The departures of a link, which repeat for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    path: PathBuf,
    /// Times in nanoseconds, ascending, and how many packets (at least one) may leave at each.
    departures: Vec<(u64, u64)>,
    /// After how long they repeat.
    period: u64,
}

impl Link {
    /// Reads a CSV file of `dt_ms,count` rows, plain or compressed. The list repeats from its last row on.
    ///
    /// # Errors
    /// Everything of [`Error`] that has a path; [`Error::NoMemory`], [`Error::Interrupted`].
    pub fn load(path: &Path, progress: &mut Progress<'_>) -> Result<Self, Error> {
        let watch = Watch::new(progress);
        let link = Source::open(path, &watch)
            .map_err(|source| Error::Io { path: path.to_owned(), source })
            .and_then(|source| Self::read(path, source));
        if watch.stopped() { Err(Error::Interrupted) } else { link }
    }

    fn read(path: &Path, source: Source<'_>) -> Result<Self, Error> {
        let table = Table::open(path, source)?.filter(|table| table.columns() == COLUMNS);
        let mut table = table.ok_or_else(|| Error::NotALink { path: path.to_owned() })?;
        let mut departures = Vec::new();
        let (mut period, mut rows) = (0, 0);
        while let Some(row) = table.next()? {
            rows += 1;
            if rows > MAX_ROWS {
                let fault = Fault::Value {
                    name: "number of rows",
                    found: format!("more than {MAX_ROWS}"),
                    allowed: format!("up to {MAX_ROWS}"),
                };
                return Err(row.error(fault));
            }
            period = row.advance(period, "dt_ms", NANOSECONDS_PER_MILLISECOND)?;
            let count = row.number(1, "count", 0, u64::MAX, "0 or more")?;
            if count > 0 {
                push(&mut departures, (period, count), "the departures of the link")?;
            }
        }
        if departures.is_empty() {
            return Err(Error::Empty { path: path.to_owned(), what: "departures" });
        }
        if period == 0 {
            // Repeating at once, it would carry everything at no time.
            let fault = Fault::Malformed("all departures are at the same time");
            return Err(Error::Fault { path: path.to_owned(), place: Place::Line(2), fault });
        }
        Ok(Self { path: path.to_owned(), departures, period })
    }

    /// The file it was read from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The queue in front of the link, empty.
    pub(super) fn queue(&self) -> Queue<'_> {
        Queue { link: self, cycle: 0, row: 0, used: 0 }
    }
}

/// First come, first served: finds the departure of one packet after the other.
pub(super) struct Queue<'a> {
    link: &'a Link,
    /// How often the list has run out.
    cycle: u64,
    /// The row of the next departure that is not taken, and how many departures of the row are.
    row: usize,
    used: u64,
}

impl Queue<'_> {
    /// When a packet leaves that arrives now, not before any that arrived earlier: at the first free departure that
    /// is not before its arrival. Takes time logarithmic in the rows of the link.
    pub(super) fn departure(&mut self, arrival: u64) -> u64 {
        let Link { departures, period, .. } = self.link;
        // The last moment of one cycle is the first of the next; what arrives then may still take the last.
        let cycle = arrival.saturating_sub(1) / period;
        let row = departures.partition_point(|&(time, _)| time < arrival - cycle * period);
        if (cycle, row) > (self.cycle, self.row) {
            (self.cycle, self.row, self.used) = (cycle, row, 0);
        }
        if self.row == departures.len() {
            (self.cycle, self.row, self.used) = (self.cycle + 1, 0, 0);
        }
        let (time, count) = departures[self.row];
        let departure = self.cycle.saturating_mul(*period).saturating_add(time);
        self.used += 1;
        if self.used == count {
            (self.row, self.used) = (self.row + 1, 0);
        }
        departure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(departures: &[(u64, u64)], period: u64) -> Link {
        Link { path: PathBuf::new(), departures: departures.to_vec(), period }
    }

    fn departures(link: &Link, arrivals: &[u64]) -> Vec<u64> {
        let mut queue = link.queue();
        arrivals.iter().map(|&arrival| queue.departure(arrival)).collect()
    }

    #[test]
    fn one_packet_leaves_per_opportunity_in_order() {
        let link = link(&[(0, 2), (10, 1), (20, 3)], 20);
        assert_eq!(departures(&link, &[0, 0, 0, 0, 0, 0, 0]), [0, 0, 10, 20, 20, 20, 20]);
        assert_eq!(departures(&link, &[1, 10, 11]), [10, 20, 20]);
    }

    #[test]
    fn the_list_repeats() {
        let link = link(&[(5, 1)], 10);
        assert_eq!(departures(&link, &[0, 0, 0, 36, 36]), [5, 15, 25, 45, 55]);
        assert_eq!(departures(&link, &[1_000_000_000_000_000]), [1_000_000_000_000_005]);
    }

    #[test]
    fn the_last_moment_of_a_cycle_belongs_to_both() {
        let link = link(&[(0, 1), (10, 1)], 10);
        assert_eq!(departures(&link, &[10, 10, 10]), [10, 10, 20]);
    }

    /// The oracle walks every opportunity.
    #[test]
    fn agrees_with_a_walk() {
        let link = link(&[(0, 1), (3, 2), (4, 1), (9, 1)], 12);
        let mut opportunities = (0..20u64).flat_map(|cycle| {
            link.departures.iter().flat_map(move |&(time, count)| (0..count).map(move |_| cycle * 12 + time))
        });
        let arrivals = [0, 0, 1, 2, 2, 8, 12, 12, 13, 30, 31, 31, 31, 60, 96, 97];
        let walked: Vec<u64> =
            arrivals.iter().map(|&arrival| opportunities.find(|&time| time >= arrival).unwrap()).collect();
        assert_eq!(departures(&link, &arrivals), walked);
    }
}
