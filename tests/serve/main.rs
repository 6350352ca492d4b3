//! The Docker Engine API that `imgforge serve` serves: the real binary, over the embedded engine.
//!
//! `traps` has what clients stumble over, one test each; `environments` how agents act by the
//! protocol for programs; `life` how containers and servers end; `leaving` how
//! clients do; `networks` who reaches whom; `telling` what is told while containers are there.

#[path = "../common/mod.rs"]
mod common;

mod build;
mod client;
mod health;
mod leaving;
mod life;
mod networks;
mod rpc;
mod swerex;
mod telling;
mod traps;
mod volumes;
