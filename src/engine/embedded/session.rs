//! Sessions: a helper that keeps a container, and a socket for each request to it.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use rustix::net::Shutdown;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, Interest, copy};
use tokio::net::unix::pipe;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Child;
use tokio::sync::watch;
use tokio_util::io::ReaderStream;

use crate::engine::pipe_input::PipeInput;
use crate::engine::{
    Change, Checkpoint, Ended, EngineError, EngineKind, Exec, ExecEnd, ExecHandle, ExecRequest,
    FileStatus, Input, LogSink, NewLimits, NotStarted, Output, Outputs, Process, Result,
    SandboxSession, SessionEnd, SessionRequest, SharedNetwork, Usage, WindowSize,
};
use crate::in_use::{self, InUse};

use super::EmbeddedEngine;
use super::checkpoints::{Checkpoints, Origin};
use super::helper_client::{HelperClient, vanished};
use super::operations::OperationGuard;
use super::passing::{self, Received};
use super::protocol::{
    KEEP, Network, Operation, READY, Response, SessionCommand, SessionOperation, SessionResponse,
    Status, framed,
};
use super::terminal::{Terminal, Typing};

const ACTION: &str = "keep a session";

/// How long the end of a session may take once its socket has ended.
const END_GRACE: Duration = Duration::from_secs(30);

/// Bytes of an output that are read at once.
const PIECE: usize = 1 << 16;

impl EmbeddedEngine {
    pub(super) async fn start_session(
        &self,
        request: &SessionRequest,
        network: Option<&SharedNetwork>,
        log: &dyn LogSink,
    ) -> Result<Box<dyn SandboxSession>> {
        let in_use = in_use::begin().await;
        let operation = self.begin()?;
        let origin = self.origin(&request.image)?;
        let stored = &origin.stored;
        self.unpack(stored, log).await?;
        let mut container = self.sandbox(&request.sandbox(), &origin)?;
        container.command.clear();
        container.user = request.user.clone().unwrap_or_else(|| stored.config.user.clone());
        if let Some(directory) = &request.settings.working_dir {
            container.working_dir.clone_from(directory);
        }
        container.settings = request.settings.clone();
        if network.is_some() {
            container.network = Network::Shared;
        }
        let name = container.root.scratch.file_name().unwrap_or_default();
        let id = name.to_string_lossy().into_owned();
        let (ours, theirs) = UnixStream::pair().map_err(lost)?;
        ours.set_nonblocking(true).map_err(lost)?;
        let mut command = tokio::process::Command::from(self.helper_client.command(theirs));
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|error| self.helper_client.not_started(error))?;
        drop(command);
        let mut socket = tokio::net::UnixStream::from_std(ours).map_err(lost)?;
        let text = self.helper_client.request(Operation::Session(Box::new(container)));
        // Whatever it does not take, its answer says why.
        let _ = socket.write_all(&text).await;
        for namespace in network.into_iter().flat_map(SharedNetwork::namespaces) {
            let send = || passing::send(&socket, namespace);
            let _ = socket.async_io(Interest::WRITABLE, send).await;
        }
        let mut first = [0];
        let count = socket.read(&mut first).await.map_err(lost)?;
        let helper = Helper { client: self.helper_client.clone(), child, _operation: operation };
        if first[..count] != [READY] {
            return Err(match helper.answer(&socket, first[..count].to_vec()).await {
                Err(error) => error,
                Ok(_) => lost(io::Error::other("the helper did not keep it")),
            });
        }
        for warning in warnings(&mut socket).await.map_err(lost)? {
            log.write(format!("warning: {warning}\n").as_bytes());
        }
        let socket = Arc::new(socket);
        let is_stopped = Arc::new(AtomicBool::new(false));
        let (tell, outcome) = watch::channel(None);
        tokio::spawn(watch_over(helper, socket.clone(), is_stopped.clone(), tell));
        let checkpoints = self.checkpoints.clone();
        Ok(Box::new(Session {
            id,
            socket,
            is_stopped,
            outcome,
            origin,
            checkpoints,
            _in_use: in_use,
        }))
    }
}

