//! Commands whose ends the caller holds, over a connection that the engine hands over.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bollard::Docker;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{
    CreateContainerOptions, InspectContainerOptions, KillContainerOptionsBuilder,
    ResizeContainerTTYOptionsBuilder, StartContainerOptions, UploadToContainerOptionsBuilder,
    WaitContainerOptions,
};
use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::engine::{
    AttachRequest, Attached, AttachedCommand, EngineError, Output, Result, SandboxEnd,
    SandboxNetwork, WindowSize,
};

use super::DockerEngine;
use super::errors::{failed, is_not_found};
use super::scratch;

const ACTION: &str = "run a container";

/// Keys that leave a terminal and let the command go on. None should; an empty list would be the
/// engine's default, which takes Ctrl-P from shells.
const DETACH_KEYS: &str = "ctrl-%5E,ctrl-@,ctrl-%5E,ctrl-@,ctrl-%5E,ctrl-@";

/// The head of a frame: which output, three zeros, the number of bytes.
const HEAD: usize = 8;

/// How much is read at once.
const PIECE: usize = 1 << 14;

impl DockerEngine {
    pub(super) async fn attach_to(&self, request: &AttachRequest) -> Result<Attached> {
        let cpus = match request.milli_cpus {
            Some(_) => Some(self.facts().await?.cpus),
            None => None,
        };
        loop {
            let ipv6 = !self.without_ipv6.load(Ordering::Relaxed);
            let body = self.attached_body(request, cpus, ipv6);
            let attached = self.attach_once(request, body).await;
            let asked = ipv6 && request.network != SandboxNetwork::Host;
            if attached.is_ok() || !asked || !self.lacks_ipv6(&request.image).await {
                return attached;
            }
            self.without_ipv6.store(true, Ordering::Relaxed);
        }
    }

    fn attached_body(
        &self,
        request: &AttachRequest,
        cpus: Option<usize>,
        ipv6: bool,
    ) -> ContainerCreateBody {
        let mut body = self.body(&request.sandbox(), cpus, ipv6);
        body.entrypoint = Some(request.command.clone());
        body.cmd = None;
        body.user.clone_from(&request.user);
        body.working_dir.clone_from(&request.working_dir);
        body.tty = Some(request.terminal.is_some());
        body
    }

    async fn attach_once(
        &self,
        request: &AttachRequest,
        body: ContainerCreateBody,
    ) -> Result<Attached> {
        let id = match self.docker.create_container(None::<CreateContainerOptions>, body).await {
            Ok(created) => created.id,
            Err(error) if is_not_found(&error) => {
                return Err(EngineError::NoSuchImage { reference: request.image.clone() });
            }
            Err(error) => return Err(failed("create a container", error)),
        };
        let attached = self.start_attached(&id, request).await;
        if attached.is_err() {
            // What is left of it is found by its label.
            let _ = scratch::remove_container(&self.docker, &id).await;
        }
        attached
    }

    async fn start_attached(&self, id: &str, request: &AttachRequest) -> Result<Attached> {
        if !request.files.is_empty() {
            let options = UploadToContainerOptionsBuilder::new().path("/").build();
            let files = bollard::body_full(archive(&request.files)?);
            let written = self.docker.upload_to_container(id, Some(options), files).await;
            written.map_err(|error| failed("write files into a container", error))?;
        }
        let path = format!(
            "/containers/{id}/attach?stream=1&stdin=1&stdout=1&stderr=1&detachKeys={DETACH_KEYS}"
        );
        // Before the start, so that nothing is missed.
        let connection = self.endpoint.way.take_over(&path).await.map_err(|source| {
            EngineError::Transient { action: "attach to a container".to_owned(), source }
        })?;
        let started = self.docker.start_container(id, None::<StartContainerOptions>).await;
        started.map_err(|error| failed("start a container", error))?;
        let (read, write) = tokio::io::split(connection);
        let command = Command {
            docker: self.docker.clone(),
            id: id.to_owned(),
            has_terminal: request.terminal.is_some(),
        };
        if let Some(size) = request.terminal {
            command.resize(size).await?;
        }
        let output = match request.terminal {
            Some(_) => raw(read),
            None => frames(read),
        };
        Ok(Attached { input: Box::new(write), output, command: Arc::new(command) })
    }
}

/// Makes the archive of files that root alone may read.
fn archive(files: &[(String, Vec<u8>)]) -> Result<Bytes> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut write = || -> std::io::Result<Vec<u8>> {
        for (path, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o600);
            header.set_mtime(crate::engine::step_mounts::FILE_TIME);
            archive.append_data(&mut header, path.trim_start_matches('/'), bytes.as_slice())?;
        }
        archive.finish()?;
        Ok(std::mem::take(archive.get_mut()))
    };
    write().map(Bytes::from).map_err(|error| EngineError::Refused {
        action: "write files into a container".to_owned(),
        reason: error.to_string(),
    })
}

fn broken(error: std::io::Error) -> EngineError {
    EngineError::Transient { action: ACTION.to_owned(), source: error.into() }
}

