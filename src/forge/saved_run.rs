//! The run of an earlier day: its logs are graded again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use anyhow::anyhow;
use clap::ValueEnum as _;

use crate::dataset::{Instance, Refused, nearest_id};
use crate::exec::evaluation::{EvaluationResult, RunTarget};
use crate::exec::evaluation_files::{grade_file, kept};
use crate::grade::{Family, GRADER, PATCH_FAILED, Rules, ends_at_time_limit};
use crate::report::{InstanceResult, RunReport, Verdict};
use crate::run::{Metadata, RUNS, RunDir, RunLock, Settings, file};
use crate::run_id::RunId;

use super::merge::{MergeOptions, Merged, merge};
use super::record::Record;
use super::rows::{self, ChosenInstances};
use super::run_directory::{run_error, say_left_out};
use super::{Error, ForgeOptions, Notices, Selection, results};

/// What of a run is graded again.
#[derive(Debug, Clone, Default)]
pub struct SavedRunOptions {
    /// The dataset; without it the one that the run recorded.
    pub dataset: Option<String>,
    /// The split; without it the one that the run recorded.
    pub split: Option<String>,
    /// These instances of the run, else all; written as in [`Selection`].
    pub instance_ids: Vec<String>,
    /// Whether instances get their reports anew, where they differ.
    pub write: bool,
    /// The shards that are joined, where the run is in shards.
    pub merge: MergeOptions,
}

/// A run whose logs were graded again. Its directory is this process's as long as this lives.
pub struct SavedRun {
    /// The report of the logs, graded by today's rules.
    pub report: RunReport,
    _lock: Option<RunLock>,
}

impl ForgeOptions {
    /// Grades the saved logs of a run again.
    ///
    /// # Errors
    /// There is no such run, it is under way, or its rows cannot be read.
    pub async fn saved_run(
        &self,
        run_id: &RunId,
        options: &SavedRunOptions,
    ) -> Result<SavedRun, Error> {
        load(self, run_id, options).await
    }
}

async fn load(
    forge: &ForgeOptions,
    run_id: &RunId,
    args: &SavedRunOptions,
) -> Result<SavedRun, Error> {
    let notices = &forge.notices;
    let dir = RunDir::new(&forge.output_dir.join(RUNS), run_id);
    let lock = match args.merge.from.is_empty() {
        true => dir.lock_existing(),
        false => dir.lock().map(Some),
    };
    let lock = lock.map_err(run_error)?;
    let (metadata, record) = match merge(&dir, &args.merge, args.write, notices)? {
        Some(Merged { metadata, record }) => (Some(metadata), record),
        None => {
            let record = Record::read(&dir).unwrap_or_default();
            (dir.metadata().map_err(run_error)?, record)
        }
    };
    let recorded = |field: fn(&Metadata) -> &String| metadata.as_ref().map(|m| field(m).clone());
    let dataset = args.dataset.clone().or_else(|| recorded(|m| &m.dataset)).ok_or_else(|| {
        let error = anyhow!("run `{run_id}` does not say which dataset it was made with");
        Error::input(error).with_hint(Some("name it with --dataset".to_owned()))
    })?;
    let split = args.split.clone().or_else(|| recorded(|m| &m.split));
    let split = split.unwrap_or_else(|| "test".to_owned());
    let selection = Selection { split: split.clone(), ..Selection::all(&dataset) };
    let ChosenInstances { instances, refused, .. } = forge.choose(&selection).await?;
    let refused: HashMap<String, Refused> =
        refused.into_iter().map(|one| (one.instance_id.clone(), one)).collect();
    let all: Vec<String> = instances
        .iter()
        .map(|one| one.instance_id.clone())
        .chain(refused.keys().cloned())
        .collect();
    let instances: HashMap<String, Arc<Instance>> =
        instances.into_iter().map(|one| (one.instance_id.clone(), Arc::new(one))).collect();
    let own = metadata.as_ref().and_then(|metadata| metadata.imgforge.as_ref());
    let family = own.map_or("swebench", |own| own.grading.as_str());
    let grading = Grading {
        family: Family::from_str(family, true).unwrap_or_default(),
        strict: own.is_some_and(|own| own.strict),
        repeat: own.map_or(1, |own| own.repeat),
    };
    let mut report = RunReport {
        dataset,
        split,
        strict: grading.strict,
        // A run of the harness does not say what was chosen: then all of the dataset was.
        instances: own.map_or(all, |own| own.instances.clone()),
        ..recorded_report(run_id, metadata.as_ref(), &record)
    };
    let with = Regrading { instances: &instances, refused: &refused, grading, notices };
    match own {
        Some(own) => add_own(&mut report, &dir, own, &record, &with)?,
        None => add_foreign(&mut report, &dir, &with)?,
    }
    for result in report.results.iter_mut().filter(|result| result.verdict.is_graded()) {
        result.emulator.clone_from(&report.emulator);
    }
    for id in &report.instances {
        let known = instances.get(id).map(|instance| instance.repo.clone());
        let known = known.or_else(|| refused.get(id).and_then(|one| one.repo.clone()));
        report.repos.insert(id.clone(), known.unwrap_or_default());
    }
    let before = report.instances.len();
    keep_only(&mut report, &args.instance_ids)?;
    if args.write {
        say_left_out(run_id, before - report.instances.len(), notices);
        for result in &report.results {
            let path = dir.instance(&result.model, &result.instance_id, 0).map_err(run_error)?;
            if path.is_dir() {
                results::write_instance(result, &path).map_err(run_error)?;
            }
        }
    }
    Ok(SavedRun { report, _lock: lock })
}

