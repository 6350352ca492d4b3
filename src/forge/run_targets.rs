//! The targets of a run: where each prediction leaves its files, and how it is graded.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use anyhow::anyhow;
use petgraph::graph::NodeIndex;

use crate::exec::evaluation::RunTarget;
use crate::grade::Rules;
use crate::plan::{EvaluateOptions, Plan, Work};
use crate::run::RunDir;

use super::Error;
use super::run_directory::run_error;
use super::workload::Workload;

/// The targets of a plan's evaluations.
pub(super) type Targets = HashMap<NodeIndex, Vec<RunTarget>>;

/// Makes the targets of a run.
pub(super) struct TargetMaker<'a> {
    workload: &'a Workload,
    /// The rules of grading, by `instance_id`.
    rules: HashMap<String, Rules>,
    dir: &'a RunDir,
}

impl<'a> TargetMaker<'a> {
    /// Reads how every instance is graded, before anything starts.
    ///
    /// # Errors
    /// An instance has no parser, or not one that does what `options` want.
    pub(super) fn new(
        workload: &'a Workload,
        options: &EvaluateOptions,
        dir: &'a RunDir,
    ) -> Result<TargetMaker<'a>, Error> {
        let mut rules = HashMap::new();
        for work in &workload.work {
            let read =
                Rules::with(&work.instance, options.family, options.strict).map_err(|error| {
                    let hint = error.hint();
                    Error::input(error).with_hint(hint)
                })?;
            rules.insert(work.instance.instance_id.clone(), read);
        }
        Ok(TargetMaker { workload, rules, dir })
    }

    /// Makes the target of one run of a work.
    pub(super) fn target(&self, work: &Work, repeat: u32) -> Result<RunTarget, Error> {
        let prediction = work.prediction.as_ref().expect("every work of a run has a prediction");
        let path = self.dir.instance(&prediction.model, &work.instance.instance_id, repeat);
        Ok(RunTarget {
            dir: path.map_err(run_error)?,
            instance: work.instance.clone(),
            model: prediction.model.clone(),
            patch: prediction.patch.clone(),
            rules: self.rules[&work.instance.instance_id],
            emulator: self.workload.emulator.clone(),
        })
    }

    /// Makes the targets of all evaluations of a plan; `numbers` gives the workload's work of each of the
    /// plan's.
    ///
    /// # Errors
    /// Two models would leave their files in one directory.
    pub(super) fn targets(&self, plan: &Plan, numbers: &[usize]) -> Result<Targets, Error> {
        let mut targets = Targets::new();
        let mut taken: HashSet<PathBuf> = HashSet::new();
        for one in &plan.targets {
            let target = self.target(&self.workload.work[numbers[one.work]], one.repeat)?;
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
}
