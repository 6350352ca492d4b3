//! What the expected tests did, and how much of an instance is resolved.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{StatusMap, TestStatus};

/// Which results count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EvalType {
    /// A test that the log does not name has failed.
    PassAndFail,
    /// Only a test that the log names as failed has failed.
    FailOnly,
}

/// A word that is no [`EvalType`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither `pass_and_fail` nor `fail_only`")]
pub struct UnknownEvalType(String);

impl FromStr for EvalType {
    type Err = UnknownEvalType;

    fn from_str(text: &str) -> Result<Self, UnknownEvalType> {
        match text {
            "pass_and_fail" => Ok(EvalType::PassAndFail),
            "fail_only" => Ok(EvalType::FailOnly),
            other => Err(UnknownEvalType(other.to_owned())),
        }
    }
}

/// The tests that decide.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// Which results count.
    pub eval_type: EvalType,
    /// Tests that the patch must turn from failing to passing.
    pub fail_to_pass: &'a [String],
    /// Tests that must go on passing.
    pub pass_to_pass: &'a [String],
}

/// Tests of one list, by what they did. A test may be in neither, see [`TestStatus::Other`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// They did what they should.
    pub success: Vec<String>,
    /// They did not.
    pub failure: Vec<String>,
}

/// What the expected tests did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestsStatus {
    /// Of [`Expected::fail_to_pass`].
    #[serde(rename = "FAIL_TO_PASS")]
    pub fail_to_pass: Outcome,
    /// Of [`Expected::pass_to_pass`].
    #[serde(rename = "PASS_TO_PASS")]
    pub pass_to_pass: Outcome,
    /// Always empty; the harness writes it.
    #[serde(rename = "FAIL_TO_FAIL")]
    pub fail_to_fail: Outcome,
    /// Always empty; the harness writes it.
    #[serde(rename = "PASS_TO_FAIL")]
    pub pass_to_fail: Outcome,
}

/// How much of an instance is resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resolution {
    /// Every expected test did what it should.
    #[serde(rename = "RESOLVED_FULL")]
    Full,
    /// Some of FAIL_TO_PASS, and all of PASS_TO_PASS.
    #[serde(rename = "RESOLVED_PARTIAL")]
    Partial,
    /// Anything less.
    #[serde(rename = "RESOLVED_NO")]
    No,
}

impl std::fmt::Display for Resolution {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Resolution::Full => "RESOLVED_FULL",
            Resolution::Partial => "RESOLVED_PARTIAL",
            Resolution::No => "RESOLVED_NO",
        })
    }
}

/// Which of the two lists a test is judged for.
#[derive(Clone, Copy, PartialEq)]
enum List {
    FailToPass,
    PassToPass,
}

fn passes(status: &TestStatus) -> bool {
    matches!(status, TestStatus::Passed | TestStatus::XFail)
}

/// Finds what a log says of a test. Ids that the dataset cut off within their parameters (more `[`
/// than `]`) take what the ids say that begin with them, when those agree.
fn status_of<'a>(test: &str, map: &'a StatusMap) -> Option<&'a TestStatus> {
    if let Some(status) = map.get(test) {
        return Some(status);
    }
    let count = |bracket: char| test.matches(bracket).count();
    if count('[') <= count(']') {
        return None;
    }
    let mut found = map.iter().filter(|(name, _)| name.starts_with(test)).map(|(_, s)| s);
    let first = found.next()?;
    found.all(|status| passes(status) == passes(first)).then_some(first)
}

/// Tells whether a test did what it should; `None` where it counts as neither.
fn judge(test: &str, map: &StatusMap, eval_type: EvalType, list: List) -> Option<bool> {
    if eval_type == EvalType::FailOnly {
        return Some(map.get(test) != Some(&TestStatus::Failed));
    }
    match status_of(test, map) {
        None | Some(TestStatus::Failed | TestStatus::Error) => Some(false),
        Some(TestStatus::Passed | TestStatus::XFail) => Some(true),
        // A patch that makes tests skip does not resolve them, and breaks none.
        Some(TestStatus::Skipped) => Some(list == List::PassToPass),
        Some(TestStatus::Other(_)) => None,
    }
}

/// Compares what a log says with the expected lists.
pub fn tests_status(map: &StatusMap, expected: &Expected<'_>) -> TestsStatus {
    let sort = |tests: &[String], list: List| {
        let mut outcome = Outcome::default();
        for test in tests {
            match judge(test, map, expected.eval_type, list) {
                Some(true) => outcome.success.push(test.clone()),
                Some(false) => outcome.failure.push(test.clone()),
                None => {}
            }
        }
        outcome
    };
    TestsStatus {
        fail_to_pass: sort(expected.fail_to_pass, List::FailToPass),
        pass_to_pass: sort(expected.pass_to_pass, List::PassToPass),
        ..TestsStatus::default()
    }
}

