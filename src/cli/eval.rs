//! `imgforge eval`.

use super::open;
use crate::cli::out::errln;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use anyhow::anyhow;
use clap::Args;
use petgraph::graph::NodeIndex;
use rayon::prelude::*;

use crate::dataset::Refused;
use crate::exec::evaluation::{Evaluated, RunTarget, Runs};
use crate::exec::evaluation_files;
use crate::exec::{NodeError, NodeStatus, RunSummary};
use crate::grade::{GRADER, Rules};
use crate::key::{Key, Kind};
use crate::plan::check::Purpose;
use crate::plan::{Plan, Work};
use crate::progress::Timeline;
use crate::recipe::Recipe;
use crate::report::{InstanceResult, RunReport, Verdict, harness, milliseconds};
use crate::run::{
    Changes, Metadata, RUNS, RunDir, RunError, RunLock, Settings, same_predictions, same_rows,
};
use crate::words;

use super::chosen::Choice;
use super::context::{self, Prepared, Wanted};
use super::execute::ExecArgs;
use super::help::heading;
use super::record::Record;
use super::results::{self, Outputs};
use super::run_args::RunArgs;
use super::swebench::SwebenchArgs;
use super::{Chosen, CommandResult, Exit, Failure, Global, Sources, report};

/// Arguments of `eval`.
#[derive(Debug, Args)]
pub struct EvalArgs {
    #[command(flatten)]
    pub(super) chosen: Choice,
    /// Predictions: .jsonl or .json files; gold for the dataset's own patches, empty for none
    #[arg(
        short,
        long,
        aliases = ["predictions_path", "predictions-path"],
        value_name = "PATH",
        required_unless_present = "gold",
        env = "IMGFORGE_PREDICTIONS",
        help_heading = heading::RUN
    )]
    predictions: Vec<String>,
    /// Evaluate the dataset's own patches: -p gold
    #[arg(long, conflicts_with = "predictions", help_heading = heading::RUN)]
    gold: bool,
    /// What the run is called [default: the time, and a few digits]
    #[arg(
        long,
        alias = "run_id",
        value_name = "ID",
        env = "IMGFORGE_RUN_ID",
        help_heading = heading::RUN
    )]
    pub(super) run_id: Option<String>,
    /// Start anew where the run id stands for another dataset or other predictions: its logs are
    /// removed
    #[arg(long, env = "IMGFORGE_REPLACE_RUN", help_heading = heading::RUN)]
    replace_run: bool,
    /// Build images that are fresh too, and run what was run before
    #[arg(long, help_heading = heading::RUN)]
    pub(super) force_rebuild: bool,
    /// Run nothing: grade the saved logs of the run again, as `imgforge report` does
    #[arg(long, help_heading = heading::RUN)]
    pub(super) rewrite_reports: bool,
    #[command(flatten)]
    pub(super) run: RunArgs,
    #[command(flatten)]
    pub(super) sources: Sources,
    #[command(flatten)]
    pub(super) exec: ExecArgs,
    #[command(flatten)]
    pub(super) outputs: Outputs,
    #[command(flatten)]
    pub(super) swebench: SwebenchArgs,
}

impl EvalArgs {
    /// Returns what is evaluated.
    pub(super) fn predictions(&self) -> Vec<String> {
        if self.gold { vec!["gold".to_owned()] } else { self.predictions.clone() }
    }
}

/// Names a run that nobody named, such as `20260131-153000-1f3a`: no other has that name.
fn new_run_id() -> String {
    let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    format!("{}-{:04x}", now.strftime("%Y%m%d-%H%M%S"), rand::random::<u16>())
}

