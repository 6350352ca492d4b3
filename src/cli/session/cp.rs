//! `imgforge session cp`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use clap::Args;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::SyncIoBridge;

use crate::engine::{EngineError, ExecEnd, ExecRequest, SandboxSession};
use crate::session::Keep;

use super::super::{CommandResult, Error, Exit, Global};
use super::{failed, found};

/// Arguments of `session cp`.
#[derive(Debug, Args)]
pub(in crate::cli) struct CpArgs {
    /// Files and directories: FILE… SESSION:DST, or SESSION:SRC DST; - is a tar on the standard input
    /// or output
    #[arg(value_name = "PATH", help_heading = None, num_args = 2.., required = true)]
    paths: Vec<String>,
}

/// Bytes that are on their way.
const BUFFER: usize = 1 << 18;

/// Runs `session cp`.
pub(super) async fn run(global: &Global, args: CpArgs) -> CommandResult {
    let Some((last, first)) = args.paths.split_last() else {
        return Err(Error::input(anyhow!("name what is copied, and where to")).into());
    };
    match (remote(last), first) {
        (Some((session, directory)), sources)
            if sources.iter().all(|source| remote(source).is_none()) =>
        {
            let (_, session) = found(global, session).await?;
            put(&session, sources, directory).await?;
        }
        (None, [source]) if remote(source).is_some() => {
            let (session, path) = remote(source).unwrap_or_default();
            let (_, session) = found(global, session).await?;
            get(&session, path, last).await?;
        }
        _ => {
            let error = anyhow!("files are copied into a session, or out of it");
            let hint = "write FILE… SESSION:DST, or SESSION:SRC DST";
            return Err(Error::input(error).with_hint(Some(hint.to_owned())).into());
        }
    }
    Ok(Exit::Success)
}

/// Splits `SESSION:PATH`; a path of this machine has no colon before its first slash.
fn remote(text: &str) -> Option<(&str, &str)> {
    let (session, path) = text.split_once(':')?;
    (!session.is_empty() && !session.contains('/') && !session.starts_with('.'))
        .then_some((session, path))
}

/// Tells whether a path of the session is a directory.
async fn is_directory(session: &dyn SandboxSession, path: &str) -> Result<bool, Error> {
    let request = ExecRequest::of(&["test", "-d", path]);
    let ran = crate::session::run(session, &request, Keep::Tail(0)).await.map_err(failed)?;
    Ok(ran.summary.end == ExecEnd::Exited(0))
}

async fn put(session: &dyn SandboxSession, sources: &[String], target: &str) -> Result<(), Error> {
    if sources == ["-"] {
        let (write, mut read) = tokio::io::duplex(BUFFER);
        let pack = move |to: &mut dyn Write| io::copy(&mut io::stdin(), to).map(drop);
        let put = async move { session.put(target, false, &mut read).await };
        return both(put, packing(write, pack)).await;
    }
    let into = target.ends_with('/') || is_directory(session, target).await?;
    if !into && sources.len() > 1 {
        return Err(Error::input(anyhow!("`{target}` is not a directory of the session")));
    }
    let (directory, name) = match into {
        true => (target, None),
        false => match target.rsplit_once('/') {
            Some((directory, name)) => {
                (if directory.is_empty() { "/" } else { directory }, Some(name))
            }
            None => (".", Some(target)),
        },
    };
    let mut named: Vec<(PathBuf, PathBuf)> = Vec::new();
    for source in sources {
        let path = Path::new(source);
        let own = std::fs::canonicalize(path)
            .with_context(|| format!("cannot read `{source}`"))
            .map_err(Error::input)?;
        let own = path.file_name().or(own.file_name()).unwrap_or("root".as_ref());
        named.push((path.to_owned(), name.map_or_else(|| PathBuf::from(own), PathBuf::from)));
    }
    let pack = move |to: &mut dyn Write| {
        let mut tar = tar::Builder::new(to);
        tar.follow_symlinks(false);
        for (path, name) in &named {
            let found = path.symlink_metadata()?;
            match found.is_dir() {
                true => tar.append_dir_all(name, path)?,
                false => tar.append_path_with_name(path, name)?,
            }
        }
        tar.into_inner()?.flush()
    };
    let (write, mut read) = tokio::io::duplex(BUFFER);
    // Its end of the archive goes with it: nobody packs for a copy that has failed.
    let put = async move { session.put(directory, false, &mut read).await };
    both(put, packing(write, pack)).await
}

