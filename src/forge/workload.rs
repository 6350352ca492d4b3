//! What is loaded into a forge: from options to instances, engine, sources of images, and plans.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::anyhow;

use crate::bundle as form;
use crate::cache::check::Checker;
use crate::cache::image_source::ImageSource;
use crate::cache::registry::RegistryCache;
use crate::catalog::{Catalog, Defaults};
use crate::config;
use crate::dataset::{Instance, Refused};
use crate::engine::{Engine, EngineInfo};
use crate::exec::Interrupt;
use crate::exec::survey::{self, Fetch, FetchError};
use crate::key::{Key, Kind};
use crate::plan::build::from_images;
use crate::plan::check::Purpose;
use crate::plan::{EvaluateOptions, Inventory, Plan, PlanOptions, Planner, Status, Work};
use crate::platform::Platform;
use crate::source::{Mirrors, local_path};
use crate::store::Store;

use super::assessed::AssessedPlan;
use super::open::{engine_error, engine_identity, say_elsewhere};
use super::predictions::{self, Submission};
use super::rows::{ChosenInstances, choose};
use super::{
    Error, Forge, LoadOptions, Notices, Password, Selection, SourceOptions, bundle_in_use, keys,
    platform, registries, unfit,
};

/// Instances with their predictions, and all that plans of them are made from.
pub struct Workload {
    /// The catalog.
    pub catalog: Catalog,
    /// The engine, when one answers.
    pub engine: Option<(Arc<dyn Engine>, EngineInfo)>,
    /// The state.
    pub store: Arc<Store>,
    /// Where repositories come from.
    pub mirrors: Arc<Mirrors>,
    /// How many nodes run at once.
    pub workers: usize,
    /// The path of the dataset, or its id on the hub.
    pub dataset: String,
    /// The chosen instances.
    pub instances: Vec<Arc<Instance>>,
    /// What is wanted of them.
    pub work: Vec<Work>,
    /// The chosen instances that are left out, and why.
    pub refused: Vec<Refused>,
    /// What the predictions were.
    pub submission: Submission,
    /// Such as `linux/amd64`.
    pub platform: String,
    /// What runs it, where that is not the engine's own.
    pub emulator: Option<String>,
    /// Where published images come from.
    pub namespace: Option<String>,
    /// Whether their names follow from it even where rows name their own.
    pub derive_images: bool,
    /// Their tag, where that is not `latest`.
    pub image_tag: Option<String>,
    /// Where images come from that are not built here.
    pub remote: Option<Arc<dyn ImageSource>>,
    /// Whether that was named for this very command.
    pub remote_required: bool,
    /// Whether what cannot be had from there is built.
    pub fallback_to_build: bool,
    /// Where images go that were built here.
    pub push_to: Option<RegistryCache>,
    from: BTreeMap<String, String>,
    pub(super) notices: Notices,
    pub(super) interrupts: Arc<dyn Fn() -> Interrupt + Send + Sync>,
    pub(super) output_dir: PathBuf,
    sources: SourceOptions,
    password: Arc<Password>,
    /// The records that answer for the package index; the network does where there are none.
    pub package_index: Option<PathBuf>,
    /// How long the `FROM` images took, before there was a plan.
    pub fetched: std::time::Duration,
    /// Where what comes from an archive is unpacked.
    _scratch: Arc<tempfile::TempDir>,
}

/// Returns the namespace of published images; `None` builds everything.
pub fn namespace(
    sources: &SourceOptions,
    selection: &Selection,
    defaults: &Defaults,
    platform: &str,
) -> Result<Option<String>, Error> {
    if matches!(selection.dataset.as_str(), "demo" | bundle_in_use::DATASET) {
        return Ok(None);
    }
    let named = sources.namespace.as_deref();
    config::namespace(named, defaults, platform == "linux/amd64").map_err(|(named, wrong)| {
        let error = anyhow::Error::new(wrong);
        Error::input(error.context(format!("`{named}` is not a namespace of images")))
    })
}

/// Checks that a source of repositories that is on this machine is there.
fn check_mirror(template: &str) -> Result<(), Error> {
    let Some(path) = local_path(template) else { return Ok(()) };
    // What comes before the first name of a repository.
    let whole = path.display().to_string();
    let place = match whole.split_once('{') {
        None => path.clone(),
        Some((start, _)) => match start.rsplit_once('/') {
            Some((place, _)) => PathBuf::from(format!("{place}/")),
            None => return Ok(()),
        },
    };
    if place.is_dir() {
        return Ok(());
    }
    let error = anyhow!("`{}`, where --git-mirror looks, is no directory", place.display());
    Err(Error::input(error).with_hint(Some(
        "name a URL or a directory that is there; {owner}, {name} and {repo} stand for the \
         repository"
            .to_owned(),
    )))
}

