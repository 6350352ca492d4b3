//! From layer to layer of a checkout: what a commit changes in the work tree and in the objects of
//! the layers below.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rayon::prelude::*;
use sha1::{Digest as _, Sha1};

use crate::engine::LayerFile;

use super::SourceError;
use super::history::{self, Commits, Objects};
use super::layer::layer_time;
use super::layer::{FileMode, LayerWriter, is_whiteout};
use super::listing::{EntryKind, Listing};
use super::mirror::{Commit, Mirror};
use super::pack::{self, ObjectKind};
use super::tree_diff::{Difference, difference};
use super::worktree::Converted;

/// A file of a work tree, and how it is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OnDisk {
    /// The kind and the blob.
    pub entry: (EntryKind, [u8; 20]),
    /// The digest of the bytes where they are not the blob's.
    converted: Option<[u8; 20]>,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Bytes.
    pub size: u64,
}

/// What the layers so far hold: the files of a work tree, and git objects, one file each.
#[derive(Debug, Default)]
pub(super) struct BelowState {
    pub files: BTreeMap<Vec<u8>, OnDisk>,
    objects: BTreeSet<[u8; 20]>,
    /// Commits before the step, and the paths of the packs that they are in. Later layers keep them:
    /// all commits of a chain come before its last.
    pub commits: BTreeSet<[u8; 20]>,
    packs: Vec<String>,
}

/// A commit's tree on top of what the layers below hold.
pub(super) struct LayerDelta<'a> {
    below: &'a BelowState,
    listing: Listing,
    mtime: i64,
    /// Blobs that are new, as objects or as files.
    contents: BTreeMap<[u8; 20], Vec<u8>>,
    /// Trees and blobs that are not of the commit's tree, and that the checkout has all the same.
    also: Objects,
    converted: Converted,
    kept: Vec<String>,
    deleted: Vec<String>,
}

impl Mirror {
    /// Compares the tree of `commit` with what is below; the last step of a checkout holds the files
    /// of the commit's parent in git, too. `scratch` is an existing directory.
    pub(super) fn step<'a>(
        &self,
        commit: &Commit,
        below: &'a BelowState,
        last: bool,
        scratch: &Path,
    ) -> Result<LayerDelta<'a>, SourceError> {
        let listing = self.list(commit.tree)?;
        if let Some(path) = listing.files.keys().find(|path| is_whiteout(path)) {
            let path = String::from_utf8_lossy(path).into_owned();
            return Err(SourceError::Whiteout { repo: self.name().to_owned(), path });
        }
        let converted = self.converted(&listing, scratch)?;
        let blobs: BTreeSet<[u8; 20]> = listing
            .files
            .iter()
            .filter(|(_, (kind, _))| *kind != EntryKind::Submodule)
            .filter(|(path, entry)| {
                !below.objects.contains(&entry.1) || !below.has(path, entry, &converted)
            })
            .map(|(_, (_, id))| *id)
            .collect();
        let blobs: Vec<[u8; 20]> = blobs.into_iter().collect();
        let contents = blobs
            .par_iter()
            .map_init(|| self.local(), |repo, id| Ok((*id, repo.object(id)?)))
            .collect::<Result<_, SourceError>>()?;
        let mut step = LayerDelta {
            below,
            listing,
            mtime: layer_time(commit.time),
            contents,
            also: Objects::new(),
            converted,
            kept: below.packs.clone(),
            deleted: Vec::new(),
        };
        if last {
            step.also = self.parent_files(commit, &step.objects())?;
        }
        let objects = step.objects();
        for id in &below.objects {
            let list = if objects.contains(id) { &mut step.kept } else { &mut step.deleted };
            list.push(format!(".git/{}", pack::loose_path(id)));
        }
        Ok(step)
    }
}

impl BelowState {
    fn has(&self, path: &[u8], entry: &(EntryKind, [u8; 20]), converted: &Converted) -> bool {
        let file = self.files.get(path);
        file.is_some_and(|file| file.entry == *entry && file.converted == digest(converted, path))
    }
}

/// Returns the digest of a file's bytes where they are not the blob's.
fn digest(converted: &Converted, path: &[u8]) -> Option<[u8; 20]> {
    converted.files.get(path).map(|bytes| Sha1::digest(bytes).into())
}

