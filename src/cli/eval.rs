//! `imgforge eval`.

use anyhow::anyhow;
use clap::Args;

use crate::event::Reporter;
use crate::forge::run_directory::run_error;
use crate::forge::{self, Ended, Evaluation, Forge, LoadOptions, RunOptions, ShardOptions};
use crate::plan::check::Purpose;
use crate::report::harness;

use super::chosen::Choice;
use super::eval_options::EvalOptions;
use super::execute::ExecArgs;
use super::help::heading;
use super::open;
use super::results::{self, Outputs};
use super::runner::RunnerArgs;
use super::shard::ShardArgs;
use super::swebench::SwebenchArgs;
use super::{Chosen, CommandResult, Error, Exit, Global, Sources, report};

/// Arguments of `eval`.
#[derive(Debug, Args)]
pub(super) struct EvalArgs {
    #[command(flatten)]
    pub(super) chosen: Choice,
    #[command(flatten)]
    pub(super) shard: ShardArgs,
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
    pub(super) run: EvalOptions,
    #[command(flatten)]
    pub(super) sources: Sources,
    #[command(flatten)]
    pub(super) exec: ExecArgs,
    #[command(flatten)]
    pub(super) runner: RunnerArgs,
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

/// Runs `eval`.
pub(super) async fn run(global: &Global, args: EvalArgs) -> CommandResult {
    args.swebench.check(global)?;
    args.chosen.say_default(global);
    if args.rewrite_reports {
        let run_id = args.run_id.ok_or_else(|| {
            Error::input(anyhow!("--rewrite-reports needs the --run-id of the run"))
        })?;
        let again = report::ReportArgs::again(run_id, &args.chosen, args.outputs);
        return report::run(global, again).await;
    }
    let predictions = args.predictions();
    if args.shard.shard.is_some() && args.run_id.is_none() {
        let error = anyhow!("--shard needs --run-id: all shards are of one run");
        return Err(Error::input(error).into());
    }
    let run_id = args.run_id.clone().unwrap_or_else(new_run_id);
    let wanted = Wanted {
        chosen: &args.chosen,
        sources: &args.sources,
        predictions: &predictions,
        exec: &args.exec,
        run: &args.run,
        shard: args.shard.options()?,
    };
    let options = RunOptions {
        say_run_id: args.run_id.is_none(),
        replace: args.replace_run,
        force_rebuild: args.force_rebuild,
        runner: args.runner.choice(global)?,
        ..wanted.options(global, &run_id)?
    };
    let Evaluation { report, ended, .. } = &wanted.evaluate(global, &options).await?;
    let written =
        results::write(report, &args.outputs, &open::output_dir(global)).map_err(run_error)?;
    results::write_step_summary(report).map_err(run_error)?;
    if !global.quiet {
        results::print(report, &written);
    }
    if global.json {
        super::render::json(&harness::document(report));
    }
    Ok(match ended {
        Ended::Complete => Exit::Success,
        Ended::SomeFailed => Exit::SomeFailed,
        Ended::Impossible => Exit::Environment,
        Ended::Interrupted => Exit::Interrupted,
    })
}

/// What is evaluated, and how, as the command line says it.
pub(super) struct Wanted<'a> {
    /// Which instances.
    pub chosen: &'a Chosen,
    /// Where things come from.
    pub sources: &'a Sources,
    /// Files of predictions, `gold` or `empty`.
    pub predictions: &'a [String],
    /// How what is missing is built.
    pub exec: &'a ExecArgs,
    /// How tests are run.
    pub run: &'a EvalOptions,
    /// Which part of it; `None` is all.
    pub shard: Option<ShardOptions>,
}

impl Wanted<'_> {
    /// Returns the options of a run of that name.
    pub(super) fn options(&self, global: &Global, run_id: &str) -> Result<RunOptions, Error> {
        Ok(RunOptions {
            use_results: !self.run.no_result_cache,
            fail_on_suspicion: self.run.fail_on_suspicion,
            build: self.exec.options(global)?,
            ..RunOptions::named(forge::run_id(run_id)?)
        })
    }

    /// Evaluates it.
    pub(super) async fn evaluate(
        &self,
        global: &Global,
        options: &RunOptions,
    ) -> Result<Evaluation, Error> {
        let reporter = || self.exec.reporter(global);
        self.evaluate_on(&open::forge(global)?, options, reporter).await
    }

    /// Evaluates it on a forge that was opened otherwise. `reporter` is called where something is run.
    pub(super) async fn evaluate_on(
        &self,
        forge: &Forge,
        options: &RunOptions,
        reporter: impl FnOnce() -> Result<Box<dyn Reporter>, Error>,
    ) -> Result<Evaluation, Error> {
        let load = LoadOptions {
            predictions: self.predictions.to_vec(),
            skip_empty: true,
            purpose: Purpose::Run,
            evaluate: Some(self.run.options()),
            shard: self.shard.clone(),
            ..self.exec.load_options(self.chosen, self.sources)
        };
        forge.evaluate(&load, options, reporter).await
    }
}
