//! Registries: pulling and pushing images, blob by blob.
//!
//! Only blobs that are not here, or there, travel. What came of a blob stays when the connection
//! breaks, and the next try goes on from there; nothing is kept under a digest that is not its own.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use oci_spec::image::{Descriptor, ImageManifest, MediaType};

use crate::engine::reference::Reference;
use crate::engine::registry::{Access, RegistryClient};
use crate::engine::retry::retried;
use crate::engine::{EngineError, Image, LogSink, PushSummary, Result, check_platform, config};
use crate::key::Digest;
use crate::platform::Platform;
use crate::retry::TRANSFER;

use super::EmbeddedEngine;
use super::layers::layers_of;
use super::layout::{Stored, familiar, file_error};

/// How many blobs travel at once.
const AT_ONCE: usize = 3;

impl EmbeddedEngine {
    pub(super) async fn pull_image(
        &self,
        reference: &Reference,
        platform: &Platform,
        log: &dyn LogSink,
    ) -> Result<Image> {
        if crate::offline::is_on() {
            let (reference, reason) = (reference.to_string(), crate::offline::WHY.to_owned());
            return Err(EngineError::Pull { reference, reason });
        }
        let remote = self.remote(Access::Pull, reference, log).await?;
        let stored =
            retried(log, TRANSFER, || self.pull_once(&remote, reference, platform, log)).await?;
        self.unpack(&stored, log).await?;
        if !reference.as_str().contains('@') {
            self.layout.name(&stored, &familiar(reference.as_str()))?;
        }
        let repository = familiar(reference.as_str());
        let repository = crate::engine::reference::split_tag(&repository).0;
        self.layout.name_digest(&stored, &format!("{repository}@{}", stored.digest))?;
        log.write(format!("Digest: {}\n", stored.digest).as_bytes());
        let image = self.inspect_image(stored.id.as_str())?;
        image.ok_or_else(|| EngineError::NoSuchImage { reference: reference.to_string() })
    }

    async fn pull_once(
        &self,
        remote: &RegistryClient,
        reference: &Reference,
        platform: &Platform,
        log: &dyn LogSink,
    ) -> Result<Arc<Stored>> {
        let (text, digest) = remote.manifest(platform).await?;
        let manifest: ImageManifest = serde_json::from_slice(&text)
            .map_err(|error| remote.refused(format!("its manifest cannot be read: {error}")))?;
        let blob = manifest.config();
        if !self.layout.takes_up(blob.digest().as_ref(), blob.size()) {
            self.fetch(remote, blob, log).await?;
        }
        // A manifest that is not in a list came whatever it is for.
        let path = self.layout.blob(blob.digest().as_ref());
        let read = std::fs::read(&path).map_err(file_error("read a config", &path))?;
        let read = config::read(&read)
            .map_err(|error| remote.refused(format!("its config cannot be read: {error}")))?;
        check_platform(reference.as_str(), &read.platform, platform)?;
        let missing: Vec<Descriptor> = manifest
            .layers()
            .iter()
            .filter(|layer| !self.layout.takes_up(layer.digest().as_ref(), layer.size()))
            .cloned()
            .collect();
        stream::iter(missing)
            .map(|layer| async move { self.fetch(remote, &layer, log).await })
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        self.layout.put(&text)?;
        let stored = self.layout.stored(&digest)?;
        let stored = stored
            .ok_or_else(|| remote.refused("its config and its layers do not belong together"))?;
        for (diff_id, layer) in layers_of(&stored) {
            if self.known_layer(&diff_id)?.is_none() {
                self.remember_layer(&diff_id, &layer)?;
            }
        }
        Ok(stored)
    }

