//! Evaluations on a real engine: good days and bad ones.
//!
//! The rows are of this file's own making, with scripts that do what tests should not. They run in
//! an image that only gets a name here, so nothing is built.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

#[path = "../common/mod.rs"]
mod common;
mod shards;

use common::docker;
use common::needs::{self, FROM, NotHere, not_here};

/// A directory with a dataset, whose rows run in an image of this test's own name.
struct Space {
    dir: tempfile::TempDir,
    namespace: String,
    rows: Vec<Value>,
}

/// A script whose tests are `tests`.
fn script(tests: &str) -> String {
    format!(
        "#!/bin/bash\nset -uxo pipefail\n: '>>>>> Start Test Output'\n{tests}\n\
         : '>>>>> End Test Output'\n"
    )
}

impl Space {
    fn new() -> Space {
        needs::docker();
        let namespace = format!("imgforge-test-{:012x}", rand::random::<u64>() >> 16);
        let tagged = docker(&["tag", FROM, &format!("{namespace}/box:latest")]);
        assert!(tagged.status.success(), "{}", String::from_utf8_lossy(&tagged.stderr));
        Space { dir: tempfile::tempdir().unwrap(), namespace, rows: Vec::new() }
    }

    /// Adds an instance that is resolved when its log says `PASSED a`.
    fn row(&mut self, id: &str, tests: &str) {
        self.rows.push(json!({
            "instance_id": id,
            "repo": "x/y",
            "version": "1",
            "base_commit": "0".repeat(40),
            "patch": "",
            "test_patch": "",
            "FAIL_TO_PASS": ["a"],
            "PASS_TO_PASS": [],
            "log_parser": "parse_log_pytest",
            "eval_type": "pass_and_fail",
            "image": format!("{}/box:latest", self.namespace),
            "eval_script": script(tests),
        }));
    }

    fn write_rows(&self) -> PathBuf {
        let path = self.dir.path().join("rows.jsonl");
        let lines: Vec<String> = self.rows.iter().map(Value::to_string).collect();
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
        path
    }

    /// Waits until a file is there.
    fn wait_for(&self, path: &str) {
        let path = self.dir.path().join(path);
        for _ in 0..600 {
            if path.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{} does not come", path.display());
    }

    fn command(&self, args: &[&str]) -> Command {
        let rows = self.write_rows();
        let mut command = Command::new(env!("CARGO_BIN_EXE_imgforge"));
        command
            .arg("eval")
            .arg("-d")
            .arg(rows)
            .args(["--namespace", &self.namespace])
            .args(args)
            .current_dir(self.dir.path())
            .env("IMGFORGE_STATE_DIR", self.dir.path().join("state"))
            .stdin(Stdio::null());
        command
    }

    /// Evaluates with no patch and returns the run report, the exit status and what was said.
    fn eval(&self, args: &[&str]) -> (Value, Option<i32>, String) {
        let output = self.command(&["-p", "empty", "--json"]).args(args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (serde_json::from_slice(&output.stdout).unwrap_or(Value::Null), output.status.code(), said)
    }

    fn output(&self, run: &str, id: &str) -> Vec<u8> {
        let path = format!("logs/run_evaluation/{run}/empty/{id}/test_output.txt");
        std::fs::read(self.dir.path().join(path)).unwrap()
    }

    /// The containers of this test's images that there are.
    fn containers(&self) -> Vec<String> {
        let ancestor = format!("ancestor={}/box:latest", self.namespace);
        let listed =
            docker(&["ps", "-aq", "--filter", &ancestor, "--filter", "label=dev.imgforge.run"]);
        let all = String::from_utf8_lossy(&listed.stdout).into_owned();
        let own = all.split_whitespace().filter(|id| {
            let format = "{{.Config.Image}}";
            let image = docker(&["inspect", "--format", format, id]);
            String::from_utf8_lossy(&image.stdout).contains(&self.namespace)
        });
        own.map(str::to_owned).collect()
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        docker(&["rmi", &format!("{}/box:latest", self.namespace)]);
    }
}

fn verdict<'a>(report: &'a Value, id: &str) -> &'a Value {
    let all = report["imgforge"]["instances"].as_array();
    let found = all.into_iter().flatten().find(|one| one["instance_id"] == id);
    found.unwrap_or_else(|| panic!("no result of {id} in {report:#}"))
}

