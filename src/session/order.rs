//! What a session is started with: by a command, or again from a checkpoint of another.

use serde::{Deserialize, Serialize};

use crate::engine::SessionRequest;

use super::egress::AllowList;
use super::ports::Publish;

/// A session that is to be kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SessionOrder {
    /// A name to find it by.
    pub name: Option<String>,
    /// The instance that it is for.
    pub instance: Option<InstanceName>,
    /// The container.
    pub request: SessionRequest,
    /// The hosts that it may reach, where it has a way out.
    #[serde(default)]
    pub allowed: Option<AllowList>,
    /// The ports that are reached from this machine.
    #[serde(default)]
    pub publish: Vec<Publish>,
    /// After how many seconds it ends.
    pub ttl_seconds: Option<f64>,
    /// After how many seconds without a client it ends.
    pub idle_seconds: Option<f64>,
    /// The repository that it works in, where that is known.
    pub repository: Option<Repository>,
}

/// An instance of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceName {
    /// As it was named.
    pub dataset: String,
    /// The split.
    pub split: String,
    /// The id of the row.
    pub instance_id: String,
}

/// The repository that a session works in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repository {
    /// Its directory in the container.
    pub directory: String,
    /// The commit that it was at when the first session began: a patch is against that.
    pub base: Option<String>,
}
