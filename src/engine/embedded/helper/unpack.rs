//! Unpacking a layer, or an archive that `ADD` takes apart.
//!
//! The root directory of this process becomes the directory that is unpacked to, so that whatever
//! the archive names is in it: no path, no link, no race leads out.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, BufReader, Read, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};

use super::super::super::bounds::BYTES;
use super::super::protocol::{Identity, Storage};
use super::failure::{Context as _, Failure};
use super::remove;

/// What a removed file is in a layer, before its name.
pub(super) const WHITEOUT: &str = ".wh.";

/// What says in a layer that a directory hides the one below.
pub(super) const OPAQUE: &str = ".wh..wh..opq";

/// The attribute that keeps an owner whom this user cannot give a file to, as `uid:gid`.
pub(super) const OWNER: &str = "user.imgforge.owner";

/// Pieces of a sparse file.
const SPARSE_PIECES: u64 = 1_000_000;

/// Zeros of at least this many bytes are not written.
const HOLE: usize = 4096;

/// Returns the attribute of a directory that hides the one below.
pub(super) fn opaque_attribute(identity: &Identity) -> &'static str {
    if identity.user_attributes() { "user.overlay.opaque" } else { "trusted.overlay.opaque" }
}

/// Unpacks a layer to an empty directory, until the end of `input`.
pub(crate) fn unpack(
    directory: &Path,
    storage: Storage,
    identity: &Identity,
    input: &mut impl Read,
) -> Result<(), Failure> {
    rustix::process::chroot(directory).at("change the root directory to", directory)?;
    rustix::process::chdir("/").because("change to `/`")?;
    fs::set_permissions("/", fs::Permissions::from_mode(0o755)).because("set the mode of `/`")?;
    let marks = match storage {
        Storage::Overlay => Marks::Overlay,
        Storage::Copy => Marks::Files,
    };
    let input = BufReader::with_capacity(1 << 18, input);
    extract(input, Path::new("/"), marks, identity, None)
}

/// What becomes of the marks of a layer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Marks {
    /// What overlayfs has for them.
    Overlay,
    /// Files, as they are in the layer; also for archives that are no layers.
    Files,
}

/// Extracts a tar below `to`. `time` replaces the times of directories that it does not name.
pub(super) fn extract(
    input: impl Read,
    to: &Path,
    marks: Marks,
    identity: &Identity,
    time: Option<i64>,
) -> Result<(), Failure> {
    rustix::process::umask(Mode::empty());
    let mut archive = tar::Archive::new(input);
    let mut extraction = Extraction { to, marks, identity, time, directories: BTreeMap::new() };
    let action = "read a layer";
    for entry in archive.entries().because(action)? {
        let mut entry = entry.because(action)?;
        extraction.entry(&mut entry)?;
    }
    // Bytes after the end of the archive belong to it.
    let mut input = archive.into_inner();
    io::copy(&mut input, &mut io::sink()).because(action)?;
    // From the deepest up, as each changes the time of the one above.
    for (path, time) in extraction.directories.iter().rev() {
        set_time(path, *time)?;
    }
    Ok(())
}

struct Extraction<'a> {
    to: &'a Path,
    marks: Marks,
    identity: &'a Identity,
    time: Option<i64>,
    directories: BTreeMap<PathBuf, Timespec>,
}

/// What an extended header says of the entry after it.
#[derive(Default)]
struct Extended {
    owner: (Option<u64>, Option<u64>),
    time: Option<Timespec>,
    attributes: Vec<(OsString, Vec<u8>)>,
    /// The real size and name of a sparse file in its version 1.0.
    sparse: bool,
    sparse_size: Option<u64>,
    sparse_name: Option<Vec<u8>>,
}

