//! The files that a run leaves, laid out as the harness lays them out:
//! `logs/run_evaluation/<run_id>/<model with / as __>/<instance_id>/…`.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::atomic;
use crate::key::Digest;
use crate::platform::Platform;
use crate::run_id::{NotARunId, RunId, names_a_directory};
use crate::shard::Shard;

mod same;
pub mod shards;

pub use same::{Changes, same_predictions, same_rows};

/// Where runs are, below the current directory.
pub const RUNS: &str = "logs/run_evaluation";

/// Names of the files of an instance.
pub mod file {
    /// What was done, for people.
    pub const LOG: &str = "run_instance.log";
    /// What the script printed, byte for byte.
    pub const OUTPUT: &str = "test_output.txt";
    /// The model patch.
    pub const PATCH: &str = "patch.diff";
    /// The script.
    pub const SCRIPT: &str = "eval.sh";
    /// The graded report.
    pub const REPORT: &str = "report.json";
}

/// A run that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A name that is no name of a directory.
    #[error("{what} `{name}` cannot name a directory")]
    Name {
        /// `run id`, `model` or `instance id`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// Another process evaluates under this run id.
    #[error("run `{run_id}` is under way in another process{owner}")]
    UnderWay {
        /// The run.
        run_id: RunId,
        /// Which, when it says so.
        owner: String,
    },
    /// There is no such run.
    #[error("there is no run `{run_id}` below `{RUNS}`")]
    Unknown {
        /// The run.
        run_id: RunId,
        /// Those that are there.
        known: Vec<String>,
    },
    /// `run.json` is not what it should be.
    #[error("`{path}` cannot be read as the record of a run")]
    Metadata {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The run is another one.
    #[error("run `{run_id}` is another one: {what}")]
    Other {
        /// The run.
        run_id: RunId,
        /// What differs.
        what: String,
    },
    /// A file cannot be read or written.
    #[error("cannot use `{path}`")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl From<NotARunId> for RunError {
    fn from(NotARunId(name): NotARunId) -> Self {
        RunError::Name { what: "run id", name }
    }
}

impl RunError {
    /// Tells whether the disk is full.
    pub fn is_no_space(&self) -> bool {
        matches!(self, RunError::File { source, .. } if crate::disk::is_full(source))
    }
}

/// `run.json`: what a run was. The first four fields are the harness's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// The dataset's name, id or path.
    pub dataset: String,
    /// The split.
    pub split: String,
    /// Of the harness; always null here.
    #[serde(default)]
    pub task_repo: Option<String>,
    /// When it began, RFC 3339.
    #[serde(default)]
    pub created_at: String,
    /// What the harness does not record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imgforge: Option<Settings>,
}

/// What a run was made with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The version of imgforge.
    pub version: String,
    /// The engine, for people.
    pub engine: String,
    /// Such as `linux/amd64`.
    pub platform: Platform,
    /// What ran programs of the platform, where the engine does not by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emulator: Option<String>,
    /// How many ran at once.
    pub workers: usize,
    /// The family of rules, `swebench`, `swesmith` or `r2e`.
    pub grading: String,
    /// Whether the stricter rules were asked for.
    pub strict: bool,
    /// How often each instance ran.
    pub repeat: u32,
    /// The chosen instances, in the order of the dataset.
    pub instances: Vec<String>,
    /// What each model submitted.
    pub submitted: Vec<Submitted>,
    /// Which part of the run this is the record of; `None` where it is that of all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<shards::ShardSettings>,
    /// How many shards the run was joined from; `None` where it was evaluated at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shards: Option<u32>,
}

/// One prediction of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submitted {
    /// The instance.
    pub instance_id: String,
    /// The model.
    pub model_name_or_path: String,
    /// What it holds.
    pub patch: PatchState,
    /// The digest of the patch; runs of earlier versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

/// What a prediction holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PatchState {
    /// A patch.
    Text,
    /// Nothing, or white space alone.
    Empty,
    /// `null`.
    Null,
    /// Nothing, and the instance is run all the same: `-p empty`.
    None,
}

