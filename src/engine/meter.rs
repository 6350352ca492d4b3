//! Measuring what a sandbox wrote, while it runs and tries not to be measured.
//!
//! The directories that take its changes are walked by open directories, so that no name, link or
//! depth leads elsewhere; then the files count that it removed and still holds open. The work is
//! done in slices, and what it costs is a small part of a processor. In between, a disk that loses
//! room begins the next walk at once.

use std::collections::{HashSet, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat};

use super::quota::{Quota, Quotas};

/// How long a slice of work takes.
const SLICE: Duration = Duration::from_millis(20);

/// How often room on the disk is looked at between walks.
const TICK: Duration = Duration::from_millis(250);

/// The least and the longest time between walks.
const REST: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// How deep directories are followed. What is nested deeper counts as too many files: no program's
/// work looks so, and each level takes an open file.
const DEPTH: usize = 256;

/// The `f_type` of file systems in memory, whose files count as memory.
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x9584_58f6];

/// What files take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Usage {
    bytes: u64,
    files: u64,
}

impl Usage {
    fn add(&mut self, blocks: u64) {
        self.bytes = self.bytes.saturating_add(blocks.saturating_mul(512));
        self.files += 1;
    }
}

/// Measures one sandbox.
pub(super) struct Meter {
    quotas: Quotas,
    /// What takes its changes.
    roots: Vec<PathBuf>,
    /// What of them was there before it.
    before: Usage,
    /// Its first process.
    first: Option<u32>,
    walk: Option<Walk>,
    next: Instant,
    /// What was free after the last walk.
    free: Option<u64>,
}

/// What the meter found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// Nothing yet: ask again after this time.
    Again(Duration),
    /// It went over a quota.
    Over(Quota),
}

impl Meter {
    /// Measures files below `roots`, and those that processes of the process namespace of `first`
    /// hold. `None` where nothing is bounded.
    pub(super) fn new(quotas: Quotas, roots: Vec<PathBuf>, first: Option<u32>) -> Option<Meter> {
        let bounded = quotas.disk.is_some() || quotas.files.is_some();
        bounded.then(|| Meter {
            quotas,
            roots,
            before: Usage::default(),
            first,
            walk: None,
            next: Instant::now() + TICK,
            free: None,
        })
    }

    /// Takes away from what is measured what was there before, below `paths`.
    #[cfg(any(test, feature = "embedded"))]
    pub(super) fn without(mut self, paths: &[PathBuf]) -> Meter {
        let mut walk = Walk::new(paths.to_vec());
        while !walk.advance(&Quotas::default(), Usage::default()).done() {}
        self.before = walk.usage;
        self
    }

    /// Works for a moment where it is time.
    pub(super) fn read(&mut self) -> Reading {
        let now = Instant::now();
        if self.walk.is_none() && now < self.next && !self.loses_room() {
            return Reading::Again(TICK.min(self.next - now));
        }
        let walk = self.walk.get_or_insert_with(|| Walk::new(self.roots.clone()));
        match walk.advance(&self.quotas, self.before) {
            Advance::Over(quota) => return Reading::Over(quota),
            Advance::Walking => return Reading::Again(SLICE),
            Advance::Done => {}
        }
        if walk.processes.is_none() {
            walk.processes = Some(self.first.map(processes_with).unwrap_or_default());
            return Reading::Again(SLICE);
        }
        let rest = (walk.worked * 20).clamp(REST.0, REST.1);
        self.walk = None;
        self.free = self.free_now();
        self.next = Instant::now() + rest;
        Reading::Again(TICK)
    }

    fn free_now(&self) -> Option<u64> {
        let stat = rustix::fs::statvfs(self.roots.first()?).ok()?;
        Some(stat.f_bfree * stat.f_frsize)
    }