/// Writes an archive on a thread of its own.
async fn packing(
    to: impl AsyncWrite + Send + Unpin + 'static,
    pack: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
) -> io::Result<()> {
    let mut bridge = SyncIoBridge::new(to);
    let packed = tokio::task::spawn_blocking(move || {
        pack(&mut bridge)?;
        bridge.shutdown()
    });
    packed.await.expect("packing does not panic")
}

/// Reads an archive on a thread of its own, to its end.
async fn unpacking(
    from: impl AsyncRead + Send + Unpin + 'static,
    unpack: impl FnOnce(&mut dyn Read) -> io::Result<()> + Send + 'static,
) -> io::Result<()> {
    let mut bridge = SyncIoBridge::new(from);
    let unpacked = tokio::task::spawn_blocking(move || {
        unpack(&mut bridge)?;
        io::copy(&mut bridge, &mut io::sink()).map(drop)
    });
    unpacked.await.expect("unpacking does not panic")
}

/// Waits for both ends of a copy. Where both fail, the session's words are those that count.
async fn both(
    session: impl Future<Output = Result<(), EngineError>>,
    here: impl Future<Output = io::Result<()>>,
) -> Result<(), Error> {
    let (session, here) = tokio::join!(session, here);
    match (session, here) {
        (Err(error), _) => Err(failed(error)),
        (Ok(()), Err(error)) => {
            Err(Error::environment(anyhow::Error::from(error).context("cannot copy")))
        }
        (Ok(()), Ok(())) => Ok(()),
    }
}

async fn get(session: &dyn SandboxSession, path: &str, target: &str) -> Result<(), Error> {
    let (mut write, read) = tokio::io::duplex(BUFFER);
    let got = async {
        let got = session.get(path, &mut write).await;
        drop(write);
        got
    };
    if target == "-" {
        let show = |from: &mut dyn Read| io::copy(from, &mut io::stdout().lock()).map(drop);
        return both(got, unpacking(read, show)).await;
    }
    let target = PathBuf::from(target);
    let into = target.is_dir();
    let parent = match into {
        true => target.clone(),
        false => target
            .parent()
            .filter(|parent| *parent != Path::new(""))
            .map_or(".".into(), Path::to_owned),
    };
    // Beside its place, so that it can be put there at once.
    let scratch = tempfile::Builder::new()
        .prefix(".imgforge-cp-")
        .tempdir_in(&parent)
        .with_context(|| format!("cannot write to `{}`", parent.display()))
        .map_err(Error::input)?;
    let scratch_path = scratch.path().to_owned();
    let unpack = move |from: &mut dyn Read| {
        let mut archive = tar::Archive::new(from);
        archive.set_preserve_permissions(true);
        archive.set_preserve_ownerships(false);
        archive.unpack(&scratch_path)
    };
    both(got, unpacking(read, unpack)).await?;
    let entries = std::fs::read_dir(scratch.path()).map_err(Error::environment)?;
    for entry in entries {
        let entry = entry.map_err(Error::environment)?;
        let to = if into { target.join(entry.file_name()) } else { target.clone() };
        place(&entry.path(), &to)
            .with_context(|| format!("cannot write `{}`", to.display()))
            .map_err(Error::environment)?;
    }
    Ok(())
}

/// Moves what was copied to its place. A file of that name is replaced; a directory is filled.
fn place(from: &Path, to: &Path) -> io::Result<()> {
    if !(from.symlink_metadata()?.is_dir() && to.is_dir()) {
        return std::fs::rename(from, to);
    }
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        place(&entry.path(), &to.join(entry.file_name()))?;
    }
    let mode = File::open(from)?.metadata()?.permissions();
    std::fs::set_permissions(to, mode)
}
