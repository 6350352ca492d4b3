//! The tree of a container: its layers, `/proc`, `/sys`, `/dev`, and the files that say who and
//! where it is.
//!
//! Everything is mounted in a mount namespace of the container's own and goes with it.

use std::ffi::CString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, Timespec, makedev, mknodat};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive,
    mount_change, mount_remount, unmount,
};
use rustix::thread::UnshareFlags;

use super::super::protocol::{Bind, Container, Identity, Network, Root, Step, Storage};
use super::failure::{Context as _, During as _, Failure};
use super::merge;
use crate::engine::{HostBind, SessionSettings, Tmpfs, Volume};

/// Below a container's own directory: what changes, what the kernel needs, and the tree.
pub(super) const UPPER: &str = "u";
const WORK: &str = "w";
pub(super) const TREE: &str = "m";

/// The layer below all others, which has what containers need where an image lacks it.
pub(super) const LOWEST: &str = "lowest";

/// Files of the kernel that tell of the host or change it: those that Docker masks, and what else
/// says which memory, disks, modules and start options the host has. No test needs them.
const MASKED: [&str; 31] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/cmdline",
    "/proc/config.gz",
    "/proc/interrupts",
    "/proc/iomem",
    "/proc/ioports",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/key-users",
    "/proc/keys",
    "/proc/kpagecgroup",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/latency_stats",
    "/proc/mdstat",
    "/proc/modules",
    "/proc/mtrr",
    "/proc/pagetypeinfo",
    "/proc/partitions",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/slabinfo",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/vmallocinfo",
    "/sys/block",
    "/sys/class/block",
    "/sys/devices/virtual/dmi",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// What can be read and not written.
const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// What file systems of a container never do.
const SAFE: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// Makes the tree of a container and makes it the root directory of this process.
pub(super) fn make(request: &Container, identity: &Identity) -> Result<(), Failure> {
    private()?;
    let tree = put_together(&request.root, identity)?;
    rustix::process::chdir(&tree).at("change to", &tree)?;
    for directory in ["proc", "sys", "dev", "etc"] {
        if !fs::symlink_metadata(directory).is_ok_and(|found| found.is_dir()) {
            return Err(Failure::new(
                "make the container's file systems",
                format!("`/{directory}` of the image is not a directory"),
            ));
        }
    }
    make_proc().during(Step::Mount)?;
    make_sys(request.network, identity).during(Step::Mount)?;
    make_dev(identity).during(Step::Mount)?;
    for wanted in &request.binds {
        bind(wanted)?;
    }
    mount_wanted(&request.settings)?;
    let names = Names::of(request);
    rustix::process::pivot_root(".", ".")
        .because("change the root directory")
        .during(Step::Mount)?;
    unmount(".", UnmountFlags::DETACH).because("leave the host's files").during(Step::Mount)?;
    rustix::process::chdir("/").because("change to `/`")?;
    names.mount().during(Step::Mount)?;
    mask().during(Step::Mount)?;
    match request.working_dir.as_str() {
        "" | "/" => {}
        directory => fs::create_dir_all(directory).at("make the working directory", directory)?,
    }
    for directory in &request.settings.directories {
        fs::create_dir_all(directory).at("make a directory", directory)?;
    }
    if request.settings.read_only {
        read_only(Path::new("/")).during(Step::Mount)?;
    }
    Ok(())
}

/// Returns the host name of a container.
pub(super) fn hostname(request: &Container) -> &str {
    request.settings.hostname.as_deref().unwrap_or("sandbox")
}

/// Makes mounts of this process its own.
pub(super) fn private() -> Result<(), Failure> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .because("keep mounts from the host")
        .during(Step::Mount)
}

/// Leaves the mounts of the helper for its own.
pub(super) fn unshare_mounts() -> Result<(), Failure> {
    // SAFETY: the helper has one thread, and shares no file descriptor table.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }
        .because("make a mount namespace")
        .during(Step::Namespaces)?;
    private()
}

