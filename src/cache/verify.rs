//! Checking the cache: every image is present, whole and what its labels say, and the index agrees.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read;
use std::sync::{Arc, Mutex};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::engine::{Engine, Image, LayerConsumer, ListedImage, label};
use crate::key::{DiffId, Digest, ImageId, Key, Kind};
use crate::plan::name;
use crate::platform::Platform;
use crate::store::{ImageRecord, Store};

use super::check::{self, Wrong};
use super::external;
use super::image_source::error_text;
use super::inventory::CacheError;

/// A fault of an image, or of its record.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case", tag = "problem", content = "detail")]
pub enum Problem {
    /// The index has it and the engine does not.
    Missing,
    /// The engine has it and the index does not, or has another.
    NotIndexed,
    /// Its labels are not those of a finished build of its key.
    Labels(String),
    /// The image is for another platform than its key, or stands on one that is.
    Platform(String),
    /// The image stands on other layers than its parent has now.
    NotOnParent,
    /// It is on its parent, and not what imgforge makes of it.
    Foreign(String),
    /// What it stands on is not here, and it was never checked: it counts as absent.
    NoParent,
    /// Its layers cannot be read, or are not what their digests say.
    Damaged(String),
}

impl Problem {
    /// Tells whether the image is of no use: a repair removes it.
    pub fn is_broken(&self) -> bool {
        !matches!(self, Problem::Missing | Problem::NotIndexed | Problem::NoParent)
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Problem::Missing => f.write_str("the index has it, the engine does not"),
            Problem::NotIndexed => f.write_str("the engine has it, the index does not"),
            Problem::Labels(why) => write!(f, "its labels are wrong: {why}"),
            Problem::Platform(why) => f.write_str(why),
            Problem::NotOnParent => f.write_str("it stands on other layers than its parent has"),
            Problem::Foreign(why) => write!(f, "it is not what imgforge makes: {why}"),
            Problem::NoParent => f.write_str(
                "its parent is not here, so that it cannot be checked: it counts as absent",
            ),
            Problem::Damaged(why) => write!(f, "it is damaged: {why}"),
        }
    }
}

/// An image with something wrong.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// The name by the key.
    pub image: String,
    /// The key that the image's name says.
    pub key: Key,
    /// The kind that the image's name says.
    pub kind: Kind,
    /// The first problem that was found.
    #[serde(flatten)]
    pub problem: Problem,
    /// The engine's id, where it has it.
    #[serde(skip)]
    pub id: Option<ImageId>,
}

/// The result of a check.
#[derive(Debug, Default)]
pub struct Verified {
    /// Images that were looked at.
    pub images: usize,
    /// Layers whose bytes were read.
    pub layers: usize,
    /// The problems, in the order of the images' names.
    pub findings: Vec<Finding>,
    /// What the index is to hold: every image that is whole.
    pub whole: Vec<ImageRecord>,
}

/// Hashes every layer.
#[derive(Default)]
struct Hashing {
    seen: Mutex<HashMap<DiffId, Option<String>>>,
}

impl Hashing {
    fn note(&self, diff_id: DiffId, damage: Option<String>) {
        self.seen.lock().expect("no holder panics").insert(diff_id, damage);
    }
}

impl LayerConsumer for Hashing {
    fn wants(&self, diff_id: &DiffId) -> bool {
        !self.seen.lock().expect("no holder panics").contains_key(diff_id)
    }

    fn consume(&self, diff_id: Option<&DiffId>, tar: &mut dyn Read) -> std::io::Result<()> {
        match (Digest::of_reader(tar), diff_id) {
            (Ok((found, _)), None) => self.note(found.into(), None),
            (Ok((found, _)), Some(diff_id)) => {
                let differs = *diff_id != found;
                let damage = differs.then(|| format!("layer {diff_id} is {}", found.oci()));
                self.note(diff_id.clone(), damage);
            }
            (Err(error), None) => return Err(error),
            // The others may be well.
            (Err(error), Some(diff_id)) => {
                self.note(diff_id.clone(), Some(format!("layer {diff_id}: {error}")));
            }
        }
        Ok(())
    }
}

