//! The base image: operating system, toolchain and a language, from a Dockerfile.

use std::collections::BTreeMap;

use crate::catalog::Base;
use crate::context_file::ContextFile;
use crate::key::{Digest, Key, KeyDocument, Kind};
use crate::platform::Platform;

use crate::dockerfile;

/// How the identity of an image begins that was made from Debian's packages; what it is follows.
pub const BOOTSTRAPPED: &str = "bootstrapped: ";

/// How the identity of an image begins that has a Python; its version follows.
pub const PYTHON: &str = "python ";

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
    pub platform: Platform,
}

impl BaseRecipe {
    /// Makes the recipe of a catalog's base. `identity` gives the content of an image by its
    /// reference, when it is known.
    pub fn new(
        base: &Base,
        platform: &Platform,
        identity: &dyn Fn(&str) -> Option<String>,
    ) -> Self {
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

    /// Returns the Dockerfile as it is built where images that it stands on have other names; see
    /// [`dockerfile::with_names`].
    pub fn dockerfile_with(&self, names: &BTreeMap<String, String>) -> String {
        dockerfile::with_names(&self.dockerfile, &self.args, names)
    }

    /// Returns the Python of the images that it stands on, to the patch level, as they say it
    /// themselves; `None` where none does, or not all say the same.
    pub fn python(&self) -> Option<&str> {
        let mut said = self.from.values().filter_map(|identity| python_of(identity.as_deref()?));
        let first = said.next()?;
        said.all(|other| other == first).then_some(first)
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

/// Reads the Python from an image's identity, which begins with it where the image has one.
fn python_of(identity: &str) -> Option<&str> {
    let rest = identity.strip_prefix(BOOTSTRAPPED).unwrap_or(identity);
    let version = rest.strip_prefix(PYTHON)?.split([' ', ':']).next()?;
    version.starts_with(|c: char| c.is_ascii_digit()).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_says_its_python() {
        let made = format!("{BOOTSTRAPPED}python 3.9.2 of debian bullseye, 138 packages sha256:0");
        assert_eq!(python_of(&made), Some("3.9.2"));
        assert_eq!(python_of("python 3.9.20: sha256:0"), Some("3.9.20"));
        assert_eq!(python_of("sha256:0"), None);
        assert_eq!(python_of(&format!("{BOOTSTRAPPED}debian bullseye, 90 packages")), None);
    }
}
