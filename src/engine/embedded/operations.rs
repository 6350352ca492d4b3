//! Operations: calls that make images, or run on one, as a collection sees them.
//!
//! Each is a locked file in `operations/`. A collection looks at them under a gate that no new one
//! passes: see [`super::collect`].

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::engine::{EngineError, Result};

use super::layout::file_error;

const ACTION: &str = "collect what no image needs";

/// A call that is under way; over when it is dropped.
pub(super) struct OperationGuard {
    path: PathBuf,
    _file: File,
}

impl Drop for OperationGuard {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Begins an operation on an engine's directory. Blocks while a collection looks at what there is.
pub(super) fn begin(dir: &Path, owner: &str) -> Result<OperationGuard> {
    let action = "begin an operation";
    let gate = gate(dir)?;
    tokio::task::block_in_place(|| gate.lock_shared()).map_err(file_error(action, dir))?;
    let dir = dir.join("operations");
    let file = tempfile::Builder::new().prefix(&format!("{owner}-")).tempfile_in(&dir);
    let (file, path) = file
        .map_err(file_error(action, &dir))?
        .keep()
        .map_err(|error| EngineError::File { path: dir.clone(), source: error.error })?;
    file.lock().map_err(file_error(action, &path))?;
    Ok(OperationGuard { path, _file: file })
}

/// Opens the gate of operations.
pub(super) fn gate(dir: &Path) -> Result<File> {
    let path = dir.join("operations.lock");
    let open = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    open.map_err(file_error(ACTION, &path))
}

/// Returns when the oldest live operation began; `None` where there is none.
pub(super) fn oldest_operation(dir: &Path) -> Result<Option<SystemTime>> {
    let dir = dir.join("operations");
    let mut oldest = None;
    for (_, path) in entries(&dir)? {
        let Ok(file) = File::open(&path) else { continue };
        match file.try_lock_shared() {
            // Its process is gone.
            Ok(()) => {
                let _ = fs::remove_file(&path);
                continue;
            }
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(file_error(ACTION, &path)(error)),
        }
        let Ok(began) = file.metadata().and_then(|found| found.modified()) else { continue };
        oldest = Some(oldest.map_or(began, |known: SystemTime| known.min(began)));
    }
    Ok(oldest)
}

/// Keeps operations out of an engine's directory that has none; `None` where it is not there.
pub(super) fn unused(dir: &Path) -> Result<Option<File>> {
    if !dir.exists() {
        return Ok(None);
    }
    let gate = gate(dir)?;
    gate.lock().map_err(file_error(ACTION, dir))?;
    match oldest_operation(dir)? {
        None => Ok(Some(gate)),
        Some(_) => Err(EngineError::Refused {
            action: format!("remove `{}`", dir.display()),
            reason: "containers or builds of a running imgforge are in it".to_owned(),
        }),
    }
}

/// Lists a directory: names and paths; nothing where it is not there.
pub(super) fn entries(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(file_error(ACTION, dir)(error)),
    };
    Ok(entries
        .flatten()
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        .collect())
}
