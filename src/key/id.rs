//! Ids that engines and documents give: of images, and of layers.
//!
//! They are texts, as whoever gave them writes them: mostly `sha256:` and a [`Digest`], but a document
//! of any origin may have another algorithm, or nothing of the kind.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Digest;

/// The id of an image on an engine: the digest of its config, or of its manifest on a containerd
/// store.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct ImageId(Arc<str>);

/// The id of a layer: the digest of its uncompressed tar.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct DiffId(Arc<str>);

macro_rules! id {
    ($name:ident) => {
        impl $name {
            /// Returns the text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Tells whether none was given.
            pub fn is_empty(&self) -> bool {
                self.0.is_empty()
            }

            /// Returns the text without the name of the algorithm: such as names a file.
            pub fn hex(&self) -> &str {
                self.0.trim_start_matches("sha256:")
            }
        }

        impl Default for $name {
            fn default() -> Self {
                $name(Arc::from(""))
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                $name(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                $name(text.into())
            }
        }

        impl From<Digest> for $name {
            fn from(digest: Digest) -> Self {
                $name(digest.oci().into())
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.as_str().to_owned()
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                &*self.0 == other
            }
        }

        impl PartialEq<Digest> for $name {
            fn eq(&self, other: &Digest) -> bool {
                *self.0 == *other.oci()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}
id!(ImageId);
id!(DiffId);
