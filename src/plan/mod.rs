//! The plan: which images an invocation needs, which of them are fresh, and why the others are not.
//!
//! [`build::Planner`] turns instances into a graph of keyed nodes, [`Plan::assess`] compares it with
//! an [`Inventory`] of what exists. Pure: the inventory is a value that the executor's survey reads.

pub mod build;
pub mod check;
pub mod cut;
mod error;
mod evaluation;
mod inventory;
pub mod name;
mod options;
pub mod render;
#[cfg(test)]
pub(crate) mod testing;
mod work;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use petgraph::Direction;
use petgraph::graph::{DiGraph, NodeIndex};
use serde::Serialize;

use crate::key::{DiffId, FieldChange, Key, KeyDocument, Kind};
use crate::platform::Platform;
use crate::recipe::Recipe;

pub use build::Planner;
pub use error::PlanError;
pub use inventory::{Inventory, Present};
pub use options::{EvaluateOptions, PlanOptions};
pub use work::{ModelPatch, Work};

/// One image of the plan, or one run in an image.
#[derive(Debug, Clone)]
pub struct Node {
    /// Unique in the plan and the same in every plan that needs the image for the same thing, such
    /// as `env:pallets/flask@2.3`.
    pub id: String,
    /// The recipe: all inputs of the image or the run.
    pub recipe: Recipe,
    /// The key: the digest of `document`.
    pub key: Key,
    /// The preimage of the key.
    pub document: KeyDocument,
    /// The image's own name, `imgforge/<kind>:<key>`, or the published one; of an evaluation, that
    /// of the image that it runs in.
    pub image: String,
    /// Further names that the image gets.
    pub aliases: Vec<String>,
    /// Whether it must be built.
    pub status: Status,
    /// The `instance_id`s that need it, in the order of the dataset.
    pub instances: Vec<String>,
    /// What a person should know about it, such as a stand-in for a Python version.
    pub notes: Vec<String>,
}

impl Node {
    /// Returns the kind of image.
    pub fn kind(&self) -> Kind {
        self.recipe.kind()
    }
}

/// Whether a node must be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// An image with this key is on the engine, whole.
    Fresh,
    /// The node must be built or run, for these reasons; at least one after an assessment.
    Stale(Vec<Reason>),
    /// It comes from a registry by its published name, or from where images are kept by their keys.
    Pull,
    /// It is not here, and nothing that is wanted stands on it here or has to be made from it here.
    Unneeded,
}

impl Status {
    /// Tells whether something has to be done for the node.
    pub fn runs(&self) -> bool {
        matches!(self, Status::Stale(_) | Status::Pull)
    }

    /// Tells whether a rebuild was asked for: every step runs then, also those that were run before.
    pub fn is_forced(&self) -> bool {
        matches!(self, Status::Stale(reasons) if reasons.contains(&Reason::Forced))
    }
}

/// The reason for which a node is stale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// No image of this node was ever built here.
    NeverBuilt,
    /// There is no result of this evaluation.
    NeverRun,
    /// An input differs from that of the newest image of this node.
    Changed(FieldChange),
    /// The parent's key is another one.
    ParentChanged {
        /// The parent node's id.
        parent: String,
    },
    /// It was built with this very key, and the engine does not have the image any more.
    Missing,
    /// The engine lists the image, and it is not what was built.
    Broken(String),
    /// A `FROM` image is not on the engine: its content, and so the key, is known after the pull.
    Unresolved {
        /// The reference in the Dockerfile.
        reference: String,
    },
    /// A rebuild was asked for with `--force-rebuild`.
    Forced,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NeverBuilt => f.write_str("never built here"),
            Reason::NeverRun => f.write_str("never run with these inputs"),
            Reason::Changed(FieldChange { field, old, new }) => {
                let show = |value: &Option<String>| match value {
                    Some(value) => format!("`{value}`"),
                    None => "nothing".to_owned(),
                };
                write!(f, "{field} changed from {} to {}", show(old), show(new))
            }
            Reason::ParentChanged { parent } => write!(f, "parent {parent} changed"),
            Reason::Missing => f.write_str("built before, gone from the engine"),
            Reason::Broken(why) => write!(f, "the image on the engine is not whole: {why}"),
            Reason::Unresolved { reference } => {
                write!(f, "`{reference}` is not on the engine; its digest is known after the pull")
            }
            Reason::Forced => f.write_str("a rebuild was asked for"),
        }
    }
}

