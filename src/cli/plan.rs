//! `imgforge plan`.

use anyhow::anyhow;
use clap::{Args, ValueEnum};

use crate::cli::out::out;
use crate::forge::LoadOptions;
use crate::plan::check::Purpose;
use crate::plan::render;

use super::chosen::Choice;
use super::help::heading;
use super::open;
use super::refusal;
use super::shard::ShardArgs;
use super::swebench::SwebenchArgs;
use super::{CommandResult, Error, Exit, Global, Images, Sources};

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    pub(super) chosen: Choice,
    #[command(flatten)]
    shard: ShardArgs,
    #[command(flatten)]
    images: Images,
    /// How many images would be built at once
    #[arg(short = 'j', long, visible_alias = "workers", aliases = ["max_workers", "num-workers"], env = "IMGFORGE_MAX_WORKERS",
        value_parser = super::workers)]
    max_workers: Option<usize>,
    /// Take every image for stale
    #[arg(long)]
    force_rebuild: bool,
    #[command(flatten)]
    sources: Sources,
    /// Say for every stale image why
    #[arg(long, help_heading = heading::OUTPUT)]
    explain: bool,
    /// The form of the output
    #[arg(long, value_enum, default_value_t, help_heading = heading::OUTPUT)]
    format: Format,
    #[command(flatten)]
    swebench: SwebenchArgs,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum, PartialEq, Eq)]
enum Format {
    #[default]
    Table,
    Json,
    Dot,
    Mermaid,
}

/// Runs `plan`.
pub(super) async fn run(global: &Global, args: PlanArgs) -> CommandResult {
    if global.json && matches!(args.format, Format::Dot | Format::Mermaid) {
        let error = anyhow!("--json is one form of the output, and --format names another");
        return Err(Error::input(error).with_hint(Some("leave one of them out".to_owned())).into());
    }
    args.swebench.check(global)?;
    args.chosen.say_default(global);
    let load = LoadOptions {
        predictions: args.images.predictions(),
        workers: args.max_workers,
        purpose: Purpose::Plan,
        shard: args.shard.options()?,
        ..LoadOptions::of_images(args.chosen.selection(), args.sources.options())
    };
    let prepared = open::forge(global)?.load(&load).await?;
    let plan = prepared.plan(&prepared.work, args.images.up_to(), None)?;
    let assessed = prepared.assess(plan, args.force_rebuild, &Default::default()).await?;
    let plan = assessed.plan();
    let engine = prepared.engine_name();
    let format = if global.json { Format::Json } else { args.format };
    let text = match format {
        Format::Json => {
            let document = render::document(plan, engine, prepared.workers);
            let document = refusal::with(&document, &prepared.refused);
            super::render::json(&document);
            return Ok(refusal::exit(Exit::Success, &prepared.refused));
        }
        Format::Dot => render::dot(plan),
        Format::Mermaid => render::mermaid(plan),
        Format::Table => render::table(plan, args.explain),
    };
    out!("{text}");
    Ok(refusal::exit(Exit::Success, &prepared.refused))
}
