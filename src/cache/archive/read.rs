//! Reading archives: what they hold, and bringing it onto an engine.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use crate::disk;
use crate::engine::bounds::Bounded;
use crate::engine::{
    Builder, EngineError, Image, LayerFile, LayerRequest, LogSink, Result, check_platform,
    read_config,
};
use crate::hashing::Hashing;
use crate::key::{DiffId, Digest, Key, Kind};
use crate::plan::name;
use crate::sign::{NotSigned, PublicKey};
use crate::traffic;

use super::super::check;
use super::super::from_image::{self, FromImage};
use super::super::image_source::{ImageSource, Lookup};
use super::signatures::{self, Signatures};
use super::{
    ALIASES, ArchiveError, BLOBS, Descriptor, FORM, Form, Index, Manifest, NAME, REFERENCE, VERSION,
};

/// Nothing that is larger is a manifest, a config or an index.
const DOCUMENT_LIMIT: u64 = 64 << 20;

/// Entries of an archive: blobs, and the records of layers.
const ENTRIES: usize = 1_000_000;

/// An image of an archive.
#[derive(Debug, Clone)]
struct Held {
    image: Image,
    /// The digest of its manifest.
    manifest: String,
    /// Digests and bytes of the compressed layers, the lowest first.
    layers: Vec<(String, u64)>,
}

/// A finished archive. What it holds is known; its layers are checked when they are brought.
pub struct Archive {
    path: PathBuf,
    scratch: PathBuf,
    /// Where blobs begin, and their bytes.
    blobs: HashMap<String, (u64, u64)>,
    images: BTreeMap<(Kind, Key), Held>,
    /// The `FROM` images that its bases stand on, by reference: bases of another day can have another one
    /// of the same reference.
    external: BTreeMap<String, Vec<Held>>,
    /// The benchmark's names of its images.
    aliases: HashMap<Key, Vec<String>>,
    signatures: Signatures,
    /// What it holds and no trusted key signed.
    unsigned: HashMap<Key, Unsigned>,
}

/// An image that no trusted key signed: its name, the digest of its manifest, and why.
type Unsigned = (String, String, NotSigned);

/// The entries of the tar of an archive, each with the position and the bytes of its content.
struct Entries {
    blobs: HashMap<String, (u64, u64)>,
    /// The other files, by name.
    documents: HashMap<String, (u64, u64)>,
}

impl Entries {
    /// Reads the headers of all entries.
    ///
    /// # Errors
    /// The file is no archive, one of a newer imgforge, or does not end where it should.
    fn read(path: &Path, file: &File) -> std::result::Result<Entries, ArchiveError> {
        let file_error = |source| ArchiveError::File { path: path.to_owned(), source };
        let foreign = |why: String| ArchiveError::Foreign { path: path.to_owned(), why };
        let cut_off = |what: String| ArchiveError::CutOff { path: path.to_owned(), what };
        let length = file.metadata().map_err(file_error)?.len();
        let mut found = Entries { blobs: HashMap::new(), documents: HashMap::new() };
        // The position of one is where the tar is read.
        let reader = File::open(path).map_err(file_error)?;
        let mut tar = tar::Archive::new(&reader);
        let mut first = true;
        // As they are: long names and extended headers are none of ours.
        let entries = tar.entries_with_seek().map_err(file_error)?.raw(true);
        for (number, entry) in entries.enumerate() {
            if number >= ENTRIES {
                return Err(foreign(format!("it has more than {ENTRIES} entries")));
            }
            let entry = entry.map_err(|error| match first {
                true if error.kind() == std::io::ErrorKind::Other => {
                    foreign("it is no tar file".to_owned())
                }
                true => foreign(error.to_string()),
                false => cut_off(error.to_string()),
            })?;
            let name = entry.path().map_err(file_error)?.display().to_string();
            let at = (entry.raw_file_position(), entry.size());
            // Whoever wrote it wrote plain files.
            if !entry.header().entry_type().is_file() {
                return Err(foreign(format!("`{name}` is not a plain file")));
            }
            if at.0.checked_add(at.1).is_none_or(|end| end > length) {
                return Err(cut_off(format!("`{name}` ends behind the file")));
            }
            if first {
                check_form(path, &name, || read_at(file, at).map_err(file_error))?;
            }
            first = false;
            let known = match name.strip_prefix(BLOBS) {
                Some(digest) => found.blobs.insert(format!("sha256:{digest}"), at),
                None => found.documents.insert(name.clone(), at),
            };
            // Which of them counts is another thing for every program.
            if known.is_some() {
                return Err(foreign(format!("`{name}` is in it twice")));
            }
        }
        match first {
            true => Err(foreign("it is empty".to_owned())),
            false => Ok(found),
        }
    }
}

