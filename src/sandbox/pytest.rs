//! Runs tests in a sandbox, and makes a result of what they recorded and printed.

use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::json;

use crate::engine::{ExecEnd, ExecRequest, Input, Outputs};

use super::container::{Live, Ran, Sandbox};
use super::error::SandboxError;
use super::files;
use super::outcome::Outcome;
use super::records::{self, Records};
use super::results::{Source, TestResult, Tests, is_below};
use super::settings::{OWN, OWNER, WORKSPACE};
use super::verbose;

/// Reads one of the programs where the Python package has it: there is one of each.
macro_rules! program {
    ($name:literal) => {
        include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/python/imgforge_sandbox/executor/inside/",
            $name
        ))
    };
}

/// The programs that run in the sandbox: those of the Python package.
const PROGRAMS: [(&str, &str); 3] = [
    ("collector.py", program!("collector.py")),
    ("start_tests.py", program!("start_tests.py")),
    ("imgforge_recorder.py", program!("imgforge_recorder.py")),
];

const FIND_PYTHON: &str = "command -v python || command -v python3";
const PROBE: &str = "import sys, pytest; print('%d.%d' % sys.version_info[:2], pytest.__version__)";
const HAS_PYTEST: &str =
    "p=$(command -v python || command -v python3) && exec \"$p\" -c 'import pytest'";
const BY_TEXT: &str =
    "p=$(command -v python || command -v python3) && exec \"$p\" -m pytest \"$@\"";

/// The oldest Python that the programs run on.
const OLDEST: (u32, u32) = (3, 6);

/// How the test runner ended, as the collector tells it.
#[derive(Debug, Default, Deserialize)]
struct RunnerEnd {
    code: Option<i32>,
    error: Option<String>,
    flooded: bool,
}

impl Sandbox {
    /// Runs tests with pytest; `options` are further options of it. What the tests recorded decides, not
    /// what they printed. Where the image has no pytest that only root can write to, or the tests have no
    /// user of their own, what pytest printed is read: see [`TestResult::source`].
    ///
    /// # Errors
    /// Where the tests could not be run: that is no result.
    pub async fn run_tests(
        &self,
        tests: &Tests,
        options: &[String],
        live: Option<Live>,
    ) -> Result<TestResult, SandboxError> {
        // Without a user of its own the tests could reach the records.
        let python = match self.has_users() {
            true => self.python().await?,
            false => None,
        };
        match python {
            Some(python) => self.by_channel(tests, options, &python, live).await,
            None => self.by_text(tests, options, live).await,
        }
    }

    /// Finds the interpreter that has pytest, in the image. Nothing that the user wrote is asked.
    async fn python(&self) -> Result<Option<String>, SandboxError> {
        let request =
            ExecRequest { user: Some("0:0".to_owned()), ..ExecRequest::shell(FIND_PYTHON) };
        let found = self.exec_of_ours(request).await?;
        let python = found.text().trim().to_owned();
        let is_writable = |path: &str| path.starts_with(WORKSPACE) || path.starts_with("/tmp");
        if found.end != ExecEnd::Exited(0) || !python.starts_with('/') || is_writable(&python) {
            return Ok(None);
        }
        let probed = self.exec_of_ours(ExecRequest::of(&[&python, "-I", "-c", PROBE])).await?;
        let version = match &probed.end {
            ExecEnd::Exited(0) => probed.text(),
            ExecEnd::Exited(_) => return Ok(None),
            end => {
                let said = format!("`{python}` could not be asked for its pytest: {end:?}");
                return Err(SandboxError::NotStarted { said });
            }
        };
        let numbers = version.split_whitespace().next().and_then(|text| text.split_once('.'));
        let numbers = numbers.and_then(|(major, minor)| {
            Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
        });
        Ok(numbers.is_some_and(|found| found >= OLDEST).then_some(python))
    }

