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
        .args(["eval", "-d", "demo", "--json", "-j", "2", "-t", "120", "--no-result-cache"])
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
        _ => std::env::var_os("IMGFORGE_TEST_STATE").map_or_else(
            || format!("/tmp/imgforge-test-{}", rustix::process::getuid().as_raw()).into(),
            Into::into,
        ),
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
fn under_the_strict_rules_no_forgery_is_resolved_on_docker() {
    if common::has_engine() {
        none_is_resolved("docker", count().div_ceil(3));
    }
}

#[test]
fn under_the_strict_rules_no_forgery_is_resolved_on_the_embedded_engine() {
    if !state(Path::new("/"), "embedded").is_dir() {
        assert!(std::env::var_os("CI").is_none(), "the embedded engine has no bases");
        eprintln!("skipped: the embedded engine has no bases");
        return;
    }
    none_is_resolved("embedded", count());
}

#[test]
fn under_the_default_rules_forgeries_of_the_sample_do_forge() {
    // What forges nothing proves nothing.
    if !common::has_engine() {
        return;
    }
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
