//! Files in directories in memory of a session.
//!
//! The engine's archives pass such directories by: they are of what lies below. A `tar` of the container
//! reads and writes them.

use futures_util::StreamExt as _;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use crate::engine::{
    EngineError, Exec, ExecEnd, ExecRequest, Input, Output, Result, SandboxSession,
};

/// The exit code that says that nothing is at the path.
const NO_PATH: i32 = 66;

const PUT: &str = "[ -d \"$1\" ] || exit 66; cd -- \"$1\" && exec tar -x -p --numeric-owner -f -";

const GET: &str = "[ -e \"$1/$2\" ] || [ -L \"$1/$2\" ] || exit 66\n\
     cd -- \"$1\" && exec tar -c --numeric-owner -f - -- \"$2\"";

/// How much of what `tar` says is kept, in bytes.
const WORDS: usize = 4096;

/// Tells whether a path is in one of the directories.
pub(super) fn has(directories: &[String], path: &str) -> bool {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let path = format!("/{}", parts.join("/"));
    directories.iter().any(|directory| {
        path.strip_prefix(directory.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// Unpacks a tar, as [`SandboxSession::put`] does.
pub(super) async fn put(
    session: &dyn SandboxSession,
    directory: &str,
    tar: &mut (dyn AsyncRead + Send + Unpin),
) -> Result<()> {
    let request = ExecRequest { input: Input::Held, ..request(PUT, &[directory]) };
    let Exec { input, mut output, handle } = session.spawn(&request).await?;
    let send = async {
        let Some(mut input) = input else { return Ok(0) };
        let copied = tokio::io::copy(tar, &mut input).await;
        let _ = input.shutdown().await;
        copied
    };
    let mut said = Vec::new();
    let receive = async {
        while let Some(piece) = output.next().await {
            let (Output::Out(bytes) | Output::Error(bytes)) = piece?;
            keep(&mut said, &bytes);
        }
        Ok::<_, EngineError>(())
    };
    let (copied, received) = tokio::join!(send, receive);
    received?;
    // Where `tar` does not take all of it, it says why.
    check(session, handle.end().await?.end, directory, &said)?;
    copied.map(drop).map_err(|error| refused("read an archive", error.to_string()))
}

/// Writes what is at a path as a tar, as [`SandboxSession::get`] does.
pub(super) async fn get(
    session: &dyn SandboxSession,
    path: &str,
    tar: &mut (dyn AsyncWrite + Send + Unpin),
) -> Result<()> {
    let (directory, name) = match path.trim_end_matches('/').rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((directory, name)) => (directory, name),
        None => ("/", path),
    };
    let Exec { mut output, handle, .. } = session.spawn(&request(GET, &[directory, name])).await?;
    let mut said = Vec::new();
    while let Some(piece) = output.next().await {
        match piece? {
            Output::Out(bytes) => tar
                .write_all(&bytes)
                .await
                .map_err(|error| refused("write an archive", error.to_string()))?,
            Output::Error(bytes) => keep(&mut said, &bytes),
        }
    }
    check(session, handle.end().await?.end, path, &said)
}

fn request(script: &str, arguments: &[&str]) -> ExecRequest {
    let words = [&["/bin/sh", "-c", script, "sh"], arguments].concat();
    ExecRequest {
        user: Some("0:0".to_owned()),
        working_dir: Some("/".to_owned()),
        ..ExecRequest::of(&words)
    }
}

fn keep(said: &mut Vec<u8>, bytes: &[u8]) {
    let room = WORDS.saturating_sub(said.len());
    said.extend_from_slice(&bytes[..bytes.len().min(room)]);
}

fn refused(action: &str, reason: String) -> EngineError {
    EngineError::Refused { action: action.to_owned(), reason }
}

fn check(session: &dyn SandboxSession, end: ExecEnd, path: &str, said: &[u8]) -> Result<()> {
    let said = String::from_utf8_lossy(said).trim().to_owned();
    match end {
        ExecEnd::Exited(0) => Ok(()),
        ExecEnd::Exited(NO_PATH) => Err(EngineError::NoSuchPath { path: path.to_owned() }),
        ExecEnd::SessionEnded(how) => {
            Err(EngineError::SessionEnded { session: session.id().to_owned(), how })
        }
        end => {
            let said = if said.is_empty() { format!("{end:?}") } else { said };
            let action = format!("reach `{path}`, which is in memory, by `tar` of the image");
            Err(EngineError::Refused { action, reason: said })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_in_memory_by_where_it_leads() {
        let directories = ["/workspace".to_owned(), "/a/b".to_owned()];
        for path in ["/workspace", "/workspace/", "/workspace/x", "/etc/../workspace", "//a/./b/c"]
        {
            assert!(has(&directories, path), "{path}");
        }
        for path in ["/workspaces", "/a", "/workspace/../etc", "/", "/a/c"] {
            assert!(!has(&directories, path), "{path}");
        }
    }
}
