//! Where repositories come from, and what is written from them: checkout layers and patch layers.
//!
//! Everything here is synchronous; it knows nothing of images beyond the tar that a layer is.

mod apply;
mod blobs;
mod checkout;
mod fetch;
mod git_index;
mod history;
mod layer;
mod layer_diff;
mod listing;
mod mirror;
mod mirrors;
mod origin;
mod pack;
mod resolve;
mod scratch;
mod tree_diff;
mod worktree;

use std::path::PathBuf;
use std::time::Duration;

pub use apply::{PatchLayer, PatchOutcome, PatchRequest, Refusal, Which};
pub use checkout::{CheckoutLayer, CheckoutOptions};
pub use history::Needed;
pub use mirror::Mirror;
pub use mirrors::Mirrors;
pub(crate) use origin::local_path;

/// A submodule of a checkout: reported, and left an empty directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submodule {
    /// The path of the submodule in the checkout.
    pub path: String,
    /// Where it comes from; empty when `.gitmodules` does not say.
    pub url: String,
    /// The commit that it is pinned to.
    pub commit: String,
}

/// A source that was asked for a commit, and what it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// The URL or directory.
    pub source: String,
    /// The answer of the source, for people.
    pub said: String,
    /// Whether it was reached, and lacks the commit or its files; else nothing is known of what it has.
    pub answered: bool,
}

/// The reason for which a repository cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// No source has the commit.
    #[error("no source of `{repo}` has commit `{commit}`{}", tried_text(tried))]
    NoCommit {
        /// The repository.
        repo: String,
        /// The commit.
        commit: String,
        /// Every source that was asked.
        tried: Vec<Tried>,
    },
    /// Sources have the commit, and none has all of its files.
    #[error("no source of `{repo}` has all files of commit `{commit}`{}", tried_text(tried))]
    Incomplete {
        /// The repository.
        repo: String,
        /// The commit.
        commit: String,
        /// Every source that was asked.
        tried: Vec<Tried>,
    },
    /// No source has the branch or tag.
    #[error("no branch or tag `{reference}` is in {}", asked.join(", "))]
    NoReference {
        /// The name that no source has.
        reference: String,
        /// Every source that was asked.
        asked: Vec<String>,
    },
    /// No source could be asked for a branch or tag.
    #[error("nobody could be asked for branch or tag `{reference}`{}", tried_text(tried))]
    NotAsked {
        /// The name that was asked for.
        reference: String,
        /// Every source that was asked.
        tried: Vec<Tried>,
    },
    /// Not 40 hexadecimal digits.
    #[error("`{commit}` is not a commit id of 40 hexadecimal digits")]
    NotACommit {
        /// The text that is no id of a commit.
        commit: String,
    },
    /// An object cannot be read.
    #[error("the mirror of `{repo}` is damaged: {what}")]
    Corrupt {
        /// The repository.
        repo: String,
        /// The fault that was found.
        what: String,
    },
    /// A tracked file has a name that means something else in a layer.
    #[error(
        "`{path}` of `{repo}` cannot be in an image: names that begin with `.wh.` mark deletions there"
    )]
    Whiteout {
        /// The repository.
        repo: String,
        /// The file.
        path: String,
    },
    /// The `git` program failed.
    #[error("`git {command}` failed: {said}")]
    Git {
        /// The subcommand.
        command: String,
        /// The output of `git` on standard error.
        said: String,
    },
    /// A program did not finish with a patch. It is no answer: nothing is known of the patch.
    #[error("`{program}` did not finish with the patch within {} s", limit.as_secs())]
    TooLong {
        /// The program.
        program: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// A program that is needed cannot be started.
    #[error("cannot run `{program}`")]
    NoProgram {
        /// The program.
        program: String,
        /// The error of the system.
        #[source]
        source: std::io::Error,
    },
    /// A file could not be read or written.
    #[error("cannot use `{path}`")]
    File {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: std::io::Error,
    },
}

fn tried_text(tried: &[Tried]) -> String {
    tried.iter().map(|tried| format!("\n  `{}`: {}", tried.source, tried.said)).collect()
}

impl SourceError {
    /// Tells whether this machine is at fault, whatever the repository: it lacks a program.
    pub fn is_out_of_reach(&self) -> bool {
        matches!(self, SourceError::NoProgram { .. })
    }

    /// Tells whether every source answered, and lacks what was asked for: then the one who asked is at
    /// fault, and no network.
    pub fn is_answer(&self) -> bool {
        match self {
            SourceError::NoCommit { tried, .. } | SourceError::Incomplete { tried, .. } => {
                !tried.is_empty() && tried.iter().all(|tried| tried.answered)
            }
            SourceError::NoReference { .. }
            | SourceError::NotACommit { .. }
            | SourceError::Whiteout { .. } => true,
            _ => false,
        }
    }

    /// Returns what would help.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            SourceError::NoReference { .. } => "name a branch, a tag, or all 40 digits of a commit",
            SourceError::NoCommit { .. } => {
                "name a source that has it with `--git-mirror`, or for this repo alone under \
                 `[mirrors]` in images.local.toml"
            }
            SourceError::Incomplete { .. } => {
                "a partial clone lacks files: name a source that has all with `--git-mirror`; where \
                 none is partial, the mirror is damaged: remove it, and it is fetched again"
            }
            SourceError::Corrupt { .. } => "remove the mirror; it is fetched again",
            SourceError::NoProgram { .. } => {
                "install it; imgforge uses `git` and `patch` of the host"
            }
            SourceError::Whiteout { .. } => {
                "the instance cannot be built in layers; leave it out of the selection"
            }
            SourceError::TooLong { .. } => {
                "does a hunk of the patch name a line that no file has, such as 10000000000?"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}
