//! Variables of the environment: what switches take, which names there are, and which of them an
//! error is about. Which option reads which variable is said beside the option.

use std::collections::BTreeSet;
use std::ffi::OsString;

use anyhow::anyhow;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, ArgMatches, Command};

use crate::nearest::nearest;

use super::{Error, render};

/// How the names of imgforge's own variables begin.
const PREFIX: &str = "IMGFORGE_";

/// Variables that are no options.
const OTHERS: [&str; 6] = [
    "IMGFORGE_BUILDER_ID",
    "IMGFORGE_DEBIAN_ARCHIVE",
    "IMGFORGE_EMBEDDED_STORAGE",
    "IMGFORGE_INSECURE_REGISTRIES",
    // Of `--shard auto`.
    "IMGFORGE_SHARDS",
    STATE_ON_NETWORK,
];

/// Allows a state directory on a network file system.
pub(super) const STATE_ON_NETWORK: &str = "IMGFORGE_STATE_ON_NETWORK";

/// Switches that are no options.
const SWITCHES: [&str; 1] = [STATE_ON_NETWORK];

/// How the names begin of what the project's own tests, benches and scripts read.
const OF_TESTS: [&str; 14] = [
    "IMGFORGE_BIN",
    "IMGFORGE_CLIENTS_",
    "IMGFORGE_EXECUTOR_IMAGE",
    "IMGFORGE_FUZZ_",
    "IMGFORGE_PROVIDERS",
    "IMGFORGE_SMOKE_IMAGE",
    "IMGFORGE_WHEEL",
    "IMGFORGE_PYTHON_VENV",
    "IMGFORGE_TEST",
    "IMGFORGE_BENCH_",
    "IMGFORGE_PLACE",
    "IMGFORGE_FORGERIES",
    "IMGFORGE_OTHER_DOCKER",
    "IMGFORGE_PATCHES",
];

/// Reads what a switch is set to.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "1" | "true" | "t" | "yes" | "y" | "on" => Ok(true),
        "0" | "false" | "f" | "no" | "n" | "off" => Ok(false),
        _ => Err("it is a switch: 1, true, yes or on, else 0, false, no or off".to_owned()),
    }
}

/// Reads how much is said: a number, or a switch.
pub(super) fn verbosity(text: &str) -> Result<u8, String> {
    text.trim().parse().or_else(|_| switch(text).map(u8::from))
}

/// Lets every switch of a command and of those below it be set by what [`switch`] reads.
pub(super) fn readable(command: Command) -> Command {
    let command = command.mut_args(|arg| match arg.get_action() {
        ArgAction::SetTrue | ArgAction::SetFalse => arg.value_parser(switch),
        _ => arg,
    });
    command.mut_subcommands(readable)
}

/// Gives options of the commands at `paths`, and of those below them, the variables that are named as
/// they are, where they have none.
pub(super) fn named(command: Command, paths: &[&str]) -> Command {
    let name = |arg: clap::Arg| match arg.get_long().map(str::to_owned) {
        Some(long) if arg.get_env().is_none() && !is_help(&arg) => {
            arg.env(format!("{PREFIX}{}", long.to_uppercase().replace('-', "_")))
        }
        _ => arg,
    };
    fn all(command: Command, name: &impl Fn(clap::Arg) -> clap::Arg) -> Command {
        command.mut_args(name).mut_subcommands(|command| all(command, name))
    }
    command.mut_args(name).mut_subcommands(|command| match paths.contains(&command.get_name()) {
        true => all(command, &name),
        false => command,
    })
}

fn is_help(arg: &clap::Arg) -> bool {
    use ArgAction::{Help, HelpLong, HelpShort, Version};
    matches!(arg.get_action(), Help | HelpLong | HelpShort | Version)
}

/// Parses arguments. An error that a variable causes names it, and not the option.
///
/// # Errors
/// Those of the parser.
pub(super) fn parse(
    command: fn() -> Command,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<ArgMatches, clap::Error> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let mut error = match command().try_get_matches_from(&arguments) {
        Ok(matches) => return Ok(matches),
        Err(error) => error,
    };
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return Err(error);
    }
    for name in names(&command()) {
        let Ok(value) = std::env::var(&name) else { continue };
        let without = without(command(), &name).try_get_matches_from(&arguments);
        if without.as_ref().is_err_and(|other| is_same(other, &error)) {
            continue;
        }
        if matches!(error.kind(), ErrorKind::InvalidValue | ErrorKind::ValueValidation) {
            error.insert(ContextKind::InvalidArg, ContextValue::String(name));
        } else {
            let tip = format!("{name} is set to `{value}`");
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
        }
        break;
    }
    Err(error)
}

/// Tells whether two errors say the same.
fn is_same(one: &clap::Error, other: &clap::Error) -> bool {
    let of = |error: &clap::Error, kind| error.get(kind).map(ToString::to_string);
    one.kind() == other.kind()
        && [ContextKind::InvalidArg, ContextKind::InvalidValue]
            .into_iter()
            .all(|kind| of(one, kind) == of(other, kind))
}

/// Takes a variable from all options that read it.
fn without(command: Command, name: &str) -> Command {
    let command = command.mut_args(|arg| match arg.get_env() {
        Some(env) if env == name => arg.env(None::<&str>),
        _ => arg,
    });
    command.mut_subcommands(|command| without(command, name))
}

