//! Runs of the benchmark's plans, simulated: the plan has the shape of the real one, and durations
//! are like those that were measured on two cores.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use imgforge::catalog::Catalog;
use imgforge::dataset::Instance;
use imgforge::exec::forecast::{Forecast, Order, forecast};
use imgforge::exec::schedule::{Lane, Schedule};
use imgforge::key::Kind;
use imgforge::plan::ModelPatch;
use imgforge::plan::{EvaluateOptions, Inventory, Plan, PlanOptions, Planner, Work};
use imgforge::platform::Platform;
use petgraph::Direction;
use petgraph::graph::NodeIndex;

/// The shapes: one environment a line, with its base, its repository, its checkouts and instances.
pub(crate) const SHAPES: [(&str, &str); 2] =
    [("Lite", include_str!("lite.tsv")), ("Verified", include_str!("verified.tsv"))];

/// Numbers of workers that are tried.
pub(crate) const WORKERS: [usize; 4] = [1, 2, 8, 24];

/// Seconds of an environment, a checkout and an evaluation.
const MEASURED: [(&str, [f64; 3]); 17] = [
    ("astropy/astropy", [40.0, 124.0, 20.0]),
    ("django/django", [20.0, 11.0, 10.0]),
    ("marshmallow-code/marshmallow", [6.0, 5.0, 2.0]),
    ("matplotlib/matplotlib", [60.0, 120.0, 60.0]),
    ("mwaskom/seaborn", [30.0, 3.0, 40.0]),
    ("pallets/flask", [15.0, 3.0, 5.0]),
    ("psf/requests", [48.0, 2.0, 20.0]),
    ("pvlib/pvlib-python", [41.0, 28.0, 15.0]),
    ("pydata/xarray", [25.0, 7.0, 30.0]),
    ("pydicom/pydicom", [8.0, 3.0, 3.0]),
    ("pylint-dev/astroid", [20.0, 10.0, 10.0]),
    ("pylint-dev/pylint", [25.0, 7.0, 10.0]),
    ("pytest-dev/pytest", [10.0, 8.0, 8.0]),
    ("scikit-learn/scikit-learn", [60.0, 240.0, 30.0]),
    ("sphinx-doc/sphinx", [24.0, 8.0, 12.0]),
    ("sqlfluff/sqlfluff", [13.0, 4.0, 10.0]),
    ("sympy/sympy", [6.0, 9.0, 20.0]),
];
const BASE: f64 = 180.0;
const INSTANCE: f64 = 0.5;

/// Returns the plan of a first evaluation of a dataset of this shape.
pub(crate) fn plan(shape: &str) -> Plan {
    let dir = tempfile::tempdir().expect("there is a place for temporary files");
    std::fs::write(dir.path().join("Dockerfile"), "FROM debian\nRUN true\n").expect("it is empty");
    let mut bases = BTreeSet::new();
    let mut catalog = String::new();
    let mut work = Vec::new();
    for (line, row) in shape.lines().skip(1).enumerate() {
        let [base, repo, checkouts, instances] =
            row.split('\t').collect::<Vec<_>>().try_into().expect("a line has four columns");
        let (checkouts, instances): (usize, usize) =
            (checkouts.parse().expect("a number"), instances.parse().expect("a number"));
        if bases.insert(base) {
            catalog.push_str(&format!(
                "[base.{base}]\npython = \"3.9\"\ndockerfile = \"Dockerfile\"\n\
                 args = {{ NAME = \"{base}\" }}\n"
            ));
        }
        // One repository for each environment: the name says whose durations it has.
        let name = format!("{repo}-{line}");
        catalog.push_str(&format!(
            "[repo.\"{name}\"]\nversions = [\"1\"]\nbase = \"{base}\"\npython = \"3.9\"\n\
             packages = [\"pytest=={line}\"]\ninstall = [\"true\"]\ntest_command = \"pytest\"\n"
        ));
        for number in 0..instances {
            let instance = Instance {
                instance_id: format!("{}-{number}", name.replace('/', "__")),
                repo: name.clone(),
                version: "1".to_owned(),
                base_commit: format!("{:020x}{:020x}", line, number % checkouts),
                environment_setup_commit: Some("0".repeat(40)),
                test_patch: format!("diff --git a/t b/{line}-{number}\n").into(),
                ..Instance::default()
            };
            let prediction = ModelPatch { model: "gold".to_owned(), patch: "p\n".into() };
            work.push(Work { instance: Arc::new(instance), prediction: Some(prediction) });
        }
    }
    let path = dir.path().join("images.toml");
    std::fs::write(&path, catalog).expect("it can be written");
    let catalog = Catalog::load(Some(&path), &[]).expect("the catalog is right");
    let options = PlanOptions {
        platform: Platform::written("linux/amd64"),
        namespace: None,
        derive_images: false,
        image_tag: None,
        up_to: Kind::Instance,
        evaluate: Some(EvaluateOptions::default()),
    };
    let from = BTreeMap::from([("debian".to_owned(), "sha256:00".to_owned())]);
    let mut plan = Planner::new(&catalog, options, &from).plan(&work).expect("all is known");
    plan.assess(&Inventory::default(), false);
    plan
}

