//! What is said to people while something goes on: warnings and remarks. What programs read are
//! [`events`](crate::event) and results.

use std::fmt::Display;
use std::sync::Arc;

use crate::engine::{LogSink, NoLog};
use crate::progress::{Wait, Waiting};

/// The weight of a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// Something is not as it was meant.
    Warning,
    /// A warning that nobody needs who wants to hear of errors only.
    Advice,
    /// What is done, and how.
    Remark,
    /// Something begins that takes its time, such as `reading the dataset lite`.
    Waiting,
}

/// What takes notices.
type Told = dyn Fn(Notice, &str) + Send + Sync;

/// Who hears the notices, and how it is shown that something takes its time.
#[derive(Clone)]
pub struct Notices {
    told: Arc<Told>,
    waiting: Waiting,
    log: Arc<dyn LogSink>,
}

impl Notices {
    /// Tells nobody.
    pub fn silent() -> Notices {
        Notices { told: Arc::new(|_, _| {}), waiting: Waiting::Silent, log: Arc::new(NoLog) }
    }

    /// Calls `told` with each notice, a text of one or more lines without a line end.
    pub fn new(told: impl Fn(Notice, &str) + Send + Sync + 'static) -> Notices {
        Notices { told: Arc::new(told), ..Notices::silent() }
    }

    /// Shows on the terminal what is waited for.
    #[must_use]
    pub fn waiting(self, waiting: Waiting) -> Notices {
        Notices { waiting, ..self }
    }

    /// Gives `log` what steps print that belong to no image of a plan, such as the pull of a `FROM` image.
    #[must_use]
    pub fn log_to(self, log: Arc<dyn LogSink>) -> Notices {
        Notices { log, ..self }
    }

    pub(crate) fn warn(&self, text: impl Display) {
        (self.told)(Notice::Warning, &text.to_string());
    }

    pub(crate) fn advise(&self, text: impl Display) {
        (self.told)(Notice::Advice, &text.to_string());
    }

    pub(crate) fn remark(&self, text: impl Display) {
        (self.told)(Notice::Remark, &text.to_string());
    }

    /// Shows what is waited for until the value is dropped.
    pub(crate) fn wait(&self, what: impl Into<String>) -> Wait {
        let what = what.into();
        (self.told)(Notice::Waiting, &what);
        Wait::begin(self.waiting, what)
    }

    /// Returns what takes the output of steps while `wait` is shown.
    pub(crate) fn log<'a>(&'a self, wait: &'a Wait) -> &'a dyn LogSink {
        // Where nothing is drawn the lines themselves say what goes on.
        match self.waiting {
            Waiting::Drawn => wait,
            Waiting::Silent | Waiting::Printed => &*self.log,
        }
    }
}
