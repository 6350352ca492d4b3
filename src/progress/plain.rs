//! Plain lines, where there is no terminal.

use std::io::Write;

use crate::event::{Event, EventKind, Reporter};

use super::{row, text};

/// Writes a line when a node ends, and what concerns the run.
pub struct PlainReporter<W> {
    out: W,
    verbose: bool,
}

impl<W: Write + Send> PlainReporter<W> {
    /// Writes to `out`; `verbose` has starts, steps and output too.
    pub fn new(out: W, verbose: bool) -> Self {
        PlainReporter { out, verbose }
    }
}

impl<W: Write + Send> Reporter for PlainReporter<W> {
    fn report(&mut self, event: &Event) {
        let lines = match &event.kind {
            EventKind::NodeStarted { node, log, .. } if self.verbose => {
                vec![format!("   start {} (its log is `{}`)", node.id, log.display())]
            }
            EventKind::NodeStep { node, step } if self.verbose => {
                vec![format!("    step {}: {}", node.id, row::clean(step))]
            }
            EventKind::NodeOutput { node, line } if self.verbose => {
                vec![text::output(node, &row::clean(line))]
            }
            EventKind::NodeFinished { node, outcome, seconds, bytes, log } => {
                text::finished(node, outcome, *seconds, *bytes, log.as_deref())
            }
            other => text::of_run(other),
        };
        for line in lines {
            // A reader that went away must not end a build.
            let _ = writeln!(self.out, "{line}");
        }
        let _ = self.out.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{NodeRef, Outcome};
    use crate::key::{KeyDocument, Kind};

    fn render(kinds: Vec<EventKind>) -> String {
        let mut out = Vec::new();
        let mut reporter = PlainReporter::new(&mut out, false);
        for (seq, kind) in kinds.into_iter().enumerate() {
            reporter.report(&Event { seq: seq as u64, elapsed: 0.0, kind });
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_failure_shows_node_cause_tail_log_and_what_it_holds_up() {
        console::set_colors_enabled_stderr(false);
        let node = NodeRef {
            id: "env:a/b@1".into(),
            kind: Kind::Env,
            key: KeyDocument::new(Kind::Env).key(),
        };
        let instances = (1..=7).map(|n| format!("a__b-{n}")).collect();
        let outcome = Outcome::Failed {
            error: vec!["step `bash install.sh` exited with code 1".into()],
            hint: Some("look at the lockfile".into()),
            tail: vec!["no such package".into()],
            instances,
        };
        let log = Some("logs/x/build_image.log".into());
        let text = render(vec![EventKind::NodeFinished {
            node,
            outcome,
            seconds: 61.0,
            bytes: None,
            log,
        }]);
        insta::assert_snapshot!(text, @r"
          failed env:a/b@1 (1m01s)
          error: cannot build `env:a/b@1`: step `bash install.sh` exited with code 1
          last 1 line of its log:
            | no such package
          the full log is `logs/x/build_image.log`
          it holds up a__b-1, a__b-2, a__b-3, a__b-4, a__b-5 and 2 more
          hint: look at the lockfile
        ");
    }
}
