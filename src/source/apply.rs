//! Patch layers: what patches change on top of a commit, applied on the host.
//!
//! Whether a patch applies is decided by the very programs that the harness runs in its container
//! (`git apply`, with its fallbacks, and `patch`), in a scratch work tree that holds only the files
//! which the patches name. `git apply --3way` finds the blobs of those files and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::engine::LayerFile;

use super::SourceError;
use super::checkout::{EntryKind, Listing, layer_time};
use super::difference::{ancestors, difference};
use super::layer::{FileMode, LayerWriter, path_of};
use super::mirror::Mirror;
use super::worktree::ATTRIBUTES;
use crate::patch::{Touched, touched};

/// The chain of the harness (5.x): the first that succeeds has applied the patch.
const CHAIN: [&[&str]; 4] = [
    &["git", "apply", "--verbose"],
    &["git", "apply", "--verbose", "--3way"],
    &["git", "apply", "--verbose", "--reject"],
    &["patch", "--batch", "--forward", "--fuzz=5", "-p1", "-i"],
];

/// What is applied, and on top of what.
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

/// What came of applying.
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
    /// Paths that changed, relative to the repository.
    pub changed: Vec<String>,
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

/// Why a patch does not apply.
#[derive(Debug)]
pub struct Refusal {
    /// Which patch.
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

/// Content of a path in the scratch tree.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    File(FileMode, Vec<u8>),
    Symlink(Vec<u8>),
}

type Tree = BTreeMap<Vec<u8>, Content>;

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
        let mut named = BTreeSet::new();
        for (which, patch) in patches {
            let Some(patch) = patch else { continue };
            let touched = touched(patch);
            if let Some(refusal) = unsafe_paths(which, &touched, &listing) {
                return Ok(PatchOutcome::Refused(refusal));
            }
            named.extend(touched.paths);
        }
        let setup = request.setup_diff.map(touched).unwrap_or_default();
        named.extend(setup.paths.iter().cloned());
        let base = self.contents(&listing, &named, scratch)?;

        let mut tree = base.clone();
        if let Some(diff) = request.setup_diff {
            tree = match apply(scratch, &tree, diff)? {
                Ok(tree) => tree,
                Err(text) => {
                    return Err(SourceError::Git { command: "apply".to_owned(), said: text });
                }
            };
        }
        let installed = tree.clone();
        if let Some(patch) = patches[0].1 {
            tree = match apply(scratch, &tree, patch)? {
                Ok(tree) => tree,
                Err(text) => return Ok(PatchOutcome::Refused(Refusal::new(Which::Model, text))),
            };
        }
        let after_model = tree.clone();
        if let Some(patch) = patches[1].1 {
            for path in touched(patch).paths {
                match base.get(&path) {
                    Some(content) => tree.insert(path, content.clone()),
                    None => tree.remove(&path),
                };
            }
            tree = match apply(scratch, &tree, patch)? {
                Ok(tree) => tree,
                Err(text) => return Ok(PatchOutcome::Refused(Refusal::new(Which::Test, text))),
            };
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
        let (file, changed) =
            written.map_err(|source| SourceError::File { path: out.to_owned(), source })?;
        Ok(PatchOutcome::Applied(PatchLayer { file, changed }))
    }

    /// Reads the named paths that exist, files that stand where a named path has a directory, and
    /// the files of attributes above, which tell `git apply` how lines end and how to merge; all as
    /// they are in a work tree.
    fn contents(
        &self,
        listing: &Listing,
        named: &BTreeSet<Vec<u8>>,
        scratch: &Path,
    ) -> Result<Tree, SourceError> {
        let local = self.local();
        let attributes = named.iter().flat_map(|path| {
            let above = ancestors(path).map(|above| [above, b"/", ATTRIBUTES].concat());
            above.chain([ATTRIBUTES.to_vec()])
        });
        let mut wanted: BTreeSet<Vec<u8>> = attributes.collect();
        for path in named {
            wanted.extend(ancestors(path).chain([path.as_slice()]).map(<[u8]>::to_vec));
        }
        let mut converted = self.converted(listing, Some(&wanted), scratch)?;
        let mut tree = Tree::new();
        for path in wanted {
            let Some((kind, id)) = listing.files.get(&path) else { continue };
            let content = match (kind, converted.files.remove(&path)) {
                (EntryKind::File(mode), Some(bytes)) => Content::File(*mode, bytes),
                (EntryKind::File(mode), None) => Content::File(*mode, local.object(id)?),
                (EntryKind::Symlink, _) => Content::Symlink(local.object(id)?),
                (EntryKind::Submodule, _) => continue,
            };
            tree.insert(path, content);
        }
        Ok(tree)
    }
}

