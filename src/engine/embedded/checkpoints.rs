//! Checkpoints: layers of what sessions changed, with a record of each that says what it stands on.
//!
//! A layer is kept as it was made, unpacked. Whoever wants an image gets one that is made then: see
//! [`EmbeddedEngine::seal`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::engine::checkpoint::{self, Checkpoint, REPOSITORY};
use crate::engine::{EngineError, Result};
use crate::file_lock::FileLock;
use crate::key::DiffId;

use super::EmbeddedEngine;
use super::helper_client::HelperClient;
use super::layers::{LayerSink, layers_of};
use super::layout::{Stored, file_error};
use super::operations::{self, OperationGuard};
use super::protocol::{CheckpointLayer, Operation, Storage, Times};
use super::snapshots::Snapshots;

/// Below the engine's directory: the records.
const DIRECTORY: &str = "checkpoints";

/// How the names of such layers begin among those of layers, which are hexadecimal digits.
pub(super) const MARK: char = 'k';

/// How many layers of checkpoints lie on each other: what is below then becomes one layer.
const DEEPEST: usize = 32;

/// Returns the id of the checkpoint that a reference names.
fn id_of(reference: &str) -> Option<&str> {
    let id = reference.strip_prefix(REPOSITORY)?.strip_prefix(':')?;
    is_id(id).then_some(id)
}

fn is_id(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What is known of a checkpoint.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    /// As in [`Checkpoint`].
    pub parent: String,
    /// The manifest of the image below.
    pub manifest: String,
    /// Names of layers on the image, the highest first.
    pub layers: Vec<String>,
    /// Which directory the layers are in, by its name.
    pub form: String,
    /// It is nobody's any more: sessions that stand on it go on.
    pub removed: bool,
}

/// What a container stands on.
pub(super) struct Origin {
    /// As it was asked for.
    pub reference: String,
    /// The image.
    pub stored: Arc<Stored>,
    /// Names of layers of checkpoints on it, the highest first.
    pub layers: Vec<String>,
}

impl Origin {
    /// Returns the directories of all layers, the highest first.
    pub(super) fn lowers(&self) -> Vec<String> {
        let mut lowers = self.layers.clone();
        lowers.extend(Snapshots::lowers(&self.stored.diff_ids));
        lowers
    }
}

/// Where checkpoints are kept.
#[derive(Debug, Clone)]
pub(super) struct Checkpoints {
    /// The engine's directory.
    engine: PathBuf,
    dir: PathBuf,
    /// The directory of unpacked layers.
    layers: PathBuf,
    storage: Storage,
    owner: String,
    helper_client: HelperClient,
}

impl Checkpoints {
    /// Opens the directory of records below that of the engine.
    pub(super) fn open(
        engine: &Path,
        snapshots: &Snapshots,
        owner: &str,
        helper_client: HelperClient,
    ) -> Result<Checkpoints> {
        let dir = engine.join(DIRECTORY);
        fs::create_dir_all(&dir).map_err(file_error("make the engine's directory", &dir))?;
        let (layers, storage) = (snapshots.layers(), snapshots.storage());
        let (engine, owner) = (engine.to_owned(), owner.to_owned());
        Ok(Checkpoints { engine, dir, layers, storage, owner, helper_client })
    }

