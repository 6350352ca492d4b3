//! Why a node failed, and what would help.

use std::path::PathBuf;

use crate::causes::causes;
use crate::disk;
use crate::engine::EngineError;
use crate::event::Outcome;
use crate::grade::ReadError;
use crate::run::RunError;
use crate::source::{SourceError, Which};
use crate::store::StoreError;

/// The reason for which a node failed.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The image was to come from the remote, is not there, and is not to be built.
    #[error("{remote} does not have it")]
    NotOffered {
        /// The remote that was asked, as people are told of it.
        remote: String,
    },
    /// The engine failed or refused.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A repository cannot be had, or lacks the commit.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The state on disk cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A patch does not apply.
    #[error("the {} does not apply: {}", which.as_str(), failures.join("; "))]
    PatchRefused {
        /// `test_patch` or `model_patch`.
        which: Which,
        /// The hunks that failed, with file and line.
        failures: Vec<String>,
        /// The output of `git apply`, of every attempt.
        text: String,
    },
    /// Somebody killed the container of a run.
    #[error("the container was killed from outside (exit code {code})")]
    Lost {
        /// The exit code of the container's first process.
        code: i64,
    },
    /// The files of a container were gone before its tests began.
    #[error("the directory of the repository was gone before the tests began")]
    TreeVanished,
    /// A service in the sandbox did not start.
    #[error("the httpbin that the tests need did not start: {said}")]
    NoService {
        /// The last line that the service printed.
        said: String,
    },
    /// The image is not what the row says: nothing was judged.
    #[error("`{image}` is not what the row says: {what}")]
    NotReady {
        /// The name of the image.
        image: String,
        /// The part of the row that the image contradicts.
        what: String,
    },
    /// A log that the parser does not take.
    #[error("cannot grade `{path}`")]
    Grade {
        /// The path of the log.
        path: PathBuf,
        /// The reason of the parser.
        #[source]
        source: ReadError,
    },
    /// The files of a run cannot be written.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The repository has none of the requirement files that the catalog names.
    #[error("`{repo}` has none of `{candidates}` at commit `{commit}`")]
    NoRequirements {
        /// The repository, as `owner/name`.
        repo: String,
        /// The environment's setup commit.
        commit: String,
        /// The paths that were looked for.
        candidates: String,
    },
    /// A requirement file of the repository asks for what cannot be had.
    #[error("`{place}` has requirements that cannot be had here:{lines}")]
    Requirements {
        /// The file, as `repo@commit:path`.
        place: String,
        /// Every such line, with what to write instead.
        lines: String,
    },
    /// The `FROM` image is not the one that the plan was made with.
    #[error("`{reference}` is not the image that the plan was made with")]
    FromChanged {
        /// The reference in the Dockerfile.
        reference: String,
    },
    /// The image that came out is not one that its parent can carry.
    #[error("the image that was built does not begin with the layers of its parent `{parent}`")]
    NotOnParent {
        /// The name of the parent's image.
        parent: String,
    },
    /// A file of the build could not be written.
    #[error("cannot write `{path}`")]
    File {
        /// The path that was to be written.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: std::io::Error,
    },
}

impl NodeError {
    /// Tells whether the same node may succeed when it is tried again. Transfers from registries and
    /// of repositories are tried again where they are made, and not here.
    pub fn is_transient(&self) -> bool {
        match self {
            NodeError::Engine(error) => error.is_transient(),
            NodeError::Lost { .. } | NodeError::TreeVanished | NodeError::NoService { .. } => true,
            _ => false,
        }
    }

    /// Tells whether this machine, and not the node, is at fault: engine, registry or origin are not
    /// reached from here, or no container may be made.
    pub fn is_out_of_reach(&self) -> bool {
        match self {
            NodeError::Engine(error) => error.is_out_of_reach(),
            NodeError::Source(error) => error.is_out_of_reach(),
            _ => false,
        }
    }

    /// Tells whether no further node can succeed.
    pub fn ends_run(&self) -> bool {
        match self {
            NodeError::Engine(EngineError::NoSpace { .. }) => true,
            NodeError::Store(error) => error.is_no_space(),
            NodeError::Run(error) => error.is_no_space(),
            NodeError::Engine(EngineError::File { source, .. })
            | NodeError::Source(SourceError::File { source, .. })
            | NodeError::File { source, .. } => disk::is_full(source),
            _ => false,
        }
    }

    /// Returns what would help.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            NodeError::Engine(EngineError::Unreachable { .. }) => {
                "the engine stopped answering; start it and run the same command again"
            }
            NodeError::Engine(EngineError::PermissionDenied { .. }) => {
                "add yourself to the group that owns the socket, or set DOCKER_HOST"
            }
            error if error.ends_run() => {
                "free some disk and run the same command again; what is built stays"
            }
            NodeError::Lost { .. } => {
                "the engine was restarted, or somebody removed the container; run it again"
            }
            NodeError::TreeVanished => {
                "something removed it: another program, or a step of the instance's own script, \
                 whose log says more"
            }
            NodeError::NotReady { .. } => {
                "compare the row's `image`, `workdir` and `base_commit` with the image; with \
                 `--network bridge` an installation can fetch what it needs"
            }
            NodeError::FromChanged { .. } => "somebody replaced it; run the same command again",
            NodeError::Requirements { .. } => {
                "name other files under `requirements` in images.toml, or a `lock` in their place"
            }
            NodeError::NoRequirements { .. } => {
                "name the right files under `requirements` in images.toml"
            }
            NodeError::Source(error) => return error.hint(),
            NodeError::Engine(error) => return error.hint(),
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// Makes the outcome of a node that failed with `error`.
pub(super) fn outcome(error: &NodeError, tail: Vec<String>, instances: Vec<String>) -> Outcome {
    Outcome::Failed { error: chain(error), hint: error.hint(), tail, instances }
}

/// Lists an error and its causes, outermost first.
pub(super) fn chain(error: &dyn std::error::Error) -> Vec<String> {
    let mut texts = vec![error.to_string()];
    texts.extend(causes(error).map(ToString::to_string));
    texts.dedup();
    texts
}
