//! `COPY`, `ADD` and `WORKDIR`: files of a context, a stage or an image, put into a tree.
//!
//! The tree is the root directory of this process while it copies, so that links lead where they
//! lead in a container.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::Timespec;
use rustix::mount::{MountFlags, mount, mount_bind};

use super::super::protocol::{Copy, CopySource, Identity};
use super::failure::{Context as _, Failure};
use super::unpack::{Marks, extract, set_owner, set_time};
use super::{merge, remove, root, users};

/// Where the source is while files are copied; `/dev` is never part of an image.
const SOURCE: &str = "/dev/source";

/// Copies.
pub(super) fn copy(request: Copy, identity: &Identity) -> Result<(), Failure> {
    root::unshare_mounts()?;
    let snapshots = &request.root.snapshots;
    rustix::process::chdir(snapshots).at("change to", snapshots)?;
    let tree = root::put_together(&request.root, identity)?;
    let dev = tree.join("dev");
    if !fs::symlink_metadata(&dev).is_ok_and(|found| found.is_dir()) {
        return Err(Failure::new("copy files", "`/dev` of the image is not a directory"));
    }
    mount("tmpfs", &dev, "tmpfs", MountFlags::empty(), None).because("mount /dev")?;
    let source = tree.join(SOURCE.trim_start_matches('/'));
    fs::create_dir(&source).at("make", &source)?;
    match &request.from {
        CopySource::Directory(directory) => {
            mount_bind(directory, &source).at("mount", directory)?;
        }
        CopySource::Layers(lowers) => match request.root.storage {
            super::super::protocol::Storage::Copy => {
                let layers: Vec<&Path> = lowers.iter().rev().map(Path::new).collect();
                merge::copy_layers(&layers, &source)?;
            }
            super::super::protocol::Storage::Overlay => {
                // With one layer alone the kernel mounts no overlay.
                let mut lowers = lowers.clone();
                lowers.push(root::LOWEST.to_owned());
                root::overlay(&lowers, None, &source, identity, false)?;
            }
        },
    }
    rustix::process::chroot(&tree).because("change the root directory")?;
    rustix::process::chdir("/").because("change to `/`")?;
    rustix::process::umask(rustix::fs::Mode::empty());
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let owner = match request.owner.as_str() {
        "" => None,
        text => Some(
            users::owner(text, &read("/etc/passwd"), &read("/etc/group"))
                .map_err(|reason| Failure::new(format!("find the owner `{text}`"), reason))?,
        ),
    };
    let mut copying = Copying { request: &request, identity, owner, links: HashMap::new() };
    let times = Times::of(Path::new(&request.destination))?;
    copying.all()?;
    times.restore()
}

/// The times of directories that were there before, which copying into them changes.
struct Times(Vec<(PathBuf, Timespec)>);

impl Times {
    fn of(destination: &Path) -> Result<Times, Failure> {
        let mut times = Vec::new();
        for directory in destination.ancestors() {
            if let Ok(found) = fs::metadata(directory)
                && found.is_dir()
            {
                let time = Timespec { tv_sec: found.mtime(), tv_nsec: found.mtime_nsec() };
                times.push((directory.to_owned(), time));
            }
        }
        Ok(Times(times))
    }

    fn restore(self) -> Result<(), Failure> {
        for (directory, time) in self.0 {
            let found = fs::metadata(&directory).at("look at", &directory)?;
            if (found.mtime(), found.mtime_nsec()) != (time.tv_sec, time.tv_nsec) {
                // A link to a directory is followed, as it was when its time was read.
                let directory = fs::canonicalize(&directory).at("look at", &directory)?;
                set_time(&directory, time)?;
            }
        }
        Ok(())
    }
}

struct Copying<'a> {
    request: &'a Copy,
    identity: &'a Identity,
    owner: Option<(u32, u32)>,
    links: HashMap<(u64, u64), PathBuf>,
}

