//! `imgforge cache dir`.

use crate::cli::out::outln;

use super::super::open::state_dir;
use super::super::{CommandResult, Exit, Global, render};

/// Prints where state is kept, and the images of the embedded engine in it.
pub(super) fn run(global: &Global) -> CommandResult {
    let dir = state_dir(global);
    match global.json {
        true => render::json(&serde_json::json!({ "dir": dir.display().to_string() })),
        false => outln!("{}", dir.display()),
    }
    Ok(Exit::Success)
}
