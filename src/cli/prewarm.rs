//! `imgforge prewarm`.

use crate::cli::out::errln;
use std::sync::Arc;

use clap::Args;

use crate::plan::check::Purpose;
use crate::words;

use super::chosen::Choice;
use super::context::{self, Wanted};
use super::execute::{ExecArgs, exit_of};
use super::refusal;
use super::swebench::SwebenchArgs;
use super::{CommandResult, Exit, Failure, Global, Images, Sources};

/// Arguments of `prewarm`.
#[derive(Debug, Args)]
pub struct PrewarmArgs {
    #[command(flatten)]
    chosen: Choice,
    #[command(flatten)]
    images: Images,
    /// A registry, such as ghcr.io/me, or an archive of `cache export` [default: that of
    /// --cache-registry or images.toml]
    #[arg(long, value_name = "REGISTRY|FILE", env = "IMGFORGE_PREWARM_FROM")]
    from: Option<String>,
    /// Build nothing: say what is not there
    #[arg(long)]
    no_build: bool,
    #[command(flatten)]
    sources: Sources,
    #[command(flatten)]
    exec: ExecArgs,
    #[command(flatten)]
    swebench: SwebenchArgs,
}

/// Runs `prewarm`.
pub(super) async fn run(global: &Global, args: PrewarmArgs) -> CommandResult {
    args.swebench.check(global)?;
    args.chosen.say_default(global);
    let wanted = Wanted {
        chosen: &args.chosen,
        sources: &args.sources,
        predictions: args.images.predictions.as_slice(),
        skip_empty: true,
        workers: args.exec.max_workers,
        build: true,
        remote: args.from.as_deref(),
        build_instead: !args.no_build,
        purpose: Purpose::Images,
        evaluate: None,
        min_free: args.exec.min_free,
    };
    let prepared = context::prepare(global, &wanted).await?;
    let mut work = prepared.work.clone();
    if let Some(file) = &args.images.predictions {
        // Just the instances that it names.
        work.retain(|work| work.prediction.is_some());
        if work.is_empty() {
            let error = anyhow::anyhow!("`{file}` names no instance of the dataset with a patch");
            return Err(Failure::input(error));
        }
    }
    let mut plan = prepared.plan(&work, args.images.up_to(), None)?;
    let tags = prepared.assess(&mut plan, false, &Default::default()).await?;
    prepared.name_fresh(&plan, &tags).await?;
    let warm = !plan.nodes().any(|(_, node)| node.status.runs());
    let summary = args.exec.run(global, &prepared, Arc::new(plan), None, Vec::new()).await?;
    if !global.quiet && !warm {
        let missing: Vec<&str> = summary
            .nodes
            .iter()
            .filter(|node| node.status.is_missing())
            .map(|node| node.id.as_str())
            .collect();
        if !missing.is_empty() {
            errln!("could not get {}:", words::count(missing.len(), "image"));
            for id in missing.iter().take(SHOWN) {
                errln!("  {id}");
            }
            if missing.len() > SHOWN {
                errln!("  and {} more", missing.len() - SHOWN);
            }
        }
    }
    if global.json {
        let document = refusal::with(&summary, &prepared.refused);
        super::render::json(&document);
    }
    let exit = if warm { Exit::Success } else { exit_of(&summary) };
    Ok(refusal::exit(exit, &prepared.refused))
}

/// How many of the missing images are listed.
const SHOWN: usize = 20;
