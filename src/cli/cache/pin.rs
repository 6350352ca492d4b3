//! `cache pin` and `cache unpin`.

use std::collections::BTreeSet;

use anyhow::anyhow;
use clap::Args;
use serde_json::{Value, json};

use crate::cache::CacheInventory;
use crate::cli::out::{errln, outln};
use crate::forge::{LoadOptions, Opened};
use crate::key::{Key, Kind};
use crate::store::{Pinned, Pins};
use crate::words;

use super::super::help::heading;
use super::super::open;
use super::super::{Chosen, CommandResult, Error, Exit, Global, Sources, render};
use super::{find, read};

/// Arguments of `cache pin` and `cache unpin`.
#[derive(Debug, Args)]
#[command(next_help_heading = heading::DATASET)]
pub(crate) struct PinArgs {
    /// Keys, or their first digits
    #[arg(value_name = "KEY", help_heading = None)]
    keys: Vec<String>,
    /// All instances of this dataset; with -i, only those
    #[arg(short, long, value_name = "NAME")]
    dataset: Option<String>,
    /// The split
    #[arg(long, default_value = "test", env = "IMGFORGE_SPLIT")]
    split: String,
    /// These instances
    #[arg(short, long, alias = "instance_ids", value_name = "ID", num_args = 1..)]
    instance_ids: Vec<String>,
    #[command(flatten)]
    sources: Sources,
}

/// What a pin is to hold.
async fn wanted(global: &Global, args: &PinArgs, opened: &Opened) -> Result<Pins, Error> {
    let mut pins = Pins::new();
    if !args.keys.is_empty() {
        let contents = read(opened).await?;
        for digits in &args.keys {
            let key = find(&contents, digits)?[0].key;
            pins.insert(Pinned::Key(key), BTreeSet::from([key]));
        }
    }
    let Some(dataset) = &args.dataset else {
        for id in &args.instance_ids {
            pins.insert(Pinned::Instance(id.clone()), BTreeSet::new());
        }
        return Ok(pins);
    };
    let chosen = Chosen::ids(dataset, &args.split, &args.instance_ids);
    let load = LoadOptions::of_images(chosen.selection(), args.sources.options());
    let prepared = open::forge(global)?.load(&load).await?;
    let plan = prepared.plan(&prepared.work, Kind::Instance, None)?;
    if args.instance_ids.is_empty() {
        let keys = plan.nodes().map(|(_, node)| node.key).collect();
        pins.insert(Pinned::Dataset(prepared.dataset.clone()), keys);
    }
    for id in &args.instance_ids {
        let nodes = plan.nodes().filter(|(_, node)| node.instances.contains(id));
        pins.insert(Pinned::Instance(id.clone()), nodes.map(|(_, node)| node.key).collect());
    }
    Ok(pins)
}

/// Runs `cache pin`.
pub(super) async fn pin(global: &Global, args: PinArgs) -> CommandResult {
    let opened = open::open(global).await?;
    let wanted = wanted(global, &args, &opened).await?;
    let added: Vec<Pinned> = wanted.keys().cloned().collect();
    let change = |pins: &mut Pins| {
        for (pin, keys) in wanted {
            pins.entry(pin).or_default().extend(keys);
        }
    };
    opened.store.change_pins(change).map_err(Error::environment)?;
    let pins = opened.store.pins().map_err(Error::environment)?;
    if added.is_empty() {
        return list(global, &opened, &pins).await;
    }
    let contents = read(&opened).await?;
    if global.json {
        let rows = added.iter().map(|pin| row(&contents, pin, &pins[pin]));
        render::json(&rows.collect::<Vec<_>>());
        return Ok(Exit::Success);
    }
    for pin in added {
        let here = held(&contents, &pin);
        if !global.quiet {
            // As the list of pins counts: with what was made for it meanwhile.
            let (images, are) = (words::count(here, "image"), words::are(here));
            errln!("pinned {pin}: {images} {are} here, {} named", pins[&pin].len());
        }
    }
    Ok(Exit::Success)
}

/// Counts the images that a pin holds.
fn held(contents: &CacheInventory, pin: &Pinned) -> usize {
    let name = pin.to_string();
    contents.images.iter().filter(|image| image.pins.contains(&name)).count()
}

/// Returns a pin as programs read it.
fn row(contents: &CacheInventory, pin: &Pinned, keys: &BTreeSet<Key>) -> Value {
    json!({ "pin": pin, "keys": keys, "images": held(contents, pin) })
}

async fn list(global: &Global, opened: &Opened, pins: &Pins) -> CommandResult {
    let contents = read(opened).await?;
    if global.json {
        let rows = pins.iter().map(|(pin, keys)| row(&contents, pin, keys));
        render::json(&rows.collect::<Vec<_>>());
    } else {
        for pin in pins.keys() {
            outln!("{pin}: {}", words::count(held(&contents, pin), "image"));
        }
        if pins.is_empty() && !global.quiet {
            errln!("nothing is pinned");
        }
    }
    Ok(Exit::Success)
}

/// Runs `cache unpin`.
pub(super) async fn unpin(global: &Global, args: PinArgs) -> CommandResult {
    let opened = open::open(global).await?;
    let pins = opened.store.pins().map_err(Error::environment)?;
    let mut gone: Vec<Pinned> = Vec::new();
    let mut unknown = Vec::new();
    let mut take = |pin: Option<&Pinned>, name: &str| match pin {
        Some(pin) => gone.push(pin.clone()),
        None => unknown.push(name.to_owned()),
    };
    for digits in &args.keys {
        let of_key = |pin: &&Pinned| matches!(pin, Pinned::Key(key) if key.to_string().starts_with(digits.as_str()));
        take(pins.keys().find(of_key), digits);
    }
    for id in &args.instance_ids {
        take(pins.keys().find(|pin| **pin == Pinned::Instance(id.clone())), id);
    }
    if let Some(dataset) = args.dataset.as_ref().filter(|_| args.instance_ids.is_empty()) {
        let name = crate::dataset::full_name(dataset);
        let of_dataset = |pin: &&Pinned| matches!(pin, Pinned::Dataset(known) if known == dataset || known == name);
        take(pins.keys().find(of_dataset), dataset);
    }
    if gone.is_empty() && unknown.is_empty() {
        let error = anyhow!("what is to be unpinned is not named");
        let hint = "`imgforge cache pin` lists what is pinned".to_owned();
        return Err(Error::input(error).with_hint(Some(hint)).into());
    }
    if !unknown.is_empty() {
        let error = anyhow!("not pinned: {}", unknown.join(", "));
        let hint = "`imgforge cache pin` lists what is pinned".to_owned();
        return Err(Error::input(error).with_hint(Some(hint)).into());
    }
    let rows = match global.json {
        // While they hold something.
        true => {
            let contents = read(&opened).await?;
            Some(gone.iter().map(|pin| row(&contents, pin, &pins[pin])).collect::<Vec<_>>())
        }
        false => None,
    };
    let change = |pins: &mut Pins| pins.retain(|pin, _| !gone.contains(pin));
    opened.store.change_pins(change).map_err(Error::environment)?;
    if let Some(rows) = rows {
        render::json(&rows);
    } else if !global.quiet {
        for pin in &gone {
            errln!("unpinned {pin}");
        }
    }
    Ok(Exit::Success)
}
