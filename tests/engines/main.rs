//! One suite over all engines: what [`imgforge::engine::Engine`] promises, on real ones.
//!
//! With the feature `test-docker` it runs on every Docker engine of `IMGFORGE_TEST_DOCKER_HOSTS`
//! (separated by spaces), else on the one that `DOCKER_HOST` and the sockets lead to. An engine that
//! does not answer fails the tests. They stand on the image `IMGFORGE_TEST_IMAGE`, a Debian, which
//! `scripts/base-image` makes.

#![cfg(feature = "test-docker")]

mod bad_days;
mod build;
mod common;
mod load;
mod run;
mod transfer;
