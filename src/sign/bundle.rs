//! Sigstore's bundle: an envelope with what it takes to verify it, as cosign 3 attaches it to images.

use serde::{Deserialize, Serialize};

use super::{Envelope, PublicKey};

/// The media type that is written.
pub const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

/// A bundle with an envelope and a key's hint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bundle {
    media_type: String,
    #[serde(default)]
    verification_material: Material,
    /// The envelope; bundles of other content have none.
    pub dsse_envelope: Option<Envelope>,
}

/// What tells which key it is. A hint decides nothing: the keys to trust are known beforehand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Material {
    public_key: Hint,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Hint {
    hint: String,
}

impl Bundle {
    /// Makes the bundle of an envelope that a key signed.
    pub fn new(envelope: Envelope, key: &PublicKey) -> Bundle {
        Bundle {
            media_type: BUNDLE.to_owned(),
            verification_material: Material { public_key: Hint { hint: key.hint() } },
            dsse_envelope: Some(envelope),
        }
    }

    /// Tells whether a media type is that of a bundle, of any version.
    pub fn is(media_type: &str) -> bool {
        media_type.starts_with("application/vnd.dev.sigstore.bundle")
    }
}

#[cfg(test)]
mod tests {
    use super::super::{NotSigned, SIGNED};
    use super::*;

    #[test]
    fn a_bundle_that_cosign_made_is_read() {
        // Made with `cosign sign --key` 3.1.1.
        let text = r#"{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"publicKey":{"hint":"IfKg4YkiB6PuJsXu3Rg/hkVDTfxCzHKTvZyQ2IMOMpc="}},"dsseEnvelope":{"payload":"eyJfdHlwZSI6Imh0dHBzOi8vaW4tdG90by5pby9TdGF0ZW1lbnQvdjEiLCJzdWJqZWN0IjpbeyJkaWdlc3QiOnsic2hhMjU2IjoiNWNiOWE1ODFjYTI2MWEyMjE1NmQ3ZjU1MzIzMzY4ODc2MzA1MTIwNjViYWJkNzNhNTcwYTJhMDE5NGJlMzdjYSJ9LCJhbm5vdGF0aW9ucyI6e319XSwicHJlZGljYXRlVHlwZSI6Imh0dHBzOi8vc2lnc3RvcmUuZGV2L2Nvc2lnbi9zaWduL3YxIiwicHJlZGljYXRlIjp7fX0=","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"MEUCIG3lDH7FmoeDFssFfHJUqMrmVVaHpI9RxO7p+tmiYT/8AiEAkshOfnqc2uYCevppWwt9f7eJp/djMtACeijqjHf4+dg="}]}}"#;
        let digest = "sha256:5cb9a581ca261a22156d7f5532336887630512065babd73a570a2a0194be37ca";
        let bundle: Bundle = serde_json::from_str(text).unwrap();
        let key = PublicKey::read(COSIGN_3_PUB).unwrap();
        assert_eq!(bundle.verification_material.public_key.hint, key.hint());
        let envelope = bundle.dsse_envelope.clone().unwrap();
        let statement = envelope.open(std::slice::from_ref(&key), digest).unwrap();
        assert_eq!(statement.predicate_type, SIGNED);
        assert_eq!(envelope.open(&[], digest), Err(NotSigned::OtherKey));
        // And it is written to the byte as cosign writes it.
        assert_eq!(serde_json::to_string(&bundle).unwrap(), text);
    }

    const COSIGN_3_PUB: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEmxGJhKfKrVBEJFKdVcgedEfeNeC7
yy62rIP5kd0MoEOIUDTwo9ToDf4/UoeIrKUQ4nMCfiC27EAfpG/fhlUvQg==
-----END PUBLIC KEY-----
";
}
