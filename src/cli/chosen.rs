//! Which instances a command is for: the dataset as an option or as the first word.

use std::ops::Deref;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use super::help::heading;
use super::swebench::DEFAULT_DATASET;
use super::{Chosen, Global, render};

/// The chosen instances of a command whose dataset may be its first word: `eval verified` is
/// `eval -d verified`.
#[derive(Debug)]
pub(super) struct Choice {
    chosen: Chosen,
    /// Whether nothing named the dataset, and it is that of the harness.
    pub(super) by_default: bool,
}

impl Choice {
    /// Says which dataset it is, where the command line does not.
    pub(super) fn say_default(&self, global: &Global) {
        if self.by_default && !global.quiet {
            render::warn(format!(
                "no dataset is named, so it is `{DEFAULT_DATASET}`, as in the harness"
            ));
        }
    }
}

impl Deref for Choice {
    type Target = Chosen;

    fn deref(&self) -> &Chosen {
        &self.chosen
    }
}

impl Args for Choice {
    fn augment_args(command: Command) -> Command {
        let option = |arg: Arg| arg.required(false).default_value("").hide_default_value(true);
        let first = Arg::new("first")
            .value_name("DATASET")
            .help_heading(heading::DATASET)
            .required_unless_present_any(["dataset", "swebench_names"])
            .help("The dataset, as -d");
        let names =
            Arg::new("swebench_names").long("swebench-names").hide(true).action(ArgAction::SetTrue);
        let command = Chosen::augment_args(command.arg(first)).arg(names);
        command.mut_args(|arg| if arg.get_id() == "dataset" { option(arg) } else { arg })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Choice {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut chosen = Chosen::from_arg_matches(matches)?;
        let first = matches.get_one::<String>("first");
        let source = matches.value_source("dataset");
        let by_default = first.is_none() && source == Some(ValueSource::DefaultValue);
        match first {
            Some(first) if source == Some(ValueSource::CommandLine) => {
                let text =
                    format!("the dataset is named twice: `{first}` and `-d {}`\n", chosen.dataset);
                return Err(clap::Error::raw(ErrorKind::ArgumentConflict, text));
            }
            Some(first) => chosen.dataset.clone_from(first),
            None if by_default => DEFAULT_DATASET.clone_into(&mut chosen.dataset),
            None => {}
        }
        Ok(Choice { chosen, by_default })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
