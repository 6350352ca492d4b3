//! Keys and digests: what identifies an image by its inputs.
//!
//! A [`Key`] is the hash of a small canonical document, a [`KeyDocument`]. The document is stored
//! with the image, so that the key and the explanation of a rebuild come from one code path: the
//! key is the document's hash, the explanation is a field-by-field difference of two documents.
//! Large inputs enter a document as their [`Digest`]. Knows nothing of images or engines.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

mod id;

pub use id::{DiffId, ImageId};

/// Version of the key derivation: bumped when the meaning of a field changes without its text
/// changing. It enters every key.
pub const SCHEMA: u32 = 1;

/// The hash of an image's inputs: what an image is found by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key([u8; 32]);

/// The sha256 of some content.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

/// A string that is not 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a sha256 in 64 hexadecimal digits")]
pub struct NotHex(String);

impl Key {
    /// Returns the first 12 digits: enough for a person, never enough for a comparison.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..6])
    }
}

impl Digest {
    /// Returns the sha256 of `bytes`.
    pub fn of(bytes: impl AsRef<[u8]>) -> Self {
        Digest(Sha256::digest(bytes.as_ref()).into())
    }

    /// Reads to the end; returns the sha256 of what came, and the number of its bytes.
    pub fn of_reader(mut reader: impl std::io::Read) -> std::io::Result<(Self, u64)> {
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 18];
        let mut size = 0;
        loop {
            match reader.read(&mut buffer)? {
                0 => return Ok((Digest(hasher.finalize().into()), size)),
                count => {
                    hasher.update(&buffer[..count]);
                    size += count as u64;
                }
            }
        }
    }

    /// Wraps the raw 32 bytes of a sha256.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Digest(bytes)
    }

    /// Returns the form that OCI documents use, `sha256:<hex>`.
    pub fn oci(&self) -> String {
        format!("sha256:{self}")
    }
}

fn parse_hex(text: &str) -> Result<[u8; 32], NotHex> {
    let mut bytes = [0; 32];
    let lower = !text.bytes().any(|b| b.is_ascii_uppercase());
    match hex::decode_to_slice(text, &mut bytes) {
        Ok(()) if lower => Ok(bytes),
        _ => Err(NotHex(text.to_owned())),
    }
}

macro_rules! hex_newtype {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // Keys are written for each node of a plan: `hex::encode` pushes single characters.
                let mut digits = [0; 64];
                hex::encode_to_slice(self.0, &mut digits).expect("two digits a byte");
                f.write_str(str::from_utf8(&digits).expect("digits are ASCII"))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
        impl FromStr for $name {
            type Err = NotHex;
            fn from_str(text: &str) -> Result<Self, NotHex> {
                parse_hex(text.strip_prefix("sha256:").unwrap_or(text)).map($name)
            }
        }
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
hex_newtype!(Key);
hex_newtype!(Digest);

/// The four kinds of image, and what runs in the last, in the order in which they stand on each
/// other.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Operating system, toolchain and a language.
    Base,
    /// The dependencies of one (repo, version).
    Env,
    /// The repository at its base commit, installed.
    Checkout,
    /// The checkout with the test patch and the model patch applied.
    Instance,
    /// A run of the tests in an instance image.
    #[value(skip)]
    Evaluation,
}

impl Kind {
    /// All kinds of image, parents first.
    pub const IMAGES: [Kind; 4] = [Kind::Base, Kind::Env, Kind::Checkout, Kind::Instance];

    /// Returns the name used in image names, labels, keys and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Base => "base",
            Kind::Env => "env",
            Kind::Checkout => "checkout",
            Kind::Instance => "instance",
            Kind::Evaluation => "evaluation",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The inputs of one image, as named fields: the preimage of its key.
///
/// Every field of a kind is always present, `null` when unused, so that a field which comes into
/// use shows up as a change of that field and of nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyDocument {
    /// The kind of image that the document describes.
    pub kind: Kind,
    /// The inputs by name. Values are strings, integers, booleans, null, and lists and maps of them.
    pub fields: BTreeMap<String, serde_json::Value>,
}

/// One field in which two documents differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldChange {
    /// The path of the field, such as `locks/requirements.txt`.
    pub field: String,
    /// The value that the existing image was made from; `None` where the field was not there.
    pub old: Option<String>,
    /// The value of today; `None` where the field is gone.
    pub new: Option<String>,
}

impl KeyDocument {
    /// Starts a document of `kind` without fields.
    pub fn new(kind: Kind) -> Self {
        KeyDocument { kind, fields: BTreeMap::new() }
    }

    /// Sets a field. A value that is not a string, integer, boolean, null or a list or map of such
    /// has no canonical form and must not be given.
    #[must_use]
    pub fn with(mut self, field: &str, value: impl Serialize) -> Self {
        let value = serde_json::to_value(value).expect("key fields are plain values");
        self.fields.insert(field.to_owned(), value);
        self
    }

    /// Returns the platform that the image is for.
    pub fn platform(&self) -> Option<&str> {
        self.fields.get("platform")?.as_str()
    }

