//! The methods `smoke.*` of the protocol for programs: the real binary, over a real repository and sandbox.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::client::{Client, PipeServer};
use crate::common::needs;

const TESTS: &str = "import unittest\n\n\nclass T(unittest.TestCase):\n    def test_it(self):\n        \
                     self.assertEqual(open('a').read(), 'old\\n')\n";

/// Makes a repository of a test that passes, beside a patch that makes it fail.
fn repository(directory: &Path) {
    let repo = directory.join("repo");
    std::fs::create_dir(&repo).unwrap();
    std::fs::write(repo.join("test_it.py"), TESTS).unwrap();
    std::fs::write(repo.join("a"), "old\n").unwrap();
    // No other run has this commit: what it made would be used again.
    std::fs::write(repo.join("once"), directory.display().to_string()).unwrap();
    let patch = "--- a/a\n+++ b/a\n@@ -1 +1 @@\n-old\n+new\n";
    std::fs::write(directory.join("a.patch"), patch).unwrap();
    for words in [&["init", "-q"][..], &["add", "-A"], &["commit", "-q", "-m", "first"]] {
        let status = Command::new("git")
            .args(["-c", "user.name=a", "-c", "user.email=a@example.org"])
            .args(words)
            .current_dir(&repo)
            .status()
            .unwrap();
        assert!(status.success());
    }
}

fn config(more: &Value) -> Value {
    let mut config = json!({
        "name": "first",
        "sandbox": { "image": needs::BASE, "env": { "API_TOKEN": "hunter22" } },
        "repo": { "path": "repo", "ref": "HEAD", "compat": ["no-warnings", "collections-abc"] },
        "task": { "setup": ["echo $API_TOKEN"], "test": "python -m unittest -v" },
    });
    for (section, fields) in more.as_object().unwrap() {
        let fields = fields.as_object().unwrap().clone();
        config[section].as_object_mut().unwrap().extend(fields);
    }
    config
}

const STAGES: [&str; 7] = ["start", "clone", "checkout", "compat", "setup", "test", "teardown"];

#[test]
#[ignore = "needs a base image"]
fn a_run_is_done_stage_by_stage() {
    let directory = tempfile::tempdir().unwrap();
    repository(directory.path());
    let mut server = PipeServer::start();
    let client = &mut server.client;
    let opened = client.ok(
        "smoke.open",
        json!({
            "config": config(&json!({})), "base_dir": directory.path(), "artifacts": "kept",
            "events": "events.ndjson",
        }),
    );
    let smoke = opened["smoke"].as_str().unwrap().to_owned();
    let of = json!({ "smoke": smoke });
    let stage = |stage: &str| json!({ "smoke": smoke, "stage": stage });
    assert_eq!(client.kind("smoke.stage", stage("test")), "invalid");
    assert_eq!(client.kind("smoke.stage", stage("tset")), "invalid");
    for name in STAGES {
        let result = client.ok("smoke.stage", stage(name));
        assert_eq!((&result["stage"], &result["status"]), (&json!(name), &json!("ok")), "{result}");
    }
    assert_eq!(client.kind("smoke.stage", stage("teardown")), "invalid");
    let report = client.ok("smoke.report", of.clone());
    assert_eq!((&report["success"], &report["name"]), (&json!(true), &json!("first")), "{report}");
    assert_eq!(report["repo"]["commit"].as_str().unwrap().len(), 40);
    assert_eq!(report["stages"][4]["commands"][0]["stdout"], "***\n");
    // The fix tells what it did; the variables of the other one reach the tests.
    let compat = report["stages"][3]["commands"][0]["stdout"].as_str().unwrap();
    let said: Value = serde_json::from_str(compat).unwrap();
    assert_eq!((&said["fix"], &said["status"]), (&json!("collections-abc"), &json!("done")));
    assert_eq!(report["stages"][5]["commands"][0]["env"]["PYTEST_ADDOPTS"], "-W ignore");
    assert_eq!(client.ok("smoke.close", of.clone()), json!({}));
    assert_eq!(client.kind("smoke.report", of), "no_such_smoke");
    let kept = directory.path().join("kept").join(&smoke);
    assert_eq!(opened["artifacts"], json!(kept));
    let printed = std::fs::read_to_string(kept.join("setup/1.stdout")).unwrap();
    assert_eq!(printed, "***\n");
    let events = std::fs::read_to_string(directory.path().join("events.ndjson")).unwrap();
    let last: Value = serde_json::from_str(events.lines().last().unwrap()).unwrap();
    assert_eq!((&last["event"], &last["success"]), (&json!("run_finished"), &json!(true)));
}

