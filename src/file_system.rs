//! Which file system a directory is on: what keeps a state must be a disk of this host.
//!
//! Locks of other hosts cannot be relied on over a network, memory that maps a file is not shared,
//! and overlayfs takes no such upper directory. So a state over a network is refused.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// File systems over a network, by their magic numbers; see `statfs(2)` and the sources of each.
const MAGIC: [(u32, &str); 17] = [
    (0x0000_6969, "nfs"),
    (0x0bd0_0bd0, "lustre"),
    (0x4750_4653, "gpfs"),
    (0x0000_517b, "smb"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x00c3_6400, "ceph"),
    (0x0102_1997, "9p"),
    (0x5346_414f, "afs"),
    (0x6b41_4653, "afs"),
    (0x7375_7245, "coda"),
    (0x0000_564c, "ncp"),
    (0x1983_0326, "beegfs"),
    (0xaad7_aaea, "panfs"),
    (0x2030_528d, "orangefs"),
    (0x0116_1970, "gfs2"),
    (0x7461_636f, "ocfs2"),
];

/// The same by the type of the mount: also those whose number says nothing, among them directories
/// that a virtual machine has of its host.
const TYPES: [&str; 26] = [
    "9p",
    "acfs",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "coda",
    "davfs",
    "drvfs",
    "fakeowner",
    "gfs2",
    "gpfs",
    "hgfs",
    "lustre",
    "mmfs",
    "ncpfs",
    "nfs",
    "nfs4",
    "ocfs2",
    "orangefs",
    "panfs",
    "prl_fs",
    "smb3",
    "smbfs",
    "vboxsf",
    "virtiofs",
];

/// FUSE: what is behind it is told by the type of the mount.
const FUSE: u32 = 0x6573_5546;

/// What is behind FUSE on disks of this host. Whatever else it is may be anywhere.
const LOCAL_FUSE: [&str; 11] = [
    "fuseblk",
    "fuse.fuseblk",
    "fuse.fuse-overlayfs",
    "fuse.gocryptfs",
    "fuse.encfs",
    "fuse.cryfs",
    "fuse.ext2",
    "fuse.ext4",
    "fuse.fuse2fs",
    "fuse.fuse-ext2",
    "fuse.ntfs-3g",
];

/// Returns the name of the file system that holds `path`, or is to hold it, where that is one over a
/// network.
pub(crate) fn network(path: &Path) -> io::Result<Option<String>> {
    let existing = existing(path);
    let stat = rustix::fs::statfs(&existing)?;
    let device = std::fs::metadata(&existing)?.dev();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // Numbers have 32 bits, whatever the type of the field.
    let kind = mount_type(&mounts, device);
    Ok(of_type(stat.f_type as u32, kind).map(str::to_owned))
}

/// Names the network file system of a magic number and the type of a mount.
fn of_type(magic: u32, mount: Option<&str>) -> Option<&str> {
    if magic == FUSE {
        let mount = mount.unwrap_or("fuse");
        return (!LOCAL_FUSE.contains(&mount)).then_some(mount);
    }
    let known = MAGIC.iter().find(|(number, _)| *number == magic).map(|(_, name)| *name);
    known.or(mount.filter(|mount| TYPES.contains(mount)))
}

/// Returns the nearest directory on the way to `path` that is there.
fn existing(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let found = absolute.ancestors().find(|path| path.exists());
    found.unwrap_or(Path::new("/")).to_owned()
}

/// Finds the type of the mount of a device in the text of `mountinfo`; see `proc(5)`.
fn mount_type(mounts: &str, device: u64) -> Option<&str> {
    let device = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        (before.split(' ').nth(2)? == device).then(|| after.split(' ').next())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_of_this_host_are_told_from_those_over_a_network() {
        let ext4 = 0xef53;
        for (magic, mount, expected) in [
            (ext4, Some("ext4"), None),
            (0x0102_1994, Some("tmpfs"), None),
            (0x794c_7630, Some("overlay"), None),
            (0x0000_6969, Some("nfs4"), Some("nfs")),
            (0x0bd0_0bd0, None, Some("lustre")),
            (0x4750_4653, Some("gpfs"), Some("gpfs")),
            (0xff53_4d42, Some("cifs"), Some("cifs")),
            (0x0102_1997, Some("9p"), Some("9p")),
            (0x1234, Some("virtiofs"), Some("virtiofs")),
            (0x1234, Some("vboxsf"), Some("vboxsf")),
            (FUSE, Some("fuse.sshfs"), Some("fuse.sshfs")),
            (FUSE, Some("virtiofs"), Some("virtiofs")),
            (FUSE, Some("fuse.fuse-overlayfs"), None),
            (FUSE, Some("fuseblk"), None),
            (FUSE, None, Some("fuse")),
        ] {
            assert_eq!(of_type(magic, mount), expected, "{magic:x} {mount:?}");
        }
    }

    #[test]
    fn a_mount_is_found_by_its_device_whatever_its_fields() {
        let mounts = "25 24 0:23 / /dev/shm rw,relatime - tmpfs tmpfs rw\n\
                      36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:2 - fuse.x /dev/root rw\n";
        assert_eq!(mount_type(mounts, rustix::fs::makedev(98, 0)), Some("fuse.x"));
        assert_eq!(mount_type(mounts, rustix::fs::makedev(0, 23)), Some("tmpfs"));
        assert_eq!(mount_type(mounts, 1), None);
    }

    #[test]
    fn a_directory_that_is_to_come_is_judged_by_the_one_above_it() {
        let dir = tempfile::tempdir().unwrap();
        let found = network(&dir.path().join("a/b/c")).unwrap();
        assert_eq!(found, network(dir.path()).unwrap());
        assert_eq!(existing(&dir.path().join("a/b")), dir.path());
    }
}
