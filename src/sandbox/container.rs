//! The sandbox: one session, checked when it starts, and how commands end in it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::engine::{
    Began, Engine, EngineError, ExecEnd, ExecRequest, Output, SandboxSession, SessionEnd,
};
use crate::quote::shell_quote;
use crate::session::{self, Capture, Captured, Keep, Kept, OfHost, Warnings};

use super::commands::{self, DEFAULT_PATH, NotAllowed};
use super::error::SandboxError;
use super::files;
use super::isolation::{self, ONE_USER, PROBE};
use super::limits::Limits;
use super::results::ExecResult;
use super::settings::{GIT_CONFIG, HOME, OWN, OWNER, Settings, USER, WORKSPACE};

/// Takes what a command prints, as it comes. Whoever does not take it holds the command up, and not its
/// time limit.
pub type Live = mpsc::Sender<Output>;

/// How long the engine may take to kill a command at its time limit, before the whole container ends.
const GRACE: Duration = Duration::from_secs(1);

/// How long a step of setting up may take.
pub(super) const STEP_LIMIT: Duration = Duration::from_secs(60);

/// How long it may take to kill what a command left behind.
const SWEEP_LIMIT: Duration = Duration::from_secs(5);

/// What a command of ours prints is kept up to this length, in bytes.
const WORDS: usize = 1 << 20;

/// A sandbox. It ends with [`Sandbox::stop`], at a time limit, and when it is dropped.
pub struct Sandbox {
    kept: Arc<Kept>,
    pub(super) limits: Limits,
    pub(super) time_limit: Duration,
    unenforced: Vec<String>,
    /// Directories of `PATH` that the user cannot write to.
    path: Vec<String>,
    /// Where commands start.
    pub(super) directory: &'static str,
    has_ended: Arc<AtomicBool>,
}

/// A command that ran in a sandbox.
pub(super) struct Ran {
    /// How it ended: at the time limit [`ExecEnd::TimedOut`], even where the container ended for it. Of
    /// [`ExecEnd::SessionEnded`] there is [`SessionEnd::OutOfMemory`] alone.
    pub end: ExecEnd,
    pub out: Captured,
    pub error: Captured,
    pub duration: Duration,
}

impl Ran {
    /// Tells whether a process was killed for memory.
    pub(super) fn is_out_of_memory(&self) -> bool {
        matches!(self.end, ExecEnd::OutOfMemory(_) | ExecEnd::SessionEnded(_))
    }

    /// Returns the standard output, what is not UTF-8 replaced.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.out.bytes).into_owned()
    }
}

impl Sandbox {
    /// Starts a sandbox and checks that it keeps what it promises. `scratch` is an existing directory of
    /// this machine for its files, which has to stay as long as the sandbox.
    ///
    /// # Errors
    /// [`SandboxError::Unenforced`] where a limit is not enforced, unless the settings allow that; then
    /// nothing of the caller has run.
    pub async fn start(
        engine: Arc<dyn Engine>,
        settings: &Settings,
        host: &OfHost,
        scratch: &Path,
    ) -> Result<Sandbox, SandboxError> {
        let warnings = Warnings::default();
        let started = session::start(engine, &settings.order(), host, scratch, &warnings).await;
        let mut sandbox = Sandbox {
            kept: started.map_err(SandboxError::Start)?.kept,
            limits: settings.limits.clone(),
            time_limit: settings.time_limit,
            unenforced: Vec::new(),
            path: DEFAULT_PATH.map(str::to_owned).to_vec(),
            directory: WORKSPACE,
            has_ended: Arc::default(),
        };
        match sandbox.set_up(&warnings.list(), settings.unenforced).await {
            Ok(()) => Ok(sandbox),
            Err(error) => {
                // Nothing runs in it. That it cannot be set up is what is told.
                let _ = sandbox.stop().await;
                Err(error)
            }
        }
    }

