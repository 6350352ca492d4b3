//! Asking registries: who asks, what failed, and the manifest of a platform.

#[cfg(feature = "kubernetes")]
mod add;
mod answer;
pub(crate) mod artifact;
mod client;
mod failed;
mod login;
#[cfg(test)]
pub(crate) mod testing;

use std::path::PathBuf;
use std::sync::Arc;

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RANGE};
use reqwest::{Body, Method, RequestBuilder, Response, StatusCode};
use serde::Deserialize;

use super::bounds::DOCUMENT;
use super::reference::Reference;
use super::{EngineError, Image, LogSink, Result, config, credentials};
use crate::causes::in_one_line;
use crate::key::Digest;
use crate::platform::Platform;

use answer::{Answer, Meaning};
pub(crate) use client::Registry;
use failed::Failed;

const MANIFESTS: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// How many tags are asked for in one request.
const TAGS_AT_ONCE: usize = 1000;

/// What is done with an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// It is read.
    Pull,
    /// It is written.
    Push,
}

/// A repository of a registry, and what is done there.
pub(crate) struct RegistryClient {
    reference: Reference,
    registry: Arc<Registry>,
    access: Access,
    action: String,
}

/// An image as a registry describes it.
pub(crate) struct Described {
    /// The digest of its manifest.
    pub manifest: String,
    /// What its config says; the id is the config's digest, the size that of the compressed layers.
    pub image: Image,
    /// The layers as they are stored, the lowest first: digest and bytes.
    pub layers: Vec<(String, u64)>,
}

/// A blob as it comes.
pub(crate) struct Blob {
    /// The answer, whose body is the blob or its end.
    pub response: Response,
    /// Whether it begins where it was asked to.
    #[cfg_attr(not(feature = "embedded"), expect(dead_code, reason = "Docker resumes by itself"))]
    pub resumed: bool,
}

/// Opens the registry of a reference, with the host's credentials; nothing is asked yet.
pub(crate) async fn open(
    client_config: Option<&PathBuf>,
    reference: &Reference,
    log: &dyn LogSink,
) -> Result<Arc<Registry>> {
    let found = credentials::credentials(client_config, reference, log).await?;
    let registry = Registry::new(reference.registry(), found.map(|(credential, _)| credential));
    registry.map(Arc::new).map_err(|reason| {
        let action = format!("open the registry of `{reference}`");
        EngineError::Refused { action, reason }
    })
}

impl RegistryClient {
    /// Opens the repository of a reference.
    #[cfg(any(test, feature = "embedded"))]
    pub(crate) async fn open(
        client_config: Option<&PathBuf>,
        access: Access,
        reference: &Reference,
        log: &dyn LogSink,
    ) -> Result<RegistryClient> {
        let registry = open(client_config, reference, log).await?;
        Ok(RegistryClient::of(registry, access, reference))
    }

    /// Makes the repository of a reference in an open registry.
    pub(crate) fn of(
        registry: Arc<Registry>,
        access: Access,
        reference: &Reference,
    ) -> RegistryClient {
        let verb = match access {
            Access::Pull => "pull",
            Access::Push => "push",
        };
        let action = format!("{verb} `{reference}`");
        RegistryClient { reference: reference.clone(), registry, access, action }
    }

    fn scope(&self, access: Access) -> String {
        let actions = match access {
            Access::Pull => "pull",
            Access::Push => "pull,push",
        };
        format!("repository:{}:{actions}", self.reference.repository())
    }

