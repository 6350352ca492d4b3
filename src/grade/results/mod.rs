//! Results that a test runner wrote to a file, held against what the log says.
//!
//! Some test commands write JUnit's XML or pytest's report-log beside what they print. Under the
//! strict rules the engine takes these files when the tests have ended, and [`super::strict`] puts
//! them behind the frame of the log, so that a saved log can be compared again. Such a file is a second
//! witness and no guard: the user of the tests can write it. Whoever prints results past the runner
//! has to forge it as well.

mod junit;
mod report_log;

use std::collections::BTreeMap;

use super::closing::Fault;
use super::{StatusMap, TestStatus};

/// The most bytes that are taken of the files of a run.
pub const MOST: usize = 32 << 20;

/// How a file of results is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JUnit's XML, as pytest, Surefire, Gradle, PHPUnit, gotestsum and others write it.
    Junit,
    /// The lines of JSON of pytest-reportlog.
    ReportLog,
}

impl Format {
    const ALL: [(Format, &str); 2] = [(Format::Junit, "junit"), (Format::ReportLog, "report-log")];

    /// Returns its word in a log.
    pub fn as_str(self) -> &'static str {
        Format::ALL.iter().find(|(format, _)| *format == self).expect("all are listed").1
    }

    /// Reads its word.
    pub fn of(word: &str) -> Option<Format> {
        Format::ALL.iter().find(|(_, known)| *known == word).map(|(format, _)| *format)
    }
}

/// A file of results, as it stands in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResultsFile {
    /// Its format and content.
    Written(Format, Vec<u8>),
    /// The test command names one, and it is not there or is not whole.
    Missing,
}

/// What a file says of one test.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Case {
    /// The group and the test, or the whole id.
    name: String,
    /// The test without its group.
    short: String,
    status: CaseStatus,
}

/// How a test of a file ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CaseStatus {
    Passed,
    Failed,
    Skipped,
}

/// What the files say of the tests of one name.
#[derive(Debug, Clone, Copy, Default)]
struct Said {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Said {
    fn take(&mut self, status: CaseStatus) {
        match status {
            CaseStatus::Passed => self.passed += 1,
            CaseStatus::Failed => self.failed += 1,
            CaseStatus::Skipped => self.skipped += 1,
        }
    }

