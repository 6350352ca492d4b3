//! What a prediction came to.

use serde::{Deserialize, Serialize};

/// What a prediction came to. Failing tests are a result; what follows [`Verdict::EmptyPatch`] is
/// no result, and is tried again by the same command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All expected tests did what they should.
    Resolved,
    /// Some did not, or the log shows no results.
    Unresolved,
    /// The model patch does not apply.
    PatchRefused,
    /// The prediction is empty or null: nothing was run.
    EmptyPatch,
    /// The tests were killed at their time limit.
    TimedOut,
    /// The kernel killed tests at the memory limit.
    OutOfMemory,
    /// The tests wrote more than they may, and were killed.
    OverQuota,
    /// The image or the run failed: the engine, the disk, a repository. Never a verdict on the patch.
    Error,
    /// The run was stopped before its turn.
    NotRun,
}

impl Verdict {
    /// All of them, in their order.
    pub const ALL: [Verdict; 9] = [
        Verdict::Resolved,
        Verdict::Unresolved,
        Verdict::PatchRefused,
        Verdict::EmptyPatch,
        Verdict::TimedOut,
        Verdict::OutOfMemory,
        Verdict::OverQuota,
        Verdict::Error,
        Verdict::NotRun,
    ];

    /// Returns the name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Resolved => "resolved",
            Verdict::Unresolved => "unresolved",
            Verdict::PatchRefused => "patch_refused",
            Verdict::EmptyPatch => "empty_patch",
            Verdict::TimedOut => "timed_out",
            Verdict::OutOfMemory => "out_of_memory",
            Verdict::OverQuota => "over_quota",
            Verdict::Error => "error",
            Verdict::NotRun => "not_run",
        }
    }

    /// Returns the name for people.
    pub fn words(self) -> &'static str {
        match self {
            Verdict::Resolved => "resolved",
            Verdict::Unresolved => "unresolved",
            Verdict::PatchRefused => "patch refused",
            Verdict::EmptyPatch => "empty patch",
            Verdict::TimedOut => "timed out",
            Verdict::OutOfMemory => "out of memory",
            Verdict::OverQuota => "over quota",
            Verdict::Error => "error",
            Verdict::NotRun => "not run",
        }
    }

    /// Tells whether the prediction was judged: whether `report.json` is written.
    pub fn is_graded(self) -> bool {
        matches!(self, Verdict::Resolved | Verdict::Unresolved | Verdict::PatchRefused)
    }

    /// Tells whether something other than the prediction is at fault, so that the run is not whole.
    pub fn is_error(self) -> bool {
        matches!(
            self,
            Verdict::TimedOut
                | Verdict::OutOfMemory
                | Verdict::OverQuota
                | Verdict::Error
                | Verdict::NotRun
        )
    }

    /// Returns what a person can do about it.
    pub fn advice(self) -> Option<&'static str> {
        Some(match self {
            Verdict::TimedOut => {
                "raise --timeout, or lower --max-workers so that each run has more of the machine"
            }
            Verdict::OutOfMemory => {
                "raise --memory, or lower --max-workers when the host itself has too little"
            }
            Verdict::OverQuota => {
                "raise --disk, --files or --log-size, or lower --max-workers when the disk has little \
                 free, if the tests need it"
            }
            Verdict::Error => "nothing was scored; run the same command again once it is repaired",
            Verdict::NotRun => "run the same command again: what was finished is reused",
            Verdict::PatchRefused => "run_instance.log has what every attempt said",
            Verdict::Resolved | Verdict::Unresolved | Verdict::EmptyPatch => return None,
        })
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.words())
    }
}
