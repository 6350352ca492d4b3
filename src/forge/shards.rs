//! The part of a workload that belongs to one shard.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};

use crate::catalog::Catalog;
use crate::dataset::Refused;
use crate::key::Digest;
use crate::plan::cut::order;
use crate::plan::{PlanOptions, Planner, Work};
use crate::report::durations;
use crate::run::PatchState;
use crate::run::shards::{Evaluated, ShardSettings};
use crate::shard::Shard;

use super::Error;
use super::predictions::Submission;

/// Which part of the work is done.
#[derive(Debug, Clone)]
pub struct ShardOptions {
    /// The part.
    pub shard: Shard,
    /// A report of an earlier run: parts take equally long by its seconds, not by their number. What it
    /// does not name counts as the mean of what it names.
    pub weights: Option<PathBuf>,
}

/// What a workload is cut by.
pub(super) struct Cutter<'a> {
    pub catalog: &'a Catalog,
    /// How the work is planned.
    pub options: &'a PlanOptions,
    pub submission: &'a Submission,
    /// The rows that cannot be used.
    pub refused: &'a [Refused],
}

impl Cutter<'_> {
    /// Keeps the work of a shard: what has one environment is together, what has one checkout as well.
    /// Predictions are kept whole, with all their repetitions. Returns what the shard records.
    ///
    /// # Errors
    /// The weights cannot be read, or the work cannot be planned.
    pub(super) fn cut(
        &self,
        options: &ShardOptions,
        work: &mut Vec<Work>,
    ) -> Result<ShardSettings, Error> {
        let known = options.weights.as_deref().map(Weights::read).transpose()?;
        // Without the identities of FROM images, which a machine has to look up.
        let identities = BTreeMap::new();
        let planner = Planner::new(self.catalog, self.options.clone(), &identities);
        let plan = planner.plan(work).map_err(|errors| {
            Error::input(anyhow::Error::new(errors.into_iter().next().expect("it failed of one")))
        })?;
        let keys: Vec<String> =
            plan.targets.iter().map(|target| plan.graph[target.node].key.to_string()).collect();
        let order = order(&plan, work);
        let weights: Vec<u64> = match &known {
            Some(known) => order.iter().map(|at| known.of(&work[*at])).collect(),
            None => vec![1; order.len()],
        };
        let models = self.models(work);
        let kept: HashSet<usize> = order[options.shard.slice(&weights)].iter().copied().collect();
        let evaluations = work.len();
        let mut number = 0..;
        work.retain(|_| kept.contains(&number.next().expect("it has no end")));
        Ok(ShardSettings {
            shard: options.shard,
            plan: Digest::of(keys.join("\n")),
            weights: known.map(|known| known.digest),
            options: self.asked(),
            models,
            unknown_ids: self.submission.unknown_ids.clone(),
            evaluations,
            slice: work.iter().filter_map(evaluated).collect(),
        })
    }

    /// Lists the models in the order in which a run of all shards has them.
    fn models(&self, work: &[Work]) -> Vec<String> {
        let refused: HashSet<&str> =
            self.refused.iter().map(|one| one.instance_id.as_str()).collect();
        let submitted = &self.submission.submitted;
        let of_refused = submitted.iter().filter(|one| refused.contains(one.instance_id.as_str()));
        let of_empty = submitted.iter().filter(|one| one.patch.why_empty().is_some());
        let names = work
            .iter()
            .filter_map(|work| work.prediction.as_ref().map(|prediction| &prediction.model))
            .chain(of_refused.map(|one| &one.model_name_or_path))
            .chain(of_empty.map(|one| &one.model_name_or_path));
        let mut models: Vec<String> = Vec::new();
        for name in names {
            if !models.contains(name) {
                models.push(name.clone());
            }
        }
        models
    }

    /// Returns the options of running tests that were given, by the names that they have.
    fn asked(&self) -> BTreeMap<String, String> {
        let Some(options) = &self.options.evaluate else { return BTreeMap::new() };
        let number = |value: Option<u64>| value.map(|value| value.to_string());
        let bound = |value: Option<crate::size::Bound>| {
            value.map(|value| value.most().map_or("none".to_owned(), |most| most.to_string()))
        };
        let given = [
            ("timeout", number(options.timeout)),
            ("memory", number(options.memory)),
            ("cpus", options.milli_cpus.map(|milli| format!("{}", milli as f64 / 1000.0))),
            ("pids-limit", number(options.pids)),
            ("disk", bound(options.disk)),
            ("files", bound(options.files)),
            ("log-size", bound(options.log_size)),
            ("network", options.network.and_then(name_of)),
            ("namespace", self.options.namespace.clone()),
            ("instance-image-tag", self.options.image_tag.clone()),
        ];
        let given = given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        given.collect()
    }
}

/// Returns a value as the command line writes it.
fn name_of(value: impl clap::ValueEnum) -> Option<String> {
    Some(value.to_possible_value()?.get_name().to_owned())
}

fn evaluated(work: &Work) -> Option<Evaluated> {
    Some(Evaluated {
        instance_id: work.instance.instance_id.clone(),
        model_name_or_path: work.prediction.as_ref()?.model.clone(),
    })
}

/// Tells how many predictions a merge reports of by itself: no shard has them.
pub(super) fn of_no_shard(submission: &Submission, refused: &[Refused]) -> usize {
    let is_refused = |id: &str| refused.iter().any(|one| one.instance_id == id);
    let empty = |patch: PatchState| patch.why_empty().is_some();
    let left = submission.submitted.iter();
    left.filter(|one| empty(one.patch) || is_refused(&one.instance_id)).count()
}

/// How long instances took in an earlier run.
struct Weights {
    milliseconds: HashMap<String, u64>,
    mean: u64,
    digest: Digest,
}

impl Weights {
    fn read(path: &Path) -> Result<Weights, Error> {
        let read = || -> anyhow::Result<Weights> {
            let text = std::fs::read_to_string(path)?;
            let milliseconds = durations::read(&text)?;
            if milliseconds.is_empty() {
                return Err(anyhow!("it names no instance that took time"));
            }
            let all: u128 = milliseconds.values().map(|one| u128::from(*one)).sum();
            let mean = u64::try_from(all / milliseconds.len() as u128).unwrap_or(u64::MAX);
            Ok(Weights { milliseconds, mean, digest: Digest::of(&text) })
        };
        read().with_context(|| format!("--weights `{}` cannot be used", path.display())).map_err(
            |error| {
                Error::input(error).with_hint(Some(
                    "name the junit.xml of an earlier run, or its report \
                     <model>.<run_id>.json"
                        .to_owned(),
                ))
            },
        )
    }

    fn of(&self, work: &Work) -> u64 {
        self.milliseconds.get(&work.instance.instance_id).copied().unwrap_or(self.mean)
    }
}
