//! The survey: what exists, read once before planning.

use std::collections::BTreeMap;
use std::path::Path;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::json;

use crate::bootstrap::{self, Bootstrap, BootstrapError};
use crate::cache::check::{self, Wrong};
use crate::engine::{Engine, EngineError, Image, ListedImage, LogSink, label};
use crate::key::{Digest, Key, KeyDocument, Kind};
use crate::plan::{Inventory, Plan, Present, name};
use crate::platform;
use crate::recipe::Recipe;
use crate::recipe::base::{BOOTSTRAPPED, PYTHON};
use crate::store::{ImageRecord, Store, StoreError, disk};

/// Why the survey could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SurveyError {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The state could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Returns what identifies the content of a `FROM` image on any engine: its layers and what a
/// build inherits from its config, with its Python where it says one. One that was bootstrapped is
/// known by its packages.
pub fn content_identity(image: &Image) -> String {
    let config = &image.config;
    if let Some(made) = config.labels.get(bootstrap::LABEL) {
        return format!("{BOOTSTRAPPED}{made}");
    }
    let document = json!({
        "cmd": config.cmd,
        "diff_ids": image.diff_ids,
        "entrypoint": config.entrypoint,
        "env": config.env,
        "platform": image.platform,
        "user": config.user,
        "working_dir": config.working_dir,
    });
    let digest = Digest::of(document.to_string()).oci();
    // As the official images say it.
    match config.env.iter().find_map(|variable| variable.strip_prefix("PYTHON_VERSION=")) {
        Some(version) => format!("{PYTHON}{version}: {digest}"),
        None => digest,
    }
}

/// What a base records of what it stands on.
#[derive(serde::Deserialize)]
struct BaseInputs {
    from: BTreeMap<String, Option<String>>,
    platform: String,
}

impl BaseInputs {
    fn of(labels: &BTreeMap<String, String>) -> Option<BaseInputs> {
        let base = labels.get(label::KIND).is_some_and(|kind| kind == Kind::Base.as_str());
        let text = labels.get(label::INPUTS).filter(|_| base)?;
        serde_json::from_str(text).ok()
    }
}

/// Returns what a base recorded of the images that it stands on: their references and identities.
pub fn from_of(base: &Image) -> Vec<(String, String)> {
    let from = BaseInputs::of(&base.config.labels).map(|inputs| inputs.from);
    let known = from.into_iter().flatten();
    known.filter_map(|(reference, identity)| Some((reference, identity?))).collect()
}

/// Returns the `FROM` images that a base stands on, by reference, as far as the engine has them: one
/// that has changed since the base was built is left out.
pub async fn external_images(
    engine: &dyn Engine,
    base: &Image,
) -> Result<Vec<(String, Image)>, EngineError> {
    let mut found = Vec::new();
    let inputs = BaseInputs::of(&base.config.labels);
    for (reference, identity) in inputs.into_iter().flat_map(|inputs| inputs.from) {
        let fits = |image: &Image| {
            Some(content_identity(image)) == identity
                && platform::same(&image.platform, &base.platform)
        };
        if let Some(image) = engine.inspect(&reference).await?.filter(fits) {
            found.push((reference, image));
        }
    }
    Ok(found)
}

/// Returns the identities that the bases on an engine recorded of what they stand on: the images
/// themselves need not be there any more, or never were where the bases came from a registry.
pub fn recorded_identities(listed: &[ListedImage], platform: &str) -> BTreeMap<String, String> {
    let bases = listed.iter().filter(|image| {
        // One that was replaced, or is being built, says nothing.
        !image.tags.is_empty() && !image.labels.contains_key(label::SCRATCH)
    });
    let mut recorded = BTreeMap::new();
    for image in bases {
        let Some(inputs) = BaseInputs::of(&image.labels) else { continue };
        // Under another name, or with other inputs than its key has, it is nothing of ours.
        let text = image.labels.get(label::INPUTS).map_or("", String::as_str);
        let key = KeyDocument::parse(Kind::Base, text).map(|document| document.key());
        if !key.is_ok_and(|key| image.tags.contains(&name::image(Kind::Base, &key))) {
            continue;
        }
        if inputs.platform == platform {
            let known = inputs.from.into_iter().filter_map(|(name, known)| Some((name, known?)));
            recorded.extend(known);
        }
    }
    recorded
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

/// Why a `FROM` image could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No registry gave it, and it could not be made.
    #[error("{pull}, and it cannot be made here")]
    Bootstrap {
        /// What the registry said.
        pull: EngineError,
        /// Why it could not be made.
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
    engine: &dyn Engine,
    references: &[String],
    platform: &str,
    fetch: Option<&Fetch<'_>>,
) -> Result<BTreeMap<String, String>, FetchError> {
    let mut identities = BTreeMap::new();
    for reference in references {
        // A name holds one image: that of another platform is not the one that is meant.
        let here = engine.inspect(reference).await?;
        let here = here.filter(|image| platform::same(&image.platform, platform));
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
    engine: &dyn Engine,
    reference: &str,
    platform: &str,
    fetch: &Fetch<'_>,
) -> Result<Image, FetchError> {
    let pull = match engine.pull(reference, platform, fetch.log).await {
        Ok(image) => return Ok(image),
        Err(error @ EngineError::NoSpace { .. }) => return Err(error.into()),
        Err(error) => error,
    };
    let (Some(dir), Some(bootstrap)) = (fetch.bootstrap, Bootstrap::of(reference)) else {
        return Err(pull.into());
    };
    disk::guard(dir, fetch.min_free, BOOTSTRAP_BYTES)?;
    fetch.log.write(format!("{pull}: making it from Debian's packages\n").as_bytes());
    let made = bootstrap.have(engine, platform, dir, fetch.log).await;
    let image = made.map_err(|source| FetchError::Bootstrap { pull, source })?;
    if let Some(what) = image.config.labels.get(bootstrap::LABEL) {
        fetch.log.write(format!("`{reference}` is {what}\n").as_bytes());
    }
    Ok(image)
}

/// Returns the platform that an image's key document says, where it has one.
pub fn keyed_platform(labels: &BTreeMap<String, String>) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Inputs {
        platform: Option<String>,
    }
    serde_json::from_str::<Inputs>(labels.get(label::INPUTS)?).ok()?.platform
}

/// Tells that an image is for another platform than its key document says: what it says, and the key.
pub fn other_platform(image: &Image) -> Option<String> {
    let keyed = keyed_platform(&image.config.labels)?;
    let found = &image.platform;
    (!platform::same(&keyed, found)).then(|| format!("it is for {found}, its key for {keyed}"))
}

/// Lists the published images of a plan that the engine has, for the plan's platform.
async fn published(
    engine: &dyn Engine,
    plan: &Plan,
    named: &BTreeMap<&str, &ListedImage>,
) -> Result<Vec<String>, EngineError> {
    let here: Vec<(String, String)> = plan
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
        let image = engine.inspect(&id).await?;
        let fits = |image: &Image| platform::same(&image.platform, &plan.platform);
        Ok::<_, EngineError>(image.as_ref().is_some_and(fits).then_some(reference))
    });
    let looked: Vec<Option<String>> = looked.buffered(LOOKS_AT_ONCE).try_collect().await?;
    Ok(looked.into_iter().flatten().collect())
}