/// Checks every image of imgforge's on an engine. With `read` every layer is read and hashed.
pub async fn verify(
    engine: &dyn Engine,
    identity: &str,
    store: &Store,
    read: bool,
) -> Result<Verified, CacheError> {
    let mut verified = Verified::default();
    let images = labelled_images(engine, &mut verified.findings).await?;
    verified.images = images.len() + verified.findings.len();
    let damage = match read {
        true => read_layers(engine, images.values().map(|(_, _, image)| image)).await?,
        false => Damage::default(),
    };
    verified.layers = damage.layers;
    let index = store.indexed(identity)?;
    let mut there: HashSet<Key> = verified.findings.iter().map(|finding| finding.key).collect();
    // Parents before children: what stands on something broken is broken, too.
    let mut order: Vec<&String> = images.keys().collect();
    order.sort_by_key(|tag| images[*tag].1);
    let mut broken: HashSet<Key> = there.clone();
    for tag in order {
        let (key, kind, image) = &images[tag];
        there.insert(*key);
        let parent = image.config.labels.get(label::PARENT).and_then(|text| text.parse().ok());
        let known = index.get(key).is_some_and(|known| known.image_id == image.id);
        let problem = if let Some(why) = damage.of(image) {
            Some(Problem::Damaged(why))
        } else if parent.is_some_and(|parent| broken.contains(&parent)) {
            Some(Problem::Damaged("so is what it stands on".to_owned()))
        } else {
            let stands = parent.and_then(|parent: Key| {
                let mut named = Kind::IMAGES.iter().map(|kind| name::image(*kind, &parent));
                named.find_map(|name| images.get(&name))
            });
            let stands = stands.map(|(_, _, parent)| parent);
            unlike_its_name(engine, (*kind, key, image), stands, known).await?
        };
        if matches!(problem, None | Some(Problem::NotIndexed)) {
            verified.whole.push(record(identity, *key, *kind, image, parent));
        } else if problem.as_ref().is_some_and(Problem::is_broken) {
            broken.insert(*key);
        }
        if let Some(problem) = problem {
            let (image, id) = (tag.clone(), Some(image.id.clone()));
            verified.findings.push(Finding { image, key: *key, kind: *kind, problem, id });
        }
    }
    for known in index.values().filter(|known| !there.contains(&known.key)) {
        let (key, kind) = (known.key, known.kind);
        let image = name::image(kind, &key);
        verified.findings.push(Finding { image, key, kind, problem: Problem::Missing, id: None });
    }
    verified.findings.sort_by(|one, two| one.image.cmp(&two.image));
    Ok(verified)
}

/// Images of an engine by the names of their keys.
type Named = BTreeMap<String, (Key, Kind, Image)>;

/// Lists the images that have the name of a key, and labels and platform that fit it; adds the others to
/// the findings.
async fn labelled_images(
    engine: &dyn Engine,
    findings: &mut Vec<Finding>,
) -> Result<Named, CacheError> {
    let mut images = Named::new();
    let listed = engine.images().await?;
    let native = engine.info().await?.platform;
    let foreign = foreign_layers(engine, &listed, &native).await?;
    for listed in listed {
        for tag in &listed.tags {
            let Some((kind, key)) = name::parse(tag) else { continue };
            let problem = match engine.inspect(tag).await? {
                None => Problem::Damaged("the engine cannot look at it".to_owned()),
                // The name was given to another image meanwhile.
                Some(image) if image.id != listed.id => continue,
                Some(image) => match (check::inputs(&image, kind, &key), foreign.get(&image.id)) {
                    (Err(wrong @ Wrong::Platform { .. }), _) => {
                        Problem::Platform(wrong.to_string())
                    }
                    (Err(wrong), _) => Problem::Labels(wrong.to_string()),
                    (Ok(_), Some(why)) => Problem::Platform(why.clone()),
                    (Ok(_), None) => {
                        images.insert(tag.clone(), (key, kind, image));
                        continue;
                    }
                },
            };
            let (image, id) = (tag.clone(), Some(listed.id.clone()));
            findings.push(Finding { image, key, kind, problem, id });
        }
    }
    Ok(images)
}

/// Returns in what an image is not what its name says, or not what the index `known` it as. `parent` is
/// what it stands on here.
async fn unlike_its_name(
    engine: &dyn Engine,
    (kind, key, image): (Kind, &Key, &Image),
    parent: Option<&Image>,
    known: bool,
) -> Result<Option<Problem>, CacheError> {
    let from = match kind {
        Kind::Base if !known => external::below(engine, None, image).await?,
        _ => Vec::new(),
    };
    let below: Vec<&Image> = from.iter().chain(parent).collect();
    Ok(match check::check(image, kind, key, &below) {
        Err(Wrong::NotOnParent) => Some(Problem::NotOnParent),
        // It was built on its parent, or checked with it.
        Err(Wrong::NoParent { .. } | Wrong::NoFrom { .. }) if known => None,
        Err(Wrong::NoParent { .. }) => Some(Problem::NoParent),
        Err(wrong) => Some(Problem::Foreign(wrong.to_string())),
        Ok(()) => (!known).then_some(Problem::NotIndexed),
    })
}

/// Makes the index anew from what was found, and removes what is broken, children first.
pub async fn repair(
    engine: &dyn Engine,
    identity: &str,
    store: &Store,
    verified: &Verified,
) -> Result<(), CacheError> {
    let mut broken: Vec<&Finding> =
        verified.findings.iter().filter(|finding| finding.problem.is_broken()).collect();
    broken.sort_by_key(|finding| std::cmp::Reverse(finding.kind));
    for finding in broken {
        let _gate = store.lock_for_gc().await?;
        // All of its names: that of the benchmark leads to the same bytes. An image that has a name
        // which is not its own keeps the others.
        if !matches!(finding.problem, Problem::Labels(_))
            && let Some(id) = &finding.id
            && let Some(image) = engine.inspect(id.as_str()).await?
        {
            for tag in image.tags.iter().filter(|tag| super::inventory::is_own_name(tag)) {
                engine.remove(tag).await?;
            }
        }
        engine.remove(&finding.image).await?;
    }
    let gone: Vec<Key> = verified
        .findings
        .iter()
        .filter(|finding| finding.problem.is_broken() || finding.problem == Problem::Missing)
        .map(|finding| finding.key)
        .collect();
    store.forget_images(identity, &gone)?;
    store.restore_images(&verified.whole)?;
    engine.prune(false).await?;
    Ok(())
}

