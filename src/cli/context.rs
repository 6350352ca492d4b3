//! What a run is prepared with: from flags to instances, engine, remote and plan.

use crate::cli::out::errln;
use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use anyhow::anyhow;

use crate::bundle as form;
use crate::cache::check::Checker;
use crate::cache::registry::RegistryCache;
use crate::cache::remote::Remote;
use crate::catalog::{Catalog, Defaults};
use crate::config;
use crate::dataset::{Instance, Refused};
use crate::engine::{Engine, EngineInfo, LogSink};
use crate::exec::survey::{self, Fetch, FetchError};
use crate::key::{Key, Kind};
use crate::plan::build::from_images;
use crate::plan::check::Purpose;
use crate::plan::{EvaluateOptions, Inventory, Plan, PlanOptions, Planner, Status, Work};
use crate::platform::Platform;
use crate::source::{Mirrors, local_path};
use crate::store::{Lease, Store};

use super::open::{
    LogLines, catalog, connect, engine_failure, engine_identity, open_store, say_elsewhere,
};
use super::rows::{ChosenInstances, choose};
use super::submission::{self, Submission};
use super::{Chosen, Failure, Global, Sources};
use super::{bundle, platform, refusal, remotes};

/// What plans are made from.
pub struct Prepared {
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
    pub remote: Option<Arc<dyn Remote>>,
    /// Whether that was named for this very command.
    pub insists: bool,
    /// Whether what cannot be had from there is built.
    pub build_instead: bool,
    /// Where images go that were built here.
    pub push_to: Option<RegistryCache>,
    from: BTreeMap<String, String>,
    /// What keeps the images of assessed plans as long as this lives.
    leases: Mutex<Vec<Lease>>,
    /// Whether nothing but errors is said.
    quiet: bool,
    /// The records that answer for the package index; the network does where there are none.
    pub package_index: Option<PathBuf>,
    /// How long the `FROM` images took, before there was a plan.
    pub fetched: std::time::Duration,
    /// Where what comes from an archive is unpacked.
    _scratch: tempfile::TempDir,
}

/// What plans are made for.
pub struct Wanted<'a> {
    /// Which instances.
    pub chosen: &'a Chosen,
    /// Where things come from.
    pub sources: &'a Sources,
    /// Files of predictions, `gold` or `empty`; without any, every instance is wanted once.
    pub predictions: &'a [String],
    /// Whether predictions without a patch are left out.
    pub skip_empty: bool,
    /// `-j`.
    pub workers: Option<usize>,
    /// Whether an engine must answer, and missing `FROM` images are pulled.
    pub build: bool,
    /// Where images come from, instead of the registry of options and catalog.
    pub remote: Option<&'a str>,
    /// Whether what cannot be had from there is built.
    pub build_instead: bool,
    /// What the instances must be good for.
    pub purpose: Purpose,
    /// How they are run.
    pub evaluate: Option<EvaluateOptions>,
    /// GiB that must stay free.
    pub min_free: u64,
}

impl<'a> Wanted<'a> {
    /// Wants to know the images of instances, and nothing built.
    pub fn images(chosen: &'a Chosen, sources: &'a Sources) -> Self {
        Wanted {
            chosen,
            sources,
            predictions: &[],
            skip_empty: false,
            workers: None,
            build: false,
            remote: None,
            build_instead: true,
            purpose: Purpose::Images,
            evaluate: None,
            min_free: 0,
        }
    }
}

/// Returns the namespace of published images; `None` builds everything.
pub fn namespace(
    sources: &Sources,
    chosen: &Chosen,
    defaults: &Defaults,
    platform: &str,
) -> Result<Option<String>, Failure> {
    if matches!(chosen.dataset.as_str(), "demo" | bundle::DATASET) {
        return Ok(None);
    }
    let named = sources.namespace.as_deref();
    config::namespace(named, defaults, platform == "linux/amd64").map_err(|(named, wrong)| {
        let error = anyhow::Error::new(wrong);
        Failure::input(error.context(format!("`{named}` is not a namespace of images")))
    })
}

/// Checks that a source of repositories that is on this machine is there.
fn check_mirror(template: &str) -> Result<(), Failure> {
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
    Err(Failure::input(error).hint(Some(
        "name a URL or a directory that is there; {owner}, {name} and {repo} stand for the \
         repository"
            .to_owned(),
    )))
}

