//! `exec`: commands beside the main one.

use std::sync::{Arc, Mutex, PoisonError};

use bollard_stubs::models::{ExecConfig, ExecStartConfig};
use bytes::Bytes;
use futures_util::StreamExt as _;
use hyper::StatusCode;
use serde_json::json;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Duration, Instant, timeout_at};

use crate::engine::{
    Exec, ExecEnd, ExecHandle, ExecRequest, Input, Output as Written, Outputs, WindowSize,
};

use super::answer::{Answer, Refusal, empty, found};
use super::call::Call;
use super::command;
use super::container::{Container, window};
use super::detach::DetachKeys;
use super::hijack::{self, frame};
use super::id::new_id;
use super::output::Stream;

/// How long an output is silent before its rest is given up, once the command has ended: a process
/// that it left behind may hold it open for ever.
const SILENCE: Duration = Duration::from_millis(100);

/// How long the rest of an output may take, once the command has ended.
const DRAIN: Duration = Duration::from_secs(2);

/// A command of a container.
pub(super) struct ContainerExec {
    /// 64 hexadecimal digits.
    pub(super) id: String,
    /// Where it runs.
    pub(super) container: Arc<Container>,
    config: ExecConfig,
    state: Mutex<ExecState>,
}

#[derive(Default)]
struct ExecState {
    is_taken: bool,
    is_running: bool,
    exit_code: Option<i32>,
    process: i32,
    handle: Option<Arc<dyn ExecHandle>>,
}

impl ContainerExec {
    fn with<T>(&self, work: impl FnOnce(&mut ExecState) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn has_terminal(&self) -> bool {
        self.config.tty == Some(true)
    }

    /// Makes a command that nobody has started.
    pub(super) fn new(container: Arc<Container>, config: ExecConfig) -> ContainerExec {
        ContainerExec { id: new_id(), container, config, state: Mutex::default() }
    }

    /// Tells whether it has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.with(|state| state.exit_code.is_some())
    }

    /// Notes how it ended. From now on nobody is told that it runs.
    fn end(&self, end: &ExecEnd) {
        let (code, _) = command::exit_code(end);
        let told = [("execID", self.id.as_str()), ("exitCode", &code.to_string())];
        self.container.tell("exec_die", &told);
        self.with(|state| {
            state.is_running = false;
            state.process = 0;
            state.exit_code = Some(code);
            state.handle = None;
        });
    }

    fn request(&self, size: Option<WindowSize>) -> Result<ExecRequest, Refusal> {
        let config = &self.config;
        let text = |value: &Option<String>| value.clone().filter(|text| !text.is_empty());
        let has_terminal = self.has_terminal();
        Ok(ExecRequest {
            command: config.cmd.clone().unwrap_or_default(),
            variables: command::variables(
                config.env.as_deref().unwrap_or_default(),
                &mut Vec::new(),
            )?,
            working_dir: text(&config.working_dir),
            user: text(&config.user),
            input: match config.attach_stdin == Some(true) || has_terminal {
                true => Input::Held,
                false => Input::Null,
            },
            outputs: match has_terminal {
                true => Outputs::Terminal(
                    size.or_else(|| window(config.console_size.as_deref()))
                        .unwrap_or(WindowSize { rows: 24, columns: 80 }),
                ),
                false => Outputs::Separate,
            },
            ..ExecRequest::default()
        })
    }
}

