//! Caches as values, for tests.

use crate::key::{KeyDocument, Kind};

use super::inventory::{CacheInventory, CachedImage, Layer};

/// Makes a cache: for each image the position of its parent and the bytes of its one layer. Image
/// `n` was used last at `n` days.
pub(super) fn contents(images: &[(Option<usize>, u64)]) -> CacheInventory {
    let mut contents = CacheInventory::default();
    for (at, (parent, bytes)) in images.iter().enumerate() {
        let kind = match parent {
            None => Kind::Base,
            Some(_) => Kind::Instance,
        };
        let mut layers =
            parent.map_or_else(Vec::new, |parent| contents.images[parent].layers.clone());
        layers.push(at as u32);
        contents.layers.push(Layer { name: at.to_string(), bytes: *bytes, users: 0, held: false });
        for layer in &layers {
            contents.layers[*layer as usize].users += 1;
        }
        let key = KeyDocument::new(kind).with("n", at).key();
        contents.images.push(CachedImage {
            key,
            kind,
            external: false,
            id: format!("sha256:{at}").into(),
            tags: vec![crate::plan::name::image(kind, &key)],
            parent: parent.map(|parent| contents.images[parent].key),
            layers,
            last_used: at as i64 * 86400,
            node: None,
            repo: None,
            uses: Vec::new(),
            pins: Vec::new(),
        });
    }
    contents
}
