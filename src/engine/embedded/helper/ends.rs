//! The ends of a command that somebody holds: its terminal, and the signals that come for it.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr;

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::engine::WindowSize;

use super::super::passing;
use super::super::protocol::Identity;
use super::failure::{Context as _, Failure};
use super::users::User;

/// Makes a terminal of the container's own, and gives its other end to the engine.
pub(super) fn open_terminal(
    size: WindowSize,
    user: &User,
    identity: &Identity,
    engine: BorrowedFd<'_>,
) -> Result<OwnedFd, Failure> {
    let open = || -> io::Result<OwnedFd> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags)?;
        unlockpt(&ours)?;
        let theirs = ioctl_tiocgptpeer(&ours, flags)?;
        let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&ours, size)?;
        if !identity.one_owner() {
            let uid = rustix::process::Uid::from_raw(user.uid);
            rustix::fs::fchown(&theirs, Some(uid), None)?;
        }
        passing::send(engine, ours.as_fd())?;
        Ok(theirs)
    };
    open().because("make a terminal")
}

/// Makes a terminal that of this process, which leads a session of its own from then on.
pub(super) fn enter_terminal(terminal: &OwnedFd) -> io::Result<()> {
    rustix::process::setsid()?;
    rustix::process::ioctl_tiocsctty(terminal)?;
    rustix::stdio::dup2_stdin(terminal)?;
    rustix::stdio::dup2_stdout(terminal)?;
    Ok(rustix::stdio::dup2_stderr(terminal)?)
}

/// Signals that this process takes one by one, instead of being interrupted.
pub(super) struct Taken {
    all: libc::sigset_t,
    before: libc::sigset_t,
}

impl Taken {
    /// Holds all signals back from now on.
    pub(super) fn all() -> io::Result<Taken> {
        let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        // SAFETY: `sigfillset` makes a whole set; `sigprocmask` reads it and writes another one.
        unsafe {
            libc::sigfillset(all.as_mut_ptr());
            match libc::sigprocmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) {
                0 => Ok(Taken { all: all.assume_init(), before: before.assume_init() }),
                _ => Err(io::Error::last_os_error()),
            }
        }
    }

    /// Holds back what was held back before: so the command gets it.
    pub(super) fn let_go(&self) -> io::Result<()> {
        // SAFETY: the set is whole, and nothing is asked for what was before.
        match unsafe { libc::sigprocmask(libc::SIG_SETMASK, &self.before, ptr::null_mut()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Waits for the next signal.
    pub(super) fn next(&self) -> io::Result<i32> {
        // SAFETY: the set is whole, and nothing is asked for who sent the signal.
        match unsafe { libc::sigwaitinfo(&self.all, ptr::null_mut()) } {
            -1 => Err(io::Error::last_os_error()),
            signal => Ok(signal),
        }
    }
}

/// Passes signals on to the command until it ends, and reaps on the way.
pub(super) fn pass_signals_on(taken: &Taken, command: Pid) -> io::Result<WaitStatus> {
    loop {
        let signal = match taken.next() {
            Ok(signal) => signal,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if signal != libc::SIGCHLD {
            // SAFETY: `kill` takes any number; the command is not waited for yet, so the process id is
            // still its own.
            unsafe { libc::kill(command.as_raw_nonzero().get(), signal) };
            continue;
        }
        // One signal may stand for several children.
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if pid == command {
                return Ok(status);
            }
        }
    }
}

/// Sends a signal to the first process of a container, which passes it on.
pub(super) fn signal(first: Pid, number: u8) -> io::Result<()> {
    let Some(signal) = Signal::from_named_raw(i32::from(number)) else { return Ok(()) };
    match rustix::process::kill_process(first, signal) {
        // It ended at that very moment.
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
