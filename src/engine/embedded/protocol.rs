//! What the engine asks of its helper process, and what that answers.
//!
//! A request is the length of its JSON text (four bytes, big-endian), the text, and the bytes that
//! it announces. It comes over a socket that is the helper's standard input; the answer goes back
//! over it as JSON. The end of the socket is the end of the engine's interest: a helper that sees
//! it kills its container and cleans up.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::engine::{
    Change, FileStatus, NewLimits, Outputs, Process, Quota, Quotas, SessionSettings, Usage,
    WindowSize,
};

/// Who the helper is towards the files of images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Identity {
    /// Root of this machine.
    Root,
    /// A plain user who is root of a user namespace, with a range of ids for the other users.
    Range {
        /// The user.
        uid: u32,
        /// The user's group.
        gid: u32,
        /// First and number of the subordinate user ids.
        sub_uids: (u32, u32),
        /// First and number of the subordinate group ids.
        sub_gids: (u32, u32),
    },
    /// A plain user who is root of a user namespace that knows no other user.
    Single {
        /// The user.
        uid: u32,
        /// The user's group.
        gid: u32,
    },
}

impl Identity {
    /// Tells whether overlay marks are `user.` attributes.
    pub(crate) fn user_attributes(&self) -> bool {
        *self != Identity::Root
    }

    /// Tells whether there is but one owner of files.
    pub(crate) fn one_owner(&self) -> bool {
        matches!(self, Identity::Single { .. })
    }
}

/// How the layers of an image become one tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Storage {
    /// The kernel's overlay file system.
    Overlay,
    /// A copy of every file.
    Copy,
}

/// A request.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    /// Who does it.
    pub identity: Identity,
    /// What is done.
    pub work: Operation,
}

/// What a helper does.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Operation {
    /// Runs a container. The bytes of its files follow the request.
    Run(Box<Container>),
    /// Keeps a container for commands, and serves requests in it until the end of the socket's input. A
    /// byte of [`READY`] says that the container is there, and a line of JSON which limits could not be set, a
    /// text each; then each file descriptor that comes is the
    /// socket of one [`SessionOperation`].
    Session(Box<Container>),
    /// Makes a network namespace and gives two file descriptors before the answer: of the user namespace
    /// that it belongs to, and its own.
    Network,
    /// Unpacks the tar that follows the request, until the end of the socket's input.
    Unpack {
        /// An empty directory.
        directory: PathBuf,
        /// What the marks of the layer are turned to.
        storage: Storage,
    },
    /// Writes the changes that a container made as a layer, to the standard output.
    Pack {
        /// The upper directory, or the copied tree.
        directory: PathBuf,
        /// The layers below, as in [`Root::lowers`], and where they are.
        lowers: Vec<PathBuf>,
        /// How the tree was made.
        storage: Storage,
        /// When the tree was made, in nanoseconds; only for [`Storage::Copy`].
        since: i128,
        /// For [`Storage::Copy`]: where the changes are kept, as a layer of its own.
        into: Option<PathBuf>,
        /// What becomes of times in the tree.
        times: Times,
    },
    /// Keeps what a container changed that has ended, and removes the rest of its directory.
    Keep {
        /// The directory of layers, which the helper works in.
        snapshots: PathBuf,
        /// The container's own directory, as in [`Root::scratch`].
        scratch: PathBuf,
        /// How its tree was made.
        storage: Storage,
        /// What it becomes.
        layer: CheckpointLayer,
    },
    /// Copies files of a build into a tree.
    Copy(Box<Copy>),
    /// Removes trees.
    Remove {
        /// Files or directories.
        paths: Vec<PathBuf>,
    },
    /// Measures what files or trees take on their disk; writes a JSON list of bytes, `null` for what
    /// is not there, to the standard output.
    Measure {
        /// Files or directories.
        paths: Vec<PathBuf>,
    },
    /// Tries what containers need in an empty directory.
    Probe {
        /// The directory.
        directory: PathBuf,
        /// What is tried.
        storage: Storage,
    },
}

/// What a helper says first when a session's container is there. No answer begins with it.
pub(super) const READY: u8 = 1;

/// What the engine says to a session's helper, before the end of the socket's input, that wants what
/// the container changed: it stays in the container's own directory.
pub(super) const KEEP: u8 = 2;

/// What becomes of the times of files in a tree that is written as a layer, whose times are whole
/// seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Times {
    /// They become whole seconds as well.
    Cut,
    /// Somebody works with the tree.
    Kept,
}

/// What a container changed, as a layer that others stand on.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct CheckpointLayer {
    /// Its name in the directory of layers.
    pub name: String,
    /// The layers below it that become one with it, the highest first.
    pub merged: Vec<String>,
}

