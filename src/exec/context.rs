//! The context of a node: the engine, the state and the plan that its work uses. It decides nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use petgraph::graph::NodeIndex;
use tokio::sync::{OnceCell, Semaphore, mpsc};

use crate::cache::image_source::ImageSource;
use crate::engine::{BuildRequest, Builder, EngineError, Image, LogSink as _, label};
use crate::key::SCHEMA;
use crate::plan::{Node, Plan};
use crate::platform::Platform;
use crate::progress::NodeLog;
use crate::runner::TestRunner;
use crate::source::{Mirror, Mirrors};
use crate::store::{KeyLock, Store, space};

use super::NodeError;
use super::evaluation::{EvaluationContext, EvaluationResult, RunTarget};
use super::output::NodeOutput;
use super::settings::ExecSettings;

/// A message from a worker to the run loop.
pub(super) enum Message {
    Step { node: NodeIndex, step: String },
    Output { node: NodeIndex, output: Arc<NodeOutput> },
    Retry { node: NodeIndex, attempt: u32, reason: String, delay: Duration },
    Warning(String),
}

/// The part of the context that all nodes of a run share.
pub(super) struct RunContext {
    pub plan: Arc<Plan>,
    pub builder: Arc<dyn Builder>,
    pub runner: Arc<dyn TestRunner>,
    pub store: Arc<Store>,
    pub settings: ExecSettings,
    /// One permit for each build that may be under way.
    pub builds: Semaphore,
    /// The targets of the plan's evaluations; `None` for a plan of images.
    pub evaluations: Option<Arc<EvaluationContext>>,
    /// The place that images come from which the plan pulls by their keys.
    pub remote: Option<Arc<dyn ImageSource>>,
    /// Set once the remote has no more answers: no node waits for it again.
    pub remote_is_gone: AtomicBool,
    pub mirrors: Arc<Mirrors>,
    /// The mirrors that this run has opened, by repository.
    pub opened: Mutex<HashMap<String, Arc<OnceCell<Arc<Mirror>>>>>,
    pub messages: mpsc::UnboundedSender<Message>,
    /// The results of the evaluations that have ended.
    pub evaluated: Mutex<HashMap<NodeIndex, EvaluationResult>>,
}

impl RunContext {
    /// Sends a message to the run loop.
    pub(super) fn send(&self, message: Message) {
        // The run loop outlives its workers, but for a run that was dropped whole.
        let _ = self.messages.send(message);
    }

    /// Tells something that a person should know, and that stops nothing.
    pub(super) fn warn(&self, text: String) {
        self.send(Message::Warning(text));
    }

    /// Returns the predictions that an evaluation is run for: at least one.
    pub(super) fn targets(&self, index: NodeIndex) -> &[RunTarget] {
        &self.evaluations().targets[&index]
    }

    /// Returns the context of the evaluations; a plan that has any is run with one.
    pub(super) fn evaluations(&self) -> &EvaluationContext {
        self.evaluations.as_ref().expect("a plan with evaluations is run with their targets")
    }

    /// Keeps the result of an evaluation.
    pub(super) fn keep_result(&self, index: NodeIndex, evaluated: EvaluationResult) {
        self.evaluated.lock().expect("no holder of the lock panics").insert(index, evaluated);
    }

    /// Hands over the results of the evaluations.
    pub(super) fn take_results(&self) -> HashMap<NodeIndex, EvaluationResult> {
        std::mem::take(&mut *self.evaluated.lock().expect("no holder of the lock panics"))
    }

    /// Fails when a disk of the engine or of the state has less free than must stay so.
    pub(super) fn guard_disk(&self) -> Result<(), NodeError> {
        let roots = [Some(self.store.dir().to_owned()), self.settings.engine_root.clone()];
        for root in roots.into_iter().flatten() {
            space::guard(&root, self.settings.min_free, 0)?;
        }
        Ok(())
    }
}

