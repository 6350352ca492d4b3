//! Every log of the corpus gets the verdict that the harness gives it.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use imgforge::grade::{self, Context, EvalType, Expected, ParsedLog, Resolution, Tier};
use serde_json::{Value, json};

mod common;

use common::needs;

fn folders(path: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    found
}

fn strings(value: &Value) -> Vec<String> {
    let items = value.as_array().into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Grades a log and returns what is compared, in the harness's words.
fn graded(log: &Path, case: &Value) -> Value {
    let text = |name: &str| case[name].as_str().unwrap_or_default().to_owned();
    let (name, instance_id, version) = (text("log_parser"), text("instance_id"), text("version"));
    let parser = grade::parser(&name).unwrap_or_else(|| panic!("no parser `{name}`"));
    let mut log = BufReader::new(File::open(log).unwrap());
    let context =
        Context { instance_id: &instance_id, version: &version, strict: false, runs: None };
    let reading = match grade::read_log(&mut log, parser, &context) {
        Ok(reading) => reading,
        Err(error) => return json!({ "error": error.to_string() }),
    };
    let mut result = json!({
        "found": reading.found,
        "exit_code": reading.exit_code,
        "status_map": reading.status_map,
        "resolved": false,
        "infra_failure": false,
        "infra_failure_reason": null,
    });
    if reading.found {
        let eval_type: EvalType = text("eval_type").parse().unwrap();
        let (f2p, p2p) = (strings(&case["FAIL_TO_PASS"]), strings(&case["PASS_TO_PASS"]));
        let expected = Expected { eval_type, fail_to_pass: &f2p, pass_to_pass: &p2p };
        let tests = grade::tests_status(&reading.status_map, &expected);
        result["resolved"] = json!(tests.resolution() == Resolution::Full);
        result["tests_status"] = json!(tests);
    } else {
        log.seek(SeekFrom::Start(0)).unwrap();
        let infra = grade::classify(&mut log).unwrap();
        result["infra_failure"] = json!(infra.is_some_and(|one| one.tier == Tier::Environment));
        result["infra_failure_reason"] = json!(infra.map(|infra| infra.reason));
    }
    result
}

#[test]
fn every_format_has_a_log_of_its_own_and_every_log_a_format() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/logs");
    let formats: HashMap<&str, &str> = grade::parsers().collect();
    let mut seen = Vec::new();
    for folder in folders(&root) {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        assert_eq!(formats.get(name.as_str()), Some(&name.as_str()), "{name} is no format's name");
        let text = std::fs::read(folder.join("case.json")).unwrap();
        let mut case: Value = serde_json::from_slice(&text).unwrap();
        case["log_parser"] = json!(name);
        let found = graded(&folder.join("case.log"), &case);
        assert_eq!(found["status_map"], case["status_map"], "{name}");
        seen.push(name);
    }
    for first in formats.values() {
        assert!(seen.iter().any(|name| name == first), "`{first}` has no log in tests/logs");
    }
}

/// Grades a log by its row's lists; `None` where it shows no results.
fn resolved(reading: &ParsedLog, case: &Value) -> Option<bool> {
    if !reading.found {
        return None;
    }
    let eval_type: EvalType = case["eval_type"].as_str().unwrap().parse().unwrap();
    let (f2p, p2p) = (strings(&case["FAIL_TO_PASS"]), strings(&case["PASS_TO_PASS"]));
    let expected = Expected { eval_type, fail_to_pass: &f2p, pass_to_pass: &p2p };
    let tests = grade::tests_status(&reading.status_map, &expected);
    Some(tests.resolution() == Resolution::Full)
}

/// What needs the test data: `scripts/test` leaves this module out where there is none.
mod test_data {
    use super::*;

    #[test]
    #[ignore = "needs the test data"]
    fn every_log_of_the_corpus_gets_the_verdict_of_the_harness() {
        let data = needs::data("corpus");
        let mut wrong = Vec::new();
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for parser in folders(&data) {
            for case in folders(&parser) {
                let text = std::fs::read(case.join("case.json")).unwrap();
                let text: Value = serde_json::from_slice(&text).unwrap();
                let found = graded(&case.join("test_output.txt"), &text);
                let expected = &text["expected"];
                for field in [
                    "found",
                    "exit_code",
                    "status_map",
                    "tests_status",
                    "resolved",
                    "infra_failure",
                    "infra_failure_reason",
                ] {
                    if expected[field] != found[field] {
                        let (was, is) = (expected[field].to_string(), found[field].to_string());
                        wrong.push(format!(
                            "{}: {field}: expected {:.300}, found {:.300}",
                            case.display(),
                            was,
                            is
                        ));
                    }
                }
                let name = parser.file_name().unwrap().to_string_lossy().into_owned();
                *counts.entry(name).or_default() += 1;
            }
        }
        for (name, count) in &counts {
            println!("{name}: {count}");
        }
        println!("{} logs", counts.values().sum::<usize>());
        assert!(!counts.is_empty(), "the corpus is empty");
        assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
    }

    #[test]
    #[ignore = "needs the test data"]
    fn every_resolved_log_of_the_corpus_stays_so_when_the_runner_s_counts_must_agree() {
        let data = needs::data("corpus");
        let (mut graded, mut resolved_by_default, mut faults, mut lost) =
            (0, 0, Vec::new(), Vec::new());
        let mut suspicious = Vec::new();
        for parser in folders(&data) {
            for case in folders(&parser) {
                let text = std::fs::read(case.join("case.json")).unwrap();
                let text: Value = serde_json::from_slice(&text).unwrap();
                let read = |strict| {
                    let name = |field: &str| text[field].as_str().unwrap_or_default().to_owned();
                    let (instance_id, version) = (name("instance_id"), name("version"));
                    let context = Context {
                        instance_id: &instance_id,
                        version: &version,
                        strict,
                        runs: Some(1),
                    };
                    let mut log = BufReader::new(File::open(case.join("test_output.txt")).unwrap());
                    let parser = grade::parser(&name("log_parser")).unwrap();
                    grade::read_log(&mut log, parser, &context).ok()
                };
                let (Some(lenient), Some(strict)) = (read(false), read(true)) else { continue };
                graded += 1;
                let place = case.strip_prefix(&data).unwrap().display().to_string();
                if let Some(fault) = strict.closing {
                    faults.push(format!("{place}: {fault}"));
                }
                if resolved(&lenient, &text) == Some(true) {
                    resolved_by_default += 1;
                    if !lenient.suspicions.is_empty() {
                        suspicious.push(format!("{place}: {:?}", lenient.suspicions));
                    }
                    if resolved(&strict, &text) != Some(true) {
                        lost.push(format!("{place}: {:?}", strict.not_found));
                    }
                }
            }
        }
        println!("{graded} logs, {resolved_by_default} resolved, {} faults", faults.len());
        println!("{}", faults.join("\n"));
        assert!(resolved_by_default > 0, "the corpus is empty");
        assert!(suspicious.is_empty(), "suspicions of real logs:\n{}", suspicious.join("\n"));
        assert!(lost.is_empty(), "{} resolved logs are lost:\n{}", lost.len(), lost.join("\n"));
    }
}
