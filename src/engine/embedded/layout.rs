//! The OCI image layout that holds images
//! (<https://github.com/opencontainers/image-spec/blob/main/image-layout.md>).
//!
//! Blobs are named by their digest. `index.json` names the manifest of every image, once for each
//! of its names; it changes under a lock and is replaced whole. Other programs read the layout as
//! it is.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};
use sha2::{Digest as _, Sha256};

use crate::atomic;
use crate::engine::documents::descriptor;
use crate::engine::{EngineError, ImageConfig, Result, config};
use crate::file_lock::FileLock;
use crate::key::{DiffId, Digest, ImageId};
use crate::owner::{Judge, Liveness};
use crate::platform::Platform;

/// The annotation that names an image; see the specification of annotations.
const REFERENCE: &str = "org.opencontainers.image.ref.name";

/// The annotation with the digest of the config, which is the id of the image.
const ID: &str = "dev.imgforge.id";

/// The annotation with `repository@digest` of a registry that an image came from or went to.
const REPO_DIGEST: &str = "dev.imgforge.repo-digest";

/// The annotation of a layer with its size when it is unpacked, in bytes.
const UNPACKED: &str = "dev.imgforge.unpacked-size";

/// The layout.
pub(super) struct Layout {
    dir: PathBuf,
    /// What was read already; it is named by its digest and does not change.
    read: Mutex<HashMap<String, Arc<Stored>>>,
}

/// An image of the layout, without its names.
#[derive(Debug)]
pub(super) struct Stored {
    /// The digest of the config.
    pub id: ImageId,
    /// The manifest.
    pub manifest: ImageManifest,
    /// The digest of the manifest.
    pub digest: String,
    /// Bytes of the manifest.
    pub length: u64,
    /// Such as `linux/amd64`.
    pub platform: Platform,
    /// The sha256 of every unpacked layer, the lowest first.
    pub diff_ids: Vec<DiffId>,
    /// What it runs with.
    pub config: ImageConfig,
}

impl Stored {
    /// Bytes of all layers, unpacked where that is known.
    pub(super) fn size(&self) -> u64 {
        let size = |layer: &Descriptor| {
            let unpacked = layer.annotations().as_ref().and_then(|all| all.get(UNPACKED));
            unpacked.and_then(|text| text.parse().ok()).unwrap_or(layer.size())
        };
        // What a manifest says of sizes may be anything.
        self.manifest.layers().iter().map(size).fold(0, u64::saturating_add)
    }
}

/// A name in the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    /// The digest of the manifest.
    pub manifest: String,
    /// The id of the image.
    pub id: ImageId,
    /// `repository:tag`, when it has one.
    pub tag: Option<String>,
    /// `repository@digest`.
    pub repo_digest: Option<String>,
}

/// Returns the media type of a layer that is written here.
pub(super) fn layer_type() -> MediaType {
    MediaType::ImageLayerGzip
}

/// Makes the error of a file of the layout.
pub(super) fn file_error(action: &str, path: &Path) -> impl FnOnce(io::Error) -> EngineError {
    let (action, path) = (action.to_owned(), path.to_owned());
    move |source| {
        if crate::disk::is_full(&source) {
            return EngineError::NoSpace { action };
        }
        EngineError::File { path, source }
    }
}

