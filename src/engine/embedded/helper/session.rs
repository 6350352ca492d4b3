//! Requests to a container that lives: commands in it, files into it and out of it.
//!
//! Each request has a process of its own, the attendant: a child of the helper that enters the
//! container as far as its request needs, answers, and ends. The helper itself only forks and waits, so
//! that no request holds another one up.

use std::collections::HashMap;
use std::fs;
use std::io::{self, BufReader, BufWriter, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};
use rustix::thread::ThreadNameSpaceType;

use super::super::passing;
use super::super::protocol::{
    CheckpointLayer, Container, Identity, Network, SessionOperation, SessionResponse, Storage,
    Times,
};
use super::checkpoint::Keeping;
use super::failure::{Context as _, Failure};
use super::init::{Forked, close_ends, fork};
use super::namespaces::Namespaces;
use super::pack::Changes;
use super::unpack::{Marks, extract};
use super::{Requester, cgroup, paths, processes, root, shared_network, supervisor, usage};
use crate::engine::Usage;

/// How often it is looked for what a killed attendant left: it dies with it, or a moment later.
const LOOKS: u32 = 100;

/// The time between two looks.
const TICK: Duration = Duration::from_millis(5);

/// Returns a child of this process that has ended, and leaves it to be waited for.
fn ended_child() -> Option<Pid> {
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `waitid` writes to the structure alone, of which every bit pattern is a value.
    unsafe {
        let mut child: libc::siginfo_t = std::mem::zeroed();
        let waited = libc::waitid(libc::P_ALL, 0, &mut child, options);
        Pid::from_raw(if waited == 0 { child.si_pid() } else { 0 })
    }
}

/// The commands and copies under way in a session.
pub(super) struct Attendants<'a> {
    container: &'a Container,
    identity: &'a Identity,
    group: &'a cgroup::Group,
    /// The container's first process.
    first: Pid,
    children: Vec<(Pid, OwnedFd)>,
    /// How often it is looked for what a killed attendant left.
    looks: u32,
    /// What the container changed stays when it ends.
    pub keeps: bool,
    /// A command could not be killed: only the end of the container ends it.
    pub unkillable: bool,
}

