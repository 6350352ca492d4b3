//! Reading from an image's export under which descriptors a containerd store keeps its layers.
//!
//! The API names layers by their uncompressed digests only. The export holds the manifest, but
//! behind the layers, so that all of it has to be read: once for each parent and process.

use std::collections::HashMap;
use std::io::Read as _;

use futures_util::StreamExt as _;
use serde::Deserialize;
use tokio_util::io::{StreamReader, SyncIoBridge};

use crate::engine::{EngineError, Image, Result};

use super::DockerEngine;
use super::archive::Descriptor;
use super::errors::{failed, is_not_found};

/// Nothing that is larger is a manifest or a config.
const DOCUMENT_LIMIT: u64 = 4 << 20;

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

impl DockerEngine {
    /// Returns the descriptors of an image's layers, lowest first.
    pub(super) async fn descriptors(&self, image: &Image) -> Result<Vec<Descriptor>> {
        if let Some(known) =
            self.layers.lock().expect("no holder of the lock panics").get(&image.id)
        {
            return Ok(known.clone());
        }
        let found = self.read_descriptors(image).await?;
        self.remember(&image.id, found.clone());
        Ok(found)
    }

    /// Keeps the descriptors of an image that was loaded.
    pub(super) fn remember(&self, id: &str, layers: Vec<Descriptor>) {
        let mut known = self.layers.lock().expect("no holder of the lock panics");
        known.insert(id.to_owned(), layers);
    }

    async fn read_descriptors(&self, image: &Image) -> Result<Vec<Descriptor>> {
        let action = format!("export `{}`", image.id);
        let export = self.docker.export_image(&image.id).boxed();
        let mut export = export.peekable();
        if let Some(Err(error)) = std::pin::Pin::new(&mut export).peek().await
            && is_not_found(error)
        {
            let reference = image.tags.first().unwrap_or(&image.id).clone();
            return Err(EngineError::NoSuchImage { reference });
        }
        let reader = StreamReader::new(export.map(|piece| piece.map_err(std::io::Error::other)));
        let bridge = SyncIoBridge::new(reader);
        let documents = tokio::task::spawn_blocking(move || documents(bridge));
        let documents = documents.await.expect("reading an export does not panic");
        let documents = documents
            .map_err(|error| failed(&action, bollard::errors::Error::IOError { err: error }))?;
        layers_of(&documents, &image.diff_ids).ok_or_else(|| EngineError::Refused {
            action,
            reason: "the export has no manifest of the image's layers".to_owned(),
        })
    }
}

/// Collects the JSON documents of an archive by their digests.
fn documents(archive: impl std::io::Read) -> std::io::Result<HashMap<String, Vec<u8>>> {
    let mut documents = HashMap::new();
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries()? {
        let mut entry = entry?;
        if entry.size() > DOCUMENT_LIMIT {
            continue;
        }
        let path = entry.path()?.display().to_string();
        let Some(digest) = path.strip_prefix("blobs/sha256/") else { continue };
        let digest = format!("sha256:{digest}");
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        if bytes.starts_with(b"{") {
            documents.insert(digest, bytes);
        }
    }
    Ok(documents)
}

/// Finds the manifest whose config has exactly these layers: an image for several platforms has
/// more than one.
fn layers_of(documents: &HashMap<String, Vec<u8>>, diff_ids: &[String]) -> Option<Vec<Descriptor>> {
    documents.values().find_map(|document| {
        let manifest: Manifest = serde_json::from_slice(document).ok()?;
        let config: Config =
            serde_json::from_slice(documents.get(&manifest.config.digest)?).ok()?;
        (config.rootfs.diff_ids == diff_ids && manifest.layers.len() == diff_ids.len())
            .then_some(manifest.layers)
    })
}