/// Makes a failure of a run's directory.
pub(super) fn run_failure(error: RunError) -> Failure {
    match &error {
        RunError::Name { .. } => Failure::input(error).hint(Some(
            "such a name has 1 to 200 bytes, no `/`, and is not `.` or `..`".to_owned(),
        )),
        RunError::Metadata { .. } => Failure::input(error),
        RunError::Other { .. } => Failure::input(error).hint(Some(
            "name another --run-id: results are shared; or start it anew with --replace-run"
                .to_owned(),
        )),
        RunError::UnderWay { .. } => Failure::input(error)
            .hint(Some("wait for it, or name another --run-id: results are shared".to_owned())),
        RunError::Unknown { known, .. } => {
            let hint = match known.as_slice() {
                [] => "runs are looked for below the current directory".to_owned(),
                known => format!("there are {}", known.join(", ")),
            };
            Failure::input(error).hint(Some(hint))
        }
        RunError::File { .. } => Failure::environment(error)
            .hint(Some("`--output-dir` names another directory for logs and results".to_owned())),
    }
}

/// What is evaluated.
#[derive(Clone, Copy)]
pub(super) struct Evaluation<'a> {
    /// Which instances.
    pub chosen: &'a Chosen,
    /// Where things come from.
    pub sources: &'a Sources,
    /// Files of predictions, `gold` or `empty`.
    pub predictions: &'a [String],
    /// The run.
    pub run_id: &'a str,
    /// Whether nobody named it: it is said then.
    pub named_here: bool,
    /// Whether a run of that id with other inputs is removed.
    pub replace_run: bool,
    /// Whether everything is built and run anew.
    pub force_rebuild: bool,
    /// How the plan is run.
    pub exec: &'a ExecArgs,
    /// How tests are run.
    pub run: &'a RunArgs,
}

/// Runs `eval`.
pub(super) async fn run(global: &Global, args: EvalArgs) -> CommandResult {
    args.swebench.check(global)?;
    args.chosen.say_default(global);
    if args.rewrite_reports {
        let run_id = args.run_id.ok_or_else(|| {
            Failure::input(anyhow!("--rewrite-reports needs the --run-id of the run"))
        })?;
        let again = report::ReportArgs::again(run_id, &args.chosen, args.outputs);
        return report::run(global, again).await;
    }
    let predictions = args.predictions();
    let run_id = args.run_id.clone().unwrap_or_else(new_run_id);
    let evaluation = Evaluation {
        chosen: &args.chosen,
        sources: &args.sources,
        predictions: &predictions,
        run_id: &run_id,
        named_here: args.run_id.is_none(),
        replace_run: args.replace_run,
        force_rebuild: args.force_rebuild,
        exec: &args.exec,
        run: &args.run,
    };
    let Finished { report, exit, _lock } = evaluate(global, &evaluation).await?;
    let written =
        results::write(&report, &args.outputs, &open::output_dir(global)).map_err(run_failure)?;
    results::write_step_summary(&report).map_err(run_failure)?;
    if !global.quiet {
        results::print(&report, &written);
    }
    if global.json {
        super::render::json(&harness::document(&report));
    }
    Ok(exit)
}

/// A run that came to its end; its directory is this process's as long as this lives.
pub(super) struct Finished {
    /// What it came to.
    pub report: RunReport,
    /// How the command ends.
    pub exit: Exit,
    /// Keeps others from the run.
    pub _lock: RunLock,
}

/// Takes the directory of a run whose rows and predictions are to be `metadata`'s.
fn begin(
    dir: &RunDir,
    metadata: &Metadata,
    evaluation: &Evaluation<'_>,
    quiet: bool,
) -> Result<RunLock, RunError> {
    let lock = dir.lock()?;
    let run_id = dir.run_id();
    let known = match dir.metadata() {
        Err(RunError::Metadata { .. }) if evaluation.replace_run => {
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
            Err(RunError::Other { .. }) if evaluation.replace_run => dir.clear()?,
            changes => say_changes(run_id, &changes?, quiet),
        }
    }
    Record::remove(dir)?;
    dir.write_metadata(metadata)?;
    Ok(lock)
}

/// Says that the reports of a run are of a part of it now.
pub(super) fn say_left_out(run_id: &str, count: usize) {
    if count > 0 {
        super::render::warn(format!(
            "run `{run_id}` had {} that {} not chosen now; its reports are of the chosen ones",
            words::count(count, "instance"),
            words::are(count)
        ));
    }
}

