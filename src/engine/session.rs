//! Sandbox sessions: a container that lives while commands run in it, one after another or at once.
//!
//! A session is closed off from the host as the sandbox of an evaluation is, see
//! [`super::SandboxRequest`]. Its first process runs nothing of the image. The session ends with
//! [`SandboxSession::stop`], when it is dropped, and with this process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::{
    Change, Checkpoint, EngineError, EngineKind, FileStatus, LogSink, NewLimits, Output, Process,
    Quotas, Result, SandboxNetwork, SandboxRequest, SessionEnd, SessionSettings, SharedNetwork,
    Usage, WindowSize,
};

/// How long an output is silent before its rest is given up, once the command has ended: a process
/// that the command left behind may hold it open for ever.
const SILENCE: Duration = Duration::from_millis(100);

/// How long the rest of an output may take, once the command has ended.
const DRAIN: Duration = Duration::from_secs(2);

/// How long an engine may take to kill a command.
const KILL_GRACE: Duration = Duration::from_secs(30);

/// The file descriptors that can be told apart.
const CONTROLS: std::ops::RangeInclusive<i32> = 3..=9;

/// A session to start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SessionRequest {
    /// The image.
    pub image: String,
    /// Whom commands run as, `user` or `user:group`, by name or number; without it whom the image
    /// names.
    pub user: Option<String>,
    /// Bytes of memory of all processes, swap included.
    pub memory: Option<u64>,
    /// Thousandths of a processor; more than the engine has is all of them.
    pub milli_cpus: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Bounds of what may be written to files. The output of a command is bounded by its caller.
    pub quotas: Quotas,
    /// The hosts that can be reached.
    pub network: SandboxNetwork,
    /// Names that lead to loopback.
    pub loopback_names: Vec<String>,
    /// Environment variables, beside the image's. Nothing of the host's environment is passed.
    pub variables: BTreeMap<String, String>,
    /// As in [`SandboxRequest::labels`].
    pub labels: BTreeMap<String, String>,
    /// What differs from a plain session.
    pub settings: SessionSettings,
}

impl SessionRequest {
    /// A plain session on an image: without limits and without a network.
    pub fn of_image(image: &str) -> SessionRequest {
        SessionRequest {
            image: image.to_owned(),
            user: None,
            memory: None,
            milli_cpus: None,
            pids: None,
            quotas: Quotas::default(),
            network: SandboxNetwork::None,
            loopback_names: Vec::new(),
            variables: BTreeMap::new(),
            labels: BTreeMap::new(),
            settings: SessionSettings::default(),
        }
    }

    /// Returns the session that a script gets.
    pub fn of_script(request: &SandboxRequest) -> SessionRequest {
        SessionRequest {
            image: request.image.clone(),
            user: Some("0:0".to_owned()),
            memory: request.memory,
            milli_cpus: request.milli_cpus,
            pids: request.pids,
            quotas: request.quotas,
            network: request.network,
            loopback_names: request.loopback_names.clone(),
            variables: request.variables.clone(),
            labels: request.labels.clone(),
            settings: SessionSettings::default(),
        }
    }

    /// Returns the sandbox that the session is.
    pub(super) fn sandbox(&self) -> SandboxRequest {
        SandboxRequest {
            image: self.image.clone(),
            files: Vec::new(),
            command: String::new(),
            time_limit: Duration::MAX,
            memory: self.memory,
            milli_cpus: self.milli_cpus,
            pids: self.pids,
            quotas: self.quotas,
            network: self.network,
            loopback_names: self.loopback_names.clone(),
            variables: self.variables.clone(),
            labels: self.labels.clone(),
        }
    }
}

/// A command to run in a session.
#[derive(Debug, Clone, Default)]
pub struct ExecRequest {
    /// Program and arguments. A program without `/` is looked for in the `PATH` of the command.
    pub command: Vec<String>,
    /// Environment variables, beside the image's and the session's.
    pub variables: BTreeMap<String, String>,
    /// An absolute path that exists; without it the directory that the image names.
    pub working_dir: Option<String>,
    /// `user` or `user:group`, by name or number; without it the user of the session.
    pub user: Option<String>,
    /// The input of the command.
    pub input: Input,
    /// The outputs of the command.
    pub outputs: Outputs,
    /// From the start of the command; then every process of it is killed.
    pub time_limit: Option<Duration>,
    /// The longest time without output; then every process of the command is killed.
    pub idle_limit: Option<Duration>,
}

