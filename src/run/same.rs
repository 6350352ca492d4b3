//! Whether what begins under a run id is the run that the id stands for: the same rows, the same
//! predictions or more of them.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use crate::dataset::full_name;
use crate::run_id::RunId;

use super::{Metadata, RunError, Settings, Submitted};

/// Predictions that are not what they were when the run began.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Their instances, in their order: they are run again.
    pub changed: Vec<String>,
    /// How many instances the run had that are not chosen now.
    pub left_out: usize,
}

/// Tells whether a dataset and a split are those of the run.
///
/// # Errors
/// [`RunError::Other`], with what differs.
pub fn same_rows(
    run_id: &RunId,
    known: &Metadata,
    dataset: &str,
    split: &str,
) -> Result<(), RunError> {
    if place(&known.dataset) == place(dataset) && known.split == split {
        return Ok(());
    }
    Err(RunError::Other {
        run_id: run_id.clone(),
        what: format!(
            "it was made with dataset `{}` ({}), not with `{dataset}` ({split})",
            known.dataset, known.split
        ),
    })
}

/// One spelling of a dataset's name: the full one, or where the path leads.
fn place(dataset: &str) -> String {
    match Path::new(dataset).canonicalize() {
        Ok(path) => path.display().to_string(),
        Err(_) => full_name(dataset).to_owned(),
    }
}

/// Tells whether predictions are those of the run: of the chosen instances none may be gone, nor may
/// all have changed. The dataset's own patches change with the dataset.
///
/// # Errors
/// [`RunError::Other`], with what differs.
pub fn same_predictions(
    run_id: &RunId,
    known: &Settings,
    now: &Settings,
) -> Result<Changes, RunError> {
    let chosen: HashSet<&str> = now.instances.iter().map(String::as_str).collect();
    let index = |settings: &'_ Settings| -> HashMap<(String, String), Submitted> {
        let key = |one: &Submitted| (one.model_name_or_path.clone(), one.instance_id.clone());
        settings.submitted.iter().map(|one| (key(one), one.clone())).collect()
    };
    let (before, after) = (index(known), index(now));
    let other = |what: String| RunError::Other { run_id: run_id.clone(), what };
    let mut changes = Changes {
        left_out: known.instances.iter().filter(|id| !chosen.contains(id.as_str())).count(),
        ..Changes::default()
    };
    let mut models: Vec<&str> = Vec::new();
    for one in &known.submitted {
        if !models.contains(&one.model_name_or_path.as_str()) {
            models.push(&one.model_name_or_path);
        }
    }
    for model in models {
        if after.keys().all(|(own, _)| own != model) {
            return Err(other(format!("it has predictions of model `{model}`")));
        }
        let (mut gone, mut changed, mut same) = (Vec::new(), Vec::new(), 0);
        for id in &now.instances {
            let key = (model.to_owned(), id.clone());
            let Some(was) = before.get(&key) else { continue };
            match after.get(&key) {
                None => gone.push(id.as_str()),
                Some(is) => match (is.patch == was.patch, &is.digest, &was.digest) {
                    (true, Some(is), Some(was)) if is != was => changed.push(id.clone()),
                    (false, ..) => changed.push(id.clone()),
                    _ => same += 1,
                },
            }
        }
        if let Some(first) = gone.first() {
            return Err(other(format!(
                "it has {} of model `{model}` that are not there now, such as `{first}`",
                predictions(gone.len())
            )));
        }
        let own = matches!(model, "gold" | "empty");
        if same == 0 && !changed.is_empty() && !own {
            return Err(other(format!(
                "not one of its {} of model `{model}` is the same now",
                predictions(changed.len())
            )));
        }
        changes.changed.extend(changed);
    }
    Ok(changes)
}

