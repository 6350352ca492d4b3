//! What a smoke run is told: the sandbox, the repository and the task. A value of these types is whole:
//! what a file says was checked when it was read, see [`super::read`].

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::session::egress::Allowed;

use super::compat::Fix;

/// How long a command may run where the configuration does not say it.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(600);

/// How long a stage may take where the configuration does not say it.
pub const STAGE_TIMEOUT: Duration = Duration::from_secs(3600);

/// Where the repository is in the sandbox where the configuration does not say it.
pub const WORKDIR: &str = "/testbed";

/// One smoke run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunConfig {
    /// What it is called in reports and events.
    pub name: Option<String>,
    /// The sandbox.
    pub sandbox: SandboxConfig,
    /// The repository.
    pub repo: RepoSpec,
    /// What is done with it.
    pub task: TaskSpec,
}

/// The container that a run has for itself.
#[derive(Debug, Clone, PartialEq)]
pub struct SandboxConfig {
    /// The image. It is pulled where the engine does not have it.
    pub image: String,
    /// The directory of the repository, absolute. The image has nothing in it.
    pub workdir: String,
    /// Variables of all commands, beside those of the image.
    pub env: BTreeMap<String, String>,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// Limits of all processes together.
    pub resources: Resources,
    /// What it can reach.
    pub network: Network,
}

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// A command; then every process of it is killed.
    pub command: Duration,
    /// A stage, all of its commands together.
    pub stage: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts { command: COMMAND_TIMEOUT, stage: STAGE_TIMEOUT }
    }
}

/// Limits of all processes of a sandbox together. What is not set has no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resources {
    /// Bytes of memory, swap included.
    pub memory: Option<u64>,
    /// Thousandths of a processor.
    pub milli_cpus: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// What a sandbox can reach.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Network {
    /// Itself.
    #[default]
    None,
    /// What this machine can.
    Host,
    /// What Docker's default network can.
    Bridge,
    /// These hosts over HTTP and HTTPS, by a proxy on its loopback.
    Hosts(Vec<Allowed>),
}

/// The repository of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct RepoSpec {
    /// Where it comes from.
    pub origin: Origin,
    /// A branch, a tag, `HEAD`, or the 40 digits of a commit.
    pub reference: String,
    /// Patches that are applied to the commit, in this order.
    pub patches: Vec<Patch>,
    /// Fixes that are made then.
    pub compat: Vec<Fix>,
}

/// Where a repository comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A URL that git understands, or `owner/name` of GitHub.
    Url(String),
    /// A directory of this machine.
    Path(PathBuf),
}

/// A patch, and the file that it was read from.
#[derive(Clone, PartialEq, Eq)]
pub struct Patch {
    /// The file, as the configuration names it.
    pub file: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for Patch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Patch({}, {} bytes)", self.file, self.bytes.len())
    }
}

/// What is done in a sandbox with a repository.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskSpec {
    /// Commands that prepare the tests, in this order.
    pub setup: Vec<CommandLine>,
    /// The command that runs the tests.
    pub test: CommandLine,
    /// Whether the tests are to fail.
    pub expected_fail: bool,
    /// Variables of these commands, beside those of the sandbox.
    pub env: BTreeMap<String, String>,
}

/// A command of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandLine {
    /// A line for `/bin/sh -c`.
    Shell(String),
    /// Program and arguments, for no shell.
    Argv(Vec<String>),
}

impl CommandLine {
    /// Returns program and arguments.
    pub fn argv(&self) -> Vec<String> {
        match self {
            CommandLine::Shell(line) => ["/bin/sh", "-c", line].map(str::to_owned).to_vec(),
            CommandLine::Argv(words) => words.clone(),
        }
    }
}
