//! From a branch or a tag to the commit that a source has under that name now.

use std::path::Path;

use crate::engine::LogSink;
use crate::offline;

use super::fetch::git_output;
use super::mirrors::Mirrors;
use super::origin::{isolated, local_path};
use super::{SourceError, Tried};

/// What one source says of a name.
enum Answer {
    /// The commit.
    Commit(String),
    /// It has no such name.
    None,
    /// It could not be asked, and why.
    Unknown(String),
}

impl Mirrors {
    /// Finds the commit of a branch, of a tag or of `HEAD`: the first source that has the name says it. A
    /// tag goes before a branch of the same name, as for git. The digits of a commit are that commit,
    /// which is not looked for.
    ///
    /// # Errors
    /// [`SourceError::NoReference`] where every source answered and none has the name;
    /// [`SourceError::NotAsked`] where one could not be asked and no other has it.
    pub fn resolve(
        &self,
        repo: &str,
        reference: &str,
        log: &dyn LogSink,
    ) -> Result<String, SourceError> {
        if is_commit(reference) {
            return Ok(reference.to_ascii_lowercase());
        }
        let reference = reference.to_owned();
        let (mut tried, mut asked) = (Vec::new(), Vec::new());
        for source in self.sources(repo) {
            let said = match local_path(&source) {
                Some(path) => of_directory(&path, &reference),
                None if offline::is_on() => Answer::Unknown(offline::WHY.to_owned()),
                None => of_url(&source, &reference, log)?,
            };
            match said {
                Answer::Commit(commit) => return Ok(commit),
                Answer::None => asked.push(format!("`{source}`")),
                Answer::Unknown(said) => tried.push(Tried { source, said, answered: false }),
            }
        }
        Err(match tried.is_empty() {
            true => SourceError::NoReference { reference, asked },
            false => SourceError::NotAsked { reference, tried },
        })
    }
}

/// Tells whether a text is the whole id of a commit.
fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The full names that a name may stand for, in git's order.
fn full_names(reference: &str) -> Vec<String> {
    if reference == "HEAD" || reference.starts_with("refs/") {
        return vec![reference.to_owned()];
    }
    ["refs/tags/", "refs/heads/", "refs/"].map(|start| format!("{start}{reference}")).to_vec()
}

/// Asks a repository of this machine. No program runs, and its settings do not count.
fn of_directory(path: &Path, reference: &str) -> Answer {
    let repo = match gix::open_opts(path, isolated()) {
        Ok(repo) => repo,
        Err(error) => return Answer::Unknown(error.to_string()),
    };
    for name in full_names(reference) {
        // What no reference can be called is not there.
        let Ok(name) = gix::refs::PartialName::try_from(name) else { continue };
        let mut found = match repo.try_find_reference(name.as_ref()) {
            Ok(Some(found)) => found,
            Ok(None) => continue,
            Err(error) => return Answer::Unknown(error.to_string()),
        };
        return match found.peel_to_commit() {
            Ok(commit) => Answer::Commit(commit.id.to_string()),
            Err(error) => Answer::Unknown(error.to_string()),
        };
    }
    Answer::None
}

/// Asks a URL by `git ls-remote`.
fn of_url(url: &str, reference: &str, log: &dyn LogSink) -> Result<Answer, SourceError> {
    let names = full_names(reference);
    let peeled: Vec<String> = names.iter().map(|name| format!("{name}^{{}}")).collect();
    let mut args = vec!["ls-remote", "--end-of-options", url];
    args.extend(names.iter().chain(&peeled).map(String::as_str));
    // Not where this process happens to stand: settings of a repository there would count.
    let listed = match git_output(&args, Some(Path::new("/dev/null")), log) {
        Ok(listed) => String::from_utf8_lossy(&listed).into_owned(),
        Err(SourceError::Git { said, .. }) => return Ok(Answer::Unknown(said)),
        Err(other) => return Err(other),
    };
    let find = |wanted: &str| {
        let mut lines = listed.lines().filter_map(|line| line.split_once('\t'));
        lines.find(|(_, name)| *name == wanted).map(|(id, _)| id.to_owned())
    };
    for (name, peeled) in names.iter().zip(&peeled) {
        if let Some(id) = find(peeled).or_else(|| find(name)) {
            return Ok(Answer::Commit(id));
        }
    }
    Ok(Answer::None)
}
