//! A cluster for a command of yours: for measurements, and to look around.

use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;
use std::time::Instant;

use super::Space;
use super::cluster::Knobs;
use super::needs::{NotHere, not_here};

/// The name of the variable with the command, for `sh -c`.
const COMMAND: &str = "IMGFORGE_TEST_CLUSTER_COMMAND";

/// Runs the command with `KUBECONFIG`, `IMGFORGE_RUNNER` and `IMGFORGE_CACHE_REGISTRY` of a cluster, and the
/// program in the `PATH`. Says then how long it took, and how many requests of each kind came.
///
/// ```text
/// IMGFORGE_TEST_CLUSTER_COMMAND='imgforge eval -d demo -p gold --run-id pods --repeat 250' \
///     cargo test --test kubernetes -- --ignored --nocapture a_command_of_yours
/// ```
#[test]
#[ignore = "needs docker-registry and a base image"]
fn a_command_of_yours_finds_a_cluster() {
    let Ok(text) = std::env::var(COMMAND) else { return not_here(NotHere::Unasked(COMMAND)) };
    let space = Space::new(Knobs::default());
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_imgforge")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let started = Instant::now();
    let status = Command::new("sh")
        .args(["-c", &text])
        .env("PATH", path)
        .env("KUBECONFIG", space.cluster.kubeconfig("evals"))
        .env("IMGFORGE_RUNNER", "kubernetes")
        .env("IMGFORGE_CACHE_REGISTRY", space.registry.name())
        .env("IMGFORGE_CACHE_MODE", "write")
        .status()
        .unwrap();
    eprintln!("{:.1} s, {status}", started.elapsed().as_secs_f64());
    eprintln!("{:#?}", space.cluster.counts());
    assert!(status.success() && status.signal().is_none());
    space.cluster.assert_empty();
}
