//! The documents of images as the Open Container Initiative has them: manifests, and how they name
//! what belongs to them.

use oci_spec::image::{
    Descriptor, DescriptorBuilder, ImageManifest, ImageManifestBuilder, MediaType,
};

use super::{EngineError, Result};

/// Makes a descriptor of a blob.
///
/// # Errors
/// [`EngineError::Refused`] where `digest` is none.
pub(super) fn descriptor(media_type: MediaType, digest: &str, size: u64) -> Result<Descriptor> {
    let refused = |reason: String| EngineError::Refused {
        action: format!("name the blob `{digest}`"),
        reason,
    };
    let digest: oci_spec::image::Digest =
        digest.parse().map_err(|error: oci_spec::OciSpecError| refused(error.to_string()))?;
    DescriptorBuilder::default()
        .media_type(media_type)
        .digest(digest)
        .size(size)
        .build()
        .map_err(|error| refused(error.to_string()))
}

/// Makes the manifest of a config and its layers, the lowest first.
pub(super) fn manifest(config: Descriptor, layers: Vec<Descriptor>) -> ImageManifest {
    ImageManifestBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageManifest)
        .config(config)
        .layers(layers)
        .build()
        .expect("all that a manifest needs is set")
}

/// Returns the bytes of a manifest. Equal manifests have equal bytes, so that their digests are equal.
pub(super) fn manifest_json(manifest: &ImageManifest) -> Vec<u8> {
    let value = serde_json::to_value(manifest).expect("a manifest is valid JSON");
    value.to_string().into_bytes()
}
