//! What a run did, as `build --json` prints it.

use std::collections::HashMap;
use std::path::PathBuf;

use petgraph::graph::NodeIndex;
use serde::Serialize;

use crate::event::Outcome;
use crate::key::{Key, Kind};
use crate::plan::{Plan, Status};

use super::evaluation::EvaluationResult;
use super::worker::NodeReport;

/// The summary of a run.
#[derive(Debug, Clone, Serialize)]
pub struct RunSummary {
    /// Nodes that were built.
    pub built: usize,
    /// Nodes that needed nothing, or that another process built meanwhile.
    pub fresh: usize,
    /// Nodes that came from a registry.
    pub pulled: usize,
    /// Evaluations that were run.
    #[serde(skip_serializing_if = "is_zero")]
    pub evaluated: usize,
    /// Nodes that failed by themselves.
    pub failed: usize,
    /// Nodes that were not started.
    pub skipped: usize,
    /// Wall time of the run, in seconds.
    pub seconds: f64,
    /// Whether the run was asked to stop.
    #[serde(skip)]
    pub interrupted: bool,
    /// Whether a disk was too full to go on.
    #[serde(skip)]
    pub out_of_space: bool,
    /// Failed nodes for which this machine is at fault: what they need is not reached from here.
    #[serde(skip)]
    pub out_of_reach: usize,
    /// The results of the evaluations that have one, by node.
    #[serde(skip)]
    pub evaluations: HashMap<NodeIndex, EvaluationResult>,
    /// All nodes, parents before children.
    pub nodes: Vec<NodeSummary>,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// The status of a node at the end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeStatus {
    /// The image was here, or another process built it meanwhile.
    Fresh,
    /// Nothing that was wanted needs it.
    Unneeded,
    /// The image was built by this run.
    Built,
    /// The image came from a registry or an archive.
    Pulled,
    /// The evaluation has a verdict, of this run or of an earlier one.
    Evaluated,
    /// A patch of it does not apply.
    Refused,
    /// The node itself failed.
    Failed,
    /// The node was not started, since one that it stands on failed.
    Skipped,
    /// The node was not started, or was dropped, since the run was stopped.
    Cancelled,
}

impl NodeStatus {
    /// Tells whether the image is here at the end.
    pub fn is_there(self) -> bool {
        matches!(self, NodeStatus::Fresh | NodeStatus::Built | NodeStatus::Pulled)
    }

    /// Tells whether it was wanted and is not here at the end.
    pub fn is_missing(self) -> bool {
        matches!(self, NodeStatus::Failed | NodeStatus::Skipped | NodeStatus::Cancelled)
    }
}

/// The summary of one node.
#[derive(Debug, Clone, Serialize)]
pub struct NodeSummary {
    /// The id in the plan, such as `env:pallets/flask@2.3`.
    pub id: String,
    /// The kind of image.
    pub kind: Kind,
    /// The key that the image is found by, here and elsewhere.
    pub key: Key,
    /// The name of the image on the engine.
    pub image: String,
    /// The status at the end of the run.
    pub status: NodeStatus,
    /// Seconds of all tries.
    pub seconds: f64,
    /// Bytes that the node added to the engine.
    pub bytes: Option<u64>,
    /// The path of the full log; `None` where the node was not started.
    pub log: Option<PathBuf>,
    /// The error and its causes.
    pub error: Option<String>,
}

impl RunSummary {
    pub(super) fn new(plan: &Plan) -> Self {
        let nodes: Vec<NodeSummary> = plan
            .nodes()
            .map(|(_, node)| NodeSummary {
                id: node.id.clone(),
                kind: node.kind(),
                key: node.key,
                image: node.image.clone(),
                status: match node.status {
                    Status::Fresh => NodeStatus::Fresh,
                    Status::Unneeded => NodeStatus::Unneeded,
                    Status::Stale(_) | Status::Pull => NodeStatus::Skipped,
                },
                seconds: 0.0,
                bytes: None,
                log: None,
                error: None,
            })
            .collect();
        RunSummary {
            built: 0,
            fresh: nodes.iter().filter(|node| node.status == NodeStatus::Fresh).count(),
            pulled: 0,
            evaluated: 0,
            failed: 0,
            skipped: 0,
            seconds: 0.0,
            interrupted: false,
            out_of_space: false,
            out_of_reach: 0,
            evaluations: HashMap::new(),
            nodes,
        }
    }

    /// Tells whether this machine can do none of it: nothing was done, and whatever failed, failed
    /// for that.
    pub fn is_nothing_possible(&self) -> bool {
        let done = self.built + self.pulled + self.evaluated;
        self.failed > 0 && self.failed == self.out_of_reach && done == 0
    }

    /// Tells whether this machine, or the cluster, can run no tests: there is no verdict, and whatever failed,
    /// failed for that. Images may have been built.
    pub fn is_no_evaluation_possible(&self) -> bool {
        self.failed > 0 && self.failed == self.out_of_reach && self.evaluated == 0
    }

    pub(super) fn finish(
        &mut self,
        plan: &Plan,
        index: NodeIndex,
        finished: &NodeReport,
        seconds: f64,
    ) {
        debug_assert_eq!(plan.graph[index].id, self.nodes[index.index()].id);
        let mut refused = 0;
        let (status, count) = match &finished.outcome {
            // Counted as what stands on it: as a result.
            Outcome::PatchRefused { .. } => (NodeStatus::Refused, &mut refused),
            Outcome::Built => (NodeStatus::Built, &mut self.built),
            Outcome::Pulled => (NodeStatus::Pulled, &mut self.pulled),
            Outcome::FoundFresh => (NodeStatus::Fresh, &mut self.fresh),
            Outcome::Evaluated { .. } => (NodeStatus::Evaluated, &mut self.evaluated),
            Outcome::Failed { .. } => (NodeStatus::Failed, &mut self.failed),
            Outcome::Skipped { .. } => (NodeStatus::Skipped, &mut self.skipped),
            Outcome::Cancelled => (NodeStatus::Cancelled, &mut self.skipped),
        };
        *count += 1;
        self.out_of_space |= finished.ends_run;
        self.out_of_reach += usize::from(finished.out_of_reach);
        let node = &mut self.nodes[index.index()];
        node.status = status;
        node.seconds = seconds;
        node.bytes = finished.bytes;
        node.log = finished.log.clone();
        node.error = match &finished.outcome {
            Outcome::Failed { error, .. } => Some(error.join(": ")),
            Outcome::PatchRefused { failures } => Some(failures.join("; ")),
            Outcome::Skipped { because } => Some(format!("not started: `{because}` failed")),
            _ => None,
        };
    }
}
