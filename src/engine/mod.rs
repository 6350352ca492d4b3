//! The engine: what holds images and runs containers.
//!
//! [`Engine`] is narrow on purpose: images in, images out. It knows nothing of datasets, plans or
//! the terminal. Cancellation is dropping the future; every method leaves nothing behind then that
//! [`Engine::remove_scratch`] does not find.

mod attach;
pub(crate) mod bounds;
mod config;
mod credentials;
pub mod docker;
pub mod embedded;
pub(crate) mod emulation;
pub mod fake;
mod meter;
mod quota;
pub mod reference;
pub(crate) mod registry;
pub(crate) mod retry;
mod step_mounts;
#[cfg(test)]
pub(crate) mod testing;

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;

use crate::key::Digest;
use crate::owner::Judge;
use crate::platform;

pub use attach::{AttachRequest, Attached, AttachedCommand, Output, WindowSize};
pub(crate) use config::{config_json, read as read_config};
pub(crate) use credentials::check as check_credentials;
pub use quota::{Quota, Quotas};

/// Labels that imgforge sets on its images.
pub mod label {
    /// The full key, 64 hexadecimal digits.
    pub const KEY: &str = "dev.imgforge.key";
    /// `base`, `env`, `checkout` or `instance`.
    pub const KIND: &str = "dev.imgforge.kind";
    /// The parent's key; absent on a base image.
    pub const PARENT: &str = "dev.imgforge.parent";
    /// The version of the key derivation.
    pub const SCHEMA: &str = "dev.imgforge.schema";
    /// The canonical key document.
    pub const INPUTS: &str = "dev.imgforge.inputs";
    /// On instance images: what the model patch changed, as [`crate::tree::to_json`] writes it.
    pub const CHANGED: &str = "dev.imgforge.changed";
    /// On images and containers that exist only for a while: their [`crate::owner::Owner`].
    pub const SCRATCH: &str = "dev.imgforge.scratch";
    /// Beside it: the name of the owner's host, for people.
    pub const HOST: &str = "dev.imgforge.host";
    /// Beside it: when the thing was made, in seconds since 1970, where the engine does not know.
    pub const MADE: &str = "dev.imgforge.made";
    /// On containers of evaluations: the `run_id`.
    pub const RUN: &str = "dev.imgforge.run";
    /// On containers of evaluations: the `instance_id`.
    pub const INSTANCE: &str = "dev.imgforge.instance";
}

/// What an engine is and how it stores images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineInfo {
    /// Which one it is.
    pub kind: EngineKind,
    /// The engine's version, such as `20.10.24`.
    pub version: String,
    /// The API version, such as `1.41`.
    pub api_version: String,
    /// The native platform, such as `linux/amd64`.
    pub platform: String,
    /// `overlay2`, `containerd`, or another storage driver.
    pub store: String,
    /// Processors that the engine may use.
    pub cpus: usize,
    /// Memory in bytes.
    pub memory: u64,
    /// The directory that holds the images, when the engine says it.
    pub root: Option<PathBuf>,
    /// What cannot be had of it on this machine.
    pub limitations: Vec<Limitation>,
}

/// Which engine it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    /// Docker, over its socket.
    Docker,
    /// The engine of this program, without a daemon.
    Embedded,
    /// The engine of tests, in memory.
    Fake,
}

impl EngineKind {
    /// Returns its name, as `--engine` takes it.
    pub fn name(self) -> &'static str {
        match self {
            EngineKind::Docker => "docker",
            EngineKind::Embedded => "embedded",
            EngineKind::Fake => "fake",
        }
    }
}

impl std::fmt::Display for EngineKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What cannot be had of an engine on this machine, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limitation {
    /// What it means.
    pub what: String,
    /// What would help.
    pub fix: &'static str,
}

/// An image as the listing of an engine shows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListedImage {
    /// The engine's id: the digest of the config, or of the manifest on a containerd store.
    pub id: String,
    /// `repository:tag` references.
    pub tags: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Bytes of all layers, shared ones included.
    pub size: u64,
}

/// An image looked at closely.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Image {
    /// The engine's id.
    pub id: String,
    /// `repository:tag` references.
    pub tags: Vec<String>,
    /// `repository@sha256:…` of registries that it was pulled from or pushed to.
    pub repo_digests: Vec<String>,
    /// The sha256 of every uncompressed layer, lowest first.
    pub diff_ids: Vec<String>,
    /// Such as `linux/amd64`.
    pub platform: String,
    /// Bytes of all layers.
    pub size: u64,
    /// Labels, environment, entrypoint and so on.
    pub config: ImageConfig,
}

