//! `imgforge completions`.

use clap::Args;

use super::{CommandResult, Exit, help};

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: clap_complete::Shell,
}

/// Runs `completions`.
pub(super) fn run(args: &CompletionsArgs) -> CommandResult {
    clap_complete::generate(args.shell, &mut help::command(), "imgforge", &mut super::out::Stdout);
    Ok(Exit::Success)
}
