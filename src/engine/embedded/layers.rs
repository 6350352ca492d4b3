//! Layers: taking them in, keeping them as blobs, unpacking them.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use oci_spec::image::{Descriptor, MediaType};
use sha2::{Digest as _, Sha256};

use crate::engine::bounds::Bounded;
use crate::engine::documents::{descriptor, manifest, manifest_json};
use crate::engine::{
    EngineError, Image, ImageConfig, LayerFile, LayerRequest, LogSink, Result, check_platform,
    config,
};
use crate::key::{DiffId, Digest};
use crate::platform::Platform;

use super::EmbeddedEngine;
use super::layout::{
    BlobWriter, Stored, decompressed, familiar, file_error, layer_descriptor, open,
};
use super::snapshots::NotTheLayer;

const ACTION: &str = "load a layer";

/// The compression of layers that are written here: every engine reads gzip, and disks are cheap.
const COMPRESSION: flate2::Compression = flate2::Compression::fast();

impl EmbeddedEngine {
    /// Adds layers to a parent, and names the image.
    pub(super) async fn load_layers(&self, request: &LayerRequest) -> Result<Image> {
        tokio::task::block_in_place(|| {
            let mut layers = self.parent_layers(&request.parent)?;
            for layer in &request.layers {
                let diff_id = DiffId::from(layer.diff_id);
                layers.push((diff_id.clone(), self.take_in(layer)?));
                let path = layer.path.clone();
                let tar = move || Ok(Box::new(open(&path)?) as Box<dyn Read>);
                let unpacked = self.snapshots.unpack(&diff_id, tar);
                unpacked.map_err(|error| differs(error, &diff_id))?;
            }
            self.make_image(&request.config, &request.parent.platform, &layers, &request.tags)
        })
    }

    /// Returns the layers of a parent, which has to be here as it was looked at.
    fn parent_layers(&self, parent: &Image) -> Result<Vec<(DiffId, Descriptor)>> {
        if parent.diff_ids.is_empty() {
            return Ok(Vec::new());
        }
        let missing = || {
            let reference = parent.name().to_owned();
            EngineError::NoSuchImage { reference }
        };
        let stored = self.layout.find(parent.id.as_str())?.ok_or_else(missing)?;
        if stored.diff_ids != parent.diff_ids {
            return Err(missing());
        }
        check_platform(parent.id.as_str(), &stored.platform, &parent.platform)?;
        Ok(layers_of(&stored))
    }

    /// Keeps the tar of a layer as a blob. Blocks.
    fn take_in(&self, layer: &LayerFile) -> Result<Descriptor> {
        let diff_id = DiffId::from(layer.diff_id);
        let file = open(&layer.path)?;
        if let Some(known) = self.known_layer(&diff_id)? {
            return Ok(known);
        }
        let (found, descriptor) = self.write_layer(file)?;
        if found != diff_id {
            return Err(EngineError::Refused {
                action: ACTION.to_owned(),
                reason: format!("`{}` is `{found}`, not `{diff_id}`", layer.path.display()),
            });
        }
        Ok(descriptor)
    }

    /// Keeps a tar as a compressed blob; returns its digest as a tar, and how a manifest names it.
    fn write_layer(&self, mut tar: impl Read) -> Result<(DiffId, Descriptor)> {
        let mut sink = LayerSink::new(self.layout.writer()?);
        let path = self.dir.join("oci");
        io::copy(&mut tar, &mut sink).map_err(file_error("keep a layer", &path))?;
        let (diff_id, writer, unpacked) = sink.finish()?;
        self.keep_layer(&diff_id, writer, unpacked)
    }

    /// Keeps a compressed layer that was written, and remembers which layer it is.
    pub(super) fn keep_layer(
        &self,
        diff_id: &DiffId,
        writer: BlobWriter,
        unpacked: u64,
    ) -> Result<(DiffId, Descriptor)> {
        let (digest, size) = self.layout.keep(writer)?;
        let descriptor = layer_descriptor(&digest, size, unpacked)?;
        self.remember_layer(diff_id, &descriptor)?;
        Ok((diff_id.clone(), descriptor))
    }

    /// Remembers which blob a layer is.
    pub(super) fn remember_layer(&self, diff_id: &DiffId, layer: &Descriptor) -> Result<()> {
        let path = self.layer_record(diff_id);
        let text = serde_json::to_vec(layer).expect("a descriptor is valid JSON");
        crate::atomic::write(&path, &text, false).map_err(file_error("remember a layer", &path))
    }

    /// Returns the blob of a layer, when it is here, for an operation that needs it.
    pub(super) fn known_layer(&self, diff_id: &DiffId) -> Result<Option<Descriptor>> {
        let known = self.layer_here(diff_id)?;
        Ok(known.filter(|layer| self.layout.takes_up(layer.digest().as_ref(), layer.size())))
    }

