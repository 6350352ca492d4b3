//! What builds and runs leave when their process dies: found by its label, removed by the next.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use bollard::Docker;
use bollard::models::ContainerSummary;
use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListImagesOptionsBuilder, RemoveContainerOptionsBuilder,
};

use crate::engine::{Removed, Result, label};
use crate::owner::{Judge, Liveness, Owner};
use crate::run_id::RunId;

use super::DockerEngine;
use super::errors::{failed, is_being_removed, is_not_found};

type Labels = HashMap<String, String>;

impl DockerEngine {
    /// Returns the labels of what exists only for a while.
    pub(super) fn scratch_labels(&self) -> Labels {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        HashMap::from([
            (label::SCRATCH.to_owned(), self.owner.clone()),
            (label::HOST.to_owned(), host),
        ])
    }

    pub(super) async fn remove_left_scratch(&self, judge: &Judge<'_>) -> Result<Removed> {
        let mut found = Removed::default();
        for container in self.containers(label::SCRATCH).await? {
            // A container that runs on a scratch image carries its labels: the nearest counts.
            self.remove_unless(container, &mut found, |labels, created| {
                labels
                    .get(label::SCRATCH)
                    .map_or(Liveness::Dead, |owner| of(owner, judge, made(labels, created)))
            })
            .await?;
        }
        let filters = HashMap::from([("label", vec![label::SCRATCH])]);
        let scratch = ListImagesOptionsBuilder::new().all(true).filters(&filters);
        for image in self.listed_images(scratch, "list what builds left").await? {
            let owner = image.labels.get(label::SCRATCH);
            let name = image.repo_tags.first().unwrap_or(&image.id);
            let name = described("image", name, &image.labels);
            match owner.map(|owner| of(owner, judge, made(&image.labels, Some(image.created)))) {
                Some(Liveness::Alive) => {}
                Some(Liveness::Elsewhere) => found.kept.push(name),
                Some(Liveness::Dead) | None => {
                    self.remove_image(&image.id).await?;
                    found.removed.push(name);
                }
            }
        }
        Ok(found)
    }

    pub(super) async fn remove_containers_of_run(
        &self,
        run_id: &RunId,
        judge: &Judge<'_>,
    ) -> Result<Removed> {
        let mut found = Removed::default();
        for container in self.containers(&format!("{}={run_id}", label::RUN)).await? {
            self.remove_unless(container, &mut found, |labels, created| {
                let Some(owner) = labels.get(label::SCRATCH) else { return Liveness::Dead };
                // What runs here is meant, whatever it does.
                if Owner::parse(owner).is_some_and(|owner| owner.is_here()) {
                    return Liveness::Dead;
                }
                match judge(owner, made(labels, created)) {
                    Liveness::Dead => Liveness::Dead,
                    Liveness::Alive | Liveness::Elsewhere => Liveness::Elsewhere,
                }
            })
            .await?;
        }
        Ok(found)
    }

    async fn containers(&self, wanted: &str) -> Result<Vec<ContainerSummary>> {
        let filters = HashMap::from([("label", vec![wanted])]);
        let labelled = ListContainersOptionsBuilder::new().filters(&filters);
        self.listed_containers(labelled, "list what was left").await
    }

    async fn remove_unless(
        &self,
        container: ContainerSummary,
        found: &mut Removed,
        judge: impl Fn(&Labels, Option<i64>) -> Liveness,
    ) -> Result<()> {
        let labels = container.labels.unwrap_or_default();
        let Some(id) = container.id else { return Ok(()) };
        let name = described("container", id.get(..12).unwrap_or(&id), &labels);
        match judge(&labels, container.created) {
            Liveness::Alive => {}
            Liveness::Elsewhere => found.kept.push(name),
            Liveness::Dead => {
                self.remove_container(&id).await?;
                found.removed.push(name);
            }
        }
        Ok(())
    }

    pub(super) async fn remove_container(&self, id: &str) -> Result<()> {
        remove_container(&self.docker, id).await
    }
}

/// Removes a container with all that runs in it; one that is gone is fine.
pub(super) async fn remove_container(docker: &Docker, id: &str) -> Result<()> {
    let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    match docker.remove_container(id, Some(options)).await {
        Ok(()) => Ok(()),
        Err(error) if is_not_found(&error) || is_being_removed(&error) => Ok(()),
        Err(error) => Err(failed(&format!("remove container `{id}`"), error)),
    }
}

/// Says whether an owner lives. An image that was made of a container has its label, and where it is
/// empty no owner: see [`super::checkpoint`].
fn of(owner: &str, judge: &Judge<'_>, made: Option<SystemTime>) -> Liveness {
    if owner.is_empty() { Liveness::Alive } else { judge(owner, made) }
}

/// Returns when something was made: layers that are loaded have a time that says nothing.
fn made(labels: &Labels, created: Option<i64>) -> Option<SystemTime> {
    let labelled = labels.get(label::MADE).and_then(|seconds| seconds.parse::<u64>().ok());
    let seconds = labelled.or(created.and_then(|seconds| u64::try_from(seconds).ok()))?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

fn described(what: &str, name: &str, labels: &Labels) -> String {
    match labels.get(label::HOST) {
        Some(host) => format!("{what} {name} of a process on {host}"),
        None => format!("{what} {name}"),
    }
}
