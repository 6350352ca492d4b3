//! `imgforge report`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::out::out;
use crate::forge::run_directory::run_error;
use crate::forge::{self, MergeOptions, SavedRun, SavedRunOptions};
use crate::report::compare::compare;
use crate::report::{RunReport, harness};

use super::help::heading;
use super::open;
use super::results::{self, Outputs};
use super::{Chosen, CommandResult, Error, Exit, Global};

/// Arguments of `report`.
#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// The run
    pub(super) run_id: String,
    /// Compare with this earlier run, whose reports stay as they are
    #[arg(long, value_name = "RUN_ID")]
    against: Option<String>,
    /// The dataset [default: the one that the run recorded]
    #[arg(short, long, aliases = ["dataset_name", "dataset-name"], value_name = "NAME",
        help_heading = heading::DATASET)]
    pub(super) dataset: Option<String>,
    /// The split [default: the one that the run recorded]
    #[arg(short, long, help_heading = heading::DATASET)]
    pub(super) split: Option<String>,
    /// These instances of the run: ids with spaces or commas between them, or @FILE
    #[arg(short, long, aliases = ["instance", "instance-id"], value_name = "ID", num_args = 1..,
        help_heading = heading::DATASET)]
    pub(super) instance_ids: Vec<String>,
    /// Join shards that other machines evaluated: their output directories, or what their logs were brought
    /// to
    #[arg(long, value_name = "DIR", num_args = 1..)]
    merge: Vec<PathBuf>,
    /// Report where shards are missing: what they were to evaluate was not run
    #[arg(long)]
    allow_missing: bool,
    #[command(flatten)]
    pub(super) outputs: Outputs,
}

impl ReportArgs {
    /// Grades the logs of a run again for instances of the dataset that it is said to be of.
    pub(super) fn again(run_id: String, chosen: &Chosen, outputs: Outputs) -> Self {
        ReportArgs {
            run_id,
            against: None,
            dataset: Some(chosen.dataset.clone()),
            split: Some(chosen.split.clone()),
            instance_ids: chosen.instance_ids.clone(),
            merge: Vec::new(),
            allow_missing: false,
            outputs,
        }
    }

    /// Grades the logs of a run again.
    async fn load(&self, global: &Global, run_id: &str, write: bool) -> Result<SavedRun, Error> {
        let options = SavedRunOptions {
            dataset: self.dataset.clone(),
            split: self.split.clone(),
            instance_ids: self.instance_ids.clone(),
            write,
            merge: MergeOptions {
                // Of another run there is nothing to join.
                from: if write { self.merge.clone() } else { Vec::new() },
                allow_missing: self.allow_missing,
            },
        };
        global.forge_options().saved_run(&forge::run_id(run_id)?, &options).await
    }
}

/// Runs `report`.
pub(super) async fn run(global: &Global, args: ReportArgs) -> CommandResult {
    let SavedRun { report, .. } = &args.load(global, &args.run_id, true).await?;
    let written =
        results::write(report, &args.outputs, &open::output_dir(global)).map_err(run_error)?;
    let Some(other) = &args.against else {
        results::write_step_summary(report).map_err(run_error)?;
        if !global.quiet {
            results::print(report, &written);
        }
        if global.json {
            super::render::json(&harness::document(report));
        }
        return Ok(exit_of(report));
    };
    let comparison = match *other == args.run_id {
        true => compare(report, report),
        false => compare(report, &args.load(global, other, false).await?.report),
    };
    if global.json {
        super::render::json(&comparison);
    } else {
        out!("{}", comparison.text());
    }
    Ok(exit_of(report))
}

fn exit_of(report: &RunReport) -> Exit {
    match report.results.iter().any(|result| result.verdict.is_error()) {
        true => Exit::SomeFailed,
        false => Exit::Success,
    }
}
