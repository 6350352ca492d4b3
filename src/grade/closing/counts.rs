//! What a runner of tests counts at its end, where a command names the runner and nobody names a parser.
//!
//! Whoever runs `pytest` gets `1 failed, 2 passed in 0.1s` as its last line, or the run did not come to its
//! end. This reads such counts; it reads no names of tests.

use std::io::{self, BufRead};

use super::pytest;
use super::tally::{Event, RUNNERS};
use crate::grade::lines::Lines;
use crate::grade::text::{regex, without_colours};

/// The counts of a runner.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tests that passed; for a runner that does not count them, packages that did.
    pub passed: u64,
    /// Tests that failed.
    pub failed: u64,
    /// Errors outside of tests, such as of a fixture.
    pub errors: u64,
    /// Tests that ran and count as neither: those that are expected to fail.
    pub others: u64,
}

impl Counts {
    /// Tells whether no test ran; those that were skipped did not.
    pub fn is_empty(self) -> bool {
        self.passed + self.failed + self.others == 0
    }
}

/// What the end of a run says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Closing {
    /// The counts; `None` where the runner did not come to its end.
    pub counts: Option<Counts>,
    /// Whether tests could not be collected: a module that cannot be imported, code that does not
    /// compile.
    pub not_collected: bool,
}

/// A runner that counts its tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountingRunner {
    /// pytest.
    Pytest,
    /// unittest, and Django's runner.
    Unittest,
    /// One whose lines can each be understood alone; the first name of its parser.
    Tally(&'static str),
}

/// The words that name a runner in a command.
const NAMED: [(&str, CountingRunner); 11] = [
    ("pytest", CountingRunner::Pytest),
    ("py.test", CountingRunner::Pytest),
    ("unittest", CountingRunner::Unittest),
    ("runtests.py", CountingRunner::Unittest),
    ("manage.py test", CountingRunner::Unittest),
    ("bin/test", CountingRunner::Tally("parse_log_sympy")),
    ("cargo test", CountingRunner::Tally("parse_log_cargo")),
    ("go test", CountingRunner::Tally("parse_log_gotest")),
    ("vitest", CountingRunner::Tally("parse_log_vitest")),
    ("jest", CountingRunner::Tally("parse_log_jest")),
    ("phpunit", CountingRunner::Tally("parse_log_phpunit")),
];

impl CountingRunner {
    /// Finds the runner that a command names; `None` where it names none, or more than one.
    pub fn named(command: &str) -> Option<CountingRunner> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let names = |word: &str| {
            command.match_indices(word).any(|(at, _)| {
                let before = command[..at].chars().next_back();
                let after = command[at + word.len()..].chars().next();
                // `pytest-cov` is a plugin, `test_pytest.py` a file.
                !before.is_some_and(is_part)
                    && !after.is_some_and(|after| is_part(after) || after == '.' || after == '=')
            })
        };
        let mut named = NAMED.iter().filter(|(word, _)| names(word)).map(|(_, runner)| *runner);
        let first = named.next()?;
        named.all(|other| other == first).then_some(first)
    }

    /// Returns what it is called.
    pub fn name(self) -> &'static str {
        let named = NAMED.iter().find(|(_, runner)| *runner == self);
        named.map_or("the test runner", |(word, _)| word)
    }

    /// Reads what it says at its end.
    pub fn closing(self, log: &mut impl BufRead) -> io::Result<Closing> {
        let mut closing = Closing::default();
        let mut reading = Reading::default();
        let mut lines = Lines::new(log);
        while let Some(piece) = lines.next()? {
            let text = String::from_utf8_lossy(piece.bytes);
            let line = without_colours(&text);
            match self {
                CountingRunner::Pytest => pytest_line(line.trim_end(), &mut closing, &mut reading),
                CountingRunner::Unittest => {
                    unittest_line(line.trim_end(), &mut closing, &mut reading);
                }
                CountingRunner::Tally(format) => {
                    tally_line(format, &line, &mut closing, &mut reading);
                }
            }
        }
        Ok(closing)
    }
}

