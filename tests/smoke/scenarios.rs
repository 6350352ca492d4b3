//! The report of each scenario, as it is and as its artifacts give it.

use std::time::Duration;

use imgforge::smoke::{OutOfOrder, RunConfig, RunReport, Stage, StageStatus, saved_report};
use serde_json::{Value, json};

use crate::bench::{Space, Wrong};
use crate::common::schema::check;

const CHECK: &str = "test = \"sh check.sh\"";
const FIXED: &str = "patches = [\"fix.patch\"]";
const SETUP: &str = "setup = [\"echo setup one\", \"echo setup two >&2\"]";

/// Takes times and what differs between machines out of a report.
fn golden(report: &RunReport, space: &Space) -> String {
    fn plain(value: &mut Value, key: &str) {
        match value {
            Value::Object(map) => map.iter_mut().for_each(|(key, value)| plain(value, key)),
            Value::Array(list) => list.iter_mut().for_each(|one| plain(one, "")),
            value if ["duration", "started", "timestamp"].contains(&key) && !value.is_null() => {
                *value = json!("…");
            }
            _ => {}
        }
    }
    let mut value = json!(report);
    plain(&mut value, "");
    for name in ["kernel", "python", "git", "imgforge"] {
        if let Some(version) = value["versions"].get_mut(name).filter(|one| **one != "") {
            *version = json!("…");
        }
    }
    let text = serde_json::to_string_pretty(&value).unwrap();
    // The mirror of a directory is called by a digest of its path.
    let digest = regex::Regex::new("local/[0-9a-f]{16}").unwrap();
    digest.replace_all(&text, "local/…").replace(space.path().to_str().unwrap(), "DIR")
}

/// Does a run, compares its report with the golden one, and with what its artifacts give.
async fn scenario(name: &str, space: &Space, config: RunConfig) -> RunReport {
    let report = space.run(config).await;
    let (saved, others) = saved_report(&space.artifacts()).unwrap();
    assert_eq!(saved.runs(), std::slice::from_ref(&report), "{name}: the report of the artifacts");
    assert!(others.is_empty());
    check("smoke", &json!(report));
    insta::assert_snapshot!(name, golden(&report, space));
    report
}

fn statuses(report: &RunReport) -> Vec<StageStatus> {
    report.stages.iter().map(|stage| stage.status).collect()
}

#[tokio::test]
async fn a_run_that_is_right_is_a_success() {
    let space = Space::new();
    let config = space.config(FIXED, &format!("{SETUP}\n{CHECK}\nenv = {{ A = \"b\" }}"));
    let report = scenario("ok", &space, config).await;
    assert!(report.success);
    assert_eq!(report.facts.repo.commit.as_ref().unwrap().len(), 40);
}

#[tokio::test]
async fn the_first_setup_that_fails_ends_the_run() {
    let space = Space::new();
    let task = format!("setup = [\"echo a\", \"exit 3\", \"echo never\"]\n{CHECK}");
    let report = scenario("setup-fails", &space, space.config(FIXED, &task)).await;
    assert_eq!(report.failure_stage, Some(Stage::Setup));
    assert_eq!(report.stages[4].commands.len(), 2);
    assert_eq!(statuses(&report)[5..], [StageStatus::Skipped, StageStatus::Ok]);
}

#[tokio::test]
async fn a_test_that_is_to_fail_may_fail_and_may_not_pass() {
    let task = format!("{CHECK}\nexpected_fail = true");
    let space = Space::new();
    assert!(scenario("expected-fail", &space, space.config("", &task)).await.success);
    let space = Space::new();
    let report = scenario("unexpected-pass", &space, space.config(FIXED, &task)).await;
    assert!(report.failure_reason.unwrap().starts_with("unexpected pass"));
    let space = Space::new();
    let report = scenario("test-fails", &space, space.config("", CHECK)).await;
    assert_eq!(report.failure(), Some(StageStatus::Failed));
}

