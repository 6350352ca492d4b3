//! Evaluations and sessions as pods of a Kubernetes cluster: one pod each, its image from a registry by digest.
//!
//! What decides is pure: [`state`] finds the state of a pod, [`pod`] makes it, [`template`] merges what the
//! operator of the cluster wants.

mod canary;
mod client;
mod cluster;
pub mod config;
pub mod doctor;
mod fetch;
mod inputs;
mod lease;
pub mod message;
pub mod pod;
mod remote;
mod run;
mod script;
mod session;
mod shared;
pub mod state;
pub mod template;
#[cfg(test)]
mod testing;
pub mod trial;
mod watch;

pub use client::ClusterError;
pub use cluster::{Cluster, Opening};

/// Removes what dead runs left in a namespace, and what a run of that name has there, also where it is under
/// way. Returns what was removed, for people.
///
/// # Errors
/// The cluster does not answer, or does not let us.
pub async fn clean(
    settings: &config::Settings,
    run_id: Option<&str>,
) -> Result<Vec<String>, ClusterError> {
    let server = client::Server::connect(settings).await?;
    server.check().await?;
    let removed = lease::sweep(&server, None, run_id).await;
    let removed =
        removed.map_err(|failure| client::cluster_error(&server, "remove old Leases", failure))?;
    let named = |run| format!("pods of run `{run}` in namespace `{}`", server.namespace);
    Ok(removed.into_iter().map(named).collect())
}

/// Labels and annotations that imgforge sets on its pods.
pub mod label {
    pub(super) use crate::engine::label::PREFIX;
    pub use crate::engine::label::{INSTANCE, KEY, RUN};

    /// Who manages a thing, as Kubernetes recommends it.
    pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
    /// The value of [`MANAGED_BY`].
    pub const IMGFORGE: &str = "imgforge";
    /// The uid of the Lease that a thing belongs to.
    pub const OWNER: &str = "dev.imgforge.owner";
    /// The beginning of the key of the environment image.
    pub const ENVIRONMENT: &str = "dev.imgforge.env";
    /// `none` where a NetworkPolicy is to keep the pod from any network.
    pub const NETWORK: &str = "dev.imgforge.network";
    /// Says of a Lease that pods of its run are kept for people to look at.
    pub const KEPT: &str = "dev.imgforge.kept";
    /// The second since 1970 from which on nobody needs it any more.
    pub const DEADLINE: &str = "dev.imgforge.deadline";
}
