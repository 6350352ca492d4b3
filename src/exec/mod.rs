//! The executor: builds the stale nodes of a plan, in parallel, through a builder and a runner.
//!
//! [`Executor::run`] asks the [`schedule`] what is next, gives it to a [`worker`], and tells the
//! reporter what happened. It knows nothing of arguments and terminals. What was finished stays
//! whatever happens: an image gets its name only when it is whole, and is recorded after that.

mod control;
pub mod durations;
mod error;
mod evaluate;
pub mod evaluation;
pub mod evaluation_files;
pub mod forecast;
mod images;
pub mod output;
pub(crate) mod requirements;
pub mod schedule;
mod strict_log;
mod summary;
pub mod survey;
mod worker;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use petgraph::graph::NodeIndex;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cache::image_source::ImageSource;
use crate::engine::{Builder, HostAccess, Runner};
use crate::event::{EVENT_SCHEMA, Event, EventKind, NodeRef, Outcome, Reporter};
use crate::key::Kind;
use crate::plan::{Node, Plan, Status};
use crate::source::Mirrors;
use crate::store::Store;

pub use error::NodeError;
pub use summary::{NodeStatus, NodeSummary, RunSummary};

use durations::Durations;
use output::{NodeOutput, Told};
use schedule::{Lane, PULLS_AT_ONCE, Schedule};
use worker::Worker;

/// How often it is told how long a run still takes.
const FORECAST_EVERY: Duration = Duration::from_secs(2);

/// How a run is done.
#[derive(Debug, Clone)]
pub struct ExecSettings {
    /// How many nodes run at once, at least 1; what is pulled does not count.
    pub workers: usize,
    /// Whether an image is built that was to be pulled and cannot be.
    pub fallback_to_build: bool,
    /// Whether the first failure ends the run.
    pub fail_fast: bool,
    /// How often a node is tried when it fails for a reason that may pass.
    pub attempts: u32,
    /// What build steps get from the host.
    pub host: HostAccess,
    /// Where build logs go, `logs/build_images`.
    pub log_dir: PathBuf,
    /// Bytes that must stay free on the disks of the engine and of the state.
    pub min_free: u64,
    /// The engine as people are told of it.
    pub engine: String,
    /// The directory of the engine's images, when it is on this host.
    pub engine_root: Option<PathBuf>,
    /// This process, in labels of what exists only during a build.
    pub owner: String,
    /// What is told of what nodes print.
    pub told: Told,
}

/// The two stages of an interrupt.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    /// No new nodes start.
    pub stop: CancellationToken,
    /// Running nodes are dropped.
    pub kill: CancellationToken,
}

/// Builds plans.
pub struct Executor {
    /// What makes images.
    pub builder: Arc<dyn Builder>,
    /// What runs evaluations in them.
    pub runner: Arc<dyn Runner>,
    /// The state between runs.
    pub store: Arc<Store>,
    /// Where repositories come from.
    pub mirrors: Arc<Mirrors>,
    /// How it is done.
    pub settings: ExecSettings,
    /// What the plan's evaluations need; `None` for a plan of images.
    pub runs: Option<Arc<evaluation::EvaluationContext>>,
    /// Where images come from that the plan pulls by their keys.
    pub remote: Option<Arc<dyn ImageSource>>,
}

/// What a worker tells the run loop.
enum Message {
    Step { node: NodeIndex, step: String },
    Output { node: NodeIndex, output: Arc<NodeOutput> },
    Retry { node: NodeIndex, attempt: u32, reason: String, delay: Duration },
    Warning(String),
}

/// Numbers events and hands them on.
struct Stream<'r> {
    reporter: &'r mut dyn Reporter,
    start: Instant,
    seq: u64,
}

impl Stream<'_> {
    fn send(&mut self, kind: EventKind) {
        let elapsed = self.start.elapsed().as_secs_f64();
        self.reporter.report(&Event { seq: self.seq, elapsed, kind });
        self.seq += 1;
    }
}

/// Tells whether a node that ended so took the time that such a node takes.
fn is_of_work(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Built | Outcome::Pulled => true,
        Outcome::Evaluated { cached, .. } => !cached,
        _ => false,
    }
}

fn reference(node: &Node) -> NodeRef {
    NodeRef { id: node.id.clone(), kind: node.kind(), key: node.key }
}