/// Returns a number between 0 and 1 that follows from the node and a salt alone.
fn chance(index: NodeIndex, salt: u64) -> f64 {
    let mut state = (index.index() as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ salt;
    for _ in 0..3 {
        state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state ^= state >> 27;
    }
    (state >> 11) as f64 / (1u64 << 53) as f64
}

/// How long a node really takes: around what is usual for its repository, and one evaluation of
/// forty takes ten times that.
pub(crate) fn takes(plan: &Plan, index: NodeIndex) -> Duration {
    let node = &plan.graph[index];
    let usual = |which: usize| {
        let name = node.instances.first().map_or("", String::as_str).replace("__", "/");
        let found = MEASURED.iter().find(|(repo, _)| name.starts_with(repo));
        found.expect("every repository of a shape was measured").1[which]
    };
    let usual = match node.kind() {
        Kind::Base => BASE,
        Kind::Env => usual(0),
        Kind::Checkout => usual(1),
        Kind::Instance => INSTANCE,
        Kind::Evaluation if chance(index, 1) < 0.025 => 10.0 * usual(2),
        Kind::Evaluation => usual(2),
    };
    Duration::from_secs_f64(usual * (0.5 + chance(index, 2)))
}

/// What the schedule knows of durations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// A guess by the kind, as in a first run.
    Nothing,
    /// What an earlier run took, within a third.
    EarlierRun,
}

fn expected(plan: &Plan, known: Known, index: NodeIndex) -> Duration {
    match known {
        Known::Nothing => imgforge::exec::durations::usual(plan.graph[index].kind()),
        Known::EarlierRun => takes(plan, index).mul_f64(0.75 + 0.6 * chance(index, 3)),
    }
}

/// The order of today: the schedule's.
pub(crate) fn after(plan: &Plan, workers: usize, known: Known) -> Forecast {
    let order = Schedule::new(plan, workers, |index| expected(plan, known, index));
    forecast(plan, order, workers, &[], |index| takes(plan, index))
}

/// The order that imgforge had before: the longest chain first, counted in nodes.
pub(crate) fn before(plan: &Plan, workers: usize) -> Forecast {
    forecast(plan, LongestChain::new(plan), workers, &[], |index| takes(plan, index))
}

struct LongestChain<'a> {
    plan: &'a Plan,
    depth: Vec<usize>,
    below: Vec<usize>,
    ready: BinaryHeap<(usize, usize, Reverse<usize>)>,
}

impl<'a> LongestChain<'a> {
    fn new(plan: &'a Plan) -> Self {
        let count = plan.graph.node_count();
        let (mut depth, mut below) = (vec![0; count], vec![0; count]);
        for index in plan.graph.node_indices().rev() {
            if let Some(parent) = plan.parent(index) {
                let at = index.index();
                depth[parent.index()] = depth[parent.index()].max(depth[at] + 1);
                below[parent.index()] += below[at] + 1;
            }
        }
        let mut order = LongestChain { plan, depth, below, ready: BinaryHeap::new() };
        for index in plan.graph.node_indices().filter(|index| plan.parent(*index).is_none()) {
            order.push(index);
        }
        order
    }

    fn push(&mut self, index: NodeIndex) {
        let at = index.index();
        self.ready.push((self.depth[at], self.below[at], Reverse(at)));
    }
}

impl Order for LongestChain<'_> {
    fn take_next(&mut self, lane: Lane) -> Option<NodeIndex> {
        // Nothing is pulled in these plans.
        if lane == Lane::Pull {
            return None;
        }
        self.ready.pop().map(|(_, _, Reverse(at))| NodeIndex::new(at))
    }

    fn done(&mut self, index: NodeIndex) {
        let children = self.plan.graph.neighbors_directed(index, Direction::Outgoing);
        for child in children.collect::<Vec<NodeIndex>>() {
            self.push(child);
        }
    }
}

/// The table of all of it, for people.
#[allow(dead_code, reason = "the benchmark prints it")]
pub(crate) fn table() -> String {
    let mut text = String::from(
        "dataset   workers  durations    first verdict      all verdicts           images that wait\n\
         \u{20}                             before    after    before    after         before  after\n",
    );
    let minutes = |time: Duration| format!("{:.1}m", time.as_secs_f64() / 60.0);
    for (name, shape) in SHAPES {
        let plan = plan(shape);
        for workers in WORKERS {
            let before = before(&plan, workers);
            for (known, word) in [(Known::Nothing, "guessed"), (Known::EarlierRun, "recorded")] {
                let after = after(&plan, workers, known);
                let first = |one: &Forecast| minutes(one.first_verdict.unwrap_or_default());
                text.push_str(&format!(
                    "{name:<9} {workers:>7}  {word:<9} {:>9} {:>8} {:>9} {:>8} {:>+6.1} % {:>7} {:>6}\n",
                    first(&before),
                    first(&after),
                    minutes(before.end),
                    minutes(after.end),
                    (after.end.as_secs_f64() / before.end.as_secs_f64() - 1.0) * 100.0,
                    before.waiting_images,
                    after.waiting_images,
                ));
            }
        }
    }
    text
}
