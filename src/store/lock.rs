//! Locks of keys: each is built once, across processes.

use std::time::Duration;

use crate::file_lock::FileLock;
use crate::key::Key;

use super::{Store, StoreError, file_error};

/// Holds a key's lock until it is dropped.
pub type KeyLock = FileLock;

impl Store {
    /// Takes the lock of a key, or returns `None` when another process has it.
    pub fn try_lock_key(&self, key: &Key) -> Result<Option<KeyLock>, StoreError> {
        let path = self.dir().join("locks").join(key.to_string());
        FileLock::try_take(&path).map_err(file_error(&path))
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
