//! How much an archive may be: a tar that somebody else made is read no further than this.
//!
//! [`Bounded`] stands between what unpacks a compressed tar and what takes it, and reads along. The
//! bounds are far above what images have, and end a bomb before it fills a disk or the memory.

use std::io::{self, Read};

/// Bytes of one unpacked layer or archive: 64 GiB. The largest known layers (compilers and libraries
/// for graphics cards) have some 10 GiB.
pub(crate) const BYTES: u64 = 64 << 30;

/// Unpacked bytes for each compressed one. Text comes to 10, a file of zeros to 1000.
const RATIO: u64 = 250;

/// So many unpacked bytes are fine whatever they were compressed to: 1 GiB.
const FREE: u64 = 1 << 30;

/// Entries of one tar. A home directory full of packages has some 500 000.
const ENTRIES: u64 = 4_000_000;

/// Bytes of a header that only says more about the next entry: 1 MiB. Linux has no path that is
/// longer than 4096 bytes, and no extended attributes of more than 64 KiB.
const EXTENDED: u64 = 1 << 20;

/// Bytes of a path: what Linux can open.
const PATH: usize = 4096;

/// Directories in a path. Deep trees of packages have some 60.
const DEPTH: usize = 256;

/// Bytes of a manifest or a config of a registry: 16 MiB. Registries take 4 MiB.
pub(crate) const DOCUMENT: u64 = 16 << 20;

const BLOCK: u64 = 512;

/// Where an archive goes beyond its bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Beyond {
    /// It unpacks to too much.
    #[error("it unpacks to more than {limit} bytes at `{entry}`")]
    Bytes {
        /// How much it may come to.
        limit: u64,
        /// Where it was then.
        entry: String,
    },
    /// It has too many entries.
    #[error("it has more than {ENTRIES} entries, at `{entry}`")]
    Entries {
        /// The first that is too many.
        entry: String,
    },
    /// A header that says more about an entry is too long.
    #[error("a header before `{entry}` has {size} bytes, {EXTENDED} is the most")]
    Header {
        /// The entry before it, or the header's own name.
        entry: String,
        /// Its bytes.
        size: u64,
    },
    /// A path is too long or too deep.
    #[error(
        "the path `{entry}` is too long or too deep: {PATH} bytes and {DEPTH} directories are the most"
    )]
    Path {
        /// How it begins.
        entry: String,
    },
    /// A sparse file is too long.
    #[error("the sparse file `{entry}` has {size} bytes, {limit} is the most")]
    Sparse {
        /// The file.
        entry: String,
        /// Its bytes.
        size: u64,
        /// How long it may be.
        limit: u64,
    },
    /// It is not a tar at some place.
    #[error("behind `{entry}` is no header of an entry")]
    NotATar {
        /// The entry before it.
        entry: String,
    },
}

impl From<Beyond> for io::Error {
    fn from(beyond: Beyond) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, beyond)
    }
}

/// What comes next.
enum Next {
    Header(Vec<u8>),
    /// The rest of an extended header, which is kept.
    Extended(Vec<u8>, u64, tar::EntryType),
    /// More of the map of a sparse file; then its data.
    Map(Vec<u8>, u64),
    Data(u64),
    End,
}

/// Hands a tar on and ends it with an error where it goes beyond its bounds.
pub(crate) struct Bounded<R> {
    inner: R,
    limit: u64,
    passed: u64,
    entries: u64,
    /// What sparse files come to.
    sparse: u64,
    entry: String,
    next: Next,
    /// What extended headers said of the next entry.
    size: Option<u64>,
    real_size: Option<u64>,
}

impl<R: Read> Bounded<R> {
    /// Bounds a tar that was unpacked from so many bytes.
    pub(crate) fn new(inner: R, compressed: u64) -> Bounded<R> {
        let limit = compressed.saturating_mul(RATIO).clamp(FREE, BYTES);
        Bounded::with_limit(inner, limit)
    }

