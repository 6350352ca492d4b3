//! `imgforge schema`: the JSON Schemas of what `--json` prints, and of the files beside it. They are
//! files in `schemas/`, and part of the program.

use anyhow::anyhow;
use clap::Args;
use include_dir::{Dir, include_dir};
use serde_json::{Value, json};

use crate::cli::out::{out, outln};
use crate::nearest::nearest;

use super::{CommandResult, Error, Exit, Global, render};

static SCHEMAS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/schemas");

/// What the names of the files end with.
const END: &str = ".schema.json";

/// Arguments of `schema`.
#[derive(Debug, Args)]
pub(super) struct SchemaArgs {
    /// The words of a command with dashes between them, such as cache-ls, or the name of a file's
    /// schema [default: list them]
    name: Option<String>,
}

/// Lists the schemas by name: name and text.
fn files() -> impl Iterator<Item = (&'static str, &'static str)> {
    let mut files: Vec<(&str, &str)> = SCHEMAS
        .files()
        .filter_map(|file| {
            let name = file.path().to_str()?.strip_suffix(END)?;
            Some((name, file.contents_utf8()?))
        })
        .collect();
    files.sort_unstable();
    files.into_iter()
}

/// Lists the schemas by name: name and title.
pub(super) fn all() -> impl Iterator<Item = (&'static str, String)> {
    files().map(|(name, text)| {
        let schema: Value = serde_json::from_str(text).unwrap_or_default();
        (name, schema["title"].as_str().unwrap_or_default().to_owned())
    })
}

/// Runs `schema`: prints one, or lists them, one a line.
pub(super) fn run(global: &Global, args: &SchemaArgs) -> CommandResult {
    let Some(wanted) = &args.name else {
        list(global);
        return Ok(Exit::Success);
    };
    let Some((_, text)) = files().find(|(name, _)| name == wanted) else {
        let near = nearest(wanted, files().map(|(name, _)| name));
        let near = near.map_or(String::new(), |near| format!("; the nearest is `{near}`"));
        let error = anyhow!("no schema is called `{wanted}`{near}");
        return Err(Error::input(error)
            .with_hint(Some("`imgforge schema` lists them".to_owned()))
            .into());
    };
    out!("{text}");
    Ok(Exit::Success)
}

fn list(global: &Global) {
    if global.json {
        let rows = all().map(|(name, title)| json!({ "name": name, "title": title }));
        render::json(&rows.collect::<Vec<_>>());
        return;
    }
    let width = files().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, title) in all() {
        outln!("{name:<width$}  {title}");
    }
}
