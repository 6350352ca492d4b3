//! Processes that cannot see each other: in two process namespaces, with one state directory or on
//! one Docker daemon, as two containers or two hosts have them.
//!
//! One evaluates, while others start, work and are killed at every moment of it. Its verdicts, its
//! exit status and what it remembers are those of a run alone. Only root may make such namespaces.
//! `IMGFORGE_TEST_ROUNDS` says how often, by default once.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

mod common;

use common::docker;
use common::needs::{self, NotHere, not_here};

const IDS: [&str; 2] = ["imgforge__abacus-1", "imgforge__abacus-3"];

/// A host: where its imgforge works, and what it works with.
struct Host {
    dir: PathBuf,
    state: PathBuf,
    engine: &'static str,
    /// In a process namespace of its own, with its own `/proc`.
    apart: bool,
}

impl Host {
    fn command(&self, args: &[&str]) -> Command {
        let program = std::env::var_os("IMGFORGE_TEST_PROGRAM");
        let program = program.unwrap_or_else(|| env!("CARGO_BIN_EXE_imgforge").into());
        let mut command = match self.apart {
            false => Command::new(program),
            true => {
                let mut command = Command::new("unshare");
                command.args(["--pid", "--fork", "--kill-child"]);
                // Else `/proc` shows the processes of the namespace above, by other numbers.
                if args != ["clean"] || rand::random() {
                    command.arg("--mount-proc");
                }
                command.arg(program);
                command
            }
        };
        command.args(["--engine", self.engine]).args(args);
        command.current_dir(&self.dir).env("IMGFORGE_STATE_DIR", &self.state);
        command.stdin(Stdio::null());
        command
    }

    fn eval(&self, run_id: &str, ids: &[&str], more: &[&str]) -> Command {
        let mut command = self.command(&["eval", "-d", "demo", "-p", "gold", "-j", "1"]);
        command.args(["--run-id", run_id]).args(more).arg("-i").args(ids);
        command
    }

    fn report(&self, run_id: &str) -> Value {
        let path = self.dir.join(format!("gold.{run_id}.json"));
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }
}

/// A directory for each of two hosts, and keys that no other test has.
fn hosts(dir: &Path, engine: &'static str, states: [PathBuf; 2]) -> [Host; 2] {
    let unique = format!("{engine}-{}", dir.display());
    let [here, there] = ["here", "there"].map(|name| dir.join(name));
    for dir in [&here, &there] {
        std::fs::create_dir(dir).unwrap();
        let repository = |repo: &str| {
            format!("[repo.\"imgforge/{repo}\"]\nvariables = {{ IMGFORGE_TEST = \"{unique}\" }}\n")
        };
        std::fs::write(dir.join("images.local.toml"), repository("abacus")).unwrap();
    }
    let [state, other] = states;
    [
        Host { dir: here, state, engine, apart: false },
        Host { dir: there, state: other, engine, apart: true },
    ]
}

/// What a run says, where it is not what was expected.
fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}\n{}{}", output.status, String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

/// Follows the events of a run; returns whether there was a new step.
struct Steps(BufReader<File>);

impl Steps {
    fn new_one(&mut self) -> bool {
        let mut line = String::new();
        let mut new = false;
        while self.0.read_line(&mut line).is_ok_and(|read| read > 0) {
            new |= line.contains("started") || line.contains("step");
            line.clear();
        }
        new
    }
}

