//! How progress is shown: chosen once, for runs and for everything else that takes its time.

use std::io::IsTerminal as _;
use std::sync::OnceLock;

use clap::ValueEnum;

use crate::exec::output::{Lines, Told};
use crate::progress::{Wait, Waiting};

use super::Global;

/// What `--progress` takes.
#[derive(Debug, Clone, Copy, Default, ValueEnum, PartialEq, Eq)]
pub(super) enum ProgressChoice {
    /// tty on a terminal, else plain; plain with -v
    #[default]
    Auto,
    /// Lines that change
    Tty,
    /// Lines that stay
    Plain,
    /// Events as NDJSON
    Json,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    None,
    Tty,
    Plain,
    Json,
}

impl Global {
    /// Returns how progress is shown.
    pub(super) fn progress_mode(&self) -> Mode {
        let is_drawn = std::io::stderr().is_terminal() && self.verbose == 0;
        match self.progress {
            _ if self.quiet => Mode::None,
            ProgressChoice::Auto if is_drawn => Mode::Tty,
            ProgressChoice::Auto | ProgressChoice::Plain => Mode::Plain,
            ProgressChoice::Tty => Mode::Tty,
            ProgressChoice::Json => Mode::Json,
        }
    }
}

impl Mode {
    /// Returns what is told of what nodes print.
    pub(super) fn told(self, verbose: u8) -> Told {
        // A line that changes shows the last one; where lines stay, all or none do.
        let least = if self == Mode::Tty { Lines::Last } else { Lines::None };
        let all_if = |all: bool| if all && self != Mode::None { Lines::All } else { least };
        Told { images: all_if(verbose > 0), tests: all_if(verbose > 1) }
    }
}

/// How what is waited for is said; nothing is, until the options are known.
static WAITING: OnceLock<Waiting> = OnceLock::new();

/// Decides for the process how what is waited for is said.
pub(super) fn decide(global: &Global) {
    WAITING.get_or_init(|| match global.progress_mode() {
        Mode::None | Mode::Json => Waiting::Silent,
        Mode::Tty => Waiting::Drawn,
        Mode::Plain => Waiting::Printed,
    });
}

/// Returns how what is waited for is said.
pub(super) fn waiting() -> Waiting {
    WAITING.get().copied().unwrap_or(Waiting::Silent)
}

/// Says after a second what is waited for, until the value is dropped.
pub(super) fn wait(what: impl Into<String>) -> Wait {
    Wait::begin(waiting(), what)
}
