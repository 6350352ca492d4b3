//! What engines make images from.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::key::Digest;
use crate::platform::Platform;

use super::{Image, ImageConfig};

/// A Dockerfile build. The result is *sealed*: its config is written anew with a constant
/// creation time, no history and exactly `labels`, so that equal layers give an equal image id.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    /// Normalised Dockerfile text. Each `RUN` gets, by the engine and not by the text, the host's
    /// CA bundle, proxy variables and package caches.
    pub dockerfile: String,
    /// Files beside the Dockerfile, sent with a constant time.
    pub context: Vec<crate::context_file::ContextFile>,
    /// Build arguments.
    pub args: BTreeMap<String, String>,
    /// Such as `linux/amd64`.
    pub platform: Platform,
    /// All labels of the result.
    pub labels: BTreeMap<String, String>,
    /// `repository:tag` names, set only when the image is whole.
    pub tags: Vec<String>,
    /// Environment that build steps get and the image does not.
    pub host: HostAccess,
    /// Whether steps run that were done before with the same inputs. Package caches are used.
    pub no_cache: bool,
    /// What a build of Docker's has beside that.
    pub as_docker: Option<AsDocker>,
}

/// A build as Docker does it: the result is not sealed. It has the labels of the text, of what it stands
/// on but for imgforge's, and of the request; and what both say of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AsDocker {
    /// The directory with the files beside the Dockerfile, instead of [`BuildRequest::context`].
    pub context: PathBuf,
    /// The name or number of the stage that is the result; without one the last.
    pub target: Option<String>,
}

/// What a build step gets from the host; never part of a key or a layer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostAccess {
    /// PEM certificates of the authorities to trust.
    pub ca_bundle: Option<Vec<u8>>,
    /// `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY`, in both spellings, and index settings.
    pub variables: BTreeMap<String, String>,
    /// The network mode of build steps (`host`, `default`).
    pub network: Option<String>,
    /// Files that `RUN --mount=type=secret` mounts, by their ids.
    pub secrets: BTreeMap<String, PathBuf>,
}

/// New layers on a parent that the engine holds.
#[derive(Debug, Clone)]
pub struct LayerRequest {
    /// The parent, as [`Engine::inspect`] returned it.
    pub parent: Image,
    /// Uncompressed tar files on the host, lowest first; none gives a new config on the same layers.
    /// The engine keeps what it has of them already.
    pub layers: Vec<LayerFile>,
    /// Variables, working directory and so on of the new image. Labels included.
    pub config: ImageConfig,
    /// `repository:tag` names.
    pub tags: Vec<String>,
}

/// A layer on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerFile {
    /// An uncompressed tar.
    pub path: PathBuf,
    /// The sha256 of the file.
    pub diff_id: Digest,
    /// Bytes.
    pub size: u64,
}
