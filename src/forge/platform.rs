//! Which platform images are made for, and whether that runs here.

use std::path::Path;

use anyhow::anyhow;

use crate::config;
use crate::disk;
use crate::engine::emulation::{self, REGISTERED};
use crate::engine::{Engine, EngineInfo};
use crate::owner;
use crate::platform::Platform;

use super::Error;
use super::open::engine_error;

/// Reads a platform that a person wrote.
pub(crate) fn read(text: &str) -> Result<Platform, Error> {
    config::platform(text).map_err(|text| {
        let error = anyhow!("`{text}` is not a platform that imgforge makes images for");
        Error::input(error)
            .with_hint(Some(format!("known are {}", config::PLATFORMS.join(" and "))))
    })
}

/// Makes the failure of what does not run on a machine.
fn foreign(here: &str, platform: &Platform) -> Error {
    Error::environment(anyhow!("{here}; {platform} needs another machine"))
}

/// Checks that what is for a platform runs on an engine: natively, or, where that is allowed, under
/// an emulator that is registered there. Returns what the emulator is called.
pub(crate) async fn check(
    engine: &dyn Engine,
    info: &EngineInfo,
    platform: &Platform,
    emulate: bool,
    scratch: &Path,
) -> Result<Option<String>, Error> {
    if platform.matches(&info.platform) {
        return Ok(None);
    }
    let here = format!("the engine ({}) runs {}", info.kind, info.platform);
    if !emulate {
        return Err(foreign(&here, platform).with_hint(Some(
            "`--emulate` runs it under an emulator that the kernel has registered (binfmt_misc): \
             slowly, and reports say so"
                .to_owned(),
        )));
    }
    let wanted: Platform = platform.as_str().parse().map_err(Error::input)?;
    // Where the engine's directory is on this machine, so is its kernel.
    let near = info.root.as_ref().is_some_and(|root| disk::free(root).is_ok());
    let handlers = match near {
        true => emulation::handlers(Path::new(REGISTERED), &wanted),
        false => Vec::new(),
    };
    let ran = emulation::runs(engine, &wanted, owner::name(), scratch).await;
    if ran.map_err(engine_error)? {
        let names: Vec<String> = handlers
            .iter()
            .map(|handler| format!("{} ({})", handler.name, handler.interpreter))
            .collect();
        return Ok(Some(match names.is_empty() {
            true => "an emulator that is not seen from here".to_owned(),
            false => names.join(" or "),
        }));
    }
    let why = match handlers.first() {
        None if near => "no emulator for it is registered".to_owned(),
        None => "a program of it did not run there".to_owned(),
        Some(one) if !one.held => format!(
            "`{}` is registered without the flag F, so containers do not find `{}`",
            one.name, one.interpreter
        ),
        Some(one) => format!("`{}` is registered, and a program did not run under it", one.name),
    };
    Err(foreign(&format!("{here}, and {why}"), platform).with_hint(Some(
        "register an emulator on the engine's machine, such as Debian's `qemu-user-static` or \
         `qemu-user-binfmt`"
            .to_owned(),
    )))
}
