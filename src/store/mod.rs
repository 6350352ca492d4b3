//! State on disk: what was built, and what it was made of.
//!
//! Layout, version [`LAYOUT`], below the state directory (the XDG cache by default):
//! `mirrors/`, `blobs/<sha256>`, `locks/`, `leases/`, `owners/`, `tmp/<owner>-…/`, `pins.json`,
//! `state.db`, `version`, `CACHEDIR.TAG`. Everything is written aside and renamed, or is one transaction, so that a kill at
//! any moment leaves the old state or the new one.
//!
//! What `state.db` says of images can be read again from their labels, but for when they were used
//! and by whom; recorded runs of tests, with their logs in `blobs/`, are kept nowhere else.

mod builds;
mod durations;
mod images;
mod lease;
mod lock;
mod pins;
mod records;
mod results;
pub mod space;
mod sql;
mod usage;

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::atomic;
use crate::disk;
use crate::file_system;
use crate::key::Digest;
use crate::owner::{self, Held, Liveness, Owners};

pub use builds::BuildRecord;
pub use images::{ImageRecord, VerifiedImage};
pub use lease::{GcLock, Lease};
pub use lock::KeyLock;
pub use pins::{Pinned, Pins};
pub(crate) use records::note_mirror_use;
pub use records::{RecordLimits, RecordsGone};
pub use results::RunRecord;
pub use usage::{Indexed, Use};

/// The version of the layout; a directory of a newer one is refused.
pub const LAYOUT: u32 = 1;

/// A failure of the state on disk.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory was written by a newer imgforge.
    #[error("the state directory `{dir}` has layout {found}, this imgforge knows up to {LAYOUT}")]
    Newer {
        /// The directory.
        dir: PathBuf,
        /// The layout found.
        found: String,
    },
    /// A file could not be read or written.
    #[error("cannot use `{path}` in the state directory")]
    File {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: std::io::Error,
    },
    /// The database refused.
    #[error("cannot use the state database `{path}`")]
    Database {
        /// The database.
        path: PathBuf,
        /// The error of the database.
        #[source]
        source: rusqlite::Error,
    },
    /// A blob is gone or is not what its name says.
    #[error("blob `{0}` is missing or damaged")]
    Blob(Digest),
    /// The directory is not on a disk of this host.
    #[error("the state directory `{dir}` is on a network file system ({file_system})")]
    OnNetwork {
        /// The directory.
        dir: PathBuf,
        /// Such as `nfs`.
        file_system: String,
    },
    /// A disk is too full to go on.
    #[error("{needed} are needed on the disk of `{path}` and {free} are free")]
    NoSpace {
        /// A directory on the disk.
        path: PathBuf,
        /// Needed, for people.
        needed: String,
        /// Free, for people.
        free: String,
    },
}

impl StoreError {
    /// Tells whether the disk is full.
    pub fn is_no_space(&self) -> bool {
        match self {
            StoreError::NoSpace { .. } => true,
            StoreError::File { source, .. } => disk::is_full(source),
            StoreError::Database { source, .. } => {
                source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
            }
            _ => false,
        }
    }

    /// Returns what would help.
    pub fn hint(&self) -> &'static str {
        match self {
            StoreError::OnNetwork { .. } => NETWORK_HINT,
            _ => "name another directory with --state-dir",
        }
    }
}

/// What to do about a state directory on a network.
pub const NETWORK_HINT: &str = "put --state-dir on a local disk ($SLURM_TMPDIR, /tmp) and bring \
                                images with `prewarm --from`; IMGFORGE_STATE_ON_NETWORK=1 uses it \
                                all the same, at your own risk";

/// Whether a state directory may be on a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnNetwork {
    /// The directory must be on a local disk.
    Refused,
    /// It is used, slowly: without what hosts cannot share.
    Allowed,
}

/// The open state directory.
pub struct Store {
    dir: PathBuf,
    database: Mutex<rusqlite::Connection>,
    network: Option<String>,
    owners: Owners,
    _held: Held,
}

/// Returns the state directory to use when none is named: `imgforge` in the XDG cache.
pub fn default_dir(variable: impl Fn(&str) -> Option<String>) -> PathBuf {
    let absolute = |path: String| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
    variable("XDG_CACHE_HOME")
        .and_then(absolute)
        .or_else(|| variable("HOME").and_then(absolute).map(|home| home.join(".cache")))
        .unwrap_or_else(std::env::temp_dir)
        .join("imgforge")
}

fn file_error(path: &Path) -> impl FnOnce(std::io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::File { path, source }
}

impl Store {
    /// Opens the state directory on a disk of this host, creating it when it is not there, and
    /// removes temporary files of processes that ended.
    pub fn open(dir: &Path) -> Result<Store, StoreError> {
        Store::open_on(dir, OnNetwork::Refused)
    }

