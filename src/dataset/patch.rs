//! The text of a patch, as bytes: a diff of files in another encoding than UTF-8 is a patch too.
//!
//! What a patch says is the business of [`crate::patch`].

use std::borrow::Cow;
use std::sync::Arc;

use serde::ser::{Error as _, Serialize, Serializer};
use serde_json::value::RawValue;

/// The bytes of a patch.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Patch(Arc<[u8]>);

impl Patch {
    /// Returns the bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the text, with replacement characters for what is not UTF-8: for people.
    pub fn to_string_lossy(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }

    /// Tells whether it holds nothing but white space.
    pub fn is_blank(&self) -> bool {
        std::str::from_utf8(&self.0).is_ok_and(|text| text.trim().is_empty())
    }

    /// Returns the patch, or `None` where it is blank: the same as absent.
    pub fn non_blank(&self) -> Option<Patch> {
        (!self.is_blank()).then(|| self.clone())
    }
}

impl Default for Patch {
    fn default() -> Self {
        Patch(Arc::from([]))
    }
}

impl From<&str> for Patch {
    fn from(text: &str) -> Self {
        Patch(Arc::from(text.as_bytes()))
    }
}

impl From<String> for Patch {
    fn from(text: String) -> Self {
        Patch::from(text.into_bytes())
    }
}

impl From<Vec<u8>> for Patch {
    fn from(bytes: Vec<u8>) -> Self {
        Patch(Arc::from(bytes))
    }
}

impl std::fmt::Debug for Patch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&self.to_string_lossy(), f)
    }
}

/// A string; bytes that are not UTF-8 are written as Python's `surrogateescape` writes them, so that
/// the same bytes are read again.
impl Serialize for Patch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut json = String::from("\"");
        for chunk in self.0.utf8_chunks() {
            if chunk.valid().len() == self.0.len() {
                return serializer.serialize_str(chunk.valid());
            }
            let quoted = serde_json::to_string(chunk.valid()).map_err(S::Error::custom)?;
            json.push_str(&quoted[1..quoted.len() - 1]);
            for byte in chunk.invalid() {
                json.push_str(&format!("\\udc{byte:02x}"));
            }
        }
        json.push('"');
        RawValue::from_string(json).map_err(S::Error::custom)?.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_a_string_and_other_bytes_are_escaped() {
        let json = |bytes: &[u8]| serde_json::to_string(&Patch::from(bytes.to_vec())).unwrap();
        assert_eq!(json(b""), r#""""#);
        assert_eq!(json("a\n\"é\"".as_bytes()), "\"a\\n\\\"é\\\"\"");
        assert_eq!(json(b"-caf\xe9\n\xff"), r#""-caf\udce9\n\udcff""#);
    }

    #[test]
    fn only_white_space_is_blank() {
        assert!(Patch::from(" \n\t").is_blank());
        assert!(Patch::default().non_blank().is_none());
        assert!(!Patch::from(b" \xe9".to_vec()).is_blank());
    }
}
