//! Running a script to its end in a session of its own: what [`super::Runner::run_script`] is where an
//! engine has no shorter way.

use std::io;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::time::Instant;

use super::quota::LogQuota;
use super::{
    EngineError, Exec, ExecEnd, ExecRequest, LogSink, Output, Outputs, Quota, Result, SandboxEnd,
    SandboxRequest, SandboxSession, SessionEnd,
};

/// The file descriptor of the control channel of a script.
const CONTROL: i32 = 4;

/// How long what was printed may take to arrive once nothing runs any more.
const DRAIN: Duration = Duration::from_secs(20);

/// Runs a script as [`super::Runner::run_script`] promises it, in a session that was started for it by
/// [`super::SessionRequest::of_script`], and stops the session.
pub async fn run_script_in(
    session: Box<dyn SandboxSession>,
    request: &SandboxRequest,
    log: &dyn LogSink,
    control: &dyn LogSink,
) -> Result<SandboxEnd> {
    let end = run_in(&*session, request, log, control).await;
    let stopped = session.stop().await;
    let end = end?;
    stopped?;
    Ok(end)
}

async fn run_in(
    session: &dyn SandboxSession,
    request: &SandboxRequest,
    log: &dyn LogSink,
    control: &dyn LogSink,
) -> Result<SandboxEnd> {
    // The limit is that of the whole container.
    let deadline = Instant::now() + request.time_limit;
    if !request.files.is_empty() {
        let files = archive(&request.files)?;
        session.put("/", false, &mut files.as_slice()).await?;
    }
    let command = ExecRequest {
        outputs: Outputs::MergedWithControl(CONTROL),
        ..ExecRequest::shell(&format!("umask 022\n{}\n", request.command))
    };
    let Exec { mut output, handle, .. } = session.spawn(&command).await?;
    let written = LogQuota::new(&request.quotas);
    let (log, control) = (written.bound(log), written.bound(control));
    let take = |piece: Output| match piece {
        Output::Out(bytes) => log.write(&bytes),
        Output::Error(bytes) => control.write(&bytes),
    };
    let ended = handle.end();
    tokio::pin!(ended);
    let mut is_open = true;
    let ended = loop {
        tokio::select! {
            ended = &mut ended => break Some(ended?.end),
            piece = output.next(), if is_open => match piece.transpose()? {
                Some(piece) => take(piece),
                None => is_open = false,
            },
            () = tokio::time::sleep_until(deadline) => break None,
            () = written.over() => break None,
        }
    };
    // Nothing writes any more after the end of the session: the rest is all that was printed.
    let drain = async {
        while let Some(piece) = output.next().await {
            if let Ok(piece) = piece {
                take(piece);
            }
        }
    };
    let (stopped, _) = tokio::join!(session.stop(), tokio::time::timeout(DRAIN, drain));
    let stopped = stopped?;
    if written.is_over() {
        return Ok(SandboxEnd::OverQuota(Quota::Log));
    }
    let Some(ended) = ended else { return Ok(SandboxEnd::TimedOut) };
    match (ended, stopped) {
        (_, SessionEnd::OverQuota(quota)) => Ok(SandboxEnd::OverQuota(quota)),
        (ExecEnd::Exited(code), SessionEnd::OutOfMemory) | (ExecEnd::OutOfMemory(code), _) => {
            Ok(SandboxEnd::OutOfMemory(code.into()))
        }
        (ExecEnd::Exited(code), _) => Ok(SandboxEnd::Exited(code.into())),
        // By a signal of its own doing: whoever kills the session from outside ends the session.
        (ExecEnd::Signaled(signal), SessionEnd::Stopped) => {
            Ok(SandboxEnd::Exited(i64::from(128 + signal)))
        }
        (ExecEnd::SessionEnded(_) | ExecEnd::Signaled(_), SessionEnd::OutOfMemory) => {
            Ok(SandboxEnd::OutOfMemory(KILLED))
        }
        (ExecEnd::NotStarted(why), _) => {
            Err(EngineError::Refused { action: "run a script".to_owned(), reason: why.reason })
        }
        (ExecEnd::TimedOut | ExecEnd::Idle, _) => Ok(SandboxEnd::TimedOut),
        (ExecEnd::SessionEnded(_) | ExecEnd::Signaled(_), _) => Ok(SandboxEnd::Killed(KILLED)),
    }
}

/// The exit code of what was killed.
const KILLED: i64 = 128 + libc::SIGKILL as i64;

/// Makes the archive of files that root alone may read.
pub(super) fn archive(files: &[(String, Vec<u8>)]) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut write = || -> io::Result<Vec<u8>> {
        for (path, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o600);
            header.set_mtime(super::step_mounts::FILE_TIME);
            archive.append_data(&mut header, path.trim_start_matches('/'), bytes.as_slice())?;
        }
        archive.finish()?;
        Ok(std::mem::take(archive.get_mut()))
    };
    write().map_err(|error| EngineError::Refused {
        action: "write files into a container".to_owned(),
        reason: error.to_string(),
    })
}