impl ExecRequest {
    /// A command of a shell, `sh -c`.
    pub fn shell(text: &str) -> ExecRequest {
        ExecRequest::of(&["/bin/sh", "-c", text])
    }

    /// A program and its arguments.
    pub fn of(command: &[&str]) -> ExecRequest {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        ExecRequest { command, ..ExecRequest::default() }
    }

    /// Refuses what no engine can start.
    pub(crate) fn check(&self) -> Result<()> {
        let variables = self.variables.iter().flat_map(|(name, value)| [name, value]);
        let others = self.working_dir.iter().chain(&self.user);
        let reason = match self.outputs {
            _ if self.command.first().is_none_or(String::is_empty) => "it has no program",
            _ if self
                .command
                .iter()
                .chain(variables)
                .chain(others)
                .any(|text| text.contains('\0')) =>
            {
                "it has a zero byte"
            }
            _ if self.variables.keys().any(|name| name.is_empty() || name.contains('=')) => {
                "a variable has no name"
            }
            Outputs::MergedWithControl(number) if !CONTROLS.contains(&number) => {
                "its control descriptor is not one of 3 to 9"
            }
            _ => return Ok(()),
        };
        let action = "start a command".to_owned();
        Err(EngineError::Refused { action, reason: reason.to_owned() })
    }
}

/// The input of a command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Input {
    /// `/dev/null`.
    #[default]
    Null,
    /// These bytes and the end; [`SandboxSession::exec`] gives them.
    Bytes(Bytes),
    /// A pipe whose other end the caller of [`SandboxSession::spawn`] holds.
    Held,
}

/// The outputs of a command.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outputs {
    /// Standard output and standard error are told apart.
    #[default]
    Separate,
    /// Both are one, in the order in which they were written.
    Merged,
    /// Both are one, and this further file descriptor, of 3 to 9, is told apart from them. Its
    /// pieces and those of the others come in no order.
    MergedWithControl(i32),
    /// A terminal of this size, which is the input as well. Docker sets the size a moment after the
    /// command has started.
    Terminal(WindowSize),
}

/// How a command of a session ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecEnd {
    /// By itself, with an exit code.
    Exited(i32),
    /// By a signal. Docker does not tell a signal from the code 128 and its number, which is
    /// [`ExecEnd::Exited`] then.
    Signaled(i32),
    /// It was killed at its time limit.
    TimedOut,
    /// It was killed because it printed nothing for too long.
    Idle,
    /// The kernel killed a process at the session's memory limit while the command ran. The code is
    /// the command's own, 128 and the signal where it was killed.
    OutOfMemory(i32),
    /// The command could not be started: nothing of it ran.
    NotStarted(NotStarted),
    /// The session ended, and the command with it.
    SessionEnded(SessionEnd),
}

/// Why a command could not be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotStarted {
    /// The system's error number, where the engine tells it.
    pub errno: Option<i32>,
    /// What is missing, in words.
    pub reason: String,
    /// Whether it is the program that was not found.
    pub program_missing: bool,
}

impl NotStarted {
    /// Returns the exit code that a shell has for it: 127 for a program that is missing, else 126.
    pub fn code(&self) -> i32 {
        if self.program_missing { 127 } else { 126 }
    }
}

/// A command of a session under way, and its ends.
pub struct Exec {
    /// Its input, for [`Input::Held`] and a terminal. Shutting it down is the end of the input, unless
    /// it is a terminal.
    pub input: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// What it writes, as it comes, until nobody can write any more: [`Output::Error`] is the standard
    /// error, or the control descriptor.
    pub output: BoxStream<'static, Result<Output>>,
    /// The command itself.
    pub handle: Arc<dyn ExecHandle>,
}

impl Exec {
    /// A command that was to be started in a session that has ended.
    pub(crate) fn of_ended(how: SessionEnd) -> Exec {
        Exec::without(ExecEnd::SessionEnded(how))
    }

