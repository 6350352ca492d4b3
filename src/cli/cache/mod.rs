//! `imgforge cache`: one file for each group of commands.

mod dir;
mod gc;
mod key;
mod ls;
mod pin;
pub(super) mod transfer;
mod verify;

use clap::Subcommand;
use serde_json::{Value, json};

use crate::cache::{CacheInventory, CachedImage};
use crate::forge::Opened;

use super::{CommandResult, Error, Global};

/// Commands of `cache`.
#[derive(Debug, Subcommand)]
pub(super) enum CacheCommand {
    /// List the images, with what each takes and shares
    Ls(ls::LsArgs),
    /// Say what takes room: by kind, repository, dataset and age
    Du,
    /// Say what an image was built from, who needs it, and when it was used last
    Why(ls::WhyArgs),
    /// Remove what was not used for longest, to a number of bytes or an age
    #[command(visible_alias = "prune")]
    Gc(gc::GcArgs),
    /// Remove images
    Rm(gc::RmArgs),
    /// Keep images whatever the cache is bounded to; without arguments, list what is kept
    Pin(pin::PinArgs),
    /// Keep them no longer
    Unpin(pin::PinArgs),
    /// Check that every image is whole and what its labels say
    Verify(verify::VerifyArgs),
    /// Push images to a registry, by their keys; only what is missing there travels
    Push(transfer::PushArgs),
    /// Pull images from a registry, by their keys
    Pull(transfer::PullArgs),
    /// Write images to one file, which other programs read as an OCI archive
    Export(transfer::ExportArgs),
    /// Read images from such a file
    Import(transfer::ImportArgs),
    /// Print where state is kept, and the images of the embedded engine in it
    Dir,
    /// Make a pair of keys that sign images and verify them, as cosign keeps them
    Key(key::KeyArgs),
}

/// Runs `cache`.
pub(super) async fn run(global: &Global, command: CacheCommand) -> CommandResult {
    match command {
        CacheCommand::Ls(args) => ls::ls(global, args).await,
        CacheCommand::Du => ls::du(global).await,
        CacheCommand::Why(args) => ls::why(global, args).await,
        CacheCommand::Gc(args) => gc::gc(global, args).await,
        CacheCommand::Rm(args) => gc::rm(global, args).await,
        CacheCommand::Pin(args) => pin::pin(global, args).await,
        CacheCommand::Unpin(args) => pin::unpin(global, args).await,
        CacheCommand::Verify(args) => verify::run(global, args).await,
        CacheCommand::Push(args) => transfer::push(global, args).await,
        CacheCommand::Pull(args) => transfer::pull(global, args).await,
        CacheCommand::Export(args) => transfer::export(global, args).await,
        CacheCommand::Import(args) => transfer::import(global, args).await,
        CacheCommand::Dir => dir::run(global),
        CacheCommand::Key(args) => key::run(global, &args),
    }
}

/// Reads the cache of an engine.
async fn read(opened: &Opened) -> Result<CacheInventory, Error> {
    let read = CacheInventory::read(&*opened.engine, &opened.identity, &opened.store).await;
    read.map_err(Error::environment)
}

/// Finds the images of a key, or of the first digits of one.
fn find<'a>(contents: &'a CacheInventory, digits: &'a str) -> Result<Vec<&'a CachedImage>, Error> {
    let found: Vec<&CachedImage> = contents.find(digits).collect();
    let is_hex = digits.rsplit(':').next().is_some_and(|digits| {
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    });
    if !is_hex {
        let error = anyhow::anyhow!("`{digits}` is not a key, nor the first digits of one");
        return Err(
            Error::input(error).with_hint(Some("`imgforge cache ls` lists them".to_owned()))
        );
    }
    let mut keys: Vec<_> = found.iter().map(|image| image.key).collect();
    keys.dedup();
    match keys.len() {
        0 => {
            let error = anyhow::anyhow!("no image of the cache has the key `{digits}`");
            let hint = "`imgforge cache ls` lists them".to_owned();
            Err(Error::input(error).with_hint(Some(hint)))
        }
        1 => Ok(found),
        many => {
            let error = anyhow::anyhow!("`{digits}` begins the keys of {many} images");
            Err(Error::input(error).with_hint(Some("give more digits".to_owned())))
        }
    }
}

/// Returns an image as programs read it.
fn row(contents: &CacheInventory, image: &CachedImage) -> Value {
    let bytes = contents.bytes_of(image);
    let mut datasets: Vec<&str> = image.uses.iter().map(|one| one.dataset.as_str()).collect();
    datasets.sort_unstable();
    datasets.dedup();
    json!({
        "key": image.key,
        "kind": image.kind_name(),
        "image": image.is_named().then(|| image.image()),
        "id": image.id,
        "node": image.node,
        "repo": image.repo,
        "datasets": datasets,
        "bytes": bytes.bytes,
        "shared_bytes": bytes.shared_bytes,
        "last_used": time(image.last_used),
        "pinned": !image.pins.is_empty(),
    })
}

/// Returns a time as RFC 3339.
fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| String::new(), |time| time.to_string())
}