/// A request to a session, over a socket of its own. It is written as a [`Request`] is; the answer
/// comes back over the same socket.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum SessionOperation {
    /// Runs a command. A file descriptor for each of its ends follows: the input, unless there is none,
    /// and the outputs; none for a terminal, whose other end comes before the answer. Each byte that
    /// follows is the number of a signal, and the end of the socket kills the command.
    Exec(Box<SessionCommand>),
    /// Unpacks the tar that follows, until the end of the socket's input.
    Put {
        /// An absolute path in the container.
        directory: String,
        /// Whether it is made where it is not there.
        make: bool,
    },
    /// Writes what is at a path as a tar to the file descriptor that follows.
    Get {
        /// An absolute path in the container.
        path: String,
    },
    /// Sends a signal to every process.
    SignalAll {
        /// Its number.
        signal: i32,
    },
    /// Lists the processes.
    Processes,
    /// Looks at a path.
    Status {
        /// An absolute path in the container.
        path: String,
    },
    /// Lists what differs from the image.
    Changes,
    /// Writes what differs from the image as a layer to the file descriptor that follows.
    Layer,
    /// Copies what differs from the image to a layer. Every process is held meanwhile.
    Checkpoint {
        /// An empty directory, relative to that of layers, where the layer is made.
        aside: PathBuf,
        /// What it becomes.
        layer: CheckpointLayer,
    },
    /// Makes a socket that is connected to a port of the container; its file descriptor comes before
    /// the answer.
    Connect {
        /// The port.
        port: u16,
    },
    /// Makes a socket that listens on a port of the container's loopback; its file descriptor comes before
    /// the answer.
    Listen {
        /// The port.
        port: u16,
    },
    /// Measures what the container uses.
    Usage,
    /// Sets other limits.
    Limit {
        /// Which.
        limits: NewLimits,
    },
    /// Gives the namespaces of the network, as [`Operation::Network`] does.
    Network,
    /// Writes `/etc/hosts` anew.
    Hosts {
        /// Names beside the container's own: name and address.
        hosts: Vec<(String, String)>,
    },
}

/// A command of a session.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SessionCommand {
    /// Program and arguments.
    pub command: Vec<String>,
    /// `NAME=value`, beside the variables of the session; the last of a name counts.
    pub env: Vec<String>,
    /// An absolute path; without it that of the session.
    pub working_dir: Option<String>,
    /// As in [`Container::user`]; without it that of the session.
    pub user: Option<String>,
    /// Whether an input follows.
    pub has_input: bool,
    /// What it writes to.
    pub outputs: Outputs,
}

/// The tree of a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Root {
    /// The directory of unpacked layers; the helper works in it.
    pub snapshots: PathBuf,
    /// Names of layers in `snapshots`, the highest first.
    pub lowers: Vec<String>,
    /// The container's own directory, relative to `snapshots`; it exists and is empty.
    pub scratch: PathBuf,
    /// How the layers are put together.
    pub storage: Storage,
    /// The changes are thrown away afterwards.
    pub throw_away: bool,
    /// Which directories `scratch` and `lowers` were when the tree was made, in this order.
    pub made: Vec<DirectoryId>,
}

/// A directory, whatever its name: device and inode.
pub(super) type DirectoryId = (u64, u64);

/// Returns which directory a path leads to now.
pub(super) fn directory_id(path: &Path) -> Option<DirectoryId> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

impl Root {
    /// Tells whether the container's directory and the layers below it are those that it was made
    /// of: what ran in others, or while they were taken away, says nothing.
    pub(super) fn is_there(&self) -> bool {
        let lowers = self.lowers.iter().map(|name| self.snapshots.join(name));
        let paths: Vec<_> =
            std::iter::once(self.snapshots.join(&self.scratch)).chain(lowers).collect();
        paths.len() == self.made.len()
            && paths.iter().zip(&self.made).all(|(path, made)| directory_id(path) == Some(*made))
    }
}

/// A container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Container {
    /// Its files.
    pub root: Root,
    /// Program and arguments; none for a session.
    pub command: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Where it starts; made when it is not there.
    pub working_dir: String,
    /// `user`, `user:group`, by name or number; empty is root.
    pub user: String,
    /// What it can reach.
    pub network: Network,
    /// Names that lead to loopback.
    pub loopback_names: Vec<String>,
    /// Directories of the host that are mounted.
    pub binds: Vec<Bind>,
    /// Files that are written first: path and number of bytes, for root only.
    pub files: Vec<(String, usize)>,
    /// What root may do, as a bit for each capability.
    pub capabilities: u64,
    /// Nothing that runs may gain privileges.
    pub no_new_privileges: bool,
    /// What it reads from and writes to.
    pub ends: Ends,
    /// What it may use.
    pub limits: Limits,
    /// What it may write; the log is counted by the engine.
    pub quotas: Quotas,
    /// What a session has beside that.
    pub settings: SessionSettings,
}

/// What the command of a container reads from and writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Ends {
    /// Both outputs are the helper's standard output; there is no input.
    Log,
    /// The same, and the helper's standard error is file descriptor 4 of the command.
    LogAndControl,
    /// The outputs are those of the helper, each for itself. A file descriptor for the input follows
    /// the request.
    Pipes,
    /// A terminal of this size. Before the command starts, its other end goes to the engine.
    Terminal(WindowSize),
}

