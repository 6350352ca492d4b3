//! `imgforge clean`.

use clap::Args;
use serde_json::json;

use crate::engine::embedded::EmbeddedEngine;
use crate::store;

use super::context;
use super::{CommandResult, Exit, Failure, Global};

/// Arguments of `clean`.
#[derive(Debug, Args)]
pub struct CleanArgs {
    /// Remove the containers of this run, also where it is still under way
    #[arg(long, alias = "run_id", value_name = "ID")]
    run_id: Option<String>,
    /// Remove everything that the embedded engine keeps: images, layers and caches
    #[arg(long, conflicts_with = "run_id")]
    embedded: bool,
}

/// Runs `clean`: removes what belongs to processes that ended.
pub(super) async fn run(global: &Global, args: CleanArgs) -> CommandResult {
    // Opening the state removes temporary files already; they are listed here.
    let dir = global.state_dir.clone().unwrap_or_else(|| store::default_dir(context::variable));
    let before: Vec<_> = std::fs::read_dir(dir.join("tmp"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    let _store = context::open_store(global)?;
    if args.embedded {
        let settings = context::embedded_settings(global).map_err(context::engine_failure)?;
        let directory = EmbeddedEngine::destroy(settings).await;
        let directory = directory.map_err(context::engine_failure)?;
        return report(global, &[directory.display().to_string()]);
    }
    let mut removed: Vec<String> = before
        .into_iter()
        .filter(|path| !path.exists())
        .map(|path| path.display().to_string())
        .collect();
    let engine = context::connect(global).await.map_err(context::engine_failure)?;
    let scratch = engine.remove_scratch(&store::is_alive).await;
    removed.extend(scratch.map_err(context::engine_failure)?);
    if let Some(run_id) = &args.run_id {
        let of_run = engine.remove_run(run_id).await;
        removed.extend(of_run.map_err(context::engine_failure)?);
    }
    report(global, &removed)
}

fn report(global: &Global, removed: &[String]) -> CommandResult {
    if global.json {
        super::render::json(&json!({ "removed": removed })).map_err(Failure::environment)?;
    } else if !global.quiet {
        for name in removed {
            eprintln!("removed {name}");
        }
        if removed.is_empty() {
            eprintln!("nothing was left behind");
        }
    }
    Ok(Exit::Success)
}
