//! Commands of a session, by the engine's `exec`.
//!
//! The engine cannot end such a command. Each has a variable of its own in its environment, and a
//! second command kills whatever has that variable, or came of what has it, or is in its session.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bollard::errors::Error;
use bollard::exec::ResizeExecOptions;
use bollard::models::{ExecConfig, ExecInspectResponse};
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use serde_json::json;
use tokio::sync::{Notify, mpsc, watch};

use crate::engine::exec_mark::{MARK, SIGNAL};
use crate::engine::{
    Ended, EngineError, Exec, ExecEnd, ExecHandle, ExecRequest, Input, NotStarted, Output, Outputs,
    Result, SessionEnd, WindowSize,
};

use super::attach::{DETACH_KEYS, has_ended};
use super::errors::failed;
use super::frames::{frames, raw};
use super::session_container::SessionContainer;
use super::transport::NoSuccess;

/// How often the engine is asked whether a command has ended, as long as its output is open.
const POLL: Duration = Duration::from_millis(100);

/// How often, once its output has ended.
const POLL_AT_END: Duration = Duration::from_millis(5);

/// How long the engine may take to tell that the kernel killed for memory.
const MEMORY_GRACE: Duration = Duration::from_millis(500);

/// How long what was written may take to come, once the end of the command is told: the engine tells the end
/// and sends the output on two ways. It ends the output itself so long after a command that has left something
/// behind.
const OUTPUT_LAG: Duration = Duration::from_secs(2);

/// How long what a command writes first may take to come, where its end may be that it was not started.
const WORD_GRACE: Duration = Duration::from_secs(2);

/// How long the engine may take to say that a command runs.
const START_GRACE: Duration = Duration::from_secs(60);

/// The exit code of what is missing.
const MISSING: i64 = 127;

/// The exit code of what was killed.
const KILLED: i64 = 128 + libc::SIGKILL as i64;

/// Pieces of output that wait for whoever reads them.
const PIECES: usize = 16;

/// Runs a command with both of its outputs as one: the second argument is a word to say, on what was
/// the standard error, where there is no such program.
const MERGED: &str = "word=$1; shift\n\
    command -v -- \"$1\" >/dev/null 2>&1 || { printf %s \"$word\" >&2; exit 127; }\n\
    exec \"$@\" 2>&1";

/// The same, with the standard error as a further file descriptor, whose number is the third argument.
const WITH_CONTROL: &str = "word=$1; shift\n\
    command -v -- \"$2\" >/dev/null 2>&1 || { printf %s \"$word\" >&2; exit 127; }\n\
    control=$1; shift\n\
    eval \"exec $control>&2\"; exec \"$@\" 2>&1";

