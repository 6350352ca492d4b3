//! The rows of a dataset that a command is about.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use anyhow::anyhow;

use crate::bundle as form;
use crate::dataset::{self, Dataset, HubSettings, Instance, Refused, Selected, Selection};

use super::bundle;
use super::open::{open_store, state_dir, variable};
use super::{Chosen, Failure, Global};

/// Reads the dataset that was asked for. The bundled ones are below `state_dir`.
pub async fn read_dataset(
    name: &str,
    split: &str,
    state_dir: &Path,
) -> Result<(Dataset, BTreeMap<String, Vec<String>>), Failure> {
    if name == "demo" {
        if dataset::demo::is_another(Path::new(name)) {
            super::render::warn("`demo` is the bundled dataset; `./demo` is the one here");
        }
        if split != "test" {
            let name = name.to_owned();
            let error = dataset::DatasetError::UnknownSplit {
                name,
                split: split.to_owned(),
                splits: vec!["test".to_owned()],
            };
            return Err(Failure::input(error));
        }
        let demo =
            dataset::demo::materialise(&state_dir.join("demo")).map_err(Failure::environment)?;
        return Ok((demo.dataset, demo.mirrors));
    }
    if name == bundle::DATASET {
        let contents = bundle::used(state_dir)?;
        let rows = bundle::dir(state_dir).join(form::ROWS);
        let hub = hub();
        let read = dataset::load(&rows.display().to_string(), split, &hub).await;
        let read = read.map_err(Failure::environment)?;
        return Ok((Dataset { origin: contents.dataset, ..read }, BTreeMap::new()));
    }
    let hub = hub();
    let waiting = super::progress::wait(format!("reading the dataset {name}"));
    let dataset = dataset::load(name, split, &hub).await;
    drop(waiting);
    let dataset = dataset.map_err(|error| {
        let hint = error.hint();
        match error.is_environment() {
            true => Failure::environment(error).hint(hint),
            false => Failure::input(error).hint(hint),
        }
    })?;
    if let Some(note) = &dataset.note {
        super::render::warn(note);
    }
    Ok((dataset, BTreeMap::new()))
}

/// Chosen instances of a dataset.
pub struct ChosenInstances {
    /// Those that are chosen, in the order of the dataset.
    pub instances: Vec<Instance>,
    /// Those that are chosen and cannot be used.
    pub refused: Vec<Refused>,
    /// The ids of all instances of the dataset.
    pub all: HashSet<String>,
    /// The path of the dataset, or its id on the hub.
    pub origin: String,
    /// Where the repositories of the bundled dataset are.
    pub mirrors: BTreeMap<String, Vec<String>>,
}

/// Reads a dataset and chooses instances.
pub async fn choose(chosen: &Chosen, state_dir: &Path) -> Result<ChosenInstances, Failure> {
    let (dataset, mirrors) = read_dataset(&chosen.dataset, &chosen.split, state_dir).await?;
    let known: HashSet<&str> = dataset.ids().collect();
    let is_id = |text: &str| known.contains(text);
    let ids = super::chosen::ids(&chosen.instance_ids, is_id)?;
    if ids.is_empty() && !chosen.instance_ids.is_empty() {
        return Err(Failure::input(anyhow!("-i names no instance")));
    }
    let selection = Selection {
        ids,
        exclude: super::chosen::ids(&chosen.exclude, is_id)?,
        filter: chosen.filter.clone(),
        repo: chosen.repo.clone(),
        limit: chosen.limit,
    };
    let Selected { instances, refused } = selection.apply(&dataset).map_err(Failure::input)?;
    if instances.is_empty() && refused.is_empty() {
        return Err(Failure::input(anyhow!("no instance of `{}` is chosen", dataset.name)));
    }
    let origin = dataset.origin;
    let bad = dataset.refused.into_iter().map(|refused| refused.instance_id);
    let good = dataset.instances.into_iter().map(|instance| instance.instance_id);
    let all = good.chain(bad).collect();
    Ok(ChosenInstances { instances, refused, all, origin, mirrors })
}

/// Reads a dataset and chooses instances, for what opens no state but that of a bundle's rows.
pub async fn choose_rows(global: &Global, chosen: &Chosen) -> Result<ChosenInstances, Failure> {
    if chosen.dataset == bundle::DATASET {
        open_store(global)?;
    }
    choose(chosen, &state_dir(global)).await
}

/// Returns the settings of the hub.
fn hub() -> HubSettings {
    let hub = HubSettings::from_env(variable);
    HubSettings { offline: hub.offline || crate::offline::is_on(), ..hub }
}