fn extended(entry: &mut tar::Entry<impl Read>) -> Result<Extended, Failure> {
    let action = "read an extended header of a layer";
    let mut found = Extended::default();
    let Some(extensions) = entry.pax_extensions().because(action)? else { return Ok(found) };
    for extension in extensions {
        let extension = extension.because(action)?;
        let (key, value) = (extension.key_bytes(), extension.value_bytes());
        let text = || std::str::from_utf8(value).ok();
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            found.attributes.push((OsStr::from_bytes(name).to_owned(), value.to_owned()));
            continue;
        }
        match key {
            b"uid" => found.owner.0 = text().and_then(|text| text.parse().ok()),
            b"gid" => found.owner.1 = text().and_then(|text| text.parse().ok()),
            b"mtime" => found.time = text().and_then(seconds),
            b"GNU.sparse.major" => found.sparse = value == b"1",
            b"GNU.sparse.realsize" => {
                found.sparse_size = text().and_then(|text| text.parse().ok());
            }
            b"GNU.sparse.name" => found.sparse_name = Some(value.to_owned()),
            _ => {}
        }
    }
    Ok(found)
}

/// Reads seconds with a fraction.
fn seconds(text: &str) -> Option<Timespec> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    Some(Timespec { tv_sec: whole.parse().ok()?, tv_nsec: digits.parse().ok()? })
}

