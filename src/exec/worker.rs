//! A worker: brings one node onto the engine.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use petgraph::graph::NodeIndex;
use tokio::sync::{OnceCell, mpsc};
use tokio_util::sync::CancellationToken;

use crate::cache::check::{self, Wrong};
use crate::cache::from_image;
use crate::cache::image_source::ImageSource;
use crate::engine::{Builder, EngineError, Image, LogSink, Runner, check_platform, label};
use crate::event::Outcome;
use crate::key::{Kind, SCHEMA};
use crate::plan::{Node, Plan, Reason, Status};
use crate::platform;
use crate::progress::NodeLog;
use crate::recipe::{EvaluationRecipe, PublishedRecipe, Recipe};
use crate::source::{Mirror, Which};
use crate::store::{BuildRecord, ImageRecord, Store};

use super::error::chain;
use super::evaluation::{EvaluationContext, EvaluationResult};
use super::output::{Lines, NodeOutput};
use super::{ExecSettings, Executor, Message, NodeError};

/// How a node ended.
pub(super) struct NodeReport {
    pub outcome: Outcome,
    pub bytes: Option<u64>,
    pub log: Option<PathBuf>,
    /// Whether no further node can succeed.
    pub ends_run: bool,
    /// Whether this machine, and not the node, is at fault: what it needs is not reached here.
    pub out_of_reach: bool,
    /// The model patch does not apply.
    pub refused: Option<PatchRejection>,
}

impl NodeReport {
    pub fn of(outcome: Outcome) -> Self {
        NodeReport {
            outcome,
            bytes: None,
            log: None,
            ends_run: false,
            out_of_reach: false,
            refused: None,
        }
    }
}

/// Why a model patch does not apply.
pub(super) struct PatchRejection {
    /// The hunks that failed, with file and line.
    pub failures: Vec<String>,
    /// What every attempt printed.
    pub text: String,
}

/// What a try came to.
pub(super) struct AttemptOk {
    pub outcome: Outcome,
    pub bytes: Option<u64>,
}

/// Builds nodes of one plan. Shared by all slots.
pub(super) struct Worker {
    pub(super) builder: Arc<dyn Builder>,
    pub(super) runner: Arc<dyn Runner>,
    pub(super) store: Arc<Store>,
    pub(super) plan: Arc<Plan>,
    pub(super) runs: Option<Arc<EvaluationContext>>,
    pub(super) settings: ExecSettings,
    pub(super) remote: Option<Arc<dyn ImageSource>>,
    /// Set once that has no more answers: nobody waits for it again.
    remote_is_gone: AtomicBool,
    mirrors: Arc<crate::source::Mirrors>,
    messages: mpsc::UnboundedSender<Message>,
    opened: Mutex<HashMap<String, Arc<OnceCell<Arc<Mirror>>>>>,
    evaluated: Mutex<HashMap<NodeIndex, EvaluationResult>>,
}

impl Worker {
    pub fn new(
        executor: &Executor,
        plan: Arc<Plan>,
        messages: mpsc::UnboundedSender<Message>,
    ) -> Self {
        Worker {
            builder: executor.builder.clone(),
            runner: executor.runner.clone(),
            store: executor.store.clone(),
            plan,
            runs: executor.runs.clone(),
            remote: executor.remote.clone(),
            remote_is_gone: AtomicBool::new(false),
            mirrors: executor.mirrors.clone(),
            settings: executor.settings.clone(),
            messages,
            opened: Mutex::new(HashMap::new()),
            evaluated: Mutex::new(HashMap::new()),
        }
    }

    /// Keeps what an evaluation came to.
    pub(super) fn record_evaluated(&self, index: NodeIndex, evaluated: EvaluationResult) {
        self.evaluated.lock().expect("no holder of the lock panics").insert(index, evaluated);
    }

    /// Hands over what the evaluations came to.
    pub(super) fn take_evaluated(&self) -> HashMap<NodeIndex, EvaluationResult> {
        std::mem::take(&mut *self.evaluated.lock().expect("no holder of the lock panics"))
    }

    /// Returns the file that has what a node prints, as it comes.
    pub fn live_log(&self, index: NodeIndex) -> PathBuf {
        let node = &self.plan.graph[index];
        match node.kind() {
            Kind::Evaluation => self.output_path(index),
            kind => NodeLog::path_of(&self.settings.log_dir, kind, &node.image),
        }
    }