    /// A command that cannot be started.
    pub(super) fn not_started(why: NotStarted) -> Exec {
        Exec::without(ExecEnd::NotStarted(why))
    }

    fn without(end: ExecEnd) -> Exec {
        let ended = Ended { end, cpu_time: None };
        Exec { input: None, output: stream::empty().boxed(), handle: Arc::new(ended) }
    }
}

#[async_trait]
impl ExecHandle for Ended {
    async fn resize(&self, _: WindowSize) -> Result<()> {
        Ok(())
    }

    async fn signal(&self, _: i32) -> Result<()> {
        Ok(())
    }

    async fn end(&self) -> Result<Ended> {
        Ok(self.clone())
    }
}

/// A command of a session under way. When it is dropped before its end, every process of the command
/// is killed.
#[async_trait]
pub trait ExecHandle: Send + Sync {
    /// Gives its terminal another size.
    async fn resize(&self, size: WindowSize) -> Result<()>;

    /// Sends a signal to the process group of the command; `SIGKILL` kills every process that came of
    /// it, whatever group or session that made its own. A signal that comes after the end is lost.
    async fn signal(&self, signal: i32) -> Result<()>;

    /// Waits for the end of the command, whose children may live on. May be called more than once.
    async fn end(&self) -> Result<Ended>;

    /// Returns how long an output may be silent, once the end of the command is told, while what was written
    /// before is still on its way. An output that ends has all of it.
    fn output_lag(&self) -> Duration {
        SILENCE
    }

    /// Returns for how long the machine that runs the command has been up, time asleep included, as
    /// `/proc/uptime` of the container says it. `None` where this process cannot know it.
    fn uptime(&self) -> Option<Duration> {
        None
    }

    /// Waits until the command runs, or has ended: the number of its process as processes of the
    /// container see it. `None` where nothing was started, or the engine does not tell it.
    async fn process(&self) -> Result<Option<i32>> {
        Ok(None)
    }
}

/// The end of a command, and what it took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// How it ended; never [`ExecEnd::TimedOut`] or [`ExecEnd::Idle`], which are limits of a caller.
    pub end: ExecEnd,
    /// The processor time of all its processes that were waited for, where the engine tells it.
    pub cpu_time: Option<Duration>,
}

/// What [`SandboxSession::exec`] tells of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecSummary {
    /// How it ended.
    pub end: ExecEnd,
    /// Whether a process that it left behind still holds an output: what that writes from now on is
    /// read and dropped.
    pub background: bool,
    /// When it was started.
    pub started_at: jiff::Timestamp,
    /// From its start to its end.
    pub duration: Duration,
    /// As in [`Ended::cpu_time`].
    pub cpu_time: Option<Duration>,
}

/// A container that commands run in.
#[async_trait]
pub trait SandboxSession: Send + Sync {
    /// Returns the name of the container, unique in its engine.
    fn id(&self) -> &str;

    /// Starts a command and gives its ends out. The limits of the request are left to the caller.
    async fn spawn(&self, request: &ExecRequest) -> Result<Exec>;

    /// Unpacks a tar to a directory of the container, with the owners, modes and times that it
    /// names. A file of the same name is replaced. Links lead nowhere but into the container.
    ///
    /// # Errors
    /// [`super::EngineError::NoSuchPath`] where the directory is not there and `make` is not set; else
    /// it is made.
    async fn put(
        &self,
        directory: &str,
        make: bool,
        tar: &mut (dyn AsyncRead + Send + Unpin),
    ) -> Result<()>;

    /// Writes the file or directory at a path as a tar. Its names begin with the last component of the
    /// path. A link at the end of the path is written as a link.
    ///
    /// # Errors
    /// [`super::EngineError::NoSuchPath`] where nothing is there.
    async fn get(&self, path: &str, tar: &mut (dyn AsyncWrite + Send + Unpin)) -> Result<()>;

    /// Returns which engine keeps it.
    fn engine(&self) -> EngineKind;

