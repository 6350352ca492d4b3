//! `imgforge prewarm`.

use clap::Args;

use crate::cli::out::errln;
use crate::forge::LoadOptions;
use crate::words;

use super::chosen::Choice;
use super::execute::{ExecArgs, exit_of};
use super::open;
use super::refusal;
use super::shard::ShardArgs;
use super::swebench::SwebenchArgs;
use super::{CommandResult, Error, Exit, Global, Images, Sources};

/// Arguments of `prewarm`.
#[derive(Debug, Args)]
pub(super) struct PrewarmArgs {
    #[command(flatten)]
    chosen: Choice,
    #[command(flatten)]
    shard: ShardArgs,
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
    let load = LoadOptions {
        predictions: args.images.predictions(),
        skip_empty: true,
        remote: args.from.clone(),
        fallback_to_build: !args.no_build,
        shard: args.shard.options()?,
        ..args.exec.load_options(&args.chosen, &args.sources)
    };
    let prepared = open::forge(global)?.load(&load).await?;
    let mut work = prepared.work.clone();
    if let Some(file) = &args.images.predictions {
        // Just the instances that it names.
        work.retain(|work| work.prediction.is_some());
        if work.is_empty() {
            let error = anyhow::anyhow!("`{file}` names no instance of the dataset with a patch");
            return Err(Error::input(error).into());
        }
    }
    let plan = prepared.plan(&work, args.images.up_to(), None)?;
    let plan = prepared.assess(plan, false, &Default::default()).await?;
    plan.name_fresh().await?;
    let warm = !plan.is_stale();
    let summary = args.exec.build(global, &plan).await?;
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