impl<'a> Attendants<'a> {
    /// Serves the container whose first process this is.
    pub(super) fn new(
        container: &'a Container,
        identity: &'a Identity,
        group: &'a cgroup::Group,
        first: Pid,
    ) -> Attendants<'a> {
        Attendants {
            container,
            identity,
            group,
            first,
            children: Vec::new(),
            looks: 0,
            keeps: false,
            unkillable: false,
        }
    }

    /// Starts the attendant of a request. A machine that has no process for it is told to whoever asks,
    /// and the session lives on.
    pub(super) fn serve(&mut self, socket: OwnedFd, session: &Requester) {
        let mut requester = Requester(socket.into());
        let helper = rustix::process::getpid();
        match fork() {
            Ok(Forked::Child) => {
                let answer = self.attend(&mut requester, session, helper);
                requester.answer(&answer.unwrap_or_else(SessionResponse::from));
                // SAFETY: it ends the process without running what other code registered for its end,
                // which belongs to the helper that this process was forked from.
                unsafe { libc::_exit(0) }
            }
            Ok(Forked::Parent(pid)) => {
                match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
                    Ok(pidfd) => self.children.push((pid, pidfd)),
                    // It cannot be waited for without one.
                    Err(_) => {
                        let _ = rustix::process::kill_process(pid, Signal::KILL);
                        let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
                    }
                }
            }
            Err(error) => {
                let failure = Failure::of("serve a session".to_owned(), &error);
                requester.answer(&SessionResponse::from(failure));
            }
        }
    }

    /// Returns what becomes readable when an attendant ends.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = &OwnedFd> {
        self.children.iter().map(|(_, pidfd)| pidfd)
    }

    /// Waits for the attendants that have ended, and for what those left that were killed: it is the
    /// helper's now, and as long as nobody waits for it the container cannot end.
    pub(super) fn reap(&mut self) {
        let mut was_killed = false;
        self.children.retain(|(pid, _)| {
            match rustix::process::waitpid(Some(*pid), WaitOptions::NOHANG) {
                Ok(None) => true,
                Ok(Some((_, status))) => {
                    was_killed |= status.signaled();
                    self.unkillable |= status.exit_status() == Some(supervisor::UNKILLABLE);
                    false
                }
                Err(_) => false,
            }
        });
        self.looks = if was_killed { LOOKS } else { self.looks.saturating_sub(1) };
        while let Some(orphan) = ended_child() {
            let is_known = self.children.iter().any(|(pid, _)| *pid == orphan);
            if is_known || orphan == self.first {
                break;
            }
            let _ = rustix::process::waitpid(Some(orphan), WaitOptions::NOHANG);
        }
    }

    /// Returns how soon [`Attendants::reap`] is wanted again, whatever happens. A container that `ends`
    /// may leave more.
    pub(super) fn tick(&self, ends: bool) -> Option<Duration> {
        (ends || self.looks > 0).then_some(TICK)
    }

    /// Is an attendant.
    fn attend(
        &self,
        requester: &mut Requester,
        session: &Requester,
        helper: Pid,
    ) -> Result<SessionResponse, Failure> {
        let action = "serve a session";
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).because(action)?;
        if rustix::process::getppid() != Some(helper) {
            return Err(Failure::new(action, "its helper has ended"));
        }
        // What the engine waits for is the end of the helper's own.
        close_ends().because(action)?;
        let null = fs::File::open("/dev/null").because(action)?;
        let number = super::number(session.0.as_fd());
        // SAFETY: the descriptor stays open, and leads to `/dev/null` from now on.
        if unsafe { libc::dup3(super::number(&null), number, libc::O_CLOEXEC) } < 0 {
            return Err(io::Error::last_os_error()).because(action);
        }
        match requester.task::<SessionOperation>()? {
            SessionOperation::Exec(command) => {
                let place = supervisor::Place {
                    container: self.container,
                    identity: self.identity,
                    group: self.group,
                    first: self.first,
                };
                supervisor::exec(&command, &place, requester)
            }
            SessionOperation::Put { directory, make } => {
                self.enter_files()?;
                self.put(&directory, make, requester)
            }
            SessionOperation::Get { path } => {
                let output = requester.descriptor().because("take the output")?;
                self.enter_files()?;
                get(Path::new(&path), output)
            }
            SessionOperation::SignalAll { signal } => processes::signal_all(self.first, signal),
            SessionOperation::Processes => {
                let namespace = processes::namespace(self.first)?;
                self.enter_files()?;
                processes::list(&namespace)
            }
            SessionOperation::Status { path } => {
                self.enter_files()?;
                paths::status(&path)
            }
            SessionOperation::Changes => paths::changes(&self.container.root, self.identity),
            SessionOperation::Layer => {
                let output = requester.descriptor().because("take the output")?;
                self.layer(output)
            }
            SessionOperation::Checkpoint { aside, layer } => self.checkpoint(&aside, &layer),
            SessionOperation::Connect { port } => self.connect(port, requester),
            SessionOperation::Listen { port } => self.listen(port, requester),
            SessionOperation::Usage => self.usage(),
            SessionOperation::Limit { limits } => {
                self.group.set_limits(&limits)?;
                Ok(SessionResponse::Done)
            }
            SessionOperation::Network => {
                Namespaces::of(self.first)?.enter(ThreadNameSpaceType::NETWORK)?;
                shared_network::give(requester)?;
                Ok(SessionResponse::Done)
            }
            SessionOperation::Hosts { hosts } => {
                let text = root::hosts(self.container, &hosts);
                self.enter_files()?;
                root::write_hosts(text.as_bytes())?;
                Ok(SessionResponse::Done)
            }
        }
    }

    /// Measures what the container uses.
    fn usage(&self) -> Result<SessionResponse, Failure> {
        let written = usage::written(&self.container.root);
        let used = match usage::of_group(self.group) {
            Some(used) if used.cpu_nanos > 0 => used,
            // Its processor time may be told by a hierarchy that it is not in.
            of_group => {
                let namespace = processes::namespace(self.first)?;
                self.enter_files()?;
                let summed = usage::of_processes(&namespace)?;
                let (cpu_nanos, system_nanos) = (summed.cpu_nanos, summed.system_nanos);
                let of_group = of_group.map(|used| Usage { cpu_nanos, system_nanos, ..used });
                of_group.unwrap_or(summed)
            }
        };
        Ok(SessionResponse::Usage(Usage { written, ..used }))
    }

    /// Copies what the container changed to a layer.
    fn checkpoint(
        &self,
        aside: &Path,
        layer: &CheckpointLayer,
    ) -> Result<SessionResponse, Failure> {
        let root = &self.container.root;
        let (name, merged) = (layer.name.as_str(), layer.merged.as_slice());
        let (scratch, storage) = (root.scratch.as_path(), root.storage);
        Keeping { scratch, storage, aside, name, merged }.copy(self.first, self.identity)
    }

    /// Writes what the container changed as a layer.
    fn layer(&self, output: OwnedFd) -> Result<SessionResponse, Failure> {
        let root = &self.container.root;
        if root.storage == Storage::Copy {
            return Err(Failure::new(
                "write a layer of a session",
                "the container is a copy of its image: there is no overlayfs here",
            ));
        }
        let upper = root.scratch.join(root::UPPER);
        let changes = Changes {
            directory: &upper,
            lowers: &[],
            storage: root.storage,
            since: 0,
            into: None,
            times: Times::Kept,
        };
        changes.pack(self.identity, output.into())?;
        Ok(SessionResponse::Done)
    }

    /// Gives the engine a socket that is connected to a port of the container.
    fn connect(&self, port: u16, requester: &Requester) -> Result<SessionResponse, Failure> {
        let action = format!("connect to port {port} of the container");
        if self.container.network != Network::Host {
            Namespaces::of(self.first)?.enter(ThreadNameSpaceType::NETWORK)?;
        }
        let addresses = [
            SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
        ];
        let socket = TcpStream::connect(&addresses[..]).because(&action)?;
        passing::send(&requester.0, socket.as_fd()).because(&action)?;
        Ok(SessionResponse::Done)
    }

    /// Gives the engine a socket that listens on a port of the container.
    fn listen(&self, port: u16, requester: &Requester) -> Result<SessionResponse, Failure> {
        let action = format!("listen on port {port} of the container");
        if self.container.network == Network::Host {
            return Err(Failure::new(action, "it has the network of the host"));
        }
        Namespaces::of(self.first)?.enter(ThreadNameSpaceType::NETWORK)?;
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).because(&action)?;
        passing::send(&requester.0, socket.as_fd()).because(&action)?;
        Ok(SessionResponse::Done)
    }

    /// Makes the container's root directory that of this process. Nothing of the container sees it.
    fn enter_files(&self) -> Result<(), Failure> {
        let namespaces = Namespaces::of(self.first)?;
        namespaces.enter(ThreadNameSpaceType::MOUNT)?;
        rustix::process::chdir("/").because("change to `/`")
    }

    fn put(
        &self,
        directory: &str,
        make: bool,
        requester: &mut Requester,
    ) -> Result<SessionResponse, Failure> {
        let directory = Path::new(directory);
        match fs::metadata(directory) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Ok(SessionResponse::NoSuchPath),
            Err(error) if error.kind() == io::ErrorKind::NotFound && make => {
                fs::create_dir_all(directory).at("make", directory)?;
            }
            Err(error) if is_absent(&error) => return Ok(SessionResponse::NoSuchPath),
            Err(error) => return Err(error).at("look at", directory),
        }
        let input = BufReader::with_capacity(1 << 18, &mut requester.0);
        extract(input, directory, Marks::Files, self.identity, None)?;
        Ok(SessionResponse::Done)
    }
}

