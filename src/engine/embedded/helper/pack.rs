//! Writing what a container changed as a layer: an uncompressed tar in a fixed order.
//!
//! Times in the tar are whole seconds. Where nothing of the container runs any more, and its tree is
//! kept as the layer, those in the tree are cut as well: it is what the tar unpacks to.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::Timespec;

use super::super::protocol::{Identity, Storage, Times};
use super::failure::{Context as _, Failure};
use super::merge;
use super::unpack::{OPAQUE, OWNER, WHITEOUT, opaque_attribute, set_time};

/// Attributes that belong to how trees are kept, not to files.
const OURS: [&str; 2] = ["user.overlay.", OWNER];

/// What a container changed.
pub(super) struct Changes<'a> {
    /// The upper directory, or the copied tree.
    pub directory: &'a Path,
    /// The layers below, the highest first; only for [`Storage::Copy`], as what follows.
    pub lowers: &'a [PathBuf],
    /// How the tree was made.
    pub storage: Storage,
    /// When the tree was made, in nanoseconds.
    pub since: i128,
    /// Where the changes are kept, as a layer of its own.
    pub into: Option<&'a Path>,
    /// What becomes of times in the tree.
    pub times: Times,
}

impl Changes<'_> {
    /// Writes the layer to a file.
    pub(super) fn pack(&self, identity: &Identity, output: fs::File) -> Result<(), Failure> {
        let root = match (self.storage, self.into) {
            (Storage::Copy, Some(into)) => {
                merge::changes(self.directory, self.lowers, self.since, into)?;
                into
            }
            _ => self.directory,
        };
        let output = BufWriter::with_capacity(1 << 18, output);
        let mut packer = Packer {
            tar: tar::Builder::new(output),
            root,
            links: HashMap::new(),
            identity,
            marks: self.storage != Storage::Copy,
            times: self.times,
        };
        packer.children(Path::new(""))?;
        let output = packer.tar.into_inner().because("write a layer")?;
        output
            .into_inner()
            .map_err(io::IntoInnerError::into_error)
            .and_then(|mut output| output.flush())
            .because("write a layer")
    }
}

struct Packer<'a, W: Write> {
    tar: tar::Builder<W>,
    root: &'a Path,
    /// Where files with several names were written first.
    links: HashMap<(u64, u64), PathBuf>,
    identity: &'a Identity,
    /// Marks are those of overlayfs.
    marks: bool,
    times: Times,
}

