//! Owners: who has what exists only while somebody works, and whether it may be taken away.
//!
//! Containers, scratch images, temporary files and control groups carry the name of their owner: the
//! kernel that runs it, its process namespace, its number there, and its start. A process of this
//! very namespace is judged by the kernel. One that is elsewhere, in another container, on another
//! host, cannot be seen: it is judged by the lock that it holds as long as it lives, in the `owners`
//! of its state directory, and where there is none by age. Only what is [`Liveness::Dead`] is
//! removed.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::file_lock::is_named;
use crate::file_system;

/// For how long what cannot be judged otherwise belongs to its owner.
pub const FORGOTTEN: Duration = Duration::from_secs(48 * 3600);

/// For how long the lock file of an owner is kept that died: longer than anything of it.
const LOCK_FILES: Duration = Duration::from_secs(7 * 86400);

/// How often an owner says that it lives where locks cannot say so.
const BEAT: Duration = Duration::from_secs(600);

/// Below the state directory.
const DIRECTORY: &str = "owners";

/// Whether an owner is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// It lives.
    Alive,
    /// It is gone: what it left is nobody's.
    Dead,
    /// It cannot be seen from here: what it has stays.
    Elsewhere,
}

/// Judges the owner of that name, which may have a dash and more behind it; the time is when the
/// thing was made that it owns.
pub type Judge<'a> = dyn Fn(&str, Option<SystemTime>) -> Liveness + Sync + 'a;

/// A process, known beyond its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The first digits of the kernel's boot id; empty in names of older versions.
    kernel: String,
    /// The inode of the process namespace, in hexadecimal digits.
    namespace: String,
    pid: u32,
    /// The start in the kernel's ticks, since numbers are used again.
    start: String,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.kernel.is_empty() {
            write!(f, "{}.{}.", self.kernel, self.namespace)?;
        }
        write!(f, "{}-{}", self.pid, self.start)
    }
}

/// Returns the name of this process.
pub fn name() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| Owner::this().to_string())
}

/// What the kernel tells of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Process {
    Runs,
    Ended,
    /// It is there, and its start cannot be read.
    Unknown,
}

impl Owner {
    /// Returns this process.
    pub fn this() -> &'static Owner {
        static THIS: OnceLock<Owner> = OnceLock::new();
        THIS.get_or_init(|| {
            // What cannot be read is like nothing else: then nobody else is judged by the kernel.
            let unknown = || format!("{:012x}", rand::random::<u64>() >> 16);
            let kernel = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
            let kernel = kernel.map(|id| id.trim().replace('-', "").chars().take(12).collect());
            let kernel = kernel.filter(|id: &String| id.len() == 12).unwrap_or_else(unknown);
            Owner {
                kernel,
                namespace: namespace().unwrap_or_else(unknown),
                pid: std::process::id(),
                start: read_stat("self").map_or_else(|| "0".to_owned(), |(_, start)| start),
            }
        })
    }

    /// Reads a name, and whatever follows it after a dash.
    pub fn parse(text: &str) -> Option<Owner> {
        let mut parts = text.splitn(3, '-');
        let (process, start) = (parts.next()?, parts.next()?);
        if start.is_empty() || !start.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let mut fields = process.split('.');
        let (kernel, namespace, pid) = match (fields.next()?, fields.next(), fields.next()) {
            (pid, None, None) => ("", "", pid),
            (kernel, Some(namespace), Some(pid)) if fields.next().is_none() => {
                (kernel, namespace, pid)
            }
            _ => return None,
        };
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !digits(kernel) || !digits(namespace) {
            return None;
        }
        Some(Owner {
            kernel: kernel.to_owned(),
            namespace: namespace.to_owned(),
            pid: pid.parse().ok()?,
            start: start.to_owned(),
        })
    }

    /// Tells whether it is a process of this namespace, so that the kernel knows it by its number.
    pub fn is_here(&self) -> bool {
        let this = Owner::this();
        self.kernel == this.kernel && self.namespace == this.namespace
    }

    fn process(&self) -> Process {
        let pid = i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw);
        let Some(pid) = pid else { return Process::Ended };
        if rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH) {
            return Process::Ended;
        }
        // `/proc` may be that of another namespace, or hide the processes of other users.
        if !proc_is_ours() || self.start == "0" {
            return Process::Unknown;
        }
        match read_stat(&self.pid.to_string()) {
            None => Process::Unknown,
            Some((_, start)) if start != self.start => Process::Ended,
            Some(('Z' | 'X', _)) => Process::Ended,
            Some(_) => Process::Runs,
        }
    }
}