impl Extraction<'_> {
    fn entry(&mut self, entry: &mut tar::Entry<impl Read>) -> Result<(), Failure> {
        let extended = extended(entry)?;
        let name = match &extended.sparse_name {
            Some(name) => PathBuf::from(OsStr::from_bytes(name)),
            None => PathBuf::from(OsStr::from_bytes(&entry.path_bytes())),
        };
        let inner = inner(&name)?;
        let path = self.to.join(&inner);
        let kind = entry.header().entry_type();
        let time = match extended.time {
            Some(time) => time,
            None => {
                let time = entry.header().mtime().at("read the time of", &name)?;
                Timespec { tv_sec: i64::try_from(time).unwrap_or(0), tv_nsec: 0 }
            }
        };
        if let Some(parent) = inner.parent() {
            self.make_parents(parent)?;
        }
        if self.marks == Marks::Overlay
            && let Some(mark) = path.file_name().map(|name| name.as_bytes())
            && let Some(hidden) = mark.strip_prefix(WHITEOUT.as_bytes())
        {
            return self.mark(&path, mark, hidden);
        }
        let mode = entry.header().mode().at("read the mode of", &name)? & 0o7777;
        if kind.is_dir() {
            let there = fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir());
            if !there {
                if !inner.as_os_str().is_empty() {
                    remove::tree(&path)?;
                }
                fs::create_dir(&path).at("make", &path)?;
            }
            self.directories.insert(path.clone(), time);
        } else {
            remove::tree(&path)?;
            if !self.make_file(entry, &extended, kind, &path)? {
                return Ok(());
            }
        }
        self.set_metadata(entry, &extended, kind, &path, mode)?;
        if !kind.is_dir() && !kind.is_hard_link() {
            set_time(&path, time)?;
        }
        Ok(())
    }

    /// Makes what is not a directory; tells whether it made something that has metadata.
    fn make_file(
        &self,
        entry: &mut tar::Entry<impl Read>,
        extended: &Extended,
        kind: tar::EntryType,
        path: &Path,
    ) -> Result<bool, Failure> {
        match kind {
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                let mut options = fs::OpenOptions::new();
                let file = options.write(true).create_new(true).mode(0o600).open(path);
                let mut file = file.at("make", path)?;
                if extended.sparse {
                    write_sparse(entry, extended.sparse_size, &mut file).at("write", path)?;
                } else {
                    write(entry, &mut file).at("write", path)?;
                }
            }
            tar::EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default();
                symlink(OsStr::from_bytes(&target), path).at("make", path)?;
            }
            tar::EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default();
                let target = self.to.join(inner(Path::new(OsStr::from_bytes(&target)))?);
                // `link` follows no link at its end.
                fs::hard_link(&target, path).at("link", path)?;
                return Ok(false);
            }
            tar::EntryType::Fifo => {
                let mode = Mode::from_raw_mode(0o600);
                rustix::fs::mknodat(CWD, path, FileType::Fifo, mode, 0).at("make", path)?;
            }
            tar::EntryType::Char | tar::EntryType::Block => {
                let character = kind == tar::EntryType::Char;
                let header = entry.header();
                let major = header.device_major().at("read the device of", path)?;
                let minor = header.device_minor().at("read the device of", path)?;
                let device = rustix::fs::makedev(major.unwrap_or(0), minor.unwrap_or(0));
                let kind =
                    if character { FileType::CharacterDevice } else { FileType::BlockDevice };
                let mode = Mode::from_raw_mode(0o600);
                match rustix::fs::mknodat(CWD, path, kind, mode, device) {
                    Ok(()) => {}
                    // A plain user makes no devices; containers have their own `/dev`.
                    Err(rustix::io::Errno::PERM) => return Ok(false),
                    Err(error) => return Err(error).at("make", path),
                }
            }
            // Headers for other programs.
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn mark(&self, path: &Path, mark: &[u8], hidden: &[u8]) -> Result<(), Failure> {
        let parent = path.parent().unwrap_or(Path::new("/"));
        if mark == OPAQUE.as_bytes() {
            let attribute = opaque_attribute(self.identity);
            return rustix::fs::setxattr(parent, attribute, b"y", XattrFlags::empty())
                .at("mark", parent);
        }
        // Marks of aufs, which mean nothing here.
        if hidden.starts_with(WHITEOUT.as_bytes()) || hidden.is_empty() {
            return Ok(());
        }
        if matches!(hidden, b"." | b"..") {
            let reason = format!("`{}` leads out of it", path.display());
            return Err(Failure::new("unpack a layer", reason));
        }
        whiteout(&parent.join(OsStr::from_bytes(hidden)))
    }

    fn make_parents(&mut self, parent: &Path) -> Result<(), Failure> {
        let path = self.to.join(parent);
        if fs::metadata(&path).is_ok_and(|found| found.is_dir()) {
            return Ok(());
        }
        if let Some(above) = parent.parent() {
            self.make_parents(above)?;
        }
        fs::create_dir(&path).at("make", &path)?;
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&path, mode).at("set the mode of", &path)?;
        if let Some(time) = self.time {
            self.directories.insert(path, Timespec { tv_sec: time, tv_nsec: 0 });
        }
        Ok(())
    }

    fn set_metadata(
        &self,
        entry: &tar::Entry<impl Read>,
        extended: &Extended,
        kind: tar::EntryType,
        path: &Path,
        mode: u32,
    ) -> Result<(), Failure> {
        // An empty field is root, as for other programs.
        let (uid, gid) = (entry.header().uid().unwrap_or(0), entry.header().gid().unwrap_or(0));
        let (uid, gid) = (extended.owner.0.unwrap_or(uid), extended.owner.1.unwrap_or(gid));
        let plain = kind.is_dir() || kind.is_file() || kind == tar::EntryType::GNUSparse;
        set_owner(path, uid, gid, self.identity, plain)?;
        if kind != tar::EntryType::Symlink {
            let mode = fs::Permissions::from_mode(mode);
            fs::set_permissions(path, mode).at("set the mode of", path)?;
        }
        for (name, value) in &extended.attributes {
            let set = rustix::fs::lsetxattr(path, name, value, XattrFlags::empty());
            match set {
                // Not every file system has them, and not everybody may set each.
                Ok(())
                | Err(
                    rustix::io::Errno::NOTSUP | rustix::io::Errno::PERM | rustix::io::Errno::INVAL,
                ) => {}
                Err(error) => return Err(error).at("set an attribute of", path),
            }
        }
        Ok(())
    }
}