/// Starts a command of a session.
pub(super) async fn spawn(
    session: &Arc<SessionContainer>,
    request: &ExecRequest,
    end_of_session: watch::Receiver<Option<SessionEnd>>,
) -> std::result::Result<Exec, Error> {
    let word: Arc<str> = format!("{:032x}", rand::random::<u128>()).into();
    let mark = format!("{MARK}={word}");
    let has_input = request.input != Input::Null;
    let has_terminal = matches!(request.outputs, Outputs::Terminal(_));
    let command = match request.outputs {
        Outputs::Separate | Outputs::Terminal(_) => request.command.clone(),
        Outputs::Merged => wrapped(MERGED, &word, None, &request.command),
        Outputs::MergedWithControl(number) => {
            wrapped(WITH_CONTROL, &word, Some(number), &request.command)
        }
    };
    let mut env = session.env.clone();
    env.extend(request.variables.iter().map(|(name, value)| format!("{name}={value}")));
    env.push(mark.clone());
    let user = request.user.clone().unwrap_or_else(|| session.user.clone());
    let config = ExecConfig {
        attach_stdin: Some(has_input || has_terminal),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(has_terminal),
        detach_keys: Some(DETACH_KEYS.to_owned()),
        env: Some(env),
        cmd: Some(command),
        user: Some(user.clone()),
        working_dir: request.working_dir.clone(),
        ..ExecConfig::default()
    };
    let id = session.docker.create_exec(&session.id, config).await?.id;
    let kills_before = session.memory_kills.load(Ordering::Acquire);
    let document = json!({ "Detach": false, "Tty": has_terminal }).to_string();
    let connection = session.way.take_over(&format!("/exec/{id}/start"), document.into()).await;
    let connection = connection.map_err(|error| match error.downcast::<NoSuccess>() {
        Ok(answer) => Error::DockerResponseServerError {
            status_code: answer.status.as_u16(),
            message: answer.body,
        },
        Err(error) => Error::IOError { err: std::io::Error::other(error) },
    })?;
    let (read, write) = tokio::io::split(connection);
    let output = if has_terminal { raw(read) } else { frames(read) };
    let (send, pieces) = mpsc::channel(PIECES);
    let (tell, ended) = watch::channel(None);
    let (cancel, cancelled) = mpsc::channel::<()>(1);
    let command = Arc::new(Command {
        session: session.clone(),
        id,
        word,
        mark,
        user,
        kills_before,
        not_started: watch::channel(None).0,
        is_looked_at: AtomicBool::new(!matches!(
            request.outputs,
            Outputs::Merged | Outputs::MergedWithControl(_)
        )),
        output_ended: Notify::new(),
    });
    tokio::spawn(forward(command.clone(), output, send));
    tokio::spawn(wait_for(command.clone(), end_of_session, cancelled, tell));
    let handle = Handle { command, ended, _cancel: cancel };
    if let Outputs::Terminal(size) = request.outputs {
        // One that ended at once has no size.
        let _ = handle.resize(size).await;
    }
    let output = stream::unfold(pieces, |mut pieces| async move {
        pieces.recv().await.map(|piece| (piece, pieces))
    });
    let input = (has_input || has_terminal).then(|| Box::new(write) as _);
    Ok(Exec { input, output: output.fuse().boxed(), handle: Arc::new(handle) })
}

fn wrapped(script: &str, word: &str, number: Option<i32>, command: &[String]) -> Vec<String> {
    let mut wrapped = ["/bin/sh", "-c", script, "sh", word].map(str::to_owned).to_vec();
    wrapped.extend(number.map(|number| number.to_string()));
    wrapped.extend_from_slice(command);
    wrapped
}

/// A command under way.
struct Command {
    session: Arc<SessionContainer>,
    id: String,
    /// What says that a program is missing; nobody else knows it.
    word: Arc<str>,
    mark: String,
    user: String,
    kills_before: u64,
    /// Why it could not be started, once that is known.
    not_started: watch::Sender<Option<NotStarted>>,
    /// Whether it is known that it did not write the word.
    is_looked_at: AtomicBool,
    output_ended: Notify,
}

impl Command {
    async fn inspect(&self) -> std::result::Result<ExecInspectResponse, Error> {
        self.session.docker.inspect_exec(&self.id).await
    }

    /// Tells whether the command was started; waits until that is known.
    async fn is_started(&self) -> bool {
        loop {
            match self.inspect().await {
                Ok(found) if found.pid.is_some_and(|pid| pid > 0) => return true,
                Ok(found) if found.running == Some(false) => return false,
                Ok(_) => tokio::time::sleep(POLL_AT_END).await,
                // The session has ended, or the engine: that is told by its end.
                Err(_) => return true,
            }
        }
    }

    /// Sends a signal to the command; tells whether nothing of it is left, where that is SIGKILL.
    async fn signal(&self, signal: i32) -> std::result::Result<bool, Error> {
        let mut is_gone = true;
        // Without more capabilities not even root reads the environment of another user's process.
        let mut users = vec!["0:0", self.user.as_str()];
        users.dedup_by(|one, other| is_root(one) && is_root(other));
        let signal = signal.to_string();
        for user in users {
            let code = self.session.run_script(SIGNAL, &[&self.mark, &signal], user).await?;
            is_gone &= code == Some(0);
        }
        Ok(is_gone)
    }

