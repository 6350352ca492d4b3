//! What the cache holds: images of the engine, joined with what the index knows of them.

use std::collections::{HashMap, HashSet};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::bootstrap::{self, Bootstrap};
use crate::engine::{EngineError, Image, LayerStorage, ListedImage, label};
use crate::key::{DiffId, ImageId, Key, Kind};
use crate::plan::name;
use crate::store::{Indexed, Pinned, Pins, Store, StoreError, Use};

/// How many images are looked at, at once.
const LOOKS_AT_ONCE: usize = 8;

/// Why the cache could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The state could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An image of imgforge's on an engine, or one that its images stand on.
#[derive(Debug, Clone)]
pub struct CachedImage {
    /// The key; of an external image the digest of its config.
    pub key: Key,
    /// The kind. An external image is taken for a base, and a published one for an instance.
    pub kind: Kind,
    /// Whether no plan has it: it was pulled, or made of Debian's packages, for others to stand on.
    pub external: bool,
    /// The engine's id of the image: the digest of its config.
    pub id: ImageId,
    /// Every name that it has; none where another image of the key took its place.
    pub tags: Vec<String>,
    /// The key of the parent; `None` of what stands on nothing in the cache.
    pub parent: Option<Key>,
    /// Positions in [`CacheInventory::layers`], the lowest first.
    pub layers: Vec<u32>,
    /// Seconds since 1970 when a run needed it last, or when it was first seen.
    pub last_used: i64,
    /// The id in plans, such as `env:pallets/flask@2.3`, where the index knows it.
    pub node: Option<String>,
    /// `owner/name`; `None` for a base.
    pub repo: Option<String>,
    /// The instances whose runs needed the image, by dataset.
    pub uses: Vec<Use>,
    /// The pins that hold it, as people named them.
    pub pins: Vec<String>,
}

impl CachedImage {
    /// Tells whether the engine finds it by its key.
    pub fn is_named(&self) -> bool {
        if self.external {
            return true;
        }
        let name = name::image(self.kind, &self.key);
        self.tags.contains(&name)
    }

    /// Returns the name by its key; of an external image its own.
    pub fn image(&self) -> String {
        match self.tags.first() {
            Some(tag) if self.external => tag.clone(),
            None if self.external => self.id.to_string(),
            _ => name::image(self.kind, &self.key),
        }
    }

    /// Returns what people and programs know the kind by.
    pub fn kind_name(&self) -> &'static str {
        match (self.external, self.kind) {
            (false, kind) => kind.as_str(),
            (true, Kind::Base) => "from",
            (true, _) => "published",
        }
    }

    /// Tells whether a running process needs it. Which external images one needs is not known:
    /// they stay while any runs.
    pub fn is_leased(&self, leased: &HashSet<Key>) -> bool {
        leased.contains(&self.key) || self.external && !leased.is_empty()
    }

    /// Tells whether somebody gave it a name that is not imgforge's.
    pub fn has_other_name(&self) -> bool {
        !self.external && self.tags.iter().any(|tag| !is_own_name(tag))
    }
}

/// Tells whether a name is one that imgforge gives.
pub fn is_own_name(tag: &str) -> bool {
    name::is_image(tag) || tag.starts_with("sweb.eval.")
}

/// A layer in the engine's storage, counted once however many images have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The engine's name of it; see [`Engine::layer_storage_ids`].
    pub name: String,
    /// Bytes that the layer takes on the disk.
    pub bytes: u64,
    /// The number of the cache's images that have the layer.
    pub users: u32,
    /// Whether an image has it that is not of the cache.
    pub held: bool,
}

/// All images of imgforge's on an engine, with their layers.
#[derive(Debug, Clone, Default)]
pub struct CacheInventory {
    /// The images, in the engine's order.
    pub images: Vec<CachedImage>,
    /// The layers that they have.
    pub layers: Vec<Layer>,
}

/// What a listed image is to the cache.
struct Found {
    listed: ListedImage,
    /// What it counts as; `None` for an image that is not of the cache.
    ours: Option<Ours>,
    diff_ids: Vec<DiffId>,
}

/// What an image counts as.
#[derive(Clone, Copy)]
struct Ours {
    key: Key,
    kind: Kind,
    external: bool,
}

fn ours(image: &ListedImage, engine: &dyn LayerStorage) -> Option<Ours> {
    if image.labels.contains_key(label::SCRATCH) {
        return None;
    }
    let Some(key) = image.labels.get(label::KEY) else { return external(image, engine) };
    let kind = image.labels.get(label::KIND)?;
    let kind = Kind::IMAGES.into_iter().find(|known| known.as_str() == kind)?;
    Some(Ours { key: key.parse().ok()?, kind, external: false })
}

