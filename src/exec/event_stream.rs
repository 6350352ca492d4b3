//! The events of a run, numbered in the order in which the reporter gets them.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use petgraph::graph::NodeIndex;

use crate::event::{EVENT_SCHEMA, Event, EventKind, NodeRef, Reporter};
use crate::key::Kind;
use crate::plan::{Node, Plan, Status};

use super::context::{Message, RunContext};
use super::summary::RunSummary;
use super::worker::NodeReport;

/// Numbers events and hands them on.
pub(super) struct EventStream<'r> {
    plan: &'r Plan,
    reporter: &'r mut dyn Reporter,
    start: Instant,
    seq: u64,
}

impl<'r> EventStream<'r> {
    /// Starts a stream; the times of its events are counted from now.
    pub(super) fn new(plan: &'r Plan, reporter: &'r mut dyn Reporter) -> EventStream<'r> {
        EventStream { plan, reporter, start: Instant::now(), seq: 0 }
    }

    /// Returns the seconds since the start.
    pub(super) fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    fn send(&mut self, kind: EventKind) {
        let elapsed = self.seconds();
        self.reporter.report(&Event { seq: self.seq, elapsed, kind });
        self.seq += 1;
    }

    fn node(&self, index: NodeIndex) -> NodeRef {
        let node = &self.plan.graph[index];
        NodeRef { id: node.id.clone(), kind: node.kind(), key: node.key }
    }

    /// Tells what a run is about to do. Always the first event.
    pub(super) fn run_started(&mut self, run: &RunContext) {
        let nodes = || self.plan.nodes().map(|(_, node)| node);
        let fresh = nodes().filter(|node| node.status == Status::Fresh).count();
        let to_run = nodes().filter(|node| node.status.runs()).count();
        let is_evaluation = |node: &&Node| node.kind() == Kind::Evaluation && node.status.runs();
        let evaluations = nodes().filter(is_evaluation).count();
        self.send(EventKind::RunStarted {
            schema_version: EVENT_SCHEMA,
            engine: run.settings.engine.clone(),
            workers: run.settings.workers,
            nodes: fresh + to_run,
            fresh,
            to_run,
            evaluations,
            logs: log_dirs(run, to_run > evaluations, evaluations > 0),
        });
    }

    /// Tells that no further node starts.
    pub(super) fn interrupted(&mut self, dropped: bool) {
        self.send(EventKind::Interrupted { dropped });
    }

    /// Tells that a worker has taken a node.
    pub(super) fn node_started(&mut self, index: NodeIndex, worker: usize, log: PathBuf) {
        let node = self.node(index);
        self.send(EventKind::NodeStarted { node, worker, attempt: 1, log });
    }

    /// Tells how a node ended.
    pub(super) fn node_finished(&mut self, index: NodeIndex, report: NodeReport, seconds: f64) {
        let node = self.node(index);
        let NodeReport { outcome, bytes, log, .. } = report;
        self.send(EventKind::NodeFinished { node, outcome, seconds, bytes, log });
    }

    /// Tells how long the run still takes.
    pub(super) fn forecast(&mut self, left: Duration) {
        self.send(EventKind::Forecast { seconds_left: left.as_secs_f64() });
    }

    /// Tells the message of a worker.
    pub(super) fn message(&mut self, message: Message) {
        let kind = match message {
            Message::Output { node, output } => {
                let (lines, left_out) = output.take();
                let more = format!("… {left_out} lines before this are in the log alone");
                let more = (left_out > 0).then_some(more);
                for line in more.into_iter().chain(lines) {
                    let node = self.node(node);
                    self.send(EventKind::NodeOutput { node, line });
                }
                return;
            }
            Message::Step { node, step } => EventKind::NodeStep { node: self.node(node), step },
            Message::Retry { node, attempt, reason, delay } => EventKind::NodeRetry {
                node: self.node(node),
                attempt,
                reason,
                delay: delay.as_secs_f64(),
            },
            Message::Warning(text) => EventKind::Warning { text },
        };
        self.send(kind);
    }

    /// Tells what a run did. Always the last event.
    pub(super) fn run_finished(&mut self, summary: &RunSummary) {
        self.send(EventKind::RunFinished {
            built: summary.built,
            fresh: summary.fresh,
            pulled: summary.pulled,
            evaluated: summary.evaluated,
            failed: summary.failed,
            skipped: summary.skipped,
            seconds: summary.seconds,
        });
    }
}

/// Lists the directories in which logs come to be: those of images, and those of evaluations.
fn log_dirs(run: &RunContext, images: bool, evaluations: bool) -> Vec<PathBuf> {
    let images = images.then(|| run.settings.log_dir.clone());
    let tests = run.evaluations.as_ref().filter(|_| evaluations);
    images.into_iter().chain(tests.map(|tests| tests.dir.path().to_owned())).collect()
}
