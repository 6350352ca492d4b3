//! The form of `images.toml`: what a person may write, and where it was written.
//!
//! Knows the keys and their types; what they mean together is [`super::layer`]'s business.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use crate::nearest::nearest;

use super::amounts::{cpus, memory, size};
use super::environment::{Limits, Network};
use super::error::CatalogError;
use super::kubernetes::KubernetesSettings;

/// One catalog file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct CatalogSchema {
    pub defaults: Defaults,
    pub cache: CacheSettings,
    pub kubernetes: KubernetesSettings,
    pub mirrors: BTreeMap<String, Vec<String>>,
    #[serde(rename = "stand-in")]
    pub stand_in: BTreeMap<String, Spanned<String>>,
    pub base: BTreeMap<Spanned<String>, BaseForm>,
    pub repo: BTreeMap<String, Entry>,
}

/// Settings that `images.toml` may hold: below flags and environment variables, above the
/// built-in defaults. Spelled as the options are.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Defaults {
    /// `docker`, `embedded` or `auto`.
    pub engine: Option<String>,
    /// The registry namespace of prebuilt images; empty or `none` builds everything here.
    pub namespace: Option<String>,
    /// Such as `linux/amd64`.
    pub platform: Option<String>,
    /// How many nodes run at once.
    pub max_workers: Option<usize>,
    /// Make base images from Debian's packages where they cannot be pulled.
    pub bootstrap: Option<bool>,
    /// Templates of git sources, tried in order.
    pub git_mirrors: Option<Vec<String>>,
    /// Seconds that the tests of an instance may take, where its repository's entry does not say.
    #[serde(deserialize_with = "timeout")]
    pub timeout: Option<u64>,
    /// Memory of a test run, such as `4g`, where its repository's entry does not say.
    #[serde(deserialize_with = "memory")]
    pub memory: Option<u64>,
    /// Processors of a test run, in thousandths, where its repository's entry does not say.
    #[serde(rename = "cpus", deserialize_with = "cpus")]
    pub milli_cpus: Option<u64>,
    /// Processes of a test run, where its repository's entry does not say.
    #[serde(deserialize_with = "pids_limit")]
    pub pids_limit: Option<u64>,
    /// What a test run can reach, where its repository's entry does not say.
    #[serde(deserialize_with = "network")]
    pub network: Option<Network>,
}

impl Defaults {
    /// Takes every setting that `upper` has.
    pub(super) fn apply(&mut self, upper: Defaults) {
        macro_rules! take {
            ($($field:ident),*) => { $( if upper.$field.is_some() { self.$field = upper.$field; } )* };
        }
        take!(engine, namespace, platform, max_workers, bootstrap, git_mirrors);
        take!(timeout, memory, milli_cpus, pids_limit, network);
    }

    /// Returns the limits of test runs.
    pub fn limits(&self) -> Limits {
        Limits {
            timeout: self.timeout,
            memory: self.memory,
            milli_cpus: self.milli_cpus,
            pids: self.pids_limit,
        }
    }
}

/// `[cache]`: what the cache is bounded to, and the registry that it is shared through.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct CacheSettings {
    /// The most bytes of images that every build leaves.
    #[serde(deserialize_with = "size")]
    pub keep_bytes: Option<u64>,
    /// Days after which an image goes that no run needed.
    pub keep_days: Option<u32>,
    /// Registry and path, such as `ghcr.io/me/swebench`.
    pub registry: Option<String>,
    /// What the registry is used for.
    pub registry_mode: Option<RegistryMode>,
    /// The files of public keys: an image that none of them signed is as if it were not there.
    pub(super) verify: Option<Vec<Spanned<String>>>,
}

/// What a registry is used for as a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum RegistryMode {
    /// Images that it has are pulled instead of built.
    Read,
    /// Images that were built are pushed.
    Write,
    /// Both.
    ReadWrite,
}

impl RegistryMode {
    /// Tells whether images are pulled.
    pub fn reads(self) -> bool {
        self != RegistryMode::Write
    }

