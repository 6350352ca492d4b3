//! A package index on loopback: it records what builds ask of the real one, or answers from records.
//!
//! It is a mirror for `pip` and `uv`: pages of projects (the simple API,
//! <https://packaging.python.org/en/latest/specifications/simple-repository-api/>) are kept as they
//! came, and links in them lead back to it when they are served.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use regex::Regex;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::key::Digest;

/// Where links to other hosts lead: scheme, host and path follow.
const ELSEWHERE: &str = "/-/";

/// The media type of the simple API as JSON.
const JSON: &str = "application/vnd.pypi.simple.v1+json";

/// A recorded answer, beside its body.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    path: String,
    status: u16,
    content_type: String,
}

/// Where what is not recorded comes from.
struct Upstream {
    client: reqwest::Client,
    /// The index, without a slash at its end, such as `https://pypi.org/simple`.
    index: String,
}

struct Shared {
    dir: PathBuf,
    upstream: Option<Upstream>,
    links: Regex,
}

/// A running index; it ends when it is dropped.
pub struct PackageIndex {
    address: SocketAddr,
    task: JoinHandle<()>,
}

#[cfg(feature = "embedded")]
use crate::engine::embedded::helper::bring_loopback_up;

/// Says what has to be brought up: only the embedded engine changes networks.
#[cfg(not(feature = "embedded"))]
fn bring_loopback_up() -> io::Result<()> {
    Err(io::Error::other("the loopback of this network namespace is down: `ip link set lo up`"))
}

impl Drop for PackageIndex {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl PackageIndex {
    /// Answers from the records of `dir`, and with `index` also from there, recording it.
    pub async fn start(dir: &Path, index: Option<(reqwest::Client, &str)>) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let mut listener = TcpListener::bind("127.0.0.1:0").await;
        let reached = match &listener {
            Ok(bound) => TcpStream::connect(bound.local_addr()?).await.is_ok(),
            Err(_) => false,
        };
        if !reached {
            // The loopback of a network namespace that is new is down.
            bring_loopback_up()?;
            listener = TcpListener::bind("127.0.0.1:0").await;
        }
        let listener = listener?;
        let address = listener.local_addr()?;
        let upstream = index.map(|(client, index)| {
            let index = index.trim_end_matches('/').to_owned();
            Upstream { client, index }
        });
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            upstream,
            links: Regex::new(r#"(https?)://([^/"'\s<>]+)/"#).expect("the expression is valid"),
        });
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = shared.clone();
                tokio::spawn(async move {
                    let answer = service_fn(move |request| {
                        let shared = shared.clone();
                        async move { Ok::<_, Infallible>(answer(request, &shared, address).await) }
                    });
                    // Whoever breaks off is not told.
                    let connection = hyper::server::conn::http1::Builder::new();
                    let _ = connection.serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        Ok(PackageIndex { address, task })
    }

    /// Returns the variables that lead `pip` and `uv` to it, and past their caches.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let url = format!("http://{}/simple", self.address);
        let host = self.address.ip().to_string();
        vec![
            ("PIP_INDEX_URL", url.clone()),
            ("PIP_TRUSTED_HOST", host.clone()),
            ("UV_DEFAULT_INDEX", url.clone()),
            ("UV_INDEX_URL", url),
            ("UV_INSECURE_HOST", host.clone()),
            ("NO_PROXY", host.clone()),
            ("no_proxy", host),
            ("PIP_NO_CACHE_DIR", "1".to_owned()),
            ("UV_NO_CACHE", "1".to_owned()),
        ]
    }
}

async fn answer(
    request: Request<Incoming>,
    shared: &Shared,
    address: SocketAddr,
) -> Response<Full<Bytes>> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let json = request
        .headers()
        .get(ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains(JSON));
    let found = shared.find(&path, json).await;
    let mut response = match found {
        Ok((answer, body)) => {
            let body = match is_page(&answer.content_type) {
                true => shared.relinked(&body, address),
                false => body,
            };
            let length = body.len();
            let body = if request.method() == Method::HEAD { Bytes::new() } else { body.into() };
            let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::BAD_GATEWAY);
            Response::builder()
                .status(status)
                .header(CONTENT_TYPE, answer.content_type)
                .header(CONTENT_LENGTH, length)
                .body(Full::new(body))
                .unwrap_or_default()
        }
        Err(why) => {
            let mut response = Response::new(Full::new(Bytes::from(why)));
            *response.status_mut() = match shared.upstream {
                Some(_) => StatusCode::BAD_GATEWAY,
                None => StatusCode::NOT_FOUND,
            };
            response
        }
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    }
    response
}

fn is_page(content_type: &str) -> bool {
    content_type.contains("html") || content_type.contains("json")
}

impl Shared {
    /// Where the record of a request is. Files are the same in whatever form a page is asked for.
    fn record(&self, path: &str, json: bool) -> PathBuf {
        let form = match (path.starts_with(ELSEWHERE), json) {
            (true, _) => "file",
            (false, true) => "json",
            (false, false) => "html",
        };
        self.dir.join(Digest::of(format!("{form} {path}")).to_string())
    }

