//! Why an engine could not do something.

use std::path::PathBuf;

use crate::platform::Platform;

use super::EngineKind;
use super::address::Address;
use super::client_config::FileFault;
use super::reference::NotAReference;

/// A result of an engine call.
pub type Result<T> = std::result::Result<T, EngineError>;

/// What went wrong in an engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No engine answers.
    #[error("cannot reach an engine at `{address}`")]
    Unreachable {
        /// The socket or URL.
        address: Box<Address>,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The socket is there and may not be used.
    #[error("permission denied on the engine's socket `{address}`")]
    PermissionDenied {
        /// The socket.
        address: Box<Address>,
    },
    /// This program was built without the engine.
    #[error("this imgforge was built without the {engine} engine")]
    NotBuilt {
        /// Its name, which is also that of the cargo feature.
        engine: &'static str,
    },
    /// The engine that was chosen, or that answers, cannot be used.
    #[cfg(feature = "docker")]
    #[error(transparent)]
    Unusable(super::Refusal),
    /// A text does not name an image.
    #[error(transparent)]
    Reference(#[from] NotAReference),
    /// A file of credentials cannot be used.
    #[error(transparent)]
    ClientFile(FileFault),
    /// The engine is older than what imgforge can use.
    #[error("the engine speaks API {found}, imgforge needs {needed} or newer")]
    TooOld {
        /// The engine's API version.
        found: String,
        /// The oldest that works.
        needed: &'static str,
    },
    /// The connection broke or the engine answered with a server error: worth another try.
    #[error("the engine failed to {action}")]
    Transient {
        /// What was asked of it.
        action: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An image that was needed is not there.
    #[error("image `{reference}` is not on the engine")]
    NoSuchImage {
        /// The reference.
        reference: String,
    },
    /// A file or directory that was asked for is not in the container.
    #[error("`{path}` is not in the container")]
    NoSuchPath {
        /// The path, as it was asked for.
        path: String,
    },
    /// A session has ended: nothing can be asked of it any more.
    #[error("session `{session}` has ended: {}", how.reason())]
    SessionEnded {
        /// Its id.
        session: String,
        /// How it ended.
        how: super::SessionEnd,
    },
    /// An image is for another platform than the one that it is needed for.
    #[error("`{reference}` is for {found}, not for {wanted}")]
    OtherPlatform {
        /// The reference.
        reference: String,
        /// What the image is for.
        found: Platform,
        /// What it is needed for.
        wanted: Platform,
    },
    /// A registry refused or lacks the image.
    #[error("cannot pull `{reference}`: {reason}")]
    Pull {
        /// The reference.
        reference: String,
        /// The registry's words.
        reason: String,
    },
    /// A registry does not have the image, or its whole repository.
    #[error("`{reference}` is not in its registry: {reason}")]
    NotFound {
        /// The reference.
        reference: String,
        /// The registry's answer.
        reason: String,
    },
    /// A registry wants other credentials; of what somebody may not see, most do not say whether it
    /// is there.
    #[error("registry `{registry}` does not let us {action}: {reason}")]
    Denied {
        /// The registry.
        registry: String,
        /// What was asked of it.
        action: String,
        /// Its answer.
        reason: String,
    },
    /// A registry has no time for the request: worth another try.
    #[error("registry `{registry}` is too busy to {action}: {reason}")]
    Busy {
        /// The registry.
        registry: String,
        /// What was asked of it.
        action: String,
        /// Its answer.
        reason: String,
        /// Whether this client asked too often, and not everybody.
        limited: bool,
        /// How long it asks to wait.
        wait: Option<std::time::Duration>,
    },
    /// An image of a registry that no trusted key signed: it counts as absent.
    #[error("`{reference}` (`{digest}`) is as if it were not there")]
    Unsigned {
        /// The reference.
        reference: String,
        /// The digest of its manifest.
        digest: String,
        /// Why.
        #[source]
        why: crate::sign::NotSigned,
    },
    /// No connection to a registry came to be: worth another try.
    #[error("cannot reach registry `{registry}`")]
    Offline {
        /// The registry.
        registry: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A registry's name is not known to the resolver.
    #[error("there is no host `{registry}`")]
    NoRegistry {
        /// The registry.
        registry: String,
    },
    /// A transfer was tried again and again, and failed to the end.
    #[error(transparent)]
    GaveUp {
        /// How the last try failed.
        source: Box<EngineError>,
    },
    /// A step of a Dockerfile failed by its own doing.
    #[error("step `{step}` exited with code {code}")]
    Step {
        /// The instruction or command.
        step: String,
        /// The exit code.
        code: i64,
    },
    /// This process may make no containers here.
    #[cfg(feature = "embedded")]
    #[error("{}; it failed to {action}: {reason}", confinement.text())]
    Confined {
        /// What the kernel refused.
        action: String,
        /// The kernel's words.
        reason: String,
        /// What stands in the way.
        confinement: super::Confinement,
    },
    /// The engine has no room left.
    #[error("no space left on the engine's disk while trying to {action}")]
    NoSpace {
        /// What was asked of it.
        action: String,
    },
    /// The engine refused what was asked; trying again will not help.
    #[error("the engine refused to {action}: {reason}")]
    Refused {
        /// What was asked of it.
        action: String,
        /// The engine's words.
        reason: String,
    },
    /// This kind of engine cannot do it at all.
    #[error("the engine refused to {action}: {why}")]
    Unsupported {
        /// The engine.
        engine: EngineKind,
        /// The request.
        action: &'static str,
        /// The lack, and what does instead where something does.
        why: &'static str,
    },
    /// A cluster cannot be used as it is.
    #[cfg(feature = "kubernetes")]
    #[error("{reason}")]
    Cluster {
        /// What is wrong with it.
        reason: String,
        /// What would help.
        hint: String,
    },
    /// A file on the host could not be read.
    #[error("cannot read `{path}`")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl EngineError {
    /// Tells whether the same call may succeed when it is made again.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            EngineError::Transient { .. }
                | EngineError::Unreachable { .. }
                | EngineError::Busy { .. }
                | EngineError::Offline { .. }
        )
    }

    /// Tells whether a registry will answer no other question better: it is not there, or has no
    /// time for this client.
    pub fn is_of_registry(&self) -> bool {
        match self {
            EngineError::GaveUp { source } => match &**source {
                EngineError::Busy { limited, .. } => *limited,
                EngineError::Offline { .. } => true,
                _ => false,
            },
            EngineError::NoRegistry { .. } => true,
            _ => false,
        }
    }

    /// Tells whether engine or registry are not reached from here, or no container may be made.
    pub fn is_out_of_reach(&self) -> bool {
        match self {
            EngineError::GaveUp { source } => source.is_out_of_reach(),
            EngineError::Unreachable { .. }
            | EngineError::PermissionDenied { .. }
            | EngineError::Offline { .. }
            | EngineError::NoRegistry { .. } => true,
            #[cfg(feature = "embedded")]
            EngineError::Confined { .. } => true,
            #[cfg(feature = "kubernetes")]
            EngineError::Cluster { .. } => true,
            _ => false,
        }
    }

    /// Returns what would help.
    pub fn hint(&self) -> Option<String> {
        let login = |registry: &str| {
            format!("`docker login {registry}` writes the credentials that imgforge reads")
        };
        match self {
            EngineError::Unreachable { address, .. } if address.is_socket() => Some(
                "start Docker (`sudo systemctl start docker`), name its address in DOCKER_HOST, \
                 or use `--engine embedded`"
                    .to_owned(),
            ),
            EngineError::Unreachable { .. } => Some(
                "look whether Docker listens there and this host reaches it; DOCKER_HOST, or the \
                 Docker context, says where it is"
                    .to_owned(),
            ),
            EngineError::PermissionDenied { .. } => Some(
                "add yourself to the group that owns the socket (`sudo usermod -aG docker $USER`, \
                 then log in again), or use rootless Docker"
                    .to_owned(),
            ),
            EngineError::TooOld { .. } => Some("install Docker 20.10 or newer".to_owned()),
            EngineError::Denied { registry, .. } => Some(login(registry)),
            EngineError::Busy { registry, limited: true, .. } => Some(format!(
                "wait, or log in: registries allow more to those they know; {}",
                login(registry)
            )),
            EngineError::GaveUp { source } => source.hint(),
            #[cfg(feature = "embedded")]
            EngineError::Confined { confinement, .. } => Some(confinement.fix()),
            EngineError::NotBuilt { engine } => Some(format!(
                "build it with that engine: `cargo install --path . --features {engine}`"
            )),
            #[cfg(feature = "docker")]
            EngineError::Unusable(refusal) => Some(refusal.hint()),
            EngineError::ClientFile(fault) => Some(fault.hint()),
            #[cfg(feature = "kubernetes")]
            EngineError::Cluster { hint, .. } => Some(hint.clone()),
            _ => None,
        }
    }
}

/// Checks that an image is for a platform.
///
/// # Errors
/// [`EngineError::OtherPlatform`], with what the image is called.
pub(crate) fn check_platform(reference: &str, found: &Platform, wanted: &Platform) -> Result<()> {
    if found.matches(wanted) {
        return Ok(());
    }
    Err(EngineError::OtherPlatform {
        reference: reference.to_owned(),
        found: found.clone(),
        wanted: wanted.clone(),
    })
}