/// Reads the limits that could not be set, which follow [`READY`].
async fn warnings(socket: &mut tokio::net::UnixStream) -> io::Result<Vec<String>> {
    let mut line = Vec::new();
    // What follows it is not read: there is none yet, and later it comes with descriptors.
    loop {
        match socket.read_u8().await? {
            b'\n' => return Ok(serde_json::from_slice(&line)?),
            byte => line.push(byte),
        }
    }
}

fn lost(error: io::Error) -> EngineError {
    EngineError::Transient { action: ACTION.to_owned(), source: error.into() }
}

/// How a session ended, or why that is not known.
#[derive(Clone)]
enum Outcome {
    Ended(SessionEnd),
    Broken(String),
}

impl Outcome {
    fn result(self) -> Result<SessionEnd> {
        match self {
            Outcome::Ended(end) => Ok(end),
            Outcome::Broken(reason) => Err(lost(io::Error::other(reason))),
        }
    }
}

/// The helper of a session.
struct Helper {
    client: HelperClient,
    child: Child,
    _operation: OperationGuard,
}

impl Helper {
    /// Reads the answer to its end; `said` is its beginning.
    async fn answer(
        mut self,
        socket: &tokio::net::UnixStream,
        mut said: Vec<u8>,
    ) -> Result<Response> {
        let read = read_to_end(socket, &mut said).await;
        if said.is_empty() {
            read.map_err(lost)?;
        }
        let mut words = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            let _ = stderr.read_to_string(&mut words).await;
        }
        let status = self.child.wait().await.map_err(lost)?;
        match self.client.answer(&said, &words, Some(status))? {
            Response::Failed { step, action, errno, reason } => {
                Err(self.client.failure(step, action, errno, reason))
            }
            Response::Vanished => Err(vanished()),
            answer => Ok(answer),
        }
    }
}

/// Reads without taking the socket, which others write to.
async fn read_to_end(socket: &tokio::net::UnixStream, into: &mut Vec<u8>) -> io::Result<()> {
    read_on(socket, into, |_| ()).await
}

/// Reads to the end, and looks at what came meanwhile.
async fn read_on(
    socket: &tokio::net::UnixStream,
    into: &mut Vec<u8>,
    look: impl Fn(&mut Vec<u8>),
) -> io::Result<()> {
    look(into);
    let mut buffer = [0; 4096];
    loop {
        let count = socket
            .async_io(Interest::READABLE, || Ok(rustix::io::read(socket, &mut buffer)?))
            .await?;
        if count == 0 {
            return Ok(());
        }
        into.extend_from_slice(&buffer[..count]);
        look(into);
    }
}

/// Waits for the end of a session and tells it.
async fn watch_over(
    helper: Helper,
    socket: Arc<tokio::net::UnixStream>,
    is_stopped: Arc<AtomicBool>,
    tell: watch::Sender<Option<Outcome>>,
) {
    let outcome = match helper.answer(&socket, Vec::new()).await {
        Ok(Response::Ended { over: Some(quota), .. }) => {
            Outcome::Ended(SessionEnd::OverQuota(quota))
        }
        Ok(Response::Ended { out_of_memory: true, .. }) => Outcome::Ended(SessionEnd::OutOfMemory),
        Ok(Response::Ended { unkillable: true, .. }) => Outcome::Ended(SessionEnd::Unkillable),
        Ok(Response::Ended { .. }) if is_stopped.load(Ordering::Acquire) => {
            Outcome::Ended(SessionEnd::Stopped)
        }
        Ok(Response::Ended { .. }) => Outcome::Ended(SessionEnd::Killed),
        Ok(_) => Outcome::Broken("the helper did not keep it".to_owned()),
        Err(error) => Outcome::Broken(words(&error)),
    };
    let _ = tell.send(Some(outcome));
}

/// Says an error with its causes.
fn words(error: &EngineError) -> String {
    crate::causes::in_one_line(error)
}

/// A session of this process.
struct Session {
    id: String,
    socket: Arc<tokio::net::UnixStream>,
    is_stopped: Arc<AtomicBool>,
    outcome: watch::Receiver<Option<Outcome>>,
    origin: Origin,
    checkpoints: Checkpoints,
    _in_use: InUse,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end();
    }
}

impl Session {
    /// Turns away: the helper ends the container then.
    fn end(&self) {
        if self.outcome.borrow().is_none() {
            self.is_stopped.store(true, Ordering::Release);
        }
        let _ = rustix::net::shutdown(&*self.socket, Shutdown::Write);
    }

