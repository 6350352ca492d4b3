//! Which images leave the cache, and in which order. Pure.
//!
//! The least recently used go first, children before parents: an image's age counts when nothing
//! stands on it any more. Retained images stay, and all below them.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use crate::key::{Key, Kind};

use super::inventory::{CacheInventory, CachedImage};

/// The bounds of the cache; both hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes of images that stay.
    pub keep_bytes: Option<u64>,
    /// The longest time without use after which an image stays.
    pub keep_for: Option<Duration>,
}

/// The limit that an evicted image broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EvictionReason {
    /// Another image of its key took its place.
    Replaced,
    /// The image was not used for too long.
    Unused,
    /// The cache is larger than its budget.
    Budget,
}

/// One step of a collection: an image that goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removal {
    /// Its position in [`CacheInventory::images`].
    pub image: usize,
    /// The limit that it breaks.
    pub why: EvictionReason,
    /// Bytes that go with it, after those before it went.
    pub frees: u64,
}

/// A plan of the collection: the images that go, and the bytes of the cache before and after.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcPlan {
    /// The images that go, in their order: children before parents.
    pub removals: Vec<Removal>,
    /// Bytes of the cache before the collection.
    pub before: u64,
    /// Bytes of the cache after it.
    pub after: u64,
}

/// Plans which images go. `retained` are images that stay whatever the limits say; so does what they
/// stand on.
pub fn plan_eviction(
    contents: &CacheInventory,
    limits: &Limits,
    now: i64,
    retained: impl Fn(&CachedImage) -> bool,
) -> GcPlan {
    let mut forest = Forest::of(contents);
    let mut users: Vec<u32> = contents.layers.iter().map(|layer| layer.users).collect();
    let before = contents.total();
    let mut plan = GcPlan { removals: Vec::new(), before, after: before };
    let mut leaves = BinaryHeap::new();
    for (at, image) in contents.images.iter().enumerate() {
        if forest.children[at] == 0 && !retained(image) {
            leaves.push(Reverse(forest.leaf(at)));
        }
    }
    while let Some(Reverse(leaf)) = leaves.pop() {
        let image = &contents.images[leaf.image];
        // All others are younger.
        let Some(why) = reason(leaf.used, now, limits, plan.after) else { break };
        let frees = release_layers(contents, image, &mut users);
        plan.after -= frees;
        plan.removals.push(Removal { image: leaf.image, why, frees });
        if let Some(parent) = forest.parent(image) {
            forest.children[parent] -= 1;
            if forest.children[parent] == 0 && !retained(&contents.images[parent]) {
                leaves.push(Reverse(forest.leaf(parent)));
            }
        }
    }
    plan
}

/// Returns why an image on which nothing stands goes, if it does; `bytes` is the cache's size by then.
fn reason(used: Option<i64>, now: i64, limits: &Limits, bytes: u64) -> Option<EvictionReason> {
    let Some(used) = used else { return Some(EvictionReason::Replaced) };
    let age = Duration::from_secs(u64::try_from(now.saturating_sub(used)).unwrap_or(0));
    if limits.keep_for.is_some_and(|keep| age > keep) {
        return Some(EvictionReason::Unused);
    }
    limits.keep_bytes.is_some_and(|keep| bytes > keep).then_some(EvictionReason::Budget)
}

/// Takes an image from the users of its layers; returns the bytes of those that nobody uses any more.
fn release_layers(contents: &CacheInventory, image: &CachedImage, users: &mut [u32]) -> u64 {
    // A name that somebody else gave it keeps its layers.
    if image.has_other_name() {
        return 0;
    }
    let mut frees = 0;
    for layer in &image.layers {
        let at = *layer as usize;
        users[at] -= 1;
        if users[at] == 0 && !contents.layers[at].held {
            frees += contents.layers[at].bytes;
        }
    }
    frees
}

/// An image on which nothing stands, in the order in which such images go.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Leaf {
    /// When it was used last; `None` of an image that was replaced: it is of no use, however young.
    used: Option<i64>,
    /// Images of one run were used at one time: among them an environment goes with all that stands on
    /// it, before the next one is touched.
    environment: Key,
    kind: Reverse<Kind>,
    /// By keys: the engine lists images in an order of its own.
    key: Key,
    image: usize,
}

/// The images of a cache, each with what it stands on.
struct Forest<'a> {
    contents: &'a CacheInventory,
    /// The positions of the images that have the name of their key.
    named: HashMap<Key, usize>,
    /// The number of images that stand on each.
    children: Vec<u32>,
}

