//! What goes on while an instance is built or graded, as events of the protocol for programs.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::engine::LogSink;
use crate::event::{Event, EventKind, Outcome, Reporter};
use crate::exec::output::{Lines, Told};
use crate::forge::{BuildOptions, ForgeOptions, Notice, Notices};
use crate::serve::rpc::{EventSink, Fault, Kind};

/// How long passes between two lines of output that are told.
const BETWEEN_LINES: Duration = Duration::from_millis(200);

/// The longest line of output that is told, in bytes.
const LONGEST: usize = 2_000;

/// Tells a client what goes on, and keeps why an image could not be made.
#[derive(Clone)]
pub(super) struct Telling {
    events: EventSink,
    failure: Arc<Mutex<Option<Failure>>>,
}

/// Why an image could not be made.
struct Failure {
    node: String,
    causes: Vec<String>,
    hint: Option<String>,
    log: Option<std::path::PathBuf>,
}

impl Telling {
    /// Tells `events`.
    pub(super) fn new(events: &EventSink) -> Telling {
        Telling { events: events.clone(), failure: Arc::default() }
    }

    /// Returns the options of a forge whose notices are told. Where nobody hears them they are those of
    /// the command line.
    pub(super) fn forge(&self, options: ForgeOptions) -> ForgeOptions {
        if !self.events.is_heard() {
            return options;
        }
        let events = self.events.clone();
        let told = move |notice, text: &str| send_notice(&events, notice, text);
        let log = NoticeLog { events: self.events.clone(), lines: Mutex::default() };
        ForgeOptions { notices: Notices::new(told).log_to(Arc::new(log)), ..options }
    }

    /// Returns the options of a build whose output is told: the last line, now and then.
    pub(super) fn build(&self, options: BuildOptions) -> BuildOptions {
        let lines = if self.events.is_heard() { Lines::Last } else { Lines::None };
        BuildOptions { told: Told { images: lines, tests: lines }, ..options }
    }

    /// Returns what takes the events of a run.
    pub(super) fn reporter(&self) -> Box<dyn Reporter> {
        Box::new(EventReporter { telling: self.clone(), lines: LineRate::default() })
    }

    /// Returns the error of an instance whose image could not be made.
    pub(super) fn failure(&self, instance_id: &str) -> Fault {
        let failure = self.failure.lock().expect("no holder of the lock panics").take();
        let Some(Failure { node, causes, hint, log }) = failure else {
            let message = format!("the image of `{instance_id}` could not be made");
            return Fault::new(Kind::Infra, message);
        };
        let causes = causes.join(": ");
        // The message of an error is one line.
        let causes = causes.lines().map(str::trim).collect::<Vec<_>>().join("; ");
        let fault = Fault::new(Kind::Infra, format!("cannot build `{node}`: {causes}"));
        let log = log.map(|log| {
            // The client may have another directory than this process.
            let log = std::path::absolute(&log).unwrap_or(log);
            format!("the full log is `{}`", log.display())
        });
        match hint.into_iter().chain(log).collect::<Vec<_>>() {
            parts if parts.is_empty() => fault,
            parts => fault.hint(parts.join("; ")),
        }
    }
}

fn send_notice(events: &EventSink, notice: Notice, text: &str) {
    let weight = match notice {
        Notice::Warning => "warning",
        Notice::Advice => "advice",
        Notice::Remark => "remark",
        Notice::Waiting => "waiting",
    };
    events.send(json!({ "event": "notice", "weight": weight, "text": text }));
}

/// Lets a line pass now and then.
#[derive(Default)]
struct LineRate(Option<Instant>);

impl LineRate {
    fn passes(&mut self) -> bool {
        let now = Instant::now();
        let passes = self.0.is_none_or(|last| now.duration_since(last) >= BETWEEN_LINES);
        if passes {
            self.0 = Some(now);
        }
        passes
    }
}

/// Sends the events of a run.
struct EventReporter {
    telling: Telling,
    lines: LineRate,
}

impl Reporter for EventReporter {
    fn report(&mut self, event: &Event) {
        match &event.kind {
            EventKind::NodeOutput { .. } if !self.lines.passes() => return,
            EventKind::NodeFinished {
                node,
                outcome: Outcome::Failed { error, hint, .. },
                log,
                ..
            } => {
                let mut first = self.telling.failure.lock().expect("no holder of the lock panics");
                first.get_or_insert_with(|| Failure {
                    node: node.id.clone(),
                    causes: error.clone(),
                    hint: hint.clone(),
                    log: log.clone(),
                });
            }
            _ => {}
        }
        if self.telling.events.is_heard() {
            self.telling.events.send(json!(event));
        }
    }
}

/// Sends the output of what is no node of a run, such as the pull of a `FROM` image.
struct NoticeLog {
    events: EventSink,
    lines: Mutex<(LineRate, Vec<u8>)>,
}

impl LogSink for NoticeLog {
    fn write(&self, bytes: &[u8]) {
        let mut lines = self.lines.lock().expect("no holder of the lock panics");
        let (rate, partial) = &mut *lines;
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            partial
                .extend_from_slice(&part[..part.len().min(LONGEST.saturating_sub(partial.len()))]);
            if part.ends_with(b"\n") {
                let line = std::mem::take(partial);
                let line = String::from_utf8_lossy(&line);
                if !line.trim().is_empty() && rate.passes() {
                    let text = line.trim_end();
                    self.events
                        .send(json!({ "event": "notice", "weight": "output", "text": text }));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::NodeRef;
    use crate::key::{KeyDocument, Kind as NodeKind};

    #[test]
    fn the_first_failure_is_told_with_its_hint_and_its_log() {
        let telling = Telling::new(&EventSink::default());
        let mut reporter = telling.reporter();
        let node = |id: &str| NodeRef {
            id: id.into(),
            kind: NodeKind::Env,
            key: KeyDocument::new(NodeKind::Env).key(),
        };
        let failed = |error: &str, hint: Option<&str>| Outcome::Failed {
            error: vec![error.into(), "the\ncause".into()],
            hint: hint.map(str::to_owned),
            tail: Vec::new(),
            instances: Vec::new(),
        };
        let mut report = |id: &str, outcome| {
            let log = Some("/logs/build_image.log".into());
            let (node, seconds, bytes) = (node(id), 1.0, None);
            let kind = EventKind::NodeFinished { node, outcome, seconds, bytes, log };
            reporter.report(&Event { seq: 0, elapsed: 0.0, kind });
        };
        report("base:a", Outcome::Built);
        report("env:a", failed("step failed", Some("look at the lockfile")));
        report("env:b", failed("another", None));
        let expected = Fault::new(Kind::Infra, "cannot build `env:a`: step failed: the; cause")
            .hint("look at the lockfile; the full log is `/logs/build_image.log`");
        assert_eq!(telling.failure("a__a-1"), expected);
        let unknown = Fault::new(Kind::Infra, "the image of `a__a-1` could not be made");
        assert_eq!(telling.failure("a__a-1"), unknown);
    }
}
