//! Checkout layers: a repository at one commit, as a tar written straight from git objects.
//!
//! The layer holds the work tree as `git clone` on Linux would leave it, line endings, `$Id$` and
//! encodings included, and a `.git` with that commit, the commits that it comes from (without their
//! files) and their tags, and nothing else: a detached `HEAD`, packs, an index. No branches, later
//! tags, reflogs, alternates, remotes or hooks.
//!
//! Most files of a repository are the same in hundreds of checkouts. So a checkout can be a chain of
//! layers: the main line before the year, the quarter and the month of the commit, each as what it
//! changes on the one before, shared by all checkouts of that time; and on top what the commit itself
//! changes. Trees and blobs are files of their own in the shared layers; each layer deletes those that
//! are not its commit's, so that a checkout has those of its commit and no others. Commits are in a
//! pack of each layer; all of them come before the commit, so they stay.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::engine::LayerFile;

use super::git_index::{self, IndexEntry};
use super::layer::{FileMode, LayerWriter};
use super::layer_diff::{BelowState, LayerDelta};
use super::listing::{EntryKind, Listing};
use super::mirror::{Commit, Mirror};
use super::{SourceError, Submodule, history};

/// The options of a checkout layer, which change its bytes.
#[derive(Debug, Clone)]
pub struct CheckoutOptions {
    root: String,
    shared: Option<PathBuf>,
    owner: u32,
}

impl CheckoutOptions {
    /// A checkout below `root` (relative to `/`).
    pub fn new(root: &str) -> Self {
        CheckoutOptions { root: root.to_owned(), shared: None, owner: 0 }
    }

    /// Gives the files that no others share to a user, and to the group of that number; else they are
    /// root's.
    #[must_use]
    pub fn owned_by(self, owner: u32) -> Self {
        CheckoutOptions { owner, ..self }
    }

    /// Splits the checkout: what others share goes to layers in an existing directory.
    #[must_use]
    pub fn shared(self, directory: &Path) -> Self {
        CheckoutOptions { shared: Some(directory.to_owned()), ..self }
    }
}

/// A written checkout layer.
#[derive(Debug)]
pub struct CheckoutLayer {
    /// The tars of what others share, lowest first, below `file`; none where the history is not there,
    /// not whole, or not long enough.
    pub shared: Vec<LayerFile>,
    /// The tar of the files that this checkout shares with no other.
    pub file: LayerFile,
    /// The number of entries in `file`.
    pub entries: usize,
    /// Submodules, which stay empty directories.
    pub submodules: Vec<Submodule>,
    /// By the name of a filter that is a program (such as `lfs`): the files that it was not run for.
    pub filters: BTreeMap<String, Vec<String>>,
    /// How many tags are of the commit or of one that it comes from.
    pub tags: usize,
    /// The history is not whole: the source is a shallow clone.
    pub shallow: bool,
    /// The committer's time in seconds since 1970: what files of the layer have as their time,
    /// unless it is before 1980. Those of a shared layer have the time of its commit.
    pub commit_time: i64,
}

/// Returns when the year, the quarter and the month of a time began, in UTC; all in seconds since
/// 1970.
fn starts(time: i64) -> Vec<i64> {
    let Ok(time) = jiff::Timestamp::from_second(time) else { return Vec::new() };
    let day = time.to_zoned(jiff::tz::TimeZone::UTC).date();
    let start = |month| {
        let start = jiff::civil::date(day.year(), month, 1).to_zoned(jiff::tz::TimeZone::UTC);
        start.ok().map(|start| start.timestamp().as_second())
    };
    [1, (day.month() - 1) / 3 * 3 + 1, day.month()].into_iter().filter_map(start).collect()
}

/// The directories of git that a checkout has.
const GIT_DIRECTORIES: [&str; 8] = [
    ".git",
    ".git/info",
    ".git/objects",
    ".git/objects/info",
    ".git/objects/pack",
    ".git/refs",
    ".git/refs/heads",
    ".git/refs/tags",
];

/// The files of git that a checkout has.
struct GitFiles<'a> {
    /// The id of the commit that is checked out.
    head: &'a str,
    packed_refs: Vec<u8>,
    /// Commits whose parents are not here.
    shallow: &'a BTreeSet<[u8; 20]>,
    /// The pack and its index, by their paths.
    pack: Vec<(String, Vec<u8>)>,
    index: Vec<u8>,
}

impl GitFiles<'_> {
    /// Writes the files below `root`, with the time `mtime`.
    fn write(&self, layer: &mut LayerWriter, root: &[u8], mtime: i64) -> std::io::Result<()> {
        let plain = FileMode::Plain;
        let at = |path: &[u8]| [root, b"/", path].concat();
        let id = format!("{}\n", self.head);
        let config = format!(
            "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\
             \tlogallrefupdates = true\n\tcheckStat = minimal\n\ttrustctime = false\n\
             [extensions]\n\tpartialClone = {}\n[gc]\n\tauto = 0\n",
            history::REMOTE
        );
        for (path, bytes) in [
            (".git/HEAD", id.as_bytes()),
            (".git/config", config.as_bytes()),
            (".git/info/exclude", b""),
            (".git/packed-refs", &self.packed_refs),
        ] {
            layer.file(&at(path.as_bytes()), plain, mtime, bytes)?;
        }
        if !self.shallow.is_empty() {
            let lines: String = self.shallow.iter().map(|id| hex::encode(id) + "\n").collect();
            layer.file(&at(b".git/shallow"), plain, mtime, lines.as_bytes())?;
        }
        for (path, bytes) in &self.pack {
            layer.file(&at(path.as_bytes()), plain, mtime, bytes)?;
        }
        // Later than every file, or git would take the entries for racily clean.
        layer.file(&at(b".git/index"), plain, mtime + 1, &self.index)
    }
}

