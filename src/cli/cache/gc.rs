//! `cache gc` and `cache rm`.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use serde_json::json;

use crate::cache::collect::Evicted;
use crate::cache::{CachedImage, Collected, Limits};
use crate::cli::out::errln;
use crate::disk;
use crate::forge;
use crate::key::Key;
use crate::store::{RecordLimits, RecordsGone};
use crate::words::{are, count};

use super::super::{CommandResult, Error, Exit, Global, render};
use super::super::{open, session};
use super::{find, read};

/// Arguments of `cache gc`.
#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    /// The most bytes of images that stay, such as 100GB [default: that of images.toml]
    #[arg(long, value_name = "BYTES", value_parser = crate::size::bytes, env = "IMGFORGE_KEEP_BYTES")]
    keep_bytes: Option<u64>,
    /// Days after which an image or checkpoint goes that was not used [default: that of images.toml]
    #[arg(long, value_name = "DAYS", env = "IMGFORGE_KEEP_DAYS")]
    keep_days: Option<u32>,
    /// Days after which a recorded run of tests goes, with its log, that was not used [default: never]
    #[arg(long, value_name = "DAYS", env = "IMGFORGE_KEEP_RESULTS_DAYS")]
    keep_results_days: Option<u32>,
    /// Days after which the mirror of a repository goes that was not used [default: never]
    #[arg(long, value_name = "DAYS", env = "IMGFORGE_KEEP_MIRRORS_DAYS")]
    keep_mirrors_days: Option<u32>,
    /// Show what would go and what that would free
    #[arg(long)]
    dry_run: bool,
}

/// Takes away what the state holds beside images.
async fn collect_records(
    opened: &forge::Opened,
    limits: &RecordLimits,
    dry_run: bool,
) -> Result<RecordsGone, Error> {
    let store = &opened.store;
    let gate = store.lock_for_gc().await.map_err(Error::environment)?;
    let images = opened.engine.images().await.map_err(open::engine_failure)?;
    let ids = images.into_iter().map(|image| image.id).collect();
    let gone = store.collect_records(&gate, &opened.identity, &ids, limits, dry_run);
    gone.map_err(Error::environment)
}

/// Removes the checkpoints of sessions that were not used for so long; returns their ids. Sessions that
/// stand on one go on.
async fn collect_checkpoints(
    global: &Global,
    keep: Duration,
    dry_run: bool,
) -> Result<Vec<String>, Error> {
    let unused = session::checkpoints(global).unused(keep).map_err(Error::environment)?;
    for record in unused.iter().filter(|_| !dry_run) {
        session::remove_checkpoint(global, record).await?;
    }
    Ok(unused.into_iter().map(|record| record.id).collect())
}

/// Says what went of the state beside images.
fn tell_records(gone: &RecordsGone, verb: &str) {
    let RecordsGone { results, blobs, rows, mirrors, mirrors_in_use, bytes } = gone;
    for repo in mirrors {
        errln!("{verb} the mirror of {repo}");
    }
    if results + blobs + rows > 0 {
        errln!(
            "{verb} {}, {} or differences, and {} about images that are gone",
            count(*results, "recorded run"),
            count(*blobs, "log"),
            count(*rows, "row")
        );
    }
    if *bytes > 0 {
        errln!("{verb} {} of the state beside images", disk::bytes_text(*bytes));
    }
    if *mirrors_in_use > 0 {
        let verb = if *mirrors_in_use == 1 { "stays" } else { "stay" };
        let mirrors = count(*mirrors_in_use, "mirror");
        render::warn(format!("{mirrors} {verb}: something runs with this state"));
    }
}

/// Runs `cache gc`.
pub(super) async fn gc(global: &Global, args: GcArgs) -> CommandResult {
    let settings = open::catalog(global)?.cache().clone();
    let opened = open::open(global).await?;
    let own = forge::limits(&settings);
    let days = |days: u32| Duration::from_secs(u64::from(days) * 86400);
    let limits = match (args.keep_bytes, args.keep_days) {
        (None, None) => own,
        (bytes, keep) => Limits { keep_bytes: bytes, keep_for: keep.map(days) },
    };
    let checkpoints = match limits.keep_for {
        Some(keep) => collect_checkpoints(global, keep, args.dry_run).await?,
        None => Vec::new(),
    };
    let collected = opened.collector().collect(&limits, args.dry_run).await;
    let collected = collected.map_err(Error::environment)?;
    let record_limits = RecordLimits {
        results_for: args.keep_results_days.map(days),
        mirrors_for: args.keep_mirrors_days.map(days),
    };
    let records = collect_records(&opened, &record_limits, args.dry_run).await?;
    if global.json {
        let mut document = document(&collected, &records, args.dry_run);
        document["checkpoints"] = json!(checkpoints);
        render::json(&document);
    } else if !global.quiet {
        let verb = if args.dry_run { "would remove" } else { "removed" };
        checkpoints.iter().for_each(|id| errln!("{verb} checkpoint {id}"));
        tell(&collected, &records, args.dry_run);
        if limits == Limits::default() && record_limits == RecordLimits::default() {
            errln!("no limit is set: --keep-bytes, --keep-days, or `[cache]` in images.toml");
        }
    }
    Ok(Exit::Success)
}

