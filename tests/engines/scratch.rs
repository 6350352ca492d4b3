//! Directories of tests that go for good, whoever the files in them belong to.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A temporary directory. What containers of a plain user made in it belongs to subordinate ids, so
/// it is removed in a user namespace where that is needed. A test that leaves its directory fails.
pub(crate) struct Scratch {
    path: PathBuf,
    dir: Option<TempDir>,
}

impl Scratch {
    /// Makes an empty directory.
    pub(crate) fn new() -> Scratch {
        let dir = tempfile::tempdir().unwrap();
        Scratch { path: dir.path().to_owned(), dir: Some(dir) }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let Some(Err(refused)) = self.dir.take().map(TempDir::close) else { return };
        let in_namespace = Command::new("unshare")
            .args(["--map-root-user", "--map-auto", "rm", "-rf", "--"])
            .arg(&self.path)
            .output();
        if self.path.exists() && !std::thread::panicking() {
            panic!("{} stays: {refused}; {in_namespace:?}", self.path.display());
        }
    }
}
