//! Smoke runs, as people see them.

use console::style;

use crate::cli::out::errln;
use crate::smoke::{CommandResult, RunReport, StageResult, StageStatus};

/// How many lines of a failed command are shown.
const LINES: usize = 15;

/// Shows how a stage ended. `run` is the name of its run where there are several.
pub(super) fn stage(run: Option<&str>, result: &StageResult) {
    let status = match result.status {
        StageStatus::Ok => style("ok").green(),
        StageStatus::Failed => style("failed").red(),
        StageStatus::Skipped => style("skipped").dim(),
        StageStatus::InfraError => style("infra error").red(),
    };
    let run = run.map_or(String::new(), |run| format!("{run}: "));
    let reason = result.reason.as_ref().map_or(String::new(), |reason| format!("  {reason}"));
    let (name, seconds) = (result.stage.as_str(), result.duration);
    errln!("{run}{name:<8} {:<7} {seconds:>6.1} s{reason}", status.for_stderr());
    if let (StageStatus::Failed, Some(command)) = (result.status, result.commands.last()) {
        for line in last_lines(command) {
            errln!("    {line}");
        }
    }
}

/// Returns the last lines that a command printed: of its standard error, or else of the other.
fn last_lines(command: &CommandResult) -> Vec<&str> {
    let text = match command.stderr.trim().is_empty() {
        true => &command.stdout,
        false => &command.stderr,
    };
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(LINES)..].to_vec()
}

/// Says in a line what a run came to.
pub(super) fn line(run: &RunReport) -> String {
    let name = run.facts.name.as_deref().unwrap_or(&run.facts.run_id);
    let reason = run.failure_reason.as_deref().unwrap_or_default();
    match run.failure_stage {
        _ if run.success => format!("{name}: success"),
        Some(stage) => format!("{name}: failure in stage `{stage}`: {reason}"),
        None => format!("{name}: no success: {reason}"),
    }
}
