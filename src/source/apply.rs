//! Patch layers: what patches change on top of a commit, applied on the host.
//!
//! Whether a patch applies, and to what, is decided by the very programs that the harness runs in its
//! container (`git apply`, with its fallbacks, and `patch`), in a scratch repository that holds what
//! they would read of the whole one: the files which the patches name, as they are after the
//! installation, and the blobs which the patches refer to, if the base commit's history has them.

use std::collections::BTreeSet;
use std::path::Path;

use crate::engine::LayerFile;

use super::SourceError;
use super::layer::LayerWriter;
use super::layer::layer_time;
use super::listing::{EntryKind, Listing};
use super::mirror::Mirror;
use super::scratch::{Content, Entries, Scratch, Tree};
use super::tree_diff::{ancestors, difference};
use super::worktree::ATTRIBUTES;
use crate::patch::{Touched, blob_ids, mentioned, touched};
use crate::tree::{Change, Happened};

/// The patches of an instance, and the tree that they apply to.
pub struct PatchRequest<'a> {
    /// The base commit.
    pub commit: &'a str,
    /// What the installation changed in tracked files, as a diff; applied first.
    pub setup_diff: Option<&'a [u8]>,
    /// The patch of the test files. Files that it touches are reset to base before it is applied,
    /// whatever the model patch did to them.
    pub test_patch: &'a [u8],
    /// The patch under evaluation.
    pub model_patch: &'a [u8],
    /// Where the repository is, relative to `/`.
    pub root: &'a str,
}

/// The outcome of applying patches.
#[derive(Debug)]
pub enum PatchOutcome {
    /// The layer is written.
    Applied(PatchLayer),
    /// A patch does not apply.
    Refused(Refusal),
}

/// A written patch layer.
#[derive(Debug)]
pub struct PatchLayer {
    /// The tar.
    pub file: LayerFile,
    /// What the model patch did to the files, whatever the patch of the test files did to them
    /// afterwards.
    pub changed: Vec<Change>,
}

/// Which of the two patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// `test_patch`.
    Test,
    /// `model_patch`.
    Model,
}

impl Which {
    /// Returns the dataset's name of the patch.
    pub fn as_str(self) -> &'static str {
        match self {
            Which::Test => "test_patch",
            Which::Model => "model_patch",
        }
    }
}

/// The refusal of a patch that does not apply.
#[derive(Debug)]
pub struct Refusal {
    /// The patch that was refused.
    pub which: Which,
    /// What every try of the chain printed.
    pub text: String,
    /// The lines that name what failed, each once.
    pub failures: Vec<String>,
}

impl Refusal {
    /// Returns the failures in one line.
    pub fn reason(&self) -> String {
        self.failures.join("; ")
    }
}

impl Mirror {
    /// Applies the patches and writes the layer of what they change to `out`. `scratch` is an
    /// existing directory for the work tree.
    pub fn write_patch_layer(
        &self,
        request: &PatchRequest<'_>,
        scratch: &Path,
        out: &Path,
    ) -> Result<PatchOutcome, SourceError> {
        let head = self.commit(request.commit)?;
        let listing = self.list(head.tree)?;
        let patches = [
            (Which::Model, non_blank(request.model_patch)),
            (Which::Test, non_blank(request.test_patch)),
        ];
        let mut named: BTreeSet<Vec<u8>> = request.setup_diff.map(mentioned).unwrap_or_default();
        for (which, patch) in patches {
            let Some(patch) = patch else { continue };
            if let Some(refusal) = self.unsafe_paths(which, &touched(patch), &listing)? {
                return Ok(PatchOutcome::Refused(refusal));
            }
            named.extend(mentioned(patch));
        }
        let base = self.entries(&listing, named)?;
        let scratch = Scratch::create(scratch)?;
        let local = self.local();
        for (kind, id) in base.values() {
            if *kind != EntryKind::Submodule {
                scratch.add_blob(id, &local.object(id)?)?;
            }
        }
        scratch.add_entries(&base)?;
        if let Some(diff) = request.setup_diff {
            scratch.apply_to_index(diff)?;
        }
        scratch.check_out()?;
        let installed = scratch.read()?;

        let mut after_model = installed.clone();
        if let Some(patch) = patches[0].1 {
            if let Err(text) = self.apply(&scratch, request.commit, &listing, patch)? {
                let mut refusal = Refusal::new(Which::Model, text);
                refusal.add_causes(patch, request.setup_diff, &listing);
                return Ok(PatchOutcome::Refused(refusal));
            }
            after_model = scratch.read()?;
            if let Some(refusal) = in_git(Which::Model, &installed, &after_model) {
                return Ok(PatchOutcome::Refused(refusal));
            }
        }
        let mut tree = after_model.clone();
        if let Some(patch) = patches[1].1 {
            scratch.reset(&cleared(patch, &base, &after_model), &base)?;
            if let Err(text) = self.apply(&scratch, request.commit, &listing, patch)? {
                return Ok(PatchOutcome::Refused(Refusal::new(Which::Test, text)));
            }
            tree = scratch.read()?;
            if let Some(refusal) = in_git(Which::Test, &installed, &tree) {
                return Ok(PatchOutcome::Refused(refusal));
            }
        }
        let time = layer_time(head.time);
        let times = Times { parents: time, test: time + 1, model: time + 2 };
        let untouched: Vec<&[u8]> = listing
            .files
            .keys()
            .filter(|path| !base.contains_key(*path))
            .map(Vec::as_slice)
            .collect();
        let written =
            write_layer(&untouched, request.root, &installed, &after_model, &tree, &times, out);
        let file = written.map_err(|source| SourceError::File { path: out.to_owned(), source })?;
        let changed = changes(&installed, &after_model);
        Ok(PatchOutcome::Applied(PatchLayer { file, changed }))
    }

