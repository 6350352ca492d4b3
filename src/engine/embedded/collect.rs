//! Collection: what no image needs goes, beside running calls of any process.
//!
//! A call that makes images, or runs on one, is an *operation*: a locked file in `operations/`. What
//! it takes up again, it touches. A collection looks at names and operations under a gate that no
//! new operation passes, and keeps what is older than no operation: so an operation finds either
//! the whole of a layer or nothing of it.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use oci_spec::image::Descriptor;

use crate::disk;
use crate::engine::{EngineError, Image, LayerConsumer, Pruned, Result};
use crate::key::DiffId;

use super::EmbeddedEngine;
use super::checkpoints;
use super::layers::layers_of;
use super::layout::{Stored, decompressed, file_error, open};
use super::operations::{self, OperationGuard, entries, gate, oldest_operation};
use super::protocol::Operation;
use super::snapshots::Snapshots;

/// For how long the first part of a blob is kept that nobody goes on with.
const PARTIAL_DAYS: u64 = 7;

const ACTION: &str = "collect what no image needs";

impl EmbeddedEngine {
    /// Begins an operation. Blocks while a collection looks at what there is.
    pub(super) fn begin(&self) -> Result<OperationGuard> {
        operations::begin(&self.dir, &self.owner)
    }

    /// Says that a running operation needs an image's layers, whatever becomes of its names.
    pub(super) fn hold(&self, stored: &Stored) {
        for layer in stored.manifest.layers() {
            self.layout.touch(layer.digest().as_ref());
        }
    }

