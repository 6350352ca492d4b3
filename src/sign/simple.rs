//! The payload of cosign's signatures: "simple signing", a document that names the digest of a manifest.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{NotSigned, PrivateKey, PublicKey};

/// The media type of the payload.
pub const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// The annotation of a layer that is the signature of what the layer holds.
pub const SIGNATURE: &str = "dev.cosignproject.cosign/signature";

/// The suffix of the tag that holds the signatures of a digest.
pub const SIG: &str = ".sig";

/// What `critical.type` has to be.
const TYPE: &str = "cosign container image signature";

/// The document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SimplePayload {
    critical: Critical,
    optional: Option<serde_json::Map<String, serde_json::Value>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Critical {
    identity: Identity,
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    #[serde(rename = "docker-reference")]
    reference: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Image {
    // The specification's example writes it with a capital, every program without.
    #[serde(rename = "docker-manifest-digest", alias = "Docker-manifest-digest")]
    digest: String,
}

impl SimplePayload {
    /// Makes the payload of an image: `repository` with its registry, and the manifest's digest.
    pub fn new(repository: &str, digest: &str) -> SimplePayload {
        SimplePayload {
            critical: Critical {
                identity: Identity { reference: repository.to_owned() },
                image: Image { digest: digest.to_owned() },
                kind: TYPE.to_owned(),
            },
            optional: None,
        }
    }

    /// Returns the bytes that are signed.
    ///
    /// # Panics
    /// Never: it is plain text.
    pub fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("it is plain text")
    }

    /// Signs it: the DER of the signature.
    pub fn sign(&self, key: &PrivateKey) -> Vec<u8> {
        key.sign(&self.bytes())
    }

    /// Checks that `payload` is signed by one of `keys` and names `digest`. Nothing of it is read
    /// before its signature is known to be good.
    ///
    /// # Errors
    /// Why it is not the image's signature.
    pub fn verify(
        payload: &[u8],
        signature: &[u8],
        keys: &[PublicKey],
        digest: &str,
    ) -> Result<(), NotSigned> {
        if !keys.iter().any(|key| key.verifies(payload, signature)) {
            return Err(NotSigned::OtherKey);
        }
        let payload: SimplePayload =
            serde_json::from_slice(payload).map_err(NotSigned::malformed)?;
        if payload.critical.kind != TYPE {
            return Err(NotSigned::malformed("its type is another one"));
        }
        match payload.critical.image.digest {
            signed if signed == digest => Ok(()),
            digest => Err(NotSigned::OtherImage { digest }),
        }
    }
}

/// Makes the config of a manifest of payloads: as images have it, and saying nothing, so that registries
/// take it which know images only.
///
/// # Panics
/// Never: it is plain text.
pub fn config(layers: &[&str]) -> Vec<u8> {
    let none = "0001-01-01T00:00:00Z";
    let history = vec![json!({"created": none}); layers.len()];
    let config = json!({
        "architecture": "", "created": none, "history": history, "os": "",
        "rootfs": {"type": "layers", "diff_ids": layers}, "config": {},
    });
    config.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    #[test]
    fn what_cosign_signed_is_verified_and_for_its_digest_only() {
        // Made with `cosign sign --key` 2.5.0.
        let digest = "sha256:5cb9a581ca261a22156d7f5532336887630512065babd73a570a2a0194be37ca";
        let payload = format!(
            r#"{{"critical":{{"identity":{{"docker-reference":"127.0.0.1:5931/t/img"}},"image":{{"docker-manifest-digest":"{digest}"}},"type":"cosign container image signature"}},"optional":null}}"#
        );
        let signature = STANDARD
            .decode(
                "MEUCIH8Qnr4fUcsDWmWvt7g4rYn2ZK4D1X542E4xwIhc1qNiAiEAqLo7DtaAOpovvttkeC/IWS06p3fLax\
                 Rdlv/bxdTBzW8=",
            )
            .unwrap();
        let keys = [PublicKey::read(
            "-----BEGIN PUBLIC KEY-----\n\
             MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEWwUKtj6QG892A7rgvXlhi4Rte5NR\n\
             KHNs+xLC6tBWAyNW/AG54p0M2il3ANbiuKhZv2aEPBiazAGHvtmV9Qbejw==\n\
             -----END PUBLIC KEY-----\n",
        )
        .unwrap()];
        let verify = |payload: &str, digest: &str| {
            SimplePayload::verify(payload.as_bytes(), &signature, &keys, digest)
        };
        assert_eq!(verify(&payload, digest), Ok(()));
        let other = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
        let digest = digest.to_owned();
        assert_eq!(verify(&payload, other), Err(NotSigned::OtherImage { digest: digest.clone() }));
        let changed = payload.replace(&digest, other);
        assert_eq!(verify(&changed, other), Err(NotSigned::OtherKey));
        // And it is written to the byte as cosign writes it.
        let ours = SimplePayload::new("127.0.0.1:5931/t/img", &digest).bytes();
        assert_eq!(String::from_utf8(ours).unwrap(), payload);
    }

    #[test]
    fn a_signed_text_of_another_kind_is_no_signature_of_an_image() {
        let key = PrivateKey::generate();
        let digest = format!("sha256:{}", "0".repeat(64));
        let text = String::from_utf8(SimplePayload::new("a/b", &digest).bytes()).unwrap();
        let atomic = text.replace(TYPE, "atomic container signature");
        for text in [atomic.as_str(), "{}", "", "null"] {
            let verified = SimplePayload::verify(
                text.as_bytes(),
                &key.sign(text.as_bytes()),
                &[key.public()],
                &digest,
            );
            assert!(matches!(verified, Err(NotSigned::Malformed { .. })), "{text}: {verified:?}");
        }
    }
}
