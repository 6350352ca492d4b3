//! Typed smoke runs: a repository at a commit, in a sandbox of its own, with the commands that prepare its
//! tests and the command that runs them.
//!
//! A configuration ([`read_file`]) has the sandbox, the repository and the task. A [`Manager`] does the
//! stages of one run on the sessions of any engine, all at once ([`Manager::run`]) or one by one, and gives
//! the [`RunReport`]. What happens is written to [`Events`] while it happens, and to the artifacts of the
//! run, which are enough to make the report again ([`saved_report`]).
//!
//! Nothing of the repository runs on this machine: it is fetched into a mirror and read there, and all
//! commands run in the sandbox.

mod artifacts;
mod cached;
mod command;
pub mod compat;
mod config;
mod document;
mod events;
mod manager;
mod read;
mod record;
mod report;
mod repository;
mod sandbox;
mod saved;
mod secrets;
mod values;
mod verdict;

pub use artifacts::ArtifactsError;
pub use cached::CachedSandboxes;
pub use config::{
    COMMAND_TIMEOUT, CommandLine, Network, Origin, Patch, RepoSpec, Resources, RunConfig,
    STAGE_TIMEOUT, SandboxConfig, TaskSpec, Timeouts, WORKDIR,
};
pub use document::Format;
pub use events::{Events, SmokeEvent};
pub use manager::{Manager, Means, OutOfOrder, RunOptions};
pub use read::{ConfigError, Configured, read_file, read_text};
pub use report::{
    CommandEnd, CommandResult, NotAStage, RunFacts, RunImage, RunReport, RunRepository, SCHEMA,
    SessionStats, Stage, StageResult, StageStatus, Truncated, Versions,
};
pub use repository::Repositories;
pub use sandbox::{OfProcess, Sandbox, Sandboxes};
pub use saved::{Report, ReportList, make_list, saved_report};
pub use secrets::{MASK, SHORTEST, Secrets};