impl PatchState {
    /// Says why there is nothing to run; `None` where there is something.
    pub fn why_empty(self) -> Option<&'static str> {
        match self {
            PatchState::Null => Some("the patch is null"),
            PatchState::Empty => Some("the patch is empty"),
            PatchState::Text | PatchState::None => None,
        }
    }
}

/// The directory of a run. The shards of a run share it: each has records and a lock of its own there.
#[derive(Debug, Clone)]
pub struct RunDir {
    run_id: RunId,
    path: PathBuf,
    shard: Option<Shard>,
}

/// Holds a run, or a shard of it, for one process; the kernel frees it at a kill.
#[derive(Debug)]
pub struct RunLock {
    _files: Vec<File>,
}

/// The name of the lock of a run, and how those of its shards begin.
const LOCK: &str = ".lock";

fn check(what: &'static str, name: &str) -> Result<(), RunError> {
    if names_a_directory(name) {
        Ok(())
    } else {
        Err(RunError::Name { what, name: name.to_owned() })
    }
}

fn file_error(path: &Path) -> impl FnOnce(std::io::Error) -> RunError {
    let path = path.to_owned();
    move |source| RunError::File { path, source }
}

/// Returns a model's name as directories and files have it.
pub fn model_name(model: &str) -> String {
    model.replace('/', "__")
}

impl RunDir {
    /// Names the directory of a run below `root`, which is [`RUNS`] but in tests.
    pub fn new(root: &Path, run_id: &RunId) -> RunDir {
        RunDir::at(root.join(run_id.as_str()), run_id)
    }

    /// Names the directory of a run that was brought from elsewhere.
    pub fn at(path: PathBuf, run_id: &RunId) -> RunDir {
        RunDir { run_id: run_id.clone(), path, shard: None }
    }

    /// Returns the same directory for a shard of the run.
    pub fn of_shard(&self, shard: Shard) -> RunDir {
        RunDir { shard: Some(shard), ..self.clone() }
    }

    /// Returns the shard that it is for; `None` is the whole run.
    pub fn shard(&self) -> Option<Shard> {
        self.shard
    }

    /// Returns the run id.
    pub fn run_id(&self) -> &RunId {
        &self.run_id
    }

    /// Returns the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the directory of one instance; `repeat` counts from 0.
    pub fn instance(&self, model: &str, id: &str, repeat: u32) -> Result<PathBuf, RunError> {
        let model = model_name(model);
        check("model", &model)?;
        check("instance id", id)?;
        let dir = self.path.join(model).join(id);
        Ok(if repeat == 0 { dir } else { dir.join(format!("run_{}", repeat + 1)) })
    }

    /// Makes the directory and takes it for this process: the whole run alone, or a shard of it beside
    /// other shards.
    pub fn lock(&self) -> Result<RunLock, RunError> {
        std::fs::create_dir_all(&self.path).map_err(file_error(&self.path))?;
        let Some(shard) = self.shard else {
            return Ok(RunLock { _files: vec![self.take(LOCK, File::try_lock)?] });
        };
        let whole = self.take(LOCK, File::try_lock_shared)?;
        let own = self.take(&shard_lock(shard), File::try_lock)?;
        Ok(RunLock { _files: vec![whole, own] })
    }

