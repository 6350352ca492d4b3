//! The executor, on an engine in memory: failures, retries, order, interrupts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use imgforge::catalog::Catalog;
use imgforge::dataset::demo;
use imgforge::engine::fake::{FakeEngine, Method};
use imgforge::engine::{EngineError, HostAccess, Image, Images as _, SandboxEnd};
use imgforge::event::{Event, EventKind, Outcome, Reporter};
use imgforge::exec::evaluation::{EvaluationContext, RunTarget};
use imgforge::exec::output::{Lines, Told};
use imgforge::exec::{ExecSettings, Executor, Interrupt, NodeStatus, RunSummary, survey};
use imgforge::grade::Rules;
use imgforge::key::Kind;
use imgforge::plan::ModelPatch;
use imgforge::plan::{EvaluateOptions, Plan, PlanOptions, Planner, Status, Work};
use imgforge::platform::Platform;
use imgforge::report::Verdict;
use imgforge::run::RunDir;
use imgforge::runner::OnEngine;
use imgforge::source::Mirrors;
use imgforge::store::Store;

const FROM: &str = "python:3.11.10-slim-bookworm";

struct Space {
    dir: tempfile::TempDir,
    engine: Arc<FakeEngine>,
    store: Arc<Store>,
    mirrors: Arc<Mirrors>,
    work: Vec<Work>,
    catalog: Catalog,
}

#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<EventKind>>>);

impl Reporter for Recorder {
    fn report(&mut self, event: &Event) {
        self.0.lock().unwrap().push(event.kind.clone());
    }
}

impl Space {
    fn new() -> Space {
        let dir = tempfile::tempdir().unwrap();
        let demo = demo::materialise(&dir.path().join("demo")).unwrap();
        let work = demo
            .dataset
            .instances
            .into_iter()
            .map(|instance| Work { instance: Arc::new(instance), prediction: None })
            .collect();
        let state = dir.path().join("state");
        Space {
            engine: Arc::new(FakeEngine::new().with_image(FROM)),
            store: Arc::new(Store::open(&state).unwrap()),
            mirrors: Arc::new(Mirrors::new(&state, Vec::new(), demo.mirrors)),
            work,
            catalog: Catalog::embedded().unwrap(),
            dir,
        }
    }

    async fn plan(&self) -> Arc<Plan> {
        self.plan_with(false).await
    }

    async fn plan_with(&self, force: bool) -> Arc<Plan> {
        let from = [FROM.to_owned()];
        let from =
            survey::from_identities(&*self.engine, &from, &Platform::written("linux/amd64"), None)
                .await;
        let options = PlanOptions {
            platform: Platform::written("linux/amd64"),
            namespace: None,
            derive_images: false,
            image_tag: None,
            up_to: Kind::Instance,
            evaluate: None,
        };
        let from: BTreeMap<String, String> = from.unwrap();
        let mut plan = Planner::new(&self.catalog, options, &from).plan(&self.work).unwrap();
        let inventory = survey::inventory(&*self.engine, "fake", &self.store, &plan).await;
        plan.assess(&inventory.unwrap().0, force);
        Arc::new(plan)
    }

    async fn run(&self, workers: usize, interrupt: &Interrupt) -> (RunSummary, Vec<EventKind>) {
        self.run_with(interrupt, |settings| settings.workers = workers).await
    }

    fn executor(&self, change: impl FnOnce(&mut ExecSettings)) -> Executor {
        let mut settings = ExecSettings {
            workers: 2,
            builds: 24,
            fallback_to_build: true,
            fail_fast: false,
            attempts: 3,
            host: HostAccess::default(),
            log_dir: self.dir.path().join("logs"),
            min_free: 0,
            engine: "fake".into(),
            engine_root: None,
            owner: "test".into(),
            told: Told { images: Lines::None, tests: Lines::None },
        };
        change(&mut settings);
        Executor {
            builder: self.engine.clone(),
            runner: Arc::new(OnEngine(self.engine.clone())),
            store: self.store.clone(),
            mirrors: self.mirrors.clone(),
            settings,
            evaluations: None,
            remote: None,
        }
    }

