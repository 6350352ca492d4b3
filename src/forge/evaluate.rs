//! Evaluating predictions: what is known is graded, the rest is run, and all of it is reported.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use anyhow::anyhow;
use petgraph::graph::NodeIndex;
use rayon::prelude::*;

use crate::dataset::Refused;
use crate::event::Reporter;
use crate::exec::evaluation::{EvaluationContext, EvaluationResult, RunTarget};
use crate::exec::evaluation_files;
use crate::exec::{NodeError, NodeStatus, RunSummary};
use crate::grade::{GRADER, Rules};
use crate::key::{Key, Kind};
use crate::plan::{EvaluateOptions, Plan, Work};
use crate::progress::{Fanout, Timeline};
use crate::recipe::{EvaluationRecipe, Recipe};
use crate::report::{InstanceResult, RunReport, Verdict, milliseconds};
use crate::run::{
    Changes, Metadata, RUNS, RunDir, RunError, RunLock, Settings, same_predictions, same_rows,
};
use crate::words;

use super::open::engine_error;
use super::record::Record;
use super::workload::Workload;
use super::{BuildOptions, Error, Forge, LoadOptions, Notices, results};

/// How predictions are evaluated.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// The name of the run: it names the directory of its logs.
    pub run_id: String,
    /// Whether a remark says that name: nobody chose it.
    pub say_run_id: bool,
    /// Whether a run of that name with other rows or predictions is removed.
    pub replace: bool,
    /// Whether images are built that are fresh, too.
    pub force_rebuild: bool,
    /// Whether results that are known are taken, and new ones are recorded.
    pub use_results: bool,
    /// Whether a log with what that of an honest run does not have counts as a failure.
    pub fail_on_suspicion: bool,
    /// How what is missing is built.
    pub build: BuildOptions,
}

