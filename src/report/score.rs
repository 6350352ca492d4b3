//! The score of a model, as SWE-bench counts: resolved of the instances that were chosen, whatever
//! the model has no prediction for and whatever was not run included.
//!
//! Every form of output takes it from here, each model by itself.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use super::{InstanceResult, RunReport, Verdict};

/// What a model came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Score {
    /// The model.
    pub model: String,
    /// The chosen instances of the dataset: what a share is of.
    pub instances: usize,
    /// Those of them that have a prediction.
    pub submitted: usize,
    /// Those of them that were judged.
    pub completed: usize,
    /// Those of them that are resolved.
    pub resolved: usize,
    /// Those that have no prediction.
    pub missing: usize,
    /// Those whose prediction was judged, and is not resolved; patches that do not apply included.
    pub unresolved: usize,
    /// Those of the unresolved whose patch does not apply.
    pub patch_refused: usize,
    /// Those whose prediction is empty.
    pub empty: usize,
    /// Those that failed for another reason than the prediction: nothing was judged.
    pub errors: usize,
    /// Those that were not run, because the run was stopped.
    pub not_run: usize,
    /// Those whose log is that of an earlier run.
    pub reused: usize,
    /// Resolved of all instances, in percent to one place.
    pub percent: String,
}

impl Score {
    /// Renders what people copy, such as `2 of 8 resolved (25.0%)`.
    pub fn headline(&self) -> String {
        format!("{} of {} resolved ({})", self.resolved, self.instances, self.percent)
    }

    /// Renders what belongs beside it.
    pub fn beside(&self) -> String {
        format!(
            "submitted {}, completed {}, missing {}",
            self.submitted, self.completed, self.missing
        )
    }
}

/// What models resolved of one repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RepositoryScore {
    /// `owner/name`.
    pub repo: String,
    /// Its chosen instances.
    pub instances: usize,
    /// How many of them each model resolved, in the order of the models.
    pub resolved: Vec<usize>,
}

impl RunReport {
    /// Returns the score of a model.
    pub fn score(&self, model: &str) -> Score {
        let chosen: HashSet<&str> = self.instances.iter().map(String::as_str).collect();
        let mut seen = HashSet::new();
        let results: Vec<&InstanceResult> = self
            .of(model)
            .filter(|result| chosen.contains(result.instance_id.as_str()))
            .filter(|result| seen.insert(result.instance_id.as_str()))
            .collect();
        let count = |wanted: &dyn Fn(&InstanceResult) -> bool| {
            results.iter().filter(|result| wanted(result)).count()
        };
        let is = |verdict: Verdict| count(&|result| result.verdict == verdict);
        let (resolved, completed) =
            (is(Verdict::Resolved), count(&|result| result.verdict.is_graded()));
        let not_run = is(Verdict::NotRun);
        let share = 100.0 * resolved as f64 / chosen.len().max(1) as f64;
        Score {
            model: model.to_owned(),
            instances: chosen.len(),
            submitted: results.len(),
            completed,
            resolved,
            missing: chosen.len() - results.len(),
            unresolved: completed - resolved,
            patch_refused: is(Verdict::PatchRefused),
            empty: is(Verdict::EmptyPatch),
            errors: count(&|result| result.verdict.is_error()) - not_run,
            not_run,
            reused: count(&|result| result.cached),
            percent: format!("{share:.1}%"),
        }
    }

    /// Returns the score of every model, in their order.
    pub fn scores(&self) -> Vec<Score> {
        self.models().into_iter().map(|model| self.score(model)).collect()
    }

