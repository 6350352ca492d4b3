//! What the calls of a sandbox return, by the names of the Python package.

use std::collections::BTreeMap;

use serde::Serialize;

use super::outcome::Outcome;

/// How a command ended, and what it printed; what is not UTF-8 is replaced.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExecResult {
    /// The command, as words of a shell.
    pub command: String,
    /// The exit code; 128 and the signal where one ended it, 126 or 127 where it could not be started, -1 at
    /// the time limit.
    pub returncode: i32,
    /// The standard output.
    pub stdout: String,
    /// The standard error. It ends in `TIMEOUT after 60s` at the time limit.
    pub stderr: String,
    /// From its start to its end.
    pub elapsed_seconds: f64,
    /// Whether it was ended at the time limit.
    pub timed_out: bool,
    /// Whether it, or a process that it started, was killed for memory; the code may be 0 then.
    pub out_of_memory: bool,
    /// Whether only the end of an output was kept.
    pub truncated: bool,
}

impl ExecResult {
    /// Tells whether it ended by itself with code 0, and nothing of it was killed for memory.
    pub fn is_success(&self) -> bool {
        self.returncode == 0 && !self.timed_out && !self.out_of_memory
    }
}

/// Where results of tests come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The channel that the tests cannot take anything back from.
    Channel,
    /// What `pytest -v` printed.
    Text,
}

/// What became of tests. Each test that ran is in one of the lists, by its id.
///
/// What is in no list did not run to its end: `missing` has those that were asked for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TestResult {
    /// Tests whose setup, call and teardown passed, each time that they ran.
    pub passed: Vec<String>,
    /// Tests that failed.
    pub failed: Vec<String>,
    /// Tests whose setup or teardown failed, and files that could not be collected.
    pub errors: Vec<String>,
    /// Tests that were skipped.
    pub skipped: Vec<String>,
    /// Tests that failed as they were expected to.
    pub xfailed: Vec<String>,
    /// Tests that were expected to fail, and passed.
    pub xpassed: Vec<String>,
    /// Tests that were asked for, and have no result.
    pub missing: Vec<String>,
    /// What the test runner printed.
    pub raw_output: String,
    /// From the start of the test runner to its end.
    pub elapsed_seconds: f64,
    /// Whether it was ended at the time limit.
    pub timed_out: bool,
    /// Whether something was killed for memory: then there is no verdict.
    pub out_of_memory: bool,
    /// Whether the test runner came to its end by itself.
    pub complete: bool,
    /// The exit code of the test runner; `None` where it was killed.
    pub returncode: Option<i32>,
    /// Where the results come from.
    pub source: Source,
    /// What does not fit together, in sentences: read the patch where there are any.
    pub problems: Vec<String>,
}

impl TestResult {
    /// Tells whether at least one test ran, all that ran passed, and none is missing. Tests that were skipped,
    /// or failed as they were expected to, do not count.
    pub fn all_passed(&self) -> bool {
        let lists = [&self.failed, &self.errors, &self.missing, &self.problems];
        let is_whole = self.complete && !self.timed_out && !self.out_of_memory;
        !self.passed.is_empty() && lists.iter().all(|list| list.is_empty()) && is_whole
    }

    /// Tells of each test whether it passed. One without parameters, of a class or of a file stands for all
    /// tests below it: it passed if at least one ran and all passed. A skipped test, an expected failure and
    /// an unexpected pass are no passes.
    pub fn asked(&self, tests: &Tests) -> BTreeMap<String, bool> {
        tests.ids().iter().map(|test| (test.clone(), self.has_passed(test))).collect()
    }

    fn has_passed(&self, asked: &str) -> bool {
        let others = [&self.failed, &self.errors, &self.skipped, &self.xfailed, &self.xpassed];
        let mut wrong = others.into_iter().flatten();
        !wrong.any(|test| is_below(test, asked))
            && self.passed.iter().any(|test| is_below(test, asked))
    }

