//! Attestations: an in-toto statement about images, in a signed DSSE envelope.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{NotSigned, PrivateKey, PublicKey};

/// The media type of an envelope.
pub const DSSE: &str = "application/vnd.dsse.envelope.v1+json";

/// The type of a statement, as envelopes call it.
pub const IN_TOTO: &str = "application/vnd.in-toto+json";

const STATEMENT: &str = "https://in-toto.io/Statement/v1";

/// What older programs write; the fields are the same.
const STATEMENT_BEFORE: &str = "https://in-toto.io/Statement/v0.1";

/// Something that is said of images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    /// The images.
    pub subject: Vec<Subject>,
    /// What `predicate` is.
    #[serde(rename = "predicateType")]
    pub predicate_type: String,
    /// What is said.
    #[serde(default)]
    pub predicate: Value,
}

/// An image of which something is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// What it is called; says nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The digest of its manifest, by algorithm and without it.
    pub digest: BTreeMap<String, String>,
}

/// A statement with signatures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    payload: String,
    #[serde(rename = "payloadType")]
    payload_type: String,
    signatures: Vec<Signed>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Signed {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    keyid: String,
    sig: String,
}

impl Statement {
    /// Says something of one image.
    pub fn new(name: &str, digest: &str, predicate_type: &str, predicate: Value) -> Statement {
        let (algorithm, hex) = digest.split_once(':').unwrap_or(("sha256", digest));
        Statement {
            kind: STATEMENT.to_owned(),
            subject: vec![Subject {
                name: name.to_owned(),
                digest: BTreeMap::from([(algorithm.to_owned(), hex.to_owned())]),
            }],
            predicate_type: predicate_type.to_owned(),
            predicate,
        }
    }

    /// Checks that it is about the image of a digest.
    fn about(&self, digest: &str) -> Result<(), NotSigned> {
        if ![STATEMENT, STATEMENT_BEFORE].contains(&self.kind.as_str()) {
            return Err(NotSigned::malformed("it is not a statement of in-toto"));
        }
        let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
        let all = || self.subject.iter().filter_map(|subject| subject.digest.get("sha256"));
        if all().any(|found| found == hex) {
            return Ok(());
        }
        let found = all().next().map_or("nothing".to_owned(), |found| format!("sha256:{found}"));
        Err(NotSigned::OtherImage { digest: found })
    }
}

impl Envelope {
    /// Signs a statement.
    ///
    /// # Panics
    /// Never: it is plain text.
    pub fn seal(statement: &Statement, key: &PrivateKey) -> Envelope {
        let payload = serde_json::to_vec(statement).expect("it is plain text");
        let sig = STANDARD.encode(key.sign(&encoding(IN_TOTO, &payload)));
        Envelope {
            payload: STANDARD.encode(payload),
            payload_type: IN_TOTO.to_owned(),
            signatures: vec![Signed { keyid: String::new(), sig }],
        }
    }

    /// Opens an envelope that one of `keys` signed, about the image of `digest`. Nothing of it is read
    /// before a signature is known to be good.
    ///
    /// # Errors
    /// Why it says nothing of the image.
    pub fn open(&self, keys: &[PublicKey], digest: &str) -> Result<Statement, NotSigned> {
        let payload = STANDARD.decode(&self.payload).map_err(NotSigned::malformed)?;
        let signed = encoding(&self.payload_type, &payload);
        let good = self.signatures.iter().any(|signature| {
            let bytes = STANDARD.decode(&signature.sig);
            bytes.is_ok_and(|bytes| keys.iter().any(|key| key.verifies(&signed, &bytes)))
        });
        if !good {
            return Err(NotSigned::OtherKey);
        }
        if self.payload_type != IN_TOTO {
            return Err(NotSigned::malformed("it holds no statement of in-toto"));
        }
        let statement: Statement =
            serde_json::from_slice(&payload).map_err(NotSigned::malformed)?;
        statement.about(digest).map(|()| statement)
    }
}

/// What is signed of an envelope: DSSE's pre-authentication encoding.
fn encoding(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

#[cfg(test)]
mod tests {
    use super::super::SIGNED;
    use super::*;

    const DIGEST: &str = "sha256:5cb9a581ca261a22156d7f5532336887630512065babd73a570a2a0194be37ca";

    #[test]
    fn the_encoding_is_that_of_the_specification() {
        // The example of DSSE's protocol.md.
        let encoded = encoding("http://example.com/HelloWorld", b"hello world");
        assert_eq!(encoded, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
    }

    #[test]
    fn an_envelope_is_opened_with_its_key_and_for_its_image_only() {
        let (key, other) = (PrivateKey::generate(), PrivateKey::generate());
        let statement = Statement::new("a/b", DIGEST, SIGNED, Value::Null);
        let envelope = Envelope::seal(&statement, &key);
        let keys = [other.public(), key.public()];
        assert_eq!(envelope.open(&keys, DIGEST), Ok(statement));
        assert_eq!(envelope.open(&keys[..1], DIGEST), Err(NotSigned::OtherKey));
        let elsewhere = format!("sha256:{}", "0".repeat(64));
        let digest = DIGEST.to_owned();
        assert_eq!(envelope.open(&keys, &elsewhere), Err(NotSigned::OtherImage { digest }));
        let retyped = Envelope { payload_type: "text/plain".to_owned(), ..envelope };
        assert_eq!(retyped.open(&keys, DIGEST), Err(NotSigned::OtherKey));
    }
}
