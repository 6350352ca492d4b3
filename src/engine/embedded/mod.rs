//! The engine without a daemon: images in an OCI layout below the state directory, containers from
//! Linux namespaces over overlayfs, as root or as a plain user.
//!
//! [`layout`] holds images, [`snapshots`] their unpacked layers; [`helper_client`] starts the [`helper`]
//! process, which alone enters other namespaces. Nothing runs between two calls, and what a killed
//! process leaves is found by the next.

mod attach;
mod build;
mod capabilities;
mod checkpoints;
mod collect;
mod confinement;
mod containers;
mod delegation;
pub mod helper;
mod helper_client;
mod images;
mod layers;
mod layout;
mod machine;
mod network;
mod operations;
mod passing;
mod protocol;
mod registry;
mod session;
mod snapshots;
mod terminal;
mod trial;

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

use crate::key::{DiffId, ImageId};
use crate::owner::{Held, Judge, Owners};
use crate::platform::Platform;
use crate::run_id::RunId;

use super::reference::Reference;
use super::{
    AttachRequest, Attached, BuildRequest, Builder, EngineError, EngineInfo, Image, ImageConfig,
    Images, LayerConsumer, LayerRequest, LayerStorage, ListedImage, LogSink, Pruned, PushSummary,
    Removed, Result, Runner, SandboxEnd, SandboxRequest, SandboxSession, SessionRequest,
    SharedNetwork,
};
use checkpoints::Checkpoints;
use helper_client::HelperClient;
use layout::{Layout, file_error};
use protocol::Operation;
use snapshots::Snapshots;

pub(crate) use build::{Built, images, stages};
pub use delegation::{LINGER, ends_with_login};
pub(crate) use protocol::Identity;
pub use protocol::Storage;

/// The time of files that a step made.
const FILE_TIME: i64 = super::step_mounts::FILE_TIME as i64;

/// What the engine is opened with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The state directory; the engine's own is `embedded` in it.
    pub state_dir: PathBuf,
    /// The program that becomes a helper process: one whose `main` calls [`helper::main`] first.
    pub helper: PathBuf,
    /// Marks what exists only while this process lives; see [`super::label::SCRATCH`].
    pub owner: String,
    /// The directory of Docker's client configuration, for credentials.
    pub client_config: Option<PathBuf>,
    /// How layers are put together; by default what the kernel allows.
    pub storage: Option<Storage>,
    /// What this machine allows is tried anew, and not remembered.
    pub probe: bool,
}

/// The embedded engine.
pub struct EmbeddedEngine {
    dir: PathBuf,
    owner: String,
    client_config: Option<PathBuf>,
    layout: Layout,
    snapshots: Snapshots,
    checkpoints: Checkpoints,
    helper_client: HelperClient,
    /// What this machine allows was tried, and what it does not is told.
    probed: bool,
    /// What containers and layers under way are known to be alive by.
    _held: Held,
}

impl EmbeddedEngine {
    /// Opens the engine, and finds out what this machine allows.
    pub async fn open(settings: Settings) -> Result<EmbeddedEngine> {
        blocking(move || Self::open_now(settings)).await
    }

    fn open_now(settings: Settings) -> Result<EmbeddedEngine> {
        let dir = settings.state_dir.join("embedded");
        let make = |path: &Path| {
            std::fs::create_dir_all(path).map_err(file_error("make the engine's directory", path))
        };
        make(&dir)?;
        // Images have set-user-id programs, which are not for everybody on this machine.
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(&dir, private)
            .map_err(file_error("make the engine's directory", &dir))?;
        make(&dir.join("layers"))?;
        make(&dir.join("steps"))?;
        make(&dir.join("operations"))?;
        // The helper finds its way by these paths from another directory.
        let dir = dir.canonicalize().map_err(file_error("find the engine's directory", &dir))?;
        let held = Owners::of(&settings.state_dir).hold();
        let held = held.map_err(file_error("make the engine's directory", &dir))?;
        let (helper_client, storage) = machine::find(machine::Wish {
            dir: &dir,
            program: settings.helper,
            owner: &settings.owner,
            storage: settings.storage,
            anew: settings.probe,
        })?;
        let layout = Layout::open(&dir.join("oci"))?;
        let snapshots = Snapshots::open(&dir, storage, helper_client.clone(), &settings.owner)?;
        let checkpoints =
            Checkpoints::open(&dir, &snapshots, &settings.owner, helper_client.clone())?;
        let Settings { owner, client_config, probe: probed, .. } = settings;
        Ok(EmbeddedEngine {
            dir,
            owner,
            client_config,
            layout,
            snapshots,
            checkpoints,
            helper_client,
            probed,
            _held: held,
        })
    }

    /// Removes everything that the engine keeps; returns the directory. What is in use is refused.
    pub async fn destroy(settings: Settings) -> Result<PathBuf> {
        blocking(move || {
            let dir = settings.state_dir.join("embedded");
            let _gate = operations::unused(&dir)?;
            let helper_client = machine::helper_client(&dir, settings.helper);
            helper_client.call(Operation::Remove { paths: vec![dir.clone()] }, None, None)?;
            Ok(dir)
        })
        .await
    }

