//! Something that takes its time and is no node: a dataset that is fetched, an archive, a base image.
//!
//! After a second a terminal shows what is waited for, with the time, the bytes that moved and the
//! last line that was printed, in a line that goes away. Elsewhere a line says so now and then.

use std::io::Write as _;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::engine::LogSink;
use crate::traffic;

use super::rate::Rate;
use super::{row, time};

/// How long nothing is said: on a terminal somebody looks at it.
const SILENT: Duration = Duration::from_secs(1);
const SILENT_ELSEWHERE: Duration = Duration::from_secs(5);
/// How often a line is drawn, and how often one is printed.
const DRAWN: Duration = Duration::from_millis(200);
const PRINTED: Duration = Duration::from_secs(30);

/// How it is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// Not at all.
    Silent,
    /// In a line of the terminal that changes.
    Drawn,
    /// In lines that stay.
    Printed,
}

/// Says what is waited for until it is dropped.
pub struct Wait {
    bar: ProgressBar,
    last: Arc<Mutex<String>>,
    partial: Mutex<Vec<u8>>,
    thread: Option<(mpsc::Sender<()>, JoinHandle<()>)>,
}

impl Wait {
    /// Begins to wait for `what`, such as `making debian:trixie`.
    pub fn begin(how: Waiting, what: impl Into<String>) -> Wait {
        let what = what.into();
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        let style = ProgressStyle::with_template("{spinner} {msg}");
        bar.set_style(style.expect("the template is constant"));
        let last = Arc::new(Mutex::new(String::new()));
        let (end, ended) = mpsc::channel();
        let thread = (how != Waiting::Silent).then(|| {
            let (bar, last) = (bar.clone(), last.clone());
            let run = move || match how {
                Waiting::Drawn => draw(&bar, &what, &last, &ended),
                _ => print(&what, &ended),
            };
            (end, std::thread::spawn(run))
        });
        Wait { bar, last, partial: Mutex::default(), thread }
    }

    /// Prints a line that stays, above the one that is drawn.
    pub fn say(&self, line: &str) {
        // A terminal that went away ends no work.
        self.apart(|| drop(writeln!(std::io::stderr().lock(), "{line}")));
    }

    /// Prints while nothing is drawn.
    pub fn apart(&self, print: impl FnOnce()) {
        self.bar.suspend(print);
    }
}

fn draw(bar: &ProgressBar, what: &str, last: &Mutex<String>, ended: &mpsc::Receiver<()>) {
    let (start, mut rate) = (Instant::now(), Rate::new(traffic::moved()));
    let mut pause = SILENT;
    while ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        if pause == SILENT {
            bar.set_draw_target(ProgressDrawTarget::stderr());
            pause = DRAWN;
        }
        let columns = Term::stderr().size_checked().map_or(80, |(_, columns)| usize::from(columns));
        let moved = Rate::text(rate.look(Instant::now(), traffic::moved()));
        let line = last.lock().expect("no holder panics").clone();
        let parts = [time::clock(start.elapsed().as_secs()), moved, line];
        let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        let text = format!("{what}: {}", parts.join(", "));
        // The spinner, a space, and a column that stays free.
        bar.set_message(row::cut(&text, columns.saturating_sub(3)).into_owned());
        bar.tick();
    }
    bar.finish_and_clear();
}

fn print(what: &str, ended: &mpsc::Receiver<()>) {
    let (start, mut rate) = (Instant::now(), Rate::new(traffic::moved()));
    let mut pause = SILENT_ELSEWHERE;
    while ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        let moved = Rate::text(rate.look(Instant::now(), traffic::moved()));
        let moved = if moved.is_empty() { moved } else { format!(", {moved}") };
        let time = time::clock(start.elapsed().as_secs());
        let _ = writeln!(std::io::stderr().lock(), "{what}: {time}{moved}");
        pause = PRINTED;
    }
}

impl LogSink for Wait {
    /// Shows the last line.
    fn write(&self, bytes: &[u8]) {
        let mut partial = self.partial.lock().expect("no writer panics");
        for byte in bytes {
            if *byte != b'\n' {
                if partial.len() < 2_000 {
                    partial.push(*byte);
                }
                continue;
            }
            let line = row::clean(&String::from_utf8_lossy(&std::mem::take(&mut *partial)));
            if !line.is_empty() {
                *self.last.lock().expect("no holder panics") = line;
            }
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if let Some((end, thread)) = self.thread.take() {
            drop(end);
            let _ = thread.join();
        }
    }
}