/// Tells whether a stale image could come from elsewhere.
fn is_pullable(node: &Node) -> bool {
    let Status::Stale(reasons) = &node.status else { return false };
    let own = |reason: &Reason| matches!(reason, Reason::Forced | Reason::Unresolved { .. });
    node.kind() != Kind::Evaluation && !reasons.iter().any(own)
}

/// Nodes and what they stand on; an edge goes from a parent to what is built on it.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The graph. Parents come before children in the order of the indices.
    pub graph: DiGraph<Node, ()>,
    /// The platform of all images, such as `linux/amd64`.
    pub platform: Platform,
    /// The targets, in the order of the work.
    pub targets: Vec<Target>,
}

/// One thing that was asked for, with the node that is it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The position of the [`Work`] in what the plan was made from.
    pub work: usize,
    /// Which run of an evaluation, from 0.
    pub repeat: u32,
    /// The node; several targets may have one.
    pub node: NodeIndex,
}

/// Counts of one kind of node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Nodes that need nothing.
    pub fresh: usize,
    /// Nodes that must be built.
    pub stale: usize,
    /// Nodes that are pulled.
    pub pull: usize,
    /// Nodes that are not here, and that nothing needs.
    pub unneeded: usize,
}

impl Plan {
    /// Returns the nodes, parents before children.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeIndex, &Node)> {
        self.graph.node_indices().map(|index| (index, &self.graph[index]))
    }

    /// Returns what a node is built on.
    pub fn parent(&self, index: NodeIndex) -> Option<NodeIndex> {
        self.graph.neighbors_directed(index, Direction::Incoming).next()
    }

    /// Counts the nodes by kind and status.
    pub fn summary(&self) -> BTreeMap<&'static str, Count> {
        let mut summary: BTreeMap<&'static str, Count> =
            Kind::IMAGES.iter().map(|kind| (kind.as_str(), Count::default())).collect();
        for node in self.graph.node_weights() {
            let count = summary.entry(node.kind().as_str()).or_default();
            match node.status {
                Status::Fresh => count.fresh += 1,
                Status::Stale(_) => count.stale += 1,
                Status::Pull => count.pull += 1,
                Status::Unneeded => count.unneeded += 1,
            }
        }
        summary
    }

    /// Sets every node's status from what exists. With `force` every image is stale whatever exists.
    pub fn assess(&mut self, inventory: &Inventory, force: bool) {
        for index in self.graph.node_indices() {
            let parent = self.parent(index);
            let status = self.status_of(index, parent, inventory, force);
            self.graph[index].status = status;
        }
        self.prune();
    }

    /// Takes out what no target needs, from the targets down: an image is needed where it was asked
    /// for, and where something is made or comes on top of it. A plan of images also wants those
    /// that people know by a name of their own.
    fn prune(&mut self) {
        let images =
            self.targets.iter().all(|target| self.graph[target.node].kind() != Kind::Evaluation);
        let mut needed = vec![false; self.graph.node_count()];
        for target in &self.targets {
            needed[target.node.index()] = true;
        }
        // Children come after their parents.
        for index in self.graph.node_indices().rev() {
            let node = &self.graph[index];
            if !node.status.runs() {
                continue;
            }
            let known = images && !node.aliases.is_empty();
            if !known && !needed[index.index()] {
                self.graph[index].status = Status::Unneeded;
            } else if let Some(parent) = self.parent(index) {
                needed[parent.index()] = true;
            }
        }
    }

    /// Lists the images that would be built and could come from elsewhere instead.
    pub fn pullable(&self) -> Vec<(Kind, Key)> {
        let wanted = self.nodes().filter(|(_, node)| is_pullable(node));
        wanted.map(|(_, node)| (node.kind(), node.key)).collect()
    }

    /// Lets those stale images come from elsewhere that are `offered` there, by their layers, and
    /// stand on what their parent is here or comes as. `local` returns the layers of an image that
    /// is here.
    pub fn apply_remote_images(
        &mut self,
        offered: &HashMap<Key, Vec<DiffId>>,
        local: impl Fn(&Key) -> Option<Vec<DiffId>>,
    ) {
        for index in self.graph.node_indices() {
            let node = &self.graph[index];
            let Some(layers) = offered.get(&node.key).filter(|_| is_pullable(node)) else {
                continue;
            };
            let parent = self.parent(index).map(|parent| &self.graph[parent]);
            let fits = match parent {
                None => true,
                Some(parent) => match parent.status {
                    Status::Fresh => {
                        local(&parent.key).is_some_and(|below| layers.starts_with(&below))
                    }
                    Status::Pull => {
                        offered.get(&parent.key).is_some_and(|below| layers.starts_with(below))
                    }
                    Status::Stale(_) | Status::Unneeded => false,
                },
            };
            if fits {
                self.graph[index].status = Status::Pull;
            }
        }
    }

    /// Tells whether its evaluations run as pods of a cluster.
    pub fn runs_in_pods(&self) -> bool {
        let in_pods = |node: &Node| match &node.recipe {
            Recipe::Evaluation(recipe) => recipe.in_pods,
            _ => false,
        };
        self.graph.node_weights().any(in_pods)
    }

    /// Leaves those images in the registry that would be pulled and that nothing is made of here: tests run
    /// elsewhere, and the layer of a patch is added in the registry. Returns their keys, and those of the
    /// images that such a layer makes. Only for a plan of evaluations.
    pub fn leave_images(&mut self) -> HashSet<Key> {
        let mut needed = vec![false; self.graph.node_count()];
        // Children come after their parents.
        for index in self.graph.node_indices().rev() {
            let node = &self.graph[index];
            let is_made_here = !matches!(node.kind(), Kind::Instance | Kind::Evaluation);
            if is_made_here
                && (matches!(node.status, Status::Stale(_)) || needed[index.index()])
                && let Some(parent) = self.parent(index)
            {
                needed[parent.index()] = true;
            }
        }
        let mut left = HashSet::new();
        for index in self.graph.node_indices() {
            let node = &self.graph[index];
            let is_published = matches!(node.recipe, Recipe::Published(_));
            let below = self.parent(index).map(|parent| self.graph[parent].key);
            if node.status == Status::Pull && !is_published && !needed[index.index()] {
                left.insert(node.key);
                self.graph[index].status = Status::Unneeded;
            } else if node.kind() == Kind::Instance
                && node.status.runs()
                && below.is_some_and(|below| left.contains(&below))
            {
                left.insert(node.key);
            }
        }
        left
    }

    fn status_of(
        &self,
        index: NodeIndex,
        parent: Option<NodeIndex>,
        inventory: &Inventory,
        force: bool,
    ) -> Status {
        let node = &self.graph[index];
        if let Recipe::Published(recipe) = &node.recipe {
            let here = inventory.has_reference(&recipe.reference);
            return if here && !force { Status::Fresh } else { Status::Pull };
        }
        if node.kind() == Kind::Evaluation {
            return match inventory.has_result(&node.key) {
                true => Status::Fresh,
                false => Status::Stale(vec![Reason::NeverRun]),
            };
        }
        if force {
            return Status::Stale(vec![Reason::Forced]);
        }
        if let Recipe::Base(recipe) = &node.recipe {
            let unresolved: Vec<Reason> = recipe
                .unresolved()
                .map(|reference| Reason::Unresolved { reference: reference.to_owned() })
                .collect();
            if !unresolved.is_empty() {
                return Status::Stale(unresolved);
            }
        }
        match inventory.present(&node.key) {
            Some(Present::Whole) => Status::Fresh,
            Some(Present::Broken(why)) => Status::Stale(vec![Reason::Broken(why.clone())]),
            None => Status::Stale(self.why_absent(node, parent, inventory)),
        }
    }

    fn why_absent(
        &self,
        node: &Node,
        parent: Option<NodeIndex>,
        inventory: &Inventory,
    ) -> Vec<Reason> {
        let Some(old) = inventory.newest_document(&node.id) else {
            return vec![Reason::NeverBuilt];
        };
        let changes = node.document.changes_from(old);
        if changes.is_empty() {
            return vec![Reason::Missing];
        }
        changes
            .into_iter()
            .map(|change| match parent {
                Some(parent) if change.field == "parent" => {
                    Reason::ParentChanged { parent: self.graph[parent].id.clone() }
                }
                _ => Reason::Changed(change),
            })
            .collect()
    }
}
