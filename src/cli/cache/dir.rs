//! `imgforge cache dir`.

use crate::cli::out::outln;
use crate::store;

use super::super::context::variable;
use super::super::{CommandResult, Exit, Global, render};

/// Prints where state is kept, and the images of the embedded engine in it.
pub(super) fn run(global: &Global) -> CommandResult {
    let dir = global.state_dir.clone().unwrap_or_else(|| store::default_dir(variable));
    match global.json {
        true => render::json(&serde_json::json!({ "dir": dir })),
        false => outln!("{}", dir.display()),
    }
    Ok(Exit::Success)
}
