//! Layers as copies, for where the kernel and the file system have no overlay: putting them
//! together file by file, and finding what changed afterwards.
//!
//! Here layers are kept as they are in their archives, with marks as files of their own.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Uid, XattrFlags};

use super::failure::{Context as _, Failure};
use super::unpack::{OPAQUE, WHITEOUT, set_time};
use super::{remove, unpack};

/// Copies layers, the lowest first, to an empty directory.
pub(super) fn copy_layers(layers: &[&Path], to: &Path) -> Result<(), Failure> {
    rustix::process::umask(Mode::empty());
    for layer in layers {
        let mut links = HashMap::new();
        copy_directory(layer, to, &mut links)?;
    }
    Ok(())
}

/// The files that have several names, by where they were, and where they are now.
pub(super) type Links = HashMap<(u64, u64), PathBuf>;

fn copy_directory(from: &Path, to: &Path, links: &mut Links) -> Result<(), Failure> {
    let entries = names(from)?;
    // What a layer hides goes before what it brings.
    for name in &entries {
        if name.as_bytes() == OPAQUE.as_bytes() {
            for hidden in names(to)? {
                remove::tree(&to.join(hidden))?;
            }
        }
    }
    for name in &entries {
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT.as_bytes()) {
            if !hidden.starts_with(WHITEOUT.as_bytes()) {
                remove::tree(&to.join(std::ffi::OsStr::from_bytes(hidden)))?;
            }
            continue;
        }
        let (source, target) = (from.join(name), to.join(name));
        let found = fs::symlink_metadata(&source).at("look at", &source)?;
        let there = fs::symlink_metadata(&target).is_ok_and(|there| there.is_dir());
        if found.is_dir() {
            if !there {
                remove::tree(&target)?;
                fs::create_dir(&target).at("make", &target)?;
            }
            copy_directory(&source, &target, links)?;
        } else {
            remove::tree(&target)?;
            copy_file(&source, &target, &found, links)?;
        }
    }
    let found = fs::symlink_metadata(from).at("look at", from)?;
    copy_metadata(from, to, &found)
}

pub(super) fn names(directory: &Path) -> Result<Vec<OsString>, Failure> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).at("read", directory)? {
        names.push(entry.at("read", directory)?.file_name());
    }
    names.sort();
    Ok(names)
}

/// Copies what is no directory, with its metadata.
pub(super) fn copy_file(
    source: &Path,
    target: &Path,
    found: &fs::Metadata,
    links: &mut Links,
) -> Result<(), Failure> {
    let kind = found.file_type();
    if found.nlink() > 1 {
        let file = (found.dev(), found.ino());
        if let Some(first) = links.get(&file) {
            return fs::hard_link(first, target).at("link", target);
        }
        links.insert(file, target.to_owned());
    }
    if kind.is_symlink() {
        let to = fs::read_link(source).at("read", source)?;
        symlink(to, target).at("make", target)?;
    } else if kind.is_file() {
        copy_bytes(source, target).at("copy to", target)?;
    } else {
        let (kind, device) = match () {
            () if kind.is_fifo() => (FileType::Fifo, 0),
            () if kind.is_char_device() => (FileType::CharacterDevice, found.rdev()),
            () if kind.is_block_device() => (FileType::BlockDevice, found.rdev()),
            () => return Ok(()),
        };
        let mode = Mode::from_raw_mode(0o600);
        match rustix::fs::mknodat(CWD, target, kind, mode, device) {
            Ok(()) => {}
            Err(rustix::io::Errno::PERM) => return Ok(()),
            Err(error) => return Err(error).at("make", target),
        }
    }
    copy_metadata(source, target, found)
}

/// Copies the bytes of a file, sharing them where the file system can.
fn copy_bytes(source: &Path, target: &Path) -> io::Result<()> {
    let (mut from, mut to) = (fs::File::open(source)?, fs::File::create_new(target)?);
    if rustix::fs::ioctl_ficlone(&to, &from).is_ok() {
        return Ok(());
    }
    let found = from.metadata()?;
    if found.blocks() * 512 < found.len() {
        return unpack::write(&mut from, &mut to);
    }
    io::copy(&mut from, &mut to).map(drop)
}

