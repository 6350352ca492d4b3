//! The schedule: which node runs next. Pure; the executor asks it and tells it what happened.
//!
//! A node on which nothing more stands is a goal: an evaluation, or an image where only images are
//! wanted. A ready goal goes first. Then comes the node whose chain ends soonest in a goal: so the
//! first verdict comes early, and little is made that nobody has taken up. One thing goes before
//! that: a node with so much on top of it that the run would end later if one more node went before
//! it. Durations are what was measured in earlier runs, or a guess by the kind: a wrong one costs
//! time and nothing else.
//!
//! What is pulled waits for the network and not for processors: it has a lane of its own, and waits
//! while enough is here that no worker has taken up. The schedule knows no clock: a simulation
//! ([`forecast`](super::forecast)) and a run ask the same one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use petgraph::Direction;
use petgraph::graph::NodeIndex;

use crate::plan::{Plan, Status};

/// How many images are pulled at once, beside the workers.
pub const PULLS_AT_ONCE: usize = 4;

/// The state of a node in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The parent is not done.
    Waiting,
    /// The parent is done, and no worker has the node.
    Ready,
    /// A worker has the node.
    Running,
    /// The node ended well, or needed nothing.
    Done,
    /// The node failed, or can no longer be started.
    Failed,
}

/// The resource that a running node waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Processors and the engine.
    Build,
    /// The network.
    Pull,
}

impl Lane {
    /// Returns the lane of a node that runs.
    pub fn of(status: &Status) -> Lane {
        match status {
            Status::Pull => Lane::Pull,
            _ => Lane::Build,
        }
    }
}

/// What is ready in a lane. A node stays in the other heap when it is taken from one, and is passed
/// over there.
#[derive(Debug, Clone, Default)]
struct Ready {
    /// Nodes on which nothing more stands, the longest first.
    goals: BinaryHeap<(Duration, Reverse<usize>)>,
    /// Other nodes, by how soon a chain ends that begins with them.
    soonest: BinaryHeap<Reverse<(Duration, usize)>>,
    /// The same nodes, by what is left from their start on.
    longest: BinaryHeap<(Duration, Reverse<usize>)>,
}

/// The states of all nodes of a plan.
#[derive(Debug, Clone)]
pub struct Schedule<'a> {
    plan: &'a Plan,
    workers: usize,
    states: Vec<State>,
    ready: [Ready; 2],
    /// The expected duration of each node, by its position in the plan.
    own: Vec<Duration>,
    /// From a node's start to the first end of a chain.
    soonest: Vec<Duration>,
    /// From a node's start to the end of all that stands on it, at best.
    longest: Vec<Duration>,
    /// Work of the workers that has not started.
    left: Duration,
    /// Whether something that stands on a node has started.
    taken_up: Vec<bool>,
    /// Nodes that are done and not taken up, though something that stands on them waits for a worker.
    ahead: usize,
}

