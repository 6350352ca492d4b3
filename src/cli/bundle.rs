//! `imgforge bundle`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::json;

use crate::bundle::index::PackageIndex;
use crate::bundle::{self, BundleError, BundleManifest};
use crate::cache::archive;
use crate::cache::destination::{Destination, FetchOutcome};
use crate::catalog::Catalog;
use crate::cli::out::errln;
use crate::disk;
use crate::engine::Engine;
use crate::exec::{NodeSummary, RunSummary};
use crate::forge::open::engine_identity;
use crate::forge::{Workload, bundle_in_use, platform, registries};
use crate::key::Kind;
use crate::plan::Plan;
use crate::recipe::Recipe;
use crate::store::Store;
use crate::words;

use super::execute::{ExecArgs, exit_of};
use super::open;
use super::open::LogLines;
use super::refusal;
use super::{Chosen, CommandResult, Error, Exit, Global, Sources, progress, render};

/// Commands of `bundle`.
#[derive(Debug, Subcommand)]
pub(super) enum BundleCommand {
    /// Write a bundle: dataset, catalog, repositories, packages and base images
    Create(Box<CreateArgs>),
    /// Unpack a bundle; `-d bundle` is its dataset from then on, and needs no network
    Use(UseArgs),
}

/// Arguments of `bundle create`.
#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// The bundle
    file: PathBuf,
    #[command(flatten)]
    chosen: Chosen,
    #[command(flatten)]
    sources: Sources,
    #[command(flatten)]
    exec: ExecArgs,
}

/// Arguments of `bundle use`.
#[derive(Debug, Args)]
pub(super) struct UseArgs {
    /// A bundle of `bundle create`
    file: PathBuf,
}

/// Runs `bundle`.
pub(super) async fn run(global: &Global, command: BundleCommand) -> CommandResult {
    match command {
        BundleCommand::Create(args) => create(global, *args).await,
        BundleCommand::Use(args) => unpack(global, args).await,
    }
}

fn say(global: &Global, text: impl std::fmt::Display) {
    if !global.quiet {
        errln!("bundle: {text}");
    }
}

fn bundle_failure(error: BundleError) -> Error {
    match error {
        BundleError::File { .. } | BundleError::Git { .. } => Error::environment(error),
        BundleError::Broken { .. } => {
            Error::input(error).with_hint(Some("copy it again, or create it again".to_owned()))
        }
        BundleError::Newer { .. } => {
            let hint = "use the imgforge that made it, or a newer one".to_owned();
            Error::input(error).with_hint(Some(hint))
        }
    }
}

fn file_failure(path: &Path) -> impl Fn(std::io::Error) -> Error + '_ {
    move |error| {
        let text = format!("cannot write `{}`", path.display());
        Error::environment(anyhow::Error::from(error).context(text))
    }
}

async fn create(global: &Global, args: CreateArgs) -> CommandResult {
    let load = args.exec.load_options(&args.chosen, &args.sources);
    let mut prepared = open::forge(global)?.load(&load).await?;
    prepared.namespace = None;
    // Bases need more than packages of Python: they go along as they are.
    let bases = prepared.plan(&prepared.work, Kind::Base, None)?;
    let bases = prepared.assess(bases, false, &Default::default()).await?;
    if bases.is_stale() {
        say(global, "building base images");
    }
    let summary = args.exec.build(global, &bases).await?;
    if exit_of(&summary) != Exit::Success {
        tell_created(global, &prepared, &summary, None);
        return Ok(exit_of(&summary));
    }
    // Beside the bundle, so that what broke off goes on: packages that are recorded stay.
    let mut work = args.file.as_os_str().to_owned();
    work.push(".work");
    let work = PathBuf::from(work);
    let dir = work.join("bundle");
    std::fs::create_dir_all(&dir).map_err(file_failure(&dir))?;
    for part in [bundle::CATALOG, bundle::REPOSITORIES] {
        let _ = std::fs::remove_dir_all(dir.join(part));
    }
    say(global, "the dataset, the catalog and the base images");
    let overlays =
        Catalog::copy_to(global.config.as_deref(), &global.overlay, &dir.join(bundle::CATALOG))
            .map_err(file_failure(&dir))?;
    write_rows(&prepared, &dir)?;
    let waiting = progress::wait("writing the base images");
    export_bases(&prepared, bases.plan(), &dir).await?;
    drop(waiting);

    let plan = prepared.plan(&prepared.work, Kind::Instance, None)?;
    say(global, "the objects of repositories");
    let waiting = progress::wait("packing the objects of repositories");
    pack_repositories(&prepared, &plan, &dir).await?;
    drop(waiting);
    say(global, "packages: building once more, in an engine of its own");
    let summary = record_packages(global, &args, &prepared, &work).await?;
    if exit_of(&summary) != Exit::Success {
        tell_created(global, &prepared, &summary, None);
        return Ok(exit_of(&summary));
    }
    let contents = BundleManifest {
        version: bundle::VERSION,
        imgforge: env!("CARGO_PKG_VERSION").to_owned(),
        dataset: prepared.dataset.clone(),
        split: args.chosen.split.clone(),
        platform: prepared.platform.clone(),
        instances: prepared.instances.iter().map(|one| one.instance_id.clone()).collect(),
        overlays,
        files: BTreeMap::new(),
    };
    let count = contents.instances.len();
    let file = args.file.clone();
    let waiting = progress::wait(format!("writing {}", args.file.display()));
    let packed = tokio::task::spawn_blocking(move || bundle::pack(&dir, contents, &file));
    let bytes = packed.await.expect("packing does not panic").map_err(bundle_failure)?;
    drop(waiting);
    let _ = std::fs::remove_dir_all(&work);
    tell_created(global, &prepared, &summary, Some((&args.file, count, bytes)));
    let size = disk::bytes_text(bytes);
    let instances = words::count(count, "instance");
    say(global, format!("{instances} in {}, {size}", args.file.display()));
    Ok(refusal::exit(Exit::Success, &prepared.refused))
}

