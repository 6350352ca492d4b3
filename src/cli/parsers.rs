//! `imgforge parsers`.

use serde_json::json;

use crate::cli::out::outln;
use crate::grade;

use super::{CommandResult, Exit, Global, render};

/// Runs `parsers`: a parser a line, with the one that reads the same format where it has two names.
pub(super) fn run(global: &Global) -> CommandResult {
    let parsers: Vec<(&str, &str)> = grade::parsers().collect();
    if global.json {
        let row = |(name, format): &(&str, &str)| json!({ "name": name, "format": format });
        render::json(&parsers.iter().map(row).collect::<Vec<_>>());
        return Ok(Exit::Success);
    }
    for (name, format) in parsers {
        match name == format {
            true => outln!("{name}"),
            false => outln!("{name}  as {format}"),
        }
    }
    Ok(Exit::Success)
}