    /// Applies a patch by the chain. The blobs that it refers to are brought when a program may ask
    /// for them: those of binary files before the first try, the others before `--3way`.
    fn apply(
        &self,
        scratch: &Scratch,
        commit: &str,
        listing: &Listing,
        patch: &[u8],
    ) -> Result<Result<(), String>, SourceError> {
        let (whole, short): (BTreeSet<String>, BTreeSet<String>) = blob_ids(patch)
            .into_iter()
            .flat_map(|(old, new)| [old, new])
            .partition(|id| id.len() == 40);
        let bring = |prefixes: &BTreeSet<String>| -> Result<(), SourceError> {
            let local = self.local();
            for id in self.blobs_up_to(commit, listing, prefixes)? {
                scratch.add_blob(&id, &local.object(&id)?)?;
            }
            Ok(())
        };
        bring(&whole)?;
        scratch.apply(patch, || bring(&short))
    }

    /// Follows the links above a path.
    fn follow(&self, listing: &Listing, path: Vec<u8>) -> Result<Followed, SourceError> {
        let mut followed = Followed { paths: Vec::new(), out: None };
        let mut path = path;
        loop {
            let link = ancestors(&path).find_map(|above| match listing.files.get(above) {
                Some((EntryKind::Symlink, id)) => Some((above, id)),
                _ => None,
            });
            let Some((link, id)) = link else { return Ok(followed) };
            let there = target_of(link, &self.local().object(id)?);
            let Some(mut there) = there.filter(|_| followed.paths.len() < 2 * MOST_LINKS) else {
                followed.out = Some(link.to_vec());
                return Ok(followed);
            };
            // The directory has to be there, even when nothing in it is named.
            followed.paths.push(there.clone());
            there.extend_from_slice(&path[link.len()..]);
            followed.paths.push(there.clone());
            path = there;
        }
    }

    /// Refuses paths that leave the repository, also through symbolic links.
    fn unsafe_paths(
        &self,
        which: Which,
        touched: &Touched,
        listing: &Listing,
    ) -> Result<Option<Refusal>, SourceError> {
        let outside = touched.outside.iter();
        let mut failures: Vec<String> =
            outside.map(|path| format!("`{path}` is outside the repository")).collect();
        for path in &touched.paths {
            // A patch may put a link where it deletes a directory.
            let made = ancestors(path)
                .find(|above| touched.symlinks.contains(*above) && touched.kept.contains(path));
            let link = match made {
                Some(link) => Some(link.to_vec()),
                None => self.follow(listing, path.clone())?.out,
            };
            if let Some(link) = link {
                failures.push(format!(
                    "`{}` would be written through the symbolic link `{}`",
                    String::from_utf8_lossy(path),
                    String::from_utf8_lossy(&link)
                ));
            }
        }
        let refused = !failures.is_empty();
        Ok(refused.then(|| Refusal { which, text: failures.join("\n") + "\n", failures }))
    }

