//! Commands whose ends the caller holds, over a connection that the engine hands over.

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
use bytes::Bytes;
use futures_util::StreamExt as _;

use crate::engine::script;
use crate::engine::{
    AttachRequest, Attached, AttachedCommand, EngineError, Result, SandboxEnd, SandboxNetwork,
    WindowSize,
};

use super::DockerEngine;
use super::errors::{failed, is_not_found};
use super::frames::{frames, raw};
use super::scratch;

const ACTION: &str = "run a container";

/// Keys that leave a terminal and let the command go on. None should; an empty list would be the
/// engine's default, which takes Ctrl-P from shells.
pub(super) const DETACH_KEYS: &str = "ctrl-^,ctrl-@,ctrl-^,ctrl-@,ctrl-^,ctrl-@";

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
            let files = bollard::body_full(script::archive(&request.files)?.into());
            let written = self.docker.upload_to_container(id, Some(options), files).await;
            written.map_err(|error| failed("write files into a container", error))?;
        }
        let keys = DETACH_KEYS.replace('^', "%5E");
        let path =
            format!("/containers/{id}/attach?stream=1&stdin=1&stdout=1&stderr=1&detachKeys={keys}");
        // Before the start, so that nothing is missed.
        let connection =
            self.endpoint.way.take_over(&path, Bytes::new()).await.map_err(|source| {
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
pub(super) fn has_ended(error: &bollard::errors::Error) -> bool {
    matches!(
        error,
        bollard::errors::Error::DockerResponseServerError { status_code: 404 | 409, .. }
    )
}
