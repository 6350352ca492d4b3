//! Why a sandbox gives no result.

use crate::engine::EngineError;
use crate::session::StartError;
use crate::source::SourceError;

use super::commands::NotAllowed;

/// Why a sandbox gives no result. It says nothing of the tests: do not count it as their failure.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// There is no sandbox: the engine cannot start one.
    #[error("there is no sandbox")]
    Start(#[source] StartError),
    /// There is no sandbox with the limits that were asked for.
    #[error("the sandbox would not be as it was asked for: {}", wrong.join("; "))]
    Unenforced {
        /// What it would not enforce, in sentences.
        wrong: Vec<String>,
    },
    /// The image lacks a program that every sandbox needs.
    #[error("the sandbox cannot be set up: {said}")]
    SetUp {
        /// What went wrong, in the words of a program.
        said: String,
    },
    /// The sandbox ended while something ran in it, for another reason than time and memory.
    #[error("the sandbox has ended: {why}")]
    Ended {
        /// How.
        why: String,
    },
    /// The command is not started.
    #[error(transparent)]
    NotAllowed(#[from] NotAllowed),
    /// The tests could not be started.
    #[error("the tests could not be started: {said}")]
    NotStarted {
        /// What went wrong, in the words of a program.
        said: String,
    },
    /// The repository cannot be had at the commit.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The repository does not go into the workspace.
    #[error("the repository cannot be written into the sandbox")]
    Write(#[source] EngineError),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl SandboxError {
    /// Returns what would help.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            SandboxError::Start(error) => {
                return error.hint().or(Some("`imgforge doctor` says what is missing".to_owned()));
            }
            SandboxError::Unenforced { .. } => {
                "run imgforge as root or with delegated control groups (`imgforge doctor` says how), or \
                 take the sandbox as it is with --unenforced"
            }
            SandboxError::SetUp { .. } => "the image needs `sh`, `cat`, `chown` and `mkdir`",
            SandboxError::NotStarted { .. } => {
                "the image needs Python 3.6 or later with pytest, where only root can write to it"
            }
            SandboxError::Write(_) => {
                "is the workspace too small? --workspace-size and --memory make it larger"
            }
            SandboxError::Source(error) => return error.hint(),
            SandboxError::Engine(error) => return error.hint(),
            SandboxError::Ended { .. } | SandboxError::NotAllowed(_) => return None,
        };
        Some(hint.to_owned())
    }
}
