//! What is at a path of a container, and which paths differ from its image.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::super::protocol::{Identity, Root, SessionResponse, Storage};
use super::checkpoint::is_whiteout;
use super::failure::{Context as _, Failure};
use super::root::UPPER;
use super::unpack::opaque_attribute;
use crate::engine::{Change, ChangeKind, FileStatus};

/// Looks at a path; the root directory is the container's.
pub(super) fn status(path: &str) -> Result<SessionResponse, Failure> {
    let path = Path::new(path);
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Ok(SessionResponse::NoSuchPath);
        }
        Err(error) => return Err(error).at("look at", path),
    };
    let link = match found.is_symlink() {
        true => fs::read_link(path).at("read", path)?.to_string_lossy().into_owned(),
        false => String::new(),
    };
    Ok(SessionResponse::Status(FileStatus {
        mode: found.mode(),
        size: found.size(),
        modified: i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec()),
        link,
    }))
}

/// Lists what a container changed, by its upper directory. The directory of snapshots is the current
/// one.
pub(super) fn changes(root: &Root, identity: &Identity) -> Result<SessionResponse, Failure> {
    if root.storage == Storage::Copy {
        return Err(Failure::new(
            "list what changed",
            "the container is a copy of its image: there is no overlayfs here",
        ));
    }
    let upper = root.scratch.join(UPPER);
    let layers = Layers { root, identity };
    let mut found = Vec::new();
    let walk = walkdir::WalkDir::new(&upper).min_depth(1).sort_by_file_name();
    for entry in walk {
        let entry = match entry {
            Ok(entry) => entry,
            // It was removed meanwhile.
            Err(error) if error.io_error().is_some_and(is_absent) => continue,
            Err(error) => return Err(io::Error::from(error)).at("read", &upper),
        };
        let Ok(inner) = entry.path().strip_prefix(&upper) else { continue };
        let Ok(metadata) = fs::symlink_metadata(entry.path()) else { continue };
        let kind = match (is_whiteout(&metadata), layers.have(inner)) {
            (true, _) => ChangeKind::Deleted,
            (false, true) => ChangeKind::Modified,
            (false, false) => ChangeKind::Added,
        };
        found.push(Change { path: format!("/{}", inner.display()), kind });
    }
    Ok(SessionResponse::Changes(found))
}

fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

/// The layers below a container.
struct Layers<'a> {
    root: &'a Root,
    identity: &'a Identity,
}

impl Layers<'_> {
    /// Tells whether the image has a path.
    fn have(&self, inner: &Path) -> bool {
        for layer in self.root.lowers.iter().map(PathBuf::from) {
            match fs::symlink_metadata(layer.join(inner)) {
                Ok(found) => return !is_whiteout(&found),
                Err(_) if self.hides(&layer, inner) => return false,
                Err(_) => {}
            }
        }
        false
    }

    /// Tells whether a layer has something else than a directory above a path, or one that shows
    /// nothing of the layers below.
    fn hides(&self, layer: &Path, inner: &Path) -> bool {
        let above = inner.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty());
        above.map(|path| layer.join(path)).any(|path| match fs::symlink_metadata(&path) {
            Ok(found) if !found.is_dir() => true,
            Ok(_) => {
                let name = OsStr::new(opaque_attribute(self.identity));
                let mut value = [0; 8];
                matches!(rustix::fs::lgetxattr(&path, name, &mut value), Ok(1))
            }
            Err(_) => false,
        })
    }
}
