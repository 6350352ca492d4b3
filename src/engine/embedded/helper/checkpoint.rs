//! Keeping what a container changed as a layer: by a copy while it lives, by another name when it has
//! ended, and several such layers as one.
//!
//! The layer is an upper directory of overlayfs, with its marks for what was removed. The directory of
//! snapshots is the current one.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat};

use super::super::protocol::{Identity, SessionResponse, Storage};
use super::failure::{Context as _, Failure};
use super::merge::{Links, copy_file, copy_metadata, names};
use super::root::UPPER;
use super::unpack::opaque_attribute;
use super::{held, remove};

/// What is kept, and how.
pub(super) struct Keeping<'a> {
    /// The container's own directory.
    pub scratch: &'a Path,
    /// How its tree was made.
    pub storage: Storage,
    /// Where the layer is made before it has its name.
    pub aside: &'a Path,
    /// The name of the layer.
    pub name: &'a str,
    /// Layers below it that become one with it, the highest first.
    pub merged: &'a [String],
}

impl Keeping<'_> {
    /// Copies what a container that lives changed. Its processes are held meanwhile.
    pub(super) fn copy(
        &self,
        first: rustix::process::Pid,
        identity: &Identity,
    ) -> Result<SessionResponse, Failure> {
        self.check()?;
        rustix::process::umask(Mode::empty());
        let layer = self.aside.join(UPPER);
        let mut writer = Writer { identity, links: Links::new(), shares: false };
        let copied = held::meanwhile(first, || writer.layer(&self.scratch.join(UPPER), &layer))?;
        copied?;
        self.name(&layer, identity)?;
        Ok(SessionResponse::Done)
    }

    /// Takes what a container changed that has ended. The rest of its directory is removed.
    pub(super) fn take(&self, identity: &Identity) -> Result<(), Failure> {
        self.check()?;
        self.name(&self.scratch.join(UPPER), identity)?;
        remove::tree(self.scratch)
    }

    fn check(&self) -> Result<(), Failure> {
        match self.storage {
            Storage::Overlay => Ok(()),
            Storage::Copy => Err(Failure::new(
                "make a checkpoint",
                "the container is a copy of its image: there is no overlayfs here",
            )),
        }
    }

    /// Gives the layer its name, with what becomes one with it.
    fn name(&self, layer: &Path, identity: &Identity) -> Result<(), Failure> {
        let named = Path::new(self.name);
        if self.merged.is_empty() {
            return fs::rename(layer, named).at("keep a layer as", named);
        }
        rustix::process::umask(Mode::empty());
        let whole = self.aside.join("merged");
        let mut writer = Writer { identity, links: Links::new(), shares: true };
        for lower in self.merged.iter().rev().map(Path::new) {
            writer.layer(lower, &whole)?;
        }
        writer.layer(layer, &whole)?;
        fs::rename(&whole, named).at("keep a layer as", named)
    }
}

/// Writes layers into one.
struct Writer<'a> {
    identity: &'a Identity,
    /// Where files with several names were written first.
    links: Links,
    /// Files are shared with the layer, which nothing changes any more.
    shares: bool,
}