/// Gives a file to its owner, or keeps in an attribute who it is.
pub(super) fn set_owner(
    path: &Path,
    uid: u64,
    gid: u64,
    identity: &Identity,
    plain: bool,
) -> Result<(), Failure> {
    let number = |id: u64| u32::try_from(id).ok().filter(|id| *id != u32::MAX);
    if !identity.one_owner()
        && let (Some(uid), Some(gid)) = (number(uid), number(gid))
    {
        let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        match rustix::fs::chownat(CWD, path, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW) {
            // Outside the range of ids that this user has.
            Err(rustix::io::Errno::INVAL) => {}
            chowned => return chowned.at("set the owner of", path),
        }
    }
    if plain && (uid, gid) != (0, 0) {
        let text = format!("{uid}:{gid}");
        match rustix::fs::lsetxattr(path, OWNER, text.as_bytes(), XattrFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOTSUP) => {}
            Err(error) => return Err(error).at("set an attribute of", path),
        }
    }
    Ok(())
}

/// Makes what hides a file of the layers below.
pub(super) fn whiteout(path: &Path) -> Result<(), Failure> {
    remove::tree(path)?;
    rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).at("hide", path)
}

/// Sets the time of a change, not following a link.
pub(super) fn set_time(path: &Path, time: Timespec) -> Result<(), Failure> {
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).at("set the time of", path)
}

/// Returns a path of an archive without what leads up or to the root.
fn inner(path: &Path) -> Result<PathBuf, Failure> {
    let mut inner = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => inner.push(name),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
            Component::ParentDir => {
                let action = "unpack a layer";
                let reason = format!("`{}` leads out of it", path.display());
                return Err(Failure::new(action, reason));
            }
        }
    }
    Ok(inner)
}

/// Writes a file with holes where it has nothing but zeros.
pub(super) fn write(from: &mut impl Read, to: &mut fs::File) -> io::Result<()> {
    use io::Seek as _;
    let mut buffer = vec![0; 1 << 16];
    let mut hole = false;
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match from.read(&mut buffer[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        if filled == 0 {
            break;
        }
        for piece in buffer[..filled].chunks(HOLE) {
            hole = piece.len() == HOLE && piece.iter().all(|byte| *byte == 0);
            if hole {
                to.seek_relative(piece.len() as i64)?;
            } else {
                to.write_all(piece)?;
            }
        }
    }
    if hole {
        let size = to.stream_position()?;
        to.set_len(size)?;
    }
    Ok(())
}

/// Writes a sparse file of GNU's version 1.0: its map comes first, as lines of decimal numbers, to
/// the end of a block; see <https://www.gnu.org/software/tar/manual/html_node/PAX-1.html>.
fn write_sparse(from: &mut impl Read, size: Option<u64>, to: &mut fs::File) -> io::Result<()> {
    use io::Seek as _;
    let mut read = 0_u64;
    let mut number = |from: &mut dyn Read| -> io::Result<u64> {
        let mut value = 0_u64;
        loop {
            let mut byte = [0];
            from.read_exact(&mut byte)?;
            read += 1;
            match byte[0] {
                b'\n' => return Ok(value),
                digit @ b'0'..=b'9' => {
                    let next =
                        value.checked_mul(10).and_then(|v| v.checked_add((digit - b'0').into()));
                    value = next.ok_or(io::ErrorKind::InvalidData)?;
                }
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    };
    let count = number(from)?;
    if count > SPARSE_PIECES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a sparse file has too many pieces",
        ));
    }
    let mut pieces = Vec::new();
    for _ in 0..count {
        pieces.push((number(from)?, number(from)?));
    }
    let padding = read.next_multiple_of(512) - read;
    io::copy(&mut from.take(padding), &mut io::sink())?;
    for (offset, length) in pieces {
        if offset.checked_add(length).is_none_or(|end| end > BYTES) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a sparse file is too long"));
        }
        to.seek(io::SeekFrom::Start(offset))?;
        if io::copy(&mut from.take(length), to)? != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    if let Some(size) = size {
        to.set_len(size)?;
    }
    Ok(())
}