/// Starts a command, which goes on for a while where its client breaks off, or for ever. What can be
/// refused is refused before the connection becomes a stream.
pub(super) async fn start(
    call: &mut Call,
    exec: Arc<ContainerExec>,
    patience: Option<Duration>,
) -> Answer {
    let config: ExecStartConfig = call.document().await?;
    exec.container.running(&exec.container.id)?;
    let request = exec.request(window(config.console_size.as_deref()))?;
    let keys = DetachKeys::read(exec.config.detach_keys.as_deref())?;
    let keys = exec.has_terminal().then_some(keys);
    if exec.with(|state| std::mem::replace(&mut state.is_taken, true)) {
        return Err(Refusal::conflict(format!("exec {} has been started", exec.id)));
    }
    let started = exec.container.session.spawn(&request).await?;
    let process = started.handle.process().await?;
    exec.with(|state| {
        state.is_running = process.is_some();
        state.process = process.unwrap_or(0);
        state.handle = Some(started.handle.clone());
    });
    let command = exec.config.cmd.clone().unwrap_or_default().join(" ");
    exec.container.tell(&format!("exec_start: {command}"), &[("execID", &exec.id)]);
    if config.detach == Some(true) {
        if process.is_none() {
            let ended = started.handle.end().await?;
            exec.end(&ended.end);
            return Err(Refusal::bad(words(&exec, &ended.end)));
        }
        let carried = Carried { exec, client: None, is_raw: true, patience: None };
        tokio::spawn(carried.run(started, None, None));
        return Ok(empty(StatusCode::OK));
    }
    // As in Docker the start says whether there are frames.
    let is_raw = config.tty == Some(true);
    let (response, client) = hijack::open(call, is_raw);
    let carried = Carried { exec, client: Some(client.output), is_raw, patience };
    tokio::spawn(carried.run(started, Some(client.input), keys));
    Ok(response)
}

/// A command and its client, who may leave.
struct Carried {
    exec: Arc<ContainerExec>,
    client: Option<mpsc::Sender<Bytes>>,
    is_raw: bool,
    /// How long the command may go on without a client that broke off.
    patience: Option<Duration>,
}

impl Carried {
    async fn send(&self, stream: Stream, bytes: Bytes) {
        if let Some(client) = &self.client {
            let _ = client.send(frame(self.is_raw, stream, bytes)).await;
        }
    }

    /// Carries bytes between the command and its client until the command has ended. It goes on without
    /// a client.
    async fn run(
        mut self,
        started: Exec,
        from_client: Option<mpsc::Receiver<Bytes>>,
        keys: Option<DetachKeys>,
    ) {
        let Exec { input, mut output, handle } = started;
        let (leave, mut left) = oneshot::channel();
        let fed = match (input, from_client) {
            (Some(input), Some(from_client)) => {
                Some(tokio::spawn(feed(from_client, input, keys, leave)))
            }
            _ => None,
        };
        let ended = handle.end();
        tokio::pin!(ended);
        let mut abandoned = match (self.client.clone(), self.patience) {
            (Some(client), Some(patience)) => Some(Box::pin(abandoned(client, patience))),
            _ => None,
        };
        let (mut is_open, mut may_leave) = (true, fed.is_some());
        let (mut ended_at, mut how) = (None, None);
        while is_open || how.is_none() {
            let silence = ended_at.map(|at: Instant| (at + DRAIN).min(Instant::now() + SILENCE));
            tokio::select! {
                biased;
                end = &mut ended, if how.is_none() => {
                    how = Some(end);
                    ended_at = Some(Instant::now());
                }
                leaves = &mut left, if may_leave => {
                    may_leave = false;
                    if leaves.is_ok() {
                        self.client = None;
                        abandoned = None;
                        self.exec.container.tell("exec_detach", &[("execID", &self.exec.id)]);
                    }
                }
                () = async { abandoned.as_mut().expect("it is there").await },
                    if abandoned.is_some() && how.is_none() =>
                {
                    abandoned = None;
                    let _ = handle.signal(libc::SIGKILL).await;
                }
                piece = next(&mut output, silence), if is_open => match piece {
                    Some(Some(Ok(Written::Out(bytes)))) => self.send(Stream::Out, bytes).await,
                    Some(Some(Ok(Written::Error(bytes)))) => self.send(Stream::Error, bytes).await,
                    Some(Some(Err(_)) | None) => is_open = false,
                    None => break,
                },
            }
        }
        if is_open {
            // What the command left behind may write on: nobody who reads would end it.
            tokio::spawn(async move { while output.next().await.is_some() {} });
        }
        if let Some(fed) = fed {
            fed.abort();
        }
        let end = match how {
            Some(Ok(ended)) => ended.end,
            Some(Err(_)) | None => ExecEnd::Signaled(libc::SIGKILL),
        };
        self.exec.end(&end);
        if let ExecEnd::NotStarted(_) = end {
            let text = format!("{}\r\n", words(&self.exec, &end));
            self.send(Stream::Out, text.into()).await;
        }
    }
}

