//! Options of working on a part of a run: `--shard` and `--weights`.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::anyhow;
use clap::Args;

use crate::forge::ShardOptions;
use crate::shard::{NotAShard, Shard};

use super::Error;
use super::help::heading;
use super::open;

/// Which part of the work is done.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = heading::DATASET)]
pub(super) struct ShardArgs {
    /// Do one part of the work, such as 3/8; auto takes it from the variables of Slurm, an Indexed Job of
    /// Kubernetes, GitLab, CircleCI or Buildkite
    #[arg(long, value_name = "I/N|auto", env = "IMGFORGE_SHARD")]
    pub shard: Option<Which>,
    /// Cut by the seconds of an earlier run: its junit.xml, or its <model>.<run_id>.json; the same file
    /// for all shards
    #[arg(long, value_name = "FILE", env = "IMGFORGE_WEIGHTS", requires = "shard")]
    pub weights: Option<PathBuf>,
}

/// A part that somebody asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// The one that variables name.
    Auto,
    /// This one.
    Of(Shard),
}

impl FromStr for Which {
    type Err = NotAShard;

    fn from_str(text: &str) -> Result<Which, NotAShard> {
        match text {
            "auto" => Ok(Which::Auto),
            text => text.parse().map(Which::Of),
        }
    }
}

impl ShardArgs {
    /// Returns which part is done; `None` is all.
    ///
    /// # Errors
    /// `auto`, and no variable says which, or they name none.
    pub(super) fn options(&self) -> Result<Option<ShardOptions>, Error> {
        let shard = match self.shard {
            None => return Ok(None),
            Some(Which::Of(shard)) => shard,
            Some(Which::Auto) => of_variables(open::variable)?,
        };
        Ok(Some(ShardOptions { shard, weights: self.weights.clone() }))
    }
}