/// Reads everything that a plan is made from.
pub async fn prepare(global: &Global, wanted: &Wanted<'_>) -> Result<Prepared, Failure> {
    let store = open_store(global)?;
    let in_bundle = wanted.chosen.dataset == bundle::DATASET;
    let bundled = in_bundle.then(|| bundle::used(store.dir())).transpose()?;
    let catalog = match &bundled {
        Some(contents) => bundle::catalog(store.dir(), contents)?,
        None => catalog(global)?,
    };
    let sources = wanted.sources;
    let defaults = catalog.defaults();
    let platform = sources.platform.as_ref().or(defaults.platform.as_ref());
    let platform = platform.map(|text| platform::read(text)).transpose()?;
    for template in &sources.git_mirror {
        check_mirror(template)?;
    }
    let ChosenInstances { instances, mut refused, all, origin: dataset, mirrors: demo_mirrors } =
        choose(wanted.chosen, store.dir()).await?;
    if instances.is_empty() {
        return Err(refusal::all(&refused, None));
    }
    let (mut work, submission) =
        submission::read(wanted.predictions, &instances, &refused, &all, wanted.skip_empty)?;
    let instances: Vec<Arc<Instance>> = instances.into_iter().map(Arc::new).collect();

    let engine = match connect(global).await {
        Ok(engine) => {
            let info = engine.info().await.map_err(engine_failure)?;
            Some((engine, info))
        }
        Err(error) if wanted.build => return Err(engine_failure(error)),
        Err(error) => {
            if !global.quiet {
                super::render::warn(format!("{error}, so every image is taken for stale"));
            }
            None
        }
    };
    let native = engine.as_ref().map(|(_, info)| info.platform.clone());
    let native = native.unwrap_or_else(|| Platform::host().to_string());
    let platform = platform.unwrap_or(native);
    let scratch = store.scratch_dir().map_err(Failure::environment)?;
    let emulator = match &engine {
        Some((engine, info)) if wanted.build => {
            platform::check(&**engine, info, &platform, sources.emulate, scratch.path()).await?
        }
        _ => None,
    };
    if let Some(emulator) = &emulator
        && !global.quiet
    {
        super::render::warn(format!(
            "{platform} runs under {emulator}: slowly, and tests may do otherwise than on such a \
             machine"
        ));
    }
    let namespace = namespace(sources, wanted.chosen, defaults, &platform)?;
    let image_tag = sources.image_tag().map(str::to_owned);
    if image_tag.is_some() && namespace.is_none() && !global.quiet {
        super::render::warn(
            "--instance-image-tag does nothing where images are built here: without --namespace",
        );
    }
    let (up_to, evaluate) = (Kind::Instance, wanted.evaluate.clone());
    let options = PlanOptions {
        platform: platform.clone(),
        namespace: namespace.clone(),
        derive_images: sources.derive_images,
        image_tag: image_tag.clone(),
        up_to,
        evaluate,
    };
    let check = refusal::Check { catalog: &catalog, options, purpose: wanted.purpose };
    let (found, hint) = check.leave_out(&instances, &mut work);
    refused.extend(found);
    let is_refused = |id: &str| refused.iter().any(|one| one.instance_id == id);
    let none_left = submission.submitted.iter().all(|one| is_refused(&one.instance_id));
    if work.is_empty() && !refused.is_empty() && none_left {
        return Err(refusal::all(&refused, hint));
    }
    refusal::warn(global, &refused);
    let rows = work.iter().map(|work| &*work.instance);
    let run = matches!(wanted.purpose, Purpose::Run) && !global.quiet;
    if let Some(warning) = refusal::nothing_to_fix(rows).filter(|_| run) {
        super::render::warn(warning);
    }
    let (remote, push_to) = remotes::open(wanted, &catalog, &platform, scratch.path())?;
    let mut from = BTreeMap::new();
    let mut fetched = std::time::Duration::ZERO;
    if namespace.is_none()
        && let Some((engine, info)) = &engine
    {
        let images = from_images(&catalog, &work).map_err(Failure::input)?;
        let platforms = (platform.as_str(), info.platform.as_str());
        let (elsewhere, images) =
            remotes::recorded(&**engine, remote.as_deref(), images, platforms, wanted).await?;
        let start = std::time::Instant::now();
        let waiting = super::progress::wait("bringing the FROM images");
        let lines = LogLines::new(!global.quiet);
        // Where nothing is drawn the lines themselves say what goes on.
        let log: &dyn LogSink = match global.progress_mode() {
            super::progress::Mode::Tty => &waiting,
            _ => &lines,
        };
        let bootstrap = sources.bootstrap || defaults.bootstrap == Some(true);
        let min_free = wanted.min_free << 30;
        let bootstrap = bootstrap.then_some(scratch.path());
        let fetch = Fetch { log, bootstrap, min_free };
        let fetch = wanted.build.then_some(&fetch);
        let known = survey::from_identities(&**engine, &images, &platform, fetch);
        let known = super::interrupt::unless_interrupted(known).await?;
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
            Failure::environment(error).hint(hint)
        })?;
        from.extend(elsewhere);
    }
    let cpus = engine.as_ref().map_or_else(
        || std::thread::available_parallelism().map_or(1, usize::from),
        |(_, info)| info.cpus,
    );
    let named = wanted.workers.or(defaults.max_workers);
    let workers = named.unwrap_or_else(|| config::default_workers(cpus)).max(1);
    if wanted.build && named.is_none() && workers == 1 && cpus > 1 && !global.quiet {
        errln!("1 worker, for {cpus} processors: -j does more at once");
    }
    let mut map = if in_bundle { BTreeMap::new() } else { catalog.mirrors().clone() };
    map.extend(demo_mirrors);
    let index = in_bundle.then(|| bundle::dir(store.dir()).join(form::INDEX));
    let repositories =
        bundle::dir(store.dir()).join(form::REPOSITORIES).join("{owner}__{name}.git");
    let templates = match (sources.git_mirror.as_slice(), &defaults.git_mirrors) {
        _ if in_bundle => vec![repositories.display().to_string()],
        ([], Some(defaults)) => defaults.clone(),
        ([], None) => vec![config::GITHUB.to_owned()],
        (flags, _) => flags.to_vec(),
    };
    let mirrors = Arc::new(Mirrors::new(store.dir(), templates, map));
    Ok(Prepared {
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
        insists: wanted.remote.is_some(),
        build_instead: wanted.build_instead,
        push_to,
        from,
        leases: Mutex::default(),
        quiet: global.quiet,
        package_index: index,
        fetched,
        _scratch: scratch,
    })
}