    async fn by_channel(
        &self,
        tests: &Tests,
        options: &[String],
        python: &str,
        live: Option<Live>,
    ) -> Result<TestResult, SandboxError> {
        let (session, inside) = (self.session(), format!("{OWN}/inside"));
        for (name, text) in PROGRAMS {
            files::write(&*session, &format!("{inside}/{name}"), text.as_bytes(), 0).await?;
        }
        let run = json!({
            "tests": tests.ids(),
            "files": tests.files(),
            "options": self.options(options),
        });
        let run = run.to_string();
        files::write(&*session, &format!("{inside}/run.json"), run.as_bytes(), 0).await?;
        let key = format!("{:032x}", rand::random::<u128>());
        // No name that the tests of an earlier run may know.
        let name = format!("{OWN}/results/{:016x}", rand::random::<u64>());
        let (records_file, status_file) = (format!("{name}.records"), format!("{name}.status"));
        let config = json!({
            "argv": [python, "-I", format!("{inside}/start_tests.py")],
            "directory": self.directory,
            "key": key,
            "records": records_file,
            "status": status_file,
            "most": self.limits.own / 4,
            "uid": OWNER,
            "gid": OWNER,
        });
        let collector = format!("{inside}/collector.py");
        let request = ExecRequest {
            user: Some("0:0".to_owned()),
            working_dir: Some("/".to_owned()),
            input: Input::Bytes(config.to_string().into()),
            outputs: Outputs::Merged,
            ..ExecRequest::of(&[python, "-I", "-S", &collector])
        };
        let ran = self.attempt(request, live).await?;
        if self.has_ended() {
            // What was recorded went with the sandbox.
            return Ok(result(tests, IndexMap::new(), &ran, None, Source::Channel));
        }
        let data = files::read(&*session, &records_file).await?.unwrap_or_default();
        let status = files::read(&*session, &status_file).await?;
        self.settle(&ran).await?;
        let how: Option<RunnerEnd> = status.and_then(|text| serde_json::from_slice(&text).ok());
        let failure = match &how {
            Some(how) => how.error.clone(),
            None if matches!(ran.end, ExecEnd::Exited(_) | ExecEnd::NotStarted(_)) => {
                Some(self.told(String::new(), &ran).stdout + &last_words(&ran))
            }
            None => None,
        };
        if let Some(said) = failure {
            return Err(SandboxError::NotStarted { said: said.trim().to_owned() });
        }
        let kept = records::read(&data, &key);
        let mut outcomes = kept.outcomes();
        let problems = problems(&mut outcomes, &kept, how.as_ref(), &ran);
        let code = how.and_then(|how| how.code);
        let mut result = result(tests, outcomes, &ran, code, Source::Channel);
        result.complete = kept.ended && is_end(code);
        result.problems = problems;
        Ok(result)
    }

    async fn by_text(
        &self,
        tests: &Tests,
        options: &[String],
        live: Option<Live>,
    ) -> Result<TestResult, SandboxError> {
        // What pytest cannot be started with is no outcome of tests.
        let request = ExecRequest {
            working_dir: Some(self.directory.to_owned()),
            ..ExecRequest::shell(HAS_PYTEST)
        };
        let found = self.attempt(request, None).await?;
        if found.end != ExecEnd::Exited(0) {
            let said = String::from_utf8_lossy(&found.error.bytes).trim().to_owned();
            let said = format!("there is no Python with pytest: {said}{}", last_words(&found));
            return Err(SandboxError::NotStarted { said });
        }
        let mut command = ["/bin/sh", "-c", BY_TEXT, "sh"].map(str::to_owned).to_vec();
        command.extend(self.options(options));
        command.push("--".to_owned());
        command.extend(tests.files().into_iter().map(str::to_owned));
        let request = ExecRequest { command, outputs: Outputs::Merged, ..ExecRequest::default() };
        let ran = self.attempt(request, live).await?;
        if !self.has_ended() {
            self.settle(&ran).await?;
        }
        let code = match &ran.end {
            ExecEnd::NotStarted(why) => {
                return Err(SandboxError::NotStarted { said: why.reason.clone() });
            }
            ExecEnd::Exited(code) => Some(*code),
            _ => None,
        };
        let mut outcomes = verbose::read(&ran.text());
        outcomes.retain(|test, outcome| {
            *outcome == Outcome::Error || tests.ids().iter().any(|one| is_below(test, one))
        });
        let mut result = result(tests, outcomes, &ran, code, Source::Text);
        result.complete = is_end(code);
        Ok(result)
    }

