//! The value of `--engine`: a container engine, and not a cluster.

use std::ffi::OsStr;

use clap::builder::{EnumValueParser, PossibleValue, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Arg, Command, Error};

use crate::forge::EngineChoice;

/// Reads the name of an engine. `kubernetes` is told what it is.
#[derive(Clone)]
pub(super) struct EngineValue;

impl TypedValueParser for EngineValue {
    type Value = EngineChoice;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<EngineChoice, Error> {
        if value == "kubernetes" {
            let text = "images are built by an engine, and pods are a runner: give `--runner kubernetes`\n";
            return Err(Error::raw(ErrorKind::InvalidValue, text).with_cmd(command));
        }
        EnumValueParser::<EngineChoice>::new().parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let parser = EnumValueParser::<EngineChoice>::new();
        let values: Vec<PossibleValue> = parser.possible_values()?.collect();
        Some(Box::new(values.into_iter()))
    }
}