    fn path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }

    /// Returns which directory of layers this is, among those of the engine.
    fn form(&self) -> String {
        let form = self.layers.parent().and_then(Path::file_name).unwrap_or_default();
        form.to_string_lossy().into_owned()
    }

    /// Reads the record of the checkpoint that a reference names.
    fn find(&self, reference: &str) -> Result<Option<(PathBuf, Record)>> {
        let Some(id) = id_of(reference) else { return Ok(None) };
        let path = self.path(id);
        let record = self.read(&path)?.filter(|record| !record.removed);
        Ok(record.map(|record| (path, record)))
    }

    /// Reads a record; `None` where there is none. What a damaged one, or that of another imgforge, stands
    /// on is not known: nothing is collected until it is gone.
    fn read(&self, path: &Path) -> Result<Option<Record>> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(file_error("read of a checkpoint", path)(error)),
        };
        let record = serde_json::from_slice(&text);
        record.map(Some).map_err(|error| file_error("read of a checkpoint", path)(error.into()))
    }

    fn write(&self, path: &Path, record: &Record) -> Result<()> {
        let text = serde_json::to_vec(record).expect("a record is valid JSON");
        crate::atomic::write(path, &text, false).map_err(file_error("keep a checkpoint", path))
    }

    /// Lists the records, with their files.
    pub(super) fn all(&self) -> Result<Vec<(PathBuf, Record)>> {
        let failed = file_error("look at checkpoints", &self.dir);
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut found = Vec::new();
        for path in entries.flatten().map(|entry| entry.path()) {
            let id = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".json"));
            if !id.is_some_and(is_id) {
                continue;
            }
            // None was removed meanwhile.
            found.extend(self.read(&path)?.map(|record| (path, record)));
        }
        Ok(found)
    }

    /// Says that a checkpoint is nobody's any more; tells whether there is one.
    fn forget(&self, reference: &str) -> Result<bool> {
        let Some((path, record)) = self.find(reference)? else { return Ok(false) };
        self.write(&path, &Record { removed: true, ..record })?;
        Ok(true)
    }

    /// Begins a checkpoint of a session.
    pub(super) fn begin(&self, origin: &Origin) -> Result<Making> {
        if self.storage == Storage::Copy {
            return Err(EngineError::Refused {
                action: "make a checkpoint".to_owned(),
                reason: "the container is a copy of its image: there is no overlayfs here"
                    .to_owned(),
            });
        }
        let operation = operations::begin(&self.engine, &self.owner)?;
        let checkpoint = Checkpoint::on(&origin.reference);
        let name = format!("{MARK}{:029x}", rand::random::<u128>() >> 12);
        let (layers, merged) = match origin.layers.len() {
            0..DEEPEST => {
                let above = std::iter::once(name.clone());
                (above.chain(origin.layers.iter().cloned()).collect(), Vec::new())
            }
            _ => (vec![name.clone()], origin.layers.clone()),
        };
        let record = Record {
            parent: origin.reference.clone(),
            manifest: origin.stored.digest.clone(),
            layers,
            form: self.form(),
            removed: false,
        };
        let layer = CheckpointLayer { name, merged };
        Ok(Making { checkpoint, record, layer, _operation: operation })
    }

    /// Makes an empty directory for a layer that is being made, whose name is returned relative to the
    /// directory of layers. It goes with this process.
    pub(super) fn aside(&self) -> Result<(PathBuf, PathBuf)> {
        let containers = self.layers.with_file_name("c");
        let aside = tempfile::Builder::new()
            .prefix(&format!("{}-", self.owner))
            .tempdir_in(&containers)
            .map_err(file_error("make a checkpoint", &containers))?
            .keep();
        let name = aside.file_name().expect("a directory has a name");
        Ok((Path::new("../c").join(name), aside.clone()))
    }

    /// Takes what a container changed that has ended, by the name of its directory.
    pub(super) fn take(&self, container: &str, layer: CheckpointLayer) -> Result<()> {
        let work = Operation::Keep {
            snapshots: self.layers.clone(),
            scratch: Path::new("../c").join(container),
            storage: self.storage,
            layer,
        };
        self.helper_client.call(work, None, None)
    }

    /// Removes a directory that [`Checkpoints::aside`] made. What stays goes with this process.
    pub(super) fn remove_aside(&self, aside: &Path) {
        if fs::remove_dir(aside).is_err() {
            let work = Operation::Remove { paths: vec![aside.to_owned()] };
            let _ = self.helper_client.call(work, None, None);
        }
    }

    /// Says that the layer of a checkpoint is made.
    pub(super) fn finish(&self, making: Making) -> Result<Checkpoint> {
        self.write(&self.path(&making.checkpoint.id), &making.record)?;
        Ok(making.checkpoint)
    }
}