fn non_blank(patch: &[u8]) -> Option<&[u8]> {
    (!patch.trim_ascii().is_empty()).then_some(patch)
}

/// Refuses paths that leave the repository, and writes through symbolic links.
fn unsafe_paths(which: Which, touched: &Touched, listing: &Listing) -> Option<Refusal> {
    let mut failures: Vec<String> =
        touched.outside.iter().map(|path| format!("`{path}` is outside the repository")).collect();
    for path in &touched.paths {
        for above in ancestors(path) {
            let link = matches!(listing.files.get(above), Some((EntryKind::Symlink, _)))
                || touched.symlinks.contains(above);
            if link {
                failures.push(format!(
                    "`{}` would be written through the symbolic link `{}`",
                    String::from_utf8_lossy(path),
                    String::from_utf8_lossy(above)
                ));
            }
        }
    }
    (!failures.is_empty()).then(|| Refusal { which, text: failures.join("\n") + "\n", failures })
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
}

/// Applies one patch by the chain, from a pristine tree each time. The inner error is what the
/// programs said.
fn apply(scratch: &Path, tree: &Tree, patch: &[u8]) -> Result<Result<Tree, String>, SourceError> {
    let dir = scratch.join("tree");
    let patch_file = scratch.join("patch.diff");
    let file = |source| SourceError::File { path: dir.clone(), source };
    std::fs::write(&patch_file, patch).map_err(file)?;
    let mut text = String::new();
    for command in CHAIN {
        materialise(&dir, tree).map_err(file)?;
        run(&dir, &["git", "init", "--quiet", "."])?;
        run(&dir, &["git", "add", "--all", "--force", "."])?;
        let mut words = command.to_vec();
        let patch_path = patch_file.to_string_lossy();
        words.push(&patch_path);
        let (applied, said) = run(&dir, &words)?;
        text.push_str(&format!("$ {}\n{said}", command.join(" ")));
        if applied {
            return read_tree(&dir).map(Ok).map_err(file);
        }
    }
    materialise(&dir, tree).map_err(file)?;
    run(&dir, &["git", "init", "--quiet", "."])?;
    let patch_path = patch_file.to_string_lossy();
    let (reversed, said) = run(&dir, &["git", "apply", "--check", "--reverse", &patch_path])?;
    text.push_str(&format!("$ git apply --check --reverse\n{said}"));
    Ok(if reversed { Ok(tree.clone()) } else { Err(text) })
}

/// Runs a program in the scratch tree; returns whether it succeeded, and its words.
fn run(dir: &Path, words: &[&str]) -> Result<(bool, String), SourceError> {
    let mut command = Command::new(words[0]);
    if words[0] == "patch" {
        // It starts `ed`, which runs any command, for a patch that is an ed script.
        command = Command::new(find_program(words[0])?);
        command.env("PATH", NO_PROGRAMS).env_remove("PATCH_GET");
    }
    let output = command
        .args(&words[1..])
        .current_dir(dir)
        // Nothing of the user's settings may decide whether a patch applies.
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_ATTR_NOSYSTEM", "1")
        .env("XDG_CONFIG_HOME", dir)
        .env("GIT_CEILING_DIRECTORIES", dir.parent().unwrap_or(dir))
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE")
        .env_remove("POSIXLY_CORRECT")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(|source| SourceError::NoProgram { program: words[0].to_owned(), source })?;
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok((output.status.success(), said))
}

