//! The ways in which other families of datasets compare a log with what is expected.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Expected, Outcome, StatusMap, TestStatus, TestsStatus, text};

/// Whose rules are followed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// SWE-bench: the lists of the row, as `swebench` 5.0.2 compares them.
    #[default]
    Swebench,
    /// SWE-smith: test files are those of the repository, names may lack their file, and every
    /// listed test must pass.
    Swesmith,
    /// R2E: the row has the whole expected output, and nothing may differ from it.
    R2e,
}

impl Family {
    /// Returns the name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Family::Swebench => "swebench",
            Family::Swesmith => "swesmith",
            Family::R2e => "r2e",
        }
    }
}

/// Compares as SWE-smith does: `test` and `file::test` name the same test.
pub(super) fn swesmith(map: &StatusMap, expected: &Expected<'_>) -> TestsStatus {
    let mut by_name: BTreeMap<&str, Vec<&TestStatus>> = BTreeMap::new();
    for (test, status) in map.iter() {
        let name = test.split_once("::").map_or(test, |(_, name)| name);
        by_name.entry(name).or_default().push(status);
    }
    let passes = |test: &str| {
        let good = |status: &&TestStatus| matches!(status, TestStatus::Passed | TestStatus::XFail);
        if let Some(status) = map.get(test) {
            return good(&status);
        }
        let found = match test.split_once("::") {
            // The log may name the test without its file.
            Some((_, name)) => map.get(name).map(|status| vec![status]),
            None => by_name.get(test).cloned(),
        };
        found.is_some_and(|found| found.iter().all(good))
    };
    let sort = |tests: &[String]| {
        let (success, failure) = tests.iter().cloned().partition(|test| passes(test));
        Outcome { success, failure }
    };
    TestsStatus {
        fail_to_pass: sort(expected.fail_to_pass),
        pass_to_pass: sort(expected.pass_to_pass),
        ..TestsStatus::default()
    }
}

/// Compares as R2E does: colours and what follows ` - ` are no part of a name, and neither is the
/// file. Tests that are expected and did what they should are successes; those that did not, and
/// those that nobody expected, are failures.
pub(super) fn r2e(map: &StatusMap, expected: &BTreeMap<String, String>) -> TestsStatus {
    let normal = |name: &str| {
        let name = text::without_colours(name);
        let name = name.split(" - ").next().unwrap_or_default().to_owned();
        match name.split_once("::") {
            Some((_, rest)) => rest.replace("::", "."),
            None => name,
        }
    };
    let found: BTreeMap<String, &str> =
        map.iter().map(|(test, status)| (normal(test), status.as_str())).collect();
    let expected: BTreeMap<String, &str> =
        expected.iter().map(|(test, status)| (normal(test), status.as_str())).collect();
    let mut outcome = Outcome::default();
    for (test, status) in expected.iter().filter(|(test, _)| !test.is_empty()) {
        if found.get(test) == Some(status) {
            outcome.success.push(test.clone());
        } else {
            outcome.failure.push(test.clone());
        }
    }
    let strangers = found.keys().filter(|test| !test.is_empty() && !expected.contains_key(*test));
    outcome.failure.extend(strangers.cloned());
    TestsStatus { fail_to_pass: outcome, ..TestsStatus::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grade::{EvalType, Resolution};

    fn map(entries: &[(&str, &str)]) -> StatusMap {
        let mut map = StatusMap::default();
        for (test, status) in entries {
            map.set(test, TestStatus::of(status));
        }
        map
    }

    #[test]
    fn swesmith_takes_a_test_by_its_name_alone_when_all_of_that_name_pass() {
        let map = map(&[("t/a.py::x", "PASSED"), ("t/b.py::y", "PASSED"), ("t/c.py::y", "FAILED")]);
        let (fail_to_pass, pass_to_pass) =
            (vec!["x".to_owned(), "t/a.py::x".to_owned()], vec!["y".to_owned(), "z".to_owned()]);
        let expected = Expected {
            eval_type: EvalType::PassAndFail,
            fail_to_pass: &fail_to_pass,
            pass_to_pass: &pass_to_pass,
        };
        let status = swesmith(&map, &expected);
        assert_eq!(status.fail_to_pass.success, ["x", "t/a.py::x"]);
        assert_eq!(status.pass_to_pass.failure, ["y", "z"]);
    }

    #[test]
    fn r2e_wants_exactly_what_is_expected() {
        let expected = |tests: &[(&str, &str)]| -> BTreeMap<String, String> {
            tests.iter().map(|(test, status)| ((*test).into(), (*status).into())).collect()
        };
        let log = map(&[("t/a.py::T::x", "PASSED"), ("t/a.py::y - boom", "FAILED")]);
        let same = expected(&[("\u{1b}[1mT.x\u{1b}[0m", "PASSED"), ("y", "FAILED")]);
        assert_eq!(r2e(&log, &same).resolution(), Resolution::Full);
        let fewer = expected(&[("T.x", "PASSED")]);
        assert_eq!(r2e(&log, &fewer).fail_to_pass.failure, ["y"]);
        let other = expected(&[("T.x", "PASSED"), ("y", "PASSED")]);
        assert_eq!(r2e(&log, &other).fail_to_pass.failure, ["y"]);
    }
}
