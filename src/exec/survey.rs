//! The survey: what exists, read once before planning.

use std::collections::BTreeMap;
use std::path::Path;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::bootstrap::{self, Bootstrap, BootstrapError};
use crate::cache::check::{self, Wrong};
use crate::cache::external;
use crate::cache::from_image::content_identity;
use crate::engine::{Builder, EngineError, Image, Images, ListedImage, LogSink};
use crate::key::{DiffId, ImageId, Key};
use crate::plan::{Inventory, Node, Plan, Present};
use crate::platform::Platform;
use crate::recipe::Recipe;
use crate::store::{ImageRecord, Store, StoreError, space};

/// The reason for which there is no survey.
#[derive(Debug, thiserror::Error)]
pub enum SurveyError {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The state could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How `FROM` images are had that the engine does not have.
pub struct Fetch<'a> {
    /// Takes what pulling and making them says.
    pub log: &'a dyn LogSink,
    /// Where those are made that no registry gives; none lets the build fail.
    pub bootstrap: Option<&'a Path>,
    /// Bytes that must stay free on the disk where they are made.
    pub min_free: u64,
}

/// The reason for which a `FROM` image could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No registry gave it.
    #[error("cannot have the FROM image `{reference}`")]
    Pull {
        /// The image's reference.
        reference: String,
        /// Whether it was to be made of Debian's packages then: this one cannot be.
        bootstrap: bool,
        /// The answer of the registry.
        #[source]
        source: EngineError,
    },
    /// No registry gave it, and it could not be made.
    #[error("cannot have the FROM image `{reference}`: {pull}, and it cannot be made here")]
    Bootstrap {
        /// The image's reference.
        reference: String,
        /// The answer of the registry.
        pull: EngineError,
        /// The step of the bootstrap that failed.
        #[source]
        source: BootstrapError,
    },
    /// The disk has too little free.
    #[error(transparent)]
    Space(#[from] StoreError),
    /// The engine or the registry failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Bytes that making an image of Debian's packages takes, beside those that must stay free.
pub const BOOTSTRAP_BYTES: u64 = 1 << 30;

/// Returns the identity of every `FROM` image that the engine has for a platform; with `fetch` the
/// others are pulled first, or made.
pub async fn from_identities(
    engine: &dyn Builder,
    references: &[String],
    platform: &Platform,
    fetch: Option<&Fetch<'_>>,
) -> Result<BTreeMap<String, String>, FetchError> {
    let mut identities = BTreeMap::new();
    for reference in references {
        // A name holds one image: that of another platform is not the one that is meant.
        let here = engine.inspect(reference).await?;
        let here = here.filter(|image| image.platform.matches(platform));
        let image = match (here, fetch) {
            (Some(image), _) => image,
            (None, Some(fetch)) => fetched(engine, reference, platform, fetch).await?,
            (None, None) => continue,
        };
        identities.insert(reference.clone(), content_identity(&image));
    }
    Ok(identities)
}

async fn fetched(
    engine: &dyn Builder,
    reference: &str,
    platform: &Platform,
    fetch: &Fetch<'_>,
) -> Result<Image, FetchError> {
    let parsed = reference.parse().map_err(EngineError::Reference)?;
    let pull = match engine.pull(&parsed, platform, fetch.log).await {
        Ok(image) => return Ok(image),
        Err(error @ EngineError::NoSpace { .. }) => return Err(error.into()),
        Err(error) => error,
    };
    let (Some(dir), Some(bootstrap)) = (fetch.bootstrap, Bootstrap::of(reference)) else {
        let (reference, bootstrap) = (reference.to_owned(), fetch.bootstrap.is_some());
        return Err(FetchError::Pull { reference, bootstrap, source: pull });
    };
    space::guard(dir, fetch.min_free, BOOTSTRAP_BYTES)?;
    fetch
        .log
        .write(format!("`{reference}`: {pull}; it is made from Debian's packages\n").as_bytes());
    let made = bootstrap.have(engine, platform, dir, fetch.log).await;
    let image = made.map_err(|source| FetchError::Bootstrap {
        reference: reference.to_owned(),
        pull,
        source,
    })?;
    if let Some(what) = image.config.labels.get(bootstrap::LABEL) {
        fetch.log.write(format!("`{reference}` is {what}\n").as_bytes());
    }
    Ok(image)
}

/// Lists the published images of a plan that the engine has, for the plan's platform.
async fn published(
    engine: &dyn Images,
    plan: &Plan,
    named: &BTreeMap<&str, &ListedImage>,
) -> Result<Vec<String>, EngineError> {
    let here: Vec<(String, ImageId)> = plan
        .nodes()
        .filter_map(|(_, node)| match &node.recipe {
            Recipe::Published(recipe) => {
                let listed = named.get(recipe.reference.as_str())?;
                Some((recipe.reference.clone(), listed.id.clone()))
            }
            _ => None,
        })
        .collect();
    let looked = stream::iter(here).map(|(reference, id)| async move {
        let image = engine.inspect(id.as_str()).await?;
        let fits = |image: &Image| image.platform.matches(&plan.platform);
        Ok::<_, EngineError>(image.as_ref().is_some_and(fits).then_some(reference))
    });
    let looked: Vec<Option<String>> = looked.buffered(LOOKS_AT_ONCE).try_collect().await?;
    Ok(looked.into_iter().flatten().collect())
}

/// How many images are looked at, at once.
const LOOKS_AT_ONCE: usize = 8;

/// Reads what the engine and the state have of a plan's nodes, from one listing of images. Returns with
/// it the ids of all images, by their names.
///
/// An image id is the digest of a config that holds labels and layers, so an image that was built here
/// or checked is what it was as long as its id is the same; only others are looked at one by one, each
/// with its parent. Whether an image stands on its parent is compared every time: that may be another
/// by now.
pub async fn inventory(
    engine: &dyn Images,
    identity: &str,
    store: &Store,
    plan: &Plan,
) -> Result<(Inventory, BTreeMap<String, ImageId>), SurveyError> {
    let listed = engine.images().await?;
    let known = store.verified_images(identity)?;
    let mut tags = BTreeMap::new();
    let mut named: BTreeMap<&str, &ListedImage> = BTreeMap::new();
    for image in &listed {
        for tag in &image.tags {
            tags.insert(tag.clone(), image.id.clone());
            named.insert(tag, image);
        }
    }
    let mut inventory = Inventory::default();
    for reference in published(engine, plan, &named).await? {
        inventory.add_reference(reference);
    }
    let (layers, looked) = (BTreeMap::new(), BTreeMap::new());
    let mut survey = Survey { engine, plan, named, inventory, layers, looked };
    let mut found: Vec<ImageRecord> = Vec::new();
    for (index, node) in plan.nodes() {
        if matches!(node.recipe, Recipe::Published(_) | Recipe::Evaluation(_)) {
            continue;
        }
        // By its name, which is how children and runs refer to it: an image of the same key that
        // was replaced may live on below its children.
        let Some(listed) = survey.named.get(node.image.as_str()).copied() else { continue };
        let parent = plan.parent(index).map(|parent| &plan.graph[parent]);
        match known.get(&node.key).filter(|known| known.image_id == listed.id) {
            Some(known) => survey.add_known(node, parent, &known.diff_ids),
            None => {
                let whole = survey.look_at(node, parent, listed.id.as_str()).await?;
                found.extend(whole.map(|image| record(identity, node, parent, image)));
            }
        }
    }
    let mut inventory = survey.inventory;
    store.record_images(&found)?;
    let absent: Vec<&str> = plan
        .nodes()
        .filter(|(_, node)| !inventory.is_whole(&node.key))
        .map(|(_, node)| node.id.as_str())
        .collect();
    for (node, document) in store.newest_documents(absent.into_iter())? {
        inventory.set_document(node, document);
    }
    Ok((inventory, tags))
}

/// Makes the record of an image that was looked at and is whole.
fn record(identity: &str, node: &Node, parent: Option<&Node>, image: &Image) -> ImageRecord {
    ImageRecord {
        key: node.key,
        kind: node.kind(),
        node: node.id.clone(),
        engine: identity.to_owned(),
        image_id: image.id.clone(),
        diff_ids: image.diff_ids.clone(),
        parent: parent.map(|parent| parent.key),
        document: node.document.canonical(),
        bytes: 0,
        seconds: 0.0,
    }
}

/// A survey under way: nodes come parents first.
struct Survey<'a> {
    engine: &'a dyn Images,
    plan: &'a Plan,
    /// The engine's images, by their names.
    named: BTreeMap<&'a str, &'a ListedImage>,
    inventory: Inventory,
    /// The layers of images that are whole.
    layers: BTreeMap<Key, Vec<DiffId>>,
    /// Images that were looked at and are whole.
    looked: BTreeMap<Key, Image>,
}