/// Makes the document of `cache gc --json`.
fn document(collected: &Collected, records: &RecordsGone, dry_run: bool) -> serde_json::Value {
    let rows: Vec<_> = collected
        .removed
        .iter()
        .map(|evicted| {
            json!({
                "key": evicted.image.key,
                "kind": evicted.image.kind_name(),
                "image": evicted.image.image(),
                "node": evicted.image.node,
                "why": evicted.why,
                "bytes": evicted.frees,
            })
        })
        .collect();
    json!({
        "dry_run": dry_run,
        "removed": rows,
        "bytes_before": collected.plan.before,
        "bytes_after": collected.plan.after,
        "unneeded_bytes": collected.orphaned.bytes,
        "promised_bytes": collected.reclaimable,
        "freed_bytes": collected.freed,
        "kept": collected.retained,
        "records": records,
    })
}

/// Tells a person what a collection came to.
fn tell(collected: &Collected, records: &RecordsGone, dry_run: bool) {
    let verb = if dry_run { "would remove" } else { "removed" };
    for Evicted { image, frees, .. } in &collected.removed {
        let title = match (&image.node, image.external) {
            (Some(node), false) => node.clone(),
            (_, true) => image.image(),
            (None, false) => image.kind.to_string(),
        };
        errln!("{verb} {title} ({})  {}", image.key.short(), disk::bytes_text(*frees));
    }
    if collected.orphaned.objects > 0 {
        let orphaned = disk::bytes_text(collected.orphaned.bytes);
        errln!("{verb} what no image needs: {orphaned}");
    }
    tell_records(records, verb);
    let reclaimable = disk::bytes_text(collected.reclaimable);
    let images = count(collected.removed.len(), "image");
    match (dry_run, collected.freed) {
        (true, _) => errln!("{images} would go, and free {reclaimable}"),
        (false, Some(freed)) => {
            let freed = disk::bytes_text(freed);
            errln!("{images} went: {freed} freed on the disk, {reclaimable} promised");
        }
        (false, None) => errln!("{images} went, {reclaimable} freed"),
    }
    if collected.retained > 0 {
        render::warn(format!(
            "the cache stays larger than that: {} {} pinned or in use",
            count(collected.retained, "image"),
            are(collected.retained)
        ));
    }
}

/// Arguments of `cache rm`.
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Keys, or their first digits
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<String>,
    /// Remove what stands on them, too
    #[arg(short, long)]
    recursive: bool,
    /// Remove pinned images, too
    #[arg(short, long)]
    force: bool,
}

/// Runs `cache rm`.
pub(super) async fn rm(global: &Global, args: RmArgs) -> CommandResult {
    let opened = open::open(global).await?;
    let contents = read(&opened).await?;
    let mut chosen: HashSet<Key> = HashSet::new();
    for digits in &args.keys {
        chosen.extend(find(&contents, digits)?.iter().map(|image| image.key));
    }
    // Children stand behind their parents in the order of kinds.
    let mut order: Vec<&CachedImage> = contents.images.iter().collect();
    order.sort_by_key(|image| image.kind);
    for image in &order {
        if image.parent.is_some_and(|parent| chosen.contains(&parent))
            && !chosen.contains(&image.key)
        {
            if !args.recursive {
                let title = image.node.clone().unwrap_or_else(|| image.image());
                let error = anyhow!("{title} ({}) stands on one of them", image.key.short());
                let hint = "--recursive removes what stands on them, too".to_owned();
                return Err(Error::input(error).with_hint(Some(hint)).into());
            }
            chosen.insert(image.key);
        }
    }
    order.retain(|image| chosen.contains(&image.key));
    order.reverse();
    if let Some(image) = order.iter().find(|image| !image.pins.is_empty())
        && !args.force
    {
        let pins = image.pins.join(", ");
        let error = anyhow!("{} is pinned ({pins})", image.image());
        let hint = "`imgforge cache unpin` it, or --force".to_owned();
        return Err(Error::input(error).with_hint(Some(hint)).into());
    }
    let wanted = order.len();
    let removed = opened.collector().remove(&contents, order.into_iter()).await;
    let removed = removed.map_err(Error::environment)?;
    let pruned = opened.engine.prune(false).await.map_err(open::engine_failure)?;
    if global.json {
        let rows: Vec<_> =
            removed.iter().map(|image| json!({"key": image.key, "kind": image.kind})).collect();
        render::json(&json!({ "removed": rows }));
    } else if !global.quiet {
        for image in &removed {
            errln!("removed {}", image.image());
        }
        if pruned.bytes > 0 {
            errln!("removed what no image needs any more: {}", disk::bytes_text(pruned.bytes));
        }
    }
    if removed.len() < wanted {
        render::warn(format!("{} stay: they are in use", wanted - removed.len()));
        return Ok(Exit::SomeFailed);
    }
    Ok(Exit::Success)
}
