//! Keys: ECDSA on P-256 with SHA-256, the scheme that cosign's specification asks everybody for.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use p256::ecdsa::signature::{Signer as _, Verifier as _};
use p256::ecdsa::{Signature, SigningKey, VerifyingKey};
use p256::elliptic_curve::Generate as _;
use p256::pkcs8::der::pem;
use p256::pkcs8::{DecodePrivateKey as _, DecodePublicKey as _, EncodePrivateKey as _};
use p256::pkcs8::{EncodePublicKey as _, LineEnding};

use crate::key::Digest;

use super::error::KeyError;
use super::sealed;

/// A key that signs.
pub struct PrivateKey(SigningKey);

/// A key that verifies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PrivateKey {
    /// Makes a new one.
    pub fn generate() -> PrivateKey {
        PrivateKey(SigningKey::generate())
    }

    /// Reads one of PEM: cosign's own form, which `password` opens, or PKCS#8. The password is asked
    /// for only where it is needed.
    ///
    /// # Errors
    /// What cannot be read or opened.
    pub fn read<E: From<KeyError>>(
        text: &str,
        password: impl FnOnce() -> Result<String, E>,
    ) -> Result<PrivateKey, E> {
        let (label, bytes) = block(text)?;
        let pkcs8 = match label.as_str() {
            label if sealed::LABELS.contains(&label) => sealed::open(&bytes, &password()?)?,
            "PRIVATE KEY" => bytes,
            _ => return Err(KeyError::OtherHalf { found: label.clone(), wanted: "private" }.into()),
        };
        let key = SigningKey::from_pkcs8_der(&pkcs8).map_err(|_| KeyError::OtherAlgorithm)?;
        Ok(PrivateKey(key))
    }

    /// Writes it as PEM in cosign's form, sealed with a password.
    ///
    /// # Panics
    /// Never: a key has a form.
    pub fn seal(&self, password: &str) -> String {
        let pkcs8 = self.0.to_pkcs8_der().expect("every key has a form");
        let sealed = sealed::seal(pkcs8.as_bytes(), password);
        pem::encode_string(sealed::LABELS[0], LineEnding::LF, &sealed)
            .expect("its label and size are fine")
    }

    /// Signs bytes: the DER of the signature.
    pub fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        let signature: Signature = self.0.sign(bytes);
        signature.to_der().as_bytes().to_vec()
    }

    /// Returns the half that verifies.
    pub fn public(&self) -> PublicKey {
        PublicKey(*self.0.verifying_key())
    }
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PrivateKey({})", self.public().hint())
    }
}

impl PublicKey {
    /// Reads one of PEM.
    ///
    /// # Errors
    /// What is no key, or of another algorithm.
    pub fn read(text: &str) -> Result<PublicKey, KeyError> {
        let (label, bytes) = block(text)?;
        if label != "PUBLIC KEY" {
            return Err(KeyError::OtherHalf { found: label, wanted: "public" });
        }
        let key = VerifyingKey::from_public_key_der(&bytes);
        key.map(PublicKey).map_err(|_| KeyError::OtherAlgorithm)
    }

    /// Reads one of a file.
    ///
    /// # Errors
    /// A file that cannot be read, or holds no such key.
    pub fn of_file(path: &Path) -> Result<PublicKey, KeyError> {
        let text = std::fs::read_to_string(path);
        PublicKey::read(&text.map_err(|source| KeyError::Read { path: path.to_owned(), source })?)
    }

    /// Writes it as PEM.
    ///
    /// # Panics
    /// Never: a key has a form.
    pub fn pem(&self) -> String {
        self.0.to_public_key_pem(LineEnding::LF).expect("every key has a form")
    }

    /// Returns what tells it from others: the sha256 of its DER, as cosign's bundles have it.
    ///
    /// # Panics
    /// Never: a key has a form.
    pub fn hint(&self) -> String {
        let der = self.0.to_public_key_der().expect("every key has a form");
        let digest = Digest::of(der.as_bytes()).to_string();
        STANDARD.encode(hex::decode(digest).expect("a digest is hexadecimal"))
    }

    /// Tells whether a signature is of these bytes, by this key.
    pub fn verifies(&self, bytes: &[u8], signature: &[u8]) -> bool {
        Signature::from_der(signature)
            .is_ok_and(|signature| self.0.verify(bytes, &signature).is_ok())
    }
}