impl Executor {
    /// Brings every node of the plan onto the engine. Failures are part of the summary; the run
    /// goes on with what does not depend on them.
    pub async fn run(
        &self,
        plan: Arc<Plan>,
        reporter: &mut dyn Reporter,
        interrupt: &Interrupt,
    ) -> RunSummary {
        let mut stream = Stream { reporter, start: Instant::now(), seq: 0 };
        let fresh = plan.nodes().filter(|(_, node)| node.status == Status::Fresh).count();
        let to_run = plan.nodes().filter(|(_, node)| node.status.runs()).count();
        stream.send(EventKind::RunStarted {
            schema_version: EVENT_SCHEMA,
            engine: self.settings.engine.clone(),
            workers: self.settings.workers,
            nodes: fresh + to_run,
            fresh,
            to_run,
            evaluations: plan
                .nodes()
                .filter(|(_, node)| node.kind() == Kind::Evaluation && node.status.runs())
                .count(),
            logs: self.logs(&plan),
        });
        let mut summary = RunSummary::new(&plan);
        // Without its state a run would not be here; without this part the order is a guess.
        let recorded = self.store.durations(&self.settings.engine).unwrap_or_default();
        let mut durations = Durations::of(&plan, &recorded);
        let usual = |index: NodeIndex| durations::usual(plan.graph[index].kind());
        let expected = |index| durations.known(index).unwrap_or_else(|| usual(index));
        let mut schedule = Schedule::new(&plan, self.settings.workers, expected);
        let (messages, mut inbox) = mpsc::unbounded_channel();
        let worker = Arc::new(Worker::new(self, plan.clone(), messages));
        let mut tasks: JoinSet<(NodeIndex, usize, worker::NodeReport)> = JoinSet::new();
        let workers = self.settings.workers;
        let mut free: Vec<usize> = (0..workers).rev().collect();
        let mut free_pulls: Vec<usize> = (workers..workers + PULLS_AT_ONCE).rev().collect();
        let mut running: HashMap<NodeIndex, Instant> = HashMap::new();
        let mut stopping = false;
        let soon = tokio::time::Instant::now() + FORECAST_EVERY / 5;
        let mut forecasts = tokio::time::interval_at(soon, FORECAST_EVERY);
        forecasts.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if interrupt.stop.is_cancelled() && !stopping {
                stopping = true;
                let dropped = interrupt.kill.is_cancelled();
                stream.send(EventKind::Interrupted { dropped });
            }
            loop {
                if stopping {
                    break;
                }
                let next = match (free_pulls.is_empty(), free.is_empty()) {
                    (false, _) if let Some(index) = schedule.take_next(Lane::Pull) => {
                        Some((index, &mut free_pulls))
                    }
                    (_, false) => schedule.take_next(Lane::Build).map(|index| (index, &mut free)),
                    _ => None,
                };
                let Some((index, slots)) = next else { break };
                let slot = slots.pop().expect("a lane without a slot is not asked");
                running.insert(index, Instant::now());
                stream.send(EventKind::NodeStarted {
                    node: reference(&plan.graph[index]),
                    worker: slot,
                    attempt: 1,
                    log: worker.live_log(index),
                });
                let worker = worker.clone();
                let Interrupt { stop, kill } = interrupt.clone();
                tasks.spawn(async move {
                    let finished = tokio::select! {
                        finished = worker.run(index, &stop) => finished,
                        () = kill.cancelled() => worker::NodeReport::of(Outcome::Cancelled),
                    };
                    (index, slot, finished)
                });
            }
            if tasks.is_empty() {
                break;
            }
            tokio::select! {
                biased;
                Some(message) = inbox.recv() => self.tell(&plan, &mut stream, message),
                Some(joined) = tasks.join_next() => {
                    while let Ok(message) = inbox.try_recv() {
                        self.tell(&plan, &mut stream, message);
                    }
                    let (index, slot, mut finished) = match joined {
                        Ok(finished) => finished,
                        Err(error) => std::panic::resume_unwind(error.into_panic()),
                    };
                    if slot < workers { &mut free } else { &mut free_pulls }.push(slot);
                    if let (Some(refused), Some(_)) = (&finished.refused, &self.runs) {
                        let failures = refused.failures.clone();
                        finished.outcome = Outcome::PatchRefused { failures };
                    }
                    let seconds = running
                        .remove(&index)
                        .map_or(0.0, |start| start.elapsed().as_secs_f64());
                    let lost = match finished.outcome {
                        Outcome::Failed { .. } | Outcome::PatchRefused { .. } | Outcome::Cancelled => {
                            schedule.failed(index)
                        }
                        _ => {
                            schedule.done(index);
                            Vec::new()
                        }
                    };
                    if is_of_work(&finished.outcome) {
                        durations.note(index, seconds);
                        let name = durations::name(&plan.graph[index]);
                        // A lost duration makes the next forecast worse, and nothing wrong.
                        let _ = self.store.note_duration(&self.settings.engine, &name, seconds);
                    }
                    stopping |= finished.ends_run
                        || self.settings.fail_fast
                            && matches!(finished.outcome, Outcome::Failed { .. });
                    let because = plan.graph[index].id.clone();
                    let skipped = match finished.outcome {
                        Outcome::Cancelled => Outcome::Cancelled,
                        _ => Outcome::Skipped { because },
                    };
                    summary.finish(&plan, index, &finished, seconds);
                    stream.send(EventKind::NodeFinished {
                        node: reference(&plan.graph[index]),
                        outcome: finished.outcome,
                        seconds,
                        bytes: finished.bytes,
                        log: finished.log.clone(),
                    });
                    for index in lost {
                        let outcome = match &finished.refused {
                            Some(refused) if self.runs.is_some() => {
                                worker.refused(index, refused).unwrap_or_else(|error| {
                                    let instances = plan.graph[index].instances.clone();
                                    error::outcome(&error, Vec::new(), instances)
                                })
                            }
                            _ => skipped.clone(),
                        };
                        self.end_unstarted(&plan, &mut stream, &mut summary, index, outcome);
                    }
                }
                () = interrupt.stop.cancelled(), if !stopping => {}
                _ = forecasts.tick(), if !stopping => {
                    let since = running.iter().map(|(index, start)| (*index, start.elapsed()));
                    let left =
                        forecast::time_left(&plan, &schedule, &durations, workers, since);
                    if let Some(left) = left {
                        stream.send(EventKind::Forecast { seconds_left: left.as_secs_f64() });
                    }
                }
            }
        }
        for index in schedule.give_up() {
            self.end_unstarted(&plan, &mut stream, &mut summary, index, Outcome::Cancelled);
        }
        summary.evaluations = worker.take_evaluated();
        summary.interrupted = interrupt.stop.is_cancelled();
        summary.seconds = stream.start.elapsed().as_secs_f64();
        stream.send(EventKind::RunFinished {
            built: summary.built,
            fresh: summary.fresh,
            pulled: summary.pulled,
            evaluated: summary.evaluated,
            failed: summary.failed,
            skipped: summary.skipped,
            seconds: summary.seconds,
        });
        summary
    }

    /// Lists the directories in which logs come to be.
    fn logs(&self, plan: &Plan) -> Vec<PathBuf> {
        let runs = |images: bool| {
            let is_image = |node: &Node| node.kind() != Kind::Evaluation;
            plan.nodes().any(|(_, node)| node.status.runs() && is_image(node) == images)
        };
        let images = runs(true).then(|| self.settings.log_dir.clone());
        let tests = self.runs.as_ref().filter(|_| runs(false));
        images.into_iter().chain(tests.map(|runs| runs.dir.path().to_owned())).collect()
    }

    fn end_unstarted(
        &self,
        plan: &Plan,
        stream: &mut Stream<'_>,
        summary: &mut RunSummary,
        index: NodeIndex,
        outcome: Outcome,
    ) {
        let finished = worker::NodeReport::of(outcome);
        summary.finish(plan, index, &finished, 0.0);
        stream.send(EventKind::NodeFinished {
            node: reference(&plan.graph[index]),
            outcome: finished.outcome,
            seconds: 0.0,
            bytes: None,
            log: None,
        });
    }

    fn tell(&self, plan: &Plan, stream: &mut Stream<'_>, message: Message) {
        stream.send(match message {
            Message::Output { node, output } => {
                let (lines, left_out) = output.take();
                let more = format!("… {left_out} lines before this are in the log alone");
                let more = (left_out > 0).then_some(more);
                for line in more.into_iter().chain(lines) {
                    let node = reference(&plan.graph[node]);
                    stream.send(EventKind::NodeOutput { node, line });
                }
                return;
            }
            Message::Step { node, step } => {
                EventKind::NodeStep { node: reference(&plan.graph[node]), step }
            }
            Message::Retry { node, attempt, reason, delay } => EventKind::NodeRetry {
                node: reference(&plan.graph[node]),
                attempt,
                reason,
                delay: delay.as_secs_f64(),
            },
            Message::Warning(text) => EventKind::Warning { text },
        });
    }
}
