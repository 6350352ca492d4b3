//! A shell of a client, from its start to its end: it does one thing after another.

use std::time::Duration;

use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::engine::ExecEnd;
use crate::session::rpc::RemoteSession;
use crate::session::{Capture, Keep, Shell, ShellEnd, ShellOptions};

use super::failure::{Class, Failure};
use super::interrupt::{Interruption, Outcome, Target, attended, observation};
use super::program::{Program, STATE, Waited};
use super::requests::{Check, CreateSession, InterruptAction, RunAction};
use super::syntax::check_syntax;
use super::text::{MOST_OUTPUT, output, shown, without_complaints};

/// How long a shell may take to tell its state, and a program that was killed to end.
const LOOK: Duration = Duration::from_secs(30);

/// A command that somebody waits for.
pub(super) struct Order {
    /// What to do.
    pub(super) action: RunAction,
    /// Who waits.
    pub(super) tell: oneshot::Sender<Outcome>,
}

/// The ends of a shell's task.
pub(super) struct Inbox {
    /// What it is to run, one after another.
    pub(super) orders: mpsc::Receiver<Order>,
    /// Interrupts of that.
    pub(super) interruptions: mpsc::Receiver<Interruption>,
}

/// Starts a shell, tells what its startup files printed, and serves it until it ends or nobody has its
/// other ends any more.
pub(super) async fn attend(
    session: RemoteSession,
    create: CreateSession,
    started: oneshot::Sender<Outcome>,
    mut inbox: Inbox,
) {
    let mut shell = match start(&session, &create).await {
        Ok((shell, output)) => {
            let document = json!({ "output": output, "session_type": "bash" });
            if started.send(Ok(document)).is_err() {
                return;
            }
            Attended { session: &session, shell, program: None, is_over: false }
        }
        Err(failure) => {
            let _ = started.send(Err(failure));
            return;
        }
    };
    while !shell.is_over {
        tokio::select! {
            order = inbox.orders.recv() => {
                let Some(Order { action, tell }) = order else { return };
                let outcome = shell.run(action, &mut inbox.interruptions).await;
                let _ = tell.send(outcome);
            }
            Some(Interruption { action, tell }) = inbox.interruptions.recv() => {
                let _ = tell.send(shell.interrupt_idle(&action).await);
            }
        }
    }
}

/// Starts a shell and sources what it is to source; returns what that printed.
async fn start<'a>(
    session: &'a RemoteSession,
    create: &CreateSession,
) -> Result<(Shell<'a>, String), Failure> {
    let options = ShellOptions { is_interactive: true, ..ShellOptions::default() };
    let mut shell = Shell::open(session, &options).await?;
    let until = Instant::now() + create.startup_timeout;
    let capture = Capture::new(Keep::HeadTail(MOST_OUTPUT));
    for path in &create.startup_source {
        // As SWE-ReX does it: `~` and variables count.
        let command = format!("source {path}");
        let left = until.saturating_duration_since(Instant::now());
        match shell.run(&command, Some(left), &capture).await? {
            ShellEnd::Exited(_) => {}
            ShellEnd::TimedOut | ShellEnd::ShellEnded(ExecEnd::TimedOut) => {
                let limit = create.startup_timeout.as_secs_f64();
                let message = format!("the startup files took longer than {limit} s: `{command}`");
                let failure = Failure::raised(Class::CommandTimeout, message);
                return Err(failure.with("output", output(&capture.finish())));
            }
            ShellEnd::ShellEnded(end) => {
                return Err(Failure::unexpected(&format!("the shell in `{command}`"), &end));
            }
        }
    }
    Ok((shell, output(&capture.finish())))
}

/// A shell that is served.
struct Attended<'a> {
    session: &'a RemoteSession,
    shell: Shell<'a>,
    /// The program that has the terminal.
    program: Option<Program>,
    is_over: bool,
}

