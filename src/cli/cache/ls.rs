//! `cache ls`, `cache du` and `cache why`.

use std::fmt::Write as _;

use clap::Args;
use console::style;
use serde_json::json;

use crate::cache::inventory::now;
use crate::cache::usage::{Group, age};
use crate::cache::{CacheInventory, CachedImage};
use crate::cli::out::{out, outln};
use crate::disk;
use crate::engine::EngineKind;
use crate::forge::Opened;
use crate::key::Kind;
use crate::words::count;

use super::super::open;
use super::super::render;
use super::super::{CommandResult, Error, Exit, Global};
use super::{find, read, row, time};

/// Arguments of `cache ls`.
#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// Images of these kinds
    #[arg(long, value_enum, value_delimiter = ',', value_name = "KIND")]
    kind: Vec<Kind>,
    /// Images of this repository
    #[arg(long, value_name = "OWNER/NAME")]
    repo: Option<String>,
    /// Images that were needed for this dataset, by its path or its id on the hub
    #[arg(long, value_name = "NAME")]
    dataset: Option<String>,
    /// Images that were not used for so many days
    #[arg(long, value_name = "DAYS")]
    older_than: Option<u32>,
    /// The order
    #[arg(long, value_enum, default_value_t)]
    sort: Sort,
}

#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum Sort {
    /// Parents before children, then by name
    #[default]
    Kind,
    /// The least recently used first: the order in which they go
    Age,
    /// The largest first
    Size,
}

/// Runs `cache ls`.
pub(super) async fn ls(global: &Global, args: LsArgs) -> CommandResult {
    let opened = open::open(global).await?;
    let contents = read(&opened).await?;
    let oldest = args.older_than.map(|days| now() - i64::from(days) * 86400);
    let dataset = args.dataset.as_deref().map(crate::dataset::full_name);
    let mut chosen: Vec<&CachedImage> = contents
        .images
        .iter()
        .filter(|image| args.kind.is_empty() || !image.external && args.kind.contains(&image.kind))
        .filter(|image| args.repo.is_none() || image.repo == args.repo)
        .filter(|image| oldest.is_none_or(|oldest| image.last_used <= oldest))
        .filter(|image| dataset.is_none_or(|name| image.uses.iter().any(|one| one.dataset == name)))
        .collect();
    match args.sort {
        Sort::Kind => chosen.sort_by_cached_key(|image| (image.kind, title(image), image.key)),
        Sort::Age => chosen.sort_by_key(|image| (image.last_used, image.key)),
        Sort::Size => chosen.sort_by_cached_key(|image| {
            (std::cmp::Reverse(contents.bytes_of(image).bytes), image.key)
        }),
    }
    if global.json {
        let rows: Vec<_> = chosen.iter().map(|image| row(&contents, image)).collect();
        render::json(&rows);
        return Ok(Exit::Success);
    }
    out!("{}", table(&contents, &chosen));
    Ok(Exit::Success)
}

/// Returns what a person knows an image by.
fn title(image: &CachedImage) -> String {
    match &image.node {
        _ if image.external => image.image(),
        Some(node) => node.clone(),
        None => format!("{}:{}", image.kind, image.repo.as_deref().unwrap_or("?")),
    }
}

fn table(contents: &CacheInventory, images: &[&CachedImage]) -> String {
    let width = images.iter().map(|image| title(image).len()).max().unwrap_or(0).clamp(8, 60);
    let mut text = format!(
        "{:<width$}  {:<12}  {:>11}  {:>11}  {:<16}\n",
        "IMAGE", "KEY", "OWN", "SHARED", "LAST USED"
    );
    for image in images {
        let bytes = contents.bytes_of(image);
        let mut notes = Vec::new();
        if !image.pins.is_empty() {
            notes.push("pinned");
        }
        if !image.is_named() {
            notes.push("replaced");
        }
        let last_used = time(image.last_used).replace('T', " ");
        let line = format!(
            "{:<width$}  {}  {:>11}  {:>11}  {:<16}  {}",
            title(image),
            image.key.short(),
            disk::bytes_text(bytes.bytes),
            disk::bytes_text(bytes.shared_bytes),
            last_used.get(..16).unwrap_or(&last_used),
            notes.join(", ")
        );
        let _ = writeln!(text, "{}", line.trim_end());
    }
    let total = disk::bytes_text(contents.total());
    let _ = writeln!(text, "\n{}, {total} in all", count(contents.images.len(), "image"));
    text
}

/// What takes room beside images.
async fn others(opened: &Opened) -> Result<Vec<(&'static str, u64)>, Error> {
    let pruned = opened.engine.prune(true).await.map_err(Error::environment)?;
    let dir = opened.store.dir();
    let usage = |name: &str| disk::usage(&dir.join(name)).unwrap_or(0);
    let mut others = vec![
        ("kept by the engine, needed by no image", pruned.bytes),
        ("mirrors of repositories", usage("mirrors")),
        ("state and results", usage("blobs") + usage("state.db") + usage("state.db-wal")),
    ];
    if opened.info.kind == EngineKind::Embedded {
        others.push(("caches of package managers", usage("embedded/cache")));
        others.push(("downloads that broke off", usage("embedded/partial")));
    }
    Ok(others)
}

