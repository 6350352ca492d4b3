//! What a patch did to the files of a repository, read from the files before and after it.
//!
//! A patch is a program for `git apply` and `patch`, and its text has more readings than one. What
//! it did has one: the paths that are there, gone or different.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::patch::unquote;

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Happened {
    /// It is there and was not.
    Added,
    /// It is another file, or has another mode.
    Modified,
    /// It is gone.
    Deleted,
}

impl Happened {
    /// Returns `A`, `M` or `D`, as `git diff --name-status` has it.
    pub fn letter(self) -> char {
        match self {
            Happened::Added => 'A',
            Happened::Modified => 'M',
            Happened::Deleted => 'D',
        }
    }
}

/// A path that a patch changed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// Relative to the repository, its bytes as they are.
    pub path: Vec<u8>,
    /// What happened to it.
    pub happened: Happened,
}

impl fmt::Display for Change {
    /// Writes `A`, `M` or `D`, a blank, and the path as git quotes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.happened.letter(), quote(&self.path))
    }
}

impl Change {
    /// Reads what [`Change`] is written as; `None` for anything else.
    pub fn parse(text: &str) -> Option<Change> {
        let (letter, path) = text.split_once(' ')?;
        let happened = match letter {
            "A" => Happened::Added,
            "M" => Happened::Modified,
            "D" => Happened::Deleted,
            _ => return None,
        };
        let path = unquote(path.as_bytes());
        (!path.is_empty()).then_some(Change { path, happened })
    }
}

/// What is known of the tree of a repository in a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TreeNotes {
    /// What the model patch changed, as [`Change`] is written.
    pub changed: Vec<String>,
    /// What the strict rules undid of it.
    pub restored: Vec<String>,
    /// What they removed of what commands of the script had made.
    pub removed: Vec<String>,
}

impl TreeNotes {
    /// Returns what the model patch changed.
    pub fn changes(&self) -> Vec<Change> {
        self.changed.iter().filter_map(|text| Change::parse(text)).collect()
    }
}

/// Renders changes as one text: a JSON list. Equal changes give equal text.
pub fn to_json(changes: &[Change]) -> String {
    let lines: Vec<String> = changes.iter().map(Change::to_string).collect();
    serde_json::to_string(&lines).expect("text is valid JSON")
}

/// Reads what [`to_json`] wrote; `None` where anything in it is something else.
pub fn from_json(text: &str) -> Option<Vec<Change>> {
    let lines: Vec<String> = serde_json::from_str(text).ok()?;
    lines.iter().map(|line| Change::parse(line)).collect()
}

/// Quotes a path as git does where it is not plain text.
fn quote(path: &[u8]) -> String {
    let special = |byte: &u8| byte.is_ascii_control() || matches!(byte, b'"' | b'\\');
    if let Ok(text) = std::str::from_utf8(path)
        && !path.iter().any(special)
    {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for byte in path {
        match byte {
            b'"' | b'\\' => quoted.extend(['\\', char::from(*byte)]),
            b' '..=b'~' => quoted.push(char::from(*byte)),
            _ => quoted.push_str(&format!("\\{byte:03o}")),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_whatever_the_path(
            paths in prop::collection::vec(prop::collection::vec(1u8.., 1..20), 0..4),
        ) {
            let kinds = [Happened::Added, Happened::Modified, Happened::Deleted];
            let change = |(at, path)| Change { path, happened: kinds[at % 3] };
            let changes: Vec<Change> = paths.into_iter().enumerate().map(change).collect();
            prop_assert_eq!(from_json(&to_json(&changes)), Some(changes));
        }
    }

    #[test]
    fn text_of_another_form_is_no_list_of_changes() {
        assert_eq!(from_json(r#"["A src/a.py","M \"\\377.py\""]"#).unwrap()[1].path, b"\xff.py");
        for other in ["", "{}", r#"["X a"]"#, r#"["A"]"#, r#"["A "]"#, r#"["M a",1]"#] {
            assert_eq!(from_json(other), None, "{other}");
        }
    }
}