/// The runtime part of an image's config.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageConfig {
    /// `NAME=value`, in order.
    pub env: Vec<String>,
    /// The default command.
    pub cmd: Vec<String>,
    /// The entrypoint.
    pub entrypoint: Vec<String>,
    /// The working directory; empty for `/`.
    pub working_dir: String,
    /// The user; empty for root.
    pub user: String,
    /// What runs the shell form of `RUN` in a Dockerfile on top; empty for `/bin/sh -c`.
    pub shell: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// A Dockerfile build. The result is *sealed*: its config is written anew with a constant
/// creation time, no history and exactly `labels`, so that equal layers give an equal image id.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    /// Normalised Dockerfile text. Each `RUN` gets, by the engine and not by the text, the host's
    /// CA bundle, proxy variables and package caches.
    pub dockerfile: String,
    /// Files beside the Dockerfile, sent with a constant time.
    pub context: Vec<crate::context_file::ContextFile>,
    /// Build arguments.
    pub args: BTreeMap<String, String>,
    /// Such as `linux/amd64`.
    pub platform: String,
    /// All labels of the result.
    pub labels: BTreeMap<String, String>,
    /// `repository:tag` names, set only when the image is whole.
    pub tags: Vec<String>,
    /// Environment that build steps get and the image does not.
    pub host: HostAccess,
    /// Whether steps run that were done before with the same inputs. Package caches are used.
    pub no_cache: bool,
}

/// What a build step gets from the host; never part of a key or a layer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostAccess {
    /// PEM certificates of the authorities to trust.
    pub ca_bundle: Option<Vec<u8>>,
    /// `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY`, in both spellings, and index settings.
    pub variables: BTreeMap<String, String>,
    /// The network mode of build steps (`host`, `default`).
    pub network: Option<String>,
    /// Files that `RUN --mount=type=secret` mounts, by their ids.
    pub secrets: BTreeMap<String, PathBuf>,
}

/// New layers on a parent that the engine holds.
#[derive(Debug, Clone)]
pub struct LayerRequest {
    /// The parent, as [`Engine::inspect`] returned it.
    pub parent: Image,
    /// Uncompressed tar files on the host, lowest first; none gives a new config on the same layers.
    /// The engine keeps what it has of them already.
    pub layers: Vec<LayerFile>,
    /// Variables, working directory and so on of the new image. Labels included.
    pub config: ImageConfig,
    /// `repository:tag` names.
    pub tags: Vec<String>,
}

/// A layer on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerFile {
    /// An uncompressed tar.
    pub path: PathBuf,
    /// The sha256 of the file.
    pub diff_id: Digest,
    /// Bytes.
    pub size: u64,
}

/// A script that runs in a fresh container which is closed off from the host.
///
/// The command is the container's main work, as root under an init. Both of its outputs are one
/// file, its input is empty. No new privileges, no capabilities but those that tests running as root need
/// to change owners, users and modes of files, to bind low ports and to signal processes.
#[derive(Debug, Clone)]
pub struct SandboxRequest {
    /// The image.
    pub image: String,
    /// Files that are written before anything runs: path and content, readable by root only. The
    /// directories exist.
    pub files: Vec<(String, Vec<u8>)>,
    /// What runs: `/bin/sh` text, the last of which is the work itself.
    pub command: String,
    /// From the start of the container; then every process in it is killed.
    pub time_limit: Duration,
    /// Bytes of memory, swap included.
    pub memory: Option<u64>,
    /// Thousandths of a processor; more than the engine has is all of them.
    pub milli_cpus: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// What it may write.
    pub quotas: Quotas,
    /// What the container can reach.
    pub network: SandboxNetwork,
    /// Names that lead to loopback.
    pub loopback_names: Vec<String>,
    /// Environment variables, beside the image's. Nothing of the host's environment is passed.
    pub variables: BTreeMap<String, String>,
    /// [`label::RUN`] and [`label::INSTANCE`]; the engine adds [`label::SCRATCH`].
    pub labels: BTreeMap<String, String>,
}

/// What a sandbox can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SandboxNetwork {
    /// Loopback.
    None,
    /// Loopback, and addresses in 10.255.0.0/16 that never answer: for tests of time limits.
    SilentPeer,
    /// The engine's default network.
    Bridge,
    /// The network of the host.
    Host,
}