impl<'a> Schedule<'a> {
    /// Starts a schedule for a number of workers: nodes that need nothing are done, the others wait
    /// for their parents. `expected` says how long a node takes.
    pub fn new(
        plan: &'a Plan,
        workers: usize,
        expected: impl Fn(NodeIndex) -> Duration,
    ) -> Schedule<'a> {
        let count = plan.graph.node_count();
        let own: Vec<Duration> = plan
            .nodes()
            .map(|(index, node)| match node.status.runs() {
                true => expected(index),
                false => Duration::ZERO,
            })
            .collect();
        let workers = workers.max(1);
        let mut below: Vec<Duration> = vec![Duration::ZERO; count];
        let mut soonest: Vec<Option<Duration>> = vec![None; count];
        let mut longest = vec![Duration::ZERO; count];
        for index in plan.graph.node_indices().rev() {
            let at = index.index();
            // What stands on a node was seen before it.
            let spread = below[at] / u32::try_from(workers).unwrap_or(u32::MAX);
            longest[at] = own[at] + longest[at].max(spread);
            let to_end = soonest[at].unwrap_or(Duration::ZERO) + own[at];
            soonest[at] = Some(to_end);
            if let Some(parent) = plan.parent(index).map(NodeIndex::index)
                && plan.graph[index].status.runs()
            {
                longest[parent] = longest[parent].max(longest[at]);
                let first = soonest[parent].map_or(to_end, |first| first.min(to_end));
                soonest[parent] = Some(first);
                let with_it = below[at] + own[at];
                below[parent] += with_it;
            }
        }
        let mut schedule = Schedule {
            plan,
            workers,
            states: vec![State::Waiting; count],
            ready: [Ready::default(), Ready::default()],
            soonest: soonest.into_iter().map(Option::unwrap_or_default).collect(),
            longest,
            left: Duration::ZERO,
            taken_up: vec![false; count],
            ahead: 0,
            own,
        };
        for (index, node) in plan.nodes() {
            if node.status.runs() && schedule.lane(index) == Lane::Build {
                schedule.left += schedule.own[index.index()];
            }
        }
        for (index, node) in plan.nodes() {
            if !node.status.runs() {
                schedule.set(index, State::Done);
                // It was here before the run.
                schedule.taken_up[index.index()] = true;
            } else if plan.parent(index).is_none_or(|parent| schedule.state(parent) == State::Done)
            {
                schedule.set(index, State::Ready);
            }
        }
        schedule
    }

    /// Returns where a node is.
    pub fn state(&self, index: NodeIndex) -> State {
        self.states[index.index()]
    }

    /// Takes the next node of a lane; it is running from now on. `None` where nothing of the lane is
    /// ready, or where nothing more is pulled for now.
    pub fn take_next(&mut self, lane: Lane) -> Option<NodeIndex> {
        let enough = 2 * self.workers + PULLS_AT_ONCE;
        if lane == Lane::Pull && self.ahead >= enough {
            return None;
        }
        self.pass_over_what_started(lane);
        let ready = &self.ready[lane as usize];
        let next = match (ready.goals.peek(), ready.soonest.peek(), ready.longest.peek()) {
            (Some((_, Reverse(goal))), _, _) => *goal,
            (None, Some(Reverse((_, soonest))), Some((longest, Reverse(largest)))) => {
                let share = self.left / u32::try_from(self.workers).unwrap_or(u32::MAX);
                let is_late = self.own[*soonest] + *longest > share;
                if is_late && self.ahead < enough { *largest } else { *soonest }
            }
            _ => return None,
        };
        let next = NodeIndex::new(next);
        self.set(next, State::Running);
        Some(next)
    }

    fn pass_over_what_started(&mut self, lane: Lane) {
        let states = &self.states;
        let started = |at: usize| states[at] != State::Ready;
        let Ready { goals, soonest, longest } = &mut self.ready[lane as usize];
        while goals.peek().is_some_and(|(_, Reverse(at))| started(*at)) {
            goals.pop();
        }
        while soonest.peek().is_some_and(|Reverse((_, at))| started(*at)) {
            soonest.pop();
        }
        while longest.peek().is_some_and(|(_, Reverse(at))| started(*at)) {
            longest.pop();
        }
    }

    /// Says that a node's image is there; what waited for it becomes ready.
    pub fn done(&mut self, index: NodeIndex) {
        self.set(index, State::Done);
        let mut waits_for_a_worker = false;
        for child in self.children(index).collect::<Vec<NodeIndex>>() {
            if self.state(child) == State::Waiting {
                self.set(child, State::Ready);
                waits_for_a_worker |= self.lane(child) == Lane::Build;
            }
        }
        match waits_for_a_worker {
            true => self.ahead += 1,
            false => self.taken_up[index.index()] = true,
        }
    }

    /// Says that a node failed; returns what can no longer be started, in the order of the plan.
    pub fn failed(&mut self, index: NodeIndex) -> Vec<NodeIndex> {
        self.set(index, State::Failed);
        let mut lost = Vec::new();
        let mut next: Vec<NodeIndex> = self.children(index).collect();
        while let Some(child) = next.pop() {
            if matches!(self.state(child), State::Waiting | State::Ready) {
                self.set(child, State::Failed);
                lost.push(child);
                next.extend(self.children(child));
            }
        }
        lost.sort();
        lost
    }

    /// Lists what was not started and can still be, and gives it up.
    pub fn give_up(&mut self) -> Vec<NodeIndex> {
        let left: Vec<NodeIndex> = self
            .plan
            .graph
            .node_indices()
            .filter(|index| matches!(self.state(*index), State::Waiting | State::Ready))
            .collect();
        for index in &left {
            self.set(*index, State::Failed);
        }
        left
    }

    fn children(&self, index: NodeIndex) -> impl Iterator<Item = NodeIndex> + use<'a> {
        self.plan.graph.neighbors_directed(index, Direction::Outgoing)
    }

    fn lane(&self, index: NodeIndex) -> Lane {
        Lane::of(&self.plan.graph[index].status)
    }

    /// The one place where a state changes.
    fn set(&mut self, index: NodeIndex, state: State) {
        let at = index.index();
        let old = std::mem::replace(&mut self.states[at], state);
        debug_assert!(
            !matches!(old, State::Done | State::Failed),
            "a node that ended does not change"
        );
        let lane = self.lane(index);
        match state {
            State::Ready => {
                let is_goal =
                    !self.children(index).any(|child| self.plan.graph[child].status.runs());
                let ready = &mut self.ready[lane as usize];
                match is_goal && lane == Lane::Build {
                    true => ready.goals.push((self.longest[at], Reverse(at))),
                    false => {
                        ready.soonest.push(Reverse((self.soonest[at], at)));
                        ready.longest.push((self.longest[at], Reverse(at)));
                    }
                }
            }
            State::Running => {
                if let Some(parent) = self.plan.parent(index).map(NodeIndex::index)
                    && !std::mem::replace(&mut self.taken_up[parent], true)
                {
                    self.ahead -= 1;
                }
            }
            State::Waiting | State::Done | State::Failed => {}
        }
        let was_left = matches!(old, State::Waiting | State::Ready);
        if was_left && !matches!(state, State::Waiting | State::Ready) && lane == Lane::Build {
            self.left = self.left.saturating_sub(self.own[at]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::{chain_plan, node_id};
    use proptest::prelude::*;

    fn schedule<'a>(plan: &'a Plan, workers: usize, seconds: &[u64]) -> Schedule<'a> {
        Schedule::new(plan, workers, |index| Duration::from_secs(seconds[index.index()]))
    }

    /// Runs a plan with one worker and returns the order of the ids.
    fn order(plan: &Plan, workers: usize, seconds: &[u64]) -> String {
        let mut schedule = schedule(plan, workers, seconds);
        let mut ids = Vec::new();
        while let Some(index) = schedule.take_next(Lane::Build) {
            ids.push(plan.graph[index].id.clone());
            schedule.done(index);
        }
        ids.join(" ")
    }

    #[test]
    fn the_chain_that_ends_soonest_goes_first_and_to_its_end() {
        // Two chains of three, and a node with two goals: parents by position.
        let plan = chain_plan(&[None, Some(0), Some(1), None, Some(3), Some(4), Some(4)]);
        assert_eq!(order(&plan, 1, &[9, 9, 9, 1, 1, 5, 2]), "n3 n4 n5 n6 n0 n1 n2");
    }

    #[test]
    fn a_chain_that_would_end_the_run_later_goes_first() {
        // One long chain beside ten short goals: two workers, and the long one is as long as all.
        let mut parents = vec![None, Some(0)];
        parents.extend((0..10).flat_map(|at| [None, Some(2 + 2 * at)]));
        let plan = chain_plan(&parents);
        let mut seconds = vec![1; parents.len()];
        seconds[1] = 30;
        let mut schedule = schedule(&plan, 2, &seconds);
        assert_eq!(node_id(&plan, schedule.take_next(Lane::Build)), "n0");
        assert_eq!(node_id(&plan, schedule.take_next(Lane::Build)), "n2");
        // With one worker the order does not change the end, and the short ones go first.
        assert!(order(&plan, 1, &seconds).ends_with("n0 n1"));
    }

    #[test]
    fn nothing_more_is_pulled_while_enough_is_here() {
        let pairs = 40;
        let parents: Vec<Option<usize>> = (0..pairs).flat_map(|at| [None, Some(2 * at)]).collect();
        let mut plan = chain_plan(&parents);
        for at in 0..pairs {
            plan.graph[NodeIndex::new(2 * at)].status = Status::Pull;
        }
        let mut schedule = schedule(&plan, 2, &vec![1; parents.len()]);
        let mut pulled = 0;
        while let Some(index) = schedule.take_next(Lane::Pull) {
            schedule.done(index);
            pulled += 1;
        }
        assert_eq!(pulled, 2 * 2 + PULLS_AT_ONCE);
        let goal = schedule.take_next(Lane::Build).unwrap();
        assert!(schedule.take_next(Lane::Pull).is_some());
        schedule.done(goal);
    }

    #[test]
    fn a_failed_node_takes_what_stands_on_it_and_nothing_else() {
        let plan = chain_plan(&[None, Some(0), Some(1), Some(0)]);
        let mut schedule = schedule(&plan, 1, &[1, 1, 1, 9]);
        let root = schedule.take_next(Lane::Build).unwrap();
        schedule.done(root);
        assert_eq!(node_id(&plan, schedule.take_next(Lane::Build)), "n3");
        let first = schedule.take_next(Lane::Build).unwrap();
        assert_eq!(node_id(&plan, Some(first)), "n1");
        let lost = schedule.failed(first);
        assert_eq!(lost.len(), 1);
        assert_eq!(schedule.take_next(Lane::Build), None);
    }

    proptest! {
        #[test]
        fn no_node_starts_before_its_parent_and_each_starts_once(
            parents in prop::collection::vec(prop::option::of(0usize..40), 1..40),
            fail in prop::collection::vec(any::<bool>(), 40),
            pull in prop::collection::vec(any::<bool>(), 40),
            seconds in prop::collection::vec(0u64..1000, 40),
            workers in 1usize..5,
        ) {
            let parents: Vec<Option<usize>> = parents
                .iter()
                .enumerate()
                .map(|(at, parent)| parent.filter(|parent| *parent < at))
                .collect();
            let mut plan = chain_plan(&parents);
            for (at, _) in pull.iter().take(parents.len()).enumerate().filter(|(_, pull)| **pull) {
                plan.graph[NodeIndex::new(at)].status = Status::Pull;
            }
            let mut schedule = schedule(&plan, workers, &seconds);
            let mut started = std::collections::HashSet::new();
            let mut ended = std::collections::HashSet::new();
            while let Some(index) = schedule
                .take_next(Lane::Pull)
                .or_else(|| schedule.take_next(Lane::Build))
            {
                prop_assert!(started.insert(index));
                if let Some(parent) = plan.parent(index) {
                    prop_assert_eq!(schedule.state(parent), State::Done);
                }
                prop_assert!(ended.insert(index));
                if fail[index.index()] {
                    for lost in schedule.failed(index) {
                        prop_assert!(ended.insert(lost));
                    }
                } else {
                    schedule.done(index);
                }
            }
            prop_assert_eq!(ended.len(), parents.len());
            prop_assert_eq!(schedule.left, Duration::ZERO);
            prop_assert_eq!(schedule.ahead, 0);
        }
    }
}