/// Makes a report of what the directory of a run records, without instances and results.
fn recorded_report(run_id: &RunId, metadata: Option<&Metadata>, record: &Record) -> RunReport {
    let own = metadata.and_then(|metadata| metadata.imgforge.as_ref());
    RunReport {
        run_id: run_id.clone(),
        shard: None,
        dataset: String::new(),
        split: String::new(),
        created_at: metadata.map_or(String::new(), |metadata| metadata.created_at.clone()),
        seconds: record.seconds,
        engine: own.map_or(String::new(), |own| own.engine.clone()),
        platform: own.map(|own| own.platform.clone()).unwrap_or_default(),
        emulator: own.and_then(|own| own.emulator.clone()),
        workers: own.map_or(0, |own| own.workers),
        grader: GRADER,
        strict: false,
        instances: Vec::new(),
        repos: BTreeMap::new(),
        results: Vec::new(),
        submitted: BTreeMap::new(),
        unknown_ids: record.unknown_ids.clone(),
        timeline: record.timeline.clone(),
    }
}

/// Keeps the instances of a run that are named; all where none is.
fn keep_only(report: &mut RunReport, texts: &[String]) -> Result<(), Error> {
    let known: HashSet<&str> = report.instances.iter().map(String::as_str).collect();
    let ids = rows::ids(texts, |text| known.contains(text))?;
    for id in &ids {
        if !known.contains(id.as_str()) {
            let near = nearest_id(id, &known).map(|near| format!("the nearest is `{near}`"));
            let error = anyhow!("run `{}` has no instance `{id}`", report.run_id);
            return Err(Error::input(error).with_hint(near));
        }
    }
    if !texts.is_empty() {
        let is_kept = |id: &String| ids.contains(id);
        report.instances.retain(is_kept);
        report.results.retain(|result| is_kept(&result.instance_id));
        report.submitted.values_mut().for_each(|list| list.retain(is_kept));
    }
    Ok(())
}

/// What the predictions of a run are graded again with.
#[derive(Clone, Copy)]
struct Regrading<'a> {
    /// The rows of the dataset, by their ids.
    instances: &'a HashMap<String, Arc<Instance>>,
    /// Those that cannot be used.
    refused: &'a HashMap<String, Refused>,
    grading: Grading,
    notices: &'a Notices,
}