/// How a sandboxed script ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SandboxEnd {
    /// By itself, with an exit code.
    Exited(i64),
    /// It was killed at its time limit.
    TimedOut,
    /// The kernel killed a process of it at the memory limit. The exit code is the script's.
    OutOfMemory(i64),
    /// It was killed because it wrote more than it may.
    OverQuota(Quota),
    /// Somebody else killed it: the engine, or a person.
    Killed(i64),
}

/// Receives the output of a step, in pieces as they come, stdout and stderr in one order.
pub trait LogSink: Send + Sync {
    /// Takes a piece of output.
    fn write(&self, bytes: &[u8]);
}

/// Takes output and drops it.
pub(crate) struct NoLog;

impl LogSink for NoLog {
    fn write(&self, _: &[u8]) {}
}

/// Takes layers that an engine gives out. Called on a thread that may block.
pub trait LayerConsumer: Send + Sync {
    /// Tells whether a layer is wanted whose digest is known before its bytes.
    fn wants(&self, diff_id: &str) -> bool;

    /// Takes the uncompressed tar of a layer; `diff_id` is its digest where the engine says it.
    ///
    /// # Errors
    /// Ends the reading of layers with [`EngineError::File`], or [`EngineError::NoSpace`].
    fn consume(&self, diff_id: Option<&str>, tar: &mut dyn std::io::Read) -> std::io::Result<()>;
}

/// What of an image travelled to a registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PushSummary {
    /// The layers, by their digests as tars; `None` where the engine does not tell.
    pub layers: Option<Vec<String>>,
}

/// What an engine keeps that no image needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Layers, blobs and records of builds.
    pub objects: usize,
    /// Bytes on the disk.
    pub bytes: u64,
}

