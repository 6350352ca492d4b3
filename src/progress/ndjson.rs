//! Events as newline-delimited JSON, for programs.

use std::io::Write;

use crate::event::{Event, EventKind, Reporter};

/// Writes each event as one line, at once.
pub struct NdjsonReporter<W> {
    out: W,
    output: bool,
}

impl<W: Write + Send> NdjsonReporter<W> {
    /// Writes to `out`; what nodes print is part of it with `output`.
    pub fn new(out: W, output: bool) -> Self {
        NdjsonReporter { out, output }
    }
}

impl<W: Write + Send> Reporter for NdjsonReporter<W> {
    fn report(&mut self, event: &Event) {
        if !self.output && matches!(event.kind, EventKind::NodeOutput { .. }) {
            return;
        }
        let mut line = serde_json::to_vec(event).expect("events are plain values");
        line.push(b'\n');
        // A reader that went away must not end a build.
        let _ = self.out.write_all(&line).and_then(|()| self.out.flush());
    }
}
