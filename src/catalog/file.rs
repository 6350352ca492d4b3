//! The form of `images.toml`, with the place of everything that can be wrong.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use super::{Limits, Network};

/// One file, as it is written.
#[derive(Debug, Clone, Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct File {
    #[serde(default)]
    pub defaults: Defaults,
    #[serde(default)]
    pub base: BTreeMap<String, BaseTable>,
    #[serde(default, rename = "stand-in")]
    pub stand_in: BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    pub mirrors: BTreeMap<String, OneOrMany>,
    #[serde(default)]
    pub env: Vec<Spanned<EnvTable>>,
}

/// Settings that apply where nothing else is said.
#[derive(Debug, Clone, Deserialize, Default, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Defaults {
    /// The date that packages must not be newer than, where an environment has no lockfile.
    pub cutoff: Option<String>,
    /// `--namespace`.
    pub namespace: Option<String>,
    /// `--platform`.
    pub platform: Option<String>,
    /// `--max-workers`.
    pub max_workers: Option<usize>,
    /// `--git-mirror`.
    pub git_mirror: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BaseTable {
    pub python: Option<String>,
    pub from: Option<Spanned<String>>,
    pub dockerfile: Option<Spanned<String>>,
    #[serde(default)]
    pub args: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EnvTable {
    pub repo: Spanned<String>,
    pub versions: Vec<Spanned<String>>,
    pub base: Option<Spanned<String>>,
    pub python: Option<Spanned<String>>,
    pub lock: Option<Spanned<OneOrMany>>,
    #[serde(default)]
    pub packages: Vec<String>,
    #[serde(default)]
    pub requirements: Vec<OneOrMany>,
    pub cutoff: Option<String>,
    #[serde(default)]
    pub system_packages: Vec<String>,
    #[serde(default)]
    pub env_commands: Vec<String>,
    #[serde(default)]
    pub variables: BTreeMap<String, String>,
    #[serde(default)]
    pub pre_install: Vec<String>,
    #[serde(default)]
    pub install: Vec<String>,
    pub test_command: Option<String>,
    #[serde(default)]
    pub eval_commands: Vec<String>,
    #[serde(default)]
    pub network: Network,
    #[serde(default)]
    pub limits: Limits,
}

/// A string or a list of them.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub fn to_vec(&self) -> Vec<String> {
        match self {
            OneOrMany::One(one) => vec![one.clone()],
            OneOrMany::Many(many) => many.clone(),
        }
    }
}

/// Returns the line of a byte, from 1.
pub(super) fn line_of(text: &str, at: usize) -> usize {
    text[..at.min(text.len())].matches('\n').count() + 1
}
