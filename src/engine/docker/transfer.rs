//! Pulling and pushing images.

use std::collections::HashMap;
use std::fmt;

use bollard::auth::DockerCredentials;
use bollard::query_parameters::{CreateImageOptionsBuilder, PushImageOptionsBuilder};
use docker_credential::DockerCredential;
use futures_util::StreamExt as _;

use crate::engine::reference::{Reference, split_tag};
use crate::engine::retry::retried;
use crate::engine::{
    EngineError, Image, LogSink, PushSummary, Result, check_platform, credentials,
};
use crate::platform::Platform;
use crate::retry::TRANSFER;

use super::DockerEngine;
use super::errors::{Meaning, failed, is_download, meaning};

impl DockerEngine {
    pub(super) async fn pull_image(
        &self,
        reference: &Reference,
        platform: &Platform,
        log: &dyn LogSink,
    ) -> Result<Image> {
        if crate::offline::is_on() {
            let (reference, reason) = (reference.to_string(), crate::offline::WHY.to_owned());
            return Err(EngineError::Pull { reference, reason });
        }
        let before = self.inspect_image(reference.as_str()).await?;
        let pulled = retried(log, TRANSFER, || self.pull_once(reference, platform, log)).await;
        let found = match (&pulled, self.inspect_image(reference.as_str()).await) {
            (Err(_), Err(_)) => None,
            (_, found) => found?,
        };
        let Some(image) = found else {
            return Err(match pulled {
                Ok(()) => EngineError::NoSuchImage { reference: reference.to_string() },
                Err(error) => error,
            });
        };
        // A manifest that is not in a list is pulled whatever it is for. Docker 26 keeps it, too, and
        // calls the pull a failure.
        let is_new = before.is_none_or(|before| before.id != image.id);
        if let Err(error) = check_platform(reference.as_str(), &image.platform, platform) {
            if is_new {
                self.remove_image(reference.as_str()).await?;
                return Err(error);
            }
            return Err(pulled.err().unwrap_or(error));
        }
        pulled.map(|()| image)
    }

    async fn pull_once(
        &self,
        reference: &Reference,
        platform: &Platform,
        log: &dyn LogSink,
    ) -> Result<()> {
        let (repository, tag) = split_tag(reference.as_str());
        let options = CreateImageOptionsBuilder::new()
            .from_image(repository)
            .tag(tag)
            .platform(platform.as_str())
            .build();
        let credentials = self.credentials(reference, log).await?;
        let mut answers = self.docker.create_image(Some(options), None, credentials);
        let mut moved = Moved::default();
        while let Some(answer) = answers.next().await {
            let answer = answer.map_err(|error| refused(Way::Pull, reference, error))?;
            if let Some(detail) = answer.error_detail {
                let message = detail.message.unwrap_or_default();
                return Err(transfer_error(Way::Pull, reference, detail.code, &message));
            }
            if let (Some(layer), Some(detail)) = (&answer.id, &answer.progress_detail)
                && answer.status.as_deref().is_some_and(is_download)
            {
                moved.note(layer, detail.current);
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
    pub(super) async fn push_image(
        &self,
        reference: &Reference,
        log: &dyn LogSink,
    ) -> Result<PushSummary> {
        retried(log, TRANSFER, || self.push_once(reference, log)).await?;
        Ok(PushSummary { layers: None })
    }

    async fn push_once(&self, reference: &Reference, log: &dyn LogSink) -> Result<()> {
        let (repository, tag) = split_tag(reference.as_str());
        let options = PushImageOptionsBuilder::new().tag(tag).build();
        let credentials = self.credentials(reference, log).await?;
        let mut answers = self.docker.push_image(repository, Some(options), credentials);
        while let Some(answer) = answers.next().await {
            let answer = answer.map_err(|error| refused(Way::Push, reference, error))?;
            if let Some(detail) = answer.error_detail {
                let message = detail.message.unwrap_or_default();
                return Err(transfer_error(Way::Push, reference, detail.code, &message));
            }
            if let Some(status) = answer.status {
                log.write(format!("{status}\n").as_bytes());
            }
        }
        Ok(())
    }
}

/// Which way an image travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Pull,
    Push,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Way::Pull => "pull",
            Way::Push => "push",
        })
    }
}

/// How far the engine is with each layer: what is new since it last said so is counted.
#[derive(Default)]
struct Moved(HashMap<String, u64>);

impl Moved {
    fn note(&mut self, layer: &str, current: Option<i64>) {
        let Some(now) = current.and_then(|bytes| u64::try_from(bytes).ok()) else { return };
        let before = self.0.insert(layer.to_owned(), now).unwrap_or(0);
        crate::traffic::count(now.saturating_sub(before));
    }
}

impl DockerEngine {
    async fn credentials(
        &self,
        reference: &Reference,
        log: &dyn LogSink,
    ) -> Result<Option<DockerCredentials>> {
        let found = credentials::credentials(self.client_config.as_ref(), reference, log).await?;
        let Some((found, server)) = found else { return Ok(None) };
        let serveraddress = Some(server);
        Ok(Some(match found {
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
        }))
    }
}

fn refused(way: Way, reference: &Reference, error: bollard::errors::Error) -> EngineError {
    match error {
        bollard::errors::Error::DockerStreamError { error } => {
            transfer_error(way, reference, None, &error)
        }
        bollard::errors::Error::DockerResponseServerError { status_code, message } => {
            transfer_error(way, reference, Some(i64::from(status_code)), &message)
        }
        other => failed(&format!("{way} `{reference}`"), other),
    }
}

/// Makes the error of a transfer from the code that the daemon gives: the answer's status, or the
/// registry's. 500 is what it gives for all that it has no code for, and an error in a stream often
/// has none: then its text decides.
fn transfer_error(
    way: Way,
    reference: &Reference,
    code: Option<i64>,
    message: &str,
) -> EngineError {
    let action = format!("{way} `{reference}`");
    let reason = message.to_owned();
    let registry = reference.registry().to_owned();
    let meaning = match (code, meaning(message)) {
        // The daemon answers so also where a registry refuses: it cannot tell the two apart.
        (Some(404), _) => Some(Meaning::Absent),
        (Some(401 | 403), _) => Some(Meaning::Denied),
        (Some(429), _) => Some(Meaning::Limited),
        (Some(502..=504), None) => Some(Meaning::Passing),
        (_, meaning) => meaning,
    };
    match meaning {
        Some(Meaning::NoSpace) => EngineError::NoSpace { action },
        Some(Meaning::Limited) => {
            EngineError::Busy { registry, action, reason, limited: true, wait: None }
        }
        Some(Meaning::Passing) => EngineError::Transient { action, source: reason.into() },
        Some(Meaning::Absent) => EngineError::NotFound { reference: reference.to_string(), reason },
        Some(Meaning::Denied) => EngineError::Denied { registry, action, reason },
        Some(Meaning::Final) | None if way == Way::Pull => {
            EngineError::Pull { reference: reference.to_string(), reason }
        }
        Some(Meaning::Final) | None => EngineError::Refused { action, reason },
    }
}
