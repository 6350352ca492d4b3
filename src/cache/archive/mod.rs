//! Archives: images in one file, an OCI layout as a tar
//! (<https://github.com/opencontainers/image-spec/blob/main/image-layout.md>).
//!
//! Layers are zstd, each in the file once. Behind every layer is a record of which layer it is, so
//! that a write that broke off goes on behind the last record. `index.json` comes last: an archive
//! without it is not finished. Other programs read the layout as it is.

mod read;
mod signatures;
mod write;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::engine::{EngineError, Image, LayerConsumer as _, LayerStorage, check_platform};
use crate::key::{DiffId, Digest, Key, Kind};
use crate::plan::name;
use crate::sign::PrivateKey;

use super::{check, from_image};

pub use read::Archive;
pub use write::{Export, Written};

/// The version of the form; a newer one is refused.
pub const VERSION: u32 = 1;

/// The file that says which form an archive has; it comes first.
const FORM: &str = "imgforge.json";

/// Where the records of layers are, by their digests as tars.
const LAYERS: &str = "imgforge/layers/";

/// The folder of blobs; their names are digests.
const BLOBS: &str = "blobs/sha256/";

/// The annotation that names an image; see the specification of annotations.
const NAME: &str = "org.opencontainers.image.ref.name";

/// The annotation with the reference of a `FROM` image.
const REFERENCE: &str = "dev.imgforge.reference";

/// The annotation with the benchmark's names of an image, between spaces.
const ALIASES: &str = "dev.imgforge.aliases";

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// Which form an archive has.
#[derive(Debug, Serialize, Deserialize)]
struct Form {
    version: u32,
}

/// How a layer or a document is named in another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    annotations: std::collections::BTreeMap<String, String>,
}

impl Descriptor {
    /// Describes a document.
    fn of(media_type: &str, document: &[u8]) -> Descriptor {
        Descriptor {
            media_type: media_type.to_owned(),
            digest: Digest::of(document).oci(),
            size: document.len() as u64,
            annotations: std::collections::BTreeMap::new(),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    media_type: String,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    media_type: String,
    manifests: Vec<Descriptor>,
}

/// Writes images of an engine to an archive, with the `FROM` images that their bases stand on. One
/// that broke off is gone on with. With a key each is signed.
pub async fn export(
    engine: &dyn LayerStorage,
    path: &Path,
    images: impl Iterator<Item = (Kind, Key)>,
    signer: Option<&PrivateKey>,
) -> Result<Written, ArchiveError> {
    let mut named = Vec::new();
    for (kind, key) in images {
        let name = name::image(kind, &key);
        let missing = || EngineError::NoSuchImage { reference: name.clone() };
        let looked = engine.inspect(&name).await?.ok_or_else(missing)?;
        if let Some(keyed) = check::keyed_platform(&looked, kind) {
            check_platform(&name, &looked.platform, &keyed)?;
        }
        if kind == Kind::Base {
            for (from, _, image) in from_image::external_images(engine, &looked).await? {
                let name = from.own_name();
                // Bases share it.
                if !named.iter().any(|(known, _, _)| *known == name) {
                    named.push((name, Some(from.reference), image));
                }
            }
        }
        named.push((name, None, looked));
    }
    let images: Vec<Image> = named.iter().map(|(_, _, image)| image.clone()).collect();
    let export = Arc::new(Export::begin(path, &images)?);
    // Whoever has all layers of another image need not be read for it.
    let mut order: Vec<&Image> = images.iter().collect();
    order.sort_by_key(|image| std::cmp::Reverse(image.diff_ids.len()));
    let mut tops: Vec<Image> = Vec::new();
    let mut covered: HashSet<&str> = HashSet::new();
    for image in order {
        if !image.diff_ids.iter().all(|diff_id| covered.contains(diff_id.as_str())) {
            covered.extend(image.diff_ids.iter().map(DiffId::as_str));
            tops.push(image.clone());
        }
    }
    let lacks = |image: &Image| image.diff_ids.iter().any(|diff_id| export.wants(diff_id));
    tops.retain(lacks);
    if !tops.is_empty() {
        engine.read_layers(&tops, export.clone()).await?;
    }
    export.finish(&named, signer)
}

/// Why an archive could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The file could not be read or written.
    #[error("cannot use `{path}`")]
    File {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: std::io::Error,
    },
    /// The file ends too early.
    #[error("`{path}` is cut off: {what}")]
    CutOff {
        /// The file.
        path: PathBuf,
        /// The part that is missing.
        what: String,
    },
    /// The file is something else.
    #[error("`{path}` is not an archive of imgforge: {why}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The part that no archive of imgforge has.
        why: String,
    },
    /// A newer imgforge wrote it.
    #[error("`{path}` has form {found}, this imgforge knows up to {VERSION}")]
    Newer {
        /// The file.
        path: PathBuf,
        /// The version of the form that was found.
        found: u32,
    },
    /// Bytes are not what their digest says.
    #[error("`{path}` is damaged: {what}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The part that contradicts another one.
        what: String,
    },
    /// Another process writes the same archive.
    #[error("another process writes `{path}`")]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] crate::engine::EngineError),
}