impl<'a> Forest<'a> {
    fn of(contents: &'a CacheInventory) -> Forest<'a> {
        let named = contents
            .images
            .iter()
            .enumerate()
            .filter(|(_, image)| image.is_named())
            .map(|(at, image)| (image.key, at))
            .collect();
        let children = vec![0; contents.images.len()];
        let mut forest = Forest { contents, named, children };
        for image in &contents.images {
            if let Some(parent) = forest.parent(image) {
                forest.children[parent] += 1;
            }
        }
        forest
    }

    fn parent(&self, image: &CachedImage) -> Option<usize> {
        image.parent.and_then(|key| self.named.get(&key)).copied()
    }

    /// Returns the key of the env that an image stands on, or of the lowest that is here.
    fn environment(&self, at: usize) -> Key {
        let mut image = &self.contents.images[at];
        while image.kind > Kind::Env
            && let Some(parent) = self.parent(image)
        {
            image = &self.contents.images[parent];
        }
        image.key
    }

    fn leaf(&self, at: usize) -> Leaf {
        let image = &self.contents.images[at];
        Leaf {
            used: image.is_named().then_some(image.last_used),
            environment: self.environment(at),
            kind: Reverse(image.kind),
            key: image.key,
            image: at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::contents;
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const DAY: u64 = 86400;

    fn positions(plan: &GcPlan) -> Vec<usize> {
        plan.removals.iter().map(|removal| removal.image).collect()
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
        let plan = plan_eviction(&tree(), &bytes(10_020), 5 * DAY as i64, |_| false);
        assert_eq!(positions(&plan), [3, 2]);
        assert_eq!((plan.before, plan.after), (11_111, 10_011));
        assert_eq!(plan.removals[0].frees, 1000);
    }

    #[test]
    fn an_old_parent_of_a_young_child_stays_and_goes_with_it() {
        // Day 6: only what was used on day 3 or before is older than two days.
        let plan = plan_eviction(&tree(), &days(2), 6 * DAY as i64, |_| false);
        assert_eq!(positions(&plan), [3, 2]);
        let plan = plan_eviction(&tree(), &days(2), 30 * DAY as i64, |_| false);
        assert_eq!(positions(&plan), [3, 2, 4, 1, 0]);
        assert_eq!(plan.after, 0);
    }

    #[test]
    fn a_retained_image_keeps_what_it_stands_on_and_nothing_else() {
        let tree = tree();
        let pinned = tree.images[3].key;
        let plan = plan_eviction(&tree, &bytes(0), 9 * DAY as i64, |image| image.key == pinned);
        assert_eq!(positions(&plan), [4, 1]);
        assert_eq!(plan.after, 1101);
    }

    #[test]
    fn both_limits_hold() {
        let limits = Limits { keep_bytes: Some(2_000), ..days(2) };
        let plan = plan_eviction(&tree(), &limits, 6 * DAY as i64, |_| false);
        let why: Vec<EvictionReason> = plan.removals.iter().map(|removal| removal.why).collect();
        assert_eq!(
            why[..3],
            [EvictionReason::Unused, EvictionReason::Unused, EvictionReason::Budget]
        );
        assert!(plan_eviction(&tree(), &Limits::default(), 0, |_| false).removals.is_empty());
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
        let plan = plan_eviction(&tree, &bytes(5), 0, |_| false);
        let order = positions(&plan);
        assert!(order == [4, 1, 3, 2] || order == [3, 2, 4, 1], "{order:?}");
        let mut listed_otherwise = tree.clone();
        listed_otherwise.images.reverse();
        let again = plan_eviction(&listed_otherwise, &bytes(5), 0, |_| false);
        let key = |tree: &CacheInventory, plan: &GcPlan| -> Vec<Key> {
            positions(plan).into_iter().map(|at| tree.images[at].key).collect()
        };
        assert_eq!(key(&listed_otherwise, &again), key(&tree, &plan));
    }

    #[test]
    fn what_was_replaced_goes_whatever_the_limits_say() {
        let mut tree = tree();
        tree.images[4].tags.clear();
        let plan = plan_eviction(&tree, &Limits::default(), 0, |_| false);
        assert_eq!(positions(&plan), [4]);
        assert_eq!(plan.removals[0].why, EvictionReason::Replaced);
    }

    #[test]
    fn a_name_that_somebody_gave_keeps_the_bytes() {
        let mut tree = tree();
        tree.images[3].tags.push("mine:1".to_owned());
        let plan = plan_eviction(&tree, &days(2), 6 * DAY as i64, |_| false);
        assert_eq!(plan.removals[0].frees, 0);
        assert_eq!(plan.removals[1].frees, 0, "its parent's layers are the image's too");
        assert_eq!(plan.after, plan.before);
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
            let plan = plan_eviction(&tree, &bytes(keep), 0, is_pinned);
            let mut gone = HashSet::new();
            for removal in &plan.removals {
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
            prop_assert_eq!(plan.after, sum);
            let free = tree.images.iter().any(|image| {
                !gone.contains(&image.key)
                    && !is_pinned(image)
                    && !tree.images.iter().any(|child| child.parent == Some(image.key) && !gone.contains(&child.key))
            });
            prop_assert!(plan.after <= keep || !free, "it stops when it fits, or nothing can go");
        }
    }
}
