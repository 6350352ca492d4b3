//! Bounding the cache: takes images away beside running builds, as [`plan_eviction`] says.
//!
//! Pinned images, those that a process leases or a container stands on, and all below them stay. Each
//! image goes by itself, under the gate of leases.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use crate::disk;
use crate::engine::{LayerStorage, Pruned};
use crate::key::Key;
use crate::store::Store;

use super::eviction::{EvictionReason, GcPlan, Limits, Removal, plan_eviction};
use super::inventory::{CacheError, CacheInventory, CachedImage, is_own_name, now};

/// An image that went, or would with a dry run.
#[derive(Debug, Clone)]
pub struct Evicted {
    /// The image as it was before the collection.
    pub image: CachedImage,
    /// The limit that it broke.
    pub why: EvictionReason,
    /// Bytes that went with it.
    pub frees: u64,
}

/// The result of a collection.
#[derive(Debug, Clone, Default)]
pub struct Collected {
    /// The plan that was followed.
    pub plan: GcPlan,
    /// Images that are gone, or with a dry run would be.
    pub removed: Vec<Evicted>,
    /// Content of the engine that no image needed before the collection.
    pub orphaned: Pruned,
    /// Bytes that were to go, the orphaned ones included.
    pub reclaimable: u64,
    /// How much more room there is on the disk than before: what other processes wrote and removed
    /// meanwhile is in it. `None` after a dry run, and where the disk cannot be seen.
    pub freed: Option<u64>,
    /// How many images stay because they are pinned, or in use, though the limits are not met.
    pub retained: usize,
}

/// Takes images of one engine away.
pub struct Collector<'a> {
    /// The engine whose images go.
    pub engine: &'a dyn LayerStorage,
    /// The engine's name in the index.
    pub identity: &'a str,
    /// The directory of its images, where it is on this machine.
    pub root: Option<PathBuf>,
    /// The state, with pins and leases.
    pub store: &'a Store,
}

impl Collector<'_> {
    /// Bounds the cache. What is taken into use while this runs stays.
    pub async fn collect(&self, limits: &Limits, dry_run: bool) -> Result<Collected, CacheError> {
        let contents = CacheInventory::read(self.engine, self.identity, self.store).await?;
        let leased = self.store.leased(false)?;
        let used = self.engine.images_in_use().await?;
        let retained = |image: &CachedImage| {
            !image.pins.is_empty() || image.is_leased(&leased) || used.contains(&image.id)
        };
        let plan = plan_eviction(&contents, limits, now(), retained);
        let orphaned = self.engine.prune(true).await?;
        let reclaimable = plan.before - plan.after + orphaned.bytes;
        let over = limits.keep_bytes.is_some_and(|keep| plan.after > keep);
        let retained = match over {
            true => contents.images.iter().filter(|image| retained(image)).count(),
            false => 0,
        };
        let planned = || plan.removals.iter().map(|removal| &contents.images[removal.image]);
        let mut collected = Collected { orphaned, reclaimable, retained, ..Collected::default() };
        let evicted = |removal: &Removal| Evicted {
            image: contents.images[removal.image].clone(),
            why: removal.why,
            frees: removal.frees,
        };
        if dry_run {
            collected.removed = plan.removals.iter().map(evicted).collect();
        } else if reclaimable > 0 || !plan.removals.is_empty() {
            let before = self.free();
            let removed = self.remove(&contents, planned()).await?;
            self.engine.prune(false).await?;
            self.forget_layers(&contents, &removed)?;
            let went: HashSet<&str> = removed.iter().map(|image| image.id.as_str()).collect();
            let of = |removal: &&Removal| went.contains(contents.images[removal.image].id.as_str());
            collected.removed = plan.removals.iter().filter(of).map(evicted).collect();
            let after = self.free();
            collected.freed = before.zip(after).map(|(before, after)| after.saturating_sub(before));
        }
        collected.plan = plan;
        Ok(collected)
    }

    /// Returns the free bytes of the engine's disk, when everything is written.
    fn free(&self) -> Option<u64> {
        let root = self.root.as_ref()?;
        rustix::fs::sync();
        disk::free(root).ok()
    }

    /// Removes images, in their order, unless somebody took them into use meanwhile. What stays
    /// keeps its parents.
    pub async fn remove<'i>(
        &self,
        contents: &CacheInventory,
        images: impl Iterator<Item = &'i CachedImage>,
    ) -> Result<Vec<CachedImage>, CacheError> {
        let mut children: HashMap<Key, HashSet<Key>> = HashMap::new();
        for image in contents.images.iter().filter(|image| image.is_named()) {
            if let Some(parent) = image.parent {
                children.entry(parent).or_default().insert(image.key);
            }
        }
        let mut removed = Vec::new();
        for image in images {
            let named = image.is_named();
            if named && children.get(&image.key).is_some_and(|children| !children.is_empty()) {
                continue;
            }
            let gate = self.store.lock_for_gc().await?;
            let leased = named && image.is_leased(&self.store.leased(false)?);
            if leased || self.engine.images_in_use().await?.contains(&image.id) {
                continue;
            }
            for tag in image.tags.iter().filter(|tag| image.external || is_own_name(tag)) {
                self.engine.remove(tag).await?;
            }
            if !image.has_other_name() {
                self.engine.remove(image.id.as_str()).await?;
            }
            if named {
                self.store.forget_images(self.identity, &[image.key])?;
            }
            drop(gate);
            if let Some(children) = image.parent.and_then(|parent| children.get_mut(&parent)) {
                children.remove(&image.key);
            }
            removed.push(image.clone());
        }
        Ok(removed)
    }

    /// Forgets the sizes of layers that went.
    fn forget_layers(
        &self,
        contents: &CacheInventory,
        removed: &[CachedImage],
    ) -> Result<(), CacheError> {
        let gone: HashSet<&str> = removed.iter().map(|image| image.id.as_str()).collect();
        let mut needed: HashSet<u32> = HashSet::new();
        for image in contents.images.iter().filter(|image| !gone.contains(image.id.as_str())) {
            needed.extend(&image.layers);
        }
        let names: Vec<String> = contents
            .layers
            .iter()
            .enumerate()
            .filter(|(at, layer)| !needed.contains(&(*at as u32)) && !layer.held)
            .map(|(_, layer)| layer.name.clone())
            .collect();
        Ok(self.store.forget_layers(self.identity, &names)?)
    }
}
