//! Exports of images: their layers, and under which descriptors a containerd store keeps those.
//!
//! The API names layers by their uncompressed digests only. The export holds the manifest, but
//! behind the layers, so that all of it has to be read: for the descriptors once for each parent and
//! process. A layer of several images is in an export once.

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::Arc;

use futures_util::StreamExt as _;
use oci_spec::image::{Descriptor, ImageManifest};
use serde::Deserialize;
use tokio_util::io::{StreamReader, SyncIoBridge};

use crate::disk;
use crate::engine::{EngineError, Image, LayerConsumer, Result};
use crate::key::{DiffId, ImageId};

use super::DockerEngine;
use super::errors::{failed, is_not_found};

/// Nothing that is larger is a manifest or a config.
const DOCUMENT_LIMIT: u64 = 4 << 20;

#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<DiffId>,
}

impl DockerEngine {
    /// Returns the descriptors of an image's layers, lowest first.
    pub(super) async fn descriptors(&self, image: &Image) -> Result<Vec<Descriptor>> {
        if image.diff_ids.is_empty() {
            return Ok(Vec::new());
        }
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
    pub(super) fn remember(&self, id: &ImageId, layers: Vec<Descriptor>) {
        let mut known = self.layers.lock().expect("no holder of the lock panics");
        known.insert(id.clone(), layers);
    }

    /// Gives the layers of images to a consumer.
    pub(super) async fn export_layers(
        &self,
        images: &[Image],
        consumer: Arc<dyn LayerConsumer>,
    ) -> Result<()> {
        let action = "export layers";
        let ids: Vec<&str> = images.iter().map(|image| image.id.as_str()).collect();
        let export = self.docker.export_images(&ids).boxed();
        let reader = StreamReader::new(export.map(|piece| piece.map_err(std::io::Error::other)));
        let mut bridge = SyncIoBridge::new(reader);
        let given = tokio::task::spawn_blocking(move || give_layers(&mut bridge, &*consumer));
        given.await.expect("reading an export does not panic").map_err(|error| match disk::is_full(
            &error,
        ) {
            true => EngineError::NoSpace { action: action.to_owned() },
            false => failed(action, bollard::errors::Error::IOError { err: error }),
        })
    }

    async fn read_descriptors(&self, image: &Image) -> Result<Vec<Descriptor>> {
        let action = format!("export `{}`", image.id);
        let export = self.docker.export_image(image.id.as_str()).boxed();
        let mut export = export.peekable();
        if let Some(Err(error)) = std::pin::Pin::new(&mut export).peek().await
            && is_not_found(error)
        {
            let reference = image.name().to_owned();
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

/// Gives every layer of an archive: `<id>/layer.tar` of Docker's own form, blobs of an OCI layout.
fn give_layers(
    archive: &mut dyn std::io::Read,
    consumer: &dyn LayerConsumer,
) -> std::io::Result<()> {
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries()? {
        let mut entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = entry.path()?.display().to_string();
        if path.ends_with("/layer.tar") {
            consumer.consume(None, &mut entry)?;
            continue;
        }
        let Some(digest) = path.strip_prefix("blobs/sha256/") else { continue };
        let mut head = [0; 4];
        let length = read_up_to(&mut entry, &mut head)?;
        let head = &head[..length];
        let mut whole = head.chain(&mut entry);
        match head {
            [b'{', ..] => {}
            [0x1f, 0x8b, ..] => {
                consumer.consume(None, &mut flate2::read::MultiGzDecoder::new(whole))?;
            }
            [0x28, 0xb5, 0x2f, 0xfd] => {
                consumer.consume(None, &mut zstd::stream::read::Decoder::new(whole)?)?;
            }
            _ => {
                // A graph driver's layer is not compressed: its name is its digest.
                let digest = DiffId::from(format!("sha256:{digest}"));
                if consumer.wants(&digest) {
                    consumer.consume(Some(&digest), &mut whole)?;
                }
            }
        }
    }
    Ok(())
}

fn read_up_to(reader: &mut impl std::io::Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match reader.read(&mut buffer[length..])? {
            0 => break,
            count => length += count,
        }
    }
    Ok(length)
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
fn layers_of(documents: &HashMap<String, Vec<u8>>, diff_ids: &[DiffId]) -> Option<Vec<Descriptor>> {
    documents.values().find_map(|document| {
        let manifest: ImageManifest = serde_json::from_slice(document).ok()?;
        let config: Config =
            serde_json::from_slice(documents.get(manifest.config().digest().as_ref())?).ok()?;
        (config.rootfs.diff_ids == diff_ids && manifest.layers().len() == diff_ids.len())
            .then(|| manifest.layers().clone())
    })
}
