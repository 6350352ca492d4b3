//! The real binary without Docker: the bundled dataset on the embedded engine.
//!
//! It stands on the base image in the state directory of the engine tests, `IMGFORGE_TEST_STATE`.

use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use imgforge::engine::Images as _;
use imgforge::engine::embedded::{EmbeddedEngine, Settings};
use imgforge::plan::name::{alias, published};
use imgforge::platform::Platform;
use serde_json::Value;

mod common;

use common::needs::{self, state};

const NAMESPACE: &str = "imgforge-test-published";

async fn engine() -> EmbeddedEngine {
    EmbeddedEngine::open(Settings {
        state_dir: state(),
        helper: env!("CARGO_BIN_EXE_imgforge").into(),
        owner: imgforge::owner::name().to_owned(),
        client_config: None,
        storage: None,
        probe: false,
    })
    .await
    .unwrap()
}

/// Gives the image of an instance the name that it would be published under.
async fn publish() -> String {
    let id = "imgforge__abacus-1";
    let engine = engine().await;
    let platform = Platform::host();
    let found = engine.inspect(&alias(id, &platform)).await.unwrap().unwrap();
    let name = published(NAMESPACE, id, &platform, None);
    engine.tag(found.id.as_str(), &name.parse().unwrap()).await.unwrap();
    name
}

#[test]
#[ignore = "needs a base image"]
fn a_ctrl_c_of_the_terminal_lets_running_tests_end_and_starts_none_again() {
    needs::base();
    let dir = tempfile::tempdir().unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_imgforge"))
        .args(["--engine", "embedded", "--json", "--state-dir"])
        .arg(state())
        .args(["eval", "-d", "demo", "-p", "gold", "--no-result-cache", "--run-id", "c", "-j", "1"])
        .current_dir(dir.path())
        .env_remove("DOCKER_HOST")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    // Which one is the first depends on how long they took before.
    let logs = dir.path().join("logs/run_evaluation/c/gold");
    let begun = || -> Vec<String> {
        let own = std::fs::read_dir(&logs).into_iter().flatten().flatten();
        // A file that is empty is made before the container. An interrupt at that moment once left the
        // evaluation not run; why is not known.
        let has_printed =
            |path: std::path::PathBuf| std::fs::metadata(path).is_ok_and(|log| log.len() > 0);
        let own = own.filter(|one| has_printed(one.path().join("test_output.txt")));
        let mut ids: Vec<String> = own.map(|one| one.file_name().into_string().unwrap()).collect();
        ids.sort_unstable();
        ids
    };
    for _ in 0..12_000 {
        if !begun().is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    // As a terminal sends it: to the whole group.
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process_group(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("stopping: what runs is finished"), "{said}");
    assert!(!said.contains("retry"), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let begun = begun();
    assert!(!begun.is_empty() && begun.len() < 8, "{begun:?}: {said}");
    assert_eq!(report["resolved_ids"], serde_json::json!(begun), "{said}");
}

#[test]
#[ignore = "needs a base image"]
fn a_term_in_any_phase_ends_it_within_seconds_and_judges_nothing() {
    needs::base();
    let build: &[&str] = &["build", "-d", "demo", "--force-rebuild"];
    let eval: &[&str] = &["eval", "-d", "demo", "-p", "gold", "--no-result-cache"];
    let mut caught = 0;
    let phases = [(build, 20), (build, 200), (build, 500), (eval, 300), (eval, 1000), (eval, 2500)];
    for (round, (args, milliseconds)) in phases.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let run_id = format!("term-{round}");
        let mut child = Command::new(env!("CARGO_BIN_EXE_imgforge"))
            .args(["--engine", "embedded"])
            .args(args)
            .env("IMGFORGE_RUN_ID", &run_id)
            .env("IMGFORGE_STATE_DIR", state())
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        std::thread::sleep(Duration::from_millis(milliseconds));
        if child.try_wait().unwrap().is_some() {
            continue;
        }
        caught += 1;
        let sent = Instant::now();
        match round % 2 {
            0 => rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap(),
            _ => rustix::process::kill_process_group(pid, rustix::process::Signal::TERM).unwrap(),
        }
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let took = sent.elapsed();
        assert!(took < Duration::from_secs(5), "{milliseconds}: {took:?}");
        // Before there is work it ends as any program does.
        let ended = output.status.code().or(output.status.signal().map(|signal| 128 + signal));
        let at_its_end = ended == Some(0) && took < Duration::from_millis(300);
        let interrupted = matches!(ended, Some(130 | 143));
        assert!(interrupted || at_its_end, "{milliseconds}: {ended:?} after {took:?}: {said}");
        assert!(!said.contains("what runs is finished"), "{milliseconds}: {said}");
        // What was dropped is neither resolved nor not: gold never fails.
        let report = dir.path().join(format!("gold.{run_id}.json"));
        if let Ok(text) = std::fs::read(&report) {
            let report: Value = serde_json::from_slice(&text).unwrap();
            for one in report["imgforge"]["instances"].as_array().unwrap() {
                let verdict = one["verdict"].as_str().unwrap();
                assert!(matches!(verdict, "resolved" | "not_run"), "{milliseconds}: {one}");
            }
        }
        let running =
            Command::new("pgrep").args(["-g", &pid.as_raw_nonzero().to_string()]).output();
        assert_eq!(String::from_utf8_lossy(&running.unwrap().stdout), "", "{milliseconds}");
    }
    assert!(caught >= 3, "only {caught} of 6 were still at work");
}

#[test]
#[ignore = "needs mmdebstrap"]
fn a_base_image_that_is_under_way_is_dropped_by_a_signal_and_leaves_nothing() {
    needs::program(Command::new("mmdebstrap").arg("--version"), "mmdebstrap");
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        let dir = tempfile::tempdir().unwrap();
        // Not `/tmp`: what is left there may be of another test.
        let trees = dir.path().join("t");
        std::fs::create_dir(&trees).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_imgforge"))
            .args(["--engine", "embedded", "base", "bootstrap", "debian:trixie"])
            .env("IMGFORGE_STATE_DIR", dir.path().join("state"))
            .env("TMPDIR", &trees)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let began = Instant::now();
        // Its directory shows that mmdebstrap works, or is about to.
        while std::fs::read_dir(&trees).unwrap().next().is_none() {
            assert!(child.try_wait().unwrap().is_none(), "it ended before the signal");
            assert!(began.elapsed() < Duration::from_secs(60), "nothing began");
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_secs(2));
        let sent = Instant::now();
        rustix::process::kill_process_group(pid, signal).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{said}");
        assert!(said.contains("interrupted"), "{said}");
        assert!(sent.elapsed() < Duration::from_secs(10), "{:?}", sent.elapsed());
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
        assert!(!mounts.contains(&trees.display().to_string()), "{mounts}");
        for left in [trees, dir.path().join("state/tmp")] {
            assert_eq!(std::fs::read_dir(&left).unwrap().count(), 0, "{left:?}");
        }
    }
}

