//! Asking the helper: starting it, sending its task, taking what it writes and its answer.

use std::io::{self, Read, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use crate::disk;
use crate::engine::quota::LogQuota;
use crate::engine::{Confinement, EngineError, LogSink, Quota, Result};

use super::helper::ARGUMENT;
use super::protocol::{Container, Identity, Operation, Request, Response, Step, framed};

/// The name that a helper, and the first process of a container, is known by.
const NAME: &str = "imgforge";

/// How long a container that was killed may take to end.
const KILL_GRACE: Duration = Duration::from_secs(30);

/// The exit code of what could not be started: of a loader that lacks a library, and of the system
/// library where it cannot tell the error, as under an emulator.
const NOT_STARTED: i32 = 127;

/// Starts helpers.
#[derive(Debug, Clone)]
pub(super) struct HelperClient {
    /// The program that becomes a helper when it is asked to.
    pub program: PathBuf,
    /// Who it is.
    pub identity: Identity,
    /// The file with what was found out about this machine.
    pub findings: PathBuf,
}

/// How a container ended.
pub(super) struct Ended {
    pub code: i64,
    pub out_of_memory: bool,
    pub timed_out: bool,
    pub killed: bool,
    pub over: Option<Quota>,
    pub warnings: Vec<String>,
}

impl HelperClient {
    pub(super) fn command(&self, socket: UnixStream) -> Command {
        let mut command = Command::new(&self.program);
        // A container reads the arguments of its first process: no path of the host is one.
        command.arg0(NAME).arg(ARGUMENT).stdin(Stdio::from(OwnedFd::from(socket)));
        // What a terminal or a supervisor sends to our whole group is ours to answer: what runs may end.
        command.process_group(0);
        command
    }

    /// Starts a helper that does nothing until this process ends, or drops what is returned.
    pub(super) fn wait_with_us(&self) -> io::Result<(UnixStream, Child)> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = self.command(theirs);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Ok((ours, command.spawn()?))
    }

    pub(super) fn request(&self, work: Operation) -> Vec<u8> {
        framed(&Request { identity: self.identity.clone(), work })
    }

    pub(super) fn not_started(&self, error: io::Error) -> EngineError {
        let action = format!("start the helper `{}`", self.program.display());
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOMEM) => {
                EngineError::Transient { action, source: error.into() }
            }
            _ => EngineError::Refused { action, reason: error.to_string() },
        }
    }

    /// Reads the answer of a helper that ended.
    pub(super) fn answer(
        &self,
        text: &[u8],
        words: &str,
        status: Option<ExitStatus>,
    ) -> Result<Response> {
        if let Ok(answer) = serde_json::from_slice(text) {
            return Ok(answer);
        }
        let words = words.trim();
        if text.is_empty() && status.and_then(|status| status.code()) == Some(NOT_STARTED) {
            let because = if words.is_empty() { "it cannot be executed here" } else { words };
            return Err(self.not_started(io::Error::other(because)));
        }
        let source = match (words, status) {
            ("", Some(status)) => format!("it ended without an answer ({status})").into(),
            ("", None) => "it ended without an answer".into(),
            (words, _) => words.to_owned().into(),
        };
        let action = "hear from the helper of the embedded engine".to_owned();
        Err(EngineError::Transient { action, source })
    }

    /// Makes the error of what a helper could not do. A refused container means that what was found
    /// out about this machine does not hold any more.
    pub(super) fn failure(
        &self,
        step: Option<Step>,
        action: String,
        errno: Option<i32>,
        reason: String,
    ) -> EngineError {
        if let Some(confinement) = step.and_then(|step| Confinement::find(step, errno)) {
            let _ = std::fs::remove_file(&self.findings);
            return EngineError::Confined { action, reason, confinement };
        }
        match errno {
            Some(number) if disk::is_full(&io::Error::from_raw_os_error(number)) => {
                EngineError::NoSpace { action }
            }
            Some(libc::EAGAIN | libc::ENOMEM) => {
                EngineError::Transient { action, source: reason.into() }
            }
            _ => EngineError::Refused { action, reason },
        }
    }

    /// Asks for something that takes bytes (`input`) and gives bytes (to `output`). Blocks.
    pub(super) fn call(
        &self,
        work: Operation,
        input: Option<&mut dyn Read>,
        output: Option<&mut dyn io::Write>,
    ) -> Result<()> {
        let (mut ours, theirs) = UnixStream::pair().map_err(|error| self.not_started(error))?;
        let mut command = self.command(theirs);
        let writes = output.is_some();
        command.stdout(if writes { Stdio::piped() } else { Stdio::null() }).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| self.not_started(error))?;
        drop(command);
        let sent = ours.write_all(&self.request(work));
        // Whatever it does not take, its answer says why; what cannot be given is our failure.
        let mut failed = None;
        if sent.is_ok()
            && let Some(input) = input
        {
            failed = pass_on(input, &mut ours).err();
        }
        if failed.is_some() {
            // It must not take the end of the input for the end of the archive.
            let _ = child.kill();
        }
        if !writes || failed.is_some() {
            let _ = ours.shutdown(std::net::Shutdown::Write);
        }
        if let Some(output) = output
            && let Some(stdout) = &mut child.stdout
            && let Err(error) = io::copy(stdout, output)
        {
            failed = Some(error);
            let _ = child.kill();
        }
        let mut text = Vec::new();
        let _ = ours.read_to_end(&mut text);
        let mut words = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            let _ = stderr.read_to_string(&mut words);
        }
        let status = child.wait();
        if let Some(error) = failed {
            let action = "keep a layer".to_owned();
            return Err(match disk::is_full(&error) {
                true => EngineError::NoSpace { action },
                false => EngineError::Refused { action, reason: error.to_string() },
            });
        }
        match self.answer(&text, &words, status.ok())? {
            Response::Failed { step, action, errno, reason } => {
                Err(self.failure(step, action, errno, reason))
            }
            Response::Vanished => Err(vanished()),
            Response::Done | Response::Ended { .. } => Ok(()),
        }
    }

    /// Runs a container; what it prints goes to `log`, and what it writes to file descriptor 4 to
    /// `control`. When the future is dropped the helper kills it and cleans up.
    pub(super) async fn run(
        &self,
        container: Container,
        files: &[(String, Vec<u8>)],
        time_limit: Option<Duration>,
        log: &dyn LogSink,
        control: Option<&dyn LogSink>,
    ) -> Result<Ended> {
        let deadline = time_limit.map(|limit| Instant::now() + limit);
        let written = LogQuota::new(&container.quotas);
        let lost = |error: io::Error| EngineError::Transient {
            action: "run a container".to_owned(),
            source: error.into(),
        };
        let (ours, theirs) = UnixStream::pair().map_err(lost)?;
        ours.set_nonblocking(true).map_err(lost)?;
        let mut command = tokio::process::Command::from(self.command(theirs));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| self.not_started(error))?;
        drop(command);
        let mut socket = tokio::net::UnixStream::from_std(ours).map_err(lost)?;
        let mut request = self.request(Operation::Run(Box::new(container)));
        for (_, bytes) in files {
            request.extend_from_slice(bytes);
        }
        // Whatever it does not take, its answer says why.
        let _ = socket.write_all(&request).await;
        let mut stdout = child.stdout.take().expect("the output is a pipe");
        let mut stderr = child.stderr.take().expect("the error output is a pipe");
        let words = Words::default();
        let log = written.bound(log);
        let control = written.bound(control.unwrap_or(&words as &dyn LogSink));
        let both = async {
            let (out, err) = tokio::join!(copy(&mut stdout, &log), copy(&mut stderr, &control));
            out.and(err)
        };
        let mut both = Box::pin(both);
        let limit = async {
            match deadline {
                None => std::future::pending().await,
                Some(deadline) => tokio::time::sleep_until(deadline).await,
            }
        };
        let mut timed_out = false;
        let ended = tokio::select! {
            ended = both.as_mut() => Some(ended),
            () = limit => {
                timed_out = true;
                None
            }
            () = written.over() => None,
        };
        match ended {
            Some(ended) => ended.map_err(lost)?,
            None => {
                socket.shutdown().await.map_err(lost)?;
                // What was printed until then.
                let _ = tokio::time::timeout(KILL_GRACE, both.as_mut()).await;
            }
        }
        drop(both);
        let mut text = Vec::new();
        // A helper that ended before it took all of the request resets the connection behind its answer.
        let read = socket.read_to_end(&mut text).await;
        if text.is_empty() {
            read.map_err(lost)?;
        }
        let status = child.wait().await.map_err(lost)?;
        let words = words.0.into_inner().expect("no holder panics");
        match self.answer(&text, &String::from_utf8_lossy(&words), Some(status))? {
            Response::Ended { code, out_of_memory, killed, over, warnings, .. } => {
                let over = written.is_over().then_some(Quota::Log).or(over);
                Ok(Ended { code, out_of_memory, timed_out, killed, over, warnings })
            }
            Response::Failed { step, action, errno, reason } => {
                Err(self.failure(step, action, errno, reason))
            }
            Response::Vanished => Err(vanished()),
            Response::Done => Err(lost(io::Error::other("the helper did not run it"))),
        }
    }
}