/// How many images are looked at, at once.
const LOOKS_AT_ONCE: usize = 8;

/// Reads what the engine and the state have of a plan's nodes, from one listing of images.
///
/// An image id is the digest of a config that holds labels and layers, so an image that was built here
/// or checked is what it was as long as its id is the same; only others are looked at one by one, each
/// with its parent. Whether an image stands on its parent is compared every time: that may be another
/// by now.
pub async fn inventory(
    engine: &dyn Engine,
    identity: &str,
    store: &Store,
    plan: &Plan,
) -> Result<(Inventory, BTreeMap<String, String>), SurveyError> {
    let listed = engine.images().await?;
    let known = store.verified_images(identity)?;
    let mut inventory = Inventory::default();
    let mut tags = BTreeMap::new();
    let mut named: BTreeMap<&str, &ListedImage> = BTreeMap::new();
    for image in &listed {
        for tag in &image.tags {
            tags.insert(tag.clone(), image.id.clone());
            named.insert(tag, image);
        }
    }
    for reference in published(engine, plan, &named).await? {
        inventory.add_reference(reference);
    }
    let mut found: Vec<ImageRecord> = Vec::new();
    // The layers of images that are whole, and those of them that were looked at.
    let mut layers: BTreeMap<Key, Vec<String>> = BTreeMap::new();
    let mut looked: BTreeMap<Key, Image> = BTreeMap::new();
    for (index, node) in plan.nodes() {
        if matches!(node.recipe, Recipe::Published(_) | Recipe::Evaluation(_)) {
            continue;
        }
        // By its name, which is how children and runs refer to it: an image of the same key that
        // was replaced may live on below its children.
        let Some(listed) = named.get(node.image.as_str()) else { continue };
        let parent = plan.parent(index).map(|parent| &plan.graph[parent]);
        let known = known.get(&node.key).filter(|known| known.image_id == listed.id);
        if let Some(known) = known {
            let below = parent.and_then(|parent| layers.get(&parent.key));
            let present = match below.is_none_or(|below| known.diff_ids.starts_with(below)) {
                true => Present::Whole,
                false => Present::Broken(Wrong::NotOnParent.to_string()),
            };
            if present == Present::Whole {
                layers.insert(node.key, known.diff_ids.clone());
            }
            inventory.add_image(node.key, present);
            continue;
        }
        let Some(image) = engine.inspect(&listed.id).await? else { continue };
        if let Some(parent) = parent
            && layers.contains_key(&parent.key)
            && !looked.contains_key(&parent.key)
            && let Some(listed) = named.get(parent.image.as_str())
            && let Some(image) = engine.inspect(&listed.id).await?
        {
            looked.insert(parent.key, image);
        }
        let below = parent.and_then(|parent| looked.get(&parent.key));
        let wrong = match platform::same(&image.platform, &plan.platform) {
            false => Some(format!("it is for {}, not for {}", image.platform, plan.platform)),
            true => match (parent, check::check(&image, node.kind(), &node.key, below)) {
                (_, Ok(())) => None,
                // The parent is here, and wrong itself.
                (Some(parent), Err(Wrong::NoParent { .. })) if inventory.has_image(&parent.key) => {
                    Some(format!("its parent {} is not whole", parent.id))
                }
                (_, Err(wrong)) => Some(wrong.to_string()),
            },
        };
        if let Some(why) = wrong {
            inventory.add_image(node.key, Present::Broken(why));
            continue;
        }
        inventory.add_image(node.key, Present::Whole);
        layers.insert(node.key, image.diff_ids.clone());
        found.push(ImageRecord {
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
        });
        looked.insert(node.key, image);
    }
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