    /// Takes a lock, and notes in it who has it: in one that several have, nobody.
    fn take(
        &self,
        name: &str,
        lock: fn(&File) -> Result<(), TryLockError>,
    ) -> Result<File, RunError> {
        let path = self.path.join(name);
        let mut options = OpenOptions::new();
        let mut file = options
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(file_error(&path))?;
        match lock(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                let owner = match text.trim() {
                    "" => String::new(),
                    holder => format!(", {holder}"),
                };
                return Err(RunError::UnderWay { run_id: self.run_id.clone(), owner });
            }
            Err(TryLockError::Error(source)) => return Err(RunError::File { path, source }),
        }
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let holder = match (name, self.shard) {
            (LOCK, Some(_)) => "with a shard of it\n".to_owned(),
            _ => format!("number {} on {host}\n", std::process::id()),
        };
        let note = file.set_len(0).and_then(|()| file.write_all(holder.as_bytes()));
        note.map_err(file_error(&path))?;
        Ok(file)
    }

    /// Takes the directory of a run that is there; `None` where nothing can be written, so that no
    /// process of this machine can be at it.
    pub fn lock_existing(&self) -> Result<Option<RunLock>, RunError> {
        if !self.path.is_dir() {
            return Err(self.unknown());
        }
        match self.lock() {
            Ok(lock) => Ok(Some(lock)),
            Err(RunError::File { source, .. })
                if matches!(
                    source.kind(),
                    std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes all that the run left but its locks; for a shard, the records of that shard and of other
    /// cuts.
    pub fn clear(&self) -> Result<(), RunError> {
        if let Some(shard) = self.shard {
            let known = self.shards()?.into_iter();
            for old in known.filter(|old| *old == shard || old.count() != shard.count()) {
                for path in self.of_shard(old).records() {
                    remove_file(&path)?;
                }
            }
            return Ok(());
        }
        for entry in std::fs::read_dir(&self.path).map_err(file_error(&self.path))? {
            let path = entry.map_err(file_error(&self.path))?.path();
            let removed = match path.is_dir() {
                true => std::fs::remove_dir_all(&path),
                false if is_lock(&path) => Ok(()),
                false => std::fs::remove_file(&path),
            };
            removed.map_err(file_error(&path))?;
        }
        Ok(())
    }

    fn unknown(&self) -> RunError {
        let root = self.path.parent().unwrap_or(Path::new("."));
        let known = directories(root).unwrap_or_default().into_iter().map(|(name, _)| name);
        RunError::Unknown { run_id: self.run_id.clone(), known: known.collect() }
    }

    /// Returns the files of its records: what it is made with, `run.json` or that of the shard, and what
    /// it came to.
    pub fn records(&self) -> [PathBuf; 2] {
        ["run", "results"].map(|stem| {
            let name = match self.shard {
                Some(shard) => format!("{stem}.{}.json", shard.file_name()),
                None => format!("{stem}.json"),
            };
            self.path.join(name)
        })
    }

    /// Lists the shards that have records here, in their order; none where there is no directory.
    pub fn shards(&self) -> Result<Vec<Shard>, RunError> {
        let entries = match std::fs::read_dir(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(file_error(&self.path))?,
        };
        let mut shards = Vec::new();
        for entry in entries {
            let name = entry.map_err(file_error(&self.path))?.file_name();
            let name =
                name.to_str().and_then(|name| name.strip_prefix("run.")?.strip_suffix(".json"));
            shards.extend(name.and_then(Shard::of_file_name));
        }
        shards.sort_unstable();
        Ok(shards)
    }

    /// Writes its `run.json`.
    pub fn write_metadata(&self, metadata: &Metadata) -> Result<(), RunError> {
        let mut text = serde_json::to_string_pretty(metadata).expect("plain values");
        text.push('\n');
        let [path, _] = self.records();
        write_whole(&path, text.as_bytes())
    }

    /// Reads its `run.json`; `None` where a run has none.
    pub fn metadata(&self) -> Result<Option<Metadata>, RunError> {
        let [path, _] = self.records();
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|source| RunError::Metadata { path, source }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(RunError::File { path, source }),
        }
    }

    /// Lists the directories of instances: model as the directory spells it, instance id, path.
    pub fn instances(&self) -> Result<Vec<(String, String, PathBuf)>, RunError> {
        if !self.path.is_dir() {
            return Err(self.unknown());
        }
        let mut found = Vec::new();
        for (model, path) in directories(&self.path)? {
            for (id, path) in directories(&path)? {
                found.push((model.clone(), id, path));
            }
        }
        Ok(found)
    }
}

fn shard_lock(shard: Shard) -> String {
    format!("{LOCK}.{}", shard.file_name())
}

fn is_lock(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let shard = name.strip_prefix(LOCK).and_then(|rest| rest.strip_prefix('.'));
    name == LOCK || shard.and_then(Shard::of_file_name).is_some()
}

/// Removes a file, where it is there.
pub fn remove_file(path: &Path) -> Result<(), RunError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(file_error(path)(error)),
        _ => Ok(()),
    }
}

