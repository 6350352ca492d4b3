//! Texts that the reporters for people share.

use std::path::Path;

use console::style;

use crate::event::{EventKind, NodeRef, Outcome};
use crate::key::Kind;
use crate::report::Verdict;

use super::time::seconds;

/// Returns a line that a node printed.
pub(super) fn output(node: &NodeRef, line: &str) -> String {
    format!("       | {}: {line}", super::row::name(&node.id))
}

/// Returns `1 image` or `2 images`.
fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Returns the lines of a node that ended; empty for what needs no word.
pub(super) fn finished(
    node: &NodeRef,
    outcome: &Outcome,
    took: f64,
    bytes: Option<u64>,
    log: Option<&Path>,
) -> Vec<String> {
    let size = bytes.map_or(String::new(), |bytes| format!(", {}", indicatif::HumanBytes(bytes)));
    let line = |word: console::StyledObject<&str>| {
        vec![format!("{word} {} ({}{size})", node.id, seconds(took))]
    };
    match outcome {
        Outcome::Built => line(style("   built").green().for_stderr()),
        Outcome::Pulled => line(style("  pulled").green().for_stderr()),
        Outcome::FoundFresh => vec![format!("   fresh {} (built by another process)", node.id)],
        Outcome::Evaluated { verdict, cached, tests, reason } => {
            let word = style(format!("{:>8}", verdict.words())).for_stderr();
            let word = match verdict {
                Verdict::Resolved => word.green(),
                Verdict::Unresolved | Verdict::EmptyPatch => word.yellow(),
                _ => word.red(),
            };
            let id = node.id.strip_prefix("evaluation:").unwrap_or(&node.id);
            let tests = tests.map_or(String::new(), |(good, all)| format!(", {good}/{all} tests"));
            let cached = if *cached { ", reused" } else { "" };
            let mut lines = vec![format!("{word} {id} ({}{tests}{cached})", seconds(took))];
            if let Some(reason) = reason {
                lines.extend(reason.lines().take(5).map(|line| format!("    | {line}")));
            }
            if let Some(log) = log.filter(|_| verdict.is_error() || reason.is_some()) {
                lines.push(format!("  its log is `{}`", log.display()));
            }
            if let Some(advice) = verdict.advice() {
                lines.push(format!("  hint: {advice}"));
            }
            lines
        }
        Outcome::Failed { error, hint, tail, instances } => {
            let word = style("  failed").red().bold().for_stderr();
            let mut lines = vec![format!("{word} {} ({})", node.id, seconds(took))];
            let verb = if node.kind == Kind::Evaluation { "run" } else { "build" };
            for (at, cause) in error.iter().enumerate() {
                let cause = cause.replace('\n', "\n           ");
                lines.push(match at {
                    0 => format!("  error: cannot {verb} `{}`: {cause}", node.id),
                    _ => format!("    caused by: {cause}"),
                });
            }
            if !tail.is_empty() {
                lines.push(format!("  last {} of its log:", count(tail.len(), "line")));
                lines.extend(tail.iter().map(|line| format!("    | {line}")));
            }
            if let Some(log) = log {
                lines.push(format!("  the full log is `{}`", log.display()));
            }
            if !instances.is_empty() {
                let shown: Vec<&str> = instances.iter().take(5).map(String::as_str).collect();
                let more = match instances.len().saturating_sub(5) {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                lines.push(format!("  it holds up {}{more}", shown.join(", ")));
            }
            if let Some(hint) = hint {
                lines.push(format!("  hint: {hint}"));
            }
            lines
        }
        // The evaluation on it says so.
        Outcome::PatchRefused { .. } => Vec::new(),
        Outcome::Skipped { because } => {
            vec![format!(" skipped {} (`{because}` failed)", node.id)]
        }
        // The end of the run counts what was never started.
        Outcome::Cancelled if took == 0.0 => Vec::new(),
        Outcome::Cancelled => vec![format!(" stopped {}", node.id)],
    }
}

/// Returns the lines of an event that concerns the run; empty for events about nodes.
pub(super) fn of_run(event: &EventKind) -> Vec<String> {
    match event {
        EventKind::RunStarted { workers, nodes, fresh, to_run, evaluations, logs, .. } => {
            let images = count(nodes - evaluations, "image");
            let to_build = to_run - evaluations;
            let runs = match evaluations {
                0 => String::new(),
                runs => format!("; {runs} to evaluate"),
            };
            let workers = count(*workers, "worker");
            let mut lines =
                vec![format!("{images}: {fresh} fresh, {to_build} to do{runs}; {workers}")];
            if *to_run > 0 {
                let logs: Vec<String> = logs.iter().map(|log| log.display().to_string()).collect();
                lines.push(format!("logs, as they are written: {}", logs.join(", ")));
            }
            lines
        }
        EventKind::NodeRetry { node, attempt, reason, delay } => {
            vec![format!("   retry {} in {} (try {attempt}: {reason})", node.id, seconds(*delay))]
        }
        EventKind::Warning { text } => {
            vec![format!("{} {text}", style("warning:").yellow().bold().for_stderr())]
        }
        EventKind::Interrupted { dropped: true } => {
            vec!["stopping: what runs is dropped".to_owned()]
        }
        EventKind::Interrupted { dropped: false } => vec![
            "stopping: what runs is finished, nothing new starts; interrupt again to drop it"
                .to_owned(),
        ],
        EventKind::RunFinished {
            built,
            fresh,
            pulled,
            evaluated,
            failed,
            skipped,
            seconds: took,
        } => {
            let mut parts = vec![format!("{built} built")];
            if *pulled > 0 {
                parts.push(format!("{pulled} pulled"));
            }
            parts.push(format!("{fresh} fresh"));
            if *evaluated > 0 {
                parts.push(format!("{evaluated} evaluated"));
            }
            if *failed > 0 {
                parts.push(format!("{failed} failed"));
            }
            if *skipped > 0 {
                parts.push(format!("{skipped} not started"));
            }
            vec![format!("{} in {}", parts.join(", "), seconds(*took))]
        }
        EventKind::NodeStarted { .. }
        | EventKind::NodeStep { .. }
        | EventKind::NodeOutput { .. }
        | EventKind::Forecast { .. }
        | EventKind::NodeFinished { .. } => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_started_is_counted_and_not_listed() {
        let key = crate::key::KeyDocument::new(Kind::Env).key();
        let node = NodeRef { id: "env:a/b@1".into(), kind: Kind::Env, key };
        assert!(finished(&node, &Outcome::Cancelled, 0.0, None, None).is_empty());
        assert_eq!(finished(&node, &Outcome::Cancelled, 3.0, None, None).len(), 1);
    }
}
