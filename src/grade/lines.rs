//! Lines of a log, as Python's text mode has them (`\n`, `\r\n` and `\r` end one), in bounded memory.
//!
//! A line that is longer than [`MAX_LINE`] comes in pieces, each of which begins with the last
//! [`OVERLAP`] bytes of the one before, so that what is looked for in every piece is never cut.

use std::io::{self, BufRead};

/// The longest piece. No test is called by more.
pub(super) const MAX_LINE: usize = 1 << 20;
/// More than the longest marker.
pub(super) const OVERLAP: usize = 64;

/// A line, or a piece of a long one.
pub(super) struct Piece<'a> {
    /// Without its end.
    pub bytes: &'a [u8],
    /// How many bytes at its beginning were in the piece before.
    pub seen: usize,
}

/// Reads lines.
pub(super) struct Lines<'r, R> {
    reader: &'r mut R,
    line: Vec<u8>,
    /// What `line` holds was handed out, and whether its line goes on.
    handed_out: Option<bool>,
    skip_newline: bool,
    ended: bool,
}

impl<'r, R: BufRead> Lines<'r, R> {
    /// Reads lines of `reader`.
    pub(super) fn new(reader: &'r mut R) -> Self {
        Lines { reader, line: Vec::new(), handed_out: None, skip_newline: false, ended: false }
    }

    /// Returns the next line or piece. The text after the last line end is a line, also when it is
    /// empty, as `split("\n")` has it.
    pub(super) fn next(&mut self) -> io::Result<Option<Piece<'_>>> {
        if self.ended {
            return Ok(None);
        }
        let seen = match self.handed_out.take() {
            Some(true) => {
                let keep = self.line.len() - OVERLAP;
                self.line.drain(..keep);
                OVERLAP
            }
            _ => {
                self.line.clear();
                0
            }
        };
        loop {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                self.ended = true;
                return Ok(Some(Piece { bytes: &self.line, seen }));
            }
            if std::mem::take(&mut self.skip_newline) && buffer[0] == b'\n' {
                self.reader.consume(1);
                continue;
            }
            let room = MAX_LINE - self.line.len();
            let part = &buffer[..buffer.len().min(room)];
            match memchr::memchr2(b'\n', b'\r', part) {
                Some(at) => {
                    self.line.extend_from_slice(&part[..at]);
                    self.skip_newline = part[at] == b'\r';
                    self.reader.consume(at + 1);
                    self.handed_out = Some(false);
                    return Ok(Some(Piece { bytes: &self.line, seen }));
                }
                None => {
                    let taken = part.len();
                    self.line.extend_from_slice(part);
                    self.reader.consume(taken);
                    if self.line.len() == MAX_LINE {
                        self.handed_out = Some(true);
                        return Ok(Some(Piece { bytes: &self.line, seen }));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &[u8]) -> Vec<String> {
        // A small buffer, so that every boundary falls somewhere.
        let mut reader = io::BufReader::with_capacity(3, text);
        let mut lines = Lines::new(&mut reader);
        let mut found = Vec::new();
        while let Some(piece) = lines.next().unwrap() {
            found.push(String::from_utf8_lossy(piece.bytes).into_owned());
        }
        found
    }

    #[test]
    fn all_three_line_ends_end_a_line() {
        assert_eq!(all(b"a\nb\r\nc\rd\r\r\ne"), ["a", "b", "c", "d", "", "e"]);
        assert_eq!(all(b"a\n"), ["a", ""]);
        assert_eq!(all(b""), [""]);
    }

    #[test]
    fn a_long_line_comes_in_pieces_that_overlap() {
        let text = vec![b'x'; MAX_LINE + 10];
        let mut reader = io::BufReader::new(text.as_slice());
        let mut lines = Lines::new(&mut reader);
        let first = lines.next().unwrap().unwrap();
        assert_eq!((first.bytes.len(), first.seen), (MAX_LINE, 0));
        let second = lines.next().unwrap().unwrap();
        assert_eq!((second.bytes.len(), second.seen), (OVERLAP + 10, OVERLAP));
        assert!(lines.next().unwrap().is_none());
    }
}