/// A checkpoint whose layer is being made.
pub(super) struct Making {
    checkpoint: Checkpoint,
    record: Record,
    /// What the helper makes.
    pub layer: CheckpointLayer,
    /// A collection leaves the layer alone that has no record yet.
    _operation: OperationGuard,
}

impl EmbeddedEngine {
    /// Finds what a container is to stand on, for an operation that has begun.
    pub(super) fn origin(&self, reference: &str) -> Result<Origin> {
        let origin = |stored, layers| Origin { reference: reference.to_owned(), stored, layers };
        let Some((path, record)) = self.checkpoints.find(reference)? else {
            return Ok(origin(self.needed(reference)?, Vec::new()));
        };
        if record.form != self.checkpoints.form() {
            // Files have other owners there: an image has none that are not said.
            let reason = format!("`{}` cannot be used from here", record.form);
            return Err(EngineError::Refused {
                action: format!("start from `{reference}`"),
                reason,
            });
        }
        // From here on a collection keeps it while the operation runs.
        let now = fs::FileTimes::new().set_modified(std::time::SystemTime::now());
        fs::File::options()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_times(now))
            .map_err(file_error("use a checkpoint", &path))?;
        let missing = || EngineError::NoSuchImage { reference: reference.to_owned() };
        let stored = self.layout.stored(&record.manifest)?.ok_or_else(missing)?;
        Ok(origin(stored, record.layers))
    }

    /// Makes the image of a checkpoint, unless it is there, for an operation that has begun; `None`
    /// where a reference names no checkpoint. Blocks.
    pub(super) fn seal(&self, reference: &str) -> Result<Option<Arc<Stored>>> {
        let Some((path, record)) = self.checkpoints.find(reference)? else { return Ok(None) };
        let _lock = FileLock::take(&path.with_extension("lock"))
            .map_err(file_error("lock a checkpoint", &path))?;
        if let Some(stored) = self.layout.find(reference)? {
            return Ok(Some(stored));
        }
        let missing = || EngineError::NoSuchImage { reference: reference.to_owned() };
        let below = self.layout.stored(&record.manifest)?.ok_or_else(missing)?;
        let directory = self.dir.join(&record.form).join("s");
        let mut layers = layers_of(&below);
        let mut added: Vec<DiffId> = Vec::new();
        for name in record.layers.iter().rev() {
            let mut sink = LayerSink::new(self.layout.writer()?);
            let work = Operation::Pack {
                directory: directory.join(name),
                lowers: Vec::new(),
                storage: Storage::Overlay,
                since: 0,
                into: None,
                times: Times::Kept,
            };
            self.helper_client.call(work, None, Some(&mut sink))?;
            let (diff_id, writer, unpacked) = sink.finish()?;
            layers.push(self.keep_layer(&diff_id, writer, unpacked)?);
            added.push(diff_id);
        }
        let config = checkpoint::config(&below.config, &below.id, &added);
        let image = self.make_image(&config, &below.platform, &layers, &[reference.to_owned()])?;
        self.layout.find(image.id.as_str())
    }

    /// Removes a checkpoint by its name; tells whether there was one.
    pub(super) fn remove_checkpoint(&self, reference: &str) -> Result<bool> {
        self.checkpoints.forget(reference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_named_by_its_id() {
        let checkpoint = Checkpoint::on("debian:12");
        assert_eq!(id_of(checkpoint.reference().as_str()), Some(&*checkpoint.id));
        for other in [
            "imgforge/checkpoint",
            "imgforge/checkpoint:latest",
            "a/imgforge/checkpoint:0123456789ab",
        ] {
            assert_eq!(id_of(other), None, "{other}");
        }
    }
}
