//! Control groups: memory, processor time and processes of a container, in version 1 and 2.
//!
//! Where they cannot be had the limits are those of single processes, and a warning says so.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::super::protocol::{Identity, Limits};
use super::failure::{Context as _, Failure};
use crate::engine::NewLimits;

const MOUNT: &str = "/sys/fs/cgroup";

/// The directory of all groups of imgforge, in each hierarchy.
pub(crate) const PARENT: &str = "imgforge";

/// The period of processor time, in microseconds.
const PERIOD: u64 = 100_000;

/// The file with the limit of processes.
const PIDS: &str = "pids.max";

/// The control groups of one container.
pub(super) struct Group {
    /// One for each hierarchy of version 1, or the one of version 2.
    directories: Vec<PathBuf>,
    unified: bool,
    /// Limits that could not be set.
    pub warnings: Vec<String>,
}

/// A group whose processes cannot make others.
pub(super) struct StoppedProcesses {
    file: fs::File,
    limit: String,
}

impl Drop for StoppedProcesses {
    fn drop(&mut self) {
        let _ = self.file.write_all(self.limit.as_bytes());
    }
}

/// What a process needs to enter a group: opened while it can be seen.
pub(super) struct Entry(Vec<fs::File>);

impl Entry {
    /// Moves this process into the group; tells whether there is one.
    pub(super) fn enter(self) -> Result<bool, Failure> {
        let grouped = !self.0.is_empty();
        for mut file in self.0 {
            file.write_all(b"0").because("enter the control group")?;
        }
        Ok(grouped)
    }
}

/// Tells whether containers can be limited as a whole; else why not.
pub(crate) fn available(identity: &Identity, owner: &str) -> Result<(), String> {
    let limits = Limits {
        memory: Some(1 << 30),
        milli_cpus: None,
        pids: None,
        group: format!("{owner}-probe"),
    };
    let group = Group::make(&limits, identity);
    group.remove();
    group.warnings.first().map_or(Ok(()), |warning| {
        let why = warning.split_once('(').map_or(warning.as_str(), |(_, why)| why);
        Err(why.strip_suffix(')').unwrap_or(why).to_owned())
    })
}

impl Group {
    /// Makes the group with its limits, as far as that may be done.
    pub(super) fn make(limits: &Limits, identity: &Identity) -> Group {
        let mut group = Group { directories: Vec::new(), unified: false, warnings: Vec::new() };
        if limits.group.is_empty() {
            group.warn(limits, None);
            return group;
        }
        let made = if is_unified() {
            group.unified = true;
            group.make_unified(limits, identity)
        } else {
            group.make_hierarchies(limits)
        };
        if let Err((path, error)) = made {
            group.remove();
            group.directories.clear();
            group.warn(limits, Some(&format!("`{}`: {error}", path.display())));
        }
        group
    }

    fn warn(&mut self, limits: &Limits, why: Option<&str>) {
        let why = why.map_or(String::new(), |why| format!(" ({why})"));
        for (name, wanted) in [
            ("memory is measured, and not limited by the kernel", limits.memory.is_some()),
            ("processor time is not limited as a whole", limits.milli_cpus.is_some()),
            ("the number of processes is not limited as a whole", limits.pids.is_some()),
        ] {
            if wanted {
                self.warnings.push(format!("{name}{why}"));
            }
        }
    }

