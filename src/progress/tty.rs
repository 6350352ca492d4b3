//! Progress on a terminal: a line for every running node, and a bar for the run.

use std::collections::HashMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::event::{Event, EventKind, Outcome, Reporter};

use super::text;

/// Draws on stderr.
pub struct TtyReporter {
    bars: MultiProgress,
    total: Option<ProgressBar>,
    running: HashMap<String, ProgressBar>,
    failed: usize,
    fresh: usize,
    to_run: usize,
}

impl TtyReporter {
    /// Draws nothing until the first event.
    pub fn new() -> Self {
        TtyReporter {
            bars: MultiProgress::new(),
            total: None,
            running: HashMap::new(),
            failed: 0,
            fresh: 0,
            to_run: 0,
        }
    }

    fn print(&self, lines: Vec<String>) {
        for line in lines {
            // A terminal that went away must not end a build.
            let _ = self.bars.println(line);
        }
    }

    fn count(&self) {
        if let Some(total) = &self.total {
            let failed = match self.failed {
                0 => String::new(),
                failed => format!(", {failed} failed"),
            };
            total.set_message(format!(
                "{} running{failed}, {} fresh",
                self.running.len(),
                self.fresh
            ));
        }
    }
}

impl Default for TtyReporter {
    fn default() -> Self {
        Self::new()
    }
}

impl Reporter for TtyReporter {
    fn report(&mut self, event: &Event) {
        match &event.kind {
            EventKind::RunStarted { fresh, to_run, .. } => {
                self.print(text::of_run(&event.kind));
                (self.fresh, self.to_run) = (*fresh, *to_run);
                if *to_run > 0 {
                    let style = ProgressStyle::with_template(
                        "{bar:24} {pos}/{len} {msg}, {elapsed} elapsed, {eta} left",
                    )
                    .expect("the template is constant");
                    let bar = ProgressBar::new(*to_run as u64).with_style(style);
                    let bar = self.bars.add(bar);
                    bar.enable_steady_tick(Duration::from_millis(500));
                    self.total = Some(bar);
                }
            }
            EventKind::NodeStarted { node, .. } => {
                let style =
                    ProgressStyle::with_template("{spinner} {elapsed:>4} {prefix} {wide_msg}")
                        .expect("the template is constant");
                let bar = ProgressBar::new_spinner().with_style(style).with_prefix(node.id.clone());
                let bar = match &self.total {
                    Some(total) => self.bars.insert_before(total, bar),
                    None => self.bars.add(bar),
                };
                bar.enable_steady_tick(Duration::from_millis(200));
                self.running.insert(node.id.clone(), bar);
            }
            EventKind::NodeStep { node, step } => {
                if let Some(bar) = self.running.get(&node.id) {
                    bar.set_message(step.clone());
                }
            }
            EventKind::NodeFinished { node, outcome, seconds, bytes, log } => {
                if let Some(bar) = self.running.remove(&node.id) {
                    bar.finish_and_clear();
                    self.bars.remove(&bar);
                }
                self.failed += usize::from(matches!(outcome, Outcome::Failed { .. }));
                if let Some(total) = &self.total {
                    total.inc(1);
                }
                self.print(text::finished(node, outcome, *seconds, *bytes, log.as_deref()));
            }
            EventKind::RunFinished { .. } => {
                if let Some(total) = self.total.take() {
                    total.finish_and_clear();
                }
                self.print(text::of_run(&event.kind));
            }
            EventKind::Forecast { .. } => {}
            EventKind::NodeRetry { .. } | EventKind::Warning { .. } | EventKind::Interrupted => {
                self.print(text::of_run(&event.kind));
            }
        }
        self.count();
    }
}
