//! What builds and runs leave when their process dies: found by its label, removed by the next.

use std::collections::HashMap;

use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListImagesOptionsBuilder, RemoveContainerOptionsBuilder,
};

use crate::engine::{OwnerAlive, Result, label};

use super::DockerEngine;
use super::errors::{failed, is_being_removed, is_not_found};

impl DockerEngine {
    pub(super) async fn remove_left_scratch(
        &self,
        owner_alive: &OwnerAlive,
    ) -> Result<Vec<String>> {
        let mut removed = Vec::new();
        let filters = HashMap::from([("label", vec![label::SCRATCH])]);
        let asked = "list what builds left";
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let containers = self.docker.list_containers(Some(options)).await;
        for container in containers.map_err(|error| failed(asked, error))? {
            let labels = container.labels.unwrap_or_default();
            let Some(id) = container.id else { continue };
            // A container that runs on a scratch image carries its labels: the nearest counts.
            if labels.get(label::SCRATCH).is_some_and(|owner| owner_alive(owner)) {
                continue;
            }
            self.remove_container(&id).await?;
            removed.push(format!("container {}", id.get(..12).unwrap_or(&id)));
        }
        let options = ListImagesOptionsBuilder::new().all(true).filters(&filters).build();
        let images = self.docker.list_images(Some(options)).await;
        for image in images.map_err(|error| failed(asked, error))? {
            if image.labels.get(label::SCRATCH).is_some_and(|owner| owner_alive(owner)) {
                continue;
            }
            self.remove_image(&image.id).await?;
            let name = image.repo_tags.into_iter().next().unwrap_or(image.id);
            removed.push(format!("image {name}"));
        }
        Ok(removed)
    }

    pub(super) async fn remove_container(&self, id: &str) -> Result<()> {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        match self.docker.remove_container(id, Some(options)).await {
            Ok(()) => Ok(()),
            Err(error) if is_not_found(&error) || is_being_removed(&error) => Ok(()),
            Err(error) => Err(failed(&format!("remove container `{id}`"), error)),
        }
    }
}
