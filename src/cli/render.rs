//! Errors and hints, as people see them.

use std::fmt::Display;

use console::style;

use crate::cli::out::{errln, outln};
use crate::forge::{self, ErrorKind};

use super::Exit;

/// A failure of a command, with the status that it ends with.
#[derive(Debug)]
pub struct Failure {
    /// The status.
    pub exit: Exit,
    /// What failed and why.
    pub error: anyhow::Error,
    /// What would help.
    pub hint: Option<String>,
}

impl Failure {
    /// Bad usage or bad input.
    pub fn input(error: impl Into<anyhow::Error>) -> Self {
        Failure { exit: Exit::BadInput, error: error.into(), hint: None }
    }

    /// The environment cannot do it.
    pub fn environment(error: impl Into<anyhow::Error>) -> Self {
        Failure { exit: Exit::Environment, error: error.into(), hint: None }
    }

    /// Adds what would help.
    #[must_use]
    pub fn hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint;
        self
    }

    /// Returns the causes, first the nearest.
    fn causes(&self) -> Vec<String> {
        let mut causes = Vec::new();
        let mut last = self.error.to_string();
        for cause in self.error.chain().skip(1) {
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
        if let Some(hint) = &self.hint {
            errln!("\n{} {hint}", style("hint:").cyan().bold().for_stderr());
        }
    }

    /// Prints the failure as a JSON document on stdout.
    pub fn print_json(&self) {
        json(&serde_json::json!({
            "error": {
                "message": self.error.to_string(),
                "causes": self.causes(),
                "hint": self.hint,
            }
        }));
    }
}

impl From<forge::Error> for Failure {
    fn from(error: forge::Error) -> Failure {
        let exit = match error.kind() {
            ErrorKind::Input => Exit::BadInput,
            ErrorKind::Environment => Exit::Environment,
            ErrorKind::Interrupted => Exit::Interrupted,
        };
        let (error, hint) = error.into_parts();
        Failure { exit, error, hint }
    }
}

/// Prints a warning on stderr.
pub fn warn(text: impl Display) {
    errln!("{} {text}", style("warning:").yellow().bold().for_stderr());
}

/// Prints one JSON document on stdout.
///
/// # Panics
/// Never: what is printed has a form in JSON.
pub fn json(document: &impl serde::Serialize) {
    let text = serde_json::to_string_pretty(document).expect("plain values");
    outln!("{text}");
}