/// Puts the layers together; returns the directory of the tree, which is a mount. The directory of
/// snapshots is the current one.
pub(super) fn put_together(root: &Root, identity: &Identity) -> Result<PathBuf, Failure> {
    let (upper, work) = (root.scratch.join(UPPER), root.scratch.join(WORK));
    let tree = root.scratch.join(TREE);
    match root.storage {
        Storage::Overlay => {
            for directory in [&upper, &work, &tree] {
                fs::create_dir(directory).at("make", directory)?;
            }
            let mut lowers = root.lowers.clone();
            lowers.push(LOWEST.to_owned());
            overlay(&lowers, Some((&upper, &work)), &tree, identity, root.throw_away)?;
        }
        Storage::Copy => {
            fs::create_dir(&tree).at("make", &tree)?;
            let layers = root.lowers.iter().map(String::as_str).chain([LOWEST]).rev();
            let layers: Vec<&Path> = layers.map(Path::new).collect();
            merge::copy_layers(&layers, &tree)?;
            mount_bind_recursive(&tree, &tree).at("mount", &tree).during(Step::Mount)?;
            // Also where the state directory is mounted so that nothing in it can be run.
            mount_remount(&tree, MountFlags::BIND | MountFlags::NODEV, c"")
                .at("mount", &tree)
                .during(Step::Mount)?;
        }
    }
    Ok(tree)
}

/// Mounts layers, the highest first, at `tree`.
pub(super) fn overlay(
    lowers: &[String],
    upper: Option<(&Path, &Path)>,
    tree: &Path,
    identity: &Identity,
    throw_away: bool,
) -> Result<(), Failure> {
    let mut options = format!("lowerdir={}", lowers.join(":"));
    if let Some((upper, work)) = upper {
        options += &format!(",upperdir={},workdir={}", upper.display(), work.display());
    }
    // What the upper directory holds is a layer: nothing in it may refer to the layers below. With
    // attributes of users the kernel has no redirects, and refuses the option.
    options += match identity.user_attributes() {
        true => ",metacopy=off,index=off,userxattr",
        false => ",redirect_dir=off,metacopy=off,index=off",
    };
    let text = |options: &str| CString::new(options).expect("options have no zero byte");
    let mounted = if throw_away && upper.is_some() {
        // Nothing of it is kept, so nothing of it need reach the disk. Before Linux 5.10 there is
        // no such option.
        match try_overlay(tree, &text(&format!("{options},volatile"))) {
            Err(rustix::io::Errno::INVAL) => try_overlay(tree, &text(&options)),
            mounted => mounted,
        }
    } else {
        try_overlay(tree, &text(&options))
    };
    mounted.because("mount layers with overlayfs").during(Step::Mount)
}

fn try_overlay(tree: &Path, options: &CString) -> rustix::io::Result<()> {
    // A device node of an image opens nothing.
    mount("overlay", tree, "overlay", MountFlags::NODEV, Some(options.as_c_str()))
}

fn make_proc() -> Result<(), Failure> {
    match mount("proc", "proc", "proc", SAFE, None) {
        Ok(()) => Ok(()),
        // In a container whose own `/proc` is masked the kernel gives no new one.
        Err(rustix::io::Errno::PERM) => {
            mount_bind_recursive("/proc", "proc").because("mount the host's /proc")
        }
        Err(error) => Err(error).because("mount /proc"),
    }
}

fn make_sys(network: Network, identity: &Identity) -> Result<(), Failure> {
    let flags = SAFE | MountFlags::RDONLY;
    match mount("sysfs", "sys", "sysfs", flags, None) {
        Ok(()) => Ok(()),
        // It belongs to the host's network, or is masked: then it is as good as empty.
        Err(rustix::io::Errno::PERM) if network == Network::Host || *identity != Identity::Root => {
            mount("tmpfs", "sys", "tmpfs", flags, Some(c"size=0,mode=555"))
                .because("mount an empty /sys")
        }
        Err(error) => Err(error).because("mount /sys"),
    }
}

