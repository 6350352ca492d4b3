//! `cache push` and `cache pull`.

use clap::Args;
use serde_json::json;

use crate::cache::registry::{Pushed, ToPush};
use crate::cache::remote::Remote as _;
use crate::engine::Image;
use crate::exec::survey;
use crate::key::{Key, Kind};
use crate::plan::name;
use crate::store::disk;

use super::super::context::{self, LogLines, Opened, Wanted};
use super::super::{Chosen, CommandResult, Exit, Failure, Global, Sources, push, render};
use super::read;

/// Which images.
#[derive(Debug, Args)]
pub struct Which {
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
    /// Returns the images of the chosen instances; `None` for every image.
    pub async fn keys(&self, global: &Global) -> Result<Option<Vec<(Kind, Key)>>, Failure> {
        let Some(dataset) = &self.dataset else { return Ok(None) };
        let chosen = Chosen {
            dataset: dataset.clone(),
            split: self.split.clone(),
            instance_ids: self.instance_ids.clone(),
            filter: self.filter.clone(),
            repo: self.repo.clone(),
            limit: self.limit,
        };
        let wanted = Wanted {
            chosen: &chosen,
            sources: &self.sources,
            predictions: &[],
            skip_empty: false,
            workers: None,
            build: false,
            remote: None,
            build_instead: true,
        };
        let prepared = context::prepare(global, &wanted).await?;
        let plan = prepared.plan(&prepared.work, Kind::Instance, None)?;
        Ok(Some(plan.nodes().map(|(_, node)| (node.kind(), node.key)).collect()))
    }
}

/// Arguments of `cache push`.
#[derive(Debug, Args)]
pub struct PushArgs {
    /// Registry and path, such as ghcr.io/me
    registry: String,
    #[command(flatten)]
    which: Which,
}

/// Runs `cache push`.
pub(super) async fn push(global: &Global, args: PushArgs) -> CommandResult {
    let opened = context::open(global).await?;
    let wanted = args.which.keys(global).await?;
    let registry = context::registry_cache(&args.registry, &opened.info.platform)?;
    let contents = read(&opened).await?;
    let mut images: Vec<ToPush> = contents
        .images
        .iter()
        .filter(|image| image.is_named())
        .filter(|image| {
            wanted.as_ref().is_none_or(|wanted| wanted.contains(&(image.kind, image.key)))
        })
        .map(|image| ToPush { kind: image.kind, key: image.key })
        .collect();
    images.sort_by_key(|image| (image.kind, image.key));
    let keys = images.iter().map(|image| image.key);
    let _lease = opened.store.lease(keys).await.map_err(Failure::environment)?;
    let pushed = push::push(global, &*opened.engine, &registry, &images).await;
    let pushed = pushed.map_err(Failure::environment)?;
    let failed = push::report(global, &pushed);
    let missing = wanted.map_or(0, |wanted| wanted.len() - images.len());
    if missing > 0 {
        render::warn(format!("{missing} images are not here: `imgforge build` makes them"));
    }
    if global.json {
        let bytes: u64 = pushed.iter().map(|one| one.bytes).sum();
        let count = pushed.iter().filter(|one| one.outcome == Pushed::Pushed).count();
        let document =
            json!({ "pushed": count, "bytes": bytes, "missing": missing, "images": pushed });
        render::json(&document).map_err(Failure::environment)?;
    }
    Ok(if failed + missing > 0 { Exit::SomeFailed } else { Exit::Success })
}

/// Arguments of `cache pull`.
#[derive(Debug, Args)]
pub struct PullArgs {
    /// Registry and path, such as ghcr.io/me
    registry: String,
    #[command(flatten)]
    which: Which,
}

/// Runs `cache pull`: every image that the registry holds, or those of instances.
pub(super) async fn pull(global: &Global, args: PullArgs) -> CommandResult {
    let opened = context::open(global).await?;
    let registry = context::registry_cache(&args.registry, &opened.info.platform)?;
    let wanted = match args.which.keys(global).await? {
        Some(wanted) => wanted,
        None => registry.list().await.map_err(Failure::environment)?,
    };
    let keys = wanted.iter().map(|(_, key)| *key);
    let _lease = opened.store.lease(keys).await.map_err(Failure::environment)?;
    let mut pulled = Vec::new();
    let (mut there, mut failed) = (0, 0);
    let mut wanted = wanted;
    wanted.sort();
    for (kind, key) in wanted {
        let name = name::image(kind, &key);
        let _lock = opened.store.lock_key(&key).await.map_err(Failure::environment)?;
        let here = opened.engine.inspect(&name).await.map_err(context::engine_failure)?;
        if here.is_some_and(|image| survey::is_whole(&image, &key, None)) {
            there += 1;
            continue;
        }
        match bring(&opened, &registry, kind, &key).await {
            Ok(image) => {
                if !global.quiet {
                    eprintln!("   pulled {name} ({})", disk::bytes_text(image.size));
                }
                pulled.push(json!({ "key": key, "kind": kind, "image": name }));
            }
            Err(error) => {
                failed += 1;
                let error = anyhow::Error::from(error);
                render::warn(format!("{name} was not pulled: {error:#}"));
            }
        }
    }
    if global.json {
        let document = json!({ "pulled": pulled, "there": there, "failed": failed });
        render::json(&document).map_err(Failure::environment)?;
    } else if !global.quiet {
        eprintln!("{} images pulled, {there} were here, {failed} failed", pulled.len());
    }
    Ok(if failed > 0 { Exit::SomeFailed } else { Exit::Success })
}

/// Brings an image; what comes and is not what its name says is removed.
async fn bring(
    opened: &Opened,
    registry: &crate::cache::registry::RegistryCache,
    kind: Kind,
    key: &Key,
) -> crate::engine::Result<Image> {
    let engine = &*opened.engine;
    let name = name::image(kind, key);
    registry.bring(engine, kind, key, None, &LogLines::new(false)).await?;
    let image = engine.inspect(&name).await?;
    match image.filter(|image| survey::is_whole(image, key, None)) {
        Some(image) => Ok(image),
        None => {
            engine.remove(&name).await?;
            Err(crate::engine::EngineError::Pull {
                reference: name,
                reason: "it is not a finished build of its key".to_owned(),
            })
        }
    }
}
