//! What exists: the planner's view of the engine and of the state on disk, as a value.

use std::collections::{HashMap, HashSet};

use crate::key::{Key, KeyDocument};

/// What the engine has under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Present {
    /// The image that was built.
    Whole,
    /// Something that is not it, and why.
    Broken(String),
}

/// The images, results and documents that exist, read once before planning.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    images: HashMap<Key, Present>,
    references: HashSet<String>,
    documents: HashMap<String, KeyDocument>,
    results: HashSet<Key>,
}

impl Inventory {
    /// Adds an image that the engine has under `key`.
    pub fn add_image(&mut self, key: Key, present: Present) {
        self.images.insert(key, present);
    }

    /// Adds a reference that the engine has.
    pub fn add_reference(&mut self, reference: String) {
        self.references.insert(reference);
    }

    /// Sets the key document of the newest image that was built for a node.
    pub fn set_document(&mut self, node: String, document: KeyDocument) {
        self.documents.insert(node, document);
    }

    /// Adds a result of an evaluation.
    pub fn add_result(&mut self, key: Key) {
        self.results.insert(key);
    }

    pub(super) fn has_result(&self, key: &Key) -> bool {
        self.results.contains(key)
    }

    /// Tells whether the engine has the image of `key`, whole.
    pub fn is_whole(&self, key: &Key) -> bool {
        self.present(key) == Some(&Present::Whole)
    }

    /// Tells whether the engine has something under `key`, whole or not.
    pub fn has_image(&self, key: &Key) -> bool {
        self.images.contains_key(key)
    }

    pub(super) fn present(&self, key: &Key) -> Option<&Present> {
        self.images.get(key)
    }

    pub(super) fn has_reference(&self, reference: &str) -> bool {
        self.references.contains(reference)
    }

    pub(super) fn newest_document(&self, node: &str) -> Option<&KeyDocument> {
        self.documents.get(node)
    }
}
