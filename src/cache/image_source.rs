//! Where images come from that are not built here: a registry, or an archive.

use std::collections::HashMap;

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::engine::{Builder, Engine, EngineError, Image, LogSink, NoLog, Result, label};
use crate::key::{Key, Kind};
use crate::plan::name;
use crate::store::{ImageRecord, Store};

use super::check::Checker;
use super::from_image::{self, FromImage};
use super::inventory::CacheError;

/// A place that holds images by their keys.
#[async_trait]
pub trait ImageSource: Send + Sync {
    /// Says what it is, such as ``registry `ghcr.io/me` ``.
    fn describe(&self) -> String;

    /// Returns what it holds of `images`: their configs and the names of their layers. Nothing is
    /// checked by it but that the label of the key is the one that was asked for.
    async fn offers(&self, images: &[(Kind, Key)]) -> Result<Offers>;

    /// Returns what it knows of the `FROM` image of that reference: none, the newest, or several that
    /// bases were built on.
    async fn external_images(&self, reference: &str) -> Result<Vec<Image>>;

    /// Brings an image onto an engine, where it gets the name of its key. `parent` is what it
    /// stands on there.
    async fn bring(
        &self,
        engine: &dyn Builder,
        kind: Kind,
        key: &Key,
        parent: Option<&Image>,
        log: &dyn LogSink,
    ) -> Result<()>;

    /// Brings a `FROM` image onto an engine, where it gets a name of ours: see [`FromImage::own_name`].
    async fn bring_external(
        &self,
        engine: &dyn Builder,
        from: &FromImage,
        log: &dyn LogSink,
    ) -> Result<()>;
}

/// What a place holds of the images that it was asked for.
#[derive(Debug, Default)]
pub struct Offers {
    /// The images: their layers and labels.
    pub images: HashMap<Key, Image>,
    /// Why others that it holds are as if they were not there.
    pub unsigned: HashMap<Key, EngineError>,
    /// Why it does not tell of some: repositories that it does not let us read, or, after some
    /// answers, that it has no more of them.
    pub untold: Vec<EngineError>,
}

/// How many images come at once.
const AT_ONCE: usize = 4;

/// What became of an image that was to come.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case", tag = "status", content = "reason")]
pub enum FetchOutcome {
    /// It is here now.
    #[serde(rename = "brought")]
    Fetched,
    /// It was here.
    There,
    /// It could not be had, or was not what its name says.
    Failed(String),
}

/// An image that was to come, with what became of it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct FetchedImage {
    /// The key.
    pub key: Key,
    /// The kind.
    pub kind: Kind,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: FetchOutcome,
}

/// Where images are brought to.
pub struct Destination<'a> {
    /// The engine.
    pub engine: &'a dyn Engine,
    /// Its name in the index.
    pub identity: &'a str,
    /// The state.
    pub store: &'a Store,
}

impl Destination<'_> {
    /// Brings images, parents before children, several at once; what is here is left alone. `told`
    /// hears of each as it ends. A full disk and a registry that answers no more end the call; other failures
    /// are those of one image.
    pub async fn bring(
        &self,
        remote: &dyn ImageSource,
        images: &[(Kind, Key)],
        told: &(dyn Fn(&FetchedImage) + Sync),
    ) -> std::result::Result<Vec<FetchedImage>, CacheError> {
        let Offers { images: offers, unsigned, untold } = remote.offers(images).await?;
        if let Some(why) = untold.into_iter().find(EngineError::is_of_registry) {
            return Err(why.into());
        }
        let known = self.store.verified_images(self.identity)?;
        let checker = &Checker::new(self.engine, known).of_offers(remote);
        let mut ended = Vec::new();
        for kind in Kind::IMAGES {
            let level: Vec<Key> =
                images.iter().filter(|of| of.0 == kind).map(|(_, key)| *key).collect();
            let (offers, unsigned) = (&offers, &unsigned);
            let brought: Vec<FetchedImage> = stream::iter(level)
                .map(|key| async move {
                    let offer = offers.get(&key).ok_or_else(|| match unsigned.get(&key) {
                        Some(error) => error_text(error),
                        None => format!("{} does not have it", remote.describe()),
                    });
                    let outcome = self.one(remote, checker, kind, &key, offer).await?;
                    let brought = FetchedImage { key, kind, outcome };
                    told(&brought);
                    Ok::<_, CacheError>(brought)
                })
                .buffer_unordered(AT_ONCE)
                .try_collect()
                .await?;
            ended.extend(brought);
        }
        Ok(ended)
    }

    async fn one(
        &self,
        remote: &dyn ImageSource,
        checker: &Checker<'_>,
        kind: Kind,
        key: &Key,
        offer: std::result::Result<&Image, String>,
    ) -> std::result::Result<FetchOutcome, CacheError> {
        let name = name::image(kind, key);
        let _lock = self.store.lock_key(key).await?;
        if let Some(Ok(_)) = checker.here(kind, key).await? {
            return Ok(FetchOutcome::There);
        }
        let offer = match offer {
            Ok(offer) => offer,
            Err(why) => return Ok(FetchOutcome::Failed(why)),
        };
        // Before anything of it comes.
        if let Err(wrong) = checker.offered(offer, kind, key).await? {
            return Ok(FetchOutcome::Failed(wrong.to_string()));
        }
        let stands = checker.parent(offer, kind, key).await?;
        let brought = match remote.bring(self.engine, kind, key, stands.as_ref(), &NoLog).await {
            Ok(()) if kind == Kind::Base => {
                from_image::bring(self.engine, remote, offer, &NoLog).await
            }
            brought => brought,
        };
        match brought {
            Ok(()) => {}
            Err(error)
                if matches!(error, EngineError::NoSpace { .. }) || error.is_of_registry() =>
            {
                return Err(error.into());
            }
            Err(error) => return Ok(FetchOutcome::Failed(error_text(&error))),
        }
        // And what came: it may be something else by now.
        let image = match checker.here(kind, key).await? {
            Some(Ok(image)) => image,
            other => {
                self.engine.remove(&name).await?;
                let why = match other {
                    Some(Err(wrong)) => wrong.to_string(),
                    _ => "it is not here afterwards".to_owned(),
                };
                return Ok(FetchOutcome::Failed(format!("what came is another image: {why}")));
            }
        };
        let parent = image.config.labels.get(label::PARENT).and_then(|text| text.parse().ok());
        let document = image.config.labels.get(label::INPUTS).cloned().unwrap_or_default();
        self.store.restore_images(&[ImageRecord {
            key: *key,
            kind,
            node: String::new(),
            engine: self.identity.to_owned(),
            image_id: image.id,
            diff_ids: image.diff_ids,
            parent,
            document,
            bytes: 0,
            seconds: 0.0,
        }])?;
        Ok(FetchOutcome::Fetched)
    }
}

/// Returns an error with its cause.
pub(super) fn error_text(error: &EngineError) -> String {
    let cause = std::error::Error::source(error);
    cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}
