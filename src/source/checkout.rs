//! Checkout layers: a repository at one commit, as a tar written straight from git objects.
//!
//! The layer holds the work tree as `git clone` on Linux would leave it, without regard to
//! `export-ignore` and `export-subst`, and a `.git` with that commit and nothing else: a detached
//! `HEAD`, one pack, an index. No refs, tags, reflogs, alternates, remotes or hooks.

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;

use crate::engine::LayerFile;

use super::git_index::{self, IndexEntry};
use super::layer::{FileMode, LayerWriter};
use super::mirror::Mirror;
use super::pack::{self, ObjectKind, PackObject};
use super::{SourceError, Submodule};

/// How a checkout layer is written.
#[derive(Debug, Clone)]
pub struct CheckoutOptions {
    root: String,
}

impl CheckoutOptions {
    /// A checkout below `root` (relative to `/`) with the history of depth 1: the commit alone.
    pub fn depth1(root: &str) -> Self {
        CheckoutOptions { root: root.to_owned() }
    }
}

/// A written checkout layer.
#[derive(Debug)]
pub struct CheckoutLayer {
    /// The tar.
    pub file: LayerFile,
    /// Entries in the tar.
    pub entries: usize,
    /// Submodules, which stay empty directories.
    pub submodules: Vec<Submodule>,
    /// The committer's time in seconds since 1970: what files of the layer have as their time,
    /// unless it is before 1980.
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
            let at = blobs.binary_search(id).expect("every file's blob was read");
            contents[at].as_slice()
        };

        let mut objects =
            vec![PackObject { id: head.id, kind: ObjectKind::Commit, data: &head.data }];
        for (id, data) in &listing.trees {
            objects.push(PackObject { id: *id, kind: ObjectKind::Tree, data });
        }
        for (id, data) in blobs.iter().zip(&contents) {
            objects.push(PackObject { id: *id, kind: ObjectKind::Blob, data });
        }
        let pack = pack::write(objects);
        let index: Vec<IndexEntry<'_>> = listing
            .files
            .iter()
            .map(|(path, (kind, id))| IndexEntry {
                path,
                mode: kind.mode(),
                id: *id,
                size: if *kind == EntryKind::Submodule { 0 } else { content(id).len() as u64 },
                mtime,
            })
            .collect();
        let index = git_index::write(&index);

        let write = || -> std::io::Result<(LayerFile, usize)> {
            let mut layer = LayerWriter::create(out)?;
            let root = options.root.as_bytes();
            let at = |path: &[u8]| [root, b"/", path].concat();
            layer.directory(root, mtime)?;
            let plain = FileMode::Plain;
            for directory in [
                ".git",
                ".git/info",
                ".git/objects",
                ".git/objects/info",
                ".git/objects/pack",
                ".git/refs",
                ".git/refs/heads",
                ".git/refs/tags",
            ] {
                layer.directory(&at(directory.as_bytes()), mtime)?;
            }
            let id = format!("{commit}\n");
            let config = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\
                          \tlogallrefupdates = true\n\tcheckStat = minimal\n\ttrustctime = false\n";
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
            for directory in &listing.directories {
                layer.directory(&at(directory), mtime)?;
            }
            for (path, (kind, id)) in &listing.files {
                match kind {
                    EntryKind::File(mode) => layer.file(&at(path), *mode, mtime, content(id))?,
                    EntryKind::Symlink => layer.symlink(&at(path), mtime, content(id))?,
                    EntryKind::Submodule => layer.directory(&at(path), mtime)?,
                }
            }
            layer.finish()
        };
        let (file, entries) =
            write().map_err(|source| SourceError::File { path: out.to_owned(), source })?;
        let submodules = self.submodules(&listing)?;
        Ok(CheckoutLayer { file, entries, submodules, commit_time: head.time })
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