    /// Sends a signal to every process of the container at once, also to those of commands under way.
    /// With `SIGKILL` none is left when it returns, and the session lives on. `SIGSTOP` and `SIGCONT`
    /// hold all of them and let them go on.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`], as for all that follows here, where the engine cannot do it.
    async fn signal_all(&self, _signal: i32) -> Result<()> {
        Err(self.engine().without("signal all processes of a session"))
    }

    /// Lists the processes of the container, by their numbers.
    async fn processes(&self) -> Result<Vec<Process>> {
        Err(self.engine().without("list the processes of a session"))
    }

    /// Looks at a path of the container; a link at its end is not followed.
    ///
    /// # Errors
    /// [`super::EngineError::NoSuchPath`] where nothing is there.
    async fn status(&self, _path: &str) -> Result<FileStatus> {
        Err(self.engine().without("look at a path of a session"))
    }

    /// Lists the paths that differ from the image, in order.
    async fn changes(&self) -> Result<Vec<Change>> {
        Err(self.engine().without("list what changed in a session"))
    }

    /// Writes what differs from the image as the uncompressed tar of a layer. What is being written
    /// meanwhile may be in it in part: see [`SandboxSession::signal_all`]. Fractions of seconds are
    /// taken off the times of changed files.
    async fn layer(&self, _tar: &mut (dyn AsyncWrite + Send + Unpin)) -> Result<()> {
        Err(self.engine().without("write a layer of a session"))
    }

    /// Keeps what differs from the image as a checkpoint. Every process is held meanwhile, and goes on.
    /// The session stands on what it stood on before.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] also for [`SandboxSession::end_as_checkpoint`].
    async fn checkpoint(&self) -> Result<Checkpoint> {
        Err(self.engine().without("make a checkpoint of a session"))
    }

    /// Ends the session and keeps what differs from the image as a checkpoint. What was changed is not
    /// copied where the engine can do without.
    async fn end_as_checkpoint(&self) -> Result<Checkpoint> {
        let checkpoint = self.checkpoint().await?;
        self.stop().await?;
        Ok(checkpoint)
    }

    /// Connects to a port of the container's loopback, whether or not the host can reach it.
    async fn connect(&self, _port: u16) -> Result<TcpStream> {
        Err(self.engine().without("connect to a port of a session"))
    }

    /// Listens on a port of the container's loopback.
    async fn listen(&self, _port: u16) -> Result<TcpListener> {
        Err(self.engine().without("listen on a port of a session"))
    }

    /// Measures what the container uses.
    async fn usage(&self) -> Result<Usage> {
        Err(self.engine().without("measure what a session uses"))
    }

    /// Sets other limits of all processes than those that the session was started with.
    async fn set_limits(&self, _limits: &NewLimits) -> Result<()> {
        Err(self.engine().without("change the limits of a session"))
    }

    /// Returns the network of the container, for others to share: see [`super::Runner::start_in`].
    async fn network(&self) -> Result<SharedNetwork> {
        Err(self.engine().without("share the network of a session"))
    }

    /// Takes other names than those of [`SessionSettings::hosts`]; what runs finds them from now on.
    async fn set_hosts(&self, _hosts: &[(String, String)]) -> Result<()> {
        Err(self.engine().without("change the names that a session knows"))
    }

    /// Waits for the end of the session, which it does not cause.
    async fn ended(&self) -> Result<SessionEnd>;

    /// Ends the session with every process of it, and removes the container. Tells how it had ended
    /// where that was earlier. May be called more than once.
    async fn stop(&self) -> Result<SessionEnd>;

    /// Runs a command to its end. What it writes goes to `out` and `error`, see [`Outputs`]. The exec
    /// ends when its main process ends: its outputs are read until they end, or fall silent for a
    /// tenth of a second. When the future is dropped every process of the command is killed.
    async fn exec(
        &self,
        request: &ExecRequest,
        out: &dyn LogSink,
        error: &dyn LogSink,
    ) -> Result<ExecSummary> {
        let began = Began::now();
        self.spawn(request).await?.attend(request, began, out, error).await
    }
}

/// When something began.
#[derive(Debug, Clone, Copy)]
pub struct Began {
    at: jiff::Timestamp,
    instant: Instant,
}

