//! What room images take: their own bytes, and those that they share. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::inventory::{CacheInventory, CachedImage};

/// Bytes on the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Bytes {
    /// Of layers that nothing else has: what goes when these images go.
    pub bytes: u64,
    /// Of layers that other images have too.
    pub shared_bytes: u64,
}

/// A group of images and the room that it takes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Group {
    /// The kind, repository, dataset or age.
    pub name: String,
    /// How many images.
    pub images: usize,
    /// The bytes of the group as a whole: what its images share with each other is its own.
    #[serde(flatten)]
    pub bytes: Bytes,
}

impl CacheInventory {
    /// Returns the bytes of one image.
    pub fn bytes_of(&self, image: &CachedImage) -> Bytes {
        let mut bytes = Bytes::default();
        for layer in image.layers.iter().map(|at| &self.layers[*at as usize]) {
            if layer.users == 1 && !layer.held {
                bytes.bytes += layer.bytes;
            } else {
                bytes.shared_bytes += layer.bytes;
            }
        }
        bytes
    }

    /// Returns what goes when the whole cache goes: layers that other images have too are not
    /// counted.
    pub fn total(&self) -> u64 {
        self.layers.iter().filter(|layer| !layer.held).map(|layer| layer.bytes).sum()
    }

    /// Sums images up by groups; an image may be in several.
    pub fn grouped(&self, groups_of: impl Fn(&CachedImage) -> Vec<String>) -> Vec<Group> {
        let mut names: BTreeMap<String, usize> = BTreeMap::new();
        let mut counts: Vec<usize> = Vec::new();
        let mut members: HashMap<u32, HashSet<usize>> = HashMap::new();
        let mut all: Vec<HashSet<u32>> = Vec::new();
        for image in &self.images {
            let groups: Vec<usize> = groups_of(image)
                .into_iter()
                .map(|name| {
                    let next = names.len();
                    *names.entry(name).or_insert(next)
                })
                .collect();
            counts.resize(names.len(), 0);
            all.resize_with(names.len(), HashSet::new);
            for group in &groups {
                counts[*group] += 1;
                all[*group].extend(&image.layers);
            }
            for layer in &image.layers {
                members.entry(*layer).or_default().extend(&groups);
            }
        }
        let bytes = |group: usize| {
            let mut bytes = Bytes::default();
            for at in &all[group] {
                let layer = &self.layers[*at as usize];
                match members[at].len() == 1 && !layer.held {
                    true => bytes.bytes += layer.bytes,
                    false => bytes.shared_bytes += layer.bytes,
                }
            }
            bytes
        };
        names
            .iter()
            .map(|(name, at)| Group { name: name.clone(), images: counts[*at], bytes: bytes(*at) })
            .collect()
    }
}

/// Returns the age of an image in words that sort by it.
pub fn age(last_used: i64, now: i64) -> &'static str {
    match (now - last_used).max(0) / 86400 {
        0 => "1: within a day",
        1..7 => "2: within a week",
        7..30 => "3: within a month",
        _ => "4: longer ago",
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::contents;
    use super::*;

    #[test]
    fn own_bytes_are_those_that_nothing_else_has() {
        // A base, two envs on it, and an instance on the first env, with layers of 1, 10, 100 ….
        let contents = contents(&[(None, 1), (Some(0), 10), (Some(0), 100), (Some(1), 1000)]);
        let bytes = |at: usize| contents.bytes_of(&contents.images[at]);
        assert_eq!(bytes(0), Bytes { bytes: 0, shared_bytes: 1 });
        assert_eq!(bytes(2), Bytes { bytes: 100, shared_bytes: 1 });
        assert_eq!(bytes(3), Bytes { bytes: 1000, shared_bytes: 11 });
        assert_eq!(contents.total(), 1111);
    }

    #[test]
    fn a_group_owns_what_its_images_share_with_each_other() {
        let contents = contents(&[(None, 1), (Some(0), 10), (Some(0), 100), (Some(1), 1000)]);
        let by_half = |image: &CachedImage| vec![image.node.clone().unwrap_or_default()];
        let mut named = contents.clone();
        for (image, group) in named.images.iter_mut().zip(["a", "b", "c", "b"]) {
            image.node = Some(group.to_owned());
        }
        let groups = named.grouped(by_half);
        assert_eq!(groups.len(), 3);
        assert_eq!(groups[1].images, 2);
        assert_eq!(groups[1].bytes, Bytes { bytes: 1010, shared_bytes: 1 });
    }

    #[test]
    fn what_another_image_has_goes_with_nothing() {
        let mut contents = contents(&[(None, 1), (Some(0), 10)]);
        contents.layers[0].held = true;
        assert_eq!(contents.total(), 10);
        assert_eq!(contents.bytes_of(&contents.images[0]), Bytes { bytes: 0, shared_bytes: 1 });
    }
}