/// What went wrong in an engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No engine answers.
    #[error("cannot reach an engine at `{address}`")]
    Unreachable {
        /// The socket or URL.
        address: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The socket is there and may not be used.
    #[error("permission denied on the engine's socket `{address}`")]
    PermissionDenied {
        /// The socket.
        address: String,
    },
    /// The engine that was chosen, or that answers, or a file of credentials, cannot be used.
    #[error(transparent)]
    Unusable(docker::Refusal),
    /// The engine is older than what imgforge can use.
    #[error("the engine speaks API {found}, imgforge needs {needed} or newer")]
    TooOld {
        /// The engine's API version.
        found: String,
        /// The oldest that works.
        needed: &'static str,
    },
    /// The connection broke or the engine answered with a server error: worth another try.
    #[error("the engine failed to {action}")]
    Transient {
        /// What was asked of it.
        action: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An image that was needed is not there.
    #[error("image `{reference}` is not on the engine")]
    NoSuchImage {
        /// The reference.
        reference: String,
    },
    /// An image is for another platform than the one that it is needed for.
    #[error("`{reference}` is for {found}, not for {wanted}")]
    OtherPlatform {
        /// The reference.
        reference: String,
        /// What the image is for.
        found: String,
        /// What it is needed for.
        wanted: String,
    },
    /// A registry refused or lacks the image.
    #[error("cannot pull `{reference}`: {reason}")]
    Pull {
        /// The reference.
        reference: String,
        /// The registry's words.
        reason: String,
    },
    /// A registry does not have the image, or its whole repository.
    #[error("`{reference}` is not in its registry: {reason}")]
    NotFound {
        /// The reference.
        reference: String,
        /// The registry's answer.
        reason: String,
    },
    /// A registry wants other credentials; of what somebody may not see, most do not say whether it
    /// is there.
    #[error("registry `{registry}` does not let us {action}: {reason}")]
    Denied {
        /// The registry.
        registry: String,
        /// What was asked of it.
        action: String,
        /// Its answer.
        reason: String,
    },
    /// A registry has no time for the request: worth another try.
    #[error("registry `{registry}` is too busy to {action}: {reason}")]
    Busy {
        /// The registry.
        registry: String,
        /// What was asked of it.
        action: String,
        /// Its answer.
        reason: String,
        /// Whether this client asked too often, and not everybody.
        limited: bool,
        /// How long it asks to wait.
        wait: Option<std::time::Duration>,
    },
    /// An image of a registry that no trusted key signed: it counts as absent.
    #[error("`{reference}` (`{digest}`) is as if it were not there")]
    Unsigned {
        /// The reference.
        reference: String,
        /// The digest of its manifest.
        digest: String,
        /// Why.
        #[source]
        why: crate::sign::NotSigned,
    },
    /// No connection to a registry came to be: worth another try.
    #[error("cannot reach registry `{registry}`")]
    Offline {
        /// The registry.
        registry: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A registry's name is not known to the resolver.
    #[error("there is no host `{registry}`")]
    NoRegistry {
        /// The registry.
        registry: String,
    },
    /// A transfer was tried again and again, and failed to the end.
    #[error(transparent)]
    GaveUp {
        /// How the last try failed.
        source: Box<EngineError>,
    },
    /// A step of a Dockerfile failed by its own doing.
    #[error("step `{step}` exited with code {code}")]
    Step {
        /// The instruction or command.
        step: String,
        /// The exit code.
        code: i64,
    },
    /// This process may make no containers here.
    #[error("{}; it failed to {action}: {reason}", confinement.text())]
    Confined {
        /// What the kernel refused.
        action: String,
        /// The kernel's words.
        reason: String,
        /// What stands in the way.
        confinement: embedded::Confinement,
    },
    /// The engine has no room left.
    #[error("no space left on the engine's disk while trying to {action}")]
    NoSpace {
        /// What was asked of it.
        action: String,
    },
    /// The engine refused what was asked; trying again will not help.
    #[error("the engine refused to {action}: {reason}")]
    Refused {
        /// What was asked of it.
        action: String,
        /// The engine's words.
        reason: String,
    },
    /// A file on the host could not be read.
    #[error("cannot read `{path}`")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl EngineError {
    /// Tells whether the same call may succeed when it is made again.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            EngineError::Transient { .. }
                | EngineError::Unreachable { .. }
                | EngineError::Busy { .. }
                | EngineError::Offline { .. }
        )
    }

    /// Tells whether a registry will answer no other question better: it is not there, or has no
    /// time for this client.
    pub fn is_of_registry(&self) -> bool {
        match self {
            EngineError::GaveUp { source } => match &**source {
                EngineError::Busy { limited, .. } => *limited,
                EngineError::Offline { .. } => true,
                _ => false,
            },
            EngineError::NoRegistry { .. } => true,
            _ => false,
        }
    }

    /// Tells whether engine or registry are not reached from here, or no container may be made.
    pub fn is_out_of_reach(&self) -> bool {
        match self {
            EngineError::GaveUp { source } => source.is_out_of_reach(),
            EngineError::Unreachable { .. }
            | EngineError::PermissionDenied { .. }
            | EngineError::Offline { .. }
            | EngineError::NoRegistry { .. }
            | EngineError::Confined { .. } => true,
            _ => false,
        }
    }

    /// Returns what would help.
    pub fn hint(&self) -> Option<String> {
        let login = |registry: &str| {
            format!("`docker login {registry}` writes the credentials that imgforge reads")
        };
        match self {
            EngineError::Unreachable { address, .. } if address.starts_with("unix://") => Some(
                "start Docker (`sudo systemctl start docker`), name its address in DOCKER_HOST, \
                 or use `--engine embedded`"
                    .to_owned(),
            ),
            EngineError::Unreachable { .. } => Some(
                "look whether Docker listens there and this host reaches it; DOCKER_HOST, or the \
                 Docker context, says where it is"
                    .to_owned(),
            ),
            EngineError::PermissionDenied { .. } => Some(
                "add yourself to the group that owns the socket (`sudo usermod -aG docker $USER`, \
                 then log in again), or use rootless Docker"
                    .to_owned(),
            ),
            EngineError::TooOld { .. } => Some("install Docker 20.10 or newer".to_owned()),
            EngineError::Denied { registry, .. } => Some(login(registry)),
            EngineError::Busy { registry, limited: true, .. } => Some(format!(
                "wait, or log in: registries allow more to those they know; {}",
                login(registry)
            )),
            EngineError::GaveUp { source } => source.hint(),
            EngineError::Confined { confinement, .. } => Some(confinement.fix()),
            EngineError::Unusable(refusal) => Some(refusal.hint()),
            _ => None,
        }
    }
}

/// Checks that an image is for a platform.
///
/// # Errors
/// [`EngineError::OtherPlatform`], with what the image is called.
pub(crate) fn check_platform(reference: &str, found: &str, wanted: &str) -> Result<()> {
    if platform::same(found, wanted) {
        return Ok(());
    }
    Err(EngineError::OtherPlatform {
        reference: reference.to_owned(),
        found: found.to_owned(),
        wanted: wanted.to_owned(),
    })
}

