//! Documents that no short run has: every event, every verdict, and every way in which an image is
//! wrong or did not come.

use imgforge::cache::destination::{FetchOutcome, FetchedImage};
use imgforge::cache::registry::{Pushed, PushedImage};
use imgforge::cache::verify::{Finding, Problem};
use imgforge::event::{Event, EventKind, NodeRef, Outcome};
use imgforge::grade::{GRADER, Resolution, TestsStatus};
use imgforge::key::{Key, Kind};
use imgforge::platform::Platform;
use imgforge::report::compare::compare;
use imgforge::report::{InstanceResult, RunReport, Verdict, harness};
use imgforge::tree::TreeNotes;
use serde_json::{Value, json};

use crate::common::schema::check;

fn key() -> Key {
    "0123456789abcdef".repeat(4).parse().unwrap()
}

fn text(text: &str) -> String {
    text.to_owned()
}

fn outcomes() -> Vec<Outcome> {
    let mut all = vec![
        Outcome::Built,
        Outcome::Pulled,
        Outcome::FoundFresh,
        Outcome::Failed {
            error: vec![text("it failed"), text("the disk is full")],
            hint: None,
            tail: vec![text("last words")],
            instances: vec![text("x__y-1")],
        },
        Outcome::PatchRefused { failures: vec![text("a.py:1: hunk 1")] },
        Outcome::Skipped { because: text("env:x/y@1") },
        Outcome::Cancelled,
    ];
    all.extend(Verdict::ALL.map(|verdict| Outcome::Evaluated {
        verdict,
        cached: false,
        tests: (verdict == Verdict::Resolved).then_some((2, 3)),
        reason: (verdict != Verdict::Resolved).then(|| text("why")),
    }));
    // One that is new does not compile until it is here.
    for one in &all {
        match one {
            Outcome::Built | Outcome::Pulled | Outcome::FoundFresh | Outcome::Cancelled => {}
            Outcome::Failed { .. } | Outcome::PatchRefused { .. } | Outcome::Skipped { .. } => {}
            Outcome::Evaluated { .. } => {}
        }
    }
    all
}

fn events() -> Vec<EventKind> {
    let node = || NodeRef { id: text("env:x/y@1"), kind: Kind::Env, key: key() };
    let mut all = vec![
        EventKind::RunStarted {
            schema_version: imgforge::event::EVENT_SCHEMA,
            engine: text("embedded"),
            workers: 2,
            nodes: 3,
            fresh: 1,
            to_run: 2,
            evaluations: 0,
            logs: vec!["logs".into()],
        },
        EventKind::NodeStarted { node: node(), worker: 0, attempt: 1, log: "a.log".into() },
        EventKind::NodeOutput { node: node(), line: text("a line") },
        EventKind::NodeStep { node: node(), step: text("write layer") },
        EventKind::NodeRetry { node: node(), attempt: 1, reason: text("why"), delay: 0.5 },
        EventKind::Forecast { seconds_left: 3.5 },
        EventKind::Warning { text: text("look out") },
        EventKind::Interrupted { dropped: false },
        EventKind::Interrupted { dropped: true },
        EventKind::RunFinished {
            built: 1,
            fresh: 1,
            pulled: 0,
            evaluated: 0,
            failed: 1,
            skipped: 0,
            seconds: 1.5,
        },
    ];
    for outcome in outcomes() {
        let (bytes, log) = (Some(5), Some("a.log".into()));
        all.push(EventKind::NodeFinished { node: node(), outcome, seconds: 1.0, bytes, log });
    }
    for one in &all {
        match one {
            EventKind::RunStarted { .. } | EventKind::RunFinished { .. } => {}
            EventKind::NodeStarted { .. } | EventKind::NodeOutput { .. } => {}
            EventKind::NodeStep { .. } | EventKind::NodeRetry { .. } => {}
            EventKind::NodeFinished { .. } | EventKind::Forecast { .. } => {}
            EventKind::Warning { .. } | EventKind::Interrupted { .. } => {}
        }
    }
    all
}

#[test]
fn every_event_follows_the_schema() {
    for (seq, kind) in events().into_iter().enumerate() {
        let event = Event { seq: seq as u64, elapsed: 0.25, kind };
        check("events", &json!(event));
    }
}

/// A result in which everything is said that may be said, or nothing.
fn result(model: &str, number: usize, verdict: Verdict, all: bool) -> InstanceResult {
    let some = |value: &str| all.then(|| text(value));
    let list = |value: &str| if all { vec![text(value)] } else { Vec::new() };
    InstanceResult {
        instance_id: format!("x__y-{number}"),
        model: text(model),
        repo: text("x/y"),
        verdict,
        resolution: all.then_some(Resolution::Partial),
        tests: (all && verdict == Verdict::Resolved).then(TestsStatus::default),
        reason: some("why"),
        failure: all.then(|| (text("out_of_memory"), number.is_multiple_of(2))),
        cached: all,
        key: all.then(key),
        image_id: Some("sha256:0".into()),
        emulator: some("qemu-aarch64"),
        build_seconds: 0.5,
        test_seconds: 1.5,
        patch: some("diff"),
        log: some("a.log"),
        log_tail: list("last words"),
        reaches: list("conftest.py: is read by pytest"),
        suspicions: list("closing: they do not go together"),
        tree: TreeNotes { changed: list("M a"), restored: list("A b"), removed: Vec::new() },
        strict: list("a test was taken away"),
        runs: if all { vec![verdict, Verdict::Error] } else { Vec::new() },
        flaky: list("a"),
    }
}