/// Runs `cache du`.
pub(super) async fn du(global: &Global) -> CommandResult {
    let opened = open::open(global).await?;
    let contents = read(&opened).await?;
    let now = now();
    let kinds = contents.grouped(|image| vec![image.kind_name().to_owned()]);
    let repositories =
        contents.grouped(|image| vec![image.repo.clone().unwrap_or_else(|| "(none)".to_owned())]);
    let datasets = contents.grouped(|image| {
        let mut names: Vec<String> = image.uses.iter().map(|one| one.dataset.clone()).collect();
        names.sort_unstable();
        names.dedup();
        if names.is_empty() { vec!["(none)".to_owned()] } else { names }
    });
    let mut ages = contents.grouped(|image| vec![age(image.last_used, now).to_owned()]);
    for group in &mut ages {
        group.name = group.name.split_off(3);
    }
    let others = others(&opened).await?;
    let total = contents.total();
    if global.json {
        let others: serde_json::Map<String, serde_json::Value> =
            others.iter().map(|(name, bytes)| ((*name).to_owned(), json!(bytes))).collect();
        let document = json!({
            "images": contents.images.len(),
            "bytes": total,
            "kinds": kinds,
            "repositories": repositories,
            "datasets": datasets,
            "ages": ages,
            "others": others,
        });
        render::json(&document);
        return Ok(Exit::Success);
    }
    let groups =
        [("KIND", &kinds), ("REPOSITORY", &repositories), ("DATASET", &datasets), ("AGE", &ages)];
    for (title, groups) in groups.into_iter().filter(|(_, groups)| !groups.is_empty()) {
        out!("{}", group_table(title, groups));
    }
    outln!("{:<40}  {:>8}  {:>11}", "OTHERS", "", "BYTES");
    for (name, bytes) in others {
        outln!("{name:<40}  {:>8}  {:>11}", "", disk::bytes_text(bytes));
    }
    let images = count(contents.images.len(), "image");
    outln!("\n{images}, {} in all", disk::bytes_text(total));
    Ok(Exit::Success)
}

fn group_table(title: &str, groups: &[Group]) -> String {
    let mut text = format!("{title:<40}  {:>8}  {:>11}  {:>11}\n", "IMAGES", "OWN", "SHARED");
    for group in groups {
        let _ = writeln!(
            text,
            "{:<40}  {:>8}  {:>11}  {:>11}",
            group.name,
            group.images,
            disk::bytes_text(group.bytes.bytes),
            disk::bytes_text(group.bytes.shared_bytes)
        );
    }
    text.push('\n');
    text
}

/// Arguments of `cache why`.
#[derive(Debug, Args)]
pub(crate) struct WhyArgs {
    /// The key, or its first digits
    key: String,
}

/// Runs `cache why`.
pub(super) async fn why(global: &Global, args: WhyArgs) -> CommandResult {
    let opened = open::open(global).await?;
    let contents = read(&opened).await?;
    let image = find(&contents, &args.key)?[0];
    let looked = opened.engine.inspect(image.id.as_str()).await.map_err(open::engine_failure)?;
    let inputs = looked
        .as_ref()
        .and_then(|looked| looked.config.labels.get(crate::engine::label::INPUTS))
        .and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok());
    let mut parents = Vec::new();
    let mut next = image.parent;
    while let Some(key) = next {
        let parent = contents.images.iter().find(|one| one.key == key);
        parents.push((key, parent));
        next = parent.and_then(|parent| parent.parent);
    }
    let children: Vec<&CachedImage> =
        contents.images.iter().filter(|one| one.parent == Some(image.key)).collect();
    let leased = opened.store.leased(false).map_err(Error::environment)?.contains(&image.key);
    if global.json {
        let mut document = row(&contents, image);
        document["inputs"] = json!(inputs);
        document["uses"] = json!(
            image
                .uses
                .iter()
                .map(|one| json!({"dataset": one.dataset, "instance_id": one.instance}))
                .collect::<Vec<_>>()
        );
        document["parents"] = json!(parents.iter().map(|(key, _)| key).collect::<Vec<_>>());
        document["children"] = json!(children.iter().map(|one| one.key).collect::<Vec<_>>());
        document["pins"] = json!(image.pins);
        document["in_use"] = json!(leased);
        render::json(&document);
        return Ok(Exit::Success);
    }
    let bytes = contents.bytes_of(image);
    outln!("{}  {}", style(title(image)).bold(), image.image());
    outln!("  last used  {}", time(image.last_used));
    outln!("  own        {}", disk::bytes_text(bytes.bytes));
    outln!("  shared     {}", disk::bytes_text(bytes.shared_bytes));
    outln!("  in use     {}", if leased { "by a running process" } else { "no" });
    outln!(
        "  pinned     {}",
        if image.pins.is_empty() { "no".into() } else { image.pins.join(", ") }
    );
    for (key, parent) in parents {
        let title = parent.map_or_else(|| "not here".to_owned(), title);
        outln!("  stands on  {title} ({})", key.short());
    }
    for child in children.iter().take(SHOWN) {
        outln!("  below      {} ({})", title(child), child.key.short());
    }
    more(children.len());
    for one in image.uses.iter().take(SHOWN) {
        outln!("  needed by  {} of {}", one.instance, one.dataset);
    }
    more(image.uses.len());
    outln!("  built from");
    let inputs = inputs.as_ref().and_then(|inputs| inputs.as_object());
    for (field, value) in inputs.into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        outln!("    {field}: {text}");
    }
    Ok(Exit::Success)
}

/// How many children and uses people are shown.
const SHOWN: usize = 12;

fn more(count: usize) {
    if count > SHOWN {
        outln!("             and {} more", count - SHOWN);
    }
}
