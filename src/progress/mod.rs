//! Reporters: render events for a person, a log or a program. They know nothing of engines.

mod echo;
mod log;
mod ndjson;
mod plain;
mod rate;
mod row;
mod text;
mod time;
mod timeline;
mod tty;
mod wait;

pub use log::NodeLog;
pub use ndjson::NdjsonReporter;
pub use plain::PlainReporter;
pub use time::seconds;
pub use timeline::Timeline;
pub use tty::TtyReporter;
pub use wait::{Wait, Waiting};

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