impl Prepared {
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
        let scratch = store.scratch_dir().expect("the state was opened");
        Prepared {
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
            insists: false,
            build_instead: true,
            push_to: None,
            from: self.from.clone(),
            leases: Mutex::default(),
            quiet: self.quiet,
            package_index: None,
            fetched: std::time::Duration::ZERO,
            _scratch: scratch,
        }
    }

    /// Returns the engine's name, or `none`.
    pub fn engine_name(&self) -> &str {
        self.engine.as_ref().map_or("none", |(_, info)| info.kind.name())
    }

    /// Returns what checks the engine's images.
    pub fn checker(&self) -> Result<Checker<'_>, Failure> {
        let (engine, info) = self.engine.as_ref().expect("what is checked was built");
        let known = self.store.verified_images(&engine_identity(info));
        Ok(Checker::new(&**engine, known.map_err(Failure::environment)?))
    }

    /// Plans `work`.
    pub fn plan(
        &self,
        work: &[Work],
        up_to: Kind,
        evaluate: Option<EvaluateOptions>,
    ) -> Result<Plan, Failure> {
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
            Failure::input(anyhow!("{}", texts.join("\n  "))).hint(Some(
                "add the version to images.toml, or to images.local.toml beside it".to_owned(),
            ))
        })
    }

    /// Sets the status of every node from what exists; returns the image id behind each name that
    /// the engine has. From then on no collection of any process takes the plan's images away.
    pub async fn assess(
        &self,
        plan: &mut Plan,
        force: bool,
        results: &HashSet<Key>,
    ) -> Result<BTreeMap<String, String>, Failure> {
        let (mut inventory, tags) = match &self.engine {
            Some((engine, info)) => {
                let keys = plan.nodes().map(|(_, node)| node.key);
                let lease = self.store.lease(keys).await.map_err(Failure::environment)?;
                self.leases.lock().expect("no holder panics").push(lease);
                let identity = engine_identity(info);
                let surveyed = survey::inventory(&**engine, &identity, &self.store, plan).await;
                surveyed.map_err(Failure::environment)?
            }
            None => (Inventory::default(), BTreeMap::new()),
        };
        for key in results {
            inventory.add_result(*key);
        }
        plan.assess(&inventory, force);
        remotes::take_offers(self, plan).await?;
        if let Some((_, info)) = self.engine.as_ref().filter(|_| !force && !self.quiet) {
            let stale = plan.nodes().filter(|(_, node)| matches!(node.status, Status::Stale(_)));
            let stale: HashSet<Key> = stale.map(|(_, node)| node.key).collect();
            say_elsewhere(&self.store, info, Some(&stale)).map_err(Failure::environment)?;
        }
        Ok(tags)
    }

    /// Gives the images of a plan that are here their further names, wherever they came from; `tags`
    /// are those that [`Prepared::assess`] found.
    pub async fn name_fresh(
        &self,
        plan: &Plan,
        tags: &BTreeMap<String, String>,
    ) -> Result<(), Failure> {
        let Some((engine, _)) = &self.engine else { return Ok(()) };
        for node in plan.graph.node_weights().filter(|node| node.status == Status::Fresh) {
            let Some(id) = tags.get(&node.image) else { continue };
            for alias in node.aliases.iter().filter(|alias| tags.get(*alias) != Some(id)) {
                engine.tag(&node.image, alias).await.map_err(engine_failure)?;
            }
        }
        Ok(())
    }
}
