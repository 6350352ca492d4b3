//! What registries hold beside images: manifests and small blobs as bytes, and what refers to a manifest.
//!
//! Everything that comes is bounded while it is read, and compared with its digest where it has one.
//! Referrers are found by the registry's own list where it has one, and else by the tag that the
//! distribution specification gives them.

use std::collections::BTreeMap;

use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Body, Method, RequestBuilder, Response};
use serde::{Deserialize, Serialize};

use crate::engine::{EngineError, Result};
use crate::key::Digest;

use super::{MANIFESTS, RegistryClient};

/// The media type of a manifest.
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The media type of a list of manifests.
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The media type of the empty document, which stands where there is nothing to say.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// The most bytes of a manifest, as the distribution specification has it.
const LARGEST_MANIFEST: u64 = 4 << 20;

/// What a registry answers with that lists referrers itself.
const LISTS_REFERRERS: &str = "oci-subject";

/// A manifest of something that is no image.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Artifact {
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    pub config: Part,
    #[serde(default)]
    pub layers: Vec<Part>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Part>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// What a manifest says of a blob, or of another manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Part {
    #[serde(default)]
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Index {
    schema_version: u32,
    media_type: String,
    manifests: Vec<Part>,
}

impl Artifact {
    /// Makes a manifest of layers.
    pub(crate) fn new(config: Part, layers: Vec<Part>) -> Artifact {
        Artifact {
            schema_version: 2,
            media_type: MANIFEST.to_owned(),
            artifact_type: None,
            config,
            layers,
            subject: None,
            annotations: BTreeMap::new(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("it is plain text")
    }
}

impl Part {
    /// Describes the empty document.
    pub(crate) fn empty() -> Part {
        Part::of(EMPTY, b"{}")
    }

    /// Describes bytes.
    pub(crate) fn of(media_type: &str, bytes: &[u8]) -> Part {
        Part {
            media_type: media_type.to_owned(),
            digest: Digest::of(bytes).oci(),
            size: bytes.len() as u64,
            artifact_type: None,
            annotations: BTreeMap::new(),
        }
    }
}

/// Returns the tag that stands for what belongs to a manifest: `sha256-<hex>`, and cosign's suffix.
pub(crate) fn tag_of(digest: &str, suffix: &str) -> String {
    format!("{}{suffix}", digest.replacen(':', "-", 1))
}

impl RegistryClient {
    /// Returns the repository's name, with its registry.
    pub(crate) fn repository(&self) -> String {
        format!("{}/{}", self.registry.name(), self.reference.repository())
    }

    /// Fetches the manifest of a tag or a digest; none where the registry does not have it.
    pub(crate) async fn manifest_bytes(&self, version: &str) -> Result<Option<Vec<u8>>> {
        let accept = |request: RequestBuilder| request.header(ACCEPT, MANIFESTS.join(", "));
        let response = match self.ask(Method::GET, &format!("manifests/{version}"), accept).await {
            Err(EngineError::NotFound { .. }) => return Ok(None),
            response => response?,
        };
        let bytes = self.bounded(response, LARGEST_MANIFEST).await?;
        self.is_whole(version, bytes).map(Some)
    }

    /// Fetches a manifest of something that is no image.
    pub(crate) async fn artifact(&self, version: &str) -> Result<Option<Artifact>> {
        let Some(bytes) = self.manifest_bytes(version).await? else { return Ok(None) };
        let read = serde_json::from_slice(&bytes);
        read.map(Some).map_err(|error| self.refused(format!("`{version}` is no manifest: {error}")))
    }

    /// Fetches a blob of no more than `most` bytes.
    pub(crate) async fn small_blob(&self, part: &Part, most: u64) -> Result<Vec<u8>> {
        if part.size > most {
            return Err(
                self.refused(format!("{} of {} bytes is too large", part.digest, part.size))
            );
        }
        let blob = self.blob(&part.digest, 0).await?;
        let bytes = self.bounded(blob.response, most).await?;
        self.is_whole(&part.digest, bytes)
    }

    fn is_whole(&self, version: &str, bytes: Vec<u8>) -> Result<Vec<u8>> {
        let digest = Digest::of(&bytes).oci();
        if version.contains(':') && version != digest {
            return Err(self.refused(format!("`{version}` came as `{digest}`")));
        }
        Ok(bytes)
    }

    /// Reads a body of no more than `most` bytes.
    async fn bounded(&self, mut response: Response, most: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| self.broke_off(&error))? {
            bytes.extend_from_slice(&piece);
            if bytes.len() as u64 > most {
                return Err(self.refused(format!("more than {most} bytes come")));
            }
        }
        Ok(bytes)
    }

    /// Lists what refers to a manifest.
    pub(crate) async fn referrers(&self, digest: &str) -> Result<Vec<Part>> {
        let accept = |request: RequestBuilder| request.header(ACCEPT, INDEX);
        let listed = match self.ask(Method::GET, &format!("referrers/{digest}"), accept).await {
            Ok(response) if is_index(&response) => {
                Some(self.bounded(response, LARGEST_MANIFEST).await?)
            }
            // A page, or an answer that says that there is no such list.
            Ok(_) | Err(EngineError::NotFound { .. } | EngineError::Pull { .. }) => None,
            Err(EngineError::Refused { .. }) => None,
            Err(error) => return Err(error),
        };
        let listed = match listed {
            Some(listed) => Some(listed),
            None => self.manifest_bytes(&tag_of(digest, "")).await?,
        };
        let Some(listed) = listed else { return Ok(Vec::new()) };
        let index: Index = serde_json::from_slice(&listed)
            .map_err(|error| self.refused(format!("its referrers cannot be read: {error}")))?;
        Ok(index.manifests)
    }

    /// Uploads a small blob, where the registry does not have it.
    pub(crate) async fn put_blob(&self, media_type: &str, bytes: Vec<u8>) -> Result<Part> {
        let part = Part::of(media_type, &bytes);
        if !self.has_blob(&part.digest).await? {
            self.push_blob(&part.digest, part.size, Body::from(bytes)).await?;
        }
        Ok(part)
    }

    /// Uploads the manifest of something under a tag.
    pub(crate) async fn put_tagged(&self, tag: &str, artifact: &Artifact) -> Result<()> {
        self.put(tag, MANIFEST, artifact.bytes()).await.map(drop)
    }

    /// Uploads the manifest of something that refers to `subject`, and lists it where the registry
    /// does not do that itself.
    pub(crate) async fn put_referrer(&self, subject: &Part, mut artifact: Artifact) -> Result<()> {
        self.put_blob(EMPTY, b"{}".to_vec()).await?;
        artifact.subject = Some(subject.clone());
        let bytes = artifact.bytes();
        let mut part = Part::of(MANIFEST, &bytes);
        let answer = self.put(&part.digest, MANIFEST, bytes).await?;
        if answer.headers().contains_key(LISTS_REFERRERS) {
            return Ok(());
        }
        part.artifact_type = artifact.artifact_type;
        part.annotations = artifact.annotations;
        let tag = tag_of(&subject.digest, "");
        let mut manifests = match self.manifest_bytes(&tag).await? {
            Some(bytes) => {
                let index: Index = serde_json::from_slice(&bytes)
                    .map_err(|error| self.refused(format!("`{tag}` is no list: {error}")))?;
                index.manifests
            }
            None => Vec::new(),
        };
        if manifests.iter().any(|listed| listed.digest == part.digest) {
            return Ok(());
        }
        manifests.push(part);
        let index = Index { schema_version: 2, media_type: INDEX.to_owned(), manifests };
        let bytes = serde_json::to_vec(&index).expect("it is plain text");
        self.put(&tag, INDEX, bytes).await.map(drop)
    }

    async fn put(&self, version: &str, media_type: &str, bytes: Vec<u8>) -> Result<Response> {
        let with =
            |request: RequestBuilder| request.header(CONTENT_TYPE, media_type).body(bytes.clone());
        self.ask(Method::PUT, &format!("manifests/{version}"), with).await
    }
}

fn is_index(response: &Response) -> bool {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with(INDEX))
}
