//! `imgforge plan`.

use clap::{Args, ValueEnum};

use crate::key::Kind;
use crate::plan::render;

use super::context::{self, Wanted};
use super::{Chosen, CommandResult, Exit, Failure, Global, Sources};

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    chosen: Chosen,
    #[command(flatten)]
    sources: Sources,
    /// Say for every stale image why
    #[arg(long)]
    explain: bool,
    /// The form of the output
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// How many images would be built at once
    #[arg(short = 'j', long, alias = "max_workers", env = "IMGFORGE_MAX_WORKERS",
        value_parser = super::workers)]
    max_workers: Option<usize>,
    /// Take every image for stale
    #[arg(long)]
    force_rebuild: bool,
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
    let force = if args.force_rebuild { &Kind::ALL[..] } else { &[] };
    let wanted = Wanted {
        chosen: &args.chosen,
        sources: &args.sources,
        workers: args.max_workers,
        force,
        build: false,
    };
    let planned = context::plan(global, &wanted).await?;
    let engine = planned.engine.as_ref().map_or("none", |(_, info)| info.name.as_str());
    let format = if global.json { Format::Json } else { args.format };
    let text = match format {
        Format::Json => {
            let document = render::document(&planned.plan, engine, planned.workers);
            super::render::json(&document).map_err(Failure::environment)?;
            return Ok(Exit::Success);
        }
        Format::Dot => render::dot(&planned.plan),
        Format::Mermaid => render::mermaid(&planned.plan),
        Format::Table => {
            if planned.engine.is_none() && !global.quiet {
                super::render::warn("no engine answers, so every image is taken for stale");
            }
            render::table(&planned.plan, args.explain)
        }
    };
    print!("{text}");
    Ok(Exit::Success)
}