    /// Returns the list that tests of an outcome are in.
    pub(super) fn list(&mut self, outcome: Outcome) -> &mut Vec<String> {
        match outcome {
            Outcome::Passed => &mut self.passed,
            Outcome::Xpassed => &mut self.xpassed,
            Outcome::Skipped => &mut self.skipped,
            Outcome::Xfailed => &mut self.xfailed,
            Outcome::Error => &mut self.errors,
            Outcome::Failed => &mut self.failed,
        }
    }
}

/// Tells whether a test is meant by an id: it is the same, or below it.
pub(super) fn is_below(test: &str, asked: &str) -> bool {
    match test.strip_prefix(asked) {
        Some(rest) => rest.is_empty() || rest.starts_with(['[', ':', '/']),
        None => false,
    }
}

/// Ids of tests that are to be run, as pytest writes them from the repository:
/// `tests/test_a.py::test_b[1]`. There is at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tests(Vec<String>);

/// Why texts are no tests to run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTests {
    /// There are none.
    #[error("no tests are named: nothing would be proved; name at least one")]
    None,
    /// One is no id.
    #[error("`{0}` is no id of a test: write `tests/test_a.py::test_b`, from the repository")]
    NoId(String),
}

impl Tests {
    /// Checks ids; equal ones are one.
    pub fn new<T: AsRef<str>>(ids: impl IntoIterator<Item = T>) -> Result<Tests, BadTests> {
        let mut tests: Vec<String> = Vec::new();
        for id in ids {
            let id = id.as_ref();
            let file = id.split_once("::").map_or(id, |(file, _)| file);
            let leads_out = file.is_empty()
                || file.starts_with(['/', '-'])
                || file.split('/').any(|part| part == "..")
                || id.contains('\0');
            let normal = normal(id);
            if leads_out || normal.is_empty() {
                return Err(BadTests::NoId(id.to_owned()));
            }
            if !tests.contains(&normal) {
                tests.push(normal);
            }
        }
        if tests.is_empty() { Err(BadTests::None) } else { Ok(Tests(tests)) }
    }

    /// Returns the ids, in the order in which they were given.
    pub fn ids(&self) -> &[String] {
        &self.0
    }

    /// Lists the files that the tests are in, each once.
    pub(super) fn files(&self) -> Vec<&str> {
        let mut files: Vec<&str> = Vec::new();
        for id in &self.0 {
            let file = id.split_once("::").map_or(id.as_str(), |(file, _)| file);
            if !files.contains(&file) {
                files.push(file);
            }
        }
        files
    }
}

