//! The cache manager on real engines, registries and archives: bounding, checking, moving, and bad
//! days.
//!
//! Every test has an embedded engine and a state of its own, with small images that are labelled as
//! builds label theirs. Registries are Debian's `docker-registry`.

mod answers;
mod archive;
mod bound;
mod common;
mod from;
mod hostile;
mod kills;
#[path = "../common/needs.rs"]
mod needs;
mod poison;
mod registry;
mod signed;
mod transfer;
mod verify;
