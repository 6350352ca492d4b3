//! Checkout layers: a repository at one commit, as a tar written straight from git objects.
//!
//! The layer holds the work tree as `git clone` on Linux would leave it, without regard to
//! `export-ignore` and `export-subst`, and a `.git` with that commit and nothing else: a detached
//! `HEAD`, one pack, an index. No refs, tags, reflogs, alternates, remotes or hooks.
//!
//! Most files of a repository are the same in hundreds of checkouts. So the work tree of an older
//! commit, the newest of the main line before the half-year of the commit, is a layer of its own,
//! which all checkouts of that half-year share, with its objects one by one; the layer on top holds
//! what differs, and deletes the objects that are not the commit's own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::engine::LayerFile;

use super::difference::{ancestors, difference};
use super::git_index::{self, IndexEntry};
use super::layer::{FileMode, LayerWriter};
use super::mirror::{Commit, Mirror};
use super::pack::{self, ObjectKind, PackObject};
use super::{SourceError, Submodule};

/// How a checkout layer is written.
#[derive(Debug, Clone)]
pub struct CheckoutOptions {
    root: String,
    shared: Option<PathBuf>,
}

impl CheckoutOptions {
    /// A checkout below `root` (relative to `/`) with the history of depth 1: the commit alone.
    pub fn depth1(root: &str) -> Self {
        CheckoutOptions { root: root.to_owned(), shared: None }
    }

    /// Splits the checkout: what others share goes to a layer at `path`.
    #[must_use]
    pub fn shared(self, path: &Path) -> Self {
        CheckoutOptions { shared: Some(path.to_owned()), ..self }
    }
}

/// A written checkout layer.
#[derive(Debug)]
pub struct CheckoutLayer {
    /// The tar of what others share, below `file`; none where the history is not there or not long
    /// enough.
    pub shared: Option<LayerFile>,
    /// The tar.
    pub file: LayerFile,
    /// Entries in the tar.
    pub entries: usize,
    /// Submodules, which stay empty directories.
    pub submodules: Vec<Submodule>,
    /// The committer's time in seconds since 1970: what files of the layer have as their time,
    /// unless it is before 1980. Those of the shared layer have the time of its commit.
    pub commit_time: i64,
}

/// The kind of a tree entry that is not a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryKind {
    File(FileMode),
    Symlink,
    Submodule,
}

impl EntryKind {
    fn mode(self) -> u32 {
        match self {
            EntryKind::File(FileMode::Plain) => 0o100644,
            EntryKind::File(FileMode::Executable) => 0o100755,
            EntryKind::Symlink => 0o120000,
            EntryKind::Submodule => 0o160000,
        }
    }
}

/// A tree with everything below it.
pub(super) struct Listing {
    pub trees: Vec<([u8; 20], Vec<u8>)>,
    pub directories: Vec<Vec<u8>>,
    pub files: BTreeMap<Vec<u8>, (EntryKind, [u8; 20])>,
}

/// A shared layer, and the files of the work tree and the objects in it.
struct Shared {
    files: BTreeMap<Vec<u8>, (EntryKind, [u8; 20])>,
    objects: BTreeSet<[u8; 20]>,
    mtime: i64,
    file: LayerFile,
}

/// Returns when the half-year of a time began, in UTC; both in seconds since 1970.
fn half_year(time: i64) -> i64 {
    let Ok(time) = jiff::Timestamp::from_second(time) else { return time };
    let day = time.to_zoned(jiff::tz::TimeZone::UTC).date();
    let start = jiff::civil::date(day.year(), if day.month() < 7 { 1 } else { 7 }, 1);
    let start = start.to_zoned(jiff::tz::TimeZone::UTC);
    start.map_or(0, |start| start.timestamp().as_second())
}

/// ZIP files, and so wheels, cannot hold times before 1980.
pub(super) fn layer_time(commit_time: i64) -> i64 {
    const YEAR_1980: i64 = 315_532_800;
    commit_time.max(YEAR_1980)
}

