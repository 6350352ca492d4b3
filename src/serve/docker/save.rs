//! `images/get`: images as an archive, as `docker save` writes it.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use tokio::io::DuplexStream;
use tokio_util::io::{ReaderStream, SyncIoBridge};

use crate::engine::{Image, LayerConsumer, config_json};
use crate::key::{DiffId, Digest};

use super::answer::{Answer, Refusal, streamed};
use super::call::Call;
use super::images::needed;
use super::layer_file;
use super::server::Server;

/// Bytes of the archive on their way.
const PIECE: usize = 1 << 16;

/// An archive that is written while it is read.
type Archive = tar::Builder<SyncIoBridge<DuplexStream>>;

/// Gives images as an archive.
pub(super) async fn save(server: &Arc<Server>, call: &Call, named: Option<&str>) -> Answer {
    let names: Vec<String> = match named {
        Some(name) => vec![name.to_owned()],
        None => call.all("names").flat_map(|names| names.split(',')).map(str::to_owned).collect(),
    };
    if names.is_empty() {
        return Err(Refusal::bad("no images are named"));
    }
    let mut images: Vec<(Image, Vec<String>)> = Vec::new();
    for name in names {
        let image = needed(server, &name).await?;
        let tag = image.tags.iter().find(|tag| **tag == name || **tag == format!("{name}:latest"));
        let tag = tag.cloned();
        match images.iter_mut().find(|(known, _)| known.id == image.id) {
            Some((_, tags)) => tags.extend(tag),
            None => images.push((image, tag.into_iter().collect())),
        }
    }
    let (read, write) = tokio::io::duplex(PIECE);
    let server = server.clone();
    let write = SyncIoBridge::new(write);
    let work = tokio::spawn(async move { run(&server, images, tar::Builder::new(write)).await });
    let pieces = ReaderStream::with_capacity(read, PIECE);
    // An archive that broke off does not end as a whole one does.
    let end = futures_util::stream::once(async {
        match work.await {
            Ok(Ok(())) => Ok(None),
            Ok(Err(error)) => Err(error),
            Err(error) => Err(io::Error::other(error)),
        }
    });
    let end = futures_util::TryStreamExt::try_filter_map(end, |piece| async { Ok(piece) });
    Ok(streamed("application/x-tar", futures_util::StreamExt::chain(pieces, end)))
}

/// Writes layers to an archive, each once.
struct Layers {
    archive: Mutex<Archive>,
    scratch: PathBuf,
    left: Mutex<HashSet<DiffId>>,
}

impl LayerConsumer for Layers {
    fn wants(&self, diff_id: &DiffId) -> bool {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).contains(diff_id)
    }

    fn consume(&self, _: Option<&DiffId>, tar: &mut dyn io::Read) -> io::Result<()> {
        let (_path, layer) = layer_file::write(tar, &self.scratch)?;
        let diff_id = DiffId::from(layer.diff_id);
        if self.left.lock().unwrap_or_else(PoisonError::into_inner).remove(&diff_id) {
            let mut file = File::open(&layer.path)?;
            let mut archive = self.archive.lock().unwrap_or_else(PoisonError::into_inner);
            archive.append_file(layer_name(&diff_id), &mut file)?;
        }
        Ok(())
    }
}

/// Returns the name of a layer in the archive.
fn layer_name(diff_id: &DiffId) -> String {
    format!("{}/layer.tar", diff_id.as_str().trim_start_matches("sha256:"))
}

async fn run(
    server: &Server,
    images: Vec<(Image, Vec<String>)>,
    archive: Archive,
) -> io::Result<()> {
    let left = images.iter().flat_map(|(image, _)| image.diff_ids.iter().cloned()).collect();
    let layers = Arc::new(Layers {
        archive: Mutex::new(archive),
        scratch: server.settings.scratch_dir.clone(),
        left: Mutex::new(left),
    });
    let only: Vec<Image> = images.iter().map(|(image, _)| image.clone()).collect();
    let read = server.engine.read_layers(&only, layers.clone()).await;
    read.map_err(io::Error::other)?;
    let written = tokio::task::spawn_blocking(move || {
        let mut archive = layers.archive.lock().unwrap_or_else(PoisonError::into_inner);
        let mut manifest = Vec::new();
        for (image, tags) in &images {
            let config = config_json(&image.config, &image.platform, &image.diff_ids);
            let name = format!("{}.json", Digest::of(&config));
            add(&mut archive, &name, &config)?;
            let names: Vec<String> = image.diff_ids.iter().map(layer_name).collect();
            manifest.push(json!({ "Config": name, "RepoTags": tags, "Layers": names }));
        }
        add(&mut archive, "manifest.json", Value::Array(manifest).to_string().as_bytes())?;
        let none: BTreeMap<String, String> = BTreeMap::new();
        add(&mut archive, "repositories", json!(none).to_string().as_bytes())?;
        archive.finish()
    });
    written.await.map_err(io::Error::other)?
}

fn add(archive: &mut Archive, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(bytes.len() as u64);
    archive.append_data(&mut header, name, bytes)
}