    /// Tells whether the disk lost a good part of the quota since the last walk.
    fn loses_room(&self) -> bool {
        let (Some(then), Some(now), Some(disk)) = (self.free, self.free_now(), self.quotas.disk)
        else {
            return false;
        };
        then.saturating_sub(now) > (disk / 16).clamp(16 << 20, 1 << 30)
    }
}

enum Advance {
    Walking,
    Done,
    Over(Quota),
}

#[cfg(any(test, feature = "embedded"))]
impl Advance {
    fn done(&self) -> bool {
        matches!(self, Advance::Done)
    }
}

/// A walk that is under way.
struct Walk {
    roots: VecDeque<PathBuf>,
    levels: Vec<Dir>,
    /// Files with several names, which count once.
    seen: HashSet<(u64, u64)>,
    /// Processes that are still to be asked what they hold; `None` until the directories are done.
    processes: Option<VecDeque<PathBuf>>,
    usage: Usage,
    worked: Duration,
}

impl Walk {
    fn new(roots: Vec<PathBuf>) -> Walk {
        Walk {
            roots: roots.into(),
            levels: Vec::new(),
            seen: HashSet::new(),
            processes: None,
            usage: Usage::default(),
            worked: Duration::ZERO,
        }
    }

    /// Goes on for a slice.
    fn advance(&mut self, quotas: &Quotas, before: Usage) -> Advance {
        let began = Instant::now();
        let advance = loop {
            if let Some(quota) = self.over(quotas, before) {
                break Advance::Over(quota);
            }
            if self.levels.len() > DEPTH {
                if quotas.files.is_some() {
                    break Advance::Over(Quota::Files);
                }
                self.levels.pop();
            }
            if !self.take_one() {
                break Advance::Done;
            }
            if began.elapsed() > SLICE {
                break Advance::Walking;
            }
        };
        self.worked += began.elapsed();
        advance
    }

    fn over(&self, quotas: &Quotas, before: Usage) -> Option<Quota> {
        let bytes = self.usage.bytes.saturating_sub(before.bytes);
        let files = self.usage.files.saturating_sub(before.files);
        // A file that was stopped at the bound is as large as that.
        if quotas.disk.is_some_and(|most| bytes >= most) {
            return Some(Quota::Disk);
        }
        quotas.files.is_some_and(|most| files > most).then_some(Quota::Files)
    }

    /// Counts an entry, or begins or ends a directory, or asks a process; `false` when there is
    /// nothing more.
    fn take_one(&mut self) -> bool {
        let Some(level) = self.levels.last_mut() else {
            if let Some(root) = self.roots.pop_front() {
                self.levels.extend(open(CWD, root.as_os_str().as_bytes()).ok());
                return true;
            }
            let process = self.processes.as_mut().and_then(VecDeque::pop_front);
            return process.is_some_and(|process| {
                self.ask(&process);
                true
            });
        };
        let entry = match level.read() {
            Some(Ok(entry)) => entry,
            // What cannot be read any more was taken away meanwhile.
            Some(Err(_)) | None => {
                self.levels.pop();
                return true;
            }
        };
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            return true;
        }
        let Ok(directory) = level.fd() else { return true };
        let Ok(found) = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) else { return true };
        let is_directory = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
        let child = is_directory.then(|| open(directory, name.to_bytes()));
        if is_directory || found.st_nlink <= 1 || self.seen.insert((found.st_dev, found.st_ino)) {
            self.usage.add(found.st_blocks.unsigned_abs());
        }
        self.levels.extend(child.and_then(Result::ok));
        true
    }

    /// Counts files that a process holds open and that have no name any more.
    fn ask(&mut self, process: &Path) {
        for entry in fs::read_dir(process.join("fd")).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(found) = fs::metadata(&path) else { continue };
            if !found.is_file()
                || found.nlink() > 0
                || !self.seen.insert((found.dev(), found.ino()))
            {
                continue;
            }
            let in_memory =
                rustix::fs::statfs(&path).is_ok_and(|stat| IN_MEMORY.contains(&stat.f_type));
            if !in_memory {
                self.usage.add(found.blocks());
            }
        }
    }
}