/// Finds images that say they are for another platform than the engine's, and begin with the layers
/// of one for the engine's: an older imgforge made such. Returns what is wrong with each, by its id.
async fn foreign_layers(
    engine: &dyn Engine,
    listed: &[ListedImage],
    native: &Platform,
) -> Result<HashMap<ImageId, String>, CacheError> {
    let looked: Vec<Option<Image>> = stream::iter(listed.to_vec())
        .map(|listed| async move { engine.inspect(listed.id.as_str()).await })
        .buffered(LOOKS_AT_ONCE)
        .try_collect()
        .await?;
    let (ours, others): (Vec<Image>, Vec<Image>) = looked
        .into_iter()
        .flatten()
        .filter(|image| !image.diff_ids.is_empty())
        .partition(|image| image.platform.matches(native));
    let layers: HashMap<&[DiffId], &Image> =
        ours.iter().map(|image| (image.diff_ids.as_slice(), image)).collect();
    let mut found = HashMap::new();
    for image in &others {
        let below = (1..=image.diff_ids.len()).find_map(|to| layers.get(&image.diff_ids[..to]));
        if let Some(below) = below {
            let name = below.name();
            let found_for = &image.platform;
            let why = format!("it says {found_for}, and has the layers of `{name}` for {native}");
            found.insert(image.id.clone(), why);
        }
    }
    Ok(found)
}

fn record(identity: &str, key: Key, kind: Kind, image: &Image, parent: Option<Key>) -> ImageRecord {
    ImageRecord {
        key,
        kind,
        node: String::new(),
        engine: identity.to_owned(),
        image_id: image.id.clone(),
        diff_ids: image.diff_ids.clone(),
        parent,
        document: image.config.labels.get(label::INPUTS).cloned().unwrap_or_default(),
        bytes: 0,
        seconds: 0.0,
    }
}

/// What is wrong with layers.
#[derive(Default)]
struct Damage {
    layers: usize,
    by_layer: HashMap<DiffId, String>,
    by_image: HashMap<ImageId, String>,
}

impl Damage {
    fn of(&self, image: &Image) -> Option<String> {
        let layer = image.diff_ids.iter().find_map(|diff_id| self.by_layer.get(diff_id));
        layer.or(self.by_image.get(&image.id)).cloned()
    }
}

/// Reads every layer once.
async fn read_layers(
    engine: &dyn Engine,
    images: impl Iterator<Item = &Image>,
) -> Result<Damage, CacheError> {
    let mut all: Vec<&Image> = images.collect();
    all.sort_by_key(|image| image.diff_ids.len());
    // What is below another image is read with it.
    let mut below: HashSet<&[DiffId]> = HashSet::new();
    for image in &all {
        for length in 1..image.diff_ids.len() {
            below.insert(&image.diff_ids[..length]);
        }
    }
    let tops: Vec<Image> = all
        .iter()
        .filter(|image| !below.contains(image.diff_ids.as_slice()))
        .map(|image| (*image).clone())
        .collect();
    let hashing = Arc::new(Hashing::default());
    let mut damage = Damage::default();
    for images in tops.chunks(IMAGES_AT_ONCE) {
        let read = engine.read_layers(images, hashing.clone()).await;
        let Err(error) = read else { continue };
        if images.len() == 1 {
            damage.by_image.insert(images[0].id.clone(), error_text(&error));
            continue;
        }
        // One of them broke the reading of all.
        for image in images {
            let one = std::slice::from_ref(image);
            if let Err(error) = engine.read_layers(one, hashing.clone()).await {
                damage.by_image.insert(image.id.clone(), error_text(&error));
            }
        }
    }
    let seen = std::mem::take(&mut *hashing.seen.lock().expect("no holder panics"));
    damage.layers = seen.len();
    for image in all {
        let unseen = image.diff_ids.iter().find(|diff_id| !seen.contains_key(*diff_id));
        if let Some(diff_id) = unseen {
            let why = format!("layer {diff_id} is not what the engine has");
            damage.by_image.entry(image.id.clone()).or_insert(why);
        }
    }
    damage.by_layer =
        seen.into_iter().filter_map(|(diff_id, damage)| Some((diff_id, damage?))).collect();
    Ok(damage)
}

/// How many images are looked at, at once.
const LOOKS_AT_ONCE: usize = 8;

/// How many images are read in one request.
const IMAGES_AT_ONCE: usize = 64;