    /// Does as [`request`].
    async fn request(
        &self,
        operation: &SessionOperation,
        descriptors: &[OwnedFd],
    ) -> Result<Option<tokio::net::UnixStream>> {
        request(&self.socket, operation, descriptors).await
    }

    /// Makes the error of a request that has no answer.
    async fn ended(&self) -> EngineError {
        match end_or_loss(&self.socket, &mut self.outcome.clone()).await {
            Ok(how) => EngineError::SessionEnded { session: self.id.clone(), how },
            Err(error) => error,
        }
    }

    /// Passes on what a request writes to a pipe.
    async fn read(
        &self,
        operation: SessionOperation,
        path: &str,
        tar: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<()> {
        let (read, write) = io::pipe().map_err(lost)?;
        let Some(socket) = self.request(&operation, &[write.into()]).await? else {
            return Err(self.ended().await);
        };
        let mut read = pipe::Receiver::from_owned_fd(read.into()).map_err(lost)?;
        let copied = copy(&mut read, tar).await;
        copied.map_err(|source| EngineError::Refused {
            action: "write an archive".to_owned(),
            reason: source.to_string(),
        })?;
        self.copied(&socket, path).await
    }

    /// Reads the answer to a copy.
    async fn copied(&self, socket: &tokio::net::UnixStream, path: &str) -> Result<()> {
        match self.answer(socket, path).await? {
            SessionResponse::Done => Ok(()),
            _ => Err(something_else()),
        }
    }

    /// Reads the answer to a request that may be about a path.
    async fn answer(&self, socket: &tokio::net::UnixStream, path: &str) -> Result<SessionResponse> {
        match response(socket).await? {
            Some(SessionResponse::NoSuchPath) => {
                Err(EngineError::NoSuchPath { path: path.to_owned() })
            }
            Some(SessionResponse::Failed { action, errno, reason }) => {
                Err(failure(action, errno, reason))
            }
            Some(answer) => Ok(answer),
            None => Err(self.ended().await),
        }
    }

    /// Takes a file descriptor that a request is answered with.
    async fn descriptor(&self, socket: &tokio::net::UnixStream) -> Result<OwnedFd> {
        let said = match take_descriptor(socket).await? {
            Ok(descriptor) => return Ok(descriptor),
            Err(said) => said,
        };
        Err(match serde_json::from_slice(&said) {
            Ok(SessionResponse::Failed { action, errno, reason }) => failure(action, errno, reason),
            _ => self.ended().await,
        })
    }

    /// Sends a request for a socket of the container, and takes that.
    async fn socket_of(&self, operation: &SessionOperation) -> Result<OwnedFd> {
        match self.request(operation, &[]).await? {
            Some(socket) => self.descriptor(&socket).await,
            None => Err(self.ended().await),
        }
    }

    /// Sends a request that needs nothing more, and reads its answer.
    async fn ask(&self, operation: &SessionOperation, path: &str) -> Result<SessionResponse> {
        match self.request(operation, &[]).await? {
            Some(socket) => self.answer(&socket, path).await,
            None => Err(self.ended().await),
        }
    }
}

fn something_else() -> EngineError {
    lost(io::Error::other("the helper answered something else"))
}

/// Sends a request over a socket of its own, with what it needs; `None` where the session has ended.
async fn request(
    session: &tokio::net::UnixStream,
    operation: &SessionOperation,
    descriptors: &[OwnedFd],
) -> Result<Option<tokio::net::UnixStream>> {
    let (ours, theirs) = UnixStream::pair().map_err(lost)?;
    let sent =
        session.async_io(Interest::WRITABLE, || passing::send(session, theirs.as_fd())).await;
    drop(theirs);
    match sent {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(None),
        Err(error) => return Err(lost(error)),
    }
    ours.set_nonblocking(true).map_err(lost)?;
    let mut socket = tokio::net::UnixStream::from_std(ours).map_err(lost)?;
    // Whatever is not taken, the answer says why, or the end of the session.
    let _ = socket.write_all(&framed(operation)).await;
    for descriptor in descriptors {
        let send = || passing::send(&socket, descriptor.as_fd());
        let _ = socket.async_io(Interest::WRITABLE, send).await;
    }
    Ok(Some(socket))
}

/// Says how a session ended that did not answer a request.
///
/// # Errors
/// Where it lives: then somebody killed the process that served the request.
async fn end_or_loss(
    session: &tokio::net::UnixStream,
    outcome: &mut watch::Receiver<Option<Outcome>>,
) -> Result<SessionEnd> {
    let answers = async {
        let root = SessionOperation::Status { path: "/".to_owned() };
        match request(session, &root, &[]).await {
            Ok(Some(socket)) => matches!(response(&socket).await, Ok(Some(_))),
            _ => false,
        }
    };
    tokio::select! {
        biased;
        true = answers => {
            Err(lost(io::Error::other("the process that served the request was killed")))
        }
        end = end_of(outcome) => end,
    }
}

/// Waits for how a session ended.
async fn end_of(outcome: &mut watch::Receiver<Option<Outcome>>) -> Result<SessionEnd> {
    let waited = tokio::time::timeout(END_GRACE, outcome.wait_for(Option::is_some)).await;
    match waited {
        Ok(Ok(outcome)) => outcome.clone().expect("it was waited for").result(),
        Ok(Err(_)) => Err(lost(io::Error::other("nobody watches over it"))),
        Err(_) => Err(lost(io::Error::other("its helper does not end"))),
    }
}

/// Reads the answer to a request; `None` where the session ended.
async fn response(socket: &tokio::net::UnixStream) -> Result<Option<SessionResponse>> {
    let mut text = Vec::new();
    let read = read_to_end(socket, &mut text).await;
    if text.is_empty() {
        return match read {
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => Err(lost(error)),
            _ => Ok(None),
        };
    }
    let answer = serde_json::from_slice(&text);
    answer.map(Some).map_err(|error| lost(io::Error::other(error)))
}

fn failure(action: String, errno: Option<i32>, reason: String) -> EngineError {
    match errno {
        Some(number) if crate::disk::is_full(&io::Error::from_raw_os_error(number)) => {
            EngineError::NoSpace { action }
        }
        Some(libc::EAGAIN | libc::ENOMEM) => {
            EngineError::Transient { action, source: reason.into() }
        }
        _ => EngineError::Refused { action, reason },
    }
}

#[async_trait]
impl SandboxSession for Session {
    fn id(&self) -> &str {
        &self.id
    }