/// Says what is not as it was when the run began.
fn say_changes(run_id: &str, changes: &Changes, quiet: bool) {
    if quiet {
        return;
    }
    if !changes.changed.is_empty() {
        let shown: Vec<&str> = changes.changed.iter().take(10).map(String::as_str).collect();
        let more = match changes.changed.len() - shown.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        super::render::warn(format!(
            "predictions have changed since run `{run_id}` began, and are run again: {}{more}",
            shown.join(", ")
        ));
    }
    say_left_out(run_id, changes.left_out);
}

/// Evaluates predictions; the files of the instances are written, the reports of the run are not.
pub(super) async fn evaluate(
    global: &Global,
    evaluation: &Evaluation<'_>,
) -> Result<Finished, Failure> {
    let dir = RunDir::new(&open::output_dir(global).join(RUNS), evaluation.run_id)
        .map_err(run_failure)?;
    // Before anything is fetched; what else may differ is looked at once the predictions are read.
    if !evaluation.replace_run
        && let Some(known) = dir.metadata().map_err(run_failure)?
    {
        let (dataset, split) = (&evaluation.chosen.dataset, &evaluation.chosen.split);
        same_rows(evaluation.run_id, &known, dataset, split).map_err(run_failure)?;
    }
    let mut options = evaluation.run.options();
    let wanted = Wanted {
        chosen: evaluation.chosen,
        sources: evaluation.sources,
        predictions: evaluation.predictions,
        skip_empty: true,
        workers: evaluation.exec.max_workers,
        build: true,
        remote: None,
        build_instead: true,
        purpose: Purpose::Run,
        evaluate: Some(options.clone()),
        min_free: evaluation.exec.min_free,
    };
    let prepared = context::prepare(global, &wanted).await?;
    options.emulator.clone_from(&prepared.emulator);
    if let (Some(_), Some((engine, _))) = (&prepared.namespace, &prepared.engine) {
        let listed = engine.images().await.map_err(open::engine_failure)?;
        for image in listed {
            options.image_ids.extend(image.tags.into_iter().map(|tag| (tag, image.id.clone())));
        }
    }
    let rules = rules(&prepared, evaluation.run)?;
    let all = prepared.plan(&prepared.work, Kind::Instance, Some(options.clone()))?;
    let everything: Vec<usize> = (0..prepared.work.len()).collect();
    let targets = targets(&all, &prepared, &everything, &rules, &dir)?;
    let metadata = metadata(&prepared, evaluation);
    let lock = begin(&dir, &metadata, evaluation, global.quiet).map_err(run_failure)?;
    if evaluation.named_here && !global.quiet {
        errln!("run: {}", evaluation.run_id);
    }

    let use_results = !evaluation.run.no_result_cache && !evaluation.force_rebuild;
    let mut evaluated: HashMap<(usize, u32), Evaluated> = HashMap::new();
    let mut known = HashSet::new();
    if use_results {
        let keys = targets.keys().map(|index| all.graph[*index].key);
        let found = prepared.store.results_of(keys).map_err(Failure::environment)?;
        for (index, one) in reuse(&prepared, &all, &targets, &found).await? {
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
        run_id: evaluation.run_id.to_owned(),
        dataset: evaluation.chosen.dataset.clone(),
        split: evaluation.chosen.split.clone(),
        created_at: metadata.created_at.clone(),
        seconds: 0.0,
        engine: metadata.imgforge.as_ref().map_or(String::new(), |own| own.engine.clone()),
        platform: prepared.platform.clone(),
        emulator: prepared.emulator.clone(),
        workers: prepared.workers,
        grader: GRADER,
        strict: evaluation.run.strict,
        instances: prepared.chosen(),
        repos: prepared
            .instances
            .iter()
            .map(|one| (one.instance_id.clone(), one.repo.clone()))
            .chain(
                prepared
                    .refused
                    .iter()
                    .map(|one| (one.instance_id.clone(), one.repo.clone().unwrap_or_default())),
            )
            .collect(),
        results: Vec::new(),
        submitted: prepared.submission.by_model(),
        unknown_ids: prepared.submission.unknown_ids.clone(),
        timeline: Vec::new(),
    };
    let mut failures: HashMap<usize, (Verdict, String)> = HashMap::new();
    let mut build_seconds: HashMap<usize, f64> = HashMap::new();
    let mut exit = Exit::Success;
    if open.is_empty() {
        if !global.quiet {
            match prepared.work.len() {
                0 => errln!("nothing to run: no prediction holds a patch"),
                all => errln!("nothing to run: all {all} results are known"),
            }
        }
    } else {
        let some: Vec<Work> = open.iter().map(|at| prepared.work[*at].clone()).collect();
        let mut plan = prepared.plan(&some, Kind::Instance, Some(options.clone()))?;
        prepared.assess(&mut plan, evaluation.force_rebuild, &known).await?;
        let targets = self::targets(&plan, &prepared, &open, &rules, &dir)?;
        if !global.quiet && !evaluated.is_empty() {
            errln!("{} of {} results are known", evaluated.len(), all.targets.len());
        }
        let runs = Runs { dir: dir.clone(), targets, use_results };
        let spans = Arc::new(Mutex::new(Vec::new()));
        let timeline = Timeline::new(spans.clone());
        let plan = Arc::new(plan);
        let summary = evaluation
            .exec
            .run(global, &prepared, plan.clone(), Some(Arc::new(runs)), vec![Box::new(timeline)])
            .await?;
        report.seconds = summary.seconds;
        report.timeline = std::mem::take(&mut *spans.lock().expect("no reporter panicked"));
        for target in &plan.targets {
            let work = open[target.work];
            if let Some(one) = summary.evaluations.get(&target.node) {
                evaluated.insert((work, target.repeat), one.clone());
            } else if !evaluated.contains_key(&(work, target.repeat)) {
                failures.insert(work, failure(&plan, &summary, target.node));
            }
            build_seconds.insert(work, seconds_of_images(&plan, &summary, target.node));
        }
        if summary.interrupted {
            exit = Exit::Interrupted;
        } else if summary.out_of_space || summary.is_nothing_possible() {
            exit = Exit::Environment;
        }
    }
    for (at, work) in prepared.work.iter().enumerate() {
        let prediction = work.prediction.as_ref().expect("every work of a run has a prediction");
        let rules = rules[&work.instance.instance_id];
        let target = target(work, rules, &dir, 0, &prepared.emulator)?;
        let runs: Vec<&Evaluated> =
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
            results::write_instance(&result, &target.dir).map_err(run_failure)?;
        }
        report.results.push(result);
    }
    add_refused(&mut report, &prepared);
    add_empty(&mut report, &prepared);
    let suspicious: Vec<&str> = report
        .results
        .iter()
        .filter(|one| !one.suspicions.is_empty())
        .map(|one| one.instance_id.as_str())
        .collect();
    if evaluation.run.fail_on_suspicion && exit == Exit::Success && !suspicious.is_empty() {
        super::render::warn(format!("logs that are suspicious: {}", suspicious.join(", ")));
        exit = Exit::SomeFailed;
    }
    if exit == Exit::Success && report.results.iter().any(|one| one.verdict.is_error()) {
        exit = Exit::SomeFailed;
    }
    report.seconds = milliseconds(report.seconds);
    for result in &mut report.results {
        result.build_seconds = milliseconds(result.build_seconds);
    }
    for span in &mut report.timeline {
        (span.start, span.end) = (milliseconds(span.start), milliseconds(span.end));
    }
    Record::of(&report).write(&dir).map_err(run_failure)?;
    Ok(Finished { report, exit, _lock: lock })
}

