//! What an image says of the service that runs in it. imgforge's own images say nothing of it.

use serde::{Deserialize, Serialize};

/// What an image says of its service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Service {
    /// How it is found out whether the service works.
    pub health_check: Option<HealthCheck>,
    /// Directories whose files outlive the container.
    pub volumes: Vec<String>,
    /// Ports that are listened on, such as `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// The signal that asks the main command to end; empty for `SIGTERM`.
    pub stop_signal: String,
}

/// A check of a service, with times in nanoseconds. What is zero or not set is as usual.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HealthCheck {
    /// `NONE`; or `CMD`, a program and its arguments; or `CMD-SHELL` and a text for a shell.
    pub test: Vec<String>,
    /// From the end of a check to the next one.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// The most that a check takes.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// From the start of the service: failures count for nothing meanwhile.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// The interval meanwhile.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// How many failures in a row say that the service does not work.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}
