//! Interrupts of what runs in a shell, from one attempt to the next, and at last by force.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::engine::{ExecHandle, Result as EngineResult};
use crate::session::Running;

use super::failure::{Class, Failure};
use super::requests::InterruptAction;

/// How long there is between two attempts, beside the time that each waits.
const BETWEEN: Duration = Duration::from_millis(200);

/// How long what was killed may take to be gone.
const GRACE: Duration = Duration::from_secs(2);

/// An answer of a shell.
pub(super) type Outcome = Result<Value, Failure>;

/// An interrupt that somebody waits for.
pub(super) struct Interruption {
    /// How it is done.
    pub(super) action: InterruptAction,
    /// Who waits.
    pub(super) tell: oneshot::Sender<Outcome>,
}

/// Makes the document of what a command or an interrupt gave.
pub(super) fn observation(output: &str, exit_code: Option<i32>, matched: &str) -> Value {
    json!({
        "output": output,
        "exit_code": exit_code,
        "failure_reason": "",
        "expect_string": matched,
        "session_type": "bash",
    })
}

/// What is interrupted.
pub(super) enum Target<'a> {
    /// The command of a shell.
    Shell(Running<'a>),
    /// A program on a terminal.
    Program(Arc<dyn ExecHandle>),
}

impl Target<'_> {
    /// Interrupts it as often as it is to be tried, and kills it then.
    async fn press(&self, action: &InterruptAction) -> EngineResult<()> {
        for _ in 0..action.n_retry {
            match self {
                Target::Shell(running) => running.interrupt().await?,
                Target::Program(handle) => handle.signal(libc::SIGINT).await?,
            }
            tokio::time::sleep(action.timeout + BETWEEN).await;
        }
        match self {
            Target::Shell(running) => running.kill().await?,
            Target::Program(handle) => handle.signal(libc::SIGKILL).await?,
        }
        tokio::time::sleep(GRACE).await;
        Ok(())
    }
}

/// Waits for what runs; who interrupts it meanwhile is answered when it has ended.
pub(super) async fn attended<T>(
    work: impl Future<Output = T>,
    target: &Target<'_>,
    interruptions: &mut mpsc::Receiver<Interruption>,
) -> T {
    tokio::pin!(work);
    loop {
        let Interruption { action, tell } = tokio::select! {
            biased;
            done = &mut work => return done,
            Some(interruption) = interruptions.recv() => interruption,
        };
        tokio::select! {
            biased;
            done = &mut work => {
                let _ = tell.send(Ok(observation("", Some(0), "")));
                return done;
            }
            pressed = target.press(&action) => {
                let failure = match pressed {
                    Ok(()) => Failure::raised(Class::CommandTimeout, "Failed to interrupt session"),
                    Err(error) => error.into(),
                };
                let _ = tell.send(Err(failure));
            }
        }
    }
}
