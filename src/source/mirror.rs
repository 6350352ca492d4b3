//! A mirror: a bare repository, fetched once, shared by all instances and processes.
//!
//! Fetching is the business of the `git` program, whose credentials, proxies and certificates apply;
//! reading objects is done in this process.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::SourceError;
use super::layer::{FileMode, path_of};
use super::listing::{EntryKind, Listing};
use super::origin::isolated;
use super::pack::ObjectKind;

/// An open mirror, which threads can share.
pub struct Mirror {
    path: PathBuf,
    repo: gix::ThreadSafeRepository,
    name: String,
}

/// A mirror as one thread reads it.
pub(super) struct Local<'a> {
    repo: gix::Repository,
    name: &'a str,
}

/// A commit with its bytes.
pub(super) struct Commit {
    pub id: [u8; 20],
    pub data: Vec<u8>,
    pub tree: [u8; 20],
    pub time: i64,
}

/// Lists the directories of objects that a mirror reads in place.
pub(super) fn alternates(mirror: &Path) -> Vec<PathBuf> {
    let text = std::fs::read(mirror.join("objects/info/alternates")).unwrap_or_default();
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| path_of(line).to_owned()).collect()
}

pub(super) fn parse_id(commit: &str) -> Result<gix::ObjectId, SourceError> {
    gix::ObjectId::from_hex(commit.as_bytes())
        .map_err(|_| SourceError::NotACommit { commit: commit.to_owned() })
}

fn bytes_of(id: &gix::oid) -> [u8; 20] {
    id.as_bytes().try_into().expect("repositories here use sha1")
}

