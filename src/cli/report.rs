//! `imgforge report`.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use anyhow::anyhow;
use clap::{Args, ValueEnum as _};

use crate::dataset::Instance;
use crate::exec::evaluate::{Evaluated, RunTarget, grade_file};
use crate::grade::{Family, GRADER, Rules};
use crate::report::compare::compare;
use crate::report::{InstanceResult, RunReport, Verdict};
use crate::run::{Metadata, PatchState, RUNS, RunDir, file, model_name};

use super::context;
use super::eval::run_failure;
use super::results::{self, Outputs};
use super::{Chosen, CommandResult, Exit, Failure, Global};

/// Arguments of `report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// The run
    run_id: String,
    /// Compare with this earlier run
    #[arg(long, value_name = "RUN_ID")]
    against: Option<String>,
    /// The dataset [default: the one that the run recorded]
    #[arg(short, long, alias = "dataset_name", value_name = "NAME")]
    dataset: Option<String>,
    /// The split [default: the one that the run recorded]
    #[arg(long)]
    split: Option<String>,
    #[command(flatten)]
    outputs: Outputs,
}

/// Runs `report`.
pub(super) async fn run(global: &Global, args: ReportArgs) -> CommandResult {
    let report = load(global, &args.run_id, &args, true).await?;
    let written = results::write(&report, &args.outputs).map_err(run_failure)?;
    let Some(other) = &args.against else {
        if !global.quiet {
            results::print(&report, &written);
        }
        if global.json {
            super::render::json(&results::document(&report)).map_err(Failure::environment)?;
        }
        return Ok(exit_of(&report));
    };
    let baseline = load(global, other, &args, false).await?;
    let comparison = compare(&report, &baseline);
    if global.json {
        super::render::json(&comparison).map_err(Failure::environment)?;
    } else {
        print!("{}", comparison.text());
    }
    Ok(exit_of(&report))
}

fn exit_of(report: &RunReport) -> Exit {
    match report.results.iter().any(|result| result.verdict.is_error()) {
        true => Exit::SomeFailed,
        false => Exit::Success,
    }
}

/// Grades the saved logs of a run. With `write` every instance gets its report anew.
async fn load(
    global: &Global,
    run_id: &str,
    args: &ReportArgs,
    write: bool,
) -> Result<RunReport, Failure> {
    let dir = RunDir::new(Path::new(RUNS), run_id).map_err(run_failure)?;
    let saved = dir.instances().map_err(run_failure)?;
    let metadata = dir.metadata().map_err(run_failure)?;
    let recorded = |field: fn(&Metadata) -> &String| metadata.as_ref().map(|m| field(m).clone());
    let dataset = args.dataset.clone().or_else(|| recorded(|m| &m.dataset)).ok_or_else(|| {
        let error = anyhow!("run `{run_id}` does not say which dataset it was made with");
        Failure::input(error).hint(Some("name it with --dataset".to_owned()))
    })?;
    let split = args.split.clone().or_else(|| recorded(|m| &m.split));
    let split = split.unwrap_or_else(|| "test".to_owned());
    let chosen = Chosen::one(&dataset, &split, None);
    let instances = context::choose_rows(global, &chosen).await?.instances;
    let instances: HashMap<String, Arc<Instance>> =
        instances.into_iter().map(|one| (one.instance_id.clone(), Arc::new(one))).collect();
    let own = metadata.as_ref().and_then(|metadata| metadata.imgforge.as_ref());
    let models: HashMap<String, String> = own
        .iter()
        .flat_map(|own| &own.submitted)
        .map(|one| (model_name(&one.model_name_or_path), one.model_name_or_path.clone()))
        .collect();
    let mut order: Vec<String> = own.map(|own| own.instances.clone()).unwrap_or_default();
    let mut report = RunReport {
        run_id: run_id.to_owned(),
        dataset,
        split,
        created_at: recorded(|m| &m.created_at).unwrap_or_default(),
        seconds: 0.0,
        engine: own.map_or(String::new(), |own| own.engine.clone()),
        platform: own.map_or(String::new(), |own| own.platform.clone()),
        workers: own.map_or(0, |own| own.workers),
        grader: GRADER,
        strict: own.is_some_and(|own| own.strict),
        instances: Vec::new(),
        results: Vec::new(),
        submitted: BTreeMap::new(),
        unknown_ids: Vec::new(),
        timeline: Vec::new(),
    };
    // A run of the harness has none, which only costs a picture.
    let kept = results::read_timeline(&dir).unwrap_or_default();
    (report.seconds, report.timeline) = (kept.seconds, kept.spans);
    let family = own.map_or("swebench", |own| own.grading.as_str());
    let family = Family::from_str(family, true).unwrap_or_default();
    for (model, id, path) in saved {
        let Some(instance) = instances.get(&id) else {
            super::render::warn(format!("`{}` is for no instance of the dataset", path.display()));
            report.unknown_ids.push(id);
            continue;
        };
        if !order.contains(&id) {
            order.push(id.clone());
        }
        let model = models.get(&model).cloned().unwrap_or(model);
        let result = grade_saved(&path, instance, &model, family, report.strict)?;
        if write {
            results::write_instance(&result, &path).map_err(run_failure)?;
        }
        report.results.push(result);
    }
    for one in own.iter().flat_map(|own| &own.submitted) {
        let list = report.submitted.entry(one.model_name_or_path.clone()).or_default();
        list.push(one.instance_id.clone());
        let empty = matches!(one.patch, PatchState::Null | PatchState::Empty);
        if let (true, Some(instance)) = (empty, instances.get(&one.instance_id))
            && order.contains(&one.instance_id)
        {
            let model = &one.model_name_or_path;
            let reason = "the patch is empty".to_owned();
            report.results.push(results::unfinished(instance, model, Verdict::EmptyPatch, reason));
        }
    }
    if own.is_none() {
        for result in &report.results {
            let list = report.submitted.entry(result.model.clone()).or_default();
            list.push(result.instance_id.clone());
        }
    }
    for (model, id, seconds) in kept.build_seconds {
        let own = |one: &&mut InstanceResult| one.model == model && one.instance_id == id;
        if let Some(result) = report.results.iter_mut().find(own) {
            result.build_seconds = seconds;
        }
    }
    let place = |id: &str| order.iter().position(|known| known == id);
    report.results.sort_by_key(|result| (result.model.clone(), place(&result.instance_id)));
    report.instances = order;
    Ok(report)
}

