//! From one tree to another in a layer: what is deleted, and which directories are above a change.

use std::collections::BTreeSet;

/// What a layer needs beside the files that it changes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Difference<'a> {
    /// What is deleted, outermost: a directory when nothing is left in it, as git removes it.
    pub whiteouts: BTreeSet<&'a [u8]>,
    /// Directories above whiteouts and changed files.
    pub parents: BTreeSet<&'a [u8]>,
}

/// Lists the directories above a path, outermost first.
pub(super) fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &path[..at])
}

/// Compares the files of two trees; `changed` are those of `new` that the layer brings.
pub(super) fn difference<'a>(
    old: impl Iterator<Item = &'a [u8]>,
    new: &BTreeSet<&'a [u8]>,
    changed: impl Iterator<Item = &'a [u8]>,
) -> Difference<'a> {
    let directories: BTreeSet<&[u8]> = new.iter().flat_map(|path| ancestors(path)).collect();
    let mut difference = Difference::default();
    for path in old.filter(|path| !new.contains(path) && !directories.contains(path)) {
        // A file in the place of a directory hides what was in it.
        if ancestors(path).any(|above| new.contains(above)) {
            continue;
        }
        let emptied = ancestors(path).find(|above| !directories.contains(above));
        difference.whiteouts.insert(emptied.unwrap_or(path));
    }
    let deleted = difference.whiteouts.iter().copied();
    difference.parents = changed.chain(deleted).flat_map(ancestors).collect();
    difference
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(old: &[&str], new: &[&str], changed: &[&str]) -> (Vec<String>, Vec<String>) {
        let bytes = |paths: &[&'static str]| -> Vec<&'static [u8]> {
            paths.iter().map(|path| path.as_bytes()).collect()
        };
        let leak = |paths: &[&str]| -> Vec<&'static str> {
            paths.iter().map(|path| &*String::from(*path).leak()).collect()
        };
        let (old, new, changed) = (leak(old), leak(new), leak(changed));
        let found = difference(
            bytes(&old).into_iter(),
            &bytes(&new).into_iter().collect(),
            bytes(&changed).into_iter(),
        );
        let text = |paths: BTreeSet<&[u8]>| {
            paths.into_iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect()
        };
        (text(found.whiteouts), text(found.parents))
    }

    #[test]
    fn an_emptied_directory_goes_whole_and_one_that_is_not_does_not() {
        let (whiteouts, parents) =
            of(&["a/b/c/1", "a/b/2", "a/3", "d/4"], &["a/3", "d/5"], &["d/5"]);
        assert_eq!(whiteouts, ["a/b", "d/4"]);
        assert_eq!(parents, ["a", "d"]);
    }

    #[test]
    fn what_takes_a_place_needs_no_whiteout() {
        assert_eq!(of(&["a/1", "a/2", "b"], &["a", "b/1"], &["a", "b/1"]).0, Vec::<String>::new());
        assert_eq!(of(&["b"], &["b/c/1"], &["b/c/1"]).1, ["b", "b/c"]);
    }
}
