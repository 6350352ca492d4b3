//! `cache push`, `cache pull`, `cache export` and `cache import`.

use std::collections::HashSet;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::cache::archive;
use crate::cache::destination::{Destination, FetchOutcome, FetchedImage};
use crate::cache::image_source::ImageSource;
use crate::cache::registry::Signer;
use crate::cache::registry::{Pushed, ToPush};
use crate::cache::{CacheError, CachedImage};
use crate::cli::out::errln;
use crate::disk;
use crate::engine::EngineError;
use crate::forge::push::{push_images, say_pushed};
use crate::forge::{LoadOptions, Opened, keys, registries};
use crate::key::{Key, Kind};
use crate::plan::{Plan, name};
use crate::sign::PublicKey;
use crate::words;

use super::super::help::heading;
use super::super::open;
use super::super::{Chosen, CommandResult, Error, Exit, Global, Sources, progress, render};
use super::read;

/// Which images.
#[derive(Debug, Args)]
#[command(next_help_heading = heading::DATASET)]
pub(crate) struct Which {
    /// The images of this dataset's instances [default: every image]
    #[arg(short, long, value_name = "NAME")]
    dataset: Option<String>,
    /// The split
    #[arg(long, default_value = "test", env = "IMGFORGE_SPLIT")]
    split: String,
    /// These instances
    #[arg(short, long, alias = "instance_ids", value_name = "ID", num_args = 1.., requires = "dataset")]
    instance_ids: Vec<String>,
    /// Instances whose id matches
    #[arg(long, value_name = "REGEX", requires = "dataset")]
    filter: Option<regex::Regex>,
    /// Instances of this repository
    #[arg(long, value_name = "OWNER/NAME", requires = "dataset")]
    repo: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", requires = "dataset")]
    limit: Option<usize>,
    #[command(flatten)]
    sources: Sources,
}

impl Which {
    /// Returns the keys of which one must have signed what comes.
    fn trusted(&self, global: &Global) -> Result<Vec<PublicKey>, Error> {
        keys::trusted(&self.sources.options(), &open::catalog(global)?)
    }

    /// Returns what signs.
    fn signer(&self) -> Result<Option<Signer>, Error> {
        keys::signer(&self.sources.options(), &|| super::super::keys::password(false))
    }

    /// Returns the images of the chosen instances; `None` for every image.
    pub(crate) async fn keys(&self, global: &Global) -> Result<Option<Vec<(Kind, Key)>>, Error> {
        let plan = self.plan(global).await?;
        Ok(plan.map(|plan| keys_of(&plan)))
    }

    /// Plans the images of the chosen instances.
    async fn plan(&self, global: &Global) -> Result<Option<Plan>, Error> {
        let Some(dataset) = &self.dataset else { return Ok(None) };
        let chosen = Chosen {
            filter: self.filter.clone(),
            repo: self.repo.clone(),
            limit: self.limit,
            ..Chosen::ids(dataset, &self.split, &self.instance_ids)
        };
        let load = LoadOptions::of_images(chosen.selection(), self.sources.options());
        let prepared = open::forge(global)?.load(&load).await?;
        Ok(Some(prepared.plan(&prepared.work, Kind::Instance, None)?))
    }
}

fn keys_of(plan: &Plan) -> Vec<(Kind, Key)> {
    plan.nodes().map(|(_, node)| (node.kind(), node.key)).collect()
}

/// Returns the further names of a planned image.
fn names_of(plan: &Plan, key: &Key) -> Vec<String> {
    let node = plan.nodes().map(|(_, node)| node).find(|node| node.key == *key);
    node.map(|node| node.aliases.clone()).unwrap_or_default()
}

/// Arguments of `cache push`.
#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// Registry and path, such as ghcr.io/me
    registry: String,
    #[command(flatten)]
    which: Which,
}

