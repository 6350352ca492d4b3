//! The Hugging Face hub: the parquet files of a dataset, fetched once into the cache that Python's
//! `huggingface_hub` uses, in its layout, and read there afterwards.
//!
//! The `hf-hub` crate neither resumes a file that was cut off nor heeds `Retry-After`, so the few
//! requests are made here. Endpoints and cache: huggingface.co/docs/huggingface_hub.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt as _;
use reqwest::header::{AUTHORIZATION, ETAG, HeaderMap, LOCATION, RANGE};
use reqwest::{Client, Response, StatusCode, Url};
use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;

use super::parts::{self, PartsError};
use crate::proxy;
use crate::retry::{Passing, TRANSFER, Tries, retried, retry_after};

/// Where the hub is, and where its files are kept.
#[derive(Debug, Clone)]
pub struct HubSettings {
    /// `https://huggingface.co`, or `HF_ENDPOINT`.
    pub endpoint: String,
    /// `HF_TOKEN`, or the token that `hf auth login` wrote.
    pub token: Option<String>,
    /// The directory of `datasets--owner--name` directories.
    pub cache: PathBuf,
    /// No request is made.
    pub offline: bool,
    /// The first pause before a request is made again; doubled each time.
    pub pause: Duration,
}

/// Why the hub's files cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The hub does not have it.
    #[error("the hub has no dataset `{id}`")]
    NotFound {
        /// The id.
        id: String,
    },
    /// The hub wants a token, or another one.
    #[error("the hub does not let us read `{id}` ({status})")]
    Denied {
        /// The id.
        id: String,
        /// The status.
        status: StatusCode,
    },
    /// The dataset has no such split.
    #[error("dataset `{id}` has no split `{split}`; it has {}", splits.join(", "))]
    NoSplit {
        /// The id.
        id: String,
        /// The split.
        split: String,
        /// What it has.
        splits: Vec<String>,
    },
    /// The dataset is not in the cache, and no request may be made.
    #[error("dataset `{id}` is not in the cache `{cache}`, and the hub may not be asked")]
    Offline {
        /// The id.
        id: String,
        /// The cache.
        cache: PathBuf,
    },
    /// The cache has a part of it, and no request may be made.
    #[error("the cache `{cache}` has a part of dataset `{id}`, and the hub may not be asked")]
    PartOffline {
        /// The id.
        id: String,
        /// The cache.
        cache: PathBuf,
        /// What is missing.
        #[source]
        source: PartsError,
    },
    /// What the hub has of a split is not one whole set.
    #[error("the hub has no whole dataset `{id}`")]
    Parts {
        /// The id.
        id: String,
        /// What is wrong.
        #[source]
        source: PartsError,
    },
    /// The hub answered with an error, also after some tries.
    #[error("`{url}` answered {status}{}", wait_text(*wait))]
    Status {
        /// What was asked.
        url: String,
        /// The status.
        status: StatusCode,
        /// How long it asks to wait.
        wait: Option<Duration>,
    },
    /// Redirects lead to redirects.
    #[error("`{url}` redirects again and again")]
    Redirects {
        /// What was asked.
        url: String,
    },
    /// The hub cannot be reached, also after some tries.
    #[error("cannot read `{url}`")]
    Request {
        /// What was asked.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// A transfer ended early, also after some tries.
    #[error("`{url}` ended after {got} of {expected} bytes")]
    CutOff {
        /// What was asked.
        url: String,
        /// Bytes received.
        got: u64,
        /// Bytes expected.
        expected: u64,
    },
    /// What came is not what the hub says it has.
    #[error("`{url}` has another sha256 than the hub says")]
    Checksum {
        /// What was asked.
        url: String,
    },
    /// What the environment says of certificates or proxies cannot be used.
    #[error(transparent)]
    Client(crate::http::NoClient),
    /// A file of the cache cannot be written.
    #[error("cannot use `{path}` in the hub's cache")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

fn wait_text(wait: Option<Duration>) -> String {
    wait.map_or(String::new(), |wait| format!(", and asks to wait {} s", wait.as_secs()))
}

impl Passing for HubError {
    fn may_pass(&self) -> bool {
        match self {
            HubError::CutOff { .. } | HubError::Request { .. } => true,
            HubError::Status { status, .. } => {
                let passing = [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT];
                passing.contains(status) || status.is_server_error()
            }
            _ => false,
        }
    }

    fn asked_pause(&self) -> Option<Duration> {
        match self {
            HubError::Status { wait, .. } => *wait,
            _ => None,
        }
    }
}

impl HubError {
    /// Returns what would help.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            HubError::Denied { .. } => {
                "set HF_TOKEN to a token that may read it, and accept the dataset's terms on its page"
            }
            HubError::Offline { .. } | HubError::PartOffline { .. } => {
                "run once without --offline and HF_HUB_OFFLINE"
            }
            HubError::Status { status: StatusCode::TOO_MANY_REQUESTS, .. } => {
                "wait, or set HF_TOKEN: the hub allows more to those it knows"
            }
            HubError::NotFound { .. } => "private datasets are not found without HF_TOKEN",
            HubError::Request { url, .. } if proxy::leads_to(url) => {
                "a proxy of the environment leads there (HTTPS_PROXY, ALL_PROXY): look whether it \
                 answers, or except the host in NO_PROXY"
            }
            HubError::Request { .. } => {
                "behind a proxy, set HTTPS_PROXY, and SSL_CERT_FILE for its certificates"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// Tells whether a name has the form of an id on the hub: `owner/name`, with `@revision` or not.
pub(super) fn is_id(name: &str) -> bool {
    let id = name.split_once('@').map_or(name, |(id, _)| id);
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    id.split_once('/').is_some_and(|(owner, name)| part(owner) && part(name))
}

impl HubSettings {
    /// Reads the variables that `huggingface_hub` reads.
    pub fn from_env(variable: impl Fn(&str) -> Option<String>) -> Self {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let home = variable("HF_HOME").map(PathBuf::from).unwrap_or_else(|| {
            let cache = variable("XDG_CACHE_HOME")
                .map(PathBuf::from)
                .or_else(|| variable("HOME").map(|home| Path::new(&home).join(".cache")));
            cache.unwrap_or_else(std::env::temp_dir).join("huggingface")
        });
        let truthy = |name: &str| {
            variable(name).is_some_and(|value| {
                matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE")
            })
        };
        let token_file =
            variable("HF_TOKEN_PATH").map(PathBuf::from).unwrap_or_else(|| home.join("token"));
        let token = variable("HF_TOKEN")
            .or_else(|| std::fs::read_to_string(token_file).ok())
            .map(|token| token.trim().to_owned())
            .filter(|token| !token.is_empty());
        HubSettings {
            endpoint: variable("HF_ENDPOINT")
                .unwrap_or_else(|| "https://huggingface.co".to_owned())
                .trim_end_matches('/')
                .to_owned(),
            token,
            cache: variable("HF_HUB_CACHE")
                .or_else(|| variable("HUGGINGFACE_HUB_CACHE"))
                .map_or_else(|| home.join("hub"), PathBuf::from),
            offline: truthy("HF_HUB_OFFLINE") || truthy("HF_DATASETS_OFFLINE"),
            pause: Duration::from_secs(1),
        }
    }
}

/// Files of a split, in the cache.
#[derive(Debug)]
pub(super) struct Fetched {
    pub files: Vec<PathBuf>,
    pub revision: String,
}

/// What the cache has of a split.
enum Cached {
    Whole(Fetched),
    Part(PartsError),
    None,
}

#[derive(Deserialize)]
struct Listing {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// Returns the files of a split, fetching what the cache lacks.
///
/// A split that is in the cache under the wanted revision (`main` when none is named) is read
/// there, and the hub is not asked: like a lockfile, it stays until it is removed.
pub(super) async fn fetch(name: &str, split: &str, hub: &HubSettings) -> Result<Fetched, HubError> {
    let (id, revision) = name.split_once('@').unwrap_or((name, "main"));
    let repo =
        Repo { hub, id, dir: hub.cache.join(format!("datasets--{}", id.replace('/', "--"))) };
    let missing = match repo.cached(revision, split) {
        Cached::Whole(fetched) => return Ok(fetched),
        Cached::Part(source) => Some(source),
        Cached::None => None,
    };
    if hub.offline {
        let (id, cache) = (id.to_owned(), hub.cache.clone());
        return Err(match missing {
            Some(source) => HubError::PartOffline { id, cache, source },
            None => HubError::Offline { id, cache },
        });
    }
    let client = client()?;
    let listing = repo.list(&client, revision).await?;
    let files: Vec<String> = listing.siblings.into_iter().map(|file| file.rfilename).collect();
    let names = || files.iter().map(String::as_str);
    let chosen = parts::choose(names(), split, true)
        .map_err(|source| HubError::Parts { id: id.to_owned(), source })?;
    if chosen.is_empty() {
        let splits = parts::splits(names());
        return Err(HubError::NoSplit { id: id.to_owned(), split: split.to_owned(), splits });
    }
    let mut paths = Vec::new();
    for file in chosen {
        paths.push(repo.download(&client, &listing.sha, file).await?);
    }
    repo.write_ref(revision, &listing.sha)?;
    Ok(Fetched { files: paths, revision: listing.sha })
}

/// Makes a client that hands redirects to us: a token must not follow to another host.
fn client() -> Result<Client, HubError> {
    let builder = crate::http::client().map_err(HubError::Client)?;
    let builder = builder.redirect(reqwest::redirect::Policy::none());
    builder.build().map_err(|source| HubError::Request { url: "(client)".to_owned(), source })
}

/// One dataset on the hub.
struct Repo<'a> {
    hub: &'a HubSettings,
    id: &'a str,
    dir: PathBuf,
}

impl Repo<'_> {
    fn tries(&self) -> Tries {
        Tries { first: self.hub.pause, ..TRANSFER }
    }

    fn cached(&self, revision: &str, split: &str) -> Cached {
        let named = std::fs::read_to_string(self.dir.join("refs").join(revision)).ok();
        let revision = named.map_or_else(|| revision.to_owned(), |text| text.trim().to_owned());
        let snapshot = self.dir.join("snapshots").join(&revision);
        match super::files::find(&snapshot, split, true) {
            // A link whose blob was removed is not a file.
            Ok(files) if files.iter().all(|file| file.is_file()) => {
                Cached::Whole(Fetched { files, revision })
            }
            Err(super::DatasetError::Parts { source, .. }) => Cached::Part(source),
            _ => Cached::None,
        }
    }

    fn write_ref(&self, revision: &str, sha: &str) -> Result<(), HubError> {
        if revision == sha {
            return Ok(());
        }
        let path = self.dir.join("refs").join(revision);
        self.write_whole(&path, sha.as_bytes())
    }

    fn write_whole(&self, path: &Path, bytes: &[u8]) -> Result<(), HubError> {
        let error = |source| HubError::File { path: path.to_owned(), source };
        let parent = path.parent().expect("files of the cache have a directory");
        std::fs::create_dir_all(parent).map_err(error)?;
        let file = tempfile::NamedTempFile::new_in(parent).map_err(error)?;
        std::fs::write(file.path(), bytes).map_err(error)?;
        file.persist(path).map_err(|failed| error(failed.error))?;
        Ok(())
    }

    async fn list(&self, client: &Client, revision: &str) -> Result<Listing, HubError> {
        let url = format!("{}/api/datasets/{}/revision/{revision}", self.hub.endpoint, self.id);
        let listed = || async {
            let response = self.get(client, &url, 0).await?;
            response.json().await.map_err(|source| HubError::Request { url: url.clone(), source })
        };
        retried(self.tries(), |_, _| {}, listed).await
    }

    /// Fetches one file into the cache and returns its path in the snapshot.
    async fn download(&self, client: &Client, sha: &str, file: &str) -> Result<PathBuf, HubError> {
        let place = self.dir.join("snapshots").join(sha).join(file);
        if place.is_file() {
            return Ok(place);
        }
        let url = format!("{}/datasets/{}/resolve/{sha}/{file}", self.hub.endpoint, self.id);
        let blobs = self.dir.join("blobs");
        let error = |source| HubError::File { path: blobs.clone(), source };
        std::fs::create_dir_all(&blobs).map_err(error)?;
        let lock = std::fs::File::create(blobs.join(".imgforge.lock")).map_err(error)?;
        let lock = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock))
            .await
            .expect("waiting for a lock does not panic")
            .map_err(error)?;
        if place.is_file() {
            return Ok(place);
        }
        // What came of it stays, and the next try goes on from there.
        let transfer = || self.transfer(client, &url, &blobs);
        let etag = retried(self.tries(), |_, _| {}, transfer).await?;
        drop(lock);
        let parent = place.parent().expect("a snapshot's file has a directory");
        std::fs::create_dir_all(parent).map_err(error)?;
        let up = "../".repeat(2 + file.matches('/').count());
        let target = format!("{up}blobs/{etag}");
        match std::os::unix::fs::symlink(target, &place) {
            Err(source) if source.kind() != std::io::ErrorKind::AlreadyExists => Err(error(source)),
            _ => Ok(place),
        }
    }

    /// Brings a file to `blobs/<etag>`, going on where an earlier transfer was cut off.
    async fn transfer(&self, client: &Client, url: &str, blobs: &Path) -> Result<String, HubError> {
        let head = self.head(client, url).await?;
        let path = blobs.join(&head.etag);
        if path.is_file() {
            return Ok(head.etag);
        }
        let partial = blobs.join(format!("{}.incomplete", head.etag));
        let error = |source| HubError::File { path: partial.clone(), source };
        let had = std::fs::metadata(&partial).map_or(0, |data| data.len());
        let response = self.get(client, url, had).await?;
        let resumed = response.status() == StatusCode::PARTIAL_CONTENT;
        let start = if resumed { had } else { 0 };
        let expected = response.content_length().map(|length| start + length).or(head.size);
        let mut file = tokio::fs::OpenOptions::new()
            .create(true)
            .write(true)
            .append(resumed)
            .truncate(!resumed)
            .open(&partial)
            .await
            .map_err(error)?;
        let mut got = start;
        let mut body = response.bytes_stream();
        let mut broken = None;
        while let Some(piece) = body.next().await {
            match piece {
                Ok(piece) => {
                    file.write_all(&piece).await.map_err(error)?;
                    got += piece.len() as u64;
                    crate::traffic::count(piece.len() as u64);
                }
                Err(source) => {
                    broken = Some(source);
                    break;
                }
            }
        }
        file.sync_all().await.map_err(error)?;
        if let Some(expected) = expected.filter(|expected| *expected != got) {
            return Err(HubError::CutOff { url: url.to_owned(), got, expected });
        }
        if let Some(source) = broken {
            return Err(HubError::Request { url: url.to_owned(), source });
        }
        let bytes = std::fs::read(&partial).map_err(error)?;
        let is_sha256 = head.etag.len() == 64;
        if is_sha256 && crate::key::Digest::of(&bytes).to_string() != head.etag {
            std::fs::remove_file(&partial).map_err(error)?;
            return Err(HubError::Checksum { url: url.to_owned() });
        }
        std::fs::rename(&partial, &path).map_err(error)?;
        Ok(head.etag)
    }

    /// Asks what a file is, without following to where it is kept.
    async fn head(&self, client: &Client, url: &str) -> Result<FileHead, HubError> {
        let parsed = parse(url, url)?;
        let response = self.send(client, reqwest::Method::HEAD, parsed, 0).await?;
        let headers = response.headers();
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let etag = text("x-linked-etag").or_else(|| text(ETAG.as_str())).unwrap_or("");
        let etag: String = etag
            .trim_start_matches("W/")
            .trim_matches('"')
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
            .collect();
        let size = text("x-linked-size").and_then(|size| size.parse().ok());
        if etag.is_empty() {
            return Err(HubError::Status {
                url: url.to_owned(),
                status: response.status(),
                wait: None,
            });
        }
        Ok(FileHead { etag, size })
    }

    /// Gets a URL from a byte on, following redirects.
    async fn get(&self, client: &Client, url: &str, from: u64) -> Result<Response, HubError> {
        let mut next = parse(url, url)?;
        let too_many = HubError::Redirects { url: url.to_owned() };
        for _ in 0..10 {
            let response = self.send(client, reqwest::Method::GET, next.clone(), from).await?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let location = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
            next = next.join(location.unwrap_or("")).map_err(|_| HubError::Status {
                url: url.to_owned(),
                status: response.status(),
                wait: None,
            })?;
        }
        Err(too_many)
    }

    /// Makes a request; the token goes to the hub only.
    async fn send(
        &self,
        client: &Client,
        method: reqwest::Method,
        url: Url,
        from: u64,
    ) -> Result<Response, HubError> {
        let mut headers = HeaderMap::new();
        let same_host = parse(&self.hub.endpoint, url.as_str())?.origin() == url.origin();
        if let Some(token) = self.hub.token.as_ref().filter(|_| same_host)
            && let Ok(value) = format!("Bearer {token}").parse()
        {
            headers.insert(AUTHORIZATION, value);
        }
        if from > 0 {
            headers.insert(RANGE, format!("bytes={from}-").parse().expect("digits are ASCII"));
        }
        let sent = client.request(method, url.clone()).headers(headers).send().await;
        let response = sent.map_err(|source| HubError::Request { url: url.to_string(), source })?;
        let status = response.status();
        if status.is_success() || status.is_redirection() {
            return Ok(response);
        }
        let id = self.id.to_owned();
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => HubError::Denied { id, status },
            StatusCode::NOT_FOUND => HubError::NotFound { id },
            _ => {
                let wait = retry_after(response.headers());
                HubError::Status { url: url.to_string(), status, wait }
            }
        })
    }
}

struct FileHead {
    etag: String,
    size: Option<u64>,
}

fn parse(url: &str, shown: &str) -> Result<Url, HubError> {
    Url::parse(url).map_err(|_| HubError::Status {
        url: shown.to_owned(),
        status: StatusCode::BAD_REQUEST,
        wait: None,
    })
}
