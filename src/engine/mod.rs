//! The engine: what holds images and runs containers.
//!
//! [`Engine`] is narrow on purpose: images in, images out. It knows nothing of datasets, plans or
//! the terminal. Cancellation is dropping the future; every method leaves nothing behind then that
//! [`Engine::remove_scratch`] does not find.

mod address;
mod attach;
pub(crate) mod bounds;
mod build_request;
mod checkpoint;
pub mod client_config;
mod config;
mod confinement;
mod credentials;
#[cfg(feature = "docker")]
pub mod docker;
mod documents;
#[cfg(feature = "embedded")]
pub mod embedded;
pub(crate) mod emulation;
mod error;
#[cfg(any(feature = "docker", feature = "kubernetes"))]
pub(crate) mod exec_mark;
pub mod fake;
mod image;
mod meter;
mod network;
mod pipe_input;
mod quota;
pub mod reference;
#[cfg(feature = "docker")]
mod refusal;
pub(crate) mod registry;
pub(crate) mod retry;
mod sandbox;
mod script;
mod service;
mod session;
mod session_end;
mod session_host;
mod session_settings;
mod step_mounts;
#[cfg(test)]
pub(crate) mod testing;
mod tmpfs;
mod traits;
mod usage;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::key::DiffId;
use crate::platform::Platform;

pub use address::{Address, Authority, Destination, WrongAddress};
pub use attach::{AttachRequest, Attached, AttachedCommand, Output, WindowSize};
pub use build_request::{AsDocker, BuildRequest, HostAccess, LayerFile, LayerRequest};
pub use checkpoint::Checkpoint;
pub(crate) use config::{config_json, read as read_config};
pub use confinement::{Confinement, ContainerKind};
pub(crate) use credentials::check as check_credentials;
pub(crate) use error::check_platform;
pub use error::{EngineError, Result};
pub use image::{Image, ImageConfig, ListedImage};
pub use network::SharedNetwork;
#[cfg(feature = "kubernetes")]
pub(crate) use quota::LogQuota;
pub use quota::{Quota, Quotas};
#[cfg(feature = "docker")]
pub use refusal::{ChosenBy, Refusal, SshEnded};
#[cfg(any(feature = "docker", feature = "kubernetes"))]
pub(crate) use sandbox::CAPABILITIES;
pub use sandbox::{SandboxEnd, SandboxNetwork, SandboxRequest};
pub use script::run_script_in;
pub use service::{HealthCheck, Service};
pub use session::{
    Began, Ended, Exec, ExecEnd, ExecHandle, ExecRequest, ExecSummary, Input, NotStarted, Outputs,
    SandboxSession, SessionRequest,
};
pub use session_end::SessionEnd;
pub use session_host::{OnEngine, SessionHost};
pub use session_settings::{
    Change, ChangeKind, FileStatus, HostBind, Process, ProcessLimit, ProcessResource,
    SessionSettings, Volume,
};
pub(crate) use step_mounts::CA_VARIABLES;
pub use tmpfs::Tmpfs;
pub(crate) use tmpfs::mount_target;
pub use traits::{Builder, Engine, Images, LayerStorage, Runner};
pub use usage::{NewLimits, Usage};

/// Labels that imgforge sets on its images.
pub mod label {
    /// How they all begin.
    pub(crate) const PREFIX: &str = "dev.imgforge.";
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
    pub platform: Platform,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineKind {
    /// Docker, over its socket.
    Docker,
    /// The engine of this program, without a daemon.
    Embedded,
    /// The engine of tests, in memory.
    Fake,
    /// No engine: pods of a cluster, which sessions can be.
    Kubernetes,
}

impl EngineKind {
    /// Returns its name, as `--engine` takes it, or `--runner`.
    pub fn name(self) -> &'static str {
        match self {
            EngineKind::Docker => "docker",
            EngineKind::Embedded => "embedded",
            EngineKind::Fake => "fake",
            EngineKind::Kubernetes => "kubernetes",
        }
    }

    /// Returns the kind that has a name.
    pub fn named(name: &str) -> Option<EngineKind> {
        let all = [EngineKind::Docker, EngineKind::Embedded, EngineKind::Fake];
        all.into_iter().find(|kind| kind.name() == name)
    }

    /// Makes the error of what this kind cannot do, and the embedded engine can.
    pub(crate) fn without(self, action: &'static str) -> EngineError {
        let why = match self {
            EngineKind::Kubernetes => {
                "a pod cannot; a session on the embedded engine can: `--runner local --engine embedded`"
            }
            _ => "the embedded engine can: `--engine embedded`",
        };
        EngineError::Unsupported { engine: self, action, why }
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

/// Receives the output of a step, in pieces as they come, stdout and stderr in one order.
pub trait LogSink: Send + Sync {
    /// Takes a piece of output.
    fn write(&self, bytes: &[u8]);
}

/// Takes output and drops it.
pub struct NoLog;

impl LogSink for NoLog {
    fn write(&self, _: &[u8]) {}
}

/// Takes layers that an engine gives out. Called on a thread that may block.
pub trait LayerConsumer: Send + Sync {
    /// Tells whether a layer is wanted whose digest is known before its bytes.
    fn wants(&self, diff_id: &DiffId) -> bool;

    /// Takes the uncompressed tar of a layer; `diff_id` is its digest where the engine says it.
    ///
    /// # Errors
    /// Ends the reading of layers with [`EngineError::File`], or [`EngineError::NoSpace`].
    fn consume(&self, diff_id: Option<&DiffId>, tar: &mut dyn std::io::Read)
    -> std::io::Result<()>;
}

/// What of an image travelled to a registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PushSummary {
    /// The layers, by their digests as tars; `None` where the engine does not tell.
    pub layers: Option<Vec<DiffId>>,
}

/// What an engine keeps that no image needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Layers, blobs and records of builds.
    pub objects: usize,
    /// Bytes on the disk.
    pub bytes: u64,
}

/// What was removed, by name or id, and what was not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// What is gone.
    pub removed: Vec<String>,
    /// What stays because its owner is elsewhere.
    pub kept: Vec<String>,
}