impl Writer<'_> {
    /// Writes a layer into a directory, which has a lower one of it or is not there.
    fn layer(&mut self, from: &Path, to: &Path) -> Result<(), Failure> {
        self.links.clear();
        let found = fs::symlink_metadata(from).at("look at", from)?;
        self.directory(from, to, &found)
    }

    fn directory(&mut self, from: &Path, to: &Path, found: &fs::Metadata) -> Result<(), Failure> {
        let hides = self.is_opaque(from)?;
        let there = fs::symlink_metadata(to).ok();
        // What is below in the same layer is hidden by a directory that took the place of something
        // else, as it was by that.
        let replaces = there.as_ref().is_some_and(|there| !there.is_dir());
        if there.is_some() && (hides || replaces) {
            remove::tree(to)?;
        }
        if there.is_none() || hides || replaces {
            fs::create_dir(to).at("make", to)?;
        }
        for name in names(from)? {
            self.entry(&from.join(&name), &to.join(&name))?;
        }
        copy_metadata(from, to, found)?;
        if hides || replaces {
            let attribute = opaque_attribute(self.identity);
            rustix::fs::lsetxattr(to, attribute, b"y", XattrFlags::empty())
                .at("set an attribute of", to)?;
        }
        Ok(())
    }

    fn entry(&mut self, from: &Path, to: &Path) -> Result<(), Failure> {
        let found = match fs::symlink_metadata(from) {
            // What is written into a session meanwhile may go again.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            found => found.at("look at", from)?,
        };
        if found.is_dir() {
            return self.directory(from, to, &found);
        }
        remove::tree(to)?;
        if is_whiteout(&found) {
            let mode = Mode::empty();
            return mknodat(CWD, to, FileType::CharacterDevice, mode, 0).at("hide", to);
        }
        if self.shares && !found.file_type().is_socket() {
            return fs::hard_link(from, to).at("link", to);
        }
        copy_file(from, to, &found, &mut self.links)
    }

    fn is_opaque(&self, directory: &Path) -> Result<bool, Failure> {
        let mut value = [0; 8];
        match rustix::fs::lgetxattr(directory, opaque_attribute(self.identity), &mut value) {
            Ok(length) => Ok(value[..length] == *b"y"),
            Err(rustix::io::Errno::NODATA | rustix::io::Errno::NOTSUP) => Ok(false),
            Err(error) => Err(error).at("read an attribute of", directory),
        }
    }
}

/// Tells whether a file of a layer is the mark of one that was removed.
pub(super) fn is_whiteout(found: &fs::Metadata) -> bool {
    found.file_type().is_char_device() && found.rdev() == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn layer(dir: &Path, name: &str, files: &[(&str, &str)]) -> String {
        let layer = dir.join(name);
        fs::create_dir(&layer).unwrap();
        for (path, content) in files {
            let path = layer.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        layer.to_str().unwrap().to_owned()
    }

    fn hide(path: &Path) {
        mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    }

    /// Runs as a plain user too: since Linux 5.8 anybody may make the mark of a removed file.
    #[test]
    fn layers_become_one_that_hides_what_they_hid() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::Single { uid: 0, gid: 0 };
        let lower = layer(
            dir.path(),
            "lower",
            &[("a/kept", "1"), ("a/gone", "2"), ("d/old", "3"), ("f", "4"), ("g/x", "5")],
        );
        let upper =
            layer(dir.path(), "upper", &[("a/new", "6"), ("d/fresh", "7"), ("f/inside", "8")]);
        hide(&Path::new(&upper).join("a/gone"));
        hide(&Path::new(&upper).join("g"));
        let attribute = opaque_attribute(&identity);
        rustix::fs::lsetxattr(Path::new(&upper).join("d"), attribute, b"y", XattrFlags::empty())
            .unwrap();
        fs::set_permissions(Path::new(&upper).join("a"), fs::Permissions::from_mode(0o701))
            .unwrap();
        let whole = dir.path().join("whole");
        let mut writer = Writer { identity: &identity, links: Links::new(), shares: true };
        writer.layer(Path::new(&lower), &whole).unwrap();
        writer.layer(Path::new(&upper), &whole).unwrap();
        let text = |path: &str| fs::read_to_string(whole.join(path)).ok();
        assert_eq!(text("a/kept").as_deref(), Some("1"));
        assert_eq!(text("a/new").as_deref(), Some("6"));
        assert_eq!(text("d/fresh").as_deref(), Some("7"));
        assert_eq!(text("d/old"), None);
        assert_eq!(text("f/inside").as_deref(), Some("8"));
        for hidden in ["a/gone", "g"] {
            assert!(is_whiteout(&fs::symlink_metadata(whole.join(hidden)).unwrap()), "{hidden}");
        }
        // The image below may have them.
        for opaque in ["d", "f"] {
            assert!(writer.is_opaque(&whole.join(opaque)).unwrap(), "{opaque}");
        }
        assert!(!writer.is_opaque(&whole.join("a")).unwrap());
        assert_eq!(fs::metadata(whole.join("a")).unwrap().mode() & 0o777, 0o701);
    }
}