impl Survey<'_> {
    /// Adds an image that was built here or checked before: it is whole if it stands on its parent.
    fn add_known(&mut self, node: &Node, parent: Option<&Node>, diff_ids: &[DiffId]) {
        let below = parent.and_then(|parent| self.layers.get(&parent.key));
        if below.is_none_or(|below| diff_ids.starts_with(below)) {
            self.layers.insert(node.key, diff_ids.to_vec());
            self.inventory.add_image(node.key, Present::Whole);
        } else {
            self.inventory.add_image(node.key, Present::Broken(Wrong::NotOnParent.to_string()));
        }
    }

    /// Adds an image after a look at it; returns it when it is whole.
    async fn look_at(
        &mut self,
        node: &Node,
        parent: Option<&Node>,
        id: &str,
    ) -> Result<Option<&Image>, EngineError> {
        let Some(image) = self.engine.inspect(id).await? else { return Ok(None) };
        if let Some(why) = self.fault(node, parent, &image).await? {
            self.inventory.add_image(node.key, Present::Broken(why));
            return Ok(None);
        }
        self.inventory.add_image(node.key, Present::Whole);
        self.layers.insert(node.key, image.diff_ids.clone());
        self.looked.insert(node.key, image);
        Ok(self.looked.get(&node.key))
    }

    /// Returns why an image is not whole, if it is not.
    async fn fault(
        &mut self,
        node: &Node,
        parent: Option<&Node>,
        image: &Image,
    ) -> Result<Option<String>, EngineError> {
        if let Some(parent) = parent {
            self.look_at_known(parent).await?;
        }
        let from = match parent {
            Some(_) => Vec::new(),
            None => external::below(self.engine, None, image).await?,
        };
        let below: Vec<&Image> = match parent {
            Some(parent) => self.looked.get(&parent.key).into_iter().collect(),
            None => from.iter().collect(),
        };
        if !image.platform.matches(&self.plan.platform) {
            let why = format!("it is for {}, not for {}", image.platform, self.plan.platform);
            return Ok(Some(why));
        }
        Ok(match (parent, check::check(image, node.kind(), &node.key, &below)) {
            (_, Ok(())) => None,
            // The parent is here, and wrong itself.
            (Some(parent), Err(Wrong::NoParent { .. }))
                if self.inventory.has_image(&parent.key) =>
            {
                Some(format!("its parent {} is not whole", parent.id))
            }
            (_, Err(wrong)) => Some(wrong.to_string()),
        })
    }

    /// Looks at the image of a node that is whole and was not looked at, since its id was known.
    async fn look_at_known(&mut self, node: &Node) -> Result<(), EngineError> {
        if self.layers.contains_key(&node.key)
            && !self.looked.contains_key(&node.key)
            && let Some(listed) = self.named.get(node.image.as_str())
            && let Some(image) = self.engine.inspect(listed.id.as_str()).await?
        {
            self.looked.insert(node.key, image);
        }
        Ok(())
    }
}
