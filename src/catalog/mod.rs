//! The catalog, `images.toml`: how each (repo, version) is built and tested.
//!
//! Reads and layers the files and answers one question, [`Catalog::environment`]; it does not know
//! what an image is. Nothing is read after [`Catalog::load`].

use crate::context_file::ContextFile;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

mod error;
mod file;
mod files;
mod ignore;
mod layer;
pub mod lock;
pub(crate) mod python;
mod resolve;
mod row;
#[cfg(test)]
mod tests;

pub use error::{CatalogError, SourceLocation};
pub use file::{CacheSettings, Defaults, RegistryMode};

use files::Root;
use layer::{CatalogFile, MergedCatalog};

/// The catalog, read and checked.
#[derive(Debug, Clone)]
pub struct Catalog {
    merged: MergedCatalog,
}

impl Catalog {
    /// Reads the catalog: `config`, else `images.toml` in the current directory, else the copy in
    /// the binary; then `images.local.toml` beside it (or in the current directory); then each of
    /// `overlays`. A later file wins key by key.
    pub fn load(config: Option<&Path>, overlays: &[PathBuf]) -> Result<Catalog, CatalogError> {
        let here = Path::new("images.toml");
        let config = config.or_else(|| here.is_file().then_some(here));
        let (first, local) = match config {
            Some(path) => (CatalogFile::read(path)?, path.with_file_name("images.local.toml")),
            None => (CatalogFile::embedded(), PathBuf::from("images.local.toml")),
        };
        let mut layers = vec![first];
        if local.is_file() {
            layers.push(CatalogFile::read(&local)?);
        }
        for path in overlays {
            layers.push(CatalogFile::read(path)?);
        }
        Catalog::from_layers(&layers)
    }

    /// Copies the files that [`Catalog::load`] reads to a directory: `images.toml`, and below
    /// `overlays/` what is laid over it, each with the lockfiles and Dockerfiles beside it. Returns
    /// the overlays, in their order.
    pub fn copy_to(
        config: Option<&Path>,
        overlays: &[PathBuf],
        dir: &Path,
    ) -> std::io::Result<Vec<String>> {
        let here = Path::new("images.toml");
        let config = config.or_else(|| here.is_file().then_some(here));
        let mut upper = Vec::new();
        match config {
            Some(path) => {
                files::copy(path, dir, "images.toml")?;
                upper.push(path.with_file_name("images.local.toml"));
            }
            None => {
                files::copy_embedded(dir)?;
                upper.push(PathBuf::from("images.local.toml"));
            }
        }
        upper.retain(|path| path.is_file());
        upper.extend(overlays.iter().cloned());
        let mut names = Vec::new();
        for (number, path) in upper.iter().enumerate() {
            let folder = format!("overlays/{number}");
            files::copy(path, &dir.join(&folder), "images.toml")?;
            names.push(format!("{folder}/images.toml"));
        }
        Ok(names)
    }

    /// Reads the copy in the binary and nothing else.
    pub fn embedded() -> Result<Catalog, CatalogError> {
        Catalog::from_layers(&[CatalogFile::embedded()])
    }

    fn from_layers(layers: &[CatalogFile]) -> Result<Catalog, CatalogError> {
        let mut merged = MergedCatalog::default();
        for layer in layers {
            merged.add(layer)?;
        }
        merged.finish()?;
        Ok(Catalog { merged })
    }

    /// Returns other git sources by repo: URLs or folders, tried in order.
    pub fn mirrors(&self) -> &BTreeMap<String, Vec<String>> {
        &self.merged.mirrors
    }

    /// Returns the settings that the files hold.
    pub fn defaults(&self) -> &Defaults {
        &self.merged.defaults
    }

    /// Returns how the cache is bounded and shared.
    pub fn cache(&self) -> &CacheSettings {
        &self.merged.cache
    }

    /// Returns the files of the public keys that images need a signature of, each with where it is named.
    pub fn trusted_keys(&self) -> &[(SourceLocation, PathBuf)] {
        &self.merged.trusted_keys
    }

