//! The Docker Engine API, through `bollard`: Docker 20.10 and newer.

mod archive;
mod attach;
mod build;
mod checkpoint;
mod choice;
mod connect;
mod dockerfile;
mod errors;
mod exec;
mod export;
mod frames;
mod images;
mod in_memory;
mod list;
mod load;
mod output;
mod quota;
mod run;
mod sandbox;
mod scratch;
mod session;
mod session_container;
mod solve;
mod ssh;
mod storage;
mod tls;
mod transfer;
mod transport;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bollard::Docker;
use oci_spec::image::Descriptor;
use tokio::sync::OnceCell;

use crate::key::{DiffId, ImageId};
use crate::owner::Judge;
use crate::platform::Platform;
use crate::run_id::RunId;

use choice::{Choice, Endpoint};

use super::client_config::config_directory;
use super::reference::Reference;

use super::{
    Address, AttachRequest, Attached, BuildRequest, Builder, EngineError, EngineInfo, Image,
    Images, LayerConsumer, LayerRequest, LayerStorage, ListedImage, LogSink, Pruned, PushSummary,
    Removed, Result, Runner, SandboxEnd, SandboxRequest, SandboxSession, SessionRequest,
};

/// Tells whether somebody chose an engine, rightly or not: by `DOCKER_HOST`, by a context, or by
/// asking for TLS. Then no other will do.
pub fn is_chosen(variable: impl Fn(&str) -> Option<String>) -> bool {
    !matches!(choice::choose(&variable), Ok(Choice::Any(_)))
}

/// A Docker engine.
pub struct DockerEngine {
    docker: Docker,
    endpoint: Endpoint,
    owner: String,
    client_config: Option<PathBuf>,
    facts: OnceCell<Facts>,
    /// Containers have no IPv6, as the first one showed that was asked to.
    without_ipv6: AtomicBool,
    layers: Mutex<HashMap<ImageId, Vec<Descriptor>>>,
}

/// What decides how images are built and loaded.
struct Facts {
    /// Images are in a containerd store, not in a graph driver.
    containerd: bool,
    /// A build takes its context from the request; see [`solve`].
    takes_context: bool,
    /// Processors.
    cpus: usize,
}

impl DockerEngine {
    /// Connects to the engine that is chosen (see [`is_chosen`]), or to the first socket that answers.
    /// Credentials for registries are read from Docker's client configuration. `owner` marks what
    /// exists only during a build.
    pub async fn connect(
        variable: impl Fn(&str) -> Option<String>,
        owner: &str,
    ) -> Result<DockerEngine> {
        let client_config = config_directory(&variable);
        let (endpoints, only) = match choice::choose(&variable).map_err(EngineError::Unusable)? {
            Choice::One(endpoint) => (vec![endpoint], true),
            Choice::Any(endpoints) => (endpoints, false),
        };
        let mut first: Option<EngineError> = None;
        for endpoint in endpoints {
            let error = match connect::connect(&endpoint).await {
                Ok(docker) => {
                    let owner = owner.to_owned();
                    let (facts, layers) = (OnceCell::new(), Mutex::default());
                    return Ok(DockerEngine {
                        docker,
                        endpoint,
                        owner,
                        client_config,
                        facts,
                        without_ipv6: AtomicBool::new(false),
                        layers,
                    });
                }
                Err(error) => error,
            };
            // A socket where somebody is and refuses says more than one where nobody is.
            let is_silent = |error: &EngineError| matches!(error, EngineError::Unreachable { .. });
            if only || first.as_ref().is_none_or(|first| is_silent(first) && !is_silent(&error)) {
                first = Some(error);
            }
        }
        Err(first.expect("there is always an address to try"))
    }

    async fn facts(&self) -> Result<&Facts> {
        let ask = || async {
            let info = self.read_info().await?;
            let containerd = info.store == "containerd";
            let major = info.version.split('.').next().and_then(|major| major.parse::<u32>().ok());
            // https://github.com/moby/moby/issues/47717, fixed in 28.0.
            let takes_context = !containerd || major.is_none_or(|major| major >= 28);
            Ok(Facts { containerd, takes_context, cpus: info.cpus })
        };
        self.facts.get_or_try_init(ask).await
    }

    /// Returns the address of the engine.
    pub fn address(&self) -> &Address {
        &self.endpoint.address
    }
}

#[async_trait]
impl Images for DockerEngine {
    async fn images(&self) -> Result<Vec<ListedImage>> {
        self.list_images().await
    }

    async fn inspect(&self, reference: &str) -> Result<Option<Image>> {
        self.inspect_image(reference).await
    }

    async fn pull(
        &self,
        reference: &Reference,
        platform: &Platform,
        log: &dyn LogSink,
    ) -> Result<Image> {
        self.pull_image(reference, platform, log).await
    }

    async fn push(
        &self,
        reference: &Reference,
        _: &[String],
        log: &dyn LogSink,
    ) -> Result<PushSummary> {
        self.push_image(reference, log).await
    }

    async fn tag(&self, image: &str, name: &Reference) -> Result<()> {
        self.tag_image(image, name).await
    }

    async fn remove(&self, reference: &str) -> Result<()> {
        self.remove_image(reference).await
    }
}

#[async_trait]
impl Builder for DockerEngine {
    async fn build(&self, request: &BuildRequest, log: &dyn LogSink) -> Result<Image> {
        self.build_image(request, log).await
    }

    async fn load(&self, request: &LayerRequest) -> Result<Image> {
        self.load_layer(request).await
    }

    async fn run(&self, reference: &str, command: &[String], log: &dyn LogSink) -> Result<i64> {
        self.run_command(reference, command, log).await
    }
}

#[async_trait]
impl LayerStorage for DockerEngine {
    async fn read_layers(&self, images: &[Image], consumer: Arc<dyn LayerConsumer>) -> Result<()> {
        self.export_layers(images, consumer).await
    }

    async fn images_in_use(&self) -> Result<HashSet<ImageId>> {
        self.images_of_containers().await
    }

    fn layer_storage_ids(&self, diff_ids: &[DiffId]) -> Vec<String> {
        storage::chain_ids(diff_ids)
    }

    async fn layer_disk_usage(&self, names: &[String]) -> Result<Vec<Option<u64>>> {
        self.layer_bytes(names).await
    }

    async fn prune(&self, dry_run: bool) -> Result<Pruned> {
        self.prune_builds(dry_run).await
    }
}

#[async_trait]
impl Runner for DockerEngine {
    async fn info(&self) -> Result<EngineInfo> {
        self.read_info().await
    }

    async fn start(
        &self,
        request: &SessionRequest,
        _log: &dyn LogSink,
    ) -> Result<Box<dyn SandboxSession>> {
        self.start_session(request).await
    }

    async fn run_script(
        &self,
        request: &SandboxRequest,
        log: &dyn LogSink,
        control: &dyn LogSink,
    ) -> Result<SandboxEnd> {
        self.run_in_sandbox(request, log, control).await
    }

    async fn attach(&self, request: &AttachRequest) -> Result<Attached> {
        self.attach_to(request).await
    }

    async fn remove_run(&self, run_id: &RunId, judge: &Judge<'_>) -> Result<Removed> {
        self.remove_containers_of_run(run_id, judge).await
    }

    async fn remove_scratch(&self, judge: &Judge<'_>) -> Result<Removed> {
        self.remove_left_scratch(judge).await
    }
}
