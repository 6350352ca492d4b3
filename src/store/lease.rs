//! Leases: the images that a running process needs, which nothing may take away meanwhile.
//!
//! A lease is a file `leases/<process>-…` with one key a line, locked as long as its process lives:
//! the kernel frees what a kill leaves. Whoever takes images away asks under the [`GcLock`], which no
//! new lease passes: a process sees an image either after it leased it or after it is gone.

use std::collections::HashSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use crate::key::Key;
use crate::owner;

use super::{Store, StoreError, file_error};

/// Holds the keys of a run until it is dropped.
#[derive(Debug)]
pub struct Lease {
    path: PathBuf,
    _file: File,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Keeps new leases out until it is dropped.
#[derive(Debug)]
pub struct GcLock {
    _file: File,
}

impl Store {
    /// Leases `keys`. Waits while another process takes an image away.
    pub async fn lease(&self, keys: impl IntoIterator<Item = Key>) -> Result<Lease, StoreError> {
        let gate = self.open_gate()?;
        self.wait_for(|| gate.try_lock_shared()).await?;
        let dir = self.leases()?;
        let file =
            tempfile::Builder::new().prefix(&format!("{}-", owner::name())).tempfile_in(&dir);
        let (mut file, path) = file.map_err(file_error(&dir))?.keep().map_err(|error| {
            let path = dir.clone();
            StoreError::File { path, source: error.error }
        })?;
        let mut text = String::new();
        for key in keys {
            text.push_str(&key.to_string());
            text.push('\n');
        }
        file.lock().and_then(|()| file.write_all(text.as_bytes())).map_err(file_error(&path))?;
        Ok(Lease { path, _file: file })
    }

    /// Keeps new leases out, and other collections. Waits for another that does.
    pub async fn lock_for_gc(&self) -> Result<GcLock, StoreError> {
        let gate = self.open_gate()?;
        self.wait_for(|| gate.try_lock()).await?;
        Ok(GcLock { _file: gate })
    }

    /// Returns the keys that live processes lease, but for those of this one when `others` alone
    /// are asked for.
    pub fn leased(&self, others: bool) -> Result<HashSet<Key>, StoreError> {
        let dir = self.leases()?;
        let mut keys = HashSet::new();
        for entry in std::fs::read_dir(&dir).map_err(file_error(&dir))?.flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if others && name.starts_with(&format!("{}-", owner::name())) {
                continue;
            }
            let Ok(file) = File::open(&path) else { continue };
            match file.try_lock_shared() {
                Err(TryLockError::WouldBlock) => {}
                // Its process is gone.
                Ok(()) => {
                    let _ = std::fs::remove_file(&path);
                    continue;
                }
                Err(TryLockError::Error(error)) => return Err(file_error(&path)(error)),
            }
            let text = std::fs::read_to_string(&path).map_err(file_error(&path))?;
            keys.extend(text.lines().filter_map(|line| line.parse::<Key>().ok()));
        }
        Ok(keys)
    }

    /// Tells whether a live process leases anything, or nothing in particular.
    pub(super) fn has_leases(&self) -> Result<bool, StoreError> {
        self.leased(false)?;
        // What is left is of live processes.
        let dir = self.leases()?;
        Ok(std::fs::read_dir(&dir).map_err(file_error(&dir))?.next().is_some())
    }

    fn leases(&self) -> Result<PathBuf, StoreError> {
        let dir = self.dir().join("leases");
        std::fs::create_dir_all(&dir).map_err(file_error(&dir))?;
        Ok(dir)
    }

    fn open_gate(&self) -> Result<File, StoreError> {
        let path = self.dir().join("locks/leases");
        let open = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        open.map_err(file_error(&path))
    }

    /// Waits for a lock. Dropping the future gives the wait up.
    async fn wait_for(
        &self,
        attempt: impl Fn() -> Result<(), TryLockError>,
    ) -> Result<(), StoreError> {
        let mut wait = Duration::from_millis(2);
        loop {
            match attempt() {
                Ok(()) => return Ok(()),
                Err(TryLockError::WouldBlock) => tokio::time::sleep(wait).await,
                Err(TryLockError::Error(error)) => return Err(file_error(self.dir())(error)),
            }
            wait = (wait * 2).min(Duration::from_millis(100));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{KeyDocument, Kind};

    fn key(number: i64) -> Key {
        KeyDocument::new(Kind::Env).with("n", number).key()
    }

    #[tokio::test]
    async fn a_lease_holds_its_keys_until_it_is_dropped_and_none_passes_a_closed_gate() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let lease = store.lease([key(1), key(2)]).await.unwrap();
        assert_eq!(store.leased(false).unwrap(), HashSet::from([key(1), key(2)]));
        assert!(store.leased(true).unwrap().is_empty(), "it is this process's own");
        let gate = store.lock_for_gc().await.unwrap();
        let wait = Duration::from_millis(50);
        assert!(tokio::time::timeout(wait, store.lease([key(3)])).await.is_err());
        drop(gate);
        let second = store.lease([key(3)]).await.unwrap();
        drop(lease);
        assert_eq!(store.leased(false).unwrap(), HashSet::from([key(3)]));
        drop(second);
        assert!(store.leased(false).unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_a_killed_process_leased_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let left = store.leases().unwrap().join("4194304-1-x");
        std::fs::write(&left, format!("{}\n", key(1))).unwrap();
        assert!(store.leased(false).unwrap().is_empty());
        assert!(!left.exists());
    }
}
