//! Lines of text, however they end, none longer than there is reason for.

use std::io::{self, BufRead};

/// The longest line. A row has four numbers; the first line may explain the columns.
pub(super) const MAX_LINE_BYTES: usize = 64 << 10;

/// Reads lines that end in LF, CR or both; counts them from 1.
pub(super) struct Lines<R> {
    reader: R,
    line: Vec<u8>,
    number: u64,
    /// The line before ended in CR: an LF that follows belongs to it.
    after_cr: bool,
    at_end: bool,
}

/// Why there is no next line.
#[derive(Debug)]
pub(super) enum LineError {
    Io(io::Error),
    TooLong,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, line: Vec::new(), number: 0, after_cr: false, at_end: false }
    }

    /// The number of the line that was read last (or that is too long).
    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    /// Whether the line that was read last has no end of its own: the file ends with it.
    pub(super) const fn at_end(&self) -> bool {
        self.at_end
    }

    /// The line that was read last.
    pub(super) fn line(&self) -> &[u8] {
        &self.line
    }

    pub(super) const fn reader(&self) -> &R {
        &self.reader
    }

    /// The next line, without its end.
    pub(super) fn next(&mut self) -> Result<Option<&[u8]>, LineError> {
        self.line.clear();
        self.number += 1;
        loop {
            let ahead = self.reader.fill_buf().map_err(LineError::Io)?;
            let Some(&first) = ahead.first() else {
                self.at_end = true;
                return Ok(if self.line.is_empty() { None } else { Some(&self.line) });
            };
            if core::mem::take(&mut self.after_cr) && first == b'\n' {
                self.reader.consume(1);
                continue;
            }
            let end = ahead.iter().position(|&byte| byte == b'\n' || byte == b'\r');
            let length = end.unwrap_or(ahead.len());
            if self.line.len() + length > MAX_LINE_BYTES {
                return Err(LineError::TooLong);
            }
            self.line.extend_from_slice(&ahead[..length]);
            if end.is_none() {
                self.reader.consume(length);
                continue;
            }
            self.after_cr = ahead[length] == b'\r';
            self.reader.consume(length + 1);
            return Ok(Some(&self.line));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    fn lines(text: &[u8], buffer: usize) -> Vec<String> {
        let mut lines = Lines::new(BufReader::with_capacity(buffer, text));
        let mut found = Vec::new();
        while let Some(line) = lines.next().unwrap() {
            found.push(String::from_utf8_lossy(line).into_owned());
        }
        found
    }

    #[test]
    fn every_end_of_a_line_is_one() {
        for buffer in 1..20 {
            assert_eq!(lines(b"a\nb\rc\r\nd\n\re", buffer), ["a", "b", "c", "d", "", "e"]);
            assert_eq!(lines(b"a\r\n\r\nb\r\r", buffer), ["a", "", "b", ""]);
            assert_eq!(lines(b"", buffer), [""; 0]);
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut lines = Lines::new(BufReader::new(io::repeat(b',')));
        assert!(matches!(lines.next(), Err(LineError::TooLong)));
        let longest = [&[b'x'; MAX_LINE_BYTES][..], b"\ny"].concat();
        let mut lines = Lines::new(&*longest);
        assert_eq!(lines.next().unwrap().unwrap().len(), MAX_LINE_BYTES);
        assert_eq!(lines.next().unwrap().unwrap(), b"y");
        assert_eq!(lines.number(), 2);
    }
}
