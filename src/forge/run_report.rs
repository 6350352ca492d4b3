//! The report of a run: what is known before it, and every prediction with its result after it.

use std::collections::{HashMap, HashSet};

use crate::dataset::Refused;
use crate::grade::GRADER;
use crate::report::{InstanceResult, RunReport, Verdict, milliseconds};
use crate::run::Metadata;
use crate::run::shards::ShardSettings;
use crate::run_id::RunId;

use super::workload::Workload;
use super::{LoadOptions, results};

/// Makes the report of a run that has no results yet.
pub(super) fn begin(
    run_id: &RunId,
    load: &LoadOptions,
    workload: &Workload,
    metadata: &Metadata,
    strict: bool,
) -> RunReport {
    let chosen = workload.instances.iter().map(|one| (one.instance_id.clone(), one.repo.clone()));
    let refused = workload
        .refused
        .iter()
        .map(|one| (one.instance_id.clone(), one.repo.clone().unwrap_or_default()));
    RunReport {
        run_id: run_id.clone(),
        shard: None,
        dataset: load.selection.dataset.clone(),
        split: load.selection.split.clone(),
        created_at: metadata.created_at.clone(),
        seconds: 0.0,
        engine: metadata.imgforge.as_ref().map_or(String::new(), |own| own.engine.clone()),
        platform: workload.platform.clone(),
        emulator: workload.emulator.clone(),
        workers: workload.workers,
        grader: GRADER,
        strict,
        instances: workload.chosen(),
        repos: chosen.chain(refused).collect(),
        results: Vec::new(),
        submitted: workload.submission.by_model(),
        unknown_ids: workload.submission.unknown_ids.clone(),
        timeline: Vec::new(),
    }
}

/// Keeps what belongs to a shard. Predictions that nobody runs are of the whole run.
pub(super) fn keep_slice(report: &mut RunReport, shard: &ShardSettings) {
    let models: HashSet<(&str, &str)> = shard
        .slice
        .iter()
        .map(|one| (one.model_name_or_path.as_str(), one.instance_id.as_str()))
        .collect();
    let ids: HashSet<&str> = models.iter().map(|(_, id)| *id).collect();
    report.shard = Some(shard.shard);
    report.instances.retain(|id| ids.contains(id.as_str()));
    for (model, submitted) in &mut report.submitted {
        submitted.retain(|id| models.contains(&(model.as_str(), id.as_str())));
    }
    report.submitted.retain(|_, submitted| !submitted.is_empty());
    report.unknown_ids.clear();
}

/// Rounds all times of a report to milliseconds.
pub(super) fn round_times(report: &mut RunReport) {
    report.seconds = milliseconds(report.seconds);
    for result in &mut report.results {
        result.build_seconds = milliseconds(result.build_seconds);
    }
    for span in &mut report.timeline {
        (span.start, span.end) = (milliseconds(span.start), milliseconds(span.end));
    }
}

/// Adds the predictions for instances that are left out.
pub(super) fn add_refused(report: &mut RunReport, workload: &Workload) {
    let why: HashMap<&str, &Refused> =
        workload.refused.iter().map(|one| (one.instance_id.as_str(), one)).collect();
    for one in &workload.submission.submitted {
        let Some(refused) = why.get(one.instance_id.as_str()) else { continue };
        report.results.push(results::refused(refused, &one.model_name_or_path));
    }
}

/// Adds the predictions that hold no patch.
pub(super) fn add_empty(report: &mut RunReport, workload: &Workload) {
    let refused: HashSet<&str> =
        workload.refused.iter().map(|one| one.instance_id.as_str()).collect();
    let chosen: HashMap<&str, usize> = workload
        .instances
        .iter()
        .enumerate()
        .map(|(at, instance)| (instance.instance_id.as_str(), at))
        .filter(|(id, _)| !refused.contains(id))
        .collect();
    let mut added: Vec<InstanceResult> = Vec::new();
    for one in &workload.submission.submitted {
        let Some(reason) = one.patch.why_empty() else { continue };
        let Some(at) = chosen.get(one.instance_id.as_str()) else { continue };
        added.push(results::unfinished(
            &workload.instances[*at],
            &one.model_name_or_path,
            Verdict::EmptyPatch,
            reason.to_owned(),
        ));
    }
    report.results.extend(added);
}

/// Brings the results into their order: models as they come, instances in the order of the dataset.
pub(super) fn sort(report: &mut RunReport) {
    let place: HashMap<&str, usize> =
        report.instances.iter().enumerate().map(|(at, id)| (id.as_str(), at)).collect();
    let models: Vec<String> = report.models().into_iter().map(str::to_owned).collect();
    let model = |result: &InstanceResult| models.iter().position(|model| *model == result.model);
    let mut results = std::mem::take(&mut report.results);
    results.sort_by_key(|result| (model(result), place.get(result.instance_id.as_str()).copied()));
    report.results = results;
}