/// Takes what means nothing out of the path of a test.
fn normal(id: &str) -> String {
    let (file, rest) = match id.find("::") {
        Some(at) => id.split_at(at),
        None => (id, ""),
    };
    let parts: Vec<&str> = file.split('/').filter(|part| !["", "."].contains(part)).collect();
    if parts.is_empty() { String::new() } else { parts.join("/") + rest }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|one| (*one).to_owned()).collect()
    }

    fn result() -> TestResult {
        TestResult {
            passed: strings(&[
                "t/a.py::one",
                "t/a.py::many[1]",
                "t/a.py::many[2]",
                "t/a.py::C::x",
                "t/a.py::mixed[1]",
            ]),
            failed: strings(&["t/a.py::two", "t/a.py::mixed[2]"]),
            errors: strings(&["t/b.py"]),
            skipped: strings(&["t/a.py::skip"]),
            xfailed: strings(&["t/a.py::xfail"]),
            xpassed: strings(&["t/a.py::xpass"]),
            missing: Vec::new(),
            raw_output: String::new(),
            elapsed_seconds: 1.0,
            timed_out: false,
            out_of_memory: false,
            complete: true,
            returncode: Some(1),
            source: Source::Channel,
            problems: Vec::new(),
        }
    }

    #[test]
    fn an_id_passed_where_one_test_below_it_ran_and_all_passed() {
        for (test, passed) in [
            ("t/a.py::one", true),
            ("t/a.py::two", false),
            ("t/a.py::many[1]", true),
            ("t/a.py::many", true),
            ("t/a.py::C", true),
            ("t/a.py::C::x", true),
            ("t/a.py::mixed[1]", true),
            ("t/a.py::mixed", false),
            ("t/a.py", false),
            ("t/b.py", false),
            ("t/b.py::lost", false),
            // No other test stands for one that is missing.
            ("t/a.py::on", false),
            ("t/a.py::many[3]", false),
            ("t/a.py::many[", false),
            ("t/a.py::skip", false),
            ("t/a.py::xfail", false),
            ("t/a.py::xpass", false),
        ] {
            let asked = result().asked(&Tests::new([test]).unwrap());
            assert_eq!(asked, [(test.to_owned(), passed)].into());
        }
    }

    #[test]
    fn all_passed_where_nothing_speaks_against_it() {
        let good = TestResult {
            passed: strings(&["t/a.py::one"]),
            failed: Vec::new(),
            errors: Vec::new(),
            ..result()
        };
        assert!(good.all_passed());
        assert!(!result().all_passed());
        let x = || strings(&["x"]);
        for (name, changed) in [
            ("passed", TestResult { passed: Vec::new(), ..good.clone() }),
            ("failed", TestResult { failed: x(), ..good.clone() }),
            ("errors", TestResult { errors: x(), ..good.clone() }),
            ("missing", TestResult { missing: x(), ..good.clone() }),
            ("problems", TestResult { problems: x(), ..good.clone() }),
            ("timed_out", TestResult { timed_out: true, ..good.clone() }),
            ("out_of_memory", TestResult { out_of_memory: true, ..good.clone() }),
            ("complete", TestResult { complete: false, ..good.clone() }),
        ] {
            assert!(!changed.all_passed(), "{name}");
        }
    }

    #[test]
    fn a_command_that_was_ended_or_killed_for_memory_is_no_success() {
        let good = ExecResult {
            command: "ls".to_owned(),
            returncode: 0,
            stdout: String::new(),
            stderr: String::new(),
            elapsed_seconds: 0.1,
            timed_out: false,
            out_of_memory: false,
            truncated: false,
        };
        assert!(good.is_success());
        assert!(!ExecResult { returncode: 1, ..good.clone() }.is_success());
        assert!(!ExecResult { timed_out: true, ..good.clone() }.is_success());
        assert!(!ExecResult { out_of_memory: true, ..good }.is_success());
    }

    #[test]
    fn what_is_no_id_of_a_test_is_refused() {
        let wrong =
            ["/etc/test_a.py", "../test_a.py", "t/../../a.py", "-p", "", "::a", "t/a.py\0", "."];
        for id in wrong {
            assert_eq!(Tests::new([id]), Err(BadTests::NoId(id.to_owned())), "{id}");
        }
        assert_eq!(Tests::new::<&str>([]), Err(BadTests::None));
    }

    #[test]
    fn equal_ids_are_one() {
        let ids = ["./t//a.py::one[../x//y]", "t/a.py::one[../x//y]", "t/b.py"];
        let tests = Tests::new(ids).unwrap();
        assert_eq!(tests.ids(), ["t/a.py::one[../x//y]", "t/b.py"]);
        assert_eq!(tests.files(), ["t/a.py", "t/b.py"]);
    }

    #[test]
    fn a_test_is_below_an_id_at_a_border_of_names() {
        assert!(is_below("t/a.py::b[c]", "t/a.py::b"));
        assert!(is_below("t/a.py::b", "t"));
        assert!(!is_below("t/a.pyx::b", "t/a.py"));
        assert!(!is_below("t/a.py::bc", "t/a.py::b"));
    }
}