    /// Kills all of it, with the session where that cannot be done otherwise.
    async fn kill(&self) -> Result<()> {
        match self.signal(libc::SIGKILL).await {
            Ok(true) => Ok(()),
            Ok(false) => self.session.kill(SessionEnd::Unkillable).await,
            Err(error) if has_ended(&error) => Ok(()),
            Err(error) => Err(failed("kill a command", error)),
        }
    }

    /// Returns how it ended.
    async fn ended(&self, code: i64) -> ExecEnd {
        if let Some(why) = self.not_started.borrow().clone() {
            return ExecEnd::NotStarted(why);
        }
        let code = i32::try_from(code).unwrap_or(255);
        let was_killed = i64::from(code) == KILLED;
        let began = tokio::time::Instant::now();
        while self.session.limits_memory
            && was_killed
            && !self.is_out_of_memory()
            && began.elapsed() < MEMORY_GRACE
        {
            tokio::time::sleep(POLL_AT_END).await;
        }
        match code {
            code if self.is_out_of_memory() => ExecEnd::OutOfMemory(code),
            // The engine does not tell a signal from a code of that number.
            code => ExecEnd::Exited(code),
        }
    }

    /// Tells whether the kernel killed something of the session for its memory since the command began.
    fn is_out_of_memory(&self) -> bool {
        self.session.memory_kills.load(Ordering::Acquire) > self.kills_before
    }

    /// Waits for the end of the session, of which this command is part. A session that lives is another
    /// thing: the engine forgets a command that it could not start for lack of memory.
    async fn end_with(
        &self,
        end_of_session: &mut watch::Receiver<Option<SessionEnd>>,
    ) -> std::result::Result<ExecEnd, String> {
        loop {
            let waited = end_of_session.wait_for(Option::is_some);
            let waited = tokio::time::timeout(WORD_GRACE, waited).await;
            match waited.map(|how| how.map(|how| how.clone())) {
                Ok(Ok(how)) => {
                    return Ok(ExecEnd::SessionEnded(how.expect("it was waited for")));
                }
                Ok(Err(_)) => return Ok(ExecEnd::SessionEnded(SessionEnd::Stopped)),
                Err(_) => {}
            }
            // Nothing can be run in it that would tell: there may be no memory for that.
            if self.session.is_running().await {
                return match self.is_out_of_memory() {
                    true => Ok(ExecEnd::OutOfMemory(128 + libc::SIGKILL)),
                    false => Err("the engine does not know it any more".to_owned()),
                };
            }
        }
    }
}

fn is_root(user: &str) -> bool {
    matches!(user.split(':').next(), Some("" | "0" | "root"))
}

/// Passes on what a command writes. What the engine writes instead of a command that it cannot start is
/// taken out.
async fn forward(
    command: Arc<Command>,
    mut output: BoxStream<'static, Result<Output>>,
    send: mpsc::Sender<Result<Output>>,
) {
    let mut first = output.next().await;
    if !command.is_started().await {
        let mut words = Vec::new();
        while let Some(Ok(Output::Out(bytes) | Output::Error(bytes))) = first {
            words.extend_from_slice(&bytes);
            first = output.next().await;
        }
        command.not_started.send_replace(Some(not_started(&String::from_utf8_lossy(&words))));
    } else if matches!(&first, Some(Ok(Output::Error(bytes))) if is_word(bytes, &command.word)) {
        let why = not_started("executable file not found in $PATH");
        command.not_started.send_replace(Some(why));
    } else {
        command.is_looked_at.store(true, Ordering::Release);
        while let Some(piece) = first {
            // Whoever does not read any more does not hold the command up.
            let _ = send.send(piece).await;
            first = output.next().await;
        }
    }
    command.output_ended.notify_one();
}

fn is_word(bytes: &Bytes, word: &str) -> bool {
    bytes.as_ref() == word.as_bytes()
}

