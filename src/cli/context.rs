//! What several commands open: catalog, dataset, state, engine, plan.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::anyhow;

use crate::catalog::Catalog;
use crate::config;
use crate::dataset::prediction::{self, PredictionError};
use crate::dataset::{self, Dataset, HubSettings, Instance, Selection};
use crate::engine::docker::DockerEngine;
use crate::engine::{Engine, EngineError, EngineInfo, LogSink};
use crate::exec::survey;
use crate::key::Kind;
use crate::plan::build::{ModelPatch, from_images};
use crate::plan::{Inventory, Plan, PlanOptions, Planner, Work};
use crate::source::Mirrors;
use crate::store::{self, Store};

use super::{Chosen, EngineChoice, Exit, Failure, Global, Sources};

/// Reads an environment variable; empty is absent.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Reads the catalog.
pub fn catalog(global: &Global) -> Result<Catalog, Failure> {
    Catalog::load(global.config.as_deref(), &global.overlay).map_err(|error| {
        let hint = error.hint();
        Failure::input(error).hint(hint)
    })
}

/// Opens the state directory.
pub fn open_store(global: &Global) -> Result<Arc<Store>, Failure> {
    let dir = global.state_dir.clone().unwrap_or_else(|| store::default_dir(variable));
    Store::open(&dir).map(Arc::new).map_err(|error| {
        let hint = "name another directory with --state-dir".to_owned();
        Failure::environment(error).hint(Some(hint))
    })
}

/// Connects to the engine.
pub async fn connect(global: &Global) -> Result<Arc<dyn Engine>, EngineError> {
    if global.engine == EngineChoice::Embedded {
        return Err(EngineError::Refused {
            action: "start".to_owned(),
            reason: "this version has no embedded engine".to_owned(),
        });
    }
    let engine = DockerEngine::connect(variable, store::owner()).await?;
    Ok(Arc::new(engine))
}

/// Makes a failure of an engine that cannot be used.
pub fn engine_failure(error: EngineError) -> Failure {
    let hint = match &error {
        EngineError::Unreachable { .. } => {
            "start Docker, or set DOCKER_HOST; `imgforge doctor` checks the rest"
        }
        EngineError::PermissionDenied { .. } => {
            "add yourself to the group that owns the socket (`sudo usermod -aG docker $USER`, then \
             log in again), or use rootless Docker"
        }
        EngineError::TooOld { .. } => "Docker 20.10 and newer work",
        _ => return Failure::environment(error),
    };
    Failure::environment(error).hint(Some(hint.to_owned()))
}

/// Reads the dataset that was asked for.
pub async fn read_dataset(
    name: &str,
    split: &str,
    store: Option<&Store>,
) -> Result<(Dataset, BTreeMap<String, Vec<String>>), Failure> {
    if name == "demo" {
        let dir = match store {
            Some(store) => store.dir().join("demo"),
            None => store::default_dir(variable).join("demo"),
        };
        let demo = dataset::demo::materialise(&dir).map_err(Failure::environment)?;
        return Ok((demo.dataset, demo.mirrors));
    }
    let hub = HubSettings::from_env(variable);
    let dataset = dataset::load(name, split, &hub).await.map_err(|error| {
        let hint = error.hint();
        match error.is_environment() {
            true => Failure::environment(error).hint(hint),
            false => Failure::input(error).hint(hint),
        }
    })?;
    Ok((dataset, BTreeMap::new()))
}

/// Reads a dataset and chooses instances.
pub async fn choose(
    chosen: &Chosen,
    store: Option<&Store>,
) -> Result<(Vec<Instance>, BTreeMap<String, Vec<String>>), Failure> {
    let (dataset, mirrors) = read_dataset(&chosen.dataset, &chosen.split, store).await?;
    let selection = Selection {
        ids: chosen.instance_ids.clone(),
        filter: chosen.filter.clone(),
        repo: chosen.repo.clone(),
        limit: chosen.limit,
    };
    let instances = selection.apply(&dataset).map_err(Failure::input)?;
    if instances.is_empty() {
        return Err(Failure::input(anyhow!("no instance of `{}` is chosen", dataset.name)));
    }
    Ok((instances, mirrors))
}

/// A plan with all that it was made from.
pub struct Planned {
    /// The plan, assessed.
    pub plan: Plan,
    /// The engine, when one answers.
    pub engine: Option<(Arc<dyn Engine>, EngineInfo)>,
    /// The state.
    pub store: Arc<Store>,
    /// Where repositories come from.
    pub mirrors: Mirrors,
    /// How many nodes run at once.
    pub workers: usize,
    /// The image id behind each name that the engine has.
    pub tags: BTreeMap<String, String>,
}

/// What a plan is made for.
pub struct Wanted<'a> {
    /// Which instances.
    pub chosen: &'a Chosen,
    /// Where things come from.
    pub sources: &'a Sources,
    /// `-j`.
    pub workers: Option<usize>,
    /// Kinds that are built whatever exists.
    pub force: &'a [Kind],
    /// Whether an engine must answer, and missing `FROM` images are pulled.
    pub build: bool,
}

struct Stderr;

impl LogSink for Stderr {
    fn write(&self, bytes: &[u8]) {
        eprint!("{}", String::from_utf8_lossy(bytes));
    }
}

/// Returns the name under which images of an engine are recorded.
pub fn engine_identity(info: &EngineInfo) -> String {
    let root = info.root.as_ref().map_or(String::new(), |root| root.display().to_string());
    format!("{} {} {root}", info.name, info.store)
}

