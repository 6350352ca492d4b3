//! The bundle that is in use: where it is, and what is in it.

use std::path::{Path, PathBuf};

use crate::bundle::{self, BundleManifest};
use crate::catalog::Catalog;

use super::Error;

/// The dataset of the bundle that is in use.
pub(crate) const DATASET: &str = "bundle";

/// Returns where the bundle in use is unpacked.
pub(crate) fn dir(state_dir: &Path) -> PathBuf {
    state_dir.join("bundle")
}

/// Reads what the bundle in use holds.
pub(crate) fn used(state_dir: &Path) -> Result<BundleManifest, Error> {
    let contents = bundle::read(&dir(state_dir)).map_err(Error::environment)?;
    contents.ok_or_else(|| {
        let error = anyhow::anyhow!("no bundle is in use");
        Error::input(error).with_hint(Some("`imgforge bundle use FILE` unpacks one".to_owned()))
    })
}

/// Reads the catalog of the bundle in use.
pub(crate) fn catalog(state_dir: &Path, contents: &BundleManifest) -> Result<Catalog, Error> {
    let dir = dir(state_dir).join(bundle::CATALOG);
    let overlays: Vec<PathBuf> = contents.overlays.iter().map(|name| dir.join(name)).collect();
    Catalog::load(Some(&dir.join("images.toml")), &overlays).map_err(|error| {
        let hint = error.hint();
        Error::input(error).with_hint(hint)
    })
}