impl Layout {
    /// Opens the layout, making it when it is not there.
    pub(super) fn open(dir: &Path) -> Result<Layout> {
        let action = "make the layout of images";
        let blobs = dir.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).map_err(file_error(action, &blobs))?;
        let version = dir.join("oci-layout");
        if !version.exists() {
            let text = br#"{"imageLayoutVersion":"1.0.0"}"#;
            atomic::write(&version, text, true).map_err(file_error(action, &version))?;
        }
        Ok(Layout { dir: dir.to_owned(), read: Mutex::default() })
    }

    /// Returns where a blob is, or would be.
    pub(super) fn blob(&self, digest: &str) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))
    }

    /// Tells whether a blob of that size is there.
    pub(super) fn has(&self, digest: &str, size: u64) -> bool {
        std::fs::metadata(self.blob(digest)).is_ok_and(|found| found.len() == size)
    }

    /// Tells whether a blob of that size is there, and that a running operation needs it; see
    /// [`super::collect`].
    pub(super) fn takes_up(&self, digest: &str, size: u64) -> bool {
        let there = self.has(digest, size);
        if there {
            self.touch(digest);
        }
        there
    }

    /// Gives a blob the time of now.
    pub(super) fn touch(&self, digest: &str) {
        // One that is not there, or belongs to another user, is found out when it is opened.
        let now = rustix::fs::Timestamps {
            last_access: rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
            last_modification: rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
        };
        let path = self.blob(digest);
        let _ = rustix::fs::utimensat(rustix::fs::CWD, &path, &now, rustix::fs::AtFlags::empty());
    }

    /// Keeps bytes as a blob; returns its digest.
    pub(super) fn put(&self, bytes: &[u8]) -> Result<String> {
        let digest = Digest::of(bytes).oci();
        let path = self.blob(&digest);
        if path.exists() {
            self.touch(&digest);
        } else {
            atomic::write(&path, bytes, true).map_err(file_error("keep a blob", &path))?;
        }
        Ok(digest)
    }

    /// Starts a blob whose bytes come piece by piece.
    pub(super) fn writer(&self) -> Result<BlobWriter> {
        let blobs = self.dir.join("blobs/sha256");
        let mut builder = tempfile::Builder::new();
        let prefix = format!("{TEMPORARY}{}-", crate::owner::name());
        let file = builder.prefix(&prefix).tempfile_in(&blobs);
        let file = file.map_err(file_error("keep a blob", &blobs))?;
        Ok(BlobWriter { file, hasher: Sha256::new(), size: 0 })
    }

    /// Keeps a finished blob under its digest; returns that and its size.
    pub(super) fn keep(&self, writer: BlobWriter) -> Result<(String, u64)> {
        let BlobWriter { file, hasher, size } = writer;
        let digest = Digest::from_bytes(hasher.finalize().into()).oci();
        let path = self.blob(&digest);
        file.as_file().sync_data().map_err(file_error("keep a blob", &path))?;
        file.persist(&path).map_err(|error| file_error("keep a blob", &path)(error.error))?;
        Ok((digest, size))
    }

    /// Returns every name of every image.
    pub(super) fn names(&self) -> Result<Vec<Named>> {
        Ok(self.index()?.manifests().iter().map(named).collect())
    }

    fn index(&self) -> Result<ImageIndex> {
        let path = self.dir.join("index.json");
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut index = ImageIndex::default();
                index.set_schema_version(2);
                index.set_media_type(Some(MediaType::ImageIndex));
                return Ok(index);
            }
            Err(error) => return Err(file_error("read the index of images", &path)(error)),
        };
        serde_json::from_slice(&text).map_err(|error| EngineError::Refused {
            action: format!("read `{}`", path.display()),
            reason: error.to_string(),
        })
    }

    /// Changes the index.
    fn change(&self, change: impl FnOnce(&mut Vec<Descriptor>)) -> Result<()> {
        let action = "write the index of images";
        let lock = self.dir.join("index.lock");
        let _lock = FileLock::take(&lock).map_err(file_error(action, &lock))?;
        let mut index = self.index()?;
        let mut manifests = index.manifests().clone();
        change(&mut manifests);
        if manifests == *index.manifests() {
            return Ok(());
        }
        index.set_manifests(manifests);
        let path = self.dir.join("index.json");
        let text = serde_json::to_vec(&index).expect("an index is valid JSON");
        atomic::write(&path, &text, true).map_err(file_error(action, &path))
    }

    /// Gives an image a name, taking it from the one that had it.
    pub(super) fn name(&self, stored: &Stored, tag: &str) -> Result<()> {
        let entry = entry(stored, REFERENCE, tag)?;
        self.change(|manifests| {
            manifests.retain(|known| named(known).tag.as_deref() != Some(tag));
            manifests.push(entry);
        })
    }

    /// Remembers where in a registry an image came from, or went to.
    pub(super) fn name_digest(&self, stored: &Stored, repo_digest: &str) -> Result<()> {
        let entry = entry(stored, REPO_DIGEST, repo_digest)?;
        self.change(|manifests| {
            manifests.retain(|known| named(known).repo_digest.as_deref() != Some(repo_digest));
            manifests.push(entry);
        })
    }

    /// Takes a name from its image; with its last name the image is no more.
    pub(super) fn unname(&self, tag: &str) -> Result<()> {
        self.change(|manifests| {
            let Some(at) =
                manifests.iter().position(|known| named(known).tag.as_deref() == Some(tag))
            else {
                return;
            };
            let gone = named(&manifests.remove(at));
            let has_tag =
                manifests.iter().map(named).any(|known| known.id == gone.id && known.tag.is_some());
            if !has_tag {
                manifests.retain(|known| named(known).id != gone.id);
            }
        })
    }

    /// Takes an image away, with all of its names.
    pub(super) fn forget(&self, id: &str) -> Result<()> {
        self.change(|manifests| manifests.retain(|known| named(known).id != *id))
    }

    /// Reads an image by the digest of its manifest; `None` when a part of it is not there.
    pub(super) fn stored(&self, manifest: &str) -> Result<Option<Arc<Stored>>> {
        let known = self.read.lock().expect("no holder panics").get(manifest).cloned();
        let stored = match known {
            Some(stored) => stored,
            None => match self.read(manifest)? {
                None => return Ok(None),
                Some(stored) => {
                    let stored = Arc::new(stored);
                    let mut read = self.read.lock().expect("no holder panics");
                    read.insert(manifest.to_owned(), stored.clone());
                    stored
                }
            },
        };
        let whole = stored
            .manifest
            .layers()
            .iter()
            .all(|layer| self.has(layer.digest().as_ref(), layer.size()));
        Ok(whole.then_some(stored))
    }

    fn read(&self, manifest: &str) -> Result<Option<Stored>> {
        let Some(text) = self.checked(manifest)? else { return Ok(None) };
        let Ok(document) = serde_json::from_slice::<ImageManifest>(&text) else { return Ok(None) };
        let (id, length) = (document.config().digest().to_string(), text.len() as u64);
        let Some(text) = self.checked(&id)? else { return Ok(None) };
        let Ok(config) = config::read(&text) else { return Ok(None) };
        if config.diff_ids.len() != document.layers().len() {
            return Ok(None);
        }
        Ok(Some(Stored {
            id: id.into(),
            manifest: document,
            digest: manifest.to_owned(),
            length,
            platform: config.platform,
            diff_ids: config.diff_ids,
            config: config.config,
        }))
    }

    /// Reads a small blob whose bytes match its digest.
    fn checked(&self, digest: &str) -> Result<Option<Vec<u8>>> {
        let path = self.blob(digest);
        match std::fs::read(&path) {
            Ok(bytes) => Ok((Digest::of(&bytes).oci() == digest).then_some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(file_error("read a blob", &path)(error)),
        }
    }

    /// Finds an image by its id, by `repository:tag`, or by `repository@digest`.
    pub(super) fn find(&self, reference: &str) -> Result<Option<Arc<Stored>>> {
        let found = self.names()?.into_iter().find(|known| matches(known, reference));
        found.map_or(Ok(None), |known| self.stored(&known.manifest))
    }

    /// Removes what killed processes left of blobs that they were writing; returns the files.
    pub(super) fn remove_leftovers(&self, judge: &Judge<'_>) -> Result<Vec<PathBuf>> {
        let blobs = self.dir.join("blobs/sha256");
        let mut removed = Vec::new();
        for entry in std::fs::read_dir(&blobs).map_err(file_error("look at blobs", &blobs))? {
            let entry = entry.map_err(file_error("look at blobs", &blobs))?;
            let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
            let owner = name.strip_prefix(TEMPORARY).and_then(|name| name.rsplit_once('-'));
            let Some((owner, _)) = owner else { continue };
            let made = entry.metadata().and_then(|found| found.modified()).ok();
            if judge(owner, made) == Liveness::Dead && std::fs::remove_file(&path).is_ok() {
                removed.push(path);
            }
        }
        Ok(removed)
    }
}