impl Mirror {
    pub(super) fn open(path: &Path, name: &str) -> Result<Mirror, SourceError> {
        let repo = gix::ThreadSafeRepository::open_opts(path, isolated()).map_err(|error| {
            SourceError::Corrupt { repo: name.to_owned(), what: error.to_string() }
        })?;
        Ok(Mirror { path: path.to_owned(), repo, name: name.to_owned() })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the bare repository's directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn local(&self) -> Local<'_> {
        Local { repo: self.repo.to_thread_local(), name: &self.name }
    }

    /// Lists those of `commits` that are not here with all of their files.
    pub(super) fn lacks(&self, commits: &[&str]) -> Vec<String> {
        commits.iter().filter(|id| !self.is_whole(id)).map(|id| (*id).to_owned()).collect()
    }

    /// Tells whether the commit is here with all of its files.
    pub(super) fn is_whole(&self, commit: &str) -> bool {
        let listing = self.commit(commit).and_then(|commit| self.list(commit.tree));
        let local = self.local();
        let here = |id: [u8; 20]| local.repo.has_object(gix::ObjectId::from(id));
        listing.is_ok_and(|listing| listing.blobs().all(here))
    }

    /// Tells whether the commit is here.
    pub fn has_commit(&self, commit: &str) -> bool {
        self.commit(commit).is_ok()
    }

    /// Returns a file's bytes at a commit; `None` where the commit has no such file.
    pub fn read_file(&self, commit: &str, path: &str) -> Result<Option<Vec<u8>>, SourceError> {
        let local = self.local();
        let mut tree = self.commit(commit)?.tree;
        let mut parts = path.split('/').peekable();
        while let Some(part) = parts.next() {
            let data = local.object(&tree)?;
            let entry = local.entries(&data)?.into_iter().find(|entry| entry.0 == part.as_bytes());
            match (entry, parts.peek()) {
                (Some((_, None, id)), Some(_)) => tree = id,
                (Some((_, Some(EntryKind::File(_)), id)), None) => {
                    return local.object(&id).map(Some);
                }
                _ => return Ok(None),
            }
        }
        Ok(None)
    }

    pub(super) fn commit(&self, commit: &str) -> Result<Commit, SourceError> {
        let id = parse_id(commit)?;
        let local = self.local();
        let absent = || SourceError::NoCommit {
            repo: self.name.clone(),
            commit: commit.to_owned(),
            tried: Vec::new(),
        };
        let object = local.repo.find_object(id).map_err(|_| absent())?;
        if object.kind != gix::object::Kind::Commit {
            return Err(absent());
        }
        let data = object.data.clone();
        let corrupt = |what: String| SourceError::Corrupt { repo: self.name.clone(), what };
        let object = object.into_commit();
        let tree = object.tree_id().map_err(|error| corrupt(error.to_string()))?;
        let time = object.time().map_err(|error| corrupt(error.to_string()))?;
        Ok(Commit { id: bytes_of(&id), data, tree: bytes_of(&tree), time: time.seconds })
    }

    /// Walks back from a commit to the newest that is older than `time`, along first parents, but
    /// where a branch took the main line in and is older itself, along the main line. `None` where
    /// the history ends before.
    pub(super) fn main_line_before(&self, commit: &Commit, time: i64) -> Option<Commit> {
        let local = self.local();
        let decode = |data: &[u8]| -> Option<(i64, Vec<gix::ObjectId>)> {
            let commit = gix::objs::CommitRef::from_bytes(data, gix::hash::Kind::Sha1).ok()?;
            Some((commit.committer().ok()?.time().ok()?.seconds, commit.parents().collect()))
        };
        let (_, mut parents) = decode(&commit.data)?;
        loop {
            let mut read = Vec::new();
            for parent in parents {
                let (seconds, above) = decode(&local.repo.find_object(parent).ok()?.data)?;
                read.push((seconds, parent, above));
            }
            match read.iter().position(|(seconds, ..)| *seconds >= time) {
                Some(newer) => parents = read.swap_remove(newer).2,
                None => {
                    let newest = read.iter().max_by_key(|(seconds, id, _)| (*seconds, *id))?;
                    return self.commit(&newest.1.to_string()).ok();
                }
            }
        }
    }

    /// Lists the tags of the mirror and of the repositories that it reads in place: their full names
    /// and what they point at. The first that has a name gives it.
    pub(super) fn tags(&self) -> Result<BTreeMap<Vec<u8>, [u8; 20]>, SourceError> {
        let mut tags = BTreeMap::new();
        let alternates = alternates(&self.path);
        let beside = alternates.iter().filter_map(|objects| objects.parent());
        // One that is gone has no tags, and no objects.
        let beside = beside.filter_map(|dir| gix::open_opts(dir, isolated()).ok());
        for repo in [self.local().repo].into_iter().chain(beside) {
            let corrupt = |what: String| SourceError::Corrupt { repo: self.name.clone(), what };
            let references = repo.references().map_err(|error| corrupt(error.to_string()))?;
            for tag in references.tags().map_err(|error| corrupt(error.to_string()))? {
                let tag = tag.map_err(|error| corrupt(error.to_string()))?;
                if let Some(id) = tag.try_id() {
                    let name = tag.name().as_bstr().to_vec();
                    tags.entry(name).or_insert_with(|| bytes_of(&id));
                }
            }
        }
        Ok(tags)
    }

    /// Lists everything below a tree.
    pub(super) fn list(&self, tree: [u8; 20]) -> Result<Listing, SourceError> {
        let local = self.local();
        let mut listing =
            Listing { trees: Vec::new(), directories: Vec::new(), files: BTreeMap::new() };
        let mut next = vec![(Vec::new(), tree)];
        while let Some((path, id)) = next.pop() {
            let data = local.object(&id)?;
            for (name, kind, child) in local.entries(&data)? {
                let full: Vec<u8> =
                    if path.is_empty() { name } else { [&path, &b"/"[..], &name].concat() };
                match kind {
                    None => next.push((full, child)),
                    Some(kind) => {
                        listing.files.insert(full, (kind, child));
                    }
                }
            }
            listing.trees.push((id, data));
            if !path.is_empty() {
                listing.directories.push(path);
            }
        }
        listing.directories.sort();
        Ok(listing)
    }
}

/// Name, kind (`None` for a tree) and id of an entry of a tree.
type TreeEntry = (Vec<u8>, Option<EntryKind>, [u8; 20]);

impl Local<'_> {
    fn corrupt(&self, what: impl ToString) -> SourceError {
        SourceError::Corrupt { repo: self.name.to_owned(), what: what.to_string() }
    }

