//! `imgforge session`: containers that live while commands run in them.

mod checkpoint;
mod cp;
mod exec;
mod git;
mod grade;
mod keep;
mod launch;
mod ls;
mod network;
mod shell;
mod start;

pub(super) use checkpoint::{checkpoints, remove as remove_checkpoint};
pub(super) use exec::AT_LIMIT;
pub(super) use launch::launch;
pub(super) use start::{SessionNetwork, duration};

use clap::Subcommand;

use crate::engine::EngineError;
use crate::session::directory::{Directory, DirectoryError, SessionRecord};
use crate::session::rpc::RemoteSession;

use super::open;
use super::{CommandResult, Error, Global};

/// Subcommands of `session`.
#[derive(Debug, Subcommand)]
pub(super) enum SessionCommand {
    /// Start a session in the image of an instance, or in any image
    ///
    /// The session lives until it is stopped, its time is over, or the machine ends. Its id is printed.
    Start(Box<start::StartArgs>),
    /// Run a command in a session
    ///
    /// The status is the command's: 126 and 127 where it cannot be started, 128 and the signal where
    /// one killed it, 124 where a limit did, 125 where imgforge cannot do it.
    Exec(exec::ExecArgs),
    /// Open a shell in a session, or give it commands on the standard input
    Shell(shell::ShellArgs),
    /// Copy files into a session and out of it
    Cp(cp::CpArgs),
    /// List the files that differ from the image
    Diff(git::DiffArgs),
    /// Print what was changed in the repository, as a patch
    Patch(git::PatchArgs),
    /// Apply a patch to the repository, as a whole or not at all
    Apply(git::ApplyArgs),
    /// Grade what was changed in a session, in a fresh container
    Grade(grade::GradeArgs),
    /// Keep the files of a session as they are now, for others to start from
    ///
    /// A checkpoint has what was changed since the session began, and nothing that runs. Its id is
    /// printed. `fork` starts sessions from it, `reset` goes back to it, `rm` removes it.
    Checkpoint(checkpoint::CheckpointArgs),
    /// Start sessions from a checkpoint, or from what a session has now
    ///
    /// They are started as that session was. Files are the same, processes are not taken along. Their ids
    /// are printed.
    Fork(checkpoint::ForkArgs),
    /// Go back to what a session was started from, or to a checkpoint
    ///
    /// All that runs in it ends. The session keeps its id.
    Reset(checkpoint::ResetArgs),
    /// Remove checkpoints; sessions that were started from them go on
    Rm(checkpoint::RmArgs),
    /// Tell what a session may reach and what it was denied, or change it
    ///
    /// For sessions with `--network proxy`. Connections to hosts that may not be reached any more end.
    Network(network::NetworkArgs),
    /// Tell what a session uses: processor time, memory, processes, disk
    Stats(ls::StatsArgs),
    /// List the processes of a session
    Ps(ls::PsArgs),
    /// List sessions, or checkpoints
    Ls(ls::LsArgs),
    /// End sessions
    Stop(ls::StopArgs),
    /// Keep a session that is read from the standard input
    #[command(hide = true)]
    Keep(Box<keep::KeepArgs>),
}

impl SessionCommand {
    /// Tells whether it prints what a command in a session prints.
    pub(super) fn prints_output(&self) -> bool {
        matches!(self, SessionCommand::Shell(_))
    }
}

/// Runs `session`.
pub(super) async fn run(global: &Global, command: SessionCommand) -> CommandResult {
    match command {
        SessionCommand::Start(args) => start::run(global, *args).await,
        SessionCommand::Exec(args) => exec::run(global, args).await,
        SessionCommand::Shell(args) => shell::run(global, args).await,
        SessionCommand::Cp(args) => cp::run(global, args).await,
        SessionCommand::Diff(args) => git::diff(global, args).await,
        SessionCommand::Patch(args) => git::patch(global, args).await,
        SessionCommand::Apply(args) => git::apply(global, args).await,
        SessionCommand::Grade(args) => grade::run(global, args).await,
        SessionCommand::Checkpoint(args) => checkpoint::checkpoint(global, args).await,
        SessionCommand::Fork(args) => checkpoint::fork(global, args).await,
        SessionCommand::Reset(args) => checkpoint::reset(global, args).await,
        SessionCommand::Rm(args) => checkpoint::rm(global, args).await,
        SessionCommand::Network(args) => network::run(global, args).await,
        SessionCommand::Stats(args) => ls::stats(global, args).await,
        SessionCommand::Ps(args) => ls::ps(global, args).await,
        SessionCommand::Ls(args) => ls::ls(global, args),
        SessionCommand::Stop(args) => ls::stop(global, args).await,
        SessionCommand::Keep(args) => keep::run(global, *args).await,
    }
}

/// The sessions of the state directory.
pub(super) fn directory(global: &Global) -> Directory {
    Directory::of(&open::state_dir(global))
}

/// Finds a session that lives, and speaks to it.
async fn found(global: &Global, text: &str) -> Result<(SessionRecord, RemoteSession), Error> {
    let directory = directory(global);
    let record = directory.find(text).map_err(not_found)?;
    let stream = directory.connect(&record).await.map_err(not_found)?;
    let session = RemoteSession::connect(stream).await.map_err(open::engine_failure)?;
    Ok((record, session))
}

/// Makes an error of a session that cannot be found or made.
fn not_found(error: DirectoryError) -> Error {
    let hint = match &error {
        DirectoryError::None(_) | DirectoryError::Several { .. } => {
            "`imgforge session ls` lists them"
        }
        DirectoryError::NoCheckpoint(_) => "`imgforge session ls --checkpoints` lists them",
        DirectoryError::Ended { .. } => "start another one: `imgforge session start`",
        DirectoryError::NameTaken { .. } => "choose another name, or `imgforge session stop` it",
        DirectoryError::BadName(_) => "choose another name",
        DirectoryError::Io { .. } => return Error::environment(error),
    };
    Error::input(error).with_hint(Some(hint.to_owned()))
}

/// Says an error with its causes, in one line.
fn chain(error: &Error) -> String {
    crate::causes::in_one_line(error)
}

/// Makes an error of a session that failed.
fn failed(error: EngineError) -> Error {
    match &error {
        EngineError::NoSuchPath { .. } | EngineError::SessionEnded { .. } => Error::input(error),
        _ => open::engine_failure(error),
    }
}