/// Checks that the first entry of a tar is the form of an archive that this imgforge reads.
fn check_form(
    path: &Path,
    name: &str,
    read: impl FnOnce() -> std::result::Result<Vec<u8>, ArchiveError>,
) -> std::result::Result<(), ArchiveError> {
    let foreign = |why: String| ArchiveError::Foreign { path: path.to_owned(), why };
    if name != FORM {
        return Err(foreign(format!("it begins with `{name}`")));
    }
    let form: Form =
        serde_json::from_slice(&read()?).map_err(|error| foreign(error.to_string()))?;
    if form.version > VERSION {
        return Err(ArchiveError::Newer { path: path.to_owned(), found: form.version });
    }
    Ok(())
}

impl Archive {
    /// Opens an archive: reads where everything is, and every document. `scratch` is where layers
    /// are unpacked to on their way.
    pub fn open(path: &Path, scratch: &Path) -> std::result::Result<Archive, ArchiveError> {
        let file_error = |source| ArchiveError::File { path: path.to_owned(), source };
        let file = File::open(path).map_err(file_error)?;
        let Entries { blobs, documents } = Entries::read(path, &file)?;
        let mut archive = Archive {
            path: path.to_owned(),
            scratch: scratch.to_owned(),
            blobs,
            images: BTreeMap::new(),
            external: BTreeMap::new(),
            aliases: HashMap::new(),
            signatures: Signatures::default(),
            unsigned: HashMap::new(),
        };
        let Some(index) = documents.get("index.json") else {
            return Err(archive.cut_off("its index is missing".to_owned()));
        };
        if index.1 > DOCUMENT_LIMIT {
            let why = "its index is too large".to_owned();
            return Err(ArchiveError::Foreign { path: path.to_owned(), why });
        }
        let text = read_at(&file, *index).map_err(file_error)?;
        let index: Index = serde_json::from_slice(&text)
            .map_err(|error| archive.damaged(format!("its index: {error}")))?;
        for entry in index.manifests {
            archive.add_manifest(&file, &entry)?;
        }
        archive.keep_known_externals();
        Ok(archive)
    }

    /// Adds what an entry of the index names: an image, or signatures.
    fn add_manifest(
        &mut self,
        file: &File,
        entry: &Descriptor,
    ) -> std::result::Result<(), ArchiveError> {
        let text = self.document(file, &entry.digest)?;
        let manifest: Manifest =
            serde_json::from_slice(&text).map_err(|error| self.unreadable(entry, &error))?;
        if let Some(signed) = signatures::signed(entry) {
            for layer in &manifest.layers {
                let payload = self.document(file, &layer.digest)?;
                self.signatures.add(signed.clone(), layer, payload);
            }
            return Ok(());
        }
        let held = self.held(file, entry, manifest)?;
        let twice = if let Some(reference) = entry.annotations.get(REFERENCE) {
            let known = self.external.entry(reference.clone()).or_default();
            let twice = known.iter().any(|one| one.manifest == held.manifest);
            known.push(held);
            twice
        } else if let Some(name) = entry.annotations.get(NAME)
            && let Some(of) = name::parse(name)
        {
            let names = entry.annotations.get(ALIASES).map_or("", String::as_str);
            let names = names.split(' ').filter(|name| name::is_alias(name));
            self.aliases.insert(of.1, names.map(str::to_owned).collect());
            self.images.insert(of, held).is_some()
        } else {
            false
        };
        match twice {
            true => Err(self.damaged(format!("two images have the name of `{}`", entry.digest))),
            false => Ok(()),
        }
    }