impl<W: Write> Packer<'_, W> {
    fn children(&mut self, directory: &Path) -> Result<(), Failure> {
        let path = self.root.join(directory);
        let mut names = Vec::new();
        for entry in fs::read_dir(&path).at("read", &path)? {
            names.push(entry.at("read", &path)?.file_name());
        }
        names.sort();
        for name in names {
            self.entry(&directory.join(name))?;
        }
        Ok(())
    }

    fn entry(&mut self, inner: &Path) -> Result<(), Failure> {
        let path = self.root.join(inner);
        let found = fs::symlink_metadata(&path).at("look at", &path)?;
        let kind = found.file_type();
        if self.marks && kind.is_char_device() && found.rdev() == 0 {
            return self.whiteout(inner);
        }
        let time = found.mtime();
        if self.times == Times::Cut && found.mtime_nsec() != 0 {
            set_time(&path, Timespec { tv_sec: time, tv_nsec: 0 })?;
        }
        let mut header = tar::Header::new_gnu();
        header.set_mode(found.mode() & 0o7777);
        header.set_mtime(u64::try_from(time).unwrap_or(0));
        header.set_size(0);
        let (uid, gid) = self.owner(&path, &found)?;
        header.set_uid(uid);
        header.set_gid(gid);
        if kind.is_socket() {
            return Ok(());
        }
        if !kind.is_dir() && found.nlink() > 1 {
            let file = (found.dev(), found.ino());
            if let Some(first) = self.links.get(&file) {
                header.set_entry_type(tar::EntryType::Link);
                let first = first.clone();
                return self.tar.append_link(&mut header, inner, &first).at("write", &path);
            }
            self.links.insert(file, inner.to_owned());
        }
        self.attributes(&path)?;
        if kind.is_dir() {
            header.set_entry_type(tar::EntryType::Directory);
            let mut name = inner.as_os_str().to_owned();
            name.push("/");
            self.tar.append_data(&mut header, name, io::empty()).at("write", &path)?;
            if self.marks && self.is_opaque(&path)? {
                self.mark(&inner.join(OPAQUE))?;
            }
            return self.children(inner);
        }
        if kind.is_symlink() {
            let target = fs::read_link(&path).at("read", &path)?;
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            return self.tar.append_link(&mut header, inner, target).at("write", &path);
        }
        if kind.is_file() {
            let mut file = fs::File::open(&path).at("read", &path)?;
            header.set_size(found.len());
            return self.tar.append_data(&mut header, inner, &mut file).at("write", &path);
        }
        header.set_entry_type(match () {
            () if kind.is_fifo() => tar::EntryType::Fifo,
            () if kind.is_block_device() => tar::EntryType::Block,
            () => tar::EntryType::Char,
        });
        if !kind.is_fifo() {
            let device = found.rdev();
            header.set_device_major(rustix::fs::major(device)).at("write", &path)?;
            header.set_device_minor(rustix::fs::minor(device)).at("write", &path)?;
        }
        self.tar.append_data(&mut header, inner, io::empty()).at("write", &path)
    }

    fn owner(&self, path: &Path, found: &fs::Metadata) -> Result<(u64, u64), Failure> {
        if *self.identity != Identity::Root
            && let Some(kept) = attribute(path, OWNER).at("read an attribute of", path)?
            && let Ok(text) = std::str::from_utf8(&kept)
            && let Some((uid, gid)) = text.split_once(':')
            && let (Ok(uid), Ok(gid)) = (uid.parse(), gid.parse())
        {
            return Ok((uid, gid));
        }
        Ok((u64::from(found.uid()), u64::from(found.gid())))
    }

    fn is_opaque(&self, path: &Path) -> Result<bool, Failure> {
        let found = attribute(path, opaque_attribute(self.identity));
        Ok(found.at("read an attribute of", path)?.as_deref() == Some(b"y"))
    }

    /// Writes the attributes of a file as an extended header before it.
    fn attributes(&mut self, path: &Path) -> Result<(), Failure> {
        let mut list = vec![0; 1 << 16];
        let length = match rustix::fs::llistxattr(path, &mut list) {
            Ok(length) => length,
            Err(rustix::io::Errno::NOTSUP) => return Ok(()),
            Err(error) => return Err(error).at("list the attributes of", path),
        };
        let mut names: Vec<&[u8]> =
            list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
        names.sort_unstable();
        let mut headers: Vec<(String, Vec<u8>)> = Vec::new();
        for name in names {
            let Ok(name) = std::str::from_utf8(name) else { continue };
            let of_file = name == "security.capability" || name.starts_with("user.");
            if !of_file || OURS.iter().any(|ours| name.starts_with(ours)) {
                continue;
            }
            if let Some(value) = attribute(path, name).at("read an attribute of", path)? {
                headers.push((format!("SCHILY.xattr.{name}"), value));
            }
        }
        if headers.is_empty() {
            return Ok(());
        }
        let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        self.tar.append_pax_extensions(headers).at("write the attributes of", path)
    }

    fn whiteout(&mut self, inner: &Path) -> Result<(), Failure> {
        let mut name = OsStr::new(WHITEOUT).to_owned();
        name.push(inner.file_name().unwrap_or_default());
        self.mark(&inner.with_file_name(name))
    }

    fn mark(&mut self, inner: &Path) -> Result<(), Failure> {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_mtime(super::super::FILE_TIME.unsigned_abs());
        header.set_size(0);
        self.tar.append_data(&mut header, inner, io::empty()).at("write", inner)
    }
}

/// Reads an attribute; `None` when the file, or its file system, has none.
fn attribute(path: &Path, name: &str) -> rustix::io::Result<Option<Vec<u8>>> {
    let mut value = vec![0; 1 << 16];
    match rustix::fs::lgetxattr(path, OsStr::from_bytes(name.as_bytes()), &mut value) {
        Ok(length) => {
            value.truncate(length);
            Ok(Some(value))
        }
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::NOTSUP) => Ok(None),
        Err(error) => Err(error),
    }
}