    /// Returns what every model resolved of every repository, the largest first.
    pub fn by_repository(&self) -> Vec<RepositoryScore> {
        let models = self.models();
        let mut repositories: BTreeMap<&str, RepositoryScore> = BTreeMap::new();
        for id in &self.instances {
            let repo = self.repos.get(id).map_or("", String::as_str);
            let one = repositories.entry(repo).or_insert_with(|| RepositoryScore {
                repo: repo.to_owned(),
                instances: 0,
                resolved: vec![0; models.len()],
            });
            one.instances += 1;
            for (at, model) in models.iter().enumerate() {
                let mut own = self.of(model).filter(|result| result.instance_id == *id);
                let resolved = own.next().is_some_and(|own| own.verdict == Verdict::Resolved);
                one.resolved[at] += usize::from(resolved);
            }
        }
        let mut list: Vec<RepositoryScore> = repositories.into_values().collect();
        list.sort_by_key(|one| std::cmp::Reverse(one.instances));
        list
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{report, result};
    use super::super::{harness, html, junit, markdown, text};
    use super::*;

    /// A run of `total` instances; every model has the given verdicts for the first of them.
    fn run(total: usize, models: &[(&str, &[Verdict])]) -> RunReport {
        let id = |at: usize| format!("x__y-{}", at + 1);
        let mut made = report();
        made.instances = (0..total).map(id).collect();
        made.repos = made.instances.iter().map(|id| (id.clone(), "x/y".to_owned())).collect();
        made.unknown_ids.clear();
        made.submitted.clear();
        made.results.clear();
        for (model, verdicts) in models {
            let mut ids = Vec::new();
            for (at, verdict) in verdicts.iter().enumerate() {
                let mut one = result(&id(at), *verdict);
                one.model = (*model).to_owned();
                one.cached = false;
                ids.push(one.instance_id.clone());
                made.results.push(one);
            }
            made.submitted.insert((*model).to_owned(), ids);
        }
        made
    }

    #[test]
    fn every_form_of_output_says_the_same_score() {
        use Verdict::*;
        // Model, verdicts; then: headline, submitted, completed, missing.
        type Row<'a> = (&'a str, &'a [Verdict], &'a str, [usize; 3]);
        let few: Row<'_> = ("org/few", &[Resolved, Resolved], "2 of 8 resolved (25.0%)", [2, 2, 6]);
        let rows: [&[Row<'_>]; 6] = [
            // Two right of two predictions is no 100 %.
            &[few],
            // Interrupted.
            &[("m", &[Resolved, NotRun, NotRun], "1 of 8 resolved (12.5%)", [3, 1, 5])],
            // Errors of every kind judge nothing.
            &[(
                "m",
                &[Resolved, Error, TimedOut, OutOfMemory, Unresolved, PatchRefused, EmptyPatch],
                "1 of 8 resolved (12.5%)",
                [7, 3, 1],
            )],
            &[("m", &[EmptyPatch, EmptyPatch], "0 of 8 resolved (0.0%)", [2, 0, 6])],
            // All predictions are for instances that were not chosen.
            &[("m", &[], "0 of 8 resolved (0.0%)", [0, 0, 8])],
            // Models are never added up.
            &[("gold", &[Resolved; 8], "8 of 8 resolved (100.0%)", [8, 8, 0]), few],
        ];
        for models in rows {
            let made: Vec<_> = models.iter().map(|(model, list, ..)| (*model, *list)).collect();
            let report = run(8, &made);
            let terminal = console::strip_ansi_codes(&text::summary(&report)).into_owned();
            let markdown = markdown::summary(&report);
            let junit = junit::junit(&report);
            let page = html::data(&report);
            let json = harness::document(&report);
            for (model, list, headline, [submitted, completed, missing]) in models {
                let beside =
                    format!("submitted {submitted}, completed {completed}, missing {missing}");
                assert!(
                    terminal.contains(&format!("{model}: {headline}\n  {beside}")),
                    "{terminal}"
                );
                let resolved = list.iter().filter(|one| **one == Resolved).count();
                let percent = headline.split(['(', ')']).nth(1).unwrap();
                let cells = format!(
                    "| {model} | **{resolved}** ({percent}) | 8 | {submitted} | {completed} | {missing} |"
                );
                assert!(markdown.contains(&cells), "{markdown}");
                for (name, value) in [
                    ("score", *headline),
                    ("instances", "8"),
                    ("submitted", &submitted.to_string()),
                    ("completed", &completed.to_string()),
                    ("missing", &missing.to_string()),
                ] {
                    let property = format!(r#"<property name="{name}" value="{value}"/>"#);
                    assert!(junit.contains(&property), "{property}: {junit}");
                }
                let scores = page["scores"].as_array().unwrap();
                let own = scores.iter().find(|score| score["model"] == *model).unwrap();
                assert_eq!(
                    (&own["headline"], &own["beside"]),
                    (&(*headline).into(), &beside.into())
                );
                let own = &json["models"][model]["imgforge"]["score"];
                assert_eq!(own["percent"], percent);
                for (name, value) in [
                    ("instances", 8),
                    ("resolved", resolved),
                    ("submitted", *submitted),
                    ("completed", *completed),
                    ("missing", *missing),
                ] {
                    assert_eq!(own[name], value, "{name} of {model}: {own}");
                }
                assert_eq!(json["models"][model]["total_instances"], 8);
                if models.len() == 1 {
                    assert_eq!(&json["imgforge"]["score"], own, "a single report is the document");
                }
            }
            for sum in ["10 of", "62.5%", "11 of"] {
                assert!(!terminal.contains(sum) && !markdown.contains(sum), "{markdown}");
            }
        }
    }

    #[test]
    fn results_outside_the_selection_and_reused_ones_change_no_score() {
        let mut report = run(2, &[("m", &[Verdict::Resolved, Verdict::Unresolved])]);
        report.results[0].cached = true;
        let score = report.score("m");
        assert_eq!((score.headline().as_str(), score.reused), ("1 of 2 resolved (50.0%)", 1));
        report.instances.pop();
        report.results[1].verdict = Verdict::Resolved;
        assert_eq!(report.score("m").headline(), "1 of 1 resolved (100.0%)");
        assert_eq!(report.score("nobody").headline(), "0 of 1 resolved (0.0%)");
    }

    #[test]
    fn repositories_count_instances_without_a_prediction_and_models_apart() {
        use Verdict::{Resolved, Unresolved};
        let mut report = run(4, &[("a", &[Resolved, Resolved, Resolved]), ("b", &[Unresolved])]);
        report.repos.insert("x__y-4".to_owned(), "p/q".to_owned());
        let list = report.by_repository();
        let shown: Vec<_> =
            list.iter().map(|one| (one.repo.as_str(), one.instances, &one.resolved[..])).collect();
        assert_eq!(shown, [("x/y", 3, &[3, 0][..]), ("p/q", 1, &[0, 0][..])]);
    }
}