/// What was seen so far.
#[derive(Default)]
struct Reading {
    headers: u64,
    /// Tests by a `Ran` line whose verdict is to come.
    ran: Option<u64>,
    failed: u64,
    passed: u64,
}

fn pytest_line(line: &str, closing: &mut Closing, reading: &mut Reading) {
    if line.starts_with('=') && line.contains(" test session starts ") {
        reading.headers += 1;
        // The last run counts: the one before did not stop the command.
        (closing.counts, closing.not_collected) = (None, false);
        return;
    }
    let collection = line.starts_with('_') && line.contains(" ERROR collecting ");
    let interrupted = line.starts_with('!') && line.contains(" during collection ");
    closing.not_collected |= collection || interrupted;
    if let Some(found) = pytest::closing(line, reading.headers == 0) {
        let pytest::Counts { passed, failed, errors, .. } = found;
        let others = pytest::others(line);
        closing.counts = Some(Counts { passed, failed, errors, others });
    }
}

fn unittest_line(line: &str, closing: &mut Closing, reading: &mut Reading) {
    closing.not_collected |=
        line.starts_with("ERROR: ") && line.contains("unittest.loader._FailedTest");
    if let Some(found) = regex!(r"^Ran (\d+) tests? in [\d.]+s$").captures(line) {
        reading.ran = Some(found[1].parse().unwrap_or(0));
        return;
    }
    let Some(ran) = reading.ran else { return };
    let verdict = regex!(r"^(?:OK|FAILED|NO TESTS RAN)(?: \((.*)\))?$");
    let Some(found) = verdict.captures(line) else { return };
    reading.ran = None;
    let (mut counts, mut skipped) = (Counts::default(), 0);
    for part in found.get(1).map_or("", |parts| parts.as_str()).split(", ") {
        let Some((what, count)) = part.split_once('=') else { continue };
        let count = count.parse::<u64>().unwrap_or(0);
        match what {
            // An error is what a test ends with that raises something.
            "failures" | "errors" | "unexpected successes" => counts.failed += count,
            "skipped" => skipped += count,
            _ => counts.others += count,
        }
    }
    counts.passed = ran.saturating_sub(counts.failed + counts.others + skipped);
    if ran == 0 {
        counts = Counts { errors: counts.failed, ..Counts::default() };
    }
    closing.counts = Some(counts);
}

