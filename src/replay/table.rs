//! Text files of rows under a first line that names the columns: packets, the departures of a link, calls.

use std::io::BufReader;
use std::path::Path;

use super::error::{Error, Fault, Place};
use super::lines::{LineError, Lines, MAX_LINE_BYTES};
use super::source::{Source, Tail};

/// How much of a wrong value an error repeats.
const MAX_QUOTED_CHARS: usize = 32;
/// The most columns that a format has, and one more to see that a row has too many.
const MAX_COLUMNS: usize = 5;
/// How much is read at a time.
const BUFFER_BYTES: usize = 64 << 10;

/// The rows of a text file.
pub(super) struct Table<'a, 'w> {
    path: &'a Path,
    /// The column names, separated by commas.
    columns: String,
    expected: usize,
    lines: Lines<BufReader<Source<'w>>>,
}

impl<'a, 'w> Table<'a, 'w> {
    /// Reads the first line; `None` if it names no columns.
    pub(super) fn open(path: &'a Path, source: Source<'w>) -> Result<Option<Self>, Error> {
        if source.head().is_empty() {
            if let Some(Tail::CutOff { .. }) = source.tail() {
                return Err(Error::Fault { path: path.to_owned(), place: Place::Byte(0), fault: Fault::CutOff });
            }
            return Err(Error::Empty { path: path.to_owned(), what: "bytes" });
        }
        let mut lines = Lines::new(BufReader::with_capacity(BUFFER_BYTES, source));
        let columns = match lines.next() {
            Ok(Some(line)) => columns(line),
            // Text, but nothing of ours, if not even its first line ends.
            Ok(None) | Err(LineError::TooLong) => None,
            Err(LineError::Io(source)) => return Err(Error::Io { path: path.to_owned(), source }),
        };
        Ok(columns.map(|columns| {
            let expected = columns.split(',').count();
            Self { path, columns, expected, lines }
        }))
    }

    /// The names of the columns, separated by commas.
    pub(super) fn columns(&self) -> &str {
        &self.columns
    }

    /// The next row. Empty lines and comments are passed over.
    pub(super) fn next(&mut self) -> Result<Option<Row<'_>>, Error> {
        // Until the borrow checker accepts a row returned from within a loop, the loop ends before the row is made.
        loop {
            match self.lines.next() {
                Ok(None) => return self.end().map(|()| None),
                Ok(Some(line)) if line.is_empty() || line[0] == b'#' => {}
                Ok(Some(_)) => break,
                Err(LineError::Io(source)) => return Err(Error::Io { path: self.path.to_owned(), source }),
                Err(LineError::TooLong) => {
                    let fault = Fault::Value {
                        name: "length of the line",
                        found: format!("more than {MAX_LINE_BYTES} bytes"),
                        allowed: format!("up to {MAX_LINE_BYTES} bytes"),
                    };
                    return Err(self.fault(fault));
                }
            }
        }
        if self.lines.at_end() {
            self.end()?;
        }
        let (line, number) = (self.lines.line(), self.lines.number());
        let mut row = Row { path: self.path, line: number, columns: [&[]; MAX_COLUMNS], count: self.expected };
        let mut found = 0;
        for column in line.split(|&byte| byte == b',') {
            if let Some(place) = row.columns.get_mut(found) {
                *place = column.trim_ascii();
            }
            found += 1;
        }
        if found != self.expected {
            return Err(row.error(Fault::Columns { found, expected: self.expected }));
        }
        Ok(Some(row))
    }

    /// Behind the last row: text that is cut off has lost rows, or has half a number in its last one.
    fn end(&self) -> Result<(), Error> {
        match self.lines.reader().get_ref().tail() {
            Some(Tail::CutOff { .. }) => Err(self.fault(Fault::CutOff)),
            _ => Ok(()),
        }
    }

    fn fault(&self, fault: Fault) -> Error {
        Error::Fault { path: self.path.to_owned(), place: Place::Line(self.lines.number()), fault }
    }
}

/// The column names of a first line such as `# dt_us,size,life_us,kind(A=acked) free text`.
fn columns(line: &[u8]) -> Option<String> {
    let text = core::str::from_utf8(line).ok()?.trim_start_matches(['\u{feff}', '#', ' ']);
    let names = text.split([' ', '(', '\t']).next()?;
    (!names.is_empty()).then(|| names.to_owned())
}

/// One row, and where it stands.
pub(super) struct Row<'a> {
    path: &'a Path,
    line: u64,
    columns: [&'a [u8]; MAX_COLUMNS],
    count: usize,
}

impl Row<'_> {
    /// Whether the file has so many columns that this is one of them.
    pub(super) const fn has(&self, column: usize) -> bool {
        column < self.count
    }

    /// The text of a column; empty for one that the file does not have.
    pub(super) fn text(&self, column: usize) -> &[u8] {
        self.columns[column]
    }

    /// The whole number in a column, from `least` to `most`.
    pub(super) fn number(
        &self,
        column: usize,
        name: &'static str,
        least: u64,
        most: u64,
        allowed: &str,
    ) -> Result<u64, Error> {
        let text = core::str::from_utf8(self.text(column)).ok();
        text.and_then(|text| text.parse().ok())
            .filter(|number| (least..=most).contains(number))
            .ok_or_else(|| self.fault(column, name, allowed))
    }

    /// The time of this row: `clock` and the step in the first column, which counts in `unit` nanoseconds.
    pub(super) fn advance(&self, clock: u64, name: &'static str, unit: u64) -> Result<u64, Error> {
        let room = (u64::MAX - clock) / unit;
        Ok(clock + self.number(0, name, 0, room, "0 or more, and 584 years in all")? * unit)
    }

    /// A value that is not one of those allowed.
    pub(super) fn fault(&self, column: usize, name: &'static str, allowed: &str) -> Error {
        let text = String::from_utf8_lossy(self.text(column));
        let found = match text.char_indices().nth(MAX_QUOTED_CHARS) {
            Some((end, _)) => format!("`{}...`", text[..end].escape_debug()),
            None => format!("`{}`", text.escape_debug()),
        };
        self.error(Fault::Value { name, found, allowed: allowed.to_owned() })
    }

    pub(super) fn error(&self, fault: Fault) -> Error {
        Error::Fault { path: self.path.to_owned(), place: Place::Line(self.line), fault }
    }
}
