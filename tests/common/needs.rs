//! What tests need beyond this repository and a compiler, and which tests have no subject here.
//!
//! A test that needs something has `#[ignore = "needs …"]` with a reason of the table in
//! `CONTRIBUTING.md`. When it is run all the same, a missing need is a failure that says what to
//! install. [`not_here`] is the only way for a test to end without a check.

#![allow(dead_code, reason = "not every test uses all of it")]

use std::fmt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::OnceLock;

/// The image that tests on Docker stand on; `imgforge base bootstrap` makes it.
pub(crate) const FROM: &str = "python:3.11.10-slim-bookworm";

/// The image that tests on the embedded engine stand on.
pub(crate) const BASE: &str = "python:3.11-slim-bookworm";

/// Why a test has no subject where it runs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum NotHere {
    /// The test is about the other kind of engine.
    OtherEngine,
    /// The engine under test is on another machine.
    FarEngine,
    /// Only root can do what the test does.
    PlainUser,
    /// The test is about a plain user.
    Root,
    /// The containers of this user have one user id.
    OneUser,
    /// The test runs only where this variable is set.
    Unasked(&'static str),
}

impl fmt::Display for NotHere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotHere::OtherEngine => write!(f, "it is about the other kind of engine"),
            NotHere::FarEngine => write!(f, "the engine under test is on another machine"),
            NotHere::PlainUser => write!(f, "only root can do what it does"),
            NotHere::Root => write!(f, "it is about a plain user, and root runs it"),
            NotHere::OneUser => write!(f, "the containers of this user have one user id"),
            NotHere::Unasked(variable) => write!(f, "`{variable}` is not set"),
        }
    }
}

/// Says why a test checks nothing here.
pub(crate) fn not_here(why: NotHere) {
    eprintln!("this test checks nothing here: {why}");
}

/// Tells whether root runs the tests.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Demands a Docker engine that has [`FROM`].
pub(crate) fn docker() {
    static FOUND: OnceLock<bool> = OnceLock::new();
    let inspect = || {
        let output = Command::new("docker").args(["image", "inspect", FROM]).output();
        output.is_ok_and(|output| output.status.success())
    };
    assert!(
        *FOUND.get_or_init(inspect),
        "no Docker engine answers that has `{FROM}`: run `scripts/engine`, then `imgforge --engine \
         docker base bootstrap {FROM}`"
    );
}

/// Demands a Slurm.
pub(crate) fn slurm() {
    let answers = || Command::new("sinfo").output().is_ok_and(|output| output.status.success());
    static FOUND: OnceLock<bool> = OnceLock::new();
    assert!(
        *FOUND.get_or_init(answers),
        "no Slurm answers: run the tests under `scripts/slurm`, which brings one up"
    );
}

/// Returns the state directory of the embedded engine under test: one for each user.
pub(crate) fn state() -> PathBuf {
    match std::env::var_os("IMGFORGE_TEST_STATE") {
        Some(state) => state.into(),
        None => {
            let user = rustix::process::geteuid().as_raw();
            std::env::temp_dir().join(format!("imgforge-test-{user}"))
        }
    }
}

/// Demands a base image of the embedded engine, and returns the state directory that has it.
pub(crate) fn base() -> PathBuf {
    let state = state();
    let there = state.join("embedded/oci/index.json").exists();
    assert!(there, "{}", no_base(&state.display().to_string()));
    state
}

/// Says how to make the base images in a state directory.
pub(crate) fn no_base(state: &str) -> String {
    format!(
        "there is no base image in `{state}`: run `imgforge --engine embedded --state-dir {state} \
         base bootstrap {BASE} {FROM}`"
    )
}

/// Runs a program that has to be installed; it is in the Debian package `package`.
pub(crate) fn program(command: &mut Command, package: &str) -> Output {
    command.output().unwrap_or_else(|error| {
        panic!("cannot start {:?}: {error}: install `{package}`", command.get_program())
    })
}

/// Demands a part of the test data, and returns its path.
pub(crate) fn data(name: &str) -> PathBuf {
    let dir = std::env::var_os("IMGFORGE_TEST_DATA").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data")),
        PathBuf::from,
    );
    let path = dir.join(name);
    assert!(path.exists(), "there is no {path:?}: set IMGFORGE_TEST_DATA to the test data");
    path
}
