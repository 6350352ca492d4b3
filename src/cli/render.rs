//! Errors and hints, as people see them.

use std::fmt::Display;

use console::style;

use crate::cli::out::{errln, outln};
use crate::forge::{Error, ErrorKind};

use super::Exit;

/// A failure of a command, with the status that it ends with.
#[derive(Debug)]
pub struct Failure {
    /// The exit status, which follows from the error but where a program was lost.
    pub exit: Exit,
    /// The error, with its causes and a hint.
    pub error: Error,
}

impl Failure {
    /// Returns the causes, first the nearest.
    fn causes(&self) -> Vec<String> {
        let mut causes = Vec::new();
        let mut last = self.error.to_string();
        let first = std::error::Error::source(&self.error);
        for cause in std::iter::successors(first, |cause| cause.source()) {
            let text = cause.to_string();
            // Some libraries repeat their cause in their own words.
            if !last.contains(&text) {
                causes.push(text.clone());
            }
            last = text;
        }
        causes
    }

    /// Prints the failure on stderr.
    pub fn print(&self) {
        let error = style("error:").red().bold().for_stderr();
        errln!("{error} {}", self.error);
        for cause in self.causes() {
            errln!("  caused by: {cause}");
        }
        if let Some(hint) = self.error.hint() {
            errln!("\n{} {hint}", style("hint:").cyan().bold().for_stderr());
        }
    }

    /// Prints the failure as a JSON document on stdout.
    pub fn print_json(&self) {
        json(&serde_json::json!({
            "error": {
                "message": self.error.to_string(),
                "causes": self.causes(),
                "hint": self.error.hint(),
            }
        }));
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let exit = match error.kind() {
            ErrorKind::Input => Exit::BadInput,
            ErrorKind::Environment => Exit::Environment,
            ErrorKind::Interrupted => Exit::Interrupted,
        };
        Failure { exit, error }
    }
}

/// Prints a warning on stderr.
pub(super) fn warn(text: impl Display) {
    errln!("{} {text}", style("warning:").yellow().bold().for_stderr());
}

/// Prints one JSON document on stdout.
///
/// # Panics
/// Never: what is printed has a form in JSON.
pub(super) fn json(document: &impl serde::Serialize) {
    let text = serde_json::to_string_pretty(document).expect("plain values");
    outln!("{text}");
}
