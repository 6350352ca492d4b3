//! Where images come from that are not built here: a registry, or an archive.

use std::collections::HashMap;

use async_trait::async_trait;

use crate::engine::{Builder, EngineError, Image, LogSink, Result};
use crate::key::{Key, Kind};

use super::from_image::FromImage;

/// A place that holds images by their keys.
#[async_trait]
pub trait ImageSource: Send + Sync {
    /// Says what it is, such as ``registry `ghcr.io/me` ``.
    fn describe(&self) -> String;

    /// Returns what it holds of `images`: their configs and the names of their layers. Nothing is
    /// checked by it but that the label of the key is the one that was asked for.
    async fn lookup(&self, images: &[(Kind, Key)]) -> Result<Lookup>;

    /// Returns what it knows of the `FROM` image of that reference: none, the newest, or several that
    /// bases were built on.
    async fn external_images(&self, reference: &str) -> Result<Vec<Image>>;

    /// Fetches an image onto an engine, where it gets the name of its key. `parent` is what it
    /// stands on there.
    async fn fetch(
        &self,
        engine: &dyn Builder,
        kind: Kind,
        key: &Key,
        parent: Option<&Image>,
        log: &dyn LogSink,
    ) -> Result<()>;

    /// Fetches a `FROM` image onto an engine, where it gets a name of ours: see [`FromImage::own_name`].
    async fn fetch_external(
        &self,
        engine: &dyn Builder,
        from: &FromImage,
        log: &dyn LogSink,
    ) -> Result<()>;
}

/// The answer of a place about images that it was asked for.
#[derive(Debug, Default)]
pub struct Lookup {
    /// The images: their layers and labels.
    pub images: HashMap<Key, Image>,
    /// Why others that it holds are as if they were not there.
    pub unsigned: HashMap<Key, EngineError>,
    /// Why it does not tell of some: repositories that it does not let us read, or, after some
    /// answers, that it has no more of them.
    pub untold: Vec<EngineError>,
}

/// Returns an error with its cause.
pub(super) fn error_text(error: &EngineError) -> String {
    let cause = std::error::Error::source(error);
    cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}
