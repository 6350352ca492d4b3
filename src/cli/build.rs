//! `imgforge build`.

use crate::cli::out::out;
use std::sync::Arc;

use clap::Args;

use crate::plan::check::Purpose;
use crate::plan::render as plan_render;

use super::chosen::Choice;
use super::context::{self, Wanted};
use super::execute::{ExecArgs, exit_of};
use super::refusal;
use super::remotes;
use super::swebench::SwebenchArgs;
use super::{CommandResult, Exit, Global, Images, Sources};

/// Arguments of `build`.
#[derive(Debug, Args)]
pub struct BuildArgs {
    #[command(flatten)]
    pub(super) chosen: Choice,
    #[command(flatten)]
    images: Images,
    /// Build images that are fresh too, and run every step of them anew; packages that were
    /// downloaded are used
    #[arg(long, visible_alias = "no-cache")]
    pub(super) force_rebuild: bool,
    /// Show the plan and build nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Push the images to the registry of --push-to
    #[arg(long, requires = "push_to")]
    push: bool,
    /// The registry and path that --push pushes to, such as ghcr.io/me
    #[arg(long, value_name = "REGISTRY", env = "IMGFORGE_PUSH_TO")]
    push_to: Option<String>,
    #[command(flatten)]
    pub(super) sources: Sources,
    #[command(flatten)]
    pub(super) exec: ExecArgs,
    #[command(flatten)]
    pub(super) swebench: SwebenchArgs,
}

/// Runs `build`.
pub(super) async fn run(global: &Global, args: BuildArgs) -> CommandResult {
    args.swebench.check(global)?;
    args.chosen.say_default(global);
    let wanted = Wanted {
        chosen: &args.chosen,
        sources: &args.sources,
        predictions: args.images.predictions.as_slice(),
        skip_empty: false,
        workers: args.exec.max_workers,
        build: !args.dry_run,
        remote: None,
        build_instead: true,
        purpose: Purpose::Images,
        evaluate: None,
        min_free: args.exec.min_free,
    };
    let prepared = context::prepare(global, &wanted).await?;
    // Also where nothing is built.
    args.exec.host()?;
    let up_to = args.images.up_to();
    let mut plan = prepared.plan(&prepared.work, up_to, None)?;
    let tags = prepared.assess(&mut plan, args.force_rebuild, &Default::default()).await?;
    if args.dry_run {
        if global.json {
            let document = plan_render::document(&plan, prepared.engine_name(), prepared.workers);
            let document = refusal::with(&document, &prepared.refused);
            super::render::json(&document);
        } else {
            out!("{}", plan_render::table(&plan, false));
        }
        return Ok(refusal::exit(Exit::Success, &prepared.refused));
    }
    prepared.name_fresh(&plan, &tags).await?;
    let summary = args.exec.run(global, &prepared, Arc::new(plan), None, Vec::new()).await?;
    let mut exit = exit_of(&summary);
    if let Some(registry) = args.push_to.as_deref().filter(|_| args.push) {
        let sources = &args.sources;
        let registry = remotes::registry_cache(registry, &prepared.platform)?
            .trusting(super::keys::trusted(sources, &prepared.catalog)?)
            .signing(super::keys::signer(sources)?);
        let nodes = summary.nodes.iter().filter(|node| node.status.is_there());
        let checker = prepared.checker()?;
        let failed = super::push::push_nodes(global, &checker, &registry, nodes).await;
        if failed > 0 && exit == Exit::Success {
            exit = Exit::SomeFailed;
        }
    }
    if global.json {
        let document = refusal::with(&summary, &prepared.refused);
        super::render::json(&document);
    }
    Ok(refusal::exit(exit, &prepared.refused))
}
