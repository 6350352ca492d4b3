//! Smoke runs: a repository is brought into a sandbox, set up and tested, by a configuration file.

pub mod compat;
