//! Images, as engines tell of them.

use std::collections::BTreeMap;

use crate::key::{DiffId, ImageId};
use crate::platform::Platform;

use super::{Service, label};

/// An image as the listing of an engine shows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListedImage {
    /// The engine's id: the digest of the config, or of the manifest on a containerd store.
    pub id: ImageId,
    /// `repository:tag` references.
    pub tags: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Bytes of all layers, shared ones included.
    pub size: u64,
}

/// An image looked at closely.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Image {
    /// The engine's id.
    pub id: ImageId,
    /// `repository:tag` references.
    pub tags: Vec<String>,
    /// `repository@sha256:…` of registries that it was pulled from or pushed to.
    pub repo_digests: Vec<String>,
    /// The sha256 of every uncompressed layer, lowest first.
    pub diff_ids: Vec<DiffId>,
    /// Such as `linux/amd64`.
    pub platform: Platform,
    /// Bytes of all layers.
    pub size: u64,
    /// Labels, environment, entrypoint and so on.
    pub config: ImageConfig,
}

impl Image {
    /// Returns its first name, or its id where it has none.
    pub fn name(&self) -> &str {
        self.tags.first().map_or(self.id.as_str(), String::as_str)
    }
}

/// The runtime part of an image's config.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageConfig {
    /// `NAME=value`, in order.
    pub env: Vec<String>,
    /// The default command.
    pub cmd: Vec<String>,
    /// The entrypoint.
    pub entrypoint: Vec<String>,
    /// The working directory; empty for `/`.
    pub working_dir: String,
    /// The user; empty for root.
    pub user: String,
    /// What runs the shell form of `RUN` in a Dockerfile on top; empty for `/bin/sh -c`.
    pub shell: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// What it says of a service.
    pub service: Service,
}

impl ImageConfig {
    /// Takes away the labels that say which image of imgforge it is: one that is made of it is not that.
    pub fn disown(&mut self) {
        self.labels.retain(|name, _| !name.starts_with(label::PREFIX));
    }

    /// Returns it without what is not in images of imgforge, whatever they stand on.
    pub fn sealed(&self) -> ImageConfig {
        ImageConfig { service: Service::default(), ..self.clone() }
    }
}
