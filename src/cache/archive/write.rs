//! Writing archives.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::Serialize;

use crate::engine::{Image, LayerConsumer, config_json};
use crate::hashing::Hashing;
use crate::key::{DiffId, Digest};
use crate::plan::name::is_alias;
use crate::sign::PrivateKey;
use crate::traffic;

use super::signatures;
use super::{
    ALIASES, ArchiveError, BLOBS, CONFIG_TYPE, Descriptor, FORM, Form, INDEX_TYPE, Index,
    LAYER_TYPE, LAYERS, MANIFEST_TYPE, Manifest, NAME, REFERENCE, VERSION,
};

/// The level of compression of layers: what takes as long as reading them.
const LEVEL: i32 = 3;

/// Bytes of a block of a tar.
const BLOCK: u64 = 512;

/// The result of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Written {
    /// Layers in the archive.
    pub layers: usize,
    /// Those of them that an export which broke off had written.
    pub resumed: usize,
    /// Bytes of the archive.
    pub bytes: u64,
}

/// An archive that is being written, to `<path>.partial`. Takes the layers that it lacks; what is
/// written stays when it is dropped, for the next try.
pub struct Export {
    path: PathBuf,
    partial: PathBuf,
    needed: HashSet<DiffId>,
    state: Mutex<State>,
}

struct State {
    file: File,
    end: u64,
    layers: HashMap<DiffId, Descriptor>,
    resumed: usize,
}

impl Export {
    /// Begins the archive of `images`, or goes on with one that broke off.
    pub fn begin(path: &Path, images: &[Image]) -> Result<Export, ArchiveError> {
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let needed: HashSet<DiffId> =
            images.iter().flat_map(|image| image.diff_ids.iter().cloned()).collect();
        let failed = |source| ArchiveError::File { path: partial.clone(), source };
        let mut open = OpenOptions::new();
        open.create(true).truncate(false).read(true).write(true);
        let mut file = open.open(&partial).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(ArchiveError::Busy { path: partial });
            }
            Err(std::fs::TryLockError::Error(source)) => return Err(failed(source)),
        }
        let (layers, end) = written(&mut file).map_err(failed)?;
        let layers: HashMap<DiffId, Descriptor> = layers.into_iter().collect();
        // What nobody needs any more would stay in the file: then it is begun anew.
        let all_needed = layers.keys().all(|diff_id| needed.contains(diff_id));
        let (layers, end) = if all_needed { (layers, end) } else { (HashMap::new(), 0) };
        file.set_len(end).map_err(failed)?;
        let resumed = layers.len();
        let mut state = State { file, end, layers, resumed };
        if end == 0 {
            let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
            let form = serde_json::to_vec(&Form { version: VERSION }).expect("plain values");
            state.append(FORM, &form).map_err(failed)?;
            state.append("oci-layout", layout).map_err(failed)?;
        }
        Ok(Export { path: path.to_owned(), partial, needed, state: Mutex::new(state) })
    }

    /// Writes what the images are, and gives the archive its name. `images` are names by key, with
    /// the reference where it is a `FROM` image.
    ///
    /// # Errors
    /// A layer that was not taken.
    pub fn finish(
        &self,
        images: &[(String, Option<String>, Image)],
        signer: Option<&PrivateKey>,
    ) -> Result<Written, ArchiveError> {
        let mut state = self.state.lock().expect("no holder panics");
        let failed = |source| ArchiveError::File { path: self.partial.clone(), source };
        let mut manifests = Vec::new();
        let mut documents = HashSet::new();
        for (name, reference, image) in images {
            let config = config_json(&image.config, &image.platform, &image.diff_ids);
            let layers: Option<Vec<Descriptor>> =
                image.diff_ids.iter().map(|diff_id| state.layers.get(diff_id).cloned()).collect();
            let Some(layers) = layers else {
                let what = format!("the engine did not give all layers of `{name}`");
                return Err(ArchiveError::Damaged { path: self.partial.clone(), what });
            };
            let manifest = Manifest {
                schema_version: 2,
                media_type: MANIFEST_TYPE.to_owned(),
                config: Descriptor::of(CONFIG_TYPE, &config),
                layers,
            };
            let manifest = serde_json::to_vec(&manifest).expect("plain values");
            let mut entry = Descriptor::of(MANIFEST_TYPE, &manifest);
            entry.annotations.insert(NAME.to_owned(), name.clone());
            if let Some(reference) = reference {
                entry.annotations.insert(REFERENCE.to_owned(), reference.clone());
            }
            let mut aliases: Vec<&str> = image.tags.iter().map(String::as_str).collect();
            aliases.retain(|tag| reference.is_none() && is_alias(tag));
            if !aliases.is_empty() {
                aliases.sort_unstable();
                entry.annotations.insert(ALIASES.to_owned(), aliases.join(" "));
            }
            let mut written = vec![config, manifest];
            if let Some(signer) = signer {
                let (signature, more) = signatures::sign(name, &entry.digest, signer);
                manifests.push(signature);
                written.extend(more);
            }
            manifests.push(entry);
            for document in &written {
                let digest = Digest::of(document).to_string();
                if documents.insert(digest.clone()) {
                    state.append(&format!("{BLOBS}{digest}"), document).map_err(failed)?;
                }
            }
        }
        let index = Index { schema_version: 2, media_type: INDEX_TYPE.to_owned(), manifests };
        let index = serde_json::to_vec(&index).expect("plain values");
        state.append("index.json", &index).map_err(failed)?;
        state.file.write_all(&[0; 2 * BLOCK as usize]).map_err(failed)?;
        state.file.sync_all().map_err(failed)?;
        std::fs::rename(&self.partial, &self.path).map_err(failed)?;
        Ok(Written {
            layers: state.layers.len(),
            resumed: state.resumed,
            bytes: state.end + 2 * BLOCK,
        })
    }
}

