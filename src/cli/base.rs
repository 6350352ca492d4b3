//! `imgforge base`: base images without a registry.

use anyhow::anyhow;
use clap::{Args, Subcommand};
use serde_json::json;

use crate::bootstrap::{Bootstrap, BootstrapError, LABEL};
use crate::cli::out::errln;
use crate::engine::LogSink;
use crate::exec::survey::BOOTSTRAP_BYTES;
use crate::forge::platform;
use crate::store::space;

use super::interrupt::unless_interrupted;
use super::open;
use super::{CommandResult, Error, Exit, Global, progress, render};

/// Commands of `base`.
#[derive(Debug, Subcommand)]
pub(super) enum BaseCommand {
    /// Make a base image from Debian's packages, with mmdebstrap
    Bootstrap(BootstrapArgs),
}

/// Arguments of `base bootstrap`.
#[derive(Debug, Args)]
pub(super) struct BootstrapArgs {
    /// debian:SUITE or python:VERSION-slim-SUITE, with bullseye, bookworm or trixie; the Python is
    /// Debian's, whatever patch level VERSION says
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// linux/amd64 or linux/arm64; another than this machine's needs an emulator that the kernel has
    /// registered [default: the engine's own]
    #[arg(long, value_name = "PLATFORM", env = "IMGFORGE_PLATFORM")]
    platform: Option<String>,
    /// Make it anew where the engine has it
    #[arg(long)]
    force: bool,
    /// Do not begin where the disk would have less than this free, in GiB
    #[arg(long, value_name = "GIB", default_value_t = 2, env = "IMGFORGE_MIN_FREE")]
    min_free: u64,
}

/// Runs `base`.
pub(super) async fn run(global: &Global, command: BaseCommand) -> CommandResult {
    let BaseCommand::Bootstrap(args) = command;
    let mut wanted = Vec::new();
    for image in &args.images {
        let bootstrap = Bootstrap::parse(image).map_err(|error| {
            let hint = error.hint();
            Error::input(error).with_hint(hint)
        })?;
        wanted.push((image, bootstrap));
    }
    let platform = args.platform.as_deref().map(platform::read).transpose()?;
    let store = open::open_store(global)?;
    let engine = open::connect(global).await.map_err(open::engine_failure)?;
    let info = engine.info().await.map_err(open::engine_failure)?;
    let platform = platform.unwrap_or_else(|| info.platform.clone());
    let mut rows = Vec::new();
    for (name, bootstrap) in wanted {
        let known = engine.inspect(name).await.map_err(open::engine_failure)?;
        let (image, made) = match known {
            Some(image) if !args.force && image.platform.matches(&platform) => (image, false),
            known => {
                if let Some(known) = known.filter(|known| !known.platform.matches(&platform)) {
                    render::warn(format!(
                        "`{name}` here is for {}: a name holds one image, and the one for \
                         {platform} takes it",
                        known.platform
                    ));
                }
                let sibling = match args.force {
                    true => None,
                    false => bootstrap.sibling(&*engine, &platform).await.map_err(made_not)?,
                };
                match sibling {
                    Some(image) => (image, false),
                    None => {
                        let (dir, free) = (store.dir(), args.min_free << 30);
                        let room = space::guard(dir, free, BOOTSTRAP_BYTES);
                        room.map_err(|error| {
                            let hint = error.hint().to_owned();
                            Error::environment(error).with_hint(Some(hint))
                        })?;
                        if !global.quiet {
                            errln!("making {name} with mmdebstrap (a minute or two)");
                        }
                        let scratch = store.scratch_dir().map_err(Error::environment)?;
                        let waiting = progress::wait(format!("making {name}"));
                        let lines = open::LogLines::new(true);
                        let log: &dyn LogSink = if global.verbose > 0 { &lines } else { &waiting };
                        let place = scratch.path();
                        let made = bootstrap.make(&*engine, &platform, place, log);
                        let made = unless_interrupted(made).await?;
                        (made.map_err(made_not)?, true)
                    }
                }
            }
        };
        let what = image.config.labels.get(LABEL).cloned();
        if !global.quiet {
            let verb = if made { "made" } else { "is here already:" };
            errln!("{verb} {name}{}", what.as_ref().map_or(String::new(), |w| format!(" ({w})")));
        }
        let promised = bootstrap.promised().filter(|_| what.is_some());
        if let Some(version) = promised.filter(|_| !global.quiet) {
            errln!("  Debian's Python stands in for {version}: patch levels differ");
        }
        rows.push(json!({ "image": name, "id": image.id, "platform": image.platform, "made": made, "bootstrap": what, "stands_in_for": promised }));
    }
    if global.json {
        render::json(&json!({ "images": rows }));
    }
    Ok(Exit::Success)
}

fn made_not(error: BootstrapError) -> Error {
    let hint = error.hint();
    Error::environment(anyhow!(error)).with_hint(hint)
}
