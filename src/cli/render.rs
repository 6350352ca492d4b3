//! Errors and hints, as people see them.

use std::fmt::Display;

use console::style;

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

    /// Prints the failure on stderr.
    pub fn print(&self) {
        let error = style("error:").red().bold().for_stderr();
        eprintln!("{error} {}", self.error);
        let mut last = self.error.to_string();
        for cause in self.error.chain().skip(1) {
            let text = cause.to_string();
            // Some libraries repeat their cause in their own words.
            if !last.contains(&text) {
                eprintln!("  caused by: {text}");
            }
            last = text;
        }
        if let Some(hint) = &self.hint {
            eprintln!("\n{} {hint}", style("hint:").cyan().bold().for_stderr());
        }
    }
}

/// Prints a warning on stderr.
pub fn warn(text: impl Display) {
    eprintln!("{} {text}", style("warning:").yellow().bold().for_stderr());
}

/// Prints one JSON document on stdout.
pub fn json(document: &impl serde::Serialize) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, document)?;
    out.write_all(b"\n")
}