impl Ends {
    /// Tells whether somebody holds the other ends, who may send signals: each byte that follows
    /// the request is the number of one.
    pub(super) fn are_held(self) -> bool {
        matches!(self, Ends::Pipes | Ends::Terminal(_))
    }
}

/// What a container can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Network {
    /// Loopback.
    None,
    /// Loopback, and addresses in 10.255.0.0/16 that never answer.
    SilentPeer,
    /// The network of the host.
    Host,
    /// A network that others are in. The file descriptors of [`Operation::Network`] follow the request.
    Shared,
}

/// Something of the host in a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Bind {
    /// A directory or file on the host; none is an empty directory in memory.
    pub source: Option<PathBuf>,
    /// In the container; made when it is not there.
    pub target: String,
    /// Whether it cannot be written.
    pub read_only: bool,
}

/// What a container may use.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Limits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Thousandths of a processor.
    pub milli_cpus: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// The name of its control group.
    pub group: String,
}

/// Files for `COPY` and `ADD`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Copy {
    /// The tree to copy to.
    pub root: Root,
    /// The tree to copy from.
    pub from: CopySource,
    /// Patterns, relative to the source.
    pub sources: Vec<String>,
    /// Where to, absolute; with a trailing `/` a directory.
    pub destination: String,
    /// `user:group` as in `--chown`; empty is root.
    pub owner: String,
    /// Octal `--chmod`.
    pub mode: Option<u32>,
    /// The time of what is made, in seconds.
    pub time: i64,
    /// Archives are unpacked, as `ADD` does.
    pub unpack: bool,
}

/// Where the files of a `COPY` are.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum CopySource {
    /// A directory of the host.
    Directory(PathBuf),
    /// Names of layers in [`Root::snapshots`], the highest first.
    Layers(Vec<String>),
}

/// A step towards a container that the kernel may refuse to this process, whatever it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Step {
    /// Making a user namespace.
    UserNamespace,
    /// Mapping users and groups into it.
    MapIds,
    /// Dropping the user's groups in it.
    Groups,
    /// Making the other namespaces.
    Namespaces,
    /// Mounting, and changing the root directory.
    Mount,
    /// Making the network.
    Network,
    /// Dropping what the command does not need.
    Privileges,
}

/// How the first process of a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Status {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// The answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Response {
    /// A container ended.
    Ended {
        /// Its exit code, 128 and the signal where it was killed.
        code: i64,
        /// The kernel killed a process of it at the memory limit.
        out_of_memory: bool,
        /// It did not end by itself: the helper killed it because it was asked to, or somebody on the
        /// host did.
        killed: bool,
        /// It was killed because it wrote too much.
        over: Option<Quota>,
        /// It was killed because a command of it could not be.
        unkillable: bool,
        /// Limits that could not be set, in words.
        warnings: Vec<String>,
    },
    /// The files of a container were taken away while it ran.
    Vanished,
    /// It is done.
    Done,
    /// It could not be done.
    Failed {
        /// The step towards a container that it was, where it was one.
        step: Option<Step>,
        /// What was tried.
        action: String,
        /// The system's error number.
        errno: Option<i32>,
        /// Why, in words.
        reason: String,
    },
}

/// The answer to a [`SessionOperation`]. Without one the session has ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum SessionResponse {
    /// A command of a session runs; another answer follows at its end.
    Started {
        /// Its process, as the container sees it.
        process: i32,
    },
    /// A command of a session ended.
    Exited {
        /// Its exit code, or the signal that ended it.
        status: Status,
        /// The kernel killed a process at the memory limit meanwhile.
        out_of_memory: bool,
        /// The processor time of what was waited for, in microseconds.
        cpu_micros: u64,
    },
    /// A command of a session could not be started.
    NotStarted {
        /// The system's error number.
        errno: Option<i32>,
        /// Why, in words.
        reason: String,
        /// Whether the program was not found.
        program_missing: bool,
    },
    /// The processes.
    Processes(Vec<Process>),
    /// What is at a path.
    Status(FileStatus),
    /// What differs from the image.
    Changes(Vec<Change>),
    /// What the container uses.
    Usage(Usage),
    /// The path of a session's request is not there.
    NoSuchPath,
    /// It is done.
    Done,
    /// It could not be done.
    Failed {
        /// What was tried.
        action: String,
        /// The system's error number.
        errno: Option<i32>,
        /// Why, in words.
        reason: String,
    },
}

/// Returns a request as it travels: the length of its text, and the text.
pub(super) fn framed(request: &impl Serialize) -> Vec<u8> {
    let text = serde_json::to_vec(request).expect("a request is valid JSON");
    let mut framed = u32::try_from(text.len()).expect("a request is small").to_be_bytes().to_vec();
    framed.extend(text);
    framed
}
