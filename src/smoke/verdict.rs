//! What the end of a command means for its stage. Pure.
//!
//! A test command says by its exit status whether the tests passed. Where it names a runner that counts its
//! tests (`pytest`, `unittest`, `cargo test` and others, see [`CountingRunner`]), the counts decide: without
//! them, and without a test that ran, nothing is known of the tests, and that is never a success.

use crate::engine::{ExecEnd, SessionEnd};
use crate::grade::{CountingRunner, Counts, Tier, classify};

/// Why a stage is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The repository, the configuration or the tests are at fault.
    Failed(String),
    /// Nothing is known: engine, machine or network are at fault.
    Infra(String),
}

/// The exit codes of a shell that could not start a command.
const NOT_STARTED: std::ops::RangeInclusive<i32> = 126..=127;

/// Judges a command that has to exit with 0. `what` names it, such as "the command `make`".
pub(super) fn of_command(end: &ExecEnd, what: &str) -> Result<(), Fault> {
    match ended(end, what)? {
        0 => Ok(()),
        code => Err(Fault::Failed(format!("{what} exited with {code}"))),
    }
}

/// Returns the exit code of a command that came to its end by itself.
fn ended(end: &ExecEnd, what: &str) -> Result<i32, Fault> {
    let failed = |how: String| Err(Fault::Failed(format!("{what} {how}")));
    match end {
        ExecEnd::Exited(code) => Ok(*code),
        ExecEnd::Signaled(signal) => failed(format!("was ended by signal {signal}")),
        ExecEnd::TimedOut => failed("was killed at its time limit".to_owned()),
        ExecEnd::Idle => failed("was killed: it printed nothing for too long".to_owned()),
        ExecEnd::OutOfMemory(_) => failed("reached the memory limit of the sandbox".to_owned()),
        ExecEnd::NotStarted(why) => failed(format!("was not started: {}", why.reason)),
        ExecEnd::SessionEnded(
            how @ (SessionEnd::OutOfMemory | SessionEnd::OverQuota(_) | SessionEnd::Unkillable),
        ) => failed(format!("ended with the sandbox: {}", how.reason())),
        ExecEnd::SessionEnded(
            how @ (SessionEnd::Stopped | SessionEnd::Killed | SessionEnd::Lost(_)),
        ) => Err(Fault::Infra(format!("{what} ended with the sandbox: {}", how.reason()))),
    }
}

/// What tests did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Passed,
    /// With the number of tests, where a runner counts them.
    Failed(Option<u64>),
}

/// Judges the test command of a run. `command` is its text, and `log` what it printed: at least the
/// beginning and the end of that. Returns what is remarkable of a success.
pub(super) fn of_tests(
    end: &ExecEnd,
    command: &str,
    log: &[u8],
    expected_fail: bool,
) -> Result<Option<String>, Fault> {
    let code = ended(end, "the test command")?;
    match (outcome(code, command, log)?, expected_fail) {
        (Outcome::Passed, false) => Ok(None),
        (Outcome::Passed, true) => {
            Err(Fault::Failed("unexpected pass: the tests were to fail".to_owned()))
        }
        (Outcome::Failed(count), true) => {
            likely_environment(log, expected_fail)?;
            Ok(Some(match count {
                Some(count) => format!("failed as expected: {}", counted(count, "test")),
                None => format!("failed as expected: exit status {code}"),
            }))
        }
        (Outcome::Failed(count), false) => {
            likely_environment(log, expected_fail)?;
            Err(Fault::Failed(match count {
                Some(count) => {
                    format!("{} failed (exit status {code})", counted(count, "test"))
                }
                None => format!("the test command exited with {code}"),
            }))
        }
    }
}

/// Finds what the tests did; `Err` where nothing is known of them, or they were not run.
fn outcome(code: i32, command: &str, log: &[u8]) -> Result<Outcome, Fault> {
    let failed = |why: String| Err(Fault::Failed(why));
    if NOT_STARTED.contains(&code) {
        return failed(format!("the tests were not started (exit status {code} of the shell)"));
    }
    if code > 128 {
        return failed(format!("a signal ended the tests (exit status {code} of the shell)"));
    }
    let Some(runner) = CountingRunner::named(command) else {
        return by_status(code, log);
    };
    let name = runner.name();
    let mut reader = log;
    let closing = runner.closing(&mut reader).expect("memory is read without errors");
    if closing.not_collected {
        return failed(format!("tests could not be collected: see the output of {name}"));
    }
    let Some(counts) = closing.counts else {
        return failed(format!(
            "{name} printed no counts of its tests: it did not come to its end"
        ));
    };
    match (counts, code) {
        (counts, _) if counts.is_empty() && counts.errors > 0 => {
            failed(format!("{name} counts no test, and {} outside of tests", errors(counts)))
        }
        (counts, _) if counts.is_empty() => failed(format!("no tests were run (by {name})")),
        (Counts { failed: 0, errors: 0, .. }, 0) => Ok(Outcome::Passed),
        (Counts { failed: 0, errors: 1.., .. }, _) => {
            failed(format!("{name} counts no failed test, and {} outside of tests", errors(counts)))
        }
        (Counts { failed: 0, .. }, code) => {
            failed(format!("the test command exited with {code}, and {name} counts no failed test"))
        }
        (Counts { failed, .. }, _) => Ok(Outcome::Failed(Some(failed))),
    }
}

