//! The planner: what is fresh, what is not and why, what can come from elsewhere, and what nobody
//! needs. Pure: what exists is a value.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use imgforge::catalog::Catalog;
use imgforge::dataset::Instance;
use imgforge::key::{DiffId, Key, Kind};
use imgforge::plan::ModelPatch;
use imgforge::plan::cut::order;
use imgforge::plan::{
    EvaluateOptions, Inventory, Plan, PlanOptions, Planner, Present, Reason, Status, Work, render,
};
use imgforge::platform::Platform;
use proptest::prelude::*;

const FROM: &str = "python:3.11-slim-bookworm";

fn work() -> Vec<Work> {
    let instance = |id: &str, repo: &str, version: &str, commit: char| Work {
        instance: Arc::new(Instance {
            instance_id: id.to_owned(),
            repo: repo.to_owned(),
            version: version.to_owned(),
            base_commit: commit.to_string().repeat(40),
            environment_setup_commit: Some("0".repeat(40)),
            test_patch: "diff --git a/x b/x\n".into(),
            ..Instance::default()
        }),
        prediction: None,
    };
    vec![
        instance("flask-1", "pallets/flask", "2.3", 'a'),
        instance("flask-2", "pallets/flask", "2.3", 'b'),
        instance("click-1", "pallets/click", "8.1", 'c'),
    ]
}

fn options() -> PlanOptions {
    PlanOptions {
        platform: Platform::written("linux/amd64"),
        namespace: None,
        derive_images: false,
        image_tag: None,
        up_to: Kind::Instance,
        evaluate: None,
    }
}

/// A catalog with two repositories on one base.
fn catalog() -> (tempfile::TempDir, Catalog) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("images.toml");
    std::fs::write(dir.path().join("Dockerfile"), format!("FROM {FROM}\nRUN true\n")).unwrap();
    let repo = |name: &str, version: &str| {
        format!(
            "[repo.\"{name}\"]\nversions = [\"{version}\"]\nbase = \"python\"\npython = \"3.11\"\n\
             packages = [\"pytest=={version}\"]\ninstall = [\"python -m pip install -e .\"]\n\
             test_command = \"pytest\"\n"
        )
    };
    let base = "[base.python]\npython = \"3.11\"\ndockerfile = \"Dockerfile\"\n";
    let text = format!("{base}{}{}", repo("pallets/flask", "2.3"), repo("pallets/click", "8.1"));
    std::fs::write(&path, text).unwrap();
    let catalog = Catalog::load(Some(&path), &[]).unwrap();
    (dir, catalog)
}

fn identities() -> BTreeMap<String, String> {
    BTreeMap::from([(FROM.to_owned(), "sha256:00".to_owned())])
}

fn planned(options: PlanOptions, from: &BTreeMap<String, String>, work: &[Work]) -> Plan {
    let (_dir, catalog) = catalog();
    Planner::new(&catalog, options, from).plan(work).unwrap()
}

fn images() -> Plan {
    planned(options(), &identities(), &work())
}

fn evaluations() -> Plan {
    let predicted = |mut work: Work| {
        work.prediction = Some(ModelPatch { model: "m".to_owned(), patch: "p\n".into() });
        work
    };
    let work: Vec<Work> = work().into_iter().map(predicted).collect();
    let options = PlanOptions { evaluate: Some(EvaluateOptions::default()), ..options() };
    planned(options, &identities(), &work)
}

/// The beginning of an id that says enough here: `env:pallets/flask`.
fn short(id: &str) -> &str {
    id.split(['@', '+']).next().unwrap()
}

fn inventory(plan: &Plan, here: impl Fn(&str) -> bool) -> Inventory {
    let mut inventory = Inventory::default();
    for (_, node) in plan.nodes().filter(|(_, node)| here(&node.id)) {
        match node.kind() {
            Kind::Evaluation => inventory.add_result(node.key),
            _ => inventory.add_image(node.key, Present::Whole),
        }
    }
    inventory
}