/// Adds the predictions of a run of ours: what the run knew, and what logs say where it was judged.
fn add_own(
    report: &mut RunReport,
    dir: &RunDir,
    own: &Settings,
    record: &Record,
    with: &Regrading<'_>,
) -> Result<(), Error> {
    let Regrading { instances, refused, grading, notices } = *with;
    let mut models: Vec<&str> = record.models.iter().map(String::as_str).collect();
    for one in &own.submitted {
        let list = report.submitted.entry(one.model_name_or_path.clone()).or_default();
        list.push(one.instance_id.clone());
        if !models.contains(&one.model_name_or_path.as_str()) {
            models.push(&one.model_name_or_path);
        }
    }
    let place: HashMap<&str, usize> =
        own.instances.iter().enumerate().map(|(at, id)| (id.as_str(), at)).collect();
    let mut seen = HashSet::new();
    for one in &own.submitted {
        let (model, id) = (&one.model_name_or_path, &one.instance_id);
        if !place.contains_key(id.as_str()) || !seen.insert((model, id)) {
            continue;
        }
        if let Some(refused) = refused.get(id) {
            report.results.push(results::refused(refused, model));
            continue;
        }
        let Some(instance) = instances.get(id) else {
            notices.warn(format!("`{id}` is no instance of the dataset any more"));
            continue;
        };
        let path = dir.instance(model, id, 0).map_err(run_error)?;
        let known = record.result(model, id);
        report.results.push(match (one.patch.why_empty(), known) {
            (Some(why), _) => {
                let why = why.to_owned();
                results::unfinished(instance, model, Verdict::EmptyPatch, why)
            }
            (None, Some(known)) => restored(&path, instance, known, grading)?,
            (None, None) => unrecorded(&path, instance, model, grading)?,
        });
    }
    let order = |model: &str| models.iter().position(|known| *known == model);
    report.results.sort_by_key(|result| {
        (order(&result.model), place.get(result.instance_id.as_str()).copied())
    });
    Ok(())
}

/// Returns what the run knew of a prediction; where it was judged by its log, graded anew.
fn restored(
    path: &Path,
    instance: &Arc<Instance>,
    known: &InstanceResult,
    grading: Grading,
) -> Result<InstanceResult, Error> {
    let judged = matches!(known.verdict, Verdict::Resolved | Verdict::Unresolved);
    let mut result = match judged && path.join(file::OUTPUT).is_file() {
        true => {
            let graded = grade_saved(path, instance, &known.model, grading)?;
            InstanceResult {
                cached: known.cached,
                key: known.key,
                image_id: known.image_id.clone(),
                build_seconds: known.build_seconds,
                test_seconds: known.test_seconds,
                ..graded
            }
        }
        false if judged => {
            let why = "there is no log of its tests".to_owned();
            results::unfinished(instance, &known.model, Verdict::Error, why)
        }
        false => known.clone(),
    };
    let ran = !matches!(known.verdict, Verdict::Error | Verdict::NotRun | Verdict::EmptyPatch);
    if ran && result.patch.is_none() {
        let patch = std::fs::read(path.join(file::PATCH)).ok();
        result.patch = patch.map(|patch| String::from_utf8_lossy(&patch).into_owned());
    }
    results::add_log(&mut result, path);
    Ok(result)
}

/// Returns what is there of a prediction where the run did not come to its end: a log counts only
/// when the run had judged it.
fn unrecorded(
    path: &Path,
    instance: &Arc<Instance>,
    model: &str,
    grading: Grading,
) -> Result<InstanceResult, Error> {
    let judged = kept_facts(path, &instance.instance_id).is_some();
    if judged || timed_out(&path.join(file::OUTPUT)) {
        return grade_saved(path, instance, model, grading);
    }
    let why = "the run ended before its tests did".to_owned();
    let mut result = results::unfinished(instance, model, Verdict::NotRun, why);
    results::add_log(&mut result, path);
    Ok(result)
}

/// Adds the predictions of a run of the harness, as its folders have them.
fn add_foreign(report: &mut RunReport, dir: &RunDir, with: &Regrading<'_>) -> Result<(), Error> {
    let Regrading { instances, refused, grading, notices } = *with;
    for (model, id, path) in dir.instances().map_err(run_error)? {
        if let Some(one) = refused.get(&id) {
            report.results.push(results::refused(one, &model));
            report.submitted.entry(model).or_default().push(id);
            continue;
        }
        let Some(instance) = instances.get(&id) else {
            notices.warn(format!("`{}` is for no instance of the dataset", path.display()));
            report.unknown_ids.push(id);
            continue;
        };
        report.results.push(grade_saved(&path, instance, &model, grading)?);
        report.submitted.entry(model).or_default().push(id);
    }
    Ok(())
}

