//! The forecast: a run of a schedule without doing it, with durations instead of work. Pure.
//!
//! It says when a run will end, and in tests and benchmarks what an order of nodes is worth.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use petgraph::graph::NodeIndex;

use crate::key::Kind;
use crate::plan::Plan;

use super::durations::Durations;
use super::schedule::{Lane, PULLS_AT_ONCE, Schedule, State};

/// Says what is next; [`Schedule`] does, and what it is compared with.
pub trait Order {
    /// Takes the next node of a lane.
    fn take_next(&mut self, lane: Lane) -> Option<NodeIndex>;

    /// Says that a node is done.
    fn done(&mut self, index: NodeIndex);
}

impl Order for Schedule<'_> {
    fn take_next(&mut self, lane: Lane) -> Option<NodeIndex> {
        Schedule::take_next(self, lane)
    }

    fn done(&mut self, index: NodeIndex) {
        Schedule::done(self, index);
    }
}

/// What a run comes to when every node takes as long as it is said to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forecast {
    /// The end of the first evaluation, where there is one.
    pub first_verdict: Option<Duration>,
    /// The time until the last node ends.
    pub end: Duration,
    /// The most images of checkouts and instances that were there at once with evaluations to come.
    pub waiting_images: usize,
}

/// Runs `order` with a number of workers. `running` are the nodes that have started already, with
/// what is left of them; `takes` says how long every other node takes.
pub fn forecast(
    plan: &Plan,
    mut order: impl Order,
    workers: usize,
    running: &[(NodeIndex, Duration)],
    takes: impl Fn(NodeIndex) -> Duration,
) -> Forecast {
    let mut images = Images::of(plan);
    let mut ends: BinaryHeap<Reverse<(Duration, NodeIndex, bool)>> = BinaryHeap::new();
    let mut free = [workers.max(1), PULLS_AT_ONCE];
    let lane_of = |index: NodeIndex| Lane::of(&plan.graph[index].status);
    for (index, left) in running {
        let lane = lane_of(*index) as usize;
        free[lane] = free[lane].saturating_sub(1);
        ends.push(Reverse((*left, *index, lane == Lane::Pull as usize)));
    }
    let mut now = Duration::ZERO;
    let mut first_verdict = None;
    loop {
        for lane in [Lane::Pull, Lane::Build] {
            while free[lane as usize] > 0
                && let Some(index) = order.take_next(lane)
            {
                free[lane as usize] -= 1;
                ends.push(Reverse((now + takes(index), index, lane == Lane::Pull)));
            }
        }
        let Some(Reverse((end, index, is_pull))) = ends.pop() else { break };
        now = end;
        free[if is_pull { Lane::Pull } else { Lane::Build } as usize] += 1;
        order.done(index);
        images.done(plan, index);
        if plan.graph[index].kind() == Kind::Evaluation {
            first_verdict.get_or_insert(now);
        }
    }
    Forecast { first_verdict, end: now, waiting_images: images.most }
}

/// Returns what is left of a run, where something is known of every node that has not ended.
/// `running` are the nodes that have started, with the time since then.
pub fn time_left(
    plan: &Plan,
    schedule: &Schedule<'_>,
    durations: &Durations,
    workers: usize,
    running: impl Iterator<Item = (NodeIndex, Duration)>,
) -> Option<Duration> {
    let has_ended = |index| matches!(schedule.state(index), State::Done | State::Failed);
    let mut known = Vec::with_capacity(plan.graph.node_count());
    for index in plan.graph.node_indices() {
        known.push(match has_ended(index) {
            true => Duration::ZERO,
            false => durations.known(index)?,
        });
    }
    let running: Vec<(NodeIndex, Duration)> = running
        .map(|(index, since)| {
            // What takes longer than it should takes longer still.
            (index, known[index.index()].saturating_sub(since).max(since / 10))
        })
        .collect();
    let takes = |index: NodeIndex| known[index.index()];
    Some(forecast(plan, schedule.clone(), workers, &running, takes).end)
}

/// Counts the images that are there for evaluations to come.
struct Images {
    /// Evaluations to come, by the node below them.
    to_come: Vec<usize>,
    here: Vec<bool>,
    now: usize,
    most: usize,
}

impl Images {
    fn of(plan: &Plan) -> Images {
        let count = plan.graph.node_count();
        let mut to_come = vec![0; count];
        for (index, node) in plan.nodes().filter(|(_, node)| node.status.runs()) {
            let mut next = plan.parent(index).filter(|_| node.kind() == Kind::Evaluation);
            while let Some(below) = next {
                to_come[below.index()] += 1;
                next = plan.parent(below);
            }
        }
        Images { to_come, here: vec![false; count], now: 0, most: 0 }
    }

    fn done(&mut self, plan: &Plan, index: NodeIndex) {
        let at = index.index();
        match plan.graph[index].kind() {
            Kind::Checkout | Kind::Instance if self.to_come[at] > 0 => {
                self.here[at] = true;
                self.now += 1;
                self.most = self.most.max(self.now);
            }
            Kind::Evaluation => {
                let mut next = plan.parent(index);
                while let Some(below) = next {
                    let at = below.index();
                    self.to_come[at] -= 1;
                    if self.to_come[at] == 0 && std::mem::take(&mut self.here[at]) {
                        self.now -= 1;
                    }
                    next = plan.parent(below);
                }
            }
            Kind::Base | Kind::Env | Kind::Checkout | Kind::Instance => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::chain_plan;

    #[test]
    fn two_workers_share_the_work_and_what_runs_counts() {
        let plan = chain_plan(&[None, Some(0), Some(0), None]);
        let seconds = [4, 2, 2, 3].map(Duration::from_secs);
        let takes = |index: NodeIndex| seconds[index.index()];
        let all = forecast(&plan, Schedule::new(&plan, 2, takes), 2, &[], takes);
        assert_eq!(all.end, Duration::from_secs(6));
        let mut schedule = Schedule::new(&plan, 2, takes);
        let first = schedule.take_next(Lane::Build).unwrap();
        let second = schedule.take_next(Lane::Build).unwrap();
        let running = [(first, Duration::from_secs(1)), (second, Duration::from_secs(1))];
        assert_eq!(forecast(&plan, schedule, 2, &running, takes).end, Duration::from_secs(3));
    }
}