#[test]
#[ignore = "needs a base image"]
fn the_demo_is_evaluated_without_docker() {
    needs::base();
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_imgforge"))
            .args(["--engine", "embedded", "--json", "--state-dir"])
            .arg(state())
            .args(args)
            .current_dir(dir.path())
            .env_remove("DOCKER_HOST")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{args:?}: {stderr}");
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        (document, stderr)
    };
    let ids = ["imgforge__abacus-1", "imgforge__ledger-1"];
    let eval = ["eval", "-d", "demo", "-p", "gold", "-p", "empty", "--no-result-cache", "-i"];
    let args = [&eval[..], &ids[..], &["--run-id", "demo"]].concat();
    run(&args);
    let report = |model: &str| -> Value {
        let path = dir.path().join(format!("{model}.demo.json"));
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    };
    assert_eq!(report("gold")["resolved_ids"], serde_json::json!(ids));
    assert_eq!(report("empty")["unresolved_instances"], 2);
    let (plan, _) = run(&[&["plan", "-d", "demo", "-p", "gold", "-i"][..], &ids[..]].concat());
    assert_eq!(plan["engine"], "embedded");
    for node in plan["nodes"].as_array().unwrap() {
        assert_eq!(node["status"], "fresh", "{node}");
    }
    let from = std::fs::read_to_string(state().join("embedded/oci/index.json")).unwrap();
    assert!(from.contains(&alias("imgforge__abacus-1", &Platform::host())));
    // Under the name of a published image, and with a row that brings no script.
    let published = tokio::runtime::Runtime::new().unwrap().block_on(publish());
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/demo/test.jsonl"));
    let text = text.unwrap();
    let mut row: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    for column in ["eval_script", "eval_type"] {
        row.as_object_mut().unwrap().remove(column);
    }
    std::fs::write(dir.path().join("old.jsonl"), row.to_string()).unwrap();
    let args = ["-d", "old.jsonl", "--namespace", NAMESPACE, "-p", "gold", "-p", "empty"];
    run(&[&["eval", "--no-result-cache", "--run-id", "demo-old"], &args[..]].concat());
    let report = |model: &str| -> Value {
        let path = dir.path().join(format!("{model}.demo-old.json"));
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    };
    assert_eq!(report("gold")["resolved_ids"], serde_json::json!(["imgforge__abacus-1"]));
    assert_eq!(report("empty")["unresolved_ids"], serde_json::json!(["imgforge__abacus-1"]));
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        engine().await.remove(&published).await.unwrap();
    });
    // Without a program that the build needs nothing starts.
    let output = Command::new(env!("CARGO_BIN_EXE_imgforge"))
        .args(["--engine", "embedded", "--state-dir"])
        .arg(state())
        .args(["build", "-d", "demo", "-i", ids[0], "--force-rebuild"])
        .current_dir(dir.path())
        .env("PATH", dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("needs `git`"), "{text}");
    assert!(!text.contains("failed"), "{text}");
    let (cleaned, _) = run(&["clean"]);
    assert_eq!(cleaned["removed"], serde_json::json!([]));
}
