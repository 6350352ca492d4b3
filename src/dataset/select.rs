//! Choosing instances of a dataset.

use std::collections::{HashMap, HashSet};

use regex::Regex;

use crate::nearest::nearest;

use super::{Dataset, Instance, Refused};

/// Which instances are wanted; everything when nothing is said.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Exactly these ids, in the order of the dataset.
    pub ids: Vec<String>,
    /// Ids that match.
    pub filter: Option<Regex>,
    /// Instances of this repository.
    pub repo: Option<String>,
    /// At most so many.
    pub limit: Option<usize>,
}

/// A selection that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SelectionError {
    /// Ids that the dataset lacks.
    #[error("dataset `{dataset}` does not have {}", list(unknown))]
    UnknownIds {
        /// The dataset.
        dataset: String,
        /// Each id with the nearest that there is.
        unknown: Vec<(String, Option<String>)>,
    },
    /// A repository that the dataset lacks.
    #[error("dataset `{dataset}` has no instance of `{repo}`; it has {}", repos.join(", "))]
    UnknownRepo {
        /// The dataset.
        dataset: String,
        /// The repository.
        repo: String,
        /// What it has.
        repos: Vec<String>,
    },
}

fn list(unknown: &[(String, Option<String>)]) -> String {
    let texts: Vec<String> = unknown
        .iter()
        .map(|(id, near)| match near {
            Some(near) => format!("`{id}` (the nearest is `{near}`)"),
            None => format!("`{id}`"),
        })
        .collect();
    texts.join(", ")
}

impl Selection {
    /// Chooses instances, in the order of the dataset.
    pub fn apply(&self, dataset: &Dataset) -> Result<Selected, SelectionError> {
        let known: HashMap<&str, usize> = dataset
            .instances
            .iter()
            .enumerate()
            .map(|(index, instance)| (instance.instance_id.as_str(), index))
            .chain(dataset.refused.iter().map(|one| (one.instance_id.as_str(), one.before)))
            .collect();
        let unknown: Vec<(String, Option<String>)> = self
            .ids
            .iter()
            .filter(|id| !known.contains_key(id.as_str()))
            .map(|id| (id.clone(), nearest(id, known.keys().copied())))
            .collect();
        if !unknown.is_empty() {
            return Err(SelectionError::UnknownIds { dataset: dataset.name.clone(), unknown });
        }
        if let Some(repo) = &self.repo
            && !dataset.instances.iter().any(|instance| instance.repo.eq_ignore_ascii_case(repo))
            && !dataset.refused.iter().any(|one| one.repo.as_deref() == Some(repo.as_str()))
        {
            let mut repos: Vec<String> =
                dataset.instances.iter().map(|instance| instance.repo.clone()).collect();
            repos.sort();
            repos.dedup();
            let dataset = dataset.name.clone();
            return Err(SelectionError::UnknownRepo { dataset, repo: repo.clone(), repos });
        }
        let ids: HashSet<&str> = self.ids.iter().map(String::as_str).collect();
        let chosen = |id: &str, repo: Option<&str>| {
            (ids.is_empty() || ids.contains(id))
                && self.filter.as_ref().is_none_or(|filter| filter.is_match(id))
                && self
                    .repo
                    .as_ref()
                    .is_none_or(|wanted| repo.is_none_or(|repo| repo.eq_ignore_ascii_case(wanted)))
        };
        let limit = self.limit.unwrap_or(usize::MAX);
        let mut selected = Selected::default();
        let mut refused = dataset.refused.iter().peekable();
        for before in 0..=dataset.instances.len() {
            while let Some(one) = refused.next_if(|one| one.before <= before) {
                let full = selected.instances.len() + selected.refused.len() >= limit;
                if !full && chosen(&one.instance_id, one.repo.as_deref()) {
                    selected.refused.push(one.clone());
                }
            }
            let full = selected.instances.len() + selected.refused.len() >= limit;
            let instance = dataset.instances.get(before).filter(|_| !full);
            if let Some(instance) = instance
                && chosen(&instance.instance_id, Some(&instance.repo))
            {
                selected.instances.push(instance.clone());
            }
        }
        Ok(selected)
    }
}

/// What was chosen.
#[derive(Debug, Clone, Default)]
pub struct Selected {
    /// Instances, in the order of the dataset.
    pub instances: Vec<Instance>,
    /// Instances that cannot be used.
    pub refused: Vec<Refused>,
}
