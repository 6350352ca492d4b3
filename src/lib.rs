//! imgforge turns a benchmark dataset into layered container images, keeps them cached, and runs
//! evaluations in them.
//!
//! [`forge`] is the door: it opens the state and an engine, loads instances and predictions, plans,
//! builds and evaluates. This builds the bundled dataset and evaluates its own patches:
//!
//! ```no_run
//! use imgforge::forge::{
//!     Forge, ForgeOptions, LoadOptions, RunOptions, Selection, SourceOptions, run_id,
//! };
//! use imgforge::plan::{EvaluateOptions, check::Purpose};
//! use imgforge::progress::PlainReporter;
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), imgforge::forge::Error> {
//! let forge = Forge::open(ForgeOptions::default())?;
//! let sources = SourceOptions { bootstrap: true, ..SourceOptions::default() };
//! let load = LoadOptions {
//!     predictions: vec!["gold".to_owned()],
//!     purpose: Purpose::Run,
//!     evaluate: Some(EvaluateOptions::default()),
//!     ..LoadOptions::of_build(Selection::all("demo"), sources)
//! };
//! let reporter = || Ok(Box::new(PlainReporter::new(std::io::stderr(), false)) as _);
//! let run = forge.evaluate(&load, &RunOptions::named(run_id("first")?), reporter).await?;
//! for result in &run.report.results {
//!     println!("{}: {}", result.instance_id, result.verdict);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The rooms below follow the flow: a [`dataset`] gives instances, the [`catalog`] says how each
//! (repo, version) is built, [`recipe`] states what every image is made of, [`plan`] keys and
//! orders the images, [`exec`] builds the stale ones through an [`engine`], with what [`source`]
//! brings from repositories, and runs evaluations in them; [`event`]s say what happened,
//! [`progress`] renders them, [`store`] keeps the state between runs, and [`cache`] bounds, checks and
//! moves what was built. [`grade`] reads the logs,
//! [`run`] says where they are, [`report`] renders what they come to. Keys, recipes, plans, grades
//! and reports are pure.

#![cfg_attr(not(test), warn(clippy::unwrap_used))]

mod allocation;
mod atomic;
pub mod bootstrap;
pub mod bundle;
pub mod cache;
pub mod catalog;
mod causes;
mod child;
pub mod cli;
pub mod config;
pub mod context_file;
pub mod dataset;
pub mod disk;
pub mod dockerfile;
pub mod engine;
pub mod event;
pub mod exec;
mod file_lock;
mod file_system;
pub mod forge;
#[cfg(feature = "embedded")]
#[doc(hidden)]
pub mod fuzz_targets;
pub mod grade;
pub mod gym;
mod hashing;
mod http;
mod in_use;
pub mod key;
mod nearest;
mod offline;
pub mod owner;
mod package_indexes;
pub mod patch;
pub mod plan;
pub mod platform;
pub mod progress;
mod proxy;
mod quote;
pub mod recipe;
pub mod report;
mod requirements;
mod retry;
pub mod run;
pub mod run_id;
pub mod runner;
pub mod sandbox;
pub mod serve;
pub mod session;
pub mod shard;
pub mod sign;
mod size;
pub mod smoke;
pub mod source;
pub mod store;
mod traffic;
pub mod tree;
mod words;
