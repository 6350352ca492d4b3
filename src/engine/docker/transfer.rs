//! Pulling and pushing images.

use bollard::auth::DockerCredentials;
use bollard::query_parameters::{CreateImageOptionsBuilder, PushImageOptionsBuilder};
use docker_credential::DockerCredential;
use futures_util::StreamExt as _;

use crate::engine::reference::split_tag;
use crate::engine::retry::retried;
use crate::engine::{EngineError, Image, LogSink, Result, Sent, credentials};

use super::DockerEngine;
use super::errors::{failed, is_no_space, is_passing};

impl DockerEngine {
    pub(super) async fn pull_image(
        &self,
        reference: &str,
        platform: &str,
        log: &dyn LogSink,
    ) -> Result<Image> {
        retried(log, || self.pull_once(reference, platform, log)).await?;
        let image = self.inspect_image(reference).await?;
        image.ok_or_else(|| EngineError::NoSuchImage { reference: reference.to_owned() })
    }

    async fn pull_once(&self, reference: &str, platform: &str, log: &dyn LogSink) -> Result<()> {
        let (repository, tag) = split_tag(reference);
        let options = CreateImageOptionsBuilder::new()
            .from_image(repository)
            .tag(tag)
            .platform(platform)
            .build();
        let credentials = self.credentials(reference, log).await;
        let mut answers = self.docker.create_image(Some(options), None, credentials);
        while let Some(answer) = answers.next().await {
            let answer = answer.map_err(|error| refused("pull", reference, error))?;
            if let Some(message) = answer.error_detail.and_then(|detail| detail.message) {
                return Err(transfer_error("pull", reference, &message));
            }
            if let Some(status) = answer.status
                && answer.progress_detail.is_none_or(|detail| detail.total.is_none())
            {
                let id = answer.id.map_or(String::new(), |id| format!("{id}: "));
                log.write(format!("{id}{status}\n").as_bytes());
            }
        }
        Ok(())
    }

    /// Pushes an image. The engine itself finds what other repositories have; of what travels it
    /// tells no more than how far it is.
    pub(super) async fn push_image(&self, reference: &str, log: &dyn LogSink) -> Result<Sent> {
        retried(log, || self.push_once(reference, log)).await?;
        Ok(Sent { layers: None })
    }

    async fn push_once(&self, reference: &str, log: &dyn LogSink) -> Result<()> {
        let (repository, tag) = split_tag(reference);
        let options = PushImageOptionsBuilder::new().tag(tag).build();
        let credentials = self.credentials(reference, log).await;
        let mut answers = self.docker.push_image(repository, Some(options), credentials);
        while let Some(answer) = answers.next().await {
            let answer = answer.map_err(|error| refused("push", reference, error))?;
            if let Some(message) = answer.error_detail.and_then(|detail| detail.message) {
                return Err(transfer_error("push", reference, &message));
            }
            if let Some(status) = answer.status {
                log.write(format!("{status}\n").as_bytes());
            }
        }
        Ok(())
    }
}

impl DockerEngine {
    async fn credentials(&self, reference: &str, log: &dyn LogSink) -> Option<DockerCredentials> {
        let found = credentials::credentials(self.client_config.as_ref(), reference, log).await;
        let (found, server) = found?;
        let serveraddress = Some(server);
        Some(match found {
            DockerCredential::UsernamePassword(username, password) => DockerCredentials {
                username: Some(username),
                password: Some(password),
                serveraddress,
                ..DockerCredentials::default()
            },
            DockerCredential::IdentityToken(token) => DockerCredentials {
                identitytoken: Some(token),
                serveraddress,
                ..DockerCredentials::default()
            },
        })
    }
}

fn refused(verb: &str, reference: &str, error: bollard::errors::Error) -> EngineError {
    match error {
        bollard::errors::Error::DockerStreamError { error } => {
            transfer_error(verb, reference, &error)
        }
        bollard::errors::Error::DockerResponseServerError { message, .. } => {
            transfer_error(verb, reference, &message)
        }
        other => failed(&format!("{verb} `{reference}`"), other),
    }
}

fn transfer_error(verb: &str, reference: &str, message: &str) -> EngineError {
    if is_passing(message) {
        let action = format!("{verb} `{reference}`");
        return EngineError::Transient { action, source: message.to_owned().into() };
    }
    if is_no_space(message) {
        return EngineError::NoSpace { action: format!("{verb} `{reference}`") };
    }
    let reason = message.to_owned();
    match verb {
        "pull" => EngineError::Pull { reference: reference.to_owned(), reason },
        _ => EngineError::Refused { action: format!("{verb} `{reference}`"), reason },
    }
}
