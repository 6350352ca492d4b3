//! A source that is a directory of this machine: a repository with or without a work tree, a linked
//! work tree, a submodule, a shallow or a partial clone.

use std::path::{Path, PathBuf};

/// A repository on this machine, as a mirror sees it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Origin {
    /// The directory of its objects.
    pub objects: PathBuf,
    /// Whether the history ends before its beginning.
    pub shallow: bool,
    /// Where a partial clone gets what it lacks; URLs or directories.
    pub promisors: Vec<String>,
}

/// Settings of the user do not decide what is read.
pub(super) fn isolated() -> gix::open::Options {
    gix::open::Options::isolated()
}

impl Origin {
    /// Looks at a directory; `None` where no repository is.
    pub(super) fn of(directory: &Path) -> Option<Origin> {
        let directory = std::path::absolute(directory).ok()?;
        let Ok(repo) = gix::open_opts(&directory, isolated()) else {
            // What git itself refuses, such as a repository without settings, still has objects.
            let objects = [directory.join("objects"), directory.join(".git/objects")];
            let objects = objects.into_iter().find(|path| path.is_dir())?;
            return Some(Origin { objects, ..Origin::default() });
        };
        let common = std::path::absolute(repo.common_dir()).ok()?;
        let objects = common.canonicalize().unwrap_or(common).join("objects");
        let shallow = repo.is_shallow().unwrap_or(false);
        let promisors = promisors(&repo, &directory);
        objects.is_dir().then_some(Origin { objects, shallow, promisors })
    }
}

/// Returns the directory that a source names, when it is on this machine.
pub(crate) fn local_path(source: &str) -> Option<PathBuf> {
    if let Some(path) = source.strip_prefix("file://") {
        return Some(PathBuf::from(path));
    }
    let url = source.contains("://") || (source.contains(':') && !source.starts_with(['/', '.']));
    (!url).then(|| PathBuf::from(source))
}

/// Lists the remotes that promise what a partial clone lacks.
fn promisors(repo: &gix::Repository, directory: &Path) -> Vec<String> {
    let config = repo.config_snapshot();
    let named = config.string("extensions.partialClone").map(|name| name.to_vec());
    let mut found = Vec::new();
    for section in config.plumbing().sections_by_name("remote").into_iter().flatten() {
        let name = section.header().subsection_name();
        let promises = section.value("promisor").is_some_and(|value| value == "true")
            || name.is_some_and(|name| Some(name.to_vec()) == named);
        if let (true, Some(url)) = (promises, section.value("url")) {
            found.push(absolute(&url.to_string(), directory));
        }
    }
    found
}

/// Resolves a URL that is a relative directory.
fn absolute(url: &str, directory: &Path) -> String {
    match local_path(url) {
        Some(path) if path.is_relative() => directory.join(path).to_string_lossy().into_owned(),
        _ => url.to_owned(),
    }
}

/// Tells whether objects are of a partial clone, by the marks that git keeps beside their packs.
pub(super) fn is_partial(objects: &Path) -> bool {
    let Ok(packs) = std::fs::read_dir(objects.join("pack")) else { return false };
    packs.flatten().any(|file| file.path().extension().is_some_and(|end| end == "promisor"))
}
