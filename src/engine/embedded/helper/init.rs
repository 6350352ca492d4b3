//! The first process of a container: it makes the container's world, starts the command, and reaps.
//!
//! Its end is the end of everything in its process namespace, and it ends with the helper.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};

use super::super::protocol::{Container, Ends, Identity, Network, READY, Step};
use super::command::{NotBecome, become_command};
use super::ends::{self, Taken};
use super::failure::{Context as _, During as _, Failure};
use super::{cgroup, network, root, users};

/// Which of the two a process is after a fork.
pub(super) enum Forked {
    /// The new one.
    Child,
    /// The one that was there; the id is the child's.
    Parent(Pid),
}

/// Forks this process, which must have one thread.
pub(super) fn fork() -> io::Result<Forked> {
    // SAFETY: the helper has one thread, so the child finds no lock that another thread held.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(Pid::from_raw(pid).expect("the id of a child is positive"))),
    }
}

/// Forks this process, which must have one thread, into a process namespace of its own. Later children
/// of this process stay in that of this process.
pub(super) fn fork_first() -> io::Result<Forked> {
    let flags = libc::c_long::from(libc::CLONE_NEWPID | libc::SIGCHLD);
    let none: libc::c_long = 0;
    // SAFETY: without a stack of its own the child goes on with a copy of this one, as after `fork`;
    // the helper has one thread, so the child finds no lock that another thread held.
    match unsafe { libc::syscall(libc::SYS_clone, flags, none, none, none, none) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            Ok(Forked::Parent(pid.expect("the id of a child is positive")))
        }
    }
}

/// What the first process gets from the helper.
pub(super) struct Inherited<'a> {
    /// A byte comes when it may start, the end when the helper is gone.
    pub go: io::PipeReader,
    /// Takes why the container could not be made; of a session, that it is there.
    pub failures: io::PipeWriter,
    /// The control groups to enter.
    pub group: cgroup::Entry,
    /// Takes the other end of a terminal.
    pub engine: BorrowedFd<'a>,
}

/// Is the first process: never returns.
pub(super) fn main(
    request: &Container,
    identity: &Identity,
    files: &[Vec<u8>],
    inherited: Inherited<'_>,
) -> ! {
    let Inherited { mut go, mut failures, group, engine } = inherited;
    let code = match live(request, identity, files, &mut go, &mut failures, group, engine) {
        Ok(code) => code,
        Err(failure) => {
            let answer = serde_json::to_vec(&super::Response::from(failure));
            let _ = failures.write_all(&answer.expect("an answer is valid JSON"));
            255
        }
    };
    // SAFETY: it ends the process without running what other code registered for its end, which
    // belongs to the helper that this process was forked from.
    unsafe { libc::_exit(code) }
}

fn live(
    request: &Container,
    identity: &Identity,
    files: &[Vec<u8>],
    go: &mut io::PipeReader,
    ready: &mut io::PipeWriter,
    group: cgroup::Entry,
    engine: BorrowedFd<'_>,
) -> Result<i32, Failure> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .because("tie the container to its helper")?;
    // The helper may have ended before the kernel knew of the tie.
    go.read_exact(&mut [0]).because("start with the helper")?;
    let grouped = group.enter()?;
    if request.network != Network::Host {
        if request.network != Network::Shared {
            network::make(request.network).during(Step::Network)?;
        }
        rustix::system::sethostname(root::hostname(request).as_bytes())
            .because("set the host name")
            .during(Step::Namespaces)?;
    }
    root::make(request, identity)?;
    for ((path, _), bytes) in request.files.iter().zip(files) {
        write_file(path, bytes)?;
    }
    if request.command.is_empty() {
        close_ends().because("leave the ends of the helper")?;
        ready.write_all(&[READY]).because("say that the container is there")?;
        return reap_for_ever().because("wait for the commands of a session");
    }
    let user = users::resolve(&request.user, identity)?;
    let terminal = match request.ends {
        Ends::Terminal(size) => Some(ends::open_terminal(size, &user, identity, engine)?),
        Ends::Log | Ends::LogAndControl | Ends::Pipes => None,
    };
    let action = "start the command";
    let taken = request.ends.are_held().then(Taken::all).transpose().because(action)?;
    match fork().because(action)? {
        Forked::Child => Err(match set_up(request.ends, terminal.as_ref(), taken.as_ref()) {
            Ok(()) => start(request, identity, &user, grouped),
            Err(failure) => failure,
        }),
        Forked::Parent(command) => {
            drop(terminal);
            // What the command and its children hold open is theirs alone.
            close_ends().because("give the ends to the command")?;
            let status = match &taken {
                Some(taken) => ends::pass_signals_on(taken, command).because("pass signals on")?,
                None => reap(command).because("wait for the command")?,
            };
            let signal = status.terminating_signal().map(|signal| 128 + signal);
            Ok(status.exit_status().or(signal).unwrap_or(255))
        }
    }
}

/// Sets up what the command reads from and writes to.
fn set_up(ends: Ends, terminal: Option<&OwnedFd>, taken: Option<&Taken>) -> Result<(), Failure> {
    let prepared = (|| {
        if let Some(taken) = taken {
            taken.let_go()?;
        }
        if let Some(terminal) = terminal {
            ends::enter_terminal(terminal)?;
        }
        if ends == Ends::LogAndControl {
            let control = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 10)?;
            // SAFETY: nothing in this process owns file descriptor 4; it exists for the command.
            match unsafe { libc::dup2(super::number(&control), 4) } {
                -1 => return Err(io::Error::last_os_error()),
                _ => drop(control),
            }
        }
        if !ends.are_held() {
            rustix::stdio::dup2_stderr(rustix::stdio::stdout())?;
        }
        Ok(())
    })();
    prepared.because("set up the ends of the command")
}

fn write_file(path: &str, bytes: &[u8]) -> Result<(), Failure> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(bytes)).at("write", path)
}

/// Becomes the command; returns only what went wrong before that.
fn start(request: &Container, identity: &Identity, user: &users::User, grouped: bool) -> Failure {
    match become_command(request, identity, user, grouped, || Ok(())) {
        NotBecome::Helper(failure) => failure,
        NotBecome::Command { path, is_program: false, error } => {
            Failure::of(format!("change to `{path}`"), &error)
        }
        // As a shell says it, and with its codes: the command is at fault, not the engine.
        NotBecome::Command { path, is_program: true, error } => {
            let (code, why) = match error.kind() {
                io::ErrorKind::NotFound => (127, "not found".to_owned()),
                _ => (126, error.to_string()),
            };
            let _ = writeln!(io::stderr(), "imgforge: {path}: {why}");
            // SAFETY: as in `main`.
            unsafe { libc::_exit(code) }
        }
    }
}

/// Lets go of what the command reads from and writes to.
pub(super) fn close_ends() -> io::Result<()> {
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

/// Waits for the command, and on the way for every process that lost its parent.
fn reap(command: Pid) -> io::Result<WaitStatus> {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == command => return Ok(status),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits for every process that lost its parent. No signal of the container ends it.
fn reap_for_ever() -> io::Result<i32> {
    let taken = Taken::all()?;
    loop {
        taken.next()?;
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
    }
}