    /// Asks for something of the repository.
    async fn ask(
        &self,
        method: Method,
        rest: &str,
        with: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response> {
        let url = self.registry.url(self.reference.repository(), rest);
        let answered = self.registry.send(&self.scope(self.access), method, &url, with).await;
        answered.map_err(|failed| self.failed(failed))
    }

    /// Fetches the manifest of a platform, whose bytes match its digest.
    pub(crate) async fn manifest(&self, platform: &Platform) -> Result<(Vec<u8>, String)> {
        let mut asked = self.reference.version().to_owned();
        // A list may hold lists, though none of the known registries has such.
        for _ in 0..3 {
            let accept = |request: RequestBuilder| request.header(ACCEPT, MANIFESTS.join(", "));
            let response = self.ask(Method::GET, &format!("manifests/{asked}"), accept).await?;
            let text = self.document(response).await?;
            let digest = Digest::of(&text).oci();
            if asked.contains(':') && asked != digest {
                return Err(self.damaged(format!("manifest `{asked}` came as `{digest}`")));
            }
            if !is_list(&text) {
                return Ok((text, digest));
            }
            let index: ImageIndex = serde_json::from_slice(&text)
                .map_err(|error| self.refused(format!("its list cannot be read: {error}")))?;
            asked = choose(&index, platform)
                .ok_or_else(|| self.refused(format!("it has no image for `{platform}`")))?;
        }
        Err(self.refused("its lists of images do not end"))
    }

    /// Reads a manifest, a config or a list, which are short.
    async fn document(&self, mut response: Response) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| self.broke_off(&error))? {
            text.extend_from_slice(&piece);
            if text.len() as u64 > DOCUMENT {
                return Err(
                    self.refused(format!("a document of it has more than {DOCUMENT} bytes"))
                );
            }
        }
        Ok(text)
    }

    /// Fetches a blob from a byte on.
    pub(crate) async fn blob(&self, digest: &str, from: u64) -> Result<Blob> {
        let part = |request: RequestBuilder| match from {
            0 => request,
            from => request.header(RANGE, format!("bytes={from}-")),
        };
        let response = self.ask(Method::GET, &format!("blobs/{digest}"), part).await?;
        let resumed = from > 0 && response.status() == StatusCode::PARTIAL_CONTENT;
        Ok(Blob { response, resumed })
    }

    /// Tells whether the repository has a blob.
    pub(crate) async fn has_blob(&self, digest: &str) -> Result<bool> {
        let url = self.registry.url(self.reference.repository(), &format!("blobs/{digest}"));
        let scope = self.scope(self.access);
        match self.registry.send(&scope, Method::HEAD, &url, |request| request).await {
            Ok(_) => Ok(true),
            Err(Failed::Answer(answer)) if answer.meaning(false) == Meaning::Absent => Ok(false),
            Err(failed) => Err(self.failed(failed)),
        }
    }

    /// Takes a blob from another repository of the registry; tells whether that could be done.
    #[cfg(any(feature = "embedded", feature = "kubernetes"))]
    pub(crate) async fn mount(&self, repository: &str, digest: &str) -> bool {
        let mount = |request: RequestBuilder| {
            request.query(&[("mount", digest), ("from", repository)]).header(CONTENT_LENGTH, 0)
        };
        // A token for this repository alone does not let its bearer see the blob in the other one.
        let scope = format!("{} repository:{repository}:pull", self.scope(self.access));
        let url = self.registry.url(self.reference.repository(), "blobs/uploads/");
        let mounted = self.registry.send(&scope, Method::POST, &url, mount).await;
        mounted.is_ok_and(|response| response.status() == StatusCode::CREATED)
    }

    /// Uploads a blob.
    pub(crate) async fn push_blob(&self, digest: &str, size: u64, body: Body) -> Result<()> {
        let empty = |request: RequestBuilder| request.header(CONTENT_LENGTH, 0);
        let begun = self.ask(Method::POST, "blobs/uploads/", empty).await?;
        let location = begun.headers().get(LOCATION).and_then(|to| to.to_str().ok());
        let location = location.ok_or_else(|| self.refused("it does not say where to upload"))?;
        let resolved = self.registry.resolve(location);
        let mut url = resolved.map_err(|failed| self.failed(failed))?;
        url.query_pairs_mut().append_pair("digest", digest);
        let with = |request: RequestBuilder| {
            request
                .header(CONTENT_LENGTH, size)
                .header(CONTENT_TYPE, "application/octet-stream")
                .body(body)
        };
        let sent = self.registry.send_body(&self.scope(self.access), url, with).await;
        sent.map(drop).map_err(|failed| self.failed(failed))
    }

    /// Uploads the manifest, whose blobs are there.
    #[cfg(any(feature = "embedded", feature = "kubernetes"))]
    pub(crate) async fn push_manifest(&self, text: &[u8], media_type: &str) -> Result<()> {
        let tag = self.reference.version();
        let with =
            |request: RequestBuilder| request.header(CONTENT_TYPE, media_type).body(text.to_vec());
        self.ask(Method::PUT, &format!("manifests/{tag}"), with).await.map(drop)
    }

    /// Reads the manifest and the config of an image; `None` when the registry does not have it.
    pub(crate) async fn describe(&self, platform: &Platform) -> Result<Option<Described>> {
        match self.described(platform).await {
            Err(EngineError::NotFound { .. }) => Ok(None),
            described => described.map(Some),
        }
    }

    async fn described(&self, platform: &Platform) -> Result<Described> {
        let (text, digest) = self.manifest(platform).await?;
        let unreadable = |error: serde_json::Error| {
            self.refused(format!("its manifest or config cannot be read: {error}"))
        };
        let manifest: ImageManifest = serde_json::from_slice(&text).map_err(unreadable)?;
        let digest_of_config = manifest.config().digest().to_string();
        let blob = self.blob(&digest_of_config, 0).await?;
        let config = self.document(blob.response).await?;
        if Digest::of(&config).oci() != digest_of_config {
            return Err(self.damaged("its config is not what its digest says".to_owned()));
        }
        let read = config::read(&config).map_err(unreadable)?;
        let (layers, size) = layers_of(&manifest);
        let repository = self.reference.repository();
        let image = Image {
            id: digest_of_config.into(),
            tags: Vec::new(),
            repo_digests: vec![format!("{}/{repository}@{digest}", self.reference.registry())],
            diff_ids: read.diff_ids,
            platform: read.platform,
            size,
            config: read.config,
        };
        Ok(Described { manifest: digest, image, layers })
    }

    /// Returns the tags of the repository; none when the registry does not have it.
    pub(crate) async fn tags(&self) -> Result<Vec<String>> {
        let mut tags: Vec<String> = Vec::new();
        loop {
            let last = tags.last().cloned();
            let page = |request: RequestBuilder| {
                let request = request.query(&[("n", TAGS_AT_ONCE)]);
                match &last {
                    Some(last) => request.query(&[("last", last)]),
                    None => request,
                }
            };
            let listed = match self.ask(Method::GET, "tags/list", page).await {
                Err(EngineError::NotFound { .. }) => return Ok(tags),
                listed => self.document(listed?).await?,
            };
            let listed: Listed = serde_json::from_slice(&listed)
                .map_err(|error| self.refused(format!("its tags cannot be read: {error}")))?;
            let before = tags.len();
            tags.extend(listed.tags.unwrap_or_default());
            // A registry that knows no pages gives the same ones again.
            tags.dedup();
            if tags.len() < before + TAGS_AT_ONCE {
                return Ok(tags);
            }
        }
    }

    /// Makes the error of an answer that will not be another one.
    pub(crate) fn refused(&self, reason: impl Into<String>) -> EngineError {
        let reason = reason.into();
        if self.access == Access::Pull {
            return EngineError::Pull { reference: self.reference.to_string(), reason };
        }
        EngineError::Refused { action: self.action.clone(), reason }
    }

    /// Makes the error of a transfer that may go better the next time.
    pub(crate) fn broke_off(&self, why: &dyn std::error::Error) -> EngineError {
        EngineError::Transient { action: self.action.clone(), source: in_one_line(why).into() }
    }

    /// Makes the error of bytes that are not those of their digest.
    pub(crate) fn damaged(&self, what: String) -> EngineError {
        self.broke_off(&Damaged(what))
    }

    /// Tells what may go better the next time from what will not.
    fn failed(&self, failed: Failed) -> EngineError {
        let action = self.action.clone();
        match failed {
            Failed::Answer(answer) => self.answered(&answer),
            Failed::Request(error) if error.is_connect() => EngineError::Offline {
                registry: self.registry.name().to_owned(),
                source: in_one_line(&error).into(),
            },
            Failed::Request(error) => self.broke_off(&error),
            Failed::NoHost => EngineError::NoRegistry { registry: self.registry.name().to_owned() },
            Failed::Form(what) => {
                EngineError::Refused { action, reason: format!("its answer lacks {what}") }
            }
        }
    }

    fn answered(&self, answer: &Answer) -> EngineError {
        let (action, reason) = (self.action.clone(), answer.to_string());
        let registry = self.registry.name().to_owned();
        match answer.meaning(self.access == Access::Push) {
            Meaning::Absent => {
                EngineError::NotFound { reference: self.reference.to_string(), reason }
            }
            Meaning::Denied => EngineError::Denied { registry, action, reason },
            Meaning::Busy => EngineError::Busy {
                registry,
                action,
                reason,
                limited: answer.status < 500,
                wait: answer.wait,
            },
            Meaning::Unfinished => EngineError::Transient { action, source: reason.into() },
            Meaning::Refused => self.refused(reason),
        }
    }
}

