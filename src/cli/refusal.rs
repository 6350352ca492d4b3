//! Chosen instances that are left out because something is wrong with them: which, why, and how it
//! is told. The rest goes on.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use anyhow::anyhow;
use serde::Serialize;

use crate::catalog::Catalog;
use crate::dataset::{Instance, Refused};
use crate::plan::check::{self, Purpose, Unfit};
use crate::plan::{PlanOptions, Work};
use crate::words;

use super::{Exit, Failure, Global, render};

/// How many are shown one by one.
const SHOWN: usize = 10;

/// What instances are checked with.
pub struct Check<'a> {
    /// The catalog.
    pub catalog: &'a Catalog,
    /// How they are planned.
    pub options: PlanOptions,
    /// What they must be good for.
    pub purpose: Purpose,
}

impl Check<'_> {
    /// Finds what is wrong with instances, by their position.
    pub fn unfit(&self, instances: &[Arc<Instance>]) -> BTreeMap<usize, Vec<Unfit>> {
        let work = instances.iter().cloned();
        let work: Vec<Work> = work.map(|instance| Work { instance, prediction: None }).collect();
        check::check(self.catalog, &self.options, &work, self.purpose)
    }

    /// Leaves out of `work` what cannot be used, and returns it with the hint for the first.
    pub fn leave_out(
        &self,
        instances: &[Arc<Instance>],
        work: &mut Vec<Work>,
    ) -> (Vec<Refused>, Option<String>) {
        let wanted: HashSet<&str> =
            work.iter().map(|work| work.instance.instance_id.as_str()).collect();
        let chosen: Vec<Arc<Instance>> = instances
            .iter()
            .filter(|one| wanted.contains(one.instance_id.as_str()))
            .cloned()
            .collect();
        drop(wanted);
        let unfit = self.unfit(&chosen);
        let hint = unfit.values().flatten().find_map(Unfit::hint);
        let refused: Vec<Refused> = unfit
            .into_iter()
            .map(|(at, why)| Refused {
                instance_id: chosen[at].instance_id.clone(),
                repo: Some(chosen[at].repo.clone()),
                before: at,
                why: why.iter().map(Unfit::text).collect::<Vec<_>>().join("; "),
            })
            .collect();
        let ids: HashSet<&str> = refused.iter().map(|one| one.instance_id.as_str()).collect();
        work.retain(|work| !ids.contains(work.instance.instance_id.as_str()));
        (refused, hint)
    }
}

fn lines(refused: &[Refused]) -> Vec<String> {
    let mut lines: Vec<String> = refused
        .iter()
        .take(SHOWN)
        .map(|one| format!("{}: {}", words::shown(&one.instance_id), one.why))
        .collect();
    if refused.len() > SHOWN {
        lines.push(format!("and {} more", refused.len() - SHOWN));
    }
    lines
}

/// The failure where no instance is left.
pub fn all(refused: &[Refused], hint: Option<String>) -> Failure {
    let error = anyhow!("no chosen instance can be used\n  {}", lines(refused).join("\n  "));
    Failure::input(error).hint(hint)
}

/// Tells what is left out.
pub fn warn(global: &Global, refused: &[Refused]) {
    if refused.is_empty() || global.quiet {
        return;
    }
    let instances = if refused.len() == 1 { "instance is" } else { "instances are" };
    render::warn(format!(
        "{} {instances} left out\n  {}",
        refused.len(),
        lines(refused).join("\n  ")
    ));
}

/// The status where something was left out: it is not all done.
pub fn exit(exit: Exit, refused: &[Refused]) -> Exit {
    match exit {
        Exit::Success if !refused.is_empty() => Exit::SomeFailed,
        exit => exit,
    }
}

/// A document, and what was left out.
#[derive(Serialize)]
pub struct WithRefused<'a, T> {
    #[serde(flatten)]
    document: &'a T,
    refused: Vec<Problem<'a>>,
}

#[derive(Serialize)]
struct Problem<'a> {
    instance_id: &'a str,
    problem: &'a str,
}

/// Adds to a document what was left out.
pub fn with<'a, T>(document: &'a T, refused: &'a [Refused]) -> WithRefused<'a, T> {
    let problem = |one: &'a Refused| Problem { instance_id: &one.instance_id, problem: &one.why };
    WithRefused { document, refused: refused.iter().map(problem).collect() }
}