    /// Returns the canonical text: JSON with sorted keys and no spaces (RFC 8785 for the values
    /// that a document may hold).
    pub fn canonical(&self) -> String {
        // `serde_json::Map` is a BTreeMap here (the `preserve_order` feature is off), so maps are
        // written in the order of their keys.
        serde_json::to_string(&self.fields).expect("maps with string keys are valid JSON")
    }

    /// Returns the key: `sha256("imgforge-key" NUL kind NUL schema NUL canonical text)`.
    pub fn key(&self) -> Key {
        let mut hasher = Sha256::new();
        for part in ["imgforge-key", self.kind.as_str(), &SCHEMA.to_string()] {
            hasher.update(part.as_bytes());
            hasher.update([0]);
        }
        hasher.update(self.canonical().as_bytes());
        Key(hasher.finalize().into())
    }

    /// Reads a document back from its canonical text.
    pub fn parse(kind: Kind, canonical: &str) -> serde_json::Result<Self> {
        Ok(KeyDocument { kind, fields: serde_json::from_str(canonical)? })
    }

    /// Lists the fields in which `old` differs from this document, in order of their paths.
    pub fn changes_from(&self, old: &KeyDocument) -> Vec<FieldChange> {
        let (before, after) = (old.leaves(), self.leaves());
        let mut paths: Vec<&String> = before.keys().chain(after.keys()).collect();
        paths.sort();
        paths.dedup();
        paths
            .into_iter()
            .filter(|path| before.get(*path) != after.get(*path))
            .map(|path| FieldChange {
                field: path.clone(),
                old: before.get(path).cloned(),
                new: after.get(path).cloned(),
            })
            .collect()
    }

    fn leaves(&self) -> BTreeMap<String, String> {
        let mut leaves = BTreeMap::new();
        for (name, value) in &self.fields {
            collect_leaves(name.clone(), value, &mut leaves);
        }
        leaves
    }
}

fn collect_leaves(path: String, value: &serde_json::Value, into: &mut BTreeMap<String, String>) {
    use serde_json::Value;
    match value {
        Value::Null => {}
        Value::Object(map) => {
            for (name, value) in map {
                collect_leaves(format!("{path}/{name}"), value, into);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                collect_leaves(format!("{path}/{index}"), value, into);
            }
        }
        Value::String(text) => {
            into.insert(path, text.clone());
        }
        other => {
            into.insert(path, other.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_same_whatever_order_its_fields_were_given_in() {
        let one = KeyDocument::new(Kind::Env).with("a", 1).with("b", "x");
        let two = KeyDocument::new(Kind::Env).with("b", "x").with("a", 1);
        assert_eq!(one.key(), two.key());
    }

    #[test]
    fn keys_of_this_schema_never_change() {
        let base = KeyDocument::new(Kind::Base)
            .with("platform", "linux/amd64")
            .with("dockerfile", Digest::of("FROM debian:bookworm-slim\n"))
            .with("args", BTreeMap::from([("PYTHON", "3.9")]));
        // From Python: hashlib.sha256(b"imgforge-key\0base\0" b"1\0" + text.encode()).hexdigest()
        assert_eq!(
            base.canonical(),
            format!(
                r#"{{"args":{{"PYTHON":"3.9"}},"dockerfile":"{}","platform":"linux/amd64"}}"#,
                Digest::of("FROM debian:bookworm-slim\n")
            )
        );
        assert_eq!(
            base.key().to_string(),
            "9caf475992d75a755a6eebb564bc6378d4bec6290dbd3f09f5441e6798761163"
        );
    }

    #[test]
    fn the_kind_is_part_of_the_key() {
        let fields = KeyDocument::new(Kind::Base).with("a", 1);
        let other = KeyDocument { kind: Kind::Env, ..fields.clone() };
        assert_ne!(fields.key(), other.key());
    }

    #[test]
    fn a_change_names_the_field_with_old_and_new() {
        let old = KeyDocument::new(Kind::Env)
            .with("locks", BTreeMap::from([("a.txt", "1"), ("b.txt", "2")]))
            .with("parent", "p");
        let new = KeyDocument::new(Kind::Env)
            .with("locks", BTreeMap::from([("a.txt", "1"), ("b.txt", "3")]))
            .with("parent", "p");
        assert_eq!(
            new.changes_from(&old),
            [FieldChange {
                field: "locks/b.txt".into(),
                old: Some("2".into()),
                new: Some("3".into())
            }]
        );
    }

    #[test]
    fn a_null_field_and_an_absent_one_explain_alike() {
        let old = KeyDocument::new(Kind::Instance).with("model_patch", ());
        let new = KeyDocument::new(Kind::Instance).with("model_patch", "x");
        assert_eq!(new.changes_from(&old)[0].old, None);
    }

    #[test]
    fn upper_case_and_short_hex_are_refused() {
        assert!("AB".repeat(32).parse::<Key>().is_err());
        assert!("ab".parse::<Digest>().is_err());
        assert!("ab".repeat(32).parse::<Key>().is_ok());
    }
}