    /// Returns who tells what a node prints, where it is told.
    fn watcher(&self, index: NodeIndex) -> Option<Arc<dyn LogSink>> {
        let lines = match self.plan.graph[index].kind() {
            Kind::Evaluation => self.settings.told.tests,
            _ => self.settings.told.images,
        };
        if lines == Lines::None {
            return None;
        }
        Some(Arc::new_cyclic(|output: &Weak<NodeOutput>| {
            let (output, messages) = (output.clone(), self.messages.clone());
            NodeOutput::new(lines == Lines::All, move || {
                if let Some(output) = output.upgrade() {
                    let _ = messages.send(Message::Output { node: index, output });
                }
            })
        }))
    }

    /// Brings a node onto the engine, trying again what may pass, until `stop`.
    pub async fn run(&self, index: NodeIndex, stop: &CancellationToken) -> NodeReport {
        let node = &self.plan.graph[index];
        let log = match node.kind() {
            Kind::Evaluation => self.run_log(index),
            kind => NodeLog::create(&self.settings.log_dir, kind, &node.image),
        };
        let log = match log {
            Ok(log) => Arc::new(log.watched_by(self.watcher(index))),
            Err(source) => {
                let path = self.settings.log_dir.clone();
                return self.failed(node, &NodeError::File { path, source }, Vec::new(), None);
            }
        };
        let mut attempt = 1;
        loop {
            let error = match self.attempt(index, &log).await {
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
            if !error.is_transient() || attempt >= self.settings.attempts {
                let path = Some(log.path().to_owned());
                return self.failed(node, &error, log.tail(), path);
            }
            if stop.is_cancelled() {
                return NodeReport::of(Outcome::Cancelled);
            }
            let delay = backoff(attempt);
            self.send(Message::Retry {
                node: index,
                attempt,
                reason: chain(&error).join(": "),
                delay,
            });
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = stop.cancelled() => return NodeReport::of(Outcome::Cancelled),
            }
            attempt += 1;
        }
    }

    fn failed(
        &self,
        node: &Node,
        error: &NodeError,
        tail: Vec<String>,
        log: Option<PathBuf>,
    ) -> NodeReport {
        NodeReport {
            outcome: super::error::outcome(error, tail, node.instances.clone()),
            bytes: None,
            log,
            ends_run: error.ends_run(),
            out_of_reach: error.is_out_of_reach(),
            refused: match error {
                NodeError::PatchRefused { which: Which::Model, failures, text } => {
                    Some(PatchRejection { failures: failures.clone(), text: text.clone() })
                }
                _ => None,
            },
        }
    }

    /// Tells something that a person should know, and that stops nothing.
    pub(super) fn warn(&self, text: String) {
        self.send(Message::Warning(text));
    }

    fn send(&self, message: Message) {
        // The run loop outlives its workers, but for a run that was dropped whole.
        let _ = self.messages.send(message);
    }

    pub(super) fn step(&self, node: NodeIndex, step: impl Into<String>) {
        self.send(Message::Step { node, step: step.into() });
    }

