//! The base image: operating system, toolchain and a language, from a Dockerfile.

use std::collections::BTreeMap;

use crate::catalog::{Base, ContextFile};
use crate::key::{Digest, Key, KeyDocument, Kind};

use super::dockerfile;

/// How the identity of an image begins that was made from Debian's packages; what it is follows.
pub const BOOTSTRAPPED: &str = "bootstrapped: ";

/// What a base image is made of.
#[derive(Debug, Clone)]
pub struct BaseRecipe {
    /// The name in the catalog; not part of the key.
    pub name: String,
    /// The Dockerfile in normal form.
    pub dockerfile: String,
    /// The files beside the Dockerfile.
    pub context: Vec<ContextFile>,
    /// Build arguments.
    pub args: BTreeMap<String, String>,
    /// Each image that the Dockerfile stands on, with the identity of its content; `None` while it
    /// is not known here.
    pub from: BTreeMap<String, Option<String>>,
    /// Such as `linux/amd64`.
    pub platform: String,
}

impl BaseRecipe {
    /// Makes the recipe of a catalog's base. `identity` gives the content of an image by its
    /// reference, when it is known.
    pub fn new(base: &Base, platform: &str, identity: &dyn Fn(&str) -> Option<String>) -> Self {
        let from = dockerfile::external_images(&base.dockerfile, &base.args)
            .into_iter()
            .map(|reference| {
                let identity = identity(&reference);
                (reference, identity)
            })
            .collect();
        BaseRecipe {
            name: base.name.clone(),
            dockerfile: dockerfile::normalise(&base.dockerfile),
            context: base.context.clone(),
            args: base.args.clone(),
            from,
            platform: platform.to_owned(),
        }
    }

    /// Returns the references whose content is not known here.
    pub fn unresolved(&self) -> impl Iterator<Item = &str> {
        self.from.iter().filter(|(_, digest)| digest.is_none()).map(|(name, _)| name.as_str())
    }

    /// Returns the key document.
    pub fn document(&self) -> KeyDocument {
        let context: BTreeMap<&str, String> = self
            .context
            .iter()
            .map(|file| {
                let mode = if file.executable { "0755" } else { "0644" };
                (file.path.as_str(), format!("{mode} {}", Digest::of(&file.bytes)))
            })
            .collect();
        KeyDocument::new(Kind::Base)
            .with("args", &self.args)
            .with("context", context)
            .with("dockerfile", Digest::of(&self.dockerfile))
            .with("from", &self.from)
            .with("platform", &self.platform)
    }

    /// Returns the key.
    pub fn key(&self) -> Key {
        self.document().key()
    }
}