    fn engine(&self) -> EngineKind {
        EngineKind::Embedded
    }

    async fn spawn(&self, request: &ExecRequest) -> Result<Exec> {
        request.check()?;
        let mut ends = Ends::default();
        let output = ends.outputs(request.outputs)?;
        let has_terminal = matches!(request.outputs, Outputs::Terminal(_));
        let input = match request.input {
            Input::Null => None,
            _ if has_terminal => None,
            Input::Bytes(_) | Input::Held => Some(ends.input()?),
        };
        let mut env: Vec<String> =
            request.variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if has_terminal {
            // As Docker has it; one of the caller's counts.
            env.insert(0, "TERM=xterm".to_owned());
        }
        let command = SessionCommand {
            command: request.command.clone(),
            env,
            working_dir: request.working_dir.clone(),
            user: request.user.clone(),
            has_input: input.is_some(),
            outputs: request.outputs,
        };
        let operation = SessionOperation::Exec(Box::new(command));
        let Some(socket) = self.request(&operation, &ends.theirs).await? else {
            return Ok(Exec::of_ended(end_of(&mut self.outcome.clone()).await?));
        };
        drop(ends);
        let socket = Arc::new(socket);
        let (input, output, terminal, said) = match has_terminal {
            false => (input.map(|input| Box::new(input) as _), output, None, Vec::new()),
            true => match take_terminal(&socket).await? {
                Ok(terminal) => {
                    let input = Box::new(Typing(terminal.clone())) as _;
                    (Some(input), Terminal::output(terminal.clone()), Some(terminal), Vec::new())
                }
                // It was not started, as the answer says that begins so.
                Err(said) => (None, stream::empty().boxed(), None, said),
            },
        };
        let (tell, ended) = watch::channel(None);
        let (tell_started, started) = watch::channel(None);
        let tell = Tell { started: tell_started, ended: tell };
        let session = (self.socket.clone(), self.outcome.clone());
        tokio::spawn(wait_for(socket.clone(), said, session, tell));
        let handle = Arc::new(Handle { socket, terminal, started, ended });
        Ok(Exec { input, output, handle })
    }

