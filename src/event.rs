//! What happens during a run, as data: the executor emits events, reporters render them, and the
//! NDJSON stream is the same events in JSON. Knows nothing of terminals.

use std::path::PathBuf;

use serde::Serialize;

use crate::key::{Key, Kind};
use crate::report::Verdict;

/// Version of the event stream's JSON.
pub const EVENT_SCHEMA: u32 = 1;

/// One thing that happened.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    /// Counts from 0 in each run, without gaps.
    pub seq: u64,
    /// Seconds since the run began.
    pub elapsed: f64,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// The kinds of event.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// Always the first event.
    RunStarted {
        /// [`EVENT_SCHEMA`].
        schema_version: u32,
        /// `docker 20.10.24 (overlay2)`, for people.
        engine: String,
        /// How many nodes run at once.
        workers: usize,
        /// Nodes of the plan, but for those that nothing needs.
        nodes: usize,
        /// Nodes that need nothing.
        fresh: usize,
        /// Nodes that this run will start.
        to_run: usize,
        /// How many of those run tests.
        evaluations: usize,
        /// The directories of the logs, which are written as it runs.
        logs: Vec<PathBuf>,
    },
    /// A worker took a node.
    NodeStarted {
        /// The node.
        #[serde(flatten)]
        node: NodeRef,
        /// The slot, from 0.
        worker: usize,
        /// 1 for the first try.
        attempt: u32,
        /// The file that has what it prints, as it comes.
        log: PathBuf,
    },
    /// A node printed a line. Only what is shown comes as an event, and not all of it where that is
    /// too much: the log has everything.
    NodeOutput {
        /// The node.
        #[serde(flatten)]
        node: NodeRef,
        /// The line, as it was printed.
        line: String,
    },
    /// A node reached its next step.
    NodeStep {
        /// The node.
        #[serde(flatten)]
        node: NodeRef,
        /// Such as `write layer` or `RUN pip install …`.
        step: String,
    },
    /// A try failed for a reason that may pass; the node is tried again.
    NodeRetry {
        /// The node.
        #[serde(flatten)]
        node: NodeRef,
        /// The try that failed.
        attempt: u32,
        /// Why.
        reason: String,
        /// Seconds until the next try.
        delay: f64,
    },
    /// When the run will end, as far as is known; no such event where nothing is known of a node.
    Forecast {
        /// Seconds from now.
        seconds_left: f64,
    },
    /// A node ended. Each started node ends exactly once; nodes that were never started end too,
    /// as skipped or cancelled.
    NodeFinished {
        /// The node.
        #[serde(flatten)]
        node: NodeRef,
        /// How it ended.
        #[serde(flatten)]
        outcome: Outcome,
        /// Seconds of all tries.
        seconds: f64,
        /// Bytes that the node added to the engine, when known.
        bytes: Option<u64>,
        /// The full log, when there is one.
        log: Option<PathBuf>,
    },
    /// Something that a person should know, and that stops nothing.
    Warning {
        /// The text, without a final period.
        text: String,
    },
    /// The run was asked to stop: no new nodes start.
    Interrupted {
        /// Whether running nodes are dropped at once. Otherwise they come to their end.
        dropped: bool,
    },
    /// Always the last event.
    RunFinished {
        /// Nodes by outcome.
        built: usize,
        /// Nodes that needed nothing.
        fresh: usize,
        /// Nodes that came from a registry.
        pulled: usize,
        /// Evaluations that were graded.
        evaluated: usize,
        /// Nodes that failed by themselves.
        failed: usize,
        /// Nodes that were not started because another failed or the run was stopped.
        skipped: usize,
        /// Seconds of the run.
        seconds: f64,
    },
}

/// The node that an event is about.
#[derive(Debug, Clone, Serialize)]
pub struct NodeRef {
    /// The id in the plan, such as `env:pallets/flask@2.3`.
    pub id: String,
    /// The kind of image.
    #[serde(rename = "node_kind")]
    pub kind: Kind,
    /// The image's key.
    pub key: Key,
}

/// How a node ended.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// Built here and now.
    Built,
    /// Pulled from a registry.
    Pulled,
    /// Another process built it while this one waited for its lock.
    FoundFresh,
    /// The tests of an instance were run, or their log was there, and graded.
    Evaluated {
        /// What it came to.
        verdict: Verdict,
        /// Whether the log is of an earlier run.
        cached: bool,
        /// How many of the expected tests did what they should, and how many there are.
        tests: Option<(usize, usize)>,
        /// Why there is no better verdict.
        reason: Option<String>,
    },
    /// Failed by itself.
    Failed {
        /// The error and its causes, outermost first.
        error: Vec<String>,
        /// What would help, when something would.
        hint: Option<String>,
        /// The last lines of the log.
        tail: Vec<String>,
        /// Instances that cannot be had because of it.
        instances: Vec<String>,
    },
    /// In an evaluation: the model patch does not apply, which is a result. The evaluations on the
    /// image end with that verdict.
    PatchRefused {
        /// The hunks that failed, with file and line.
        failures: Vec<String>,
    },
    /// Not started: the node named here failed.
    Skipped {
        /// The id of the node that failed.
        because: String,
    },
    /// Not started or stopped: the run was interrupted.
    Cancelled,
}

/// Takes events as they happen. Called from several workers, one call at a time.
pub trait Reporter: Send {
    /// Takes one event.
    fn report(&mut self, event: &Event);
}
