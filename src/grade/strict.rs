//! The stricter frame of a log: only markers that the tests could not print count.
//!
//! Under the strict rules the script prints fences around the output of the tests, with a word that
//! nobody but root can read. [`reframe`] makes an ordinary log of it: what stands between the fences
//! becomes the output of the tests, and every marker that was printed by something else is spelled so
//! that it is none.

use std::io::{self, BufRead, Write};

use super::lines::Lines;

/// What markers begin with, and how it is spelled where it is none.
const MARK: &[u8] = b">>>>> ";
const NO_MARK: &[u8] = b">>>>- ";

/// What was found in a log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fenced {
    /// Both fences are there.
    pub whole: bool,
    /// Markers that were printed by something else.
    pub forged: usize,
}

/// The line before the output of the tests.
pub fn fence_start(word: &str) -> String {
    format!("imgforge-fence {word} start")
}

/// The line after it, without the exit status that follows.
pub fn fence_end(word: &str) -> String {
    format!("imgforge-fence {word} end ")
}

/// Copies a log with fences to one with the markers of the harness.
pub fn reframe(log: &mut impl BufRead, word: &str, out: &mut impl Write) -> io::Result<Fenced> {
    let (start, end) = (fence_start(word), fence_end(word));
    let mut fenced = Fenced::default();
    let mut started = false;
    let mut lines = Lines::new(log);
    let mut first = true;
    while let Some(piece) = lines.next()? {
        let fresh = &piece.bytes[piece.seen..];
        if piece.seen == 0 {
            if !std::mem::take(&mut first) {
                out.write_all(b"\n")?;
            }
            if piece.bytes == start.as_bytes() {
                started = true;
                out.write_all(b">>>>> Start Test Output")?;
                continue;
            }
            // The tests may have left a line without its end.
            if started && let Some(at) = memchr::memmem::find(piece.bytes, end.as_bytes()) {
                fenced.whole = true;
                plain(&piece.bytes[..at], out, &mut fenced)?;
                let code = String::from_utf8_lossy(&piece.bytes[at + end.len()..]).into_owned();
                write!(out, "\n>>>>> End Test Output\n>>>>> Test Exit Code: {code}")?;
                continue;
            }
        }
        plain(fresh, out, &mut fenced)?;
    }
    Ok(fenced)
}

/// Counts the markers of a log that [`reframe`] took for none.
pub fn forged(log: &mut impl BufRead) -> io::Result<usize> {
    let mut count = 0;
    let mut lines = Lines::new(log);
    while let Some(piece) = lines.next()? {
        let places = memchr::memmem::find_iter(piece.bytes, NO_MARK);
        count += places.filter(|at| at + NO_MARK.len() > piece.seen).count();
    }
    Ok(count)
}

fn plain(bytes: &[u8], out: &mut impl Write, fenced: &mut Fenced) -> io::Result<()> {
    let mut from = 0;
    for at in memchr::memmem::find_iter(bytes, MARK) {
        out.write_all(&bytes[from..at])?;
        out.write_all(NO_MARK)?;
        from = at + MARK.len();
        fenced.forged += 1;
    }
    out.write_all(&bytes[from..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_of_the_tests_themselves_are_no_markers() {
        let log = "+ git show\n>>>>> Start Test Output\nPASSED forged\nimgforge-fence w start\n\
                   PASSED a\n>>>>> End Test Output\nimgforge-fence x end 0\nFAILED b\nno end\
                   imgforge-fence w end 1\n>>>>> Test Exit Code: 0\n";
        let mut out = Vec::new();
        let fenced = reframe(&mut log.as_bytes(), "w", &mut out).unwrap();
        assert_eq!(fenced, Fenced { whole: true, forged: 3 });
        assert_eq!(forged(&mut out.as_slice()).unwrap(), 3);
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @r"
        + git show
        >>>>- Start Test Output
        PASSED forged
        >>>>> Start Test Output
        PASSED a
        >>>>- End Test Output
        imgforge-fence x end 0
        FAILED b
        no end
        >>>>> End Test Output
        >>>>> Test Exit Code: 1
        >>>>- Test Exit Code: 0
        ");
    }

    #[test]
    fn a_log_that_ends_early_has_no_end() {
        let mut out = Vec::new();
        let fenced = reframe(&mut "imgforge-fence w start\nx".as_bytes(), "w", &mut out).unwrap();
        assert!(!fenced.whole);
    }
}
