//! Commands of a session, each by an exec of its own.
//!
//! How a command ended is taken from what the script around it says on both outputs: then all that it wrote
//! is here. Where that is missing nothing is known of the command, whatever the cluster says, and that is an
//! error and no result.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use kube::api::{AttachParams, AttachedProcess};
use kube::client::UpgradeConnectionError;
use tokio::io::AsyncReadExt as _;
use tokio::sync::{mpsc, watch};

use crate::engine::exec_mark::{MARK, SIGNAL};
use crate::engine::{
    Ended, Exec, ExecEnd, ExecHandle, ExecRequest, Input, NotStarted, Output, Result, SessionEnd,
    WindowSize,
};

use super::super::client::lost;
use super::super::pod::TESTS;
use super::PodContainer;
use super::marks::{self, Mark, Marks};
use super::script::{self, Around};

/// How long an answer to the request may take.
const ANSWER: Duration = Duration::from_secs(60);

/// How often a command is asked for where the node says that it knows no such container: nothing ran then.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);

/// How long the end of the session may take to be told, once a connection to a command is gone.
const END_GRACE: Duration = Duration::from_secs(3);

/// How long the end of an output may take to come behind the end of the command.
const OUTPUT_LAG: Duration = Duration::from_secs(1);

/// Stands for both outputs, where their numbers are 0 and 1.
const BOTH: usize = 2;

/// How long what may begin a mark is held back where nothing follows it.
const HELD: Duration = Duration::from_secs(1);

/// Pieces of output that wait for whoever reads them.
const PIECES: usize = 16;

/// What is kept of the error output of a command that could not be started, in bytes.
const SAID: usize = 4096;

const ACTION: &str = "run a command in a pod";

/// What is refused of variables.
pub(super) const ODD_NAMES: &str = "give a variable a name that no shell has";

