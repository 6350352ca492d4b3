//! The files beside a Dockerfile, and their digest.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::context_file::ContextFile;
use crate::engine::{BuildRequest, Result};
use crate::hashing::Hashing;
use crate::key::Digest;

use super::super::layout::file_error;
use super::{ACTION, write};

/// The files beside a Dockerfile.
pub(super) enum Context {
    /// Written from memory.
    Written(TempDir, String),
    /// A directory of the caller's. Its digest is made when it is first asked for.
    Given(PathBuf, OnceLock<String>),
}

impl Context {
    /// The context of a request; `directory` makes a place for it.
    pub(super) fn of(
        request: &BuildRequest,
        directory: impl FnOnce() -> Result<TempDir>,
    ) -> Result<Context> {
        if let Some(docker) = &request.as_docker {
            return Ok(Context::Given(docker.context.clone(), OnceLock::new()));
        }
        let directory = directory()?;
        for file in &request.context {
            write(&directory.path().join(&file.path), &file.bytes, file.executable)?;
        }
        Ok(Context::Written(directory, of_files(&request.context)))
    }

    /// Returns where the files are.
    pub(super) fn path(&self) -> &Path {
        match self {
            Context::Written(directory, _) => directory.path(),
            Context::Given(path, _) => path,
        }
    }

    /// Identifies the files.
    pub(super) fn digest(&self) -> Result<&str> {
        match self {
            Context::Written(_, digest) => Ok(digest),
            Context::Given(path, digest) => match digest.get() {
                Some(digest) => Ok(digest),
                None => {
                    let found = of_tree(path).map_err(file_error(ACTION, path))?;
                    Ok(digest.get_or_init(|| found))
                }
            },
        }
    }
}

fn of_files(files: &[ContextFile]) -> String {
    let mut hasher = Sha256::new();
    for file in files {
        let line = format!("{} {} {}\n", file.path, file.executable, Digest::of(&file.bytes));
        hasher.update(line);
    }
    hex::encode(hasher.finalize())
}

/// Identifies a tree by names, modes, contents and what links lead to.
fn of_tree(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hasher.update((bytes.len() as u64).to_be_bytes());
        hasher.update(bytes);
    };
    for entry in walkdir::WalkDir::new(path).sort_by_file_name() {
        let entry = entry?;
        let name = entry.path().strip_prefix(path).unwrap_or(entry.path());
        let found = entry.path().symlink_metadata()?;
        part(name.as_os_str().as_bytes());
        part(&found.permissions().mode().to_be_bytes());
        if found.is_symlink() {
            part(std::fs::read_link(entry.path())?.as_os_str().as_bytes());
        } else if found.is_file() {
            let mut content = Hashing::new(std::fs::File::open(entry.path())?);
            io::copy(&mut content, &mut io::sink())?;
            let (_, digest, _) = content.finish();
            part(digest.to_string().as_bytes());
        }
    }
    Ok(hex::encode(hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_a_tree_is_of_names_modes_contents_and_links() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        std::fs::write(path.join("a"), "1").unwrap();
        let mut seen = vec![of_tree(path).unwrap()];
        assert_eq!(of_tree(path).unwrap(), seen[0]);
        let changed = |seen: &mut Vec<String>| {
            let now = of_tree(path).unwrap();
            assert!(!seen.contains(&now));
            seen.push(now);
        };
        std::fs::write(path.join("a"), "2").unwrap();
        changed(&mut seen);
        std::fs::set_permissions(path.join("a"), std::fs::Permissions::from_mode(0o755)).unwrap();
        changed(&mut seen);
        std::os::unix::fs::symlink("a", path.join("b")).unwrap();
        changed(&mut seen);
        std::fs::create_dir(path.join("c")).unwrap();
        changed(&mut seen);
    }
}