/// Reads everything that a plan is made from.
pub(super) async fn load(forge: &Forge, wanted: &LoadOptions) -> Result<Workload, Error> {
    let (options, store) = (&forge.options, forge.store.clone());
    let notices = &options.notices;
    let in_bundle = wanted.selection.dataset == bundle_in_use::DATASET;
    let bundled = in_bundle.then(|| bundle_in_use::used(store.dir())).transpose()?;
    let catalog = match &bundled {
        Some(contents) => bundle_in_use::catalog(store.dir(), contents)?,
        None => options.catalog()?,
    };
    let sources = &wanted.sources;
    let defaults = catalog.defaults();
    let platform = sources.platform.as_ref().or(defaults.platform.as_ref());
    let platform = platform.map(|text| platform::read(text)).transpose()?;
    for template in &sources.git_mirrors {
        check_mirror(template)?;
    }
    let ChosenInstances { instances, mut refused, all, origin: dataset, mirrors: demo_mirrors } =
        choose(&wanted.selection, store.dir(), notices).await?;
    if instances.is_empty() {
        return Err(unfit::none_left(&refused, None));
    }
    let (names, skip_empty) = (&wanted.predictions, wanted.skip_empty);
    let (mut work, submission) =
        predictions::read(names, &instances, &refused, &all, skip_empty, notices)?;
    let instances: Vec<Arc<Instance>> = instances.into_iter().map(Arc::new).collect();

    let engine = match options.connect().await {
        Ok(engine) => {
            let info = engine.info().await.map_err(engine_error)?;
            Some((engine, info))
        }
        Err(error) if wanted.build => return Err(engine_error(error)),
        Err(error) => {
            notices.advise(format!("{error}, so every image is taken for stale"));
            None
        }
    };
    let native = engine.as_ref().map(|(_, info)| info.platform.clone());
    let native = native.unwrap_or_else(|| Platform::host().to_string());
    let platform = platform.unwrap_or(native);
    let scratch = store.scratch_dir().map_err(Error::environment)?;
    let emulator = match &engine {
        Some((engine, info)) if wanted.build => {
            platform::check(&**engine, info, &platform, sources.emulate, scratch.path()).await?
        }
        _ => None,
    };
    if let Some(emulator) = &emulator {
        notices.advise(format!(
            "{platform} runs under {emulator}: slowly, and tests may do otherwise than on such a \
             machine"
        ));
    }
    let namespace = namespace(sources, &wanted.selection, defaults, &platform)?;
    let image_tag = sources.image_tag.clone();
    if image_tag.is_some() && namespace.is_none() {
        notices.advise(
            "--instance-image-tag does nothing where images are built here: without --namespace",
        );
    }
    let (up_to, evaluate) = (Kind::Instance, wanted.evaluate.clone());
    let plan_options = PlanOptions {
        platform: platform.clone(),
        namespace: namespace.clone(),
        derive_images: sources.derive_images,
        image_tag: image_tag.clone(),
        up_to,
        evaluate,
    };
    let check = unfit::Check { catalog: &catalog, options: plan_options, purpose: wanted.purpose };
    let (found, hint) = check.leave_out(&instances, &mut work);
    refused.extend(found);
    let is_refused = |id: &str| refused.iter().any(|one| one.instance_id == id);
    let none_left = submission.submitted.iter().all(|one| is_refused(&one.instance_id));
    if work.is_empty() && !refused.is_empty() && none_left {
        return Err(unfit::none_left(&refused, hint));
    }
    unfit::warn(notices, &refused);
    let rows = work.iter().map(|work| &*work.instance);
    let run = matches!(wanted.purpose, Purpose::Run);
    if let Some(warning) = unfit::nothing_to_fix(rows).filter(|_| run) {
        notices.advise(warning);
    }
    let (remote, push_to) = registries::open(options, wanted, &catalog, &platform, scratch.path())?;
    let mut from = BTreeMap::new();
    let mut fetched = std::time::Duration::ZERO;
    if namespace.is_none()
        && let Some((engine, info)) = &engine
    {
        let images = from_images(&catalog, &work).map_err(Error::input)?;
        let platforms = (platform.as_str(), info.platform.as_str());
        let remote = remote.as_deref();
        let recorded = registries::recorded(&**engine, remote, images, platforms, wanted, notices);
        let (elsewhere, images) = recorded.await?;
        let start = std::time::Instant::now();
        let waiting = notices.wait("bringing the FROM images");
        let log = notices.log(&waiting);
        let bootstrap = sources.bootstrap || defaults.bootstrap == Some(true);
        let min_free = wanted.min_free;
        let bootstrap = bootstrap.then_some(scratch.path());
        let fetch = Fetch { log, bootstrap, min_free };
        let fetch = wanted.build.then_some(&fetch);
        let known = survey::from_identities(&**engine, &images, &platform, fetch);
        let interrupt = (options.interrupts)();
        let known = unless_stopped(&interrupt, known).await?;
        drop(waiting);
        fetched = start.elapsed();
        from = known.map_err(|error| {
            let hint = match &error {
                FetchError::Bootstrap { source, .. } => source.hint(),
                FetchError::Space(error) => Some(error.hint().to_owned()),
                FetchError::Engine(error) => error.hint(),
                FetchError::Pull { bootstrap: true, .. } => Some(format!(
                    "of Debian's packages can be made {}: let one of these Pythons stand in, \
                     `[stand-in]` in images.local.toml",
                    crate::bootstrap::known().join(", ")
                )),
                FetchError::Pull { .. } => Some(
                    "`--bootstrap` makes Debian's own Pythons without a registry, as does \
                     `imgforge base bootstrap`; or let another Python stand in, `[stand-in]` in \
                     images.local.toml"
                        .to_owned(),
                ),
            };
            Error::environment(error).with_hint(hint)
        })?;
        from.extend(elsewhere);
    }
    let cpus = engine.as_ref().map_or_else(
        || std::thread::available_parallelism().map_or(1, usize::from),
        |(_, info)| info.cpus,
    );
    let named = wanted.workers.or(defaults.max_workers);
    let workers = named.unwrap_or_else(|| config::default_workers(cpus)).max(1);
    if wanted.build && named.is_none() && workers == 1 && cpus > 1 {
        notices.remark(format!("1 worker, for {cpus} processors: -j does more at once"));
    }
    let mut map = if in_bundle { BTreeMap::new() } else { catalog.mirrors().clone() };
    map.extend(demo_mirrors);
    let index = in_bundle.then(|| bundle_in_use::dir(store.dir()).join(form::INDEX));
    let repositories =
        bundle_in_use::dir(store.dir()).join(form::REPOSITORIES).join("{owner}__{name}.git");
    let templates = match (sources.git_mirrors.as_slice(), &defaults.git_mirrors) {
        _ if in_bundle => vec![repositories.display().to_string()],
        ([], Some(defaults)) => defaults.clone(),
        ([], None) => vec![config::GITHUB.to_owned()],
        (flags, _) => flags.to_vec(),
    };
    let mirrors = Arc::new(Mirrors::new(store.dir(), templates, map));
    Ok(Workload {
        catalog,
        engine,
        store,
        mirrors,
        workers,
        dataset,
        instances,
        work,
        refused,
        submission,
        platform,
        emulator,
        namespace,
        derive_images: sources.derive_images,
        image_tag,
        remote,
        remote_required: wanted.remote.is_some(),
        fallback_to_build: wanted.fallback_to_build,
        push_to,
        from,
        notices: notices.clone(),
        interrupts: options.interrupts.clone(),
        output_dir: options.output_dir.clone(),
        sources: sources.clone(),
        password: options.password.clone(),
        package_index: index,
        fetched,
        _scratch: Arc::new(scratch),
    })
}

