//! The repository of a run: where it comes from, and its files as tars for a sandbox.
//!
//! The mirror and the reading of its objects are [`crate::source`]'s: no git of this machine runs with the
//! settings or the hooks of a repository, and what is fetched is fetched once. All of it blocks.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::config::GITHUB;
use crate::engine::NoLog;
use crate::key::Digest;
use crate::source::{CheckoutOptions, Mirror, Mirrors, PatchOutcome, PatchRequest, SourceError};

use super::config::{Origin, Patch, RepoSpec};
use super::read::is_short;

/// Where repositories are kept, and where they come from beside what a configuration names.
#[derive(Debug, Clone, Default)]
pub struct Repositories {
    /// The state directory: mirrors are in it.
    pub state_dir: PathBuf,
    /// URLs or directories with `{owner}`, `{name}` or `{repo}`, for repositories of GitHub. They go before
    /// GitHub itself.
    pub git_mirrors: Vec<String>,
    /// By the name of a repository of GitHub: sources that go before all others.
    pub by_repo: BTreeMap<String, Vec<String>>,
}

/// A repository, and what is known of where it is.
#[derive(Debug, Clone)]
pub(super) struct Repository {
    /// What its mirror is called by.
    name: String,
    mirrors: Mirrors,
    reference: String,
    patches: Vec<Patch>,
}

/// A commit that is here with all of its files.
pub(super) struct Fetched {
    /// Its 40 digits.
    pub commit: String,
    mirror: Mirror,
}

/// Why files of a repository cannot be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum FilesError {
    /// The repository cannot be used.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A patch does not apply.
    #[error("`{file}` does not apply: {reason}")]
    Patch {
        /// The patch.
        file: String,
        /// The words of git and patch.
        reason: String,
    },
    /// A file on the way cannot be written.
    #[error("cannot write files of the repository")]
    Io(#[from] io::Error),
}

/// What patches change.
#[derive(Debug)]
pub(super) struct Changes {
    /// A tar of the files that are new or changed, below the directory of the repository's directory.
    pub tar: PathBuf,
    /// The files that are gone, below the directory of the repository's directory.
    pub deleted: Vec<PathBuf>,
}

impl Repositories {
    /// Finds out what a repository is called and where it comes from.
    pub(super) fn find(&self, repo: &RepoSpec) -> Repository {
        let (name, sources) = match &repo.origin {
            Origin::Path(path) => {
                let source = path.to_string_lossy().into_owned();
                (local_name(&source), vec![source])
            }
            Origin::Url(url) => self.of_url(url),
        };
        let map = BTreeMap::from([(name.clone(), sources)]);
        Repository {
            mirrors: Mirrors::new(&self.state_dir, Vec::new(), map),
            name,
            reference: repo.reference.clone(),
            patches: repo.patches.clone(),
        }
    }

    fn of_url(&self, url: &str) -> (String, Vec<String>) {
        if url.starts_with("file://") {
            return (local_name(url), vec![url.to_owned()]);
        }
        let (host, path) = if is_short(url) { ("github.com", url) } else { host_and_path(url) };
        let path = path.trim_matches('/').trim_end_matches(".git");
        if host != "github.com" {
            return (format!("{}/{}", plain(host), plain(path)), vec![url.to_owned()]);
        }
        let name = plain(path);
        let mut sources = self.by_repo.get(&name).cloned().unwrap_or_default();
        let (owner, short) = name.split_once('/').unwrap_or(("", &name));
        let fill = |template: &String| {
            template.replace("{owner}", owner).replace("{name}", short).replace("{repo}", &name)
        };
        sources.extend(self.git_mirrors.iter().map(fill));
        match is_short(url) {
            // Who names mirrors for a short name means them.
            true if !sources.is_empty() => {}
            true => sources.push(fill(&GITHUB.to_owned())),
            false => sources.push(url.to_owned()),
        }
        (name, sources)
    }
}

/// Names the mirror of a repository of this machine.
fn local_name(source: &str) -> String {
    format!("local/{}", &Digest::of(source).to_string()[..16])
}

/// Splits `https://user@host:1/a/b` and `user@host:a/b` into host and path.
fn host_and_path(url: &str) -> (&str, &str) {
    let (authority, path) = match url.split_once("://") {
        Some((_, rest)) => rest.split_once('/').unwrap_or((rest, "")),
        None => url.split_once(':').unwrap_or((url, "")),
    };
    (authority.rsplit('@').next().unwrap_or(authority), path)
}

/// Replaces what has a meaning in names of directories.
fn plain(text: &str) -> String {
    let keep = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
    text.chars().map(|c| if keep(c) { c } else { '-' }).collect()
}

impl Repository {
    /// Finds the commit of the reference.
    pub(super) fn resolve(&self) -> Result<String, SourceError> {
        self.mirrors.resolve(&self.name, &self.reference, &NoLog)
    }