/// Starts what another host does at moments of `running`: at each new step of it, and at random.
/// Some come to their end, some are killed. Returns how many there were.
fn disturb(there: &Host, running: &mut Child, events: &Path) -> usize {
    let mut steps = Steps(BufReader::new(File::open(events).unwrap()));
    let (mut others, mut count) = (Vec::new(), 0);
    let mut next = Instant::now();
    while running.try_wait().unwrap().is_none() {
        let at_step = steps.new_one();
        if others.len() < 2 && (at_step || Instant::now() >= next) {
            count += 1;
            let mut command = match rand::random_range(0..3) {
                0 if !at_step => {
                    there.eval(&format!("there-{count}"), &IDS[1..], &["--no-result-cache"])
                }
                1 if !at_step => there.command(&["build", "-d", "demo", "-i", IDS[1]]),
                _ => there.command(&["clean"]),
            };
            let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let killed = (!at_step).then(|| Duration::from_millis(rand::random_range(0..1500)));
            others.push((child, Instant::now(), killed));
            next = Instant::now() + Duration::from_millis(rand::random_range(20..1000));
        }
        others.retain_mut(|(child, began, killed)| {
            if killed.is_some_and(|after| began.elapsed() > after) {
                child.kill().unwrap();
            }
            child.try_wait().unwrap().is_none()
        });
        std::thread::sleep(Duration::from_millis(5));
    }
    for (mut child, ..) in others {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    count
}

/// Evaluates on one host while another disturbs it, and again from what was remembered.
fn evaluate_disturbed(here: &Host, there: &Host, round: usize) {
    let events = here.dir.join(format!("events-{round}"));
    let run_id = format!("round-{round}");
    File::create(&events).unwrap();
    let more = ["--no-result-cache", "--events", events.to_str().unwrap()];
    let mut command = here.eval(&run_id, &IDS, &more);
    let log = |name: &str| File::create(here.dir.join(name)).unwrap();
    let mut running = command.stdout(log("out")).stderr(log("err")).spawn().unwrap();
    let others = disturb(there, &mut running, &events);
    let status = running.wait().unwrap();
    let stderr = || std::fs::read_to_string(here.dir.join("err")).unwrap();
    assert_eq!(status.code(), Some(0), "{}", stderr());
    assert!(others > 2, "{others}");
    let report = here.report(&run_id);
    assert_eq!(report["resolved_ids"], serde_json::json!(IDS), "{}", stderr());
    assert_eq!(report["error_instances"], 0, "{report:#}");
    let again = format!("again-{round}");
    let output = here.eval(&again, &IDS, &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(here.report(&again)["resolved_ids"], serde_json::json!(IDS), "{}", said(&output));
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(words.contains("2 results are known"), "{words}");
    eprintln!("round {round}: {others} others, 2 of 2 resolved, 2 of 2 remembered");
}

fn rounds() -> usize {
    std::env::var("IMGFORGE_TEST_ROUNDS").map_or(1, |rounds| rounds.parse().unwrap())
}

#[test]
#[ignore = "needs root and a base image"]
fn two_namespaces_with_one_state_directory_leave_each_other_alone() {
    if !needs::is_root() {
        return not_here(NotHere::PlainUser);
    }
    let state = needs::base();
    let dir = tempfile::tempdir().unwrap();
    let [here, there] = hosts(dir.path(), "embedded", [state.clone(), state]);
    for round in 0..rounds() {
        evaluate_disturbed(&here, &there, round);
    }
    // Whoever was killed is found by those who could not see it.
    let output = here.command(&["clean", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let cleaned: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(cleaned["kept"], serde_json::json!([]), "locks say of all that they are gone");
    remove_images(&here);
}

#[test]
#[ignore = "needs root and Docker"]
fn two_hosts_on_one_docker_daemon_leave_each_other_alone() {
    if !needs::is_root() {
        return not_here(NotHere::PlainUser);
    }
    needs::docker();
    let dir = tempfile::tempdir().unwrap();
    let states = ["state", "other"].map(|name| dir.path().join(name));
    let [here, there] = hosts(dir.path(), "docker", states);
    for round in 0..rounds() {
        evaluate_disturbed(&here, &there, round);
    }
    // A run of another host is not cleaned by its name.
    let run_id = "common";
    let mut running = here.eval(run_id, &IDS, &["--no-result-cache"]);
    let mut running = running.stderr(Stdio::null()).spawn().unwrap();
    let mut kept = Vec::new();
    while running.try_wait().unwrap().is_none() {
        let output = there.command(&["clean", "--run-id", run_id, "--json"]).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        let cleaned: Value = serde_json::from_slice(&output.stdout).unwrap();
        kept.extend(cleaned["kept"].as_array().unwrap().clone());
    }
    assert!(running.wait().unwrap().success());
    let container = |name: &Value| name.as_str().unwrap().starts_with("container ");
    assert!(kept.iter().any(container), "it was seen, and left alone");
    assert_eq!(here.report(run_id)["resolved_ids"], serde_json::json!(IDS));
    let log =
        here.dir.join("logs/run_evaluation/common/gold").join(IDS[0]).join("run_instance.log");
    let log = std::fs::read_to_string(log).unwrap();
    assert!(!log.contains("error:"), "{log}");
    // What was killed there is cleaned there, and kept here, where nobody knows.
    let output = there.command(&["clean"]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    remove_images(&here);
}

/// Removes what was built for a test.
fn remove_images(host: &Host) {
    let output = host.command(&["plan", "-d", "demo", "--json", "-i"]).args(IDS).output().unwrap();
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    for node in plan["nodes"].as_array().unwrap().iter().rev() {
        let (kind, key) = (node["kind"].as_str().unwrap(), node["key"].as_str().unwrap());
        if kind == "base" {
            continue;
        }
        match host.engine {
            "docker" => {
                docker(&["rmi", "-f", &format!("imgforge/{kind}:{key}")]);
            }
            _ => {
                let _ = host.command(&["cache", "rm", key]).output();
            }
        }
    }
}