fn open(at: impl std::os::fd::AsFd, name: &[u8]) -> io::Result<Dir> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd: OwnedFd = openat(at, name, flags, Mode::empty())?;
    Ok(Dir::new(fd)?)
}

/// Lists the processes that are in the process namespace of `first`, itself included.
pub(super) fn processes_with(first: u32) -> VecDeque<PathBuf> {
    let namespace = |process: &Path| fs::read_link(process.join("ns/pid")).ok();
    let Some(wanted) = namespace(&Path::new("/proc").join(first.to_string())) else {
        return VecDeque::new();
    };
    // A sandbox that is not in a namespace of its own says nothing by it.
    if namespace(Path::new("/proc/self")).as_ref() == Some(&wanted) {
        return VecDeque::new();
    }
    let is_number = |name: &OsString| name.as_bytes().iter().all(u8::is_ascii_digit);
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter(|entry| is_number(&entry.file_name()))
        .map(|entry| entry.path())
        .filter(|process| namespace(process).as_ref() == Some(&wanted))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quotas(disk: u64, files: u64) -> Quotas {
        Quotas { disk: Some(disk), files: Some(files), ..Quotas::default() }
    }

    /// Reads until something is over, or a whole walk found nothing.
    fn walked(meter: &mut Meter) -> Option<Quota> {
        meter.next = Instant::now();
        loop {
            match meter.read() {
                Reading::Over(quota) => return Some(quota),
                Reading::Again(_) if meter.walk.is_none() => return None,
                Reading::Again(_) => {}
            }
        }
    }

    #[test]
    fn bytes_and_files_are_counted_once_and_as_the_disk_does() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a/one"), vec![1; 1 << 20]).unwrap();
        for name in ["two", "three"] {
            fs::hard_link(dir.path().join("a/one"), dir.path().join(name)).unwrap();
        }
        // A hole takes nothing, and a link leads nowhere.
        fs::File::create(dir.path().join("hole")).unwrap().set_len(1 << 40).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("link")).unwrap();
        let of = |quotas| walked(&mut Meter::new(quotas, vec![dir.path().into()], None).unwrap());
        assert_eq!(of(quotas(2 << 20, 4)), None);
        assert_eq!(of(quotas(2 << 20, 3)), Some(Quota::Files));
        assert_eq!(of(quotas(1 << 20, 4)), Some(Quota::Disk));
        let meter = Meter::new(quotas(1 << 19, 1), vec![dir.path().into()], None).unwrap();
        assert_eq!(walked(&mut meter.without(&[dir.path().into()])), None);
        assert!(Meter::new(Quotas::default(), Vec::new(), None).is_none());
    }

    #[test]
    fn what_is_nested_deeper_than_any_program_nests_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let deep: PathBuf = std::iter::repeat_n("d", DEPTH + 10).collect();
        fs::create_dir_all(dir.path().join(deep)).unwrap();
        let mut meter = Meter::new(quotas(1 << 30, 9999), vec![dir.path().into()], None).unwrap();
        assert_eq!(walked(&mut meter), Some(Quota::Files));
        let unbounded = Quotas { files: None, ..quotas(1 << 30, 0) };
        let meter = Meter::new(unbounded, vec![dir.path().into()], None).unwrap();
        assert_eq!(walked(&mut meter.without(&[dir.path().into()])), None);
    }

    #[test]
    fn what_comes_after_a_walk_is_found_by_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let mut meter = Meter::new(quotas(1 << 20, 100), vec![dir.path().into()], None).unwrap();
        assert_eq!(walked(&mut meter), None);
        fs::write(dir.path().join("one"), vec![1; 1 << 20]).unwrap();
        assert_eq!(walked(&mut meter), Some(Quota::Disk));
    }
}
