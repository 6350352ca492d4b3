//! The `FROM` images of a workload: their identities, found where they are recorded or by pulling them.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::anyhow;

use crate::cache::from_image;
use crate::cache::image_source::ImageSource;
use crate::catalog::Catalog;
use crate::engine::{Engine, EngineError, EngineInfo};
use crate::exec::Interrupt;
use crate::exec::survey::{self, Fetch, FetchError};
use crate::plan::Work;
use crate::plan::build::from_images;
use crate::platform::Platform;

use super::open::engine_error;
use super::{Error, ForgeOptions, LoadOptions};

/// The `FROM` images of a workload.
pub(super) struct FromImages {
    /// Their identities, by their references.
    pub identities: BTreeMap<String, String>,
    /// How long pulling and making them took.
    pub took: Duration,
}

/// What is recorded of them.
struct Recorded {
    identities: BTreeMap<String, String>,
    /// The references that are still to be found.
    left: Vec<String>,
    /// Why the remote answers nothing, where it does not.
    gone: Option<EngineError>,
}

/// A search for the `FROM` images of work on an engine.
pub(super) struct Search<'a> {
    pub options: &'a ForgeOptions,
    pub wanted: &'a LoadOptions,
    pub engine: &'a dyn Engine,
    pub info: &'a EngineInfo,
    /// The place that images come from which are not built here.
    pub remote: Option<&'a dyn ImageSource>,
    /// The platform that is planned for.
    pub platform: &'a Platform,
    /// A directory for images that are made.
    pub scratch: &'a Path,
}

impl Search<'_> {
    /// Finds the identities of the `FROM` images of `work`. Those that are recorded nowhere are pulled or
    /// made where something is to be built.
    ///
    /// # Errors
    /// An image that is needed cannot be had, or the search was interrupted.
    pub(super) async fn identify(
        &self,
        catalog: &Catalog,
        work: &[Work],
    ) -> Result<FromImages, Error> {
        let (options, wanted) = (self.options, self.wanted);
        let images = from_images(catalog, work).map_err(Error::input)?;
        let Recorded { identities: recorded, left: images, gone } = self.recorded(images).await?;
        let start = Instant::now();
        let waiting = options.notices.wait("bringing the FROM images");
        let log = options.notices.log(&waiting);
        let bootstrap = wanted.sources.bootstrap || catalog.defaults().bootstrap == Some(true);
        let bootstrap = bootstrap.then_some(self.scratch);
        let fetch = Fetch { log, bootstrap, min_free: wanted.min_free };
        let fetch = wanted.build.then_some(&fetch);
        let found = survey::from_identities(self.engine, &images, self.platform, fetch);
        let found = unless_stopped(&(options.interrupts)(), found).await?;
        drop(waiting);
        let took = start.elapsed();
        let mut identities = found.map_err(|error| {
            // It may be what should have said which they are.
            if let Some(gone) = gone {
                self.options.notices.warn(format!("{:#}", anyhow::Error::from(gone)));
            }
            fetch_error(error)
        })?;
        identities.extend(recorded);
        Ok(FromImages { identities, took })
    }

    /// Looks up identities that are recorded: by the bases on the engine, or by the remote.
    async fn recorded(&self, images: Vec<String>) -> Result<Recorded, Error> {
        let (engine, wanted, platform) = (self.engine, self.wanted, self.platform);
        let (mut known, mut left) = (BTreeMap::new(), Vec::new());
        let mut of_bases = None;
        // That a registry answers nothing is told where the images themselves are looked for, if the
        // command comes that far.
        let mut gone = None;
        for reference in images {
            match engine.inspect(&reference).await.map_err(engine_error)? {
                Some(image) if image.platform.matches(platform) => {
                    left.push(reference);
                    continue;
                }
                Some(image) => self.options.notices.warn(format!(
                    "`{reference}` here is for {}: for {platform} it counts as absent{}",
                    image.platform,
                    if wanted.build { ", and what comes instead takes the name" } else { "" }
                )),
                None => {}
            }
            // What bases for another platform recorded may be wrong: an older imgforge built them here.
            if of_bases.is_none() && platform.matches(&self.info.platform) {
                let listed = engine.images().await.map_err(engine_error)?;
                of_bases = Some(from_image::recorded_identities(&listed, platform));
            }
            if let Some(identity) = of_bases.as_ref().and_then(|known| known.get(&reference)) {
                known.insert(reference, identity.clone());
                continue;
            }
            let Some(remote) = self.remote.filter(|_| gone.is_none()) else {
                left.push(reference);
                continue;
            };
            match remote.external_images(&reference).await {
                Ok(images) => match images.iter().find(|image| image.platform.matches(platform)) {
                    Some(image) => {
                        drop(known.insert(reference, from_image::content_identity(image)));
                    }
                    None => left.push(reference),
                },
                Err(error @ EngineError::Unsigned { .. }) => {
                    self.options.notices.warn(format!("{:#}", anyhow::Error::from(error)));
                    left.push(reference);
                }
                Err(error) if wanted.remote.is_some() => return Err(engine_error(error)),
                Err(error) => {
                    gone = error.is_of_registry().then_some(error);
                    left.push(reference);
                }
            }
        }
        Ok(Recorded { identities: known, left, gone })
    }
}

/// Makes the error of a `FROM` image that cannot be had.
fn fetch_error(error: FetchError) -> Error {
    let hint = match &error {
        FetchError::Bootstrap { source, .. } => source.hint(),
        FetchError::Space(error) => Some(error.hint().to_owned()),
        FetchError::Engine(error) => error.hint(),
        FetchError::Pull { bootstrap: true, .. } => Some(format!(
            "of Debian's packages can be made {}: let one of these Pythons stand in, \
             `[stand-in]` in images.local.toml",
            crate::bootstrap::known().join(", ")
        )),
        FetchError::Pull { .. } => Some(
            "`--bootstrap` makes Debian's own Pythons without a registry, as does \
             `imgforge base bootstrap`; or let another Python stand in, `[stand-in]` in \
             images.local.toml"
                .to_owned(),
        ),
    };
    Error::environment(error).with_hint(hint)
}

/// Does work until it is done.
///
/// # Errors
/// It was stopped: then the work is dropped.
async fn unless_stopped<T>(
    interrupt: &Interrupt,
    work: impl Future<Output = T>,
) -> Result<T, Error> {
    tokio::select! {
        biased;
        () = interrupt.stop.cancelled() => {}
        done = work => return Ok(done),
    }
    Err(Error::interrupted(anyhow!("interrupted, and nothing of it is kept")))
}