impl LayerConsumer for Export {
    fn wants(&self, diff_id: &DiffId) -> bool {
        let state = self.state.lock().expect("no holder panics");
        self.needed.contains(diff_id) && !state.layers.contains_key(diff_id)
    }

    fn consume(&self, diff_id: Option<&DiffId>, tar: &mut dyn Read) -> io::Result<()> {
        // The size of an entry comes before its bytes.
        let directory = self.partial.parent().filter(|dir| !dir.as_os_str().is_empty());
        let aside = tempfile::tempfile_in(directory.unwrap_or(Path::new(".")))?;
        let mut compressed = Hashing::new(aside);
        let mut encoder = zstd::stream::write::Encoder::new(&mut compressed, LEVEL)?;
        let mut tar = Hashing::new(tar);
        io::copy(&mut tar, &mut encoder)?;
        encoder.finish()?;
        let found = DiffId::from(tar.finish().1);
        if let Some(named) = diff_id.filter(|named| **named != found) {
            let text = format!("layer `{named}` is `{found}`");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        if !self.wants(&found) {
            return Ok(());
        }
        let (mut aside, digest, size) = compressed.finish();
        let layer = Descriptor {
            media_type: LAYER_TYPE.to_owned(),
            digest: digest.oci(),
            size,
            annotations: BTreeMap::new(),
        };
        let record = serde_json::to_vec(&layer).expect("plain values");
        aside.rewind()?;
        let mut state = self.state.lock().expect("no holder panics");
        state.append_from(&format!("{BLOBS}{digest}"), size, &mut aside)?;
        state.append(&format!("{LAYERS}{}", found.hex()), &record)?;
        state.layers.insert(found, layer);
        Ok(())
    }
}

impl State {
    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.append_from(name, bytes.len() as u64, &mut &*bytes)
    }

    /// Appends a file. What a failure leaves is overwritten by the next.
    fn append_from(&mut self, name: &str, size: u64, from: &mut dyn Read) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(self.end))?;
        let mut header = tar::Header::new_ustar();
        header.set_path(name)?;
        header.set_size(size);
        header.set_mode(0o644);
        header.set_cksum();
        self.file.write_all(header.as_bytes())?;
        let written = io::copy(&mut traffic::Counted(from.take(size)), &mut self.file)?;
        if written != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let padding = size.next_multiple_of(BLOCK) - size;
        self.file.write_all(&vec![0; padding as usize])?;
        self.end += BLOCK + size + padding;
        Ok(())
    }
}

/// Finds the layers that an export which broke off has written whole, and where they end.
fn written(file: &mut File) -> io::Result<(Vec<(DiffId, Descriptor)>, u64)> {
    let mut layers = Vec::new();
    let mut end = 0;
    let mut blob: Option<(String, u64)> = None;
    let mut archive = tar::Archive::new(&mut *file);
    for (number, entry) in archive.entries()?.enumerate() {
        let Ok(mut entry) = entry else { break };
        let Ok(name) = entry.path().map(|path| path.display().to_string()) else { break };
        let size = entry.size();
        let behind = entry.raw_file_position() + size.next_multiple_of(BLOCK);
        if let Some(digest) = name.strip_prefix(BLOBS) {
            match Digest::of_reader(&mut entry) {
                Ok((found, _)) if found.to_string() == digest => {
                    blob = Some((found.oci(), size));
                }
                _ => break,
            }
            continue;
        }
        let mut text = Vec::new();
        if entry.read_to_end(&mut text).is_err() || text.len() as u64 != size {
            break;
        }
        match name.strip_prefix(LAYERS) {
            Some(hex) => {
                let Ok(layer) = serde_json::from_slice::<Descriptor>(&text) else { break };
                if blob.take() != Some((layer.digest.clone(), layer.size)) {
                    break;
                }
                layers.push((format!("sha256:{hex}").into(), layer));
            }
            // The head, which is the same in every archive of this form.
            None if number == 0 && name == FORM => {
                let form: Option<Form> = serde_json::from_slice(&text).ok();
                if form.is_none_or(|form| form.version != VERSION) {
                    break;
                }
                continue;
            }
            None if number == 1 && name == "oci-layout" => {}
            None => break,
        }
        end = behind;
    }
    // The padding of the last entry may be missing.
    let length = file.metadata()?.len();
    if end > length {
        return Ok((Vec::new(), 0));
    }
    Ok((layers, end))
}