    /// Tells whether the catalog says something of this one instance, such as a lockfile of its own.
    pub fn names_instance(&self, repo: &str, version: &str, instance_id: &str) -> bool {
        let settings = self.merged.repos.get(repo).and_then(|versions| versions.get(version));
        settings.is_some_and(|settings| {
            settings.instances.contains_key(instance_id)
                || settings.instance_python.contains_key(instance_id)
        })
    }

    /// Returns every repo with its versions.
    pub fn versions(&self) -> impl Iterator<Item = (&str, impl Iterator<Item = &str>)> {
        self.merged
            .repos
            .iter()
            .map(|(repo, versions)| (repo.as_str(), versions.keys().map(String::as_str)))
    }
}

impl CatalogFile {
    fn embedded() -> CatalogFile {
        CatalogFile {
            file: "images.toml".to_owned(),
            text: files::CONFIG.to_owned(),
            root: Root::Embedded,
        }
    }

    fn read(path: &Path) -> Result<CatalogFile, CatalogError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| CatalogError::Read { path: path.to_owned(), source })?;
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        Ok(CatalogFile { file: path.display().to_string(), text, root: Root::Folder(folder) })
    }
}

/// How one (repo, version) is built and tested, with every file that it names already read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// `owner/name`.
    pub repo: String,
    /// The version, as the dataset spells it.
    pub version: String,
    /// What the environment stands on.
    pub base: Base,
    /// The language version that the benchmark asks for, to the patch level where it is known.
    pub wanted_python: String,
    /// The language version that the base offers; another than `wanted_python` stands in for it.
    pub python: String,
    /// Pinned lockfiles, installed in this order. When there are any, `requirements` is empty.
    pub locks: Vec<TextFile>,
    /// Requirement specifiers that are installed as they are (unpinned ones need `cutoff`).
    pub packages: Vec<String>,
    /// Requirement files of the repository, read at the environment's setup commit; of each group
    /// the first that exists there is used.
    pub requirements: Vec<Vec<String>>,
    /// Packages uploaded after this date (`YYYY-MM-DD`) are not considered.
    pub cutoff: Option<String>,
    /// Debian packages that the environment installs.
    pub system_packages: Vec<String>,
    /// Shell commands that end the making of the environment.
    pub env_commands: Vec<String>,
    /// Environment variables of the environment's image (and so of the tests).
    pub variables: BTreeMap<String, String>,
    /// Shell commands in the checkout before the installation.
    pub pre_install: Vec<String>,
    /// Shell commands that install the checkout; empty when nothing is to be done.
    pub install: Vec<String>,
    /// The test command.
    pub test_command: String,
    /// Shell commands before the test command (`eval_commands` of the benchmark).
    pub eval_commands: Vec<String>,
    /// The network that tests need.
    pub network: Network,
    /// Limits of a test run.
    pub limits: Limits,
    /// What a person should know of it, such as a requirement that was replaced.
    pub notes: Vec<String>,
}

/// A base image: a Dockerfile with its context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// The name in `images.toml`, for people.
    pub name: String,
    /// Where the Dockerfile is, for people.
    pub path: String,
    /// The Dockerfile's text as it is on disk.
    pub dockerfile: String,
    /// The other files beside the Dockerfile.
    pub context: Vec<ContextFile>,
    /// Build arguments.
    pub args: BTreeMap<String, String>,
}

/// A text file that a catalog entry names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextFile {
    /// As the catalog spells it: what people are shown.
    pub path: String,
    /// The text.
    pub text: String,
}

/// The network of a test run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Only loopback.
    #[default]
    None,
    /// The engine's default network.
    Bridge,
    /// The network of the host.
    Host,
    /// Only loopback, with an httpbin server on it.
    Httpbin,
}

/// Limits of a test run; `None` leaves it to `[defaults]`, or to what is built in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Seconds.
    pub timeout: Option<u64>,
    /// Bytes.
    pub memory: Option<u64>,
    /// Processors, in thousandths.
    pub milli_cpus: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

impl Limits {
    /// Takes from `other` what is not set here.
    #[must_use]
    pub fn or(self, other: Limits) -> Limits {
        Limits {
            timeout: self.timeout.or(other.timeout),
            memory: self.memory.or(other.memory),
            milli_cpus: self.milli_cpus.or(other.milli_cpus),
            pids: self.pids.or(other.pids),
        }
    }
}