/// Makes git's index of the files of a checkout.
fn index_of(held: &BelowState) -> Vec<u8> {
    let entries: Vec<IndexEntry<'_>> = held
        .files
        .iter()
        .map(|(path, file)| IndexEntry {
            path,
            mode: file.entry.0.mode(),
            id: file.entry.1,
            size: file.size,
            mtime: file.mtime,
        })
        .collect();
    git_index::write(&entries)
}

/// Writes the layer of a checkout that no other shares: what differs from the layers below, and the files
/// of git. Returns it with the number of its entries.
fn write_own_layer(
    out: &Path,
    options: &CheckoutOptions,
    step: &LayerDelta<'_>,
    git_files: &GitFiles<'_>,
) -> std::io::Result<(LayerFile, usize)> {
    let (root, mtime) = (options.root.as_bytes(), step.mtime());
    let difference = step.difference(&[]);
    let mut layer = LayerWriter::create(out)?.owned_by(options.owner);
    let at = |path: &[u8]| [root, b"/", path].concat();
    layer.directory(root, mtime)?;
    let own = GIT_DIRECTORIES.iter().map(|directory| directory.as_bytes());
    // Each once: engines refuse a path that comes twice.
    for directory in own.chain(difference.parents).collect::<BTreeSet<_>>() {
        layer.directory(&at(directory), mtime)?;
    }
    git_files.write(&mut layer, root, mtime)?;
    for path in &difference.whiteouts {
        layer.whiteout(&at(path), mtime)?;
    }
    step.write_files(&mut layer, root)?;
    layer.finish()
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
        let file = |path: &Path, source| SourceError::File { path: path.to_owned(), source };
        let mut cut = BTreeSet::new();
        let (shared, held) = match &options.shared {
            Some(directory) => match self.write_shared(&head, &options.root, directory, &mut cut) {
                // A partial clone has the objects of some commits alone.
                Err(SourceError::Corrupt { .. }) => Default::default(),
                written => written?,
            },
            None => Default::default(),
        };
        let scratch = out.parent().unwrap_or(Path::new("."));
        let step = self.step(&head, &held, true, scratch)?;
        let mut commits = self.commits(&head, &held.commits)?;
        cut.append(&mut commits.cut);
        let mut known = held.commits.clone();
        known.extend(commits.objects.keys());
        let tags = self.tags_of(&known)?;
        let mut objects = commits.objects;
        objects.extend(tags.objects.clone());
        for (id, (kind, data)) in step.new_objects() {
            objects.insert(id, (kind, data.to_vec()));
        }
        let git_files = GitFiles {
            head: commit,
            packed_refs: tags.packed_refs(),
            shallow: &cut,
            pack: history::pack_files(&objects),
            index: index_of(&step.held()),
        };
        let (file, entries) =
            write_own_layer(out, options, &step, &git_files).map_err(|source| file(out, source))?;
        let submodules = self.submodules(step.listing())?;
        let filters = step.filters().clone();
        Ok(CheckoutLayer {
            shared,
            file,
            entries,
            submodules,
            filters,
            tags: tags.references.len(),
            shallow: !cut.is_empty(),
            commit_time: head.time,
        })
    }

    /// Writes the layers that a checkout of `head` shares, and returns what they hold. Commits whose
    /// parents are not here are added to `cut`.
    fn write_shared(
        &self,
        head: &Commit,
        root: &str,
        directory: &Path,
        cut: &mut BTreeSet<[u8; 20]>,
    ) -> Result<(Vec<LayerFile>, BelowState), SourceError> {
        let mut layers = Vec::new();
        let mut held = BelowState::default();
        for ancestor in self.shared_line(head) {
            let step = self.step(&ancestor, &held, false, directory)?;
            let mut commits = self.commits(&ancestor, &held.commits)?;
            cut.append(&mut commits.cut);
            let path = directory.join(format!("shared-{}.tar", layers.len()));
            let written = step.write_shared(&commits, root, &path);
            let (layer, with) = written.map_err(|source| SourceError::File { path, source })?;
            layers.push(layer);
            held = with;
        }
        Ok((layers, held))
    }

    /// Lists the commits whose layers a checkout of `head` shares, oldest first; none where the
    /// history is not there.
    fn shared_line(&self, head: &Commit) -> Vec<Commit> {
        let starts = starts(head.time).into_iter();
        let mut line: Vec<Commit> =
            starts.filter_map(|start| self.main_line_before(head, start)).collect();
        line.dedup_by_key(|commit| commit.id);
        line
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_year_a_quarter_and_a_month_begin_on_their_first_day() {
        // 2020-05-31T23:59:59Z: January, April and May; and the second after it.
        assert_eq!(starts(1_590_969_599), [1_577_836_800, 1_585_699_200, 1_588_291_200]);
        assert_eq!(starts(1_590_969_600), [1_577_836_800, 1_585_699_200, 1_590_969_600]);
    }
}