/// Bytes that are not those of their digest.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Damaged(String);

/// Returns the digests and sizes of the layers, and what they come to.
fn layers_of(manifest: &ImageManifest) -> (Vec<(String, u64)>, u64) {
    let layer = |layer: &Descriptor| (layer.digest().to_string(), layer.size());
    let layers: Vec<(String, u64)> = manifest.layers().iter().map(layer).collect();
    // What a registry says of sizes may be anything.
    let size = layers.iter().map(|(_, size)| *size).fold(0, u64::saturating_add);
    (layers, size)
}

/// A page of the tags of a repository.
#[derive(Deserialize)]
struct Listed {
    tags: Option<Vec<String>>,
}

/// Tells whether a manifest is a list of manifests.
fn is_list(text: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Kind {
        manifests: Option<serde_json::Value>,
    }
    serde_json::from_slice::<Kind>(text).is_ok_and(|kind| kind.manifests.is_some())
}

/// Reads a header and a body as everything that a registry can answer with; only for
/// [`crate::fuzz_targets`].
#[cfg(feature = "embedded")]
pub(crate) fn read_every_answer(header: &[u8], body: &[u8]) {
    use reqwest::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
    if let Ok(value) = HeaderValue::from_bytes(header) {
        let value = |name: HeaderName| HeaderMap::from_iter([(name, value.clone())]);
        let _ = login::Challenge::of(&value(WWW_AUTHENTICATE));
        let _ = crate::retry::retry_after(&value(RETRY_AFTER));
    }
    for status in [400, 401, 403, 404, 429, 500] {
        let answer = Answer::new(status, None, body);
        let _ = (answer.meaning(false), answer.meaning(true), answer.to_string());
    }
    let _ = serde_json::from_slice::<Listed>(body);
    let _ = serde_json::from_slice::<artifact::Artifact>(body);
    let _ = serde_json::from_slice::<artifact::Index>(body);
    let _ = serde_json::from_slice::<login::Granted>(body);
    let _ = config::read(body);
    if is_list(body) {
        if let Ok(index) = serde_json::from_slice::<ImageIndex>(body) {
            let _ = choose(&index, &Platform::written("linux/amd64"));
        }
    } else if let Ok(manifest) = serde_json::from_slice::<ImageManifest>(body) {
        let _ = layers_of(&manifest);
    }
}

