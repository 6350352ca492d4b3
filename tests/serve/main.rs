//! The Docker Engine API that `imgforge serve` serves: the real binary, over the embedded engine.
//!
//! `traps` has what clients stumble over, one test each; `life` how containers and servers end; `networks`
//! who reaches whom.

#[path = "../common/mod.rs"]
mod common;

mod build;
mod client;
mod health;
mod life;
mod networks;
mod traps;
mod volumes;
