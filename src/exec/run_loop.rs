//! The run loop: gives the nodes of a plan to workers in the order of the schedule, and tells what
//! became of each. It knows nothing of what a node is.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use petgraph::graph::NodeIndex;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Interval, MissedTickBehavior, interval_at};

use crate::event::{Outcome, Reporter};
use crate::plan::Plan;

use super::context::{Message, RunContext};
use super::durations::{self, Durations};
use super::event_stream::EventStream;
use super::forecast;
use super::schedule::{Lane, PULLS_AT_ONCE, Schedule};
use super::settings::Interrupt;
use super::summary::RunSummary;
use super::worker::{self, NodeReport};

/// How often it is told how long a run still takes.
const FORECAST_EVERY: Duration = Duration::from_secs(2);

/// A run that is under way.
pub(super) struct RunLoop<'a> {
    run: &'a Arc<RunContext>,
    plan: &'a Plan,
    interrupt: &'a Interrupt,
    stream: EventStream<'a>,
    schedule: Schedule<'a>,
    durations: Durations,
    summary: RunSummary,
    /// The nodes that workers have, each with its slot.
    tasks: JoinSet<(NodeIndex, usize, NodeReport)>,
    /// When each of them started.
    running: HashMap<NodeIndex, Instant>,
    slots: Slots,
    /// Whether no further node starts.
    stopping: bool,
}

/// The slots that are free: those of the workers come first, then those of pulls.
struct Slots {
    workers: usize,
    builds: Vec<usize>,
    pulls: Vec<usize>,
}

impl Slots {
    fn new(workers: usize) -> Slots {
        Slots {
            workers,
            builds: (0..workers).rev().collect(),
            pulls: (workers..workers + PULLS_AT_ONCE).rev().collect(),
        }
    }

    fn of(&mut self, lane: Lane) -> &mut Vec<usize> {
        match lane {
            Lane::Build => &mut self.builds,
            Lane::Pull => &mut self.pulls,
        }
    }

    fn give_back(&mut self, slot: usize) {
        let lane = if slot < self.workers { Lane::Build } else { Lane::Pull };
        self.of(lane).push(slot);
    }
}