    async fn run_with(
        &self,
        interrupt: &Interrupt,
        change: impl FnOnce(&mut ExecSettings),
    ) -> (RunSummary, Vec<EventKind>) {
        let executor = self.executor(change);
        let mut recorder = Recorder::default();
        let summary = executor.run(self.plan().await, &mut recorder, interrupt).await;
        let events = recorder.0.lock().unwrap().clone();
        (summary, events)
    }
}

fn refused() -> EngineError {
    EngineError::Step { step: "RUN x".into(), code: 1 }
}

fn broken() -> EngineError {
    EngineError::Transient { action: "build".into(), source: "connection reset".into() }
}

fn env_image(plan: &Plan, repo: &str) -> String {
    let id = format!("env:imgforge/{repo}");
    plan.nodes().find(|(_, node)| node.id.starts_with(&id)).unwrap().1.image.clone()
}

/// Returns how many build logs say that steps were run which had been run before.
fn builds_without_cache(space: &Space) -> usize {
    let logs = walkdir::WalkDir::new(space.dir.path().join("logs")).into_iter();
    let logs = logs.map(Result::unwrap).filter(|entry| entry.file_type().is_file());
    logs.filter(|entry| {
        std::fs::read_to_string(entry.path()).unwrap().contains("#0 without the cache")
    })
    .count()
}

#[tokio::test]
async fn everything_is_built_once_and_a_second_run_builds_nothing() {
    let space = Space::new();
    let (first, events) = space.run(2, &Interrupt::default()).await;
    assert_eq!((first.built, first.failed), (20, 0), "{:#?}", first.nodes);
    let started =
        events.iter().filter(|event| matches!(event, EventKind::NodeStarted { .. })).count();
    let ended =
        events.iter().filter(|event| matches!(event, EventKind::NodeFinished { .. })).count();
    assert_eq!((started, ended), (20, 20));
    assert!(matches!(events.first(), Some(EventKind::RunStarted { .. })));
    assert!(matches!(events.last(), Some(EventKind::RunFinished { .. })));
    let (second, _) = space.run(2, &Interrupt::default()).await;
    assert_eq!((second.built, second.fresh), (0, 20));
}

#[tokio::test]
async fn a_rebuild_that_is_asked_for_runs_every_step_anew() {
    let space = Space::new();
    space.run(2, &Interrupt::default()).await;
    assert_eq!(builds_without_cache(&space), 0);
    space.engine.forget_calls();
    let plan = space.plan_with(true).await;
    let mut recorder = Recorder::default();
    let executor = space.executor(|_| {});
    let again = executor.run(plan, &mut recorder, &Interrupt::default()).await;
    assert_eq!((again.built, again.failed), (20, 0), "{:#?}", again.nodes);
    let builds = space.engine.called(Method::Build).len();
    assert!(builds >= 4, "{builds}");
    assert_eq!(builds_without_cache(&space), builds);
}

#[tokio::test]
async fn a_failed_env_skips_its_instances_and_nothing_else() {
    let space = Space::new();
    let image = env_image(&*space.plan().await, "abacus");
    space.engine.fail(Method::Build, &image, 9, refused);
    let (summary, events) = space.run(2, &Interrupt::default()).await;
    assert_eq!((summary.failed, summary.skipped, summary.built), (1, 6, 13));
    let failure = events.iter().find_map(|event| match event {
        EventKind::NodeFinished { outcome: Outcome::Failed { instances, tail, .. }, .. } => {
            Some((instances, tail))
        }
        _ => None,
    });
    let (instances, tail) = failure.unwrap();
    assert_eq!(instances.len(), 3);
    assert!(tail.iter().any(|line| line.contains("RUN x")), "{tail:?}");
    let builds = space.engine.called(Method::Build);
    assert_eq!(builds.iter().filter(|tag| **tag == image).count(), 1, "a refusal is not retried");
}