/// The nodes of a status, by their short ids.
fn of(plan: &Plan, wanted: impl Fn(&Status) -> bool) -> Vec<String> {
    let nodes = plan.nodes().filter(|(_, node)| wanted(&node.status));
    nodes.map(|(_, node)| short(&node.id).to_owned()).collect()
}

fn stale(plan: &Plan) -> Vec<String> {
    of(plan, |status| matches!(status, Status::Stale(_)))
}

fn unneeded(plan: &Plan) -> Vec<String> {
    of(plan, |status| *status == Status::Unneeded)
}

fn reasons<'a>(plan: &'a Plan, id: &str) -> &'a [Reason] {
    let (_, node) = plan.nodes().find(|(_, node)| short(&node.id) == id).unwrap();
    match &node.status {
        Status::Stale(reasons) => reasons,
        other => panic!("{id} is {other:?}"),
    }
}

/// Parts of ids.
type Ids = &'static [&'static str];

const FLASK: Ids = &["base:python", "env:pallets/flask", "checkout:pallets/flask"];

#[test]
fn what_nothing_needs_is_not_made() {
    // What is gone from a machine that had everything, what is made again, and what is left out.
    let cases: [(&str, Ids, Ids, Ids); 8] = [
        ("nothing is gone", &[], &[], &[]),
        ("the base", &["base:"], &[], &["base:python"]),
        ("an env", &["env:pallets/click"], &[], &["env:pallets/click"]),
        (
            "base and envs",
            &["base:", "env:"],
            &[],
            &["base:python", "env:pallets/flask", "env:pallets/click"],
        ),
        ("an instance", &["instance:flask-1"], &["instance:flask-1"], &[]),
        (
            "an instance and the base of all",
            &["instance:flask-1", "base:"],
            &["instance:flask-1"],
            &["base:python"],
        ),
        (
            "one chain",
            &["base:", "click"],
            &["base:python", "env:pallets/click", "checkout:pallets/click", "instance:click-1"],
            &[],
        ),
        // People know a checkout as `sweb.eval.…`: a build is to leave it.
        (
            "a checkout, under an instance that is whole",
            &["checkout:pallets/click", "base:"],
            &["checkout:pallets/click"],
            &["base:python"],
        ),
    ];
    for (name, gone, made, left_out) in cases {
        let mut plan = images();
        let inventory = inventory(&plan, |id| !gone.iter().any(|gone| id.contains(gone)));
        plan.assess(&inventory, false);
        assert_eq!(stale(&plan), made, "{name}");
        assert_eq!(unneeded(&plan), left_out, "{name}");
        let asked: Vec<Kind> = plan.pullable().into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(asked.len(), made.len(), "{name}: a registry is asked for no more");
    }
}

#[test]
fn an_evaluation_needs_its_instance_image_and_nothing_else() {
    let cases: [(&str, Ids, Ids); 4] = [
        (
            "only the instances are here",
            &["instance:"],
            &["evaluation:flask-1", "evaluation:flask-2", "evaluation:click-1"],
        ),
        ("only the results are here", &["evaluation:"], &[]),
        (
            "one result is missing, and its image",
            &["evaluation:flask-1", "evaluation:click", "checkout:pallets/flask@b"],
            &["instance:flask-2", "evaluation:flask-2"],
        ),
        (
            "one result is missing",
            &["instance:flask-2", "evaluation:flask-1", "evaluation:click"],
            &["evaluation:flask-2"],
        ),
    ];
    for (name, here, made) in cases {
        let mut plan = evaluations();
        let inventory = inventory(&plan, |id| here.iter().any(|here| id.starts_with(here)));
        plan.assess(&inventory, false);
        assert_eq!(stale(&plan), made, "{name}");
        assert!(plan.nodes().all(|(_, node)| node.status == Status::Fresh
            || node.status == Status::Unneeded
            || made.contains(&short(&node.id))));
    }
}