    /// Lists what bears on patches that name `named`: those files and links, what stands where they
    /// have a directory, one more file in each directory that they name, and the attributes and
    /// ignore rules above them. A link inside the repository brings what it leads to.
    fn entries(
        &self,
        listing: &Listing,
        mut named: BTreeSet<Vec<u8>>,
    ) -> Result<Entries, SourceError> {
        for path in named.clone() {
            named.extend(self.follow(listing, path)?.paths);
        }
        let mut wanted: BTreeSet<Vec<u8>> = BTreeSet::new();
        for path in &named {
            let directory = [path.as_slice(), b"/"].concat();
            let inside = listing.files.range(directory.clone()..);
            let mut inside =
                inside.map(|(path, _)| path).take_while(|path| path.starts_with(&directory));
            wanted.extend(inside.find(|path| !named.contains(*path)).cloned());
            for above in [&b""[..]].into_iter().chain(ancestors(path)) {
                for name in [ATTRIBUTES, b".gitignore"] {
                    let slash = if above.is_empty() { &b""[..] } else { b"/" };
                    wanted.insert([above, slash, name].concat());
                }
                wanted.insert(above.to_vec());
            }
        }
        wanted.extend(named);
        let found = wanted.into_iter().filter_map(|path| {
            let entry = *listing.files.get(&path)?;
            Some((path, entry))
        });
        Ok(found.collect())
    }
}

/// Where a path leads through links of the repository.
struct Followed {
    /// The paths on the way, without the first.
    paths: Vec<Vec<u8>>,
    /// The link that leads outside.
    out: Option<Vec<u8>>,
}

/// How many links are followed at most.
const MOST_LINKS: usize = 40;

/// Returns where a link at `path` leads; `None` where that is outside the repository.
fn target_of(path: &[u8], target: &[u8]) -> Option<Vec<u8>> {
    if target.starts_with(b"/") {
        return None;
    }
    let mut parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    parts.pop();
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join(&b'/'))
}

/// Lists what is reset before the test patch: the paths that it touches, and what the model patch put
/// where they have a directory.
fn cleared(test_patch: &[u8], base: &Entries, after_model: &Tree) -> BTreeSet<Vec<u8>> {
    let paths = touched(test_patch).paths;
    let above = paths.iter().flat_map(|path| ancestors(path));
    let in_the_way = above.filter(|path| {
        let there = after_model.get(*path);
        there.is_some_and(|there| *there != Content::Directory) && !base.contains_key(*path)
    });
    let in_the_way: BTreeSet<Vec<u8>> = in_the_way.map(<[u8]>::to_vec).collect();
    paths.into_iter().chain(in_the_way).collect()
}

fn non_blank(patch: &[u8]) -> Option<&[u8]> {
    (!patch.trim_ascii().is_empty()).then_some(patch)
}

impl Refusal {
    fn new(which: Which, text: String) -> Self {
        let mut failures: Vec<String> = Vec::new();
        for line in text.lines().map(str::trim) {
            let failed = line.starts_with("error: ")
                || line.contains("FAILED")
                || line.contains("malformed patch")
                || line.contains("corrupt patch");
            let line = line.trim_start_matches("error: ").to_owned();
            // Words of the programs beside the places that they could not patch.
            let noise = line == "while searching for:"
                || line.starts_with("repository lacks the necessary blob")
                || line.contains("-- saving rejects to file");
            if failed && !noise && !failures.contains(&line) {
                failures.push(line);
            }
        }
        let place = |line: &str| line.starts_with("patch failed: ");
        if failures.iter().any(|line| place(line)) {
            failures.retain(|line| !line.ends_with(": patch does not apply"));
        }
        if failures.is_empty() {
            failures.extend(text.lines().next_back().map(str::to_owned));
        }
        Refusal { which, text, failures }
    }

    /// Adds what is known of why: the installation changed a file, or the patch was made on other
    /// files than those of the base commit.
    fn add_causes(&mut self, patch: &[u8], setup_diff: Option<&[u8]>, listing: &Listing) {
        let paths = touched(patch).paths;
        if let Some(diff) = setup_diff {
            for path in touched(diff).paths.intersection(&paths) {
                self.failures.push(format!(
                    "the installation changes `{}` as well",
                    String::from_utf8_lossy(path)
                ));
            }
        }
        if setup_diff.is_some() {
            return;
        }
        let at_base = |id: &str| {
            let known = |entry: &(EntryKind, [u8; 20])| hex::encode(entry.1).starts_with(id);
            id.bytes().all(|digit| digit == b'0') || listing.files.values().any(known)
        };
        let other = blob_ids(patch).into_iter().find(|(old, _)| !at_base(old));
        if let Some((old, _)) = other {
            self.failures.push(format!(
                "the patch was made on a file `{old}` that the base commit does not have"
            ));
        }
    }
}

