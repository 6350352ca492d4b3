//! Unpacked layers, each in a directory that all images with it share, and the directories of
//! containers beside them.
//!
//! A layer is unpacked aside and renamed: what has its name is whole. Names are short, because the
//! kernel takes a page of options for a mount.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, RenameFlags};

use crate::engine::{EngineError, Removed, Result};
use crate::file_lock::FileLock;
use crate::hashing::Hashing;
use crate::key::{DiffId, Digest};
use crate::owner::{Judge, Liveness};

use super::helper_client::{HelperClient, vanished};
use super::layout::file_error;
use super::protocol::{Identity, Operation, Root, Storage, Times, directory_id};

/// The layer below all others; see [`super::helper`].
const LOWEST: &str = "lowest";

/// Hexadecimal digits of a layer's digest in its directory's name: 120 layers fit a mount.
const DIGITS: usize = 30;

/// Where layers are unpacked and containers are.
pub(super) struct Snapshots {
    dir: PathBuf,
    storage: Storage,
    helper_client: HelperClient,
    owner: String,
}

impl Snapshots {
    /// Opens the directory below `dir` that belongs to this identity and way to store.
    pub(super) fn open(
        dir: &Path,
        storage: Storage,
        helper_client: HelperClient,
        owner: &str,
    ) -> Result<Snapshots> {
        let who = match helper_client.identity {
            Identity::Root => "root",
            Identity::Range { .. } => "range",
            Identity::Single { .. } => "single",
        };
        let form = match storage {
            Storage::Overlay => "overlay",
            Storage::Copy => "copy",
        };
        let dir = dir.join(format!("{who}-{form}"));
        let snapshots =
            Snapshots { dir: dir.clone(), storage, helper_client, owner: owner.to_owned() };
        let action = "make the directory of layers";
        let make = |path: &Path| fs::create_dir_all(path).map_err(file_error(action, path));
        for name in ["s", "c", "l"] {
            make(&dir.join(name))?;
        }
        let lowest = dir.join("s").join(LOWEST);
        if !lowest.exists() {
            let aside = tempfile::Builder::new().prefix(".aside-").tempdir_in(dir.join("s"));
            let aside = aside.map_err(file_error(action, &dir))?;
            for name in ["dev", "etc", "proc", "sys"] {
                make(&aside.path().join(name))?;
            }
            for name in ["hostname", "hosts", "resolv.conf"] {
                let path = aside.path().join("etc").join(name);
                fs::write(&path, "").map_err(file_error(action, &path))?;
            }
            for path in [aside.path().to_owned(), aside.path().join("etc")] {
                use std::os::unix::fs::PermissionsExt as _;
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
                    .map_err(file_error(action, &path))?;
            }
            snapshots.put(&aside.keep(), &lowest)?;
        }
        Ok(snapshots)
    }

    /// The directory of layers, in which names are relative.
    pub(super) fn layers(&self) -> PathBuf {
        self.dir.join("s")
    }

    /// The directory of containers.
    pub(super) fn containers(&self) -> PathBuf {
        self.dir.join("c")
    }

    /// How layers are put together.
    pub(super) fn storage(&self) -> Storage {
        self.storage
    }

    /// Returns the name of a layer's directory.
    pub(super) fn name(diff_id: &DiffId) -> String {
        let hex = diff_id.hex();
        hex.get(..DIGITS).unwrap_or(hex).to_owned()
    }

    /// Returns the directories of layers, the highest first. An image may have a layer twice, and
    /// the kernel takes none twice: the higher one has all that the lower one would add.
    pub(super) fn lowers(diff_ids: &[DiffId]) -> Vec<String> {
        let mut names = Vec::new();
        for name in diff_ids.iter().rev().map(Self::name) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// Tells whether a layer is unpacked.
    pub(super) fn has(&self, diff_id: &DiffId) -> bool {
        self.layers().join(Self::name(diff_id)).exists()
    }

    /// Unpacks a layer from its tar unless it is there. Blocks. A tar that is not the layer is not
    /// kept: the error is [`NotTheLayer::Differs`].
    pub(super) fn unpack(
        &self,
        diff_id: &DiffId,
        tar: impl FnOnce() -> Result<Box<dyn Read>>,
    ) -> std::result::Result<(), NotTheLayer> {
        if self.has(diff_id) {
            return Ok(());
        }
        let name = Self::name(diff_id);
        let lock = self.dir.join("l").join(&name);
        let _lock = FileLock::take(&lock).map_err(file_error("lock a layer", &lock))?;
        if self.has(diff_id) {
            return Ok(());
        }
        let mut tar = Hashing::new(tar()?);
        let aside = self.aside()?;
        let work = Operation::Unpack { directory: aside.clone(), storage: self.storage };
        let unpacked = self.helper_client.call(work, Some(&mut tar), None);
        let (_, found, _) = tar.finish();
        let ended = match unpacked {
            Ok(()) if *diff_id == found => {
                self.put(&aside, &self.layers().join(name)).map_err(NotTheLayer::Engine)
            }
            // A layer that cannot be unpacked because it is not what was meant is told so.
            Ok(()) => Err(NotTheLayer::Differs { found }),
            Err(error) => Err(NotTheLayer::Engine(error)),
        };
        if ended.is_err() {
            let _ = self.remove(&[aside]);
        }
        ended
    }

    fn aside(&self) -> Result<PathBuf> {
        let containers = self.containers();
        let aside = tempfile::Builder::new()
            .prefix(&format!("{}-", self.owner))
            .tempdir_in(&containers)
            .map_err(file_error("unpack a layer", &containers))?;
        Ok(aside.keep())
    }

    /// Gives a finished tree its name; whoever was first keeps it.
    fn put(&self, tree: &Path, target: &Path) -> Result<()> {
        match rustix::fs::renameat_with(CWD, tree, CWD, target, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::EXIST | rustix::io::Errno::NOTEMPTY) => {
                self.remove(&[tree.to_owned()])
            }
            // Not every file system can refuse to replace.
            Err(rustix::io::Errno::INVAL) => match fs::rename(tree, target) {
                Ok(()) => Ok(()),
                Err(_) if target.exists() => self.remove(&[tree.to_owned()]),
                Err(error) => Err(file_error("keep a layer", target)(error)),
            },
            Err(error) => Err(file_error("keep a layer", target)(error.into())),
        }
    }

