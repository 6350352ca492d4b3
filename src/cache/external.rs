//! `FROM` images from the place that bases come from, a registry or an archive.

use crate::engine::{Builder, EngineError, Image, Images, LogSink};

use super::from_image::{FromImage, external_images, is_below, of_base};
use super::image_source::ImageSource;

/// Returns the `FROM` images that a base recorded, as far as the engine or the place that offers the base
/// has them. The place is asked only where none of the engine's is below the base. One that nobody
/// trusted signed is as if it were not there.
pub async fn below(
    engine: &dyn Images,
    remote: Option<&dyn ImageSource>,
    base: &Image,
) -> Result<Vec<Image>, EngineError> {
    let here = external_images(engine, base).await?;
    let mut found: Vec<Image> = here.into_iter().map(|(_, _, image)| image).collect();
    let Some(remote) = remote.filter(|_| !found.iter().any(|from| is_below(from, base))) else {
        return Ok(found);
    };
    for from in of_base(base) {
        found.extend(offered(remote, &from).await?);
    }
    Ok(found)
}

/// Asks a place for a `FROM` image. One that nobody trusted signed, and one that is not meant, is as if it
/// were not there.
async fn offered(remote: &dyn ImageSource, from: &FromImage) -> Result<Option<Image>, EngineError> {
    match remote.external_images(&from.reference).await {
        Err(EngineError::Unsigned { .. }) => Ok(None),
        known => Ok(known?.into_iter().find(|image| from.is(image))),
    }
}

/// Fetches the `FROM` image that a base from `remote` begins with, where it is there and not here: a machine
/// that hands the base on has to show what it stands on. The layers came with the base.
pub async fn fetch(
    engine: &dyn Builder,
    remote: &dyn ImageSource,
    base: &Image,
    log: &dyn LogSink,
) -> Result<(), EngineError> {
    for from in of_base(base) {
        let shown = from.find(engine).await?.iter().any(|(_, image)| is_below(image, base));
        if !shown && offered(remote, &from).await?.is_some_and(|image| is_below(&image, base)) {
            remote.fetch_external(engine, &from, log).await?;
        }
    }
    Ok(())
}

/// Fetches a `FROM` image that a base is to be built on; tells whether `remote` has it.
pub async fn fetch_for_build(
    engine: &dyn Builder,
    remote: &dyn ImageSource,
    from: &FromImage,
    log: &dyn LogSink,
) -> Result<bool, EngineError> {
    let there = offered(remote, from).await?.is_some();
    if there {
        remote.fetch_external(engine, from, log).await?;
    }
    Ok(there)
}
