//! The mirrors of a state directory: each is made, and completed from the sources of its repository.
//!
//! A source on this machine is not copied: the mirror names it as an alternate.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use crate::engine::LogSink;

use super::fetch::{fetch, git};
use super::mirror::{Mirror, alternates, parse_id};
use super::origin::{Origin, is_partial, local_path};
use super::{SourceError, Tried};

/// The mirrors of a state directory, and the sources that complete them.
#[derive(Debug, Clone)]
pub struct Mirrors {
    dir: PathBuf,
    templates: Vec<String>,
    map: BTreeMap<String, Vec<String>>,
}

impl Mirrors {
    /// Sets where repositories come from: first the sources that `map` names for one repo, then
    /// `templates` with `{owner}`, `{name}` and `{repo}` filled in; each a URL or a directory.
    pub fn new(
        state_dir: &Path,
        templates: Vec<String>,
        map: BTreeMap<String, Vec<String>>,
    ) -> Self {
        Mirrors { dir: state_dir.join("mirrors"), templates, map }
    }

    /// Lists the sources of `repo` in the order in which they are tried.
    pub fn sources(&self, repo: &str) -> Vec<String> {
        let (owner, name) = repo.split_once('/').unwrap_or(("", repo));
        let fill = |template: &String| {
            template.replace("{owner}", owner).replace("{name}", name).replace("{repo}", repo)
        };
        let mapped = self.map.get(repo).into_iter().flatten();
        let mut sources: Vec<String> = mapped.chain(&self.templates).map(fill).collect();
        let mut seen = std::collections::HashSet::new();
        sources.retain(|source| seen.insert(source.clone()));
        sources
    }

    /// Opens the mirror of `repo`, fetching when it lacks one of `commits`. The first source that
    /// has a commit wins; the others are not asked for it.
    ///
    /// # Errors
    /// [`SourceError::NoCommit`] and [`SourceError::Incomplete`] name every source that was tried, with
    /// what it said.
    pub fn mirror(
        &self,
        repo: &str,
        commits: &[&str],
        log: &dyn LogSink,
    ) -> Result<Mirror, SourceError> {
        // Before any of them is a word of a command.
        for commit in commits {
            parse_id(commit)?;
        }
        let path = self.dir.join(format!("{}.git", repo.replace('/', "__")));
        let file = |source| SourceError::File { path: path.clone(), source };
        std::fs::create_dir_all(&self.dir).map_err(file)?;
        crate::store::note_mirror_use(&path);
        if let Ok(mirror) = Mirror::open(&path, repo)
            && mirror.lacks(commits).is_empty()
        {
            return Ok(mirror);
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.with_extension("lock"))
            .map_err(file)?;
        lock.lock().map_err(file)?;
        let mirror = open_or_make(&path, repo, log)?;
        let missing = mirror.lacks(commits);
        if missing.is_empty() {
            return Ok(mirror);
        }
        self.complete(&path, repo, commits, missing, log)
    }

