//! Where images come from that are not built here: a registry, or an archive.

use std::collections::HashMap;

use async_trait::async_trait;

use crate::engine::{Engine, Image, LogSink, Result};
use crate::key::{Key, Kind};

/// An image that can be had.
#[derive(Debug, Clone)]
pub struct Offer {
    /// What it is: its layers and labels. It is on no engine yet.
    pub image: Image,
    /// Its layers as they travel, the lowest first: a name that equal ones share, and bytes.
    pub layers: Vec<(String, u64)>,
}

/// A place that holds images by their keys.
#[async_trait]
pub trait Remote: Send + Sync {
    /// Says what it is, such as ``registry `ghcr.io/me` ``.
    fn describe(&self) -> String;

    /// Returns what it holds of `images`. What it offers is what its labels say: the label of the
    /// key is compared, layers are checked when they come.
    async fn offers(&self, images: &[(Kind, Key)]) -> Result<HashMap<Key, Offer>>;

    /// Returns what it knows of the `FROM` image of that reference.
    async fn external_image(&self, reference: &str) -> Result<Option<Image>>;

    /// Brings an image onto an engine, where it gets the name of its key. `parent` is what it
    /// stands on there.
    async fn bring(
        &self,
        engine: &dyn Engine,
        kind: Kind,
        key: &Key,
        parent: Option<&Image>,
        log: &dyn LogSink,
    ) -> Result<()>;

    /// Brings a `FROM` image onto an engine, where it gets its reference.
    async fn bring_external(
        &self,
        engine: &dyn Engine,
        reference: &str,
        log: &dyn LogSink,
    ) -> Result<()>;
}
