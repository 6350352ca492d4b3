//! Running a command of a run: what it prints is masked, kept within bounds, and written to files.

use std::path::PathBuf;

use crate::engine::{EngineError, ExecEnd, ExecRequest, ExecSummary, LogSink, SandboxSession};
use crate::session::{Capture, Captured, Keep};

use super::report::{CommandEnd, CommandResult, Truncated};
use super::secrets::{Masked, Secrets};

/// A command to run.
pub(super) struct Order<'a> {
    /// The command, with all of its variables but those of the sandbox.
    pub request: ExecRequest,
    /// The variables of the sandbox: the command has them as well.
    pub sandbox_env: &'a std::collections::BTreeMap<String, String>,
    /// How much of each output is kept in the result, in bytes.
    pub max_output: usize,
    /// The name of its result's file, and the files of its outputs.
    pub files: Option<(String, [PathBuf; 2])>,
    /// Takes what both outputs say as well.
    pub also: Option<&'a Capture>,
}

/// A command that ran, or could not be started.
pub(super) struct Ran {
    /// Its result.
    pub result: CommandResult,
    /// How it ended.
    pub end: ExecEnd,
    /// Why a file does not have all of an output.
    pub unwritten: Option<(PathBuf, std::io::Error)>,
}

/// An output that goes to one more place.
struct Tee<'a> {
    to: Capture,
    also: Option<&'a Capture>,
}

impl LogSink for Tee<'_> {
    fn write(&self, bytes: &[u8]) {
        self.to.write(bytes);
        if let Some(also) = self.also {
            also.write(bytes);
        }
    }
}

/// Runs a command to its end.
///
/// # Errors
/// The engine failed: nothing is known of the command.
pub(super) async fn run(
    session: &dyn SandboxSession,
    order: Order<'_>,
    secrets: &Secrets,
) -> Result<Ran, EngineError> {
    let Order { request, sandbox_env, max_output, files, also } = order;
    let mut unwritten = None;
    let mut output = |index: usize| {
        let capture = || Capture::new(Keep::HeadTail(max_output));
        let Some((_, paths)) = &files else { return capture() };
        match capture().with_spill(&paths[index]) {
            Ok(capture) => capture,
            Err(error) => {
                unwritten = Some((paths[index].clone(), error));
                capture()
            }
        }
    };
    let masked = |to| Masked::new(secrets, Tee { to, also });
    let (out, error) = (masked(output(0)), masked(output(1)));
    let summary = session.exec(&request, &out, &error).await?;
    let (out, error) = (out.finish().to.finish(), error.finish().to.finish());
    let ExecSummary { end, started_at, duration, .. } = summary;
    let mut env = sandbox_env.clone();
    env.extend(request.variables.clone());
    let (kind, exit, signal) = how(&end);
    let text = |captured: &Captured| String::from_utf8_lossy(&captured.bytes).into_owned();
    let result = CommandResult {
        cmd: request.command.iter().map(|word| secrets.mask(word)).collect(),
        cwd: request.working_dir.clone().unwrap_or_default(),
        env: secrets.mask_variables(&env),
        exit,
        signal,
        end: kind,
        stdout: text(&out),
        stderr: text(&error),
        duration: duration.as_secs_f64(),
        timestamp: started_at,
        truncated: Truncated { stdout: out.dropped, stderr: error.dropped },
        log: files.as_ref().map(|(name, _)| name.clone()),
    };
    if let Some((_, paths)) = files {
        for (captured, path) in [out, error].into_iter().zip(paths) {
            if let Some(error) = captured.spill_failure {
                unwritten.get_or_insert((path, error));
            }
        }
    }
    Ok(Ran { result, end, unwritten })
}

/// Returns an end as results have it: its kind, the exit code and the signal.
fn how(end: &ExecEnd) -> (CommandEnd, Option<i32>, Option<i32>) {
    match end {
        ExecEnd::Exited(code) => (CommandEnd::Exited, Some(*code), None),
        ExecEnd::Signaled(signal) => (CommandEnd::Signaled, None, Some(*signal)),
        ExecEnd::TimedOut => (CommandEnd::TimedOut, None, None),
        ExecEnd::Idle => (CommandEnd::Idle, None, None),
        ExecEnd::OutOfMemory(code) => (CommandEnd::OutOfMemory, Some(*code), None),
        ExecEnd::NotStarted(why) => (CommandEnd::NotStarted, Some(why.code()), None),
        ExecEnd::SessionEnded(_) => (CommandEnd::SessionEnded, None, None),
    }
}
