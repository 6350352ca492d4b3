//! `imgforge sandbox`: what holds for commands and tests in a locked-down container, one test for each claim of
//! docs/sandbox.md.
//!
//! `walls` has what a command cannot reach, `limits` what it may use, `ends` how it ends, `repositories` what
//! comes in, `outcomes` what becomes of tests, `forgeries` what makes no pass, `refused` what never starts. The
//! tests of the Python package's executor have the same table.

#[path = "../common/mod.rs"]
mod common;

mod ends;
mod forgeries;
mod limits;
mod on_docker;
mod outcomes;
mod refused;
mod repositories;
mod space;
mod walls;
