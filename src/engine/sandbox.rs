//! What tests are run with, and how they end.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Quota, Quotas};

/// What tests that run as root need, of Docker's default set. Left out: raw sockets, device nodes,
/// other roots, file capabilities and the audit log.
#[cfg(any(feature = "docker", feature = "kubernetes"))]
pub(crate) const CAPABILITIES: [&str; 8] =
    ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID"];

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
