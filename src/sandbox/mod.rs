//! Commands and tests in a locked-down container: no network, a read-only root, a workspace in memory,
//! an unprivileged user, and limits that are enforced or refused.
//!
//! A [`Sandbox`] is one session (see [`crate::session`]) with fixed settings. A repository is written
//! into it from a [`Mirror`](crate::source::Mirror): nothing of the repository runs on this machine. At
//! the time limit the whole container ends. Where there is no sandbox with the limits that were asked
//! for, nothing runs at all.
//!
//! Tests are run by pytest, with a plugin in a directory that the tests cannot write to. It tells what
//! became of each test over a pipe that the tests can neither read nor take back. It is the plugin of the
//! Python package (`python/imgforge_sandbox/executor/inside/`), whose `SandboxExecutor` does the same.

mod commands;
mod container;
mod error;
mod files;
mod isolation;
mod limits;
mod outcome;
mod pytest;
mod records;
mod repository;
mod results;
mod settings;
mod verbose;

pub use commands::{ALLOWED_COMMANDS, NotAllowed};
pub use container::{Live, Sandbox};
pub use error::SandboxError;
pub use limits::{BadLimits, Limits};
pub use outcome::Outcome;
pub use repository::DIRECTORY;
pub use results::{BadTests, ExecResult, Source, TestResult, Tests};
pub use settings::{BadVariable, Settings};
