//! `imgforge session shell`.

use clap::Args;

use crate::engine::{ExecRequest, Input, Outputs};

use super::super::attach::{self, Signals};
use super::super::help::heading;
use super::super::look::SHELL;
use super::super::{CommandResult, Error, Global};
use super::exec::{attend, exit_of, lost};
use super::{failed, found};

/// Arguments of `session shell`.
#[derive(Debug, Args)]
#[command(next_help_heading = heading::RUN)]
pub(in crate::cli) struct ShellArgs {
    /// The session: its name, its id or the beginning of that
    #[arg(value_name = "SESSION", help_heading = None)]
    session: String,
    /// Where it starts [default: the session's directory]
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Whom it runs as: a user, or user:group, by name or number [default: the session's]
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
}

/// Runs `session shell`.
pub(super) async fn run(global: &Global, args: ShellArgs) -> CommandResult {
    let (_, session) = found(global, &args.session).await.map_err(lost)?;
    let terminal = attach::terminal();
    let request = ExecRequest {
        working_dir: args.workdir,
        user: args.user,
        input: Input::Held,
        outputs: terminal.map_or(Outputs::Separate, Outputs::Terminal),
        ..ExecRequest::shell(SHELL)
    };
    let signals = Signals::take().map_err(|error| lost(Error::environment(error)))?;
    let end = attend(&session, &request, terminal.is_some(), signals).await;
    Ok(exit_of(&end.map_err(|error| lost(failed(error)))?))
}