#[test]
#[ignore = "needs Docker"]
fn five_kinds_of_end_are_told_apart() {
    let mut space = Space::new();
    space.row("x__y-1", "echo PASSED a");
    space.row("x__y-2", "echo FAILED a; false");
    space.row("x__y-3", "trap '' TERM; (setsid sleep 300 &) ; sleep 300");
    space.row("x__y-4", "python3 -c \"x = bytearray(1 << 30)\"");
    space.row("x__y-5", "sleep 300");
    // What tests do to themselves is no kill from outside.
    space.row("x__y-6", "kill -KILL 1; kill -KILL -1; kill -KILL $$");
    let began = Instant::now();
    let args = ["--run-id", "r", "-t", "8", "--memory", "100m", "-j", "6", "--attempts", "1"];
    let child = space
        .command(&[&["-p", "empty", "--json"][..], &args].concat())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    space.wait_for("logs/run_evaluation/r/empty/x__y-5/test_output.txt");
    let killed = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        space.containers().into_iter().any(|id| {
            let format = "{{index .Config.Labels \"dev.imgforge.instance\"}} {{.State.Running}}";
            let label = docker(&["inspect", "--format", format, &id]);
            let own = String::from_utf8_lossy(&label.stdout).trim() == "x__y-5 true";
            own && docker(&["kill", &id]).status.success()
        })
    });
    assert!(killed, "the container of x__y-5 is there");
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    assert_eq!(output.status.code(), Some(1), "{said}");
    for (id, wanted) in [
        ("x__y-1", "resolved"),
        ("x__y-2", "unresolved"),
        ("x__y-3", "timed_out"),
        ("x__y-4", "out_of_memory"),
        ("x__y-5", "error"),
        ("x__y-6", "unresolved"),
    ] {
        assert_eq!(verdict(&report, id)["verdict"], wanted, "{id}: {said}");
    }
    assert!(verdict(&report, "x__y-3")["advice"].as_str().unwrap().contains("--timeout"));
    assert!(verdict(&report, "x__y-4")["advice"].as_str().unwrap().contains("--memory"));
    let reason = verdict(&report, "x__y-5")["reason"].as_str().unwrap();
    assert!(reason.contains("killed from outside"), "{reason}");
    let text = String::from_utf8(space.output("r", "x__y-3")).unwrap();
    assert!(text.ends_with("\n\nTimeout error: 8 seconds exceeded."), "{text}");
    assert!(began.elapsed() < Duration::from_secs(60), "kills do not wait");
    assert_eq!(report["error_ids"], json!(["x__y-3", "x__y-4", "x__y-5"]));
    assert_eq!(report["completed_ids"], json!(["x__y-1", "x__y-2", "x__y-6"]));
    assert_eq!(space.containers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs Docker"]
fn an_image_without_git_and_patch_refuses_no_patch() {
    let mut space = Space::new();
    space.row("x__y-1", "echo PASSED a");
    space.rows[0]["workdir"] = json!("/tmp");
    let patch = "--- /dev/null\n+++ b/made\n@@ -0,0 +1 @@\n+x\n";
    let prediction =
        json!({ "instance_id": "x__y-1", "model_name_or_path": "m", "model_patch": patch });
    std::fs::write(space.dir.path().join("preds.jsonl"), prediction.to_string()).unwrap();
    let output = space.command(&["-p", "preds.jsonl", "--json", "--run-id", "r"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let verdict = verdict(&report, "x__y-1");
    assert_eq!(verdict["verdict"], "error", "{said}");
    let reason = verdict["reason"].as_str().unwrap();
    assert!(reason.contains("it has neither git nor patch"), "{reason}");
}

#[test]
#[ignore = "needs Docker"]
fn tests_that_misbehave_are_judged_by_the_harness_rules() {
    let mut space = Space::new();
    space.row("x__y-1", "cat; read line; echo PASSED a");
    space.row("x__y-2", "(nohup sleep 300 >/dev/null 2>&1 &); (setsid sleep 300 &); echo PASSED a");
    space.row("x__y-3", "printf 'a\\0b\\033[31m\\377\\n'; echo PASSED a");
    space.row("x__y-4", "echo PASSED a; false");
    space.row("x__y-5", "echo '>>>>> End Test Output'; echo PASSED a");
    space.row("x__y-6", "rm -rf /eval.sh /tmp /proc/self/fd/1; echo PASSED a");
    space.row(
        "x__y-7",
        "python3 -c \"import socket; socket.create_connection(('1.1.1.1', 53), 5)\"",
    );
    space.row(
        "x__y-8",
        "mount -t tmpfs x /mnt; echo $?; mknod /d b 7 0; echo $?; env; echo PASSED a",
    );
    let secret = "a-secret-of-the-host";
    let output = space
        .command(&["-p", "empty", "--json", "--run-id", "r", "-j", "4"])
        .env("AWS_SECRET_ACCESS_KEY", secret)
        .env("HF_TOKEN", secret)
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    for (id, wanted) in [
        ("x__y-1", "resolved"),
        ("x__y-2", "resolved"),
        ("x__y-3", "resolved"),
        // Exit status 1 and no failing test: the log does not describe the run.
        ("x__y-4", "unresolved"),
        // What stands outside the markers counts when nothing is inside, as the harness has it.
        ("x__y-5", "resolved"),
        ("x__y-6", "resolved"),
        ("x__y-7", "unresolved"),
        ("x__y-8", "resolved"),
    ] {
        assert_eq!(verdict(&report, id)["verdict"], wanted, "{id}: {said}");
    }
    let bytes = space.output("r", "x__y-3");
    assert!(bytes.windows(9).any(|part| part == b"a\0b\x1b[31m\xff"), "bytes survive");
    let network = String::from_utf8(space.output("r", "x__y-7")).unwrap();
    assert!(network.contains("Network is unreachable"), "{network}");
    let closed = String::from_utf8(space.output("r", "x__y-8")).unwrap();
    assert!(closed.contains("permission denied") || closed.contains("not permitted"), "{closed}");
    assert!(!closed.contains(secret), "{closed}");
    assert_eq!(space.containers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs Docker"]
fn a_fork_bomb_and_a_flood_harm_nobody_else() {
    let mut space = Space::new();
    space.row("x__y-1", ":(){ :|:& }; :; sleep 1; echo PASSED a");
    space.row("x__y-2", "head -c 300000000 /dev/zero | tr '\\0' x; echo; echo PASSED a");
    space.row("x__y-3", "echo PASSED a");
    let args = ["--run-id", "r", "--pids-limit", "64", "-t", "60", "-j", "3"];
    let (report, _, said) = space.eval(&args);
    assert_eq!(verdict(&report, "x__y-2")["verdict"], "resolved", "{said}");
    assert_eq!(verdict(&report, "x__y-3")["verdict"], "resolved", "{said}");
    assert!(space.output("r", "x__y-2").len() > 300_000_000);
    assert_eq!(space.containers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs Docker"]
fn patches_that_take_all_there_is_leave_the_others_their_verdicts() {
    let mut space = Space::new();
    space.row(
        "x__y-1",
        "for i in $(seq 60); do head -c 9000000 /dev/zero >/var/$i; done; sleep 200",
    );
    space.row("x__y-2", "cd /var; seq 9000 | xargs touch; sleep 200; echo PASSED a");
    space.row("x__y-3", "cat /dev/zero; echo PASSED a");
    space.row("x__y-4", ":(){ :|:& }; :; sleep 1; echo PASSED a");
    for honest in 5..12 {
        let word = if honest % 2 == 1 { "PASSED" } else { "FAILED" };
        space.row(&format!("x__y-{honest}"), &format!("sleep 1; echo {word} a"));
    }
    let limits = ["--disk", "100m", "--files", "5000", "--log-size", "2m", "--pids-limit", "64"];
    let args = [&["--run-id", "r", "-t", "60", "-j", "4"], limits.as_slice()].concat();
    let (report, code, said) = space.eval(&args);
    assert_eq!(code, Some(1), "{said}");
    for (id, option) in [("x__y-1", "--disk"), ("x__y-2", "--files"), ("x__y-3", "--log-size")] {
        let verdict = verdict(&report, id);
        assert_eq!(verdict["verdict"], "over_quota", "{id}: {said}");
        assert!(verdict["reason"].as_str().unwrap().contains(option), "{verdict}");
    }
    for honest in 5..12 {
        let wanted = if honest % 2 == 1 { "resolved" } else { "unresolved" };
        assert_eq!(verdict(&report, &format!("x__y-{honest}"))["verdict"], wanted, "{said}");
    }
    assert_eq!(space.output("r", "x__y-3").len(), 2 << 20);
    // What was over its quota has no result, and is tried again; the others are not.
    let (again, ..) = space.eval(&args);
    let cached = again["imgforge"]["cached_ids"].as_array().unwrap();
    assert!(cached.len() >= 7 && !cached.contains(&json!("x__y-1")), "{cached:?}");
    assert_eq!(space.containers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs Docker"]
fn what_was_run_is_not_run_again_whatever_the_run_is_called() {
    let mut space = Space::new();
    space.row("x__y-1", "echo PASSED a");
    space.row("x__y-2", "date +%N; echo FAILED a; false");
    let (first, code, _) = space.eval(&["--run-id", "one"]);
    assert_eq!(code, Some(0));
    let (again, _, said) = space.eval(&["--run-id", "two"]);
    assert!(said.contains("nothing to run"), "{said}");
    assert_eq!(again["imgforge"]["cached_ids"], json!(["x__y-1", "x__y-2"]));
    assert_eq!(first["resolved_ids"], again["resolved_ids"]);
    assert_eq!(space.output("one", "x__y-2"), space.output("two", "x__y-2"));
    let report = "logs/run_evaluation/two/empty/x__y-1/report.json";
    let report = std::fs::read(space.dir.path().join(report)).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["x__y-1"]["resolved"], true);
    // One changed script is one run.
    space.rows[1]["eval_script"] = json!(script("true; echo PASSED a"));
    let (changed, _, said) = space.eval(&["--run-id", "three"]);
    assert_eq!(changed["imgforge"]["cached_ids"], json!(["x__y-1"]), "{said}");
    assert_eq!(changed["resolved_instances"], 2);
    let (forced, ..) = space.eval(&["--run-id", "four", "--no-result-cache"]);
    assert_eq!(forced["imgforge"]["cached_ids"], json!([]));
    // Its log is damaged: it is run again.
    for blob in std::fs::read_dir(space.dir.path().join("state/blobs")).unwrap() {
        std::fs::write(blob.unwrap().path(), "damaged").unwrap();
    }
    let (healed, code, _) = space.eval(&["--run-id", "five"]);
    assert_eq!((code, &healed["imgforge"]["cached_ids"]), (Some(0), &json!([])));
}

#[test]
#[ignore = "needs Docker"]
fn a_killed_run_leaves_no_container_and_goes_on_where_it_was() {
    let mut space = Space::new();
    for number in 1..=4 {
        space.row(&format!("x__y-{number}"), &format!("sleep 1.{number}; echo PASSED a"));
    }
    for pause in [700, 1600] {
        let mut child: Child = space
            .command(&["-p", "empty", "--run-id", "r", "-j", "2"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(pause));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    // Without imgforge the containers end themselves.
    let deadline = Instant::now() + Duration::from_secs(20);
    let running = || {
        let ids = space.containers();
        ids.into_iter().any(|id| {
            let state = docker(&["inspect", "--format", "{{.State.Running}}", &id]);
            String::from_utf8_lossy(&state.stdout).trim() == "true"
        })
    };
    while running() {
        assert!(Instant::now() < deadline, "a container outlives its run");
        std::thread::sleep(Duration::from_millis(100));
    }
    let (report, code, said) = space.eval(&["--run-id", "r", "-j", "2"]);
    assert_eq!((code, &report["resolved_instances"]), (Some(0), &json!(4)), "{said}");
    assert_eq!(space.containers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs Docker"]
fn an_interrupted_run_says_what_was_not_run_and_the_same_command_goes_on() {
    let mut space = Space::new();
    for number in 1..=6 {
        space.row(&format!("x__y-{number}"), &format!("sleep 1.{number}; echo PASSED a"));
    }
    let child = space
        .command(&["-p", "empty", "--run-id", "r", "-j", "1", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    space.wait_for("logs/run_evaluation/r/empty/x__y-1/test_output.txt");
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("stopping: what runs is finished"), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(verdict(&report, "x__y-6")["verdict"], "not_run", "{said}");
    let done = report["resolved_instances"].as_u64().unwrap();
    assert!((1..6).contains(&done), "{said}");
    let (report, code, said) = space.eval(&["--run-id", "r", "-j", "3"]);
    assert_eq!((code, &report["resolved_instances"]), (Some(0), &json!(6)), "{said}");
    assert_eq!(report["imgforge"]["cached_ids"].as_array().unwrap().len() as u64, done, "{said}");
}

#[test]
#[ignore = "needs Docker"]
fn a_termination_does_not_wait_for_tests_not_even_stopped_ones() {
    let mut space = Space::new();
    space.row("x__y-1", "kill -STOP -1; kill -STOP $$; echo PASSED a");
    space.row("x__y-2", "echo PASSED a");
    let child = space
        .command(&["-p", "empty", "--run-id", "r", "-j", "1", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    space.wait_for("logs/run_evaluation/r/empty/x__y-1/test_output.txt");
    std::thread::sleep(Duration::from_secs(2));
    let (pid, asked) = (rustix::process::Pid::from_raw(child.id() as i32).unwrap(), Instant::now());
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}: {said}", asked.elapsed());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(verdict(&report, "x__y-1")["verdict"], "not_run", "{said}");
    assert_eq!(space.containers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs Docker"]
fn two_runs_of_one_name_at_once_do_not_mix() {
    let mut space = Space::new();
    space.row("x__y-1", "sleep 4; echo PASSED a");
    let mut first = space
        .command(&["-p", "empty", "--run-id", "r"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    space.wait_for("logs/run_evaluation/r/empty/x__y-1/test_output.txt");
    let (_, code, said) = space.eval(&["--run-id", "r"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("run `r` is under way in another process"), "{said}");
    // Under another name it waits for the same result and takes it.
    let (report, code, said) = space.eval(&["--run-id", "s"]);
    assert_eq!((code, &report["resolved_instances"]), (Some(0), &json!(1)), "{said}");
    assert_eq!(report["imgforge"]["cached_ids"], json!(["x__y-1"]), "{said}");
    assert!(first.wait().unwrap().success());
}

#[test]
#[ignore = "needs Docker and root"]
fn a_full_disk_under_the_log_ends_the_run_and_nothing_is_scored() {
    if !needs::is_root() {
        return not_here(NotHere::PlainUser);
    }
    let mut space = Space::new();
    space.row("x__y-1", "head -c 100000000 /dev/zero; echo PASSED a");
    let logs = space.dir.path().join("logs");
    std::fs::create_dir_all(&logs).unwrap();
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=20m", "tmpfs"]).arg(&logs).status();
    assert!(mounted.unwrap().success());
    let (report, code, said) = space.eval(&["--run-id", "r", "--min-free", "0"]);
    Command::new("umount").arg("-l").arg(&logs).status().unwrap();
    assert_eq!(code, Some(3), "{said}\n{report:#}");
    assert!(said.contains("cannot write") && said.contains("free some disk"), "{said}");
    assert_eq!(space.containers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs Docker"]
fn flaky_tests_show_when_an_instance_is_run_more_than_once() {
    let mut space = Space::new();
    space.row("x__y-1", "echo PASSED a");
    // The clock decides: about every other run fails.
    space.row(
        "x__y-2",
        "if [ $(( $(date +%s) % 2 )) = 0 ]; then echo PASSED a; else echo FAILED a; fi",
    );
    let (report, code, said) = space.eval(&["--run-id", "r", "--repeat", "6", "-j", "1"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(verdict(&report, "x__y-1")["runs"].as_array().unwrap().len(), 6);
    assert_eq!(verdict(&report, "x__y-1")["verdict"], "resolved");
    let flaky = verdict(&report, "x__y-2");
    let runs = flaky["runs"].as_array().unwrap();
    let resolved = runs.iter().filter(|run| **run == "resolved").count();
    if resolved == 0 || resolved == 6 {
        assert_eq!(flaky["flaky"], json!([]));
    } else {
        assert_eq!(flaky["flaky"], json!(["a"]), "{flaky:#}");
        assert_eq!(flaky["verdict"], "unresolved");
    }
}

#[test]
#[ignore = "needs Docker"]
fn predictions_that_hold_no_patch_are_counted_and_strangers_are_named() {
    let mut space = Space::new();
    for number in 1..=5 {
        space.row(&format!("x__y-{number}"), "echo PASSED a");
    }
    let line = |id: &str, patch: Value| {
        json!({ "instance_id": id, "model_name_or_path": "org/m", "model_patch": patch })
            .to_string()
    };
    let text = [
        line("x__y-1", Value::Null),
        line("x__y-2", json!("")),
        line("x__y-3", json!(" \r\n")),
        line("z__z-9", json!("x")),
        line("x__y-4", json!("")),
        line("x__y-4", json!(null)),
    ];
    let path = space.dir.path().join("preds.jsonl");
    std::fs::write(&path, text.join("\n")).unwrap();
    let path = path.to_str().unwrap();
    let steps = space.dir.path().join("steps.md");
    std::fs::write(&steps, "before\n").unwrap();
    let output = space
        .command(&["-p", path, "--json", "--run-id", "r", "--junit", "copies/j.xml"])
        .env("GITHUB_STEP_SUMMARY", &steps)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["empty_patch_ids"], json!(["x__y-1", "x__y-2", "x__y-3", "x__y-4"]));
    assert_eq!(report["incomplete_ids"], json!(["x__y-5"]));
    assert_eq!(report["imgforge"]["unknown_ids"], json!(["z__z-9"]));
    assert!(said.contains("z__z-9") && said.contains("two predictions for `x__y-4`"), "{said}");
    for file in ["org__m.r.json", "copies/j.xml", "evaluation_results/r/index.html"] {
        assert!(space.dir.path().join(file).is_file(), "{file}");
    }
    let steps = std::fs::read_to_string(steps).unwrap();
    assert!(steps.starts_with("before\n# Run r\n"), "{steps}");
}

#[test]
#[ignore = "needs Docker"]
fn an_image_that_is_not_what_its_row_says_is_an_error_and_never_a_verdict() {
    let mut space = Space::new();
    let patch =
        "diff --git a/x b/x\nnew file mode 100644\n--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+a\n";
    space.row("x__y-1", "echo PASSED a");
    space.rows[0]["patch"] = json!(patch);
    space.row("x__y-2", "echo PASSED a");
    space.rows[1]["patch"] = json!(patch);
    space.rows[1]["workdir"] = json!("/opt/nowhere");
    space.row("x__y-3", "echo PASSED a");
    space.rows[2]["eval_script"] = json!(format!("cd /app\n{}", script("echo PASSED a")));
    space.row("x__y-4", "echo PASSED a; exit 96");
    let output =
        space.command(&["-p", "gold", "-p", "empty", "--json", "--run-id", "r"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let verdicts = |model: &str| {
        let all = report["models"][model]["imgforge"]["instances"].as_array().unwrap();
        let shown = |one: &Value| {
            let id = one["instance_id"].as_str().unwrap().replace("x__y-", "");
            format!("{id} {}", one["verdict"].as_str().unwrap())
        };
        all.iter().map(shown).collect::<Vec<_>>()
    };
    // Without a patch nothing has to be where the repository should be; what a script says it needs
    // has to. A script may end with any code.
    assert_eq!(
        verdicts("gold"),
        ["1 error", "2 error", "3 empty_patch", "4 empty_patch"],
        "{said}"
    );
    assert_eq!(
        verdicts("empty"),
        ["1 resolved", "2 resolved", "3 error", "4 unresolved"],
        "{said}"
    );
    for reason in ["no directory /testbed", "no directory /opt/nowhere", "cannot enter /app"] {
        assert!(said.contains(reason), "{reason}: {said}");
    }
    assert!(said.contains("compare the row's `image`, `workdir`"), "{said}");
}

/// What reports and logs are there, and when they were written.
fn files(dir: &std::path::Path) -> Vec<(PathBuf, std::time::SystemTime, Vec<u8>)> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            match path.file_name().unwrap().to_str().unwrap() {
                ".lock" | "state" => {}
                _ if path.is_dir() => open.push(path),
                _ => {
                    let time = std::fs::metadata(&path).unwrap().modified().unwrap();
                    found.push((path.clone(), time, std::fs::read(&path).unwrap()));
                }
            }
        }
    }
    found.sort();
    found
}

/// Names what differs, so that a failure can be read.
fn assert_same_files(
    before: &[(PathBuf, std::time::SystemTime, Vec<u8>)],
    after: &[(PathBuf, std::time::SystemTime, Vec<u8>)],
) {
    let paths = |all: &[(PathBuf, std::time::SystemTime, Vec<u8>)]| {
        all.iter().map(|(path, ..)| path.clone()).collect::<Vec<_>>()
    };
    assert_eq!(paths(before), paths(after));
    for ((path, time, bytes), (_, then, now)) in before.iter().zip(after) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(text(bytes), text(now), "{}", path.display());
        assert_eq!(time, then, "{} was written again", path.display());
    }
}

impl Space {
    fn report(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_imgforge"))
            .arg("report")
            .args(args)
            .current_dir(self.dir.path())
            .env("IMGFORGE_STATE_DIR", self.dir.path().join("state"))
            .env("DOCKER_HOST", "unix:///nowhere")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }

    fn predictions(&self, name: &str, model: &str, list: &[(&str, Value)]) -> String {
        let lines: Vec<String> = list
            .iter()
            .map(|(id, patch)| {
                json!({ "instance_id": id, "model_name_or_path": model, "model_patch": patch })
                    .to_string()
            })
            .collect();
        let path = self.dir.path().join(name);
        std::fs::write(&path, lines.join("\n")).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

#[test]
#[ignore = "needs Docker"]
fn a_later_report_says_what_the_run_knew_and_writes_nothing_anew() {
    let mut space = Space::new();
    space.row("x__y-1", "echo PASSED a");
    space.row("x__y-2", "echo FAILED a; false");
    let (_, code, said) = space.eval(&["--run-id", "known"]);
    assert_eq!(code, Some(0), "{said}");
    space.row("x__y-3", "echo PASSED a; sleep 300");
    space.row("x__y-4", "python3 -c \"x = bytearray(1 << 30)\"; echo PASSED b");
    space.row("x__y-5", "echo PASSED a");
    space.rows[4]["eval_script"] = json!(format!("echo PASSED a\ncd /nowhere\n{}", script("")));
    let preds = space.predictions(
        "p.jsonl",
        "a/m",
        &[("x__y-1", json!(null)), ("x__y-2", json!("")), ("z__z-1", json!("x"))],
    );
    let args = [
        "--run-id",
        "r",
        "-t",
        "4",
        "--memory",
        "100m",
        "-j",
        "3",
        "--attempts",
        "1",
        "-p",
        &preds,
    ];
    let (first, code, said) = space.eval(&args);
    assert_eq!(code, Some(1), "{said}");
    let verdicts: Vec<&str> = first["models"]["empty"]["imgforge"]["instances"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["verdict"].as_str().unwrap())
        .collect();
    assert_eq!(verdicts, ["resolved", "unresolved", "timed_out", "out_of_memory", "error"]);
    assert!(said.contains("empty: 1 of 5 resolved (20.0%)"), "{said}");
    assert!(said.contains("a/m: 0 of 5 resolved (0.0%)"), "{said}");
    let before = files(space.dir.path());
    let (code, out, said) = space.report(&["r", "--json"]);
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), first);
    assert_same_files(&before, &files(space.dir.path()));
    let (_, text, said) = space.report(&["r", "--against", "known"]);
    assert!(text.contains("only in r: model a/m (2)"), "{text}{said}");
    assert_same_files(&before, &files(space.dir.path()));
    let summary = space.dir.path().join("evaluation_results/r/summary.md");
    let summary = std::fs::read_to_string(summary).unwrap();
    for why in ["the patch is null", "the patch is empty", "killed after 4 s"] {
        assert!(summary.contains(why), "{summary}");
    }

    // A run of the harness does not say what was chosen: its score is of the whole dataset.
    let runs = space.dir.path().join("logs/run_evaluation");
    let one = runs.join("harness/m/x__y-1");
    std::fs::create_dir_all(&one).unwrap();
    std::fs::copy(runs.join("r/empty/x__y-1/test_output.txt"), one.join("test_output.txt"))
        .unwrap();
    let rows = space.dir.path().join("rows.jsonl");
    let record = json!({ "dataset": rows, "split": "test", "task_repo": null });
    std::fs::write(runs.join("harness/run.json"), record.to_string()).unwrap();
    let (code, _, said) = space.report(&["harness"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("m: 1 of 5 resolved (20.0%)\n  submitted 1, completed 1, missing 4"));
}

#[test]
#[ignore = "needs Docker"]
fn a_run_that_is_under_way_or_was_killed_is_not_graded_by_half_a_log() {
    let mut space = Space::new();
    space.row("x__y-1", "echo PASSED a");
    space.row("x__y-2", "echo FAILED a; sleep 5; echo PASSED a");
    let mut child = space
        .command(&["-p", "empty", "--run-id", "r", "-j", "1"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    space.wait_for("logs/run_evaluation/r/empty/x__y-2/test_output.txt");
    let before = files(space.dir.path()).len();
    let (code, _, said) = space.report(&["r"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("run `r` is under way in another process"), "{said}");
    assert_eq!(files(space.dir.path()).len(), before, "no report is written");
    child.kill().unwrap();
    child.wait().unwrap();
    let (code, out, said) = space.report(&["r", "--json"]);
    assert_eq!(code, Some(1), "{said}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(verdict(&report, "x__y-1")["verdict"], "resolved");
    assert_eq!(verdict(&report, "x__y-2")["verdict"], "not_run");
    assert_eq!(report["imgforge"]["score"]["percent"], "50.0%");
}

#[test]
#[ignore = "needs Docker"]
fn a_run_id_stands_for_one_dataset_and_one_set_of_predictions() {
    let mut space = Space::new();
    space.row("x__y-1", "echo PASSED a");
    space.row("x__y-2", "echo PASSED a");
    space.row("x__y-3", "echo PASSED a");
    let run = |predictions: &str, more: &[&str]| {
        let args = ["-p", predictions, "--run-id", "r", "--json"];
        let output = space.command(&[&args[..], more].concat()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let report = serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default();
        (output.status.code(), report, said)
    };
    // What is not run (no image has a repository here) is enough to see what goes on.
    let (empty, null) = (json!(""), json!(null));
    let two = [("x__y-1", empty.clone()), ("x__y-2", empty.clone())];
    let first = space.predictions("a.jsonl", "m", &two);
    assert_eq!(run(&first, &[]).0, Some(0));
    assert_eq!(run(&first, &[]).0, Some(0), "the same command goes on");
    let grown = [&two[..], &[("x__y-3", empty.clone())]].concat();
    let grown = space.predictions("b.jsonl", "m", &grown);
    let (code, report, said) = run(&grown, &[]);
    assert_eq!((code, &report["imgforge"]["score"]["submitted"]), (Some(0), &json!(3)), "{said}");
    let list = [("x__y-1", null.clone()), ("x__y-2", empty.clone()), ("x__y-3", empty.clone())];
    let (code, _, said) = run(&space.predictions("c.jsonl", "m", &list), &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("predictions have changed") && said.contains("x__y-1"), "{said}");
    for (name, model, list) in [
        ("d.jsonl", "other", &two[..]),
        ("e.jsonl", "m", &two[..]),
        ("f.jsonl", "m", &[("x__y-1", empty.clone()), ("x__y-2", null.clone()), ("x__y-3", null)]),
    ] {
        let path = space.predictions(name, model, list);
        let (code, _, said) = run(&path, &[]);
        assert_eq!(code, Some(2), "{name}: {said}");
        assert!(said.contains("run `r` is another one") && said.contains("--run-id"), "{said}");
        assert_eq!(run(&path, &["-i", "x__y-9"]).0, Some(2));
    }
    let other = space.dir.path().join("other.jsonl");
    std::fs::copy(space.dir.path().join("rows.jsonl"), &other).unwrap();
    let dataset = other.to_str().unwrap();
    let eval = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_imgforge"));
        command
            .args(["eval", "-d", dataset, "--namespace", &space.namespace, "-p", &first])
            .args(["--run-id", "r"])
            .args(more)
            .current_dir(space.dir.path())
            .env("IMGFORGE_STATE_DIR", space.dir.path().join("state"));
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = eval(&[]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("other.jsonl` (test)") && said.contains("--replace-run"), "{said}");
    let (code, said) = eval(&["--replace-run"]);
    assert_eq!(code, Some(0), "{said}");
}

/// Evaluates the bundled dataset, or rows of it from a file, with predictions.
fn demo(dir: &std::path::Path, dataset: &str, args: &[&str]) -> (Value, Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_imgforge"))
        .args(["eval", "-d", dataset, "--json", "-j", "2"])
        .args(args)
        .current_dir(dir)
        .env("IMGFORGE_STATE_DIR", dir.join("state"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (serde_json::from_slice(&output.stdout).unwrap_or(Value::Null), output.status.code(), said)
}

/// Runs a command line of the harness to its good end; returns what it said.
fn harness(dir: &std::path::Path, line: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_imgforge"))
        .args(line.split_whitespace())
        .current_dir(dir)
        .env("IMGFORGE_STATE_DIR", dir.join("state"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{line}: {said}");
    said
}

#[test]
#[ignore = "needs Docker"]
fn the_demo_is_evaluated_with_its_own_patches_with_bad_ones_and_on_published_images() {
    needs::docker();
    let space = tempfile::tempdir().unwrap();
    let dir = space.path();
    let (gold, code, said) = demo(dir, "demo", &["-p", "gold", "--run-id", "gold"]);
    assert_eq!((code, &gold["resolved_instances"]), (Some(0), &json!(8)), "{said}");
    let (empty, code, said) = demo(dir, "demo", &["-p", "empty", "--run-id", "empty"]);
    assert_eq!((code, &empty["unresolved_instances"]), (Some(0), &json!(8)), "{said}");

    // Patches that do what they may not, or do not apply: a report for each, and no error.
    let id = "imgforge__abacus-1";
    let new = |path: &str, line: &str| {
        format!(
            "diff --git a/{path} b/{path}\nnew file mode 100644\n--- /dev/null\n+++ b/{path}\n\
             @@ -0,0 +1 @@\n+{line}\n"
        )
    };
    let link = "diff --git a/l b/l\nnew file mode 120000\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n\
                +/etc\n\\ No newline at end of file\n";
    let big = new("big.txt", &"x".repeat(50 << 20));
    let cheat = "import pytest\\n\\n\\n@pytest.hookimpl(hookwrapper=True)\\n\
                 def pytest_runtest_makereport(item, call):\\n    report = (yield).get_result()\\n\
                 \u{20}   report.outcome = 'passed'\\n    report.longrepr = None\\n";
    let cheat: Vec<&str> = cheat.split("\\n").collect();
    let lines: String = cheat.iter().map(|line| format!("+{line}\n")).collect();
    let cheat = format!(
        "diff --git a/conftest.py b/conftest.py\nnew file mode 100644\n--- /dev/null\n\
         +++ b/conftest.py\n@@ -0,0 +1,{} @@\n{lines}",
        cheat.len()
    );
    let models = [
        ("git", new(".git/hooks/post-checkout", "touch /tmp/x")),
        ("etc", new("../../etc/passwd", "root::0:0::/:/bin/sh")),
        ("link", format!("{link}{}", new("l/passwd", "root::0:0::/:/bin/sh"))),
        (
            "hunk",
            "--- a/src/abacus/parser.py\n+++ b/src/abacus/parser.py\n@@ -1 +1 @@\n-no\n+x\n".into(),
        ),
        ("big", big),
        ("cheat", cheat),
    ];
    let rows: Vec<String> = models
        .iter()
        .map(|(model, patch)| {
            json!({ "instance_id": id, "model_name_or_path": model, "model_patch": patch })
                .to_string()
        })
        .collect();
    std::fs::write(dir.join("bad.jsonl"), rows.join("\n")).unwrap();
    std::fs::write(dir.join("hunk.jsonl"), &rows[3]).unwrap();
    let (bad, code, said) = demo(dir, "demo", &["-p", "bad.jsonl", "--run-id", "bad"]);
    assert_eq!(code, Some(0), "{said}");
    for (model, wanted, reason) in [
        ("git", "patch_refused", ".git/hooks/post-checkout"),
        ("etc", "patch_refused", "outside the repository"),
        ("link", "patch_refused", "symbolic link"),
        ("hunk", "patch_refused", "src/abacus/parser.py:1"),
        ("big", "unresolved", ""),
        ("cheat", "resolved", ""),
    ] {
        let own = verdict(&bad["models"][model], id);
        assert_eq!(own["verdict"], wanted, "{model}: {said}");
        assert!(own["reason"].as_str().unwrap_or_default().contains(reason), "{own:#}");
        let report = dir.join(format!("logs/run_evaluation/bad/{model}/{id}/report.json"));
        let report: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
        assert_eq!(report[id]["patch_successfully_applied"], wanted != "patch_refused");
    }
    let reaches = verdict(&bad["models"]["cheat"], id)["reaches"][0].as_str().unwrap();
    assert!(reaches.contains("`conftest.py` changes how pytest"), "{reaches}");

    // Under the strict rules the cheat is none, and honest patches are what they were.
    let args = ["-p", "bad.jsonl", "-p", "gold", "-i", id, "--run-id", "strict", "--strict"];
    let (strict, code, said) = demo(dir, "demo", &args);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(verdict(&strict["models"]["gold"], id)["verdict"], "resolved", "{said}");
    let cheat = verdict(&strict["models"]["cheat"], id);
    assert_eq!(cheat["verdict"], "unresolved", "{said}");
    assert!(
        cheat["strict"][0].as_str().unwrap().contains("conftest.py as it was before the patch"),
        "{cheat:#}"
    );

    // On an image that was made elsewhere the patch is applied in the container.
    let namespace = format!("imgforge-test-{:012x}", rand::random::<u64>() >> 16);
    let image = format!("{namespace}/sweb.eval.x86_64.imgforge_1776_abacus-1:latest");
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "x86_64" };
    docker(&["tag", &format!("sweb.eval.{arch}.{id}:latest"), &image.replace("x86_64", arch)]);
    let rows = concat!(env!("CARGO_MANIFEST_DIR"), "/demo/test.jsonl");
    let args = |predictions, run| {
        let args = ["--namespace", &namespace, "-i", id, "-p", "gold", "-p", "empty"];
        [&args[..], &["-p", predictions, "--run-id", run]].concat()
    };
    let (published, code, said) = demo(dir, rows, &args("bad.jsonl", "published"));
    assert_eq!(code, Some(0), "{said}");
    let expect = |published: &Value, said: &str| {
        for (model, wanted) in
            [("gold", "resolved"), ("empty", "unresolved"), ("hunk", "patch_refused")]
        {
            let own = verdict(&published["models"][model], id);
            assert_eq!(own["verdict"], wanted, "{model}: {said}");
        }
    };
    expect(&published, &said);

    // Rows without a script, as old datasets have them, get the whole one of the harness; the
    // repository may be in the image's own directory, or in one that the row names.
    let image = image.replace("x86_64", arch);
    let moved = format!("{namespace}/moved:latest");
    let name = format!("{namespace}-moved");
    let entry = ["run", "--name", &name, &image, "mv", "/testbed", "/srv/app"];
    assert!(docker(&entry).status.success());
    docker(&["commit", "--change", "WORKDIR /srv/app", &name, &moved]);
    docker(&["rm", &name]);
    let old = |more: Value| {
        let text = std::fs::read_to_string(rows).unwrap();
        let mut row: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(row["instance_id"], id);
        let row = row.as_object_mut().unwrap();
        for column in ["eval_script", "eval_type"] {
            row.remove(column);
        }
        row.extend(more.as_object().unwrap().clone());
        let path = dir.join("old.jsonl");
        std::fs::write(&path, json!(row).to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let args = |run| args("hunk.jsonl", run);
    let (published, code, said) = demo(dir, &old(json!({})), &args("old"));
    assert_eq!(code, Some(0), "{said}");
    expect(&published, &said);
    let eval = dir.join(format!("logs/run_evaluation/old/gold/{id}/eval.sh"));
    let eval = std::fs::read_to_string(eval).unwrap();
    assert!(eval.contains("\ngit apply -v - <<'EOF_114329324912'"), "{eval}");
    let (published, code, said) = demo(dir, &old(json!({ "image": moved })), &args("moved"));
    assert_eq!(code, Some(0), "{said}");
    expect(&published, &said);
    let named = json!({ "image": moved, "workdir": "/srv/app" });
    // There what was installed from /testbed is not found: the row's own installation would be.
    let (published, _, said) = demo(dir, &old(named), &args("named"));
    assert_eq!(verdict(&published["models"]["empty"], id)["verdict"], "unresolved", "{said}");
    let log = dir.join(format!("logs/run_evaluation/named/gold/{id}/test_output.txt"));
    assert!(std::fs::read_to_string(log).unwrap().contains("+ cd /srv/app"), "{said}");
    docker(&["rmi", &image, &moved]);

    // Saved logs are graded again without an engine, and runs are compared.
    let report_of = |args: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_imgforge"))
            .args(args)
            .current_dir(dir)
            .env("IMGFORGE_STATE_DIR", dir.join("state"))
            .env("DOCKER_HOST", "unix:///nowhere")
            .output()
            .unwrap()
    };
    let again = report_of(&["report", "gold", "--json"]);
    let again: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(again["resolved_ids"], gold["resolved_ids"]);
    for (line, wanted) in [
        (
            "eval demo --gold -i imgforge__abacus-1 imgforge__quill-1 -id one --cache_level env \
             --clean True --open_file_limit 4096 --max_workers 0 --report_dir out --modal False",
            2,
        ),
        ("eval -i imgforge__abacus-1,imgforge__abacus-2 demo -p gold --workers 2 --run-id two", 2),
        (
            "eval --dataset_name demo --predictions_path empty --instance_ids imgforge__abacus-1 \
             --run_id three --force_rebuild False --instance_image_tag latest --split test",
            0,
        ),
    ] {
        let said = harness(dir, line);
        let run = line
            .split(' ')
            .skip_while(|word| !word.contains("id"))
            .find(|word| ["one", "two", "three"].contains(word));
        let model = if line.contains("empty") { "empty" } else { "gold" };
        let place = if run == Some("one") { "out/" } else { "" };
        let path = dir.join(format!("{place}{model}.{}.json", run.unwrap()));
        let report: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!(report["resolved_instances"], wanted, "{line}: {said}");
        assert_eq!(said.contains("images are kept"), run == Some("one"), "{line}: {said}");
    }
    let line = "eval demo --gold -id one --rewrite_reports True -i imgforge__quill-1";
    let said = harness(dir, line);
    let report: Value =
        serde_json::from_slice(&std::fs::read(dir.join("gold.one.json")).unwrap()).unwrap();
    assert_eq!(report["resolved_ids"], json!(["imgforge__quill-1"]), "{said}");

    let before = files(dir);
    assert_eq!(report_of(&["report", "bad"]).status.code(), Some(0));
    assert_same_files(&before, &files(dir));
    let compared = report_of(&["report", "gold", "--against", "empty"]);
    let compared = String::from_utf8_lossy(&compared.stdout).into_owned();
    assert!(compared.starts_with("gold against empty: 8 gained, 0 lost, 0 flaky"), "{compared}");
}