/// Reads a block of PEM: its label and its bytes.
fn block(text: &str) -> Result<(String, Vec<u8>), KeyError> {
    let (label, bytes) = pem::decode_vec(text.trim().as_bytes()).map_err(|_| KeyError::NotPem)?;
    Ok((label.to_owned(), bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pair that `cosign generate-key-pair` 2.5.0 made, for tests; the password is `secret`.
    const COSIGN_KEY: &str = "-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----
eyJrZGYiOnsibmFtZSI6InNjcnlwdCIsInBhcmFtcyI6eyJOIjo2NTUzNiwiciI6
OCwicCI6MX0sInNhbHQiOiIrcFNsVi81cnRFMEhieS9taFQwUk51UURCY1F4Y1hG
ZjAya2JUWmNxZlF3PSJ9LCJjaXBoZXIiOnsibmFtZSI6Im5hY2wvc2VjcmV0Ym94
Iiwibm9uY2UiOiJVUkhiRGphNmlvcHNFdENEYk5Db1FLamQwRk9kbmw1dSJ9LCJj
aXBoZXJ0ZXh0IjoiTGlmVlpBekhhVk5TWnBxTDFRM3AwVjdFOHJZZXM0TU56SWRw
bGNFSlF5OStrRHBjclZXRm5HVldDa2x5ZG9SSTdVeFBxR2hkU2hab0dNSVIxWlhN
TDBtQjBtU1VNTUd1bWhIQmZUekEvenRwc3pMMW9YOXhWSWhIRyt3UEZNeWp6N2Zz
M3h6UzhzS2E5VDZleDNNY3Z3NVdFc0RVVnJLR29Bb1RCSGF6UnZEU1cxZGxGbmtN
UlVRYTFrUzR1bXJnT3VTV2Mwa3BYOGh1WFE9PSJ9
-----END ENCRYPTED SIGSTORE PRIVATE KEY-----
";
    const COSIGN_PUB: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEWwUKtj6QG892A7rgvXlhi4Rte5NR
KHNs+xLC6tBWAyNW/AG54p0M2il3ANbiuKhZv2aEPBiazAGHvtmV9Qbejw==
-----END PUBLIC KEY-----
";

    fn with(password: &str) -> impl FnOnce() -> Result<String, KeyError> {
        let password = password.to_owned();
        move || Ok(password)
    }

    #[test]
    fn a_key_that_cosign_made_is_opened_with_its_password_and_no_other() {
        let key = PrivateKey::read(COSIGN_KEY, with("secret")).unwrap();
        let public = PublicKey::read(COSIGN_PUB).unwrap();
        assert_eq!(key.public(), public);
        assert!(public.verifies(b"payload", &key.sign(b"payload")));
        let wrong = PrivateKey::read(COSIGN_KEY, with("Secret")).unwrap_err();
        assert!(matches!(wrong, KeyError::Password), "{wrong}");
    }

    #[test]
    fn a_sealed_key_is_opened_again_and_a_plain_one_needs_no_password() {
        let key = PrivateKey::generate();
        let sealed = key.seal("");
        assert!(sealed.starts_with("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n"));
        assert_eq!(PrivateKey::read(&sealed, with("")).unwrap().public(), key.public());
        let plain = key.0.to_pkcs8_pem(LineEnding::LF).unwrap();
        let unasked = || -> Result<String, KeyError> { panic!("nobody is asked") };
        assert_eq!(PrivateKey::read(&plain, unasked).unwrap().public(), key.public());
    }

    #[test]
    fn a_signature_is_of_one_text_and_one_key() {
        let (one, two) = (PrivateKey::generate(), PrivateKey::generate());
        let signature = one.sign(b"text");
        assert!(one.public().verifies(b"text", &signature));
        assert!(!one.public().verifies(b"Text", &signature));
        assert!(!two.public().verifies(b"text", &signature));
        for wrong in [&b""[..], b"text", &signature[..signature.len() - 1]] {
            assert!(!one.public().verifies(b"text", wrong));
        }
    }

    #[test]
    fn what_is_no_key_of_the_kind_is_refused() {
        assert!(matches!(PublicKey::read("ssh-ed25519 AAAA"), Err(KeyError::NotPem)));
        let other = PublicKey::read(COSIGN_KEY).unwrap_err();
        assert_eq!(other.to_string(), "it is a `ENCRYPTED SIGSTORE PRIVATE KEY`, not a public key");
        let other = PrivateKey::read(COSIGN_PUB, with("")).unwrap_err();
        assert_eq!(other.to_string(), "it is a `PUBLIC KEY`, not a private key");
        // Ed25519, from RFC 8410.
        let ed25519 = "-----BEGIN PUBLIC KEY-----\n\
             MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n\
             -----END PUBLIC KEY-----\n";
        assert!(matches!(PublicKey::read(ed25519), Err(KeyError::OtherAlgorithm)));
    }
}