/// Does work until it is done.
///
/// # Errors
/// It was stopped: then the work is dropped.
async fn unless_stopped<T>(
    interrupt: &Interrupt,
    work: impl Future<Output = T>,
) -> Result<T, Error> {
    tokio::select! {
        biased;
        () = interrupt.stop.cancelled() => {}
        done = work => return Ok(done),
    }
    Err(Error::interrupted(anyhow!("interrupted, and nothing of it is kept")))
}

impl Workload {
    /// Returns the ids of the chosen instances, those included that are left out, in the order of
    /// the dataset.
    pub fn chosen(&self) -> Vec<String> {
        let good: HashSet<&str> =
            self.instances.iter().map(|one| one.instance_id.as_str()).collect();
        let mut bad =
            self.refused.iter().filter(|one| !good.contains(one.instance_id.as_str())).peekable();
        let mut ids = Vec::new();
        for (at, instance) in self.instances.iter().enumerate() {
            while let Some(one) = bad.next_if(|one| one.before <= at) {
                ids.push(one.instance_id.clone());
            }
            ids.push(instance.instance_id.clone());
        }
        ids.extend(bad.map(|one| one.instance_id.clone()));
        ids
    }

    /// Returns the same in another engine and state, where nothing comes from elsewhere.
    pub fn in_engine(&self, engine: Arc<dyn Engine>, info: EngineInfo, store: Arc<Store>) -> Self {
        Workload {
            catalog: self.catalog.clone(),
            engine: Some((engine, info)),
            store,
            mirrors: self.mirrors.clone(),
            workers: self.workers,
            dataset: self.dataset.clone(),
            instances: self.instances.clone(),
            work: self.work.clone(),
            refused: self.refused.clone(),
            submission: Submission::default(),
            platform: self.platform.clone(),
            emulator: self.emulator.clone(),
            namespace: None,
            derive_images: false,
            image_tag: None,
            remote: None,
            remote_required: false,
            fallback_to_build: true,
            push_to: None,
            from: self.from.clone(),
            notices: self.notices.clone(),
            interrupts: self.interrupts.clone(),
            output_dir: self.output_dir.clone(),
            sources: self.sources.clone(),
            password: self.password.clone(),
            package_index: None,
            fetched: std::time::Duration::ZERO,
            _scratch: self._scratch.clone(),
        }
    }