/// Reads the state and the start of a process.
fn read_stat(process: &str) -> Option<(char, String)> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The command in field 2 may hold spaces and parentheses; the start time is field 22.
    let mut after = stat.rsplit_once(')')?.1.split_whitespace();
    let state = after.next()?.chars().next()?;
    Some((state, after.nth(18)?.to_owned()))
}

/// Returns the inode of this process's namespace of processes.
fn namespace() -> Option<String> {
    let link = fs::read_link("/proc/self/ns/pid").ok()?;
    let inode = link.to_str()?.strip_prefix("pid:[")?.strip_suffix(']')?.parse::<u64>().ok()?;
    Some(format!("{inode:x}"))
}

/// Tells whether `/proc` shows the processes of this namespace: then this one has one number there,
/// and not one for each namespace on the way.
pub(crate) fn proc_is_ours() -> bool {
    static OURS: OnceLock<bool> = OnceLock::new();
    *OURS.get_or_init(|| {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        numbers.is_some_and(|numbers| numbers.trim() == std::process::id().to_string())
    })
}

/// What the lock file of an owner says.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Note {
    /// The host, for people.
    host: String,
    /// Whether a free lock means that the owner is gone, whatever kernel looks at it.
    locks: bool,
}

/// The owners of a state directory.
#[derive(Debug, Clone)]
pub struct Owners {
    dir: PathBuf,
}

/// What this process holds: for each directory its lock, and how often it was asked for.
static HELD: LazyLock<Mutex<HashMap<PathBuf, (usize, File)>>> = LazyLock::new(Mutex::default);

/// Says that this process lives, until the last is dropped.
#[derive(Debug)]
pub struct Held {
    path: PathBuf,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((count, _)) = held.get_mut(&self.path) else { return };
        *count -= 1;
        if *count == 0 {
            let _ = fs::remove_file(&self.path);
            held.remove(&self.path);
        }
    }
}

impl Owners {
    /// The owners of a state directory.
    pub fn of(state_dir: &Path) -> Owners {
        Owners { dir: state_dir.join(DIRECTORY) }
    }

    /// Makes this process one of them. It comes before anything that it owns.
    pub fn hold(&self) -> io::Result<Held> {
        fs::create_dir_all(&self.dir)?;
        let path = self.dir.canonicalize()?.join(name());
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((count, file)) = held.get_mut(&path)
            && is_named(file, &path)
        {
            *count += 1;
            return Ok(Held { path });
        }
        let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
        let shared = file_system::network(&self.dir)?.is_some();
        // Whoever looks whether it is free has it for a moment.
        let locked = file.lock().is_ok();
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let note = Note { host, locks: locked && !shared };
        file.set_len(0)?;
        file.write_all(&serde_json::to_vec(&note).expect("a note is valid JSON"))?;
        if shared || !locked {
            beat(path.clone());
        }
        let count = held.get(&path).map_or(0, |(count, _)| *count) + 1;
        held.insert(path.clone(), (count, file));
        Ok(Held { path })
    }

    /// Judges an owner; see [`Judge`].
    pub fn judge(&self, name: &str, made: Option<SystemTime>) -> Liveness {
        let Some(owner) = Owner::parse(name) else { return by_age(made) };
        let seen = match owner.is_here() {
            true => owner.process(),
            // The name of an older version says nothing of the host.
            false if owner.kernel.is_empty() && owner.process() == Process::Runs => Process::Runs,
            false => Process::Unknown,
        };
        if seen == Process::Runs {
            return Liveness::Alive;
        }
        match self.lock_of(&owner) {
            Lock::Held => Liveness::Alive,
            _ if seen == Process::Ended => Liveness::Dead,
            Lock::Free => Liveness::Dead,
            Lock::Silent(beat) => by_age(beat),
            Lock::Absent => by_age(made),
        }
    }

