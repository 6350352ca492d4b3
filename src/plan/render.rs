//! A plan as a table, JSON, Graphviz or Mermaid text.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::key::{Key, Kind};
use crate::platform::Platform;

use super::{Count, Plan, Reason, Status};

/// The document of `plan --json`.
#[derive(Debug, Serialize)]
pub struct PlanDocument<'a> {
    /// The engine that was asked, or `none`.
    pub engine: &'a str,
    /// Such as `linux/amd64`.
    pub platform: &'a Platform,
    /// The number of nodes that would run at once.
    pub workers: usize,
    /// Parents before children.
    pub nodes: Vec<NodeDocument<'a>>,
    /// Counts by kind.
    pub summary: BTreeMap<&'static str, Count>,
}

/// One node of [`PlanDocument`].
#[derive(Debug, Serialize)]
pub struct NodeDocument<'a> {
    id: &'a str,
    kind: Kind,
    key: &'a Key,
    image: &'a str,
    aliases: &'a [String],
    status: &'static str,
    reasons: Vec<String>,
    deps: Vec<&'a str>,
    instances: &'a [String],
    notes: &'a [String],
}

fn status_name(status: &Status) -> &'static str {
    match status {
        Status::Fresh => "fresh",
        Status::Stale(_) => "stale",
        Status::Pull => "pull",
        Status::Unneeded => "unneeded",
    }
}

fn reasons(status: &Status) -> &[Reason] {
    match status {
        Status::Stale(reasons) => reasons,
        Status::Fresh | Status::Pull | Status::Unneeded => &[],
    }
}

/// Returns the plan as `plan --json` prints it.
pub fn document<'a>(plan: &'a Plan, engine: &'a str, workers: usize) -> PlanDocument<'a> {
    let nodes = plan
        .nodes()
        .map(|(index, node)| NodeDocument {
            id: &node.id,
            kind: node.kind(),
            key: &node.key,
            image: &node.image,
            aliases: &node.aliases,
            status: status_name(&node.status),
            reasons: reasons(&node.status).iter().map(Reason::to_string).collect(),
            deps: plan
                .parent(index)
                .map(|parent| plan.graph[parent].id.as_str())
                .into_iter()
                .collect(),
            instances: &node.instances,
            notes: &node.notes,
        })
        .collect();
    PlanDocument { engine, platform: &plan.platform, workers, nodes, summary: plan.summary() }
}

/// Returns the plan as a table: base and env images a line each, checkouts and instances counted
/// below their environment. With `explain` every stale node follows with its reasons.
pub fn table(plan: &Plan, explain: bool) -> String {
    let mut text = String::new();
    let width = plan
        .nodes()
        .filter(|(_, node)| matches!(node.kind(), Kind::Base | Kind::Env))
        .map(|(_, node)| node.id.len())
        .max()
        .unwrap_or(0)
        .max(4);
    let mut listed = false;
    for (index, node) in plan.nodes() {
        if !matches!(node.kind(), Kind::Base | Kind::Env) {
            continue;
        }
        if !listed {
            let _ = writeln!(
                text,
                "{:<width$}  {:<12}  {:<8}  checkouts  instances",
                "node", "key", "status"
            );
            listed = true;
        }
        let below = |kind: Kind| {
            let mut count = 0;
            let mut next = vec![index];
            while let Some(at) = next.pop() {
                count += usize::from(plan.graph[at].kind() == kind);
                next.extend(plan.graph.neighbors(at));
            }
            count
        };
        let _ = write!(
            text,
            "{:<width$}  {}  {:<8}  {:>9}  {:>9}",
            node.id,
            node.key.short(),
            status_name(&node.status),
            below(Kind::Checkout),
            below(Kind::Instance),
        );
        text.push('\n');
        // On lines of their own: they are longer than the row.
        for note in &node.notes {
            let _ = writeln!(text, "    {note}");
        }
    }
    if explain {
        text.push_str(&explanation(plan));
    }
    if listed {
        text.push('\n');
    }
    for (kind, count) in Kind::IMAGES.iter().map(|kind| (kind, plan.summary()[kind.as_str()])) {
        let total = count.fresh + count.stale + count.pull + count.unneeded;
        if total > 0 {
            let _ = write!(text, "{kind:<9} {total:>6}: {} fresh", count.fresh);
            if count.stale > 0 {
                let _ = write!(text, ", {} stale", count.stale);
            }
            if count.pull > 0 {
                let _ = write!(text, ", {} to pull", count.pull);
            }
            if count.unneeded > 0 {
                let _ = write!(text, ", {} not here and not needed", count.unneeded);
            }
            text.push('\n');
        }
    }
    text.push_str(&pulls(plan, explain));
    if plan.nodes().any(|(_, node)| matches!(node.status, Status::Stale(_))) {
        let more = if explain { "" } else { "; --explain says which" };
        let _ = writeln!(text, "\nstale: never built here, or an input has changed{more}");
    }
    text
}

