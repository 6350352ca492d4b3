//! Reporters: render events for a person, a log or a program. They know nothing of engines.

mod log;
mod ndjson;
mod plain;
mod text;
mod timeline;
mod tty;

pub use log::NodeLog;
pub use ndjson::NdjsonReporter;
pub use plain::PlainReporter;
pub use timeline::Timeline;
pub use tty::TtyReporter;

use crate::event::{Event, Reporter};

/// Hands each event to several reporters, in order.
#[derive(Default)]
pub struct Fanout(pub Vec<Box<dyn Reporter>>);

impl Reporter for Fanout {
    fn report(&mut self, event: &Event) {
        for reporter in &mut self.0 {
            reporter.report(event);
        }
    }
}
