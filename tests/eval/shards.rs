//! A run in shards: on machines of their own, or in one directory at once.

use std::path::{Path, PathBuf};
use std::process::Output;

use regex::Regex;
use serde_json::{Value, json};

use crate::Space;
use crate::common::docker;

/// The files of a run's reports, below the output directory.
const REPORTS: [&str; 5] = [
    "org__one.r.json",
    "two.r.json",
    "evaluation_results/r/summary.md",
    "evaluation_results/r/junit.xml",
    "evaluation_results/r/index.html",
];

/// Rows of two versions in turns, and predictions of two models: with every verdict that is cheap, an empty
/// patch, one that is missing, and one that the dataset does not know.
fn space() -> Space {
    let mut space = Space::new();
    for number in 1..=7 {
        let word = if number % 3 == 0 { "FAILED" } else { "PASSED" };
        space.row(&format!("x__y-{number}"), &format!("echo {word} a"));
        space.rows[number - 1]["version"] = json!((number % 2).to_string());
        space.rows[number - 1]["workdir"] = json!("/tmp");
    }
    // The image has neither git nor patch.
    let name = format!("{}/box:latest", space.namespace);
    let stub = "printf '#!/bin/sh\n' >/usr/bin/patch; chmod 755 /usr/bin/patch";
    let made = docker(&["run", "-d", &name, "sh", "-c", stub]);
    let id = String::from_utf8_lossy(&made.stdout).trim().to_owned();
    assert!(
        docker(&["wait", &id]).status.success() && docker(&["commit", &id, &name]).status.success()
    );
    docker(&["rm", &id]);
    let of = |model: &str, number: usize, patch: &str| {
        json!({ "instance_id": format!("x__y-{number}"), "model_name_or_path": model,
                "model_patch": patch })
    };
    let patch = "--- /dev/null\n+++ b/made\n@@ -0,0 +1 @@\n+x\n";
    let mut predictions: Vec<Value> = (1..=6).map(|number| of("org/one", number, patch)).collect();
    predictions.extend([of("two", 7, patch), of("two", 2, ""), of("two", 99, patch)]);
    let lines: Vec<String> = predictions.iter().map(Value::to_string).collect();
    std::fs::write(space.dir.path().join("preds.jsonl"), lines.join("\n")).unwrap();
    space
}

