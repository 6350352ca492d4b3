//! Sessions of instances, grades, and what is told meanwhile.

use std::process::ChildStdin;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::client::{Client, PipeServer, imgforge, text_of};
use crate::common::needs;

const INSTANCE: &str = "imgforge__abacus-1";

/// The instance's own patch.
fn gold() -> String {
    let rows = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/demo/test.jsonl"));
    let rows = rows.unwrap();
    let rows = rows.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let row = rows.into_iter().find(|row| row["instance_id"] == INSTANCE).unwrap();
    row["patch"].as_str().unwrap().to_owned()
}

#[test]
#[ignore = "needs a base image"]
fn a_patch_has_the_bytes_and_its_grade_is_that_of_an_evaluation() {
    let mut server = PipeServer::with_instances();
    let client = &mut server.client;
    let instance = json!({ "dataset": "demo", "instance_id": INSTANCE });
    let start = |client: &mut Client<ChildStdin>| {
        let started = client.ok("session.start", json!({ "instance": instance }));
        assert_eq!(started["repository"], "/testbed");
        assert_eq!(started["instance"]["split"], "test");
        started["session"].as_str().unwrap().to_owned()
    };
    let (one, other) = (start(client), start(client));
    client.sh(&one, "printf 'a\\r\\nc\\r\\n' >f && printf '\\0\\377' >binary && chmod +x binary");
    let patch = client.ok("session.patch", json!({ "session": one }))["patch"].clone();
    assert!(text_of(&patch).contains("c\r\n"));
    client.ok("session.apply", json!({ "session": other, "patch": patch }));
    let look = "sha256sum f binary && stat -c %a binary";
    assert_eq!(client.sh(&one, look), client.sh(&other, look));
    let again = json!({ "session": other, "patch": patch });
    assert_eq!(client.kind("session.apply", again.clone()), "refused");
    let mut back = again;
    back["reverse"] = json!(true);
    client.ok("session.apply", back);
    assert_eq!(client.ok("session.patch", json!({ "session": other }))["patch"], "");
    let changes = client.ok("session.diff", json!({ "session": one }));
    let mut paths = changes["changes"].as_array().unwrap().iter().map(|one| one["path"].clone());
    assert!(paths.any(|path| path == "/testbed/binary"), "{changes}");

    let nothing = client.ok("session.grade", json!({ "session": other }));
    assert_eq!((&nothing["resolved"], &nothing["verdict"]), (&json!(false), &json!("empty_patch")));
    let patch = STANDARD.encode(gold());
    client.ok("session.apply", json!({ "session": other, "patch": patch }));
    let solved = client.ok("session.grade", json!({ "session": other, "model": "me" }));
    assert_eq!(
        (&solved["resolved"], &solved["verdict"]),
        (&json!(true), &json!("resolved")),
        "{solved}"
    );
    assert!(text_of(&solved["output"]).contains("passed"), "{solved}");
    assert!(!solved["tests"]["FAIL_TO_PASS"]["success"].as_array().unwrap().is_empty());
    // One that was not run before: others that are at work meanwhile, and sessions, are left alone.
    let new = |client: &mut Client<ChildStdin>| {
        let line = rand::random::<u64>();
        let more = format!(
            "diff --git a/n b/n\nnew file mode 100644\n--- /dev/null\n+++ b/n\n@@ -0,0 +1 @@\n+{line}\n"
        );
        let patch = STANDARD.encode(format!("{}\n{more}", gold().trim_end()));
        client.send("instance.grade", json!({ "instance": instance, "patch": patch }))
    };
    let at_once: Vec<u64> = (0..3).map(|_| new(client)).collect();
    for id in at_once {
        let graded = client.answer(id).unwrap();
        let said = (&graded["resolved"], &graded["cached"]);
        assert_eq!(said, (&json!(true), &json!(false)), "{graded}");
        assert_eq!(client.sh(&one, "echo alive"), (0, "alive\n".to_owned()));
    }
    assert_eq!(
        client.kind(
            "instance.grade",
            json!({
                "instance": { "dataset": "demo", "instance_id": "nobody" }, "patch": patch,
            })
        ),
        "no_such_instance"
    );
    let of_patch = json!({ "instance": instance, "patch": patch });
    assert_eq!(client.ok("instance.grade", of_patch)["resolved"], json!(true));
    let no_patch = json!({ "instance": instance, "patch": STANDARD.encode("what?\n") });
    let refused = client.ok("instance.grade", no_patch);
    assert_eq!(
        (&refused["resolved"], &refused["verdict"]),
        (&json!(false), &json!("patch_refused"))
    );
    // No time to run is no verdict.
    let late = json!({ "instance": instance, "patch": STANDARD.encode("late"), "timeout": 0 });
    assert_eq!(client.kind("instance.grade", late), "refused");
    let nobody = json!({ "dataset": "demo", "instance_id": "nobody" });
    assert_eq!(client.kind("session.start", json!({ "instance": nobody })), "no_such_instance");
    let nowhere = json!({ "dataset": "/no/such.jsonl", "instance_id": "nobody" });
    assert_eq!(client.kind("session.start", json!({ "instance": nowhere })), "no_such_instance");
}

