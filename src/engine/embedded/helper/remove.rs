//! Removing trees that containers made: with modes that forbid it, and never across a mount.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::failure::{Context as _, Failure};

/// Removes a file or a tree; what is not there is fine.
pub(super) fn tree(path: &Path) -> Result<(), Failure> {
    match fs::remove_dir_all(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return fs::remove_file(path).at("remove", path);
        }
        Err(_) => {}
    }
    // The kernel leaves directories behind that nobody may enter, and images have such ones.
    open_up(path).at("remove", path)?;
    fs::remove_dir_all(path).at("remove", path)
}

fn open_up(directory: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(directory)?;
    if !found.is_dir() {
        return Ok(());
    }
    let mode = found.permissions().mode();
    if mode & 0o700 != 0o700 {
        fs::set_permissions(directory, fs::Permissions::from_mode(mode | 0o700))?;
    }
    for entry in fs::read_dir(directory)? {
        open_up(&entry?.path())?;
    }
    Ok(())
}