#[test]
#[ignore = "needs a base image"]
fn what_is_wrong_is_named_before_anything_starts() {
    let directory = tempfile::tempdir().unwrap();
    repository(directory.path());
    let mut server = PipeServer::start();
    let client = &mut server.client;
    for (more, said, hint) in [
        (json!({ "sandbox": { "imgae": "a" } }), "unknown field `imgae`", Some("`image`")),
        (json!({ "repo": { "url": "a/b" } }), "both `url` and `path`", None),
        (json!({ "repo": { "compat": ["pytest-mn=1"] } }), "did you mean `pytest-min`", None),
        (json!({ "repo": { "patches": ["none.patch"] } }), "`repo.patches[0]`", None),
    ] {
        let params = json!({ "config": config(&more), "base_dir": directory.path() });
        let error = client.call("smoke.open", params).unwrap_err();
        assert_eq!(error["data"]["kind"], "invalid", "{error}");
        assert!(error["message"].as_str().unwrap().contains(said), "{error}");
        let told = error["data"]["hint"].as_str();
        assert!(hint.is_none_or(|hint| told.unwrap().contains(hint)), "{error}");
    }
    let two = json!({ "runs": [config(&json!({}))] });
    let refused = json!({ "config": two, "base_dir": directory.path() });
    assert_eq!(client.kind("smoke.open", refused), "invalid");
    assert_eq!(
        client.kind("smoke.stage", json!({ "smoke": "0", "stage": "test" })),
        "no_such_smoke"
    );
}

#[test]
#[ignore = "needs a base image"]
fn a_failure_skips_the_rest_and_what_is_closed_or_left_ends_at_once() {
    let directory = tempfile::tempdir().unwrap();
    repository(directory.path());
    let mut server = PipeServer::start();
    let client = &mut server.client;
    let open = |client: &mut Client<_>, more: &Value| {
        let params = json!({ "config": config(more), "base_dir": directory.path() });
        client.ok("smoke.open", params)["smoke"].as_str().unwrap().to_owned()
    };
    let failing = json!({ "repo": { "patches": ["a.patch"] } });
    let smoke = open(client, &failing);
    // They are sent at once, and done one after another.
    let sent =
        STAGES.map(|stage| client.send("smoke.stage", json!({ "smoke": smoke, "stage": stage })));
    let results = sent.map(|id| client.answer(id).unwrap());
    assert_eq!((&results[5]["stage"], &results[5]["status"]), (&json!("test"), &json!("failed")));
    let report = client.ok("smoke.report", json!({ "smoke": smoke }));
    assert_eq!((&report["success"], &report["failure_stage"]), (&json!(false), &json!("test")));

    let slow = json!({ "task": { "setup": ["sleep 600"] } });
    let smoke = open(client, &slow);
    let stages = STAGES.map(|stage| json!({ "smoke": smoke, "stage": stage }));
    for stage in &stages[..4] {
        client.ok("smoke.stage", stage.clone());
    }
    let setup = client.send("smoke.stage", stages[4].clone());
    std::thread::sleep(Duration::from_millis(500));
    client.ok("smoke.close", json!({ "smoke": smoke }));
    let setup = client.answer(setup).unwrap();
    assert_eq!(
        (&setup["status"], &setup["reason"]),
        (&json!("infra_error"), &json!("interrupted"))
    );

    let smoke = open(client, &slow);
    for stage in STAGES[..5].iter() {
        client.send("smoke.stage", json!({ "smoke": smoke, "stage": stage }));
    }
    std::thread::sleep(Duration::from_millis(500));
    let (is_success, took) = server.end();
    assert!(is_success && took < Duration::from_secs(15), "{took:?}");
}