/// The rules that the run was graded by.
#[derive(Clone, Copy)]
struct Grading {
    family: Family,
    strict: bool,
    /// How often each instance ran; an earlier invocation may have left more.
    repeat: u32,
}

/// Grades what is in the directory of an instance, its further runs included.
fn grade_saved(
    dir: &Path,
    instance: &Arc<Instance>,
    model: &str,
    grading: Grading,
) -> Result<InstanceResult, Error> {
    let rules = match Rules::with(instance, grading.family, grading.strict) {
        Ok(rules) => rules,
        Err(error) => {
            let refused = Refused {
                instance_id: instance.instance_id.clone(),
                repo: Some(instance.repo.clone()),
                before: 0,
                why: error.to_string(),
            };
            return Ok(results::refused(&refused, model));
        }
    };
    let patch = std::fs::read(dir.join(file::PATCH)).unwrap_or_default();
    let target = RunTarget {
        dir: dir.to_owned(),
        instance: instance.clone(),
        model: model.to_owned(),
        patch: patch.into(),
        rules,
        emulator: None,
    };
    let mut runs = vec![run_of(dir, &target)?];
    for number in 2..=grading.repeat {
        let further = dir.join(format!("run_{number}"));
        if further.is_dir() {
            runs.push(run_of(&further, &target)?);
        }
    }
    let runs: Vec<&EvaluationResult> = runs.iter().collect();
    let mut result = results::join(&target, &runs);
    results::add_log(&mut result, dir);
    Ok(result)
}

/// Reads what `report.json` says beside what a log can say.
fn kept_facts(dir: &Path, id: &str) -> Option<serde_json::Value> {
    Some(kept(dir, id)?.get_mut("imgforge")?.take())
}

fn run_of(dir: &Path, target: &RunTarget) -> Result<EvaluationResult, Error> {
    let kept = kept_facts(dir, &target.instance.instance_id);
    let text = |name: &str| kept.as_ref().and_then(|kept| Some(kept[name].as_str()?.to_owned()));
    let mut evaluated = EvaluationResult {
        verdict: Verdict::Error,
        graded: None,
        reason: None,
        seconds: kept.as_ref().and_then(|kept| kept["test_seconds"].as_f64()).unwrap_or(0.0),
        cached: kept.as_ref().is_some_and(|kept| kept["cached"] == true),
        image_id: text("image_id").unwrap_or_default().into(),
        key: text("key").and_then(|key| key.parse().ok()),
        notes: kept
            .as_ref()
            .and_then(|kept| serde_json::from_value(kept["tree"].clone()).ok())
            .unwrap_or_default(),
    };
    let output = dir.join(file::OUTPUT);
    if text("verdict").as_deref() == Some(Verdict::PatchRefused.as_str()) {
        evaluated.verdict = Verdict::PatchRefused;
        evaluated.reason = text("reason");
        return Ok(evaluated);
    }
    let log = std::fs::read(dir.join(file::LOG)).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    if let Some(at) = log.find(PATCH_FAILED) {
        evaluated.verdict = Verdict::PatchRefused;
        evaluated.reason = Some(log[at..].lines().skip(1).take(20).collect::<Vec<_>>().join("\n"));
    } else if !output.is_file() {
        evaluated.reason = Some("there is no log of its tests".to_owned());
    } else if timed_out(&output) {
        evaluated.verdict = Verdict::TimedOut;
    } else {
        let graded = grade_file(&output, target).map_err(Error::environment)?;
        evaluated.verdict = if graded.resolved() { Verdict::Resolved } else { Verdict::Unresolved };
        evaluated.reason = graded.not_found.as_ref().map(ToString::to_string);
        evaluated.graded = Some(graded);
    }
    Ok(evaluated)
}

/// Tells whether a log ends with the note of a time limit.
fn timed_out(output: &Path) -> bool {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let read = || -> std::io::Result<String> {
        let mut log = std::fs::File::open(output)?;
        let length = log.metadata()?.len();
        log.seek(SeekFrom::Start(length.saturating_sub(100)))?;
        let mut end = Vec::new();
        log.read_to_end(&mut end)?;
        Ok(String::from_utf8_lossy(&end).into_owned())
    };
    ends_at_time_limit(&read().unwrap_or_default())
}
