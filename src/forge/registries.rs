//! Where images come from that are not built here, and where those go that are.

use std::path::Path;
use std::sync::Arc;

use crate::cache::archive::{Archive, ArchiveError};
use crate::cache::image_source::ImageSource;
use crate::cache::registry::RegistryCache;
use crate::catalog::{Catalog, RegistryMode};
use crate::disk;
use crate::engine::client_config;
use crate::engine::reference::{self, NotAPlace};
use crate::platform::Platform;

use super::Error;
use super::keys;
use super::open::variable;
use super::{ForgeOptions, LoadOptions};

/// Where images come from, and where they go.
pub(crate) type Remotes = (Option<Arc<dyn ImageSource>>, Option<RegistryCache>);

/// Returns where images come from and where they go.
pub(crate) fn open(
    forge: &ForgeOptions,
    wanted: &LoadOptions,
    catalog: &Catalog,
    platform: &Platform,
    scratch: &Path,
) -> Result<Remotes, Error> {
    let (sources, settings) = (&wanted.sources, catalog.cache());
    let keys = keys::trusted(sources, catalog)?;
    let registry = |name: &str| -> Result<RegistryCache, Error> {
        Ok(registry_cache(name, platform)?.trusting(keys.clone()))
    };
    let named = sources.cache_registry.as_ref().or(settings.registry.as_ref());
    let mode = sources.cache_mode.or(settings.registry_mode).unwrap_or(RegistryMode::Read);
    let writes = named.filter(|name| mode.writes() && !name.is_empty());
    let push_to = writes.map(|name| registry(name)).transpose()?;
    let push_to = match push_to {
        Some(to) if wanted.build => Some(to.signing(keys::signer(sources, &*forge.password)?)),
        to => to,
    };
    if let Some(from) = wanted.remote.as_deref() {
        let remote: Arc<dyn ImageSource> = match is_file(from) {
            false => Arc::new(registry(from)?),
            true => {
                let archive = open_archive(Path::new(from), scratch)?;
                Arc::new(archive.trusting(&keys))
            }
        };
        return Ok((Some(remote), push_to));
    }
    let reads = named.filter(|name| mode.reads() && !name.is_empty());
    let remote = reads.map(|name| registry(name)).transpose()?;
    Ok((remote.map(|remote| Arc::new(remote) as Arc<dyn ImageSource>), push_to))
}

/// Tells whether somebody means a file and not a registry: one that is there, or what is written
/// like one.
fn is_file(from: &str) -> bool {
    let written = from.starts_with(['/', '.', '~']) || from.to_ascii_lowercase().ends_with(".tar");
    let (_, has_scheme) = reference::without_scheme(from);
    !has_scheme && (written || Path::new(from).is_file())
}

/// Opens a registry as a cache.
pub(crate) fn registry_cache(registry: &str, platform: &Platform) -> Result<RegistryCache, Error> {
    let client_config = client_config::config_directory(variable);
    RegistryCache::new(registry, platform, client_config).map_err(|wrong| {
        let no_host = wrong == NotAPlace::NoHost;
        let error = anyhow::Error::new(wrong).context(format!("`{registry}` is not a registry"));
        let hint = match no_host {
            true => {
                "name the host, and a path: ghcr.io/me, docker.io/me, 127.0.0.1:5000; an archive \
                 is a file that is there, or ends with .tar"
            }
            false => "name the host, and a path: ghcr.io/me, 127.0.0.1:5000",
        };
        Error::input(error).with_hint(Some(hint.to_owned()))
    })
}

/// Opens an archive; its layers are unpacked in `scratch` on their way.
pub(crate) fn open_archive(file: &Path, scratch: &Path) -> Result<Archive, Error> {
    Archive::open(file, scratch).map_err(archive_error)
}

/// Makes the error of an archive.
pub(crate) fn archive_error(error: ArchiveError) -> Error {
    let hint = error.hint();
    match error {
        ArchiveError::Engine(_) | ArchiveError::Busy { .. } => {
            Error::environment(error).with_hint(hint)
        }
        ArchiveError::File { ref source, .. } if disk::is_full(source) => {
            Error::environment(error).with_hint(hint)
        }
        _ => Error::input(error).with_hint(hint),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_told_from_a_registry() {
        let dir = tempfile::tempdir().unwrap();
        let there = dir.path().join("ghcr.io");
        std::fs::write(&there, "x").unwrap();
        for file in
            ["./cache", "/tmp/a", "cache.tar", "dir/Cache.TAR", "~/a", there.to_str().unwrap()]
        {
            assert!(is_file(file), "{file}");
        }
        for registry in ["ghcr.io/me", "127.0.0.1:5000", "https://ghcr.io/me/", "MyOrg/images"] {
            assert!(!is_file(registry), "{registry}");
        }
    }
}