fn eval(space: &Space, output: &str, args: &[&str]) -> Output {
    let common = ["-p", "preds.jsonl", "--run-id", "r", "--no-result-cache", "-j", "2"];
    let args = [&common[..], &["--output-dir", output], args].concat();
    space.command(&args).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn ends_with(output: &Output, code: i32) -> String {
    let said = said(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

fn report(space: &Space, output: &str, args: &[&str]) -> Output {
    std::process::Command::new(env!("CARGO_BIN_EXE_imgforge"))
        .args(["report", "r", "--output-dir", output])
        .args(args)
        .current_dir(space.dir.path())
        .env("IMGFORGE_STATE_DIR", space.dir.path().join("state"))
        .output()
        .unwrap()
}

/// Reads the reports of a run without times, and without what each of its workers did when.
fn reports(space: &Space, output: &str) -> Vec<String> {
    let times = Regex::new(
        r#"(?x) "(?:test|build|start|end|(?:\w+_)?seconds)":\s*[\d.e-]+ | \btime="[\d.]+"
           | "created_at":\s*"[^"]*" | "timeline":\s*\[[^\]]*\] | [\d.]+\ ?(?:ms|s|m|min)\b
           | \d{4}-\d\d-\d\dT[\d:.]+Z? | \b(?:whole|joined|again|shared)/logs"#,
    );
    let times = times.unwrap();
    let place = space.dir.path().join(output);
    let read = |name: &&str| {
        let text = std::fs::read_to_string(place.join(name)).unwrap();
        times.replace_all(&text, "~").into_owned()
    };
    REPORTS.iter().map(read).collect()
}

/// Checks that two runs have the same reports.
#[track_caller]
fn are_equal(space: &Space, one: &str, other: &str) {
    for ((name, one), other) in REPORTS.iter().zip(reports(space, one)).zip(reports(space, other)) {
        let differs = one.lines().zip(other.lines()).find(|(one, other)| one != other);
        if let Some((one, other)) = differs {
            let at = one.bytes().zip(other.bytes()).take_while(|(one, other)| one == other).count();
            let shown = |line: &str| {
                let rest = line.bytes().skip(at.saturating_sub(60)).take(200).collect::<Vec<_>>();
                String::from_utf8_lossy(&rest).into_owned()
            };
            panic!("{name}\n  {}\n  {}", shown(one), shown(other));
        }
        assert_eq!(one.len(), other.len(), "{name}");
    }
}

/// The reports that are there, of the run and of its shards.
fn found(place: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(place).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
    names.retain(|name| name.ends_with(".json"));
    names.sort();
    names
}

#[test]
#[ignore = "needs Docker"]
fn shards_of_three_machines_report_what_one_run_does() {
    let space = space();
    let whole = ends_with(&eval(&space, "whole", &[]), 0);
    assert!(whole.contains("x__y-99"), "{whole}");
    for number in 1..=3 {
        let shard = format!("{number}/3");
        let text = ends_with(&eval(&space, &format!("machines/{number}"), &["--shard", &shard]), 0);
        assert!(text.contains("1 prediction without a patch or a usable row"), "{text}");
    }
    let first = found(&space.dir.path().join("machines/1"));
    assert!(!first.is_empty() && first.iter().all(|name| name.ends_with(".shard-1-of-3.json")));
    let place = space.dir.path().join("machines/1/evaluation_results/r/shard-1-of-3/junit.xml");
    assert!(place.is_file());

    // One after another, and all below one directory.
    let each = ["--merge", "machines/1", "machines/2", "machines/3"];
    ends_with(&report(&space, "joined", &each), 0);
    are_equal(&space, "joined", "whole");
    ends_with(&report(&space, "again", &["--merge", "machines"]), 0);
    are_equal(&space, "again", "whole");
    // What was joined stays joined.
    ends_with(&report(&space, "joined", &[]), 0);
    are_equal(&space, "joined", "whole");
    let weights = ["--shard", "1/2", "--weights", "whole/org__one.r.json"];
    ends_with(&eval(&space, "weighted", &weights), 0);
}

#[test]
#[ignore = "needs Docker"]
fn a_model_that_comes_later_shares_what_the_run_left() {
    let space = space();
    let predictions = space.dir.path().join("preds.jsonl");
    let text = std::fs::read_to_string(&predictions).unwrap();
    let args = ["-p", "preds.jsonl", "--run-id", "r", "--output-dir", "out"];
    ends_with(&space.command(&args).output().unwrap(), 0);
    // Another model with the same patches, on a machine that knows nothing.
    let of_one: Vec<&str> = text.lines().filter(|line| line.contains("org/one")).collect();
    let later = of_one.join("\n").replace("org/one", "later");
    std::fs::write(&predictions, format!("{text}\n{later}")).unwrap();
    std::fs::remove_dir_all(space.dir.path().join("state")).unwrap();
    let said = ends_with(&space.command(&args).output().unwrap(), 0);
    assert!(said.contains("nothing to run: all 13 results are known"), "{said}");
    let run = space.dir.path().join("out/logs/run_evaluation/r");
    for name in ["test_output.txt", "patch.diff", "eval.sh"] {
        let [one, later] = ["org__one", "later"]
            .map(|model| std::fs::read(run.join(model).join("x__y-3").join(name)));
        assert_eq!(one.unwrap(), later.unwrap(), "{name}");
    }
}

#[test]
#[ignore = "needs Docker"]
fn shards_that_are_not_of_one_run_are_not_joined() {
    let space = space();
    let run = |output: &str, args: &[&str]| ends_with(&eval(&space, output, args), 0);
    run("a", &["--shard", "1/2"]);
    run("b", &["--shard", "2/2", "-t", "77"]);
    let refused = |args: &[&str], texts: &[&str]| {
        let said = ends_with(&report(&space, "joined", args), 2);
        for text in texts {
            assert!(said.contains(text), "{args:?}: {said}");
        }
        assert!(!space.dir.path().join("joined/evaluation_results").exists());
    };
    refused(&["--merge", "a"], &["shard 2/2 is missing", "--allow-missing"]);
    refused(&["--merge", "a", "b"], &["shard 1/2 and shard 2/2 differ in --timeout", "`77`"]);
    refused(&["--merge", "machines"], &["cannot read `machines`"]);
    std::fs::create_dir(space.dir.path().join("none")).unwrap();
    refused(&["--merge", "none"], &["`none` has no shard of run `r`"]);
    // The same shard of two machines, not with the same results.
    run("c", &["--shard", "1/2"]);
    refused(&["--merge", "a", "c"], &["shard 1/2 is there twice"]);
    // Other predictions.
    let path = space.dir.path().join("preds.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("+x", "+y")).unwrap();
    run("d", &["--shard", "2/2"]);
    refused(&["--merge", "a", "d"], &["differ in the predictions"]);
    std::fs::write(&path, text).unwrap();
    // Another row of the dataset.
    let rows = space.write_rows();
    let changed = std::fs::read_to_string(&rows).unwrap().replace("echo FAILED a", "echo PASSED a");
    let mut other = Space::new();
    other.rows = changed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    std::fs::copy(space.dir.path().join("preds.jsonl"), other.dir.path().join("preds.jsonl"))
        .unwrap();
    ends_with(&eval(&other, "e", &["--shard", "2/2"]), 0);
    let elsewhere = other.dir.path().join("e").display().to_string();
    refused(&["--merge", "a", &elsewhere], &["differ in the dataset"]);
    // Under one run id there is one cut.
    let said = ends_with(&eval(&space, "a", &["--shard", "1/3"]), 2);
    assert!(said.contains("it is in 2 shards, not in 3"), "{said}");
    let said = ends_with(&eval(&space, "a", &[]), 2);
    assert!(said.contains("it is in 2 shards"), "{said}");
    run("w", &[]);
    let said = ends_with(&eval(&space, "w", &["--shard", "1/2"]), 2);
    assert!(said.contains("evaluated at once, not in shards"), "{said}");
    run("w", &["--shard", "1/2", "--replace-run"]);
    // A missing one is told, and is no verdict.
    let said = ends_with(&report(&space, "some", &["--merge", "a", "--allow-missing"]), 1);
    assert!(said.contains("1 of 2 shards are there"), "{said}");
    let text = std::fs::read_to_string(space.dir.path().join("some/org__one.r.json")).unwrap();
    let some: Value = serde_json::from_str(&text).unwrap();
    let rows = some["imgforge"]["instances"].as_array().unwrap();
    let not_run = rows.iter().filter(|row| row["verdict"] == "not_run").count();
    let judged = some["completed_instances"].as_u64().unwrap() as usize;
    assert!(not_run > 0 && judged > 0 && not_run + judged == 6, "{some:#}");
}

/// The Indexed Job of the documentation.
fn job() -> Value {
    let page = include_str!("../../docs/shards.md");
    let job =
        page.split("```").find_map(|block| block.strip_prefix("yaml\napiVersion: batch/v1\n"));
    serde_yaml_ng::from_str(job.unwrap()).unwrap()
}

#[test]
#[ignore = "needs Docker"]
fn shards_at_once_in_one_directory_are_one_run() {
    let space = space();
    ends_with(&eval(&space, "whole", &[]), 0);
    // What the Job runs, on the data of this test.
    let job = job();
    let container = &job["spec"]["template"]["spec"]["containers"][0];
    let words: Vec<&str> = container["command"]
        .as_array()
        .unwrap()
        .iter()
        .map(|word| word.as_str().unwrap())
        .collect();
    let [
        "imgforge",
        "eval",
        "-d",
        "verified",
        "-p",
        "/shared/preds.jsonl",
        "--run-id",
        _,
        rest @ ..,
    ] = &words[..]
    else {
        panic!("{words:?}")
    };
    let variables = container["env"].as_array().unwrap();
    let shards = variables.iter().find(|one| one["name"] == "IMGFORGE_SHARDS").unwrap();
    let shards = shards["value"].as_str().unwrap();
    assert_eq!((shards, &job["spec"]["completions"]), ("8", &json!(8)));
    let mut children = Vec::new();
    for index in 0..8 {
        let args = ["-p", "preds.jsonl", "--run-id", "r", "--no-result-cache", "-j", "2"];
        let mut command = space.command(&args);
        command.args(["--output-dir", "shared"]).args(rest);
        command.env("JOB_COMPLETION_INDEX", index.to_string()).env("IMGFORGE_SHARDS", shards);
        command.stderr(std::process::Stdio::piped());
        children.push(command.spawn().unwrap());
    }
    for child in children {
        ends_with(&child.wait_with_output().unwrap(), 0);
    }
    let run: PathBuf = space.dir.path().join("shared/logs/run_evaluation/r");
    assert!(!run.join("run.json").exists(), "no shard speaks for the run");
    ends_with(&report(&space, "shared", &[]), 0);
    are_equal(&space, "shared", "whole");
    // A shard that goes on where nothing of it is known but what it left.
    std::fs::remove_dir_all(space.dir.path().join("state")).unwrap();
    let args = ["-p", "preds.jsonl", "--run-id", "r", "--shard", "2/8"];
    let again = space.command(&args).args(["--output-dir", "shared"]).output().unwrap();
    let said = ends_with(&again, 0);
    assert!(said.contains("nothing to run: all"), "{said}");
    // A shard that did not come to its end, as after a kill.
    std::fs::remove_file(run.join("results.2-of-8.json")).unwrap();
    let said = ends_with(&report(&space, "shared", &[]), 0);
    assert!(said.contains("shard 2/8 did not come to its end"), "{said}");
}
