//! What a checkout knows of the time before its commit: every commit that it comes from, without
//! their files, and the tags among them.
//!
//! That is what `git describe`, and with it setuptools_scm, versioneer, hatch-vcs, pbr and dunamai,
//! ask for: the nearest tag, and how many commits lie between. Only commits count for it, so trees
//! and files of earlier commits stay out (but for the trees of root commits, which `git log
//! --simplify-by-decoration` reads, and for the parent of the commit, so that `git show` works). To
//! git such a checkout is a partial clone whose remote is not there. A tag whose commit is not an
//! ancestor is not in a checkout, and nothing of a later commit is.

use std::collections::{BTreeMap, BTreeSet};

use super::SourceError;
use super::mirror::{Commit, Mirror};
use super::pack::{self, ObjectKind, Pack, PackObject};

/// The name of the remote that would have the rest: git names it where it misses a file.
pub(super) const REMOTE: &str = "history-without-files";

/// Git objects with their kinds, by id.
pub(super) type Objects = BTreeMap<[u8; 20], (ObjectKind, Vec<u8>)>;

/// Commits, with the trees of those that have no parent.
#[derive(Debug, Default)]
pub(super) struct Commits {
    /// The objects.
    pub objects: Objects,
    /// Commits whose parents are not in the mirror.
    pub cut: BTreeSet<[u8; 20]>,
}

/// The tags of a checkout.
#[derive(Debug, Default)]
pub(super) struct Tags {
    /// The objects of annotated tags.
    pub objects: Objects,
    /// By the full name of the reference: what it points at, and the commit.
    pub references: BTreeMap<Vec<u8>, ([u8; 20], [u8; 20])>,
}

impl Mirror {
    /// Reads a commit and all that it comes from, up to what is `known`.
    pub(super) fn commits(
        &self,
        commit: &Commit,
        known: &BTreeSet<[u8; 20]>,
    ) -> Result<Commits, SourceError> {
        let local = self.local();
        let mut commits = Commits::default();
        let mut next = vec![(commit.id, commit.id)];
        while let Some((id, child)) = next.pop() {
            if known.contains(&id) || commits.objects.contains_key(&id) {
                continue;
            }
            let Some((_, data)) = local.find(&id)? else {
                commits.cut.insert(child);
                continue;
            };
            let parents = local.parents(&data)?;
            if parents.is_empty() {
                self.add_trees(&data, &mut commits.objects)?;
            }
            next.extend(parents.into_iter().map(|parent| (parent, id)));
            commits.objects.insert(id, (ObjectKind::Commit, data));
        }
        Ok(commits)
    }

    /// Adds the trees of a commit, where they are all here.
    fn add_trees(&self, commit: &[u8], objects: &mut Objects) -> Result<(), SourceError> {
        let tree = self.local().tree_of(commit)?;
        match self.list(tree) {
            Ok(listing) => {
                let trees = listing.trees.into_iter();
                objects.extend(trees.map(|(id, data)| (id, (ObjectKind::Tree, data))));
                Ok(())
            }
            // A partial clone.
            Err(SourceError::Corrupt { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Reads the trees and files of the first parent of `commit` that are not among `known`; nothing
    /// where they are not all here.
    pub(super) fn parent_files(
        &self,
        commit: &Commit,
        known: &BTreeSet<[u8; 20]>,
    ) -> Result<Objects, SourceError> {
        let local = self.local();
        let read = || -> Result<Objects, SourceError> {
            let mut objects = Objects::new();
            let Some(parent) = local.parents(&commit.data)?.into_iter().next() else {
                return Ok(objects);
            };
            let Some((_, data)) = local.find(&parent)? else { return Ok(objects) };
            let listing = self.list(local.tree_of(&data)?)?;
            for id in listing.blobs() {
                if !known.contains(&id) {
                    objects.insert(id, (ObjectKind::Blob, local.object(&id)?));
                }
            }
            let trees = listing.trees.into_iter().filter(|(id, _)| !known.contains(id));
            objects.extend(trees.map(|(id, data)| (id, (ObjectKind::Tree, data))));
            Ok(objects)
        };
        match read() {
            Err(SourceError::Corrupt { .. }) => Ok(Objects::new()),
            read => read,
        }
    }

    /// Reads the tags whose commits are among `ancestors`.
    pub(super) fn tags_of(&self, ancestors: &BTreeSet<[u8; 20]>) -> Result<Tags, SourceError> {
        let local = self.local();
        let mut tags = Tags::default();
        for (name, target) in self.tags()? {
            let mut id = target;
            let mut objects = Objects::new();
            let commit = loop {
                match local.find(&id)? {
                    Some((ObjectKind::Tag, data)) => {
                        let below = local.tagged(&data)?;
                        objects.insert(id, (ObjectKind::Tag, data));
                        id = below;
                    }
                    Some((ObjectKind::Commit, _)) => break id,
                    // Of a tree or a file, or of what is not here.
                    _ => break [0; 20],
                }
            };
            if ancestors.contains(&commit) {
                tags.objects.extend(objects);
                tags.references.insert(name, (target, commit));
            }
        }
        Ok(tags)
    }
}

/// What checkouts of some commits are written from, for a repository that has no more than that.
#[derive(Debug)]
pub struct Needed {
    /// The ids of the objects, in hexadecimal digits.
    pub objects: BTreeSet<String>,
    /// The text of the file `packed-refs`: the tags.
    pub packed_refs: Vec<u8>,
}

impl Mirror {
    /// Lists what checkouts of `commits` are written from.
    pub fn needed(&self, commits: &[String]) -> Result<Needed, SourceError> {
        let mut ids = BTreeSet::new();
        let mut before = BTreeSet::new();
        for commit in commits {
            let commit = self.commit(commit)?;
            let listing = self.list(commit.tree)?;
            let own = listing.blobs().chain(listing.trees.iter().map(|(id, _)| *id));
            let own: BTreeSet<[u8; 20]> = own.collect();
            ids.extend(self.parent_files(&commit, &own)?.into_keys());
            ids.extend(own);
            let commits = self.commits(&commit, &before)?;
            before.extend(commits.objects.into_keys());
        }
        let tags = self.tags_of(&before)?;
        ids.extend(before);
        ids.extend(tags.objects.keys());
        let objects = ids.into_iter().map(hex::encode).collect();
        Ok(Needed { objects, packed_refs: tags.packed_refs() })
    }
}

impl Tags {
    /// Returns the text of `.git/packed-refs`.
    pub(super) fn packed_refs(&self) -> Vec<u8> {
        let mut text = b"# pack-refs with: peeled fully-peeled sorted \n".to_vec();
        for (name, (target, commit)) in &self.references {
            text.extend_from_slice(hex::encode(target).as_bytes());
            text.push(b' ');
            text.extend_from_slice(name);
            text.push(b'\n');
            if target != commit {
                text.extend_from_slice(format!("^{}\n", hex::encode(commit)).as_bytes());
            }
        }
        text
    }
}

/// Packs objects as of a partial clone: what they refer to need not be here.
pub(super) fn pack_files(objects: &Objects) -> Vec<(String, Vec<u8>)> {
    let objects =
        objects.iter().map(|(id, (kind, data))| PackObject { id: *id, kind: *kind, data });
    let Pack { pack, index, name } = pack::write(objects.collect());
    let path = |end: &str| format!(".git/objects/pack/pack-{name}.{end}");
    vec![(path("pack"), pack), (path("idx"), index), (path("promisor"), Vec::new())]
}