    async fn set_up(&mut self, warnings: &[String], unenforced: bool) -> Result<(), SandboxError> {
        let engine = self.session().engine();
        let probed = self.step(PROBE, "0:0").await?;
        let wrong = isolation::unenforced(engine, &probed, warnings, &self.limits);
        if !wrong.is_empty() && !unenforced {
            return Err(SandboxError::Unenforced { wrong });
        }
        self.unenforced = wrong;
        let inside = format!(
            "set -e; chown {USER} {WORKSPACE}; mkdir -m 755 {OWN}/inside; mkdir -m 700 {OWN}/results"
        );
        self.step(&inside, "0:0").await?;
        // As the user: its home is its own.
        self.step(&format!("mkdir -m 700 {HOME}"), USER).await?;
        let session = self.session();
        let git_config = GIT_CONFIG.as_bytes();
        files::write(&*session, &format!("{OWN}/gitconfig"), git_config, 0).await?;
        // git before 2.32 reads no other file for the system.
        files::write(&*session, &format!("{HOME}/.gitconfig"), git_config, OWNER).await?;
        let path = self.step("printf %s \"$PATH\"", USER).await?;
        let is_writable =
            |path: &str| [WORKSPACE, "/tmp", "/dev"].iter().any(|own| path.starts_with(own));
        let path = path.split(':').filter(|path| path.starts_with('/') && !is_writable(path));
        self.path = path.map(str::to_owned).collect();
        Ok(())
    }

    /// Runs a script of our own, which has to succeed; returns what it prints.
    async fn step(&self, script: &str, user: &str) -> Result<String, SandboxError> {
        let request = ExecRequest { user: Some(user.to_owned()), ..ExecRequest::shell(script) };
        let ran = self.exec_of_ours(request).await?;
        if ran.end == ExecEnd::Exited(0) {
            return Ok(ran.text());
        }
        let said = String::from_utf8_lossy(&ran.error.bytes).trim().to_owned();
        let said = match (&ran.end, said.is_empty()) {
            (ExecEnd::NotStarted(why), _) => why.reason.clone(),
            (_, false) => said,
            (end, true) => format!("a script of it ended so: {end:?}"),
        };
        Err(SandboxError::SetUp { said })
    }

    /// Runs a command of our own in `/`.
    pub(super) async fn exec_of_ours(&self, request: ExecRequest) -> Result<Ran, SandboxError> {
        let request = ExecRequest {
            working_dir: Some("/".to_owned()),
            time_limit: Some(STEP_LIMIT),
            ..request
        };
        let ran = session::run(&*self.session(), &request, Keep::Tail(WORDS)).await?;
        let session::Run { summary, out, error } = ran;
        match summary.end {
            ExecEnd::SessionEnded(how) => Err(ended(&how)),
            end => Ok(Ran { end, out, error, duration: summary.duration }),
        }
    }

    /// Names what the sandbox does not enforce, in sentences.
    pub fn unenforced(&self) -> &[String] {
        &self.unenforced
    }

    /// Tells whether the tests have a user of their own, from whom something can be kept.
    pub(super) fn has_users(&self) -> bool {
        !self.unenforced.iter().any(|wrong| wrong == ONE_USER)
    }

    pub(super) fn session(&self) -> Arc<dyn SandboxSession> {
        self.kept.now()
    }