#[test]
fn a_forced_rebuild_rebuilds_every_image_and_says_so() {
    let mut plan = images();
    let inventory = inventory(&plan, |_| true);
    plan.assess(&inventory, true);
    assert_eq!(stale(&plan).len(), plan.graph.node_count());
    for (_, node) in plan.nodes() {
        assert_eq!(node.status, Status::Stale(vec![Reason::Forced]), "{}", node.id);
    }
    assert!(plan.pullable().is_empty(), "what is to be rebuilt is not pulled");
}

#[test]
fn a_stale_image_says_why() {
    let mut plan = images();
    plan.assess(&Inventory::default(), false);
    assert_eq!(reasons(&plan, "env:pallets/flask"), [Reason::NeverBuilt]);

    let mut inventory = Inventory::default();
    for (_, node) in plan.nodes() {
        inventory.set_document(node.id.clone(), node.document.clone());
    }
    plan.assess(&inventory, false);
    assert_eq!(reasons(&plan, "env:pallets/flask"), [Reason::Missing]);

    let old = BTreeMap::from([(FROM.to_owned(), "sha256:11".to_owned())]);
    let old = planned(options(), &old, &work());
    let mut inventory = Inventory::default();
    for (_, node) in old.nodes() {
        inventory.set_document(node.id.clone(), node.document.clone());
    }
    plan.assess(&inventory, false);
    let text =
        |id: &str| -> Vec<String> { reasons(&plan, id).iter().map(Reason::to_string).collect() };
    assert_eq!(
        text("base:python"),
        [format!("from/{FROM} changed from `sha256:11` to `sha256:00`")]
    );
    assert_eq!(text("env:pallets/flask"), ["parent base:python changed"]);

    let mut inventory = Inventory::default();
    let (_, env) = plan.nodes().find(|(_, node)| node.kind() == Kind::Env).unwrap();
    inventory.add_image(env.key, Present::Broken("half".to_owned()));
    plan.assess(&inventory, false);
    assert_eq!(reasons(&plan, "env:pallets/flask"), [Reason::Broken("half".to_owned())]);
}

#[test]
fn a_base_on_an_image_that_is_not_here_is_built_whatever_else_is() {
    let mut plan = planned(options(), &BTreeMap::new(), &work());
    let inventory = inventory(&plan, |id| id.starts_with("base:"));
    plan.assess(&inventory, false);
    assert_eq!(reasons(&plan, "base:python"), [Reason::Unresolved { reference: FROM.to_owned() }]);
    assert!(!plan.pullable().iter().any(|(kind, _)| *kind == Kind::Base), "its key is not known");
}

#[test]
fn published_images_are_here_or_pulled() {
    let options = PlanOptions { namespace: Some("ns".to_owned()), ..options() };
    let mut plan = planned(options, &BTreeMap::new(), &work());
    let mut inventory = Inventory::default();
    inventory.add_reference("ns/sweb.eval.x86_64.flask-1:latest".to_owned());
    plan.assess(&inventory, false);
    assert_eq!(of(&plan, |status| *status == Status::Fresh), ["instance:flask-1"]);
    let pulled = of(&plan, |status| *status == Status::Pull);
    assert_eq!(pulled, ["instance:flask-2", "instance:click-1"]);
    plan.assess(&inventory, true);
    assert_eq!(of(&plan, |status| *status == Status::Pull).len(), 3);
}

/// Layers of a node as a build elsewhere would have them: one more than its parent.
fn layers(plan: &Plan, build: &str) -> HashMap<Key, Vec<DiffId>> {
    let mut layers: HashMap<Key, Vec<DiffId>> = HashMap::new();
    for (index, node) in plan.nodes() {
        let parent = plan.parent(index).map(|parent| plan.graph[parent].key);
        let mut own = parent.map_or(Vec::new(), |parent| layers[&parent].clone());
        own.push(format!("{build} {}", node.id).into());
        layers.insert(node.key, own);
    }
    layers
}