/// Reads a shard from the variables of the first service that sets its own.
fn of_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Shard, Error> {
    let number = |name: &str| -> Result<u32, Error> {
        let text = variable(name).ok_or_else(|| {
            Error::input(anyhow!("--shard auto: {name} is not set"))
                .with_hint(Some("set it to the number of shards, or write --shard I/N".to_owned()))
        })?;
        text.parse().map_err(|_| {
            Error::input(anyhow!("--shard auto: {name} is `{text}`, not a number"))
                .with_hint(Some("write --shard I/N".to_owned()))
        })
    };
    // What it is called, the variable with the number of this part, the one with how many there are, and
    // whether the first is 0.
    let services = [
        ("JOB_COMPLETION_INDEX", "IMGFORGE_SHARDS", true),
        // GitLab has both; CI_NODE_INDEX is set in jobs with `parallel` alone.
        ("CI_NODE_INDEX", "CI_NODE_TOTAL", false),
        ("CIRCLE_NODE_INDEX", "CIRCLE_NODE_TOTAL", true),
        ("BUILDKITE_PARALLEL_JOB", "BUILDKITE_PARALLEL_JOB_COUNT", true),
    ];
    let (index, count, of) = if variable("SLURM_ARRAY_TASK_ID").is_some() {
        let (task, first) = (number("SLURM_ARRAY_TASK_ID")?, number("SLURM_ARRAY_TASK_MIN")?);
        let step = match variable("SLURM_ARRAY_TASK_STEP") {
            Some(_) => number("SLURM_ARRAY_TASK_STEP")?.max(1),
            None => 1,
        };
        let after = task.checked_sub(first).filter(|after| after % step == 0);
        let index = after.map(|after| u64::from(after / step) + 1);
        (index, number("SLURM_ARRAY_TASK_COUNT")?, "SLURM_ARRAY_TASK_ID")
    } else {
        let set = services.into_iter().find(|(index, ..)| variable(index).is_some());
        let Some((name, total, from_0)) = set else {
            let error = anyhow!("--shard auto: no variable says which shard it is");
            return Err(Error::input(error).with_hint(Some(
                "it reads SLURM_ARRAY_TASK_ID, JOB_COMPLETION_INDEX with IMGFORGE_SHARDS, \
                 CI_NODE_INDEX, CIRCLE_NODE_INDEX and BUILDKITE_PARALLEL_JOB; elsewhere write \
                 --shard I/N"
                    .to_owned(),
            )));
        };
        (Some(u64::from(number(name)?) + u64::from(from_0)), number(total)?, name)
    };
    let shard = index.and_then(|index| Shard::new(u32::try_from(index).ok()?, count));
    shard.ok_or_else(|| {
        let value = variable(of).unwrap_or_default();
        Error::input(anyhow!("--shard auto: {of} is `{value}`, which is not one of {count} parts"))
            .with_hint(Some(
                "the parts have to be numbered one after another; else write --shard I/N"
                    .to_owned(),
            ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &str) -> Result<String, String> {
        let find = |name: &str| {
            variables
                .split_whitespace()
                .filter_map(|one| one.split_once('='))
                .find(|(known, _)| *known == name)
                .map(|(_, value)| value.to_owned())
        };
        of_variables(find).map(|shard| shard.to_string()).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn every_service_says_which_part_it_is() {
        let slurm = |id, min, step, count| {
            format!(
                "SLURM_ARRAY_TASK_ID={id} SLURM_ARRAY_TASK_MIN={min} SLURM_ARRAY_TASK_STEP={step} \
                 SLURM_ARRAY_TASK_COUNT={count}"
            )
        };
        let good = [
            (slurm(1, 1, 1, 16), "1/16"),
            (slurm(15, 0, 1, 16), "16/16"),
            (slurm(7, 1, 2, 4), "4/4"),
            ("JOB_COMPLETION_INDEX=0 IMGFORGE_SHARDS=3".to_owned(), "1/3"),
            ("CI_NODE_INDEX=3 CI_NODE_TOTAL=3".to_owned(), "3/3"),
            ("CIRCLE_NODE_INDEX=2 CIRCLE_NODE_TOTAL=3".to_owned(), "3/3"),
            ("BUILDKITE_PARALLEL_JOB=1 BUILDKITE_PARALLEL_JOB_COUNT=2".to_owned(), "2/2"),
            (slurm(2, 1, 1, 2) + " CI_NODE_INDEX=9 CI_NODE_TOTAL=9", "2/2"),
        ];
        for (variables, shard) in good {
            assert_eq!(read(&variables).as_deref(), Ok(shard), "{variables}");
        }
    }

    #[test]
    fn what_names_no_part_is_an_error() {
        let bad = [
            ("", "no variable says which shard"),
            ("JOB_COMPLETION_INDEX=0", "IMGFORGE_SHARDS is not set"),
            ("CI_NODE_INDEX=x CI_NODE_TOTAL=3", "CI_NODE_INDEX is `x`"),
            ("CI_NODE_INDEX=0 CI_NODE_TOTAL=3", "CI_NODE_INDEX is `0`"),
            ("CIRCLE_NODE_INDEX=3 CIRCLE_NODE_TOTAL=3", "CIRCLE_NODE_INDEX is `3`"),
            // A list of tasks, such as 1,3,10.
            (
                "SLURM_ARRAY_TASK_ID=10 SLURM_ARRAY_TASK_MIN=1 SLURM_ARRAY_TASK_COUNT=3",
                "SLURM_ARRAY_TASK_ID is `10`, which is not one of 3 parts",
            ),
            (
                "SLURM_ARRAY_TASK_ID=4 SLURM_ARRAY_TASK_MIN=1 SLURM_ARRAY_TASK_STEP=2 \
                 SLURM_ARRAY_TASK_COUNT=3",
                "SLURM_ARRAY_TASK_ID is `4`",
            ),
        ];
        for (variables, text) in bad {
            let error = read(variables).unwrap_err();
            assert!(error.contains(text), "{variables}: {error}");
        }
    }
}
