//! From evaluations to reports on disk: what `eval` and `report` share.

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use console::style;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::dataset::Instance;
use crate::exec::evaluate::{Evaluated, RunTarget};
use crate::grade::GRADER;
use crate::report::{InstanceResult, RunReport, Span, Verdict, harness, html, junit, markdown};
use crate::run::{RunDir, RunError, file, model_name, write_whole};

/// How many lines of a log a report shows.
const TAIL_LINES: usize = 40;
/// How much of the end of a log is read for them.
const TAIL_BYTES: u64 = 16 << 10;

/// Where reports go.
#[derive(Debug, Clone, Args)]
pub struct Outputs {
    /// Where <model>.<run_id>.json goes
    #[arg(
        long,
        alias = "report_dir",
        value_name = "DIR",
        default_value = ".",
        env = "IMGFORGE_REPORT_DIR"
    )]
    pub report_dir: PathBuf,
    /// A further copy of junit.xml
    #[arg(long, value_name = "FILE", env = "IMGFORGE_JUNIT")]
    junit: Option<PathBuf>,
    /// A further copy of summary.md
    #[arg(long, value_name = "FILE", env = "IMGFORGE_MARKDOWN")]
    markdown: Option<PathBuf>,
    /// A further copy of index.html
    #[arg(long, value_name = "FILE", env = "IMGFORGE_HTML")]
    html: Option<PathBuf>,
}

/// Joins the runs of a prediction. It is resolved when every run of it is; otherwise the first
/// run that is not speaks for it.
pub fn join(target: &RunTarget, runs: &[&Evaluated]) -> InstanceResult {
    let chosen = runs.iter().find(|one| one.verdict != Verdict::Resolved).or(runs.first());
    let evaluated = chosen.expect("a prediction that did not fail has a run");
    let mut result = target.result(evaluated);
    if runs.len() > 1 {
        result.runs = runs.iter().map(|one| one.verdict).collect();
        result.flaky = flaky(runs);
        result.cached = runs.iter().all(|one| one.cached);
        result.test_seconds = runs.iter().map(|one| one.seconds).sum();
    }
    result
}

/// Lists the expected tests that did not do the same in every run.
fn flaky(runs: &[&Evaluated]) -> Vec<String> {
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
pub fn unfinished(
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
        image_id: None,
        build_seconds: 0.0,
        test_seconds: 0.0,
        patch: None,
        log: None,
        log_tail: Vec::new(),
        reaches: Vec::new(),
        strict: Vec::new(),
        runs: Vec::new(),
        flaky: Vec::new(),
    }
}

/// Adds where the log is, and its last lines.
pub fn add_log(result: &mut InstanceResult, dir: &Path) {
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
pub fn write_instance(result: &InstanceResult, dir: &Path) -> Result<(), RunError> {
    let path = dir.join(file::REPORT);
    match harness::instance_report(result, &GRADER) {
        Some(report) => {
            let text = serde_json::to_vec_pretty(&report).expect("reports are plain values");
            write_whole(&path, &text)
        }
        None => match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(RunError::File { path, source })
            }
            _ => Ok(()),
        },
    }
}

/// What only the run itself knows: when each worker did what, and how long images took.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Timeline {
    /// Seconds of the run.
    pub seconds: f64,
    /// What the workers did.
    pub spans: Vec<Span>,
    /// Seconds of making images, by model and instance.
    pub build_seconds: Vec<(String, String, f64)>,
}

/// Writes the timeline of a run, for `imgforge report`.
pub fn write_timeline(report: &RunReport, dir: &RunDir) -> Result<(), RunError> {
    if report.timeline.is_empty() {
        return Ok(());
    }
    let build =
        |one: &InstanceResult| (one.model.clone(), one.instance_id.clone(), one.build_seconds);
    let kept = Timeline {
        seconds: report.seconds,
        spans: report.timeline.clone(),
        build_seconds: report.results.iter().map(build).collect(),
    };
    let text = serde_json::to_vec(&kept).expect("plain values");
    write_whole(&dir.path().join("timeline.json"), &text)
}