    /// Reads the image of a manifest; all its layers are in the archive.
    fn held(
        &self,
        file: &File,
        entry: &Descriptor,
        manifest: Manifest,
    ) -> std::result::Result<Held, ArchiveError> {
        let text = self.document(file, &manifest.config.digest)?;
        let config = read_config(&text).map_err(|error| self.unreadable(entry, &error))?;
        let layers: Vec<(String, u64)> =
            manifest.layers.iter().map(|layer| (layer.digest.clone(), layer.size)).collect();
        for (digest, size) in &layers {
            if self.blobs.get(digest).is_none_or(|(_, found)| found != size) {
                return Err(self.cut_off(format!("layer `{digest}` is missing")));
            }
        }
        let image = Image {
            id: manifest.config.digest.into(),
            diff_ids: config.diff_ids,
            platform: config.platform,
            size: layers.iter().map(|(_, size)| size).sum(),
            config: config.config,
            ..Image::default()
        };
        if image.diff_ids.len() != layers.len() {
            return Err(self.damaged(format!("`{}` has other layers", entry.digest)));
        }
        Ok(Held { manifest: entry.digest.clone(), image, layers })
    }

    fn unreadable(&self, entry: &Descriptor, error: &serde_json::Error) -> ArchiveError {
        self.damaged(format!("`{}`: {error}", entry.digest))
    }

    fn cut_off(&self, what: String) -> ArchiveError {
        ArchiveError::CutOff { path: self.path.clone(), what }
    }

    /// Makes every image that none of `keys` signed as if it were not there; without keys nothing has to
    /// be signed.
    #[must_use]
    pub fn trusting(mut self, keys: &[PublicKey]) -> Archive {
        if keys.is_empty() {
            return self;
        }
        let signatures = std::mem::take(&mut self.signatures);
        // A signature is of an image by its key, and says nothing of other names.
        self.aliases.clear();
        for held in self.external.values_mut() {
            held.retain(|held| signatures.verify(&held.manifest, keys).is_ok());
        }
        let unsigned = &mut self.unsigned;
        self.images.retain(|(kind, key), held| {
            let Err(why) = signatures.verify(&held.manifest, keys) else { return true };
            unsigned.insert(*key, (name::image(*kind, key), held.manifest.clone(), why));
            false
        });
        self
    }

    /// Returns what it holds, parents before children.
    pub fn images(&self) -> Vec<(Kind, Key)> {
        let unsigned = self.unsigned.iter().filter_map(|(_, (name, _, _))| name::parse(name));
        let mut images: Vec<(Kind, Key)> = self.images.keys().copied().chain(unsigned).collect();
        images.sort_unstable();
        images
    }

    /// Keeps those `FROM` images that a base of the archive stands on, as it recorded them: no other
    /// has anything to do here.
    fn keep_known_externals(&mut self) {
        let bases = self.images.iter().filter(|((kind, key), held)| {
            *kind == Kind::Base && check::inputs(&held.image, *kind, key).is_ok()
        });
        let known: Vec<FromImage> =
            bases.flat_map(|(_, held)| from_image::of_base(&held.image)).collect();
        for (reference, held) in &mut self.external {
            held.retain(|held| {
                known.iter().any(|meant| meant.reference == *reference && meant.is(&held.image))
            });
        }
    }

    /// Returns the benchmark's names of an image, where they can be believed.
    pub fn aliases(&self, key: &Key) -> &[String] {
        self.aliases.get(key).map_or(&[], Vec::as_slice)
    }

    fn damaged(&self, what: String) -> ArchiveError {
        ArchiveError::Damaged { path: self.path.clone(), what }
    }

    /// Reads a small blob whose bytes match its digest.
    fn document(&self, file: &File, digest: &str) -> std::result::Result<Vec<u8>, ArchiveError> {
        let Some(at) = self.blobs.get(digest).filter(|(_, size)| *size <= DOCUMENT_LIMIT) else {
            return Err(ArchiveError::CutOff {
                path: self.path.clone(),
                what: format!("blob `{digest}` is missing"),
            });
        };
        let text = read_at(file, *at)
            .map_err(|source| ArchiveError::File { path: self.path.clone(), source })?;
        match Digest::of(&text).oci() == digest {
            true => Ok(text),
            false => Err(self.damaged(format!("blob `{digest}` is something else"))),
        }
    }

