//! Loading: from options to a [`Workload`], in the order in which a person can be wrong.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;

use crate::allocation::Allocation;
use crate::bundle::{INDEX, REPOSITORIES};
use crate::catalog::{Catalog, Defaults};
use crate::config;
use crate::dataset::{Instance, Refused};
use crate::engine::{Engine, EngineInfo};
use crate::key::Kind;
use crate::plan::check::Purpose;
use crate::plan::{PlanOptions, Work};
use crate::platform::Platform;
use crate::source::{Mirrors, local_path};
use crate::store::Store;

use super::from_images::{self, FromImages};
use super::open::{engine_error, variable};
use super::predictions::{self, Submission};
use super::rows::{ChosenInstances, choose};
use super::shards::Cutter;
use super::workload::Workload;
use super::{
    Error, ForgeOptions, LoadOptions, Notices, Selection, SourceOptions, bundle_in_use, platform,
    registries, unfit,
};

/// An engine that answers, with what it is.
type Connected = (Arc<dyn Engine>, EngineInfo);

/// Reads everything that a plan is made from.
pub(super) async fn load(
    options: &ForgeOptions,
    store: Arc<Store>,
    wanted: &LoadOptions,
) -> Result<Workload, Error> {
    let (notices, sources) = (&options.notices, &wanted.sources);
    let in_bundle = wanted.selection.dataset == bundle_in_use::DATASET;
    let catalog = match in_bundle {
        true => bundle_in_use::catalog(store.dir(), &bundle_in_use::used(store.dir())?)?,
        false => options.catalog()?,
    };
    let defaults = catalog.defaults();
    let named_platform = named_platform(sources, defaults)?;
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
    let engine = connect(options, wanted).await?;
    let native = engine.as_ref().map(|(_, info)| info.platform.clone());
    let native = native.unwrap_or_else(Platform::host);
    let platform = named_platform.unwrap_or(native);
    let scratch = store.scratch_dir().map_err(Error::environment)?;
    let emulator = emulator(engine.as_ref(), wanted, &platform, scratch.path(), notices).await?;
    let namespace = namespace(sources, &wanted.selection, defaults, &platform)?;
    if sources.image_tag.is_some() && namespace.is_none() {
        notices.advise(
            "--instance-image-tag does nothing where images are built here: without --namespace",
        );
    }
    let plan_options = PlanOptions {
        platform: platform.clone(),
        namespace: namespace.clone(),
        derive_images: sources.derive_images,
        image_tag: sources.image_tag.clone(),
        up_to: Kind::Instance,
        evaluate: wanted.evaluate.clone(),
    };
    let check = unfit::Check { catalog: &catalog, options: plan_options, purpose: wanted.purpose };
    leave_out(&check, &instances, &submission, &mut work, &mut refused, notices)?;
    let shard = match &wanted.shard {
        Some(shard) => {
            let cutter = Cutter {
                catalog: &catalog,
                options: &check.options,
                submission: &submission,
                refused: &refused,
            };
            Some(cutter.cut(shard, &mut work)?)
        }
        None => None,
    };
    let (remote, push_to) = registries::open(options, wanted, &catalog, &platform, scratch.path())?;
    let from = match &engine {
        Some((engine, info)) if namespace.is_none() => {
            let search = from_images::Search {
                options,
                wanted,
                engine: &**engine,
                info,
                remote: remote.as_deref(),
                platform: &platform,
                scratch: scratch.path(),
            };
            search.identify(&catalog, &work).await?
        }
        _ => FromImages { identities: BTreeMap::new(), took: Duration::ZERO },
    };
    let workers = workers(engine.as_ref(), wanted, defaults, work.len(), notices);
    let mirrors = match in_bundle {
        true => mirrors_of_bundle(store.dir(), demo_mirrors),
        false => mirrors_of_catalog(store.dir(), sources, &catalog, demo_mirrors),
    };
    let package_index = in_bundle.then(|| bundle_in_use::dir(store.dir()).join(INDEX));
    Ok(Workload {
        catalog,
        engine,
        store,
        mirrors: Arc::new(mirrors),
        workers,
        dataset,
        instances,
        work,
        shard,
        refused,
        submission,
        platform,
        emulator,
        namespace,
        derive_images: sources.derive_images,
        image_tag: sources.image_tag.clone(),
        remote,
        remote_required: wanted.remote.is_some(),
        fallback_to_build: wanted.fallback_to_build,
        push_to,
        base_identities: from.identities,
        notices: notices.clone(),
        interrupts: options.interrupts.clone(),
        output_dir: options.output_dir.clone(),
        sources: sources.clone(),
        password: options.password.clone(),
        package_index,
        fetched: from.took,
        scratch: Arc::new(scratch),
    })
}