/// What the work on one node uses.
#[derive(Clone, Copy)]
pub(super) struct NodeContext<'a> {
    pub run: &'a RunContext,
    pub index: NodeIndex,
    pub node: &'a Node,
    pub log: &'a Arc<NodeLog>,
}

impl<'a> NodeContext<'a> {
    /// Makes the context of a node of the run's plan.
    pub(super) fn new(run: &'a RunContext, index: NodeIndex, log: &'a Arc<NodeLog>) -> Self {
        NodeContext { run, index, node: &run.plan.graph[index], log }
    }

    /// Returns the context of the node's parent, with the log of this node.
    pub(super) fn parent(&self) -> Option<NodeContext<'a>> {
        let parent = self.run.plan.parent(self.index)?;
        Some(NodeContext::new(self.run, parent, self.log))
    }

    /// Returns the nodes that this one stands on, the nearest first.
    pub(super) fn below(&self) -> impl Iterator<Item = &'a Node> {
        let plan = &self.run.plan;
        let below = std::iter::successors(plan.parent(self.index), |index| plan.parent(*index));
        below.map(|index| &plan.graph[index])
    }

    /// Tells what is done now.
    pub(super) fn step(&self, step: impl Into<String>) {
        self.run.send(Message::Step { node: self.index, step: step.into() });
    }

    /// Writes a line of imgforge's own to the log.
    pub(super) fn note(&self, text: &str) {
        self.log.write(format!("imgforge: {text}\n").as_bytes());
    }

    /// Takes the lock of the node's key; returns with it whether another process had it. `step` is told
    /// then.
    pub(super) async fn lock_key(&self, step: &str) -> Result<(KeyLock, bool), NodeError> {
        if let Some(lock) = self.run.store.try_lock_key(&self.node.key)? {
            return Ok((lock, false));
        }
        self.step(step);
        Ok((self.run.store.lock_key(&self.node.key).await?, true))
    }

    /// Returns the node's image; one for another platform, which took its name, is not it.
    pub(super) async fn image(&self) -> Result<Image, NodeError> {
        let reference = self.node.image.clone();
        let image = self.run.builder.inspect(&reference).await?;
        let image = image.filter(|image| image.platform.matches(&self.run.plan.platform));
        image.ok_or(NodeError::Engine(EngineError::NoSuchImage { reference }))
    }

    /// Returns the image of the node's parent, where the node has one.
    pub(super) async fn parent_image(&self) -> Result<Option<Image>, NodeError> {
        match self.parent() {
            Some(parent) => Ok(Some(parent.image().await?)),
            None => Ok(None),
        }
    }

    /// Returns all labels of the node's image.
    pub(super) fn labels(&self) -> BTreeMap<String, String> {
        let node = self.node;
        let mut labels = BTreeMap::from([
            (label::KEY.to_owned(), node.key.to_string()),
            (label::KIND.to_owned(), node.kind().to_string()),
            (label::SCHEMA.to_owned(), SCHEMA.to_string()),
            (label::INPUTS.to_owned(), node.document.canonical()),
        ]);
        if let Some(parent) = self.parent() {
            labels.insert(label::PARENT.to_owned(), parent.node.key.to_string());
        }
        labels
    }

    /// Returns all names of the node's image, its own first.
    pub(super) fn tags(&self) -> Vec<String> {
        std::iter::once(&self.node.image).chain(&self.node.aliases).cloned().collect()
    }

    /// Makes the request for the node's image, without files and arguments.
    pub(super) fn build_request(&self, dockerfile: String, platform: &Platform) -> BuildRequest {
        BuildRequest {
            dockerfile,
            context: Vec::new(),
            args: BTreeMap::new(),
            platform: platform.clone(),
            labels: self.labels(),
            tags: self.tags(),
            host: self.run.settings.host.clone(),
            no_cache: self.node.status.is_forced(),
            as_docker: None,
        }
    }
}