    /// Returns the blob of a layer, when it is here.
    pub(super) fn layer_here(&self, diff_id: &DiffId) -> Result<Option<Descriptor>> {
        let path = self.layer_record(diff_id);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(file_error("read of a layer", &path)(error)),
        };
        let Ok(layer) = serde_json::from_slice::<Descriptor>(&text) else { return Ok(None) };
        Ok(self.layout.has(layer.digest().as_ref(), layer.size()).then_some(layer))
    }

    fn layer_record(&self, diff_id: &DiffId) -> std::path::PathBuf {
        self.dir.join("layers").join(diff_id.hex())
    }

    /// Makes an image of layers and a config, and names it.
    pub(super) fn make_image(
        &self,
        config: &ImageConfig,
        platform: &Platform,
        layers: &[(DiffId, Descriptor)],
        tags: &[String],
    ) -> Result<Image> {
        let diff_ids: Vec<DiffId> = layers.iter().map(|(diff_id, _)| diff_id.clone()).collect();
        let text = config::config_json(config, platform, &diff_ids);
        let id = self.layout.put(&text)?;
        let blob = descriptor(MediaType::ImageConfig, &id, text.len() as u64)?;
        let manifest = manifest(blob, layers.iter().map(|(_, layer)| layer.clone()).collect());
        let digest = self.layout.put(&manifest_json(&manifest))?;
        let missing = || EngineError::Refused {
            action: "keep an image".to_owned(),
            reason: "a part of it went away meanwhile".to_owned(),
        };
        let stored = self.layout.stored(&digest)?.ok_or_else(missing)?;
        for tag in tags {
            self.layout.name(&stored, &familiar(tag))?;
        }
        Ok(Image {
            id: id.into(),
            tags: tags.to_vec(),
            repo_digests: Vec::new(),
            diff_ids,
            platform: platform.clone(),
            size: stored.size(),
            config: config.clone(),
        })
    }

    /// Unpacks the layers of an image that are not unpacked yet, several at once. A blob that is
    /// damaged is removed, and pulled again where a registry had it.
    pub(super) async fn unpack(&self, stored: &Arc<Stored>, log: &dyn LogSink) -> Result<()> {
        self.hold(stored);
        for _ in 0..2 {
            let damaged = tokio::task::block_in_place(|| self.unpack_missing(stored))?;
            if damaged.is_empty() {
                return Ok(());
            }
            for layer in &damaged {
                let digest = layer.digest().to_string();
                log.write(format!("blob `{digest}` is damaged on the disk\n").as_bytes());
                let path = self.layout.blob(&digest);
                std::fs::remove_file(&path).map_err(file_error("remove a blob", &path))?;
                self.pull_blob_again(stored, layer, log).await?;
            }
        }
        Err(EngineError::Refused {
            action: format!("unpack `{}`", stored.id),
            reason: "its layers are damaged again and again: look at the disk".to_owned(),
        })
    }

    /// Returns the layers whose blobs are damaged.
    fn unpack_missing(&self, stored: &Stored) -> Result<Vec<Descriptor>> {
        let missing: Vec<(DiffId, Descriptor)> = layers_of(stored)
            .into_iter()
            .filter(|(diff_id, _)| !self.snapshots.has(diff_id))
            .collect();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let next = std::sync::atomic::AtomicUsize::new(0);
        let unpack = || -> Result<Vec<Descriptor>> {
            let mut damaged = Vec::new();
            loop {
                let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let Some((diff_id, layer)) = missing.get(at) else { return Ok(damaged) };
                if !self.unpack_blob(diff_id, layer)? {
                    damaged.push(layer.clone());
                }
            }
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> =
                (0..threads.min(missing.len())).map(|_| scope.spawn(unpack)).collect();
            let mut damaged = Vec::new();
            for worker in workers {
                damaged.extend(worker.join().expect("unpacking does not panic")?);
            }
            Ok(damaged)
        })
    }

    /// Unpacks a layer from its blob; tells whether that was whole.
    fn unpack_blob(&self, diff_id: &DiffId, layer: &Descriptor) -> Result<bool> {
        let path = self.layout.blob(layer.digest().as_ref());
        let tar = || -> Result<Box<dyn Read>> {
            let tar = decompressed(layer.media_type(), open(&path)?);
            let tar = tar.map_err(file_error("read a blob", &path))?;
            Ok(Box::new(Bounded::new(tar, layer.size())))
        };
        match self.snapshots.unpack(diff_id, tar) {
            Ok(()) => Ok(true),
            Err(NotTheLayer::Engine(error @ EngineError::NoSpace { .. })) => Err(error),
            Err(error) => match is_whole(&path, layer)? {
                true => Err(differs(error, diff_id)),
                false => Ok(false),
            },
        }
    }
}

/// Returns the layers of an image with their digests as tars, the lowest first.
pub(super) fn layers_of(stored: &Stored) -> Vec<(DiffId, Descriptor)> {
    stored.diff_ids.iter().cloned().zip(stored.manifest.layers().iter().cloned()).collect()
}

/// Tells whether a blob is what its digest says.
fn is_whole(path: &Path, layer: &Descriptor) -> Result<bool> {
    let found = Digest::of_reader(open(path)?).map_err(file_error("read a blob", path))?;
    Ok(found.0.oci() == layer.digest().to_string())
}

fn differs(error: NotTheLayer, diff_id: &DiffId) -> EngineError {
    match error {
        NotTheLayer::Engine(error) => error,
        NotTheLayer::Differs { found } => EngineError::Refused {
            action: ACTION.to_owned(),
            reason: format!("its bytes are `{}`, not `{diff_id}`", found.oci()),
        },
    }
}

/// Takes the tar of a layer: hashes it, and compresses it to a blob.
pub(super) struct LayerSink {
    encoder: flate2::write::GzEncoder<BlobWriter>,
    hasher: Sha256,
    pub size: u64,
}

impl LayerSink {
    pub(super) fn new(writer: BlobWriter) -> LayerSink {
        let encoder = flate2::write::GzEncoder::new(writer, COMPRESSION);
        LayerSink { encoder, hasher: Sha256::new(), size: 0 }
    }

    /// Returns the digest of the tar, the blob, and the bytes of the tar.
    pub(super) fn finish(self) -> Result<(DiffId, BlobWriter, u64)> {
        let diff_id = DiffId::from(Digest::from_bytes(self.hasher.finalize().into()));
        let writer = self.encoder.finish();
        let writer = writer.map_err(file_error("keep a layer", Path::new("blobs")))?;
        Ok((diff_id, writer, self.size))
    }
}

impl Write for LayerSink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.encoder.write_all(bytes)?;
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.encoder.flush()
    }
}
