//! A plan with the status of every node, and building it.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use crate::bundle::index::PackageIndex;
use crate::cache::registry::RegistryCache;
use crate::disk;
use crate::engine::{Engine, EngineError, HostAccess};
#[cfg(feature = "embedded")]
use crate::engine::{EngineKind, embedded};
use crate::event::Reporter;
use crate::exec::evaluation::EvaluationContext;
use crate::exec::output::Told;
use crate::exec::survey;
use crate::exec::{ExecSettings, Executor, NodeStatus, NodeSummary, RunSummary};
use crate::in_use;
use crate::key::{ImageId, Key, Kind};
use crate::owner::{self, Liveness, Owner, Owners};
use crate::package_indexes;
use crate::plan::{Inventory, Node, Plan, Status};
use crate::recipe::Recipe;
use crate::runner::{OnEngine, TestRunner};
use crate::store::Lease;

use super::budget::Budget;
use super::open::{collector, engine_error, engine_identity, say_elsewhere, variable};
use super::remote_images::apply_remote_images;
use super::workload::Workload;
use super::{Error, preflight, push};

/// Where build logs are, below the directory of what runs leave.
pub const BUILD_LOGS: &str = "logs/build_images";

/// The options of a build, which change no key.
#[derive(Debug, Clone)]
pub struct BuildOptions {
    /// Whether nothing more is started after the first failure.
    pub fail_fast: bool,
    /// How often something is tried that fails for a passing reason; at least once.
    pub attempts: u32,
    /// Certificates, variables and network of the host for build steps.
    pub host: HostAccess,
    /// Bytes of the disk that stay free: the run stops before.
    pub min_free: u64,
    /// Which output of steps and tests the reporters hear.
    pub told: Told,
}

impl Default for BuildOptions {
    fn default() -> Self {
        BuildOptions {
            fail_fast: false,
            attempts: 4,
            host: HostAccess::default(),
            min_free: 2 << 30,
            told: Told::default(),
        }
    }
}

/// A plan whose nodes are fresh, stale, to be pulled or not needed. Its images are leased as long as it
/// lives: nobody's collection takes them away.
pub struct AssessedPlan<'w> {
    workload: &'w Workload,
    plan: Arc<Plan>,
    tags: BTreeMap<String, ImageId>,
    lease: Option<Lease>,
    /// The images that are in the registry, or are made there, and that only pods need.
    left: HashSet<Key>,
}