    /// Fetches a blob, going on where an earlier try broke off.
    async fn fetch(
        &self,
        remote: &RegistryClient,
        blob: &Descriptor,
        log: &dyn LogSink,
    ) -> Result<()> {
        let action = "keep a blob";
        let digest = blob.digest().to_string();
        let partial = self.partial(&digest)?;
        let mut file = locked(&partial).await.map_err(file_error(action, &partial))?;
        if self.layout.has(&digest, blob.size()) {
            let _ = std::fs::remove_file(&partial);
            return Ok(());
        }
        let mut have = file.metadata().map_err(file_error(action, &partial))?.len();
        if have > blob.size() {
            file.set_len(0).map_err(file_error(action, &partial))?;
            have = 0;
        }
        if have < blob.size() {
            let short = digest.get(7..19).unwrap_or(&digest);
            let from = if have > 0 { format!(" from byte {have}") } else { String::new() };
            log.write(format!("{short}: Pulling {} bytes{from}\n", blob.size()).as_bytes());
            let blob_size = blob.size();
            let blob = remote.blob(&digest, have).await?;
            if !blob.resumed {
                // The registry gives whole blobs only.
                file.set_len(0).map_err(file_error(action, &partial))?;
                have = 0;
            }
            let mut pieces = blob.response.bytes_stream();
            while let Some(piece) = pieces.next().await {
                let piece = piece.map_err(|error| remote.broke_off(&error))?;
                have += piece.len() as u64;
                crate::traffic::count(piece.len() as u64);
                if have > blob_size {
                    break;
                }
                file.write_all(&piece).map_err(file_error(action, &partial))?;
            }
        }
        let size = file.metadata().map_err(file_error(action, &partial))?.len();
        if have > blob.size() {
            std::fs::remove_file(&partial).map_err(file_error(action, &partial))?;
            return Err(remote.refused(format!("blob `{digest}` is longer than it says")));
        }
        if size < blob.size() {
            return Err(remote.damaged(format!("{size} of {} bytes came", blob.size())));
        }
        let found = tokio::task::block_in_place(|| {
            Digest::of_reader(File::open(&partial)?).map(|(digest, _)| digest)
        });
        let found = found.map_err(file_error(action, &partial))?;
        if found.oci() != digest {
            std::fs::remove_file(&partial).map_err(file_error(action, &partial))?;
            return Err(remote.damaged(format!("blob `{digest}` came as `{}`", found.oci())));
        }
        file.sync_data().map_err(file_error(action, &partial))?;
        std::fs::rename(&partial, self.layout.blob(&digest)).map_err(file_error(action, &partial))
    }

    /// Where the first part of a blob is kept.
    fn partial(&self, digest: &str) -> Result<PathBuf> {
        let dir = self.dir.join("partial");
        std::fs::create_dir_all(&dir).map_err(file_error("keep a blob", &dir))?;
        Ok(dir.join(digest.trim_start_matches("sha256:")))
    }

    /// Pulls a blob again that was damaged here, from where its image came from.
    pub(super) async fn pull_blob_again(
        &self,
        stored: &Stored,
        blob: &Descriptor,
        log: &dyn LogSink,
    ) -> Result<()> {
        let names = self.layout.names()?;
        let mine = || names.iter().filter(|named| named.id == stored.id);
        let Some(origin) = mine().find_map(|named| named.repo_digest.clone()) else {
            let tag = mine().find_map(|named| named.tag.clone());
            let reference = tag.unwrap_or_else(|| stored.id.to_string());
            log.write(b"no registry is known to have it: the image has to be built again\n");
            return Err(EngineError::NoSuchImage { reference });
        };
        let remote = self.remote(Access::Pull, &origin.parse()?, log).await?;
        retried(log, TRANSFER, || self.fetch(&remote, blob, log)).await
    }