/// Gives a copy the owner, mode, attributes and time of what it is a copy of.
pub(super) fn copy_metadata(
    source: &Path,
    target: &Path,
    found: &fs::Metadata,
) -> Result<(), Failure> {
    let owner = (Some(Uid::from_raw(found.uid())), Some(Gid::from_raw(found.gid())));
    rustix::fs::chownat(CWD, target, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
        .at("set the owner of", target)?;
    if !found.is_symlink() {
        let mode = fs::Permissions::from_mode(found.mode() & 0o7777);
        fs::set_permissions(target, mode).at("set the mode of", target)?;
    }
    copy_attributes(source, target)?;
    let time = Timespec { tv_sec: found.mtime(), tv_nsec: found.mtime_nsec() };
    set_time(target, time)
}

fn copy_attributes(source: &Path, target: &Path) -> Result<(), Failure> {
    let mut list = vec![0; 1 << 12];
    let length = match rustix::fs::llistxattr(source, &mut list) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP) => return Ok(()),
        Err(error) => return Err(error).at("list the attributes of", source),
    };
    for name in list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        // What overlayfs keeps there is about the file that it is an attribute of.
        let of_file = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
        if !of_file && name != b"security.capability" {
            continue;
        }
        let mut value = vec![0; 1 << 16];
        let name = std::ffi::OsStr::from_bytes(name);
        let read = rustix::fs::lgetxattr(source, name, &mut value);
        let length = read.at("read an attribute of", source)?;
        match rustix::fs::lsetxattr(target, name, &value[..length], XattrFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOTSUP | rustix::io::Errno::PERM) => {}
            Err(error) => return Err(error).at("set an attribute of", target),
        }
    }
    Ok(())
}

/// Copies what changed in `tree` since a time (nanoseconds) to `into`, as a layer on `lowers`, the
/// highest first. What the kernel changed last before that time is as it was copied.
pub(super) fn changes(
    tree: &Path,
    lowers: &[PathBuf],
    since: i128,
    into: &Path,
) -> Result<(), Failure> {
    rustix::process::umask(Mode::empty());
    fs::create_dir(into).at("make", into)?;
    let mut links = HashMap::new();
    changed_in(tree, lowers, Path::new(""), since, into, &mut links)?;
    Ok(())
}

/// Returns whether anything below `inner` changed.
fn changed_in(
    tree: &Path,
    lowers: &[PathBuf],
    inner: &Path,
    since: i128,
    into: &Path,
    links: &mut Links,
) -> Result<bool, Failure> {
    let directory = tree.join(inner);
    let now: BTreeSet<OsString> = names(&directory)?.into_iter().collect();
    let mut changed = false;
    // Directories of the layer are made when something in them needs it.
    let make = |inner: &Path| -> Result<(), Failure> {
        let mut path = into.to_owned();
        let mut source = tree.to_owned();
        for name in inner.components() {
            path.push(name);
            source.push(name);
            if fs::symlink_metadata(&path).is_err() {
                fs::create_dir(&path).at("make", &path)?;
            }
        }
        Ok(())
    };
    for name in &now {
        let inner = inner.join(name);
        let path = tree.join(&inner);
        let found = fs::symlink_metadata(&path).at("look at", &path)?;
        let touched =
            i128::from(found.ctime()) * 1_000_000_000 + i128::from(found.ctime_nsec()) >= since;
        if found.is_dir() {
            if touched {
                make(&inner)?;
            }
            let below = changed_in(tree, lowers, &inner, since, into, links)?;
            if touched || below {
                make(&inner)?;
                copy_metadata(&path, &into.join(&inner), &found)?;
                changed = true;
            }
        } else if touched {
            if let Some(parent) = inner.parent() {
                make(parent)?;
            }
            let target = into.join(&inner);
            copy_file(&path, &target, &found, links)?;
            changed = true;
        }
    }
    for name in below(lowers, inner)? {
        if !now.contains(&name) {
            make(inner)?;
            let mut mark = OsString::from(WHITEOUT);
            mark.push(&name);
            let path = into.join(inner).join(mark);
            fs::File::create(&path).at("hide", &path)?;
            changed = true;
        }
    }
    Ok(changed)
}

/// Lists the names that a directory of the layers below has.
fn below(lowers: &[PathBuf], inner: &Path) -> Result<BTreeSet<OsString>, Failure> {
    let mut present = BTreeSet::new();
    for layer in lowers.iter().rev() {
        let directory = layer.join(inner);
        match fs::symlink_metadata(&directory) {
            Ok(found) if found.is_dir() => {}
            // Not there any more: a file took the place of the directory.
            Ok(_) => {
                present.clear();
                continue;
            }
            Err(_) => {
                if hides(layer, inner) {
                    present.clear();
                }
                continue;
            }
        }
        let entries = names(&directory)?;
        if hides(layer, inner) || entries.iter().any(|name| name.as_bytes() == OPAQUE.as_bytes()) {
            present.clear();
        }
        for name in &entries {
            match name.as_bytes().strip_prefix(WHITEOUT.as_bytes()) {
                Some(hidden) => {
                    present.remove(std::ffi::OsStr::from_bytes(hidden));
                }
                None => {
                    present.insert(name.clone());
                }
            }
        }
    }
    Ok(present)
}

/// Tells whether a layer hides a directory of the layers below, by itself or one above it.
fn hides(layer: &Path, inner: &Path) -> bool {
    inner.ancestors().any(|path| {
        let Some(name) = path.file_name() else { return false };
        let mut mark = OsString::from(WHITEOUT);
        mark.push(name);
        fs::symlink_metadata(layer.join(path.with_file_name(mark))).is_ok()
    })
}