/// Chooses the manifest of a platform.
fn choose(index: &ImageIndex, platform: &Platform) -> Option<String> {
    let wanted: Platform = platform.as_str().parse().ok()?;
    let fits = |entry: &&Descriptor| {
        entry.platform().as_ref().is_some_and(|found| {
            let (os, architecture) = (found.os().to_string(), found.architecture().to_string());
            let variant = found.variant().as_deref().unwrap_or_default();
            Platform::of(&os, &architecture, variant) == wanted
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
    use crate::engine::NoLog;

    use super::testing::{Reply, Server};
    use super::*;

    #[test]
    fn sizes_that_no_number_holds_together_are_the_largest_one() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let part =
            |size: u64| serde_json::json!({"mediaType": "m", "digest": digest, "size": size});
        let manifest = serde_json::json!({
            "schemaVersion": 2, "config": part(1), "layers": [part(7), part(u64::MAX)],
        });
        let manifest: ImageManifest = serde_json::from_value(manifest).unwrap();
        assert_eq!(layers_of(&manifest).1, u64::MAX);
    }

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
            "manifests": [
                entry('4', "amd64", "v3"),
                entry('5', "arm64", "v9"),
                entry('1', "arm64", "v8"),
                entry('2', "amd64", ""),
                entry('3', "arm", "v7"),
            ],
        });
        let index: ImageIndex = serde_json::from_value(index).unwrap();
        let digest = |digit: char| Some(format!("sha256:{}", digit.to_string().repeat(64)));
        assert_eq!(choose(&index, &Platform::written("linux/amd64")), digest('2'));
        assert_eq!(choose(&index, &Platform::written("linux/arm64")), digest('1'));
        assert_eq!(choose(&index, &Platform::written("linux/arm/v7")), digest('3'));
        assert_eq!(choose(&index, &Platform::written("linux/riscv64")), None);
    }

    async fn remote(server: &Server, access: Access) -> RegistryClient {
        let reference = format!("{}/me/imgforge/env:tag", server.host).parse().unwrap();
        RegistryClient::open(None, access, &reference, &NoLog).await.unwrap()
    }

    const PAGE: &str = "<html><body><h1>Sorry</h1></body></html>";

    /// Answers to a question for an image, as the registries of the names give them.
    fn answers() -> Vec<(&'static str, Reply, &'static str)> {
        let coded = Reply::coded;
        let said = |status: u16, text: &str| Reply::new(status, text);
        vec![
            ("Artifactory", coded(404, "MANIFEST_UNKNOWN"), "absent"),
            ("Artifactory, repository", coded(404, "NAME_UNKNOWN"), "absent"),
            ("Harbor", coded(404, "NOT_FOUND"), "absent"),
            ("Harbor, project", coded(404, "PROJECT_NOT_FOUND"), "absent"),
            ("ECR", coded(404, "MANIFEST_UNKNOWN"), "absent"),
            ("ECR, repository", coded(404, "NAME_UNKNOWN"), "absent"),
            ("ECR, older", coded(400, "RepositoryNotFoundException"), "absent"),
            ("GAR", coded(404, "NAME_UNKNOWN"), "absent"),
            ("GAR, blob", coded(404, "MANIFEST_BLOB_UNKNOWN"), "absent"),
            ("ACR", coded(404, "MANIFEST_UNKNOWN"), "absent"),
            ("GitLab", coded(404, "NAME_UNKNOWN"), "absent"),
            ("GHCR", coded(404, "MANIFEST_UNKNOWN"), "absent"),
            ("a proxy", said(404, PAGE), "absent"),
            ("a bare server", said(404, ""), "absent"),
            ("a text", said(404, "404 page not found"), "absent"),
            ("Docker Hub, repository", coded(401, "UNAUTHORIZED"), "denied"),
            ("Quay", coded(401, "UNAUTHORIZED"), "denied"),
            ("GHCR, private", coded(403, "DENIED"), "denied"),
            ("GitLab, project", coded(403, "DENIED"), "denied"),
            ("GAR, rights", coded(403, "DENIED"), "denied"),
            ("a gateway", said(403, PAGE), "denied"),
            ("a gateway's 401", said(401, PAGE), "denied"),
            ("Docker Hub, limit", coded(429, "TOOMANYREQUESTS"), "limited"),
            ("ECR, limit", coded(429, "TooManyRequestsException"), "limited"),
            ("a gateway, limit", said(429, PAGE), "limited"),
            ("GitHub, limit", said(403, "").with("Retry-After", "1"), "limited"),
            ("Docker Hub, down", coded(503, "UNAVAILABLE"), "busy"),
            ("Harbor, down", coded(500, "UNKNOWN"), "busy"),
            ("a gateway, down", said(502, PAGE), "busy"),
            ("a gateway, slow", said(504, ""), "busy"),
            ("a gateway, own status", said(520, PAGE), "busy"),
            ("a broken line", Reply::default(), "broken"),
            ("half an answer", said(200, "{").with("Content-Length", "999"), "broken"),
            ("a bad name", coded(400, "NAME_INVALID"), "refused"),
            ("no registry", said(405, PAGE), "refused"),
            ("no manifest", said(200, "hello"), "refused"),
        ]
    }

    fn class(described: &Result<Option<Described>>) -> &'static str {
        match described {
            Ok(Some(_)) => "there",
            Ok(None) => "absent",
            Err(EngineError::Denied { .. }) => "denied",
            Err(EngineError::Busy { limited: true, .. }) => "limited",
            Err(EngineError::Busy { limited: false, .. }) => "busy",
            Err(EngineError::Transient { .. }) => "broken",
            Err(EngineError::Pull { .. }) => "refused",
            Err(_) => "something else",
        }
    }

    #[tokio::test]
    async fn every_registrys_answer_is_understood_by_its_status_and_codes() {
        for (registry, reply, expected) in answers() {
            let server = Server::always(reply).await;
            let remote = remote(&server, Access::Pull).await;
            let described = remote.describe(&Platform::written("linux/amd64")).await;
            let what = described.as_ref().err().map(ToString::to_string);
            assert_eq!(class(&described), expected, "{registry}: {what:?}");
            assert_eq!(server.asked().len(), 1, "{registry}: nothing is tried again here");
            if let Err(error) = &described {
                let login = error.hint().is_some_and(|hint| hint.contains("docker login"));
                assert_eq!(login, matches!(expected, "denied" | "limited"), "{registry}");
                let again = matches!(expected, "limited" | "busy" | "broken");
                assert_eq!(error.is_transient(), again, "{registry}");
            }
        }
    }

    #[tokio::test]
    async fn a_token_service_is_understood_as_its_registry() {
        for (status, code, expected) in [
            (401, "UNAUTHORIZED", "denied"),
            (403, "DENIED", "denied"),
            (429, "TOOMANYREQUESTS", "limited"),
            (503, "UNAVAILABLE", "busy"),
        ] {
            let server = Server::start(move |asked| match asked.line.contains("/token") {
                true => Reply::coded(status, code),
                false => {
                    let host = asked.headers.split("host: ").nth(1).unwrap();
                    let host = host.split("\r\n").next().unwrap();
                    let challenge = format!(r#"Bearer realm="http://{host}/token",service="s""#);
                    Reply::coded(401, "UNAUTHORIZED").with("WWW-Authenticate", challenge)
                }
            })
            .await;
            let described = remote(&server, Access::Pull)
                .await
                .describe(&Platform::written("linux/amd64"))
                .await;
            assert_eq!(class(&described), expected, "{status}");
        }
    }

    #[tokio::test]
    async fn a_token_is_asked_for_once_and_again_when_it_does_not_hold() {
        let server = Server::start(|asked| {
            let host = asked.headers.split("host: ").nth(1).unwrap();
            let host = host.split("\r\n").next().unwrap();
            let challenge = format!(r#"Bearer realm="http://{host}/token",service="s""#);
            if asked.line.contains("/token") {
                assert!(asked.line.contains("scope=repository%3Ame%2Fimgforge%2Fenv%3Apull"));
                return Reply::new(200, r#"{"token": "abc", "expires_in": 300}"#);
            }
            match asked.headers.contains("authorization: bearer abc") {
                true => Reply::coded(404, "MANIFEST_UNKNOWN"),
                false => Reply::coded(401, "UNAUTHORIZED").with("WWW-Authenticate", challenge),
            }
        })
        .await;
        let remote = remote(&server, Access::Pull).await;
        for _ in 0..3 {
            assert!(remote.describe(&Platform::written("linux/amd64")).await.unwrap().is_none());
        }
        let tokens = server.asked().iter().filter(|one| one.line.contains("/token")).count();
        assert_eq!((tokens, server.asked().len()), (1, 4));
    }

    #[cfg(any(feature = "embedded", feature = "kubernetes"))]
    #[tokio::test]
    async fn a_blob_of_another_repository_is_asked_for_with_a_token_for_both() {
        let server = Server::start(|asked| {
            let host = asked.headers.split("host: ").nth(1).unwrap();
            let host = host.split("\r\n").next().unwrap();
            let challenge = format!(r#"Bearer realm="http://{host}/token",service="s""#);
            if asked.line.contains("/token") {
                let both =
                    asked.line.contains("scope=repository%3Ame%2Fimgforge%2Fenv%3Apull%2Cpush&")
                        && asked.line.contains("scope=repository%3Ame%2Fimgforge%2Fbase%3Apull&");
                let token = if both { "both" } else { "one" };
                return Reply::new(200, format!(r#"{{"token": "{token}"}}"#));
            }
            match asked.headers.contains("authorization: bearer both") {
                true => Reply::new(201, ""),
                false => Reply::coded(401, "UNAUTHORIZED").with("WWW-Authenticate", challenge),
            }
        })
        .await;
        let remote = remote(&server, Access::Push).await;
        assert!(remote.mount("me/imgforge/base", "sha256:00").await);
    }

    #[tokio::test]
    async fn no_connection_and_no_host_are_told_from_a_refusal() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let closed = format!("127.0.0.1:{port}/a/b:c").parse().unwrap();
        let remote = RegistryClient::open(None, Access::Pull, &closed, &NoLog).await.unwrap();
        let error = remote.describe(&Platform::written("linux/amd64")).await.err().unwrap();
        assert!(matches!(error, EngineError::Offline { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn others_wait_too_when_a_registry_asks_to() {
        let server = Server::start(|asked| match asked.line.contains("/first/") {
            true => Reply::coded(429, "TOOMANYREQUESTS").with("Retry-After", "1"),
            false => Reply::coded(404, "MANIFEST_UNKNOWN"),
        })
        .await;
        let name =
            |repository: &str| format!("{}/{repository}/x:tag", server.host).parse().unwrap();
        let registry = open(None, &name("first"), &NoLog).await.unwrap();
        let of = |repository| RegistryClient::of(registry.clone(), Access::Pull, &name(repository));
        let first = of("first").describe(&Platform::written("linux/amd64")).await;
        assert_eq!(class(&first), "limited");
        assert!(of("second").describe(&Platform::written("linux/amd64")).await.unwrap().is_none());
        let asked = server.asked();
        let pause = asked[1].at - asked[0].at;
        assert!(pause >= std::time::Duration::from_secs(1), "{pause:?}");
    }
}