struct Times {
    parents: i64,
    test: i64,
    model: i64,
}

/// Writes the difference of `installed` (what the image has) and `tree`; the image has the
/// `untouched` files as well.
fn write_layer(
    untouched: &[&[u8]],
    root: &str,
    installed: &Tree,
    after_model: &Tree,
    tree: &Tree,
    times: &Times,
    out: &Path,
) -> std::io::Result<LayerFile> {
    // A directory that has something in it is not a thing of its own.
    let kept = untouched.iter().copied();
    let filled: BTreeSet<&[u8]> =
        kept.chain(tree.keys().map(Vec::as_slice)).flat_map(ancestors).collect();
    let counts = |path: &[u8]| {
        let directory = [installed, tree].map(|tree| tree.get(path) == Some(&Content::Directory));
        directory == [false, false] || !filled.contains(path)
    };
    let paths: BTreeSet<&Vec<u8>> = installed.keys().chain(tree.keys()).collect();
    let changed: Vec<&Vec<u8>> = paths
        .into_iter()
        .filter(|path| installed.get(*path) != tree.get(*path) && counts(path))
        .collect();
    // With a slash at its end a directory counts as one above a file.
    let named: Vec<Vec<u8>> = tree
        .iter()
        .map(|(path, content)| match content {
            Content::Directory => [path.as_slice(), b"/"].concat(),
            _ => path.clone(),
        })
        .collect();
    let brought = named.iter().map(Vec::as_slice).filter(|path| {
        let path = path.strip_suffix(b"/").unwrap_or(path);
        changed.binary_search_by(|changed| changed.as_slice().cmp(path)).is_ok()
    });
    let new = untouched.iter().copied().chain(named.iter().map(Vec::as_slice)).collect();
    let old = untouched.iter().copied().chain(installed.keys().map(Vec::as_slice));
    let difference = difference(old, &new, brought);

    let mut layer = LayerWriter::create(out)?;
    let at = |path: &[u8]| [root.as_bytes(), b"/", path].concat();
    layer.directory(root.as_bytes(), times.parents)?;
    for directory in &difference.parents {
        layer.directory(&at(directory), times.parents)?;
    }
    for path in &difference.whiteouts {
        layer.whiteout(&at(path), times.parents)?;
    }
    for path in &changed {
        let mtime =
            if after_model.get(*path) == tree.get(*path) { times.model } else { times.test };
        match tree.get(*path) {
            Some(Content::File(mode, bytes)) => layer.file(&at(path), *mode, mtime, bytes)?,
            Some(Content::Symlink(target)) => layer.symlink(&at(path), mtime, target)?,
            // A directory is among those above.
            Some(Content::Directory) | None => {}
        }
    }
    Ok(layer.finish()?.0)
}

/// Refuses what a patch put where git keeps its own files, here or in a directory below: names have
/// more spellings than one, and what is there has one.
fn in_git(which: Which, before: &Tree, after: &Tree) -> Option<Refusal> {
    let new = after.keys().filter(|path| !before.contains_key(*path));
    let failures: Vec<String> = new
        .filter(|path| {
            path.split(|byte| *byte == b'/').any(|part| part.eq_ignore_ascii_case(b".git"))
        })
        .map(|path| format!("`{}` is outside the repository", String::from_utf8_lossy(path)))
        .collect();
    (!failures.is_empty()).then(|| Refusal { which, text: failures.join("\n") + "\n", failures })
}

/// Compares two trees. Directories count where something else was or is in their place.
fn changes(before: &Tree, after: &Tree) -> Vec<Change> {
    let there = |tree: &Tree, path: &[u8]| {
        tree.get(path).is_some_and(|content| *content != Content::Directory)
    };
    let paths: BTreeSet<&Vec<u8>> = before.keys().chain(after.keys()).collect();
    let changed = paths.into_iter().filter(|path| before.get(*path) != after.get(*path));
    changed
        .filter_map(|path| {
            let happened = match (there(before, path), there(after, path)) {
                (false, true) => Happened::Added,
                (true, true) => Happened::Modified,
                (true, false) => Happened::Deleted,
                (false, false) => return None,
            };
            Some(Change { path: path.clone(), happened })
        })
        .collect()
}
