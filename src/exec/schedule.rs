//! The schedule: which node runs next. Pure; the executor asks it and tells it what happened.
//!
//! Ready nodes with the longest chain below them go first, so that one long chain does not hold
//! up the end of a run; among equals the one that more nodes wait for, then the order of the plan.
//! What is pulled waits for the network and not for processors: it has a lane of its own.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use petgraph::Direction;
use petgraph::graph::NodeIndex;

use crate::plan::{Plan, Status};

/// Where a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its parent is not done.
    Waiting,
    /// It can start.
    Ready,
    /// A worker has it.
    Running,
    /// Its image is there.
    Done,
    /// It failed, or it was not started because another failed.
    Failed,
}

/// What a node waits for when it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Processors and the engine.
    Build,
    /// The network.
    Pull,
}

/// A heap of ready nodes: depth, how many wait, and the position in the plan.
type Ready = BinaryHeap<(usize, usize, Reverse<usize>)>;

/// The states of all nodes of a plan.
pub struct Schedule<'a> {
    plan: &'a Plan,
    states: Vec<State>,
    ready: [Ready; 2],
    depth: Vec<usize>,
    below: Vec<usize>,
}

impl<'a> Schedule<'a> {
    /// Starts a schedule: nodes that need nothing are done, the others wait for their parents.
    pub fn new(plan: &'a Plan) -> Self {
        let count = plan.graph.node_count();
        let mut depth = vec![0; count];
        let mut below = vec![0; count];
        for index in plan.graph.node_indices().rev() {
            let runs = usize::from(plan.graph[index].status.runs());
            if let Some(parent) = plan.parent(index) {
                let (own_depth, own_below) = (depth[index.index()], below[index.index()]);
                let parent = parent.index();
                depth[parent] = depth[parent].max(own_depth + runs);
                below[parent] += own_below + runs;
            }
        }
        let mut schedule = Schedule {
            plan,
            states: vec![State::Waiting; count],
            ready: [Ready::new(), Ready::new()],
            depth,
            below,
        };
        for (index, node) in plan.nodes() {
            if !node.status.runs() {
                schedule.set(index, State::Done);
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

    /// Takes the next node of a lane; it is running from now on.
    pub fn take_next(&mut self, lane: Lane) -> Option<NodeIndex> {
        while let Some((_, _, Reverse(index))) = self.ready[lane as usize].pop() {
            let index = NodeIndex::new(index);
            if self.state(index) == State::Ready {
                self.set(index, State::Running);
                return Some(index);
            }
        }
        None
    }

    /// Says that a node's image is there; what waited for it becomes ready.
    pub fn done(&mut self, index: NodeIndex) {
        self.set(index, State::Done);
        let children: Vec<NodeIndex> = self.children(index).collect();
        for child in children {
            if self.state(child) == State::Waiting {
                self.set(child, State::Ready);
            }
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

    /// The one place where a state changes.
    fn set(&mut self, index: NodeIndex, state: State) {
        let at = index.index();
        let old = std::mem::replace(&mut self.states[at], state);
        debug_assert!(
            !matches!(old, State::Done | State::Failed),
            "a node that ended does not change"
        );
        if state == State::Ready {
            let lane = match self.plan.graph[index].status {
                Status::Pull => Lane::Pull,
                _ => Lane::Build,
            };
            self.ready[lane as usize].push((self.depth[at], self.below[at], Reverse(at)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::{chain_plan, node_id};
    use proptest::prelude::*;

    #[test]
    fn the_longest_chain_goes_first() {
        // Parents by position: 0 <- 1 <- 2, and 3 alone.
        let plan = chain_plan(&[None, Some(0), Some(1), None]);
        let mut schedule = Schedule::new(&plan);
        assert_eq!(node_id(&plan, schedule.take_next(Lane::Build)), "n0");
        assert_eq!(node_id(&plan, schedule.take_next(Lane::Build)), "n3");
        assert_eq!(schedule.take_next(Lane::Build), None);
    }

    #[test]
    fn a_failed_node_takes_what_stands_on_it_and_nothing_else() {
        let plan = chain_plan(&[None, Some(0), Some(1), Some(0)]);
        let mut schedule = Schedule::new(&plan);
        let root = schedule.take_next(Lane::Build).unwrap();
        schedule.done(root);
        let first = schedule.take_next(Lane::Build).unwrap();
        assert_eq!(node_id(&plan, Some(first)), "n1");
        let lost = schedule.failed(first);
        assert_eq!(lost.len(), 1);
        assert_eq!(node_id(&plan, schedule.take_next(Lane::Build)), "n3");
    }

    proptest! {
        #[test]
        fn no_node_starts_before_its_parent_and_each_starts_once(
            parents in prop::collection::vec(prop::option::of(0usize..40), 1..40),
            fail in prop::collection::vec(any::<bool>(), 40),
        ) {
            let parents: Vec<Option<usize>> = parents
                .iter()
                .enumerate()
                .map(|(at, parent)| parent.filter(|parent| *parent < at))
                .collect();
            let plan = chain_plan(&parents);
            let mut schedule = Schedule::new(&plan);
            let mut started = std::collections::HashSet::new();
            let mut ended = std::collections::HashSet::new();
            while let Some(index) = schedule.take_next(Lane::Build) {
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
        }
    }
}