impl<'w> AssessedPlan<'w> {
    pub(super) fn new(
        workload: &'w Workload,
        plan: Plan,
        tags: BTreeMap<String, ImageId>,
        lease: Option<Lease>,
    ) -> AssessedPlan<'w> {
        AssessedPlan { workload, plan: Arc::new(plan), tags, lease, left: HashSet::new() }
    }

    /// Returns the plan, with the status of every node.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// Returns what keeps the images from being collected.
    pub(super) fn into_lease(self) -> Option<Lease> {
        self.lease
    }

    /// Tells whether something is to be done.
    pub fn is_stale(&self) -> bool {
        self.plan.nodes().any(|(_, node)| node.status.runs())
    }

    /// Gives the images that are here their further names, wherever they came from.
    ///
    /// # Errors
    /// The engine's own.
    pub async fn name_fresh(&self) -> Result<(), Error> {
        let (plan, tags) = (&self.plan, &self.tags);
        let Some((engine, _)) = &self.workload.engine else { return Ok(()) };
        for node in plan.graph.node_weights().filter(|node| node.status == Status::Fresh) {
            let Some(id) = tags.get(&node.image) else { continue };
            for alias in node.aliases.iter().filter(|alias| tags.get(*alias) != Some(id)) {
                let name =
                    alias.parse().map_err(|fault| engine_error(EngineError::Reference(fault)))?;
                engine.tag(&node.image, &name).await.map_err(engine_error)?;
            }
        }
        Ok(())
    }

    /// Removes what processes left that were killed, and records that the images are needed: what a
    /// build does where nothing is to be built.
    ///
    /// # Errors
    /// Those of the engine and of the state.
    pub async fn note_use(&self) -> Result<(), Error> {
        self.remove_left().await?;
        self.record_use()
    }

    async fn remove_left(&self) -> Result<(), Error> {
        let (engine, _) = self.workload.engine();
        let owners = self.workload.store.owners();
        let left = engine.remove_scratch(&|name, made| owners.judge(name, made)).await;
        left.map(drop).map_err(engine_error)
    }

    fn record_use(&self) -> Result<(), Error> {
        let (_, info) = self.workload.engine();
        let kept = self.plan.nodes().filter(|(_, node)| node.kind() != Kind::Evaluation);
        let images = kept.map(|(_, node)| (node.key, node.instances.as_slice()));
        let (identity, dataset) = (engine_identity(info), &self.workload.dataset);
        self.workload.store.record_use(&identity, dataset, images).map_err(Error::environment)
    }

    /// Builds what is not fresh, and pushes it where the workload says so.
    ///
    /// # Errors
    /// What keeps the run from beginning; that nodes failed is part of the summary.
    pub async fn build(
        &self,
        options: &BuildOptions,
        reporter: Box<dyn Reporter>,
    ) -> Result<RunSummary, Error> {
        self.run(options, None, None, reporter).await
    }

    /// Builds the plan, and runs its evaluations for the targets in `evaluations`. Build steps get
    /// packages from `index`, else from the bundle, else from the network.
    pub(crate) async fn run(
        &self,
        options: &BuildOptions,
        evaluations: Option<Arc<EvaluationContext>>,
        index: Option<PackageIndex>,
        mut reporter: Box<dyn Reporter>,
    ) -> Result<RunSummary, Error> {
        let workload = self.workload;
        let index = match (index, &workload.package_index) {
            (None, Some(records)) => Some(serve_index(records).await?),
            (index, _) => index,
        };
        self.warn_of_environments();
        let (engine, info) = workload.engine();
        let in_pods = evaluations.as_ref().is_some_and(|all| all.elsewhere.is_some());
        preflight::check(&self.plan, info, in_pods)?;
        let mut host = options.host.clone();
        if let Some(index) = &index {
            lead_to(index, &mut host);
        }
        #[cfg(feature = "embedded")]
        if info.kind == EngineKind::Embedded && embedded::ends_with_login() {
            workload
                .notices
                .advise(format!("this run ends with your last login; {}", embedded::LINGER));
        }
        self.remove_left().await?;
        let elsewhere = evaluations.as_ref().and_then(|all| all.elsewhere.as_ref());
        let on_engine = || Arc::new(OnEngine(engine.clone())) as Arc<dyn TestRunner>;
        let runner = elsewhere.map_or_else(on_engine, |elsewhere| elsewhere.runner.clone());
        let builder = runner.clone().builder(engine.clone(), self.left.clone());
        let settings = ExecSettings {
            workers: workload.workers,
            builds: elsewhere.map_or(workload.workers, |elsewhere| elsewhere.builds),
            fallback_to_build: workload.fallback_to_build,
            fail_fast: options.fail_fast,
            attempts: options.attempts.max(1),
            host,
            log_dir: workload.output_dir.join(BUILD_LOGS),
            min_free: options.min_free,
            engine: engine_identity(info),
            engine_root: info.root.clone().filter(|root| disk::free(root).is_ok()),
            owner: owner::name().to_owned(),
            told: options.told,
        };
        let identity = settings.engine.clone();
        self.record_use()?;
        let collector = collector(&**engine, info, &identity, &workload.store);
        let budget = Budget::new(collector, workload.catalog.cache(), &workload.notices);
        budget.keep().await;
        let executor = Executor {
            builder,
            runner,
            store: workload.store.clone(),
            mirrors: workload.mirrors.clone(),
            settings,
            evaluations,
            remote: workload.remote.clone(),
        };
        let interrupt = (workload.interrupts)();
        let in_use = in_use::begin().await;
        let summary = tokio::select! {
            biased;
            summary = executor.run(self.plan.clone(), &mut *reporter, &interrupt) => summary,
            () = budget.keep_meanwhile() => unreachable!("it goes on for ever"),
        };
        drop(in_use);
        drop(reporter);
        drop(index);
        if workload.fetched.as_secs() > 0 {
            let took = crate::progress::seconds(workload.fetched.as_secs_f64());
            workload.notices.remark(format!("and {took} for the FROM images before"));
        }
        remove_own(&**engine, workload.store.owners()).await;
        self.record_use()?;
        if let Some(registry) = &workload.push_to {
            // Images of model patches are made in less time than they travel, and seldom needed twice.
            let patched: HashSet<Key> =
                self.plan.nodes().filter_map(|(_, node)| of_model(node)).collect();
            let built = summary
                .nodes
                .iter()
                .filter(|node| node.status == NodeStatus::Built && !patched.contains(&node.key));
            self.push(registry, built).await?;
        }
        budget.keep().await;
        Ok(summary)
    }

    /// Pushes images of a run. Returns how many could not be: the images are here, so that this is no
    /// error.
    ///
    /// # Errors
    /// Those of the state.
    pub async fn push<'a>(
        &self,
        registry: &RegistryCache,
        nodes: impl Iterator<Item = &'a NodeSummary>,
    ) -> Result<usize, Error> {
        let checker = self.workload.checker()?;
        Ok(push::push_nodes(&self.workload.notices, &checker, registry, nodes).await)
    }

    /// Says of the environments that will be made what was replaced in them, and what they do not see.
    fn warn_of_environments(&self) {
        let notices = &self.workload.notices;
        let mut made = false;
        for (_, node) in self.plan.nodes() {
            let (Recipe::Env(recipe), Status::Stale(_)) = (&node.recipe, &node.status) else {
                continue;
            };
            made = true;
            for note in &recipe.replaced {
                notices.advise(format!("{}: {note}", node.id));
            }
        }
        let links = variable("UV_FIND_LINKS").or(variable("PIP_FIND_LINKS"));
        let links = links.filter(|_| made).unwrap_or_default();
        for folder in package_indexes::links(&links).1 {
            notices.advise(format!(
                "build steps do not see the folder `{folder}` of PIP_FIND_LINKS: packages come from \
                 the index"
            ));
        }
    }
}