fn tally_line(format: &str, line: &str, closing: &mut Closing, reading: &mut Reading) {
    let compiles = ["error: could not compile", "[build failed]", "[setup failed]"];
    closing.not_collected |= compiles.iter().any(|words| line.contains(words))
        || line.trim() == "● Test suite failed to run";
    let Some(runner) = RUNNERS.iter().find(|runner| runner.format == format) else { return };
    match (runner.read)(line) {
        Event::Passed => reading.passed += 1,
        Event::Failed => reading.failed += 1,
        Event::Close { passed, failed } => {
            let counts = closing.counts.get_or_insert_default();
            counts.passed += passed.unwrap_or(0);
            counts.failed += failed.unwrap_or(0);
            if let (None, None) = (passed, failed) {
                let quiet = line.starts_with("ok") && !line.contains("no test");
                counts.passed += u64::from(quiet && reading.passed == 0);
            }
        }
        Event::None | Event::Open => return,
    }
    if let Some(counts) = &mut closing.counts
        && counts.failed == 0
        && reading.failed > 0
    {
        counts.failed = reading.failed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closing(runner: CountingRunner, log: &str) -> Closing {
        runner.closing(&mut log.as_bytes()).unwrap()
    }

    fn counts(passed: u64, failed: u64, errors: u64, others: u64) -> Option<Counts> {
        Some(Counts { passed, failed, errors, others })
    }

    #[test]
    fn a_command_names_its_runner_as_a_word() {
        for command in ["pytest -q", "python -m pytest tests", "cd a && ./env/bin/pytest x.py"] {
            assert_eq!(CountingRunner::named(command), Some(CountingRunner::Pytest), "{command}");
        }
        let unittest = "python3 -m unittest discover";
        assert_eq!(CountingRunner::named(unittest), Some(CountingRunner::Unittest));
        for none in ["make check", "pip install pytest-cov", "python test_pytest.py", "sh t.sh"] {
            assert_eq!(CountingRunner::named(none), None, "{none}");
        }
        assert_eq!(CountingRunner::named("pytest a; cargo test"), None);
    }

    #[test]
    fn pytest_counts_what_its_last_run_did() {
        let pytest = |log: &str| closing(CountingRunner::Pytest, log);
        let header = "===== test session starts =====\n";
        let log = format!("{header}.F\n===== 1 failed, 2 passed, 1 skipped in 0.12s =====\n");
        assert_eq!(pytest(&log).counts, counts(2, 1, 0, 0));
        assert!(pytest("3 skipped in 0.01s").counts.unwrap().is_empty());
        assert_eq!(pytest("1 failed, 1 error in 0.01s").counts, counts(0, 1, 1, 0));
        assert_eq!(pytest("1 xfailed, 2 xpassed in 0.01s").counts, counts(0, 0, 0, 3));
        let none = pytest(&format!("{header}===== no tests ran in 0.01s =====\n")).counts.unwrap();
        assert!(none.is_empty());
        let cut = pytest(&format!("{header}tests/test_a.py ."));
        assert_eq!((cut.counts, cut.not_collected), (None, false));
        let broken = format!(
            "{header}_____ ERROR collecting test_a.py _____\n\
             !!!!! Interrupted: 1 error during collection !!!!!\n===== 1 error in 0.1s =====\n"
        );
        assert!(pytest(&broken).not_collected);
        assert_eq!(pytest(&broken).counts, counts(0, 0, 1, 0));
    }

    #[test]
    fn unittest_counts_errors_of_tests_and_tells_modules_that_do_not_load() {
        let unittest = |log: &str| closing(CountingRunner::Unittest, log);
        let log = "E.F\nRan 3 tests in 0.1s\n\nFAILED (failures=1, errors=1)\n";
        assert_eq!(unittest(log).counts, counts(1, 2, 0, 0));
        assert_eq!(unittest("Ran 2 tests in 0.1s\n\nOK (skipped=1)\n").counts, counts(1, 0, 0, 0));
        assert!(unittest("Ran 0 tests in 0.0s\n\nNO TESTS RAN\n").counts.unwrap().is_empty());
        let broken = "ERROR: test_a (unittest.loader._FailedTest.test_a)\nRan 1 test in 0.0s\n\n\
                      FAILED (errors=1)\n";
        assert!(unittest(broken).not_collected);
        assert_eq!(unittest("Traceback").counts, None);
    }

    #[test]
    fn other_runners_are_counted_by_their_own_lines() {
        let cargo = CountingRunner::named("cargo test").unwrap();
        let log = "running 2 tests\ntest a ... ok\ntest b ... FAILED\n\
                   test result: FAILED. 1 passed; 1 failed; 0 ignored\n";
        assert_eq!(closing(cargo, log).counts, counts(1, 1, 0, 0));
        let broken = closing(cargo, "error: could not compile `a` (lib) due to 1 previous error");
        assert_eq!((broken.counts, broken.not_collected), (None, true));
        let go = CountingRunner::named("go test ./...").unwrap();
        assert_eq!(closing(go, "ok  \ta/b\t0.1s\n").counts, counts(1, 0, 0, 0));
        let failed = "--- FAIL: TestA (0.00s)\nFAIL\nFAIL\ta/b\t0.1s\n";
        assert_eq!(closing(go, failed).counts, counts(0, 1, 0, 0));
        assert!(closing(go, "FAIL\ta/b [build failed]\n").not_collected);
        assert!(closing(go, "?   \ta/b\t[no test files]\n").counts.is_none());
    }
}
