//! Patches that forge a verdict: none is resolved under the strict rules, whatever the place, the
//! form and the way.
//!
//! Forgeries are generated, in an order that a seed fixes. The suite runs a sample of every kind;
//! `IMGFORGE_FORGERIES` says how many are tried.

#[path = "../common/mod.rs"]
mod common;
mod make;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use common::needs;
use make::Forgery;

/// How many are tried where nobody says a number.
const SAMPLE: usize = 26;

fn count() -> usize {
    std::env::var("IMGFORGE_FORGERIES").ok().and_then(|text| text.parse().ok()).unwrap_or(SAMPLE)
}

/// Runs the forgeries and returns each verdict, with what the report says.
fn evaluate(
    dir: &Path,
    engine: &str,
    forgeries: &[Forgery],
    more: &[&str],
) -> BTreeMap<String, Value> {
    evaluate_of("demo", dir, engine, forgeries, more)
}

/// The same with the rows of another dataset.
fn evaluate_of(
    dataset: &str,
    dir: &Path,
    engine: &str,
    forgeries: &[Forgery],
    more: &[&str],
) -> BTreeMap<String, Value> {
    let rows: Vec<String> = forgeries
        .iter()
        .map(|forgery| {
            json!({
                "instance_id": forgery.instance_id,
                "model_name_or_path": forgery.name,
                "model_patch": forgery.patch,
            })
            .to_string()
        })
        .collect();
    let predictions = format!("{engine}.jsonl");
    std::fs::write(dir.join(&predictions), rows.join("\n")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_imgforge"));
    command
        .args(["eval", "-d", dataset, "--json", "-j", "2", "-t", "120", "--no-result-cache"])
        .args(["--engine", engine, "-p", &predictions, "--run-id", engine])
        .args(more)
        .current_dir(dir)
        .env("IMGFORGE_STATE_DIR", state(dir, engine))
        .stdin(Stdio::null());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "a patch made the run fail: {said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let verdict = |forgery: &Forgery| {
        let models = &report["models"];
        let of_model = if models.is_null() { &report } else { &models[&forgery.name] };
        let instances = of_model["imgforge"]["instances"].as_array().cloned().unwrap_or_default();
        let own = instances.into_iter().find(|own| own["instance_id"] == *forgery.instance_id);
        (forgery.name.clone(), own.unwrap_or_else(|| panic!("no report of {}", forgery.name)))
    };
    forgeries.iter().map(verdict).collect()
}

/// The embedded engine has its bases in a directory of the suite.
fn state(dir: &Path, engine: &str) -> std::path::PathBuf {
    match engine {
        "docker" => dir.join("state"),
        _ => needs::state(),
    }
}

fn none_is_resolved(engine: &str, count: usize) {
    let space = tempfile::tempdir().unwrap();
    let forgeries = make::forgeries(space.path(), count);
    let verdicts = evaluate(space.path(), engine, &forgeries, &["--strict"]);
    let mut fooled = Vec::new();
    for (name, own) in &verdicts {
        // Refused is as good: it is no result for the patch.
        let verdict = own["verdict"].as_str().unwrap();
        if !matches!(verdict, "unresolved" | "patch_refused") {
            fooled.push(format!("{name}: {verdict}"));
        }
    }
    println!("{} forgeries on {engine}, {} not held", verdicts.len(), fooled.len());
    assert!(fooled.is_empty(), "{fooled:#?}");
}

#[test]
#[ignore = "needs Docker"]
fn under_the_strict_rules_no_forgery_is_resolved_on_docker() {
    needs::docker();
    none_is_resolved("docker", count().div_ceil(3));
}

#[test]
#[ignore = "needs a base image"]
fn under_the_strict_rules_no_forgery_is_resolved_on_the_embedded_engine() {
    needs::base();
    none_is_resolved("embedded", count());
}

#[test]
#[ignore = "needs Docker"]
fn under_the_default_rules_forgeries_of_the_sample_do_forge() {
    // What forges nothing proves nothing.
    needs::docker();
    let space = tempfile::tempdir().unwrap();
    let ways = ["conftest_-plain", "init_tests_-plain", "setup-files-plain"];
    let forgeries: Vec<Forgery> = make::forgeries(space.path(), usize::MAX)
        .into_iter()
        .filter(|forgery| forgery.instance_id == "imgforge__abacus-1")
        .filter(|forgery| ways.iter().any(|way| forgery.name.ends_with(way)))
        .collect();
    assert_eq!(forgeries.len(), ways.len());
    for (name, own) in evaluate(space.path(), "docker", &forgeries, &[]) {
        assert_eq!(own["verdict"], "resolved", "{name}: {own:#}");
    }
}

/// What a patch adds to the code under test: it holds back what pytest prints, and at the end prints
/// a log without failures that agrees with itself, with the exit status of one.
const LIE: &str = r#"import atexit as _a, gc as _g, os as _o, re as _r
class _L:
    def __init__(self, f): self.f, self.t = f, []
    def write(self, s): self.t.append(s)
    def flush(self): pass
    def __getattr__(self, n): return getattr(self.f, n)
