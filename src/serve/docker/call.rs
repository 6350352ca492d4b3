//! One request: its path, its parameters, its body.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::answer::Refusal;

/// The most that a document may be, in bytes.
const MOST_DOCUMENT: usize = 4 << 20;

/// A request.
pub(super) struct Call {
    /// What is done.
    pub(super) method: Method,
    /// The parts of the path, decoded, without the version.
    pub(super) path: Vec<String>,
    /// The version that the path names, such as `(1, 41)`.
    pub(super) version: Option<(u32, u32)>,
    parameters: Vec<(String, String)>,
    /// The request itself.
    pub(super) request: Request<Incoming>,
}

impl Call {
    /// Takes a request apart.
    pub(super) fn new(request: Request<Incoming>) -> Call {
        let decode = |part: &str| {
            percent_encoding::percent_decode_str(part).decode_utf8_lossy().into_owned()
        };
        let mut path: Vec<String> =
            request.uri().path().split('/').filter(|part| !part.is_empty()).map(decode).collect();
        let version = path.first().and_then(|part| version(part));
        if version.is_some() {
            path.remove(0);
        }
        let query = request.uri().query().unwrap_or_default();
        let parameters = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        Call { method: request.method().clone(), path, version, parameters, request }
    }

    /// Returns a parameter that is not empty.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// Returns all values of a parameter that are not empty.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let named = self.parameters.iter().filter(move |(known, _)| known == name);
        named.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// Tells whether a parameter is set, as Docker reads it.
    pub(super) fn is_set(&self, name: &str) -> bool {
        let value = self.parameter(name).unwrap_or("0").to_lowercase();
        !matches!(value.as_str(), "0" | "no" | "false" | "none")
    }

    /// Reads a number of the parameters.
    ///
    /// # Errors
    /// Where it is there and no number.
    pub(super) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Refusal> {
        let Some(text) = self.parameter(name) else { return Ok(None) };
        let wrong = |_| Refusal::bad(format!("`{name}={text}` is not a number"));
        text.parse().map(Some).map_err(wrong)
    }

    /// Reads the body to its end; it is a document, and small.
    pub(super) async fn bytes(&mut self) -> Result<Bytes, Refusal> {
        let body = Limited::new(self.request.body_mut(), MOST_DOCUMENT);
        let read = body.collect().await;
        let failed = |error| Refusal::bad(format!("cannot read the body: {error}"));
        read.map(http_body_util::Collected::to_bytes).map_err(failed)
    }

    /// Reads the document of the body; without one it is an empty object.
    pub(super) async fn value(&mut self) -> Result<Value, Refusal> {
        let bytes = self.bytes().await?;
        if bytes.is_empty() {
            return Ok(Value::Object(serde_json::Map::new()));
        }
        let value = serde_json::from_slice(&bytes).map_err(|error| not_a_document(&error))?;
        Ok(with_go_names(value))
    }

    /// Reads the document of the body as what it has to be.
    pub(super) async fn document<T: DeserializeOwned>(&mut self) -> Result<T, Refusal> {
        let value = self.value().await?;
        serde_json::from_value(value).map_err(|error| not_a_document(&error))
    }
}

/// Writes the names of fields with a capital first letter: to Docker both are the same, and some clients
/// send the other.
fn with_go_names(value: Value) -> Value {
    let Value::Object(fields) = value else { return value };
    let mut named = serde_json::Map::new();
    for (name, value) in fields {
        let mut letters = name.chars();
        let capital =
            letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str());
        named.entry(capital.unwrap_or_default()).or_insert(value);
    }
    Value::Object(named)
}

/// Turns fields that are one word into lists, as Docker takes both.
pub(super) fn words_as_lists(value: &mut Value, fields: &[&str]) {
    for field in fields {
        if let Some(word @ Value::String(_)) = value.get_mut(*field) {
            *word = Value::Array(vec![word.take()]);
        }
    }
}

/// Refuses a body.
pub(super) fn not_a_document(error: &serde_json::Error) -> Refusal {
    Refusal::bad(format!("invalid JSON: {error}"))
}

/// Reads a version such as `v1.41`.
fn version(part: &str) -> Option<(u32, u32)> {
    let (major, minor) = part.strip_prefix('v')?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{version, with_go_names};

    #[test]
    fn fields_are_the_same_with_a_small_first_letter_and_what_is_in_them_stays() {
        let value = json!({ "detachKeys": "a", "Labels": { "b": "c" } });
        let right = json!({ "DetachKeys": "a", "Labels": { "b": "c" } });
        assert_eq!(with_go_names(value), right);
    }

    #[test]
    fn a_version_is_read_and_other_parts_are_none() {
        assert_eq!(version("v1.41"), Some((1, 41)));
        for part in ["containers", "v1", "1.41", "v1.x", "_ping"] {
            assert_eq!(version(part), None, "{part}");
        }
    }
}