fn make_dev(identity: &Identity) -> Result<(), Failure> {
    let strict = MountFlags::NOSUID | MountFlags::STRICTATIME;
    mount("tmpfs", "dev", "tmpfs", strict, Some(c"size=65536k,mode=755")).because("mount /dev")?;
    for (name, major, minor) in DEVICES {
        let node = Path::new("dev").join(name);
        let mode = Mode::from_raw_mode(0o666);
        if *identity == Identity::Root {
            let device = makedev(major, minor);
            match mknodat(CWD, &node, FileType::CharacterDevice, mode, device) {
                Ok(()) => {
                    // The umask does not apply.
                    rustix::fs::chmod(&node, mode).at("make", &node)?;
                    continue;
                }
                // A container may be root and not make devices.
                Err(rustix::io::Errno::PERM) => {}
                Err(error) => return Err(error).at("make", &node),
            }
        }
        fs::File::create(&node).at("make", &node)?;
        let host = Path::new("/dev").join(name);
        mount_bind(&host, &node).at("mount", &node)?;
    }
    for (name, target) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        let link = Path::new("dev").join(name);
        std::os::unix::fs::symlink(target, &link).at("make", &link)?;
    }
    for directory in ["dev/pts", "dev/shm", "dev/mqueue"] {
        fs::create_dir(directory).at("make", directory)?;
    }
    let options = match identity {
        Identity::Single { .. } => c"newinstance,ptmxmode=0666,mode=0620",
        _ => c"newinstance,ptmxmode=0666,mode=0620,gid=5",
    };
    let quiet = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("devpts", "dev/pts", "devpts", quiet, Some(options)).because("mount /dev/pts")?;
    mount("shm", "dev/shm", "tmpfs", SAFE, Some(c"size=65536k,mode=1777"))
        .because("mount /dev/shm")?;
    // A kernel may come without message queues.
    let _ = mount("mqueue", "dev/mqueue", "mqueue", SAFE, None);
    Ok(())
}

/// Mounts something of the host, which no link of the image leads elsewhere.
fn bind(bind: &Bind) -> Result<(), Failure> {
    let target = Path::new(bind.target.trim_start_matches('/'));
    let directory = bind.source.as_ref().is_none_or(|source| source.is_dir());
    make_target(target, directory)?;
    match &bind.source {
        None => mount("tmpfs", target, "tmpfs", SAFE, None).at("mount", target)?,
        Some(source) => mount_bind(source, target).at("mount", source)?,
    }
    if bind.read_only {
        read_only(target)?;
    }
    Ok(())
}

