//! Commands beside the shells, as Python's `subprocess.run` runs them.

use serde_json::{Value, json};

use crate::engine::{ExecEnd, ExecRequest, Outputs, SandboxSession};
use crate::session::{Keep, Run, run};

use super::failure::{Class, Failure};
use super::requests::{Command, Words};
use super::text::{MOST_OUTPUT, output};

/// Finds a directory; its path as a whole is printed.
const DIRECTORY: &str = r#"cd -- "$1" && pwd"#;

/// Runs a command to its end.
pub(super) async fn execute(
    session: &dyn SandboxSession,
    command: Command,
) -> Result<Value, Failure> {
    let words = words(&command)?;
    let working_dir = match &command.cwd {
        Some(path) if path.starts_with('/') => Some(path.clone()),
        Some(path) => Some(whole_path(session, path).await?),
        None => None,
    };
    let request = ExecRequest {
        command: words,
        variables: command.env.clone().unwrap_or_default(),
        working_dir,
        outputs: if command.merge_output_streams { Outputs::Merged } else { Outputs::Separate },
        time_limit: command.timeout,
        ..ExecRequest::default()
    };
    let Run { summary, out, error } = run(session, &request, Keep::HeadTail(MOST_OUTPUT)).await?;
    let (out, error) = (output(&out), output(&error));
    let code = match summary.end {
        ExecEnd::Exited(code) => code,
        // As Python has it.
        ExecEnd::Signaled(signal) => -signal,
        ExecEnd::OutOfMemory(code) => code,
        ExecEnd::TimedOut | ExecEnd::Idle => {
            let limit = command.timeout.unwrap_or_default().as_secs_f64();
            let message = format!("Timeout ({limit}s) exceeded while running command");
            let failure = Failure::raised(Class::CommandTimeout, message);
            return Err(failure.with("stdout", out).with("stderr", error));
        }
        ExecEnd::NotStarted(why) => {
            return Err(Failure::not_started(&format!("`{}`", request.command[0]), &why));
        }
        end @ ExecEnd::SessionEnded(_) => return Err(Failure::unexpected("the command", &end)),
    };
    if command.check && code != 0 {
        let words = match &command.command {
            Words::One(text) => format!("{text:?}"),
            Words::Many(words) => format!("{words:?}"),
        };
        let mut message = format!(
            "Command {words} failed with exit code {code}. Stdout:\n{out}\nStderr:\n{error}"
        );
        if !command.error_msg.is_empty() {
            message = format!("{}: {message}", command.error_msg);
        }
        let failure = Failure::raised(Class::NonZeroExitCode, message);
        return Err(failure.with("exit_code", code).with("stdout", out).with("stderr", error));
    }
    Ok(json!({ "stdout": out, "stderr": error, "exit_code": code }))
}

/// Returns the program and its arguments.
fn words(command: &Command) -> Result<Vec<String>, Failure> {
    let words = match &command.command {
        Words::One(text) => vec![text.clone()],
        Words::Many(words) => words.clone(),
    };
    if words.is_empty() {
        return Err(Failure::bad("the command has no words"));
    }
    match command.shell {
        true => Ok(["/bin/sh", "-c"].map(str::to_owned).into_iter().chain(words).collect()),
        false => Ok(words),
    }
}

/// Returns the whole path of a directory that is named from where commands start.
async fn whole_path(session: &dyn SandboxSession, path: &str) -> Result<String, Failure> {
    let request = ExecRequest::of(&["/bin/sh", "-c", DIRECTORY, "sh", path]);
    let Run { summary, out, .. } = run(session, &request, Keep::HeadTail(MOST_OUTPUT)).await?;
    match summary.end {
        ExecEnd::Exited(0) => {
            Ok(String::from_utf8_lossy(&out.bytes).trim_end_matches('\n').to_owned())
        }
        ExecEnd::Exited(_) => {
            let message = format!("`{path}` is no directory that can be entered");
            Err(Failure::raised(Class::FileNotFound, message))
        }
        end => Err(Failure::unexpected("a look at the directory", &end)),
    }
}