impl Began {
    /// Now.
    pub fn now() -> Began {
        Began { at: jiff::Timestamp::now(), instant: Instant::now() }
    }
}

impl Exec {
    /// Waits for the end of the command, as [`SandboxSession::exec`] does, and holds it to the limits of
    /// its request, which count from when it `began`.
    pub async fn attend(
        self,
        request: &ExecRequest,
        began: Began,
        out: &dyn LogSink,
        error: &dyn LogSink,
    ) -> Result<ExecSummary> {
        let Began { at: started_at, instant: began } = began;
        let Exec { input, mut output, handle } = self;
        let feed = feed(input, &request.input);
        tokio::pin!(feed);
        let limit = async {
            match request.time_limit {
                Some(limit) => tokio::time::sleep_until(began + limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(limit);
        let ended = handle.end();
        tokio::pin!(ended);
        let mut reader = Reader { out, error, last: began, is_open: true };
        let (mut fed, mut cut) = (false, None);
        let ended = loop {
            let idle = async {
                match request.idle_limit {
                    Some(limit) => tokio::time::sleep_until(reader.last + limit).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                ended = &mut ended => break ended?,
                piece = output.next(), if reader.is_open => reader.take(piece)?,
                () = &mut feed, if !fed => fed = true,
                () = &mut limit => cut = Some(ExecEnd::TimedOut),
                () = idle => cut = Some(ExecEnd::Idle),
            }
            if cut.is_some() {
                handle.signal(libc::SIGKILL).await?;
                break reader.read_to(&mut output, ended, KILL_GRACE).await?;
            }
        };
        let duration = began.elapsed();
        let most = Instant::now() + DRAIN;
        while reader.is_open {
            let silence = most.min(Instant::now() + handle.output_lag());
            match tokio::time::timeout_at(silence, output.next()).await {
                Ok(piece) => reader.take(piece)?,
                Err(_) => break,
            }
        }
        let Ended { end, cpu_time } = ended;
        let background = reader.is_open;
        if background {
            // What the command left behind may write on: nobody who reads would end it.
            let mut rest = output;
            tokio::spawn(async move { while rest.next().await.is_some() {} });
        }
        let end = match (cut, end) {
            // The session took the command with it before the limit did.
            (_, end @ (ExecEnd::SessionEnded(_) | ExecEnd::NotStarted(_))) => end,
            (Some(cut), _) => cut,
            (None, end) => end,
        };
        Ok(ExecSummary { end, background, started_at, duration, cpu_time })
    }
}

/// Writes the input of a command. A command that does not read it is not at fault.
async fn feed(to: Option<Box<dyn AsyncWrite + Send + Unpin>>, input: &Input) {
    let Some(mut to) = to else { return };
    if let Input::Bytes(bytes) = input {
        let _ = to.write_all(bytes).await;
    }
    let _ = to.shutdown().await;
}

/// Passes on what a command writes.
struct Reader<'a> {
    out: &'a dyn LogSink,
    error: &'a dyn LogSink,
    /// When something came.
    last: Instant,
    is_open: bool,
}

impl Reader<'_> {
    fn take(&mut self, piece: Option<Result<Output>>) -> Result<()> {
        match piece.transpose()? {
            Some(Output::Out(bytes)) => self.out.write(&bytes),
            Some(Output::Error(bytes)) => self.error.write(&bytes),
            None => self.is_open = false,
        }
        self.last = Instant::now();
        Ok(())
    }

    /// Reads on until the command that was killed has ended.
    async fn read_to(
        &mut self,
        output: &mut BoxStream<'static, Result<Output>>,
        mut ended: std::pin::Pin<&mut (impl Future<Output = Result<Ended>> + Send)>,
        grace: Duration,
    ) -> Result<Ended> {
        let until = Instant::now() + grace;
        loop {
            tokio::select! {
                biased;
                ended = &mut ended => return ended,
                piece = output.next(), if self.is_open => self.take(piece)?,
                () = tokio::time::sleep_until(until) => {
                    let action = "kill a command of a session".to_owned();
                    let source = "it did not end".into();
                    return Err(EngineError::Transient { action, source });
                }
            }
        }
    }
}