/// Reads what a terminal shows.
fn raw(connection: impl AsyncRead + Send + Unpin + 'static) -> BoxStream<'static, Result<Output>> {
    let pieces = tokio_util::io::ReaderStream::new(connection);
    pieces.map(|piece| piece.map(Output::Out).map_err(broken)).boxed()
}

/// Reads two outputs that come in frames of one stream. A piece of a frame is given out as it comes.
fn frames(
    connection: impl AsyncRead + Send + Unpin + 'static,
) -> BoxStream<'static, Result<Output>> {
    let frames = Frames::default();
    stream::try_unfold((connection, frames), |(mut connection, mut frames)| async move {
        loop {
            if let Some(piece) = frames.ready.pop_front() {
                return Ok(Some((piece, (connection, frames))));
            }
            frames.bytes.reserve(PIECE);
            if connection.read_buf(&mut frames.bytes).await.map_err(broken)? == 0 {
                return Ok(None);
            }
            frames.take();
        }
    })
    .boxed()
}

#[derive(Default)]
struct Frames {
    bytes: BytesMut,
    /// Whether the frame under way is of the standard error, and how much of it is to come.
    under_way: (bool, usize),
    ready: VecDeque<Output>,
}

impl Frames {
    /// Takes out what is there of frames.
    fn take(&mut self) {
        loop {
            let (of_error, rest) = self.under_way;
            if rest > 0 {
                let count = rest.min(self.bytes.len());
                if count == 0 {
                    return;
                }
                let piece = self.bytes.split_to(count).freeze();
                self.ready.push_back(match of_error {
                    true => Output::Error(piece),
                    false => Output::Out(piece),
                });
                self.under_way.1 -= count;
            } else {
                if self.bytes.len() < HEAD {
                    return;
                }
                let head = self.bytes.split_to(HEAD);
                let size = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
                self.under_way = (head[0] == 2, size as usize);
            }
        }
    }
}

/// A command in a container.
struct Command {
    docker: Docker,
    id: String,
    has_terminal: bool,
}

#[async_trait]
impl AttachedCommand for Command {
    async fn resize(&self, size: WindowSize) -> Result<()> {
        if !self.has_terminal {
            return Ok(());
        }
        let options = ResizeContainerTTYOptionsBuilder::new()
            .h(i32::from(size.rows))
            .w(i32::from(size.columns))
            .build();
        match self.docker.resize_container_tty(&self.id, options).await {
            Ok(()) => Ok(()),
            Err(error) if has_ended(&error) => Ok(()),
            Err(error) => Err(failed("resize a terminal", error)),
        }
    }

    async fn signal(&self, signal: i32) -> Result<()> {
        let options = KillContainerOptionsBuilder::new().signal(&signal.to_string()).build();
        match self.docker.kill_container(&self.id, Some(options)).await {
            Ok(()) => Ok(()),
            Err(error) if has_ended(&error) => Ok(()),
            Err(error) => Err(failed("signal a container", error)),
        }
    }

    async fn end(&self) -> Result<SandboxEnd> {
        let ended = self.wait().await;
        let removed = scratch::remove_container(&self.docker, &self.id).await;
        let ended = ended?;
        removed?;
        Ok(ended)
    }
}

impl Command {
    async fn wait(&self) -> Result<SandboxEnd> {
        let docker = &self.docker;
        let mut waited = docker.wait_container(&self.id, None::<WaitContainerOptions>);
        let code = match waited.next().await {
            Some(Ok(answer)) => answer.status_code,
            Some(Err(bollard::errors::Error::DockerContainerWaitError { code, .. })) => code,
            Some(Err(error)) => return Err(failed(ACTION, error)),
            None => {
                let source = "the engine ended the wait without an exit code".into();
                return Err(EngineError::Transient { action: ACTION.to_owned(), source });
            }
        };
        let found = docker.inspect_container(&self.id, None::<InspectContainerOptions>).await;
        let state = found.map_err(|error| failed("look at a container", error))?.state;
        Ok(match state.and_then(|state| state.oom_killed) {
            Some(true) => SandboxEnd::OutOfMemory(code),
            _ => SandboxEnd::Exited(code),
        })
    }
}

/// Tells whether the engine answered that nothing of the container runs any more.
fn has_ended(error: &bollard::errors::Error) -> bool {
    matches!(
        error,
        bollard::errors::Error::DockerResponseServerError { status_code: 404 | 409, .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_are_told_apart_however_they_are_cut() {
        let mut sent = Vec::new();
        for (of, text) in [(1, "out"), (2, "error"), (1, ""), (1, "\x01\x02")] {
            sent.extend([of, 0, 0, 0]);
            sent.extend((text.len() as u32).to_be_bytes());
            sent.extend(text.as_bytes());
        }
        for cut in 1..sent.len() {
            let (first, second) = sent.split_at(cut);
            let source = in_two(first, second);
            let (mut out, mut error) = (Vec::new(), Vec::new());
            let mut pieces = frames(source);
            while let Some(piece) = pieces.next().await {
                match piece.unwrap() {
                    Output::Out(bytes) => out.extend(bytes),
                    Output::Error(bytes) => error.extend(bytes),
                }
            }
            assert_eq!((out.as_slice(), error.as_slice()), (&b"out\x01\x02"[..], &b"error"[..]));
        }
    }

    fn in_two(first: &[u8], second: &[u8]) -> impl AsyncRead + Send + Unpin + use<> {
        let chain = std::io::Cursor::new(first.to_vec());
        chain.chain(std::io::Cursor::new(second.to_vec()))
    }
}
