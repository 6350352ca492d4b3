//! What an engine does, by who asks for it: the executor builds and runs, the cache bounds and moves.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;

use crate::key::{DiffId, ImageId};
use crate::owner::Judge;
use crate::platform::Platform;
use crate::run_id::RunId;

use super::reference::Reference;
use super::{
    AttachRequest, Attached, BuildRequest, EngineError, EngineInfo, EngineKind, Image, ImageConfig,
    LayerConsumer, LayerRequest, ListedImage, LogSink, Pruned, PushSummary, Removed, Result,
    SandboxEnd, SandboxRequest, SandboxSession, SessionRequest, SharedNetwork, script,
};

/// Images of a site: what it has, and how they get there and away.
#[async_trait]
pub trait Images: Send + Sync {
    /// Lists all images in one request.
    async fn images(&self) -> Result<Vec<ListedImage>>;

    /// Looks at one image; `None` when the engine does not have it.
    async fn inspect(&self, reference: &str) -> Result<Option<Image>>;

    /// Returns what runs in an image by default; `None` when the engine does not have it. Of a checkpoint
    /// this costs less than [`Images::inspect`], which has to know the content of its layers.
    async fn config(&self, reference: &str) -> Result<Option<ImageConfig>> {
        Ok(self.inspect(reference).await?.map(|image| image.config))
    }

    /// Pulls an image from its registry, with the host's credentials, retrying what is transient. An
    /// image for another platform is refused.
    async fn pull(
        &self,
        reference: &Reference,
        platform: &Platform,
        log: &dyn LogSink,
    ) -> Result<Image>;

    /// Pushes an image to the registry that its name says; what is there does not travel. Layers
    /// that one of `siblings`, other repositories of the registry, has are taken from it.
    async fn push(
        &self,
        reference: &Reference,
        siblings: &[String],
        log: &dyn LogSink,
    ) -> Result<PushSummary>;

    /// Gives an image one more name; `image` is its id, or a name that it has.
    async fn tag(&self, image: &str, name: &Reference) -> Result<()>;

    /// Takes a name from an image, and the image away with its last name. Absent is fine.
    async fn remove(&self, reference: &str) -> Result<()>;
}

/// What makes images: an engine on this machine, or a worker elsewhere.
#[async_trait]
pub trait Builder: Images {
    /// Builds a Dockerfile and seals the result. What it stands on has to be for the platform.
    async fn build(&self, request: &BuildRequest, log: &dyn LogSink) -> Result<Image>;

    /// Returns a config as instructions of a Dockerfile change it that run and copy nothing.
    ///
    /// # Errors
    /// [`EngineError::Refused`] where one is no such instruction; [`EngineError::Unsupported`] where the
    /// engine leaves Dockerfiles to others.
    async fn change_config(&self, _config: &ImageConfig, _text: &str) -> Result<ImageConfig> {
        Err(EngineError::Unsupported {
            engine: EngineKind::Docker,
            action: "change a config by instructions",
            why: "the embedded engine can: `--engine embedded`",
        })
    }

    /// Adds layers to a parent without running anything. Equal requests give equal images.
    async fn load(&self, request: &LayerRequest) -> Result<Image>;

    /// Runs a command in a fresh container without network and returns its exit code; the output
    /// goes to `log`. The container is gone afterwards.
    async fn run(&self, reference: &str, command: &[String], log: &dyn LogSink) -> Result<i64>;
}

/// Where layers are kept: what a cache measures, moves and bounds.
#[async_trait]
pub trait LayerStorage: Images {
    /// Gives the layers of images to `consumer`, each at least once unless it is not wanted, in an
    /// order of the engine's own.
    async fn read_layers(&self, images: &[Image], consumer: Arc<dyn LayerConsumer>) -> Result<()>;

    /// Tells whether nobody but imgforge keeps images there.
    fn is_own(&self) -> bool {
        false
    }

    /// Returns the ids of the images that containers stand on, whoever owns them.
    async fn images_in_use(&self) -> Result<HashSet<ImageId>>;

    /// Returns under which names the engine stores an image's layers, the lowest first: images
    /// share the bytes of a layer when its names are equal.
    fn layer_storage_ids(&self, diff_ids: &[DiffId]) -> Vec<String>;

    /// Measures what stored layers take on the disk, by their names, in bytes; `None` where it is
    /// not there, or this process cannot see it.
    async fn layer_disk_usage(&self, names: &[String]) -> Result<Vec<Option<u64>>>;

    /// Removes what no image needs and no running call of any process uses: layers of images that
    /// were removed, records of builds. With `dry_run` it is told and stays.
    async fn prune(&self, dry_run: bool) -> Result<Pruned>;
}

/// What runs tests and commands in images.
#[async_trait]
pub trait Runner: Send + Sync {
    /// Asks the engine what it is.
    async fn info(&self) -> Result<EngineInfo>;

    /// Starts a session; what it takes to get there goes to `log`.
    async fn start(
        &self,
        request: &SessionRequest,
        log: &dyn LogSink,
    ) -> Result<Box<dyn SandboxSession>>;

    /// Makes a network that sessions can share: loopback, which all of them have in common.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`], as for [`Runner::start_in`], where the engine has none.
    async fn make_network(&self) -> Result<SharedNetwork> {
        Err(self.no_shared_network().await?)
    }

    /// Starts a session in a network that others may be in. What the request says of a network is left
    /// out of account.
    async fn start_in(
        &self,
        _request: &SessionRequest,
        _network: &SharedNetwork,
        _log: &dyn LogSink,
    ) -> Result<Box<dyn SandboxSession>> {
        Err(self.no_shared_network().await?)
    }

    /// Returns the error of an engine without shared networks.
    async fn no_shared_network(&self) -> Result<EngineError> {
        Ok(EngineError::Unsupported {
            engine: self.info().await?.kind,
            action: "share a network between sessions",
            why: "the embedded engine can: `--engine embedded`",
        })
    }

    /// Runs a script in a sandbox; the output goes to `log` as it comes, byte for byte, and what it
    /// writes to its file descriptor 4 to `control`. The container is gone afterwards. When the
    /// future is dropped, or this process dies, the container ends itself.
    ///
    /// Provided by a session. An engine that can run the script as the main command of its container
    /// does that: it is a step less, and the kernel ends what the script leaves behind.
    async fn run_script(
        &self,
        request: &SandboxRequest,
        log: &dyn LogSink,
        control: &dyn LogSink,
    ) -> Result<SandboxEnd> {
        let session = self.start(&SessionRequest::of_script(request), control).await?;
        script::run_script_in(session, request, log, control).await
    }

    /// Starts a command in a fresh container and gives its ends out.
    async fn attach(&self, request: &AttachRequest) -> Result<Attached>;

    /// Removes a directory with files of containers, whoever they belong to. Absent is fine.
    async fn remove_directory(&self, path: &Path) -> Result<()> {
        match std::fs::remove_dir_all(path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(EngineError::File { path: path.to_owned(), source })
            }
            _ => Ok(()),
        }
    }

    /// Removes the containers of a run, see [`label::RUN`], whose owner is dead, or is a process of
    /// this very host and namespace: another one may have a run of that name as well.
    async fn remove_run(&self, run_id: &RunId, judge: &Judge<'_>) -> Result<Removed>;

    /// Removes scratch images and containers whose owner, see [`label::SCRATCH`], is dead.
    async fn remove_scratch(&self, judge: &Judge<'_>) -> Result<Removed>;
}

/// A container engine that does all of it.
pub trait Engine: Builder + LayerStorage + Runner {}

impl<T: Builder + LayerStorage + Runner> Engine for T {}