/// Prints for programs what a bundle came to: file, instances and bytes where it was `written`.
fn tell_created(
    global: &Global,
    prepared: &Workload,
    summary: &RunSummary,
    written: Option<(&Path, usize, u64)>,
) {
    if !global.json {
        return;
    }
    let is_missing = |node: &&NodeSummary| node.status.is_missing();
    let (file, instances, bytes) =
        written.map_or((None, 0, 0), |(file, count, bytes)| (Some(file), count, bytes));
    let document = json!({
        "file": file.map(|file| file.display().to_string()),
        "instances": instances,
        "bytes": bytes,
        "failed": summary.nodes.iter().filter(is_missing).collect::<Vec<_>>(),
    });
    render::json(&refusal::with(&document, &prepared.refused));
}

fn write_rows(prepared: &Workload, dir: &Path) -> Result<(), Error> {
    let mut rows = Vec::new();
    for instance in &prepared.instances {
        serde_json::to_writer(&mut rows, &**instance).expect("rows are valid JSON");
        rows.push(b'\n');
    }
    let path = dir.join(bundle::ROWS);
    std::fs::write(&path, rows).map_err(file_failure(&path))
}

/// Writes the base images, and what they stand on, to the bundle's archive.
async fn export_bases(prepared: &Workload, bases: &Plan, dir: &Path) -> Result<(), Error> {
    let (engine, _) = prepared.engine();
    let images = bases.nodes().map(|(_, node)| (node.kind(), node.key));
    let path = dir.join(bundle::IMAGES);
    let exported = archive::export(&**engine, &path, images, None).await;
    exported.map(drop).map_err(Error::environment)
}

/// Writes the objects that the plan needs of each repository.
async fn pack_repositories(prepared: &Workload, plan: &Plan, dir: &Path) -> Result<(), Error> {
    let mut needed: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (_, node) in plan.nodes() {
        match &node.recipe {
            Recipe::Checkout(recipe) => {
                let commits = needed.entry(recipe.repo.clone()).or_default();
                commits.insert(recipe.base_commit.clone());
            }
            Recipe::Env(recipe) => {
                for files in &recipe.requirements {
                    let commits = needed.entry(files.repo.clone()).or_default();
                    commits.insert(files.commit.clone());
                }
            }
            _ => {}
        }
    }
    for (repo, commits) in needed {
        let commits: Vec<String> = commits.into_iter().collect();
        let mirrors = prepared.mirrors.clone();
        let target = dir.join(bundle::REPOSITORIES).join(repo.replace('/', "__") + ".git");
        let packed = tokio::task::spawn_blocking(move || {
            let names: Vec<&str> = commits.iter().map(String::as_str).collect();
            let mirror = mirrors
                .mirror(&repo, &names, &LogLines::new(false))
                .map_err(|error| Error::environment(anyhow::Error::from(error)))?;
            let needed = mirror
                .needed(&commits)
                .map_err(|error| Error::environment(anyhow::Error::from(error)))?;
            bundle::pack_repository(mirror.path(), &repo, &needed, &target).map_err(bundle_failure)
        });
        packed.await.expect("packing does not panic")?;
    }
    Ok(())
}

