//! Where sessions are found that live beside the commands that use them.
//!
//! Each has a directory in `sessions` of the state directory: a lock that its host holds as long as it
//! lives, what is known of it, and the socket that the host answers on. What its host left that died is
//! removed by whoever looks next.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::engine::{EngineKind, SandboxNetwork, SessionEnd};
use crate::file_lock::FileLock;

use super::access_key::AccessKey;
use super::egress::AllowList;
use super::order::{InstanceName, SessionOrder};
use super::ports::Publish;

/// Below the state directory.
const DIRECTORY: &str = "sessions";

/// Files of a session, in its directory.
const RECORD: &str = "session.json";
const ORDER: &str = "order.json";
const LOCK: &str = "lock";
const SOCKET: &str = "sock";
const KEY: &str = "key";

/// How long what is known of a session is kept that ended by itself.
const REMEMBERED: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);

/// What is known of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Twelve hexadecimal digits.
    pub id: String,
    /// The name that somebody gave it; no two that live have the same.
    pub name: Option<String>,
    /// The engine that keeps it.
    pub engine: EngineKind,
    /// The image that it was started from.
    pub image: String,
    /// The instance that it was started for.
    pub instance: Option<InstanceName>,
    /// What it can reach.
    pub network: SandboxNetwork,
    /// The hosts that it could reach first, where it has a way out that is none of its network.
    #[serde(default)]
    pub allowed: Option<AllowList>,
    /// The ports that are reached from this machine, and where.
    #[serde(default)]
    pub ports: Vec<Publish>,
    /// When it was started.
    pub created: jiff::Timestamp,
    /// When it ends, whatever it does.
    pub expires: Option<jiff::Timestamp>,
    /// How many seconds it lives without a client.
    pub idle_seconds: Option<u64>,
    /// The process that keeps it.
    pub host: u32,
    /// Where its image says that commands start, which is the repository of an instance.
    pub repository: Option<String>,
    /// The commit that its repository was at when it began.
    pub base: Option<String>,
    /// How it ended.
    pub ended: Option<Ended>,
}

/// How a session ended that somebody may look for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// When.
    pub at: jiff::Timestamp,
    /// Why.
    pub why: Why,
}

/// Why a session ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// It came to its end by itself.
    Session(SessionEnd),
    /// Its time was over.
    Expired,
    /// Nobody used it for too long.
    Idle,
    /// The process that kept it was told to end.
    HostEnded,
    /// The process that kept it failed.
    Failed(String),
}

impl Why {
    /// Says it in words, such as `its time was over`.
    pub fn reason(&self) -> String {
        match self {
            Why::Session(end) => end.reason().into_owned(),
            Why::Expired => "its time was over".to_owned(),
            Why::Idle => "nobody used it for too long".to_owned(),
            Why::HostEnded => "the process that kept it was told to end".to_owned(),
            Why::Failed(reason) => format!("the process that kept it failed: {reason}"),
        }
    }
}

/// Why a session cannot be found or made.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// No session is meant.
    #[error("there is no session `{0}`")]
    None(String),
    /// No checkpoint is meant.
    #[error("there is no checkpoint `{0}`")]
    NoCheckpoint(String),
    /// Several are meant.
    #[error("`{text}` begins several ids: {}", ids.join(", "))]
    Several {
        /// What was asked for.
        text: String,
        /// What it can mean.
        ids: Vec<String>,
    },
    /// It has ended.
    #[error("session `{id}` has ended: {}", why.reason())]
    Ended {
        /// Its id.
        id: String,
        /// Why.
        why: Why,
    },
    /// Another one has the name.
    #[error("session `{id}` is called `{name}` already")]
    NameTaken {
        /// The name.
        name: String,
        /// Whose it is.
        id: String,
    },
    /// A name that no session can have.
    #[error("`{0}` is no name: it has letters, digits, `_`, `.` and `-`, and begins with a letter")]
    BadName(String),
    /// The directory cannot be used.
    #[error("cannot use `{path}`")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

type Result<T> = std::result::Result<T, DirectoryError>;

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> DirectoryError {
    let path = path.to_owned();
    move |source| DirectoryError::Io { path, source }
}

/// The sessions of a state directory.
#[derive(Debug, Clone)]
pub struct Directory(PathBuf);

