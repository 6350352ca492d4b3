//! Commands whose ends the caller holds: pipes, or the other end of a terminal in the container.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::{self, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::Child;
use tokio::sync::Mutex;
use tokio_util::io::ReaderStream;

use crate::engine::pipe_input::PipeInput;
use crate::engine::{
    AttachRequest, Attached, AttachedCommand, EngineError, NoLog, Output, Result, SandboxEnd,
    WindowSize,
};

use super::EmbeddedEngine;
use super::helper_client::{HelperClient, vanished};
use super::operations::OperationGuard;
use super::passing::{self, Received};
use super::protocol::{Ends, Operation, Response};
use super::terminal::{Terminal, Typing};

const ACTION: &str = "run a container";

impl EmbeddedEngine {
    pub(super) async fn attach_to(&self, request: &AttachRequest) -> Result<Attached> {
        let operation = self.begin()?;
        let origin = self.origin(&request.image)?;
        let stored = &origin.stored;
        self.unpack(stored, &NoLog).await?;
        let mut container = self.sandbox(&request.sandbox(), &origin)?;
        container.command.clone_from(&request.command);
        container.user = request.user.clone().unwrap_or_else(|| stored.config.user.clone());
        if let Some(directory) = &request.working_dir {
            container.working_dir.clone_from(directory);
        }
        container.ends = match request.terminal {
            None => Ends::Pipes,
            Some(size) => {
                // As Docker has it; one of the caller's comes later and counts.
                container.env.insert(0, "TERM=xterm".to_owned());
                Ends::Terminal(size)
            }
        };
        let has_terminal = request.terminal.is_some();
        let (ours, theirs) = UnixStream::pair().map_err(lost)?;
        ours.set_nonblocking(true).map_err(lost)?;
        let mut command = tokio::process::Command::from(self.helper_client.command(theirs));
        command.stdout(if has_terminal { Stdio::null() } else { Stdio::piped() });
        command.stderr(Stdio::piped());
        let child = command.spawn().map_err(|error| self.helper_client.not_started(error))?;
        drop(command);
        let mut socket = tokio::net::UnixStream::from_std(ours).map_err(lost)?;
        let mut text = self.helper_client.request(Operation::Run(Box::new(container)));
        for (_, bytes) in &request.files {
            text.extend_from_slice(bytes);
        }
        // Whatever it does not take, its answer says why.
        let _ = socket.write_all(&text).await;
        let under_way =
            UnderWay { helper_client: self.helper_client.clone(), child, socket, operation };
        match has_terminal {
            true => under_way.with_terminal().await,
            false => under_way.with_pipes().await,
        }
    }
}

fn lost(error: io::Error) -> EngineError {
    EngineError::Transient { action: ACTION.to_owned(), source: error.into() }
}

/// A helper that has its request.
struct UnderWay {
    helper_client: HelperClient,
    child: Child,
    socket: tokio::net::UnixStream,
    operation: OperationGuard,
}

impl UnderWay {
    async fn with_pipes(mut self) -> Result<Attached> {
        let (theirs, ours) = io::pipe().map_err(lost)?;
        let sent = self
            .socket
            .async_io(Interest::WRITABLE, || passing::send(self.socket.as_fd(), theirs.as_fd()));
        // As above.
        let _ = sent.await;
        drop(theirs);
        let input = PipeInput::new(ours).map_err(lost)?;
        let stdout = self.child.stdout.take().expect("the output is a pipe");
        let stderr = self.child.stderr.take().expect("the error output is a pipe");
        let out = ReaderStream::new(stdout).map(|piece| piece.map(Output::Out));
        let error = ReaderStream::new(stderr).map(|piece| piece.map(Output::Error));
        let output = stream::select(out, error).map(|piece| piece.map_err(lost)).boxed();
        let command = self.command(None, Vec::new());
        Ok(Attached { input: Box::new(input), output, command })
    }

    async fn with_terminal(self) -> Result<Attached> {
        let received = self
            .socket
            .async_io(Interest::READABLE, || passing::receive(self.socket.as_fd()))
            .await
            .map_err(lost)?;
        let terminal = match received {
            Received::Descriptor(terminal) => Terminal::new(terminal).map_err(lost)?,
            Received::Bytes(said) => return Err(self.command(None, said).failure().await),
            Received::End => return Err(self.command(None, Vec::new()).failure().await),
        };
        let terminal = Arc::new(terminal);
        let input = Box::new(Typing(terminal.clone()));
        let output = Terminal::output(terminal.clone());
        let command = self.command(Some(terminal), Vec::new());
        Ok(Attached { input, output, command })
    }

    fn command(self, terminal: Option<Arc<Terminal>>, said: Vec<u8>) -> Arc<Command> {
        let (read, write) = self.socket.into_split();
        Arc::new(Command {
            helper_client: self.helper_client,
            terminal,
            signals: Mutex::new(write),
            helper: Mutex::new(Helper { answer: read, said, child: self.child }),
            _operation: self.operation,
        })
    }
}

/// A command of a container. The helper ends it when this is gone.
struct Command {
    helper_client: HelperClient,
    terminal: Option<Arc<Terminal>>,
    signals: Mutex<OwnedWriteHalf>,
    helper: Mutex<Helper>,
    _operation: OperationGuard,
}

struct Helper {
    answer: OwnedReadHalf,
    /// The beginning of the answer.
    said: Vec<u8>,
    child: Child,
}

impl Command {
    /// Waits for why it did not start.
    async fn failure(&self) -> EngineError {
        match self.end().await {
            Err(error) => error,
            Ok(_) => lost(io::Error::other("the helper made no terminal")),
        }
    }
}

#[async_trait]
impl AttachedCommand for Command {
    async fn resize(&self, size: WindowSize) -> Result<()> {
        let Some(terminal) = &self.terminal else { return Ok(()) };
        terminal.resize(size).map_err(lost)
    }

    async fn signal(&self, signal: i32) -> Result<()> {
        let Ok(number) = u8::try_from(signal) else { return Ok(()) };
        match self.signals.lock().await.write_all(&[number]).await {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(lost(error)),
            _ => Ok(()),
        }
    }

    async fn end(&self) -> Result<SandboxEnd> {
        let mut helper = self.helper.lock().await;
        let Helper { answer, said, child } = &mut *helper;
        // A helper that ended before it took all of the request resets the connection behind its answer.
        let read = answer.read_to_end(said).await;
        if said.is_empty() {
            read.map_err(lost)?;
        }
        let mut words = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            let _ = stderr.read_to_string(&mut words).await;
        }
        let status = child.wait().await.map_err(lost)?;
        match self.helper_client.answer(said, &words, Some(status))? {
            Response::Ended { code, out_of_memory: true, .. } => Ok(SandboxEnd::OutOfMemory(code)),
            Response::Ended { code, killed: true, .. } => Ok(SandboxEnd::Killed(code)),
            Response::Ended { code, .. } => Ok(SandboxEnd::Exited(code)),
            Response::Failed { step, action, errno, reason } => {
                Err(self.helper_client.failure(step, action, errno, reason))
            }
            Response::Vanished => Err(vanished()),
            Response::Done => Err(lost(io::Error::other("the helper did not run it"))),
        }
    }
}
