//! What looks wrong in a log, whatever the verdict.
//!
//! The default rules are the harness's, which believes what a log says. What a log of a real run does
//! not have is named in every report: the verdict stays, and a person can look.

use serde::Serialize;

use super::closing::Fault;

/// Something that the log of an honest run does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case", tag = "code")]
pub enum Suspicion {
    /// More than one start of the tests.
    #[error("several_frames: the log has {count} starts of the tests, and a script has one")]
    SeveralFrames {
        /// How many.
        count: usize,
    },
    /// An end, or an exit status, before the tests began.
    #[error("markers_before_tests: markers of the end stand before the tests begin")]
    MarkersBeforeTests,
    /// Tests that passed before the test runner had said anything.
    #[error("early_results: results stand before the test runner's own header")]
    EarlyResults,
    /// The test runner's own counts and the lines do not go together.
    #[error("closing: {fault}")]
    Closing {
        /// In what way.
        #[serde(skip)]
        fault: Fault,
    },
}

/// Counts the marks of a frame, as they come.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Marks of the start that the shell traced, that it traced of an `echo`, and that were printed.
    traced: usize,
    echoed: usize,
    printed: usize,
    ended: bool,
    /// An end before the last start.
    early_end: bool,
}

impl Frames {
    /// Takes a mark of the start; `before` is what stands before it on its line.
    pub(super) fn start(&mut self, before: &[u8]) {
        self.early_end |= self.ended;
        let before = before.trim_ascii_end();
        let traced = |word: &[u8]| {
            let before = before.strip_suffix(b"'").unwrap_or(before).trim_ascii_end();
            before.strip_suffix(word).is_some_and(|rest| {
                !rest.is_empty() && rest.trim_ascii_end().iter().all(|byte| *byte == b'+')
            })
        };
        if traced(b":") {
            self.traced += 1;
        } else if traced(b"echo") {
            self.echoed += 1;
        } else {
            self.printed += 1;
        }
    }

    /// Takes a mark of the end, or of the exit status.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    /// Lists what is suspicious.
    pub(super) fn suspicions(&self) -> Vec<Suspicion> {
        // An `echo` is traced and then prints.
        let count = self.traced + self.printed.max(self.echoed);
        let mut found = Vec::new();
        if count > 1 {
            found.push(Suspicion::SeveralFrames { count });
        }
        if self.early_end {
            found.push(Suspicion::MarkersBeforeTests);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(starts: &[&str]) -> usize {
        let mut frames = Frames::default();
        for start in starts {
            frames.start(start.as_bytes());
        }
        frames.suspicions().len()
    }

    #[test]
    fn the_frame_of_a_script_is_one_however_it_prints_it() {
        for one in [&["+ : '"][..], &[""], &["+ echo '", ""], &["++ : '"]] {
            assert_eq!(of(one), 0, "{one:?}");
        }
        for more in [&["+ : '", ""][..], &["", "+ : '"], &["", ""], &["+ echo '", "", ""]] {
            assert_eq!(of(more), 1, "{more:?}");
        }
    }

    #[test]
    fn an_end_before_the_tests_is_suspicious() {
        let mut frames = Frames::default();
        frames.start(b"+ : '");
        frames.end();
        assert!(frames.suspicions().is_empty());
        frames.start(b"+ : '");
        assert!(frames.suspicions().contains(&Suspicion::MarkersBeforeTests));
    }
}
