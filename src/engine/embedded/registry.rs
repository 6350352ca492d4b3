//! Registries: pulling and pushing images, blob by blob.
//!
//! Only blobs that are not here, or there, travel. What came of a blob stays when the connection
//! breaks, and the next try goes on from there; nothing is kept under a digest that is not its own.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use docker_credential::DockerCredential;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use oci_client::client::{BlobResponse, ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};
use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};
use serde::Deserialize;

use crate::engine::retry::retried;
use crate::engine::{EngineError, Image, LogSink, Result, credentials};
use crate::key::Digest;

use super::EmbeddedEngine;
use super::layers::layers_of;
use super::layout::{Stored, familiar, file_error, is_no_space};

/// How many blobs travel at once.
const AT_ONCE: usize = 3;

/// Seconds without a byte after which a connection is taken for broken.
const SILENCE: std::time::Duration = std::time::Duration::from_secs(60);

const MANIFESTS: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// Registries without TLS, separated by commas, beside those on this machine.
const INSECURE: &str = "IMGFORGE_INSECURE_REGISTRIES";

/// A registry, and who asks it.
struct Remote {
    client: Client,
    reference: Reference,
    auth: RegistryAuth,
    action: String,
    name: String,
}

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

    pub(super) async fn push_image(&self, reference: &str, log: &dyn LogSink) -> Result<()> {
        let stored = self.needed(reference)?;
        let remote = self.remote("push", reference, log).await?;
        retried(log, || self.push_once(&remote, &stored, log)).await?;
        let repository = familiar(reference);
        let repository = crate::engine::reference::split_tag(&repository).0;
        self.layout.name_digest(&stored, &format!("{repository}@{}", stored.digest))
    }

    async fn push_once(&self, remote: &Remote, stored: &Stored, log: &dyn LogSink) -> Result<()> {
        remote.authenticate(RegistryOperation::Push).await?;
        let manifest = &stored.manifest;
        let blobs: Vec<Descriptor> =
            manifest.layers().iter().chain([manifest.config()]).cloned().collect();
        stream::iter(blobs)
            .map(|blob| async move { self.send(remote, &blob, log).await })
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

    async fn send(&self, remote: &Remote, blob: &Descriptor, log: &dyn LogSink) -> Result<()> {
        let digest = blob.digest().to_string();
        let there = remote.client.blob_exists(&remote.reference, &digest).await;
        if there.map_err(|error| remote.failed(&error))? {
            return Ok(());
        }
        let path = self.layout.blob(&digest);
        let file = tokio::fs::File::open(&path).await.map_err(file_error("read a blob", &path))?;
        log.write(format!("{digest}: Pushing {} bytes\n", blob.size()).as_bytes());
        let pieces = tokio_util::io::ReaderStream::with_capacity(file, 1 << 20)
            .map_err(OciDistributionError::from);
        let sent =
            remote.client.push_blob_stream(&remote.reference, pieces, &digest, Some(blob.size()));
        sent.await.map(drop).map_err(|error| remote.failed(&error))
    }

    async fn remote(&self, verb: &str, reference: &str, log: &dyn LogSink) -> Result<Remote> {
        let action = format!("{verb} `{reference}`");
        let parsed = Reference::try_from(reference).map_err(|error| EngineError::Refused {
            action: action.clone(),
            reason: format!("it is not a reference: {error}"),
        })?;
        let registry = parsed.registry().to_owned();
        let found = credentials::credentials(self.client_config.as_ref(), reference, log).await;
        let auth = match found {
            Some((DockerCredential::UsernamePassword(name, password), _)) => {
                RegistryAuth::Basic(name, password)
            }
            Some((DockerCredential::IdentityToken(token), _)) => RegistryAuth::Bearer(token),
            None => RegistryAuth::Anonymous,
        };
        let host = registry.rsplit_once(':').map_or(registry.as_str(), |(host, _)| host);
        let listed = std::env::var(INSECURE).unwrap_or_default();
        let plain = matches!(host, "localhost" | "127.0.0.1" | "[::1]")
            || listed.split(',').any(|insecure| insecure.trim() == registry);
        // An error says that it is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::new(ClientConfig {
            protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
            read_timeout: Some(SILENCE),
            connect_timeout: Some(std::time::Duration::from_secs(20)),
            user_agent: concat!("imgforge/", env!("CARGO_PKG_VERSION")),
            use_monolithic_push: true,
            ..ClientConfig::default()
        });
        Ok(Remote { client, reference: parsed, auth, action, name: reference.to_owned() })
    }
}

impl Remote {
    async fn authenticate(&self, operation: RegistryOperation) -> Result<()> {
        let authenticated = self.client.auth(&self.reference, &self.auth, operation).await;
        authenticated.map(drop).map_err(|error| self.failed(&error))
    }

