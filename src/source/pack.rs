//! A git pack of whole objects, and its index: the same objects give the same bytes, which `git
//! pack-objects` does not promise. See gitformat-pack(5).

use std::io::Write as _;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use rayon::prelude::*;
use sha1::{Digest as _, Sha1};

/// The type of a packed object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ObjectKind {
    /// A commit.
    Commit = 1,
    /// A tree.
    Tree = 2,
    /// A file's content.
    Blob = 3,
    /// An annotated tag.
    Tag = 4,
}

/// An object to pack.
pub(super) struct PackObject<'a> {
    /// Its id.
    pub id: [u8; 20],
    /// Its type.
    pub kind: ObjectKind,
    /// Its content.
    pub data: &'a [u8],
}

/// A pack with its index.
pub(super) struct Pack {
    /// The bytes of `pack-<name>.pack`.
    pub pack: Vec<u8>,
    /// The bytes of `pack-<name>.idx`.
    pub index: Vec<u8>,
    /// The name: the pack's checksum in hexadecimal digits.
    pub name: String,
}

/// Low, because writing a checkout waits for it: of what the higher levels save, a registry's own
/// compression takes most back.
const LEVEL: u32 = 1;

/// Returns the bytes of the file of an object that is in no pack, compressed as in a pack.
pub(super) fn loose(kind: ObjectKind, data: &[u8]) -> Vec<u8> {
    let name = match kind {
        ObjectKind::Commit => "commit",
        ObjectKind::Tree => "tree",
        ObjectKind::Blob => "blob",
        ObjectKind::Tag => "tag",
    };
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::new(LEVEL));
    write!(encoder, "{name} {}\0", data.len()).expect("a vector takes every byte");
    encoder.write_all(data).expect("a vector takes every byte");
    encoder.finish().expect("a vector takes every byte")
}

/// Returns the path below the git directory of the file of an object that is in no pack.
pub(super) fn loose_path(id: &[u8; 20]) -> String {
    let digits = hex::encode(id);
    format!("objects/{}/{}", &digits[..2], &digits[2..])
}

fn entry(object: &PackObject<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(object.data.len() / 2 + 16);
    let mut size = object.data.len();
    let mut byte = (object.kind as u8) << 4 | (size & 0x0f) as u8;
    size >>= 4;
    while size > 0 {
        out.push(byte | 0x80);
        byte = (size & 0x7f) as u8;
        size >>= 7;
    }
    out.push(byte);
    let mut encoder = ZlibEncoder::new(out, Compression::new(LEVEL));
    encoder.write_all(object.data).expect("a vector takes every byte");
    encoder.finish().expect("a vector takes every byte")
}

/// Packs `objects`, each id once, in the order of their ids.
pub(super) fn write(mut objects: Vec<PackObject<'_>>) -> Pack {
    objects.sort_by_key(|object| object.id);
    objects.dedup_by(|one, other| one.id == other.id);
    let entries: Vec<(Vec<u8>, u32)> = objects
        .par_iter()
        .map(|object| {
            let bytes = entry(object);
            let mut crc = flate2::Crc::new();
            crc.update(&bytes);
            (bytes, crc.sum())
        })
        .collect();
    let count = u32::try_from(objects.len()).expect("a tree has fewer than 2^32 objects");
    let total: usize = entries.iter().map(|(bytes, _)| bytes.len()).sum();
    let mut pack = Vec::with_capacity(total + 32);
    pack.extend_from_slice(b"PACK\0\0\0\x02");
    pack.extend_from_slice(&count.to_be_bytes());
    let mut offsets = Vec::with_capacity(entries.len());
    for (bytes, _) in &entries {
        offsets.push(pack.len() as u64);
        pack.extend_from_slice(bytes);
    }
    let checksum: [u8; 20] = Sha1::digest(&pack).into();
    pack.extend_from_slice(&checksum);

    let mut index = Vec::with_capacity(entries.len() * 28 + 1100);
    index.extend_from_slice(b"\xfftOc\0\0\0\x02");
    let mut seen = 0usize;
    for first in 0..=255u8 {
        seen += objects[seen..].iter().take_while(|object| object.id[0] == first).count();
        index.extend_from_slice(&(seen as u32).to_be_bytes());
    }
    for object in &objects {
        index.extend_from_slice(&object.id);
    }
    for (_, crc) in &entries {
        index.extend_from_slice(&crc.to_be_bytes());
    }
    // Offsets past 2 GiB go to a table of 64-bit numbers.
    let mut large: Vec<u64> = Vec::new();
    for offset in &offsets {
        let small = match u32::try_from(*offset) {
            Ok(small) if small < 1 << 31 => small,
            _ => {
                large.push(*offset);
                (1 << 31) | (large.len() - 1) as u32
            }
        };
        index.extend_from_slice(&small.to_be_bytes());
    }
    for offset in large {
        index.extend_from_slice(&offset.to_be_bytes());
    }
    index.extend_from_slice(&checksum);
    let own: [u8; 20] = Sha1::digest(&index).into();
    index.extend_from_slice(&own);
    Pack { pack, index, name: hex::encode(checksum) }
}