    async fn load(
        &self,
        engine: &dyn Builder,
        held: &Held,
        parent: Option<&Image>,
        tag: String,
    ) -> Result<()> {
        let below = parent.filter(|parent| {
            held.image.diff_ids.starts_with(&parent.diff_ids)
                && parent.platform.matches(&held.image.platform)
        });
        let parent = match below {
            Some(parent) => parent.clone(),
            None => Image { platform: held.image.platform.clone(), ..Image::default() },
        };
        let scratch = tempfile::Builder::new().prefix("layers-").tempdir_in(&self.scratch);
        let scratch =
            scratch.map_err(|source| EngineError::File { path: self.scratch.clone(), source })?;
        let from = parent.diff_ids.len();
        let mut layers = Vec::new();
        for (at, diff_id) in held.image.diff_ids.iter().enumerate().skip(from) {
            let path = scratch.path().join(format!("{at}.tar"));
            let digest = &held.layers[at].0;
            let unpacked = tokio::task::block_in_place(|| self.unpack(digest, diff_id, &path));
            layers.push(unpacked.map_err(|source| match disk::is_full(&source) {
                true => EngineError::NoSpace { action: "unpack a layer".to_owned() },
                false => EngineError::File { path: self.path.clone(), source },
            })?);
        }
        let config = held.image.config.clone();
        let request = LayerRequest { parent, layers, config, tags: vec![tag] };
        engine.load(&request).await.map(drop)
    }

    /// Unpacks a layer to a file; both of its digests are checked.
    fn unpack(&self, digest: &str, diff_id: &DiffId, path: &Path) -> io::Result<LayerFile> {
        let mut file = File::open(&self.path)?;
        let (at, size) = self.blobs[digest];
        file.seek(SeekFrom::Start(at))?;
        let mut blob = Hashing::new(traffic::Counted(file.take(size)));
        let tar = Bounded::new(zstd::stream::read::Decoder::new(&mut blob)?, size);
        let mut tar = Hashing::new(tar);
        let mut out = io::BufWriter::with_capacity(1 << 18, File::create(path)?);
        io::copy(&mut tar, &mut out).map_err(|error| in_layer(digest, error))?;
        out.flush()?;
        let (_, layer, length) = tar.finish();
        io::copy(&mut blob, &mut io::sink())?;
        if blob.finish().1.oci() != digest || *diff_id != layer {
            let text = format!("layer `{digest}` is damaged");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(LayerFile { path: path.to_owned(), diff_id: layer, size: length })
    }
}

/// Says of which layer an error is.
fn in_layer(digest: &str, error: io::Error) -> io::Error {
    match disk::is_full(&error) {
        true => error,
        false => io::Error::new(error.kind(), format!("layer `{digest}`: {error}")),
    }
}

fn read_at(mut file: &File, (at, size): (u64, u64)) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(at))?;
    let mut bytes = Vec::new();
    file.take(size.min(DOCUMENT_LIMIT)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[async_trait]
impl ImageSource for Archive {
    fn describe(&self) -> String {
        format!("archive `{}`", self.path.display())
    }

    async fn lookup(&self, images: &[(Kind, Key)]) -> Result<Lookup> {
        let held = images.iter().filter_map(|of| Some((of.1, self.images.get(of)?.image.clone())));
        let unsigned = images.iter().filter_map(|(_, key)| {
            let (reference, digest, why) = self.unsigned.get(key)?.clone();
            Some((*key, EngineError::Unsigned { reference, digest, why }))
        });
        let unsigned = unsigned.collect();
        Ok(Lookup { images: held.collect(), unsigned, untold: Vec::new() })
    }

    async fn external_images(&self, reference: &str) -> Result<Vec<Image>> {
        let held = self.external.get(reference).into_iter().flatten();
        Ok(held.map(|held| held.image.clone()).collect())
    }

    async fn fetch(
        &self,
        engine: &dyn Builder,
        kind: Kind,
        key: &Key,
        parent: Option<&Image>,
        _: &dyn LogSink,
    ) -> Result<()> {
        let tag = name::image(kind, key);
        let missing = || EngineError::NoSuchImage { reference: tag.clone() };
        let held = self.images.get(&(kind, *key)).ok_or_else(missing)?;
        if let Some(keyed) = check::keyed_platform(&held.image, kind) {
            check_platform(&tag, &held.image.platform, &keyed)?;
        }
        self.load(engine, held, parent, tag.clone()).await
    }

    async fn fetch_external(
        &self,
        engine: &dyn Builder,
        from: &FromImage,
        _: &dyn LogSink,
    ) -> Result<()> {
        let missing = || EngineError::NoSuchImage { reference: from.reference.clone() };
        let held = self.external.get(&from.reference).into_iter().flatten();
        let held = held.into_iter().find(|held| from.is(&held.image)).ok_or_else(missing)?;
        self.load(engine, held, None, from.own_name()).await
    }
}