#[tokio::test]
async fn no_tests_are_no_result_whatever_is_expected() {
    for (name, expected_fail) in [("no-tests", false), ("no-tests-expected", true)] {
        let space = Space::new();
        let line = "echo '===== no tests ran in 0.01s ====='; exit 5 # pytest";
        let task = format!("test = \"{line}\"\nexpected_fail = {expected_fail}");
        let report = scenario(name, &space, space.config("", &task)).await;
        assert_eq!(report.failure(), Some(StageStatus::Failed));
        assert!(report.failure_reason.unwrap().contains("no tests were run"));
    }
    let space = Space::new();
    let line =
        "echo '__ ERROR collecting t.py __'; echo '==== 1 error in 0.1s ===='; exit 2 # pytest";
    let task = format!("test = \"{line}\"\nexpected_fail = true");
    let report = scenario("collection-error", &space, space.config("", &task)).await;
    assert_eq!(report.failure(), Some(StageStatus::Failed));
}

#[tokio::test]
async fn limits_end_a_command_and_are_no_expected_failure() {
    let space = Space::new();
    let task = "test = \"echo before; exec sleep 600\"\nexpected_fail = true";
    let config = space.config_of("timeouts = { command = 4 }", "", task);
    let report = scenario("timeout", &space, config).await;
    assert_eq!(report.stages[5].commands[0].stdout, "before\n");
    assert_eq!(report.failure(), Some(StageStatus::Failed));
    let space = Space::new();
    let task = "setup = [\"exec sleep 600\", \"echo never\"]\ntest = \"true\"";
    let config = space.config_of("timeouts = { stage = 4 }", "", task);
    let report = scenario("stage-timeout", &space, config).await;
    assert_eq!(report.failure_stage, Some(Stage::Setup));
    assert!(report.failure_reason.unwrap().contains("the time of the stage"));
}

#[tokio::test]
async fn too_much_memory_is_a_failure_and_no_expected_one() {
    let task = format!("{CHECK}\nexpected_fail = true");
    for (name, wrong) in [
        ("out-of-memory", Wrong::Memory("check.sh")),
        ("sandbox-out-of-memory", Wrong::Ended("check.sh", "memory")),
    ] {
        let space = Space::with(wrong);
        let report = scenario(name, &space, space.config("", &task)).await;
        assert_eq!(report.failure(), Some(StageStatus::Failed), "{name}");
    }
}

#[tokio::test]
async fn an_engine_that_is_gone_is_no_result_in_any_stage() {
    let task = format!("{SETUP}\n{CHECK}\nexpected_fail = true");
    for (name, wrong, stage) in [
        ("gone-at-start", Wrong::Start, Stage::Start),
        ("gone-in-start", Wrong::Exec(Stage::Start), Stage::Start),
        ("gone-in-checkout", Wrong::Exec(Stage::Checkout), Stage::Checkout),
        ("gone-at-put", Wrong::Put, Stage::Checkout),
        ("gone-in-setup", Wrong::Exec(Stage::Setup), Stage::Setup),
        ("gone-in-test", Wrong::Exec(Stage::Test), Stage::Test),
        ("killed-in-test", Wrong::Ended("check.sh", "killed"), Stage::Test),
        ("gone-in-teardown", Wrong::Stop, Stage::Teardown),
    ] {
        let space = Space::with(wrong);
        let report = scenario(name, &space, space.config("", &task)).await;
        assert_eq!(report.failure_stage, Some(stage), "{name}");
        assert_eq!(report.failure(), Some(StageStatus::InfraError), "{name}");
        assert!(!report.success);
    }
}

#[tokio::test]
async fn a_teardown_that_fails_does_not_hide_the_first_failure() {
    let space = Space::with(Wrong::Stop);
    let config = space.config("", "setup = [\"exit 1\"]\ntest = \"true\"");
    let report = scenario("two-failures", &space, config).await;
    assert_eq!(report.failure_stage, Some(Stage::Setup));
    assert_eq!(report.stages[6].status, StageStatus::InfraError);
}

