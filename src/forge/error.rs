//! Why something could not be done, and what would help.

use std::fmt;

/// Whose fault an [`Error`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// What was asked for is wrong: an option, a dataset, a prediction, a catalog. Nothing was started.
    Input,
    /// This machine, or a service that it asks, cannot do it: no engine, no disk, no network.
    Environment,
    /// Somebody ended it.
    Interrupted,
}

/// Why something could not be done, with its causes and a hint.
pub struct Error {
    kind: ErrorKind,
    error: anyhow::Error,
    hint: Option<String>,
}

impl Error {
    /// Makes an error of what was asked for.
    pub fn input(error: impl Into<anyhow::Error>) -> Self {
        Error { kind: ErrorKind::Input, error: error.into(), hint: None }
    }

    /// Makes an error of this machine, or of a service.
    pub fn environment(error: impl Into<anyhow::Error>) -> Self {
        Error { kind: ErrorKind::Environment, error: error.into(), hint: None }
    }

    /// Makes the error of work that somebody ended.
    pub fn interrupted(error: impl Into<anyhow::Error>) -> Self {
        Error { kind: ErrorKind::Interrupted, error: error.into(), hint: None }
    }

    /// Sets what would help, as a sentence without its full stop.
    #[must_use]
    pub fn with_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint;
        self
    }

    /// Says in which place it was found: an option, or a line of a file.
    #[must_use]
    pub(crate) fn in_place(mut self, place: &str) -> Self {
        self.error = anyhow::anyhow!("{place}: {:#}", self.error);
        self
    }

    /// Returns whose fault it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns what would help.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.error, f)?;
        match &self.hint {
            Some(hint) => write!(f, "\n\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}