    /// Removes what no image needs. Blocks.
    pub(super) fn collect(&self, dry_run: bool) -> Result<Pruned> {
        let gate = gate(&self.dir)?;
        gate.lock().map_err(file_error(ACTION, &self.dir))?;
        let garbage = self.garbage()?;
        let mut pruned = Pruned { objects: garbage.files.len() + garbage.trees.len(), bytes: 0 };
        pruned.bytes += garbage.files.iter().filter_map(|path| disk::usage(path)).sum::<u64>();
        if dry_run {
            drop(gate);
            pruned.bytes += self.measure(&garbage.trees)?.into_iter().flatten().sum::<u64>();
            return Ok(pruned);
        }
        // Records go before what they name.
        for path in garbage.records.iter().chain(&garbage.files) {
            match fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(file_error(ACTION, path)(error));
                }
                _ => {}
            }
        }
        // Trees leave their names at once, and their places after that: a kill in between leaves
        // directories of a process that is gone, which the next clean-up removes.
        let mut aside = Vec::new();
        for (number, tree) in garbage.trees.iter().enumerate() {
            let containers = tree.parent().and_then(Path::parent).unwrap_or(tree).join("c");
            let target = containers.join(format!("{}-gone{number}", self.owner));
            match fs::rename(tree, &target) {
                Ok(()) => aside.push(target),
                // A plain user may not move a directory that another id owns: it goes in place.
                Err(_) => aside.push(tree.clone()),
            }
        }
        drop(gate);
        for trees in aside.chunks(64) {
            pruned.bytes += self.measure(trees)?.into_iter().flatten().sum::<u64>();
            self.snapshots.remove(trees)?;
        }
        Ok(pruned)
    }

    /// Lists what no image and no operation needs.
    fn garbage(&self) -> Result<Garbage> {
        let oldest = oldest_operation(&self.dir)?;
        let young = |path: &Path, changed: bool| {
            use std::os::unix::fs::MetadataExt as _;
            let Some(oldest) = oldest else { return false };
            let Ok(found) = fs::symlink_metadata(path) else { return false };
            let seconds = if changed { found.ctime() } else { found.mtime() };
            // A second more: the clock of files lags behind.
            let began = oldest.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            seconds + 1 >= began.as_secs() as i64
        };
        let mut garbage = Garbage::default();
        let mut kept: HashSet<String> = HashSet::new();
        let named = self.layout.names()?.into_iter();
        let mut manifests: HashSet<String> = named.map(|named| named.manifest).collect();
        for (path, record) in self.checkpoints.all()? {
            if record.removed && !young(&path, false) {
                garbage.records.extend([path.with_extension("lock"), path]);
                continue;
            }
            kept.extend(record.layers);
            manifests.insert(record.manifest);
        }
        let mut blobs: HashSet<String> = HashSet::new();
        let mut layers: HashSet<String> = HashSet::new();
        for manifest in manifests {
            // An image that lacks a part is none: what is left of it goes.
            let Some(stored) = self.layout.stored(&manifest)? else { continue };
            blobs.insert(manifest.trim_start_matches("sha256:").to_owned());
            blobs.insert(stored.id.hex().to_owned());
            for (diff_id, layer) in layers_of(&stored) {
                blobs.insert(layer.digest().digest().to_owned());
                layers.insert(diff_id.hex().to_owned());
            }
        }
        for (name, path) in entries(&self.dir.join("oci/blobs/sha256"))? {
            if name.starts_with('.') || blobs.contains(&name) {
                continue;
            }
            if young(&path, false) {
                blobs.insert(name);
            } else {
                garbage.files.push(path);
            }
        }
        for (diff_id, path) in entries(&self.dir.join("layers"))? {
            if layers.contains(&diff_id) {
                continue;
            }
            let blob = fs::read(&path).ok();
            let blob = blob.and_then(|text| serde_json::from_slice::<Descriptor>(&text).ok());
            let live = blob.is_some_and(|blob| blobs.contains(blob.digest().digest()));
            if live && oldest.is_some() || young(&path, false) {
                layers.insert(diff_id);
            } else {
                garbage.records.push(path);
            }
        }
        for (_, path) in entries(&self.dir.join("steps"))? {
            let layer = fs::read_to_string(&path).unwrap_or_default();
            let layer = layer.trim_start_matches("sha256:");
            // A step that changed nothing is worth no more than the layers around it.
            if !(layers.contains(layer) || young(&path, false)) {
                garbage.records.push(path);
            }
        }
        kept.extend(layers.iter().map(|layer| Snapshots::name(&layer.as_str().into())));
        let trees = self.trees_beside(&kept)?.into_iter();
        garbage.trees.extend(trees.filter(|path| !young(path, true)));
        let old = SystemTime::now() - std::time::Duration::from_secs(PARTIAL_DAYS * 86400);
        for (_, path) in entries(&self.dir.join("partial"))? {
            let Ok(file) = File::open(&path) else { continue };
            let changed = file.metadata().and_then(|found| found.modified()).ok();
            if changed.is_some_and(|changed| changed < old) && file.try_lock().is_ok() {
                garbage.files.push(path);
            }
        }
        Ok(garbage)
    }

    /// Lists the unpacked layers that have none of these names.
    fn trees_beside(&self, kept: &HashSet<String>) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for (form, directory) in entries(&self.dir)? {
            if !form.ends_with("-overlay") && !form.ends_with("-copy") {
                continue;
            }
            for (name, path) in entries(&directory.join("s"))? {
                let digits = name.strip_prefix(checkpoints::MARK).unwrap_or(&name);
                let ours = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
                if ours && !kept.contains(&name) {
                    found.push(path);
                }
            }
        }
        Ok(found)
    }

    /// Measures layers by their digests as tars: the blob, and what is unpacked of it. Blocks.
    pub(super) fn measure_layers(&self, diff_ids: &[DiffId]) -> Result<Vec<Option<u64>>> {
        let forms: Vec<PathBuf> = entries(&self.dir)?
            .into_iter()
            .filter(|(name, _)| name.ends_with("-overlay") || name.ends_with("-copy"))
            .map(|(_, path)| path.join("s"))
            .collect();
        let mut trees = Vec::new();
        let mut owners = Vec::new();
        let mut measured = Vec::with_capacity(diff_ids.len());
        for (at, diff_id) in diff_ids.iter().enumerate() {
            let blob = self.layer_here(diff_id)?;
            measured
                .push(blob.and_then(|blob| disk::usage(&self.layout.blob(blob.digest().as_ref()))));
            for form in &forms {
                let tree = form.join(Snapshots::name(diff_id));
                if tree.exists() {
                    trees.push(tree);
                    owners.push(at);
                }
            }
        }
        for (at, bytes) in owners.into_iter().zip(self.measure(&trees)?) {
            if let Some(bytes) = bytes {
                *measured[at].get_or_insert(0) += bytes;
            }
        }
        Ok(measured)
    }

    /// Measures trees that may belong to other ids. Blocks.
    fn measure(&self, trees: &[PathBuf]) -> Result<Vec<Option<u64>>> {
        let mut measured = Vec::with_capacity(trees.len());
        for trees in trees.chunks(4096) {
            let mut answer = Vec::new();
            let work = Operation::Measure { paths: trees.to_vec() };
            self.helper_client.call(work, None, Some(&mut answer))?;
            let bytes: Vec<Option<u64>> = serde_json::from_slice(&answer).map_err(|error| {
                EngineError::Transient { action: "measure layers".to_owned(), source: error.into() }
            })?;
            measured.extend(bytes);
        }
        Ok(measured)
    }

    /// Gives the layers of images to a consumer. Blocks.
    pub(super) fn give_layers(
        &self,
        images: &[Image],
        consumer: &Arc<dyn LayerConsumer>,
    ) -> Result<()> {
        let mut given = HashSet::new();
        for image in images {
            for (diff_id, layer) in layers_of(&*self.needed(image.id.as_str())?) {
                if !given.insert(diff_id.clone()) || !consumer.wants(&diff_id) {
                    continue;
                }
                let path = self.layout.blob(layer.digest().as_ref());
                let tar = decompressed(layer.media_type(), open(&path)?);
                let taken = tar.and_then(|mut tar| consumer.consume(Some(&diff_id), &mut tar));
                taken.map_err(|source| match disk::is_full(&source) {
                    true => EngineError::NoSpace { action: "read layers".to_owned() },
                    false => EngineError::File { path, source },
                })?;
            }
        }
        Ok(())
    }
}

/// What is collected.
#[derive(Default)]
struct Garbage {
    /// What tells of blobs and layers.
    records: Vec<PathBuf>,
    /// Blobs.
    files: Vec<PathBuf>,
    /// Unpacked layers.
    trees: Vec<PathBuf>,
}