#[test]
fn what_is_offered_comes_where_it_fits_on_what_is_below() {
    // What is here, what is offered, of which build, and what comes.
    const ALL: &str = "";
    let cases: [(&str, Ids, Ids, &str, Ids); 5] = [
        (
            "everything",
            &[],
            &[ALL],
            "one",
            &["base:python", "env:pallets/flask", "checkout:pallets/flask", "instance:flask-1"],
        ),
        (
            "the rest of this build",
            &FLASK[..2],
            &[ALL],
            "one",
            &["checkout:pallets/flask", "instance:flask-1"],
        ),
        ("the rest of another build", &FLASK[..2], &[ALL], "two", &[]),
        ("a hole in the middle", &FLASK[..1], &["checkout:", "instance:"], "one", &[]),
        ("what is whole here", FLASK, &[ALL], "two", &[]),
    ];
    for (name, here, offered, build, comes) in cases {
        let mut plan = planned(options(), &identities(), &work()[..1]);
        let inventory = inventory(&plan, |id| here.contains(&short(id)));
        plan.assess(&inventory, false);
        let (local, elsewhere) = (layers(&plan, "one"), layers(&plan, build));
        let offers: HashMap<Key, Vec<DiffId>> = plan
            .nodes()
            .filter(|(_, node)| offered.iter().any(|of| node.id.starts_with(of)))
            .map(|(_, node)| (node.key, elsewhere[&node.key].clone()))
            .collect();
        plan.apply_remote_images(&offers, |key| local.get(key).cloned());
        assert_eq!(of(&plan, |status| *status == Status::Pull), comes, "{name}");
    }
}

#[test]
fn what_only_pods_need_stays_in_the_registry() {
    const EVERYTHING: Ids = &["base:", "env:", "checkout:"];
    // What is offered, what is here, what is pulled and what is built all the same.
    let cases: [(&str, Ids, Ids, Ids, Ids); 5] = [
        ("all below the patches", EVERYTHING, &[], &[], &["instance:flask-1"]),
        ("all", &[""], &[], &[], &[]),
        (
            "a checkout is missing",
            &["base:", "env:"],
            &[],
            &["base:python", "env:pallets/flask"],
            &["checkout:pallets/flask", "instance:flask-1"],
        ),
        (
            "an environment is missing",
            &["base:"],
            &[],
            &["base:python"],
            &["env:pallets/flask", "checkout:pallets/flask", "instance:flask-1"],
        ),
        ("the environment is here", EVERYTHING, &FLASK[..2], &[], &["instance:flask-1"]),
    ];
    for (name, offered, here, pulled, built) in cases {
        let mut plan = evaluations();
        let inventory = inventory(&plan, |id| {
            here.contains(&short(id)) || !id.contains("flask") && !id.starts_with("base:")
        });
        plan.assess(&inventory, false);
        let all = layers(&plan, "one");
        let offers: HashMap<Key, Vec<DiffId>> = plan
            .nodes()
            .filter(|(_, node)| offered.iter().any(|of| node.id.starts_with(of)))
            .map(|(_, node)| (node.key, all[&node.key].clone()))
            .collect();
        plan.apply_remote_images(&offers, |key| all.get(key).cloned());
        let wanted: Vec<Key> = plan
            .nodes()
            .filter(|(_, node)| node.status == Status::Pull)
            .map(|(_, n)| n.key)
            .collect();
        let left = plan.leave_images();
        // The two instances of flask have one environment, and a checkout each.
        let one_of_each = |mut ids: Vec<String>| {
            ids.retain(|id| !id.starts_with("evaluation:") && id != "instance:flask-2");
            let mut seen = BTreeSet::new();
            ids.retain(|id| seen.insert(id.clone()));
            ids
        };
        assert_eq!(one_of_each(of(&plan, |status| *status == Status::Pull)), pulled, "{name}");
        assert_eq!(one_of_each(stale(&plan)), built, "{name}");
        // What was to be pulled and is not stays there.
        for (_, node) in plan.nodes().filter(|(_, node)| wanted.contains(&node.key)) {
            assert_eq!(left.contains(&node.key), node.status == Status::Unneeded, "{name}");
        }
        let instance =
            plan.nodes().find(|(_, node)| short(&node.id) == "instance:flask-1").unwrap();
        assert_eq!(left.contains(&instance.1.key), pulled.is_empty(), "{name}");
    }
}

