//! What travels between the machine that plans, the registry and the pods.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::cluster::Knobs;
use super::needs::{NotHere, is_root, not_here};
use super::{Space, run, said, verdicts};

/// An instance of each repository of the demo.
const SOME: [&str; 2] = ["-i", "imgforge__abacus-1,imgforge__quill-1,imgforge__ledger-2"];

/// The rows of the demo.
fn rows() -> Vec<Value> {
    let text = include_str!("../../demo/test.jsonl");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A patch that makes a file of so many lines.
fn new_file(name: &str, lines: usize) -> String {
    let content: String = (0..lines).map(|at| format!("+{at:09}\n")).collect();
    format!(
        "diff --git a/{name} b/{name}\nnew file mode 100644\n--- /dev/null\n+++ b/{name}\n\
         @@ -0,0 +1,{lines} @@\n{content}"
    )
}

/// The images that the engine of a state has.
fn images(state: &Path) -> Vec<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_imgforge"));
    command.args(["--engine", "embedded", "--json", "--state-dir"]).arg(state);
    let output = run(command.args(["cache", "ls"]));
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let images = listed.as_array().unwrap();
    images.iter().map(ToString::to_string).collect()
}

#[test]
#[ignore = "needs docker-registry and a base image"]
fn a_machine_without_images_pulls_none_and_adds_patches_in_the_registry() {
    if !is_root() {
        return not_here(NotHere::PlainUser);
    }
    let space = Space::new(Knobs::default());
    let output = run(space.pods("first", "gold").args(SOME));
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    // Patches that nobody has had: no registry has their images.
    let predictions = space.output.path().join("preds.jsonl");
    let mark = format!("mark-{:x}.txt", rand::random::<u64>());
    let patched = |row: &Value| {
        let patch = format!("{}{}", row["patch"].as_str().unwrap(), new_file(&mark, 1));
        json!({ "instance_id": row["instance_id"], "model_name_or_path": "new",
            "model_patch": patch })
        .to_string()
    };
    std::fs::write(&predictions, rows().iter().map(patched).collect::<Vec<_>>().join("\n"))
        .unwrap();
    let state = tempfile::tempdir().unwrap();
    let fresh = |run_id: &str| {
        let eval = space.eval(state.path(), run_id, "demo", predictions.to_str().unwrap());
        let mut command = space.in_pods(eval);
        command.args(SOME);
        command
    };
    let pods = || space.cluster.counts()["POST Pod"];
    let before = pods();
    let output = run(&mut fresh("second"));
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let found = verdicts(space.output.path(), "second");
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found.values().all(|text| text.starts_with("true")), "{found:?}");
    assert_eq!(images(state.path()), Vec::<String>::new(), "{}", said(&output));
    // Three evaluations, what tries the network, and what looks at two checkouts that were installed.
    assert_eq!(pods() - before, 6, "{:?}", space.cluster.counts());
    // Now the registry has them.
    let output = run(&mut fresh("third"));
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(verdicts(space.output.path(), "third"), found);
    assert_eq!(images(state.path()), Vec::<String>::new(), "{}", said(&output));
    space.cluster.assert_empty();
}

#[test]
#[ignore = "needs docker-registry and a base image"]
fn what_is_made_in_the_registry_is_signed_or_nothing_runs_in_it() {
    if !is_root() {
        return not_here(NotHere::PlainUser);
    }
    const ONE: [&str; 2] = ["-i", "imgforge__abacus-1"];
    let space = Space::new(Knobs::default());
    let dir = space.output.path();
    let mut command = Command::new(env!("CARGO_BIN_EXE_imgforge"));
    command.current_dir(dir).env("COSIGN_PASSWORD", "word");
    let output = run(command.args(["cache", "key"]));
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let keys = ["--verify", "cosign.pub", "--sign", "cosign.key"];
    let mut command = space.pods("first", "gold");
    let output = run(command.env("COSIGN_PASSWORD", "word").args(ONE).args(keys));
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let row = &rows()[0];
    let mark = format!("mark-{:x}.txt", rand::random::<u64>());
    let patch = format!("{}{}", row["patch"].as_str().unwrap(), new_file(&mark, 1));
    let prediction = json!({ "instance_id": row["instance_id"], "model_name_or_path": "new",
        "model_patch": patch });
    std::fs::write(dir.join("preds.jsonl"), format!("{prediction}\n")).unwrap();
    let state = tempfile::tempdir().unwrap();
    let fresh = |run_id: &str, keys: &[&str]| {
        let mut command = space.in_pods(space.eval(state.path(), run_id, "demo", "preds.jsonl"));
        run(command.env("COSIGN_PASSWORD", "word").args(ONE).args(keys))
    };
    let output = fresh("unsigned", &keys[..2]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("signature"), "{}", said(&output));
    assert!(verdicts(dir, "unsigned").is_empty(), "{}", said(&output));
    let output = fresh("signed", &keys);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(verdicts(dir, "signed").len(), 1, "{}", said(&output));
    assert_eq!(images(state.path()), Vec::<String>::new(), "{}", said(&output));
    space.cluster.assert_empty();
}

#[test]
#[ignore = "needs docker-registry and a base image"]
fn the_doctor_tries_a_pod_and_its_network() {
    if !is_root() {
        return not_here(NotHere::PlainUser);
    }
    let space = Space::new(Knobs::default());
    let output = run(space.pods("first", "gold").args(["-i", "imgforge__abacus-1"]));
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let registry = space.registry.name();
    let seen = space.doctor(Some(&registry));
    for name in ["pod", "pod network"] {
        assert_eq!(seen[name]["status"], "ok", "{seen:#?}");
    }
    space.cluster.assert_empty();
    space.cluster.set(Knobs { open_network: true, ..Knobs::default() });
    let seen = space.doctor(Some(&registry));
    assert_eq!(seen["pod"]["status"], "ok", "{seen:#?}");
    assert_eq!(seen["pod network"]["status"], "warn", "{seen:#?}");
    space.cluster.set(Knobs { no_image: true, ..Knobs::default() });
    let seen = space.doctor(Some(&registry));
    assert_eq!(seen["pod"]["status"], "fail", "{seen:#?}");
    space.cluster.assert_empty();
}

#[test]
#[ignore = "needs docker-registry and a base image"]
fn tests_whose_files_no_single_secret_takes_are_run() {
    if !is_root() {
        return not_here(NotHere::PlainUser);
    }
    let space = Space::new(Knobs::default());
    // The strict rules get the path of every file that the patch changes.
    let row = &rows()[0];
    let mut patch = row["patch"].as_str().unwrap().to_owned();
    let directory = ["d".repeat(250).as_str(); 4].join("/");
    (0..1000).for_each(|at| patch.push_str(&new_file(&format!("{directory}/{at}.txt"), 1)));
    let prediction = json!({ "instance_id": row["instance_id"], "model_name_or_path": "large",
        "model_patch": patch });
    let predictions = space.output.path().join("preds.jsonl");
    std::fs::write(&predictions, format!("{prediction}\n")).unwrap();
    let mut command = space.pods("large", predictions.to_str().unwrap());
    let output = run(command.args(["--strict", "--network", "bridge"]));
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(verdicts(space.output.path(), "large").len(), 1, "{}", said(&output));
    assert_eq!(space.cluster.counts()["POST Secret"], 2, "{:?}", space.cluster.counts());
    space.cluster.assert_empty();
}
