//! The runner's own closing counts, held against what the lines of a log say.
//!
//! A runner says at its end how many tests did what: `3 failed, 10 passed in 0.12s`, `Ran 12 tests`,
//! `test result: ok. 5 passed`. Whoever prints results past the runner seldom prints an end that
//! agrees. Under the strict rules such a log shows no result, otherwise it is named as a suspicion.

mod counts;
mod pytest;
pub(super) mod runs;
mod tally;
#[cfg(test)]
mod tests;
mod unittest;

use serde::Serialize;

pub use counts::{Closing, CountingRunner, Counts};

use super::StatusMap;
use super::context::Context;
use super::text::without_colours;

/// Why the closing of a runner and the lines of its tests do not go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Results, and no end of the run.
    #[error("the log names results, and the test runner's own closing counts are missing")]
    Missing,
    /// More ends than runs.
    #[error("the log has more closing counts of the test runner than runs")]
    Twice,
    /// Tests that passed after the end of the run.
    #[error("the log names results after the test runner's closing counts")]
    After,
    /// The end says something else.
    #[error("the test runner counts {said} {what}, and the log has {seen}")]
    Counts {
        /// What is counted, such as `passed`.
        what: &'static str,
        /// By the runner.
        said: u64,
        /// Lines of the log.
        seen: u64,
    },
    /// The test command names a file of results, and there is none that is whole.
    #[error("the file of results that the test command names is missing, or is not whole")]
    ResultsUnreadable,
    /// Tests of which the file of results says otherwise.
    #[error("of {tests} tests the file of results says otherwise than the log")]
    ResultsDiffer {
        /// How many.
        tests: u64,
    },
    /// Tests that passed and are not in the file of results.
    #[error("{tests} tests that passed are not in the file of results")]
    ResultsLack {
        /// How many.
        tests: u64,
    },
}

/// What a watcher found.
#[derive(Debug, Default)]
pub(super) struct Finding {
    /// The first thing that is wrong.
    pub fault: Option<Fault>,
    /// What the runner's own summary names, where it has one that agrees with its closing: then
    /// nothing else counts under the strict rules.
    pub summary: Option<StatusMap>,
    /// Tests that passed before the runner had printed its header.
    pub early: bool,
}

/// How a format reads a line.
type Parse = fn(&str, &mut StatusMap);

/// Follows the output of one kind of runner.
trait Watch {
    /// Takes a line without its end and without colours; `raw` is the line as it came.
    fn line(&mut self, line: &str, raw: &str);
    /// Takes the end of the output.
    fn finish(self: Box<Self>, map: &StatusMap) -> Finding;
}

/// Follows the output of the runner whose log a parser reads.
pub(super) struct Watcher(Box<dyn Watch>);

impl Watcher {
    /// Returns the watcher for a format, by the first of its parsers; `None` for runners that end
    /// without counts, and for those that only failures are read of.
    pub(super) fn new(
        format: &str,
        parse: Option<Parse>,
        context: &Context<'_>,
    ) -> Option<Watcher> {
        let pytest = [
            "parse_log_pytest",
            "parse_log_pytest_options",
            "parse_log_pytest_v2",
            "parse_log_matplotlib",
            "parse_log_seaborn",
        ];
        if let Some(parse) = parse.filter(|_| pytest.contains(&format)) {
            return Some(Watcher(Box::new(pytest::Pytest::new(parse, context))));
        }
        if format == "parse_log_django" {
            return Some(Watcher(Box::new(unittest::Unittest::new(context.runs))));
        }
        let runner = tally::RUNNERS.iter().find(|runner| runner.format == format)?;
        Some(Watcher(Box::new(tally::Tally::new(runner, context.runs))))
    }

    /// Takes a line without its end.
    pub(super) fn line(&mut self, raw: &str) {
        match raw.contains('\x1b') {
            true => self.0.line(&without_colours(raw), raw),
            false => self.0.line(raw, raw),
        }
    }

    /// Takes the end of the output, and what the lines say.
    pub(super) fn finish(self, map: &StatusMap) -> Finding {
        self.0.finish(map)
    }
}
