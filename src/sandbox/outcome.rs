//! What became of a test.

use serde::{Deserialize, Serialize};

/// What became of a test, from the best to the worst: the worst counts where there are several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It passed.
    Passed,
    /// It was expected to fail, and passed.
    Xpassed,
    /// It was skipped.
    Skipped,
    /// It failed as it was expected to.
    Xfailed,
    /// Its setup or its teardown failed, or its file could not be collected.
    Error,
    /// It failed.
    Failed,
}