impl<'a> RunLoop<'a> {
    /// Prepares a run; nothing starts yet.
    pub(super) fn new(
        run: &'a Arc<RunContext>,
        reporter: &'a mut dyn Reporter,
        interrupt: &'a Interrupt,
    ) -> RunLoop<'a> {
        let plan = &*run.plan;
        let stream = EventStream::new(plan, reporter);
        // Without its state a run would not be here; without this part the order is a guess.
        let recorded = run.store.durations(&run.settings.engine).unwrap_or_default();
        let durations = Durations::of(plan, &recorded);
        let usual = |index: NodeIndex| durations::usual(plan.graph[index].kind());
        let expected = |index| durations.known(index).unwrap_or_else(|| usual(index));
        let schedule = Schedule::new(plan, run.settings.workers, expected);
        RunLoop {
            run,
            plan,
            interrupt,
            stream,
            schedule,
            durations,
            summary: RunSummary::new(plan),
            tasks: JoinSet::new(),
            running: HashMap::new(),
            slots: Slots::new(run.settings.workers),
            stopping: false,
        }
    }

    /// Runs every node that needs it; returns what became of all. `inbox` has the messages of the
    /// workers.
    pub(super) async fn run(mut self, mut inbox: UnboundedReceiver<Message>) -> RunSummary {
        self.stream.run_started(self.run);
        let mut forecasts = forecasts();
        loop {
            self.heed_interrupt();
            self.start_ready();
            if self.tasks.is_empty() {
                break;
            }
            tokio::select! {
                biased;
                Some(message) = inbox.recv() => self.stream.message(message),
                Some(joined) = self.tasks.join_next() => {
                    while let Ok(message) = inbox.try_recv() {
                        self.stream.message(message);
                    }
                    self.end_task(joined);
                }
                () = self.interrupt.stop.cancelled(), if !self.stopping => {}
                _ = forecasts.tick(), if !self.stopping => self.forecast(),
            }
        }
        self.end()
    }

    /// Lets no further node start once the run was asked to stop.
    fn heed_interrupt(&mut self) {
        if self.interrupt.stop.is_cancelled() && !self.stopping {
            self.stopping = true;
            self.stream.interrupted(self.interrupt.kill.is_cancelled());
        }
    }

    /// Starts nodes as long as one is ready and its lane has a free slot.
    fn start_ready(&mut self) {
        while !self.stopping
            && let Some((index, lane)) = self.take_next()
        {
            let slot = self.slots.of(lane).pop().expect("a lane without a slot is not asked");
            self.start(index, slot);
        }
    }

    fn take_next(&mut self) -> Option<(NodeIndex, Lane)> {
        [Lane::Pull, Lane::Build].into_iter().find_map(|lane| {
            let free = !self.slots.of(lane).is_empty();
            let next = free.then(|| self.schedule.take_next(lane)).flatten();
            next.map(|index| (index, lane))
        })
    }

    fn start(&mut self, index: NodeIndex, slot: usize) {
        self.running.insert(index, Instant::now());
        self.stream.node_started(index, slot, worker::live_log(self.run, index));
        let run = self.run.clone();
        let Interrupt { stop, kill } = self.interrupt.clone();
        self.tasks.spawn(async move {
            let report = tokio::select! {
                report = worker::work(&run, index, &stop) => report,
                () = kill.cancelled() => NodeReport::of(Outcome::Cancelled),
            };
            (index, slot, report)
        });
    }

    /// Takes the end of a task: frees its slot, and settles its node and what stands on it.
    fn end_task(&mut self, joined: Result<(NodeIndex, usize, NodeReport), JoinError>) {
        let (index, slot, report) = match joined {
            Ok(ended) => ended,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        self.slots.give_back(slot);
        let seconds =
            self.running.remove(&index).map_or(0.0, |start| start.elapsed().as_secs_f64());
        let lost = match report.outcome {
            Outcome::Failed { .. } | Outcome::PatchRefused { .. } | Outcome::Cancelled => {
                self.schedule.failed(index)
            }
            _ => {
                self.schedule.done(index);
                Vec::new()
            }
        };
        self.note_duration(index, &report.outcome, seconds);
        self.stopping |= report.ends_run
            || self.run.settings.fail_fast && matches!(report.outcome, Outcome::Failed { .. });
        self.finish(index, report, seconds, lost);
    }

    /// Remembers how long a node took, where that says something of the next such node.
    fn note_duration(&mut self, index: NodeIndex, outcome: &Outcome, seconds: f64) {
        if !is_of_work(outcome) {
            return;
        }
        self.durations.note(index, seconds);
        let name = durations::name(&self.plan.graph[index]);
        // A lost duration makes the next forecast worse, and nothing wrong.
        let _ = self.run.store.note_duration(&self.run.settings.engine, &name, seconds);
    }

    /// Tells how a node ended, and then of those that are `lost` with it: each as the node's report
    /// says, else as skipped.
    fn finish(
        &mut self,
        index: NodeIndex,
        mut report: NodeReport,
        seconds: f64,
        lost: Vec<NodeIndex>,
    ) {
        let mut settled: HashMap<NodeIndex, Outcome> = report.also.drain(..).collect();
        let skipped = match report.outcome {
            Outcome::Cancelled => Outcome::Cancelled,
            _ => Outcome::Skipped { because: self.plan.graph[index].id.clone() },
        };
        self.summary.finish(self.plan, index, &report, seconds);
        self.stream.node_finished(index, report, seconds);
        for index in lost {
            let outcome = settled.remove(&index).unwrap_or_else(|| skipped.clone());
            self.end_unstarted(index, outcome);
        }
    }

    fn end_unstarted(&mut self, index: NodeIndex, outcome: Outcome) {
        let report = NodeReport::of(outcome);
        self.summary.finish(self.plan, index, &report, 0.0);
        self.stream.node_finished(index, report, 0.0);
    }

    /// Tells how long the run still takes, where that is known.
    fn forecast(&mut self) {
        let since = self.running.iter().map(|(index, start)| (*index, start.elapsed()));
        let workers = self.run.settings.workers;
        let left = forecast::time_left(self.plan, &self.schedule, &self.durations, workers, since);
        if let Some(left) = left {
            self.stream.forecast(left);
        }
    }

    /// Gives up what was not started, and tells what the run did.
    fn end(mut self) -> RunSummary {
        for index in self.schedule.give_up() {
            self.end_unstarted(index, Outcome::Cancelled);
        }
        self.summary.interrupted = self.interrupt.stop.is_cancelled();
        self.summary.seconds = self.stream.seconds();
        self.stream.run_finished(&self.summary);
        self.summary
    }
}

/// Ticks when a forecast is due: soon after the start, then now and then.
fn forecasts() -> Interval {
    let soon = tokio::time::Instant::now() + FORECAST_EVERY / 5;
    let mut forecasts = interval_at(soon, FORECAST_EVERY);
    forecasts.set_missed_tick_behavior(MissedTickBehavior::Delay);
    forecasts
}

/// Tells whether a node that ended so took the time that such a node takes.
fn is_of_work(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Built | Outcome::Pulled => true,
        Outcome::Evaluated { cached, .. } => !cached,
        _ => false,
    }
}
