//! Whether a disk has room for what comes.

use std::path::Path;

use crate::disk;

use super::StoreError;

/// Checks that `needed` bytes fit on the disk of `path` and leave `min_free` bytes.
pub fn guard(path: &Path, min_free: u64, needed: u64) -> Result<(), StoreError> {
    // The engine's directory need not be visible to this user.
    let Ok(free) = disk::free(path) else { return Ok(()) };
    if free >= min_free.saturating_add(needed) {
        return Ok(());
    }
    Err(StoreError::NoSpace {
        path: path.to_owned(),
        needed: disk::bytes_text(min_free.saturating_add(needed)),
        free: disk::bytes_text(free),
    })
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
