//! Signatures of images in a registry: looking for one that a trusted key made, and attaching one.
//!
//! Two forms are read and written, as cosign 2 and cosign 3 have them: a manifest under the tag
//! `sha256-<hex>.sig`, and a bundle that refers to the image. A third one, cosign's first try at
//! referrers, is read. What is verified is a digest: whoever verified one pulls by it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::engine::registry::RegistryClient;
use crate::engine::registry::artifact::{Artifact, MANIFEST, Part, tag_of};
use crate::engine::retry::retried;
use crate::engine::{EngineError, Result};
use crate::retry::{QUESTION, TRANSFER};
use crate::sign::{
    BUNDLE, Bundle, Envelope, NotSigned, PrivateKey, PublicKey, SIG, SIGNATURE, SIGNED,
    SIMPLE_SIGNING, SimplePayload, Statement,
};

use super::archive::CONFIG_TYPE;
use crate::engine::NoLog;

/// The annotation of a bundle's manifest that says what its statement is.
const PREDICATE: &str = "dev.sigstore.bundle.predicateType";

/// No signature is larger.
const LARGEST: u64 = 1 << 20;

/// How many signatures of an image are looked at, in each form.
const MOST: usize = 32;

/// Looks for a signature of one of `keys` on the manifest of that digest.
///
/// # Errors
/// A registry that does not answer. That nothing good is there is the inner error.
pub(super) async fn verify(
    remote: &RegistryClient,
    digest: &str,
    keys: &[PublicKey],
) -> Result<std::result::Result<(), NotSigned>> {
    let looked = Looking { remote, digest, keys };
    let tagged = looked.tagged().await?;
    let Err(first) = tagged else { return Ok(Ok(())) };
    let Err(second) = looked.referring(SIGNED).await? else { return Ok(Ok(())) };
    Ok(Err(if second.rank() > first.rank() { second } else { first }))
}

/// A search for a signature.
struct Looking<'a> {
    remote: &'a RegistryClient,
    digest: &'a str,
    keys: &'a [PublicKey],
}

/// How a search ended.
type Found = std::result::Result<(), NotSigned>;

/// Keeps the reason that says most.
fn note(why: &mut NotSigned, found: NotSigned) {
    if found.rank() > why.rank() {
        *why = found;
    }
}

/// Tells what a registry's answer says of a signature from that it does not answer.
fn of_answer<T>(answer: Result<T>) -> Result<std::result::Result<T, NotSigned>> {
    match answer {
        Ok(found) => Ok(Ok(found)),
        Err(
            EngineError::NotFound { reason, .. }
            | EngineError::Pull { reason, .. }
            | EngineError::Refused { reason, .. },
        ) => Ok(Err(NotSigned::malformed(reason))),
        Err(error) => Err(error),
    }
}

impl Looking<'_> {
    /// Looks under cosign's tag.
    async fn tagged(&self) -> Result<Found> {
        self.of_manifest(&tag_of(self.digest, SIG), SIGNED).await
    }

    /// Looks at what refers to the image and says `predicate`, or nothing of what it says.
    async fn referring(&self, predicate: &str) -> Result<Found> {
        let asked = retried(&NoLog, QUESTION, || self.remote.referrers(self.digest)).await;
        let listed = match of_answer(asked)? {
            Ok(listed) => listed,
            Err(why) => return Ok(Err(why)),
        };
        let mut why = NotSigned::Unsigned;
        let says =
            |part: &&Part| part.annotations.get(PREDICATE).is_none_or(|found| found == predicate);
        for part in listed.iter().filter(says).take(MOST) {
            match self.of_manifest(&part.digest, predicate).await? {
                Ok(()) => return Ok(Ok(())),
                Err(found) => note(&mut why, found),
            }
        }
        Ok(Err(why))
    }

    /// Looks at the layers of a manifest.
    async fn of_manifest(&self, version: &str, predicate: &str) -> Result<Found> {
        let asked = retried(&NoLog, QUESTION, || self.remote.artifact(version)).await;
        let manifest = match of_answer(asked)? {
            Ok(Some(manifest)) => manifest,
            Ok(None) => return Ok(Err(NotSigned::Unsigned)),
            Err(why) => return Ok(Err(why)),
        };
        let mut why = NotSigned::Unsigned;
        for layer in manifest.layers.iter().take(MOST) {
            let checked = match layer.media_type.as_str() {
                SIMPLE_SIGNING if predicate == SIGNED => self.simple(layer).await?,
                kind if Bundle::is(kind) => self.bundle(layer, predicate).await?,
                _ => continue,
            };
            match checked {
                Ok(()) => return Ok(Ok(())),
                Err(found) => note(&mut why, found),
            }
        }
        Ok(Err(why))
    }

    async fn blob(&self, layer: &Part) -> Result<std::result::Result<Vec<u8>, NotSigned>> {
        of_answer(retried(&NoLog, QUESTION, || self.remote.small_blob(layer, LARGEST)).await)
    }

    async fn simple(&self, layer: &Part) -> Result<Found> {
        let Some(signature) = layer.annotations.get(SIGNATURE) else {
            return Ok(Err(NotSigned::malformed(format!("a layer has no `{SIGNATURE}`"))));
        };
        let Ok(signature) = STANDARD.decode(signature) else {
            return Ok(Err(NotSigned::malformed(format!("`{SIGNATURE}` is not base64"))));
        };
        let verified = self.blob(layer).await?.and_then(|payload| {
            SimplePayload::verify(&payload, &signature, self.keys, self.digest)
        });
        Ok(verified)
    }

    async fn bundle(&self, layer: &Part, predicate: &str) -> Result<Found> {
        Ok(self.blob(layer).await?.and_then(|bytes| {
            let bundle: Bundle = serde_json::from_slice(&bytes).map_err(NotSigned::malformed)?;
            let envelope = bundle.dsse_envelope.ok_or(NotSigned::Unsigned)?;
            let statement = envelope.open(self.keys, self.digest)?;
            // Saying something of an image is not vouching for it.
            match statement.predicate_type == predicate {
                true => Ok(()),
                false => Err(NotSigned::Unsigned),
            }
        }))
    }
}