/// A session that this process keeps.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    _lock: FileLock,
}

impl Directory {
    /// The sessions of a state directory, where nothing needs to be yet.
    pub fn of(state_dir: &Path) -> Directory {
        Directory(state_dir.join(DIRECTORY))
    }

    /// Takes a new id, which the record gets, and the name that it has.
    ///
    /// # Errors
    /// [`DirectoryError::NameTaken`] and [`DirectoryError::BadName`].
    pub fn claim(&self, record: &mut SessionRecord) -> Result<Claim> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&self.0).map_err(io_error(&self.0))?;
        let _names = self.lock()?;
        if let Some(name) = record.name.as_deref() {
            let mut bytes = name.bytes();
            let begins = bytes.next().is_some_and(|first| first.is_ascii_alphabetic());
            let rest = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
            if !begins || !bytes.all(rest) || name.len() > 100 {
                return Err(DirectoryError::BadName(name.to_owned()));
            }
            let taken = self.read()?.into_iter().find(|one| {
                one.ended.is_none() && (one.name.as_deref() == Some(name) || one.id == name)
            });
            if let Some(SessionRecord { id, .. }) = taken {
                return Err(DirectoryError::NameTaken { name: name.to_owned(), id });
            }
        }
        record.id = format!("{:012x}", rand::random::<u64>() >> 16);
        let path = self.0.join(&record.id);
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(io_error(&path))?;
        let lock = path.join(LOCK);
        let taken = FileLock::try_take(&lock).map_err(io_error(&lock))?;
        let lock = taken.ok_or_else(|| DirectoryError::None(record.id.clone()))?;
        let claim = Claim { path, _lock: lock };
        // The name is taken with that.
        claim.write(record)?;
        Ok(claim)
    }

    /// Lists the sessions, those that ended by themselves as well, the oldest first. What was left by
    /// a host that died is removed.
    pub fn list(&self) -> Result<Vec<SessionRecord>> {
        if !self.0.is_dir() {
            return Ok(Vec::new());
        }
        let _names = self.lock()?;
        self.read()
    }

    /// Holds off who claims and who lists.
    fn lock(&self) -> Result<FileLock> {
        let path = self.0.join("names");
        FileLock::take(&path).map_err(io_error(&path))
    }

    /// Does as [`Directory::list`], under the lock.
    fn read(&self) -> Result<Vec<SessionRecord>> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io_error(&self.0)(error)),
        };
        let mut found = Vec::new();
        for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()) {
            let lives = !is_free(&path);
            match read_record(&path) {
                Some(record) if lives => found.push(record),
                Some(SessionRecord { ended: Some(ended), .. })
                    if jiff::Timestamp::now().duration_since(ended.at) > REMEMBERED =>
                {
                    remove(&path)?;
                }
                Some(record @ SessionRecord { ended: Some(_), .. }) => found.push(record),
                _ => remove(&path)?,
            }
        }
        found.sort_by(|a: &SessionRecord, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        Ok(found)
    }

    /// Finds the session that a name, an id or the beginning of an id means. One that lives comes before
    /// one that has ended.
    pub fn find(&self, text: &str) -> Result<SessionRecord> {
        // Of many sessions only this one is read.
        if let Ok(record @ SessionRecord { ended: None, .. }) = self.with_id(text) {
            return Ok(record);
        }
        let all = self.list()?;
        let named = |one: &&SessionRecord| one.name.as_deref() == Some(text) || one.id == text;
        let found = all.iter().filter(named).max_by_key(|one| one.ended.is_none());
        if let Some(found) = found {
            return Ok(found.clone());
        }
        let begins = |one: &&SessionRecord| !text.is_empty() && one.id.starts_with(text);
        let found: Vec<&SessionRecord> = all.iter().filter(begins).collect();
        match found.as_slice() {
            [one] => Ok((*one).clone()),
            [] => Err(DirectoryError::None(text.to_owned())),
            several => Err(DirectoryError::Several {
                text: text.to_owned(),
                ids: several.iter().map(|one| one.id.clone()).collect(),
            }),
        }
    }

    /// Reads how a session was started.
    pub fn order(&self, record: &SessionRecord) -> Result<SessionOrder> {
        let path = self.0.join(&record.id).join(ORDER);
        let text = fs::read(&path).map_err(io_error(&path))?;
        serde_json::from_slice(&text).map_err(|error| io_error(&path)(error.into()))
    }

    /// Finds the session with this whole id.
    ///
    /// # Errors
    /// [`DirectoryError::None`] where there is none, or its host died.
    pub fn with_id(&self, id: &str) -> Result<SessionRecord> {
        let none = || DirectoryError::None(id.to_owned());
        if id.len() != 12 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(none());
        }
        let path = self.0.join(id);
        let record = read_record(&path);
        record.filter(|record| record.ended.is_some() || !is_free(&path)).ok_or_else(none)
    }

    /// Reads the key of a session; `None` where it has none.
    pub fn key(&self, record: &SessionRecord) -> Result<Option<AccessKey>> {
        let path = self.0.join(&record.id).join(KEY);
        AccessKey::read(&path).map_err(io_error(&path))
    }

    /// Returns the key of a session, which is made where it has none yet.
    pub fn key_made(&self, record: &SessionRecord) -> Result<AccessKey> {
        if let Some(key) = self.key(record)? {
            return Ok(key);
        }
        let path = self.0.join(&record.id).join(KEY);
        match AccessKey::new().write_new(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(io_error(&path)(error))
            }
            // Another one may have made it meanwhile.
            _ => self.key(record)?.ok_or_else(|| DirectoryError::None(record.id.clone())),
        }
    }

    /// Connects to the host of a session.
    ///
    /// # Errors
    /// [`DirectoryError::Ended`] where it has ended.
    pub async fn connect(&self, record: &SessionRecord) -> Result<tokio::net::UnixStream> {
        if let Some(Ended { why, .. }) = &record.ended {
            return Err(DirectoryError::Ended { id: record.id.clone(), why: why.clone() });
        }
        let path = self.0.join(&record.id);
        let (_dir, socket) = short(&path)?;
        let connected = tokio::net::UnixStream::connect(socket).await;
        connected.map_err(io_error(&path.join(SOCKET)))
    }

    /// Tells whether the host of a session is there.
    pub fn lives(&self, record: &SessionRecord) -> bool {
        !is_free(&self.0.join(&record.id))
    }

    /// Forgets a session that has ended.
    pub fn forget(&self, record: &SessionRecord) -> Result<()> {
        remove(&self.0.join(&record.id))
    }
}