/// Something that a session has mounted.
enum Wanted<'a> {
    Tmpfs(&'a Tmpfs),
    Bind(&'a HostBind),
    Volume(&'a Volume),
}

/// Mounts what a session asks for, from the outside in: one may be within another.
fn mount_wanted(settings: &SessionSettings) -> Result<(), Failure> {
    let tmpfs = settings.tmpfs.iter().map(|one| (one.target.as_str(), Wanted::Tmpfs(one)));
    let volumes = settings.volumes.iter().map(|one| (one.target.as_str(), Wanted::Volume(one)));
    let binds = settings.binds.iter().map(|one| (one.target.as_str(), Wanted::Bind(one)));
    let mut all: Vec<_> = tmpfs.chain(volumes).chain(binds).collect();
    all.sort_by_key(|(target, _)| Path::new(target).components().count());
    for (_, wanted) in all {
        match wanted {
            Wanted::Tmpfs(one) => mount_tmpfs(one)?,
            Wanted::Bind(one) => bind_host(one)?,
            Wanted::Volume(one) => mount_volume(one)?,
        }
    }
    Ok(())
}

/// Mounts a volume, which gets what the image has at its place when it is empty.
fn mount_volume(volume: &Volume) -> Result<(), Failure> {
    let target = Path::new(volume.target.trim_start_matches('/'));
    make_target(target, true)?;
    let is_empty = || {
        fs::read_dir(&volume.source).map(|mut entries| entries.next().is_none()).unwrap_or(false)
    };
    if volume.copies && is_empty() {
        let mask = rustix::process::umask(Mode::empty());
        let copied = merge::copy_layers(&[target], &volume.source);
        rustix::process::umask(mask);
        copied?;
    }
    mount_bind_recursive(&volume.source, target).at("mount", &volume.source)?;
    if volume.read_only {
        read_only(target)?;
    }
    Ok(())
}

/// Mounts a file or directory of the host, with what is mounted in it.
fn bind_host(bind: &HostBind) -> Result<(), Failure> {
    let target = Path::new(bind.target.trim_start_matches('/'));
    make_target(target, bind.source.is_dir())?;
    mount_bind_recursive(&bind.source, target).at("mount", &bind.source)?;
    if bind.read_only {
        read_only(target)?;
    }
    Ok(())
}

/// Mounts a directory in memory.
fn mount_tmpfs(wanted: &Tmpfs) -> Result<(), Failure> {
    let target = Path::new(wanted.target.trim_start_matches('/'));
    make_target(target, true)?;
    let mut options = format!("mode={:o}", wanted.mode);
    if let Some(size) = wanted.size {
        options += &format!(",size={size}");
    }
    let options = CString::new(options).expect("numbers have no zero byte");
    let mut flags = SAFE;
    flags.set(MountFlags::NOEXEC, !wanted.executable);
    flags.set(MountFlags::RDONLY, wanted.read_only);
    mount("tmpfs", target, "tmpfs", flags, Some(options.as_c_str())).at("mount", target)
}

/// Makes what something is mounted on, with the time that files of a step have.
fn make_target(target: &Path, directory: bool) -> Result<(), Failure> {
    match fs::symlink_metadata(target) {
        Ok(found) if found.is_symlink() => {
            return Err(Failure::new(
                format!("mount on `/{}`", target.display()),
                "it is a link in the image: name what it leads to",
            ));
        }
        Ok(_) => return Ok(()),
        Err(_) => {}
    }
    if let Some(parent) = target.parent()
        && !parent.as_os_str().is_empty()
    {
        make_target(parent, true)?;
    }
    if directory {
        fs::create_dir(target).at("make", target)?;
    } else {
        fs::File::create(target).at("make", target)?;
    }
    let time = Timespec { tv_sec: super::super::FILE_TIME, tv_nsec: 0 };
    super::unpack::set_time(target, time)
}

/// Mounts what is mounted at `path` anew so that it cannot be written. Flags that a user namespace
/// may not take away stay.
fn read_only(path: &Path) -> Result<(), Failure> {
    let flags = MountFlags::BIND | MountFlags::RDONLY;
    let tries = [flags, flags | MountFlags::NOSUID | MountFlags::NODEV, flags | SAFE];
    let mut last = Ok(());
    for flags in tries {
        last = mount_remount(path, flags, c"");
        if last.is_ok() {
            return Ok(());
        }
    }
    last.at("make read-only", path)
}

/// The files that tell a container its names.
struct Names {
    files: Vec<(&'static str, Vec<u8>)>,
}

impl Names {
    fn of(request: &Container) -> Names {
        let read = |path: &str| fs::read(path).unwrap_or_default();
        let mut files = Vec::new();
        if request.network == Network::Host {
            files.push(("/etc/hosts", hosts(request, &request.settings.hosts).into_bytes()));
            files.push(("/etc/resolv.conf", read("/etc/resolv.conf")));
            files.push(("/etc/hostname", read("/etc/hostname")));
        } else {
            let hostname = hostname(request);
            files.push(("/etc/hosts", hosts(request, &request.settings.hosts).into_bytes()));
            files.push(("/etc/resolv.conf", Vec::new()));
            files.push(("/etc/hostname", format!("{hostname}\n").into_bytes()));
        }
        Names { files }
    }

    /// Mounts the files over those of the image. The root directory is the container's already, so
    /// that no link leads to the host.
    fn mount(&self) -> Result<(), Failure> {
        let source = "/dev/.imgforge";
        for (target, bytes) in &self.files {
            if !Path::new(target).is_file() {
                continue;
            }
            fs::write(source, bytes).at("write", target)?;
            mount_bind(source, *target).at("mount", target)?;
            fs::remove_file(source).at("write", target)?;
        }
        Ok(())
    }
}

/// Returns the names that a container knows: its own, and others with their addresses. Called where
/// `/etc/hosts` is that of the host.
pub(super) fn hosts(request: &Container, others: &[(String, String)]) -> String {
    let mut hosts = match request.network {
        Network::Host => {
            let bytes = fs::read("/etc/hosts").unwrap_or_default();
            let mut hosts = String::from_utf8_lossy(&bytes).into_owned();
            if !hosts.is_empty() && !hosts.ends_with('\n') {
                hosts.push('\n');
            }
            hosts
        }
        _ => {
            let hostname = hostname(request);
            let own = request.loopback_names.iter().map(String::as_str);
            let own: String = std::iter::once(hostname)
                .chain(own)
                .map(|name| format!("127.0.0.1\t{name}\n"))
                .collect();
            format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{own}")
        }
    };
    for (name, address) in others {
        hosts += &format!("{address}\t{name}\n");
    }
    hosts
}

/// Writes the names that the container of this process's root directory knows. The file is a mount, so
/// it stays the same one; a container that has put something else in its place keeps that.
pub(super) fn write_hosts(text: &[u8]) -> Result<(), Failure> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let path = "/etc/hosts";
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = fs::OpenOptions::new().write(true).custom_flags(flags).open(path);
    let mut file = match file {
        Ok(file) if file.metadata().is_ok_and(|found| found.is_file()) => file,
        _ => return Ok(()),
    };
    // Whoever reads meanwhile finds a whole beginning.
    file.write_all(text).at("write", path)?;
    file.set_len(text.len() as u64).at("write", path)
}

fn mask() -> Result<(), Failure> {
    for path in READ_ONLY {
        match mount_bind_recursive(path, path) {
            Ok(()) => read_only(Path::new(path))?,
            Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error).at("make read-only", path),
        }
    }
    for path in MASKED {
        let masked = match fs::metadata(path) {
            Ok(found) if found.is_dir() => {
                mount("tmpfs", path, "tmpfs", MountFlags::RDONLY, Some(c"size=0"))
            }
            Ok(_) => mount_bind("/dev/null", path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => return Err(error).at("mask", path),
        };
        masked.at("mask", path)?;
    }
    Ok(())
}

/// Tries in `directory` what containers need of the kernel and of the file system.
pub(super) fn probe(
    directory: &Path,
    storage: Storage,
    identity: &Identity,
) -> Result<(), Failure> {
    unshare_mounts()?;
    rustix::process::chdir(directory).at("change to", directory)?;
    let (lower, upper, work, tree) =
        (Path::new("l"), Path::new(UPPER), Path::new(WORK), Path::new(TREE));
    for path in [lower, upper, work, tree, Path::new("l/d")] {
        fs::create_dir(path).at("make", path)?;
    }
    fs::write("l/d/a", b"a").at("write", "l/d/a")?;
    if storage == Storage::Copy {
        return Ok(());
    }
    let lowers = ["l".to_owned()];
    overlay(&lowers, Some((upper, work)), tree, identity, false)?;
    // Deletions and replaced directories need special files and attributes.
    let action = "change files in an overlay";
    fs::remove_dir_all("m/d").because(action)?;
    fs::create_dir("m/d").because(action)?;
    fs::write("m/d/b", b"b").because(action)?;
    let names = fs::read_dir("m/d").because(action)?.count();
    if names != 1 {
        return Err(Failure::new(action, "a removed file came back"));
    }
    unmount(tree, UnmountFlags::DETACH).because("unmount an overlay")
}
