//! The memory of a container without a control group, measured while it runs.
//!
//! The kernel limits single processes only, and one that meets such a limit fails by itself, as a
//! failing test does. So all processes are measured together instead, and the container is killed
//! when they have more than they may: what is out of memory is told from what fails.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::Pid;

use crate::engine::meter::processes_with;

/// How often it is measured.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// Measures a container.
pub(super) struct Memory {
    limit: u64,
    first: u32,
    page: u64,
}

impl Memory {
    /// Measures the processes in the namespace of `first`, a container's first process, against bytes.
    pub(super) fn new(limit: u64, first: Pid) -> Memory {
        let first = first.as_raw_nonzero().get().unsigned_abs();
        Memory { limit, first, page: rustix::param::page_size() as u64 }
    }

    /// Tells whether the processes have more than the limit. Pages that several of them share count
    /// once.
    pub(super) fn is_over(&self) -> bool {
        let processes = processes_with(self.first);
        let resident = processes.iter().filter_map(|process| self.resident(process));
        // Shared pages are in it as often as they are shared: it is never too little.
        if resident.sum::<u64>() <= self.limit {
            return false;
        }
        let shares =
            processes.iter().filter_map(|process| share(process).or(self.resident(process)));
        shares.sum::<u64>() > self.limit
    }

    /// Returns the bytes of a process that are in memory.
    fn resident(&self, process: &Path) -> Option<u64> {
        let text = fs::read_to_string(process.join("statm")).ok()?;
        Some(text.split_whitespace().nth(1)?.parse::<u64>().ok()?.saturating_mul(self.page))
    }
}

/// Returns the bytes of a process, its part of what it shares; `None` where the kernel does not say.
fn share(process: &Path) -> Option<u64> {
    let text = fs::read_to_string(process.join("smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_process_has_is_some_pages_and_not_all() {
        let memory = Memory::new(1 << 30, rustix::process::getpid());
        let me = Path::new("/proc/self");
        let (resident, share) = (memory.resident(me).unwrap(), share(me).unwrap());
        assert!(share > 0 && share <= resident && resident < 1 << 40, "{share} {resident}");
    }
}