    /// Makes the tree that a container starts from: directories of layers, the highest first.
    pub(super) fn root(&self, lowers: Vec<String>, throw_away: bool) -> Result<Root> {
        let container = self.aside()?;
        let name = container.file_name().expect("a container has a name");
        let root = Root {
            snapshots: self.layers(),
            lowers,
            scratch: Path::new("../c").join(name),
            storage: self.storage,
            throw_away,
            made: Vec::new(),
        };
        let lowers = root.lowers.iter().map(|name| root.snapshots.join(name));
        let paths = std::iter::once(container).chain(lowers);
        let made = paths.map(|path| directory_id(&path).unwrap_or_default()).collect();
        Ok(Root { made, ..root })
    }

    /// Checks that the tree of a container was not taken away meanwhile.
    pub(super) fn prove(&self, root: &Root) -> Result<()> {
        if root.is_there() { Ok(()) } else { Err(vanished()) }
    }

    /// Returns the directory of a container on this machine.
    pub(super) fn scratch(&self, root: &Root) -> PathBuf {
        self.containers().join(root.scratch.file_name().expect("a container has a name"))
    }

    /// Writes what a container changed as a tar. Blocks.
    pub(super) fn pack(
        &self,
        root: &Root,
        since: i128,
        output: &mut dyn std::io::Write,
    ) -> Result<()> {
        let scratch = self.scratch(root);
        let (directory, into) = match self.storage {
            Storage::Overlay => (scratch.join("u"), None),
            Storage::Copy => (scratch.join("m"), Some(scratch.join("u"))),
        };
        let mut lowers: Vec<PathBuf> =
            root.lowers.iter().map(|name| self.layers().join(name)).collect();
        lowers.push(self.layers().join(LOWEST));
        let (storage, times) = (self.storage, Times::Cut);
        let work = Operation::Pack { directory, lowers, storage, since, into, times };
        self.helper_client.call(work, None, Some(output))
    }

    /// Keeps what a container changed as the unpacked layer that it was packed to.
    pub(super) fn keep(&self, root: &Root, diff_id: &DiffId) -> Result<()> {
        let target = self.layers().join(Self::name(diff_id));
        if target.exists() {
            return Ok(());
        }
        self.put(&self.scratch(root).join("u"), &target)
    }

    /// Removes trees that containers made. Blocks.
    pub(super) fn remove(&self, paths: &[PathBuf]) -> Result<()> {
        self.helper_client.call(Operation::Remove { paths: paths.to_vec() }, None, None)
    }

    /// Takes away the directory of a container that is nobody's. It leaves its name at once: whoever
    /// should have it after all finds that it is gone, and never a half of it.
    pub(super) fn take_away(&self, container: &Path) -> Result<()> {
        let aside = format!("{}-gone{:08x}", self.owner, rand::random::<u32>());
        let aside = self.containers().join(aside);
        let path = match fs::rename(container, &aside) {
            Ok(()) => aside,
            Err(_) => container.to_owned(),
        };
        self.remove(&[path])
    }

    /// Removes the directories of containers whose owner is dead; returns their names, and those of
    /// containers that stay.
    pub(super) fn remove_leftovers(&self, judge: &Judge<'_>) -> Result<Removed> {
        let containers = self.containers();
        let mut found = Removed::default();
        let entries = fs::read_dir(&containers);
        for entry in entries.map_err(file_error("look at containers", &containers))? {
            let entry = entry.map_err(file_error("look at containers", &containers))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some((owner, _)) = name.rsplit_once('-') else { continue };
            let made = entry.metadata().and_then(|found| found.modified()).ok();
            match judge(owner, made) {
                Liveness::Alive => {}
                Liveness::Elsewhere => found.kept.push(name),
                Liveness::Dead => {
                    self.take_away(&entry.path())?;
                    found.removed.push(name);
                }
            }
        }
        Ok(found)
    }

    /// Tells the kernel's clock for changes of files, in nanoseconds, after a tick of it: what is
    /// changed from now on is later than what was changed before.
    pub(super) fn now(&self) -> Result<i128> {
        let action = "read the time of a file";
        let file = tempfile::tempfile_in(self.containers());
        let file = file.map_err(file_error(action, &self.dir))?;
        std::thread::sleep(std::time::Duration::from_millis(20));
        rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(0o600))
            .map_err(|error| file_error(action, &self.dir)(error.into()))?;
        let found = rustix::fs::statat(&file, "", AtFlags::EMPTY_PATH)
            .map_err(|error| file_error(action, &self.dir)(error.into()))?;
        Ok(i128::from(found.st_ctime) * 1_000_000_000 + i128::from(found.st_ctime_nsec))
    }
}

/// Why a layer was not unpacked.
#[derive(Debug)]
pub(super) enum NotTheLayer {
    /// The bytes are not those of the layer.
    Differs {
        /// Their digest.
        found: Digest,
    },
    /// The engine could not do it.
    Engine(EngineError),
}

impl From<EngineError> for NotTheLayer {
    fn from(error: EngineError) -> Self {
        NotTheLayer::Engine(error)
    }
}