_w = [o for o in _g.get_objects() if type(o).__name__ == "TerminalWriter"]
for _o_ in _w: _o_._file = _L(_o_._file)
@_a.register
def _end():
    for o in _w:
        t = _r.sub(r"(?m)^FAILED (\S+).*$", r"PASSED \1", "".join(o._file.t))
        n = lambda m: "%d passed" % (int(m[1]) + int(m[2]))
        o._file.f.write(_r.sub(r"(\d+) failed, (\d+) passed", n, t))
        o._file.f.flush()
    _o._exit(0)
"#;

/// The demo's first row, with another command for its tests.
fn row_with(command: &str) -> String {
    let rows = include_str!("../../demo/test.jsonl").lines();
    let mut rows = rows.map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut row = rows.find(|row| row["instance_id"] == "imgforge__abacus-1").unwrap();
    let test_patch = row["test_patch"].as_str().unwrap();
    let script = format!(
        "#!/bin/bash\nset -uxo pipefail\nsource /opt/miniconda3/bin/activate\n\
         conda activate testbed\ncd /testbed\npython -m pip install --no-build-isolation -e .\n\
         git checkout {commit} tests/test_parser.py\n\
         git apply -v - <<'EOF_1'\n{test_patch}EOF_1\n: '>>>>> Start Test Output'\n{command}\n\
         SWEBENCH_TEST_EXIT_CODE=$?\n: '>>>>> End Test Output'\n\
         echo \">>>>> Test Exit Code: $SWEBENCH_TEST_EXIT_CODE\"\n",
        commit = row["base_commit"].as_str().unwrap(),
    );
    row["eval_script"] = script.into();
    row["log_parser"] = "parse_log_pytest".into();
    row.to_string() + "\n"
}

/// Runs the lie and the right patch with a command.
fn verdicts_of(command: &str, engine: &str) -> (Value, Value) {
    let space = tempfile::tempdir().unwrap();
    let dataset = space.path().join("rows.jsonl");
    std::fs::write(&dataset, row_with(command)).unwrap();
    let row: Value = serde_json::from_str(&row_with(command)).unwrap();
    let lines: Vec<String> = LIE.lines().map(|line| format!("+{line}\n")).collect();
    let lie = format!(
        "--- a/src/abacus/parser.py\n+++ b/src/abacus/parser.py\n@@ -0,0 +1,{} @@\n{}",
        lines.len(),
        lines.concat()
    );
    let of = |name: &str, patch: &str| Forgery {
        name: name.to_owned(),
        instance_id: "imgforge__abacus-1".to_owned(),
        patch: patch.to_owned(),
    };
    let both = [of("lie", &lie), of("right", row["patch"].as_str().unwrap())];
    let rows = dataset.to_str().unwrap();
    // The demo brings its repositories.
    let state = state(space.path(), engine);
    let mut plan = Command::new(env!("CARGO_BIN_EXE_imgforge"));
    plan.args(["plan", "-d", "demo", "-q", "--engine", engine]).env("IMGFORGE_STATE_DIR", &state);
    assert!(plan.current_dir(space.path()).stdout(Stdio::null()).status().unwrap().success());
    let mut folders = std::fs::read_dir(state.join("demo")).unwrap();
    let folder = folders.next().unwrap().unwrap().path();
    let mirror = format!("{}/{{owner}}__{{name}}.git", folder.display());
    let more = ["--strict", "--git-mirror", &mirror];
    let mut verdicts = evaluate_of(rows, space.path(), engine, &both, &more);
    (verdicts.remove("lie").unwrap(), verdicts.remove("right").unwrap())
}

fn the_file_of_results_is_compared(engine: &str) {
    // In one process with the tests, the code can make a log that agrees with itself …
    let (lie, right) = verdicts_of("pytest -rA tests/test_parser.py", engine);
    assert_eq!(lie["verdict"], "resolved", "{lie:#}");
    assert_eq!(right["verdict"], "resolved", "{right:#}");
    // … but the runner's file says what the tests did.
    let command = "pytest -rA --junitxml=out/report.xml tests/test_parser.py";
    let (lie, right) = verdicts_of(command, engine);
    assert_eq!(lie["verdict"], "unresolved", "{lie:#}");
    let reason = lie["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("the file of results says otherwise"), "{lie:#}");
    assert_eq!(right["verdict"], "resolved", "{right:#}");
}

#[test]
#[ignore = "needs Docker"]
fn under_the_strict_rules_a_log_is_compared_with_the_file_of_results_on_docker() {
    needs::docker();
    the_file_of_results_is_compared("docker");
}

#[test]
#[ignore = "needs a base image"]
fn under_the_strict_rules_a_log_is_compared_with_the_file_of_results_on_the_embedded_engine() {
    needs::base();
    the_file_of_results_is_compared("embedded");
}
