//! Commands: how they end, and what Docker says of one that cannot be started.

use std::collections::BTreeMap;

use crate::engine::{ExecEnd, NotStarted};

use super::answer::Refusal;

/// Signals by their names.
const SIGNALS: [(&str, i32); 31] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("STKFLT", libc::SIGSTKFLT),
    ("CHLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
];

/// Reads a signal: a name, with or without `SIG`, or a number.
///
/// # Errors
/// Where there is no such signal.
pub(super) fn signal(text: &str) -> Result<i32, Refusal> {
    let wrong = || Refusal::bad(format!("invalid signal: {text}"));
    if let Ok(number) = text.parse::<i32>() {
        return if (1..64).contains(&number) { Ok(number) } else { Err(wrong()) };
    }
    let name = text.to_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let found = SIGNALS.iter().find(|(known, _)| *known == name);
    found.map(|(_, number)| *number).ok_or_else(wrong)
}

/// Reads variables, `NAME=value`.
///
/// # Errors
/// Where one has no name.
pub(super) fn variables(
    list: &[String],
    warnings: &mut Vec<String>,
) -> Result<BTreeMap<String, String>, Refusal> {
    let mut variables = BTreeMap::new();
    for text in list {
        match text.split_once('=') {
            Some(("", _)) => return Err(Refusal::bad(format!("invalid variable: {text}"))),
            Some((name, value)) => drop(variables.insert(name.to_owned(), value.to_owned())),
            None => warnings.push(format!("variable {text} has no value and is not taken away")),
        }
    }
    Ok(variables)
}

/// Returns the exit code of a command as a shell has it, and whether memory was the reason.
pub(super) fn exit_code(end: &ExecEnd) -> (i32, bool) {
    match end {
        ExecEnd::Exited(code) => (*code, false),
        ExecEnd::Signaled(signal) => (128 + signal, false),
        ExecEnd::OutOfMemory(code) => (*code, true),
        ExecEnd::NotStarted(why) => (why.code(), false),
        ExecEnd::TimedOut | ExecEnd::Idle | ExecEnd::SessionEnded(_) => {
            (128 + libc::SIGKILL, false)
        }
    }
}

/// Says why a command could not be started, in the words that Docker's clients look for.
pub(super) fn not_started(why: &NotStarted, program: &str, user: Option<&str>) -> String {
    let exec = "unable to start container process";
    if why.program_missing {
        let place = if program.contains('/') { "" } else { " in $PATH" };
        let lack = match place {
            "" => "stat: no such file or directory".to_owned(),
            _ => "executable file not found in $PATH".to_owned(),
        };
        return format!("{exec}: exec: {program:?}: {lack}: unknown");
    }
    match (why.errno, user.map(|user| user.split(':').next().unwrap_or(user))) {
        // Without a number of the system's it is imgforge that looked the user up.
        (None, Some(user)) if user.parse::<u32>().is_err() => {
            format!("unable to find user {user}: no matching entries in passwd file")
        }
        (Some(libc::EACCES), _) => format!("{exec}: exec: {program:?}: permission denied: unknown"),
        (Some(libc::ENOENT), _) => {
            format!("{exec}: {}: no such file or directory: unknown", why.reason)
        }
        _ => format!("{exec}: {}: unknown", why.reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_names_and_numbers() {
        for text in ["SIGTERM", "term", "15", "TERM"] {
            assert_eq!(signal(text), Ok(libc::SIGTERM), "{text}");
        }
        for text in ["0", "99", "SIGNONE", "-1"] {
            assert!(signal(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_missing_program_and_a_missing_user_are_said_as_docker_says_them() {
        let missing = NotStarted { errno: Some(2), reason: "x".to_owned(), program_missing: true };
        let text = not_started(&missing, "nosuch", None);
        assert!(text.contains("exec: \"nosuch\": executable file not found"), "{text}");
        let user = NotStarted { errno: None, reason: "x".to_owned(), program_missing: false };
        let text = not_started(&user, "id", Some("jane:staff"));
        assert!(text.contains("unable to find user jane"), "{text}");
    }
}
