//! Small plans for tests.

use petgraph::graph::{DiGraph, NodeIndex};

use super::{Node, Plan, Status};
use crate::platform::Platform;
use crate::recipe::{PublishedRecipe, Recipe};

/// A plan of nodes `n0`, `n1`, …, each on the parent at the given position, all stale.
pub(crate) fn chain_plan(parents: &[Option<usize>]) -> Plan {
    let mut graph = DiGraph::new();
    for (at, parent) in parents.iter().enumerate() {
        let recipe = Recipe::Published(PublishedRecipe {
            reference: format!("r{at}"),
            platform: Platform::written("linux/amd64"),
        });
        let document = recipe.document();
        let index = graph.add_node(Node {
            id: format!("n{at}"),
            recipe,
            key: document.key(),
            document,
            image: format!("r{at}"),
            aliases: Vec::new(),
            status: Status::Stale(Vec::new()),
            instances: Vec::new(),
            notes: Vec::new(),
        });
        if let Some(parent) = parent {
            graph.add_edge(NodeIndex::new(*parent), index, ());
        }
    }
    Plan { graph, platform: Platform::written("linux/amd64"), targets: Vec::new() }
}

/// The id of a node, or `none`.
pub(crate) fn node_id(plan: &Plan, index: Option<NodeIndex>) -> String {
    index.map_or("none".to_owned(), |index| plan.graph[index].id.clone())
}
