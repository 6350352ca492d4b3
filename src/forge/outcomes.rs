//! The outcomes of a run so far: results of earlier runs, those of this one, and failures.

use std::collections::{HashMap, HashSet};

use petgraph::graph::NodeIndex;
use rayon::prelude::*;

use crate::exec::evaluation::{EvaluationResult, RunTarget};
use crate::exec::evaluation_files;
use crate::exec::{NodeError, NodeStatus, RunSummary};
use crate::key::{Key, Kind};
use crate::plan::Plan;
use crate::recipe::{EvaluationRecipe, Recipe};
use crate::report::{InstanceResult, Verdict};

use super::run_directory::run_error;
use super::run_targets::{TargetMaker, Targets};
use super::workload::Workload;
use super::{Error, results};

/// The outcome of every work of a run, by its number in the workload.
#[derive(Default)]
pub(super) struct Outcomes {
    /// The results, by the number of the work and the repeat, from 0.
    evaluated: HashMap<(usize, u32), EvaluationResult>,
    failures: HashMap<usize, (Verdict, String)>,
    build_seconds: HashMap<usize, f64>,
}

impl Outcomes {
    /// Takes the results of earlier runs that have the same inputs, and those that this run left in its
    /// directory: their logs are graded anew. Returns
    /// with them the keys that such a result was found for.
    pub(super) async fn of_earlier_runs(
        workload: &Workload,
        plan: &Plan,
        targets: &Targets,
    ) -> Result<(Outcomes, HashSet<Key>), Error> {
        let (mut outcomes, mut known) = (Outcomes::default(), HashSet::new());
        let keys = targets.keys().map(|index| plan.graph[*index].key);
        let found = workload.store.results_of(keys).map_err(Error::environment)?;
        for (index, one) in reuse(workload, plan, targets, &found).await? {
            known.insert(plan.graph[index].key);
            for target in plan.targets.iter().filter(|target| target.node == index) {
                outcomes.evaluated.insert((target.work, target.repeat), one.clone());
            }
        }
        Ok((outcomes, known))
    }

    /// Returns how many results there are.
    pub(super) fn results(&self) -> usize {
        self.evaluated.len()
    }

    /// Tells whether a work lacks one of its results.
    pub(super) fn is_open(&self, work: usize, repeat: u32) -> bool {
        (0..repeat).any(|repeat| !self.evaluated.contains_key(&(work, repeat)))
    }

    /// Adds the outcomes of a plan that was run; `numbers` gives the workload's work of each of the plan's.
    pub(super) fn add_run(&mut self, plan: &Plan, summary: &RunSummary, numbers: &[usize]) {
        for target in &plan.targets {
            let work = numbers[target.work];
            if let Some(one) = summary.evaluations.get(&target.node) {
                self.evaluated.insert((work, target.repeat), one.clone());
            } else if !self.evaluated.contains_key(&(work, target.repeat)) {
                self.failures.insert(work, failure(plan, summary, target.node));
            }
            self.build_seconds.insert(work, seconds_of_images(plan, summary, target.node));
        }
    }

    /// Makes the result of a work from the outcomes of all its runs, with the end of its log.
    pub(super) fn result(
        &self,
        workload: &Workload,
        maker: &TargetMaker<'_>,
        number: usize,
        repeat: u32,
    ) -> Result<InstanceResult, Error> {
        let target = maker.target(&workload.work[number], 0)?;
        let runs: Vec<&EvaluationResult> =
            (0..repeat).filter_map(|repeat| self.evaluated.get(&(number, repeat))).collect();
        let mut result = match self.failures.get(&number) {
            Some((verdict, reason)) => {
                results::unfinished(&target.instance, &target.model, *verdict, reason.clone())
            }
            None => results::join(&target, &runs),
        };
        result.build_seconds = self.build_seconds.get(&number).copied().unwrap_or(0.0);
        results::add_log(&mut result, &target.dir);
        if repeat > 1 {
            results::write_instance(&result, &target.dir).map_err(run_error)?;
        }
        Ok(result)
    }
}

/// An evaluation that may have a result.
struct Job {
    index: NodeIndex,
    key: Key,
    recipe: EvaluationRecipe,
    /// Whether this machine has a result of an earlier run.
    is_known: bool,
    targets: Vec<RunTarget>,
}

/// Grades the logs of earlier runs that have the same inputs, and those that this one left.
async fn reuse(
    workload: &Workload,
    plan: &Plan,
    targets: &Targets,
    found: &HashSet<Key>,
) -> Result<Vec<(NodeIndex, EvaluationResult)>, Error> {
    let jobs: Vec<Job> = targets
        .iter()
        .filter_map(|(index, targets)| {
            let node = &plan.graph[*index];
            let Recipe::Evaluation(recipe) = &node.recipe else { return None };
            Some(Job {
                index: *index,
                key: node.key,
                recipe: recipe.clone(),
                is_known: found.contains(&node.key),
                targets: targets.clone(),
            })
        })
        .collect();
    let store = workload.store.clone();
    let graded = tokio::task::spawn_blocking(move || {
        jobs.par_iter()
            .map(|Job { index, key, recipe, is_known, targets }| {
                let one = match is_known {
                    true => evaluation_files::reuse(&store, *key, recipe, targets)?,
                    false => evaluation_files::resume(*key, recipe, targets)?,
                };
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