    /// Tells whether it has ended: at a time limit, or because what ran could not be killed otherwise.
    pub fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }

    /// Ends it with all that runs in it. May be called more than once.
    pub async fn stop(&self) -> Result<(), EngineError> {
        self.has_ended.store(true, Ordering::Release);
        self.session().stop().await.map(drop)
    }

    /// Checks the first word of a command, as far as that can be done without a sandbox.
    pub fn check_program(command: &[String]) -> Result<(), NotAllowed> {
        let directory = command.first().and_then(|program| program.rsplit_once('/'));
        let directory = directory.map(|(directory, _)| match directory {
            "" => "/".to_owned(),
            directory => directory.to_owned(),
        });
        commands::check(command, directory.as_slice())
    }

    /// Runs a program of [`ALLOWED_COMMANDS`](super::ALLOWED_COMMANDS) in the repository, or in the workspace
    /// where there is none. Its input is empty. What it leaves in the background is killed when it ends. At
    /// the time limit the whole sandbox ends.
    pub async fn run(
        &self,
        command: &[String],
        live: Option<Live>,
    ) -> Result<ExecResult, SandboxError> {
        commands::check(command, &self.path)?;
        let request = ExecRequest { command: command.to_vec(), ..ExecRequest::default() };
        let shown: Vec<String> = command.iter().map(|word| shell_quote(word)).collect();
        let ran = self.attempt(request, live).await?;
        self.settle(&ran).await?;
        Ok(self.told(shown.join(" "), &ran))
    }

    /// Runs a command within the time limit. What runs at the limit is killed; where that takes too long
    /// the container ends.
    pub(super) async fn attempt(
        &self,
        request: ExecRequest,
        live: Option<Live>,
    ) -> Result<Ran, SandboxError> {
        if self.has_ended() {
            return Err(SandboxError::Ended { why: "it was ended before".to_owned() });
        }
        let working_dir = request.working_dir.clone().or(Some(self.directory.to_owned()));
        let limit = self.time_limit;
        let request = ExecRequest { time_limit: Some(limit), working_dir, ..request };
        let (out, error) = (Capture::new(Keep::default()), Capture::new(Keep::default()));
        let session = self.session();
        // A fork bomb makes processes faster than they can be killed one by one.
        let (watched, has_ended) = (session.clone(), self.has_ended.clone());
        let watch = tokio::spawn(async move {
            tokio::time::sleep(limit + GRACE).await;
            has_ended.store(true, Ordering::Release);
            let _ = watched.stop().await;
        });
        let began = Instant::now();
        let ran = async {
            let mut exec = session.spawn(&request).await?;
            if let Some(live) = live {
                exec.output = exec.output.then(move |piece| forwarded(piece, live.clone())).boxed();
            }
            exec.attend(&request, Began::now(), &out, &error).await
        };
        let ran = ran.await;
        watch.abort();
        let elapsed = began.elapsed();
        let is_over = elapsed >= limit;
        let (end, duration) = match ran {
            Ok(summary) => match summary.end {
                // It was ended for that.
                ExecEnd::SessionEnded(_) if is_over => (ExecEnd::TimedOut, elapsed),
                end => (end, summary.duration),
            },
            Err(_) if is_over => (ExecEnd::TimedOut, elapsed),
            Err(error) => return Err(error.into()),
        };
        let ran = Ran { end, out: out.finish(), error: error.finish(), duration };
        match &ran.end {
            ExecEnd::SessionEnded(SessionEnd::OutOfMemory) => {
                self.has_ended.store(true, Ordering::Release);
                Ok(ran)
            }
            ExecEnd::SessionEnded(how) => Err(ended(how)),
            _ => Ok(ran),
        }
    }

    /// Ends the sandbox after a time limit; else kills what a command left behind.
    pub(super) async fn settle(&self, ran: &Ran) -> Result<(), SandboxError> {
        match ran.end {
            ExecEnd::TimedOut => Ok(self.stop().await?),
            ExecEnd::SessionEnded(_) => Ok(()),
            _ => self.sweep().await,
        }
    }

    /// Kills all that runs. Where that fails the whole sandbox ends.
    async fn sweep(&self) -> Result<(), SandboxError> {
        let session = self.session();
        let swept = tokio::time::timeout(SWEEP_LIMIT, async {
            match session.signal_all(libc::SIGKILL).await {
                Err(EngineError::Unsupported { .. }) => {
                    let request = ExecRequest::shell("kill -9 -1; :");
                    matches!(self.exec_of_ours(request).await, Ok(ran) if ran.end == ExecEnd::Exited(0))
                }
                swept => swept.is_ok(),
            }
        });
        match swept.await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Ok(self.stop().await?),
        }
    }

    /// Makes the result of a command.
    pub(super) fn told(&self, command: String, ran: &Ran) -> ExecResult {
        let mut stderr = String::from_utf8_lossy(&ran.error.bytes).into_owned();
        let returncode = match &ran.end {
            ExecEnd::Exited(code) | ExecEnd::OutOfMemory(code) => *code,
            ExecEnd::Signaled(signal) => 128 + signal,
            ExecEnd::NotStarted(why) => {
                stderr.push_str(&why.reason);
                why.code()
            }
            ExecEnd::SessionEnded(_) => 128 + libc::SIGKILL,
            ExecEnd::TimedOut | ExecEnd::Idle => {
                if !stderr.is_empty() && !stderr.ends_with('\n') {
                    stderr.push('\n');
                }
                stderr.push_str(&format!("TIMEOUT after {}s", self.time_limit.as_secs_f64()));
                -1
            }
        };
        ExecResult {
            command,
            returncode,
            stdout: ran.text(),
            stderr,
            elapsed_seconds: ran.duration.as_secs_f64(),
            timed_out: ran.end == ExecEnd::TimedOut,
            out_of_memory: ran.is_out_of_memory(),
            truncated: ran.out.dropped > 0 || ran.error.dropped > 0,
        }
    }
}

/// Hands a piece of output on.
async fn forwarded(piece: Result<Output, EngineError>, live: Live) -> Result<Output, EngineError> {
    if let Ok(piece) = &piece {
        // Whoever does not listen any more misses nothing.
        let _ = live.send(piece.clone()).await;
    }
    piece
}

/// Makes the error of a sandbox that has ended.
fn ended(how: &SessionEnd) -> SandboxError {
    SandboxError::Ended { why: how.reason().into_owned() }
}