    /// The same wherever it is.
    pub fn open_on(dir: &Path, on_network: OnNetwork) -> Result<Store, StoreError> {
        let network = file_system::network(dir).map_err(file_error(dir))?;
        if let Some(file_system) = &network
            && on_network == OnNetwork::Refused
        {
            let (dir, file_system) = (dir.to_owned(), file_system.clone());
            return Err(StoreError::OnNetwork { dir, file_system });
        }
        for sub in ["mirrors", "blobs", "locks", "tmp"] {
            let path = dir.join(sub);
            std::fs::create_dir_all(&path).map_err(file_error(&path))?;
        }
        let version = dir.join("version");
        match std::fs::read_to_string(&version) {
            Ok(text) if text.trim() == LAYOUT.to_string() => {}
            Ok(text) => {
                let found = text.trim().to_owned();
                return Err(StoreError::Newer { dir: dir.to_owned(), found });
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                write_whole(&version, format!("{LAYOUT}\n").as_bytes())?;
                let tag = "Signature: 8a477f597d28d172789f06886806bc55\n\
                           # This directory holds caches of imgforge; see https://bford.info/cachedir/\n";
                write_whole(&dir.join("CACHEDIR.TAG"), tag.as_bytes())?;
            }
            Err(error) => return Err(file_error(&version)(error)),
        }
        let path = dir.join("state.db");
        let database = images::open(&path, network.is_some())
            .map_err(|source| StoreError::Database { path: path.clone(), source })?;
        let owners = Owners::of(dir);
        let held = owners.hold().map_err(file_error(dir))?;
        let database = Mutex::new(database);
        let store = Store { dir: dir.to_owned(), database, network, owners, _held: held };
        store.remove_leftovers()?;
        store.owners.sweep();
        Ok(store)
    }

    /// Returns the state directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the file system of the state directory where that is one over a network.
    pub fn on_network(&self) -> Option<&str> {
        self.network.as_deref()
    }

    /// Returns who can have something that exists only for a while.
    pub fn owners(&self) -> &Owners {
        &self.owners
    }

    /// Keeps `bytes` under their sha256.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        let path = self.dir.join("blobs").join(digest.to_string());
        if !path.exists() {
            write_whole(&path, bytes)?;
        }
        Ok(digest)
    }

    /// Returns a blob whose bytes match its name.
    pub fn blob(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let path = self.dir.join("blobs").join(digest.to_string());
        let bytes = std::fs::read(&path).map_err(|_| StoreError::Blob(*digest))?;
        if Digest::of(&bytes) == *digest { Ok(bytes) } else { Err(StoreError::Blob(*digest)) }
    }

    /// Makes a directory for temporary files; it goes away with its value, and after a kill at the
    /// next start.
    pub fn scratch_dir(&self) -> Result<tempfile::TempDir, StoreError> {
        let tmp = self.dir.join("tmp");
        let prefix = format!("{}-", owner::name());
        tempfile::Builder::new().prefix(&prefix).tempdir_in(&tmp).map_err(file_error(&tmp))
    }

    /// Removes temporary files whose owner is dead; returns their paths.
    pub fn remove_leftovers(&self) -> Result<Vec<PathBuf>, StoreError> {
        let tmp = self.dir.join("tmp");
        let mut removed = Vec::new();
        for entry in std::fs::read_dir(&tmp).map_err(file_error(&tmp))? {
            let entry = entry.map_err(file_error(&tmp))?;
            let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
            let made = entry.metadata().and_then(|found| found.modified()).ok();
            if self.owners.judge(&name, made) != Liveness::Dead {
                continue;
            }
            let gone = if path.is_dir() {
                std::fs::remove_dir_all(&path)
            } else {
                std::fs::remove_file(&path)
            };
            match gone {
                Ok(()) => removed.push(path),
                // Another process cleans at the same time.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(file_error(&path)(error)),
            }
        }
        Ok(removed)
    }
}

/// Writes a file whole, and flushes it to the disk.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    atomic::write(path, bytes, true).map_err(file_error(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_layout_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("version"), "2\n").unwrap();
        let Err(error) = Store::open(dir.path()) else { panic!("opened a newer layout") };
        assert!(error.to_string().contains("layout 2"), "{error}");
        assert!(!dir.path().join("state.db").exists());
    }

    #[test]
    fn temporary_files_of_dead_processes_are_removed_and_of_live_ones_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let kept = store.scratch_dir().unwrap();
        let this = owner::name();
        let (processes, pid) = this.rsplit_once('.').unwrap();
        let (pid, _) = pid.split_once('-').unwrap();
        let left = dir.path().join(format!("tmp/{processes}.{pid}-1-x"));
        let elsewhere = dir.path().join("tmp/0123456789ab.f0000001.1-1-x");
        for path in [&left, &elsewhere] {
            std::fs::create_dir(path).unwrap();
        }
        let again = Store::open(dir.path()).unwrap();
        assert!(kept.path().exists());
        assert!(!left.exists());
        assert!(elsewhere.exists(), "nobody knows whether it lives");
        drop(again);
    }

    #[test]
    fn a_damaged_blob_is_not_returned() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let digest = store.put_blob(b"text").unwrap();
        assert_eq!(store.blob(&digest).unwrap(), b"text");
        std::fs::write(dir.path().join("blobs").join(digest.to_string()), b"texx").unwrap();
        assert!(matches!(store.blob(&digest), Err(StoreError::Blob(_))));
    }
}