/// How many ids of one group are shown.
const SHOWN: usize = 10;

/// Lists the images that are pulled; not all of many, unless `all` are asked for.
fn pulls(plan: &Plan, all: bool) -> String {
    let pulls = plan.nodes().filter(|(_, node)| node.status == Status::Pull);
    let images: Vec<&str> = pulls.map(|(_, node)| node.image.as_str()).collect();
    let shown = if all { images.len() } else { SHOWN };
    let mut text: String =
        images.iter().take(shown).map(|image| format!("  pull {image}\n")).collect();
    if images.len() > shown {
        let _ = writeln!(text, "  and {} more; --explain lists all", images.len() - shown);
    }
    text
}

/// Says for every stale node why: nodes of a kind that have the same reasons together.
pub fn explanation(plan: &Plan) -> String {
    let mut groups: Vec<(Kind, &[Reason], Vec<&str>)> = Vec::new();
    for (_, node) in plan.nodes() {
        let Status::Stale(reasons) = &node.status else { continue };
        let same = |group: &&mut (Kind, &[Reason], Vec<&str>)| {
            group.0 == node.kind() && group.1 == reasons.as_slice()
        };
        match groups.iter_mut().find(same) {
            Some((_, _, ids)) => ids.push(&node.id),
            None => groups.push((node.kind(), reasons, vec![&node.id])),
        }
    }
    let mut text = String::new();
    for (kind, reasons, ids) in groups {
        let _ = match ids.as_slice() {
            [one] => writeln!(text, "{one} is stale:"),
            many => writeln!(text, "{} {kind} images are stale:", many.len()),
        };
        for reason in reasons {
            let _ = writeln!(text, "  {reason}");
        }
        if ids.len() > 1 {
            let more = match ids.len().saturating_sub(SHOWN) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let shown: Vec<&str> = ids.into_iter().take(SHOWN).collect();
            let _ = writeln!(text, "    {}{more}", shown.join(", "));
        }
    }
    text
}

/// Returns the graph for Graphviz.
pub fn dot(plan: &Plan) -> String {
    let mut text = String::from("digraph imgforge {\n  rankdir=LR;\n  node [shape=box];\n");
    for (index, node) in plan.nodes() {
        let style = match node.status {
            Status::Fresh => "solid",
            Status::Stale(_) => "bold",
            Status::Pull => "dashed",
            Status::Unneeded => "dotted",
        };
        let label = node.id.replace('\\', "\\\\").replace('"', "\\\"");
        let _ = writeln!(
            text,
            "  n{} [label=\"{label}\\n{} {}\", style={style}];",
            index.index(),
            node.key.short(),
            status_name(&node.status)
        );
    }
    for edge in plan.graph.edge_indices() {
        if let Some((from, to)) = plan.graph.edge_endpoints(edge) {
            let _ = writeln!(text, "  n{} -> n{};", from.index(), to.index());
        }
    }
    text.push_str("}\n");
    text
}

/// Returns the graph for Mermaid.
pub fn mermaid(plan: &Plan) -> String {
    let mut text = String::from("flowchart LR\n");
    for (index, node) in plan.nodes() {
        let label = node.id.replace('"', "#quot;");
        let _ = writeln!(
            text,
            "  n{}[\"{label}<br/>{}\"]:::{}",
            index.index(),
            node.key.short(),
            status_name(&node.status)
        );
    }
    for edge in plan.graph.edge_indices() {
        if let Some((from, to)) = plan.graph.edge_endpoints(edge) {
            let _ = writeln!(text, "  n{} --> n{}", from.index(), to.index());
        }
    }
    text.push_str(
        "  classDef stale stroke-width:3px\n  classDef pull stroke-dasharray:4\n  \
         classDef unneeded stroke-dasharray:1\n",
    );
    text
}