/// Waits until a client has broken off, and as long as the command may go on without it.
async fn abandoned(client: mpsc::Sender<Bytes>, patience: Duration) {
    client.closed().await;
    tokio::time::sleep(patience).await;
}

/// Returns the next piece, none at the end; `None` where it does not come in time.
async fn next<S: futures_util::Stream + Unpin>(
    output: &mut S,
    until: Option<Instant>,
) -> Option<Option<S::Item>> {
    match until {
        Some(until) => timeout_at(until, output.next()).await.ok(),
        None => Some(output.next().await),
    }
}

/// Gives what the client sends to the command, and its end. A client that leaves by its keys is told of.
async fn feed(
    mut client: mpsc::Receiver<Bytes>,
    mut input: Box<dyn AsyncWrite + Send + Unpin>,
    mut keys: Option<DetachKeys>,
    leave: oneshot::Sender<()>,
) {
    while let Some(bytes) = client.recv().await {
        let (bytes, leaves) = match &mut keys {
            Some(keys) => {
                let (passed, leaves) = keys.take(&bytes);
                (Bytes::from(passed), leaves)
            }
            None => (bytes, false),
        };
        if input.write_all(&bytes).await.is_err() || input.flush().await.is_err() {
            // The command reads no more.
            return;
        }
        if leaves {
            let _ = leave.send(());
            // The input stays open: nobody is there to write to it.
            return std::future::pending().await;
        }
    }
    let _ = input.shutdown().await;
}

/// Says why a command did not start.
fn words(exec: &ContainerExec, end: &ExecEnd) -> String {
    let program = exec.config.cmd.as_ref().and_then(|words| words.first());
    let program = program.map_or("", String::as_str);
    let words = match end {
        ExecEnd::NotStarted(why) => command::not_started(why, program, exec.config.user.as_deref()),
        _ => "the session of the container has ended".to_owned(),
    };
    format!("OCI runtime exec failed: exec failed: {words}")
}

/// Describes a command.
pub(super) fn inspect(exec: &ContainerExec) -> Answer {
    let config = &exec.config;
    let words = config.cmd.clone().unwrap_or_default();
    let (is_running, exit_code, process) =
        exec.with(|state| (state.is_running, state.exit_code, state.process));
    found(&json!({
        "ID": exec.id,
        "Running": is_running,
        "ExitCode": exit_code,
        "ProcessConfig": {
            "tty": exec.has_terminal(),
            "entrypoint": words.first(),
            "arguments": words.get(1..).unwrap_or_default(),
            "privileged": false,
            "user": config.user.clone().unwrap_or_default(),
        },
        "OpenStdin": config.attach_stdin == Some(true),
        "OpenStderr": config.attach_stderr == Some(true),
        "OpenStdout": config.attach_stdout == Some(true),
        "CanRemove": exit_code.is_some(),
        "ContainerID": exec.container.id,
        "DetachKeys": "",
        // As the container sees it: clients use it for `kill` inside.
        "Pid": process,
    }))
}

/// Gives the terminal of a command another size.
pub(super) async fn resize(call: &Call, exec: &ContainerExec) -> Answer {
    let size = size(call)?;
    let handle = exec.with(|state| state.handle.clone());
    if let Some(handle) = handle {
        handle.resize(size).await?;
    }
    Ok(empty(StatusCode::OK))
}

/// Reads the size of a terminal from the parameters.
pub(super) fn size(call: &Call) -> Result<WindowSize, Refusal> {
    let (rows, columns) = (call.number("h")?, call.number("w")?);
    window(Some(&[rows.unwrap_or(0), columns.unwrap_or(0)]))
        .ok_or_else(|| Refusal::bad("a terminal has lines (`h`) and columns (`w`)"))
}
