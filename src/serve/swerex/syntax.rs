//! A look at a command before it runs: of one that is no bash, nothing runs.

use std::time::Duration;

use serde_json::Value;

use crate::engine::{ExecEnd, ExecRequest, Input, SandboxSession};
use crate::session::{Keep, Run, run};

use super::failure::{Class, Failure};
use super::text::{MOST_OUTPUT, output};

/// How long bash may take to look at a command.
const LOOK: Duration = Duration::from_secs(30);

/// Has bash read a command without running anything of it.
///
/// # Errors
/// [`Class::BashIncorrectSyntax`] where it is no bash.
pub(super) async fn check_syntax(
    session: &dyn SandboxSession,
    command: &str,
) -> Result<(), Failure> {
    if command.trim().is_empty() {
        return Ok(());
    }
    let request = ExecRequest {
        input: Input::Bytes(format!("{command}\n").into()),
        time_limit: Some(LOOK),
        ..ExecRequest::of(&["/bin/bash", "-n"])
    };
    let Run { summary, out, error } = run(session, &request, Keep::HeadTail(MOST_OUTPUT)).await?;
    let code = match summary.end {
        ExecEnd::Exited(0) => return Ok(()),
        ExecEnd::Exited(code) => code,
        ExecEnd::Signaled(signal) => 128 + signal,
        end => return Err(Failure::unexpected("the check of the command", &end)),
    };
    let (out, error) = (Value::from(output(&out)), output(&error));
    let message =
        format!("Error (exit code {code}) while checking bash command \n{command:?}\n{error}");
    let failure = Failure::raised(Class::BashIncorrectSyntax, message);
    Err(failure.with("bash_stdout", out).with("bash_stderr", error))
}