    pub(super) fn object(&self, id: &[u8; 20]) -> Result<Vec<u8>, SourceError> {
        let object =
            self.repo.find_object(gix::ObjectId::from(*id)).map_err(|error| self.corrupt(error))?;
        Ok(object.detach().data)
    }

    /// Returns an object with its kind; `None` where it is not here.
    pub(super) fn find(&self, id: &[u8; 20]) -> Result<Option<(ObjectKind, Vec<u8>)>, SourceError> {
        let object = self.repo.try_find_object(gix::ObjectId::from(*id));
        let Some(object) = object.map_err(|error| self.corrupt(error))? else { return Ok(None) };
        let kind = match object.kind {
            gix::object::Kind::Commit => ObjectKind::Commit,
            gix::object::Kind::Tree => ObjectKind::Tree,
            gix::object::Kind::Blob => ObjectKind::Blob,
            gix::object::Kind::Tag => ObjectKind::Tag,
        };
        Ok(Some((kind, object.detach().data)))
    }

    /// Reads the parents from the bytes of a commit.
    pub(super) fn parents(&self, commit: &[u8]) -> Result<Vec<[u8; 20]>, SourceError> {
        let commit = gix::objs::CommitRefIter::from_bytes(commit, gix::hash::Kind::Sha1);
        Ok(commit.parent_ids().map(|id| bytes_of(&id)).collect())
    }

    /// Reads the tree from the bytes of a commit.
    pub(super) fn tree_of(&self, commit: &[u8]) -> Result<[u8; 20], SourceError> {
        let commit = gix::objs::CommitRefIter::from_bytes(commit, gix::hash::Kind::Sha1);
        let tree = { commit }.tree_id().map_err(|error| self.corrupt(error))?;
        Ok(bytes_of(&tree))
    }

    /// Reads what a tag points at from the tag's bytes.
    pub(super) fn tagged(&self, tag: &[u8]) -> Result<[u8; 20], SourceError> {
        let tag = gix::objs::TagRefIter::from_bytes(tag, gix::hash::Kind::Sha1);
        Ok(bytes_of(&tag.target_id().map_err(|error| self.corrupt(error))?))
    }

    /// Lists the blobs whose ids begin with `prefix`, four hexadecimal digits or more.
    pub(super) fn blobs_with(&self, prefix: &str) -> Result<Vec<[u8; 20]>, SourceError> {
        let parsed = gix::hash::Prefix::from_hex(prefix).map_err(|error| self.corrupt(error))?;
        let mut found = std::collections::HashSet::new();
        self.repo
            .objects
            .lookup_prefix(parsed, Some(&mut found))
            .map_err(|error| self.corrupt(error))?;
        let is_blob = |id: &gix::ObjectId| {
            self.repo.find_header(*id).is_ok_and(|header| header.kind() == gix::object::Kind::Blob)
        };
        Ok(found.iter().filter(|id| is_blob(id)).map(|id| bytes_of(id)).collect())
    }

    fn entries(&self, tree: &[u8]) -> Result<Vec<TreeEntry>, SourceError> {
        let mut entries = Vec::new();
        for entry in gix::objs::TreeRefIter::from_bytes(tree, gix::hash::Kind::Sha1) {
            let entry = entry.map_err(|error| self.corrupt(error))?;
            let kind = match entry.mode.kind() {
                gix::objs::tree::EntryKind::Tree => None,
                gix::objs::tree::EntryKind::Blob => Some(EntryKind::File(FileMode::Plain)),
                gix::objs::tree::EntryKind::BlobExecutable => {
                    Some(EntryKind::File(FileMode::Executable))
                }
                gix::objs::tree::EntryKind::Link => Some(EntryKind::Symlink),
                gix::objs::tree::EntryKind::Commit => Some(EntryKind::Submodule),
            };
            entries.push((entry.filename.to_vec(), kind, bytes_of(entry.oid)));
        }
        Ok(entries)
    }
}