impl LayerDelta<'_> {
    /// Returns everything below the commit's tree.
    pub(super) fn listing(&self) -> &Listing {
        &self.listing
    }

    /// Returns the time of what the step changes.
    pub(super) fn mtime(&self) -> i64 {
        self.mtime
    }

    /// Lists trees and blobs, without commits.
    fn objects(&self) -> BTreeSet<[u8; 20]> {
        let trees = self.listing.trees.iter().map(|(id, _)| *id);
        trees.chain(self.listing.blobs()).chain(self.also.keys().copied()).collect()
    }

    /// Lists the objects that are not below.
    pub(super) fn new_objects(&self) -> BTreeMap<[u8; 20], (ObjectKind, &[u8])> {
        let trees =
            self.listing.trees.iter().map(|(id, data)| (*id, (ObjectKind::Tree, &data[..])));
        let blobs = self.contents.iter().map(|(id, data)| (*id, (ObjectKind::Blob, &data[..])));
        let also = self.also.iter().map(|(id, (kind, data))| (*id, (*kind, &data[..])));
        let all = trees.chain(blobs).chain(also);
        all.filter(|(id, _)| !self.below.objects.contains(id)).collect()
    }

    /// Lists the files that the step changes or makes.
    fn changed(&self) -> impl Iterator<Item = (&Vec<u8>, &(EntryKind, [u8; 20]))> {
        let has = |path: &[u8], entry| self.below.has(path, entry, &self.converted);
        self.listing.files.iter().filter(move |(path, entry)| !has(path, entry))
    }

    /// By the name of a filter that is a program: the files that it was not run for.
    pub(super) fn filters(&self) -> &BTreeMap<String, Vec<String>> {
        &self.converted.filters
    }

    /// Returns the bytes of a new file of the work tree.
    fn content(&self, path: &[u8], id: &[u8; 20]) -> &[u8] {
        let bytes = self.converted.files.get(path).or_else(|| self.contents.get(id));
        bytes.map_or(&[], Vec::as_slice)
    }

    /// Works out what goes, and the directories above changes and `also`, further files that the
    /// layer brings.
    pub(super) fn difference<'s>(&'s self, also: &'s [String]) -> Difference<'s> {
        let bytes = |path: &'s String| path.as_bytes();
        let below = self.below.files.keys().map(Vec::as_slice);
        let old = below.chain(self.kept.iter().chain(&self.deleted).map(bytes));
        let files = self.listing.files.keys().map(Vec::as_slice);
        let new = files.chain(self.kept.iter().chain(also).map(bytes)).collect();
        let changed = self.changed().map(|(path, _)| path.as_slice());
        difference(old, &new, changed.chain(also.iter().map(bytes)))
    }

    /// Writes what the step changes in the work tree.
    pub(super) fn write_files(&self, layer: &mut LayerWriter, root: &[u8]) -> std::io::Result<()> {
        for (path, (kind, id)) in self.changed() {
            let content = self.content(path, id);
            let path = [root, b"/", path].concat();
            match kind {
                EntryKind::File(mode) => layer.file(&path, *mode, self.mtime, content)?,
                EntryKind::Symlink => layer.symlink(&path, self.mtime, content)?,
                EntryKind::Submodule => layer.directory(&path, self.mtime)?,
            }
        }
        Ok(())
    }

    /// Writes a layer of what the step changes, new objects one by one, and of `commits` in a pack.
    /// Returns what the layers hold with this one, too.
    pub(super) fn write_shared(
        &self,
        commits: &Commits,
        root: &str,
        out: &Path,
    ) -> std::io::Result<(LayerFile, BelowState)> {
        let mut objects: Vec<(String, Vec<u8>)> = self
            .new_objects()
            .par_iter()
            .map(|(id, (kind, data))| {
                (format!(".git/{}", pack::loose_path(id)), pack::loose(*kind, data))
            })
            .collect();
        let pack = history::pack_files(&commits.objects);
        let mut held = self.held();
        held.packs.extend(pack.iter().map(|(path, _)| path.clone()));
        held.commits.extend(commits.objects.keys());
        objects.extend(pack);
        let paths: Vec<String> = objects.iter().map(|(path, _)| path.clone()).collect();
        let difference = self.difference(&paths);
        let mut layer = LayerWriter::create(out)?;
        let at = |path: &[u8]| [root.as_bytes(), b"/", path].concat();
        layer.directory(root.as_bytes(), self.mtime)?;
        for directory in &difference.parents {
            layer.directory(&at(directory), self.mtime)?;
        }
        for path in &difference.whiteouts {
            layer.whiteout(&at(path), self.mtime)?;
        }
        for (path, bytes) in &objects {
            layer.file(&at(path.as_bytes()), FileMode::Plain, self.mtime, bytes)?;
        }
        self.write_files(&mut layer, root.as_bytes())?;
        Ok((layer.finish()?.0, held))
    }

    /// Returns what the layers hold with this one.
    pub(super) fn held(&self) -> BelowState {
        let file = |(path, entry): (&Vec<u8>, &(EntryKind, [u8; 20]))| {
            if self.below.has(path, entry, &self.converted) {
                return (path.clone(), self.below.files[path]);
            }
            let converted = digest(&self.converted, path);
            let size = self.content(path, &entry.1).len() as u64;
            (path.clone(), OnDisk { entry: *entry, converted, mtime: self.mtime, size })
        };
        BelowState {
            files: self.listing.files.iter().map(file).collect(),
            objects: self.objects(),
            commits: self.below.commits.clone(),
            packs: self.below.packs.clone(),
        }
    }
}