impl RunOptions {
    /// The run of that name, as the command line does it without options.
    pub fn named(run_id: impl Into<String>) -> RunOptions {
        RunOptions {
            run_id: run_id.into(),
            say_run_id: false,
            replace: false,
            force_rebuild: false,
            use_results: true,
            fail_on_suspicion: false,
            build: BuildOptions::default(),
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Every evaluation has a verdict.
    Complete,
    /// Some have none, or a suspicious log where that counts; the report says which.
    SomeFailed,
    /// Nothing could be done, or the disk is full.
    Impossible,
    /// Somebody ended it.
    Interrupted,
}

impl Ended {
    /// Returns how a run ended by what became of its nodes; failures of single ones are left aside.
    fn of(summary: &RunSummary) -> Ended {
        match summary.interrupted {
            true => Ended::Interrupted,
            false if summary.out_of_space || summary.is_nothing_possible() => Ended::Impossible,
            false => Ended::Complete,
        }
    }
}

/// Predictions that were evaluated. The directory of the run is this process's as long as this lives.
pub struct Evaluation {
    /// What it came to.
    pub report: RunReport,
    /// How it ended.
    pub ended: Ended,
    _lock: RunLock,
}

/// Makes the error of a run's directory.
pub(crate) fn run_error(error: RunError) -> Error {
    match &error {
        RunError::Name { .. } => Error::input(error).with_hint(Some(
            "such a name has 1 to 200 bytes, no `/`, and is not `.` or `..`".to_owned(),
        )),
        RunError::Metadata { .. } => Error::input(error),
        RunError::Other { .. } => Error::input(error).with_hint(Some(
            "name another --run-id: results are shared; or start it anew with --replace-run"
                .to_owned(),
        )),
        RunError::UnderWay { .. } => Error::input(error).with_hint(Some(
            "wait for it, or name another --run-id: results are shared".to_owned(),
        )),
        RunError::Unknown { known, .. } => {
            let hint = match known.as_slice() {
                [] => "runs are looked for below the current directory".to_owned(),
                known => format!("there are {}", known.join(", ")),
            };
            Error::input(error).with_hint(Some(hint))
        }
        RunError::File { .. } => Error::environment(error).with_hint(Some(
            "`--output-dir` names another directory for logs and results".to_owned(),
        )),
    }
}

/// Takes the directory of a run whose rows and predictions are to be `metadata`'s.
fn begin(
    dir: &RunDir,
    metadata: &Metadata,
    replace: bool,
    notices: &Notices,
) -> Result<RunLock, RunError> {
    let lock = dir.lock()?;
    let run_id = dir.run_id();
    let known = match dir.metadata() {
        Err(RunError::Metadata { .. }) if replace => {
            dir.clear()?;
            None
        }
        known => known?,
    };
    if let Some(known) = known {
        let changes =
            same_rows(run_id, &known, &metadata.dataset, &metadata.split).and_then(|()| {
                match (&known.imgforge, &metadata.imgforge) {
                    (Some(known), Some(now)) => same_predictions(run_id, known, now),
                    _ => Ok(Changes::default()),
                }
            });
        match changes {
            Err(RunError::Other { .. }) if replace => dir.clear()?,
            changes => say_changes(run_id, &changes?, notices),
        }
    }
    Record::remove(dir)?;
    dir.write_metadata(metadata)?;
    Ok(lock)
}

/// Says that the reports of a run are of a part of it now.
pub(crate) fn say_left_out(run_id: &str, count: usize, notices: &Notices) {
    if count > 0 {
        notices.advise(format!(
            "run `{run_id}` had {} that {} not chosen now; its reports are of the chosen ones",
            words::count(count, "instance"),
            words::are(count)
        ));
    }
}

/// Says what is not as it was when the run began.
fn say_changes(run_id: &str, changes: &Changes, notices: &Notices) {
    if !changes.changed.is_empty() {
        let shown: Vec<&str> = changes.changed.iter().take(10).map(String::as_str).collect();
        let more = match changes.changed.len() - shown.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        notices.advise(format!(
            "predictions have changed since run `{run_id}` began, and are run again: {}{more}",
            shown.join(", ")
        ));
    }
    say_left_out(run_id, changes.left_out, notices);
}

impl Forge {
    /// Evaluates predictions: builds the images that are missing, runs the tests of what is not known, and
    /// grades. The files of the instances are written, the reports of the run are not. `reporter` is
    /// called where something is to be run.
    ///
    /// # Errors
    /// Bad input, before anything is started, and what keeps the run from beginning. What an evaluation
    /// failed of is part of the report.
    ///
    /// # Panics
    /// `load` does not say how tests are run, or names no predictions.
    pub async fn evaluate(
        &self,
        load: &LoadOptions,
        run: &RunOptions,
        reporter: impl FnOnce() -> Result<Box<dyn Reporter>, Error>,
    ) -> Result<Evaluation, Error> {
        evaluate(self, load, run, reporter).await
    }
}

async fn evaluate(
    forge: &Forge,
    load: &LoadOptions,
    run: &RunOptions,
    reporter: impl FnOnce() -> Result<Box<dyn Reporter>, Error>,
) -> Result<Evaluation, Error> {
    let notices = &forge.options.notices;
    let dir = RunDir::new(&forge.options.output_dir.join(RUNS), &run.run_id).map_err(run_error)?;
    // Before anything is fetched; what else may differ is looked at once the predictions are read.
    if !run.replace
        && let Some(known) = dir.metadata().map_err(run_error)?
    {
        let selection = &load.selection;
        same_rows(&run.run_id, &known, &selection.dataset, &selection.split).map_err(run_error)?;
    }
    let mut options = load.evaluate.clone().expect("who evaluates says how tests are run");
    options.repeat = options.repeat.max(1);
    let workload = forge.load(load).await?;
    options.emulator.clone_from(&workload.emulator);
    if let (Some(_), Some((engine, _))) = (&workload.namespace, &workload.engine) {
        let listed = engine.images().await.map_err(engine_error)?;
        for image in listed {
            options.image_ids.extend(image.tags.into_iter().map(|tag| (tag, image.id.clone())));
        }
    }
    let rules = rules(&workload, &options)?;
    let all = workload.plan(&workload.work, Kind::Instance, Some(options.clone()))?;
    let everything: Vec<usize> = (0..workload.work.len()).collect();
    let targets = targets(&all, &workload, &everything, &rules, &dir)?;
    let metadata = metadata(&workload, load, &options);
    let lock = begin(&dir, &metadata, run.replace, notices).map_err(run_error)?;
    if run.say_run_id {
        notices.remark(format!("run: {}", run.run_id));
    }

    let use_results = run.use_results && !run.force_rebuild;
    let mut evaluated: HashMap<(usize, u32), EvaluationResult> = HashMap::new();
    let mut known = HashSet::new();
    if use_results {
        let keys = targets.keys().map(|index| all.graph[*index].key);
        let found = workload.store.results_of(keys).map_err(Error::environment)?;
        for (index, one) in reuse(&workload, &all, &targets, &found).await? {
            known.insert(all.graph[index].key);
            for target in all.targets.iter().filter(|target| target.node == index) {
                let at = (target.work, target.repeat);
                evaluated.insert(at, one.clone());
            }
        }
    }
    let open: Vec<usize> = everything
        .into_iter()
        .filter(|work| (0..options.repeat).any(|repeat| !evaluated.contains_key(&(*work, repeat))))
        .collect();
    let mut report = RunReport {
        run_id: run.run_id.clone(),
        dataset: load.selection.dataset.clone(),
        split: load.selection.split.clone(),
        created_at: metadata.created_at.clone(),
        seconds: 0.0,
        engine: metadata.imgforge.as_ref().map_or(String::new(), |own| own.engine.clone()),
        platform: workload.platform.clone(),
        emulator: workload.emulator.clone(),
        workers: workload.workers,
        grader: GRADER,
        strict: options.strict,
        instances: workload.chosen(),
        repos: workload
            .instances
            .iter()
            .map(|one| (one.instance_id.clone(), one.repo.clone()))
            .chain(
                workload
                    .refused
                    .iter()
                    .map(|one| (one.instance_id.clone(), one.repo.clone().unwrap_or_default())),
            )
            .collect(),
        results: Vec::new(),
        submitted: workload.submission.by_model(),
        unknown_ids: workload.submission.unknown_ids.clone(),
        timeline: Vec::new(),
    };
    let mut failures: HashMap<usize, (Verdict, String)> = HashMap::new();
    let mut build_seconds: HashMap<usize, f64> = HashMap::new();
    let mut ended = Ended::Complete;
    if open.is_empty() {
        notices.remark(match workload.work.len() {
            0 => "nothing to run: no prediction holds a patch".to_owned(),
            all => format!("nothing to run: all {all} results are known"),
        });
    } else {
        let some: Vec<Work> = open.iter().map(|at| workload.work[*at].clone()).collect();
        let plan = workload.plan(&some, Kind::Instance, Some(options.clone()))?;
        let assessed = workload.assess(plan, run.force_rebuild, &known).await?;
        let plan = assessed.plan();
        let targets = self::targets(plan, &workload, &open, &rules, &dir)?;
        if !evaluated.is_empty() {
            let (known, all) = (evaluated.len(), all.targets.len());
            notices.remark(format!("{known} of {all} results are known"));
        }
        let runs = EvaluationContext { dir: dir.clone(), targets, use_results };
        let spans = Arc::new(Mutex::new(Vec::new()));
        let timeline = Timeline::new(spans.clone());
        let reporter = Box::new(Fanout(vec![reporter()?, Box::new(timeline)]));
        let summary = assessed.run(&run.build, Some(Arc::new(runs)), None, reporter).await?;
        report.seconds = summary.seconds;
        report.timeline = std::mem::take(&mut *spans.lock().expect("no reporter panicked"));
        for target in &plan.targets {
            let work = open[target.work];
            if let Some(one) = summary.evaluations.get(&target.node) {
                evaluated.insert((work, target.repeat), one.clone());
            } else if !evaluated.contains_key(&(work, target.repeat)) {
                failures.insert(work, failure(plan, &summary, target.node));
            }
            build_seconds.insert(work, seconds_of_images(plan, &summary, target.node));
        }
        ended = Ended::of(&summary);
    }
    for (at, work) in workload.work.iter().enumerate() {
        let prediction = work.prediction.as_ref().expect("every work of a run has a prediction");
        let rules = rules[&work.instance.instance_id];
        let target = target(work, rules, &dir, 0, &workload.emulator)?;
        let runs: Vec<&EvaluationResult> =
            (0..options.repeat).filter_map(|repeat| evaluated.get(&(at, repeat))).collect();
        let mut result = match failures.remove(&at) {
            Some((verdict, reason)) => {
                results::unfinished(&work.instance, &prediction.model, verdict, reason)
            }
            None => results::join(&target, &runs),
        };
        result.build_seconds = build_seconds.get(&at).copied().unwrap_or(0.0);
        results::add_log(&mut result, &target.dir);
        if options.repeat > 1 {
            results::write_instance(&result, &target.dir).map_err(run_error)?;
        }
        report.results.push(result);
    }
    add_refused(&mut report, &workload);
    add_empty(&mut report, &workload);
    let suspicious: Vec<&str> = report
        .results
        .iter()
        .filter(|one| !one.suspicions.is_empty())
        .map(|one| one.instance_id.as_str())
        .collect();
    if run.fail_on_suspicion && ended == Ended::Complete && !suspicious.is_empty() {
        notices.warn(format!("logs that are suspicious: {}", suspicious.join(", ")));
        ended = Ended::SomeFailed;
    }
    if ended == Ended::Complete && report.results.iter().any(|one| one.verdict.is_error()) {
        ended = Ended::SomeFailed;
    }
    report.seconds = milliseconds(report.seconds);
    for result in &mut report.results {
        result.build_seconds = milliseconds(result.build_seconds);
    }
    for span in &mut report.timeline {
        (span.start, span.end) = (milliseconds(span.start), milliseconds(span.end));
    }
    Record::of(&report).write(&dir).map_err(run_error)?;
    Ok(Evaluation { report, ended, _lock: lock })
}

/// Reads how every instance is graded, before anything starts.
fn rules(workload: &Workload, options: &EvaluateOptions) -> Result<HashMap<String, Rules>, Error> {
    let mut rules = HashMap::new();
    for work in &workload.work {
        let read =
            Rules::with(&work.instance, options.family, options.strict).map_err(|error| {
                let hint = error.hint();
                Error::input(error).with_hint(hint)
            })?;
        rules.insert(work.instance.instance_id.clone(), read);
    }
    Ok(rules)
}

fn target(
    work: &Work,
    rules: Rules,
    dir: &RunDir,
    repeat: u32,
    emulator: &Option<String>,
) -> Result<RunTarget, Error> {
    let prediction = work.prediction.as_ref().expect("every work of a run has a prediction");
    let path = dir.instance(&prediction.model, &work.instance.instance_id, repeat);
    Ok(RunTarget {
        dir: path.map_err(run_error)?,
        instance: work.instance.clone(),
        model: prediction.model.clone(),
        patch: prediction.patch.clone(),
        rules,
        emulator: emulator.clone(),
    })
}

/// Lists what each evaluation of a plan is run for; `numbers` gives the work of each of the plan's.
fn targets(
    plan: &Plan,
    workload: &Workload,
    numbers: &[usize],
    rules: &HashMap<String, Rules>,
    dir: &RunDir,
) -> Result<HashMap<NodeIndex, Vec<RunTarget>>, Error> {
    let mut targets: HashMap<NodeIndex, Vec<RunTarget>> = HashMap::new();
    let mut taken: HashSet<PathBuf> = HashSet::new();
    for one in &plan.targets {
        let work = &workload.work[numbers[one.work]];
        let rules = rules[&work.instance.instance_id];
        let target = target(work, rules, dir, one.repeat, &workload.emulator)?;
        if !taken.insert(target.dir.clone()) {
            return Err(Error::input(anyhow!(
                "two models would leave their files in `{}`; rename one of them",
                target.dir.display()
            )));
        }
        targets.entry(one.node).or_default().push(target);
    }
    Ok(targets)
}

/// Grades the logs of earlier runs that have the same inputs.
async fn reuse(
    workload: &Workload,
    plan: &Plan,
    targets: &HashMap<NodeIndex, Vec<RunTarget>>,
    found: &HashSet<Key>,
) -> Result<Vec<(NodeIndex, EvaluationResult)>, Error> {
    let jobs: Vec<(NodeIndex, Key, EvaluationRecipe, Vec<RunTarget>)> = targets
        .iter()
        .filter_map(|(index, targets)| {
            let node = &plan.graph[*index];
            let Recipe::Evaluation(recipe) = &node.recipe else { return None };
            let known = found.contains(&node.key);
            known.then(|| (*index, node.key, recipe.clone(), targets.clone()))
        })
        .collect();
    let store = workload.store.clone();
    let graded = tokio::task::spawn_blocking(move || {
        jobs.par_iter()
            .map(|(index, key, recipe, targets)| {
                let one = evaluation_files::reuse(&store, *key, recipe, targets)?;
                Ok(one.map(|one| (*index, one)))
            })
            .collect::<Result<Vec<Option<(NodeIndex, EvaluationResult)>>, NodeError>>()
    });
    let graded = graded.await.expect("grading does not panic").map_err(Error::environment)?;
    Ok(graded.into_iter().flatten().collect())
}

/// Says why an evaluation did not come to a verdict.
fn failure(plan: &Plan, summary: &RunSummary, index: NodeIndex) -> (Verdict, String) {
    let own = &summary.nodes[index.index()];
    if own.status == NodeStatus::Cancelled {
        return (Verdict::NotRun, "the run was stopped".to_owned());
    }
    let mut next = Some(index);
    while let Some(at) = next {
        let node = &summary.nodes[at.index()];
        if node.status == NodeStatus::Failed {
            let error = node.error.clone().unwrap_or_default();
            let text = format!("{}: {error}", node.id);
            return (Verdict::Error, text);
        }
        next = plan.parent(at);
    }
    (Verdict::NotRun, own.error.clone().unwrap_or_else(|| "it was not started".to_owned()))
}

/// Adds up the seconds of the images that only this evaluation's instance needs.
fn seconds_of_images(plan: &Plan, summary: &RunSummary, index: NodeIndex) -> f64 {
    let mut seconds = 0.0;
    let mut next = plan.parent(index);
    while let Some(at) = next {
        let node = &plan.graph[at];
        if matches!(node.kind(), Kind::Checkout | Kind::Instance) && node.status.runs() {
            seconds += summary.nodes[at.index()].seconds;
        }
        next = plan.parent(at);
    }
    seconds
}

fn metadata(workload: &Workload, load: &LoadOptions, options: &EvaluateOptions) -> Metadata {
    let engine = workload.engine.as_ref().map_or(String::new(), |(_, info)| {
        format!("{} {} ({})", info.kind, info.version, info.store)
    });
    Metadata {
        dataset: load.selection.dataset.clone(),
        split: load.selection.split.clone(),
        task_repo: None,
        created_at: format!("{:.0}", jiff::Timestamp::now()),
        imgforge: Some(Settings {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            engine,
            platform: workload.platform.clone(),
            emulator: workload.emulator.clone(),
            workers: workload.workers,
            grading: options.family.as_str().to_owned(),
            strict: options.strict,
            repeat: options.repeat,
            instances: workload.chosen(),
            submitted: workload.submission.submitted.clone(),
        }),
    }
}

/// Adds the predictions for instances that are left out.
fn add_refused(report: &mut RunReport, workload: &Workload) {
    let why: HashMap<&str, &Refused> =
        workload.refused.iter().map(|one| (one.instance_id.as_str(), one)).collect();
    for one in &workload.submission.submitted {
        let Some(refused) = why.get(one.instance_id.as_str()) else { continue };
        report.results.push(results::refused(refused, &one.model_name_or_path));
    }
}

/// Adds the predictions that hold no patch.
fn add_empty(report: &mut RunReport, workload: &Workload) {
    let order = workload.chosen();
    let place: HashMap<&str, usize> =
        order.iter().enumerate().map(|(at, id)| (id.as_str(), at)).collect();
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
    let models: Vec<String> = report.models().into_iter().map(str::to_owned).collect();
    let model = |result: &InstanceResult| models.iter().position(|model| *model == result.model);
    report
        .results
        .sort_by_key(|result| (model(result), place.get(result.instance_id.as_str()).copied()));
}
