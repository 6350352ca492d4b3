//! Fetching images to an engine: looked up, checked before and after they come, recorded.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::engine::{Engine, EngineError, Image, NoLog, label};
use crate::key::{Key, Kind};
use crate::plan::name;
use crate::store::{ImageRecord, Store};

use super::check::Checker;
use super::external;
use super::image_source::{ImageSource, Lookup, error_text};
use super::inventory::CacheError;

/// The number of images that come at once.
const AT_ONCE: usize = 4;

/// The outcome of fetching one image.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case", tag = "status", content = "reason")]
pub enum FetchOutcome {
    /// The image came, and is whole.
    #[serde(rename = "brought")]
    Fetched,
    /// The image was here before.
    There,
    /// The image could not be had, or was not what its name says.
    Failed(String),
}

/// An image that was to be fetched, with the outcome.
#[derive(Debug, Clone, serde::Serialize)]
pub struct FetchedImage {
    /// The key of the image.
    pub key: Key,
    /// The kind of the image.
    pub kind: Kind,
    /// The outcome.
    #[serde(flatten)]
    pub outcome: FetchOutcome,
}

/// An engine that images are fetched to, with the state that records them.
pub struct Destination<'a> {
    /// The engine that gets the images.
    pub engine: &'a dyn Engine,
    /// The engine's name in the index.
    pub identity: &'a str,
    /// The state that they are recorded in.
    pub store: &'a Store,
}

impl Destination<'_> {
    /// Fetches images, parents before children, several at once; what is here is left alone. `told`
    /// hears of each as it ends. A full disk and a registry that answers no more end the call; other failures
    /// are those of one image.
    pub async fn fetch(
        &self,
        remote: &dyn ImageSource,
        images: &[(Kind, Key)],
        told: &(dyn Fn(&FetchedImage) + Sync),
    ) -> std::result::Result<Vec<FetchedImage>, CacheError> {
        let Lookup { images: offers, unsigned, untold } = remote.lookup(images).await?;
        if let Some(why) = untold.into_iter().find(EngineError::is_of_registry) {
            return Err(why.into());
        }
        let known = self.store.verified_images(self.identity)?;
        let checker = &Checker::new(self.engine, known).with_remote(remote);
        let mut ended = Vec::new();
        for kind in Kind::IMAGES {
            let level: Vec<Key> =
                images.iter().filter(|of| of.0 == kind).map(|(_, key)| *key).collect();
            let (offers, unsigned) = (&offers, &unsigned);
            let fetched: Vec<FetchedImage> = stream::iter(level)
                .map(|key| async move {
                    let offer = offers.get(&key).ok_or_else(|| match unsigned.get(&key) {
                        Some(error) => error_text(error),
                        None => format!("{} does not have it", remote.describe()),
                    });
                    let outcome = self.one(remote, checker, kind, &key, offer).await?;
                    let fetched = FetchedImage { key, kind, outcome };
                    told(&fetched);
                    Ok::<_, CacheError>(fetched)
                })
                .buffer_unordered(AT_ONCE)
                .try_collect()
                .await?;
            ended.extend(fetched);
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
        let fetched = match remote.fetch(self.engine, kind, key, stands.as_ref(), &NoLog).await {
            Ok(()) if kind == Kind::Base => {
                external::fetch(self.engine, remote, offer, &NoLog).await
            }
            fetched => fetched,
        };
        match fetched {
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
