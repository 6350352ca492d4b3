//! Signatures in an archive: beside each image the manifest that a registry has under cosign's tag.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::engine::reference::split_tag;
use crate::engine::registry::artifact::tag_of;
use crate::sign::{
    NotSigned, PrivateKey, PublicKey, SIG, SIGNATURE, SIMPLE_SIGNING, SimplePayload,
};

use super::{CONFIG_TYPE, Descriptor, MANIFEST_TYPE, Manifest, NAME};

/// A payload and its signature.
type Signed = (Vec<u8>, Vec<u8>);

/// The signatures of an archive, by the digests of manifests. Nothing is checked yet.
#[derive(Debug, Default)]
pub(super) struct Signatures(HashMap<String, Vec<Signed>>);

impl Signatures {
    /// Takes a layer of a manifest that stands for the signatures of a digest.
    pub(super) fn add(&mut self, digest: String, layer: &Descriptor, payload: Vec<u8>) {
        let signature =
            layer.annotations.get(SIGNATURE).and_then(|text| STANDARD.decode(text).ok());
        if let Some(signature) = signature.filter(|_| layer.media_type == SIMPLE_SIGNING) {
            self.0.entry(digest).or_default().push((payload, signature));
        }
    }

    /// Looks for a signature of one of `keys` on a manifest.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn verify(&self, digest: &str, keys: &[PublicKey]) -> Result<(), NotSigned> {
        let mut why = NotSigned::Unsigned;
        for (payload, signature) in self.0.get(digest).into_iter().flatten() {
            match SimplePayload::verify(payload, signature, keys, digest) {
                Ok(()) => return Ok(()),
                Err(found) if found.rank() > why.rank() => why = found,
                Err(_) => {}
            }
        }
        Err(why)
    }
}

/// Returns the digest that an entry of the index has signatures of, where it has some.
pub(super) fn signed(entry: &Descriptor) -> Option<String> {
    let (_, tag) = split_tag(entry.annotations.get(NAME)?);
    Some(tag.strip_suffix(SIG)?.replacen('-', ":", 1))
}

/// Signs the manifest of an image; returns the index's entry of the signature, and what it is made of.
pub(super) fn sign(image: &str, digest: &str, key: &PrivateKey) -> (Descriptor, Vec<Vec<u8>>) {
    let (repository, _) = split_tag(image);
    let payload = SimplePayload::new(repository, digest);
    let (bytes, signature) = (payload.bytes(), payload.sign(key));
    let mut layer = Descriptor::of(SIMPLE_SIGNING, &bytes);
    layer.annotations.insert(SIGNATURE.to_owned(), STANDARD.encode(signature));
    let config = crate::sign::config(&[&layer.digest]);
    let manifest = Manifest {
        schema_version: 2,
        media_type: MANIFEST_TYPE.to_owned(),
        config: Descriptor::of(CONFIG_TYPE, &config),
        layers: vec![layer],
    };
    let manifest = serde_json::to_vec(&manifest).expect("plain values");
    let mut entry = Descriptor::of(MANIFEST_TYPE, &manifest);
    entry.annotations.insert(NAME.to_owned(), format!("{repository}:{}", tag_of(digest, SIG)));
    (entry, vec![bytes, config, manifest])
}
