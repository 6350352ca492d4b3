//! Chosen instances that are left out because something is wrong with them: which, and why. The rest
//! goes on, and of that it is told which says little.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use anyhow::anyhow;

use crate::catalog::Catalog;
use crate::dataset::{Instance, Refused};
use crate::plan::check::{self, Purpose, Unfit};
use crate::plan::{PlanOptions, Work};
use crate::words;

use super::{Error, Notices};

/// How many are shown one by one.
const SHOWN: usize = 10;

/// A check of instances before anything is started.
pub(crate) struct Check<'a> {
    /// The catalog that environments come from.
    pub catalog: &'a Catalog,
    /// The options of the plan that they would be in.
    pub options: PlanOptions,
    /// The purpose that they must be good for.
    pub purpose: Purpose,
}

impl Check<'_> {
    /// Finds what is wrong with instances, by their position.
    pub(crate) fn unfit(&self, instances: &[Arc<Instance>]) -> BTreeMap<usize, Vec<Unfit>> {
        let work = instances.iter().cloned();
        let work: Vec<Work> = work.map(|instance| Work { instance, prediction: None }).collect();
        check::check(self.catalog, &self.options, &work, self.purpose)
    }

    /// Leaves out of `work` what cannot be used, and returns it with the hint for the first.
    pub(crate) fn leave_out(
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
    shown(refused.iter().map(|one| format!("{}: {}", words::shown(&one.instance_id), one.why)))
}

fn shown(mut all: impl ExactSizeIterator<Item = String>) -> Vec<String> {
    let mut lines: Vec<String> = all.by_ref().take(SHOWN).collect();
    if all.len() > 0 {
        lines.push(format!("and {} more", all.len()));
    }
    lines
}

/// The error where no instance is left.
pub(crate) fn none_left(refused: &[Refused], hint: Option<String>) -> Error {
    let error = anyhow!("no chosen instance can be used\n  {}", lines(refused).join("\n  "));
    Error::input(error).with_hint(hint)
}

/// Tells what is left out.
pub(crate) fn warn(notices: &Notices, refused: &[Refused]) {
    if refused.is_empty() {
        return;
    }
    let instances = if refused.len() == 1 { "instance is" } else { "instances are" };
    notices.advise(format!(
        "{} {instances} left out\n  {}",
        refused.len(),
        lines(refused).join("\n  ")
    ));
}

/// Says which instances a patch resolves that changes nothing, as the harness has it.
pub(crate) fn nothing_to_fix<'a>(instances: impl Iterator<Item = &'a Instance>) -> Option<String> {
    let rows = instances.filter(|row| row.FAIL_TO_PASS.is_empty() && !row.PASS_TO_PASS.is_empty());
    let ids: BTreeSet<&str> = rows.map(|row| row.instance_id.as_str()).collect();
    let have = match ids.len() {
        0 => return None,
        1 => "1 instance has".to_owned(),
        more => format!("{more} instances have"),
    };
    Some(format!(
        "{have} an empty `FAIL_TO_PASS`: a patch that changes nothing resolves such\n  {}",
        shown(ids.into_iter().map(words::shown)).join("\n  ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nothing_has_to_mend_is_told() {
        let row = |id: &str, fail: &[&str], pass: &[&str]| Instance {
            instance_id: id.to_owned(),
            FAIL_TO_PASS: fail.iter().map(|&test| test.to_owned()).collect(),
            PASS_TO_PASS: pass.iter().map(|&test| test.to_owned()).collect(),
            ..Instance::default()
        };
        // Where both lists are empty, what is expected is written elsewhere.
        let good = [row("a", &["x"], &["y"]), row("b", &["x"], &[]), row("c", &[], &[])];
        assert_eq!(nothing_to_fix(good.iter()), None);
        let bad = row("d", &[], &["y"]);
        let said = nothing_to_fix(good.iter().chain([&bad, &bad])).unwrap();
        assert!(said.starts_with("1 instance has") && said.ends_with("\n  d"), "{said}");
    }
}