fn directories(path: &Path) -> Result<Vec<(String, PathBuf)>, RunError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(file_error(path))? {
        let entry = entry.map_err(file_error(path))?;
        if entry.path().is_dir()
            && let Ok(name) = entry.file_name().into_string()
        {
            found.push((name, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// Writes a file whole, and its directory when it is not there.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), RunError> {
    atomic::write(path, bytes, false).map_err(file_error(path))
}

/// Writes a file whole, unless it holds just that: a time that did not change says so.
pub fn write_changed(path: &Path, bytes: &[u8]) -> Result<(), RunError> {
    let same = std::fs::read(path).is_ok_and(|known| known == bytes);
    if same { Ok(()) } else { write_whole(path, bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_directory_of_a_run_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let run = RunDir::new(root.path(), &"x".parse().unwrap());
        let dir = run.instance("org/model", "a__b-1", 1).unwrap();
        assert!(dir.ends_with("x/org__model/a__b-1/run_2"), "{}", dir.display());
        assert!(run.instance("..", "a__b-1", 0).is_err());
        assert!(run.instance("m", "../a", 0).is_err());
    }

    #[test]
    fn one_process_at_a_time_has_a_run() {
        let root = tempfile::tempdir().unwrap();
        let run = RunDir::new(root.path(), &"x".parse().unwrap());
        let lock = run.lock().unwrap();
        let error = run.lock().unwrap_err();
        assert!(error.to_string().contains("under way"), "{error}");
        drop(lock);
        run.lock().unwrap();
    }

    #[test]
    fn shards_share_a_run_and_nobody_has_it_whole_meanwhile() {
        let root = tempfile::tempdir().unwrap();
        let run = RunDir::new(root.path(), &"x".parse().unwrap());
        let [one, two] = ["1/2", "2/2"].map(|shard| run.of_shard(shard.parse().unwrap()));
        let locks = [one.lock().unwrap(), two.lock().unwrap()];
        assert!(one.lock().is_err());
        let error = run.lock().unwrap_err().to_string();
        assert!(error.contains("with a shard of it"), "{error}");
        drop(locks);
        let lock = run.lock().unwrap();
        assert!(one.lock().is_err());
        drop(lock);
        one.lock().unwrap();
    }

    #[test]
    fn a_shard_that_begins_anew_leaves_the_others_of_its_cut() {
        let root = tempfile::tempdir().unwrap();
        let run = RunDir::new(root.path(), &"x".parse().unwrap());
        let shards: Vec<Shard> =
            ["1/2", "2/2", "1/3", "2/11"].map(|shard| shard.parse().unwrap()).into();
        for shard in &shards {
            for path in run.of_shard(*shard).records() {
                write_whole(&path, b"{}").unwrap();
            }
        }
        write_whole(&run.path().join("run.1-of-02.json"), b"{}").unwrap();
        assert_eq!(run.shards().unwrap(), [shards[0], shards[2], shards[1], shards[3]]);
        run.of_shard(shards[0]).clear().unwrap();
        assert_eq!(run.shards().unwrap(), [shards[1]]);
    }

    #[test]
    fn the_record_of_the_harness_is_read_as_well() {
        let root = tempfile::tempdir().unwrap();
        let run = RunDir::new(root.path(), &"x".parse().unwrap());
        assert_eq!(run.metadata().unwrap(), None);
        let text = r#"{"dataset": "SWE-bench/SWE-bench_Lite", "split": "test", "task_repo": null,
                       "created_at": "2026-01-01T00:00:00+00:00"}"#;
        write_whole(&run.path().join("run.json"), text.as_bytes()).unwrap();
        let metadata = run.metadata().unwrap().unwrap();
        assert_eq!(metadata.dataset, "SWE-bench/SWE-bench_Lite");
        assert_eq!(metadata.imgforge, None);
    }
}
