//! What the tests on a real engine share.

#![allow(dead_code, reason = "not every test uses all of it")]

pub mod schema;

use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// The image that tests stand on; `imgforge base bootstrap` makes it.
pub const FROM: &str = "python:3.11.10-slim-bookworm";

/// Runs `docker`.
pub fn docker(args: &[&str]) -> Output {
    Command::new("docker").args(args).stdin(Stdio::null()).output().expect("docker can be started")
}

/// Tells whether an engine with [`FROM`] answers. Where it was promised, it has to.
pub fn has_engine() -> bool {
    static ENGINE: OnceLock<bool> = OnceLock::new();
    *ENGINE.get_or_init(|| {
        let answers = Command::new("docker")
            .args(["image", "inspect", FROM])
            .output()
            .is_ok_and(|output| output.status.success());
        assert!(answers || std::env::var_os("CI").is_none(), "CI has no engine with `{FROM}`");
        if !answers {
            eprintln!("no engine with `{FROM}` answers: the tests on an engine are left out");
        }
        answers
    })
}