    async fn put(
        &self,
        directory: &str,
        make: bool,
        tar: &mut (dyn AsyncRead + Send + Unpin),
    ) -> Result<()> {
        let operation = SessionOperation::Put { directory: directory.to_owned(), make };
        let Some(mut socket) = self.request(&operation, &[]).await? else {
            return Err(self.ended().await);
        };
        let mut buffer = vec![0; PIECE];
        loop {
            let count = tar.read(&mut buffer).await.map_err(|source| EngineError::Refused {
                action: "read an archive".to_owned(),
                reason: source.to_string(),
            })?;
            // Whatever it does not take, its answer says why.
            if count == 0 || socket.write_all(&buffer[..count]).await.is_err() {
                break;
            }
        }
        let _ = socket.shutdown().await;
        self.copied(&socket, directory).await
    }

    async fn get(&self, path: &str, tar: &mut (dyn AsyncWrite + Send + Unpin)) -> Result<()> {
        self.read(SessionOperation::Get { path: path.to_owned() }, path, tar).await
    }

    async fn layer(&self, tar: &mut (dyn AsyncWrite + Send + Unpin)) -> Result<()> {
        self.read(SessionOperation::Layer, "/", tar).await
    }

    async fn signal_all(&self, signal: i32) -> Result<()> {
        match self.ask(&SessionOperation::SignalAll { signal }, "").await? {
            SessionResponse::Done => Ok(()),
            _ => Err(something_else()),
        }
    }

    async fn processes(&self) -> Result<Vec<Process>> {
        match self.ask(&SessionOperation::Processes, "").await? {
            SessionResponse::Processes(found) => Ok(found),
            _ => Err(something_else()),
        }
    }

    async fn status(&self, path: &str) -> Result<FileStatus> {
        let operation = SessionOperation::Status { path: path.to_owned() };
        match self.ask(&operation, path).await? {
            SessionResponse::Status(found) => Ok(found),
            _ => Err(something_else()),
        }
    }

    async fn changes(&self) -> Result<Vec<Change>> {
        match self.ask(&SessionOperation::Changes, "").await? {
            SessionResponse::Changes(found) => Ok(found),
            _ => Err(something_else()),
        }
    }

    async fn connect(&self, port: u16) -> Result<TcpStream> {
        let connected = self.socket_of(&SessionOperation::Connect { port }).await?;
        let connected = std::net::TcpStream::from(connected);
        connected.set_nonblocking(true).map_err(lost)?;
        TcpStream::from_std(connected).map_err(lost)
    }

    async fn listen(&self, port: u16) -> Result<TcpListener> {
        let listening = self.socket_of(&SessionOperation::Listen { port }).await?;
        let listening = std::net::TcpListener::from(listening);
        listening.set_nonblocking(true).map_err(lost)?;
        TcpListener::from_std(listening).map_err(lost)
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        let mut making = self.checkpoints.begin(&self.origin)?;
        let (inner, aside) = self.checkpoints.aside()?;
        let layer = std::mem::take(&mut making.layer);
        let answer = self.ask(&SessionOperation::Checkpoint { aside: inner, layer }, "").await;
        if matches!(answer, Err(EngineError::Transient { .. })) {
            // Whoever held the processes may have been killed over it.
            let _ = self.signal_all(libc::SIGCONT).await;
        }
        tokio::task::block_in_place(|| {
            self.checkpoints.remove_aside(&aside);
            match answer? {
                SessionResponse::Done => self.checkpoints.finish(making),
                _ => Err(something_else()),
            }
        })
    }

    async fn end_as_checkpoint(&self) -> Result<Checkpoint> {
        let mut making = self.checkpoints.begin(&self.origin)?;
        let written = self
            .socket
            .async_io(Interest::WRITABLE, || Ok(rustix::io::write(&*self.socket, &[KEEP])?))
            .await;
        if written.is_err() {
            return Err(self.ended().await);
        }
        let how = self.stop().await?;
        if how != SessionEnd::Stopped {
            let (session, how) = (self.id.clone(), how);
            return Err(EngineError::SessionEnded { session, how });
        }
        let layer = std::mem::take(&mut making.layer);
        tokio::task::block_in_place(|| {
            self.checkpoints.take(&self.id, layer)?;
            self.checkpoints.finish(making)
        })
    }

