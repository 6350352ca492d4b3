//! The cache manager on real engines, registries and archives: bounding, checking, moving, and bad
//! days.
//!
//! Every test has an embedded engine and a state of its own, with small images that are labelled as
//! builds label theirs. Registries are Debian's `docker-registry`; without it the tests that need
//! one say so and pass, unless `CI` is set: there they fail.

mod answers;
mod archive;
mod bound;
mod common;
mod from;
mod hostile;
mod kills;
mod poison;
mod registry;
mod signed;
mod transfer;
mod verify;