/// What was removed, by name or id, and what was not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// What is gone.
    pub removed: Vec<String>,
    /// What stays because its owner is elsewhere.
    pub kept: Vec<String>,
}

/// A result of an engine call.
pub type Result<T> = std::result::Result<T, EngineError>;

/// A container engine.
#[async_trait]
pub trait Engine: Send + Sync {
    /// Asks the engine what it is.
    async fn info(&self) -> Result<EngineInfo>;

    /// Lists all images in one request.
    async fn images(&self) -> Result<Vec<ListedImage>>;

    /// Looks at one image; `None` when the engine does not have it.
    async fn inspect(&self, reference: &str) -> Result<Option<Image>>;

    /// Pulls an image from its registry, with the host's credentials, retrying what is transient. An
    /// image for another platform is refused.
    async fn pull(&self, reference: &str, platform: &str, log: &dyn LogSink) -> Result<Image>;

    /// Builds a Dockerfile and seals the result. What it stands on has to be for the platform.
    async fn build(&self, request: &BuildRequest, log: &dyn LogSink) -> Result<Image>;

    /// Adds layers to a parent without running anything. Equal requests give equal images.
    async fn load(&self, request: &LayerRequest) -> Result<Image>;

    /// Gives an image one more name.
    async fn tag(&self, id: &str, reference: &str) -> Result<()>;

    /// Takes a name from an image, and the image away with its last name. Absent is fine.
    async fn remove(&self, reference: &str) -> Result<()>;

    /// Pushes an image to the registry that its name says; what is there does not travel. Layers
    /// that one of `siblings`, other repositories of the registry, has are taken from it.
    async fn push(
        &self,
        reference: &str,
        siblings: &[String],
        log: &dyn LogSink,
    ) -> Result<PushSummary>;

    /// Gives the layers of images to `consumer`, each at least once unless it is not wanted, in an
    /// order of the engine's own.
    async fn read_layers(
        &self,
        images: &[Image],
        consumer: std::sync::Arc<dyn LayerConsumer>,
    ) -> Result<()>;

    /// Tells whether nobody but imgforge keeps images there.
    fn is_own(&self) -> bool {
        false
    }

    /// Returns the ids of the images that containers stand on, whoever owns them.
    async fn images_in_use(&self) -> Result<HashSet<String>>;

    /// Returns under which names the engine stores an image's layers, the lowest first: images
    /// share the bytes of a layer when its names are equal.
    fn layer_storage_ids(&self, diff_ids: &[String]) -> Vec<String>;

    /// Measures what stored layers take on the disk, by their names, in bytes; `None` where it is
    /// not there, or this process cannot see it.
    async fn layer_disk_usage(&self, names: &[String]) -> Result<Vec<Option<u64>>>;

    /// Removes what no image needs and no running call of any process uses: layers of images that
    /// were removed, records of builds. With `dry_run` it is told and stays.
    async fn prune(&self, dry_run: bool) -> Result<Pruned>;

    /// Runs a command in a fresh container without network and returns its exit code; the output
    /// goes to `log`. The container is gone afterwards.
    async fn run(&self, reference: &str, command: &[String], log: &dyn LogSink) -> Result<i64>;

    /// Runs a script in a sandbox; the output goes to `log` as it comes, byte for byte, and what it
    /// writes to its file descriptor 4 to `control`. The container is gone afterwards. When the
    /// future is dropped, or this process dies, the container ends itself.
    async fn run_sandboxed(
        &self,
        request: &SandboxRequest,
        log: &dyn LogSink,
        control: &dyn LogSink,
    ) -> Result<SandboxEnd>;

    /// Starts a command in a fresh container and gives its ends out.
    async fn attach(&self, request: &AttachRequest) -> Result<Attached>;

    /// Removes the containers of a run, see [`label::RUN`], whose owner is dead, or is a process of
    /// this very host and namespace: another one may have a run of that name as well.
    async fn remove_run(&self, run_id: &str, judge: &Judge<'_>) -> Result<Removed>;

    /// Removes scratch images and containers whose owner, see [`label::SCRATCH`], is dead.
    async fn remove_scratch(&self, judge: &Judge<'_>) -> Result<Removed>;
}