    /// One try: under the key's lock, unless the image came to be meanwhile. A parent that somebody
    /// removed is built again, once.
    fn attempt<'a>(
        &'a self,
        index: NodeIndex,
        log: &'a Arc<NodeLog>,
    ) -> Pin<Box<dyn Future<Output = Result<AttemptOk, NodeError>> + Send + 'a>> {
        Box::pin(async move {
            let node = &self.plan.graph[index];
            match &node.recipe {
                Recipe::Published(recipe) => return self.pull(node, recipe, log).await,
                Recipe::Evaluation(recipe) => {
                    return self.evaluate_on_image(index, recipe, log).await;
                }
                _ => {}
            }
            self.guard_disk()?;
            let _lock = match self.store.try_lock_key(&node.key)? {
                Some(lock) => lock,
                None => {
                    self.step(index, "wait for another process that builds it");
                    self.store.lock_key(&node.key).await?
                }
            };
            let forced = matches!(&node.status, Status::Stale(reasons)
                if reasons.contains(&Reason::Forced));
            if !forced && let Some(Ok(image)) = self.checked_image(index).await? {
                self.apply_aliases(node, &image).await?;
                self.record(node, &image, None, 0.0)?;
                return Ok(AttemptOk { outcome: Outcome::FoundFresh, bytes: None });
            }
            let (start, started) = (Instant::now(), jiff::Timestamp::now().as_second());
            if node.status == Status::Pull
                && let Some(remote) = self.remote.clone()
                && !self.remote_is_gone.load(Ordering::Relaxed)
            {
                match self.fetch_remote(index, &*remote, log).await {
                    Ok((image, below)) => {
                        self.apply_aliases(node, &image).await?;
                        let bytes = Some(image.size.saturating_sub(below));
                        self.record(node, &image, None, start.elapsed().as_secs_f64())?;
                        return Ok(AttemptOk { outcome: Outcome::Pulled, bytes });
                    }
                    Err(error) if error.ends_run() || !self.settings.fallback_to_build => {
                        return Err(error);
                    }
                    Err(error) => {
                        let why = chain(&error).join(": ");
                        log.write(format!("imgforge: {why}\n").as_bytes());
                        let all = matches!(&error, NodeError::Engine(one) if one.is_of_registry());
                        let text = match all {
                            false => {
                                let id = &node.id;
                                format!("{id} cannot be pulled, it is built instead: {why}")
                            }
                            true => format!("what is left is built and not pulled: {why}"),
                        };
                        if !all || !self.remote_is_gone.swap(true, Ordering::Relaxed) {
                            self.send(Message::Warning(text));
                        }
                    }
                }
            }
            if !self.settings.fallback_to_build {
                let remote =
                    self.remote.as_ref().map_or("nothing".to_owned(), |one| one.describe());
                return Err(NodeError::NotOffered { remote });
            }
            let image = match self.build(index, log).await {
                Err(NodeError::Engine(EngineError::NoSuchImage { reference })) => {
                    self.send(Message::Warning(format!(
                        "`{reference}` was removed while it was needed; building it again"
                    )));
                    self.rebuild_parent(index, &reference, log).await?;
                    self.build(index, log).await?
                }
                built => built?,
            };
            let parent = match self.plan.parent(index) {
                Some(parent) => Some(self.image_of(&self.plan.graph[parent]).await?),
                None => None,
            };
            if let Some(parent) = &parent
                && !image.diff_ids.starts_with(&parent.diff_ids)
            {
                let _ = self.builder.remove(&node.image).await;
                let parent = parent.tags.first().unwrap_or(&parent.id).clone();
                return Err(NodeError::NotOnParent { parent });
            }
            if let Err(error) = check_platform(&node.image, &image.platform, &self.plan.platform) {
                let _ = self.builder.remove(&node.image).await;
                return Err(error.into());
            }
            let bytes = image.size.saturating_sub(parent.as_ref().map_or(0, |parent| parent.size));
            self.record(node, &image, Some(bytes), start.elapsed().as_secs_f64())?;
            let build = BuildRecord {
                started,
                finished: jiff::Timestamp::now().as_second(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
            };
            self.store.note_build(&self.settings.engine, &node.key, &image.id, &build)?;
            Ok(AttemptOk { outcome: Outcome::Built, bytes: Some(bytes) })
        })
    }

    /// Runs an evaluation; an image that somebody removed is made again, once.
    async fn evaluate_on_image(
        &self,
        index: NodeIndex,
        recipe: &EvaluationRecipe,
        log: &Arc<NodeLog>,
    ) -> Result<AttemptOk, NodeError> {
        match self.evaluate(index, recipe, log).await {
            Err(NodeError::Engine(EngineError::NoSuchImage { reference })) => {
                self.rebuild_parent(index, &reference, log).await?;
                self.evaluate(index, recipe, log).await
            }
            done => done,
        }
    }

    pub(super) fn guard_disk(&self) -> Result<(), NodeError> {
        let roots = [Some(self.store.dir().to_owned()), self.settings.engine_root.clone()];
        for root in roots.into_iter().flatten() {
            crate::store::space::guard(&root, self.settings.min_free, 0)?;
        }
        Ok(())
    }

    /// Returns the node's image, or what is wrong with it; `None` where the engine has none.
    async fn checked_image(
        &self,
        index: NodeIndex,
    ) -> Result<Option<Result<Image, Wrong>>, NodeError> {
        let node = &self.plan.graph[index];
        let Some(image) = self.builder.inspect(&node.image).await? else { return Ok(None) };
        let below = match self.plan.parent(index) {
            Some(parent) => {
                self.builder.inspect(&self.plan.graph[parent].image).await?.into_iter().collect()
            }
            None => from_image::below(&*self.builder, self.remote.as_deref(), &image).await?,
        };
        let below: Vec<&Image> = below.iter().collect();
        let checked = check::check(&image, node.kind(), &node.key, &below);
        Ok(Some(checked.map(|()| image)))
    }

    /// Brings an image from elsewhere; returns it with the bytes of its parent. What comes and is not
    /// what was meant is removed.
    async fn fetch_remote(
        &self,
        index: NodeIndex,
        remote: &dyn ImageSource,
        log: &Arc<NodeLog>,
    ) -> Result<(Image, u64), NodeError> {
        let node = &self.plan.graph[index];
        self.step(index, format!("pull from {}", remote.describe()));
        let parent = match self.plan.parent(index) {
            Some(parent) => Some(self.image_of(&self.plan.graph[parent]).await?),
            None => None,
        };
        remote.bring(&*self.builder, node.kind(), &node.key, parent.as_ref(), &**log).await?;
        if node.kind() == Kind::Base
            && let Some(base) = self.builder.inspect(&node.image).await?
        {
            from_image::bring(&*self.builder, remote, &base, &**log).await?;
        }
        let why = match self.checked_image(index).await? {
            Some(Ok(image)) => return Ok((image, parent.map_or(0, |parent| parent.size))),
            Some(Err(wrong)) => wrong.to_string(),
            None => "it is not here afterwards".to_owned(),
        };
        self.builder.remove(&node.image).await?;
        Err(NodeError::Engine(EngineError::Pull {
            reference: node.image.clone(),
            reason: format!("what {} has of it is not taken: {why}", remote.describe()),
        }))
    }

    /// Builds again what `index` stands on, after the engine said that `reference` is not there.
    async fn rebuild_parent(
        &self,
        index: NodeIndex,
        reference: &str,
        log: &Arc<NodeLog>,
    ) -> Result<(), NodeError> {
        match self.plan.parent(index) {
            Some(parent) => {
                self.attempt(parent, log).await?;
            }
            None => {
                let from = match &self.plan.graph[index].recipe {
                    Recipe::Base(base) => from_image::of_recipe(base),
                    _ => Vec::new(),
                };
                let from = from.into_iter().find(|from| from.reference == reference);
                let here = match from {
                    Some(from) => self.name_of_from(index, &from, log).await?,
                    None => None,
                };
                if here.is_none() {
                    let platform = &self.plan.platform;
                    self.builder.pull(reference, platform, &**log).await?;
                }
            }
        }
        Ok(())
    }

    async fn apply_aliases(&self, node: &Node, image: &Image) -> Result<(), NodeError> {
        for alias in &node.aliases {
            if !image.tags.contains(alias) {
                self.builder.tag(&image.id, alias).await?;
            }
        }
        Ok(())
    }

    fn record(
        &self,
        node: &Node,
        image: &Image,
        bytes: Option<u64>,
        seconds: f64,
    ) -> Result<(), NodeError> {
        let parent = image.config.labels.get(label::PARENT).and_then(|key| key.parse().ok());
        self.store.record_image(&ImageRecord {
            key: node.key,
            kind: node.kind(),
            node: node.id.clone(),
            engine: self.settings.engine.clone(),
            image_id: image.id.clone(),
            diff_ids: image.diff_ids.clone(),
            parent,
            document: node.document.canonical(),
            bytes: bytes.unwrap_or(0),
            seconds,
        })?;
        Ok(())
    }

    /// Returns all labels of a node's image.
    pub(super) fn labels(&self, index: NodeIndex) -> BTreeMap<String, String> {
        let node = &self.plan.graph[index];
        let mut labels = BTreeMap::from([
            (label::KEY.to_owned(), node.key.to_string()),
            (label::KIND.to_owned(), node.kind().to_string()),
            (label::SCHEMA.to_owned(), SCHEMA.to_string()),
            (label::INPUTS.to_owned(), node.document.canonical()),
        ]);
        if let Some(parent) = self.plan.parent(index) {
            labels.insert(label::PARENT.to_owned(), self.plan.graph[parent].key.to_string());
        }
        labels
    }

    pub(super) fn tags(node: &Node) -> Vec<String> {
        std::iter::once(&node.image).chain(&node.aliases).cloned().collect()
    }

    /// Looks at a node's image; one for another platform, which took its name, is not it.
    pub(super) async fn image_of(&self, node: &Node) -> Result<Image, NodeError> {
        let reference = node.image.clone();
        let image = self.builder.inspect(&reference).await?;
        let image = image.filter(|image| platform::same(&image.platform, &self.plan.platform));
        image.ok_or(NodeError::Engine(EngineError::NoSuchImage { reference }))
    }

    async fn build(&self, index: NodeIndex, log: &Arc<NodeLog>) -> Result<Image, NodeError> {
        match &self.plan.graph[index].recipe {
            Recipe::Base(recipe) => self.build_base(index, recipe, log).await,
            Recipe::Env(recipe) => self.build_env(index, recipe, log).await,
            Recipe::Checkout(recipe) => self.build_checkout(index, recipe, log).await,
            Recipe::Instance(recipe) => self.build_instance(index, recipe, log).await,
            Recipe::Published(recipe) => {
                Ok(self.builder.pull(&recipe.reference, &recipe.platform, &**log).await?)
            }
            Recipe::Evaluation(_) => unreachable!("an evaluation builds nothing"),
        }
    }

    async fn pull(
        &self,
        node: &Node,
        recipe: &PublishedRecipe,
        log: &Arc<NodeLog>,
    ) -> Result<AttemptOk, NodeError> {
        let image = self.builder.pull(&recipe.reference, &recipe.platform, &**log).await?;
        self.apply_aliases(node, &image).await?;
        Ok(AttemptOk { outcome: Outcome::Pulled, bytes: Some(image.size) })
    }

    /// Opens the mirror of `repo` with every commit that the plan needs of it.
    pub(super) async fn mirror(
        &self,
        index: NodeIndex,
        repo: &str,
        log: &Arc<NodeLog>,
    ) -> Result<Arc<Mirror>, NodeError> {
        let cell = {
            let mut opened = self.opened.lock().expect("no holder of the lock panics");
            opened.entry(repo.to_owned()).or_default().clone()
        };
        let needed = self.needed_commit(index);
        let open = || async {
            self.step(index, format!("fetch {repo}"));
            let commits = self.commits_of(repo);
            self.open_mirror(repo, commits, log).await
        };
        match cell.get_or_try_init(open).await {
            Ok(mirror) => Ok(mirror.clone()),
            // Some other commit of the plan may be the one that is missing: only a node's own
            // commit makes it fail.
            Err(_) => self.open_mirror(repo, needed.into_iter().collect(), log).await,
        }
    }

    async fn open_mirror(
        &self,
        repo: &str,
        commits: Vec<String>,
        log: &Arc<NodeLog>,
    ) -> Result<Arc<Mirror>, NodeError> {
        let mirrors = self.mirrors.clone();
        let repo = repo.to_owned();
        let log = log.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let commits: Vec<&str> = commits.iter().map(String::as_str).collect();
            mirrors.mirror(&repo, &commits, &*log)
        });
        Ok(Arc::new(opened.await.expect("opening a mirror does not panic")?))
    }

    fn needed_commit(&self, index: NodeIndex) -> Option<String> {
        match &self.plan.graph[index].recipe {
            Recipe::Checkout(recipe) => Some(recipe.base_commit.clone()),
            Recipe::Instance(recipe) => Some(recipe.base_commit.clone()),
            Recipe::Env(recipe) => recipe.requirements.first().map(|file| file.commit.clone()),
            Recipe::Base(_) | Recipe::Published(_) | Recipe::Evaluation(_) => None,
        }
    }

    fn commits_of(&self, repo: &str) -> Vec<String> {
        let mut commits: Vec<String> = self
            .plan
            .nodes()
            .filter(|(_, node)| node.status.runs())
            .filter(|(_, node)| match &node.recipe {
                Recipe::Checkout(recipe) => recipe.repo == repo,
                Recipe::Instance(recipe) => recipe.repo == repo,
                Recipe::Env(recipe) => recipe.requirements.iter().any(|file| file.repo == repo),
                Recipe::Base(_) | Recipe::Published(_) | Recipe::Evaluation(_) => false,
            })
            .filter_map(|(index, _)| self.needed_commit(index))
            .collect();
        commits.sort();
        commits.dedup();
        commits
    }
}

/// Returns how long to wait after a try: 1, 2, 4 … seconds and a little more, at most 30.
fn backoff(attempt: u32) -> Duration {
    let seconds = 2f64.powi(attempt.saturating_sub(1).min(5) as i32).min(30.0);
    Duration::from_secs_f64(seconds * rand::random_range(1.0..1.25))
}
