//! What was submitted: predictions, joined with the instances that they are for.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use anyhow::anyhow;

use crate::dataset::prediction::{self, Prediction};
use crate::dataset::{Instance, Refused};
use crate::key::Digest;
use crate::plan::ModelPatch;
use crate::plan::Work;
use crate::run::{PatchState, Submitted};
use crate::words;

use super::Error;
use super::Notices;

/// The predictions of a run, as they were submitted.
#[derive(Debug, Clone, Default)]
pub struct Submission {
    /// All predictions for instances of the dataset, chosen or not.
    pub submitted: Vec<Submitted>,
    /// The ids of predictions that the dataset does not have.
    pub unknown_ids: Vec<String>,
}

impl Submission {
    /// Returns the ids that each model submitted, those included that the dataset does not have.
    pub fn by_model(&self) -> BTreeMap<String, Vec<String>> {
        let mut models: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for one in &self.submitted {
            models.entry(one.model_name_or_path.clone()).or_default().push(one.instance_id.clone());
        }
        models
    }
}

/// Joins the predictions of `names` with `instances`; without names every instance is wanted once.
/// `refused` are chosen as well and cannot be used; `all` are the ids of the dataset.
pub(super) fn read(
    names: &[String],
    instances: &[Instance],
    refused: &[Refused],
    all: &HashSet<String>,
    skip_empty: bool,
    notices: &Notices,
) -> Result<(Vec<Work>, Submission), Error> {
    if names.is_empty() {
        let all = instances.iter().cloned().map(Arc::new);
        let work = all.map(|instance| Work { instance, prediction: None });
        return Ok((work.collect(), Submission::default()));
    }
    let mut join = Join::new(instances, refused, all, skip_empty);
    for name in names {
        for prediction in of_name(name, instances, refused, notices)? {
            join.add(name, prediction);
        }
    }
    let Join { mut work, submission, not_chosen, .. } = join;
    warn_unknown(&submission.unknown_ids, notices);
    warn_not_chosen(not_chosen, notices);
    if submission.submitted.is_empty() || (work.is_empty() && !skip_empty && refused.is_empty()) {
        let error =
            anyhow!("no prediction of `{}` is for an instance that is chosen", names.join("`, `"));
        return Err(Error::input(error));
    }
    work.sort_by_key(|(model, at, _)| (*model, *at));
    Ok((work.into_iter().map(|(_, _, work)| work).collect(), submission))
}

/// Reads the predictions of one name: a file, or `gold` or `empty`, which also have one for each refused
/// instance.
fn of_name(
    name: &str,
    instances: &[Instance],
    refused: &[Refused],
    notices: &Notices,
) -> Result<Vec<Prediction>, Error> {
    let (instances, refused): (&[Instance], &[Refused]) = match name {
        "gold" | "empty" => (instances, refused),
        _ => (&[], &[]),
    };
    let read = prediction::read(name, instances).map_err(|error| {
        let hint = error.hint();
        Error::input(error).with_hint(hint)
    })?;
    for twice in &read.duplicates {
        notices.warn(format!(
            "{name}: `{}` has two predictions for `{}`, at {} and {}; the last counts",
            words::shown(&twice.model),
            words::shown(&twice.instance_id),
            twice.first,
            twice.second
        ));
    }
    let of_refused = refused.iter().map(|refused| Prediction {
        instance_id: refused.instance_id.clone(),
        model_patch: None,
        model_name_or_path: name.to_owned(),
    });
    Ok(read.list.into_iter().chain(of_refused).collect())
}

/// Predictions that are being joined with instances.
struct Join<'a> {
    instances: Vec<Arc<Instance>>,
    /// The positions of the instances, by their ids.
    order: HashMap<&'a str, usize>,
    refused: HashSet<&'a str>,
    all: &'a HashSet<String>,
    skip_empty: bool,
    /// The numbers of the models, in the order in which they came.
    models: HashMap<String, usize>,
    /// Each work with the number of its model and the position of its instance.
    work: Vec<(usize, usize, Work)>,
    submission: Submission,
    /// Predictions for instances of the dataset that are not chosen.
    not_chosen: usize,
}

impl<'a> Join<'a> {
    fn new(
        instances: &'a [Instance],
        refused: &'a [Refused],
        all: &'a HashSet<String>,
        skip_empty: bool,
    ) -> Join<'a> {
        let ids = instances.iter().map(|instance| instance.instance_id.as_str());
        Join {
            instances: instances.iter().cloned().map(Arc::new).collect(),
            order: ids.enumerate().map(|(at, id)| (id, at)).collect(),
            refused: refused.iter().map(|one| one.instance_id.as_str()).collect(),
            all,
            skip_empty,
            models: HashMap::new(),
            work: Vec::new(),
            submission: Submission::default(),
            not_chosen: 0,
        }
    }

    /// Adds a prediction that was read by `name`.
    fn add(&mut self, name: &str, prediction: Prediction) {
        let Prediction { instance_id, model_patch, model_name_or_path: model } = prediction;
        if !self.all.contains(&instance_id) {
            self.submission.unknown_ids.push(instance_id);
            return;
        }
        let patch = match &model_patch {
            _ if name == "empty" => PatchState::None,
            None => PatchState::Null,
            Some(patch) if patch.is_blank() => PatchState::Empty,
            Some(_) => PatchState::Text,
        };
        self.submission.submitted.push(Submitted {
            instance_id: instance_id.clone(),
            model_name_or_path: model.clone(),
            patch,
            digest: model_patch.as_ref().map(|patch| Digest::of(patch.as_bytes())),
        });
        let Some(&at) = self.order.get(instance_id.as_str()) else {
            self.not_chosen += usize::from(!self.refused.contains(instance_id.as_str()));
            return;
        };
        if self.skip_empty && matches!(patch, PatchState::Null | PatchState::Empty) {
            return;
        }
        let count = self.models.len();
        let number = *self.models.entry(model.clone()).or_insert(count);
        let prediction = ModelPatch { model, patch: model_patch.unwrap_or_default() };
        let instance = self.instances[at].clone();
        self.work.push((number, at, Work { instance, prediction: Some(prediction) }));
    }
}

fn warn_unknown(unknown: &[String], notices: &Notices) {
    if unknown.is_empty() {
        return;
    }
    let shown: Vec<String> = unknown.iter().take(10).map(|id| words::shown(id)).collect();
    let more = match unknown.len().saturating_sub(10) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    notices.warn(format!(
        "{} {} for {} that the dataset does not have: {}{more}",
        words::count(unknown.len(), "prediction"),
        words::are(unknown.len()),
        if unknown.len() == 1 { "an instance" } else { "instances" },
        shown.join(", ")
    ));
}

fn warn_not_chosen(count: usize, notices: &Notices) {
    if count == 0 {
        return;
    }
    let (predictions, are) = (words::count(count, "prediction"), words::are(count));
    let what = match count {
        1 => "an instance that is",
        _ => "instances that are",
    };
    notices.warn(format!("{predictions} {are} for {what} not chosen"));
}
