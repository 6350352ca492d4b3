//! What the engine is and which images it has.

use bollard::query_parameters::{
    ListImagesOptionsBuilder, RemoveImageOptionsBuilder, TagImageOptionsBuilder,
};

use crate::engine::reference::{Reference, split_tag};
use crate::engine::{EngineError, EngineInfo, EngineKind, Image, ImageConfig, ListedImage, Result};
use crate::key::DiffId;
use crate::platform::Platform;

use super::DockerEngine;
use super::errors::{failed, is_not_found, is_of_containerd};

impl DockerEngine {
    pub(super) async fn read_info(&self) -> Result<EngineInfo> {
        let asked = "tell what it is";
        let info = self.docker.info().await.map_err(|error| failed(asked, error))?;
        let version = self.docker.version().await.map_err(|error| failed(asked, error))?;
        let mut status = info.driver_status.iter().flatten().flatten();
        let containerd = status.any(|text| is_of_containerd(text));
        Ok(EngineInfo {
            kind: EngineKind::Docker,
            version: version.version.unwrap_or_default(),
            api_version: version.api_version.unwrap_or_default(),
            platform: Platform::of(
                info.os_type.as_deref().unwrap_or("linux"),
                info.architecture.as_deref().unwrap_or(""),
                "",
            ),
            store: if containerd {
                "containerd".to_owned()
            } else {
                info.driver.unwrap_or_default()
            },
            cpus: info.ncpu.map_or(1, |cpus| cpus.max(1) as usize),
            memory: info.mem_total.map_or(0, |bytes| bytes.max(0) as u64),
            // A directory of another host would be looked for on this one.
            root: info.docker_root_dir.filter(|_| self.endpoint.is_local).map(Into::into),
            limitations: Vec::new(),
        })
    }

    /// Lists the images that have a name or labels. An engine that builds keeps dangling ones.
    pub(super) async fn list_images(&self) -> Result<Vec<ListedImage>> {
        let all = ListImagesOptionsBuilder::new();
        let listed = self.listed_images(all, "list its images").await?;
        let known = |image: &ListedImage| {
            let ours = |name: &String| name.starts_with("dev.imgforge.");
            !image.tags.is_empty() || image.labels.keys().any(ours)
        };
        Ok(listed
            .into_iter()
            .map(|image| ListedImage {
                id: image.id.into(),
                tags: image.repo_tags.into_iter().filter(|tag| tag != "<none>:<none>").collect(),
                labels: image.labels.into_iter().collect(),
                size: image.size.max(0) as u64,
            })
            .filter(known)
            .collect())
    }

    pub(super) async fn inspect_image(&self, reference: &str) -> Result<Option<Image>> {
        match self.docker.inspect_image(reference).await {
            Ok(inspected) => Ok(Some(image_of(inspected))),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(failed(&format!("inspect `{reference}`"), error)),
        }
    }

    pub(super) async fn tag_image(&self, image: &str, name: &Reference) -> Result<()> {
        let (repository, tag) = split_tag(name.as_str());
        let options = TagImageOptionsBuilder::new().repo(repository).tag(tag).build();
        match self.docker.tag_image(image, Some(options)).await {
            Ok(()) => Ok(()),
            Err(error) if is_not_found(&error) => {
                Err(EngineError::NoSuchImage { reference: image.to_owned() })
            }
            Err(error) => Err(failed(&format!("name an image `{name}`"), error)),
        }
    }

    /// Removes an image; one that is gone is fine. Docker has no status of its own for an image that
    /// somebody else removes meanwhile.
    pub(super) async fn remove_image(&self, reference: &str) -> Result<()> {
        let options = RemoveImageOptionsBuilder::new().force(true).build();
        match self.docker.remove_image(reference, Some(options), None).await {
            Ok(_) => Ok(()),
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => match self.inspect_image(reference).await {
                Ok(None) => Ok(()),
                _ => Err(failed(&format!("remove `{reference}`"), error)),
            },
        }
    }
}

fn image_of(inspected: bollard::models::ImageInspect) -> Image {
    let config = inspected.config.unwrap_or_default();
    let text = |value: Option<String>| value.unwrap_or_default();
    Image {
        id: text(inspected.id).into(),
        tags: inspected.repo_tags.unwrap_or_default(),
        repo_digests: inspected.repo_digests.unwrap_or_default(),
        diff_ids: inspected
            .root_fs
            .and_then(|root| root.layers)
            .unwrap_or_default()
            .into_iter()
            .map(DiffId::from)
            .collect(),
        platform: Platform::of(
            inspected.os.as_deref().unwrap_or("linux"),
            inspected.architecture.as_deref().unwrap_or(""),
            inspected.variant.as_deref().unwrap_or(""),
        ),
        size: inspected.size.map_or(0, |size| size.max(0) as u64),
        config: ImageConfig {
            env: config.env.unwrap_or_default(),
            cmd: config.cmd.unwrap_or_default(),
            entrypoint: config.entrypoint.unwrap_or_default(),
            working_dir: text(config.working_dir),
            user: text(config.user),
            shell: config.shell.unwrap_or_default(),
            labels: config.labels.unwrap_or_default().into_iter().collect(),
            service: crate::engine::Service::default(),
        },
    }
}