    /// Returns the engine.
    ///
    /// # Panics
    /// The workload was loaded for something that builds nothing, and no engine answered.
    pub fn engine(&self) -> (&Arc<dyn Engine>, &EngineInfo) {
        let (engine, info) =
            self.engine.as_ref().expect("what is loaded for a build has an engine");
        (engine, info)
    }

    /// Opens a registry that images are pushed to, with the keys of the options.
    ///
    /// # Errors
    /// It is no registry, or a key cannot be used.
    pub fn registry(&self, name: &str) -> Result<RegistryCache, Error> {
        let keys = keys::trusted(&self.sources, &self.catalog)?;
        let signer = keys::signer(&self.sources, &*self.password)?;
        Ok(registries::registry_cache(name, &self.platform)?.trusting(keys).signing(signer))
    }

    /// Returns the engine's name, or `none`.
    pub fn engine_name(&self) -> &str {
        self.engine.as_ref().map_or("none", |(_, info)| info.kind.name())
    }

    /// Returns what checks the engine's images.
    pub fn checker(&self) -> Result<Checker<'_>, Error> {
        let (engine, info) = self.engine();
        let known = self.store.verified_images(&engine_identity(info));
        Ok(Checker::new(&**engine, known.map_err(Error::environment)?))
    }

    /// Plans `work`.
    pub fn plan(
        &self,
        work: &[Work],
        up_to: Kind,
        evaluate: Option<EvaluateOptions>,
    ) -> Result<Plan, Error> {
        let (platform, namespace) = (self.platform.clone(), self.namespace.clone());
        let (derive_images, image_tag) = (self.derive_images, self.image_tag.clone());
        let options =
            PlanOptions { platform, namespace, derive_images, image_tag, up_to, evaluate };
        let planner = Planner::new(&self.catalog, options, &self.from);
        planner.plan(work).map_err(|errors| {
            let count = errors.len();
            let mut texts: Vec<String> = errors
                .iter()
                .take(10)
                .map(|error| {
                    let cause = std::error::Error::source(error);
                    cause.map_or(error.to_string(), |cause| format!("{error}: {cause}"))
                })
                .collect();
            if count > 10 {
                texts.push(format!("and {} more", count - 10));
            }
            Error::input(anyhow!("{}", texts.join("\n  "))).with_hint(Some(
                "add the version to images.toml, or to images.local.toml beside it".to_owned(),
            ))
        })
    }

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
        registries::apply_remote_images(self, &mut plan).await?;
        if let Some((_, info)) = self.engine.as_ref().filter(|_| !force) {
            let stale = plan.nodes().filter(|(_, node)| matches!(node.status, Status::Stale(_)));
            let stale: HashSet<Key> = stale.map(|(_, node)| node.key).collect();
            say_elsewhere(&self.notices, &self.store, info, Some(&stale))
                .map_err(Error::environment)?;
        }
        Ok(AssessedPlan::new(self, plan, tags, lease))
    }
}