/// How the names of blobs begin that are being written; the owner follows.
const TEMPORARY: &str = ".writing-";

/// Tells whether a name of the index is what a reference means.
pub(super) fn matches(known: &Named, reference: &str) -> bool {
    if reference.starts_with("sha256:") {
        return known.id == *reference || known.manifest == reference;
    }
    if reference.contains('@') {
        return known.repo_digest.as_deref() == Some(reference);
    }
    known.tag.as_deref() == Some(familiar(reference).as_str())
}

/// Returns `repository:tag` in the form that Docker shows it in.
pub(super) fn familiar(reference: &str) -> String {
    let (repository, tag) = crate::engine::reference::split_tag(reference);
    let repository = repository
        .strip_prefix("docker.io/")
        .or(repository.strip_prefix("index.docker.io/"))
        .unwrap_or(repository);
    let repository = repository.strip_prefix("library/").unwrap_or(repository);
    let separator = if reference.contains('@') { '@' } else { ':' };
    format!("{repository}{separator}{tag}")
}

fn named(descriptor: &Descriptor) -> Named {
    let annotation = |name: &str| {
        let all = descriptor.annotations().as_ref()?;
        all.get(name).cloned()
    };
    Named {
        manifest: descriptor.digest().to_string(),
        id: annotation(ID).unwrap_or_default().into(),
        tag: annotation(REFERENCE),
        repo_digest: annotation(REPO_DIGEST),
    }
}

