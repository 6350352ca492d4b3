//! Two runs compared: what was gained, what was lost, what cannot be relied on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::Serialize;

use crate::run_id::RunId;

use super::{InstanceResult, RunReport, Score, Verdict};

/// A run beside an earlier one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The run.
    pub run_id: RunId,
    /// The earlier run.
    pub against: RunId,
    /// Resolved now and not before.
    pub gained: Vec<Change>,
    /// Resolved before and not now.
    pub lost: Vec<Change>,
    /// Not the same in every run of one patch: in repetitions, or between the two.
    pub flaky: Vec<Change>,
    /// Judged alike.
    pub same: usize,
    /// Only in this run.
    pub only_here: Vec<String>,
    /// Only in the earlier run.
    pub only_there: Vec<String>,
    /// What each model of this run came to.
    pub scores: Vec<Score>,
    /// What each model of the earlier run came to.
    pub scores_against: Vec<Score>,
    /// The instances that only this run has, by model.
    pub only_here_by_model: BTreeMap<String, Vec<String>>,
    /// The instances that only the earlier run has, by model.
    pub only_there_by_model: BTreeMap<String, Vec<String>>,
}

/// One instance in two runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// The instance.
    pub instance_id: String,
    /// The model, as this run has it.
    pub model: String,
    /// The verdict of the earlier run.
    pub before: Verdict,
    /// The verdict of this run.
    pub now: Verdict,
    /// Expected tests that do what they should now, and did not before.
    pub tests_gained: Vec<String>,
    /// Expected tests that did what they should before, and do not now.
    pub tests_lost: Vec<String>,
}

/// Compares `run` with `against`. Where each has one model, under whatever name, those are
/// compared.
pub fn compare(run: &RunReport, against: &RunReport) -> Comparison {
    let one_model = run.models().len() == 1 && against.models().len() == 1;
    let index = |report: &RunReport| -> BTreeMap<(String, String), InstanceResult> {
        let key = |result: &InstanceResult| {
            let model = if one_model { String::new() } else { result.model.clone() };
            (model, result.instance_id.clone())
        };
        report.results.iter().map(|result| (key(result), result.clone())).collect()
    };
    let (here, there) = (index(run), index(against));
    let mut comparison = Comparison {
        run_id: run.run_id.clone(),
        against: against.run_id.clone(),
        gained: Vec::new(),
        lost: Vec::new(),
        flaky: Vec::new(),
        same: 0,
        only_here: Vec::new(),
        only_there: Vec::new(),
        scores: run.scores(),
        scores_against: against.scores(),
        only_here_by_model: BTreeMap::new(),
        only_there_by_model: BTreeMap::new(),
    };
    let only = |result: &InstanceResult,
                ids: &mut Vec<String>,
                by_model: &mut BTreeMap<String, Vec<String>>| {
        ids.push(result.instance_id.clone());
        by_model.entry(result.model.clone()).or_default().push(result.instance_id.clone());
    };
    let keys: BTreeSet<_> = here.keys().chain(there.keys()).collect();
    for key in keys {
        let (now, before) = match (here.get(key), there.get(key)) {
            (Some(now), Some(before)) => (now, before),
            (Some(now), None) => {
                only(now, &mut comparison.only_here, &mut comparison.only_here_by_model);
                continue;
            }
            (None, Some(before)) => {
                only(before, &mut comparison.only_there, &mut comparison.only_there_by_model);
                continue;
            }
            (None, None) => continue,
        };
        let change = change(before, now);
        let resolved = (before.verdict == Verdict::Resolved, now.verdict == Verdict::Resolved);
        let same_patch = now.patch.is_some() && now.patch == before.patch;
        let judged = now.verdict.is_graded() && before.verdict.is_graded();
        let differs = same_patch && judged && now.verdict != before.verdict;
        if differs || !now.flaky.is_empty() || !before.flaky.is_empty() {
            comparison.flaky.push(change);
        } else if resolved == (false, true) {
            comparison.gained.push(change);
        } else if resolved == (true, false) {
            comparison.lost.push(change);
        } else {
            comparison.same += 1;
        }
    }
    comparison
}

fn good_tests(result: &InstanceResult) -> BTreeSet<&str> {
    let tests = result.tests.iter();
    let lists = tests.flat_map(|tests| [&tests.fail_to_pass, &tests.pass_to_pass]);
    lists.flat_map(|list| list.success.iter().map(String::as_str)).collect()
}