#[test]
fn a_plan_as_json_says_what_is_not_needed() {
    let mut plan = images();
    let inventory = inventory(&plan, |id| !id.starts_with("base:"));
    plan.assess(&inventory, false);
    let document = serde_json::to_value(render::document(&plan, "none", 1)).unwrap();
    assert_eq!(document["nodes"][0]["status"], "unneeded");
    assert_eq!(
        document["summary"]["base"],
        serde_json::json!({"fresh": 0, "stale": 0, "pull": 0, "unneeded": 1})
    );
    let table = render::table(&plan, true);
    assert!(table.contains("base           1: 0 fresh, 1 not here and not needed"), "{table}");
}

proptest! {
    #[test]
    fn what_runs_is_needed_and_stands_on_what_is_there(
        here in prop::collection::vec(any::<bool>(), 32),
        evaluate in any::<bool>(),
    ) {
        let mut plan = if evaluate { evaluations() } else { images() };
        let mut inventory = Inventory::default();
        for (_, node) in plan.nodes().filter(|(index, _)| here[index.index()]) {
            match node.kind() {
                Kind::Evaluation => inventory.add_result(node.key),
                _ => inventory.add_image(node.key, Present::Whole),
            }
        }
        plan.assess(&inventory, false);
        for (index, node) in plan.nodes() {
            let target = plan.targets.iter().any(|target| target.node == index);
            let child_runs = plan.graph.neighbors(index).any(|child| plan.graph[child].status.runs());
            match &node.status {
                Status::Fresh => prop_assert!(here[index.index()]),
                Status::Unneeded => prop_assert!(!target && !child_runs && !here[index.index()]),
                Status::Stale(_) => {
                    prop_assert!(target || child_runs || (!evaluate && !node.aliases.is_empty()));
                }
                Status::Pull => prop_assert!(false, "nothing was offered"),
            }
        }
        // What a run leaves is what the next one finds.
        for (_, node) in plan.clone().nodes().filter(|(_, node)| node.status.runs()) {
            match node.kind() {
                Kind::Evaluation => inventory.add_result(node.key),
                _ => inventory.add_image(node.key, Present::Whole),
            }
        }
        plan.assess(&inventory, false);
        prop_assert!(plan.nodes().all(|(_, node)| !node.status.runs()));
    }
}

#[test]
fn debians_python_is_a_stand_in_for_a_patch_level_in_the_plan_and_in_the_key() {
    let plan_on = |identity: &str, python: &str| {
        let (dir, _) = catalog();
        let path = dir.path().join("images.toml");
        let text = std::fs::read_to_string(&path).unwrap().replace("\"3.11\"", python);
        std::fs::write(&path, text).unwrap();
        let from = BTreeMap::from([(FROM.to_owned(), identity.to_owned())]);
        let catalog = Catalog::load(Some(&path), &[]).unwrap();
        let plan = Planner::new(&catalog, options(), &from).plan(&work()).unwrap();
        let env = plan.nodes().find(|(_, node)| node.kind() == Kind::Env).unwrap().1.clone();
        let document = env.document.canonical();
        let fields: serde_json::Value = serde_json::from_str(&document).unwrap();
        let field = |name: &str| fields[name].as_str().unwrap().to_owned();
        (env.notes, field("python"), field("wanted_python"))
    };
    let debian = "bootstrapped: python 3.11.2 of debian bookworm, 148 packages sha256:0, recipe 1";
    let (notes, python, wanted) = plan_on(debian, "\"3.11.10\"");
    assert_eq!((python.as_str(), wanted.as_str()), ("3.11.2", "3.11.10"));
    assert_eq!(notes, ["Python 3.11.2 stands in for 3.11.10"]);
    let (notes, python, _) = plan_on("python 3.11.10: sha256:0", "\"3.11.10\"");
    assert_eq!((python.as_str(), notes.len()), ("3.11.10", 0));
    // Who asks for the minor version alone has it.
    let (notes, python, wanted) = plan_on(debian, "\"3.11\"");
    assert_eq!((python.as_str(), wanted.as_str(), notes.len()), ("3.11.2", "3.11", 0));
}