/// Signs the manifest of that digest, in both forms; one that is there already stays as it is.
///
/// # Errors
/// A registry that does not answer, or does not take it.
pub(super) async fn sign(remote: &RegistryClient, digest: &str, key: &PrivateKey) -> Result<()> {
    let keys = [key.public()];
    let looked = Looking { remote, digest, keys: &keys };
    if looked.tagged().await?.is_err() {
        let payload = SimplePayload::new(&remote.repository(), digest);
        let put = || remote.put_blob(SIMPLE_SIGNING, payload.bytes());
        let mut layer = retried(&NoLog, TRANSFER, put).await?;
        layer.annotations.insert(SIGNATURE.to_owned(), STANDARD.encode(payload.sign(key)));
        add_layer(remote, &tag_of(digest, SIG), layer).await?;
    }
    if !is_attested(remote, digest, SIGNED, key).await? {
        attest(remote, digest, SIGNED, json!({}), key).await?;
    }
    Ok(())
}

/// Adds a layer to the manifest of a tag; those of others stay.
async fn add_layer(remote: &RegistryClient, tag: &str, layer: Part) -> Result<()> {
    let asked = retried(&NoLog, QUESTION, || remote.artifact(tag)).await;
    // What is no manifest gives way.
    let before = of_answer(asked)?.ok().flatten();
    let mut layers = before.map_or_else(Vec::new, |manifest| manifest.layers);
    layers.push(layer);
    let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.digest.as_str()).collect();
    let config = crate::sign::config(&diff_ids);
    let put = async || {
        let config = remote.put_blob(CONFIG_TYPE, config.clone()).await?;
        remote.put_tagged(tag, &Artifact::new(config, layers.clone())).await
    };
    retried(&NoLog, TRANSFER, put).await
}

/// Attaches a signed statement about the manifest of that digest.
///
/// # Errors
/// A registry that does not answer, or does not take it.
pub(super) async fn attest(
    remote: &RegistryClient,
    digest: &str,
    predicate_type: &str,
    predicate: Value,
    key: &PrivateKey,
) -> Result<()> {
    let statement = Statement::new("", digest, predicate_type, predicate);
    let bundle = Bundle::new(Envelope::seal(&statement, key), &key.public());
    refer(remote, digest, &bundle, predicate_type).await
}

/// Tells whether a key signed a statement of that predicate about the manifest of that digest.
///
/// # Errors
/// A registry that does not answer.
pub(super) async fn is_attested(
    remote: &RegistryClient,
    digest: &str,
    predicate_type: &str,
    key: &PrivateKey,
) -> Result<bool> {
    let keys = [key.public()];
    let looked = Looking { remote, digest, keys: &keys };
    Ok(looked.referring(predicate_type).await?.is_ok())
}

/// Attaches a bundle to the manifest of that digest.
async fn refer(
    remote: &RegistryClient,
    digest: &str,
    bundle: &Bundle,
    predicate: &str,
) -> Result<()> {
    let subject = retried(&NoLog, QUESTION, || remote.manifest_bytes(digest)).await?;
    let subject = subject.ok_or_else(|| remote.refused(format!("`{digest}` is not there")))?;
    let kind = serde_json::from_slice::<Value>(&subject).ok();
    let kind = kind.and_then(|kind| Some(kind.get("mediaType")?.as_str()?.to_owned()));
    let subject = Part::of(kind.as_deref().unwrap_or(MANIFEST), &subject);
    let bytes = serde_json::to_vec(bundle).expect("it is plain text");
    let annotations = [("dev.sigstore.bundle.content", "dsse-envelope"), (PREDICATE, predicate)];
    let annotations = annotations.map(|(name, value)| (name.to_owned(), value.to_owned()));
    // Several that are attached at once share a blob: some registries do not know it for a moment.
    let put = async || {
        let layer = remote.put_blob(BUNDLE, bytes.clone()).await?;
        let mut artifact = Artifact::new(Part::empty(), vec![layer]);
        artifact.artifact_type = Some(BUNDLE.to_owned());
        artifact.annotations = annotations.clone().into();
        remote.put_referrer(&subject, artifact).await
    };
    retried(&NoLog, TRANSFER, put).await
}
