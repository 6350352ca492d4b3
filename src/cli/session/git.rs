//! `imgforge session diff`, `patch` and `apply`: what was changed in a session.

use std::io::Read as _;
use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;
use serde_json::json;

use crate::cli::out::{self, errln, outln};
use crate::engine::{ChangeKind, SandboxSession as _};
use crate::session::git::{self, GitError, PatchOptions};

use super::super::help::heading;
use super::super::{CommandResult, Error, Exit, Global};
use super::{failed, found};

/// Arguments of `session diff`.
#[derive(Debug, Args)]
pub(in crate::cli) struct DiffArgs {
    /// The session: its name, its id or the beginning of that
    #[arg(value_name = "SESSION", help_heading = None)]
    session: String,
}

/// Arguments of `session patch`.
#[derive(Debug, Args)]
#[command(next_help_heading = heading::OUTPUT)]
pub(in crate::cli) struct PatchArgs {
    /// The session: its name, its id or the beginning of that
    #[arg(value_name = "SESSION", help_heading = None)]
    session: String,
    /// Write it to this file
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What it is a difference to [default: the commit that the session began at]
    #[arg(long, value_name = "COMMIT")]
    base: Option<String>,
    /// Leave out what matches, as git reads it
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Leave out files that git does not know
    #[arg(long)]
    no_untracked: bool,
    /// The repository [default: the session's directory]
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
}

/// Arguments of `session apply`.
#[derive(Debug, Args)]
#[command(next_help_heading = heading::RUN)]
pub(in crate::cli) struct ApplyArgs {
    /// The session: its name, its id or the beginning of that
    #[arg(value_name = "SESSION", help_heading = None)]
    session: String,
    /// The patch; - is the standard input
    #[arg(value_name = "FILE", help_heading = None)]
    file: PathBuf,
    /// Take it back
    #[arg(short = 'R', long)]
    reverse: bool,
    /// The repository [default: the session's directory]
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
}

/// Runs `session diff`.
pub(super) async fn diff(global: &Global, args: DiffArgs) -> CommandResult {
    let (_, session) = found(global, &args.session).await?;
    let changes = session.changes().await.map_err(failed)?;
    if global.json {
        let list = changes.iter().map(|change| json!({ "path": change.path, "kind": change.kind }));
        outln!("{:#}", json!(list.collect::<Vec<_>>()));
        return Ok(Exit::Success);
    }
    for change in changes {
        let kind = match change.kind {
            ChangeKind::Modified => 'C',
            ChangeKind::Added => 'A',
            ChangeKind::Deleted => 'D',
        };
        outln!("{kind} {}", change.path);
    }
    Ok(Exit::Success)
}

/// Runs `session patch`.
pub(super) async fn patch(global: &Global, args: PatchArgs) -> CommandResult {
    let (record, session) = found(global, &args.session).await?;
    let wanted = PatchOptions {
        // Of another repository that commit is none.
        base: args.base.or(record.base.filter(|_| args.workdir.is_none())),
        exclude: args.exclude,
        untracked: !args.no_untracked,
        working_dir: args.workdir.or(record.repository),
    };
    let bytes = git::patch(&session, &wanted).await.map_err(git_failed)?;
    if let Some(path) = args.output {
        crate::atomic::write(&path, &bytes, false).map_err(|error| {
            let context = format!("cannot write `{}`", path.display());
            Error::environment(anyhow::Error::from(error).context(context))
        })?;
    } else if global.json {
        outln!("{:#}", json!({ "patch": String::from_utf8_lossy(&bytes) }));
    } else {
        out::bytes(&bytes);
    }
    Ok(Exit::Success)
}

/// Runs `session apply`.
pub(super) async fn apply(global: &Global, args: ApplyArgs) -> CommandResult {
    let mut patch = Vec::new();
    let read = match args.file.to_str() {
        Some("-") => std::io::stdin().read_to_end(&mut patch),
        _ => std::fs::File::open(&args.file).and_then(|mut file| file.read_to_end(&mut patch)),
    };
    read.map_err(|error| {
        let context = format!("cannot read `{}`", args.file.display());
        Error::input(anyhow::Error::from(error).context(context))
    })?;
    if patch.iter().all(u8::is_ascii_whitespace) {
        return Err(Error::input(anyhow!("`{}` holds no patch", args.file.display())).into());
    }
    let (record, session) = found(global, &args.session).await?;
    let working_dir = args.workdir.or(record.repository);
    let applied = git::apply(&session, patch.into(), args.reverse, working_dir).await;
    let said = applied.map_err(git_failed)?;
    if !global.quiet {
        errln!("{}", said.trim_end());
    }
    Ok(Exit::Success)
}

/// Makes an error of what git cannot do in a session.
pub(super) fn git_failed(error: GitError) -> Error {
    match error {
        GitError::Engine(error) => failed(error),
        GitError::Refused(_) => Error::input(error),
    }
}
