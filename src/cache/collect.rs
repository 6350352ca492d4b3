//! Bounding the cache: which images go, and taking them away beside running builds.
//!
//! The least recently used go first, children before parents: an image's age counts when nothing
//! stands on it any more. Pinned images, those that a process leases or a container stands on, and
//! all below them stay. [`choose`] is pure; [`Collector`] does it, one image at a time, each under
//! the gate of leases.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use crate::disk;
use crate::engine::{LayerStorage, Pruned};
use crate::key::{Key, Kind};
use crate::store::Store;

use super::inventory::{CacheError, CacheInventory, CachedImage, is_own_name, now};

/// What the cache is bounded to; both hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes that stay.
    pub keep_bytes: Option<u64>,
    /// What was not used for longer goes.
    pub keep_for: Option<Duration>,
}

/// Why an image is evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EvictionReason {
    /// Another image of its key took its place.
    Replaced,
    /// It was not used for too long.
    Unused,
    /// The cache is larger than its budget.
    Budget,
}

/// An image that goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removal {
    /// Its position in [`CacheInventory::images`].
    pub image: usize,
    /// Why.
    pub why: EvictionReason,
    /// Bytes that go with it, after those before it went.
    pub frees: u64,
}

/// What goes and what that comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcPlan {
    /// In the order in which they go.
    pub removals: Vec<Removal>,
    /// Bytes of the cache before.
    pub before: u64,
    /// Bytes after.
    pub after: u64,
}

/// Chooses what goes. `kept` are images that stay whatever the limits say; so does what they stand
/// on.
pub fn choose(
    contents: &CacheInventory,
    limits: &Limits,
    now: i64,
    kept: impl Fn(&CachedImage) -> bool,
) -> GcPlan {
    let named: HashMap<Key, usize> = contents
        .images
        .iter()
        .enumerate()
        .filter(|(_, image)| image.is_named())
        .map(|(at, image)| (image.key, at))
        .collect();
    let parent_of = |image: &CachedImage| image.parent.and_then(|key| named.get(&key)).copied();
    let mut children = vec![0_u32; contents.images.len()];
    for image in &contents.images {
        if let Some(parent) = parent_of(image) {
            children[parent] += 1;
        }
    }
    let mut users: Vec<u32> = contents.layers.iter().map(|layer| layer.users).collect();
    let before = contents.total();
    let mut choice = GcPlan { removals: Vec::new(), before, after: before };
    // Images of one run were used at one time: among them an environment goes with all that stands
    // on it, before the next one is touched.
    let environment = |at: usize| -> Key {
        let mut image = &contents.images[at];
        while image.kind > Kind::Env
            && let Some(parent) = parent_of(image)
        {
            image = &contents.images[parent];
        }
        image.key
    };
    let mut leaves = BinaryHeap::new();
    let leaf = |at: usize| {
        let image = &contents.images[at];
        // What was replaced is of no use, however young it is.
        let used = if image.is_named() { image.last_used } else { i64::MIN };
        // By keys: the engine lists images in an order of its own.
        Reverse((used, environment(at), Reverse(image.kind), image.key, at))
    };
    for (at, image) in contents.images.iter().enumerate() {
        if children[at] == 0 && !kept(image) {
            leaves.push(leaf(at));
        }
    }
    while let Some(Reverse((used, _, _, _, at))) = leaves.pop() {
        let image = &contents.images[at];
        let age = Duration::from_secs(u64::try_from(now.saturating_sub(used)).unwrap_or(0));
        let why = if used == i64::MIN {
            EvictionReason::Replaced
        } else if limits.keep_for.is_some_and(|keep| age > keep) {
            EvictionReason::Unused
        } else if limits.keep_bytes.is_some_and(|keep| choice.after > keep) {
            EvictionReason::Budget
        } else {
            // All others are younger.
            break;
        };
        let mut frees = 0;
        // A name that somebody else gave it keeps its layers.
        if !image.has_other_name() {
            for layer in &image.layers {
                let at = *layer as usize;
                users[at] -= 1;
                if users[at] == 0 && !contents.layers[at].held {
                    frees += contents.layers[at].bytes;
                }
            }
        }
        choice.after -= frees;
        choice.removals.push(Removal { image: at, why, frees });
        if let Some(parent) = parent_of(image) {
            children[parent] -= 1;
            if children[parent] == 0 && !kept(&contents.images[parent]) {
                leaves.push(leaf(parent));
            }
        }
    }
    choice
}

/// An image that went, or would.
#[derive(Debug, Clone)]
pub struct Evicted {
    /// The image.
    pub image: CachedImage,
    /// Why.
    pub why: EvictionReason,
    /// Bytes that went with it.
    pub frees: u64,
}