    async fn find(&self, path: &str, json: bool) -> Result<(Answer, Vec<u8>), String> {
        for json in [json, !json] {
            let record = self.record(path, json);
            if let Ok(text) = std::fs::read(record.with_extension("json"))
                && let Ok(answer) = serde_json::from_slice(&text)
                && let Ok(body) = std::fs::read(record.with_extension("body"))
            {
                return Ok((answer, body));
            }
            // The other form serves only where there is nothing else.
            if self.upstream.is_some() {
                break;
            }
        }
        let Some(upstream) = &self.upstream else {
            return Err(format!("`{path}` is not in the bundle"));
        };
        let url = match path.strip_prefix(ELSEWHERE) {
            Some(rest) => rest.replacen('/', "://", 1),
            None => format!("{}{}", upstream.index, path.strip_prefix("/simple").unwrap_or(path)),
        };
        let mut asked = upstream.client.get(&url);
        if json {
            asked = asked.header(ACCEPT, JSON);
        }
        let failed = |error: reqwest::Error| format!("{url}: {error}");
        let response = asked.send().await.map_err(failed)?;
        let header = response.headers().get(CONTENT_TYPE);
        let content_type = header.and_then(|value| value.to_str().ok()).unwrap_or_default();
        let answer = Answer {
            path: path.to_owned(),
            status: response.status().as_u16(),
            content_type: content_type.to_owned(),
        };
        let body = response.bytes().await.map_err(failed)?;
        if answer.status < 500 {
            let record = self.record(path, json);
            let text = serde_json::to_vec(&answer).expect("plain values");
            let write = |end: &str, bytes: &[u8]| {
                crate::atomic::write(&record.with_extension(end), bytes, false)
            };
            let written = write("body", &body).and_then(|()| write("json", &text));
            written.map_err(|error| format!("{}: {error}", record.display()))?;
        }
        Ok((answer, body.to_vec()))
    }

    /// Lets the links of a page lead here.
    fn relinked(&self, page: &[u8], address: SocketAddr) -> Vec<u8> {
        let text = String::from_utf8_lossy(page);
        let here = format!("http://{address}{ELSEWHERE}$1/$2/");
        self.links.replace_all(&text, here.as_str()).into_owned().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An index with one project of one file, which is elsewhere on it.
    fn upstream() -> SocketAddr {
        use std::io::{Read as _, Write as _};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut request = [0; 4096];
                let length = stream.read(&mut request).unwrap_or(0);
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                let (kind, body) = match request.split(' ').nth(1) {
                    Some("/simple/a/") => {
                        let link = format!("http://{address}/files/a-1.whl#sha256=00");
                        ("text/html", format!("<a href=\"{link}\">a</a>"))
                    }
                    Some("/files/a-1.whl") => ("application/zip", "PK".to_owned()),
                    _ => ("text/plain", String::new()),
                };
                let status = if body.is_empty() { "404 Not Found" } else { "200 OK" };
                let _ = write!(
                    stream,
                    "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\
                     Connection: close\r\n\r\n{body}",
                    body.len()
                );
            }
        });
        address
    }

    #[tokio::test]
    async fn what_was_recorded_is_answered_when_the_index_is_gone() {
        let client = crate::http::client().unwrap().no_proxy().build().unwrap();
        let records = tempfile::tempdir().unwrap();
        let index = format!("http://{}/simple/", upstream());
        let get = |address: SocketAddr, path: String| {
            let client = client.clone();
            async move {
                let response = client.get(format!("http://{address}{path}")).send().await.unwrap();
                (response.status().as_u16(), response.text().await.unwrap())
            }
        };
        let recording =
            PackageIndex::start(records.path(), Some((client.clone(), &index))).await.unwrap();
        let (status, text) = get(recording.address, "/simple/a/".to_owned()).await;
        assert_eq!(status, 200);
        let link = text.split('"').nth(1).unwrap().split('#').next().unwrap();
        let path = link.strip_prefix(&format!("http://{}", recording.address)).unwrap().to_owned();
        assert_eq!(get(recording.address, path.clone()).await, (200, "PK".to_owned()));
        assert_eq!(get(recording.address, "/simple/b/".to_owned()).await.0, 404);
        drop(recording);
        let replaying = PackageIndex::start(records.path(), None).await.unwrap();
        let (status, text) = get(replaying.address, "/simple/a/".to_owned()).await;
        assert_eq!(status, 200);
        assert!(text.contains(&replaying.address.to_string()), "{text}");
        assert_eq!(get(replaying.address, path).await, (200, "PK".to_owned()));
        assert_eq!(get(replaying.address, "/simple/b/".to_owned()).await.0, 404);
        assert_eq!(get(replaying.address, "/simple/c/".to_owned()).await.0, 404);
    }
}
