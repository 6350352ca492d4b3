//! One suite over all engines: what [`imgforge::engine::Engine`] promises, on real ones.
//!
//! It runs on the kinds of engine that `IMGFORGE_TEST_ENGINES` names, by default `docker embedded`:
//! on every Docker engine of `IMGFORGE_TEST_DOCKER_HOSTS` (separated by spaces), else on the one that
//! `DOCKER_HOST` and the sockets lead to, and on the embedded engine of the user who runs it. The
//! tests stand on the image `IMGFORGE_TEST_IMAGE`, a Debian, which `imgforge base bootstrap` makes.
//! `scripts/other-docker` runs it on another release of Docker.

mod addresses;
mod again;
mod attach;
mod bad_days;
mod build;
mod cache;
mod checkpoints;
mod common;
mod embedded;
mod escape;
mod interop;
mod load;
#[path = "../common/needs.rs"]
mod needs;
mod platform;
mod quotas;
mod run;
mod sandbox;
mod scratch;
mod session;
mod session_bad_days;
mod session_command;
mod smoke;
mod transfer;