impl ArchiveError {
    /// Returns what would help.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            ArchiveError::CutOff { .. } => {
                "copy it again; an export that broke off goes on when it is started again"
            }
            ArchiveError::Damaged { .. } => "copy it again, or export it again",
            ArchiveError::Newer { .. } => "use the imgforge that wrote it, or a newer one",
            ArchiveError::Busy { .. } => "wait for it, or name another file",
            ArchiveError::Engine(EngineError::OtherPlatform { .. }) => {
                "`imgforge cache verify --repair` removes it, and a build makes it anew"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use crate::engine::NoLog;
    use crate::platform::Platform;
    use std::collections::HashMap;
    use std::io::Read;
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::cache::image_source::ImageSource as _;
    use crate::engine::fake::FakeEngine;
    use crate::engine::{Image, ImageConfig, LayerConsumer, label};
    use crate::key::{Digest, Key, KeyDocument, Kind};
    use crate::plan::name;

    fn image(kind: Kind, number: usize, layers: &[&[u8]]) -> (Key, Image) {
        let key = KeyDocument::new(kind).with("n", number).key();
        let labels = [(label::KEY.to_owned(), key.to_string())].into();
        let image = Image {
            id: format!("sha256:{number}").into(),
            tags: vec![name::image(kind, &key)],
            diff_ids: layers.iter().map(|layer| Digest::of(layer).into()).collect(),
            platform: Platform::written("linux/amd64"),
            config: ImageConfig { labels, ..ImageConfig::default() },
            ..Image::default()
        };
        (key, image)
    }

    fn feed(consumer: &dyn LayerConsumer, layers: &[&[u8]]) {
        for layer in layers {
            let diff_id = Digest::of(layer).into();
            if consumer.wants(&diff_id) {
                consumer.consume(Some(&diff_id), &mut &**layer).unwrap();
            }
        }
    }

    const LAYERS: [&[u8]; 3] = [&[1; 5000], &[2; 700], b"three"];

    fn export(path: &Path) -> (Key, Key) {
        let (base, one) = image(Kind::Base, 1, &LAYERS[..1]);
        let (env, two) = image(Kind::Env, 2, &LAYERS);
        let export = Arc::new(Export::begin(path, &[one.clone(), two.clone()]).unwrap());
        feed(&*export, &LAYERS);
        let named = [
            (name::image(Kind::Base, &base), None, one),
            (name::image(Kind::Env, &env), None, two),
        ];
        export.finish(&named, None).unwrap();
        (base, env)
    }

    #[tokio::test]
    async fn what_was_written_is_read_with_each_layer_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        let (base, env) = export(&path);
        let archive = Archive::open(&path, dir.path()).unwrap();
        assert_eq!(archive.images(), [(Kind::Base, base), (Kind::Env, env)]);
        let offers = archive.lookup(&[(Kind::Env, env), (Kind::Env, base)]).await.unwrap().images;
        assert_eq!(offers.len(), 1);
        assert_eq!(offers[&env].diff_ids.len(), 3);
        let mut names: HashMap<String, usize> = HashMap::new();
        let mut tar = tar::Archive::new(std::fs::File::open(&path).unwrap());
        for entry in tar.entries().unwrap() {
            let name = entry.unwrap().path().unwrap().display().to_string();
            *names.entry(name).or_default() += 1;
        }
        assert!(names.values().all(|count| *count == 1), "{names:?}");
        assert_eq!(names.keys().filter(|name| name.starts_with(super::LAYERS)).count(), 3);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn an_export_that_broke_off_goes_on_behind_its_last_layer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        let (_, two) = image(Kind::Env, 2, &LAYERS);
        let first = Export::begin(&path, std::slice::from_ref(&two)).unwrap();
        feed(&first, &LAYERS[..2]);
        drop(first);
        let partial = dir.path().join("a.tar.partial");
        let whole = std::fs::metadata(&partial).unwrap().len();
        // A kill in the middle of the second layer.
        std::fs::OpenOptions::new()
            .write(true)
            .open(&partial)
            .unwrap()
            .set_len(whole - 600)
            .unwrap();
        let second = Export::begin(&path, std::slice::from_ref(&two)).unwrap();
        assert!(!second.wants(&two.diff_ids[0]), "the first is there");
        assert!(second.wants(&two.diff_ids[1]));
        assert!(matches!(Export::begin(&path, &[]), Err(ArchiveError::Busy { .. })));
        feed(&second, &LAYERS);
        let (key, _) = image(Kind::Env, 2, &LAYERS);
        second.finish(&[(name::image(Kind::Env, &key), None, two)], None).unwrap();
        Archive::open(&path, dir.path()).unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_cut_off_damaged_foreign_or_newer_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        let (base, _) = export(&path);
        let whole = std::fs::read(&path).unwrap();
        let open = || Archive::open(&path, dir.path());
        for length in [0, 100, 1500, whole.len() / 2, whole.len() - 3000] {
            std::fs::write(&path, &whole[..length]).unwrap();
            let error = open().map(drop).unwrap_err();
            assert!(
                matches!(error, ArchiveError::CutOff { .. } | ArchiveError::Foreign { .. }),
                "{length}: {error}"
            );
        }
        std::fs::write(&path, b"hello, I am a text".repeat(100)).unwrap();
        assert!(matches!(open(), Err(ArchiveError::Foreign { .. })));
        let newer =
            String::from_utf8_lossy(&whole[..2048]).replace("\"version\":1", "\"version\":2");
        std::fs::write(&path, newer.as_bytes()).unwrap();
        assert!(matches!(open(), Err(ArchiveError::Newer { found: 2, .. })));
        // A flipped bit in each blob.
        let engine = FakeEngine::new();
        let mut refused = 0;
        for at in blobs(&whole) {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            std::fs::write(&path, &flipped).unwrap();
            let Ok(archive) = open() else {
                refused += 1;
                continue;
            };
            let brought = archive.fetch(&engine, Kind::Base, &base, None, &NoLog).await;
            refused += usize::from(brought.is_err());
        }
        assert_eq!(refused, 1 + 4 + 2, "the layers, and every config and manifest");
    }

    /// Positions in the middle of every blob of an archive.
    fn blobs(archive: &[u8]) -> Vec<usize> {
        let mut tar = tar::Archive::new(archive);
        let mut positions = Vec::new();
        for entry in tar.entries().unwrap() {
            let mut entry = entry.unwrap();
            if entry.path().unwrap().starts_with("blobs") {
                let middle = entry.raw_file_position() + entry.size() / 2;
                positions.push(middle as usize);
            }
            let mut rest = Vec::new();
            entry.read_to_end(&mut rest).unwrap();
        }
        positions
    }
}