fn change(before: &InstanceResult, now: &InstanceResult) -> Change {
    let (was, is) = (good_tests(before), good_tests(now));
    let owned = |tests: Vec<&&str>| tests.into_iter().map(|test| (*test).to_owned()).collect();
    Change {
        instance_id: now.instance_id.clone(),
        model: now.model.clone(),
        before: before.verdict,
        now: now.verdict,
        tests_gained: owned(is.difference(&was).collect()),
        tests_lost: owned(was.difference(&is).collect()),
    }
}

impl Comparison {
    /// Renders the comparison for people.
    pub fn text(&self) -> String {
        let mut text = format!(
            "{} against {}: {} gained, {} lost, {} flaky, {} alike\n",
            self.run_id,
            self.against,
            self.gained.len(),
            self.lost.len(),
            self.flaky.len(),
            self.same
        );
        for (run, scores) in [(&self.run_id, &self.scores), (&self.against, &self.scores_against)] {
            for score in scores {
                let _ = writeln!(text, "  {run}, {}: {}", score.model, score.headline());
            }
        }
        let several = self.scores.len() > 1 || self.scores_against.len() > 1;
        for (name, changes) in
            [("gained", &self.gained), ("lost", &self.lost), ("flaky", &self.flaky)]
        {
            for change in changes {
                let _ = writeln!(
                    text,
                    "  {name:<6} {} ({} -> {}){}",
                    change.instance_id,
                    change.before,
                    change.now,
                    if several { format!(" {}", change.model) } else { String::new() }
                );
                for (sign, tests) in [("+", &change.tests_gained), ("-", &change.tests_lost)] {
                    for test in tests.iter().take(5) {
                        let _ = writeln!(text, "           {sign} {test}");
                    }
                    if tests.len() > 5 {
                        let _ = writeln!(text, "           {sign} and {} more", tests.len() - 5);
                    }
                }
            }
        }
        for (run, only, others) in [
            (&self.run_id, &self.only_here_by_model, &self.scores_against),
            (&self.against, &self.only_there_by_model, &self.scores),
        ] {
            for (model, ids) in only {
                // A model that the other run does not have says more than its instances.
                let whole = several && others.iter().all(|score| score.model != *model);
                let _ = match whole {
                    true => writeln!(text, "  only in {run}: model {model} ({})", ids.len()),
                    false => writeln!(text, "  only in {run}: {} ({model})", ids.join(", ")),
                };
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{report, result};
    use super::*;

    #[test]
    fn what_was_gained_lost_and_cannot_be_relied_on_is_told_apart() {
        let (mut now, mut before) = (report(), report());
        let other = |id: &str, verdict: Verdict, patch: &str| {
            let mut result = result(id, verdict);
            result.patch = Some(patch.to_owned());
            result
        };
        now.run_id = "run-2".parse().unwrap();
        now.instances = (1..=6).map(|at| format!("a-{at}")).collect();
        before.instances = now.instances.clone();
        now.results = vec![
            other("a-1", Verdict::Resolved, "x"),
            other("a-2", Verdict::Unresolved, "x"),
            other("a-3", Verdict::Resolved, "same"),
            other("a-4", Verdict::Resolved, "x"),
            other("a-5", Verdict::Resolved, "x"),
        ];
        before.results = vec![
            other("a-1", Verdict::Unresolved, "y"),
            other("a-2", Verdict::Resolved, "y"),
            other("a-3", Verdict::Unresolved, "same"),
            other("a-4", Verdict::Resolved, "y"),
            other("a-6", Verdict::Resolved, "y"),
        ];
        insta::assert_snapshot!(compare(&now, &before).text(), @r"
        run-2 against run-1: 1 gained, 1 lost, 1 flaky, 1 alike
          run-2, org/model: 4 of 6 resolved (66.7%)
          run-1, org/model: 3 of 6 resolved (50.0%)
          gained a-1 (unresolved -> resolved)
                   + t::a
          lost   a-2 (resolved -> unresolved)
                   - t::a
          flaky  a-3 (unresolved -> resolved)
                   + t::a
          only in run-2: a-5 (org/model)
          only in run-1: a-6 (org/model)
        ");

        // A model that one of them lacks is named, not its instances.
        let mut gold = other("a-1", Verdict::Resolved, "g");
        gold.model = "gold".to_owned();
        before.results.push(gold);
        let text = compare(&now, &before).text();
        assert!(text.contains("  only in run-1: model gold (1)\n"), "{text}");
        assert!(text.contains("gained a-1 (unresolved -> resolved) org/model"), "{text}");
    }
}
