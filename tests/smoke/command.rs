//! `imgforge smoke`, as far as it needs no engine.

use std::path::Path;
use std::process::{Command, Output};

use imgforge::smoke::Manager;
use serde_json::Value;

use crate::bench::Space;

fn smoke(space: &Space, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_imgforge"));
    command.arg("--state-dir").arg(space.path().join("state"));
    command.args(["--engine", "embedded", "smoke"]).args(args).current_dir(space.path());
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_wrong_configuration_is_told_before_anything_is_started() {
    let space = Space::new();
    let file = |name: &str, text: &str| std::fs::write(space.path().join(name), text).unwrap();
    file("key.yaml", "sandbox: {image: x, timeouts: {comand: 1}}\n");
    file(
        "both.toml",
        "[sandbox]\nimage='x'\n[repo]\nurl='a/b'\npath='.'\nref='x'\n[task]\ntest='x'\n",
    );
    file("none.json", "{\"sandbox\": {\"image\": \"x\"}}");
    for (name, words) in [
        ("key.yaml", ["`key.yaml`", "`sandbox.timeouts.comand`", "did you mean `command`?"]),
        ("both.toml", ["`both.toml`", "`repo`", "both `url` and `path`"]),
        ("none.json", ["`none.json`", "`repo`", "missing"]),
        ("missing.toml", ["`missing.toml`", "No such file", ""]),
        ("key.ini", ["`key.ini`", ".toml", ""]),
    ] {
        let output = smoke(&space, &["--config", name, "--artifacts", "out", "--events", "events"]);
        assert_eq!(output.status.code(), Some(2), "{name}: {}", said(&output));
        for word in words {
            assert!(said(&output).contains(word), "{name}: {}", said(&output));
        }
    }
    for name in ["out", "events", "state"] {
        assert!(!space.path().join(name).exists(), "{name}");
    }
    let output = smoke(&space, &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("--config"), "{}", said(&output));
    let output = smoke(&space, &["--config", "key.yaml", "--json"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["error"]["hint"], "did you mean `command`?");
}

#[tokio::test]
async fn a_report_is_printed_again_with_the_status_of_its_run() {
    let mut last = Vec::new();
    for (task, status) in [("test = \"true\"", 0), ("test = \"exit 3\"", 1)] {
        let space = Space::new();
        let report = space.run(space.config("", task)).await;
        let again = smoke(&space, &["report", "artifacts", "--json"]);
        assert_eq!(again.status.code(), Some(status), "{}", said(&again));
        let document: Value = serde_json::from_slice(&again.stdout).unwrap();
        assert_eq!(document, serde_json::json!(report));
        let plain = smoke(&space, &["report", "artifacts"]);
        assert!(said(&plain).contains("teardown ok"), "{}", said(&plain));
        last = plain.stdout;
    }
    assert!(String::from_utf8(last).unwrap().starts_with("run: failure in stage `test`"));
}

#[tokio::test]
async fn runs_of_one_directory_do_not_mix_and_the_last_is_told() {
    let space = Space::new();
    for (name, task) in [("b", "test = \"exit 1\""), ("a", "test = \"true\"")] {
        let mut options = space.options();
        options.artifacts = Some(space.artifacts().join(name));
        options.run_id = name.to_owned();
        let mut manager = Manager::open(space.config("", task), space.means(), options).unwrap();
        manager.run().await;
        // The name of a run is taken once.
        let mut options = space.options();
        options.artifacts = Some(space.artifacts().join(name));
        assert!(Manager::open(space.config("", task), space.means(), options).is_err());
    }
    let both = smoke(&space, &["report", "artifacts", "--json"]);
    assert_eq!(both.status.code(), Some(0));
    let document: Value = serde_json::from_slice(&both.stdout).unwrap();
    assert_eq!(document["run_id"], "a");
    assert!(said(&both).contains("1 earlier run"), "{}", said(&both));
    let one = smoke(&space, &["report", "artifacts/b"]);
    assert_eq!(one.status.code(), Some(1));
    for place in ["scratch", "none"] {
        let none = smoke(&space, &["report", place]);
        assert_eq!(none.status.code(), Some(2), "{}", said(&none));
        assert!(said(&none).contains(place));
    }
    assert!(Path::new(&space.artifacts()).exists());
}
