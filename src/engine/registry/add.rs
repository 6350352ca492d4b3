//! Layers on an image that a registry has, added there: of the image below nothing travels.

use std::fs::File;
use std::path::Path;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use oci_spec::image::{Descriptor, ImageManifest, MediaType};
use reqwest::Body;

use super::RegistryClient;
use crate::engine::documents::{descriptor, manifest, manifest_json};
use crate::engine::{EngineError, LayerFile, LayerRequest, Result, config_json};
use crate::hashing::Hashing;
use crate::key::{DiffId, Digest};

/// How many blobs are asked for at once.
const AT_ONCE: usize = 3;

/// What the first form of manifests, Docker's own, calls itself and its layers.
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// A layer as it travels.
struct Packed {
    file: tempfile::NamedTempFile,
    /// The digest of the compressed bytes.
    digest: String,
    size: u64,
}

impl RegistryClient {
    /// Makes an image under the name of this client: the layers of a request on its parent, which is the
    /// image that `parent` is a client of. Returns the digest of its config, which an engine that loads the
    /// same layers would have as well.
    ///
    /// # Errors
    /// [`EngineError::NoSuchImage`] where the registry's image has not the layers of the parent; those of
    /// the registry.
    pub(crate) async fn add_layers(
        &self,
        parent: &RegistryClient,
        request: &LayerRequest,
    ) -> Result<String> {
        let platform = &request.parent.platform;
        let (text, _) = parent.manifest(platform).await?;
        let below: ImageManifest = serde_json::from_slice(&text)
            .map_err(|error| parent.refused(format!("its manifest cannot be read: {error}")))?;
        if below.layers().len() != request.parent.diff_ids.len() {
            return Err(EngineError::NoSuchImage { reference: parent.reference.to_string() });
        }
        stream::iter(below.layers().clone())
            .map(|layer| async move { self.take_over(parent, &layer).await })
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        let is_docker = below.media_type().as_ref().is_some_and(|kind| *kind == docker_manifest());
        let kind = match is_docker {
            true => MediaType::Other(DOCKER_LAYER.to_owned()),
            false => MediaType::ImageLayerGzip,
        };
        let (mut layers, mut diff_ids) = (below.layers().clone(), request.parent.diff_ids.clone());
        for layer in &request.layers {
            let packed = pack(layer).await?;
            self.send_layer(&packed).await?;
            layers.push(descriptor(kind.clone(), &packed.digest, packed.size)?);
            diff_ids.push(DiffId::from(layer.diff_id));
        }
        let config = config_json(&request.config, platform, &diff_ids);
        let id = Digest::of(&config).oci();
        let config_size = config.len() as u64;
        if !self.has_blob(&id).await? {
            self.push_blob(&id, config_size, Body::from(config)).await?;
        }
        let config = descriptor(below.config().media_type().clone(), &id, config_size)?;
        let mut made = manifest(config, layers);
        if is_docker {
            made.set_media_type(Some(docker_manifest()));
        }
        let media_type = made.media_type().clone().unwrap_or(MediaType::ImageManifest);
        self.push_manifest(&manifest_json(&made), media_type.as_ref()).await?;
        Ok(id)
    }

    /// Brings a layer of the parent into this repository.
    async fn take_over(&self, parent: &RegistryClient, layer: &Descriptor) -> Result<()> {
        let digest = layer.digest().to_string();
        if self.has_blob(&digest).await? || self.mount(parent.reference.repository(), &digest).await
        {
            return Ok(());
        }
        // A registry that does not do it, or not for us, gets the bytes by way of this machine.
        let blob = parent.blob(&digest, 0).await?;
        let pieces = blob.response.bytes_stream();
        let pieces = pieces.inspect_ok(|piece| crate::traffic::count(piece.len() as u64));
        self.push_blob(&digest, layer.size(), Body::wrap_stream(pieces)).await
    }

    async fn send_layer(&self, packed: &Packed) -> Result<()> {
        if self.has_blob(&packed.digest).await? {
            return Ok(());
        }
        let path = packed.file.path();
        let file = tokio::fs::File::open(path).await.map_err(file_error(path))?;
        let pieces = tokio_util::io::ReaderStream::with_capacity(file, 1 << 20);
        let pieces = pieces.inspect_ok(|piece| crate::traffic::count(piece.len() as u64));
        self.push_blob(&packed.digest, packed.size, Body::wrap_stream(pieces)).await
    }
}

fn docker_manifest() -> MediaType {
    MediaType::Other(DOCKER_MANIFEST.to_owned())
}

/// Compresses a layer beside its file.
async fn pack(layer: &LayerFile) -> Result<Packed> {
    let layer = layer.clone();
    let work = move || -> Result<Packed> {
        let failed = file_error(&layer.path);
        let directory = layer.path.parent().unwrap_or(Path::new("."));
        let file = tempfile::NamedTempFile::new_in(directory).map_err(&failed)?;
        let mut tar = Hashing::new(File::open(&layer.path).map_err(&failed)?);
        // As the engines write it: every one of them reads gzip.
        let fast = flate2::Compression::fast();
        let mut packer = flate2::write::GzEncoder::new(Hashing::new(file), fast);
        std::io::copy(&mut tar, &mut packer).map_err(&failed)?;
        let (file, digest, size) = packer.finish().map_err(&failed)?.finish();
        let (_, found, _) = tar.finish();
        if found != layer.diff_id {
            let (found, wanted) = (found.oci(), layer.diff_id.oci());
            return Err(EngineError::Refused {
                action: "add a layer to an image".to_owned(),
                reason: format!("`{}` is `{found}`, not `{wanted}`", layer.path.display()),
            });
        }
        Ok(Packed { file, digest: digest.oci(), size })
    };
    tokio::task::spawn_blocking(work).await.expect("packing a layer does not panic")
}

fn file_error(path: &Path) -> impl Fn(std::io::Error) -> EngineError {
    let path = path.to_owned();
    move |source| EngineError::File { path: path.clone(), source }
}
