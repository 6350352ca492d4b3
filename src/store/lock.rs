//! Locks between processes: one per key, held by the kernel, so that a kill frees them.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::PathBuf;
use std::time::Duration;

use crate::key::Key;

use super::{Store, StoreError, file_error};

/// Holds a key's lock until it is dropped.
#[derive(Debug)]
pub struct KeyLock {
    path: PathBuf,
    _file: File,
}

impl Drop for KeyLock {
    fn drop(&mut self) {
        // Under the lock: whoever waits for this file finds that it is not the named one any more.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Store {
    /// Takes the lock of a key, or returns `None` when another process has it.
    pub fn try_lock_key(&self, key: &Key) -> Result<Option<KeyLock>, StoreError> {
        let path = self.dir().join("locks").join(key.to_string());
        loop {
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .map_err(file_error(&path))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(file_error(&path)(error)),
            }
            if is_named(&file, &path) {
                return Ok(Some(KeyLock { path, _file: file }));
            }
        }
    }

    /// Waits for the lock of a key. Dropping the future gives the wait up.
    pub async fn lock_key(&self, key: &Key) -> Result<KeyLock, StoreError> {
        let mut wait = Duration::from_millis(5);
        loop {
            if let Some(lock) = self.try_lock_key(key)? {
                return Ok(lock);
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_millis(200));
        }
    }
}

/// Tells whether the file at `path` is still the one that was opened.
fn is_named(file: &File, path: &std::path::Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(opened), Ok(named)) => opened.ino() == named.ino() && opened.dev() == named.dev(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{KeyDocument, Kind};

    #[test]
    fn a_lock_is_held_once_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (Store::open(dir.path()).unwrap(), Store::open(dir.path()).unwrap());
        let key = KeyDocument::new(Kind::Base).key();
        let held = one.try_lock_key(&key).unwrap().unwrap();
        assert!(two.try_lock_key(&key).unwrap().is_none());
        drop(held);
        assert_eq!(std::fs::read_dir(dir.path().join("locks")).unwrap().count(), 0);
        assert!(two.try_lock_key(&key).unwrap().is_some());
    }
}