#[tokio::test]
async fn an_installation_that_fails_is_told_by_its_commands() {
    let space = Space::new();
    let plan = space.plan().await;
    let node = plan.nodes().find(|(_, node)| node.id.starts_with("checkout:imgforge/abacus"));
    let image = node.unwrap().1.image.clone();
    space.engine.fail(Method::Build, &image, 1, || EngineError::Step {
        step: r#"RUN ["bash","-c","set -eo pipefail\ncd /testbed\npip install"]"#.into(),
        code: 7,
    });
    let (summary, _) = space.run(1, &Interrupt::default()).await;
    let errors: Vec<_> = summary.nodes.iter().filter_map(|node| node.error.as_deref()).collect();
    let told = errors.iter().find(|error| error.contains("exited with code 7"));
    let told = told.unwrap_or_else(|| panic!("{errors:?}"));
    assert!(told.contains("pip install") && !told.contains("pipefail"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn what_may_pass_is_tried_again_and_only_so_often() {
    let space = Space::new();
    let image = env_image(&*space.plan().await, "quill");
    space.engine.fail(Method::Build, &image, 2, broken);
    let (summary, events) = space.run(1, &Interrupt::default()).await;
    assert_eq!(summary.failed, 0);
    let retries =
        events.iter().filter(|event| matches!(event, EventKind::NodeRetry { .. })).count();
    assert_eq!(retries, 2);

    let space = Space::new();
    space.engine.fail(Method::Build, &image, 3, broken);
    let (summary, _) = space.run(1, &Interrupt::default()).await;
    assert_eq!((summary.failed, summary.skipped), (1, 4));
}

#[tokio::test(start_paused = true)]
async fn no_more_nodes_run_at_once_than_there_are_workers() {
    let space = Space::new();
    space.engine.delay(Method::Build, "", Duration::from_secs(1));
    space.engine.delay(Method::Load, "", Duration::from_secs(1));
    let (summary, _) = space.run(3, &Interrupt::default()).await;
    assert_eq!(summary.failed, 0);
    assert_eq!(space.engine.peak(), 3);
}

#[tokio::test]
async fn with_fail_fast_nothing_starts_after_a_failure() {
    let space = Space::new();
    space.engine.fail(Method::Build, "imgforge/base:", 1, refused);
    let (summary, _) =
        space.run_with(&Interrupt::default(), |settings| settings.fail_fast = true).await;
    assert_eq!((summary.failed, summary.skipped, summary.built), (1, 19, 0));
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_ends_what_runs_and_the_next_run_goes_on() {
    let space = Space::new();
    let interrupt = Interrupt::default();
    space.engine.delay(Method::Build, "imgforge/env:", Duration::from_secs(60));
    let stop = interrupt.stop.clone();
    let (stopped, _) = tokio::join!(space.run(1, &interrupt), async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        stop.cancel();
    });
    let (summary, events) = stopped;
    assert!(summary.interrupted);
    assert_eq!((summary.built, summary.skipped), (2, 18), "base and the env that ran");
    assert!(events.iter().any(|event| matches!(event, EventKind::Interrupted { dropped: false })));
    let (summary, _) = space.run(1, &Interrupt::default()).await;
    assert_eq!((summary.fresh, summary.built), (2, 18));
}

#[tokio::test]
async fn a_full_disk_ends_the_run() {
    let space = Space::new();
    space.engine.fail(Method::Load, "", 1, || EngineError::NoSpace { action: "load".into() });
    let (summary, _) = space.run(1, &Interrupt::default()).await;
    assert!(summary.out_of_space);
    assert_eq!(summary.failed, 1);
    let (summary, _) =
        Space::new().run_with(&Interrupt::default(), |settings| settings.min_free = u64::MAX).await;
    assert!(summary.out_of_space);
    let error = summary.nodes[0].error.as_deref().unwrap();
    assert!(error.contains("are needed") && error.contains("are free"), "{error}");
}

#[tokio::test]
async fn a_parent_that_somebody_removes_during_the_build_is_built_again() {
    let space = Space::new();
    space.run(1, &Interrupt::default()).await;
    let plan = space.plan().await;
    let checkout = plan.nodes().find(|(_, node)| node.id.starts_with("checkout:imgforge/quill"));
    let (index, node) = checkout.unwrap();
    let parent = plan.graph[plan.parent(index).unwrap()].image.clone();
    space.engine.remove(&node.image).await.unwrap();
    for alias in &node.aliases {
        space.engine.remove(alias).await.unwrap();
    }
    space.engine.forget_calls();
    // The plan says that the parent is there; it goes between plan and build.
    space.engine.fail(Method::Load, &node.image, 1, {
        let parent = parent.clone();
        move || EngineError::NoSuchImage { reference: parent.clone() }
    });
    let (summary, events) = space.run(1, &Interrupt::default()).await;
    assert_eq!(summary.failed, 0);
    assert!(
        events
            .iter()
            .any(|event| matches!(event, EventKind::Warning { text } if text.contains(&parent)))
    );
}

#[tokio::test]
async fn a_parent_that_is_gone_is_built_again_where_one_image_is_made_at_a_time() {
    let space = Space::new();
    space.run(1, &Interrupt::default()).await;
    let plan = space.plan().await;
    let checkout = plan.nodes().find(|(_, node)| node.id.starts_with("checkout:imgforge/quill"));
    let (index, node) = checkout.unwrap();
    space.engine.remove(&node.image).await.unwrap();
    for alias in &node.aliases {
        space.engine.remove(alias).await.unwrap();
    }
    let parent = plan.graph[plan.parent(index).unwrap()].image.clone();
    let plan = space.plan().await;
    space.engine.remove(&parent).await.unwrap();
    let executor = space.executor(|settings| (settings.workers, settings.builds) = (1, 1));
    let (mut recorder, interrupt) = (Recorder::default(), Interrupt::default());
    let run = executor.run(plan, &mut recorder, &interrupt);
    let ended = tokio::time::timeout(Duration::from_secs(60), run).await;
    assert_eq!(ended.expect("it waits for its own turn").failed, 0);
    assert!(space.engine.inspect(&parent).await.unwrap().is_some());
}

#[tokio::test]
async fn a_base_that_is_gone_under_whole_images_is_neither_built_nor_pulled() {
    let space = Space::new();
    space.run(2, &Interrupt::default()).await;
    let plan = space.plan().await;
    let (_, base) = plan.nodes().find(|(_, node)| node.kind() == Kind::Base).unwrap();
    space.engine.remove(&base.image).await.unwrap();
    space.engine.forget_calls();
    let (summary, events) = space.run(2, &Interrupt::default()).await;
    assert_eq!((summary.built, summary.pulled, summary.failed), (0, 0, 0));
    assert_eq!(summary.nodes[0].status, NodeStatus::Unneeded);
    assert!(space.engine.called(Method::Build).is_empty());
    let to_run = events.iter().find_map(|event| match event {
        EventKind::RunStarted { to_run, nodes, fresh, .. } => Some((*to_run, *nodes, *fresh)),
        _ => None,
    });
    assert_eq!(to_run, Some((0, 19, 19)));
}

#[tokio::test]
async fn a_replaced_image_of_the_same_key_does_not_hide_the_one_that_has_the_name() {
    let space = Space::new();
    let plan = space.plan().await;
    space.run(2, &Interrupt::default()).await;
    for (_, node) in plan.nodes() {
        let image = space.engine.inspect(&node.image).await.unwrap().unwrap();
        // The engine lists by id: one before and one after.
        for digit in ["0", "f"] {
            let id = format!("sha256:{}{}", digit.repeat(8), &image.id.as_str()[15..]);
            space.engine.put(Image { id: id.into(), tags: Vec::new(), ..image.clone() });
        }
    }
    let plan = space.plan().await;
    assert!(plan.nodes().all(|(_, node)| node.status == Status::Fresh));
}

const LOG: &str = ">>>>> Start Test Output\nPASSED a\n>>>>> End Test Output\n";

impl Space {
    /// Evaluates the chosen instances with one patch each.
    async fn evaluate(&mut self, patches: &[(&str, &str)]) -> (RunSummary, Vec<EventKind>) {
        let mut work = Vec::new();
        for (id, patch) in patches {
            let found = self.work.iter().find(|one| one.instance.instance_id == *id).unwrap();
            let patch = match *patch {
                "gold" => found.instance.patch.clone(),
                other => other.into(),
            };
            work.push(Work {
                instance: found.instance.clone(),
                prediction: Some(ModelPatch { model: "m".into(), patch }),
            });
        }
        let from = [FROM.to_owned()];
        let from =
            survey::from_identities(&*self.engine, &from, &Platform::written("linux/amd64"), None)
                .await;
        let options = PlanOptions {
            platform: Platform::written("linux/amd64"),
            namespace: None,
            derive_images: false,
            image_tag: None,
            up_to: Kind::Instance,
            evaluate: Some(EvaluateOptions::default()),
        };
        let from: BTreeMap<String, String> = from.unwrap();
        let mut plan = Planner::new(&self.catalog, options, &from).plan(&work).unwrap();
        let inventory = survey::inventory(&*self.engine, "fake", &self.store, &plan).await;
        plan.assess(&inventory.unwrap().0, false);
        let dir = RunDir::new(&self.dir.path().join("runs"), &"r".parse().unwrap());
        let target = |one: &imgforge::plan::Target| {
            let instance = work[one.work].instance.clone();
            let target = RunTarget {
                dir: dir.instance("m", &instance.instance_id, 0).unwrap(),
                rules: Rules::of(&instance).unwrap(),
                emulator: None,
                model: "m".into(),
                patch: work[one.work].prediction.as_ref().unwrap().patch.clone(),
                instance,
            };
            (one.node, vec![target])
        };
        let targets = plan.targets.iter().map(target).collect();
        let runs =
            EvaluationContext { dir: dir.clone(), targets, use_results: true, elsewhere: None };
        let mut executor = self.executor(|settings| settings.workers = 2);
        executor.evaluations = Some(Arc::new(runs));
        let mut recorder = Recorder::default();
        let summary = executor.run(Arc::new(plan), &mut recorder, &Interrupt::default()).await;
        let events = recorder.0.lock().unwrap().clone();
        (summary, events)
    }
}

fn verdicts(summary: &RunSummary) -> Vec<Verdict> {
    let mut verdicts: Vec<Verdict> = summary.evaluations.values().map(|one| one.verdict).collect();
    verdicts.sort();
    verdicts
}

#[tokio::test(start_paused = true)]
async fn an_instance_is_graded_while_others_still_build() {
    let mut space = Space::new();
    space.engine.sandbox("", LOG.as_bytes(), b"", SandboxEnd::Exited(0));
    space.engine.delay(Method::Build, "imgforge/env", Duration::from_secs(10));
    space.engine.delay(Method::Build, "imgforge/checkout", Duration::from_secs(1));
    let patches = [("imgforge__quill-1", "gold"), ("imgforge__ledger-1", "gold")];
    let (summary, events) = space.evaluate(&patches).await;
    assert_eq!(summary.evaluated, 2);
    let at = |wanted: &str| {
        let found = events.iter().position(|event| {
            matches!(event, EventKind::NodeFinished { node, .. } if node.id.starts_with(wanted))
        });
        found.unwrap_or_else(|| panic!("{wanted} did not end"))
    };
    assert!(at("evaluation:imgforge__quill-1") < at("checkout:imgforge/ledger"));
}

#[tokio::test]
async fn a_patch_that_does_not_apply_is_a_result_with_its_hunks() {
    let mut space = Space::new();
    space.engine.sandbox("", LOG.as_bytes(), b"", SandboxEnd::Exited(0));
    let bad = "--- a/quill/render.py\n+++ b/quill/render.py\n@@ -1 +1 @@\n-no such line\n+x\n";
    let (summary, _) = space.evaluate(&[("imgforge__quill-1", bad)]).await;
    assert_eq!(verdicts(&summary), [Verdict::PatchRefused]);
    let dir = space.dir.path().join("runs/r/m/imgforge__quill-1");
    let report = std::fs::read_to_string(dir.join("report.json")).unwrap();
    assert!(report.contains("quill/render.py:1"), "{report}");
    let log = std::fs::read_to_string(dir.join("run_instance.log")).unwrap();
    assert!(log.starts_with(">>>>> Patch Apply Failed:\n$ git apply --verbose"), "{log}");
    assert!(space.engine.called(Method::RunScript).is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_fails_in_the_engine_is_tried_again_and_never_scored() {
    let mut space = Space::new();
    space.engine.sandbox("", LOG.as_bytes(), b"", SandboxEnd::Exited(0));
    let gone = || EngineError::Transient { action: "run".into(), source: "gone".into() };
    space.engine.fail(Method::RunScript, "", 2, gone);
    let (summary, _) = space.evaluate(&[("imgforge__quill-1", "gold")]).await;
    assert_eq!(verdicts(&summary), [Verdict::Unresolved]);
    assert_eq!(space.engine.called(Method::RunScript).len(), 3);
    space.engine.forget_calls();
    space.engine.fail(Method::RunScript, "", 99, gone);
    let (summary, _) = space.evaluate(&[("imgforge__quill-2", "gold")]).await;
    assert_eq!((summary.failed, verdicts(&summary).len()), (1, 0));
    let report = space.dir.path().join("runs/r/m/imgforge__quill-2/report.json");
    assert!(!report.exists());
}

#[tokio::test(start_paused = true)]
async fn a_container_that_was_killed_from_outside_says_nothing_of_its_patch() {
    let mut space = Space::new();
    space.engine.sandbox("", LOG.as_bytes(), b"", SandboxEnd::Killed(137));
    let (summary, _) = space.evaluate(&[("imgforge__quill-1", "gold")]).await;
    assert_eq!((summary.failed, verdicts(&summary).len()), (1, 0));
    let error = summary.nodes.iter().find_map(|node| node.error.clone()).unwrap();
    assert!(error.contains("killed from outside (exit code 137)"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_tree_that_is_gone_before_the_tests_is_tried_again_and_never_remembered() {
    let mut space = Space::new();
    let gone = "fatal: Unable to read current working directory: No such file or directory\n";
    space.engine.sandbox("", gone.as_bytes(), b"", SandboxEnd::Exited(128));
    let (summary, _) = space.evaluate(&[("imgforge__quill-1", "gold")]).await;
    assert_eq!((summary.failed, verdicts(&summary).len()), (1, 0));
    assert_eq!(space.engine.called(Method::RunScript).len(), 3);
    let keys = |summary: &RunSummary| {
        let nodes = summary.nodes.iter();
        nodes.filter(|one| one.id.starts_with("evaluation:")).map(|one| one.key).collect::<Vec<_>>()
    };
    let keys = keys(&summary);
    assert_eq!(keys.len(), 1);
    assert!(space.store.results_of(keys.into_iter()).unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_tree_that_the_tests_removed_is_their_doing_and_not_remembered() {
    let mut space = Space::new();
    let log = ">>>>> Start Test Output\n>>>>> End Test Output\n\
               fatal: Unable to read current working directory: No such file or directory\n";
    space.engine.sandbox("", log.as_bytes(), b"", SandboxEnd::Exited(128));
    let (summary, _) = space.evaluate(&[("imgforge__quill-1", "gold")]).await;
    assert_eq!(verdicts(&summary), [Verdict::Unresolved]);
    assert_eq!(space.engine.called(Method::RunScript).len(), 1);
    let key = summary.evaluations.values().find_map(|one| one.key).unwrap();
    assert!(space.store.results_of([key].into_iter()).unwrap().is_empty());
}