fn report(models: &[&str]) -> RunReport {
    let results = models.iter().flat_map(|model| {
        let verdicts = Verdict::ALL.into_iter().enumerate();
        let pair = |(at, verdict)| {
            [result(model, 2 * at, verdict, true), result(model, 2 * at + 1, verdict, false)]
        };
        verdicts.flat_map(pair)
    });
    let instances: Vec<String> = (0..20).map(|number| format!("x__y-{number}")).collect();
    RunReport {
        shard: None,
        run_id: "r".parse().unwrap(),
        dataset: text("rows.jsonl"),
        split: text("test"),
        created_at: text("2026-01-31T15:30:00Z"),
        seconds: 3.0,
        engine: text("embedded"),
        platform: Platform::written("linux/arm64"),
        emulator: Some(text("qemu-aarch64")),
        workers: 2,
        grader: GRADER,
        strict: true,
        repos: instances.iter().map(|id| (id.clone(), text("x/y"))).collect(),
        instances: instances.clone(),
        results: results.collect(),
        submitted: models.iter().map(|model| (text(model), instances.clone())).collect(),
        unknown_ids: vec![text("z__z-1")],
        timeline: Vec::new(),
    }
}

#[test]
fn every_verdict_follows_the_schemas_of_reports() {
    for models in [&[][..], &["a"], &["a", "b/c"]] {
        let report = report(models);
        for name in ["eval", "report"] {
            check(name, &harness::document(&report));
        }
        for model in models {
            check("run-report", &harness::run_report(&report, model));
        }
        let mut written = 0;
        for result in &report.results {
            if let Some(document) = harness::instance_report(result, &GRADER) {
                check("instance-report", &document);
                written += 1;
            }
        }
        assert_eq!(written, 6 * models.len(), "three verdicts are judged");
    }
    // Everything was resolved before, but for the first, and what is alike now is flaky.
    let (now, mut before) = (report(&["a"]), report(&["a"]));
    before.results.remove(0);
    for result in &mut before.results {
        result.runs.clear();
        result.flaky.clear();
        result.verdict = match result.verdict {
            Verdict::Unresolved => Verdict::Resolved,
            _ => Verdict::Unresolved,
        };
    }
    before.results.push(result("a", 30, Verdict::Resolved, false));
    let compared = json!(compare(&now, &before));
    for list in ["gained", "lost", "flaky", "only_here", "only_there"] {
        assert!(!compared[list].as_array().unwrap().is_empty(), "{list} in {compared:#}");
    }
    check("report", &compared);
}

#[test]
fn every_end_of_an_image_follows_the_schemas_of_the_cache() {
    let why = || text("why");
    let problems = [
        Problem::Missing,
        Problem::NotIndexed,
        Problem::Labels(why()),
        Problem::Platform(why()),
        Problem::NotOnParent,
        Problem::Foreign(why()),
        Problem::NoParent,
        Problem::Damaged(why()),
    ];
    let findings: Vec<Value> = problems
        .into_iter()
        .map(|problem| {
            match problem {
                Problem::Missing | Problem::NotIndexed | Problem::Labels(_) => {}
                Problem::Platform(_) | Problem::NotOnParent | Problem::Foreign(_) => {}
                Problem::NoParent | Problem::Damaged(_) => {}
            }
            json!(Finding { image: why(), key: key(), kind: Kind::Env, problem, id: None })
        })
        .collect();
    let verified = json!({
        "images": 8, "layers": 0, "findings": findings, "broken": 5, "repaired": false,
    });
    check("cache-verify", &verified);

    let ends =
        [FetchOutcome::Fetched, FetchOutcome::There, FetchOutcome::Failed(why())].map(|outcome| {
            match outcome {
                FetchOutcome::Fetched | FetchOutcome::There | FetchOutcome::Failed(_) => {}
            }
            json!(FetchedImage { key: key(), kind: Kind::Base, outcome })
        });
    check("cache-pull", &json!({ "pulled": 1, "there": 1, "failed": 1, "images": ends }));
    check("cache-import", &json!({ "imported": 1, "there": 1, "failed": 1, "images": ends }));

    let ends =
        [Pushed::Pushed, Pushed::There, Pushed::Differs, Pushed::OnOther, Pushed::Failed(why())];
    let ends = ends.map(|outcome| {
        match outcome {
            Pushed::Pushed | Pushed::There | Pushed::Differs => {}
            Pushed::OnOther | Pushed::Failed(_) => {}
        }
        json!(PushedImage { key: key(), kind: Kind::Base, outcome, bytes: 5 })
    });
    check("cache-push", &json!({ "pushed": 1, "bytes": 5, "missing": 0, "images": ends }));
}
