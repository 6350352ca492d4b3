//! The instance image: the checkout with the test patch and a model patch applied.

use crate::dataset::Patch;
use crate::key::{Digest, Key, KeyDocument, Kind};
use crate::platform::Platform;

/// Name and version of the way in which patches are applied; part of the key.
const APPLY: &str = "swebench-5/3";

/// What an instance image is made of.
#[derive(Debug, Clone)]
pub struct InstanceRecipe {
    /// The checkout's key.
    pub parent: Key,
    /// `owner/name`, for finding the mirror.
    pub repo: String,
    /// The commit that the patches apply to.
    pub base_commit: String,
    /// The patch of the test files; `None` when empty.
    pub test_patch: Option<Patch>,
    /// The patch under evaluation; `None` when empty.
    pub model_patch: Option<Patch>,
    /// Such as `linux/amd64`.
    pub platform: Platform,
}

impl InstanceRecipe {
    /// Returns the key document.
    pub fn document(&self) -> KeyDocument {
        let digest = |patch: &Option<Patch>| patch.as_ref().map(|p| Digest::of(p.as_bytes()));
        KeyDocument::new(Kind::Instance)
            .with("apply", APPLY)
            .with("model_patch", digest(&self.model_patch))
            .with("parent", self.parent)
            .with("platform", &self.platform)
            .with("test_patch", digest(&self.test_patch))
    }

    /// Returns the key.
    pub fn key(&self) -> Key {
        self.document().key()
    }
}
