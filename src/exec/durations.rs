//! How long the nodes of a plan take: from earlier runs by name, else from what is alike, in
//! earlier runs and in this one. Pure.
//!
//! A node's name leaves out what does not matter for its time, such as the model: the tests of an
//! instance take about as long for each. Nodes of one kind and one repository are alike; else those
//! of one kind.

use std::collections::HashMap;
use std::time::Duration;

use petgraph::graph::NodeIndex;

use crate::key::Kind;
use crate::plan::{Node, Plan, Status};

/// Of so many nodes of a kind the mean says something of another one.
const ENOUGH: usize = 3;

/// Returns a guess of how long a node of a kind takes, for the order of a first run.
pub fn usual(kind: Kind) -> Duration {
    Duration::from_millis(match kind {
        Kind::Base => 180_000,
        Kind::Env => 30_000,
        Kind::Checkout => 10_000,
        Kind::Instance => 500,
        Kind::Evaluation => 15_000,
    })
}

/// The name under which the duration of a node is recorded.
pub fn name(node: &Node) -> String {
    let way = if node.status == Status::Pull { "pull " } else { "" };
    format!("{way}{}", plain(node.kind(), &node.id))
}

/// Cuts off which model it is and which run.
fn plain(kind: Kind, id: &str) -> &str {
    let id = id.strip_suffix(')').and_then(|id| id.rsplit_once(" (run ")).map_or(id, |(id, _)| id);
    match kind {
        Kind::Instance | Kind::Evaluation => id.split_once('+').map_or(id, |(id, _)| id),
        Kind::Base | Kind::Env | Kind::Checkout => id,
    }
}

/// Returns what a name has in common with others that are alike: the way, the kind and the repository.
fn group(name: &str) -> &str {
    let end = match name.rsplit_once('@') {
        Some((group, _)) => group.len(),
        None => name.rfind('-').unwrap_or(name.len()),
    };
    &name[..end]
}

/// Returns the way and the kind of a name.
fn kind(name: &str) -> &str {
    name.split_once(':').map_or(name, |(kind, _)| kind)
}

#[derive(Debug, Clone, Copy, Default)]
struct Mean {
    sum: f64,
    count: usize,
}

impl Mean {
    fn add(&mut self, seconds: f64) {
        self.sum += seconds;
        self.count += 1;
    }

    fn get(self, least: usize) -> Option<f64> {
        (self.count >= least).then(|| self.sum / self.count as f64)
    }
}

/// What is known of the durations of a plan's nodes.
#[derive(Debug, Clone, Default)]
pub struct Durations {
    /// By node of the plan: the recorded seconds, and the places of its group and its kind.
    nodes: Vec<(Option<f64>, usize, usize)>,
    alike: Vec<Mean>,
    /// By the place of a kind: what its nodes took in this run, and what was recorded of them.
    paces: Vec<Pace>,
}

/// How nodes of a kind take their time in this run, against what was recorded of them: this machine
/// is as busy as it is now, and has what it has.
#[derive(Debug, Clone, Copy, Default)]
struct Pace {
    took: f64,
    recorded: f64,
    count: usize,
}

impl Pace {
    /// Returns by how much longer a node takes. One node more counts that went as recorded: a single
    /// slow one must not move every estimate.
    fn get(self) -> f64 {
        let one = self.recorded / self.count.max(1) as f64;
        match one > 0.0 {
            true => (self.took + one) / (self.recorded + one),
            false => 1.0,
        }
    }
}

impl Durations {
    /// Reads for a plan what was `recorded`, by [`name`].
    pub fn of(plan: &Plan, recorded: &HashMap<String, f64>) -> Durations {
        let mut places: HashMap<String, usize> = HashMap::new();
        let mut alike: Vec<Mean> = Vec::new();
        let mut place = |text: &str| {
            let next = places.len();
            *places.entry(text.to_owned()).or_insert(next)
        };
        let nodes: Vec<(Option<f64>, usize, usize)> = plan
            .nodes()
            .map(|(_, node)| {
                let name = name(node);
                (recorded.get(&name).copied(), place(group(&name)), place(kind(&name)))
            })
            .collect();
        alike.resize(places.len(), Mean::default());
        for (name, seconds) in recorded {
            for text in [group(name), kind(name)] {
                if let Some(at) = places.get(text) {
                    alike[*at].add(*seconds);
                }
            }
        }
        let paces = vec![Pace::default(); alike.len()];
        Durations { nodes, alike, paces }
    }

    /// Takes in that a node took so long in this run.
    pub fn note(&mut self, index: NodeIndex, seconds: f64) {
        let (recorded, group, kind) = self.nodes[index.index()];
        if let Some(recorded) = recorded {
            let pace = &mut self.paces[kind];
            pace.took += seconds;
            pace.recorded += recorded;
            pace.count += 1;
        }
        self.alike[group].add(seconds);
        if group != kind {
            self.alike[kind].add(seconds);
        }
    }

    /// Returns how long a node takes, where something is known of it or of what is alike.
    pub fn known(&self, index: NodeIndex) -> Option<Duration> {
        let (recorded, group, kind) = self.nodes[index.index()];
        let seconds = match recorded {
            Some(seconds) => seconds * self.paces[kind].get(),
            None => self.alike[group].get(1).or_else(|| self.alike[kind].get(ENOUGH))?,
        };
        Duration::try_from_secs_f64(seconds).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_leave_out_the_model_and_groups_the_instance() {
        for (of_kind, id, name, in_group) in [
            (
                Kind::Evaluation,
                "evaluation:a__b-1+gold (run 2)",
                "evaluation:a__b-1",
                "evaluation:a__b",
            ),
            (Kind::Instance, "instance:a__b-12+m/x", "instance:a__b-12", "instance:a__b"),
            (Kind::Checkout, "checkout:a/b@0123", "checkout:a/b@0123", "checkout:a/b"),
            (Kind::Env, "env:a/b-c@1#12ab", "env:a/b-c@1#12ab", "env:a/b-c"),
            (Kind::Base, "base:python39", "base:python39", "base:python39"),
        ] {
            assert_eq!(plain(of_kind, id), name);
            assert_eq!(group(name), in_group);
            assert_eq!(kind(name), of_kind.as_str());
        }
    }

    #[test]
    fn a_node_is_known_by_itself_then_by_what_is_alike_and_else_not() {
        let ids = ["env:a/b@1", "env:a/b@2", "env:c/d@1", "checkout:a/b@1", "base:x"];
        let mut plan = crate::plan::testing::chain_plan(&[None; 5]);
        for (at, id) in ids.iter().enumerate() {
            plan.graph[NodeIndex::new(at)].id = (*id).to_owned();
        }
        let recorded =
            HashMap::from([("env:a/b@1".to_owned(), 10.0), ("env:x/y@1".to_owned(), 40.0)]);
        let mut durations = Durations::of(&plan, &recorded);
        let known = |durations: &Durations, at: usize| {
            durations.known(NodeIndex::new(at)).map(|time| time.as_secs_f64())
        };
        assert_eq!(known(&durations, 0), Some(10.0));
        assert_eq!(known(&durations, 1), Some(10.0));
        // Two environments say little of a third repository's.
        assert_eq!(known(&durations, 2), None);
        assert_eq!(known(&durations, 3), None);
        durations.note(NodeIndex::new(1), 70.0);
        assert_eq!(known(&durations, 1), Some(40.0));
        assert_eq!(known(&durations, 2), Some(40.0));
        // Twice as slow as recorded, but only one node says so.
        durations.note(NodeIndex::new(0), 20.0);
        assert_eq!(known(&durations, 0), Some(15.0));
    }
}
