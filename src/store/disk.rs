//! Room on disks.

use std::path::Path;

use super::{StoreError, file_error};

/// Returns the bytes that are free for this user on the disk of `path`.
pub fn free(path: &Path) -> Result<u64, StoreError> {
    let stat = rustix::fs::statvfs(path).map_err(|error| file_error(path)(error.into()))?;
    Ok(stat.f_bavail * stat.f_frsize)
}

/// Checks that `needed` bytes fit on the disk of `path` and leave `min_free` bytes.
pub fn guard(path: &Path, min_free: u64, needed: u64) -> Result<(), StoreError> {
    let free = match free(path) {
        Ok(free) => free,
        // The engine's directory need not be visible to this user.
        Err(StoreError::File { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    if free >= min_free.saturating_add(needed) {
        return Ok(());
    }
    Err(StoreError::NoSpace {
        path: path.to_owned(),
        needed: bytes_text(min_free.saturating_add(needed)),
        free: bytes_text(free),
    })
}

/// Returns a number of bytes for people.
pub fn bytes_text(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_with_needed_and_free_bytes() {
        let dir = tempfile::tempdir().unwrap();
        assert!(guard(dir.path(), 0, 0).is_ok());
        let error = guard(dir.path(), u64::MAX, 0).unwrap_err();
        assert!(error.is_no_space());
        assert!(error.to_string().contains("are free"), "{error}");
    }
}