fn errors(counts: Counts) -> String {
    counted(counts.errors, "error")
}

fn counted(number: u64, noun: &str) -> String {
    crate::words::count(usize::try_from(number).unwrap_or(usize::MAX), noun)
}

/// Judges a command whose runner nobody knows: its status says it, but where its output says that no test
/// was run.
fn by_status(code: i32, log: &[u8]) -> Result<Outcome, Fault> {
    let mut reader = log;
    let found = classify(&mut reader).expect("memory is read without errors");
    match found {
        Some(found) if found.reason == "no_tests_collected" => {
            Err(Fault::Failed("no tests were run".to_owned()))
        }
        Some(found) if code != 0 && found.tier == Tier::Ambiguous => {
            let why = format!("the tests may not have run: {}", found.reason);
            Err(Fault::Failed(format!("{why} (exit status {code})")))
        }
        _ if code == 0 => Ok(Outcome::Passed),
        _ => Ok(Outcome::Failed(None)),
    }
}

/// Refuses to take a failure for one of the tests that no patch can cause.
fn likely_environment(log: &[u8], expected_fail: bool) -> Result<(), Fault> {
    let mut reader = log;
    let found = classify(&mut reader).expect("memory is read without errors");
    let Some(found) = found.filter(|found| found.tier == Tier::Environment) else { return Ok(()) };
    let not = if expected_fail { ", which is no expected failure" } else { "" };
    Err(Fault::Failed(format!("the environment is likely at fault: {}{not}", found.reason)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::NotStarted;

    fn judged(code: i32, command: &str, log: &str, expected_fail: bool) -> Result<bool, String> {
        match of_tests(&ExecEnd::Exited(code), command, log.as_bytes(), expected_fail) {
            Ok(remark) => Ok(remark.is_some()),
            Err(Fault::Failed(why)) => Err(why),
            Err(Fault::Infra(why)) => panic!("{why}"),
        }
    }

    const FAILED: &str = "==== test session starts ====\n==== 1 failed, 2 passed in 0.1s ====\n";
    const PASSED: &str = "==== test session starts ====\n==== 3 passed in 0.1s ====\n";

    #[test]
    fn an_expected_failure_is_a_test_that_failed_and_nothing_else() {
        assert_eq!(judged(1, "pytest", FAILED, true), Ok(true));
        assert_eq!(judged(1, "pytest", FAILED, false), Err("1 test failed (exit status 1)".into()));
        assert_eq!(judged(0, "pytest", PASSED, false), Ok(false));
        assert!(judged(0, "pytest", PASSED, true).unwrap_err().starts_with("unexpected pass"));
        for (code, log) in [
            (5, "==== test session starts ====\n==== no tests ran in 0.01s ====\n"),
            (
                2,
                "__ ERROR collecting a.py __\n!!! Interrupted: 1 error during collection !!!\n\
                 ==== 1 error in 0.1s ====\n",
            ),
            (1, "==== test session starts ====\n==== 1 error in 0.1s ====\n"),
            (1, "==== test session starts ====\ntests/test_a.py ."),
            (4, "ERROR: file or directory not found: x\n"),
            (0, "==== 2 skipped in 0.01s ====\n"),
            (1, PASSED),
            (127, "sh: 1: pytest: not found\n"),
            (137, FAILED),
        ] {
            for expected_fail in [false, true] {
                assert!(judged(code, "pytest", log, expected_fail).is_err(), "{code} {log}");
            }
        }
        let network = format!("Could not resolve host: example.org\n{FAILED}");
        assert!(judged(1, "pytest", &network, true).is_err());
    }

    #[test]
    fn the_counts_of_a_runner_go_before_the_status_of_a_line() {
        assert!(judged(0, "pytest | tee log", FAILED, false).is_err());
        assert_eq!(judged(0, "pytest || true", FAILED, true), Ok(true));
    }

    #[test]
    fn a_command_without_a_runner_says_it_by_its_status() {
        assert_eq!(judged(0, "make check", "", false), Ok(false));
        assert_eq!(judged(3, "python repro.py", "AssertionError\n", true), Ok(true));
        assert!(judged(3, "python repro.py", "AssertionError\n", false).is_err());
        let missing = "ModuleNotFoundError: No module named 'a'\n";
        assert!(judged(1, "python repro.py", missing, true).is_err());
        assert!(judged(0, "make check", "no tests ran in 0.1s\n", false).is_err());
    }

    #[test]
    fn what_kills_the_tests_is_no_result_of_them() {
        let why = NotStarted { errno: None, reason: "x".to_owned(), program_missing: true };
        for end in [
            ExecEnd::TimedOut,
            ExecEnd::Idle,
            ExecEnd::Signaled(9),
            ExecEnd::OutOfMemory(1),
            ExecEnd::NotStarted(why),
            ExecEnd::SessionEnded(SessionEnd::OutOfMemory),
        ] {
            for expected_fail in [false, true] {
                let judged = of_tests(&end, "pytest", FAILED.as_bytes(), expected_fail);
                assert!(matches!(judged, Err(Fault::Failed(_))), "{end:?}");
            }
        }
        let gone = ExecEnd::SessionEnded(SessionEnd::Killed);
        assert!(matches!(of_tests(&gone, "pytest", b"", true), Err(Fault::Infra(_))));
    }
}
