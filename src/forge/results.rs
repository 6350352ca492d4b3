//! From evaluations to the result of an instance.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use crate::dataset::{Instance, Refused};
use crate::exec::evaluation::{EvaluationResult, RunTarget};
use crate::grade::GRADER;
use crate::report::{InstanceResult, Verdict, harness, milliseconds};
use crate::run::{RunError, file, remove_file, write_changed};

/// How many lines of a log a report shows.
const TAIL_LINES: usize = 40;
/// How much of the end of a log is read for them.
const TAIL_BYTES: u64 = 16 << 10;

/// Joins the runs of a prediction. It is resolved when every run of it is; otherwise the first
/// run that is not speaks for it.
pub(crate) fn join(target: &RunTarget, runs: &[&EvaluationResult]) -> InstanceResult {
    let chosen = runs.iter().find(|one| one.verdict != Verdict::Resolved).or(runs.first());
    let evaluated = chosen.expect("a prediction that did not fail has a run");
    let mut result = target.result(evaluated);
    if runs.len() > 1 {
        result.runs = runs.iter().map(|one| one.verdict).collect();
        result.flaky = flaky(runs);
        result.cached = runs.iter().all(|one| one.cached);
        result.test_seconds = milliseconds(runs.iter().map(|one| one.seconds).sum());
    }
    result
}

/// Lists the expected tests that did not do the same in every run.
fn flaky(runs: &[&EvaluationResult]) -> Vec<String> {
    let mut tests: std::collections::BTreeMap<&str, [usize; 2]> = Default::default();
    let graded = runs.iter().filter_map(|one| one.graded.as_ref()?.tests.as_ref());
    for status in graded {
        for list in [&status.fail_to_pass, &status.pass_to_pass] {
            for test in &list.success {
                tests.entry(test).or_default()[0] += 1;
            }
            for test in &list.failure {
                tests.entry(test).or_default()[1] += 1;
            }
        }
    }
    let both = tests.into_iter().filter(|(_, [good, bad])| *good > 0 && *bad > 0);
    both.map(|(test, _)| test.to_owned()).collect()
}

/// Makes the result of a prediction that was not run, or failed before there was a log.
pub(crate) fn unfinished(
    instance: &Instance,
    model: &str,
    verdict: Verdict,
    reason: String,
) -> InstanceResult {
    InstanceResult {
        instance_id: instance.instance_id.clone(),
        model: model.to_owned(),
        repo: instance.repo.clone(),
        verdict,
        resolution: None,
        tests: None,
        reason: Some(reason),
        failure: (verdict == Verdict::Error).then(|| ("engine_or_image_failed".to_owned(), true)),
        cached: false,
        key: None,
        emulator: None,
        image_id: None,
        build_seconds: 0.0,
        test_seconds: 0.0,
        patch: None,
        log: None,
        log_tail: Vec::new(),
        reaches: Vec::new(),
        suspicions: Vec::new(),
        tree: crate::tree::TreeNotes::default(),
        strict: Vec::new(),
        runs: Vec::new(),
        flaky: Vec::new(),
    }
}

/// Makes the result of a prediction for an instance that cannot be used.
pub(crate) fn refused(refused: &Refused, model: &str) -> InstanceResult {
    let instance = Instance {
        instance_id: refused.instance_id.clone(),
        repo: refused.repo.clone().unwrap_or_default(),
        ..Instance::default()
    };
    let mut result = unfinished(&instance, model, Verdict::Error, refused.why.clone());
    result.failure = Some(("instance_refused".to_owned(), true));
    result
}

/// Adds where the log is, and its last lines.
pub(crate) fn add_log(result: &mut InstanceResult, dir: &Path) {
    let output = [file::OUTPUT, file::LOG].map(|name| dir.join(name));
    let Some(path) = output.into_iter().find(|path| path.is_file()) else { return };
    result.log_tail = tail(&path).unwrap_or_default();
    result.log = Some(path.display().to_string());
}

fn tail(path: &Path) -> std::io::Result<Vec<String>> {
    let mut log = std::fs::File::open(path)?;
    let length = log.metadata()?.len();
    log.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    log.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let lines = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    Ok(lines.iter().map(|line| console::strip_ansi_codes(line).into_owned()).collect())
}

/// Writes the `report.json` of an instance.
pub(crate) fn write_instance(result: &InstanceResult, dir: &Path) -> Result<(), RunError> {
    let path = dir.join(file::REPORT);
    match harness::instance_report(result, &GRADER) {
        Some(report) => {
            let text = serde_json::to_vec_pretty(&report).expect("reports are plain values");
            write_changed(&path, &text)
        }
        None => remove_file(&path),
    }
}
