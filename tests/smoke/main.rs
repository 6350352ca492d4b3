//! Smoke runs: reports of scenarios on the fake engine, what is left on the disk, and the command line.

#[path = "../common/mod.rs"]
mod common;

mod bench;
mod command;
mod config;
mod killed;
mod outputs;
mod scenarios;