    /// Fetches the manifest of a platform, whose bytes match its digest.
    async fn manifest(&self, platform: &str) -> Result<(Vec<u8>, String)> {
        let mut reference = self.reference.clone();
        // A list may hold lists, though none of the known registries has such.
        for _ in 0..3 {
            let pulled = self.client.pull_manifest_raw(&reference, &self.auth, &MANIFESTS).await;
            let (text, _) = pulled.map_err(|error| self.failed(&error))?;
            let digest = Digest::of(&text).oci();
            if let Some(asked) = reference.digest()
                && asked != digest
            {
                return Err(self.broke_off(&format!("manifest `{asked}` came as `{digest}`")));
            }
            #[derive(Deserialize)]
            struct Kind {
                manifests: Option<serde_json::Value>,
            }
            let listed = serde_json::from_slice::<Kind>(&text).is_ok_and(|k| k.manifests.is_some());
            if !listed {
                return Ok((text.to_vec(), digest));
            }
            let index: ImageIndex = serde_json::from_slice(&text)
                .map_err(|error| self.refused(format!("its list cannot be read: {error}")))?;
            let chosen = choose(&index, platform)
                .ok_or_else(|| self.refused(format!("it has no image for `{platform}`")))?;
            reference = reference.clone_with_digest(chosen);
        }
        Err(self.refused("its lists of images do not end"))
    }

    fn refused(&self, reason: impl Into<String>) -> EngineError {
        let reason = reason.into();
        if self.action.starts_with("pull") {
            return EngineError::Pull { reference: self.name.clone(), reason };
        }
        EngineError::Refused { action: self.action.clone(), reason }
    }

    fn broke_off(&self, why: &dyn std::fmt::Display) -> EngineError {
        EngineError::Transient { action: self.action.clone(), source: why.to_string().into() }
    }

    /// Tells what may go better the next time from what will not.
    fn failed(&self, error: &OciDistributionError) -> EngineError {
        let passing = |status: u16| status == 429 || status == 408 || status >= 500;
        match error {
            OciDistributionError::RequestError(cause) => match cause.status() {
                Some(status) if !passing(status.as_u16()) => self.refused(cause.to_string()),
                // What a resolver says that knows there is no such host; one that is busy says
                // that its failure is temporary.
                None if chain(cause).contains("Name or service not known") => self
                    .refused(format!("there is no host `{}`", self.reference.resolve_registry())),
                _ => EngineError::Transient {
                    action: self.action.clone(),
                    source: chain(cause).into(),
                },
            },
            OciDistributionError::ServerError { code, message, .. } if !passing(*code) => {
                self.refused(format!("it answered {code}: {message}"))
            }
            OciDistributionError::ServerError { code, .. } => {
                self.broke_off(&format!("it answered {code}"))
            }
            OciDistributionError::RegistryError { envelope, .. } => {
                let text = format!("{envelope}");
                let busy = ["TOOMANYREQUESTS", "Too Many Requests", "toomanyrequests"];
                match busy.iter().any(|word| text.contains(word)) {
                    true => self.broke_off(&text),
                    false => self.refused(text),
                }
            }
            OciDistributionError::IoError(cause) if is_no_space(cause) => {
                EngineError::NoSpace { action: self.action.clone() }
            }
            OciDistributionError::IoError(cause) => self.broke_off(cause),
            OciDistributionError::ImageManifestNotFoundError(_) => {
                self.refused("the manifest is not found")
            }
            OciDistributionError::UnauthorizedError { .. } => {
                self.refused("it wants other credentials: `docker login` writes those it gets")
            }
            other => self.refused(other.to_string()),
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

/// Chooses the manifest of a platform.
fn choose(index: &ImageIndex, platform: &str) -> Option<String> {
    let mut parts = platform.split('/');
    let (os, architecture, variant) = (parts.next()?, parts.next()?, parts.next());
    let fits = |entry: &&Descriptor| {
        entry.platform().as_ref().is_some_and(|found| {
            found.os().to_string() == os
                && found.architecture().to_string() == architecture
                && variant.is_none_or(|variant| found.variant().as_deref() == Some(variant))
        })
    };
    let found = index.manifests().iter().find(fits);
    // A list of one image without a platform is that image.
    let only = match index.manifests().as_slice() {
        [one] if one.platform().is_none() => Some(one),
        _ => None,
    };
    found.or(only).map(|entry| entry.digest().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_of_a_platform_is_chosen() {
        let entry = |digit: char, architecture: &str, variant: &str| {
            serde_json::json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": format!("sha256:{}", digit.to_string().repeat(64)),
                "size": 1,
                "platform": {"os": "linux", "architecture": architecture, "variant": variant},
            })
        };
        let index = serde_json::json!({
            "schemaVersion": 2,
            "manifests": [entry('1', "arm64", "v8"), entry('2', "amd64", ""), entry('3', "arm", "v7")],
        });
        let index: ImageIndex = serde_json::from_value(index).unwrap();
        let digest = |digit: char| Some(format!("sha256:{}", digit.to_string().repeat(64)));
        assert_eq!(choose(&index, "linux/amd64"), digest('2'));
        assert_eq!(choose(&index, "linux/arm64"), digest('1'));
        assert_eq!(choose(&index, "linux/arm/v7"), digest('3'));
        assert_eq!(choose(&index, "linux/riscv64"), None);
    }
}