#[test]
#[ignore = "needs a base image"]
fn what_goes_on_is_told_before_the_answer_where_it_is_asked_for() {
    let mut server = PipeServer::with_instances();
    let client = &mut server.client;
    let instance = json!({ "dataset": "demo", "instance_id": INSTANCE });
    let grade = |events: Value| {
        // One that was not run before.
        let line = rand::random::<u64>();
        let patch = format!(
            "diff --git a/n b/n\nnew file mode 100644\n--- /dev/null\n+++ b/n\n@@ -0,0 +1 @@\n+{line}\n"
        );
        json!({ "instance": instance, "patch": STANDARD.encode(patch), "events": events })
    };
    client.ok("instance.grade", grade(Value::Null));
    client.ok("session.start", json!({ "instance": instance }));
    assert!(client.notifications.is_empty(), "{:?}", client.notifications);

    let graded = client.ok("instance.grade", grade(json!("mine")));
    assert_eq!((&graded["verdict"], &graded["hint"]), (&json!("unresolved"), &Value::Null));
    let told = std::mem::take(&mut client.notifications);
    let mut kinds = Vec::new();
    for one in &told {
        assert_eq!((&one["method"], &one["params"]["events"]), (&json!("event"), &json!("mine")));
        kinds.push(one["params"]["event"]["event"].as_str().unwrap());
    }
    let at = |kind: &str| {
        let found = kinds.iter().position(|own| *own == kind);
        found.unwrap_or_else(|| panic!("there is no {kind} in {kinds:?}"))
    };
    assert!(at("notice") < at("run_started"), "{kinds:?}");
    assert!(at("run_started") < at("node_started"), "{kinds:?}");
    assert!(at("node_step") < at("node_finished"), "{kinds:?}");
    assert_eq!(kinds.last(), Some(&"run_finished"));

    client.ok("session.start", json!({ "instance": instance, "events": "other" }));
    let told = std::mem::take(&mut client.notifications);
    let notice = told.first().map(|one| (&one["params"]["events"], &one["params"]["event"]));
    let waiting = (&json!("other"), &json!("waiting"));
    assert_eq!(notice.map(|(name, event)| (name, &event["weight"])), Some(waiting), "{told:?}");
    assert_eq!(client.kind("session.start", json!({ "image": "a", "events": 3 })), "invalid");
}

#[test]
#[ignore = "needs a base image"]
fn an_image_that_cannot_be_made_is_an_error_with_the_reason_and_the_hint() {
    let directory = tempfile::tempdir().unwrap();
    let rows = include_str!("../../../demo/test.jsonl").lines();
    let mut row: Value = rows
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .find(|row| row["instance_id"] == INSTANCE)
        .unwrap();
    // No repository has this commit, and there is none where it is looked for.
    row["base_commit"] = json!("0123456789012345678901234567890123456789");
    let dataset = directory.path().join("rows.jsonl");
    std::fs::write(&dataset, format!("{row}\n")).unwrap();
    let mirror = format!("{}/{{name}}", directory.path().display());
    needs::base();
    let mut command = imgforge(&needs::state(), &["serve", "--stdio"]);
    command.env("IMGFORGE_GIT_MIRROR", mirror).env("IMGFORGE_ATTEMPTS", "1");
    command.current_dir(directory.path());
    let mut server = PipeServer::of(command);
    let client = &mut server.client;
    client.ok("hello", json!({ "protocol": 1 }));
    let instance = json!({ "dataset": dataset, "instance_id": INSTANCE });
    let error = client.call("session.start", json!({ "instance": instance })).unwrap_err();
    let (message, hint) = (&error["message"], &error["data"]["hint"]);
    let (message, hint) = (message.as_str().unwrap(), hint.as_str().unwrap());
    assert_eq!(error["data"]["kind"], "infra", "{error}");
    assert!(message.starts_with("cannot build `checkout:imgforge/abacus@"), "{error}");
    assert!(message.contains("0123456789"), "{error}");
    assert!(hint.contains("--git-mirror") && hint.contains("build_image.log"), "{error}");
}