impl Mirror {
    /// Writes the checkout layer of `commit` to `out`: equal commits give equal bytes.
    pub fn write_checkout(
        &self,
        commit: &str,
        options: &CheckoutOptions,
        out: &Path,
    ) -> Result<CheckoutLayer, SourceError> {
        let head = self.commit(commit)?;
        let listing = self.list(head.tree)?;
        let mtime = layer_time(head.time);
        let below = match &options.shared {
            Some(path) => self.write_shared(&head, &options.root, path)?,
            None => None,
        };
        let is_shared = |path: &[u8], entry: &(EntryKind, [u8; 20])| {
            below.as_ref().is_some_and(|below| below.files.get(path) == Some(entry))
        };
        let blobs: Vec<[u8; 20]> = {
            let mut ids: Vec<[u8; 20]> = listing
                .files
                .values()
                .filter(|(kind, _)| *kind != EntryKind::Submodule)
                .map(|(_, id)| *id)
                .collect();
            ids.sort_unstable();
            ids.dedup();
            ids
        };
        let contents: Vec<Vec<u8>> = blobs
            .par_iter()
            .map_init(|| self.local(), |repo, id| repo.object(id))
            .collect::<Result<_, SourceError>>()?;
        let content = |id: &[u8; 20]| {
            // The commit of a submodule is not an object of this repository.
            blobs.binary_search(id).map_or(&[][..], |at| contents[at].as_slice())
        };

        let mut objects =
            vec![PackObject { id: head.id, kind: ObjectKind::Commit, data: &head.data }];
        for (id, data) in &listing.trees {
            objects.push(PackObject { id: *id, kind: ObjectKind::Tree, data });
        }
        for (id, data) in blobs.iter().zip(&contents) {
            objects.push(PackObject { id: *id, kind: ObjectKind::Blob, data });
        }
        let mut kept: BTreeSet<String> = BTreeSet::new();
        if let Some(below) = &below {
            objects.retain(|object| {
                let shared = below.objects.contains(&object.id);
                if shared {
                    kept.insert(pack::loose_path(&object.id));
                }
                !shared
            });
        }
        let pack = pack::write(objects);
        let index: Vec<IndexEntry<'_>> = listing
            .files
            .iter()
            .map(|(path, (kind, id))| IndexEntry {
                path,
                mode: kind.mode(),
                id: *id,
                size: content(id).len() as u64,
                mtime: match &below {
                    Some(below) if is_shared(path, &(*kind, *id)) => below.mtime,
                    _ => mtime,
                },
            })
            .collect();
        let index = git_index::write(&index);
        let changed = |(path, entry): &(&Vec<u8>, &(EntryKind, [u8; 20]))| !is_shared(path, entry);
        let nothing = BTreeMap::new();
        let old = below.as_ref().map_or(&nothing, |below| &below.files);
        let shared_objects: Vec<String> =
            below.iter().flat_map(|below| &below.objects).map(pack::loose_path).collect();
        let paths = listing.files.keys().map(Vec::as_slice);
        let difference = difference(
            old.keys().map(Vec::as_slice).chain(shared_objects.iter().map(String::as_bytes)),
            &paths.chain(kept.iter().map(String::as_bytes)).collect(),
            listing.files.iter().filter(changed).map(|(path, _)| path.as_slice()),
        );

        let write = || -> std::io::Result<(LayerFile, usize)> {
            let mut layer = LayerWriter::create(out)?;
            let root = options.root.as_bytes();
            let at = |path: &[u8]| [root, b"/", path].concat();
            layer.directory(root, mtime)?;
            let plain = FileMode::Plain;
            let own = [
                ".git",
                ".git/info",
                ".git/objects",
                ".git/objects/info",
                ".git/objects/pack",
                ".git/refs",
                ".git/refs/heads",
                ".git/refs/tags",
            ];
            let own = own.iter().map(|directory| directory.as_bytes());
            // Each once: engines refuse a path that comes twice.
            for directory in own.chain(difference.parents).collect::<BTreeSet<_>>() {
                layer.directory(&at(directory), mtime)?;
            }
            let id = format!("{commit}\n");
            let config = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\
                          \tlogallrefupdates = true\n\tcheckStat = minimal\n\ttrustctime = false\n\
                          [gc]\n\tauto = 0\n";
            for (path, bytes) in [
                (".git/HEAD", id.as_bytes()),
                (".git/config", config.as_bytes()),
                (".git/info/exclude", b"".as_slice()),
                (".git/shallow", id.as_bytes()),
                (&format!(".git/objects/pack/pack-{}.pack", pack.name), &pack.pack),
                (&format!(".git/objects/pack/pack-{}.idx", pack.name), &pack.index),
            ] {
                layer.file(&at(path.as_bytes()), plain, mtime, bytes)?;
            }
            // Later than every file, or git would take the entries for racily clean.
            layer.file(&at(b".git/index"), plain, mtime + 1, &index)?;
            for path in &difference.whiteouts {
                layer.whiteout(&at(path), mtime)?;
            }
            for (path, (kind, id)) in listing.files.iter().filter(changed) {
                layer.entry(&at(path), *kind, mtime, content(id))?;
            }
            layer.finish()
        };
        let (file, entries) =
            write().map_err(|source| SourceError::File { path: out.to_owned(), source })?;
        let submodules = self.submodules(&listing)?;
        let shared = below.map(|below| below.file);
        Ok(CheckoutLayer { shared, file, entries, submodules, commit_time: head.time })
    }

