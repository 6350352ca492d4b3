//! Running a command in a fresh container.
//!
//! Both outputs of the command are one file, made so by a shell in the container: two pipes would
//! reorder their lines.

use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, CreateContainerOptions, StartContainerOptions,
    WaitContainerOptions,
};
use futures_util::StreamExt as _;

use crate::engine::{EngineError, LogSink, Result};

use super::DockerEngine;
use super::errors::{failed, is_not_found};

impl DockerEngine {
    pub(super) async fn run_command(
        &self,
        reference: &str,
        command: &[String],
        log: &dyn LogSink,
    ) -> Result<i64> {
        let body = ContainerCreateBody {
            image: Some(reference.to_owned()),
            entrypoint: Some(["/bin/sh", "-c", "exec \"$@\" 2>&1", "sh"].map(str::to_owned).into()),
            cmd: Some(command.to_vec()),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            labels: Some(self.scratch_labels()),
            host_config: Some(HostConfig {
                network_mode: Some("none".to_owned()),
                init: Some(true),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let created = self.docker.create_container(None::<CreateContainerOptions>, body).await;
        let id = match created {
            Ok(created) => created.id,
            Err(error) if is_not_found(&error) => {
                return Err(EngineError::NoSuchImage { reference: reference.to_owned() });
            }
            Err(error) => return Err(failed("create a container", error)),
        };
        let code = self.attach_and_wait(&id, log).await;
        let removed = self.remove_container(&id).await;
        let code = code?;
        removed?;
        Ok(code)
    }

    async fn attach_and_wait(&self, id: &str, log: &dyn LogSink) -> Result<i64> {
        let action = "run a container";
        let options =
            AttachContainerOptionsBuilder::new().stdout(true).stderr(true).stream(true).build();
        // Before the start, so that nothing is missed and nothing has to be asked for again.
        let attached = self.docker.attach_container(id, Some(options)).await;
        let mut output = attached.map_err(|error| failed(action, error))?.output;
        let started = self.docker.start_container(id, None::<StartContainerOptions>).await;
        started.map_err(|error| failed(action, error))?;
        while let Some(piece) = output.next().await {
            log.write(&piece.map_err(|error| failed(action, error))?.into_bytes());
        }
        let mut waited = self.docker.wait_container(id, None::<WaitContainerOptions>);
        match waited.next().await {
            Some(Ok(answer)) => Ok(answer.status_code),
            Some(Err(bollard::errors::Error::DockerContainerWaitError { code, .. })) => Ok(code),
            Some(Err(error)) => Err(failed(action, error)),
            None => Err(EngineError::Transient {
                action: action.to_owned(),
                source: "the engine ended the wait without an exit code".into(),
            }),
        }
    }
}
