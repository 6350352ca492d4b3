//! The memory of a container without a control group, measured while it runs.
//!
//! The kernel limits single processes only, and one that meets such a limit fails by itself, as a
//! failing test does. So all processes are measured together instead, and the container is killed
//! when they have more than they may: what is out of memory is told from what fails.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::Pid;

/// How often it is measured.
pub const TICK: Duration = Duration::from_millis(100);

/// Measures a container.
pub struct Memory {
    limit: u64,
    first: u32,
    page: u64,
}

impl Memory {
    /// Measures the processes below `first`, a container's first process, against bytes.
    pub fn new(limit: u64, first: Pid) -> Memory {
        let first = first.as_raw_nonzero().get().unsigned_abs();
        Memory { limit, first, page: rustix::param::page_size() as u64 }
    }

    /// Tells whether the processes have more than the limit. Pages that several of them share count
    /// once.
    pub fn is_over(&self) -> bool {
        let processes = below(self.first, &parents());
        let resident = processes.iter().filter_map(|pid| resident_pages(*pid)).sum::<u64>();
        // Shared pages are in it as often as they are shared: it is never too little.
        if resident.saturating_mul(self.page) <= self.limit {
            return false;
        }
        let shares = processes.iter().filter_map(|pid| share(*pid).or(self.resident(*pid)));
        shares.sum::<u64>() > self.limit
    }

    fn resident(&self, pid: u32) -> Option<u64> {
        resident_pages(pid).map(|pages| pages.saturating_mul(self.page))
    }
}

/// Returns the parent of every process.
fn parents() -> HashMap<u32, u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, parent(&fs::read_to_string(entry.path().join("stat")).ok()?)?))
        })
        .collect()
}

/// Reads the parent from `/proc/PID/stat`, whose second field, in parentheses, may hold anything.
fn parent(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Returns a process and all that descend from it.
fn below(first: u32, parents: &HashMap<u32, u32>) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for (pid, parent) in parents {
        children.entry(*parent).or_default().push(*pid);
    }
    let mut found = vec![first];
    let mut at = 0;
    while let Some(pid) = found.get(at) {
        found.extend(children.remove(pid).unwrap_or_default());
        at += 1;
    }
    found
}

fn resident_pages(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    text.split_whitespace().nth(1)?.parse().ok()
}

/// Returns the bytes of a process, its part of what it shares; `None` where the kernel does not say.
fn share(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("smaps_rollup"));
    let text = text.ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_read_whatever_a_process_is_called() {
        assert_eq!(parent("12 (a) b) (c) S 7 12 12 0 -1"), Some(7));
        assert_eq!(parent("12 no"), None);
    }

    #[test]
    fn all_descendants_are_found_and_nobody_else() {
        let parents = HashMap::from([(2, 1), (3, 2), (4, 3), (5, 1), (6, 4)]);
        let mut found = below(2, &parents);
        found.sort_unstable();
        assert_eq!(found, [2, 3, 4, 6]);
    }

    #[test]
    fn what_this_process_has_is_between_a_page_and_all() {
        let me = rustix::process::getpid();
        assert!(Memory::new(1 << 12, me).is_over());
        assert!(!Memory::new(1 << 50, me).is_over());
    }
}
