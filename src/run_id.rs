//! The name of a run.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::Serialize;

/// The name of a run: a directory below the logs is called so, and every container of the run has
/// the name as a label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(into = "String")]
pub struct RunId(Arc<str>);

/// A text that is no name of a run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("run id `{0}` cannot name a directory")]
pub struct NotARunId(pub String);

impl RunId {
    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RunId {
    type Err = NotARunId;

    /// Reads a name that a directory can have.
    fn from_str(text: &str) -> Result<RunId, NotARunId> {
        if names_a_directory(text) {
            Ok(RunId(text.into()))
        } else {
            Err(NotARunId(text.to_owned()))
        }
    }
}

impl From<RunId> for String {
    fn from(run_id: RunId) -> Self {
        run_id.as_str().to_owned()
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Tells whether a directory of a run can be called so.
pub fn names_a_directory(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 200
        && name != "."
        && name != ".."
        && !name.contains(['/', '\0', '\n'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_called_what_a_directory_can_be_called() {
        for name in ["20260131-153000-1f3a", "a b", "ü", ".x", &"x".repeat(200)] {
            assert_eq!(name.parse::<RunId>().unwrap().to_string(), name);
        }
        for name in ["", ".", "..", "a/b", "a\nb", "a\0b", &"x".repeat(201)] {
            assert_eq!(name.parse::<RunId>(), Err(NotARunId(name.to_owned())));
        }
    }
}
