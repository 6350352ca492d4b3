//! `imgforge smoke`.

mod kept;
mod shown;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::anyhow;
use clap::{Args, Subcommand};

use crate::atomic;
use crate::cli::out::{errln, outln};
use crate::smoke::{
    CachedSandboxes, Configured, Events, Manager, Means, OfProcess, Report, RunConfig, RunOptions,
    Sandboxes, StageStatus, make_list, read_file, saved_report,
};
use crate::words;

use super::help::heading;
use super::{CommandResult, Error, Exit, Global, interrupt, open, render};

/// Arguments of `smoke`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct SmokeArgs {
    #[command(subcommand)]
    command: Option<SmokeCommand>,
    // It stands for the option of all commands, which names the catalog: that is IMGFORGE_IMAGES here.
    /// What is run: a file of TOML, YAML or JSON, by its ending
    #[arg(long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    /// Write the report to a file, as JSON
    #[arg(long, value_name = "FILE", help_heading = heading::OUTPUT)]
    report: Option<PathBuf>,
    /// Append events to a file, as NDJSON, while it runs; - is stdout
    #[arg(long, value_name = "FILE", env = "IMGFORGE_EVENTS", help_heading = heading::OUTPUT)]
    events: Option<PathBuf>,
    /// Keep the results and the whole outputs of all commands below this directory, in one of their own
    /// for each run
    #[arg(long, value_name = "DIR", help_heading = heading::OUTPUT)]
    artifacts: Option<PathBuf>,
    /// Keep so many bytes of each output in the report, half of its beginning and half of its end
    #[arg(long, value_name = "BYTES", default_value = "1m", value_parser = crate::size::bytes,
        help_heading = heading::OUTPUT)]
    max_output: u64,
    /// Keep the sandbox as a session, for `imgforge session`
    #[arg(long)]
    keep: bool,
    /// Say what compat fixes would do, and run neither setup nor tests
    #[arg(long)]
    dry_run: bool,
    /// Where repositories of GitHub come from: a URL or a directory with {owner}, {name} or {repo}
    /// [default: what the file says]
    #[arg(long, value_name = "TEMPLATE", env = "IMGFORGE_GIT_MIRROR", value_delimiter = ' ',
        help_heading = heading::SOURCES)]
    git_mirror: Vec<String>,
}

/// Subcommands of `smoke`.
#[derive(Debug, Subcommand)]
enum SmokeCommand {
    /// Print the report of a run again, from its artifacts
    ///
    /// Of a run that was killed it says how far it came. The status is that of the run.
    Report(ReportArgs),
}

