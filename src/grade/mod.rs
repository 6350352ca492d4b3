//! Grading: from a log to what the expected tests did.
//!
//! The rules are those of `swebench` 5.0.2, name for name: [`read_log`] finds the output of the
//! tests between the markers and hands it to one of the [`logs`] parsers, [`tests_status`] compares
//! the map with the expected lists. A log is read as a stream, so memory does not depend on its
//! size. Pure: knows nothing of engines, files and the clock.

mod closing;
mod context;
pub mod family;
mod graded;
mod infra;
mod lines;
mod log_reader;
pub mod logs;
mod markers;
mod read_error;
pub mod results;
pub mod sentinel;
mod suspicion;
pub mod test_config;
mod text;
mod verdict;

use std::fmt;

use serde::{Serialize, Serializer};

pub use closing::{Closing, CountingRunner, Counts, Fault};
pub use context::Context;
pub use family::Family;
pub use graded::{Graded, Rules, RulesError, grade};
pub use infra::{InfraFailure, Tier, classify};
pub use log_reader::{
    NoResult, PATCH_FAILED, ParsedLog, ends_at_time_limit, read_log, time_limit_note,
};
pub use logs::{Parser, parser, parsers};
pub use read_error::ReadError;
pub use suspicion::Suspicion;
pub use verdict::{EvalType, Expected, Outcome, Resolution, TestsStatus, tests_status};

/// The status of one test in a log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TestStatus {
    /// `PASSED`.
    Passed,
    /// `FAILED`.
    Failed,
    /// `SKIPPED`.
    Skipped,
    /// `ERROR`.
    Error,
    /// `XFAIL`: failed, as it was expected to.
    XFail,
    /// A word that begins with one of the others, such as `ERROR:`. It counts neither as a success
    /// nor as a failure.
    Other(Box<str>),
}

impl TestStatus {
    /// The words that lines of a log begin or end with.
    pub const WORDS: [&'static str; 5] = ["FAILED", "PASSED", "SKIPPED", "ERROR", "XFAIL"];

    /// Reads a word of a log.
    pub fn of(word: &str) -> Self {
        match word {
            "PASSED" => TestStatus::Passed,
            "FAILED" => TestStatus::Failed,
            "SKIPPED" => TestStatus::Skipped,
            "ERROR" => TestStatus::Error,
            "XFAIL" => TestStatus::XFail,
            other => TestStatus::Other(other.into()),
        }
    }

    /// Returns the word as logs have it.
    pub fn as_str(&self) -> &str {
        match self {
            TestStatus::Passed => "PASSED",
            TestStatus::Failed => "FAILED",
            TestStatus::Skipped => "SKIPPED",
            TestStatus::Error => "ERROR",
            TestStatus::XFail => "XFAIL",
            TestStatus::Other(word) => word,
        }
    }
}

impl fmt::Display for TestStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for TestStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Tests with their statuses, in the order in which a log first names them; a later status
/// replaces an earlier one, but for [`StatusMap::strict`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatusMap {
    tests: indexmap::IndexMap<String, TestStatus>,
    worst: bool,
}

impl Serialize for StatusMap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.tests.serialize(serializer)
    }
}

impl StatusMap {
    /// Makes a map in which a failure is not replaced by what comes after it.
    pub fn strict() -> Self {
        StatusMap { worst: true, ..StatusMap::default() }
    }

    /// Sets the status of a test.
    pub fn set(&mut self, test: &str, status: TestStatus) {
        match self.tests.get_mut(test) {
            Some(TestStatus::Failed | TestStatus::Error) if self.worst => {}
            Some(old) => *old = status,
            None => {
                self.tests.insert(test.to_owned(), status);
            }
        }
    }

    /// Returns the status of a test.
    pub fn get(&self, test: &str) -> Option<&TestStatus> {
        self.tests.get(test)
    }

    /// Returns the tests in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &TestStatus)> {
        self.tests.iter().map(|(test, status)| (test.as_str(), status))
    }

    /// Tells whether no test is named.
    pub fn is_empty(&self) -> bool {
        self.tests.is_empty()
    }

    /// Returns how many tests are named.
    pub fn len(&self) -> usize {
        self.tests.len()
    }
}

/// Who graded, and by which rules: graders disagree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Grader {
    /// `imgforge`.
    pub name: &'static str,
    /// The version of imgforge.
    pub version: &'static str,
    /// The rules that were followed.
    pub rules: &'static str,
}

/// The grader that this program is.
pub const GRADER: Grader =
    Grader { name: "imgforge", version: env!("CARGO_PKG_VERSION"), rules: "swebench 5.0.2" };
