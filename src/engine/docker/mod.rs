//! The Docker Engine API, through `bollard`: Docker 20.10 and newer, and Podman's socket.

mod archive;
mod build;
mod credentials;
mod dockerfile;
mod errors;
mod load;
mod run;
mod transfer;

use std::collections::HashMap;

use async_trait::async_trait;
use bollard::Docker;
use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListImagesOptionsBuilder, RemoveContainerOptionsBuilder,
    RemoveImageOptionsBuilder, TagImageOptionsBuilder,
};

use super::{
    BuildRequest, Engine, EngineError, EngineInfo, Image, ImageConfig, LayerRequest, ListedImage,
    LogSink, OwnerAlive, Result, label,
};
use errors::{failed, is_not_found};

/// The oldest API that has what imgforge needs (Docker 20.10).
const OLDEST_API: (u32, u32) = (1, 40);
const OLDEST_API_TEXT: &str = "1.40";

/// Seconds that one request may take: a build is one request.
const REQUEST_TIMEOUT: u64 = 6 * 3600;

/// A Docker engine.
pub struct DockerEngine {
    docker: Docker,
    address: String,
    owner: String,
}

/// Returns the addresses to try, in order: `DOCKER_HOST` alone, or Docker's sockets and Podman's.
fn addresses(variable: impl Fn(&str) -> Option<String>) -> Vec<String> {
    if let Some(host) = variable("DOCKER_HOST").filter(|host| !host.is_empty()) {
        return vec![host];
    }
    let mut addresses = vec!["unix:///var/run/docker.sock".to_owned()];
    if let Some(home) = variable("HOME") {
        addresses.push(format!("unix://{home}/.docker/run/docker.sock"));
    }
    if let Some(runtime) = variable("XDG_RUNTIME_DIR") {
        addresses.push(format!("unix://{runtime}/docker.sock"));
        addresses.push(format!("unix://{runtime}/podman/podman.sock"));
    }
    addresses.push("unix:///run/podman/podman.sock".to_owned());
    addresses
}

