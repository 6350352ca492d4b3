//! What a run leaves that was killed: whole files, and a report of how far it came.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use imgforge::smoke::{Events, Manager, Stage, StageStatus, saved_report};
use serde_json::Value;

use crate::bench::Space;
use crate::common::needs::{NotHere, not_here};

/// Names the directory of the run that is to be killed.
const PLACE: &str = "IMGFORGE_TEST_SMOKE_KILLED";

/// The run that is killed, in a process of its own.
#[tokio::test]
#[ignore = "needs another test"]
async fn a_run_that_waits_to_be_killed() {
    let Ok(place) = std::env::var(PLACE).map(std::path::PathBuf::from) else {
        return not_here(NotHere::Unasked(PLACE));
    };
    let space = Space::new();
    let setup = "setup = [\"echo one\", \"echo two; echo more >&2; sleep 60\"]";
    let config = space.config("", &format!("{setup}\ntest = \"true\""));
    let mut options = space.options();
    options.artifacts = Some(place.join("artifacts"));
    options.events = Some(Arc::new(Events::append(&place.join("events")).unwrap()));
    let mut manager = Manager::open(config, space.means(), options).unwrap();
    manager.run().await;
    panic!("it was to be killed");
}

#[test]
fn the_report_of_a_run_that_was_killed_says_how_far_it_came() {
    let place = tempfile::tempdir().unwrap();
    let name = "killed::a_run_that_waits_to_be_killed";
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--include-ignored", "--nocapture"])
        .env(PLACE, place.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let artifacts = place.path().join("artifacts");
    let began = Instant::now();
    let printed = || std::fs::read(artifacts.join("setup/2.stdout")).unwrap_or_default();
    while printed() != b"two\n" {
        assert!(began.elapsed() < Duration::from_secs(60), "it did not get there");
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let (report, _) = saved_report(&artifacts).unwrap();
    let [report] = report.runs() else { panic!("{report:?}") };
    assert!(!report.success);
    assert_eq!(report.failure_stage, Some(Stage::Setup));
    assert_eq!(report.failure(), Some(StageStatus::InfraError));
    assert_eq!(report.facts.duration, None);
    let statuses: Vec<StageStatus> = report.stages.iter().map(|stage| stage.status).collect();
    assert_eq!(statuses[..4], [StageStatus::Ok; 4]);
    assert_eq!(statuses[5..], [StageStatus::Skipped; 2]);
    let setup = &report.stages[4];
    assert_eq!(setup.commands.len(), 1, "the second did not end");
    assert_eq!(setup.commands[0].stdout, "one\n");
    // What the second had printed is there.
    assert!(setup.logs.contains(&"setup/2.stdout".to_owned()), "{:?}", setup.logs);
    let events = std::fs::read_to_string(place.path().join("events")).unwrap();
    let lines = events.lines().map(|line| serde_json::from_str(line).unwrap());
    let lines: Vec<Value> = lines.collect();
    assert_eq!(lines.last().unwrap()["stage"], "setup");
}
