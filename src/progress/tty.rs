//! Progress on a terminal: a line for every running node, and one for the run.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use console::Term;
use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};

use crate::event::{Event, EventKind, Outcome, Reporter};

use crate::traffic;

use super::echo::QuietControls;
use super::rate::Rate;
use super::{row, text, time};

/// Columns before a node's own text: the spinner, the time, and two spaces.
const BEFORE: usize = 8;

/// Draws on stderr.
pub struct TtyReporter {
    bars: MultiProgress,
    total: Option<ProgressBar>,
    running: HashMap<String, Row>,
    run: Arc<Mutex<Run>>,
    /// Whether lines of output stay, and not only the last one is shown.
    output: bool,
    quiet: Option<QuietControls>,
}

/// The line of a running node.
struct Row {
    bar: ProgressBar,
    step: String,
    line: String,
}

/// What the line of the run is made of, each time that it is drawn.
struct Run {
    total: row::Total,
    start: Instant,
    /// When the run will end.
    end: Option<Instant>,
    rate: Rate,
}

impl TtyReporter {
    /// Draws nothing until the first event. With `output` every line that comes stays.
    pub fn new(output: bool) -> Self {
        let run = Run {
            total: row::Total::default(),
            start: Instant::now(),
            end: None,
            rate: Rate::new(traffic::moved()),
        };
        TtyReporter {
            bars: MultiProgress::new(),
            total: None,
            running: HashMap::new(),
            run: Arc::new(Mutex::new(run)),
            output,
            quiet: None,
        }
    }

    fn print(&self, lines: Vec<String>) {
        for line in lines {
            // A terminal that went away must not end a build.
            let _ = self.bars.println(line);
        }
    }

    fn draw_total(&mut self, to_run: usize) {
        let run = self.run.clone();
        let bar_columns = if columns() < 60 { 10 } else { 24 };
        let rest = move |_: &ProgressState, out: &mut dyn std::fmt::Write| {
            let mut run = run.lock().expect("no holder of the lock panics");
            let moved = run.rate.look(Instant::now(), traffic::moved());
            let left = run.end.map(|end| end.saturating_duration_since(Instant::now()));
            let total = row::Total {
                elapsed: run.start.elapsed().as_secs_f64(),
                left: left.map(|left| left.as_secs_f64()),
                moved,
                ..run.total
            };
            // The last column stays free: a character that is typed goes there.
            let _ = out.write_str(&row::total(&total, columns().saturating_sub(bar_columns + 2)));
        };
        let style = ProgressStyle::with_template(&format!("{{bar:{bar_columns}}} {{rest}}"))
            .expect("the template is constant")
            .with_key("rest", rest);
        let bar = self.bars.add(ProgressBar::new(to_run as u64).with_style(style));
        bar.enable_steady_tick(Duration::from_millis(500));
        self.total = Some(bar);
    }

    fn update(&mut self, change: impl FnOnce(&mut Run)) {
        let mut run = self.run.lock().expect("no holder of the lock panics");
        change(&mut run);
        run.total.running = self.running.len();
    }

    fn draw(&self, id: &str) {
        let Some(Row { bar, step, line }) = self.running.get(id) else { return };
        bar.set_message(row::running(id, step, line, columns().saturating_sub(BEFORE + 1)));
    }
}

/// Returns the width of the terminal.
fn columns() -> usize {
    Term::stderr().size_checked().map_or(80, |(_, columns)| usize::from(columns))
}

impl Drop for TtyReporter {
    /// A run that was dropped leaves no line behind.
    fn drop(&mut self) {
        for (_, row) in self.running.drain() {
            row.bar.finish_and_clear();
        }
        if let Some(total) = self.total.take() {
            total.finish_and_clear();
        }
        let _ = self.bars.clear();
    }
}

impl Reporter for TtyReporter {
    fn report(&mut self, event: &Event) {
        match &event.kind {
            EventKind::RunStarted { to_run, .. } => {
                self.print(text::of_run(&event.kind));
                self.update(|run| run.total.of = *to_run);
                if *to_run > 0 {
                    self.quiet = QuietControls::begin();
                    self.draw_total(*to_run);
                }
            }
            EventKind::NodeStarted { node, .. } => {
                let style = ProgressStyle::with_template("{spinner} {elapsed:>4} {msg}")
                    .expect("the template is constant")
                    .with_key("elapsed", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                        let _ = write!(out, "{:>5}", time::clock(state.elapsed().as_secs()));
                    });
                let bar = ProgressBar::new_spinner().with_style(style);
                let bar = match &self.total {
                    Some(total) => self.bars.insert_before(total, bar),
                    None => self.bars.add(bar),
                };
                bar.enable_steady_tick(Duration::from_millis(200));
                let row = Row { bar, step: String::new(), line: String::new() };
                self.running.insert(node.id.clone(), row);
                self.draw(&node.id);
                self.update(|_| {});
            }
            EventKind::NodeStep { node, step } => {
                if let Some(row) = self.running.get_mut(&node.id) {
                    row.step = row::clean(step);
                    row.line.clear();
                }
                self.draw(&node.id);
            }
            EventKind::NodeOutput { node, line } => {
                let line = row::clean(line);
                if self.output {
                    self.print(vec![text::output(node, &line)]);
                }
                if let Some(row) = self.running.get_mut(&node.id).filter(|_| !line.is_empty()) {
                    row.line = line;
                }
                self.draw(&node.id);
            }
            EventKind::Forecast { seconds_left } => {
                let left = Duration::try_from_secs_f64(*seconds_left).ok();
                self.update(|run| run.end = left.map(|left| Instant::now() + left));
            }
            EventKind::NodeFinished { node, outcome, seconds, bytes, log } => {
                if let Some(row) = self.running.remove(&node.id) {
                    row.bar.finish_and_clear();
                    self.bars.remove(&row.bar);
                }
                let failed = usize::from(matches!(outcome, Outcome::Failed { .. }));
                self.update(|run| {
                    run.total.failed += failed;
                    run.total.done += 1;
                });
                if let Some(total) = &self.total {
                    total.inc(1);
                }
                self.print(text::finished(node, outcome, *seconds, *bytes, log.as_deref()));
            }
            EventKind::RunFinished { .. } => {
                if let Some(total) = self.total.take() {
                    total.finish_and_clear();
                }
                self.quiet = None;
                self.print(text::of_run(&event.kind));
            }
            EventKind::Interrupted { .. } => {
                self.update(|run| run.end = None);
                self.print(text::of_run(&event.kind));
            }
            EventKind::NodeRetry { .. } | EventKind::Warning { .. } => {
                self.print(text::of_run(&event.kind));
            }
        }
    }
}
