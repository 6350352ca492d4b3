//! The settings of pods.

use std::time::Duration;

use super::template::Template;

/// Where pods run, and what they ask for.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The context of the kubeconfig; without it the current one, else that of the pod this runs in.
    pub context: Option<String>,
    /// The namespace; without it that of the context.
    pub namespace: Option<String>,
    /// The fields of pods that the operator of the cluster wants.
    pub template: Template,
    /// The Secret with the credentials of the registry.
    pub pull_secret: Option<String>,
    /// How long a pod may take until its tests run: the way to a node, and the pull.
    pub start_limit: Duration,
    /// Bytes of memory that a pod asks for; its limit where that is less.
    pub request_memory: u64,
    /// Thousandths of a processor that it asks for.
    pub request_milli_cpus: u64,
    /// Whether pods stay whose tests did not come to their end.
    pub keep_failed: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            context: None,
            namespace: None,
            template: Template::default(),
            pull_secret: None,
            start_limit: Duration::from_secs(30 * 60),
            request_memory: 2 << 30,
            request_milli_cpus: 1000,
            keep_failed: false,
        }
    }
}
