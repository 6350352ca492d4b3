//! Checkpoints of sessions: images that the engine commits.

use bollard::models::ContainerConfig;
use bollard::query_parameters::{CommitContainerOptionsBuilder, InspectContainerOptions};

use crate::engine::checkpoint;
use crate::engine::{Checkpoint, EngineError, ImageConfig, Result, label};

use super::DockerEngine;
use super::errors::failed;
use super::session_container::SessionContainer;

const ACTION: &str = "make a checkpoint";

/// Commits the container of a session, which is paused meanwhile.
pub(super) async fn commit(
    container: &SessionContainer,
    parent: &str,
    image: &ImageOfSession,
) -> Result<Checkpoint> {
    let checkpoint = Checkpoint::on(parent);
    let reference = checkpoint.reference();
    let (repository, tag) = reference.as_str().rsplit_once(':').expect("it has a tag");
    let options = CommitContainerOptionsBuilder::new()
        .container(&container.id)
        .repo(repository)
        .tag(tag)
        .pause(true)
        .build();
    let config = config(container, image).await?;
    let committed = container.docker.commit_container(options, config).await;
    committed.map_err(|error| failed(ACTION, error))?;
    Ok(checkpoint)
}

/// The image that a session stands on.
#[derive(Debug, Clone)]
pub(super) struct ImageOfSession {
    pub id: crate::key::ImageId,
    pub config: ImageConfig,
}

impl DockerEngine {
    /// Looks at the image of a session, which has to be there.
    pub(super) async fn image_of_session(&self, reference: &str) -> Result<ImageOfSession> {
        let missing = || EngineError::NoSuchImage { reference: reference.to_owned() };
        let image = self.inspect_image(reference).await?.ok_or_else(missing)?;
        Ok(ImageOfSession { id: image.id, config: image.config })
    }
}

/// Returns what the image says of itself: as the one below. The engine puts in what the container was
/// made with wherever nothing is said, and takes no label away: an empty one says nothing.
async fn config(container: &SessionContainer, image: &ImageOfSession) -> Result<ContainerConfig> {
    // The layers are not known before they are there.
    let ImageConfig { env, cmd, entrypoint, working_dir, user, shell, mut labels, .. } =
        checkpoint::config(&image.config, &image.id, &[]);
    labels.remove(label::KEY);
    let found = container
        .docker
        .inspect_container(&container.id, None::<InspectContainerOptions>)
        .await
        .map_err(|error| failed(ACTION, error))?;
    let of_container = found.config.and_then(|config| config.labels).unwrap_or_default();
    for name in of_container.into_keys().filter(|name| name.starts_with(label::PREFIX)) {
        labels.entry(name).or_default();
    }
    let or = |text: String, other: &str| if text.is_empty() { other.to_owned() } else { text };
    let has_program = !entrypoint.is_empty() || !cmd.is_empty();
    Ok(ContainerConfig {
        env: Some(env),
        cmd: Some(if has_program { cmd } else { vec!["/bin/sh".to_owned()] }),
        entrypoint: Some(entrypoint),
        working_dir: Some(or(working_dir, "/")),
        user: Some(or(user, "root")),
        shell: Some(shell).filter(|shell| !shell.is_empty()),
        labels: Some(labels.into_iter().collect()),
        ..ContainerConfig::default()
    })
}