/// Returns the variables of all options.
fn names(command: &Command) -> BTreeSet<String> {
    let own = command.get_arguments().filter_map(|arg| arg.get_env()?.to_str().map(str::to_owned));
    own.chain(command.get_subcommands().flat_map(names)).collect()
}

/// Checks the variables that are no options, and warns of names that nothing reads.
///
/// # Errors
/// A switch that is set to something else than on or off.
pub(super) fn check(command: &Command, quiet: bool) -> Result<(), Error> {
    for name in SWITCHES {
        if let Some(text) = super::open::variable(name) {
            switch(&text).map_err(|what| {
                Error::input(anyhow!("{name} is `{text}`")).with_hint(Some(what))
            })?;
        }
    }
    if quiet {
        return Ok(());
    }
    let names = names(command);
    let known: Vec<&str> = names.iter().map(String::as_str).chain(OTHERS).collect();
    for (name, _) in std::env::vars_os() {
        let Some(name) = name.to_str().filter(|name| is_unknown(name, &known)) else { continue };
        let near = nearest(name, known.iter().copied());
        let near = near.map_or(String::new(), |near| format!("; the nearest is {near}"));
        render::warn(format!("nothing reads the variable {name}{near}"));
    }
    Ok(())
}

fn is_unknown(name: &str, known: &[&str]) -> bool {
    name.starts_with(PREFIX)
        && !known.contains(&name)
        && !OF_TESTS.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::help;

    fn each_switch(command: &Command, seen: &mut impl FnMut(&Command, &clap::Arg)) {
        let is_switch =
            |arg: &&clap::Arg| matches!(arg.get_action(), ArgAction::SetTrue | ArgAction::SetFalse);
        for arg in command.get_arguments().filter(is_switch) {
            seen(command, arg);
        }
        for command in command.get_subcommands() {
            each_switch(command, seen);
        }
    }

    #[test]
    fn every_switch_of_every_command_takes_what_people_write() {
        let mut switches = 0;
        each_switch(&help::command(), &mut |command: &Command, arg: &clap::Arg| {
            switches += 1;
            let read = |text: &str| {
                let value = clap::Arg::new("value").value_parser(arg.get_value_parser().clone());
                let matches = Command::new("x").arg(value).try_get_matches_from(["x", text]);
                matches.map(|matches| *matches.get_one::<bool>("value").unwrap())
            };
            let name = format!("{} {}", command.get_name(), arg.get_id());
            for text in ["1", "true", "True", "YES", "y", "on", " on "] {
                assert!(read(text).unwrap(), "{name}: {text}");
            }
            for text in ["0", "false", "No", "n", "off"] {
                assert!(!read(text).unwrap(), "{name}: {text}");
            }
            for text in ["", "2", "maybe"] {
                assert!(read(text).is_err(), "{name}: {text}");
            }
        });
        assert!(switches > 20, "{switches}");
    }

    #[test]
    fn options_of_builds_and_runs_have_variables_that_are_named_as_they_are() {
        let command = help::command();
        let env = |path: &[&str], id: &str| {
            let command = path.iter().fold(&command, |at, name| at.find_subcommand(name).unwrap());
            let arg = command.get_arguments().find(|arg| arg.get_id() == id).unwrap();
            arg.get_env().map(|name| name.to_str().unwrap().to_owned())
        };
        assert_eq!(env(&["build"], "fail_fast").as_deref(), Some("IMGFORGE_FAIL_FAST"));
        assert_eq!(env(&["dataset", "check"], "gold").as_deref(), Some("IMGFORGE_GOLD"));
        // What removes something is said every time.
        assert_eq!(env(&["clean"], "embedded"), None);
        assert_eq!(env(&["clean"], "run_id"), None);
        assert_eq!(env(&["cache", "rm"], "force"), None);
        assert_eq!(env(&["report"], "dataset"), None);
    }

    #[test]
    fn every_variable_that_the_sources_name_is_known() {
        let command = help::command();
        let names = names(&command);
        let known: Vec<&str> = names.iter().map(String::as_str).chain(OTHERS).collect();
        let of = |place: &str| {
            // Environments of Python and caches are hidden directories.
            walkdir::WalkDir::new(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(place))
                .into_iter()
                .filter_entry(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."))
        };
        let name = regex::Regex::new("IMGFORGE_[A-Z][A-Z_]*[A-Z]").unwrap();
        let mut found = 0;
        let entries = ["src", "scripts", "python"].into_iter().flat_map(of);
        for entry in entries.map(Result::unwrap) {
            if entry.file_name() == "variables.rs" || !entry.file_type().is_file() {
                continue;
            }
            let text = String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap()).into_owned();
            for one in name.find_iter(&text) {
                found += 1;
                let one = one.as_str();
                assert!(!is_unknown(one, &known), "{one} in {}", entry.path().display());
            }
        }
        assert!(found > 40, "{found}");
        assert!(is_unknown("IMGFORGE_DATSET", &known));
        assert!(!is_unknown("IMGFORGE_TEST_STATE", &known) && !is_unknown("HOME", &known));
    }
}