    fn lock_of(&self, owner: &Owner) -> Lock {
        let path = self.dir.join(owner.to_string());
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Lock::Absent,
            Err(_) => return Lock::Silent(None),
        };
        let beat = file.metadata().and_then(|found| found.modified()).ok();
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => return Lock::Held,
            Err(TryLockError::Error(_)) => return Lock::Silent(beat),
            Ok(()) => {}
        }
        // Kernels see the locks of each other only where the disk is in one of them; and a note that
        // is not written yet says nothing.
        let note = io::read_to_string(&file).ok();
        let note: Option<Note> = note.and_then(|text| serde_json::from_str(&text).ok());
        let Some(note) = note else { return Lock::Silent(beat) };
        let same = owner.kernel == Owner::this().kernel;
        let local = || file_system::network(&self.dir).is_ok_and(|network| network.is_none());
        match note.locks && (same || local()) {
            true => Lock::Free,
            false => Lock::Silent(beat),
        }
    }

    /// Removes lock files of owners that died long ago.
    pub fn sweep(&self) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let changed = entry.metadata().and_then(|found| found.modified()).ok();
            let age = changed.and_then(|changed| changed.elapsed().ok());
            if age.is_some_and(|age| age > LOCK_FILES) && self.judge(&name, None) == Liveness::Dead
            {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// The lock of an owner, as it is seen from here.
enum Lock {
    Held,
    /// Its holder is gone.
    Free,
    /// Locks say nothing here; when the owner last said that it lives.
    Silent(Option<SystemTime>),
    Absent,
}

/// Judges what nobody can be asked about.
fn by_age(since: Option<SystemTime>) -> Liveness {
    match since.and_then(|since| since.elapsed().ok()) {
        Some(age) if age > FORGOTTEN => Liveness::Dead,
        _ => Liveness::Elsewhere,
    }
}

/// Says from time to time that this process lives, by the time of its lock file.
fn beat(path: PathBuf) {
    let beats = move || loop {
        std::thread::sleep(BEAT);
        let held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((_, file)) = held.get(&path) else { return };
        let _ = file.set_modified(SystemTime::now());
    };
    let _ = std::thread::Builder::new().name("owner".to_owned()).spawn(beats);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(kernel: &str, namespace: &str, pid: u32, start: &str) -> Owner {
        let (kernel, namespace, start) = (kernel.into(), namespace.into(), start.into());
        Owner { kernel, namespace, pid, start }
    }

    fn elsewhere() -> Owner {
        Owner { namespace: "ffff".to_owned(), ..Owner::this().clone() }
    }

    fn old() -> Option<SystemTime> {
        Some(SystemTime::now() - FORGOTTEN - Duration::from_secs(60))
    }

    #[test]
    fn a_name_is_read_back_with_whatever_follows_it() {
        let this = Owner::this();
        assert_eq!(Owner::parse(name()).as_ref(), Some(this));
        assert_eq!(Owner::parse(&format!("{}-part", name())).as_ref(), Some(this));
        assert_eq!(Owner::parse("12-345"), Some(owner("", "", 12, "345")));
        for bad in ["nonsense", "a-b", "1.2-3", "x.y.1-2", "1.2.3.4-5", "", "-1", "test-0a1b"] {
            assert_eq!(Owner::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn this_process_is_alive_and_its_namesake_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let owners = Owners::of(dir.path());
        assert_eq!(owners.judge(name(), None), Liveness::Alive);
        assert_eq!(owners.judge(&format!("{}-part", name()), None), Liveness::Alive);
        let namesake = Owner { start: "1".to_owned(), ..Owner::this().clone() };
        assert_eq!(owners.judge(&namesake.to_string(), None), Liveness::Dead);
    }

    #[test]
    fn a_process_that_nobody_waited_for_is_dead() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let (_, start) = read_stat(&child.id().to_string()).unwrap();
        let other = Owner { pid: child.id(), start, ..Owner::this().clone() }.to_string();
        let owners = Owners::of(dir.path());
        assert_eq!(owners.judge(&other, None), Liveness::Alive);
        child.kill().unwrap();
        while owners.judge(&other, None) == Liveness::Alive {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(owners.judge(&other, None), Liveness::Dead);
        child.wait().unwrap();
        assert_eq!(owners.judge(&other, None), Liveness::Dead);
    }

    #[test]
    fn who_is_elsewhere_is_judged_by_its_lock_and_without_one_by_age() {
        let dir = tempfile::tempdir().unwrap();
        let owners = Owners::of(dir.path());
        let other = elsewhere().to_string();
        assert_eq!(owners.judge(&other, Some(SystemTime::now())), Liveness::Elsewhere);
        assert_eq!(owners.judge(&other, None), Liveness::Elsewhere);
        assert_eq!(owners.judge(&other, old()), Liveness::Dead);
        let path = dir.path().join(DIRECTORY).join(&other);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, r#"{"host":"x","locks":true}"#).unwrap();
        let file = File::open(&path).unwrap();
        file.lock().unwrap();
        assert_eq!(owners.judge(&other, old()), Liveness::Alive, "its lock counts, not its age");
        drop(file);
        assert_eq!(owners.judge(&other, None), Liveness::Dead);
        fs::write(&path, r#"{"host":"x","locks":false}"#).unwrap();
        assert_eq!(owners.judge(&other, old()), Liveness::Elsewhere, "it said so a moment ago");
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_modified(old().unwrap()).unwrap();
        assert_eq!(owners.judge(&other, None), Liveness::Dead);
    }

    #[test]
    fn what_another_kernel_left_on_this_disk_is_nobodys() {
        let dir = tempfile::tempdir().unwrap();
        let owners = Owners::of(dir.path());
        let other = owner("0123456789ab", "f0000001", 1, "2").to_string();
        fs::create_dir_all(dir.path().join(DIRECTORY)).unwrap();
        fs::write(dir.path().join(DIRECTORY).join(&other), r#"{"host":"x","locks":true}"#).unwrap();
        assert_eq!(owners.judge(&other, None), Liveness::Dead, "before the last start");
    }

    #[test]
    fn names_of_older_versions_and_of_nobody_wait_for_their_age() {
        let dir = tempfile::tempdir().unwrap();
        let owners = Owners::of(dir.path());
        let this = Owner::this();
        assert_eq!(owners.judge(&format!("{}-{}", this.pid, this.start), old()), Liveness::Alive);
        for name in ["4194304-1", "nonsense"] {
            assert_eq!(owners.judge(name, Some(SystemTime::now())), Liveness::Elsewhere);
            assert_eq!(owners.judge(name, old()), Liveness::Dead);
        }
    }

    #[test]
    fn a_lock_is_held_as_long_as_anybody_asks_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let owners = Owners::of(dir.path());
        let path = dir.path().join(DIRECTORY).join(name());
        let (one, two) = (owners.hold().unwrap(), owners.hold().unwrap());
        drop(one);
        let file = File::open(&path).unwrap();
        assert!(matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)));
        drop(two);
        assert!(!path.exists());
        drop(owners.hold().unwrap());
    }

    #[test]
    fn lock_files_go_long_after_their_owners() {
        let dir = tempfile::tempdir().unwrap();
        let owners = Owners::of(dir.path());
        let held = owners.hold().unwrap();
        let path = |name: &str| dir.path().join(DIRECTORY).join(name);
        let other = elsewhere();
        let young = Owner { pid: other.pid + 1, ..other.clone() }.to_string();
        for name in [&other.to_string(), &young] {
            fs::write(path(name), r#"{"host":"x","locks":true}"#).unwrap();
        }
        let long_ago = SystemTime::now() - LOCK_FILES - Duration::from_secs(60);
        for name in [other.to_string(), name().to_owned()] {
            let file = OpenOptions::new().write(true).open(path(&name)).unwrap();
            file.set_modified(long_ago).unwrap();
        }
        owners.sweep();
        assert!(!path(&other.to_string()).exists());
        assert!(path(&young).exists() && path(name()).exists());
        drop(held);
    }
}
