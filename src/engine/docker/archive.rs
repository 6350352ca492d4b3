//! The archive of a thin load: an image's config and its new layers, the layers below left out.
//!
//! The engine has the lower layers already. A graph driver (`overlay2`) reads `manifest.json` and
//! finds them by their digests; a containerd store reads the OCI layout and finds them by the
//! descriptors that it keeps them under. The id of the image, the digest of the config for the one
//! and of the manifest for the other, is known before the load.

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use oci_spec::image::{Descriptor, ImageIndexBuilder, MediaType};
use serde_json::json;
use tokio_util::io::ReaderStream;

use crate::engine::documents::{descriptor, manifest, manifest_json};
use crate::engine::{EngineError, LayerFile, Result};
use crate::key::{DiffId, Digest, ImageId};

/// An archive to be loaded.
pub(super) struct Thin<'a> {
    /// The id that the image will have.
    pub id: ImageId,
    /// The layers as a containerd store names them; empty for a graph driver.
    pub layers: Vec<Descriptor>,
    head: Vec<u8>,
    new: &'a [LayerFile],
}

impl<'a> Thin<'a> {
    /// Makes the archive of an image whose layers are `diff_ids`, the last of them `new`. `below`
    /// holds the descriptors of the others on a containerd store.
    pub(super) fn new(
        config: &[u8],
        diff_ids: &[DiffId],
        new: &'a [LayerFile],
        below: Option<&[Descriptor]>,
    ) -> Result<Thin<'a>> {
        let config_digest = Digest::of(config);
        let names: Vec<String> = diff_ids.iter().map(|id| blob(id.as_str())).collect();
        let list = json!([{
            "Config": blob(&config_digest.oci()), "RepoTags": null, "Layers": names,
        }]);
        let mut head = entry("manifest.json", list.to_string().as_bytes());
        head.extend(entry(&blob(&config_digest.oci()), config));
        let mut id = config_digest.oci();
        let mut layers = Vec::new();
        if let Some(below) = below {
            layers = below.to_vec();
            for layer in new {
                let (digest, size) = (layer.diff_id.oci(), layer.size);
                layers.push(descriptor(MediaType::ImageLayer, &digest, size)?);
            }
            let size = config.len() as u64;
            let config = descriptor(MediaType::ImageConfig, &config_digest.oci(), size)?;
            let manifest = manifest_json(&manifest(config, layers.clone()));
            id = Digest::of(&manifest).oci();
            let index = ImageIndexBuilder::default()
                .schema_version(2_u32)
                .media_type(MediaType::ImageIndex)
                .manifests([descriptor(MediaType::ImageManifest, &id, manifest.len() as u64)?])
                .build()
                .expect("all that an index needs is set");
            let index = serde_json::to_vec(&index).expect("an index is valid JSON");
            head.extend(entry("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#));
            head.extend(entry("index.json", &index));
            head.extend(entry(&blob(&id), &manifest));
        }
        Ok(Thin { id: id.into(), layers, head, new })
    }

    /// Streams the archive; the layers are read from their files as the engine takes them.
    pub(super) async fn stream(
        &self,
    ) -> Result<impl Stream<Item = std::io::Result<Bytes>> + Send + use<>> {
        let one = |bytes: Vec<u8>| stream::once(async { Ok(Bytes::from(bytes)) }).boxed();
        let mut parts = vec![one(self.head.clone())];
        for layer in self.new {
            let file = tokio::fs::File::open(&layer.path).await;
            let file = file.map_err(|source| {
                let path = layer.path.clone();
                EngineError::File { path, source }
            })?;
            let padding = layer.size.next_multiple_of(512) - layer.size;
            parts.push(one(header(&blob(&layer.diff_id.oci()), layer.size)));
            parts.push(ReaderStream::with_capacity(file, 1 << 18).boxed());
            parts.push(one(vec![0; padding as usize]));
        }
        parts.push(one(vec![0; 1024]));
        Ok(stream::iter(parts).flatten())
    }
}

/// The path of a blob in an OCI layout.
fn blob(digest: &str) -> String {
    format!("blobs/sha256/{}", digest.trim_start_matches("sha256:"))
}

/// One file of an archive in memory.
fn entry(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut out = header(name, bytes.len() as u64);
    out.extend_from_slice(bytes);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

fn header(name: &str, size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name).expect("names in the archive are short");
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    header.as_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(archive: &[u8]) -> Vec<(String, usize)> {
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().unwrap();
        let named = entries.map(|entry| {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
            (name, bytes.len())
        });
        named.collect()
    }

    async fn archive(layer: &[u8], below: Option<&[Descriptor]>) -> (String, Vec<u8>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("layer.tar");
        std::fs::write(&path, layer).unwrap();
        let diff_id = Digest::of(layer);
        let layer = LayerFile { path, diff_id, size: layer.len() as u64 };
        let diff_ids = ["sha256:00".into(), DiffId::from(diff_id)];
        let new = [layer];
        let thin = Thin::new(b"{}", &diff_ids, &new, below).unwrap();
        let mut bytes = Vec::new();
        let mut stream = thin.stream().await.unwrap();
        while let Some(piece) = stream.next().await {
            bytes.extend(piece.unwrap());
        }
        (thin.id.to_string(), bytes)
    }

    #[tokio::test]
    async fn a_graph_driver_gets_the_config_and_the_one_new_layer() {
        let (id, bytes) = archive(&[7; 700], None).await;
        assert_eq!(id, Digest::of("{}").oci());
        assert_eq!(bytes.len() % 512, 0);
        let files = files(&bytes);
        let config = (format!("blobs/sha256/{}", Digest::of("{}")), 2);
        let layer = (format!("blobs/sha256/{}", Digest::of([7; 700])), 700);
        assert_eq!(files[0].0, "manifest.json");
        assert_eq!(files[1..], [config, layer]);
    }

    #[tokio::test]
    async fn a_containerd_store_gets_a_layout_whose_manifest_is_the_id() {
        let lower = format!("sha256:{}", "1".repeat(64));
        let below = [descriptor(MediaType::ImageLayerGzip, &lower, 5).unwrap()];
        let (id, bytes) = archive(&[7; 512], Some(&below)).await;
        let names: Vec<String> = files(&bytes).into_iter().map(|(name, _)| name).collect();
        assert!(names.contains(&"oci-layout".to_owned()));
        assert!(names.contains(&blob(&id)), "{names:?}");
        assert!(!names.contains(&blob(&lower)), "the lower layer is left out");
    }
}
