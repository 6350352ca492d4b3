//! The files of the harness: `report.json` of an instance, and the run report, schema version 2.
//!
//! Field names and meanings are those of `swebench` 5.0.2, so that existing readers work. What is
//! ours stands below `imgforge`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::{Value, json};

use super::{InstanceResult, RunReport, Verdict};
use crate::tree::TreeNotes;

/// Version of the run report.
pub const SCHEMA_VERSION: u32 = 2;

/// Returns the `report.json` of an instance; `None` where the harness writes none.
pub fn instance_report(result: &InstanceResult, grader: &impl Serialize) -> Option<Value> {
    if !result.verdict.is_graded() {
        return None;
    }
    let mut report = json!({
        "patch_is_None": false,
        "patch_exists": true,
        "patch_successfully_applied": result.tests.is_some(),
        "resolved": result.verdict == Verdict::Resolved,
        "infra_failure": false,
    });
    if let Some(tests) = &result.tests {
        report["tests_status"] = json!(tests);
    } else if let Some((reason, environment)) = &result.failure {
        report["infra_failure"] = json!(environment);
        report["infra_failure_reason"] = json!(reason);
    }
    report["imgforge"] = own(result);
    report["imgforge"]["grader"] = json!(grader);
    Some(json!({ &result.instance_id: report }))
}

/// What imgforge says of an instance beside the harness.
fn own(result: &InstanceResult) -> Value {
    let mut own = json!({
        "verdict": result.verdict,
        "cached": result.cached,
        "test_seconds": result.test_seconds,
    });
    let mut set = |name: &str, value: Value| {
        own[name] = value;
    };
    if let Some(resolution) = result.resolution {
        set("resolution", json!(resolution));
    }
    if let Some(reason) = &result.reason {
        set("reason", json!(reason));
    }
    if let Some(advice) = result.advice() {
        set("advice", json!(advice));
    }
    if let Some(key) = result.key {
        set("key", json!(key));
    }
    if let Some(image) = &result.image_id {
        set("image_id", json!(image));
    }
    if let Some(emulator) = &result.emulator {
        set("emulator", json!(emulator));
    }
    if !result.reaches.is_empty() {
        set("reaches", json!(result.reaches));
    }
    if !result.suspicions.is_empty() {
        set("suspicions", json!(result.suspicions));
    }
    if result.tree != TreeNotes::default() {
        set("tree", json!(result.tree));
    }
    if !result.strict.is_empty() {
        set("strict", json!(result.strict));
    }
    if result.runs.len() > 1 {
        set("runs", json!(result.runs));
        set("flaky", json!(result.flaky));
    }
    own
}

/// Returns the run report of one model.
pub fn run_report(report: &RunReport, model: &str) -> Value {
    let results: BTreeMap<&str, &InstanceResult> =
        report.of(model).map(|result| (result.instance_id.as_str(), result)).collect();
    let ids = |wanted: &dyn Fn(&InstanceResult) -> bool| -> Vec<&str> {
        results.iter().filter(|(_, result)| wanted(result)).map(|(id, _)| *id).collect()
    };
    let completed = ids(&|result| result.verdict.is_graded());
    let resolved = ids(&|result| result.verdict == Verdict::Resolved);
    let unresolved =
        ids(&|result| matches!(result.verdict, Verdict::Unresolved | Verdict::PatchRefused));
    let empty = ids(&|result| result.verdict == Verdict::EmptyPatch);
    let error = ids(&|result| result.verdict.is_error());
    let failed = |result: &InstanceResult, environment: bool| {
        result.verdict != Verdict::Resolved
            && result.failure.as_ref().is_some_and(|(_, own)| *own == environment)
    };
    let infra = ids(&|result| failed(result, true));
    let ambiguous = ids(&|result| failed(result, false));
    let reasons: BTreeMap<&str, &str> = results
        .iter()
        .filter(|(_, result)| result.verdict != Verdict::Resolved)
        .filter_map(|(id, result)| Some((*id, result.failure.as_ref()?.0.as_str())))
        .collect();
    let incomplete: BTreeSet<&str> = report
        .instances
        .iter()
        .map(String::as_str)
        .filter(|id| !results.contains_key(id))
        .collect();
    let mut submitted: Vec<&str> =
        report.submitted.get(model).into_iter().flatten().map(String::as_str).collect();
    submitted.sort_unstable();
    submitted.dedup();
    let details: Vec<Value> = report
        .of(model)
        .map(|result| {
            let mut details = own(result);
            details["instance_id"] = json!(result.instance_id);
            details["repo"] = json!(result.repo);
            details["build_seconds"] = json!(result.build_seconds);
            details
        })
        .collect();
    let patch_refused = ids(&|result| result.verdict == Verdict::PatchRefused);
    let cached = ids(&|result| result.cached);
    json!({
        "total_instances": report.instances.len(),
        "submitted_instances": submitted.len(),
        "completed_instances": completed.len(),
        "resolved_instances": resolved.len(),
        "unresolved_instances": unresolved.len(),
        "infra_failure_instances": infra.len(),
        "ambiguous_failure_instances": ambiguous.len(),
        "empty_patch_instances": empty.len(),
        "error_instances": error.len(),
        "completed_ids": completed,
        "incomplete_ids": incomplete,
        "empty_patch_ids": empty,
        "submitted_ids": submitted,
        "resolved_ids": resolved,
        "unresolved_ids": unresolved,
        "infra_failure_ids": infra,
        "ambiguous_failure_ids": ambiguous,
        "failure_reasons": reasons,
        "error_ids": error,
        "unstopped_instances": 0,
        "unstopped_containers": [],
        "unremoved_images": [],
        "schema_version": SCHEMA_VERSION,
        "imgforge": {
            "run_id": report.run_id,
            "model": model,
            "dataset": report.dataset,
            "split": report.split,
            "created_at": report.created_at,
            "seconds": report.seconds,
            "engine": report.engine,
            "platform": report.platform,
            "emulator": report.emulator,
            "workers": report.workers,
            "grader": report.grader,
            "strict": report.strict,
            "score": report.score(model),
            "patch_refused_ids": patch_refused,
            "cached_ids": cached,
            "unknown_ids": report.unknown_ids,
            "instances": details,
        },
    })
}

/// Returns what `--json` prints: the report of every model by its name, below `models`; where there
/// is one model, the fields of its report beside it, as the harness has them.
pub fn document(report: &RunReport) -> Value {
    let models = report.models();
    let all: serde_json::Map<String, Value> =
        models.iter().map(|model| ((*model).to_owned(), run_report(report, model))).collect();
    let mut document = match models.as_slice() {
        [model] => all[*model].clone(),
        _ => json!({ "schema_version": SCHEMA_VERSION }),
    };
    document["models"] = Value::Object(all);
    document
}
