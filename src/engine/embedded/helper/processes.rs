//! The processes of a container, from outside: which there are, and a signal for all of them.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitOptions};
use rustix::thread::ThreadNameSpaceType;

use super::super::protocol::SessionResponse;
use super::failure::{Context as _, Failure};
use super::init::{Forked, fork};
use super::namespaces::Namespaces;
use crate::engine::Process;

/// How long killed processes may take to be gone.
const KILLING: Duration = Duration::from_secs(10);
/// How long after being killed a request tries again.
const AGAIN: Duration = Duration::from_millis(5);

/// Sends a signal to every process of a container but its first, at one moment. Killed ones are gone
/// when it returns.
pub(super) fn signal_all(first: Pid, signal: i32) -> Result<SessionResponse, Failure> {
    let action = "signal the processes of a container";
    Namespaces::of(first)?.enter(ThreadNameSpaceType::PROCESS_ID)?;
    let until = Instant::now() + KILLING;
    loop {
        let pid = match fork().because(action)? {
            Forked::Child => {
                let code = i32::from(signal_others(signal).is_err());
                // SAFETY: it ends the process without running what other code registered for its end,
                // which belongs to the helper that this process was forked from.
                unsafe { libc::_exit(code) }
            }
            Forked::Parent(pid) => pid,
        };
        let waited = rustix::process::waitpid(Some(pid), WaitOptions::empty()).because(action)?;
        let status = waited.map(|(_, status)| status);
        match status.and_then(|status| status.exit_status()) {
            Some(0) => return Ok(SessionResponse::Done),
            // Another request killed all processes of the container, the one that signals among them. It
            // is waiting for them to be gone: were one made at once, the two would kill each other again.
            None if Instant::now() < until => std::thread::sleep(AGAIN),
            _ => return Err(Failure::new(action, "they do not end")),
        }
    }
}

/// Signals all processes of this process namespace but the first and this one.
fn signal_others(signal: i32) -> io::Result<()> {
    let send = |signal| {
        // SAFETY: `kill` takes any number.
        match unsafe { libc::kill(-1, signal) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // The kernel lets no process fork that has been told to end, so once is enough.
    let until = Instant::now() + KILLING;
    match send(signal) {
        // There is no other process.
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
        sent => sent?,
    }
    if signal != libc::SIGKILL {
        return Ok(());
    }
    // Another request may hold this process as well, for longer than processes take to end.
    let has_gone = || send(0).is_err_and(|error| error.raw_os_error() == Some(libc::ESRCH));
    while !has_gone() {
        if Instant::now() >= until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Returns which process namespace a process is of.
pub(super) fn namespace(process: Pid) -> Result<String, Failure> {
    let path = format!("/proc/{}/ns/pid", process.as_raw_nonzero());
    let link = fs::read_link(&path).at("read", &path)?;
    Ok(link.to_string_lossy().into_owned())
}

/// Lists the processes of a namespace by `/proc`, which is the container's own. Those that keep the
/// container are left out.
pub(super) fn list(namespace: &str) -> Result<SessionResponse, Failure> {
    let booted = booted();
    let ticks = rustix::param::clock_ticks_per_second();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").at("read", "/proc")?.flatten() {
        let directory = entry.path();
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        let is_of_it =
            fs::read_link(directory.join("ns/pid")).is_ok_and(|link| link.as_os_str() == namespace);
        if is_of_it && number != 1 {
            found.extend(read(&directory, booted, ticks));
        }
    }
    found.sort_by_key(|process| process.pid);
    let numbers: Vec<i32> = found.iter().map(|process| process.pid).collect();
    for process in &mut found {
        // The parent may be one of those that are left out.
        if !numbers.contains(&process.parent) {
            process.parent = 0;
        }
    }
    Ok(SessionResponse::Processes(found))
}

/// Reads what `/proc` tells of a process; `None` when it has ended, or keeps the container.
fn read(directory: &Path, booted: u64, ticks: u64) -> Option<Process> {
    let stat = fs::read_to_string(directory.join("stat")).ok()?;
    let status = fs::read_to_string(directory.join("status")).ok()?;
    let words = fs::read(directory.join("cmdline")).ok()?;
    let words: Vec<_> = words.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    if words.get(1).is_some_and(|word| word == super::ARGUMENT) {
        return None;
    }
    // The name is in parentheses, and may have some itself.
    let (head, fields) = stat.rsplit_once(") ")?;
    let name = head.split_once(" (")?.1;
    let fields: Vec<&str> = fields.split(' ').collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let of_status = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    };
    let command = words.join(" ").trim_end().to_owned();
    let terminal = number(4)?;
    Some(Process {
        pid: of_status("NSpid:")?.last()?.parse().ok()?,
        parent: fields.get(1)?.parse().ok()?,
        uid: of_status("Uid:")?.first()?.parse().ok()?,
        started: booted + number(19)? / ticks,
        cpu_seconds: (number(11)? + number(12)?) / ticks,
        // A terminal of the container has the major number 136.
        terminal: match (terminal >> 8) & 0xfff {
            136 => format!("pts/{}", terminal & 0xff),
            _ => String::new(),
        },
        command: if command.is_empty() { format!("[{name}]") } else { command },
    })
}

/// Returns when this machine was started, in seconds since 1970.
fn booted() -> u64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("btime "));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}