    fn with_limit(inner: R, limit: u64) -> Bounded<R> {
        Bounded {
            inner,
            limit,
            passed: 0,
            entries: 0,
            sparse: 0,
            entry: String::new(),
            next: Next::Header(Vec::new()),
            size: None,
            real_size: None,
        }
    }

    /// Takes the bytes that pass.
    fn pass(&mut self, mut bytes: &[u8]) -> Result<(), Beyond> {
        self.passed += bytes.len() as u64;
        if self.passed > self.limit {
            return Err(Beyond::Bytes { limit: self.limit, entry: self.entry.clone() });
        }
        while !bytes.is_empty() {
            let next = std::mem::replace(&mut self.next, Next::End);
            self.next = match next {
                Next::End => return Ok(()),
                Next::Data(left) => {
                    let count = left.min(bytes.len() as u64);
                    bytes = &bytes[count as usize..];
                    after(left - count)
                }
                Next::Header(mut block) => match fill(&mut block, &mut bytes, BLOCK) {
                    true => self.header(&block)?,
                    false => Next::Header(block),
                },
                Next::Map(mut block, size) => match fill(&mut block, &mut bytes, BLOCK) {
                    // The same place as in the structure of the archive's other readers.
                    true if block[504] != 0 => Next::Map(Vec::new(), size),
                    true => after(size.next_multiple_of(BLOCK)),
                    false => Next::Map(block, size),
                },
                Next::Extended(mut text, size, kind) => {
                    let padded = size.next_multiple_of(BLOCK);
                    match fill(&mut text, &mut bytes, padded) {
                        true => {
                            text.truncate(size as usize);
                            self.extended(&text, kind)?;
                            Next::Header(Vec::new())
                        }
                        false => Next::Extended(text, size, kind),
                    }
                }
            };
        }
        Ok(())
    }

    fn header(&mut self, block: &[u8]) -> Result<Next, Beyond> {
        if block.iter().all(|byte| *byte == 0) {
            return Ok(Next::End);
        }
        let before = self.entry.clone();
        let not_a_tar = || Beyond::NotATar { entry: before.clone() };
        let header = tar::Header::from_byte_slice(block);
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        let own: u32 = block[148..156].iter().map(|byte| u32::from(*byte)).sum();
        if header.cksum().map_err(|_| not_a_tar())? != sum - own + 8 * 32 {
            return Err(not_a_tar());
        }
        let size = header.entry_size().map_err(|_| not_a_tar())?;
        let kind = header.entry_type();
        if kind.is_pax_local_extensions()
            || kind.is_pax_global_extensions()
            || kind.is_gnu_longname()
            || kind.is_gnu_longlink()
        {
            if size > EXTENDED {
                return Err(Beyond::Header { entry: self.entry.clone(), size });
            }
            return Ok(match size {
                0 => Next::Header(Vec::new()),
                size => Next::Extended(Vec::new(), size, kind),
            });
        }
        self.entry = shown(&header.path_bytes());
        self.path(&header.path_bytes())?;
        self.entries += 1;
        if self.entries > ENTRIES {
            return Err(Beyond::Entries { entry: self.entry.clone() });
        }
        let size = self.size.take().unwrap_or(size);
        let mut real = self.real_size.take();
        let old_sparse = header.as_gnu().filter(|_| kind.is_gnu_sparse());
        if let Some(gnu) = old_sparse {
            real = Some(gnu.real_size().map_err(|_| not_a_tar())?);
        }
        if let Some(real) = real {
            self.sparse = self.sparse.saturating_add(real);
            if self.sparse > BYTES {
                let entry = self.entry.clone();
                return Err(Beyond::Sparse { entry, size: real, limit: BYTES });
            }
        }
        if size > self.limit {
            return Err(Beyond::Bytes { limit: self.limit, entry: self.entry.clone() });
        }
        Ok(match old_sparse.is_some_and(tar::GnuHeader::is_extended) {
            true => Next::Map(Vec::new(), size),
            false => after(size.next_multiple_of(BLOCK)),
        })
    }