/// Returns the platform that the options name, else the catalog.
pub(super) fn named_platform(
    sources: &SourceOptions,
    defaults: &Defaults,
) -> Result<Option<Platform>, Error> {
    let named = sources.platform.as_ref().or(defaults.platform.as_ref());
    named.map(|text| platform::read(text)).transpose()
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

/// Connects to the engine; none is an error only where something is to be built.
async fn connect(options: &ForgeOptions, wanted: &LoadOptions) -> Result<Option<Connected>, Error> {
    match options.connect().await {
        Ok(engine) => {
            let info = engine.info().await.map_err(engine_error)?;
            Ok(Some((engine, info)))
        }
        Err(error) if wanted.build => Err(engine_error(error)),
        Err(error) => {
            options.notices.advise(format!("{error}, so every image is taken for stale"));
            Ok(None)
        }
    }
}

/// Returns the emulator that runs the platform on the engine, where it is not the engine's own and
/// something is to be built.
async fn emulator(
    engine: Option<&Connected>,
    wanted: &LoadOptions,
    platform: &Platform,
    scratch: &Path,
    notices: &Notices,
) -> Result<Option<String>, Error> {
    let Some((engine, info)) = engine.filter(|_| wanted.build) else { return Ok(None) };
    let emulate = wanted.sources.emulate;
    let emulator = platform::check(&**engine, info, platform, emulate, scratch).await?;
    if let Some(emulator) = &emulator {
        notices.advise(format!(
            "{platform} runs under {emulator}: slowly, and tests may do otherwise than on such a \
             machine"
        ));
    }
    Ok(emulator)
}

/// Returns the namespace of published images; `None` builds everything.
pub(crate) fn namespace(
    sources: &SourceOptions,
    selection: &Selection,
    defaults: &Defaults,
    platform: &Platform,
) -> Result<Option<String>, Error> {
    if matches!(selection.dataset.as_str(), "demo" | bundle_in_use::DATASET) {
        return Ok(None);
    }
    let named = sources.namespace.as_deref();
    config::namespace(named, defaults, *platform == "linux/amd64").map_err(|(named, wrong)| {
        let error = anyhow::Error::new(wrong);
        Error::input(error.context(format!("`{named}` is not a namespace of images")))
    })
}

/// Leaves out of `work` the instances that something is wrong with, adds them to `refused`, and tells of
/// them.
///
/// # Errors
/// No prediction is left.
fn leave_out(
    check: &unfit::Check<'_>,
    instances: &[Arc<Instance>],
    submission: &Submission,
    work: &mut Vec<Work>,
    refused: &mut Vec<Refused>,
    notices: &Notices,
) -> Result<(), Error> {
    let (found, hint) = check.leave_out(instances, work);
    refused.extend(found);
    let is_refused = |id: &str| refused.iter().any(|one| one.instance_id == id);
    let none_left = submission.submitted.iter().all(|one| is_refused(&one.instance_id));
    if work.is_empty() && !refused.is_empty() && none_left {
        return Err(unfit::none_left(refused, hint));
    }
    unfit::warn(notices, refused);
    let rows = work.iter().map(|work| &*work.instance);
    let run = matches!(check.purpose, Purpose::Run);
    if let Some(warning) = unfit::nothing_to_fix(rows).filter(|_| run) {
        notices.advise(warning);
    }
    Ok(())
}

/// Returns how many nodes run at once: the number that the options or the catalog name, else the processors
/// of the job of a batch system, else one by those of the machine.
fn workers(
    engine: Option<&Connected>,
    wanted: &LoadOptions,
    defaults: &Defaults,
    instances: usize,
    notices: &Notices,
) -> usize {
    let cpus = engine.map_or_else(
        || std::thread::available_parallelism().map_or(1, usize::from),
        |(_, info)| info.cpus,
    );
    let allocated = || Allocation::of_slurm(variable).processors;
    let named = wanted.workers.or(defaults.max_workers).or_else(allocated);
    let workers = named.unwrap_or_else(|| config::default_workers(cpus)).max(1);
    if wanted.build && instances > 1 && named.is_none() && workers == 1 && cpus > 1 {
        notices.remark(format!("1 worker, for {cpus} processors: -j does more at once"));
    }
    workers
}

/// Returns the repositories of the bundle in use; `of_rows` are those that rows bring.
fn mirrors_of_bundle(state_dir: &Path, of_rows: BTreeMap<String, Vec<String>>) -> Mirrors {
    let repositories = bundle_in_use::dir(state_dir).join(REPOSITORIES);
    let template = repositories.join("{owner}__{name}.git").display().to_string();
    Mirrors::new(state_dir, vec![template], of_rows)
}

/// Returns the repositories where options or catalog say that they are, else those of GitHub.
fn mirrors_of_catalog(
    state_dir: &Path,
    sources: &SourceOptions,
    catalog: &Catalog,
    of_rows: BTreeMap<String, Vec<String>>,
) -> Mirrors {
    let mut by_repo = catalog.mirrors().clone();
    by_repo.extend(of_rows);
    let templates = match (sources.git_mirrors.as_slice(), &catalog.defaults().git_mirrors) {
        ([], Some(defaults)) => defaults.clone(),
        ([], None) => vec![config::GITHUB.to_owned()],
        (flags, _) => flags.to_vec(),
    };
    Mirrors::new(state_dir, templates, by_repo)
}