    /// Tells whether images are pushed.
    pub fn writes(self) -> bool {
        self != RegistryMode::Read
    }
}

impl CacheSettings {
    /// Takes every setting that `upper` has.
    pub(super) fn apply(&mut self, upper: CacheSettings) {
        self.keep_bytes = upper.keep_bytes.or(self.keep_bytes);
        self.keep_days = upper.keep_days.or(self.keep_days);
        self.registry = upper.registry.or(self.registry.take());
        self.registry_mode = upper.registry_mode.or(self.registry_mode);
    }
}

/// Reads a number that is not below `least`.
fn at_least<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
    least: u64,
) -> Result<Option<u64>, D::Error> {
    match u64::deserialize(deserializer)? {
        number if number >= least => Ok(Some(number)),
        number => {
            Err(serde::de::Error::custom(format!("{number} is too little: at least {least}")))
        }
    }
}

fn timeout<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    at_least(deserializer, 1)
}

fn pids_limit<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    at_least(deserializer, 16)
}

/// Reads a network that every test run may have: the service of `httpbin` is part of environments.
fn network<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Network>, D::Error> {
    match Network::deserialize(deserializer)? {
        Network::Httpbin => Err(serde::de::Error::custom("expected none, bridge or host")),
        network => Ok(Some(network)),
    }
}

/// `[base.<name>]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct BaseForm {
    pub from: Option<Spanned<String>>,
    pub python: Option<String>,
    pub dockerfile: Option<Spanned<String>>,
    pub args: BTreeMap<String, String>,
}

/// `[repo."owner/name"]`, `[[repo."owner/name".env]]`, or what holds under a stand-in: every key
/// is optional, and an inner entry starts from what the outer one says.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Entry {
    pub versions: Vec<Spanned<String>>,
    pub base: Option<Spanned<String>>,
    pub python: Option<Spanned<String>>,
    pub lock: Option<Spanned<LockForm>>,
    pub instances: BTreeMap<String, Spanned<LockForm>>,
    pub instance_python: BTreeMap<String, Spanned<String>>,
    pub packages: Option<Vec<String>>,
    pub requirements: Option<Vec<Vec<String>>>,
    pub cutoff: Option<String>,
    pub system_packages: Option<Vec<String>>,
    pub env_commands: Option<Vec<String>>,
    pub variables: BTreeMap<String, String>,
    pub pre_install: Option<Vec<String>>,
    pub install: Option<Vec<String>>,
    pub test_command: Option<String>,
    pub eval_commands: Option<Vec<String>>,
    pub network: Option<Network>,
    pub limits: Option<Limits>,
    pub env: Vec<Entry>,
    #[serde(rename = "stand-in")]
    pub stand_in: BTreeMap<String, Entry>,
}

/// A lockfile: one, or one for each Python. `{version}` stands for the version.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected a path, or a table of paths by Python version")]
pub(super) enum LockForm {
    /// For the Python that the entry asks for.
    One(String),
    /// By the Python that is used.
    ByPython(BTreeMap<String, String>),
}

/// Reads the text of a catalog file.
pub(super) fn parse(file: &str, text: &str) -> Result<CatalogSchema, CatalogError> {
    toml::from_str(text).map_err(|error| {
        let message = error.message().to_owned();
        CatalogError::Form {
            file: file.to_owned(),
            line: line_of(text, error.span().map_or(0, |span| span.start)),
            nearest: nearest_key(&message),
            message,
        }
    })
}

/// Finds the nearest of the known keys that serde lists: "unknown field `a`, expected one of …".
fn nearest_key(message: &str) -> Option<String> {
    let mut names = message.strip_prefix("unknown field ")?.split('`').skip(1).step_by(2);
    let unknown = names.next()?;
    nearest(unknown, names)
}

/// Returns the line, from 1, of a byte offset.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    memchr::memchr_iter(b'\n', &text.as_bytes()[..offset.min(text.len())]).count() + 1
}
