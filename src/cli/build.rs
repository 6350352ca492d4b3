//! `imgforge build`.

use clap::Args;

use crate::cli::out::out;
use crate::forge::LoadOptions;
use crate::plan::render as plan_render;

use super::chosen::Choice;
use super::execute::{ExecArgs, exit_of};
use super::open;
use super::refusal;
use super::shard::ShardArgs;
use super::swebench::SwebenchArgs;
use super::{CommandResult, Exit, Global, Images, Sources};

/// Arguments of `build`.
#[derive(Debug, Args)]
pub(super) struct BuildArgs {
    #[command(flatten)]
    pub(super) chosen: Choice,
    #[command(flatten)]
    shard: ShardArgs,
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
    let load = LoadOptions {
        predictions: args.images.predictions(),
        build: !args.dry_run,
        shard: args.shard.options()?,
        ..args.exec.load_options(&args.chosen, &args.sources)
    };
    let prepared = open::forge(global)?.load(&load).await?;
    // Also where nothing is built.
    args.exec.host()?;
    let plan = prepared.plan(&prepared.work, args.images.up_to(), None)?;
    let plan = prepared.assess(plan, args.force_rebuild, &Default::default()).await?;
    if args.dry_run {
        if global.json {
            let document =
                plan_render::document(plan.plan(), prepared.engine_name(), prepared.workers);
            let document = refusal::with(&document, &prepared.refused);
            super::render::json(&document);
        } else {
            out!("{}", plan_render::table(plan.plan(), false));
        }
        return Ok(refusal::exit(Exit::Success, &prepared.refused));
    }
    plan.name_fresh().await?;
    let summary = args.exec.build(global, &plan).await?;
    let mut exit = exit_of(&summary);
    if let Some(registry) = args.push_to.as_deref().filter(|_| args.push) {
        let registry = prepared.registry(registry)?;
        let nodes = summary.nodes.iter().filter(|node| node.status.is_there());
        let failed = plan.push(&registry, nodes).await?;
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
