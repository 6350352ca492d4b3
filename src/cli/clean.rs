//! `imgforge clean`.

use anyhow::anyhow;
use clap::Args;
use serde_json::json;

use crate::cli::out::errln;
use crate::engine::Removed;

use super::open;
use super::runner::ClusterArgs;
use super::{CommandResult, Error, Exit, Global};

/// Arguments of `clean`.
#[derive(Debug, Args)]
pub(super) struct CleanArgs {
    /// Remove the containers of this run, also where it is still under way on this host
    #[arg(long, alias = "run_id", value_name = "ID")]
    pub(super) run_id: Option<String>,
    /// Remove everything that the embedded engine keeps: images, layers and caches
    #[arg(long, conflicts_with = "run_id")]
    embedded: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Runs `clean`: removes what belongs to processes that ended, and names what may belong to others.
pub(super) async fn run(global: &Global, args: CleanArgs) -> CommandResult {
    let runner = args.cluster.choice(global, None)?;
    if let Some(removed) = runner.clean(args.run_id.as_deref()).await? {
        return report(global, Removed { removed, kept: Vec::new() });
    }
    // Opening the state removes temporary files already; they are listed here.
    let dir = open::state_dir(global);
    let before: Vec<_> = std::fs::read_dir(dir.join("tmp"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    let store = open::open_store(global)?;
    if args.embedded {
        let _gate = store.lock_for_gc().await.map_err(Error::environment)?;
        if !store.leased(true).map_err(Error::environment)?.is_empty() {
            let error = anyhow!("another imgforge uses the images of this state directory");
            let hint = "wait for it, or end it".to_owned();
            return Err(Error::environment(error).with_hint(Some(hint)).into());
        }
        let directory = global.forge_options().destroy_embedded().await;
        let directory = directory.map_err(open::engine_failure)?;
        store.forget_engines("embedded ").map_err(Error::environment)?;
        let removed = vec![directory.display().to_string()];
        return report(global, Removed { removed, kept: Vec::new() });
    }
    let removed: Vec<String> = before
        .into_iter()
        .filter(|path| !path.exists())
        .map(|path| path.display().to_string())
        .collect();
    let engine = open::connect(global).await.map_err(open::engine_failure)?;
    let judge = |name: &str, made| store.owners().judge(name, made);
    let mut found = Removed { removed, kept: Vec::new() };
    let mut add = |more: Removed| {
        found.removed.extend(more.removed);
        // What stays is seen as scratch and as a part of its run.
        found.kept.extend(more.kept);
        found.kept.sort();
        found.kept.dedup();
    };
    let scratch = engine.remove_scratch(&judge).await;
    add(scratch.map_err(open::engine_failure)?);
    // No run can have another name: nothing of such a one is left.
    if let Some(run_id) = args.run_id.as_ref().and_then(|text| text.parse().ok()) {
        let of_run = engine.remove_run(&run_id, &judge).await;
        add(of_run.map_err(open::engine_failure)?);
    }
    report(global, found)
}

fn report(global: &Global, found: Removed) -> CommandResult {
    let Removed { removed, kept } = found;
    if global.json {
        super::render::json(&json!({ "removed": removed, "kept": kept }));
    } else if !global.quiet {
        for name in &removed {
            errln!("removed {name}");
        }
        for name in &kept {
            errln!("kept {name}: its process is on another host or in another container");
        }
        if removed.is_empty() && kept.is_empty() {
            errln!("nothing was left behind");
        }
    }
    Ok(Exit::Success)
}