    /// Brings a commit with all of its files into the mirror.
    pub(super) fn fetch(&self, commit: String) -> Result<Fetched, SourceError> {
        let mirror = self.mirrors.mirror(&self.name, &[&commit], &NoLog)?;
        Ok(Fetched { commit, mirror })
    }

    /// Writes the files of the commit as a tar: its names begin with `root`. Returns what is remarkable.
    pub(super) fn write_checkout(
        &self,
        fetched: &Fetched,
        root: &str,
        out: &Path,
    ) -> Result<Vec<String>, FilesError> {
        let options = CheckoutOptions::new(root);
        let layer = fetched.mirror.write_checkout(&fetched.commit, &options, out)?;
        let submodules = layer.submodules.iter();
        let mut remarks: Vec<String> = submodules
            .map(|submodule| format!("submodule `{}` is an empty directory", submodule.path))
            .collect();
        for (filter, files) in &layer.filters {
            let first = files.first().map_or("", String::as_str);
            remarks.push(format!("filter `{filter}` was not run, such as for `{first}`"));
        }
        Ok(remarks)
    }

    /// Applies the patches one after another, and writes what each of them changes into `scratch`.
    pub(super) fn write_patches(
        &self,
        fetched: &Fetched,
        root: &str,
        scratch: &Path,
    ) -> Result<Vec<Changes>, FilesError> {
        let mut before: Vec<u8> = Vec::new();
        let mut all = Vec::new();
        for (index, Patch { file, bytes }) in self.patches.iter().enumerate() {
            let request = PatchRequest {
                commit: &fetched.commit,
                setup_diff: (!before.is_empty()).then_some(&before[..]),
                test_patch: b"",
                model_patch: bytes,
                root,
            };
            let layer = scratch.join(format!("patch-{index}.layer"));
            match fetched.mirror.write_patch_layer(&request, scratch, &layer)? {
                PatchOutcome::Applied(_) => {}
                PatchOutcome::Refused(refusal) => {
                    return Err(FilesError::Patch { file: file.clone(), reason: refusal.reason() });
                }
            }
            all.push(split(&layer, &scratch.join(format!("patch-{index}.tar")))?);
            before.extend_from_slice(bytes);
            if !bytes.ends_with(b"\n") {
                before.push(b'\n');
            }
        }
        Ok(all)
    }
}

/// Takes the deletions out of a layer.
fn split(layer: &Path, out: &Path) -> io::Result<Changes> {
    let mut deleted = Vec::new();
    let mut tar = tar::Builder::new(File::create(out)?);
    let mut archive = tar::Archive::new(File::open(layer)?);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let name = path.file_name().map(std::ffi::OsStr::as_encoded_bytes).unwrap_or_default();
        if let Some(name) = name.strip_prefix(b".wh.") {
            use std::os::unix::ffi::OsStrExt as _;
            deleted.push(path.with_file_name(std::ffi::OsStr::from_bytes(name)));
            continue;
        }
        let mut header = entry.header().clone();
        let target = entry.link_name()?.map(std::borrow::Cow::into_owned);
        match target {
            Some(target) => tar.append_link(&mut header, &path, target)?,
            None => {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes)?;
                tar.append_data(&mut header, &path, bytes.as_slice())?;
            }
        }
    }
    tar.into_inner()?;
    Ok(Changes { tar: out.to_owned(), deleted })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(repositories: &Repositories, url: &str) -> (String, Vec<String>) {
        repositories.of_url(url)
    }

    #[test]
    fn a_repository_of_github_comes_from_mirrors_first() {
        let mirrors = Repositories {
            git_mirrors: vec!["file:///m/{owner}__{name}.git".to_owned()],
            ..Repositories::default()
        };
        let mirror = "file:///m/psf__requests.git".to_owned();
        let url = "https://github.com/psf/requests.git";
        let name = "psf/requests".to_owned();
        assert_eq!(found(&mirrors, url), (name.clone(), vec![mirror.clone(), url.to_owned()]));
        assert_eq!(found(&mirrors, "psf/requests"), (name.clone(), vec![mirror]));
        let plain = Repositories::default();
        assert_eq!(found(&plain, url), (name.clone(), vec![url.to_owned()]));
        let ssh = "git@github.com:psf/requests.git";
        assert_eq!(found(&plain, ssh), (name.clone(), vec![ssh.to_owned()]));
        let github = vec!["https://github.com/psf/requests.git".to_owned()];
        assert_eq!(found(&plain, "psf/requests"), (name, github));
        let other = "https://me:pw@git.example:8443/psf/requests";
        let name = "git.example-8443/psf/requests".to_owned();
        assert_eq!(found(&mirrors, other), (name, vec![other.to_owned()]));
    }
}