    /// Returns the options of pytest. One file that cannot be collected does not end the run.
    fn options(&self, options: &[String]) -> Vec<String> {
        let fixed = ["-v", "--continue-on-collection-errors", "--rootdir", self.directory];
        fixed.into_iter().map(str::to_owned).chain(options.iter().cloned()).collect()
    }
}

/// Tells whether a test runner that ended with this code came to its end.
fn is_end(code: Option<i32>) -> bool {
    matches!(code, Some(0 | 1 | 5))
}

/// Returns why a command was not started.
fn last_words(ran: &Ran) -> String {
    match &ran.end {
        ExecEnd::NotStarted(why) => why.reason.clone(),
        _ => String::new(),
    }
}

/// Finds what does not fit together. A pass that does not fit is none.
fn problems(
    outcomes: &mut IndexMap<String, Outcome>,
    kept: &Records,
    how: Option<&RunnerEnd>,
    ran: &Ran,
) -> Vec<String> {
    let mut problems = Vec::new();
    if kept.foreign > 0 {
        let count = kept.foreign;
        problems.push(format!("{count} records were not written by the recorder, or not whole"));
    }
    if how.is_some_and(|how| how.flooded) {
        problems.push("the tests were ended: they recorded too much".to_owned());
    }
    let is_wrong = |outcome: &&Outcome| matches!(outcome, Outcome::Failed | Outcome::Error);
    let wrong = outcomes.values().filter(is_wrong).count();
    match how.and_then(|how| how.code) {
        Some(0) if wrong > 0 => problems
            .push(format!("the test runner ended with code 0, and {wrong} tests did not pass")),
        Some(1) if wrong == 0 && kept.ended => problems
            .push("the test runner ended with code 1, and no test of the record failed".to_owned()),
        _ => {}
    }
    let printed = verbose::read(&ran.text());
    for (test, outcome) in outcomes.iter_mut().filter(|(_, outcome)| **outcome == Outcome::Passed) {
        if let Some(other @ (Outcome::Failed | Outcome::Error)) = printed.get(test) {
            let word = if *other == Outcome::Failed { "failed" } else { "error" };
            problems.push(format!("{test} was recorded as passed, and printed as {word}"));
            *outcome = *other;
        }
    }
    problems
}

/// Makes the result of tests; whether the runner came to its end is left to the caller.
fn result(
    tests: &Tests,
    outcomes: IndexMap<String, Outcome>,
    ran: &Ran,
    code: Option<i32>,
    source: Source,
) -> TestResult {
    let is_missing = |asked: &&String| !outcomes.keys().any(|test| is_below(test, asked));
    let mut result = TestResult {
        passed: Vec::new(),
        failed: Vec::new(),
        errors: Vec::new(),
        skipped: Vec::new(),
        xfailed: Vec::new(),
        xpassed: Vec::new(),
        missing: tests.ids().iter().filter(is_missing).cloned().collect(),
        raw_output: ran.text(),
        elapsed_seconds: ran.duration.as_secs_f64(),
        timed_out: ran.end == ExecEnd::TimedOut,
        out_of_memory: ran.is_out_of_memory(),
        complete: false,
        returncode: code,
        source,
        problems: Vec::new(),
    };
    for (test, outcome) in outcomes {
        result.list(outcome).push(test);
    }
    result
}