/// A `PATH` in which nothing is found.
const NO_PROGRAMS: &str = "/dev/null";

/// Finds a program where a shell would.
fn find_program(name: &str) -> Result<PathBuf, SourceError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file());
    found.ok_or_else(|| SourceError::NoProgram {
        program: name.to_owned(),
        source: std::io::ErrorKind::NotFound.into(),
    })
}

/// Writes a tree to an empty directory.
fn materialise(dir: &Path, tree: &Tree) -> std::io::Result<()> {
    use std::os::unix::fs::{OpenOptionsExt as _, symlink};
    if dir.exists() {
        std::fs::remove_dir_all(dir)?;
    }
    std::fs::create_dir_all(dir)?;
    for (path, content) in tree {
        let full = dir.join(path_of(path));
        if let Some(parent) = full.parent() {
            std::fs::create_dir_all(parent)?;
        }
        match content {
            Content::File(mode, bytes) => {
                let bits = if *mode == FileMode::Executable { 0o755 } else { 0o644 };
                let mut options = std::fs::OpenOptions::new();
                options.write(true).create_new(true).mode(bits).open(&full)?.write_all(bytes)?;
            }
            Content::Symlink(target) => symlink(path_of(target), &full)?,
        }
    }
    Ok(())
}

/// Reads a tree back. What `patch` keeps beside a file that it patched with fuzz (`.orig`, `.rej`)
/// is not part of the result.
fn read_tree(dir: &Path) -> std::io::Result<Tree> {
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::PermissionsExt as _;
    let mut tree = Tree::new();
    let walk = walkdir::WalkDir::new(dir)
        .min_depth(1)
        .into_iter()
        .filter_entry(|entry| entry.depth() > 1 || entry.file_name() != ".git");
    for entry in walk {
        let entry = entry?;
        let path = entry.path().strip_prefix(dir).expect("the walk stays below its root");
        let path = path.as_os_str().as_bytes().to_vec();
        if entry.file_type().is_symlink() {
            let target = std::fs::read_link(entry.path())?.as_os_str().as_bytes().to_vec();
            tree.insert(path, Content::Symlink(target));
        } else if entry.file_type().is_file() {
            let executable = entry.metadata()?.permissions().mode() & 0o100 != 0;
            let mode = if executable { FileMode::Executable } else { FileMode::Plain };
            tree.insert(path, Content::File(mode, std::fs::read(entry.path())?));
        }
    }
    let litter: Vec<Vec<u8>> = tree
        .keys()
        .filter(|path| {
            [b".orig".as_slice(), b".rej"]
                .iter()
                .any(|end| path.strip_suffix(*end).is_some_and(|stem| tree.contains_key(stem)))
        })
        .cloned()
        .collect();
    for path in litter {
        tree.remove(&path);
    }
    Ok(tree)
}

struct Times {
    parents: i64,
    test: i64,
    model: i64,
}

/// Writes the difference of `installed` (what the image has) and `tree`; the image has the
/// `untouched` files as well.
fn write_layer<'a>(
    untouched: &[&'a [u8]],
    root: &str,
    installed: &'a Tree,
    after_model: &Tree,
    tree: &'a Tree,
    times: &Times,
    out: &Path,
) -> std::io::Result<(LayerFile, Vec<String>)> {
    let paths: BTreeSet<&Vec<u8>> = installed.keys().chain(tree.keys()).collect();
    let changed: Vec<&Vec<u8>> =
        paths.into_iter().filter(|path| installed.get(*path) != tree.get(*path)).collect();
    let keys = |tree: &'a Tree| tree.keys().map(Vec::as_slice);
    let brought = changed.iter().map(|path| path.as_slice());
    let brought = brought.filter(|path| tree.contains_key(*path));
    let new: BTreeSet<&[u8]> = untouched.iter().copied().chain(keys(tree)).collect();
    let difference = difference(untouched.iter().copied().chain(keys(installed)), &new, brought);

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
            None => {}
        }
    }
    let (file, _) = layer.finish()?;
    let names = changed.iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect();
    Ok((file, names))
}