    fn is_none(self) -> bool {
        self.passed + self.failed + self.skipped == 0
    }
}

/// Holds the files of a run against the log's tests; returns in what way they do not go together.
pub(super) fn compare(files: &[ResultsFile], map: &StatusMap) -> Option<Fault> {
    let good = |status: &TestStatus| matches!(status, TestStatus::Passed | TestStatus::XFail);
    if files.is_empty() || !map.iter().any(|(_, status)| good(status)) {
        return None;
    }
    let mut cases = Vec::new();
    for file in files {
        let read = match file {
            ResultsFile::Written(Format::Junit, bytes) => junit::read(bytes),
            ResultsFile::Written(Format::ReportLog, bytes) => report_log::read(bytes),
            ResultsFile::Missing => None,
        };
        match read {
            Some(read) => cases.extend(read),
            None => return Some(Fault::ResultsUnreadable),
        }
    }
    let mut by_name: BTreeMap<&str, Said> = BTreeMap::new();
    let mut by_short: BTreeMap<&str, Said> = BTreeMap::new();
    let mut all = Said::default();
    for case in &cases {
        by_name.entry(&case.name).or_default().take(case.status);
        by_short.entry(&case.short).or_default().take(case.status);
        all.take(case.status);
    }
    let (mut known, mut unknown, mut other) = (0, 0, 0);
    for (test, status) in map.iter() {
        let said = find(test, &by_name, &by_short);
        known += u64::from(!said.is_none());
        match status {
            TestStatus::Passed => {
                unknown += u64::from(said.is_none());
                other += u64::from(!said.is_none() && (said.failed > 0 || said.passed == 0));
            }
            TestStatus::XFail => other += u64::from(said.failed > 0),
            _ => {}
        }
    }
    if other > 0 {
        return Some(Fault::ResultsDiffer { tests: other });
    }
    if known > 0 {
        return (unknown > 0).then_some(Fault::ResultsLack { tests: unknown });
    }
    // The file calls tests otherwise than the log: then only the numbers can be compared.
    let count = |wanted: fn(&TestStatus) -> bool| {
        map.iter().filter(|(_, status)| wanted(status)).count() as u64
    };
    let passed = count(|status| *status == TestStatus::Passed);
    let failed = count(|status| matches!(status, TestStatus::Failed | TestStatus::Error));
    if passed > all.passed {
        return Some(Fault::ResultsLack { tests: passed - all.passed });
    }
    (all.failed > 0 && failed == 0).then_some(Fault::ResultsDiffer { tests: all.failed })
}

/// Finds what the files say of a test of the log.
fn find(test: &str, by_name: &BTreeMap<&str, Said>, by_short: &BTreeMap<&str, Said>) -> Said {
    let of_group = junit::name_of_node(test);
    for name in [test, of_group.as_str()] {
        if let Some(said) = by_name.get(name) {
            return *said;
        }
    }
    // Parsers cut the id of a test with parameters at its first blank.
    if test.contains('[') && !test.ends_with(']') {
        let mut sum = Said::default();
        for name in [test, of_group.as_str()] {
            let cut = by_name.range(name..).take_while(|(known, _)| known.starts_with(name));
            for (_, said) in cut {
                sum.passed += said.passed;
                sum.failed += said.failed;
                sum.skipped += said.skipped;
            }
            if !sum.is_none() {
                return sum;
            }
        }
    }
    match test.contains("::") {
        true => Said::default(),
        // Other runners print the group in words of their own before the test.
        false => {
            let short = test.rsplit([' ', '>', '#', '.', ':']).next().unwrap_or(test);
            let found = [test, short].iter().find_map(|name| by_short.get(*name));
            found.copied().unwrap_or_default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(tests: &[(&str, &str)]) -> StatusMap {
        let mut map = StatusMap::strict();
        for (test, status) in tests {
            map.set(test, TestStatus::of(status));
        }
        map
    }

    fn written(text: &str) -> Vec<ResultsFile> {
        vec![ResultsFile::Written(Format::Junit, text.as_bytes().to_vec())]
    }

    const PYTEST: &str = r#"<?xml version="1.0"?><testsuites><testsuite name="pytest">
        <testcase classname="tests.test_a.TestX" name="test_b[1 2]" time="0.1"/>
        <testcase classname="tests.test_a" name="test_c"><failure message="no">x</failure></testcase>
        <testcase classname="tests.test_a" name="test_d"><skipped type="pytest.xfail"/></testcase>
        </testsuite></testsuites>"#;

    #[test]
    fn a_log_that_says_what_the_file_says_is_left_alone() {
        let log = [
            ("tests/test_a.py::TestX::test_b[1", "PASSED"),
            ("tests/test_a.py::test_c", "FAILED"),
            ("tests/test_a.py::test_d", "XFAIL"),
        ];
        assert_eq!(compare(&written(PYTEST), &map(&log)), None);
    }

    #[test]
    fn a_test_that_passed_in_the_log_alone_is_a_fault() {
        let forged = [("tests/test_a.py::test_c", "PASSED")];
        assert_eq!(
            compare(&written(PYTEST), &map(&forged)),
            Some(Fault::ResultsDiffer { tests: 1 })
        );
        let invented =
            [("tests/test_a.py::TestX::test_b[1", "PASSED"), ("tests/test_a.py::test_z", "PASSED")];
        assert_eq!(
            compare(&written(PYTEST), &map(&invented)),
            Some(Fault::ResultsLack { tests: 1 })
        );
        let skipped = [("tests/test_a.py::test_d", "PASSED")];
        assert_eq!(
            compare(&written(PYTEST), &map(&skipped)),
            Some(Fault::ResultsDiffer { tests: 1 })
        );
    }

    #[test]
    fn a_file_that_is_missing_or_cut_is_a_fault_where_tests_passed() {
        let passed = map(&[("a.py::b", "PASSED")]);
        assert_eq!(compare(&[ResultsFile::Missing], &passed), Some(Fault::ResultsUnreadable));
        let cut = written(&PYTEST[..PYTEST.len() - 20]);
        assert_eq!(compare(&cut, &passed), Some(Fault::ResultsUnreadable));
        assert_eq!(compare(&cut, &map(&[("a.py::b", "FAILED")])), None);
    }

    #[test]
    fn names_of_other_runners_are_found_by_their_last_word_and_else_counted() {
        let xml = r#"<testsuite><testcase classname="org.X" name="adds()"/>
            <testcase classname="org.X" name="fails()"><error/></testcase></testsuite>"#;
        let honest = [("X > adds()", "PASSED"), ("X > fails()", "FAILED")];
        assert_eq!(compare(&written(xml), &map(&honest)), None);
        let forged = [("X > adds()", "PASSED"), ("X > fails()", "PASSED")];
        assert_eq!(compare(&written(xml), &map(&forged)), Some(Fault::ResultsDiffer { tests: 1 }));
        let unlike = [("module one", "PASSED")];
        assert_eq!(compare(&written(xml), &map(&unlike)), Some(Fault::ResultsDiffer { tests: 1 }));
        let more = [("m 1", "PASSED"), ("m 2", "PASSED"), ("m 3", "FAILED")];
        assert_eq!(compare(&written(xml), &map(&more)), Some(Fault::ResultsLack { tests: 1 }));
    }

    #[test]
    fn a_report_log_is_compared_by_the_ids_of_its_tests() {
        let lines = concat!(
            r#"{"pytest_version": "8.3", "$report_type": "SessionStart"}"#,
            "\n",
            r#"{"nodeid": "t.py::a", "when": "setup", "outcome": "passed", "$report_type": "TestReport"}"#,
            "\n",
            r#"{"nodeid": "t.py::a", "when": "call", "outcome": "passed", "$report_type": "TestReport"}"#,
            "\n",
            r#"{"nodeid": "t.py::a", "when": "teardown", "outcome": "failed", "$report_type": "TestReport"}"#,
            "\n",
            r#"{"nodeid": "t.py::b", "when": "call", "outcome": "passed", "$report_type": "TestReport"}"#,
            "\n",
            r#"{"exitstatus": 0, "$report_type": "SessionFinish"}"#,
            "\n"
        );
        let file = [ResultsFile::Written(Format::ReportLog, lines.as_bytes().to_vec())];
        let said = |tests| compare(&file, &map(tests));
        assert_eq!(said(&[("t.py::b", "PASSED")]), None);
        assert_eq!(said(&[("t.py::a", "PASSED")]), Some(Fault::ResultsDiffer { tests: 1 }));
        let cut = [ResultsFile::Written(Format::ReportLog, lines.as_bytes()[..200].to_vec())];
        assert_eq!(compare(&cut, &map(&[("t.py::b", "PASSED")])), Some(Fault::ResultsUnreadable));
    }
}
