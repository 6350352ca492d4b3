//! The checkpoints of a state directory: what each is of, and how sessions are started from it.
//!
//! The files are the engine's, see [`crate::engine::Checkpoint`]. A record here goes when somebody
//! removes it, or when it was not used for long.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::engine::EngineKind;

use super::directory::DirectoryError;
use super::kept::Remember;
use super::order::SessionOrder;

/// Below the state directory.
const DIRECTORY: &str = "checkpoints";

/// What is known of a checkpoint.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CheckpointRecord {
    /// Twelve hexadecimal digits.
    pub id: String,
    /// Its name as an image of its engine.
    pub image: String,
    /// The image or checkpoint that its session was started from.
    pub parent: String,
    /// The session.
    pub session: String,
    /// The engine that has it.
    pub engine: EngineKind,
    /// When it was made.
    pub created: jiff::Timestamp,
    /// How its session was started.
    pub order: SessionOrder,
}

/// The checkpoints of a state directory.
#[derive(Debug, Clone)]
pub struct CheckpointDirectory(PathBuf);

type Result<T> = std::result::Result<T, DirectoryError>;

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> DirectoryError {
    let path = path.to_owned();
    move |source| DirectoryError::Io { path, source }
}

impl CheckpointDirectory {
    /// The checkpoints of a state directory, where nothing needs to be yet.
    pub fn of(state_dir: &Path) -> CheckpointDirectory {
        CheckpointDirectory(state_dir.join(DIRECTORY))
    }

    fn path(&self, id: &str) -> PathBuf {
        self.0.join(format!("{id}.json"))
    }

    /// Writes a record. Environment variables are in it: nobody else may read it.
    pub fn write(&self, record: &CheckpointRecord) -> Result<()> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&self.0).map_err(io_error(&self.0))?;
        let path = self.path(&record.id);
        let text = serde_json::to_vec_pretty(record).expect("a record is valid JSON");
        crate::atomic::write(&path, &text, false).map_err(io_error(&path))
    }

    /// Returns what writes down the checkpoints of a session, with what starts another from them.
    pub fn remember(self, order: SessionOrder, session: &str, engine: EngineKind) -> Box<Remember> {
        let session = session.to_owned();
        Box::new(move |checkpoint, allowed| {
            let image = checkpoint.reference().to_string();
            let mut order = SessionOrder { name: None, allowed, ..order.clone() };
            order.request.image.clone_from(&image);
            self.write(&CheckpointRecord {
                id: checkpoint.id.clone(),
                parent: checkpoint.parent.clone(),
                session: session.clone(),
                engine,
                created: jiff::Timestamp::now(),
                order,
                image,
            })
        })
    }

    /// Lists the checkpoints, the oldest first, each with the time of its last use.
    pub fn list(&self) -> Result<Vec<(CheckpointRecord, SystemTime)>> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io_error(&self.0)(error)),
        };
        let mut found = Vec::new();
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let read =
                fs::metadata(&path).and_then(|found| Ok((found.modified()?, fs::read(&path)?)));
            let (used, text) = match read {
                Ok(read) => read,
                // It was removed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(io_error(&path)(error)),
            };
            let record: CheckpointRecord =
                serde_json::from_slice(&text).map_err(|error| io_error(&path)(error.into()))?;
            found.push((record, used));
        }
        found.sort_by(|(a, _): &(CheckpointRecord, SystemTime), (b, _)| {
            (a.created, &a.id).cmp(&(b.created, &b.id))
        });
        Ok(found)
    }

    /// Finds the checkpoint that an id, or the beginning of one, means.
    pub fn find(&self, text: &str) -> Result<CheckpointRecord> {
        let begins = |(one, _): &(CheckpointRecord, SystemTime)| {
            !text.is_empty() && one.id.starts_with(text)
        };
        let mut found: Vec<_> = self.list()?.into_iter().filter(begins).collect();
        match found.len() {
            0 => Err(DirectoryError::NoCheckpoint(text.to_owned())),
            1 => Ok(found.remove(0).0),
            _ => Err(DirectoryError::Several {
                text: text.to_owned(),
                ids: found.into_iter().map(|(one, _)| one.id).collect(),
            }),
        }
    }

    /// Remembers that a checkpoint is used.
    pub fn note_use(&self, record: &CheckpointRecord) -> Result<()> {
        let path = self.path(&record.id);
        let now = fs::FileTimes::new().set_modified(SystemTime::now());
        let file = fs::File::options().write(true).open(&path);
        file.and_then(|file| file.set_times(now)).map_err(io_error(&path))
    }

    /// Lists those that nobody has used for so long.
    pub fn unused(&self, longer_than: Duration) -> Result<Vec<CheckpointRecord>> {
        let now = SystemTime::now();
        let is_old = |used: SystemTime| now.duration_since(used).is_ok_and(|age| age > longer_than);
        let all = self.list()?.into_iter();
        Ok(all.filter(|(_, used)| is_old(*used)).map(|(record, _)| record).collect())
    }

    /// Forgets a checkpoint, whose files the engine has.
    pub fn forget(&self, record: &CheckpointRecord) -> Result<()> {
        let path = self.path(&record.id);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(&path)(error)),
            _ => Ok(()),
        }
    }
}
