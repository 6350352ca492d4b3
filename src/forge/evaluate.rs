//! Evaluating predictions: what is known is graded, the rest is run, and all of it is reported.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use anyhow::anyhow;
use indicatif::BinaryBytes;

use crate::allocation::Allocation;
use crate::event::Reporter;
use crate::exec::RunSummary;
use crate::exec::evaluation::EvaluationContext;
use crate::key::Kind;
use crate::plan::{EvaluateOptions, Plan, Work};
use crate::progress::{Fanout, Timeline};
use crate::recipe::Recipe;
use crate::report::{RunReport, Span};
use crate::run::{Metadata, RUNS, RunDir, RunLock, Settings, same_rows};
use crate::run_id::RunId;
use crate::words;

use super::assessed::{AssessedPlan, BuildOptions};
use super::open::{engine_error, variable};
use super::outcomes::Outcomes;
use super::record::Record;
use super::run_directory::{begin, run_error};
use super::run_report;
use super::run_targets::TargetMaker;
use super::workload::Workload;
use super::{Error, Forge, LoadOptions, Notices, RunnerChoice, shards};

/// The options of one run of evaluations.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// The name of the run: it names the directory of its logs.
    pub run_id: RunId,
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
    /// Where the tests are run.
    pub runner: RunnerChoice,
    /// The options for building missing images.
    pub build: BuildOptions,
}

impl RunOptions {
    /// The run of that name, as the command line does it without options.
    pub fn named(run_id: RunId) -> RunOptions {
        RunOptions {
            run_id,
            say_run_id: false,
            replace: false,
            force_rebuild: false,
            use_results: true,
            fail_on_suspicion: false,
            runner: RunnerChoice::Local,
            build: BuildOptions::default(),
        }
    }
}

/// The end of a run.
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
            false if summary.out_of_space || summary.is_no_evaluation_possible() => {
                Ended::Impossible
            }
            false => Ended::Complete,
        }
    }
}

/// Predictions that were evaluated. The directory of the run is this process's as long as this lives.
pub struct Evaluation {
    /// The report, with a result for every submitted prediction.
    pub report: RunReport,
    /// The end of the run, from which an exit status follows.
    pub ended: Ended,
    _lock: RunLock,
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
    let dir = RunDir::new(&forge.options.output_dir.join(RUNS), &run.run_id);
    let dir = match &load.shard {
        Some(options) => dir.of_shard(options.shard),
        None => dir,
    };
    // Before anything is fetched; what else may differ is looked at once the predictions are read.
    if !run.replace
        && let Some(known) = dir.metadata().map_err(run_error)?
    {
        let selection = &load.selection;
        same_rows(&run.run_id, &known, &selection.dataset, &selection.split).map_err(run_error)?;
    }
    let options = load.evaluate.as_ref().expect("who evaluates says how tests are run");
    let load = &run.runner.load(&forge.options, load)?;
    let mut workload = forge.load(load).await?;
    let options = options_here(options, &workload, run.runner.in_pods()).await?;
    let all = workload.plan(&workload.work, Kind::Instance, Some(options.clone()))?;
    if !run.runner.in_pods() {
        fit(&mut workload, &all, load.workers, Allocation::of_slurm(variable))?;
    }
    let maker = TargetMaker::new(&workload, &options, &dir)?;
    let everything: Vec<usize> = (0..workload.work.len()).collect();
    let targets = maker.targets(&all, &everything)?;
    let metadata = metadata(&workload, load, &options);
    let lock = begin(&dir, &metadata, run.replace, notices).map_err(run_error)?;
    if run.say_run_id {
        notices.remark(format!("run: {}", run.run_id));
    }
    let use_results = run.use_results && !run.force_rebuild;
    let (mut outcomes, known) = match use_results {
        true => Outcomes::of_earlier_runs(&workload, &all, &targets).await?,
        false => (Outcomes::default(), HashSet::new()),
    };
    let open: Vec<usize> =
        everything.into_iter().filter(|work| outcomes.is_open(*work, options.repeat)).collect();
    let mut report = run_report::begin(&run.run_id, load, &workload, &metadata, options.strict);
    if let Some(shard) = &workload.shard {
        say_of_no_shard(&workload, notices);
        run_report::keep_slice(&mut report, shard);
    }
    let mut ended = Ended::Complete;
    if open.is_empty() {
        notices.remark(match workload.work.len() {
            0 if workload.shard.is_some() => "nothing to run: the shard is empty".to_owned(),
            0 => "nothing to run: no prediction holds a patch".to_owned(),
            all => format!("nothing to run: all {all} results are known"),
        });
    } else {
        let some: Vec<Work> = open.iter().map(|at| workload.work[*at].clone()).collect();
        let plan = workload.plan(&some, Kind::Instance, Some(options.clone()))?;
        let assessed = workload.assess(plan, run.force_rebuild, &known).await?;
        let targets = maker.targets(assessed.plan(), &open)?;
        if outcomes.results() > 0 {
            let (known, all) = (outcomes.results(), all.targets.len());
            notices.remark(format!("{known} of {all} results are known"));
        }
        let opened = run.runner.open(&workload, load, &run.run_id).await?;
        let elsewhere = opened.elsewhere();
        let context = EvaluationContext { dir: dir.clone(), targets, use_results, elsewhere };
        let reporter = reporter();
        let done = match reporter {
            Ok(reporter) => run_with_timeline(&assessed, &run.build, context, reporter).await,
            Err(error) => Err(error),
        };
        opened.end(&workload).await;
        let (summary, timeline) = done?;
        report.seconds = summary.seconds;
        report.timeline = timeline;
        outcomes.add_run(assessed.plan(), &summary, &open);
        ended = Ended::of(&summary);
    }
    for number in 0..workload.work.len() {
        report.results.push(outcomes.result(&workload, &maker, number, options.repeat)?);
    }
    if workload.shard.is_none() {
        run_report::add_refused(&mut report, &workload);
        run_report::add_empty(&mut report, &workload);
    }
    run_report::sort(&mut report);
    let ended = judge(ended, &report, run.fail_on_suspicion, notices);
    run_report::round_times(&mut report);
    Record::of(&report).write(&dir).map_err(run_error)?;
    Ok(Evaluation { report, ended, _lock: lock })
}

