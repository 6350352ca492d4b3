//! `archive`: files of a container as a tar, whether or not its main command runs.

use std::io;
use std::sync::Arc;

use base64::Engine as _;
use futures_util::TryStreamExt as _;
use http_body_util::BodyExt as _;
use hyper::header::HeaderValue;
use hyper::{Method, Response, StatusCode};
use jiff::Timestamp;
use serde_json::json;
use tokio_util::io::{ReaderStream, StreamReader};

use crate::engine::{EngineError, FileStatus};

use super::answer::{Answer, Body, Refusal, empty, streamed};
use super::call::Call;
use super::container::Container;

/// The header that says what is at the path.
const STATUS: &str = "x-docker-container-path-stat";

/// Bytes of an archive that are sent at once.
const PIECE: usize = 1 << 16;

/// Kinds of files: that of `stat(2)`, and the bits of Go's `os.FileMode`.
const KINDS: [(u32, u32); 6] = [
    (libc::S_IFDIR, 1 << 31),
    (libc::S_IFLNK, 1 << 27),
    (libc::S_IFBLK, 1 << 26),
    (libc::S_IFIFO, 1 << 25),
    (libc::S_IFSOCK, 1 << 24),
    (libc::S_IFCHR, (1 << 26) | (1 << 21)),
];

/// Does what is asked for with a path of a container.
pub(super) async fn archive(call: &mut Call, container: Arc<Container>, called: &str) -> Answer {
    let path = call.parameter("path").ok_or_else(|| Refusal::bad("missing parameter: path"))?;
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    match call.method {
        Method::HEAD => {
            let status = status(&container, &path, called).await?;
            let mut response = empty(StatusCode::OK);
            describe(&mut response, &path, &status);
            Ok(response)
        }
        Method::GET => get(container, path, called).await,
        _ => put(call, container, path, called).await,
    }
}

async fn status(container: &Container, path: &str, called: &str) -> Result<FileStatus, Refusal> {
    container.session.status(path).await.map_err(|error| match error {
        EngineError::NoSuchPath { .. } => absent(path, called),
        other => other.into(),
    })
}

fn absent(path: &str, called: &str) -> Refusal {
    Refusal::absent(format!("Could not find the file {path} in container {called}"))
}

/// Says in the head of an answer what is at a path.
fn describe(response: &mut Response<Body>, path: &str, status: &FileStatus) {
    let name = path.trim_end_matches('/').rsplit('/').next().filter(|name| !name.is_empty());
    let modified = Timestamp::from_nanosecond(status.modified).unwrap_or_default();
    let text = json!({
        "name": name.unwrap_or("/"),
        "size": status.size,
        "mode": go_mode(status.mode),
        "mtime": modified.to_string(),
        "linkTarget": status.link,
    });
    let text = base64::engine::general_purpose::STANDARD.encode(text.to_string());
    if let Ok(value) = HeaderValue::from_str(&text) {
        response.headers_mut().insert(STATUS, value);
    }
}

/// Returns a mode as Go's `os.FileMode` has it.
fn go_mode(mode: u32) -> u32 {
    let kind = KINDS.iter().find(|(kind, _)| mode & libc::S_IFMT == *kind);
    let mut bits = mode & 0o777 | kind.map_or(0, |(_, bits)| *bits);
    for (bit, other) in [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)] {
        bits |= if mode & bit == 0 { 0 } else { other };
    }
    bits
}

async fn get(container: Arc<Container>, path: String, called: &str) -> Answer {
    let status = status(&container, &path, called).await?;
    let mut response = packed(container, path.clone());
    describe(&mut response, &path, &status);
    Ok(response)
}

/// Gives all files of a container that are not mounted, as an archive.
pub(super) fn export(container: Arc<Container>) -> Answer {
    container.tell("export", &[]);
    Ok(packed(container, "/.".to_owned()))
}

/// Gives what is at a path as an archive.
fn packed(container: Arc<Container>, path: String) -> Response<Body> {
    let (read, mut write) = tokio::io::duplex(PIECE);
    let work = tokio::spawn(async move {
        let written = container.session.get(&path, &mut write).await;
        drop(write);
        written
    });
    let pieces = ReaderStream::with_capacity(read, PIECE);
    // An archive that broke off does not end as a whole one does.
    let end = futures_util::stream::once(async {
        match work.await {
            Ok(Ok(())) => Ok(None),
            Ok(Err(error)) => Err(io::Error::other(error)),
            Err(error) => Err(io::Error::other(error)),
        }
    });
    let end = end.try_filter_map(|piece| async { Ok(piece) });
    streamed("application/x-tar", futures_util::StreamExt::chain(pieces, end))
}

async fn put(call: &mut Call, container: Arc<Container>, path: String, called: &str) -> Answer {
    let pieces = call.request.body_mut().into_data_stream().map_err(io::Error::other);
    let mut tar = StreamReader::new(pieces);
    match container.session.put(&path, false, &mut tar).await {
        Ok(()) => Ok(empty(StatusCode::OK)),
        Err(EngineError::NoSuchPath { .. }) => match container.session.status(&path).await {
            Ok(_) => Err(Refusal::bad("extraction point is not a directory")),
            Err(EngineError::NoSuchPath { .. }) => Err(absent(&path, called)),
            Err(error) => Err(error.into()),
        },
        Err(EngineError::Refused { action, reason })
            if container.host_config().readonly_rootfs == Some(true) =>
        {
            Err(Refusal::bad(format!(
                "container rootfs is marked read-only: failed to {action}: {reason}"
            )))
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::go_mode;

    #[test]
    fn modes_are_those_of_go() {
        assert_eq!(go_mode(0o100_644), 0o644);
        assert_eq!(go_mode(0o040_755), (1 << 31) | 0o755);
        assert_eq!(go_mode(0o120_777), (1 << 27) | 0o777);
        assert_eq!(go_mode(0o041_777), (1 << 31) | (1 << 20) | 0o777);
        assert_eq!(go_mode(0o020_666), (1 << 26) | (1 << 21) | 0o666);
        assert_eq!(go_mode(0o104_755), (1 << 23) | 0o755);
    }
}
