//! Locks between processes: files, held by the kernel, so that a kill frees them.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// Holds a lock until it is dropped; its file goes with it.
#[derive(Debug)]
pub struct FileLock {
    path: PathBuf,
    _file: File,
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Under the lock: whoever waits for this file finds that it is not the named one any more.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl FileLock {
    /// Takes the lock at `path`, or returns `None` when another has it.
    pub fn try_take(path: &Path) -> io::Result<Option<FileLock>> {
        loop {
            let file = open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            if is_named(&file, path) {
                return Ok(Some(FileLock { path: path.to_owned(), _file: file }));
            }
        }
    }

    /// Waits for the lock at `path`; blocks the thread.
    pub fn take(path: &Path) -> io::Result<FileLock> {
        loop {
            let file = open(path)?;
            file.lock()?;
            if is_named(&file, path) {
                return Ok(FileLock { path: path.to_owned(), _file: file });
            }
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).open(path)
}

/// Tells whether the file at `path` is still the one that was opened.
pub(crate) fn is_named(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(opened), Ok(named)) => opened.ino() == named.ino() && opened.dev() == named.dev(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_once_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = FileLock::try_take(&path).unwrap().unwrap();
        assert!(FileLock::try_take(&path).unwrap().is_none());
        let waiting = std::thread::spawn({
            let path = path.clone();
            move || FileLock::take(&path).map(drop)
        });
        drop(held);
        waiting.join().unwrap().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
