//! What was submitted: predictions, joined with the instances that they are for.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use anyhow::anyhow;

use crate::dataset::prediction::{self, Prediction};
use crate::dataset::{Instance, Refused};
use crate::key::Digest;
use crate::plan::Work;
use crate::plan::build::ModelPatch;
use crate::run::{PatchState, Submitted};
use crate::words;

use super::Error;
use super::Notices;

/// What the predictions of a run were.
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
pub fn read(
    names: &[String],
    instances: &[Instance],
    refused: &[Refused],
    all: &HashSet<String>,
    skip_empty: bool,
    notices: &Notices,
) -> Result<(Vec<Work>, Submission), Error> {
    let instances: Vec<Arc<Instance>> = instances.iter().cloned().map(Arc::new).collect();
    if names.is_empty() {
        let work = instances.into_iter().map(|instance| Work { instance, prediction: None });
        return Ok((work.collect(), Submission::default()));
    }
    let order: HashMap<&str, usize> = instances
        .iter()
        .enumerate()
        .map(|(at, instance)| (instance.instance_id.as_str(), at))
        .collect();
    let mut work: Vec<(usize, usize, Work)> = Vec::new();
    let mut models: HashMap<String, usize> = HashMap::new();
    let mut submission = Submission::default();
    let mut not_chosen = 0;
    for name in names {
        let plain: Vec<Instance> = match name.as_str() {
            "gold" | "empty" => instances.iter().map(|instance| (**instance).clone()).collect(),
            _ => Vec::new(),
        };
        let read = prediction::read(name, &plain).map_err(|error| {
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
        let own = match name.as_str() {
            "gold" | "empty" => refused,
            _ => &[],
        };
        let own = own.iter().map(|refused| Prediction {
            instance_id: refused.instance_id.clone(),
            model_patch: None,
            model_name_or_path: name.clone(),
        });
        for prediction in read.list.into_iter().chain(own) {
            if !all.contains(&prediction.instance_id) {
                submission.unknown_ids.push(prediction.instance_id);
                continue;
            }
            let patch = match &prediction.model_patch {
                _ if name == "empty" => PatchState::None,
                None => PatchState::Null,
                Some(patch) if patch.is_blank() => PatchState::Empty,
                Some(_) => PatchState::Text,
            };
            submission.submitted.push(Submitted {
                instance_id: prediction.instance_id.clone(),
                model_name_or_path: prediction.model_name_or_path.clone(),
                patch,
                digest: prediction.model_patch.as_ref().map(|patch| Digest::of(patch.as_bytes())),
            });
            let Some(&at) = order.get(prediction.instance_id.as_str()) else {
                let is_refused =
                    refused.iter().any(|one| one.instance_id == prediction.instance_id);
                not_chosen += usize::from(!is_refused);
                continue;
            };
            if skip_empty && matches!(patch, PatchState::Null | PatchState::Empty) {
                continue;
            }
            let count = models.len();
            let model = *models.entry(prediction.model_name_or_path.clone()).or_insert(count);
            let model_patch = ModelPatch {
                model: prediction.model_name_or_path,
                patch: prediction.model_patch.unwrap_or_default(),
            };
            let one = Work { instance: instances[at].clone(), prediction: Some(model_patch) };
            work.push((model, at, one));
        }
    }
    let unknown = &submission.unknown_ids;
    if !unknown.is_empty() {
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
    if not_chosen > 0 {
        let (predictions, are) = (words::count(not_chosen, "prediction"), words::are(not_chosen));
        let what = match not_chosen {
            1 => "an instance that is",
            _ => "instances that are",
        };
        notices.warn(format!("{predictions} {are} for {what} not chosen"));
    }
    if submission.submitted.is_empty() || (work.is_empty() && !skip_empty && refused.is_empty()) {
        let error =
            anyhow!("no prediction of `{}` is for an instance that is chosen", names.join("`, `"));
        return Err(Error::input(error));
    }
    work.sort_by_key(|(model, at, _)| (*model, *at));
    Ok((work.into_iter().map(|(_, _, work)| work).collect(), submission))
}
