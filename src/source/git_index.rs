//! The `.git/index` of a checkout, version 2 of gitformat-index(5), with the times and sizes that
//! the files have in the layer, so that the first `git status` need not read them.

use sha1::{Digest as _, Sha1};

/// One tracked path.
pub(super) struct IndexEntry<'a> {
    /// Relative to the work tree, with `/`.
    pub path: &'a [u8],
    /// `0o100644`, `0o100755`, `0o120000` or `0o160000`.
    pub mode: u32,
    /// The blob.
    pub id: [u8; 20],
    /// Bytes of the file in the work tree.
    pub size: u64,
    /// Seconds since 1970.
    pub mtime: i64,
}

/// Returns the bytes of an index. Entries are in the order of their paths' bytes.
pub(super) fn write(entries: &[IndexEntry<'_>]) -> Vec<u8> {
    debug_assert!(entries.is_sorted_by(|one, other| one.path < other.path));
    let mut out = Vec::with_capacity(entries.len() * 100);
    out.extend_from_slice(b"DIRC\0\0\0\x02");
    out.extend_from_slice(&(entries.len() as u32).to_be_bytes());
    for entry in entries {
        let start = out.len();
        let mtime = entry.mtime as u32;
        // ctime, mtime, device, inode, mode, uid, gid, size: with `core.checkStat=minimal` git
        // compares mtime and size.
        for field in [mtime, 0, mtime, 0, 0, 0, entry.mode, 0, 0, entry.size as u32] {
            out.extend_from_slice(&field.to_be_bytes());
        }
        out.extend_from_slice(&entry.id);
        let flags = entry.path.len().min(0xfff) as u16;
        out.extend_from_slice(&flags.to_be_bytes());
        out.extend_from_slice(entry.path);
        let padding = 8 - (out.len() - start) % 8;
        out.resize(out.len() + padding, 0);
    }
    let checksum: [u8; 20] = Sha1::digest(&out).into();
    out.extend_from_slice(&checksum);
    out
}
