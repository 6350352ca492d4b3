//! Servers as processes: in the background, until a time or with another process, and ended.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::super::Error;

/// How long a server in the background may take to answer, and to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often it is looked at meanwhile.
const TICK: Duration = Duration::from_millis(20);

/// Waits so long, or for ever.
pub(super) async fn after(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

/// Opens a process whose end is waited for.
pub(super) fn watched(number: i32) -> Result<AsyncFd<OwnedFd>, Error> {
    let process = Pid::from_raw(number).ok_or_else(|| anyhow!("`{number}` is no process"));
    let opened = process.and_then(|process| {
        let pidfd = rustix::process::pidfd_open(process, PidfdFlags::empty());
        pidfd.with_context(|| format!("there is no process {number}"))
    });
    let watched = opened.and_then(|pidfd| {
        // SAFETY: an owned descriptor is the same and open as long as it lives.
        let registered = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
        registered.context("cannot wait for a process")
    });
    watched.map_err(Error::input)
}

/// Waits for the end of a process, or for ever.
pub(super) async fn ended(process: Option<AsyncFd<OwnedFd>>) {
    match process {
        Some(process) => drop(process.readable().await),
        None => std::future::pending().await,
    }
}

/// Starts imgforge with these words, without a terminal; what it says goes to a file.
pub(super) fn spawn(words: impl Iterator<Item = OsString>, log: &Path) -> Result<Child, Error> {
    let started = || -> io::Result<Child> {
        if let Some(directory) = log.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let log = std::fs::File::create(log)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // SAFETY: between fork and exec it makes one system call, and allocates nothing.
        unsafe { command.pre_exec(|| Ok(rustix::process::setsid().map(drop)?)) };
        command.spawn()
    };
    started().context("cannot start a server in the background").map_err(Error::environment)
}

/// Waits until a server in the background answers, and returns what it answers.
///
/// # Errors
/// Where it ends, with what it said, or takes too long; then it is ended.
pub(super) fn until_answers<T>(
    mut child: Child,
    log: &Path,
    answer: impl Fn() -> Option<T>,
) -> Result<T, Error> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if let Some(answer) = answer() {
            return Ok(answer);
        }
        if let Ok(Some(status)) = child.try_wait() {
            let text = std::fs::read_to_string(log).unwrap_or_default();
            let text = text.trim();
            let error = anyhow!("the server ended with {status}: {text}");
            return Err(Error::environment(error));
        }
        std::thread::sleep(TICK);
    }
    let _ = child.kill();
    Err(Error::environment(anyhow!("the server does not answer; its log is `{}`", log.display())))
}

/// Ends a server, and waits until it has ended.
pub(super) async fn terminate(process: Pid) -> Result<(), Error> {
    let told = rustix::process::kill_process(process, Signal::TERM);
    told.with_context(|| format!("cannot end process {}", process.as_raw_nonzero()))
        .map_err(Error::environment)?;
    let process = watched(process.as_raw_nonzero().get());
    let has_ended = match process {
        Ok(process) => tokio::time::timeout(PATIENCE, process.readable()).await.is_ok(),
        // It has ended already.
        Err(_) => true,
    };
    match has_ended {
        true => Ok(()),
        false => Err(Error::environment(anyhow!("the server does not end"))),
    }
}
