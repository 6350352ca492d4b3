//! Collects when each worker did what.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::event::{Event, EventKind, Outcome, Reporter};
use crate::report::Span;

/// Collects spans from events.
pub struct Timeline {
    running: HashMap<String, (usize, f64)>,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Timeline {
    /// Collects into `spans`.
    pub fn new(spans: Arc<Mutex<Vec<Span>>>) -> Self {
        Timeline { running: HashMap::new(), spans }
    }
}

impl Reporter for Timeline {
    fn report(&mut self, event: &Event) {
        match &event.kind {
            EventKind::NodeStarted { node, worker, .. } => {
                self.running.insert(node.id.clone(), (*worker, event.elapsed));
            }
            EventKind::NodeFinished { node, outcome, .. } => {
                let Some((worker, start)) = self.running.remove(&node.id) else { return };
                let outcome = match outcome {
                    Outcome::Built => "built",
                    Outcome::Pulled => "pulled",
                    Outcome::FoundFresh => "fresh",
                    Outcome::Evaluated { verdict, .. } => verdict.as_str(),
                    Outcome::Failed { .. } => "failed",
                    Outcome::PatchRefused { .. } => "patch_refused",
                    Outcome::Skipped { .. } => "skipped",
                    Outcome::Cancelled => "cancelled",
                };
                self.spans.lock().expect("no holder of the lock panics").push(Span {
                    worker,
                    node: node.id.clone(),
                    kind: node.kind.to_string(),
                    start,
                    end: event.elapsed,
                    outcome: outcome.to_owned(),
                });
            }
            _ => {}
        }
    }
}
