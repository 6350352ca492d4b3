//! Holding the processes of a container while something is done with its files.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::failure::Failure;
use super::processes;

/// How long a process may take to stand still: one that waits for a disk does not hear of it.
const STANDING: Duration = Duration::from_secs(2);

/// Does something while no process of a container runs. One that was held before stays so.
pub(super) fn meanwhile<T>(first: Pid, work: impl FnOnce() -> T) -> Result<T, Failure> {
    if !crate::owner::proc_is_ours() {
        // Numbers of another namespace are other processes here: nobody is told from those that were held
        // before.
        processes::signal_all(first, libc::SIGSTOP)?;
        let done = work();
        processes::signal_all(first, libc::SIGCONT)?;
        return Ok(done);
    }
    let namespace = processes::namespace(first)?;
    let before: HashSet<Pid> = of_namespace(&namespace)
        .into_iter()
        .filter(|(_, state)| is_held(*state))
        .map(pid)
        .collect();
    processes::signal_all(first, libc::SIGSTOP)?;
    let until = Instant::now() + STANDING;
    while Instant::now() < until {
        let first = first.as_raw_nonzero().get();
        let runs = |(pid, state): &(Pid, char)| {
            pid.as_raw_nonzero().get() != first && !is_held(*state) && !matches!(state, 'Z' | 'X')
        };
        if !of_namespace(&namespace).iter().any(runs) {
            break;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    let done = work();
    // Children before those who wait for them: a shell reports one that it finds held.
    let mut held: Vec<Pid> = of_namespace(&namespace).into_iter().map(pid).collect();
    held.sort_by_key(|pid| std::cmp::Reverse(pid.as_raw_nonzero()));
    for pid in held.into_iter().filter(|pid| !before.contains(pid)) {
        // One may have been killed.
        let _ = kill_process(pid, Signal::CONT);
    }
    Ok(done)
}

fn pid((pid, _): (Pid, char)) -> Pid {
    pid
}

/// Tells whether a process does not run because of a signal, or of whoever traces it.
fn is_held(state: char) -> bool {
    matches!(state, 'T' | 't')
}

/// Lists the processes of a namespace, by the numbers that they have here, and their states.
fn of_namespace(namespace: &str) -> Vec<(Pid, char)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(pid) = number.and_then(Pid::from_raw) else { continue };
        let directory = entry.path();
        if fs::read_link(directory.join("ns/pid")).is_ok_and(|link| link.as_os_str() == namespace)
            && let Ok(stat) = fs::read_to_string(directory.join("stat"))
            // The name is in parentheses, and may have some itself.
            && let Some(state) = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next())
        {
            found.push((pid, state));
        }
    }
    found
}