/// Reads the timeline of a run; `None` where there is none, or it is damaged.
pub fn read_timeline(dir: &RunDir) -> Option<Timeline> {
    let text = std::fs::read(dir.path().join("timeline.json")).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Writes all reports of a run; returns the files that people want to know of.
pub fn write(report: &RunReport, outputs: &Outputs) -> Result<Vec<PathBuf>, RunError> {
    let mut written = Vec::new();
    for model in report.models() {
        let name = format!("{}.{}.json", model_name(model), report.run_id);
        let path = outputs.report_dir.join(name);
        let text = serde_json::to_string_pretty(&harness::run_report(report, model));
        let text = text.expect("reports are plain values") + "\n";
        write_whole(&path, text.as_bytes())?;
        written.push(path);
    }
    let dir = Path::new("evaluation_results").join(&report.run_id);
    let summary = markdown::summary(report);
    let texts = [
        ("summary.md", &outputs.markdown, summary.clone()),
        ("junit.xml", &outputs.junit, junit::junit(report)),
        ("index.html", &outputs.html, html::page(report)),
    ];
    for (name, copy, text) in texts {
        let path = dir.join(name);
        write_whole(&path, text.as_bytes())?;
        if let Some(copy) = copy {
            write_whole(copy, text.as_bytes())?;
        }
        written.push(path);
    }
    if let Some(path) = super::context::variable("GITHUB_STEP_SUMMARY") {
        let mut options = std::fs::OpenOptions::new();
        let open = options.append(true).create(true).open(&path);
        let added = open.and_then(|mut file| file.write_all(summary.as_bytes()));
        added.map_err(|source| RunError::File { path: path.into(), source })?;
    }
    Ok(written)
}

/// Returns what `--json` prints: the run report, or one for each model.
pub fn document(report: &RunReport) -> Value {
    match report.models().as_slice() {
        [model] => harness::run_report(report, model),
        models => {
            let all: serde_json::Map<String, Value> = models
                .iter()
                .map(|model| ((*model).to_owned(), harness::run_report(report, model)))
                .collect();
            json!({ "schema_version": harness::SCHEMA_VERSION, "models": all })
        }
    }
}

/// Prints what a run came to, for people.
pub fn print(report: &RunReport, written: &[PathBuf]) {
    for model in report.models() {
        let results: Vec<&InstanceResult> = report.of(model).collect();
        let count = |verdict: Verdict| results.iter().filter(|one| one.verdict == verdict).count();
        let resolved = count(Verdict::Resolved);
        let judged = results.len();
        let percent = 100.0 * resolved as f64 / judged.max(1) as f64;
        eprintln!(
            "\n{}: {} of {judged} resolved ({percent:.1}%)",
            style(model).bold().for_stderr(),
            style(resolved).green().for_stderr(),
        );
        for verdict in Verdict::ALL.into_iter().skip(1) {
            if count(verdict) > 0 {
                eprintln!("  {:>5} {}", count(verdict), verdict.words());
            }
        }
        let cached = results.iter().filter(|one| one.cached).count();
        if cached > 0 {
            eprintln!("  {cached:>5} reused from earlier runs with the same inputs");
        }
        let missing = report.instances.len() - judged.min(report.instances.len());
        if missing > 0 {
            eprintln!("  {missing:>5} without a prediction");
        }
        let reaching = results.iter().filter(|one| !one.reaches.is_empty()).count();
        if reaching > 0 {
            eprintln!("  {reaching:>5} whose patch reaches for the run of the tests");
        }
        let flaky = results.iter().filter(|one| !one.flaky.is_empty()).count();
        if flaky > 0 {
            eprintln!("  {flaky:>5} with tests that did not do the same in every run");
        }
    }
    eprintln!();
    for path in written {
        eprintln!("  {}", path.display());
    }
}