impl DockerEngine {
    /// Connects to the engine that `DOCKER_HOST` names, or to the first socket that answers.
    /// `owner` marks what exists only during a build.
    pub async fn connect(
        variable: impl Fn(&str) -> Option<String>,
        owner: &str,
    ) -> Result<DockerEngine> {
        let addresses = addresses(variable);
        let mut first = None;
        for address in &addresses {
            match Self::connect_to(address, owner).await {
                Ok(engine) => return Ok(engine),
                // A socket that is there and refuses is the engine that was meant.
                Err(
                    error @ (EngineError::PermissionDenied { .. } | EngineError::TooOld { .. }),
                ) => {
                    return Err(error);
                }
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.expect("there is always an address to try"))
    }

    /// Connects to one address, such as `unix:///var/run/docker.sock`.
    pub async fn connect_to(address: &str, owner: &str) -> Result<DockerEngine> {
        let unreachable = |source| EngineError::Unreachable { address: address.to_owned(), source };
        let docker = Docker::connect_with_host(address)
            .map_err(|error| unreachable(error.into()))?
            .with_timeout(std::time::Duration::from_secs(REQUEST_TIMEOUT));
        if let Some(path) = address.strip_prefix("unix://")
            && let Err(error) = std::os::unix::net::UnixStream::connect(path)
        {
            return Err(match error.kind() {
                std::io::ErrorKind::PermissionDenied => {
                    EngineError::PermissionDenied { address: address.to_owned() }
                }
                _ => unreachable(error.into()),
            });
        }
        let version = docker.version().await.map_err(|error| unreachable(error.into()))?;
        let found = version.api_version.unwrap_or_default();
        let number = found.split_once('.').and_then(|(major, minor)| {
            Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
        });
        if number.is_none_or(|number| number < OLDEST_API) {
            return Err(EngineError::TooOld { found, needed: OLDEST_API_TEXT });
        }
        Ok(DockerEngine { docker, address: address.to_owned(), owner: owner.to_owned() })
    }

    /// Returns the address of the engine.
    pub fn address(&self) -> &str {
        &self.address
    }
}

/// Returns a platform in its one spelling.
fn platform(os: &str, architecture: &str, variant: &str) -> String {
    let architecture = match architecture {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    // `v8` is what every arm64 is.
    if variant.is_empty() || (architecture == "arm64" && variant == "v8") {
        format!("{os}/{architecture}")
    } else {
        format!("{os}/{architecture}/{variant}")
    }
}

fn image_of(inspected: bollard::models::ImageInspect) -> Image {
    let config = inspected.config.unwrap_or_default();
    let text = |value: Option<String>| value.unwrap_or_default();
    Image {
        id: text(inspected.id),
        tags: inspected.repo_tags.unwrap_or_default(),
        repo_digests: inspected.repo_digests.unwrap_or_default(),
        diff_ids: inspected.root_fs.and_then(|root| root.layers).unwrap_or_default(),
        platform: platform(
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
            labels: config.labels.unwrap_or_default().into_iter().collect(),
        },
    }
}

#[async_trait]
impl Engine for DockerEngine {
    async fn info(&self) -> Result<EngineInfo> {
        let asked = "tell what it is";
        let info = self.docker.info().await.map_err(|error| failed(asked, error))?;
        let version = self.docker.version().await.map_err(|error| failed(asked, error))?;
        let podman = version.components.iter().flatten().any(|part| part.name.contains("Podman"));
        let containerd = info
            .driver_status
            .iter()
            .flatten()
            .flatten()
            .any(|text| text.contains("io.containerd.snapshotter"));
        Ok(EngineInfo {
            name: if podman { "podman" } else { "docker" }.to_owned(),
            version: version.version.unwrap_or_default(),
            api_version: version.api_version.unwrap_or_default(),
            platform: platform(
                info.os_type.as_deref().unwrap_or("linux"),
                info.architecture.as_deref().unwrap_or(""),
                "",
            ),
            store: if containerd {
                "containerd".to_owned()
            } else {
                info.driver.unwrap_or_default()
            },
            buildkit: !podman,
            cpus: info.ncpu.map_or(1, |cpus| cpus.max(1) as usize),
            memory: info.mem_total.map_or(0, |bytes| bytes.max(0) as u64),
            root: info.docker_root_dir.map(Into::into),
        })
    }

    async fn images(&self) -> Result<Vec<ListedImage>> {
        let options = ListImagesOptionsBuilder::new().build();
        let listed = self.docker.list_images(Some(options)).await;
        let listed = listed.map_err(|error| failed("list its images", error))?;
        Ok(listed
            .into_iter()
            .map(|image| ListedImage {
                id: image.id,
                tags: image.repo_tags.into_iter().filter(|tag| tag != "<none>:<none>").collect(),
                labels: image.labels.into_iter().collect(),
                size: image.size.max(0) as u64,
            })
            .collect())
    }

    async fn inspect(&self, reference: &str) -> Result<Option<Image>> {
        match self.docker.inspect_image(reference).await {
            Ok(inspected) => Ok(Some(image_of(inspected))),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(failed(&format!("inspect `{reference}`"), error)),
        }
    }

    async fn pull(&self, reference: &str, platform: &str, log: &dyn LogSink) -> Result<Image> {
        self.pull_image(reference, platform, log).await
    }

    async fn build(&self, request: &BuildRequest, log: &dyn LogSink) -> Result<Image> {
        self.build_image(request, log).await
    }

    async fn load(&self, request: &LayerRequest) -> Result<Image> {
        self.load_layer(request).await
    }

    async fn tag(&self, id: &str, reference: &str) -> Result<()> {
        let (repository, tag) = split_tag(reference);
        let options = TagImageOptionsBuilder::new().repo(repository).tag(tag).build();
        match self.docker.tag_image(id, Some(options)).await {
            Ok(()) => Ok(()),
            Err(error) if is_not_found(&error) => {
                Err(EngineError::NoSuchImage { reference: id.to_owned() })
            }
            Err(error) => Err(failed(&format!("name an image `{reference}`"), error)),
        }
    }

    async fn remove(&self, reference: &str) -> Result<()> {
        let options = RemoveImageOptionsBuilder::new().force(true).build();
        match self.docker.remove_image(reference, Some(options), None).await {
            Ok(_) => Ok(()),
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(failed(&format!("remove `{reference}`"), error)),
        }
    }

    async fn push(&self, reference: &str, log: &dyn LogSink) -> Result<()> {
        self.push_image(reference, log).await
    }

    async fn run(&self, reference: &str, command: &[String], log: &dyn LogSink) -> Result<i64> {
        self.run_command(reference, command, log).await
    }

    async fn remove_scratch(&self, owner_alive: &OwnerAlive) -> Result<Vec<String>> {
        let mut removed = Vec::new();
        let filters = HashMap::from([("label", vec![label::SCRATCH])]);
        let asked = "list what builds left";
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let containers = self.docker.list_containers(Some(options)).await;
        for container in containers.map_err(|error| failed(asked, error))? {
            let labels = container.labels.unwrap_or_default();
            let Some(id) = container.id else { continue };
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
            self.remove(&image.id).await?;
            let name = image.repo_tags.into_iter().next().unwrap_or(image.id);
            removed.push(format!("image {name}"));
        }
        Ok(removed)
    }
}

impl DockerEngine {
    async fn remove_container(&self, id: &str) -> Result<()> {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        match self.docker.remove_container(id, Some(options)).await {
            Ok(()) => Ok(()),
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(failed(&format!("remove container `{id}`"), error)),
        }
    }
}

/// Splits `repository:tag`; without a tag it is `latest`.
fn split_tag(reference: &str) -> (&str, &str) {
    match reference.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (reference, "latest"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_host_wins_over_every_socket() {
        let with = |host: &'static str| {
            addresses(move |name| (name == "DOCKER_HOST").then(|| host.to_owned()))
        };
        assert_eq!(with("tcp://1.2.3.4:2375"), ["tcp://1.2.3.4:2375"]);
        assert_eq!(with("")[0], "unix:///var/run/docker.sock");
    }

    #[test]
    fn a_platform_has_one_spelling() {
        assert_eq!(platform("linux", "x86_64", ""), "linux/amd64");
        assert_eq!(platform("linux", "arm64", "v8"), "linux/arm64");
        assert_eq!(platform("linux", "arm", "v7"), "linux/arm/v7");
    }

    #[test]
    fn a_port_is_not_a_tag() {
        assert_eq!(split_tag("127.0.0.1:5000/a/b"), ("127.0.0.1:5000/a/b", "latest"));
        assert_eq!(split_tag("a/b:c"), ("a/b", "c"));
    }

    #[tokio::test]
    async fn no_engine_is_told_from_a_socket_that_may_not_be_used() {
        let Err(error) = DockerEngine::connect_to("unix:///nowhere/docker.sock", "t").await else {
            panic!("connected to nothing")
        };
        assert!(matches!(error, EngineError::Unreachable { .. }), "{error:?}");
    }
}
