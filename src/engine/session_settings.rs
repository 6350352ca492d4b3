//! What a session can have beside its image, its limits and its network, and what is seen of it.

use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::tmpfs::{Tmpfs, mount_target};

/// What differs from a plain session. The default differs in nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionSettings {
    /// The host name; without it `sandbox`.
    pub hostname: Option<String>,
    /// Where commands start, made when it is not there; without it where the image says.
    pub working_dir: Option<String>,
    /// Files and directories of the host.
    pub binds: Vec<HostBind>,
    /// Directories of the host that begin with what the image has at their place.
    pub volumes: Vec<Volume>,
    /// Directories in memory.
    pub tmpfs: Vec<Tmpfs>,
    /// Directories of the container that are made where they are not there.
    pub directories: Vec<String>,
    /// Groups that users have beside their own, by name or number.
    pub groups: Vec<String>,
    /// Nothing but what is mounted can be written.
    pub read_only: bool,
    /// Names beside the container's own: name and address.
    pub hosts: Vec<(String, String)>,
    /// Capabilities that root does not have, as a bit for each; see `capabilities(7)`.
    pub dropped_capabilities: u64,
    /// Limits of each process. One above the hard limit of this process is that.
    pub process_limits: Vec<ProcessLimit>,
}

/// Something of the host in a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostBind {
    /// A file or directory that exists, without links in its path.
    pub source: PathBuf,
    /// An absolute path in the container; made when it is not there.
    pub target: String,
    /// Whether it cannot be written.
    pub read_only: bool,
}

impl FromStr for HostBind {
    type Err = String;

    /// Reads `SRC:DST`, `SRC:DST:ro` or `SRC:DST:rw`, as `docker run -v` takes it.
    fn from_str(text: &str) -> Result<HostBind, String> {
        let (rest, read_only) = match text.strip_suffix(":ro") {
            Some(rest) => (rest, true),
            None => (text.strip_suffix(":rw").unwrap_or(text), false),
        };
        let Some((source, target)) = rest.split_once(':') else {
            return Err(format!("`{text}` is no bind: write SRC:DST or SRC:DST:ro"));
        };
        let target = mount_target(target)?;
        let source =
            std::fs::canonicalize(source).map_err(|error| format!("`{source}`: {error}"))?;
        Ok(HostBind { source, target, read_only })
    }
}

/// A directory of the host that a session keeps files in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// A directory that exists, without links in its path.
    pub source: PathBuf,
    /// An absolute path in the container; made when it is not there.
    pub target: String,
    /// Whether it cannot be written.
    pub read_only: bool,
    /// Whether an empty one is filled with what the image has there.
    pub copies: bool,
}

/// A limit of each process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessLimit {
    /// What is limited.
    pub resource: ProcessResource,
    /// The limit; `None` is no limit.
    pub soft: Option<u64>,
    /// Up to where a process may raise it; `None` is no limit.
    pub hard: Option<u64>,
}

/// What a process can be limited in; see `getrlimit(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "they are the names of the kernel")]
pub enum ProcessResource {
    Core,
    Cpu,
    Data,
    Fsize,
    Locks,
    Memlock,
    Msgqueue,
    Nice,
    Nofile,
    Nproc,
    Rss,
    Rtprio,
    Rttime,
    Sigpending,
    Stack,
}

/// A process of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number, as processes of the container see it.
    pub pid: i32,
    /// That of its parent; 0 where that is not of the container.
    pub parent: i32,
    /// The user id.
    pub uid: u32,
    /// When it was started, in seconds since 1970.
    pub started: u64,
    /// Its processor time, in seconds.
    pub cpu_seconds: u64,
    /// The terminal that it has, such as `pts/0`; empty for none.
    pub terminal: String,
    /// Program and arguments; the name in brackets where it has none.
    pub command: String,
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStatus {
    /// Kind and permissions, as in `stat(2)`.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// When it was changed, in nanoseconds since 1970.
    pub modified: i128,
    /// What a link leads to; empty for other things.
    pub link: String,
}

/// A path that differs from the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The path, absolute.
    pub path: String,
    /// How it differs.
    pub kind: ChangeKind,
}

/// How a path differs from the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// Its content or its attributes; of a directory also what is in it.
    Modified,
    /// The image does not have it.
    Added,
    /// The image has it.
    Deleted,
}
