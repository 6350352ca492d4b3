//! The helper: a small process of its own for what needs other Linux namespaces.
//!
//! Namespaces and a runtime of many threads do not mix, so the engine starts its own program anew
//! and asks it for one thing; see [`super::task`]. As a plain user the helper first becomes root of
//! a user namespace. It has one thread and knows nothing of images.

mod cgroup;
mod checkpoint;
mod command;
mod compat;
mod container;
mod copy;
mod ends;
mod failure;
mod held;
mod identity;
mod inherited;
mod init;
mod kills;
mod memory;
mod merge;
mod namespaces;
mod network;
mod pack;
mod paths;
mod privileges;
mod processes;
mod remove;
mod root;
mod seccomp;
mod session;
mod shared_network;
mod supervisor;
mod system_calls;
mod unpack;
mod usage;
mod users;

use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::process::ExitCode;

use super::passing::{self, Received};
use super::protocol::{Network, Operation, Request, Response};
use failure::{Context as _, Failure};

pub(super) use cgroup::{
    PARENT as GROUPS, available as limits_groups, is_unified, move_to_leaf, own as own_group,
    parent as groups_parent, pass_on,
};

pub(crate) use unpack::unpack as unpack_layer;

/// Brings up the loopback of this process's network namespace, where that is a new one.
pub(crate) fn bring_loopback_up() -> std::io::Result<()> {
    network::make(super::protocol::Network::None)
        .map_err(|failure| std::io::Error::other(failure.text()))
}

/// The argument that makes a process a helper.
pub(super) const ARGUMENT: &str = "imgforge-embedded-helper";

/// The most that a request may be without the bytes that follow it.
const MOST_TEXT: usize = 64 << 20;

/// Does what a helper does when this process is one; `None` when it is not.
pub fn main() -> Option<ExitCode> {
    if std::env::args_os().nth(1).is_none_or(|argument| argument != ARGUMENT) {
        return None;
    }
    let answer = run();
    let failed = matches!(answer, Response::Failed { .. });
    Some(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The engine's end of a request: the rest of its bytes, and its end.
struct Requester(std::os::unix::net::UnixStream);

impl Requester {
    fn answer(&mut self, answer: &impl serde::Serialize) {
        let text = serde_json::to_vec(answer).expect("an answer is valid JSON");
        // Whoever is not there any more does not wait for it.
        let _ = self.0.write_all(&text);
    }

    /// Takes a file descriptor that the engine sends.
    fn descriptor(&self) -> std::io::Result<OwnedFd> {
        match passing::receive(&self.0)? {
            Received::Descriptor(descriptor) => Ok(descriptor),
            Received::Bytes(_) | Received::End => {
                Err(std::io::Error::other("the engine sent no file descriptor"))
            }
        }
    }

    /// Reads a request: its length, and its text.
    fn task<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, Failure> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).because("read the request")?;
        let length = u32::from_be_bytes(length) as usize;
        if length > MOST_TEXT {
            return Err(Failure::new("read the request", "it is too long"));
        }
        let mut text = vec![0; length];
        self.0.read_exact(&mut text).because("read the request")?;
        serde_json::from_slice(&text)
            .map_err(|error| Failure::new("read the request", error.to_string()))
    }
}

fn run() -> Response {
    if let Err(failure) = inherited::close_files().because("close inherited files") {
        return failure.into();
    }
    let mut requester = match take_requester() {
        Ok(requester) => requester,
        Err(failure) => return failure.into(),
    };
    let answer = match requester.task().and_then(|task| work(task, &mut requester)) {
        Ok(answer) => answer,
        Err(failure) => failure.into(),
    };
    requester.answer(&answer);
    answer
}

/// Takes the socket away from the standard input, so that nothing that runs inherits it.
fn take_requester() -> Result<Requester, Failure> {
    let take = || -> std::io::Result<OwnedFd> {
        let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 10)?;
        let null = std::fs::File::open("/dev/null")?;
        rustix::stdio::dup2_stdin(null.as_fd())?;
        Ok(socket)
    };
    Ok(Requester(take().because("take the request")?.into()))
}

fn work(task: Request, requester: &mut Requester) -> Result<Response, Failure> {
    let identity = &task.identity;
    match &task.work {
        Operation::Session(request) if request.network == Network::Shared => {
            shared_network::join(identity, requester)?;
        }
        _ => identity::assume(identity)?,
    }
    match task.work {
        Operation::Network => shared_network::share(requester),
        Operation::Run(request) => container::run(*request, identity, requester),
        Operation::Session(request) => container::run(*request, identity, requester),
        Operation::Unpack { directory, storage } => {
            unpack::unpack(&directory, storage, identity, &mut requester.0)?;
            Ok(Response::Done)
        }
        Operation::Pack { directory, lowers, storage, since, into, times } => {
            // Not the standard library's handle, which looks for the ends of lines.
            let output = rustix::io::dup(rustix::stdio::stdout()).because("write a layer")?;
            let changes = pack::Changes {
                directory: &directory,
                lowers: &lowers,
                storage,
                since,
                into: into.as_deref(),
                times,
            };
            changes.pack(identity, output.into())?;
            Ok(Response::Done)
        }
        Operation::Keep { snapshots, scratch, storage, layer } => {
            rustix::process::chdir(&snapshots).at("change to", &snapshots)?;
            let (name, merged) = (layer.name.as_str(), layer.merged.as_slice());
            let keeping =
                checkpoint::Keeping { scratch: &scratch, storage, aside: &scratch, name, merged };
            keeping.take(identity)?;
            Ok(Response::Done)
        }
        Operation::Copy(request) => {
            copy::copy(*request, identity)?;
            Ok(Response::Done)
        }
        Operation::Remove { paths } => {
            for path in &paths {
                remove::tree(path)?;
            }
            Ok(Response::Done)
        }
        Operation::Measure { paths } => {
            let bytes: Vec<Option<u64>> =
                paths.iter().map(|path| crate::disk::usage(path)).collect();
            let text = serde_json::to_vec(&bytes).expect("numbers are valid JSON");
            std::io::stdout().write_all(&text).because("answer")?;
            std::io::stdout().flush().because("answer")?;
            Ok(Response::Done)
        }
        Operation::Probe { directory, storage } => {
            root::probe(&directory, storage, identity)?;
            Ok(Response::Done)
        }
    }
}

/// Returns the number of a file descriptor, for paths in `/proc/self/fd`.
fn number(fd: impl AsFd) -> i32 {
    fd.as_fd().as_raw_fd()
}