fn read_record(path: &Path) -> Option<SessionRecord> {
    serde_json::from_slice(&fs::read(path.join(RECORD)).ok()?).ok()
}

/// Tells whether nobody holds the lock of a session.
fn is_free(path: &Path) -> bool {
    let file =
        fs::OpenOptions::new().write(true).custom_flags(libc::O_CLOEXEC).open(path.join(LOCK));
    match file {
        Ok(file) => file.try_lock().is_ok(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(path)(error)),
        _ => Ok(()),
    }
}

/// Returns an address of the socket in a directory, however long its path is: that of a socket has at
/// most 107 bytes. It counts as long as the directory is open.
fn short(path: &Path) -> Result<(fs::File, PathBuf)> {
    use std::os::fd::AsRawFd as _;
    let dir = fs::File::open(path).map_err(io_error(path))?;
    let socket = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()));
    Ok((dir, socket))
}

impl Claim {
    /// Where the files of the session are.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes what is known of the session, as a whole.
    pub fn write(&self, record: &SessionRecord) -> Result<()> {
        let path = self.path.join(RECORD);
        let text = serde_json::to_vec_pretty(record).expect("a record is valid JSON");
        crate::atomic::write(&path, &text, false).map_err(io_error(&path))
    }

    /// Writes how the session was started. Environment variables are in it: nobody else may read it.
    pub fn write_order(&self, order: &SessionOrder) -> Result<()> {
        let path = self.path.join(ORDER);
        let text = serde_json::to_vec(order).expect("an order is valid JSON");
        crate::atomic::write(&path, &text, false).map_err(io_error(&path))
    }

    /// Listens on the socket of the session.
    pub fn listen(&self) -> Result<tokio::net::UnixListener> {
        let (_dir, socket) = short(&self.path)?;
        tokio::net::UnixListener::bind(socket).map_err(io_error(&self.path.join(SOCKET)))
    }

    /// Takes the session away with all of its files.
    pub fn remove(self) -> Result<()> {
        remove(&self.path)
    }
}