impl Outcome {
    /// Tells whether all did what they should; an empty list counts as all.
    fn is_full(&self) -> bool {
        self.failure.is_empty()
    }
}

impl TestsStatus {
    /// Returns how much is resolved.
    pub fn resolution(&self) -> Resolution {
        match (self.fail_to_pass.is_full(), self.pass_to_pass.is_full()) {
            (true, true) => Resolution::Full,
            (false, true) if !self.fail_to_pass.success.is_empty() => Resolution::Partial,
            _ => Resolution::No,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entries: &[(&str, &str)]) -> StatusMap {
        let mut map = StatusMap::default();
        for (test, status) in entries {
            map.set(test, TestStatus::of(status));
        }
        map
    }

    fn grade(map: &StatusMap, f2p: &[&str], p2p: &[&str], eval_type: EvalType) -> TestsStatus {
        let list = |tests: &[&str]| tests.iter().map(|test| (*test).to_owned()).collect::<Vec<_>>();
        let (fail_to_pass, pass_to_pass) = (list(f2p), list(p2p));
        let expected =
            Expected { eval_type, fail_to_pass: &fail_to_pass, pass_to_pass: &pass_to_pass };
        tests_status(map, &expected)
    }

    #[test]
    fn an_expected_failure_passes_and_an_absent_test_fails() {
        let map = map(&[("a", "XFAIL"), ("b", "PASSED")]);
        let status = grade(&map, &["a"], &["b", "c"], EvalType::PassAndFail);
        assert_eq!(status.fail_to_pass.success, ["a"]);
        assert_eq!(status.pass_to_pass.failure, ["c"]);
        assert_eq!(status.resolution(), Resolution::No);
    }

    #[test]
    fn a_skipped_test_resolves_nothing_and_breaks_nothing() {
        let map = map(&[("a", "SKIPPED"), ("b", "SKIPPED"), ("c", "PASSED")]);
        let status = grade(&map, &["a", "c"], &["b"], EvalType::PassAndFail);
        assert_eq!(status.fail_to_pass.failure, ["a"]);
        assert_eq!(status.pass_to_pass.success, ["b"]);
        assert_eq!(status.resolution(), Resolution::Partial);
    }

    #[test]
    fn an_id_cut_off_in_its_parameters_takes_what_agreeing_ids_say() {
        let agree = map(&[("t[a, b]", "PASSED"), ("t[a, c]", "XFAIL")]);
        let cut = ["t[a, "];
        assert_eq!(grade(&agree, &cut, &[], EvalType::PassAndFail).fail_to_pass.success, cut);
        let differ = map(&[("t[a, b]", "PASSED"), ("t[a, c]", "FAILED")]);
        assert_eq!(grade(&differ, &cut, &[], EvalType::PassAndFail).fail_to_pass.failure, cut);
        let whole = map(&[("test_ab", "PASSED")]);
        assert_eq!(
            grade(&whole, &["test_a"], &[], EvalType::PassAndFail).fail_to_pass.failure,
            ["test_a"]
        );
    }

    #[test]
    fn with_fail_only_nothing_but_a_named_failure_fails() {
        let map = map(&[("a", "FAILED"), ("b", "ERROR"), ("d", "SKIPPED")]);
        let status = grade(&map, &["a", "b", "c", "d"], &[], EvalType::FailOnly);
        assert_eq!(status.fail_to_pass.failure, ["a"]);
        assert_eq!(status.fail_to_pass.success, ["b", "c", "d"]);
    }

    #[test]
    fn a_word_that_is_no_status_counts_as_neither() {
        let map = map(&[("a", "ERROR:")]);
        let status = grade(&map, &["a"], &[], EvalType::PassAndFail);
        assert_eq!(status.fail_to_pass, Outcome::default());
        assert_eq!(status.resolution(), Resolution::Full, "as the harness has it");
    }

    #[test]
    fn one_empty_list_counts_as_done() {
        let status = grade(&map(&[("a", "FAILED")]), &["a"], &[], EvalType::PassAndFail);
        assert_eq!(status.resolution(), Resolution::No);
        let status = grade(&map(&[("a", "PASSED")]), &[], &["a"], EvalType::PassAndFail);
        assert_eq!(status.resolution(), Resolution::Full);
    }
}