/// Reads everything and plans.
pub async fn plan(global: &Global, wanted: &Wanted<'_>) -> Result<Planned, Failure> {
    let catalog = catalog(global)?;
    let store = open_store(global)?;
    let sources = wanted.sources;
    let defaults = catalog.defaults();
    let platform = sources.platform.as_ref().or(defaults.platform.as_ref());
    let platform = platform.map(|text| config::platform(text)).transpose().map_err(|text| {
        let error = anyhow!("`{text}` is not a platform that imgforge knows");
        let hint = "linux/amd64 and linux/arm64 are known".to_owned();
        Failure::input(error).hint(Some(hint))
    })?;
    let (instances, demo_mirrors) = choose(wanted.chosen, Some(&store)).await?;
    let work = work(instances, sources.predictions.as_deref())?;

    let engine = match connect(global).await {
        Ok(engine) => {
            let info = engine.info().await.map_err(engine_failure)?;
            Some((engine, info))
        }
        Err(error) if wanted.build => return Err(engine_failure(error)),
        Err(_) => None,
    };
    let native = engine.as_ref().map_or(config::host_platform(), |(_, info)| &info.platform);
    let platform = platform.unwrap_or_else(|| native.to_owned());
    let namespace = match wanted.chosen.dataset.as_str() {
        "demo" => None,
        _ => config::namespace(
            sources.namespace.as_deref(),
            defaults,
            config::host_platform() == "linux/amd64",
        ),
    };
    let mut from = BTreeMap::new();
    if namespace.is_none()
        && let Some((engine, _)) = &engine
    {
        let images = from_images(&catalog, &work).map_err(Failure::input)?;
        let stderr = Stderr;
        let pull = wanted.build.then_some(&stderr as &dyn LogSink);
        from = survey::from_identities(&**engine, &images, &platform, pull).await.map_err(
            |error| {
                let hint = "a base image can also be made without a registry, see \
                            scripts/base-image; or let another Python stand in, `[stand-in]` in \
                            images.local.toml"
                    .to_owned();
                Failure::environment(error).hint(Some(hint))
            },
        )?;
    }
    let up_to = sources.layers.iter().copied().max().unwrap_or(Kind::Instance);
    let options = PlanOptions { platform, namespace, up_to };
    let planner = Planner::new(&catalog, options, &from);
    let mut plan = planner.plan(&work).map_err(|errors| {
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
    })?;
    let mut tags = BTreeMap::new();
    let inventory = match &engine {
        Some((engine, info)) => {
            let identity = engine_identity(info);
            let surveyed = survey::inventory(&**engine, &identity, &store, &plan).await;
            let (inventory, found) = surveyed.map_err(Failure::environment)?;
            tags = found;
            inventory
        }
        None => Inventory::default(),
    };
    plan.assess(&inventory, wanted.force);
    let cpus = engine.as_ref().map_or_else(
        || std::thread::available_parallelism().map_or(1, usize::from),
        |(_, info)| info.cpus,
    );
    let workers = wanted.workers.or(defaults.max_workers);
    let workers = workers.unwrap_or_else(|| config::default_workers(cpus)).max(1);
    let mut map = catalog.mirrors().clone();
    map.extend(demo_mirrors);
    let templates = match (sources.git_mirror.as_slice(), &defaults.git_mirrors) {
        ([], Some(defaults)) => defaults.clone(),
        ([], None) => vec![config::GITHUB.to_owned()],
        (flags, _) => flags.to_vec(),
    };
    let mirrors = Mirrors::new(store.dir(), templates, map);
    Ok(Planned { plan, engine, store, mirrors, workers, tags })
}

/// Joins instances with predictions; without predictions every instance is wanted once.
fn work(instances: Vec<Instance>, predictions: Option<&str>) -> Result<Vec<Work>, Failure> {
    let Some(name) = predictions else {
        return Ok(instances
            .into_iter()
            .map(|instance| Work { instance: Arc::new(instance), prediction: None })
            .collect());
    };
    let predictions = prediction::read(name, &instances).map_err(|error| {
        let unknown = matches!(error, PredictionError::UnknownFormat { .. });
        let hint = "name a .jsonl or .json file, `gold` or `empty`".to_owned();
        Failure::input(error).hint(unknown.then_some(hint))
    })?;
    let known: BTreeMap<String, Arc<Instance>> = instances
        .into_iter()
        .map(|instance| (instance.instance_id.clone(), Arc::new(instance)))
        .collect();
    let mut work = Vec::new();
    let mut outside = Vec::new();
    for prediction in predictions {
        match known.get(&prediction.instance_id) {
            None => outside.push(prediction.instance_id),
            Some(instance) => work.push(Work {
                instance: instance.clone(),
                prediction: Some(ModelPatch {
                    model: prediction.model_name_or_path,
                    patch: prediction.model_patch.unwrap_or_default().into(),
                }),
            }),
        }
    }
    if !outside.is_empty() {
        super::render::warn(format!(
            "{} predictions are for instances that are not chosen: {}",
            outside.len(),
            outside.join(", ")
        ));
    }
    if work.is_empty() {
        let error = anyhow!("no prediction of `{name}` is for an instance that is chosen");
        return Err(Failure { exit: Exit::BadInput, error, hint: None });
    }
    Ok(work)
}

/// Returns the directory of build logs.
pub fn log_dir() -> PathBuf {
    PathBuf::from("logs/build_images")
}
