//! Completions while one types: what is on this machine, and never what the network knows.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::{Arg, Command};
use clap_complete::engine::{
    ArgValueCandidates, ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter as _,
};

use crate::dataset::{self, HubSettings};
use crate::grade;
use crate::run::RUNS;
use crate::store::{self, Store};

use super::open::variable;
use super::schema;

/// The datasets that have a short name.
const DATASETS: [&str; 7] =
    ["lite", "verified", "full", "multilingual", "multimodal", "demo", "bundle"];

/// Lets the arguments of a command and of those below it be completed.
pub(super) fn with_candidates(command: Command) -> Command {
    let path = command.get_name().to_owned();
    let command = command.mut_args(|arg| completed(arg, &path));
    command.mut_subcommands(with_candidates)
}

fn completed(arg: Arg, command: &str) -> Arg {
    match (arg.get_id().as_str(), command) {
        ("dataset", _) => {
            arg.add(ArgValueCompleter::new(|current: &OsStr| words_or_paths(&DATASETS, current)))
        }
        ("predictions", _) => arg.add(ArgValueCompleter::new(|current: &OsStr| {
            words_or_paths(&["gold", "empty"], current)
        })),
        ("instance_ids" | "instance_id", _) | ("id", "show" | "run" | "shell") => {
            arg.add(ArgValueCandidates::new(instances))
        }
        ("run_id" | "against", _) => arg.add(ArgValueCandidates::new(runs)),
        ("parser", _) => arg.add(ArgValueCandidates::new(|| {
            grade::parsers().map(|(name, _)| CompletionCandidate::new(name)).collect()
        })),
        ("name", "schema") => arg.add(ArgValueCandidates::new(|| {
            let candidate = |(name, title): (&str, String)| {
                CompletionCandidate::new(name).help(Some(title.into()))
            };
            schema::all().map(candidate).collect()
        })),
        ("keys" | "key", "rm" | "pin" | "unpin" | "why") => arg.add(ArgValueCandidates::new(keys)),
        _ => arg,
    }
}

/// Offers words, and files.
fn words_or_paths(words: &[&str], current: &OsStr) -> Vec<CompletionCandidate> {
    let begun = current.to_string_lossy();
    let words = words.iter().filter(|word| word.starts_with(&*begun));
    let mut candidates: Vec<CompletionCandidate> = words.map(CompletionCandidate::new).collect();
    candidates.extend(PathCompleter::any().complete(current));
    candidates
}

/// Offers the runs below the current directory, or the one that was named.
fn runs() -> Vec<CompletionCandidate> {
    let directory = value_of(&["--output-dir"]).or_else(|| variable("IMGFORGE_OUTPUT_DIR"));
    let directory = directory.map_or_else(PathBuf::new, PathBuf::from).join(RUNS);
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let runs = entries.filter(|entry| entry.path().is_dir());
    runs.map(|entry| CompletionCandidate::new(entry.file_name())).collect()
}

/// Offers the keys that the index has.
fn keys() -> Vec<CompletionCandidate> {
    let dir = state_dir();
    // Opening a state makes it.
    if !dir.join("state.db").is_file() {
        return Vec::new();
    }
    let Ok(keys) = Store::open(&dir).and_then(|store| store.known_keys()) else {
        return Vec::new();
    };
    let candidate = |(key, node): (crate::key::Key, Option<String>)| {
        CompletionCandidate::new(key.short().to_string()).help(node.map(Into::into))
    };
    keys.into_iter().map(candidate).collect()
}

/// Offers the instances of the dataset that stands on the line, where it is on this machine.
fn instances() -> Vec<CompletionCandidate> {
    let dataset = value_of(&["-d", "--dataset", "--dataset_name"]);
    let Some(name) = dataset.or_else(|| variable("IMGFORGE_DATASET")) else { return Vec::new() };
    let split = value_of(&["--split", "-s"]).unwrap_or_else(|| "test".to_owned());
    let ids = match name.as_str() {
        "demo" => dataset::demo::ids(),
        _ => read(name, split),
    };
    ids.into_iter().map(CompletionCandidate::new).collect()
}

/// Reads the ids of a dataset without the network, on a thread of its own: this one waits for others.
fn read(name: String, split: String) -> Vec<String> {
    let read = std::thread::spawn(move || {
        let hub = HubSettings { offline: true, ..HubSettings::from_env(variable) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        let dataset = runtime.block_on(dataset::load(&name, &split, &hub)).ok()?;
        Some(dataset.instances.into_iter().map(|one| one.instance_id).collect())
    });
    read.join().ok().flatten().unwrap_or_default()
}

fn state_dir() -> PathBuf {
    let named = value_of(&["--state-dir"]).or_else(|| variable("IMGFORGE_STATE_DIR"));
    named.map_or_else(|| store::default_dir(variable), PathBuf::from)
}

/// Returns the value of an option on the line that is completed: it stands behind `--`.
fn value_of(names: &[&str]) -> Option<String> {
    let line: Vec<OsString> = std::env::args_os().skip_while(|word| word != "--").skip(1).collect();
    value_in(&line, names)
}

fn value_in(line: &[OsString], names: &[&str]) -> Option<String> {
    let mut words = line.iter().map(|word| word.to_string_lossy());
    let mut found = None;
    while let Some(word) = words.next() {
        if names.contains(&&*word) {
            found = words.next().map(|value| value.into_owned());
        } else if let Some((name, value)) = word.split_once('=')
            && names.contains(&name)
        {
            found = Some(value.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_of_an_option_counts() {
        let line: Vec<OsString> =
            ["imgforge", "eval", "-d", "a", "--dataset=b", "-i"].map(OsString::from).to_vec();
        assert_eq!(value_in(&line, &["-d", "--dataset"]).as_deref(), Some("b"));
        assert_eq!(value_in(&line, &["-i"]), None);
        assert_eq!(value_in(&line, &["--split"]), None);
    }
}
