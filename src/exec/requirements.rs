//! Reading an environment's requirement files from its repository.

use std::collections::{BTreeMap, BTreeSet};

use crate::recipe::env::RepoFiles;
use crate::requirements::{self, Source, clean};
use crate::source::Mirror;

use super::NodeError;

/// The files of one group, and what was replaced in them.
#[derive(Debug, Default)]
pub(crate) struct Read {
    /// Each with its path in the repository, the chosen one first.
    pub files: Vec<(String, Vec<u8>)>,
    /// What a person should know of it.
    pub notes: Vec<String>,
}

/// Returns the first candidate that exists, and the files that it includes with `-r` or `-c`, as pip
/// reads them: `variables` are what `${NAME}` stands for. Lines that install the repository itself
/// are left out: that is the checkout's business.
pub(crate) fn read(
    mirror: &Mirror,
    group: &RepoFiles,
    variables: &BTreeMap<String, String>,
) -> Result<Read, NodeError> {
    let mut chosen = None;
    for candidate in &group.candidates {
        if mirror.read_file(&group.commit, candidate)?.is_some() {
            chosen = Some(candidate.clone());
            break;
        }
    }
    let Some(chosen) = chosen else {
        return Err(NodeError::NoRequirements {
            repo: group.repo.clone(),
            commit: group.commit.clone(),
            candidates: group.candidates.join("`, `"),
        });
    };
    let variable = |name: &str| variables.get(name).cloned();
    let source = Source {
        repo: &group.repo,
        in_repository: true,
        drops_own_pins: false,
        variable: &variable,
        version_of: &|_| None,
    };
    let refused = |place: &str, lines: String| NodeError::Requirements {
        place: format!("{}@{}:{place}", group.repo, group.commit),
        lines,
    };
    let mut read = Read::default();
    let mut seen = BTreeSet::new();
    let mut next = vec![(chosen, String::new())];
    while let Some((path, named_in)) = next.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        let Some(bytes) = mirror.read_file(&group.commit, &path)? else {
            let lines = format!("\n  {named_in}: names `{path}`, which the commit does not have");
            return Err(refused(&named_in, lines));
        };
        let text = String::from_utf8_lossy(&bytes);
        let cleaned = clean(&text, &source)
            .map_err(|lines| refused(&path, requirements::refused_text(&path, &lines)))?;
        let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
        next.extend(cleaned.included.iter().map(|name| (join(dir, name), path.clone())));
        read.notes.extend(cleaned.notes.iter().map(|note| format!("{path}, {note}")));
        read.files.push((path, cleaned.text.into_bytes()));
    }
    Ok(read)
}

/// Joins a path of the repository with a relative one.
fn join(dir: &str, name: &str) -> String {
    let mut parts: Vec<&str> = dir.split('/').filter(|part| !part.is_empty()).collect();
    for part in name.split('/') {
        match part {
            "." | "" => {}
            ".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn included_files_are_found_from_where_they_are_named() {
        assert_eq!(join("requirements", "tests.txt"), "requirements/tests.txt");
        assert_eq!(join("requirements", "../a.txt"), "a.txt");
        assert_eq!(join("", "./a.txt"), "a.txt");
    }
}