/// The failure of what ran in a tree that is not there any more.
pub(super) fn vanished() -> EngineError {
    EngineError::Transient {
        action: "run a container".to_owned(),
        source: "its files were taken away while it ran".into(),
    }
}

#[derive(Default)]
struct Words(std::sync::Mutex<Vec<u8>>);

impl LogSink for Words {
    fn write(&self, bytes: &[u8]) {
        self.0.lock().expect("no holder panics").extend_from_slice(bytes);
    }
}

async fn copy(from: &mut (impl tokio::io::AsyncRead + Unpin), to: &dyn LogSink) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match from.read(&mut buffer).await? {
            0 => return Ok(()),
            count => to.write(&buffer[..count]),
        }
    }
}

/// Copies until the end. An end that the reader made is not a failure of ours.
fn pass_on(from: &mut dyn Read, to: &mut UnixStream) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 18];
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 || to.write_all(&buffer[..count]).is_err() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_helper_that_cannot_be_executed_is_not_waited_for_again() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let ask = |program: &[u8]| {
            let path = dir.path().join("helper");
            std::fs::write(&path, program).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            let findings = dir.path().join("findings");
            let helper_client = HelperClient { program: path, identity: Identity::Root, findings };
            let error = helper_client
                .call(Operation::Remove { paths: Vec::new() }, None, None)
                .unwrap_err();
            (error.is_transient(), format!("{error:?}"))
        };
        for (program, reason) in [
            (b"\x7fELF of another machine".as_slice(), "Exec format error"),
            (b"#!/bin/sh\necho no libx.so >&2; exit 127", "no libx.so"),
            (b"#!/bin/sh\nexit 127", "cannot be executed here"),
        ] {
            let (transient, words) = ask(program);
            assert!(!transient && words.contains("start the helper"), "{words}");
            assert!(words.contains(reason), "{words}");
        }
        let (transient, words) = ask(b"#!/bin/sh\nkill -9 $$");
        assert!(transient && words.contains("signal: 9"), "{words}");
    }
}