/// Tells whether an error says that nothing is at a path.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Writes what is at a path as a tar. Other file systems below it stay out.
fn get(path: &Path, output: OwnedFd) -> Result<SessionResponse, Failure> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if is_absent(&error) => return Ok(SessionResponse::NoSuchPath),
        Err(error) => return Err(error).at("look at", path),
    };
    let mut tar = tar::Builder::new(BufWriter::with_capacity(1 << 18, fs::File::from(output)));
    tar.follow_symlinks(false);
    let is_content = path.as_os_str().as_encoded_bytes().ends_with(b"/.");
    let top = path.file_name().filter(|_| !is_content);
    let top = top.map_or(PathBuf::from("."), PathBuf::from);
    let mut links: HashMap<(u64, u64), PathBuf> = HashMap::new();
    // The file system of a link is that of what it leads to, if it leads anywhere.
    let walk = walkdir::WalkDir::new(path)
        .follow_root_links(false)
        .same_file_system(found.is_dir())
        .sort_by_file_name();
    for entry in walk {
        let entry = match entry {
            Ok(entry) => entry,
            // It was removed meanwhile.
            Err(error) if error.io_error().is_some_and(is_absent) && error.depth() > 0 => continue,
            Err(error) => return Err(io::Error::from(error)).at("read", path),
        };
        let inner = entry.path().strip_prefix(path).unwrap_or(Path::new(""));
        let name = if inner.as_os_str().is_empty() { top.clone() } else { top.join(inner) };
        let found = match fs::symlink_metadata(entry.path()) {
            Ok(found) => found,
            Err(error) if is_absent(&error) => continue,
            Err(error) => return Err(error).at("look at", entry.path()),
        };
        let kind = found.file_type();
        if kind.is_socket() {
            continue;
        }
        if kind.is_fifo() || kind.is_char_device() || kind.is_block_device() {
            // The crate would write the path of it in the container.
            let mut header = tar::Header::new_gnu();
            header.set_metadata(&found);
            header.set_size(0);
            if !kind.is_fifo() {
                let device = found.rdev();
                header.set_device_major(rustix::fs::major(device)).at("write", entry.path())?;
                header.set_device_minor(rustix::fs::minor(device)).at("write", entry.path())?;
            }
            tar.append_data(&mut header, &name, io::empty()).at("write", entry.path())?;
            continue;
        }
        if found.is_file() && found.nlink() > 1 {
            let file = (found.dev(), found.ino());
            if let Some(first) = links.get(&file) {
                let mut header = tar::Header::new_gnu();
                header.set_metadata(&found);
                header.set_entry_type(tar::EntryType::Link);
                header.set_size(0);
                tar.append_link(&mut header, &name, first).at("write", entry.path())?;
                continue;
            }
            links.insert(file, name.clone());
        }
        tar.append_path_with_name(entry.path(), &name).at("write", entry.path())?;
    }
    let output = tar.into_inner().because("write an archive")?;
    output
        .into_inner()
        .map_err(io::IntoInnerError::into_error)
        .and_then(|mut output| output.flush())
        .because("write an archive")?;
    Ok(SessionResponse::Done)
}