/// Finds out whether an image without a key is there for imgforge's own: where others keep images as
/// well, only one that was bootstrapped or came with a base, and that has no other name.
fn external(image: &ListedImage, engine: &dyn LayerStorage) -> Option<Ours> {
    let bootstrapped = image.labels.contains_key(bootstrap::LABEL);
    let ours = |tag: &String| {
        name::is_kept_from_image(tag) || bootstrapped && Bootstrap::of(tag).is_some()
    };
    if !engine.is_own() && (image.tags.is_empty() || !image.tags.iter().all(ours)) {
        return None;
    }
    let published = image.tags.iter().any(|tag| tag.contains("sweb.eval."));
    let kind = if published { Kind::Instance } else { Kind::Base };
    Some(Ours { key: image.id.as_str().parse().ok()?, kind, external: true })
}

impl CacheInventory {
    /// Reads what an engine has, from one listing. Images that the index does not know are looked at
    /// one by one, and layers that were never measured are measured; both are remembered.
    pub async fn read(
        engine: &dyn LayerStorage,
        identity: &str,
        store: &Store,
    ) -> Result<CacheInventory, CacheError> {
        let index = store.indexed(identity)?;
        let found = find_images(engine, identity, store, &index).await?;
        let facts = Facts { index, uses: store.uses()?, pins: store.pins()? };
        let mut contents = CacheInventory::default();
        let mut layers = LayerPositions::default();
        let mut sizes = Vec::new();
        let mut held = Vec::new();
        for Found { listed, ours, diff_ids } in found {
            let names = engine.layer_storage_ids(&diff_ids);
            let Some(ours) = ours else {
                // Where nobody else keeps images, it is one of a build that is under way.
                if !engine.is_own() {
                    held.extend(names);
                }
                continue;
            };
            let positions = layers.add_image(&mut contents.layers, names);
            sizes.push(listed.size);
            contents.images.push(facts.image(listed, ours, positions));
        }
        for name in held {
            if let Some(at) = layers.0.get(&name) {
                contents.layers[*at as usize].held = true;
            }
        }
        contents.inherit_repos();
        contents.link_externals();
        contents.measure(engine, identity, store, &sizes).await?;
        Ok(contents)
    }

    /// Gives instances the repository of the checkout that they stand on.
    fn inherit_repos(&mut self) {
        let known: HashMap<Key, String> =
            self.images.iter().filter_map(|image| Some((image.key, image.repo.clone()?))).collect();
        for image in self.images.iter_mut().filter(|image| image.repo.is_none()) {
            image.repo = image.parent.and_then(|parent| known.get(&parent).cloned());
        }
    }

    /// Lets bases stand on the external images that their layers begin with: those were used when
    /// the bases were.
    fn link_externals(&mut self) {
        let externals: Vec<usize> = (0..self.images.len())
            .filter(|at| self.images[*at].external && !self.images[*at].layers.is_empty())
            .collect();
        let mut used: HashMap<usize, i64> = HashMap::new();
        for at in 0..self.images.len() {
            let base = &self.images[at];
            if base.external || base.kind != Kind::Base || base.parent.is_some() {
                continue;
            }
            let below = |one: &&usize| base.layers.starts_with(&self.images[**one].layers);
            let longest = |one: &&usize| self.images[**one].layers.len();
            let Some(parent) = externals.iter().filter(below).max_by_key(longest).copied() else {
                continue;
            };
            let last = used.entry(parent).or_insert(i64::MIN);
            *last = base.last_used.max(*last);
            self.images[at].parent = Some(self.images[parent].key);
        }
        for (at, last_used) in used {
            self.images[at].last_used = last_used;
        }
    }