/// Runs a command in the container of a pod; `stdin` is passed on as it comes.
pub(super) async fn attach(
    container: &PodContainer,
    command: &[String],
    stdin: bool,
) -> Result<AttachedProcess> {
    let params = AttachParams {
        container: Some(TESTS.to_owned()),
        stdin,
        stdout: true,
        stderr: true,
        max_stdin_buf_size: Some(1 << 20),
        max_stdout_buf_size: Some(1 << 20),
        max_stderr_buf_size: Some(1 << 20),
        ..AttachParams::default()
    };
    let pods = container.shared.server.pods();
    let mut pause = PAUSE;
    for left in (0..TRIES).rev() {
        let asked = pods.exec(&container.pod, command, &params);
        match tokio::time::timeout(ANSWER, asked).await {
            Ok(Ok(process)) => return Ok(process),
            Ok(Err(error)) if left > 0 && is_not_begun(&error) => {}
            Ok(Err(error)) => return Err(lost(ACTION, error.to_string())),
            Err(_) => return Err(lost(ACTION, format!("no answer for {} s", ANSWER.as_secs()))),
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    Err(lost(ACTION, "the node does not know the container"))
}

/// Tells whether the server refused to begin, for a reason that may pass.
fn is_not_begun(error: &kube::Error) -> bool {
    match error {
        kube::Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(status)) => {
            status.is_server_error() || status.as_u16() == 429
        }
        _ => false,
    }
}

/// Starts a command. With `file` its input is that file of the container.
pub(super) async fn spawn(
    container: &Arc<PodContainer>,
    request: &ExecRequest,
    file: Option<&str>,
) -> Result<Exec> {
    let Some(outputs) = script::outputs(request.outputs) else {
        return Err(container.unsupported("give a command a terminal"));
    };
    if !request.variables.keys().all(|name| script::is_name(name)) {
        return Err(container.unsupported(ODD_NAMES));
    }
    let word = marks::word();
    let mark = format!("{:032x}", rand::random::<u128>());
    let is_held = request.input == Input::Held;
    let user = request.user.clone().unwrap_or_else(|| container.user.clone());
    let around = Around {
        word: &word,
        mark: &mark,
        input: file.unwrap_or(if is_held { "=" } else { "-" }),
        user: &user,
        directory: request.working_dir.as_deref().unwrap_or(&container.directory),
        outputs: &outputs,
        variables: &request.variables,
        command: &request.command,
    };
    let mut process = attach(container, &around.words(), is_held).await?;
    let input = process.stdin().map(|input| Box::new(input) as _);
    let (send, pieces) = mpsc::channel(PIECES);
    let (tell, ended) = watch::channel(None);
    let (cancel, cancelled) = mpsc::channel(1);
    let command = Arc::new(Command {
        container: container.clone(),
        mark: format!("{MARK}={mark}"),
        user: user.clone(),
        has_ended: AtomicBool::new(false),
    });
    let attended = Attended {
        command: command.clone(),
        program: request.command.first().cloned().unwrap_or_default(),
        directory: around.directory.to_owned(),
        out: Marks::new(&word),
        error: Marks::new(&word),
        code: [None, None],
        is_started: false,
        refused: None,
        said: Vec::new(),
    };
    tokio::spawn(attended.attend(process, send, tell, cancelled));
    let handle = Handle { command, ended, _cancel: cancel };
    let output = stream::unfold(pieces, |mut pieces| async move {
        pieces.recv().await.map(|piece| (piece, pieces))
    });
    Ok(Exec { input, output: output.fuse().boxed(), handle: Arc::new(handle) })
}

/// A command under way.
struct Command {
    container: Arc<PodContainer>,
    /// What its processes have in their environment.
    mark: String,
    user: String,
    has_ended: AtomicBool,
}

impl Command {
    /// Sends a signal to the command; with `SIGKILL` nothing of it is left.
    async fn signal(&self, signal: i32) -> Result<()> {
        // Without more capabilities not even root reads the environment of another user's process.
        let mut users = vec!["", self.user.as_str()];
        users.dedup_by(|one, other| is_root(one) && is_root(other));
        for user in users {
            let request = ExecRequest {
                user: Some(user.to_owned()),
                working_dir: Some("/".to_owned()),
                ..ExecRequest::of(&["/bin/sh", "-c", SIGNAL, "sh", &self.mark, &signal.to_string()])
            };
            let run = self.container.clone().run(request).await?;
            match run.end {
                ExecEnd::Exited(0) | ExecEnd::SessionEnded(_) => {}
                _ if signal == libc::SIGKILL => {
                    self.container.kill(SessionEnd::Unkillable).await;
                    return Ok(());
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn is_root(user: &str) -> bool {
    matches!(user.split(':').next(), Some("" | "0" | "root"))
}

/// Passes on what came on an output, by its number.
async fn pass_on(send: &mpsc::Sender<Result<Output>>, which: usize, piece: Vec<u8>) {
    if piece.is_empty() {
        return;
    }
    let piece = Bytes::from(piece);
    let piece = if which == 0 { Output::Out(piece) } else { Output::Error(piece) };
    // Whoever does not read any more does not hold the command up.
    let _ = send.send(Ok(piece)).await;
}

type Told = std::result::Result<Ended, String>;

/// What is known of a command while its outputs are read.
struct Attended {
    command: Arc<Command>,
    program: String,
    directory: String,
    out: Marks,
    error: Marks,
    /// The code that each output said.
    code: [Option<i32>; 2],
    is_started: bool,
    refused: Option<String>,
    said: Vec<u8>,
}

impl Attended {
    /// Passes on what the command writes, and tells how it ended.
    async fn attend(
        mut self,
        mut process: AttachedProcess,
        send: mpsc::Sender<Result<Output>>,
        tell: watch::Sender<Option<Told>>,
        mut cancelled: mpsc::Receiver<()>,
    ) {
        let (Some(mut out), Some(mut error)) = (process.stdout(), process.stderr()) else {
            let _ = tell.send(Some(Err("the client gave no output".to_owned())));
            return;
        };
        let mut over = self.command.container.over.subscribe();
        let (mut is_open, mut is_wanted) = ([true; 2], true);
        let (mut first, mut second) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        while is_open != [false; 2] {
            let holds = self.out.holds() || self.error.holds();
            let (which, count) = tokio::select! {
                biased;
                count = out.read(&mut first), if is_open[0] => (0, count),
                count = error.read(&mut second), if is_open[1] => (1, count),
                () = tokio::time::sleep(HELD), if holds => (BOTH, Ok(0)),
                _ = cancelled.recv(), if is_wanted => {
                    is_wanted = false;
                    if tell.borrow().is_none() {
                        let command = self.command.clone();
                        tokio::spawn(async move { command.signal(libc::SIGKILL).await });
                    }
                    continue;
                }
                how = over.wait_for(Option::is_some) => {
                    let how = how.ok().and_then(|how| how.clone());
                    self.tell(&tell, Ok(ExecEnd::SessionEnded(how.unwrap_or(SessionEnd::Stopped))));
                    return;
                }
            };
            if which == BOTH {
                let held = [self.out.pass(), self.error.pass()];
                for (which, piece) in held.into_iter().enumerate() {
                    pass_on(&send, which, piece).await;
                }
                continue;
            }
            let piece = match count {
                Ok(0) | Err(_) => {
                    is_open[which] = false;
                    let marks = if which == 0 { &mut self.out } else { &mut self.error };
                    marks.finish()
                }
                Ok(count) if which == 0 => self.take(0, &first[..count]),
                Ok(count) => self.take(1, &second[..count]),
            };
            pass_on(&send, which, piece).await;
            if let Some(end) = self.end() {
                self.tell(&tell, Ok(end));
            }
        }
        if tell.borrow().is_some() {
            return;
        }
        // The pod may be gone: that is told on another way.
        let how = tokio::time::timeout(END_GRACE, over.wait_for(Option::is_some)).await;
        let how = how.ok().and_then(|how| how.ok().and_then(|how| how.clone()));
        let status = match process.take_status() {
            Some(status) => tokio::time::timeout(Duration::from_millis(100), status).await,
            None => Ok(None),
        };
        let said = match status {
            Ok(Some(status)) => status.message.unwrap_or_default(),
            _ => "without a status".to_owned(),
        };
        let end = how.map(ExecEnd::SessionEnded).ok_or_else(|| {
            format!(
                "the connection to it was lost before its end: what it did, and whether it goes on, is \
                 not known ({said})"
            )
        });
        if let Err(reason) = &end {
            // Whoever reads must not take what came for all of it.
            let _ = send.send(Err(lost(ACTION, reason.clone()))).await;
        }
        self.tell(&tell, end);
    }

    fn tell(&self, tell: &watch::Sender<Option<Told>>, end: std::result::Result<ExecEnd, String>) {
        if tell.borrow().is_none() {
            self.command.has_ended.store(true, Ordering::Release);
            tell.send_replace(Some(end.map(|end| Ended { end, cpu_time: None })));
        }
    }

    fn take(&mut self, which: usize, bytes: &[u8]) -> Vec<u8> {
        let marks = if which == 0 { &mut self.out } else { &mut self.error };
        let (written, said) = marks.take(bytes);
        for mark in said {
            match mark {
                Mark::Started => self.is_started = true,
                Mark::Code(code) => self.code[which] = Some(code),
                Mark::Refused(why) => drop(self.refused.get_or_insert(why)),
            }
        }
        if which == 1 && !self.is_started {
            let fits = SAID.saturating_sub(self.said.len()).min(written.len());
            self.said.extend_from_slice(&written[..fits]);
        }
        written
    }

    /// Returns how it ended, when that is known, with all that it wrote.
    fn end(&self) -> Option<ExecEnd> {
        let missing = |errno, reason: String, program_missing| {
            Some(ExecEnd::NotStarted(NotStarted { errno: Some(errno), reason, program_missing }))
        };
        let refused = |reason: String| {
            Some(ExecEnd::NotStarted(NotStarted { errno: None, reason, program_missing: false }))
        };
        match self.refused.as_deref() {
            Some("program") => {
                return missing(libc::ENOENT, format!("`{}` is not found", self.program), true);
            }
            Some("access") => {
                let reason = format!("`{}` cannot be executed", self.program);
                return missing(libc::EACCES, reason, false);
            }
            Some("directory") => {
                let reason = format!("there is no directory `{}`", self.directory);
                return missing(libc::ENOENT, reason, false);
            }
            Some("user") => return refused(format!("there is no user `{}`", self.command.user)),
            Some("input") => return refused("its input is gone".to_owned()),
            Some(program) => return refused(format!("the image has no `{program}`")),
            None => {}
        }
        let [Some(code), Some(same)] = self.code else { return None };
        match self.is_started && code == same {
            true => Some(ExecEnd::Exited(code)),
            false => refused(String::from_utf8_lossy(&self.said).trim().to_owned()),
        }
    }
}

/// What the caller has of a command.
struct Handle {
    command: Arc<Command>,
    ended: watch::Receiver<Option<Told>>,
    /// Its end is that of the command.
    _cancel: mpsc::Sender<()>,
}

#[async_trait]
impl ExecHandle for Handle {
    fn output_lag(&self) -> Duration {
        OUTPUT_LAG
    }

    async fn resize(&self, _: WindowSize) -> Result<()> {
        Err(self.command.container.unsupported("resize a terminal"))
    }

    async fn signal(&self, signal: i32) -> Result<()> {
        match self.command.has_ended.load(Ordering::Acquire) {
            true => Ok(()),
            false => self.command.signal(signal).await,
        }
    }

    async fn end(&self) -> Result<Ended> {
        let mut ended = self.ended.clone();
        let told = ended.wait_for(Option::is_some).await;
        let told = told.map_err(|_| lost(ACTION, "nobody waits for it"))?;
        told.clone().expect("it was waited for").map_err(|reason| lost(ACTION, reason))
    }
}
