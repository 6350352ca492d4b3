//! Programs that run beside this one.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::{Signal, set_parent_process_death_signal};

/// Gives a program a process group of its own: what a terminal or a supervisor sends to the whole group
/// of this process is then ours to answer. It is ended by SIGTERM when the thread that starts it ends,
/// so it does not outlive this process.
///
/// Not for a program that asks questions on the terminal: in another group it would be stopped.
pub(crate) fn apart(command: &mut Command) -> &mut Command {
    command.process_group(0);
    // SAFETY: between fork and exec it makes one system call, and touches no memory.
    unsafe { command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::TERM))?)) }
}

/// Gives a program a session of its own, without a terminal: signals of the terminal do not reach it,
/// and it asks nobody. It ends with its input.
#[cfg(feature = "docker")]
pub(crate) fn in_own_session(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec it makes one system call, and touches no memory.
    unsafe { command.pre_exec(|| Ok(rustix::process::setsid().map(drop)?)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_has_a_group_of_its_own() {
        let mut child = apart(Command::new("sleep").arg("100")).spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        assert_eq!(rustix::process::getpgid(Some(pid)).unwrap(), pid);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