    /// Adds the `missing` commits of `commits` to the mirror at `path`, from one source after the other.
    fn complete(
        &self,
        path: &Path,
        repo: &str,
        commits: &[&str],
        mut missing: Vec<String>,
        log: &dyn LogSink,
    ) -> Result<Mirror, SourceError> {
        let file = |source| SourceError::File { path: path.to_owned(), source };
        keep_alternates(path, |objects| objects.is_dir()).map_err(file)?;
        let mut sources = self.shallow_last(repo);
        let mut seen: HashSet<String> = sources.iter().cloned().collect();
        let mut incomplete: HashSet<String> = HashSet::new();
        let mut tried = Vec::new();
        while let Some(source) = sources.pop_front() {
            let outcome = match local_path(&source) {
                Some(local) => match Origin::of(&local) {
                    Some(origin) => {
                        // What it lacks, it gets from there.
                        for promisor in origin.promisors.into_iter().rev() {
                            if seen.insert(promisor.clone()) {
                                sources.push_front(promisor);
                            }
                        }
                        add_alternate(path, &origin.objects)
                    }
                    None => Err("is not a git repository".to_owned()),
                },
                None => {
                    // Git takes a commit of theirs for whole and would not ask for its files.
                    keep_alternates(path, |objects| !is_partial(objects)).map_err(file)?;
                    fetch(path, &source, &missing, log)
                }
            };
            let mirror = Mirror::open(path, repo)?;
            missing = mirror.lacks(commits);
            let Some(commit) = missing.first() else { return Ok(mirror) };
            let answered = outcome.is_ok();
            let said = match outcome {
                Err(said) => said,
                Ok(()) if mirror.has_commit(commit) => {
                    incomplete.insert(commit.clone());
                    "has the commit, but not all of its files".to_owned()
                }
                Ok(()) => "does not have the commit".to_owned(),
            };
            tried.push(Tried { source, said, answered });
        }
        let (repo, commit) = (repo.to_owned(), missing.swap_remove(0));
        Err(match incomplete.contains(&commit) {
            true => SourceError::Incomplete { repo, commit, tried },
            false => SourceError::NoCommit { repo, commit, tried },
        })
    }

    /// Lists the sources of `repo`; a shallow clone has less than others may have, so it comes last.
    fn shallow_last(&self, repo: &str) -> VecDeque<String> {
        let origin = |source: &String| local_path(source).and_then(|path| Origin::of(&path));
        let (last, first): (Vec<String>, Vec<String>) = self
            .sources(repo)
            .into_iter()
            .partition(|source| origin(source).is_some_and(|origin| origin.shallow));
        first.into_iter().chain(last).collect()
    }
}

/// Opens the mirror at `path`; where there is none, or a broken one, it is made anew and empty. The lock
/// of the mirror is held.
fn open_or_make(path: &Path, repo: &str, log: &dyn LogSink) -> Result<Mirror, SourceError> {
    let file = |source| SourceError::File { path: path.to_owned(), source };
    // What a process left that was killed while it made the mirror.
    let aside = path.with_extension("part");
    if aside.exists() {
        std::fs::remove_dir_all(&aside).map_err(file)?;
    }
    if let Ok(mirror) = Mirror::open(path, repo) {
        return Ok(mirror);
    }
    if path.exists() {
        std::fs::remove_dir_all(path).map_err(file)?;
    }
    let directory = aside.to_string_lossy();
    let options = ["init", "--quiet", "--bare", "--template=", "--end-of-options"];
    git(&[&options[..], &[&directory]].concat(), None, log)?;
    std::fs::rename(&aside, path).map_err(file)?;
    Mirror::open(path, repo)
}

/// Lets the mirror read the objects of a repository on this machine in place.
fn add_alternate(mirror: &Path, objects: &Path) -> Result<(), String> {
    use std::os::unix::ffi::OsStrExt as _;
    if objects.as_os_str().as_bytes().contains(&b'\n') {
        return Err("has a line break in its path".to_owned());
    }
    let mut known = alternates(mirror);
    if known.iter().any(|known| known == objects) {
        return Ok(());
    }
    known.push(objects.to_owned());
    write_alternates(mirror, &known).map_err(|error| error.to_string())
}

/// Forgets the directories of objects that are not to be read in place any more.
fn keep_alternates(mirror: &Path, keep: impl Fn(&Path) -> bool) -> std::io::Result<()> {
    let known = alternates(mirror);
    let kept: Vec<PathBuf> = known.iter().filter(|objects| keep(objects)).cloned().collect();
    if kept == known { Ok(()) } else { write_alternates(mirror, &kept) }
}

fn write_alternates(mirror: &Path, directories: &[PathBuf]) -> std::io::Result<()> {
    use std::os::unix::ffi::OsStrExt as _;
    let file = mirror.join("objects/info/alternates");
    let lines = directories.iter().map(|path| [path.as_os_str().as_bytes(), b"\n"].concat());
    let aside = file.with_extension("part");
    std::fs::write(&aside, lines.collect::<Vec<_>>().concat())?;
    std::fs::rename(&aside, &file)
}