    /// Writes the work tree that the checkouts of the half-year of `head` share.
    fn write_shared(
        &self,
        head: &Commit,
        root: &str,
        out: &Path,
    ) -> Result<Option<Shared>, SourceError> {
        let Some(ancestor) = self.main_line_before(head, half_year(head.time)) else {
            return Ok(None);
        };
        let Listing { trees, directories, files } = self.list(ancestor.tree)?;
        let mtime = layer_time(ancestor.time);
        let contents: Vec<Vec<u8>> = files
            .par_iter()
            .map_init(
                || self.local(),
                |repo, (_, (kind, id))| match kind {
                    EntryKind::Submodule => Ok(Vec::new()),
                    _ => repo.object(id),
                },
            )
            .collect::<Result<_, SourceError>>()?;
        let blobs = files
            .values()
            .zip(&contents)
            .filter(|((kind, _), _)| *kind != EntryKind::Submodule)
            .map(|((_, id), data)| (*id, (ObjectKind::Blob, data.as_slice())));
        let objects: BTreeMap<[u8; 20], (ObjectKind, &[u8])> = trees
            .iter()
            .map(|(id, data)| (*id, (ObjectKind::Tree, data.as_slice())))
            .chain(blobs)
            .collect();
        let loose: Vec<(String, Vec<u8>)> = objects
            .par_iter()
            .map(|(id, (kind, data))| (pack::loose_path(id), pack::loose(*kind, data)))
            .collect();
        let write = || -> std::io::Result<LayerFile> {
            let mut layer = LayerWriter::create(out)?;
            let at = |path: &[u8]| [root.as_bytes(), b"/", path].concat();
            layer.directory(root.as_bytes(), mtime)?;
            let above: BTreeSet<&[u8]> =
                loose.iter().flat_map(|(path, _)| ancestors(path.as_bytes())).collect();
            for directory in above {
                layer.directory(&at(directory), mtime)?;
            }
            for (path, bytes) in &loose {
                layer.file(&at(path.as_bytes()), FileMode::Plain, mtime, bytes)?;
            }
            for directory in &directories {
                layer.directory(&at(directory), mtime)?;
            }
            for ((path, (kind, _)), content) in files.iter().zip(&contents) {
                layer.entry(&at(path), *kind, mtime, content)?;
            }
            Ok(layer.finish()?.0)
        };
        let file = write().map_err(|source| SourceError::File { path: out.to_owned(), source })?;
        let objects = objects.into_keys().collect();
        Ok(Some(Shared { files, objects, mtime, file }))
    }

    fn submodules(&self, listing: &Listing) -> Result<Vec<Submodule>, SourceError> {
        let found: Vec<(&Vec<u8>, &[u8; 20])> = listing
            .files
            .iter()
            .filter(|(_, (kind, _))| *kind == EntryKind::Submodule)
            .map(|(path, (_, id))| (path, id))
            .collect();
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let urls = match listing.files.get(b".gitmodules".as_slice()) {
            Some((EntryKind::File(_), id)) => submodule_urls(&self.local().object(id)?),
            _ => BTreeMap::new(),
        };
        Ok(found
            .into_iter()
            .map(|(path, id)| {
                let path = String::from_utf8_lossy(path).into_owned();
                let url = urls.get(&path).cloned().unwrap_or_default();
                Submodule { path, url, commit: hex::encode(id) }
            })
            .collect())
    }
}

/// Reads paths and URLs from the text of a `.gitmodules`.
fn submodule_urls(text: &[u8]) -> BTreeMap<String, String> {
    let text = String::from_utf8_lossy(text);
    let mut urls = BTreeMap::new();
    for section in text.split("[submodule ").skip(1) {
        let value = |name: &str| {
            section.lines().find_map(|line| {
                let (key, value) = line.split_once('=')?;
                (key.trim() == name).then(|| value.trim().to_owned())
            })
        };
        if let (Some(path), Some(url)) = (value("path"), value("url")) {
            urls.insert(path, url);
        }
    }
    urls
}

impl LayerWriter {
    /// Adds an entry of a tree; a submodule is an empty directory.
    fn entry(
        &mut self,
        path: &[u8],
        kind: EntryKind,
        mtime: i64,
        content: &[u8],
    ) -> std::io::Result<()> {
        match kind {
            EntryKind::File(mode) => self.file(path, mode, mtime, content),
            EntryKind::Symlink => self.symlink(path, mtime, content),
            EntryKind::Submodule => self.directory(path, mtime),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_year_begins_in_january_or_july() {
        // 2020-06-30T23:59:59Z and the second after it.
        assert_eq!(half_year(1_593_561_599), 1_577_836_800);
        assert_eq!(half_year(1_593_561_600), 1_593_561_600);
    }
}