    async fn usage(&self) -> Result<Usage> {
        match self.ask(&SessionOperation::Usage, "").await? {
            SessionResponse::Usage(used) => Ok(used),
            _ => Err(something_else()),
        }
    }

    async fn set_limits(&self, limits: &NewLimits) -> Result<()> {
        match self.ask(&SessionOperation::Limit { limits: limits.clone() }, "").await? {
            SessionResponse::Done => Ok(()),
            _ => Err(something_else()),
        }
    }

    async fn network(&self) -> Result<SharedNetwork> {
        let Some(socket) = self.request(&SessionOperation::Network, &[]).await? else {
            return Err(self.ended().await);
        };
        let user = self.descriptor(&socket).await?;
        Ok(SharedNetwork::of(user, self.descriptor(&socket).await?))
    }

    async fn set_hosts(&self, hosts: &[(String, String)]) -> Result<()> {
        match self.ask(&SessionOperation::Hosts { hosts: hosts.to_vec() }, "").await? {
            SessionResponse::Done => Ok(()),
            _ => Err(something_else()),
        }
    }

    async fn ended(&self) -> Result<SessionEnd> {
        match self.outcome.clone().wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().expect("it was waited for").result(),
            Err(_) => Err(lost(io::Error::other("nobody watches over it"))),
        }
    }

    async fn stop(&self) -> Result<SessionEnd> {
        self.end();
        end_of(&mut self.outcome.clone()).await
    }
}

/// Takes a file descriptor, or the beginning of the answer.
async fn take_descriptor(
    socket: &tokio::net::UnixStream,
) -> Result<std::result::Result<OwnedFd, Vec<u8>>> {
    let received = socket
        .async_io(Interest::READABLE, || passing::receive(socket.as_fd()))
        .await
        .map_err(lost)?;
    Ok(match received {
        Received::Descriptor(descriptor) => Ok(descriptor),
        Received::Bytes(said) => Err(said),
        Received::End => Err(Vec::new()),
    })
}

/// Takes the other end of a terminal, or the beginning of the answer.
async fn take_terminal(
    socket: &tokio::net::UnixStream,
) -> Result<std::result::Result<Arc<Terminal>, Vec<u8>>> {
    Ok(match take_descriptor(socket).await? {
        Ok(terminal) => Ok(Arc::new(Terminal::new(terminal).map_err(lost)?)),
        Err(said) => Err(said),
    })
}

/// The ends of a command that it gets.
#[derive(Default)]
struct Ends {
    theirs: Vec<OwnedFd>,
}

impl Ends {
    /// Makes the input, which is the first.
    fn input(&mut self) -> Result<PipeInput> {
        let (theirs, ours) = io::pipe().map_err(lost)?;
        self.theirs.insert(0, theirs.into());
        PipeInput::new(ours).map_err(lost)
    }

    /// Makes the outputs, and returns what comes of them.
    fn outputs(&mut self, outputs: Outputs) -> Result<BoxStream<'static, Result<Output>>> {
        Ok(match outputs {
            Outputs::Terminal(_) => stream::empty().boxed(),
            Outputs::Merged => self.output(Output::Out)?,
            Outputs::Separate | Outputs::MergedWithControl(_) => {
                let out = self.output(Output::Out)?;
                stream::select(out, self.output(Output::Error)?).boxed()
            }
        })
    }

    fn output(
        &mut self,
        kind: fn(bytes::Bytes) -> Output,
    ) -> Result<BoxStream<'static, Result<Output>>> {
        let (ours, theirs) = io::pipe().map_err(lost)?;
        self.theirs.push(theirs.into());
        let ours = pipe::Receiver::from_owned_fd(ours.into()).map_err(lost)?;
        let pieces = ReaderStream::with_capacity(ours, PIECE);
        Ok(pieces.map(move |piece| piece.map(kind).map_err(lost)).boxed())
    }
}

/// How a command ended, or why that is not known.
type Told = std::result::Result<Ended, String>;

