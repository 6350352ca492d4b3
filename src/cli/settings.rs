//! `imgforge config show`: each setting, its value, and where that comes from.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::parser::ValueSource;
use clap::{Args, Command, Subcommand};
use serde::Serialize;

use crate::catalog::Catalog;
use crate::cli::out::out;
use crate::config;
use crate::store;

use super::eval_options::EvalOptions;
use super::execute::ExecArgs;
use super::help::{self, heading};
use super::open;
use super::results::Outputs;
use super::{CommandResult, Exit, Global, Sources, render};

/// Commands of `config`.
#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Print the settings of builds and runs: what is set, and by what
    Show(Box<ShowArgs>),
}

/// Arguments of `config show`: those of `eval` that are settings. What is given counts as there.
#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// Print what is not set, too
    #[arg(long, help_heading = heading::OUTPUT)]
    all: bool,
    #[command(flatten)]
    run: EvalOptions,
    #[command(flatten)]
    sources: Sources,
    #[command(flatten)]
    exec: ExecArgs,
    #[command(flatten)]
    outputs: Outputs,
}

/// A setting.
#[derive(Debug, Serialize)]
struct Setting {
    name: String,
    value: Option<String>,
    /// `flag`, a variable, `images.toml`, or `default`.
    source: String,
}

/// Runs `config`.
pub(super) fn run(global: &Global, command: ConfigCommand) -> CommandResult {
    let ConfigCommand::Show(args) = command;
    let catalog = open::catalog(global)?;
    let settings = settings(&help::command(), std::env::args_os().collect(), &catalog);
    let shown = settings.into_iter().filter(|one| args.all || one.value.is_some());
    let shown: Vec<Setting> = shown.collect();
    if global.json {
        render::json(&shown);
        return Ok(Exit::Success);
    }
    let width = shown.iter().map(|one| one.name.len()).max().unwrap_or(0);
    let values = shown.iter().map(|one| one.value.as_ref().map_or(1, String::len));
    let most = values.max().unwrap_or(0).min(40);
    let mut text = String::new();
    for Setting { name, value, source } in &shown {
        let value = value.as_deref().unwrap_or("-");
        let _ = writeln!(text, "{name:<width$}  {value:<most$}  {source}");
    }
    out!("{text}");
    Ok(Exit::Success)
}

/// Reads the settings from the words of a command line that was parsed before.
fn settings(command: &Command, words: Vec<std::ffi::OsString>, catalog: &Catalog) -> Vec<Setting> {
    let Ok(mut matches) = command.clone().try_get_matches_from(words) else { return Vec::new() };
    let mut at = command;
    while let Some((name, below)) = matches.remove_subcommand() {
        at = at.find_subcommand(&name).expect("it was parsed");
        matches = below;
    }
    let of_catalog = of_catalog(catalog);
    let defaults = defaults();
    let options = command.get_arguments().chain(at.get_arguments());
    let options = options.filter(|arg| {
        let id = arg.get_id().as_str();
        arg.get_long().is_some() && !arg.is_hide_set() && !matches!(id, "help" | "version" | "all")
    });
    let mut settings = Vec::new();
    for arg in options {
        let id = arg.get_id().as_str();
        let name = arg.get_long().unwrap_or_default().to_owned();
        let given = matches.get_raw(id).map(|values| {
            let values = values.map(|value| value.to_string_lossy().into_owned());
            values.collect::<Vec<_>>().join(" ")
        });
        let by = matches.value_source(id);
        let (value, source) = match (by, of_catalog.get(id)) {
            (Some(ValueSource::CommandLine), _) => (given, "flag".to_owned()),
            (Some(ValueSource::EnvVariable), _) => {
                let name = arg.get_env().map(|name| name.to_string_lossy().into_owned());
                (given, name.unwrap_or_default())
            }
            (_, Some(value)) => (Some(value.clone()), "images.toml".to_owned()),
            _ => {
                let value = given.or_else(|| defaults.get(id).cloned());
                (value, "default".to_owned())
            }
        };
        settings.push(Setting { name, value, source });
    }
    let bounds = budget(catalog);
    settings.extend(bounds);
    settings
}

/// What `[defaults]` says, by the ids of options.
fn of_catalog(catalog: &Catalog) -> BTreeMap<&'static str, String> {
    let defaults = catalog.defaults();
    let number = |number: Option<u64>| number.map(|number| number.to_string());
    let milli = |milli: u64| format!("{}", milli as f64 / 1000.0);
    [
        ("engine", defaults.engine.clone()),
        ("namespace", defaults.namespace.clone()),
        ("platform", defaults.platform.clone()),
        ("max_workers", defaults.max_workers.map(|workers| workers.to_string())),
        ("bootstrap", defaults.bootstrap.map(|is_on| is_on.to_string())),
        ("git_mirror", defaults.git_mirrors.as_ref().map(|mirrors| mirrors.join(" "))),
        ("timeout", number(defaults.timeout)),
        ("memory", number(defaults.memory)),
        ("cpus", defaults.milli_cpus.map(milli)),
        ("pids_limit", number(defaults.pids_limit)),
    ]
    .into_iter()
    .filter_map(|(id, value)| Some((id, value?)))
    .collect()
}

/// What counts where nothing is said, by the ids of options.
fn defaults() -> BTreeMap<&'static str, String> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    [
        ("state_dir", store::default_dir(open::variable).display().to_string()),
        ("max_workers", config::default_workers(cpus).to_string()),
        ("git_mirror", config::GITHUB.to_owned()),
    ]
    .into_iter()
    .collect()
}

/// What `[cache]` says.
fn budget(catalog: &Catalog) -> Vec<Setting> {
    let cache = catalog.cache();
    let bytes = cache.keep_bytes.map(|bytes| bytes.to_string());
    let days = cache.keep_days.map(|days| days.to_string());
    [("cache.keep-bytes", bytes), ("cache.keep-days", days)]
        .into_iter()
        .map(|(name, value)| {
            let source = if value.is_some() { "images.toml" } else { "default" };
            Setting { name: name.to_owned(), value, source: source.to_owned() }
        })
        .collect()
}