/// Grades what is in the directory of an instance, its further runs included.
fn grade_saved(
    dir: &Path,
    instance: &Arc<Instance>,
    model: &str,
    family: Family,
    strict: bool,
) -> Result<InstanceResult, Failure> {
    let rules = Rules::with(instance, family, strict).map_err(Failure::input)?;
    let patch = std::fs::read(dir.join(file::PATCH)).unwrap_or_default();
    let target = RunTarget {
        dir: dir.to_owned(),
        instance: instance.clone(),
        model: model.to_owned(),
        patch: patch.into(),
        rules,
    };
    let mut runs = vec![run_of(dir, &target)?];
    for number in 2.. {
        let further = dir.join(format!("run_{number}"));
        if !further.is_dir() {
            break;
        }
        runs.push(run_of(&further, &target)?);
    }
    let runs: Vec<&Evaluated> = runs.iter().collect();
    let mut result = results::join(&target, &runs);
    results::add_log(&mut result, dir);
    Ok(result)
}

/// Reads what `report.json` says beside what a log can say.
fn kept_facts(dir: &Path, id: &str) -> Option<serde_json::Value> {
    let text = std::fs::read(dir.join(file::REPORT)).ok()?;
    let report: serde_json::Value = serde_json::from_slice(&text).ok()?;
    Some(report.get(id)?.get("imgforge")?.clone())
}

fn run_of(dir: &Path, target: &RunTarget) -> Result<Evaluated, Failure> {
    let kept = kept_facts(dir, &target.instance.instance_id);
    let text = |name: &str| kept.as_ref().and_then(|kept| Some(kept[name].as_str()?.to_owned()));
    let mut evaluated = Evaluated {
        verdict: Verdict::Error,
        graded: None,
        reason: None,
        seconds: kept.as_ref().and_then(|kept| kept["test_seconds"].as_f64()).unwrap_or(0.0),
        cached: false,
        image_id: text("image_id").unwrap_or_default(),
        key: text("key").and_then(|key| key.parse().ok()),
    };
    let output = dir.join(file::OUTPUT);
    let log = std::fs::read(dir.join(file::LOG)).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    if let Some(at) = log.find(">>>>> Patch Apply Failed") {
        evaluated.verdict = Verdict::PatchRefused;
        evaluated.reason = Some(log[at..].lines().skip(1).take(20).collect::<Vec<_>>().join("\n"));
    } else if !output.is_file() {
        evaluated.reason = Some("there is no log of its tests".to_owned());
    } else if timed_out(&output) {
        evaluated.verdict = Verdict::TimedOut;
    } else {
        let graded = grade_file(&output, target).map_err(Failure::environment)?;
        evaluated.verdict = if graded.resolved() { Verdict::Resolved } else { Verdict::Unresolved };
        evaluated.reason = graded.not_found.as_ref().map(ToString::to_string);
        evaluated.graded = Some(graded);
    }
    Ok(evaluated)
}

/// Tells whether a log ends with the words that are added at a time limit.
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
    let end = read().unwrap_or_default();
    end.rsplit("\n\nTimeout error: ").next().is_some_and(|rest| {
        end.contains("\n\nTimeout error: ") && rest.ends_with(" seconds exceeded.")
    })
}
