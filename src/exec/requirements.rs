//! Reading an environment's requirement files from its repository.

use std::collections::BTreeSet;

use crate::recipe::env::RepoFiles;
use crate::source::Mirror;

use super::NodeError;

/// Returns the first candidate that exists, and the files that it includes with `-r` or `-c`; each
/// with its path in the repository. Lines that install the repository itself are left out: that is
/// the checkout's business.
pub(crate) fn read(
    mirror: &Mirror,
    group: &RepoFiles,
) -> Result<Vec<(String, Vec<u8>)>, NodeError> {
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
    let mut files = Vec::new();
    let mut seen = BTreeSet::new();
    let mut next = vec![chosen];
    while let Some(path) = next.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        let Some(bytes) = mirror.read_file(&group.commit, &path)? else { continue };
        let text = String::from_utf8_lossy(&bytes);
        let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
        let mut kept = String::with_capacity(text.len());
        for line in text.lines() {
            let trimmed = line.trim();
            let included = ["-r", "--requirement", "-c", "--constraint"].iter().find_map(|flag| {
                trimmed.strip_prefix(flag).filter(|rest| rest.starts_with([' ', '=']))
            });
            if let Some(included) = included {
                let name = included.trim_start_matches([' ', '=']).trim();
                next.push(join(dir, name));
            }
            if !installs_itself(trimmed) {
                kept.push_str(line.trim_end_matches('\r'));
                kept.push('\n');
            }
        }
        files.push((path, kept.into_bytes()));
    }
    Ok(files)
}

fn installs_itself(line: &str) -> bool {
    let target = line.strip_prefix("-e").or_else(|| line.strip_prefix("--editable"));
    let target = target.map_or(line, |rest| rest.trim_start_matches([' ', '=']));
    target == "." || target.starts_with(".[") || target == "./" || target == ".."
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
    fn the_repository_itself_is_not_a_requirement() {
        for line in ["-e .", "--editable=.", ".[dev]", ".", "-e .[test]"] {
            assert!(installs_itself(line), "{line}");
        }
        for line in ["-e git+https://x", "pytest", "./vendor/x"] {
            assert!(!installs_itself(line), "{line}");
        }
    }

    #[test]
    fn included_files_are_found_from_where_they_are_named() {
        assert_eq!(join("requirements", "tests.txt"), "requirements/tests.txt");
        assert_eq!(join("requirements", "../a.txt"), "a.txt");
        assert_eq!(join("", "./a.txt"), "a.txt");
    }
}