    /// Sets the bytes of the layers. Where the engine's disk cannot be seen, the sizes that the
    /// engine tells of whole images are shared out.
    async fn measure(
        &mut self,
        engine: &dyn LayerStorage,
        identity: &str,
        store: &Store,
        sizes: &[u64],
    ) -> Result<(), CacheError> {
        let known = store.layer_bytes(identity)?;
        let unknown: Vec<String> = self
            .layers
            .iter()
            .filter(|layer| !known.contains_key(&layer.name))
            .map(|layer| layer.name.clone())
            .collect();
        let bytes = match unknown.is_empty() {
            true => Vec::new(),
            false => engine.layer_disk_usage(&unknown).await?,
        };
        let measured: Vec<(String, u64)> = unknown
            .into_iter()
            .zip(bytes)
            .filter_map(|(name, bytes)| Some((name, bytes?)))
            .collect();
        store.set_layer_bytes(identity, &measured)?;
        let measured: HashMap<String, u64> = measured.into_iter().collect();
        let mut missing: HashSet<u32> = HashSet::new();
        for (at, layer) in self.layers.iter_mut().enumerate() {
            match known.get(&layer.name).or(measured.get(&layer.name)) {
                Some(bytes) => layer.bytes = *bytes,
                None => drop(missing.insert(at as u32)),
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let mut order: Vec<usize> = (0..self.images.len()).collect();
        order.sort_by_key(|at| self.images[*at].layers.len());
        for at in order {
            let layers = &self.images[at].layers;
            let below: u64 = layers.iter().map(|at| self.layers[*at as usize].bytes).sum();
            // The highest gets what is not known of the image; those below it are with it always.
            if let Some(top) = layers.iter().rev().find(|at| missing.contains(at)) {
                self.layers[*top as usize].bytes = sizes[at].saturating_sub(below);
            }
            for layer in layers {
                missing.remove(layer);
            }
        }
        Ok(())
    }

    /// Finds images by a key, or by the first digits of one.
    pub fn find<'a>(&'a self, digits: &'a str) -> impl Iterator<Item = &'a CachedImage> {
        let digits = digits.rsplit_once(':').map_or(digits, |(_, digits)| digits);
        self.images.iter().filter(move |image| image.key.to_string().starts_with(digits))
    }
}

/// Lists the images of an engine with their layers. Those that neither the index nor the state knows
/// are looked at, and remembered.
async fn find_images(
    engine: &dyn LayerStorage,
    identity: &str,
    store: &Store,
    index: &HashMap<Key, Indexed>,
) -> Result<Vec<Found>, CacheError> {
    let listed = engine.images().await?;
    let others = store.other_layers(identity)?;
    let (mut found, mut unknown) = (Vec::with_capacity(listed.len()), Vec::new());
    for listed in listed {
        let ours = ours(&listed, engine);
        let known = ours.and_then(|ours| index.get(&ours.key));
        let known = known.filter(|known| known.image_id == listed.id);
        let diff_ids = known.map(|known| &known.diff_ids).or(others.get(&listed.id));
        match diff_ids.cloned() {
            Some(diff_ids) => found.push(Found { listed, ours, diff_ids }),
            None => unknown.push((listed, ours)),
        }
    }
    let looked: Vec<Option<Found>> = stream::iter(unknown)
        .map(|(listed, ours)| async move {
            let image: Option<Image> = engine.inspect(listed.id.as_str()).await?;
            let Some(Image { diff_ids, .. }) = image else { return Ok(None) };
            Ok::<_, EngineError>(Some(Found { listed, ours, diff_ids }))
        })
        .buffered(LOOKS_AT_ONCE)
        .try_collect()
        .await?;
    for looked in looked.into_iter().flatten() {
        store.set_other_layers(identity, &looked.listed.id, &looked.diff_ids)?;
        found.push(looked);
    }
    Ok(found)
}

/// The positions of the layers of an inventory, by the engine's names of them.
#[derive(Default)]
struct LayerPositions(HashMap<String, u32>);

impl LayerPositions {
    /// Counts an image as user of its layers, adding those that are new; returns their positions.
    fn add_image(&mut self, layers: &mut Vec<Layer>, names: Vec<String>) -> Vec<u32> {
        let mut positions: Vec<u32> = Vec::with_capacity(names.len());
        for name in names {
            let next = layers.len() as u32;
            let at = *self.0.entry(name).or_insert_with_key(|name| {
                layers.push(Layer { name: name.clone(), bytes: 0, users: 0, held: false });
                next
            });
            // An image may have a layer twice.
            if !positions.contains(&at) {
                layers[at as usize].users += 1;
                positions.push(at);
            }
        }
        positions
    }
}

/// The facts that the state has of images.
struct Facts {
    index: HashMap<Key, Indexed>,
    uses: HashMap<Key, Vec<Use>>,
    pins: Pins,
}

impl Facts {
    fn image(&self, listed: ListedImage, ours: Ours, layers: Vec<u32>) -> CachedImage {
        let Ours { key, kind, external } = ours;
        let known = self.index.get(&key);
        let uses = self.uses.get(&key).cloned().unwrap_or_default();
        let node = known.and_then(|known| known.node.clone());
        CachedImage {
            key,
            kind,
            external,
            parent: listed.labels.get(label::PARENT).and_then(|parent| parent.parse().ok()),
            layers,
            last_used: known.map_or_else(now, |known| known.last_used),
            repo: repo(listed.labels.get(label::INPUTS), node.as_deref()),
            node,
            pins: self.pins_of(&key, &uses),
            uses,
            id: listed.id,
            tags: listed.tags,
        }
    }

    /// Lists the pins that hold an image: first those with its key, then those of its uses.
    fn pins_of(&self, key: &Key, uses: &[Use]) -> Vec<String> {
        let with_key = self.pins.iter().filter(|(_, keys)| keys.contains(key));
        let mut held: Vec<String> = with_key.map(|(pin, _)| pin.to_string()).collect();
        for pin in self.pins.keys() {
            let holds = match pin {
                Pinned::Dataset(name) => uses.iter().any(|one| one.dataset == *name),
                Pinned::Instance(id) => uses.iter().any(|one| one.instance == *id),
                Pinned::Key(_) => false,
            };
            let text = pin.to_string();
            if holds && !held.contains(&text) {
                held.push(text);
            }
        }
        held
    }
}

/// Returns the repository that an image is of: from its key document, or its id in plans.
fn repo(inputs: Option<&String>, node: Option<&str>) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Inputs {
        repo: Option<String>,
    }
    let inputs = inputs.and_then(|text| serde_json::from_str::<Inputs>(text).ok());
    let named = || {
        let (_, name) = node?.split_once(':')?;
        let name = name.split('@').next()?;
        name.contains('/').then(|| name.to_owned())
    };
    inputs.and_then(|inputs| inputs.repo).or_else(named)
}

/// Returns the seconds since 1970.
pub fn now() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs() as i64)
}
