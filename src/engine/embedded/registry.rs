//! Registries: pulling and pushing images, blob by blob.
//!
//! Only blobs that are not here, or there, travel. What came of a blob stays when the connection
//! breaks, and the next try goes on from there; nothing is kept under a digest that is not its own.

use std::collections::HashSet;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use oci_client::RegistryOperation;
use oci_client::client::BlobResponse;
use oci_client::errors::OciDistributionError;
use oci_spec::image::{Descriptor, ImageManifest, MediaType};

use crate::engine::registry::Remote;
use crate::engine::retry::retried;
use crate::engine::{EngineError, Image, LogSink, Result, Sent};
use crate::key::Digest;

use super::EmbeddedEngine;
use super::layers::layers_of;
use super::layout::{Stored, familiar, file_error};

/// How many blobs travel at once.
const AT_ONCE: usize = 3;

impl EmbeddedEngine {
    pub(super) async fn pull_image(
        &self,
        reference: &str,
        platform: &str,
        log: &dyn LogSink,
    ) -> Result<Image> {
        let remote = self.remote("pull", reference, log).await?;
        let stored = retried(log, || self.pull_once(&remote, platform, log)).await?;
        self.unpack(&stored, log).await?;
        if !reference.contains('@') {
            self.layout.name(&stored, &familiar(reference))?;
        }
        let repository = familiar(reference);
        let repository = crate::engine::reference::split_tag(&repository).0;
        self.layout.name_digest(&stored, &format!("{repository}@{}", stored.digest))?;
        log.write(format!("Digest: {}\n", stored.digest).as_bytes());
        let image = self.inspect_image(&stored.id)?;
        image.ok_or_else(|| EngineError::NoSuchImage { reference: reference.to_owned() })
    }

    async fn pull_once(
        &self,
        remote: &Remote,
        platform: &str,
        log: &dyn LogSink,
    ) -> Result<Arc<Stored>> {
        remote.authenticate(RegistryOperation::Pull).await?;
        let (text, digest) = remote.manifest(platform).await?;
        let manifest: ImageManifest = serde_json::from_slice(&text)
            .map_err(|error| remote.refused(format!("its manifest cannot be read: {error}")))?;
        let config = manifest.config();
        if !self.layout.takes_up(config.digest().as_ref(), config.size()) {
            self.fetch(remote, config, log).await?;
        }
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
    async fn fetch(&self, remote: &Remote, blob: &Descriptor, log: &dyn LogSink) -> Result<()> {
        let action = "keep a blob";
        let digest = blob.digest().to_string();
        let partial = self.partial(&digest)?;
        let open = std::fs::OpenOptions::new().create(true).append(true).open(&partial);
        let mut file = open.map_err(file_error(action, &partial))?;
        // One process writes it at a time; another waits for the whole blob.
        let locked = tokio::task::block_in_place(|| file.lock());
        locked.map_err(file_error(action, &partial))?;
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
            let answer = remote.client.pull_blob_stream_partial(
                &remote.reference,
                digest.as_str(),
                have,
                None,
            );
            let mut stream = match answer.await.map_err(|error| remote.failed(&error))? {
                BlobResponse::Partial(sized) => sized.stream,
                BlobResponse::Full(sized) => {
                    // It does not do parts.
                    file.set_len(0).map_err(file_error(action, &partial))?;
                    sized.stream
                }
            };
            while let Some(piece) = stream.next().await {
                let piece = piece.map_err(|error| remote.broke_off(&error))?;
                file.write_all(&piece).map_err(file_error(action, &partial))?;
            }
        }
        let size = file.metadata().map_err(file_error(action, &partial))?.len();
        if size < blob.size() {
            return Err(remote.broke_off(&format!("{size} of {} bytes came", blob.size())));
        }
        let found = tokio::task::block_in_place(|| {
            Digest::of_reader(std::fs::File::open(&partial)?).map(|(digest, _)| digest)
        });
        let found = found.map_err(file_error(action, &partial))?;
        if found.oci() != digest {
            std::fs::remove_file(&partial).map_err(file_error(action, &partial))?;
            return Err(remote.broke_off(&format!("blob `{digest}` came as `{}`", found.oci())));
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
            let reference = tag.unwrap_or_else(|| stored.id.clone());
            log.write(b"no registry is known to have it: the image has to be built again\n");
            return Err(EngineError::NoSuchImage { reference });
        };
        let remote = self.remote("pull", &origin, log).await?;
        retried(log, || async {
            remote.authenticate(RegistryOperation::Pull).await?;
            self.fetch(&remote, blob, log).await
        })
        .await
    }

    pub(super) async fn push_image(
        &self,
        reference: &str,
        siblings: &[String],
        log: &dyn LogSink,
    ) -> Result<Sent> {
        let stored = self.needed(reference)?;
        let remote = self.remote("push", reference, log).await?;
        let sent = Mutex::default();
        retried(log, || self.push_once(&remote, &stored, siblings, &sent, log)).await?;
        let repository = familiar(reference);
        let repository = crate::engine::reference::split_tag(&repository).0;
        self.layout.name_digest(&stored, &format!("{repository}@{}", stored.digest))?;
        let sent: HashSet<String> = sent.into_inner().expect("no holder panics");
        let travelled = layers_of(&stored)
            .into_iter()
            .filter(|(_, layer)| sent.contains(layer.digest().as_ref()))
            .map(|(diff_id, _)| diff_id);
        Ok(Sent { layers: Some(travelled.collect()) })
    }

    async fn push_once(
        &self,
        remote: &Remote,
        stored: &Stored,
        siblings: &[String],
        sent: &Mutex<HashSet<String>>,
        log: &dyn LogSink,
    ) -> Result<()> {
        remote.authenticate(RegistryOperation::Push).await?;
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
        let header = media_type.parse().map_err(|_| remote.refused("its media type is no text"))?;
        let pushed = remote.client.push_manifest_raw(&remote.reference, text, header).await;
        pushed.map_err(|error| remote.failed(&error))?;
        log.write(format!("Digest: {}\n", stored.digest).as_bytes());
        Ok(())
    }

    /// Brings a blob to a registry; tells whether it travelled.
    async fn send(
        &self,
        remote: &Remote,
        blob: &Descriptor,
        siblings: &[String],
        log: &dyn LogSink,
    ) -> Result<bool> {
        let digest = blob.digest().to_string();
        let there = remote.client.blob_exists(&remote.reference, &digest).await;
        if there.map_err(|error| remote.failed(&error))? {
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
            .map_err(OciDistributionError::from);
        let sent =
            remote.client.push_blob_stream(&remote.reference, pieces, &digest, Some(blob.size()));
        sent.await.map(|_| true).map_err(|error| remote.failed(&error))
    }

    async fn remote(&self, verb: &str, reference: &str, log: &dyn LogSink) -> Result<Remote> {
        Remote::open(self.client_config.as_ref(), verb, reference, log).await
    }
}