/// Arguments of `smoke report`.
#[derive(Debug, Args)]
struct ReportArgs {
    /// The directory of a run, or the one that --artifacts named: then the last of its runs counts
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// Runs `smoke`.
pub(super) async fn run(global: &Global, args: SmokeArgs) -> CommandResult {
    if let Some(SmokeCommand::Report(args)) = &args.command {
        return report(global, &args.directory);
    }
    let config = args.config.as_deref().ok_or_else(|| Error::input(anyhow!("no --config")))?;
    let catalog = open::variable("IMGFORGE_IMAGES").map(PathBuf::from);
    let global = &Global { config: catalog, ..global.clone() };
    let configured = read_file(config).map_err(|error| {
        let hint = error.hint();
        Error::input(error).with_hint(hint)
    })?;
    let events = args.events.as_deref().map(events_to).transpose()?.map(Arc::new);
    let interrupt = interrupt::watched();
    let repositories = open::repositories(global, &args.git_mirror)?;
    let store = open::open_store(global)?;
    let scratch = store.scratch_dir().map_err(Error::environment)?;
    let engine = open::connect(global).await.map_err(open::engine_failure)?;
    let sandboxes: Arc<dyn Sandboxes> = match args.keep {
        true => {
            let kind = engine.info().await.map_err(open::engine_failure)?.kind;
            Arc::new(kept::Launched { global: global.clone(), engine: kind })
        }
        false => Arc::new(OfProcess {
            engine: engine.clone(),
            host: open::of_host()?,
            directory: scratch.path().to_owned(),
        }),
    };
    let scratch_dir = scratch.path().to_owned();
    let stop = interrupt.stop.clone();
    let cached = Some(CachedSandboxes::of(&open::state_dir(global)));
    let means = Means { engine, sandboxes, repositories, cached, scratch: scratch_dir, stop };
    let is_list = configured.is_list;
    let mut managers = managers(&args, configured, &means, events.as_ref())?;
    let mut reports = Vec::new();
    let mut unwritten = None;
    for manager in &mut managers {
        let many = is_list.then(|| manager.report().facts.name).flatten();
        while let Some(stage) = manager.next() {
            let result = manager.stage(stage).await.map_err(Error::environment)?;
            if !global.quiet {
                shown::stage(many.as_deref(), result);
            }
        }
        unwritten = unwritten.or(manager.artifacts_failure());
        reports.push(manager.report());
    }
    let report = Report::of(reports, is_list);
    if let Some(path) = &args.report {
        let text = serde_json::to_string_pretty(&report).expect("plain values");
        atomic::write(path, format!("{text}\n").as_bytes(), false).map_err(|error| {
            let what = format!("cannot write `{}`", path.display());
            Error::environment(anyhow::Error::from(error).context(what))
        })?;
    }
    print(global, &report);
    if let Some(error) = unwritten {
        return Err(Error::environment(error).into());
    }
    if let Some(error) = events.and_then(|events| events.failure()) {
        let error = anyhow::Error::from(error).context("cannot write all events");
        return Err(Error::environment(error).into());
    }
    if interrupt.stop.is_cancelled() {
        return Ok(Exit::Interrupted);
    }
    Ok(exit_of(&report))
}

/// Runs `smoke report`.
fn report(global: &Global, directory: &Path) -> CommandResult {
    let (report, others) = saved_report(directory).map_err(|error| {
        let hint = "name the directory of a run, or the one of --artifacts".to_owned();
        Error::input(error).with_hint(Some(hint))
    })?;
    if !others.is_empty() && !global.quiet {
        let last = &report.runs().first().map_or("", |run| run.facts.run_id.as_str());
        let others = words::count(others.len(), "earlier run");
        errln!("this is {last}; the directory has {others}");
    }
    if !global.quiet {
        for run in report.runs() {
            for result in &run.stages {
                shown::stage(run.facts.name.as_deref(), result);
            }
        }
    }
    print(global, &report);
    Ok(exit_of(&report))
}

/// Prints the report: for a program as a document, for a person in a line.
fn print(global: &Global, report: &Report) {
    if global.json {
        render::json(report);
        return;
    }
    for run in report.runs() {
        outln!("{}", shown::line(run));
    }
}

/// Returns how a run ends the process.
fn exit_of(report: &Report) -> Exit {
    let failures: Vec<StageStatus> = report.runs().iter().filter_map(|run| run.failure()).collect();
    if failures.contains(&StageStatus::InfraError) {
        Exit::Environment
    } else if !failures.is_empty() || report.runs().iter().any(|run| !is_done(run)) {
        Exit::SomeFailed
    } else {
        Exit::Success
    }
}

/// Tells whether a run did all that it was to do.
fn is_done(run: &crate::smoke::RunReport) -> bool {
    run.success || run.facts.dry_run && run.facts.duration.is_some()
}

/// Opens where events go.
fn events_to(path: &Path) -> Result<Events, Error> {
    if path.as_os_str() == "-" {
        return Ok(Events::to(super::out::Stdout));
    }
    Events::append(path).map_err(|error| {
        let what = format!("cannot write `{}`", path.display());
        Error::input(anyhow::Error::from(error).context(what))
    })
}

/// Prepares the runs, each with a directory of its own where artifacts are kept.
fn managers(
    args: &SmokeArgs,
    configured: Configured,
    means: &Means,
    events: Option<&Arc<Events>>,
) -> Result<Vec<Manager>, Error> {
    let Configured { runs, is_list } = configured;
    let now = jiff::Zoned::now().strftime("%Y%m%d-%H%M%S");
    let id = format!("{now}-{:04x}", rand::random::<u16>());
    let directory = args.artifacts.as_ref().map(|directory| directory.join(&id));
    let name = |run: &RunConfig| run.name.clone().unwrap_or_default();
    if let Some(directory) = directory.clone().filter(|_| is_list) {
        make_list(directory, runs.iter().map(name).collect()).map_err(Error::input)?;
    }
    let max_output = usize::try_from(args.max_output).unwrap_or(usize::MAX);
    let prepare = |run: RunConfig| {
        let (run_id, artifacts) = match is_list {
            true => {
                let name = name(&run);
                let artifacts = directory.as_ref().map(|directory| directory.join(&name));
                (format!("{id}.{name}"), artifacts)
            }
            false => (id.clone(), directory.clone()),
        };
        let events = events.cloned();
        let options = RunOptions { run_id, artifacts, events, max_output, dry_run: args.dry_run };
        Manager::open(run, means.clone(), options).map_err(Error::input)
    };
    runs.into_iter().map(prepare).collect()
}