    /// Takes what says more about the next entry.
    fn extended(&mut self, text: &[u8], kind: tar::EntryType) -> Result<(), Beyond> {
        if kind.is_gnu_longname() || kind.is_gnu_longlink() {
            return self.path(text);
        }
        for extension in tar::PaxExtensions::new(text) {
            // What cannot be read is an error of whoever reads the archive.
            let Ok(extension) = extension else { continue };
            let value = extension.value_bytes();
            let number = || std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            match extension.key_bytes() {
                b"path" | b"linkpath" | b"GNU.sparse.name" => self.path(value)?,
                b"size" if kind.is_pax_local_extensions() => self.size = number(),
                b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.real_size = number(),
                _ => {}
            }
        }
        Ok(())
    }

    fn path(&self, path: &[u8]) -> Result<(), Beyond> {
        let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).count();
        match path.len() > PATH + 1 || parts > DEPTH {
            true => Err(Beyond::Path { entry: shown(path) }),
            false => Ok(()),
        }
    }
}

/// Fills a buffer to its size; tells whether it is full.
fn fill(buffer: &mut Vec<u8>, bytes: &mut &[u8], size: u64) -> bool {
    let missing = (size as usize).saturating_sub(buffer.len()).min(bytes.len());
    buffer.extend_from_slice(&bytes[..missing]);
    *bytes = &bytes[missing..];
    buffer.len() as u64 >= size
}

fn after(left: u64) -> Next {
    match left {
        0 => Next::Header(Vec::new()),
        left => Next::Data(left),
    }
}

