//! The catalog, `images.toml`: how each (repo, version) is built and tested.
//!
//! Reads and layers the files and answers one question, [`Catalog::environment`]; it does not know
//! what an image is. Nothing is read after [`Catalog::load`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

mod amounts;
mod environment;
mod error;
mod file;
mod files;
mod ignore;
mod kubernetes;
mod layer;
pub mod lock;
pub(crate) mod python;
mod resolve;
mod row;
#[cfg(test)]
mod tests;

pub use environment::{Base, Environment, Limits, Network, TextFile};
pub use error::{CatalogError, SourceLocation};
pub use file::{CacheSettings, Defaults, RegistryMode};
pub use kubernetes::KubernetesSettings;

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

    /// Returns where pods run, and what they ask for.
    pub fn kubernetes(&self) -> &KubernetesSettings {
        &self.merged.kubernetes
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
