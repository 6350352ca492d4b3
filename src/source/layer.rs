//! Writing a layer: an uncompressed tar with fixed owner, modes and order, hashed as it is written.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::engine::LayerFile;
use crate::hashing::Hashing;

/// A regular file's mode bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileMode {
    /// 0644.
    Plain,
    /// 0755.
    Executable,
}

/// Writes one layer. Entries are written in the order of the calls, which the caller fixes.
pub(super) struct LayerWriter {
    path: PathBuf,
    owner: u32,
    tar: tar::Builder<Hashing<BufWriter<File>>>,
    entries: usize,
}

/// Makes a path from the bytes of a git path.
pub(super) fn path_of(bytes: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt as _;
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

/// Tells whether a part of a path is what marks a deletion in a layer.
pub(super) fn is_whiteout(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').any(|name| name.starts_with(b".wh."))
}

impl LayerWriter {
    /// Starts a layer at `path`.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        let mut tar = tar::Builder::new(Hashing::new(file));
        tar.mode(tar::HeaderMode::Deterministic);
        Ok(LayerWriter { path: path.to_owned(), owner: 0, tar, entries: 0 })
    }

    /// Gives entries from now on to a user, and to the group of that number; else they are root's.
    pub(super) fn owned_by(self, owner: u32) -> Self {
        LayerWriter { owner, ..self }
    }

    fn header(&self, kind: tar::EntryType, mode: u32, mtime: i64, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(self.owner.into());
        header.set_gid(self.owner.into());
        header.set_mtime(mtime.max(0) as u64);
        header.set_size(size);
        header
    }

    /// Refuses a name that means a deletion to whoever unpacks the layer.
    fn check_name(path: &[u8]) -> io::Result<()> {
        match is_whiteout(path) {
            false => Ok(()),
            true => Err(io::Error::new(
                io::ErrorKind::InvalidFilename,
                format!(
                    "`{}` cannot be in an image: names that begin with `.wh.` mark deletions",
                    String::from_utf8_lossy(path)
                ),
            )),
        }
    }

    /// Adds a directory.
    pub(super) fn directory(&mut self, path: &[u8], mtime: i64) -> io::Result<()> {
        Self::check_name(path)?;
        let mut header = self.header(tar::EntryType::Directory, 0o755, mtime, 0);
        let mut name = path.to_vec();
        name.push(b'/');
        self.entries += 1;
        self.tar.append_data(&mut header, path_of(&name), io::empty())
    }

    /// Adds a regular file.
    pub(super) fn file(
        &mut self,
        path: &[u8],
        mode: FileMode,
        mtime: i64,
        bytes: &[u8],
    ) -> io::Result<()> {
        Self::check_name(path)?;
        self.any_file(path, mode, mtime, bytes)
    }

    fn any_file(
        &mut self,
        path: &[u8],
        mode: FileMode,
        mtime: i64,
        bytes: &[u8],
    ) -> io::Result<()> {
        let mode = if mode == FileMode::Executable { 0o755 } else { 0o644 };
        let size = bytes.len() as u64;
        let mut header = self.header(tar::EntryType::Regular, mode, mtime, size);
        self.entries += 1;
        self.tar.append_data(&mut header, path_of(path), bytes)
    }

    /// Adds a symbolic link, its target as it is.
    pub(super) fn symlink(&mut self, path: &[u8], mtime: i64, target: &[u8]) -> io::Result<()> {
        Self::check_name(path)?;
        let mut header = self.header(tar::EntryType::Symlink, 0o777, mtime, 0);
        if header.set_link_name_literal(target).is_err() {
            let name = [target, b"\0"].concat();
            let mut long = self.header(tar::EntryType::GNULongLink, 0o644, 0, name.len() as u64);
            long.set_path("././@LongLink")?;
            long.set_cksum();
            self.tar.append(&long, name.as_slice())?;
            header.set_link_name_literal(&target[..100])?;
        }
        self.entries += 1;
        self.tar.append_data(&mut header, path_of(path), io::empty())
    }

    /// Adds the mark that deletes `path` of the layers below.
    pub(super) fn whiteout(&mut self, path: &[u8], mtime: i64) -> io::Result<()> {
        let at = path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
        let mut name = path[..at].to_vec();
        name.extend_from_slice(b".wh.");
        name.extend_from_slice(&path[at..]);
        self.any_file(&name, FileMode::Plain, mtime, b"")
    }

    /// Ends the layer.
    pub(super) fn finish(self) -> io::Result<(LayerFile, usize)> {
        let mut hashing = self.tar.into_inner()?;
        hashing.flush()?;
        let (_, diff_id, size) = hashing.finish();
        Ok((LayerFile { path: self.path, diff_id, size }, self.entries))
    }
}

/// Returns the time that files of a commit have in a layer: ZIP files, and so wheels, cannot hold times
/// before 1980.
pub(super) fn layer_time(commit_time: i64) -> i64 {
    const YEAR_1980: i64 = 315_532_800;
    commit_time.max(YEAR_1980)
}