/// Whom it is told how a command goes.
struct Tell {
    /// The number of its process.
    started: watch::Sender<Option<i32>>,
    ended: watch::Sender<Option<Told>>,
}

impl Tell {
    /// Takes what is said first off the answer, once it is whole, where the command runs.
    fn take_started(&self, said: &mut Vec<u8>) {
        if self.started.borrow().is_some() {
            return;
        }
        let mut documents = serde_json::Deserializer::from_slice(said).into_iter();
        if let Some(Ok(SessionResponse::Started { process })) = documents.next() {
            let length = documents.byte_offset();
            said.drain(..length);
            let _ = self.started.send(Some(process));
        }
    }
}

/// Waits for the end of a command and tells it.
async fn wait_for(
    socket: Arc<tokio::net::UnixStream>,
    mut said: Vec<u8>,
    (session, mut outcome): (Arc<tokio::net::UnixStream>, watch::Receiver<Option<Outcome>>),
    tell: Tell,
) {
    let read = read_on(&socket, &mut said, |said| tell.take_started(said)).await;
    let ended = match (said.is_empty(), read) {
        (true, Err(error)) if error.kind() != io::ErrorKind::ConnectionReset => {
            Err(error.to_string())
        }
        (true, _) => match end_or_loss(&session, &mut outcome).await {
            Ok(how) => Ok(Ended { end: ExecEnd::SessionEnded(how), cpu_time: None }),
            Err(error) => Err(words(&error)),
        },
        (false, _) => match serde_json::from_slice(&said) {
            Ok(answer) => ended(answer),
            Err(error) => Err(error.to_string()),
        },
    };
    let _ = tell.ended.send(Some(ended));
}

fn ended(answer: SessionResponse) -> Told {
    Ok(match answer {
        SessionResponse::Exited { status, out_of_memory, cpu_micros } => {
            let end = match (status, out_of_memory) {
                (Status::Code(code), true) => ExecEnd::OutOfMemory(code),
                (Status::Signal(signal), true) => ExecEnd::OutOfMemory(128 + signal),
                (Status::Code(code), false) => ExecEnd::Exited(code),
                (Status::Signal(signal), false) => ExecEnd::Signaled(signal),
            };
            Ended { end, cpu_time: Some(Duration::from_micros(cpu_micros)) }
        }
        SessionResponse::NotStarted { errno, reason, program_missing } => {
            let why = NotStarted { errno, reason, program_missing };
            Ended { end: ExecEnd::NotStarted(why), cpu_time: None }
        }
        SessionResponse::Failed { action, reason, .. } => {
            return Err(format!("cannot {action}: {reason}"));
        }
        _ => {
            return Err("the helper answered something else".to_owned());
        }
    })
}

/// A command under way.
struct Handle {
    socket: Arc<tokio::net::UnixStream>,
    terminal: Option<Arc<Terminal>>,
    started: watch::Receiver<Option<i32>>,
    ended: watch::Receiver<Option<Told>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(&*self.socket, Shutdown::Write);
    }
}

#[async_trait]
impl ExecHandle for Handle {
    async fn resize(&self, size: WindowSize) -> Result<()> {
        match &self.terminal {
            Some(terminal) => terminal.resize(size).map_err(lost),
            None => Ok(()),
        }
    }

    async fn signal(&self, signal: i32) -> Result<()> {
        let Ok(number) = u8::try_from(signal) else { return Ok(()) };
        let write = || Ok(rustix::io::write(&*self.socket, &[number])?);
        match self.socket.async_io(Interest::WRITABLE, write).await {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(lost(error)),
            _ => Ok(()),
        }
    }

    async fn end(&self) -> Result<Ended> {
        let mut ended = self.ended.clone();
        let told = ended.wait_for(Option::is_some).await;
        let told = told.map_err(|_| lost(io::Error::other("nobody waits for the command")))?;
        let told = told.clone().expect("it was waited for");
        told.map_err(|reason| lost(io::Error::other(reason)))
    }

    fn uptime(&self) -> Option<Duration> {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::try_from(now).ok()
    }

    async fn process(&self) -> Result<Option<i32>> {
        // Where it ended without a start, nobody tells one any more.
        let mut started = self.started.clone();
        let told = started.wait_for(Option::is_some).await;
        Ok(told.map_or(None, |process| *process))
    }
}
