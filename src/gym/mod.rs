//! Environments for agents: the commands that an agent may use are installed in a session, each of its
//! actions is a command, and what it is told follows a fixed form. They are those of R2E-Gym, with the
//! faults of its readers mended, as the classes `RepoEnv`, `Action`, `Observation` and `ParseCommandBash` of the
//! Python package (`python/imgforge_sandbox/r2e/`) do it.
//!
//! Actions, files of commands and observations are pure; an [`Environment`] stands on a session.

mod action;
mod commands;
mod description;
mod environment;
mod observation;
#[cfg(test)]
mod tests;
mod text;

pub use action::{Action, BadAction};
pub use commands::{Command, CommandFile, CommandFileError};
pub use environment::{Environment, Step};
pub use observation::observation;
