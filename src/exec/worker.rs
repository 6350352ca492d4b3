//! A worker: works on one node until it ends, and tries again what may pass.

use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use petgraph::Direction;
use petgraph::graph::NodeIndex;
use tokio_util::sync::CancellationToken;

use crate::engine::LogSink;
use crate::event::Outcome;
use crate::key::Kind;
use crate::progress::NodeLog;
use crate::source::Which;

use super::NodeError;
use super::attempt::attempt;
use super::context::{Message, NodeContext, RunContext};
use super::error::{self, chain};
use super::evaluate;
use super::output::{Lines, NodeOutput};

/// The report of a worker on a node that ended.
pub(super) struct NodeReport {
    pub outcome: Outcome,
    /// Bytes that the node added to the engine.
    pub bytes: Option<u64>,
    /// The log of the node.
    pub log: Option<PathBuf>,
    /// Whether no further node can succeed.
    pub ends_run: bool,
    /// Whether this machine, and not the node, is at fault: what it needs is not reached here.
    pub out_of_reach: bool,
    /// The outcomes of nodes that stand on this one and were settled with it. They were not started.
    pub also: Vec<(NodeIndex, Outcome)>,
}

impl NodeReport {
    /// Makes the report of a node without a log.
    pub(super) fn of(outcome: Outcome) -> Self {
        NodeReport {
            outcome,
            bytes: None,
            log: None,
            ends_run: false,
            out_of_reach: false,
            also: Vec::new(),
        }
    }
}

/// Returns the file that has what a node prints, as it comes.
pub(super) fn live_log(run: &RunContext, index: NodeIndex) -> PathBuf {
    let node = &run.plan.graph[index];
    match node.kind() {
        Kind::Evaluation => evaluate::output_path(run, index),
        kind => NodeLog::path_of(&run.settings.log_dir, kind, &node.image),
    }
}

/// Works on a node until it ends, or until `stop` while it waits for another try.
pub(super) async fn work(
    run: &RunContext,
    index: NodeIndex,
    stop: &CancellationToken,
) -> NodeReport {
    let log = match open_log(run, index) {
        Ok(log) => Arc::new(log.watched_by(watcher(run, index))),
        Err(source) => {
            let path = run.settings.log_dir.clone();
            return failed(run, index, NodeError::File { path, source }, None);
        }
    };
    let ctx = NodeContext::new(run, index, &log);
    let mut tries = 1;
    loop {
        let error = match attempt(&ctx).await {
            Ok(done) => {
                return NodeReport {
                    bytes: done.bytes,
                    log: Some(log.path().to_owned()),
                    ..NodeReport::of(done.outcome)
                };
            }
            Err(error) => error,
        };
        for line in chain(&error) {
            log.write(format!("error: {line}\n").as_bytes());
        }
        if !error.is_transient() || tries >= run.settings.attempts {
            return failed(run, index, error, Some(&log));
        }
        if stop.is_cancelled() {
            return NodeReport::of(Outcome::Cancelled);
        }
        let delay = backoff(tries);
        let reason = chain(&error).join(": ");
        run.send(Message::Retry { node: index, attempt: tries, reason, delay });
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = stop.cancelled() => return NodeReport::of(Outcome::Cancelled),
        }
        tries += 1;
    }
}

fn open_log(run: &RunContext, index: NodeIndex) -> std::io::Result<NodeLog> {
    let node = &run.plan.graph[index];
    match node.kind() {
        Kind::Evaluation => evaluate::open_log(run, index),
        kind => NodeLog::create(&run.settings.log_dir, kind, &node.image),
    }
}

/// Returns who tells what a node prints, where it is told.
fn watcher(run: &RunContext, index: NodeIndex) -> Option<Arc<dyn LogSink>> {
    let lines = match run.plan.graph[index].kind() {
        Kind::Evaluation => run.settings.told.tests,
        _ => run.settings.told.images,
    };
    if lines == Lines::None {
        return None;
    }
    Some(Arc::new_cyclic(|output: &Weak<NodeOutput>| {
        let (output, messages) = (output.clone(), run.messages.clone());
        NodeOutput::new(lines == Lines::All, move || {
            if let Some(output) = output.upgrade() {
                let _ = messages.send(Message::Output { node: index, output });
            }
        })
    }))
}

/// Makes the report of a node that failed. A model patch that does not apply is a result: that of every
/// evaluation that stands on the node.
fn failed(
    run: &RunContext,
    index: NodeIndex,
    error: NodeError,
    log: Option<&NodeLog>,
) -> NodeReport {
    let path = log.map(|log| log.path().to_owned());
    if let NodeError::PatchRefused { which: Which::Model, failures, text } = &error
        && run.evaluations.is_some()
    {
        return NodeReport {
            log: path,
            also: refused_evaluations(run, index, failures, text),
            ..NodeReport::of(Outcome::PatchRefused { failures: failures.clone() })
        };
    }
    NodeReport {
        log: path,
        ends_run: error.ends_run(),
        out_of_reach: error.is_out_of_reach(),
        ..NodeReport::of(outcome(run, index, &error, log.map(NodeLog::tail).unwrap_or_default()))
    }
}

/// Settles the evaluations that stand on an image whose model patch does not apply.
fn refused_evaluations(
    run: &RunContext,
    index: NodeIndex,
    failures: &[String],
    text: &str,
) -> Vec<(NodeIndex, Outcome)> {
    let above = run.plan.graph.neighbors_directed(index, Direction::Outgoing);
    let wanted = above.filter(|index| run.plan.graph[*index].status.runs());
    wanted
        .map(|index| {
            let settled = evaluate::refused(run, index, failures, text);
            (index, settled.unwrap_or_else(|error| outcome(run, index, &error, Vec::new())))
        })
        .collect()
}

fn outcome(run: &RunContext, index: NodeIndex, error: &NodeError, tail: Vec<String>) -> Outcome {
    error::outcome(error, tail, run.plan.graph[index].instances.clone())
}

/// Returns how long to wait after a try: 1, 2, 4 … seconds and a little more, at most 30.
fn backoff(tries: u32) -> Duration {
    let seconds = 2f64.powi(tries.saturating_sub(1).min(5) as i32).min(30.0);
    Duration::from_secs_f64(seconds * rand::random_range(1.0..1.25))
}
