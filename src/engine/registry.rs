//! Asking registries: who asks, what failed, and the manifest of a platform.

use std::path::PathBuf;

use docker_credential::DockerCredential;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};
use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use serde::Deserialize;

use super::{EngineError, Image, LogSink, Result, config, credentials};
use crate::key::Digest;

/// Seconds without a byte after which a connection is taken for broken.
const SILENCE: std::time::Duration = std::time::Duration::from_secs(60);

const MANIFESTS: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// How many tags are asked for in one request.
const TAGS_AT_ONCE: usize = 1000;

/// Registries without TLS, separated by commas, beside those on this machine.
const INSECURE: &str = "IMGFORGE_INSECURE_REGISTRIES";

/// A registry, and who asks it.
pub(crate) struct Remote {
    pub client: Client,
    pub reference: Reference,
    auth: RegistryAuth,
    action: String,
    name: String,
}

/// An image as a registry describes it.
pub(crate) struct Described {
    /// What its config says; the id is the config's digest, the size that of the compressed layers.
    pub image: Image,
    /// The layers as they are stored, the lowest first: digest and bytes.
    pub layers: Vec<(String, u64)>,
}

impl Remote {
    /// Opens the registry of a reference, with the host's credentials; nothing is asked yet.
    pub async fn open(
        client_config: Option<&PathBuf>,
        verb: &str,
        reference: &str,
        log: &dyn LogSink,
    ) -> Result<Remote> {
        let action = format!("{verb} `{reference}`");
        let parsed = Reference::try_from(reference).map_err(|error| EngineError::Refused {
            action: action.clone(),
            reason: format!("it is not a reference: {error}"),
        })?;
        let registry = parsed.registry().to_owned();
        let found = credentials::credentials(client_config, reference, log).await;
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

    /// Gets what the registry wants before it answers.
    pub async fn authenticate(&self, operation: RegistryOperation) -> Result<()> {
        let authenticated = self.client.auth(&self.reference, &self.auth, operation).await;
        authenticated.map(drop).map_err(|error| self.failed(&error))
    }

    /// Fetches the manifest of a platform, whose bytes match its digest.
    pub async fn manifest(&self, platform: &str) -> Result<(Vec<u8>, String)> {
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

    /// Takes a blob from another repository of the registry; tells whether that could be done.
    pub async fn mount(&self, repository: &str, digest: &str) -> bool {
        let registry = self.reference.registry().to_owned();
        let source = Reference::with_tag(registry, repository.to_owned(), "latest".to_owned());
        self.client.mount_blob(&self.reference, &source, digest).await.is_ok()
    }

    /// Reads the manifest and the config of an image; `None` when the registry does not have it.
    pub async fn describe(&self, platform: &str) -> Result<Option<Described>> {
        self.authenticate(RegistryOperation::Pull).await?;
        let (text, digest) = match self.manifest(platform).await {
            Ok(found) => found,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let unreadable = |error: serde_json::Error| {
            self.refused(format!("its manifest or config cannot be read: {error}"))
        };
        let manifest: ImageManifest = serde_json::from_slice(&text).map_err(unreadable)?;
        let mut config = Vec::new();
        let digest_of_config = manifest.config().digest().to_string();
        let blob =
            self.client.pull_blob(&self.reference, digest_of_config.as_str(), &mut config).await;
        blob.map_err(|error| self.failed(&error))?;
        if Digest::of(&config).oci() != digest_of_config {
            return Err(self.broke_off(&"its config is not what its digest says"));
        }
        let read = config::read(&config).map_err(unreadable)?;
        let layer = |layer: &Descriptor| (layer.digest().to_string(), layer.size());
        let layers: Vec<(String, u64)> = manifest.layers().iter().map(layer).collect();
        let repository = self.reference.repository();
        let image = Image {
            id: digest_of_config,
            tags: Vec::new(),
            repo_digests: vec![format!("{}/{repository}@{digest}", self.reference.registry())],
            diff_ids: read.diff_ids,
            platform: read.platform,
            size: layers.iter().map(|(_, size)| size).sum(),
            config: read.config,
        };
        Ok(Some(Described { image, layers }))
    }

    /// Returns the tags of the repository; none when the registry does not have it.
    pub async fn tags(&self) -> Result<Vec<String>> {
        self.authenticate(RegistryOperation::Pull).await?;
        let mut tags: Vec<String> = Vec::new();
        loop {
            let last = tags.last().cloned();
            let listed = self
                .client
                .list_tags(&self.reference, &self.auth, Some(TAGS_AT_ONCE), last.as_deref())
                .await;
            let listed = match listed {
                Ok(listed) => listed.tags,
                Err(error) => {
                    let error = self.failed(&error);
                    return if is_absent(&error) { Ok(tags) } else { Err(error) };
                }
            };
            let before = tags.len();
            tags.extend(listed);
            // A registry that knows no pages gives the same ones again.
            tags.dedup();
            if tags.len() < before + TAGS_AT_ONCE {
                return Ok(tags);
            }
        }
    }

    /// Makes the error of an answer that will not be another one.
    pub fn refused(&self, reason: impl Into<String>) -> EngineError {
        let reason = reason.into();
        if self.action.starts_with("pull") {
            return EngineError::Pull { reference: self.name.clone(), reason };
        }
        EngineError::Refused { action: self.action.clone(), reason }
    }

    /// Makes the error of what may go better the next time.
    pub fn broke_off(&self, why: &dyn std::fmt::Display) -> EngineError {
        EngineError::Transient { action: self.action.clone(), source: why.to_string().into() }
    }

    /// Tells what may go better the next time from what will not.
    pub fn failed(&self, error: &OciDistributionError) -> EngineError {
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
            OciDistributionError::ServerError { code, message, .. }
                if !passing(*code) && !is_passing(message) =>
            {
                self.refused(format!("it answered {code}: {message}"))
            }
            OciDistributionError::ServerError { code, .. } => {
                self.broke_off(&format!("it answered {code}"))
            }
            OciDistributionError::RegistryError { envelope, .. } => {
                let text = format!("{envelope}");
                match is_passing(&text) {
                    true => self.broke_off(&text),
                    false => self.refused(text),
                }
            }
            OciDistributionError::IoError(cause) if super::is_no_space(cause) => {
                EngineError::NoSpace { action: self.action.clone() }
            }
            OciDistributionError::IoError(cause) => self.broke_off(cause),
            OciDistributionError::DigestError(cause) => self.broke_off(cause),
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

/// Tells whether what a registry says may be otherwise the next time: it is busy, or another client
/// uploads the same blob.
fn is_passing(text: &str) -> bool {
    let words = [
        "TOOMANYREQUESTS",
        "Too Many Requests",
        "toomanyrequests",
        "BLOB_UNKNOWN",
        "BLOB_UPLOAD_UNKNOWN",
        "DIGEST_INVALID",
    ];
    words.iter().any(|word| text.contains(word))
}

/// Tells whether an error says that a registry does not have an image.
fn is_absent(error: &EngineError) -> bool {
    let text = error.to_string();
    // In the words of the specification's codes, or of the registries themselves.
    let words = [
        "is not found",
        "MANIFEST_UNKNOWN",
        "manifest unknown",
        "NAME_UNKNOWN",
        "not known to registry",
        "404",
    ];
    words.iter().any(|word| text.contains(word))
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
