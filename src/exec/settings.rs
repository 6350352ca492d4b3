//! How a run is done, and how it is stopped.

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use crate::engine::HostAccess;

use super::output::Told;

/// The settings of a run. None of them is part of a key.
#[derive(Debug, Clone)]
pub struct ExecSettings {
    /// How many nodes run at once, at least 1; what is pulled does not count.
    pub workers: usize,
    /// How many of them may be builds, at least 1: where tests run elsewhere, these are the work of this
    /// machine.
    pub builds: usize,
    /// Whether an image is built that was to be pulled and cannot be.
    pub fallback_to_build: bool,
    /// Whether the first failure ends the run.
    pub fail_fast: bool,
    /// How often a node is tried when it fails for a reason that may pass.
    pub attempts: u32,
    /// Certificates, variables and network of the host for build steps.
    pub host: HostAccess,
    /// Where build logs go, `logs/build_images`.
    pub log_dir: PathBuf,
    /// Bytes that must stay free on the disks of the engine and of the state.
    pub min_free: u64,
    /// The engine as people are told of it.
    pub engine: String,
    /// The directory of the engine's images, when it is on this host.
    pub engine_root: Option<PathBuf>,
    /// This process, in labels of what exists only during a build.
    pub owner: String,
    /// The lines of output that reporters hear of.
    pub told: Told,
}

/// The two stages of an interrupt.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    /// First stage: no further node starts, those that run are finished.
    pub stop: CancellationToken,
    /// Second stage: nodes that run are dropped as well.
    pub kill: CancellationToken,
}