impl Copying<'_> {
    fn all(&mut self) -> Result<(), Failure> {
        let destination = Path::new(&self.request.destination);
        if self.request.sources.is_empty() {
            return self.make_directories(destination);
        }
        let mut found = Vec::new();
        for pattern in &self.request.sources {
            found.extend(matches(pattern)?);
        }
        let into = self.request.destination.ends_with('/') || destination.is_dir();
        if found.len() > 1 && !into {
            return Err(Failure::new(
                "copy several files",
                format!("`{}` is not a directory and does not end with `/`", destination.display()),
            ));
        }
        for source in found {
            let metadata = fs::metadata(&source).at("look at", &source)?;
            if metadata.is_dir() {
                self.make_directories(destination)?;
                self.children(&source, destination)?;
                continue;
            }
            if self.request.unpack
                && let Some(archive) = open_archive(&source)?
            {
                self.make_directories(destination)?;
                let time = Some(self.request.time);
                extract(archive, destination, Marks::Files, self.identity, time)?;
                continue;
            }
            let target = if into {
                self.make_directories(destination)?;
                destination.join(source.file_name().unwrap_or_default())
            } else {
                if let Some(parent) = destination.parent() {
                    self.make_directories(parent)?;
                }
                destination.to_owned()
            };
            // A link that was named is followed.
            let source = fs::canonicalize(&source).at("look at", &source)?;
            self.file(&source, &target, &metadata)?;
        }
        Ok(())
    }

    fn make_directories(&self, path: &Path) -> Result<(), Failure> {
        if fs::metadata(path).is_ok_and(|found| found.is_dir()) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.make_directories(parent)?;
        }
        fs::create_dir(path).at("make", path)?;
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(path, mode).at("set the mode of", path)?;
        let (uid, gid) = self.owner.unwrap_or_default();
        set_owner(path, uid.into(), gid.into(), self.identity, true)?;
        self.touch(path)
    }

    fn touch(&self, path: &Path) -> Result<(), Failure> {
        set_time(path, Timespec { tv_sec: self.request.time, tv_nsec: 0 })
    }

    fn children(&mut self, from: &Path, to: &Path) -> Result<(), Failure> {
        let mut names = Vec::new();
        for entry in fs::read_dir(from).at("read", from)? {
            names.push(entry.at("read", from)?.file_name());
        }
        names.sort();
        for name in names {
            let (source, target) = (from.join(&name), to.join(&name));
            let metadata = fs::symlink_metadata(&source).at("look at", &source)?;
            if !metadata.is_dir() {
                self.file(&source, &target, &metadata)?;
                continue;
            }
            let there = fs::metadata(&target).is_ok_and(|found| found.is_dir());
            if !there {
                remove::tree(&target)?;
                fs::create_dir(&target).at("make", &target)?;
            }
            let before = fs::metadata(&target).at("look at", &target)?;
            self.children(&source, &target)?;
            if there {
                let time = Timespec { tv_sec: before.mtime(), tv_nsec: before.mtime_nsec() };
                set_time(&target, time)?;
            } else {
                self.metadata(&source, &target, &metadata)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, from: &Path, to: &Path, found: &fs::Metadata) -> Result<(), Failure> {
        remove::tree(to)?;
        merge::copy_file(from, to, found, &mut self.links)?;
        self.metadata(from, to, found)
    }

    fn metadata(&self, from: &Path, to: &Path, found: &fs::Metadata) -> Result<(), Failure> {
        let link = found.file_type().is_symlink();
        if found.is_dir() {
            merge::copy_metadata(from, to, found)?;
        }
        let (uid, gid) = self.owner.unwrap_or_default();
        set_owner(to, uid.into(), gid.into(), self.identity, !link)?;
        if !link {
            let mode = self.request.mode.unwrap_or(found.mode() & 0o7777);
            fs::set_permissions(to, fs::Permissions::from_mode(mode)).at("set the mode of", to)?;
        }
        match self.request.from {
            CopySource::Directory(_) => self.touch(to),
            CopySource::Layers(_) => {
                set_time(to, Timespec { tv_sec: found.mtime(), tv_nsec: found.mtime_nsec() })
            }
        }
    }
}

/// Finds what a pattern names in the source, in the order of its names.
fn matches(pattern: &str) -> Result<Vec<PathBuf>, Failure> {
    let mut inner = PathBuf::new();
    for component in Path::new(pattern).components() {
        match component {
            std::path::Component::Normal(name) => inner.push(name),
            // As far up as the context goes.
            std::path::Component::ParentDir => {
                inner.pop();
            }
            _ => {}
        }
    }
    let missing = || Failure::new("copy files", format!("there is no `{pattern}` to copy"));
    let whole = Path::new(SOURCE).join(&inner);
    if !pattern.contains(['*', '?', '[']) {
        return if fs::symlink_metadata(&whole).is_ok() { Ok(vec![whole]) } else { Err(missing()) };
    }
    let options = glob::MatchOptions { require_literal_separator: true, ..Default::default() };
    let text = whole.to_string_lossy();
    let found = glob::glob_with(&text, options).map_err(|error| {
        Failure::new(format!("read the pattern `{pattern}`"), error.to_string())
    })?;
    let mut paths = Vec::new();
    for path in found {
        paths.push(path.map_err(io::Error::from).because("read the context")?);
    }
    if paths.is_empty() { Err(missing()) } else { Ok(paths) }
}

/// Opens a file that is a tar, compressed or not, by what it begins with.
fn open_archive(path: &Path) -> Result<Option<Box<dyn io::Read>>, Failure> {
    let open = || fs::File::open(path).at("read", path);
    let mut head = Vec::new();
    open()?.take(262 + 5).read_to_end(&mut head).at("read", path)?;
    let stream: Box<dyn io::Read> = match head.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::GzDecoder::new(open()?)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            Box::new(zstd::stream::read::Decoder::new(open()?).at("read", path)?)
        }
        [b'B', b'Z', b'h', ..] | [0xfd, b'7', b'z', b'X', b'Z', ..] => {
            return Err(Failure::new(
                format!("unpack `{}`", path.display()),
                "only tar, tar.gz and tar.zst are unpacked here: unpack it in a RUN",
            ));
        }
        head if head.get(257..262) == Some(b"ustar") => Box::new(open()?),
        _ => return Ok(None),
    };
    Ok(Some(stream))
}
