//! Whether the kernel killed for memory where a container has no control group of its own.
//!
//! The kernel counts such kills for the group that imgforge is in, and for the whole machine. A kill
//! in the group while the container ran may have been of one of its processes: then its end says
//! nothing of its tests. One elsewhere on the machine counts only when the container's command was
//! killed too.

use std::fs;
use std::path::{Path, PathBuf};

/// The exit code of a command that was killed.
const KILLED: i64 = 128 + libc::SIGKILL as i64;

/// The counts when a container started.
pub(super) struct Kills {
    /// The file that has the count of the group, and the count.
    group: Option<(PathBuf, u64)>,
    machine: Option<u64>,
}

impl Kills {
    /// Reads the counts.
    pub(super) fn now() -> Kills {
        let group = group_files().into_iter().find_map(|path| Some((path.clone(), count(&path)?)));
        Kills { group, machine: count(Path::new("/proc/vmstat")) }
    }

    /// Tells whether the kernel killed since then what may have been of the container, whose command
    /// ended with this code.
    pub(super) fn may_be_of(&self, code: Option<i64>) -> bool {
        let more = |path: &Path, before: u64| count(path).is_some_and(|now| now > before);
        let in_group = self.group.as_ref().is_some_and(|(path, before)| more(path, *before));
        let on_machine = self.machine.is_some_and(|before| more(Path::new("/proc/vmstat"), before));
        in_group || on_machine && code == Some(KILLED)
    }
}

/// Returns where the count of this process's group may be, in both versions. A container sees its
/// own group as the root, and in version 1 reads of another.
fn group_files() -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut files = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let path = path.trim_start_matches('/');
        if controllers.is_empty() {
            files.push(Path::new("/sys/fs/cgroup").join(path).join("memory.events"));
        } else if controllers.split(',').any(|one| one == "memory") {
            let hierarchy = Path::new("/sys/fs/cgroup/memory");
            files.push(hierarchy.join(path).join("memory.oom_control"));
            files.push(hierarchy.join("memory.oom_control"));
        }
    }
    files
}

/// Reads the line `oom_kill N` of a file.
fn count(path: &Path) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_of_both_versions_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n").unwrap();
        assert_eq!(count(&path), Some(3));
        fs::write(&path, "low 0\noom 1\noom_kill 2\noom_group_kill 0\n").unwrap();
        assert_eq!(count(&path), Some(2));
        assert_eq!(count(&dir.path().join("none")), None);
    }

    #[test]
    fn a_kill_elsewhere_is_not_of_a_container_that_ended_by_itself() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "oom_kill 1\n").unwrap();
        let kills = Kills { group: Some((path.clone(), 1)), machine: None };
        assert!(!kills.may_be_of(Some(KILLED)));
        fs::write(&path, "oom_kill 2\n").unwrap();
        assert!(kills.may_be_of(Some(0)));
        let all = count(Path::new("/proc/vmstat")).expect("Linux counts kills");
        let kills = Kills { group: None, machine: Some(all + 1_000_000) };
        assert!(!kills.may_be_of(Some(KILLED)));
    }
}