impl Workload {
    /// Sets the status of every node from what exists here and elsewhere. From then on, as long as the
    /// result lives, no collection of any process takes the plan's images away. With `force` every image
    /// counts as stale; `results` are evaluations whose result is known.
    pub async fn assess(
        &self,
        mut plan: Plan,
        force: bool,
        results: &HashSet<Key>,
    ) -> Result<AssessedPlan<'_>, Error> {
        let (mut inventory, tags, lease) = match &self.engine {
            Some((engine, info)) => {
                let keys = plan.nodes().map(|(_, node)| node.key);
                let lease = self.store.lease(keys).await.map_err(Error::environment)?;
                let identity = engine_identity(info);
                let surveyed = survey::inventory(&**engine, &identity, &self.store, &plan).await;
                let (inventory, tags) = surveyed.map_err(Error::environment)?;
                (inventory, tags, Some(lease))
            }
            None => (Inventory::default(), BTreeMap::new(), None),
        };
        for key in results {
            inventory.add_result(*key);
        }
        plan.assess(&inventory, force);
        apply_remote_images(self, &mut plan).await?;
        // What was named for this very command is not where pods get their images from.
        let left = match plan.runs_in_pods() && !self.remote_required {
            true => plan.leave_images(),
            false => HashSet::new(),
        };
        if let (Some(remote), count @ 1..) = (&self.remote, left.len()) {
            let images = if count == 1 { "image" } else { "images" };
            let place = remote.describe();
            self.notices.remark(format!("{count} {images} for pods alone: in {place}"));
        }
        if let Some((_, info)) = self.engine.as_ref().filter(|_| !force) {
            let stale = plan.nodes().filter(|(_, node)| matches!(node.status, Status::Stale(_)));
            let stale: HashSet<Key> = stale.map(|(_, node)| node.key).collect();
            say_elsewhere(&self.notices, &self.store, info, Some(&stale))
                .map_err(Error::environment)?;
        }
        Ok(AssessedPlan { left, ..AssessedPlan::new(self, plan, tags, lease) })
    }
}

/// Returns the key of an image with a model patch.
fn of_model(node: &Node) -> Option<Key> {
    match &node.recipe {
        Recipe::Instance(recipe) => recipe.model_patch.as_ref().map(|_| node.key),
        _ => None,
    }
}

/// Starts what answers for the package index from the records of a bundle.
async fn serve_index(records: &Path) -> Result<PackageIndex, Error> {
    PackageIndex::start(records, None).await.map_err(|error| {
        let error = anyhow::Error::from(error).context("cannot serve the packages of the bundle");
        Error::environment(error)
    })
}

/// Leads build steps to an index on this machine, and nowhere else.
fn lead_to(index: &PackageIndex, host: &mut HostAccess) {
    for name in [
        "PIP_EXTRA_INDEX_URL",
        "PIP_FIND_LINKS",
        "PIP_NO_INDEX",
        "UV_EXTRA_INDEX_URL",
        "UV_FIND_LINKS",
        "UV_INDEX",
        "UV_INDEX_STRATEGY",
    ] {
        host.variables.remove(name);
    }
    for (name, value) in index.variables() {
        host.variables.insert(name.to_owned(), value);
    }
    host.network = Some("host".to_owned());
}

/// Removes the containers and images of work that this very process dropped, or that the engine
/// lost on the way; where this process uses others, they stay for the next time.
pub(crate) async fn remove_own(engine: &dyn Engine, owners: &Owners) {
    let Some(_nothing_in_use) = in_use::nothing() else { return };
    let judge = |name: &str, made| match Owner::parse(name) {
        Some(owner) if owner == *Owner::this() => Liveness::Dead,
        _ => owners.judge(name, made),
    };
    let _ = engine.remove_scratch(&judge).await;
}