    /// Says who containers run as and how layers are put together, for people.
    pub fn describe(&self) -> String {
        let who = match self.helper_client.identity {
            Identity::Root => "as root",
            Identity::Range { .. } => "as a plain user with a range of ids",
            Identity::Single { .. } => "as a plain user with one id",
        };
        let how = match self.snapshots.storage() {
            Storage::Overlay => "overlayfs",
            Storage::Copy => "copies",
        };
        format!("{how}, {who}")
    }
}

/// Does what blocks on a thread for it.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        std::panic::resume_unwind(error.into_panic());
    })
}

#[async_trait]
impl Images for EmbeddedEngine {
    async fn images(&self) -> Result<Vec<ListedImage>> {
        self.list_images()
    }

    async fn inspect(&self, reference: &str) -> Result<Option<Image>> {
        let _operation = self.begin()?;
        self.inspect_image(reference)
    }

    async fn config(&self, reference: &str) -> Result<Option<ImageConfig>> {
        let _operation = self.begin()?;
        match self.origin(reference) {
            Ok(origin) => Ok(Some(origin.stored.config.clone())),
            Err(EngineError::NoSuchImage { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn pull(
        &self,
        reference: &Reference,
        platform: &Platform,
        log: &dyn LogSink,
    ) -> Result<Image> {
        let _operation = self.begin()?;
        self.pull_image(reference, platform, log).await
    }

    async fn push(
        &self,
        reference: &Reference,
        siblings: &[String],
        log: &dyn LogSink,
    ) -> Result<PushSummary> {
        let _operation = self.begin()?;
        self.push_image(reference, siblings, log).await
    }

    async fn tag(&self, image: &str, name: &Reference) -> Result<()> {
        let _operation = self.begin()?;
        self.tag_image(image, name)
    }

    async fn remove(&self, reference: &str) -> Result<()> {
        self.remove_image(reference)
    }
}

#[async_trait]
impl Builder for EmbeddedEngine {
    async fn build(&self, request: &BuildRequest, log: &dyn LogSink) -> Result<Image> {
        let _operation = self.begin()?;
        self.build_image(request, log).await
    }

    async fn change_config(&self, config: &ImageConfig, text: &str) -> Result<ImageConfig> {
        build::change_config(config, text)
    }

    async fn load(&self, request: &LayerRequest) -> Result<Image> {
        let _operation = self.begin()?;
        self.load_layers(request).await
    }

    async fn run(&self, reference: &str, command: &[String], log: &dyn LogSink) -> Result<i64> {
        let _operation = self.begin()?;
        self.run_command(reference, command, log).await
    }
}

#[async_trait]
impl LayerStorage for EmbeddedEngine {
    async fn read_layers(&self, images: &[Image], consumer: Arc<dyn LayerConsumer>) -> Result<()> {
        let _operation = self.begin()?;
        tokio::task::block_in_place(|| self.give_layers(images, &consumer))
    }

    fn is_own(&self) -> bool {
        true
    }

    /// Those of other processes are operations, which a collection sees by itself.
    async fn images_in_use(&self) -> Result<HashSet<ImageId>> {
        Ok(HashSet::new())
    }

    fn layer_storage_ids(&self, diff_ids: &[DiffId]) -> Vec<String> {
        diff_ids.iter().map(DiffId::to_string).collect()
    }

    async fn layer_disk_usage(&self, names: &[String]) -> Result<Vec<Option<u64>>> {
        tokio::task::block_in_place(|| {
            self.measure_layers(&names.iter().map(|name| name.as_str().into()).collect::<Vec<_>>())
        })
    }

    async fn prune(&self, dry_run: bool) -> Result<Pruned> {
        tokio::task::block_in_place(|| self.collect(dry_run))
    }
}

#[async_trait]
impl Runner for EmbeddedEngine {
    async fn info(&self) -> Result<EngineInfo> {
        self.read_info()
    }

    async fn start(
        &self,
        request: &SessionRequest,
        log: &dyn LogSink,
    ) -> Result<Box<dyn SandboxSession>> {
        self.start_session(request, None, log).await
    }

    async fn start_in(
        &self,
        request: &SessionRequest,
        network: &SharedNetwork,
        log: &dyn LogSink,
    ) -> Result<Box<dyn SandboxSession>> {
        self.start_session(request, Some(network), log).await
    }

    async fn make_network(&self) -> Result<SharedNetwork> {
        self.make_shared_network().await
    }

    async fn run_script(
        &self,
        request: &SandboxRequest,
        log: &dyn LogSink,
        control: &dyn LogSink,
    ) -> Result<SandboxEnd> {
        let _operation = self.begin()?;
        self.run_in_sandbox(request, log, control).await
    }

    async fn attach(&self, request: &AttachRequest) -> Result<Attached> {
        self.attach_to(request).await
    }

    async fn remove_directory(&self, path: &Path) -> Result<()> {
        let (client, paths) = (self.helper_client.clone(), vec![path.to_owned()]);
        blocking(move || client.call(Operation::Remove { paths }, None, None)).await
    }

    async fn remove_run(&self, run_id: &RunId, judge: &Judge<'_>) -> Result<Removed> {
        tokio::task::block_in_place(|| self.remove_containers_of_run(run_id, judge))
    }

    async fn remove_scratch(&self, judge: &Judge<'_>) -> Result<Removed> {
        tokio::task::block_in_place(|| self.remove_left_scratch(judge))
    }
}