/// Runs `cache push`.
pub(super) async fn push(global: &Global, args: PushArgs) -> CommandResult {
    let opened = open::open(global).await?;
    let wanted = args.which.keys(global).await?;
    let registry = registries::registry_cache(&args.registry, &opened.info.platform)?
        .trusting(args.which.trusted(global)?)
        .signing(args.which.signer()?);
    let contents = read(&opened).await?;
    let mut images: Vec<ToPush> = contents
        .images
        .iter()
        .filter(|image| image.is_named() && !image.external)
        .filter(|image| {
            wanted.as_ref().is_none_or(|wanted| wanted.contains(&(image.kind, image.key)))
        })
        .map(|image| ToPush { kind: image.kind, key: image.key })
        .collect();
    images.sort_by_key(|image| (image.kind, image.key));
    let keys = images.iter().map(|image| image.key);
    let _lease = opened.store.lease(keys).await.map_err(Error::environment)?;
    let checker = opened.checker()?;
    let pushed = push_images(&global.notices(), &checker, &registry, &images).await;
    let pushed = pushed.map_err(open::engine_failure)?;
    let failed = say_pushed(&global.notices(), &pushed);
    let missing = wanted.map_or(0, |wanted| wanted.len() - images.len());
    if missing > 0 {
        let (images, are) = (words::count(missing, "image"), words::are(missing));
        render::warn(format!("{images} {are} not here: `imgforge build` makes them"));
    }
    if global.json {
        let bytes: u64 = pushed.iter().map(|one| one.bytes).sum();
        let count = pushed.iter().filter(|one| one.outcome == Pushed::Pushed).count();
        let document =
            json!({ "pushed": count, "bytes": bytes, "missing": missing, "images": pushed });
        render::json(&document);
    }
    Ok(if failed + missing > 0 { Exit::SomeFailed } else { Exit::Success })
}

/// Arguments of `cache pull`.
#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// Registry and path, such as ghcr.io/me
    registry: String,
    #[command(flatten)]
    which: Which,
}

/// Runs `cache pull`: every image that the registry holds, or those of instances.
pub(super) async fn pull(global: &Global, args: PullArgs) -> CommandResult {
    let opened = open::open(global).await?;
    let keys = args.which.trusted(global)?;
    let registry =
        registries::registry_cache(&args.registry, &opened.info.platform)?.trusting(keys);
    let plan = args.which.plan(global).await?;
    let wanted = match &plan {
        Some(plan) => keys_of(plan),
        None => registry.list().await.map_err(open::engine_failure)?,
    };
    let names = |key: &Key| plan.as_ref().map(|plan| names_of(plan, key)).unwrap_or_default();
    fetch(global, &opened, &registry, &wanted, "pulled", &names).await
}

/// Arguments of `cache import`.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// An archive of `cache export`
    file: PathBuf,
    #[command(flatten)]
    which: Which,
}

/// Runs `cache import`.
pub(super) async fn import(global: &Global, args: ImportArgs) -> CommandResult {
    let opened = open::open(global).await?;
    let scratch = opened.store.scratch_dir().map_err(Error::environment)?;
    let waiting = progress::wait(format!("reading {}", args.file.display()));
    let archive = registries::open_archive(&args.file, scratch.path())?
        .trusting(&args.which.trusted(global)?);
    drop(waiting);
    let plan = args.which.plan(global).await?;
    let wanted = plan.as_ref().map_or_else(|| archive.images(), keys_of);
    let names = |key: &Key| match &plan {
        Some(plan) => names_of(plan, key),
        None => archive.aliases(key).to_vec(),
    };
    fetch(global, &opened, &archive, &wanted, "imported", &names).await
}

/// Brings images, gives them their `names` as a build does, and says how it went.
async fn fetch(
    global: &Global,
    opened: &Opened,
    remote: &dyn ImageSource,
    wanted: &[(Kind, Key)],
    verb: &str,
    names: &dyn Fn(&Key) -> Vec<String>,
) -> CommandResult {
    let keys = wanted.iter().map(|(_, key)| *key);
    let _lease = opened.store.lease(keys).await.map_err(Error::environment)?;
    let target =
        Destination { engine: &*opened.engine, identity: &opened.identity, store: &opened.store };
    let waiting = progress::wait(format!(
        "bringing {} from {}",
        words::count(wanted.len(), "image"),
        remote.describe()
    ));
    let told = |image: &FetchedImage| {
        let name = name::image(image.kind, &image.key);
        match &image.outcome {
            FetchOutcome::Fetched if !global.quiet => waiting.say(&format!("   {verb} {name}")),
            FetchOutcome::Failed(why) => {
                waiting.apart(|| render::warn(format!("{name} was not {verb}: {why}")));
            }
            _ => {}
        }
    };
    let fetched = target.fetch(remote, wanted, &told).await;
    drop(waiting);
    let fetched = fetched.map_err(|error| match error {
        CacheError::Engine(error) => open::engine_failure(error),
        other => Error::environment(other),
    })?;
    let mut unnamed = 0;
    for image in &fetched {
        if matches!(image.outcome, FetchOutcome::Failed(_)) {
            continue;
        }
        let names = names(&image.key);
        unnamed += usize::from(image.kind == Kind::Checkout && names.is_empty());
        for name in names {
            let own = name::image(image.kind, &image.key);
            let name = name
                .parse()
                .map_err(|fault| open::engine_failure(EngineError::Reference(fault)))?;
            opened.engine.tag(&own, &name).await.map_err(open::engine_failure)?;
        }
    }
    let count =
        |outcome: &FetchOutcome| fetched.iter().filter(|one| one.outcome == *outcome).count();
    let (new, there) = (count(&FetchOutcome::Fetched), count(&FetchOutcome::There));
    let failed = fetched.len() - new - there;
    if global.json {
        let document = json!({ verb: new, "there": there, "failed": failed, "images": fetched });
        render::json(&document);
    } else if !global.quiet {
        let new = words::count(new, "image");
        errln!("{new} {verb}, {there} here before, {failed} failed");
        if unnamed > 0 {
            errln!(
                "the names sweb.eval.… come with the dataset: `imgforge prewarm -d NAME` sets them"
            );
        }
    }
    Ok(if failed > 0 { Exit::SomeFailed } else { Exit::Success })
}