/// Lowers the number of workers to that whose evaluations have room in the memory of a job: a batch system
/// kills a job that takes more, and with it all that runs.
///
/// # Errors
/// Not one has room, or not as many as `named` asks for.
fn fit(
    workload: &mut Workload,
    plan: &Plan,
    named: Option<usize>,
    job: Allocation,
) -> Result<(), Error> {
    let memory = plan.nodes().filter_map(|(_, node)| match &node.recipe {
        Recipe::Evaluation(recipe) => recipe.limits.memory,
        _ => None,
    });
    let Some(each) = memory.max() else { return Ok(()) };
    let Some(most) = job.fitting(each) else { return Ok(()) };
    if most >= workload.workers {
        return Ok(());
    }
    let (has, each) = (BinaryBytes(job.memory.unwrap_or(0)), BinaryBytes(each));
    if most == 0 || named.is_some() {
        let error = anyhow!(
            "{} of {each} of memory each do not fit in the {has} of this job",
            words::count(workload.workers, "evaluation")
        );
        return Err(Error::input(error).with_hint(Some(match most {
            0 => "ask for more with `sbatch --mem`, or let each have less with --memory".to_owned(),
            most => format!("{most} fit: -j {most}; or ask for more with `sbatch --mem`"),
        })));
    }
    workload.notices.remark(format!(
        "{}: so many evaluations of {each} fit in the {has} of this job",
        words::count(most, "worker")
    ));
    workload.workers = most;
    Ok(())
}

/// Says that there are predictions which no shard runs.
fn say_of_no_shard(workload: &Workload, notices: &Notices) {
    let count = shards::of_no_shard(&workload.submission, &workload.refused);
    if count > 0 {
        notices.remark(format!(
            "{} without a patch or a usable row: `imgforge report` tells of {}",
            words::count(count, "prediction"),
            if count == 1 { "it" } else { "them" }
        ));
    }
}

/// Adds to the options of an evaluation what is known of the machine: the emulator, and the ids of the
/// published images that are here.
async fn options_here(
    options: &EvaluateOptions,
    workload: &Workload,
    in_pods: bool,
) -> Result<EvaluateOptions, Error> {
    let mut options = options.clone();
    options.repeat = options.repeat.max(1);
    options.in_pods = in_pods;
    if !in_pods {
        options.emulator.clone_from(&workload.emulator);
    }
    if let (Some(_), Some((engine, _))) = (&workload.namespace, &workload.engine) {
        let listed = engine.images().await.map_err(engine_error)?;
        for image in listed {
            options.image_ids.extend(image.tags.into_iter().map(|tag| (tag, image.id.clone())));
        }
    }
    Ok(options)
}

/// Runs a plan; returns with its summary when each node ran.
async fn run_with_timeline(
    plan: &AssessedPlan<'_>,
    options: &BuildOptions,
    context: EvaluationContext,
    reporter: Box<dyn Reporter>,
) -> Result<(RunSummary, Vec<Span>), Error> {
    let spans = Arc::new(Mutex::new(Vec::new()));
    let timeline = Timeline::new(spans.clone());
    let reporter = Box::new(Fanout(vec![reporter, Box::new(timeline)]));
    let summary = plan.run(options, Some(Arc::new(context)), None, reporter).await?;
    let spans = std::mem::take(&mut *spans.lock().expect("no reporter panicked"));
    Ok((summary, spans))
}

/// Returns how a run ended, with what its results say; a suspicious log counts where `fail_on_suspicion`.
fn judge(ended: Ended, report: &RunReport, fail_on_suspicion: bool, notices: &Notices) -> Ended {
    if ended != Ended::Complete {
        return ended;
    }
    let suspicious: Vec<&str> = report
        .results
        .iter()
        .filter(|one| !one.suspicions.is_empty())
        .map(|one| one.instance_id.as_str())
        .collect();
    if fail_on_suspicion && !suspicious.is_empty() {
        notices.warn(format!("logs that are suspicious: {}", suspicious.join(", ")));
        return Ended::SomeFailed;
    }
    match report.results.iter().any(|one| one.verdict.is_error()) {
        true => Ended::SomeFailed,
        false => Ended::Complete,
    }
}

fn metadata(workload: &Workload, load: &LoadOptions, options: &EvaluateOptions) -> Metadata {
    let engine = workload.engine.as_ref().map_or(String::new(), |(_, info)| {
        let pods = if options.in_pods { "; tests in pods, their network by policy" } else { "" };
        format!("{} {} ({}){pods}", info.kind, info.version, info.store)
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
            shard: workload.shard.clone(),
            shards: None,
        }),
    }
}