/// Reads how every instance is graded, before anything starts.
fn rules(prepared: &Prepared, run: &RunArgs) -> Result<HashMap<String, Rules>, Failure> {
    let mut rules = HashMap::new();
    for work in &prepared.work {
        let read = Rules::with(&work.instance, run.grading, run.strict).map_err(|error| {
            let hint = error.hint();
            Failure::input(error).hint(hint)
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
) -> Result<RunTarget, Failure> {
    let prediction = work.prediction.as_ref().expect("every work of a run has a prediction");
    let path = dir.instance(&prediction.model, &work.instance.instance_id, repeat);
    Ok(RunTarget {
        dir: path.map_err(run_failure)?,
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
    prepared: &Prepared,
    numbers: &[usize],
    rules: &HashMap<String, Rules>,
    dir: &RunDir,
) -> Result<HashMap<NodeIndex, Vec<RunTarget>>, Failure> {
    let mut targets: HashMap<NodeIndex, Vec<RunTarget>> = HashMap::new();
    let mut taken: HashSet<PathBuf> = HashSet::new();
    for one in &plan.targets {
        let work = &prepared.work[numbers[one.work]];
        let rules = rules[&work.instance.instance_id];
        let target = target(work, rules, dir, one.repeat, &prepared.emulator)?;
        if !taken.insert(target.dir.clone()) {
            return Err(Failure::input(anyhow!(
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
    prepared: &Prepared,
    plan: &Plan,
    targets: &HashMap<NodeIndex, Vec<RunTarget>>,
    found: &HashSet<Key>,
) -> Result<Vec<(NodeIndex, Evaluated)>, Failure> {
    let jobs: Vec<(NodeIndex, Key, crate::recipe::EvaluationRecipe, Vec<RunTarget>)> = targets
        .iter()
        .filter_map(|(index, targets)| {
            let node = &plan.graph[*index];
            let Recipe::Evaluation(recipe) = &node.recipe else { return None };
            let known = found.contains(&node.key);
            known.then(|| (*index, node.key, recipe.clone(), targets.clone()))
        })
        .collect();
    let store = prepared.store.clone();
    let graded = tokio::task::spawn_blocking(move || {
        jobs.par_iter()
            .map(|(index, key, recipe, targets)| {
                let one = evaluation_files::reuse(&store, *key, recipe, targets)?;
                Ok(one.map(|one| (*index, one)))
            })
            .collect::<Result<Vec<Option<(NodeIndex, Evaluated)>>, NodeError>>()
    });
    let graded = graded.await.expect("grading does not panic").map_err(Failure::environment)?;
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

fn metadata(prepared: &Prepared, evaluation: &Evaluation<'_>) -> Metadata {
    let engine = prepared.engine.as_ref().map_or(String::new(), |(_, info)| {
        format!("{} {} ({})", info.kind, info.version, info.store)
    });
    Metadata {
        dataset: evaluation.chosen.dataset.clone(),
        split: evaluation.chosen.split.clone(),
        task_repo: None,
        created_at: format!("{:.0}", jiff::Timestamp::now()),
        imgforge: Some(Settings {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            engine,
            platform: prepared.platform.clone(),
            emulator: prepared.emulator.clone(),
            workers: prepared.workers,
            grading: evaluation.run.grading.as_str().to_owned(),
            strict: evaluation.run.strict,
            repeat: evaluation.run.repeat,
            instances: prepared.chosen(),
            submitted: prepared.submission.submitted.clone(),
        }),
    }
}

/// Adds the predictions for instances that are left out.
fn add_refused(report: &mut RunReport, prepared: &Prepared) {
    let why: HashMap<&str, &Refused> =
        prepared.refused.iter().map(|one| (one.instance_id.as_str(), one)).collect();
    for one in &prepared.submission.submitted {
        let Some(refused) = why.get(one.instance_id.as_str()) else { continue };
        report.results.push(results::refused(refused, &one.model_name_or_path));
    }
}

/// Adds the predictions that hold no patch.
fn add_empty(report: &mut RunReport, prepared: &Prepared) {
    let order = prepared.chosen();
    let place: HashMap<&str, usize> =
        order.iter().enumerate().map(|(at, id)| (id.as_str(), at)).collect();
    let refused: HashSet<&str> =
        prepared.refused.iter().map(|one| one.instance_id.as_str()).collect();
    let chosen: HashMap<&str, usize> = prepared
        .instances
        .iter()
        .enumerate()
        .map(|(at, instance)| (instance.instance_id.as_str(), at))
        .filter(|(id, _)| !refused.contains(id))
        .collect();
    let mut added: Vec<InstanceResult> = Vec::new();
    for one in &prepared.submission.submitted {
        let Some(reason) = one.patch.why_empty() else { continue };
        let Some(at) = chosen.get(one.instance_id.as_str()) else { continue };
        added.push(results::unfinished(
            &prepared.instances[*at],
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
