//! The rows of a dataset that a command is about.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use anyhow::{Context as _, anyhow};

use crate::bundle as form;
use crate::dataset::{self, Dataset, HubSettings, Instance, Refused, Selected};

use super::bundle_in_use;
use super::open::variable;
use super::{Error, ForgeOptions, Notices, Selection};

/// Reads the dataset that was asked for. The bundled ones are below `state_dir`.
pub(crate) async fn read_dataset(
    name: &str,
    split: &str,
    state_dir: &Path,
    notices: &Notices,
) -> Result<(Dataset, BTreeMap<String, Vec<String>>), Error> {
    if name == "demo" {
        if dataset::demo::is_another(Path::new(name)) {
            notices.warn("`demo` is the bundled dataset; `./demo` is the one here");
        }
        if split != "test" {
            let name = name.to_owned();
            let error = dataset::DatasetError::UnknownSplit {
                name,
                split: split.to_owned(),
                splits: vec!["test".to_owned()],
            };
            return Err(Error::input(error));
        }
        let demo =
            dataset::demo::materialise(&state_dir.join("demo")).map_err(Error::environment)?;
        return Ok((demo.dataset, demo.mirrors));
    }
    if name == bundle_in_use::DATASET {
        let contents = bundle_in_use::used(state_dir)?;
        let rows = bundle_in_use::dir(state_dir).join(form::ROWS);
        let hub = hub();
        let read = dataset::load(&rows.display().to_string(), split, &hub).await;
        let read = read.map_err(Error::environment)?;
        return Ok((Dataset { origin: contents.dataset, ..read }, BTreeMap::new()));
    }
    let hub = hub();
    let waiting = notices.wait(format!("reading the dataset {name}"));
    let dataset = dataset::load(name, split, &hub).await;
    drop(waiting);
    let dataset = dataset.map_err(|error| {
        let hint = error.hint();
        match error.is_environment() {
            true => Error::environment(error).with_hint(hint),
            false => Error::input(error).with_hint(hint),
        }
    })?;
    if let Some(note) = &dataset.note {
        notices.warn(note);
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
pub(crate) async fn choose(
    chosen: &Selection,
    state_dir: &Path,
    notices: &Notices,
) -> Result<ChosenInstances, Error> {
    let read = read_dataset(&chosen.dataset, &chosen.split, state_dir, notices);
    let (dataset, mirrors) = read.await?;
    let known: HashSet<&str> = dataset.ids().collect();
    let is_id = |text: &str| known.contains(text);
    let named = ids(&chosen.instance_ids, is_id)?;
    if named.is_empty() && !chosen.instance_ids.is_empty() {
        return Err(Error::input(anyhow!("-i names no instance")));
    }
    let selection = dataset::Selection {
        ids: named,
        exclude: ids(&chosen.exclude, is_id)?,
        filter: chosen.filter.clone(),
        repo: chosen.repo.clone(),
        limit: chosen.limit,
    };
    let Selected { instances, refused } = selection.apply(&dataset).map_err(Error::input)?;
    if instances.is_empty() && refused.is_empty() {
        return Err(Error::input(anyhow!("no instance of `{}` is chosen", dataset.name)));
    }
    let origin = dataset.origin;
    let bad = dataset.refused.into_iter().map(|refused| refused.instance_id);
    let good = dataset.instances.into_iter().map(|instance| instance.instance_id);
    let all = good.chain(bad).collect();
    Ok(ChosenInstances { instances, refused, all, origin, mirrors })
}

impl ForgeOptions {
    /// Reads a dataset and chooses instances, for what opens no state but that of a bundle's rows.
    pub async fn choose(&self, selection: &Selection) -> Result<ChosenInstances, Error> {
        if selection.dataset == bundle_in_use::DATASET {
            self.open_store()?;
        }
        choose(selection, &self.state_dir(), &self.notices).await
    }
}

/// Returns the settings of the hub.
fn hub() -> HubSettings {
    let hub = HubSettings::from_env(variable);
    HubSettings { offline: hub.offline || crate::offline::is_on(), ..hub }
}

/// Reads lists of ids as people write them: with commas or white space between them; `@FILE` is a
/// file of them, and `@-` the standard input. What `is_id` knows is one id, whatever is in it.
pub(crate) fn ids(texts: &[String], is_id: impl Fn(&str) -> bool) -> Result<Vec<String>, Error> {
    let mut ids = Vec::new();
    for text in texts {
        match text.strip_prefix('@') {
            _ if is_id(text) => ids.push(text.clone()),
            Some(file) => ids.extend(of_file(file)?),
            None => ids.extend(split(text)),
        }
    }
    Ok(ids)
}

/// Reads a file of ids: a list as JSON, or words; a line that begins with `#` is a comment.
fn of_file(file: &str) -> Result<Vec<String>, Error> {
    let read = match file {
        "-" => std::io::read_to_string(std::io::stdin()),
        path => std::fs::read_to_string(path),
    };
    let text = read.with_context(|| format!("cannot read `{file}`")).map_err(Error::input)?;
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.starts_with(['[', '{']) {
        return serde_json::from_str(text)
            .with_context(|| format!("`{file}` is no list of ids"))
            .map_err(Error::input);
    }
    Ok(text.lines().filter(|line| !line.trim_start().starts_with('#')).flat_map(split).collect())
}

fn split(text: &str) -> impl Iterator<Item = String> {
    let parts = text.split(|c: char| c == ',' || c.is_whitespace());
    parts.filter(|part| !part.is_empty()).map(str::to_owned)
}