/// What a collection came to.
#[derive(Debug, Clone, Default)]
pub struct Collected {
    /// What was chosen.
    pub choice: GcPlan,
    /// Images that are gone, or with a dry run would be.
    pub removed: Vec<Evicted>,
    /// What the engine kept that no image needed before this.
    pub unneeded: Pruned,
    /// Bytes that were to go, with what no image needed.
    pub promised: u64,
    /// How much more room there is on the disk than before: what other processes wrote and removed
    /// meanwhile is in it. `None` after a dry run, and where the disk cannot be seen.
    pub freed: Option<u64>,
    /// How many images stay because they are pinned, or in use, though the limits are not met.
    pub kept: usize,
}

/// Takes images away.
pub struct Collector<'a> {
    /// The engine.
    pub engine: &'a dyn LayerStorage,
    /// Its name in the index.
    pub identity: &'a str,
    /// The directory of its images, where it is on this machine.
    pub root: Option<PathBuf>,
    /// The state.
    pub store: &'a Store,
}

impl Collector<'_> {
    /// Bounds the cache. What is taken into use while this runs stays.
    pub async fn collect(&self, limits: &Limits, dry_run: bool) -> Result<Collected, CacheError> {
        let contents = CacheInventory::read(self.engine, self.identity, self.store).await?;
        let leased = self.store.leased(false)?;
        let used = self.engine.images_in_use().await?;
        let kept = |image: &CachedImage| {
            !image.pins.is_empty() || image.is_leased(&leased) || used.contains(&image.id)
        };
        let choice = choose(&contents, limits, now(), kept);
        let unneeded = self.engine.prune(true).await?;
        let promised = choice.before - choice.after + unneeded.bytes;
        let over = limits.keep_bytes.is_some_and(|keep| choice.after > keep);
        let kept =
            if over { contents.images.iter().filter(|image| kept(image)).count() } else { 0 };
        let chosen = || choice.removals.iter().map(|removal| &contents.images[removal.image]);
        let mut collected = Collected { unneeded, promised, kept, ..Collected::default() };
        let gone = |removal: &Removal| Evicted {
            image: contents.images[removal.image].clone(),
            why: removal.why,
            frees: removal.frees,
        };
        if dry_run {
            collected.removed = choice.removals.iter().map(gone).collect();
        } else if promised > 0 || !choice.removals.is_empty() {
            let before = self.free();
            let removed = self.remove(&contents, chosen()).await?;
            self.engine.prune(false).await?;
            self.forget_layers(&contents, &removed)?;
            let went: HashSet<&str> = removed.iter().map(|image| image.id.as_str()).collect();
            let of = |removal: &&Removal| went.contains(contents.images[removal.image].id.as_str());
            collected.removed = choice.removals.iter().filter(of).map(gone).collect();
            let after = self.free();
            collected.freed = before.zip(after).map(|(before, after)| after.saturating_sub(before));
        }
        collected.choice = choice;
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
                self.engine.remove(&image.id).await?;
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

#[cfg(test)]
mod tests {
    use super::super::testing::contents;
    use super::*;
    use proptest::prelude::*;

    const DAY: u64 = 86400;

    fn positions(choice: &GcPlan) -> Vec<usize> {
        choice.removals.iter().map(|removal| removal.image).collect()
    }

    fn days(days: u64) -> Limits {
        Limits { keep_for: Some(Duration::from_secs(days * DAY)), keep_bytes: None }
    }

    fn bytes(keep: u64) -> Limits {
        Limits { keep_bytes: Some(keep), keep_for: None }
    }

    /// A base, two envs, and an instance on each; used on days 0, 1, 2, 3, 4.
    fn tree() -> CacheInventory {
        contents(&[(None, 1), (Some(0), 10), (Some(0), 100), (Some(2), 1000), (Some(1), 10_000)])
    }

    #[test]
    fn the_least_recently_used_leaf_goes_first_and_its_parents_after_it() {
        let choice = choose(&tree(), &bytes(10_020), 5 * DAY as i64, |_| false);
        assert_eq!(positions(&choice), [3, 2]);
        assert_eq!((choice.before, choice.after), (11_111, 10_011));
        assert_eq!(choice.removals[0].frees, 1000);
    }

    #[test]
    fn an_old_parent_of_a_young_child_stays_and_goes_with_it() {
        // Day 6: only what was used on day 3 or before is older than two days.
        let choice = choose(&tree(), &days(2), 6 * DAY as i64, |_| false);
        assert_eq!(positions(&choice), [3, 2]);
        let choice = choose(&tree(), &days(2), 30 * DAY as i64, |_| false);
        assert_eq!(positions(&choice), [3, 2, 4, 1, 0]);
        assert_eq!(choice.after, 0);
    }

    #[test]
    fn a_kept_image_keeps_what_it_stands_on_and_nothing_else() {
        let tree = tree();
        let pinned = tree.images[3].key;
        let choice = choose(&tree, &bytes(0), 9 * DAY as i64, |image| image.key == pinned);
        assert_eq!(positions(&choice), [4, 1]);
        assert_eq!(choice.after, 1101);
    }

    #[test]
    fn both_limits_hold() {
        let limits = Limits { keep_bytes: Some(2_000), ..days(2) };
        let choice = choose(&tree(), &limits, 6 * DAY as i64, |_| false);
        let why: Vec<EvictionReason> = choice.removals.iter().map(|removal| removal.why).collect();
        assert_eq!(
            why[..3],
            [EvictionReason::Unused, EvictionReason::Unused, EvictionReason::Budget]
        );
        assert!(choose(&tree(), &Limits::default(), 0, |_| false).removals.is_empty());
    }

    #[test]
    fn among_images_of_one_time_an_environment_goes_with_what_stands_on_it() {
        let mut tree = tree();
        for image in &mut tree.images {
            image.last_used = 0;
        }
        for env in [1, 2] {
            tree.images[env].kind = Kind::Env;
            tree.images[env].tags =
                vec![crate::plan::name::image(Kind::Env, &tree.images[env].key)];
        }
        let choice = choose(&tree, &bytes(5), 0, |_| false);
        let order = positions(&choice);
        assert!(order == [4, 1, 3, 2] || order == [3, 2, 4, 1], "{order:?}");
        let mut listed_otherwise = tree.clone();
        listed_otherwise.images.reverse();
        let again = choose(&listed_otherwise, &bytes(5), 0, |_| false);
        let key = |tree: &CacheInventory, choice: &GcPlan| -> Vec<Key> {
            positions(choice).into_iter().map(|at| tree.images[at].key).collect()
        };
        assert_eq!(key(&listed_otherwise, &again), key(&tree, &choice));
    }

    #[test]
    fn what_was_replaced_goes_whatever_the_limits_say() {
        let mut tree = tree();
        tree.images[4].tags.clear();
        let choice = choose(&tree, &Limits::default(), 0, |_| false);
        assert_eq!(positions(&choice), [4]);
        assert_eq!(choice.removals[0].why, EvictionReason::Replaced);
    }

    #[test]
    fn a_name_that_somebody_gave_keeps_the_bytes() {
        let mut tree = tree();
        tree.images[3].tags.push("mine:1".to_owned());
        let choice = choose(&tree, &days(2), 6 * DAY as i64, |_| false);
        assert_eq!(choice.removals[0].frees, 0);
        assert_eq!(choice.removals[1].frees, 0, "its parent's layers are the image's too");
        assert_eq!(choice.after, choice.before);
    }

    proptest! {
        #[test]
        fn no_parent_goes_before_its_children_and_the_sum_is_right(
            parents in prop::collection::vec(prop::option::of(0usize..30), 1..30),
            keep in 0u64..40_000,
            pinned in prop::collection::vec(any::<bool>(), 30),
        ) {
            let images: Vec<(Option<usize>, u64)> = parents
                .iter()
                .enumerate()
                .map(|(at, parent)| (parent.filter(|parent| *parent < at), 1000 + at as u64))
                .collect();
            let tree = contents(&images);
            let is_pinned = |image: &CachedImage| pinned[tree.images.iter().position(|one| one.key == image.key).unwrap()];
            let choice = choose(&tree, &bytes(keep), 0, is_pinned);
            let mut gone = HashSet::new();
            for removal in &choice.removals {
                let image = &tree.images[removal.image];
                prop_assert!(!is_pinned(image));
                for child in tree.images.iter().filter(|child| child.parent == Some(image.key)) {
                    prop_assert!(gone.contains(&child.key));
                }
                gone.insert(image.key);
            }
            let left: HashSet<u32> = tree
                .images
                .iter()
                .filter(|image| !gone.contains(&image.key))
                .flat_map(|image| image.layers.iter().copied())
                .collect();
            let sum: u64 = left.iter().map(|at| tree.layers[*at as usize].bytes).sum();
            prop_assert_eq!(choice.after, sum);
            let free = tree.images.iter().any(|image| {
                !gone.contains(&image.key)
                    && !is_pinned(image)
                    && !tree.images.iter().any(|child| child.parent == Some(image.key) && !gone.contains(&child.key))
            });
            prop_assert!(choice.after <= keep || !free, "it stops when it fits, or nothing can go");
        }
    }
}
