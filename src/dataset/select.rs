//! Choosing instances of a dataset.

use std::collections::HashSet;

use regex::Regex;

use crate::nearest::nearest;

use super::{Dataset, Instance, Refused};

/// Which instances are wanted; everything when nothing is said.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Exactly these ids, in the order of the dataset.
    pub ids: Vec<String>,
    /// None of these ids.
    pub exclude: Vec<String>,
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

/// Returns the id that another spelling stands for: that of an image, `owner/name-1`, or only its
/// end; else one that resembles it.
pub fn nearest_id(text: &str, known: &HashSet<&str>) -> Option<String> {
    let lower = text.trim().to_ascii_lowercase();
    let name = lower.rsplit_once("sweb.eval.").and_then(|(_, rest)| rest.split_once('.'));
    let name = name.map_or(lower.as_str(), |(_, name)| name.split(':').next().unwrap_or(name));
    let name = name.replace("_1776_", "__").replace('/', "__");
    let of = |fits: &dyn Fn(&str) -> bool| {
        known.iter().filter(|id| fits(&id.to_ascii_lowercase())).min().map(|id| (*id).to_owned())
    };
    let ends = |id: &str| {
        let before = id.strip_suffix(&name);
        !name.is_empty() && before.is_some_and(|before| before.ends_with(['_', '-', '.']))
    };
    of(&|id| id == name).or_else(|| of(&ends)).or_else(|| nearest(text, known.iter().copied()))
}

impl Selection {
    /// Chooses instances, in the order of the dataset.
    pub fn apply(&self, dataset: &Dataset) -> Result<Selected, SelectionError> {
        let known: HashSet<&str> = dataset.ids().collect();
        let unknown: Vec<(String, Option<String>)> = self
            .ids
            .iter()
            .chain(&self.exclude)
            .filter(|id| !known.contains(id.as_str()))
            .map(|id| (id.clone(), nearest_id(id, &known)))
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
        let exclude: HashSet<&str> = self.exclude.iter().map(String::as_str).collect();
        let chosen = |id: &str, repo: Option<&str>| {
            (ids.is_empty() || ids.contains(id))
                && !exclude.contains(id)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_found_by_other_spellings_of_it() {
        let known = HashSet::from(["pallets__flask-4045", "pallets__flask-5063", "a__B-1"]);
        for (text, wanted) in [
            ("flask-4045", "pallets__flask-4045"),
            ("5063", "pallets__flask-5063"),
            ("pallets/flask-5063", "pallets__flask-5063"),
            ("swebench/sweb.eval.x86_64.pallets_1776_flask-4045:latest", "pallets__flask-4045"),
            ("A__b-1", "a__B-1"),
            ("pallets__flask-4054", "pallets__flask-4045"),
        ] {
            assert_eq!(nearest_id(text, &known).as_deref(), Some(wanted), "{text}");
        }
        assert_eq!(nearest_id("lask-4045x", &known).as_deref(), None);
        assert_eq!(nearest_id("", &known), None);
    }
}