fn entry(stored: &Stored, kind: &str, name: &str) -> Result<Descriptor> {
    let annotations =
        HashMap::from([(ID.to_owned(), stored.id.to_string()), (kind.to_owned(), name.to_owned())]);
    let mut entry = descriptor(MediaType::ImageManifest, &stored.digest, stored.length)?;
    if let Some(media_type) = stored.manifest.media_type() {
        entry.set_media_type(media_type.clone());
    }
    entry.set_annotations(Some(annotations));
    Ok(entry)
}

/// Makes the descriptor of a layer that is written here.
pub(super) fn layer_descriptor(digest: &str, size: u64, unpacked: u64) -> Result<Descriptor> {
    let mut layer = descriptor(layer_type(), digest, size)?;
    layer.set_annotations(Some(HashMap::from([(UNPACKED.to_owned(), unpacked.to_string())])));
    Ok(layer)
}

/// A blob that is being written.
pub(super) struct BlobWriter {
    file: tempfile::NamedTempFile,
    hasher: Sha256,
    size: u64,
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.as_file_mut().write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_file_mut().flush()
    }
}

/// Opens the tar of a layer, whatever it is compressed with.
pub(super) fn decompressed<'a>(
    media_type: &MediaType,
    blob: impl Read + 'a,
) -> io::Result<Box<dyn Read + 'a>> {
    let name = media_type.to_string();
    Ok(if name.ends_with("zstd") {
        Box::new(zstd::stream::read::Decoder::new(blob)?)
    } else if name.ends_with("gzip") {
        Box::new(flate2::read::MultiGzDecoder::new(blob))
    } else {
        Box::new(blob)
    })
}

/// Opens a blob.
pub(super) fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(file_error("read a blob", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_has_one_form() {
        assert_eq!(familiar("debian"), "debian:latest");
        assert_eq!(familiar("docker.io/library/debian:12"), "debian:12");
        assert_eq!(familiar("127.0.0.1:5000/a/b"), "127.0.0.1:5000/a/b:latest");
    }

    #[test]
    fn a_blob_is_kept_under_its_digest_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(dir.path()).unwrap();
        let mut writer = layout.writer().unwrap();
        writer.write_all(b"text").unwrap();
        let (digest, size) = layout.keep(writer).unwrap();
        assert_eq!((digest.clone(), size), (Digest::of("text").oci(), 4));
        assert!(layout.has(&digest, 4));
        drop(layout.writer().unwrap());
        let blobs = dir.path().join("blobs/sha256");
        std::fs::write(blobs.join(format!("{TEMPORARY}4194304-1-x")), b"").unwrap();
        std::fs::write(blobs.join(format!("{TEMPORARY}1-1-x")), b"").unwrap();
        let judge = |owner: &str, _| match owner {
            "1-1" => Liveness::Alive,
            _ => Liveness::Dead,
        };
        let removed = layout.remove_leftovers(&judge).unwrap();
        assert_eq!(removed.len(), 1);
        assert_eq!(std::fs::read_dir(blobs).unwrap().count(), 2);
    }
}
