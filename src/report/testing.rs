//! A run to try reports on.

use std::collections::BTreeMap;

use super::{InstanceResult, RunReport, Span, Verdict};
use crate::grade::{GRADER, Outcome, Resolution, TestsStatus};
use crate::platform::Platform;

/// Makes the result of an instance of `x/y`.
pub(crate) fn result(id: &str, verdict: Verdict) -> InstanceResult {
    let list = |tests: &[&str]| tests.iter().map(|test| (*test).to_owned()).collect::<Vec<_>>();
    let (success, failure) = match verdict {
        Verdict::Resolved => (list(&["t::a", "t::b"]), Vec::new()),
        _ => (list(&["t::b"]), list(&["t::a"])),
    };
    let read = matches!(verdict, Verdict::Resolved | Verdict::Unresolved);
    InstanceResult {
        instance_id: id.to_owned(),
        model: "org/model".to_owned(),
        repo: "x/y".to_owned(),
        verdict,
        resolution: read.then_some(match verdict {
            Verdict::Resolved => Resolution::Full,
            _ => Resolution::No,
        }),
        tests: read.then(|| TestsStatus {
            fail_to_pass: Outcome { success, failure },
            ..TestsStatus::default()
        }),
        reason: (!read).then(|| "a reason\nwith two lines".to_owned()),
        failure: None,
        cached: verdict == Verdict::Resolved,
        key: None,
        emulator: None,
        image_id: Some("sha256:0".into()),
        build_seconds: 1.5,
        test_seconds: 2.5,
        patch: Some("--- a/x.py\n+++ b/x.py\n@@ -1 +1 @@\n-a\n+b\n".to_owned()),
        log: Some("logs/x/test_output.txt".to_owned()),
        log_tail: vec!["the end".to_owned()],
        reaches: Vec::new(),
        suspicions: Vec::new(),
        tree: crate::tree::TreeNotes::default(),
        strict: Vec::new(),
        runs: Vec::new(),
        flaky: Vec::new(),
    }
}

/// Makes a run with every verdict, and an instance without a prediction.
pub(crate) fn report() -> RunReport {
    let results: Vec<InstanceResult> = Verdict::ALL
        .into_iter()
        .enumerate()
        .map(|(at, verdict)| result(&format!("x__y-{}", at + 1), verdict))
        .collect();
    let mut instances: Vec<String> = results.iter().map(|one| one.instance_id.clone()).collect();
    let submitted = BTreeMap::from([("org/model".to_owned(), instances.clone())]);
    instances.push("x__y-99".to_owned());
    RunReport {
        run_id: "run-1".parse().unwrap(),
        shard: None,
        dataset: "lite".to_owned(),
        split: "test".to_owned(),
        created_at: "2026-01-02T03:04:05Z".to_owned(),
        seconds: 12.0,
        engine: "docker 20.10.24 (overlay2)".to_owned(),
        platform: Platform::written("linux/amd64"),
        emulator: None,
        workers: 2,
        grader: GRADER,
        strict: false,
        repos: instances.iter().map(|id| (id.clone(), "x/y".to_owned())).collect(),
        instances,
        results,
        submitted,
        unknown_ids: vec!["z__z-1".to_owned()],
        timeline: vec![Span {
            worker: 0,
            node: "evaluation:x__y-1+org/model".to_owned(),
            kind: "evaluation".to_owned(),
            start: 0.5,
            end: 3.0,
            outcome: "resolved".to_owned(),
        }],
    }
}