impl Attended<'_> {
    async fn run(
        &mut self,
        action: RunAction,
        interruptions: &mut mpsc::Receiver<Interruption>,
    ) -> Outcome {
        let is_interactive = action.is_interactive_command || action.is_interactive_quit;
        if let Some(program) = &mut self.program {
            program.say(&action.command).await;
            return self.converse(&action, interruptions).await;
        }
        if !is_interactive {
            check_syntax(self.session, &action.command).await?;
        }
        if !is_interactive && action.expect.is_empty() {
            return self.run_plain(&action, interruptions).await;
        }
        let state = self.state().await?;
        self.program = Some(Program::start(self.session, &state, &action.command).await?);
        self.converse(&action, interruptions).await
    }

    /// Runs a command to its end.
    async fn run_plain(
        &mut self,
        action: &RunAction,
        interruptions: &mut mpsc::Receiver<Interruption>,
    ) -> Outcome {
        let capture = Capture::new(Keep::HeadTail(MOST_OUTPUT));
        let target = Target::Shell(self.shell.running());
        let work = self.shell.run(&action.command, action.timeout, &capture);
        let end = attended(work, &target, interruptions).await;
        let printed = without_complaints(&output(&capture.finish()), self.shell.process());
        let end = end.inspect_err(|_| self.is_over = true)?;
        self.is_over = matches!(end, ShellEnd::ShellEnded(_));
        match end {
            ShellEnd::Exited(code) => observed(action, printed, Some(code), ""),
            ShellEnd::TimedOut => Err(too_long(action, &printed, "")),
            ShellEnd::ShellEnded(ExecEnd::TimedOut) => {
                Err(too_long(action, &printed, ", and the shell had to be ended with it"))
            }
            ShellEnd::ShellEnded(end) => {
                let what = format!("the shell `{}`", action.session);
                Err(Failure::unexpected(&what, &end).with("output", printed))
            }
        }
    }

    /// Waits for what a program on a terminal answers.
    async fn converse(
        &mut self,
        action: &RunAction,
        interruptions: &mut mpsc::Receiver<Interruption>,
    ) -> Outcome {
        let Some(program) = &mut self.program else {
            return observed(action, String::new(), None, "");
        };
        let target = Target::Program(program.handle());
        let work = program.wait(&action.expect, action.timeout);
        let waited = attended(work, &target, interruptions).await;
        let is_interactive = action.is_interactive_command || action.is_interactive_quit;
        let text = |bytes: &[u8]| match is_interactive {
            true => answer_of(&shown(bytes), &action.command),
            false => shown(bytes),
        };
        match waited.inspect_err(|_| self.program = None)? {
            Waited::Matched { expected, before } => {
                let code = is_interactive.then_some(0);
                observed(action, text(&before), code, &expected)
            }
            Waited::Ended { before, end } => {
                self.program = None;
                let code = match end {
                    ExecEnd::Exited(code) | ExecEnd::OutOfMemory(code) => code,
                    ExecEnd::Signaled(signal) => 128 + signal,
                    end => return Err(Failure::unexpected("the program on the terminal", &end)),
                };
                let code = if is_interactive { 0 } else { code };
                observed(action, text(&before), Some(code), "")
            }
            Waited::Late => Err(too_long(action, "", "; the program on the terminal goes on")),
        }
    }

    /// Reads the state of the shell, for a program that takes it on.
    async fn state(&mut self) -> Result<String, Failure> {
        let capture = Capture::new(Keep::Tail(MOST_OUTPUT));
        match self.shell.run(STATE, Some(LOOK), &capture).await? {
            ShellEnd::Exited(_) => {
                Ok(String::from_utf8_lossy(&capture.finish().bytes).into_owned())
            }
            ShellEnd::TimedOut => {
                Err(Failure::raised(Class::CommandTimeout, "the shell does not tell its state"))
            }
            ShellEnd::ShellEnded(end) => {
                self.is_over = true;
                Err(Failure::unexpected("the shell", &end))
            }
        }
    }

    /// Interrupts where no command is waited for: the program on the terminal, where there is one.
    async fn interrupt_idle(&mut self, action: &InterruptAction) -> Outcome {
        let Some(program) = &mut self.program else { return Ok(observation("", Some(0), "")) };
        for _ in 0..action.n_retry {
            program.handle().signal(libc::SIGINT).await?;
            match program.wait(&action.expect, Some(action.timeout)).await? {
                Waited::Matched { expected, before } => {
                    return Ok(observation(shown(&before).trim(), Some(0), &expected));
                }
                Waited::Ended { before, .. } => {
                    self.program = None;
                    return Ok(observation(shown(&before).trim(), Some(0), ""));
                }
                Waited::Late => {}
            }
        }
        program.handle().signal(libc::SIGKILL).await?;
        let waited = program.wait(&[], Some(LOOK)).await?;
        self.program = None;
        match waited {
            Waited::Ended { before, .. } => Ok(observation(shown(&before).trim(), Some(0), "")),
            _ => Err(Failure::raised(Class::CommandTimeout, "Failed to interrupt session")),
        }
    }
}

/// Takes off what a terminal shows of the line itself.
fn answer_of(text: &str, command: &str) -> String {
    let text = text.trim_start();
    text.strip_prefix(command.trim_end_matches('\n')).unwrap_or(text).trim().to_owned()
}

/// Makes the answer of a command that ended, or printed what was waited for.
fn observed(action: &RunAction, printed: String, code: Option<i32>, matched: &str) -> Outcome {
    let code = if action.check == Check::Ignore { None } else { code };
    let failed = |class, what: String| {
        let prefix = match action.error_msg.as_str() {
            "" => String::new(),
            text => format!("{text}: "),
        };
        let message =
            format!("{prefix}Command {:?} {what}. Here is the output:\n{printed}", action.command);
        Err(Failure::raised(class, message)
            .with("output", printed.as_str())
            .with("exit_code", code))
    };
    match (action.check, code) {
        (Check::Raise, None) => {
            failed(Class::NoExitCode, "still runs: it has no exit code".to_owned())
        }
        (Check::Raise, Some(code)) if code != 0 => {
            failed(Class::NonZeroExitCode, format!("failed with exit code {code}"))
        }
        _ => Ok(observation(&printed, code, matched)),
    }
}

/// Makes the error of a command that took too long.
fn too_long(action: &RunAction, printed: &str, more: &str) -> Failure {
    let limit = action.timeout.unwrap_or_default().as_secs_f64();
    let message =
        format!("timeout after {limit} seconds while running command {:?}{more}", action.command);
    Failure::raised(Class::CommandTimeout, message).with("output", printed)
}