#[test]
fn an_instance_with_a_lockfile_of_its_own_has_an_environment_of_its_own() {
    let (dir, _) = catalog();
    let path = dir.path().join("images.toml");
    let own = "instances = { flask-2 = \"own.txt\" }\npackages = [\"pytest==2.3\"]";
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("packages = [\"pytest==2.3\"]", own, 1)).unwrap();
    std::fs::write(dir.path().join("own.txt"), "pytest==2.4\n").unwrap();
    let catalog = Catalog::load(Some(&path), &[]).unwrap();
    let plan = Planner::new(&catalog, options(), &identities()).plan(&work()).unwrap();
    let envs = plan.nodes().filter(|(_, node)| node.kind() == Kind::Env);
    let envs: Vec<_> = envs.map(|(_, node)| node.instances.clone()).collect();
    assert_eq!(envs, [["flask-1"], ["flask-2"], ["click-1"]]);
}

#[test]
fn the_base_of_one_instance_is_looked_for_beside_that_of_its_version() {
    let (dir, _) = catalog();
    let path = dir.path().join("images.toml");
    std::fs::write(dir.path().join("Dockerfile"), "ARG PYTHON\nFROM python:${PYTHON}\n").unwrap();
    let base = |name: &str, python: &str| {
        format!(
            "[base.{name}]\npython = \"{python}\"\ndockerfile = \"Dockerfile\"\n\
             args = {{ PYTHON = \"{python}\" }}\n"
        )
    };
    let repo = "[repo.\"pallets/flask\"]\nversions = [\"2.3\"]\npython = \"3.9.20\"\n\
        instance_python = { flask-2 = \"3.9.21\" }\ntest_command = \"pytest\"\n";
    std::fs::write(&path, base("a", "3.9.20") + &base("b", "3.9.21") + repo).unwrap();
    let catalog = Catalog::load(Some(&path), &[]).unwrap();
    let images = imgforge::plan::build::from_images(&catalog, &work()[..2]).unwrap();
    assert_eq!(images, ["python:3.9.20", "python:3.9.21"]);
}

/// Forty instances that go through two environments and four commits in turns, each for two models.
fn mixed() -> Vec<Work> {
    let kinds = work();
    let one = |number: usize, model: &str| {
        let mut work = kinds[if number.is_multiple_of(2) { 0 } else { 2 }].clone();
        let instance = Arc::make_mut(&mut work.instance);
        instance.instance_id = format!("i-{number}");
        instance.base_commit = (number % 4).to_string().repeat(40);
        work.prediction = Some(ModelPatch { model: model.to_owned(), patch: "x".into() });
        work
    };
    (0..40).flat_map(|number| ["m", "n"].map(|model| one(number, model))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_cut_keeps_environments_and_checkouts_together_in_whatever_order_work_comes(
        shuffled in Just(mixed()).prop_shuffle()
    ) {
        let name = |work: &Work| {
            let model = &work.prediction.as_ref().unwrap().model;
            (work.instance.instance_id.clone(), model.clone())
        };
        let cut = |work: &[Work]| {
            let plan = planned(options(), &BTreeMap::new(), work);
            order(&plan, work).into_iter().map(|at| work[at].clone()).collect::<Vec<_>>()
        };
        let (one, other) = (cut(&mixed()), cut(&shuffled));
        let names = |work: &[Work]| work.iter().map(name).collect::<Vec<_>>();
        prop_assert_eq!(names(&one), names(&other));
        // Each value comes in one run: as often as it changes, so many there are.
        let runs = |of: fn(&Work) -> &String| {
            1 + one.windows(2).filter(|pair| of(&pair[0]) != of(&pair[1])).count()
        };
        prop_assert_eq!(runs(|work| &work.instance.repo), 2);
        prop_assert_eq!(runs(|work| &work.instance.base_commit), 4);
        prop_assert_eq!(runs(|work| &work.instance.instance_id), 40);
    }
}