/// Returns the beginning of a path as people are shown it.
fn shown(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(&path[..path.len().min(200)]);
    text.trim_end_matches('\0').escape_debug().to_string()
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.pass(&buffer[..count])?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a tar goes beyond, read in pieces of every kind of size.
    fn beyond(tar: &[u8], limit: u64) -> Option<Beyond> {
        let mut found = None;
        for piece in [1, 7, 512, 4096, 1 << 20] {
            let mut bounded = Bounded::with_limit(tar, limit);
            let mut buffer = vec![0; piece];
            let ended = loop {
                match bounded.read(&mut buffer) {
                    Ok(0) => break None,
                    Ok(_) => {}
                    Err(error) => break Some(error.downcast::<Beyond>().unwrap()),
                }
            };
            // The place in a message depends on the size of pieces.
            let same = |one: &Option<Beyond>, other: &Option<Beyond>| {
                one.as_ref().map(std::mem::discriminant)
                    == other.as_ref().map(std::mem::discriminant)
            };
            assert!(piece == 1 || same(&found, &ended), "{piece}: {found:?} {ended:?}");
            found = ended;
        }
        found
    }

    fn header(kind: tar::EntryType, name: &str, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_path(name).unwrap();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(size);
        header.set_cksum();
        header
    }

    fn block(header: &tar::Header) -> Vec<u8> {
        header.as_bytes().to_vec()
    }

    #[test]
    fn an_honest_tar_passes_whole() {
        let mut builder = tar::Builder::new(Vec::new());
        let long = "d/".repeat(100) + &"n".repeat(200);
        for (name, size) in [("a", 0), ("b", 1), ("c", 512), ("d", 5000), (long.as_str(), 3)] {
            let mut header = header(tar::EntryType::Regular, "x", size);
            builder.append_data(&mut header, name, &vec![7; size as usize][..]).unwrap();
        }
        let pax: [(&str, &[u8]); 2] = [("size", b"600"), ("SCHILY.xattr.user.a", &[1; 5000])];
        builder.append_pax_extensions(pax).unwrap();
        let mut tar = builder.into_inner().unwrap();
        tar.truncate(tar.len() - 1024);
        // Its own header says nothing of its size.
        tar.extend(block(&header(tar::EntryType::Regular, "e", 0)));
        tar.extend(vec![1; 1024]);
        tar.extend(block(&header(tar::EntryType::Regular, "f", 0)));
        tar.extend(vec![0; 1024]);
        assert_eq!(beyond(&tar, 1 << 20), None);
        assert_eq!(tar::Archive::new(&tar[..]).entries().unwrap().count(), 7);
    }

    #[test]
    fn what_unpacks_to_too_much_ends_there() {
        let mut tar = block(&header(tar::EntryType::Regular, "bomb", 1 << 40));
        assert_eq!(
            beyond(&tar, 1 << 20),
            Some(Beyond::Bytes { limit: 1 << 20, entry: "bomb".to_owned() })
        );
        let mut pax = tar::Builder::new(Vec::new());
        pax.append_pax_extensions([("size", &b"99999999999"[..])]).unwrap();
        tar = pax.into_inner().unwrap();
        tar.truncate(tar.len() - 1024);
        tar.extend(block(&header(tar::EntryType::Regular, "lie", 0)));
        assert!(matches!(beyond(&tar, 1 << 20), Some(Beyond::Bytes { .. })));
        // Behind its end, where nobody looks.
        let tail = vec![0; 3 << 20];
        assert!(matches!(beyond(&tail, 1 << 20), Some(Beyond::Bytes { .. })));
        let limit = |compressed| Bounded::new(io::empty(), compressed).limit;
        assert_eq!((limit(10), limit(u64::MAX)), (1 << 30, 64 << 30));
        assert_eq!(limit(100 << 20), 25_000 << 20);
    }

    #[test]
    fn headers_paths_and_sparse_files_have_a_length() {
        for kind in [
            tar::EntryType::GNULongName,
            tar::EntryType::GNULongLink,
            tar::EntryType::XHeader,
            tar::EntryType::XGlobalHeader,
        ] {
            let tar = block(&header(kind, "x", 2 << 20));
            assert!(matches!(beyond(&tar, 1 << 30), Some(Beyond::Header { .. })), "{kind:?}");
        }
        let deep = "d/".repeat(300);
        let long = "n".repeat(5000);
        for path in [&deep, &long] {
            let mut tar = block(&header(tar::EntryType::GNULongName, "x", path.len() as u64));
            tar.extend(path.as_bytes());
            tar.resize(tar.len().next_multiple_of(512), 0);
            assert!(matches!(beyond(&tar, 1 << 30), Some(Beyond::Path { .. })));
            let mut pax = tar::Builder::new(Vec::new());
            pax.append_pax_extensions([("path", path.as_bytes())]).unwrap();
            let tar = pax.into_inner().unwrap();
            assert!(matches!(beyond(&tar, 1 << 30), Some(Beyond::Path { .. })));
        }
        let mut sparse = header(tar::EntryType::GNUSparse, "sparse", 0);
        sparse.as_gnu_mut().unwrap().set_real_size(1 << 50);
        sparse.set_cksum();
        assert!(matches!(beyond(&block(&sparse), 1 << 30), Some(Beyond::Sparse { .. })));
        let mut pax = tar::Builder::new(Vec::new());
        pax.append_pax_extensions([("GNU.sparse.realsize", &b"1125899906842624"[..])]).unwrap();
        let mut tar = pax.into_inner().unwrap();
        tar.truncate(tar.len() - 1024);
        tar.extend(block(&header(tar::EntryType::Regular, "sparse", 0)));
        assert!(matches!(beyond(&tar, 1 << 30), Some(Beyond::Sparse { .. })));
    }

    #[test]
    fn what_is_no_header_is_told_with_the_entry_before_it() {
        let mut tar = block(&header(tar::EntryType::Regular, "a", 3));
        tar.extend([1; 512]);
        tar.extend([2; 512]);
        assert_eq!(beyond(&tar, 1 << 20), Some(Beyond::NotATar { entry: "a".to_owned() }));
    }
}