fn predictions(count: usize) -> String {
    if count == 1 { "1 prediction".to_owned() } else { format!("{count} predictions") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Digest;
    use crate::platform::Platform;
    use crate::run::PatchState;

    fn run() -> RunId {
        "r".parse().unwrap()
    }

    /// Settings with predictions such as `m/a=text`, for instances `a` to `d`.
    fn settings(chosen: &str, predictions: &[&str]) -> Settings {
        let submitted = predictions.iter().map(|text| {
            let (model, rest) = text.split_once('/').unwrap();
            let (id, patch) = rest.split_once('=').unwrap();
            Submitted {
                instance_id: id.to_owned(),
                model_name_or_path: model.to_owned(),
                patch: if patch.is_empty() { PatchState::Empty } else { PatchState::Text },
                digest: Some(Digest::of(patch)),
            }
        });
        Settings {
            version: String::new(),
            engine: String::new(),
            platform: Platform::default(),
            emulator: None,
            workers: 1,
            grading: "swebench".to_owned(),
            strict: false,
            repeat: 1,
            instances: chosen.chars().map(String::from).collect(),
            submitted: submitted.collect(),
            shard: None,
            shards: None,
        }
    }

    #[test]
    fn a_run_goes_on_with_the_same_predictions_and_with_more() {
        let was = settings("abcd", &["m/a=1", "m/b=2"]);
        type Case<'a> = (&'a str, &'a [&'a str], Result<(&'a [&'a str], usize), &'a str>);
        let cases: [Case<'_>; 9] = [
            ("abcd", &["m/a=1", "m/b=2"], Ok((&[], 0))),
            ("abcd", &["m/a=1", "m/b=2", "m/c=3"], Ok((&[], 0))),
            ("abcd", &["m/b=2", "n/a=1", "m/a=1"], Ok((&[], 0))),
            ("abcd", &["m/a=9", "m/b=2"], Ok((&["a"], 0))),
            ("abcd", &["m/a=", "m/b=2"], Ok((&["a"], 0))),
            ("a", &["m/a=1"], Ok((&[], 3))),
            (
                "abcd",
                &["m/a=1"],
                Err("1 prediction of model `m` that are not there now, such as `b`"),
            ),
            ("abcd", &["m/a=8", "m/b=9"], Err("not one of its 2 predictions of model `m`")),
            ("abcd", &["n/a=1", "n/b=2"], Err("it has predictions of model `m`")),
        ];
        for (chosen, predictions, wanted) in cases {
            let found = same_predictions(&run(), &was, &settings(chosen, predictions));
            match (found, wanted) {
                (Ok(found), Ok((changed, left_out))) => {
                    assert_eq!((found.changed.len(), found.left_out), (changed.len(), left_out));
                    assert_eq!(found.changed, changed, "{predictions:?}");
                }
                (Err(error), Err(text)) => {
                    assert!(error.to_string().contains(text), "{error}");
                }
                (found, wanted) => panic!("{predictions:?}: {found:?}, not {wanted:?}"),
            }
        }
    }

    #[test]
    fn the_datasets_own_patches_change_with_it_and_old_records_have_no_digest() {
        let (was, now) = (settings("ab", &["gold/a=1"]), settings("ab", &["gold/a=2"]));
        assert_eq!(same_predictions(&run(), &was, &now).unwrap().changed, ["a"]);
        let mut old = settings("ab", &["m/a=1"]);
        old.submitted[0].digest = None;
        let now = settings("ab", &["m/a=2"]);
        assert_eq!(same_predictions(&run(), &old, &now).unwrap(), Changes::default());
    }

    #[test]
    fn a_dataset_is_the_same_under_its_short_name_and_by_another_path() {
        let known = |dataset: &str| Metadata {
            dataset: dataset.to_owned(),
            split: "test".to_owned(),
            task_repo: None,
            created_at: String::new(),
            imgforge: None,
        };
        same_rows(&run(), &known("lite"), "SWE-bench/SWE-bench_Lite", "test").unwrap();
        same_rows(&run(), &known("src/lib.rs"), "./src/../src/lib.rs", "test").unwrap();
        let error = same_rows(&run(), &known("lite"), "lite", "dev").unwrap_err().to_string();
        assert!(error.contains("dataset `lite` (test), not with `lite` (dev)"), "{error}");
        same_rows(&run(), &known("demo"), "lite", "test").unwrap_err();
    }
}