/// Builds everything above the bases in an engine of its own, and records what that asks of the
/// package index.
async fn record_packages(
    global: &Global,
    args: &CreateArgs,
    prepared: &Workload,
    work: &Path,
) -> Result<RunSummary, Error> {
    let dir = work.join("bundle");
    let state = work.join("state");
    let store = Arc::new(Store::open(&state).map_err(Error::environment)?);
    let engine = global.forge_options().embedded_in(state).await;
    let engine = engine.map_err(open::engine_failure)?;
    let info = engine.info().await.map_err(open::engine_failure)?;
    let emulate = args.sources.emulate;
    platform::check(&*engine, &info, &prepared.platform, emulate, work).await?;
    bring_images(&*engine, &store, &dir.join(bundle::IMAGES), work).await?;
    let url = ["PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL"]
        .into_iter()
        .find_map(open::variable)
        .unwrap_or_else(|| "https://pypi.org/simple".to_owned());
    let client =
        crate::http::client().map_err(Error::environment)?.build().map_err(Error::environment)?;
    let records = dir.join(bundle::INDEX);
    let index = PackageIndex::start(&records, Some((client, &url))).await;
    let index = index.map_err(Error::environment)?;
    let recording = prepared.in_engine(engine, info, store);
    let plan = recording.plan(&recording.work, Kind::Checkout, None)?;
    let plan = recording.assess(plan, false, &Default::default()).await?;
    let (options, reporter) = (args.exec.options(global)?, args.exec.reporter(global)?);
    plan.run(&options, None, Some(index), reporter).await
}

/// Brings the base images of an archive onto an engine.
async fn bring_images(
    engine: &dyn Engine,
    store: &Store,
    path: &Path,
    scratch: &Path,
) -> Result<usize, Error> {
    let archive = registries::open_archive(path, scratch)?;
    let info = engine.info().await.map_err(open::engine_failure)?;
    let identity = engine_identity(&info);
    let target = Destination { engine, identity: &identity, store };
    let fetched = target.fetch(&archive, &archive.images(), &|_| {}).await;
    let fetched = fetched.map_err(Error::environment)?;
    for one in &fetched {
        if let FetchOutcome::Failed(why) = &one.outcome {
            let error = anyhow::anyhow!("base image {}: {why}", one.key.short());
            return Err(Error::environment(error));
        }
    }
    Ok(fetched.len())
}

async fn unpack(global: &Global, args: UseArgs) -> CommandResult {
    std::fs::File::open(&args.file).map_err(|error| {
        let text = format!("cannot use `{}`", args.file.display());
        Error::input(anyhow::Error::from(error).context(text))
    })?;
    let opened = open::open(global).await?;
    if open::catalog(global).is_ok_and(|catalog| !catalog.trusted_keys().is_empty()) {
        render::warn(
            "a bundle has no signatures, and what is in it is taken as it is: check the file itself, \
             such as with `cosign verify-blob`",
        );
    }
    let dir = bundle_in_use::dir(opened.store.dir());
    let scratch = opened.store.scratch_dir().map_err(Error::environment)?;
    let aside = scratch.path().join("bundle");
    let (file, target) = (args.file.clone(), aside.clone());
    let waiting = progress::wait(format!("unpacking {}", args.file.display()));
    let unpacked = tokio::task::spawn_blocking(move || bundle::unpack(&file, &target));
    let contents = unpacked.await.expect("unpacking does not panic").map_err(bundle_failure)?;
    drop(waiting);
    if !contents.platform.matches(&opened.info.platform) {
        let error = anyhow::anyhow!(
            "the bundle is for {}, the engine is {}",
            contents.platform,
            opened.info.platform
        );
        return Err(Error::input(error).into());
    }
    let bases =
        bring_images(&*opened.engine, &opened.store, &aside.join(bundle::IMAGES), scratch.path())
            .await?;
    // The images are on the engine now.
    let images = aside.join(bundle::IMAGES);
    std::fs::remove_file(&images).map_err(file_failure(&images))?;
    let old = scratch.path().join("old");
    if dir.exists() {
        std::fs::rename(&dir, &old).map_err(file_failure(&dir))?;
    }
    std::fs::rename(&aside, &dir).map_err(file_failure(&dir))?;
    let count = contents.instances.len();
    if global.json {
        let document = json!({
            "dataset": contents.dataset,
            "instances": contents.instances,
            "bases": bases,
        });
        render::json(&document);
    }
    say(
        global,
        format!(
            "{} of {}, {}; `-d bundle` has them",
            words::count(count, "instance"),
            contents.dataset,
            words::count(bases, "base image")
        ),
    );
    Ok(Exit::Success)
}
