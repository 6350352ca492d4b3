//! What the tests on a real engine share.

#![allow(dead_code, reason = "not every test uses all of it")]

pub(crate) mod needs;
pub(crate) mod schema;

use std::process::{Command, Output, Stdio};

/// Runs `docker`.
pub(crate) fn docker(args: &[&str]) -> Output {
    Command::new("docker").args(args).stdin(Stdio::null()).output().expect("docker can be started")
}
