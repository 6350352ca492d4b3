//! Room on disks.

use std::io;
use std::path::Path;

use crate::causes::causes;

/// Tells whether an error says that a disk, or somebody's part of it, is full: the one definition of
/// it.
pub fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind;
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => true,
        // Some crates wrap the error of the system in one of their own.
        _ => error.get_ref().is_some_and(|inner| {
            let first: &(dyn std::error::Error + 'static) = inner;
            std::iter::once(first)
                .chain(causes(first))
                .filter_map(|cause| cause.downcast_ref::<io::Error>())
                .any(is_full)
        }),
    }
}

/// Returns the bytes that are free for this user on the disk of `path`.
pub fn free(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail * stat.f_frsize)
}

/// Returns the bytes that a file or a tree takes on its disk, in blocks as `du` counts them: a file
/// with several names counts once. What cannot be read counts nothing; `None` where nothing is.
pub fn usage(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let mut seen = std::collections::HashSet::new();
    let mut bytes = None;
    for entry in walkdir::WalkDir::new(path).follow_links(false).into_iter().flatten() {
        let Ok(found) = entry.metadata() else { continue };
        if found.nlink() > 1 && !found.is_dir() && !seen.insert((found.dev(), found.ino())) {
            continue;
        }
        *bytes.get_or_insert(0) += found.blocks() * 512;
    }
    bytes
}

/// Returns a number of bytes for people.
pub fn bytes_text(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_what_du_says() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        std::fs::write(dir.path().join("a/one"), vec![1; 5000]).unwrap();
        std::fs::hard_link(dir.path().join("a/one"), dir.path().join("two")).unwrap();
        let du = std::process::Command::new("du").args(["-s", "-B1"]).arg(dir.path()).output();
        let du = String::from_utf8(du.unwrap().stdout).unwrap();
        let expected = du.split_whitespace().next().unwrap().parse().ok();
        assert_eq!(usage(dir.path()), expected);
        assert_eq!(usage(&dir.path().join("nothing")), None);
    }

    #[test]
    fn a_full_disk_and_a_full_quota_are_one_thing() {
        for number in [libc::ENOSPC, libc::EDQUOT] {
            let error = io::Error::from_raw_os_error(number);
            assert!(is_full(&error), "{error}");
            let wrapped = io::Error::other(io::Error::from_raw_os_error(number));
            assert!(is_full(&wrapped), "{wrapped}");
        }
        for number in [libc::EACCES, libc::EROFS, libc::ENOENT, libc::EIO] {
            assert!(!is_full(&io::Error::from_raw_os_error(number)));
        }
        assert!(!is_full(&io::Error::other("no space left on device")));
    }
}
