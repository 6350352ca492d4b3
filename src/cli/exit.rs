//! Exit statuses: the one table.

use std::process::ExitCode;

/// How imgforge ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All done.
    Success,
    /// Some nodes or instances failed; the rest are finished and reported.
    SomeFailed,
    /// Bad usage or bad input; nothing was started.
    BadInput,
    /// The environment cannot do it: no engine, no disk, no network.
    Environment,
    /// Interrupted; the state is consistent, and the same command resumes.
    Interrupted,
    /// What a command in a container ended with, or [`Exit::LOST`].
    Command(u8),
}

impl Exit {
    /// A command in a container was started, and nobody knows how it ended: as of `docker run`.
    pub const LOST: Exit = Exit::Command(125);

    /// Something in a container was killed for memory: as of SIGKILL.
    pub const OUT_OF_MEMORY: Exit = Exit::Command(137);
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(match exit {
            Exit::Success => 0,
            Exit::SomeFailed => 1,
            Exit::BadInput => 2,
            Exit::Environment => 3,
            Exit::Interrupted => 130,
            Exit::Command(code) => code,
        })
    }
}
