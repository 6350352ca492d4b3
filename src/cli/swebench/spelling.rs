//! From the words of a command line as the harness has them to words that the parser knows.
//!
//! Knows nothing of what options mean: only how they may be spelled.

use std::ffi::OsString;
use std::iter::Peekable;

use crate::dataset;

/// The commands whose words are translated.
const COMMANDS: [&str; 10] =
    ["plan", "build", "prewarm", "eval", "dataset", "bundle", "cache", "report", "grade", "clean"];
/// Options before the command that have a value.
const GLOBAL_VALUES: [&str; 5] = ["--config", "--overlay", "--state-dir", "--engine", "--color"];
/// Switches that the harness gives a truth value.
const SWITCHES: [&str; 6] =
    ["--clean", "--force-rebuild", "--rewrite-reports", "--modal", "--dry-run", "--gold"];
/// Spellings of options that are the harness's own.
const HARNESS: [&str; 6] =
    ["--predictions_path", "--run_id", "--instance_ids", "--max_workers", "--cache_level", "-id"];
/// Endings of files, which no id has.
const ENDINGS: [&str; 12] = [
    ".json", ".jsonl", ".ndjson", ".parquet", ".arrow", ".csv", ".tsv", ".tar", ".gz", ".zst",
    ".txt", ".log",
];

/// Translates the words of a command line:
///
/// - `-id X` is `--run-id X`, and `--some_name` is `--some-name`;
/// - `--clean True` is `--clean`, and `--clean False` is nothing;
/// - `-i A B` is `-i A -i B`, and ends before a word that cannot be an id, so that a dataset or a
///   file can follow.
pub(crate) fn translate(words: Vec<OsString>) -> Vec<OsString> {
    let Some(command) = command_of(&words).filter(|at| {
        let word = words[*at].to_str().unwrap_or_default();
        COMMANDS.contains(&word)
    }) else {
        return words;
    };
    let is_eval = words[command] == "eval";
    let takes_default = is_eval || words[command] == "build";
    let mut words = words.into_iter().peekable();
    let mut out: Vec<OsString> = words.by_ref().take(command + 1).collect();
    let mut harness = false;
    let mut named = false;
    while let Some(word) = words.next() {
        let Some(text) = word.to_str().filter(|text| text.starts_with('-')) else {
            out.push(word);
            continue;
        };
        if text == "--" {
            out.push(word);
            out.extend(words);
            break;
        }
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        harness |= HARNESS.contains(&name);
        named |= matches!(name, "-p" | "--predictions" | "--predictions_path");
        let name = match name {
            "-id" => "--run-id".to_owned(),
            name if name.starts_with("--") => name.replace('_', "-"),
            name => name.to_owned(),
        };
        if SWITCHES.contains(&name.as_str()) {
            out.extend(switch(name, value, &mut words));
        } else if let Some(name) = list(&name).filter(|_| value.is_none()) {
            out.extend(items(name, &mut words));
        } else {
            out.push(match value {
                Some(value) => format!("{name}={value}").into(),
                None => name.into(),
            });
        }
    }
    if is_eval && !named {
        // As a flag it goes before the environment's.
        for word in out.iter_mut().skip(command + 1).filter(|word| *word == "--gold") {
            *word = "--predictions=gold".into();
        }
    }
    if harness && takes_default {
        out.insert(command + 1, "--swebench-names".into());
    }
    out
}

/// The words of a command line that are still to be read.
type Words = Peekable<std::vec::IntoIter<OsString>>;

/// Translates a switch with its truth value, which may be the next word.
fn switch(name: String, value: Option<&str>, words: &mut Words) -> Option<OsString> {
    let said = match value {
        Some(value) => truth(value),
        None => words.peek().and_then(|next| truth(next.to_str()?)),
    };
    match (said, value) {
        (Some(said), value) => {
            if value.is_none() {
                words.next();
            }
            said.then_some(OsString::from(name))
        }
        (None, Some(value)) => Some(format!("{name}={value}").into()),
        (None, None) => Some(name.into()),
    }
}

/// Translates a list: each of the words that follow gets the option's name.
fn items(name: &str, words: &mut Words) -> Vec<OsString> {
    let ends = |next: &OsString, first: bool| {
        let next = next.to_string_lossy();
        next.starts_with('-') && next.len() > 1 || !first && cannot_be_id(&next)
    };
    let mut items = Vec::new();
    while let Some(next) = words.next_if(|next| !ends(next, items.is_empty())) {
        let mut one = OsString::from(format!("{name}="));
        one.push(next);
        items.push(one);
    }
    if items.is_empty() {
        items.push(name.into());
    }
    items
}

/// Finds the command among the words.
fn command_of(words: &[OsString]) -> Option<usize> {
    let mut at = 1;
    loop {
        let word = words.get(at)?.to_str()?;
        if !word.starts_with('-') {
            return Some(at);
        }
        at += if GLOBAL_VALUES.contains(&word) { 2 } else { 1 };
    }
}

/// Returns the full name of an option that takes a list of ids.
fn list(name: &str) -> Option<&'static str> {
    match name {
        "-i" | "--instance-ids" | "--instance-id" | "--instance" => Some("--instance-ids"),
        "--exclude" => Some("--exclude"),
        _ => None,
    }
}

/// Reads a truth value as the harness does.
fn truth(word: &str) -> Option<bool> {
    match word.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "t" | "y" | "1" => Some(true),
        "false" | "no" | "off" | "f" | "n" | "0" => Some(false),
        _ => None,
    }
}

/// Tells whether a word is a path, or the name of a dataset.
fn cannot_be_id(word: &str) -> bool {
    let lower = word.to_ascii_lowercase();
    !word.starts_with('@')
        && (word.contains('/')
            || word == "."
            || word == ".."
            || dataset::is_name(word)
            || ENDINGS.iter().any(|ending| lower.ends_with(ending)))
}