    pub(super) async fn push_image(
        &self,
        reference: &Reference,
        siblings: &[String],
        log: &dyn LogSink,
    ) -> Result<PushSummary> {
        let stored = self.needed(reference.as_str())?;
        let remote = self.remote(Access::Push, reference, log).await?;
        let sent = Mutex::default();
        retried(log, TRANSFER, || self.push_once(&remote, &stored, siblings, &sent, log)).await?;
        let repository = familiar(reference.as_str());
        let repository = crate::engine::reference::split_tag(&repository).0;
        self.layout.name_digest(&stored, &format!("{repository}@{}", stored.digest))?;
        let sent: HashSet<String> = sent.into_inner().expect("no holder panics");
        let travelled = layers_of(&stored)
            .into_iter()
            .filter(|(_, layer)| sent.contains(layer.digest().as_ref()))
            .map(|(diff_id, _)| diff_id);
        Ok(PushSummary { layers: Some(travelled.collect()) })
    }

    async fn push_once(
        &self,
        remote: &RegistryClient,
        stored: &Stored,
        siblings: &[String],
        sent: &Mutex<HashSet<String>>,
        log: &dyn LogSink,
    ) -> Result<()> {
        let manifest = &stored.manifest;
        let blobs: Vec<Descriptor> =
            manifest.layers().iter().chain([manifest.config()]).cloned().collect();
        stream::iter(blobs)
            .map(|blob| async move {
                let digest = blob.digest().to_string();
                if self.send(remote, &blob, siblings, log).await? {
                    sent.lock().expect("no holder panics").insert(digest);
                }
                Ok::<(), EngineError>(())
            })
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        let path = self.layout.blob(&stored.digest);
        let text = std::fs::read(&path).map_err(file_error("read a manifest", &path))?;
        let media_type = manifest.media_type().clone().unwrap_or(MediaType::ImageManifest);
        let media_type = media_type.to_string();
        remote.push_manifest(&text, &media_type).await?;
        log.write(format!("Digest: {}\n", stored.digest).as_bytes());
        Ok(())
    }

    /// Brings a blob to a registry; tells whether it travelled.
    async fn send(
        &self,
        remote: &RegistryClient,
        blob: &Descriptor,
        siblings: &[String],
        log: &dyn LogSink,
    ) -> Result<bool> {
        let digest = blob.digest().to_string();
        if remote.has_blob(&digest).await? {
            return Ok(false);
        }
        for sibling in siblings {
            // A registry that does not do it, or not for us, gets the blob.
            if remote.mount(sibling, &digest).await {
                return Ok(false);
            }
        }
        let path = self.layout.blob(&digest);
        let file = tokio::fs::File::open(&path).await.map_err(file_error("read a blob", &path))?;
        log.write(format!("{digest}: Pushing {} bytes\n", blob.size()).as_bytes());
        let pieces = tokio_util::io::ReaderStream::with_capacity(file, 1 << 20)
            .inspect_ok(|piece| crate::traffic::count(piece.len() as u64));
        let body = reqwest::Body::wrap_stream(pieces);
        remote.push_blob(&digest, blob.size(), body).await.map(|()| true)
    }

    async fn remote(
        &self,
        access: Access,
        reference: &Reference,
        log: &dyn LogSink,
    ) -> Result<RegistryClient> {
        RegistryClient::open(self.client_config.as_ref(), access, reference, log).await
    }
}

/// Opens the first part of a blob, and waits until it is this call's alone: one pull writes it at a
/// time; another, of this process or not, waits for the whole blob.
async fn locked(partial: &Path) -> std::io::Result<File> {
    loop {
        let file = File::options().create(true).append(true).open(partial)?;
        // It waits aside: both pulls may be of one task.
        let waited = tokio::task::spawn_blocking(move || file.lock().map(|()| file)).await;
        let file = waited.expect("waiting for a lock does not panic")?;
        // Who had it before may have moved it to its place, or removed it.
        let there = std::fs::metadata(partial).map(|found| found.ino());
        if there.is_ok_and(|ino| file.metadata().is_ok_and(|mine| mine.ino() == ino)) {
            return Ok(file);
        }
    }
}