/// Arguments of `cache export`.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The archive
    file: PathBuf,
    #[command(flatten)]
    which: Which,
}

/// Runs `cache export`.
pub(super) async fn export(global: &Global, args: ExportArgs) -> CommandResult {
    let opened = open::open(global).await?;
    let wanted = args.which.keys(global).await?;
    let signer = args.which.signer()?;
    let contents = read(&opened).await?;
    let mut chosen: Vec<&CachedImage> = contents
        .images
        .iter()
        .filter(|image| image.is_named() && !image.external)
        .filter(|image| {
            wanted.as_ref().is_none_or(|wanted| wanted.contains(&(image.kind, image.key)))
        })
        .collect();
    chosen.sort_by_key(|image| (image.kind, image.key));
    let missing = wanted.map_or(0, |wanted| wanted.len() - chosen.len());
    if chosen.is_empty() {
        let error = anyhow::anyhow!("none of the images is here");
        let hint = "`imgforge build` makes them".to_owned();
        return Err(Error::input(error).with_hint(Some(hint)).into());
    }
    let keys = chosen.iter().map(|image| image.key);
    let _lease = opened.store.lease(keys).await.map_err(Error::environment)?;
    let engine = &*opened.engine;
    let refused = leave_out_wrong(&opened, &mut chosen).await?;
    if chosen.is_empty() {
        let error = anyhow::anyhow!("none of the images is what its name says");
        return Err(Error::input(error).with_hint(Some(REPAIR.to_owned())).into());
    }
    let images = chosen.iter().map(|image| (image.kind, image.key));
    let waiting = progress::wait(format!("writing {}", words::count(chosen.len(), "image")));
    let exported =
        archive::export(engine, &args.file, images, signer.as_ref().map(|of| &of.key)).await;
    drop(waiting);
    let written = exported.map_err(registries::archive_error)?;
    if missing > 0 {
        let (images, are) = (words::count(missing, "image"), words::are(missing));
        render::warn(format!("{images} {are} not here: `imgforge build` makes them"));
    }
    if global.json {
        let document = json!({
            "images": chosen.len(),
            "missing": missing,
            "refused": refused,
            "archive": written,
        });
        render::json(&document);
    } else if !global.quiet {
        let resumed = match written.resumed {
            0 => String::new(),
            count => format!(", {count} of an export that broke off"),
        };
        errln!(
            "{} in {}: {}{resumed}, {}",
            words::count(chosen.len(), "image"),
            args.file.display(),
            words::count(written.layers, "layer"),
            disk::bytes_text(written.bytes)
        );
    }
    Ok(if missing + refused > 0 { Exit::SomeFailed } else { Exit::Success })
}

/// What helps against images that are not what their names say.
const REPAIR: &str = "`imgforge cache verify --repair` removes them, and a build makes them anew";

/// Leaves out the images that are not what their names say, and warns of each; returns how many.
async fn leave_out_wrong(opened: &Opened, chosen: &mut Vec<&CachedImage>) -> Result<usize, Error> {
    let checker = opened.checker()?;
    let mut left_out = HashSet::new();
    for image in chosen.iter() {
        let checked = checker.here(image.kind, &image.key).await;
        if let Some(Err(wrong)) = checked.map_err(open::engine_failure)? {
            render::warn(format!("{} is left out: {wrong}", image.image()));
            left_out.insert(image.key);
        }
    }
    chosen.retain(|image| !left_out.contains(&image.key));
    Ok(left_out.len())
}