    fn make_hierarchies(&mut self, limits: &Limits) -> Result<(), (PathBuf, io::Error)> {
        for controller in ["memory", "cpu", "pids"] {
            // `cpu` is a link to `cpu,cpuacct` where the two are one.
            let hierarchy = Path::new(MOUNT).join(controller);
            if !hierarchy.exists() {
                return Err((hierarchy, io::ErrorKind::NotFound.into()));
            }
            let directory = hierarchy.join(PARENT).join(&limits.group);
            fs::create_dir_all(&directory).map_err(|error| (directory.clone(), error))?;
            self.directories.push(directory.clone());
            match controller {
                "memory" => {
                    if let Some(memory) = limits.memory {
                        set(&directory, "memory.limit_in_bytes", memory)?;
                        // Without accounting of swap there is no such file.
                        if directory.join("memory.memsw.limit_in_bytes").exists() {
                            set(&directory, "memory.memsw.limit_in_bytes", memory)?;
                        }
                    }
                }
                "cpu" => {
                    if let Some(cpus) = limits.milli_cpus {
                        set(&directory, "cpu.cfs_period_us", PERIOD)?;
                        set(&directory, "cpu.cfs_quota_us", cpus * PERIOD / 1000)?;
                    }
                }
                _ => {
                    if let Some(pids) = limits.pids {
                        set(&directory, PIDS, pids)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn make_unified(
        &mut self,
        limits: &Limits,
        identity: &Identity,
    ) -> Result<(), (PathBuf, io::Error)> {
        let parent = unified_parent(identity)?;
        let directory = parent.join(&limits.group);
        fs::create_dir_all(&directory).map_err(|error| (directory.clone(), error))?;
        self.directories.push(directory.clone());
        if let Some(memory) = limits.memory {
            set(&directory, "memory.max", memory)?;
            if directory.join("memory.swap.max").exists() {
                set(&directory, "memory.swap.max", 0)?;
            }
        }
        if let Some(cpus) = limits.milli_cpus {
            set(&directory, "cpu.max", format!("{} {PERIOD}", cpus * PERIOD / 1000))?;
        }
        if let Some(pids) = limits.pids {
            set(&directory, PIDS, pids)?;
        }
        Ok(())
    }

    /// Returns its directories, and whether it is of version 2; `None` where there is no group.
    pub(super) fn directories(&self) -> Option<(&[PathBuf], bool)> {
        self.exists().then_some((self.directories.as_slice(), self.unified))
    }

    /// Sets other limits.
    pub(super) fn set_limits(&self, limits: &NewLimits) -> Result<(), Failure> {
        if !self.exists() {
            return Err(Failure::new(
                "change the limits of a session",
                "it was started without limits, or has no control group here",
            ));
        }
        let changed = match self.unified {
            true => self.set_unified(limits),
            false => self.set_hierarchies(limits),
        };
        changed.map_err(|(path, error)| Failure::of(format!("write `{}`", path.display()), &error))
    }

    fn set_unified(&self, limits: &NewLimits) -> Result<(), (PathBuf, io::Error)> {
        let directory = &self.directories[0];
        if let Some(memory) = limits.memory {
            set(directory, "memory.max", memory)?;
        }
        if let Some(cpus) = limits.milli_cpus {
            set(directory, "cpu.max", format!("{} {PERIOD}", cpus * PERIOD / 1000))?;
        }
        limits.pids.map_or(Ok(()), |wanted| set_pids(directory, wanted))
    }

    fn set_hierarchies(&self, limits: &NewLimits) -> Result<(), (PathBuf, io::Error)> {
        let [memory, cpu, pids] = self.directories.as_slice() else { return Ok(()) };
        if let Some(wanted) = limits.memory {
            let both = "memory.memsw.limit_in_bytes";
            let has_both = memory.join(both).exists();
            // The one with swap is never less than the one without: which goes first depends.
            let first = has_both && set(memory, both, wanted).is_ok();
            set(memory, "memory.limit_in_bytes", wanted)?;
            if has_both && !first {
                set(memory, both, wanted)?;
            }
        }
        if let Some(cpus) = limits.milli_cpus {
            set(cpu, "cpu.cfs_period_us", PERIOD)?;
            set(cpu, "cpu.cfs_quota_us", cpus * PERIOD / 1000)?;
        }
        limits.pids.map_or(Ok(()), |wanted| set_pids(pids, wanted))
    }

    /// Lets no process of the group make another one until what is returned is dropped. `None` where the
    /// group cannot have that, or somebody else does that now.
    pub(super) fn stop_processes(&self) -> Option<StoppedProcesses> {
        let directory =
            if self.unified { self.directories.first() } else { self.directories.get(2) };
        let file =
            fs::OpenOptions::new().read(true).write(true).open(directory?.join(PIDS)).ok()?;
        // Two at once would take each other's limit for the one to come back to.
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
        let limit = io::read_to_string(&file).ok()?.trim().to_owned();
        (&file).write_all(b"0").ok()?;
        Some(StoppedProcesses { file, limit })
    }

    /// Tells whether there is a group: without one, limits are those of single processes.
    pub(super) fn exists(&self) -> bool {
        !self.directories.is_empty()
    }

    /// Opens what the container's first process enters by.
    pub(super) fn entry(&self) -> Entry {
        let open = |directory: &PathBuf| {
            fs::OpenOptions::new().write(true).open(directory.join("cgroup.procs")).ok()
        };
        Entry(self.directories.iter().filter_map(open).collect())
    }

    /// Returns how many processes of the group the kernel killed for its memory.
    pub(super) fn memory_kills(&self) -> u64 {
        let name = if self.unified { "memory.events" } else { "memory.oom_control" };
        let count = |directory: &PathBuf| {
            let text = fs::read_to_string(directory.join(name)).ok()?;
            text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse::<u64>().ok())
        };
        self.directories.iter().filter_map(count).sum()
    }

    /// Removes the group, whose processes have ended.
    pub(super) fn remove(&self) {
        for directory in &self.directories {
            // The kernel may not have let go of the last process yet.
            for _ in 0..50 {
                match fs::remove_dir(directory) {
                    Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                        std::thread::sleep(std::time::Duration::from_millis(2));
                    }
                    _ => break,
                }
            }
        }
    }
}

/// Tells whether the groups are those of version 2.
pub(crate) fn is_unified() -> bool {
    Path::new(MOUNT).join("cgroup.controllers").exists()
}

/// Returns the directory of this process's group in version 2.
pub(crate) fn own() -> io::Result<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup")?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or("");
    Ok(Path::new(MOUNT).join(own))
}

/// Returns the directory in which the groups of containers are made, in version 2.
pub(crate) fn parent(identity: &Identity) -> io::Result<PathBuf> {
    unified_parent(identity).map_err(|(_, error)| error)
}

/// Finds the group under which a plain user, or root, may make others, with its controllers.
fn unified_parent(identity: &Identity) -> Result<PathBuf, (PathBuf, io::Error)> {
    let root = Path::new(MOUNT);
    let own = match identity {
        Identity::Root => root.to_owned(),
        _ => own().map_err(|error| (PathBuf::from("/proc/self/cgroup"), error))?,
    };
    // A group with processes passes nothing on; one above it, which was delegated, may.
    let mut last = (own.clone(), io::Error::from(io::ErrorKind::PermissionDenied));
    for candidate in own.ancestors().take_while(|path| path.starts_with(root)) {
        let parent = candidate.join(PARENT);
        let made = (|| {
            match pass_on(candidate) {
                // The root of a container's groups, with its processes in it.
                Err((_, error))
                    if candidate == root && error.kind() == io::ErrorKind::ResourceBusy =>
                {
                    move_to_leaf(candidate)?;
                    pass_on(candidate)?;
                }
                passed => passed?,
            }
            fs::create_dir_all(&parent).map_err(|error| (parent.clone(), error))?;
            pass_on(&parent)?;
            // It may be another user's.
            rustix::fs::access(&parent, rustix::fs::Access::WRITE_OK)
                .map_err(|error| (parent.clone(), error.into()))
        })();
        match made {
            Ok(()) => return Ok(parent),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The group that takes the processes of one that is to have others below it, as Docker in Docker
/// has it.
const LEAF: &str = "imgforge-self";

/// Moves the processes of a group to one below it: a group with processes passes nothing on.
pub(crate) fn move_to_leaf(directory: &Path) -> Result<(), (PathBuf, io::Error)> {
    let leaf = directory.join(LEAF);
    fs::create_dir_all(&leaf).map_err(|error| (leaf.clone(), error))?;
    let processes = directory.join("cgroup.procs");
    // They may make others meanwhile.
    for _ in 0..16 {
        let text = fs::read_to_string(&processes).map_err(|error| (processes.clone(), error))?;
        let mut moved = 0;
        // Those of the host, which a container cannot see, are 0 to it: they stay.
        for process in text.lines().filter(|process| *process != "0") {
            match set(&leaf, "cgroup.procs", process) {
                Ok(()) => moved += 1,
                // It has ended.
                Err((_, error)) if error.raw_os_error() == Some(libc::ESRCH) => {}
                Err(error) => return Err(error),
            }
        }
        if moved == 0 {
            break;
        }
    }
    Ok(())
}

pub(crate) fn pass_on(directory: &Path) -> Result<(), (PathBuf, io::Error)> {
    let control = directory.join("cgroup.subtree_control");
    let text = fs::read_to_string(&control).map_err(|error| (control.clone(), error))?;
    for controller in ["memory", "cpu", "pids"] {
        if !text.split_whitespace().any(|name| name == controller) {
            set(directory, "cgroup.subtree_control", format!("+{controller}"))?;
        }
    }
    Ok(())
}

fn set(directory: &Path, name: &str, value: impl ToString) -> Result<(), (PathBuf, io::Error)> {
    let path = directory.join(name);
    fs::write(&path, value.to_string()).map_err(|error| (path, error))
}

/// Sets the limit of processes, once nobody needs another one.
fn set_pids(directory: &Path, limit: u64) -> Result<(), (PathBuf, io::Error)> {
    let path = directory.join(PIDS);
    let set = || {
        let mut file = fs::OpenOptions::new().write(true).open(&path)?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
        file.write_all(limit.to_string().as_bytes())
    };
    set().map_err(|error| (path.clone(), error))
}
