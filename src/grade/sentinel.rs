//! The log of a strict evaluation, put together of its parts.
//!
//! Under the strict rules the output of the tests comes on a channel of its own, and their exit
//! status from the engine. [`compose`] makes an ordinary log of the parts: one frame, around what
//! the tests printed, and every marker that somebody printed spelled so that it is none.

use std::io::{self, BufRead, Read, Write};

use super::lines::Lines;
use super::results::{Format, MOST, ResultsFile};

/// What markers begin with, and how it is spelled where it is none.
const MARK: &[u8] = b">>>>> ";
const NO_MARK: &[u8] = b">>>>- ";

/// The start of the line that a file of results follows.
pub(super) const RESULTS: &str = ">>>>> Test Results: ";
/// Its end where the file is missing.
const MISSING: &str = "missing";

/// The tests of a run.
pub struct Tests<'a> {
    /// What they printed.
    pub output: &'a mut dyn Read,
    /// How their command ended; `None` where it did not.
    pub exit_code: Option<i64>,
    /// The files of results that they wrote, and those that they should have written.
    pub results: &'a [ResultsFile],
}

/// Writes a log: what came before the tests, and where they ran, what came of them. Readers of the
/// harness read no further than the end of the frame.
pub fn compose(
    before: &mut impl Read,
    tests: Option<Tests<'_>>,
    out: &mut impl Write,
) -> io::Result<()> {
    respell(before, out)?;
    let Some(tests) = tests else { return Ok(()) };
    out.write_all(b"\n>>>>> Start Test Output\n")?;
    respell(tests.output, out)?;
    if let Some(code) = tests.exit_code {
        write!(out, "\n>>>>> End Test Output\n>>>>> Test Exit Code: {code}\n")?;
    }
    for file in tests.results {
        match file {
            ResultsFile::Written(format, content) => {
                writeln!(out, "\n{RESULTS}{}", format.as_str())?;
                respell(&mut content.as_slice(), out)?;
            }
            ResultsFile::Missing => writeln!(out, "\n{RESULTS}{MISSING}")?,
        }
    }
    Ok(())
}

/// Collects the files of results of a log, line by line.
#[derive(Debug, Default)]
pub(super) struct ResultsFiles(Vec<ResultsFile>);

impl ResultsFiles {
    /// Takes the rest of a line that begins with [`RESULTS`]: a file begins.
    pub(super) fn begin(&mut self, rest: &[u8]) {
        let format = std::str::from_utf8(rest.trim_ascii()).ok().and_then(Format::of);
        self.0.push(match format {
            Some(format) => ResultsFile::Written(format, Vec::new()),
            None => ResultsFile::Missing,
        });
    }

    /// Takes a line, or a further piece of one.
    pub(super) fn line(&mut self, bytes: &[u8], begins: bool) {
        let Some(ResultsFile::Written(_, content)) = self.0.last_mut() else { return };
        // Nothing that a run writes is longer.
        if content.len() < 2 * MOST {
            content.extend((begins && !content.is_empty()).then_some(b'\n'));
            content.extend_from_slice(bytes);
        }
    }

    /// Returns them.
    pub(super) fn finish(self) -> Vec<ResultsFile> {
        self.0
    }
}

/// Copies output in which no marker stays one.
fn respell(from: &mut (impl Read + ?Sized), out: &mut impl Write) -> io::Result<()> {
    let mut held = Vec::new();
    let mut piece = vec![0; 1 << 16];
    loop {
        let count = match from.read(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        held.extend_from_slice(&piece[..count]);
        let mut done = 0;
        for at in memchr::memmem::find_iter(&held, MARK) {
            out.write_all(&held[done..at])?;
            out.write_all(NO_MARK)?;
            done = at + MARK.len();
        }
        // The beginning of a marker may have come.
        let sure = if count == 0 { held.len() } else { held.len().saturating_sub(MARK.len() - 1) };
        if sure > done {
            out.write_all(&held[done..sure])?;
            done = sure;
        }
        held.drain(..done);
        if count == 0 {
            return Ok(());
        }
    }
}

/// Counts the markers of a log that [`compose`] spelled so that they are none.
pub fn forged(log: &mut impl BufRead) -> io::Result<usize> {
    let mut count = 0;
    let mut lines = Lines::new(log);
    while let Some(piece) = lines.next()? {
        let places = memchr::memmem::find_iter(piece.bytes, NO_MARK);
        count += places.filter(|at| at + NO_MARK.len() > piece.seen).count();
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_frame_stands_around_the_tests_whatever_they_print() {
        let before = "+ git show\n>>>>> Start Test Output\nPASSED forged\r>>>>> End Test Output\n";
        let tests = "PASSED a\n>>>>> End Test Output\n>>>>> Test Exit Code: 0\nno end";
        let mut out = Vec::new();
        let tests = Tests { output: &mut tests.as_bytes(), exit_code: Some(1), results: &[] };
        compose(&mut before.as_bytes(), Some(tests), &mut out).unwrap();
        assert_eq!(forged(&mut out.as_slice()).unwrap(), 4);
        insta::assert_snapshot!(String::from_utf8(out).unwrap().replace('\r', "<CR>"), @r"
        + git show
        >>>>- Start Test Output
        PASSED forged<CR>>>>>- End Test Output

        >>>>> Start Test Output
        PASSED a
        >>>>- End Test Output
        >>>>- Test Exit Code: 0
        no end
        >>>>> End Test Output
        >>>>> Test Exit Code: 1
        ");
    }

    #[test]
    fn tests_that_did_not_end_have_no_end() {
        let mut out = Vec::new();
        let tests = Tests { output: &mut &b"PASSED a\n"[..], exit_code: None, results: &[] };
        compose(&mut &b"x\n"[..], Some(tests), &mut out).unwrap();
        assert_eq!(out, b"x\n\n>>>>> Start Test Output\nPASSED a\n");
    }

    #[test]
    fn a_marker_is_found_however_it_is_cut() {
        /// Gives its bytes one by one.
        struct Drops<'a>(&'a [u8]);
        impl Read for Drops<'_> {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                let count = self.0.len().min(1);
                into[..count].copy_from_slice(&self.0[..count]);
                self.0 = &self.0[count..];
                Ok(count)
            }
        }
        let mut out = Vec::new();
        respell(&mut Drops(b"a >>>>>>> x>>>>> >>>>"), &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "a >>>>>>- x>>>>- >>>>");
    }
}