/// Reads why the engine could not start a command.
fn not_started(words: &str) -> NotStarted {
    let reason = words.trim().to_owned();
    let errno = super::errors::start_errno(&reason);
    let program_missing = super::errors::is_program_missing(&reason);
    NotStarted { errno, reason, program_missing }
}

type Told = std::result::Result<Ended, String>;

/// Waits for the end of a command and tells it; kills it where nobody waits for that any more.
async fn wait_for(
    command: Arc<Command>,
    mut end_of_session: watch::Receiver<Option<SessionEnd>>,
    mut cancelled: mpsc::Receiver<()>,
    tell: watch::Sender<Option<Told>>,
) {
    let (mut wait, mut is_open, mut is_wanted) = (POLL, true, true);
    let (mut missing_since, mut unsaid_since) = (None, None);
    let ended = loop {
        tokio::select! {
            () = command.output_ended.notified(), if is_open => {
                (wait, is_open) = (POLL_AT_END, false);
            }
            () = tokio::time::sleep(wait) => {}
            _ = cancelled.recv(), if is_wanted => {
                is_wanted = false;
                let _ = command.kill().await;
            }
        }
        let end = match command.inspect().await {
            Ok(found) if found.running == Some(true) => continue,
            // What it wrote at once says whether it was started at all.
            Ok(found) if is_open && found.pid.is_none_or(|pid| pid == 0) => {
                let since = *unsaid_since.get_or_insert_with(Instant::now);
                if since.elapsed() < START_GRACE {
                    continue;
                }
                break Err("the engine says neither that it runs nor how it ended".to_owned());
            }
            // So it does where both outputs are one: the engine tells the code before the word has come. A
            // command of that code that is silent has left something behind, which holds its output.
            Ok(found)
                if is_open
                    && found.exit_code == Some(MISSING)
                    && !command.is_looked_at.load(Ordering::Acquire)
                    && missing_since.get_or_insert_with(Instant::now).elapsed() < WORD_GRACE =>
            {
                wait = POLL_AT_END;
                continue;
            }
            Ok(found) => found.exit_code,
            Err(error) if has_ended(&error) => None,
            Err(error) => break Err(error.to_string()),
        };
        let is_running = match end {
            // The end of the container kills it too, before the engine says that.
            Some(KILLED) => command.session.is_alive().await,
            Some(_) if command.not_started.borrow().is_some() => command.session.is_alive().await,
            Some(_) => true,
            None => false,
        };
        break match end.filter(|_| is_running) {
            Some(code) => Ok(command.ended(code).await),
            // A command whose session ended has no end of its own.
            None => command.end_with(&mut end_of_session).await,
        };
    };
    let _ = tell.send(Some(ended.map(|end| Ended { end, cpu_time: None })));
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

    async fn resize(&self, size: WindowSize) -> Result<()> {
        let options = ResizeExecOptions { height: size.rows, width: size.columns };
        match self.command.session.docker.resize_exec(&self.command.id, options).await {
            Ok(()) => Ok(()),
            Err(error) if has_ended(&error) => Ok(()),
            Err(error) => Err(failed("resize a terminal", error)),
        }
    }

    async fn signal(&self, signal: i32) -> Result<()> {
        if self.ended.borrow().is_some() {
            return Ok(());
        }
        if signal == libc::SIGKILL {
            return self.command.kill().await;
        }
        match self.command.signal(signal).await {
            Ok(_) => Ok(()),
            Err(error) if has_ended(&error) => Ok(()),
            Err(error) => Err(failed("signal a command", error)),
        }
    }

    async fn end(&self) -> Result<Ended> {
        let lost = |why: String| EngineError::Transient {
            action: "wait for a command".to_owned(),
            source: why.into(),
        };
        let mut ended = self.ended.clone();
        let told = ended.wait_for(Option::is_some).await;
        let told = told.map_err(|_| lost("nobody waits for it".to_owned()))?;
        told.clone().expect("it was waited for").map_err(lost)
    }
}