#[tokio::test]
async fn what_the_repository_does_not_have_is_told() {
    let space = Space::new();
    let mut config = space.config("", CHECK);
    config.repo.reference = "v2".to_owned();
    let report = scenario("no-reference", &space, config).await;
    assert_eq!(
        (report.failure_stage, report.failure()),
        (Some(Stage::Clone), Some(StageStatus::Failed))
    );
    let space = Space::new();
    let mut config = space.config("", CHECK);
    config.repo.reference = "0".repeat(40);
    let report = scenario("no-commit", &space, config).await;
    assert_eq!(report.failure(), Some(StageStatus::Failed));
    let space = Space::new();
    std::fs::write(
        space.path().join("fix.patch"),
        "--- a/answer\n+++ b/answer\n@@ -1 +1 @@\n-7\n+8\n",
    )
    .unwrap();
    let report = scenario("no-patch", &space, space.config(FIXED, CHECK)).await;
    assert_eq!(
        (report.failure_stage, report.failure()),
        (Some(Stage::Checkout), Some(StageStatus::Failed))
    );
}

#[tokio::test]
async fn patches_are_applied_one_after_another() {
    let space = Space::new();
    let more = "--- a/answer\n+++ b/answer\n@@ -1 +1,2 @@\n 42\n+43\n";
    std::fs::write(space.path().join("more.patch"), more).unwrap();
    let task = "setup = [\"cat answer\"]\ntest = \"sh check.sh\"";
    let report = space.run(space.config("patches = [\"fix.patch\", \"more.patch\"]", task)).await;
    assert!(report.success, "{:?}", report.failure_reason);
    assert_eq!(report.stages[4].commands[0].stdout, "42\n43\n");
}

#[tokio::test]
async fn a_dry_run_runs_neither_setup_nor_tests() {
    let space = Space::new();
    let mut options = space.options();
    options.dry_run = true;
    let config = space.config("", &format!("{SETUP}\n{CHECK}"));
    let mut manager = imgforge::smoke::Manager::open(config, space.means(), options).unwrap();
    let report = manager.run().await;
    assert_eq!((report.success, report.failure_stage), (false, None));
    assert_eq!(statuses(&report)[4..6], [StageStatus::Skipped, StageStatus::Skipped]);
    insta::assert_snapshot!("dry-run", golden(&report, &space));
}

#[tokio::test]
async fn an_interrupt_ends_what_runs_and_the_sandbox() {
    let space = Space::new();
    let stop = space.stop.clone();
    let config = space.config("", "setup = [\"echo begun; sleep 600\"]\ntest = \"true\"");
    let printed = space.artifacts().join("setup/1.stdout");
    tokio::spawn(async move {
        while std::fs::read(&printed).unwrap_or_default() != b"begun\n" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stop.cancel();
    });
    let began = std::time::Instant::now();
    let report = scenario("interrupted", &space, config).await;
    assert!(began.elapsed() < Duration::from_secs(30));
    assert_eq!(
        (report.failure_stage, report.failure()),
        (Some(Stage::Setup), Some(StageStatus::InfraError))
    );
    assert_eq!(report.failure_reason.as_deref(), Some("interrupted"));
    assert_eq!(report.stages[6].status, StageStatus::Ok);
}

#[tokio::test]
async fn stages_are_done_one_by_one_in_their_order() {
    let space = Space::new();
    let mut manager = space.open(space.config(FIXED, CHECK));
    let early = manager.run_tests().await.unwrap_err();
    assert_eq!(early, OutOfOrder::Next { asked: Stage::Test, next: Stage::Start });
    manager.start().await.unwrap();
    assert!(manager.start().await.is_err());
    let prepared = manager.prepare_repo().await.unwrap();
    assert_eq!(
        prepared.iter().map(|one| one.stage).collect::<Vec<_>>(),
        [Stage::Clone, Stage::Checkout]
    );
    assert!(!manager.report().success);
    manager.apply_compat().await.unwrap();
    manager.run_setup().await.unwrap();
    assert_eq!(manager.run_tests().await.unwrap().status, StageStatus::Ok);
    assert!(!manager.report().success, "it is not over");
    manager.teardown().await.unwrap();
    assert_eq!(manager.teardown().await.unwrap_err(), OutOfOrder::Over(Stage::Teardown));
    assert!(manager.report().success);
    // A teardown may come at any time: the rest is skipped.
    let space = Space::new();
    let mut manager = space.open(space.config(FIXED, CHECK));
    manager.start().await.unwrap();
    manager.teardown().await.unwrap();
    let report = manager.report();
    assert_eq!(statuses(&report)[1..6], [StageStatus::Skipped; 5]);
    assert_eq!((report.success, report.failure_stage), (false, None));
}
