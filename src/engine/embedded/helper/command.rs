//! Becoming the command of a container: environment, user, privileges, and the program itself.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use super::super::protocol::{Container, Identity, Step};
use super::failure::{Context as _, During as _, Failure};
use super::{inherited, privileges, users};

/// Why this process did not become the command.
pub(super) enum NotBecome {
    /// The command is at fault: its program, or the directory that it starts in.
    Command {
        /// The path that could not be used.
        path: String,
        /// Whether that is the program.
        is_program: bool,
        /// The system's error.
        error: io::Error,
    },
    /// The engine is at fault, or this machine.
    Helper(Failure),
}

impl From<Failure> for NotBecome {
    fn from(failure: Failure) -> NotBecome {
        NotBecome::Helper(failure)
    }
}

/// Becomes the command of a container; returns only why not. `last` is done when nothing else is left
/// to do, as the command's user.
pub(super) fn become_command(
    request: &Container,
    identity: &Identity,
    user: &users::User,
    grouped: bool,
    last: impl FnOnce() -> Result<(), Failure>,
) -> NotBecome {
    let mut command = Command::new(&request.command[0]);
    command.args(&request.command[1..]).env_clear();
    let mut has_home = false;
    for variable in &request.env {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        has_home |= name == "HOME";
        command.env(name, value);
    }
    if !has_home {
        command.env("HOME", &user.home);
    }
    let working_dir = match request.working_dir.as_str() {
        "" => "/",
        named => named,
    };
    // Before limits are set, and calls are filtered.
    inherited::reset();
    if let Err(error) = rustix::process::chdir(working_dir) {
        let path = working_dir.to_owned();
        return NotBecome::Command { path, is_program: false, error: error.into() };
    }
    let limited = rustix::thread::set_name(c"imgforge-run")
        .because("name the command")
        .and_then(|()| privileges::limit(request, identity, user, grouped).during(Step::Privileges))
        .and_then(|()| last());
    if let Err(failure) = limited {
        return failure.into();
    }
    let error = command.exec();
    NotBecome::Command { path: request.command[0].clone(), is_program: true, error }
}
