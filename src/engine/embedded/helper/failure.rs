//! Why a helper could not do what it was asked for.

use std::io;
use std::path::Path;

use super::super::protocol::{Response, SessionResponse, Step};

/// What was tried, and why it did not work.
#[derive(Debug)]
pub(crate) struct Failure {
    step: Option<Step>,
    action: String,
    errno: Option<i32>,
    reason: String,
}

impl Failure {
    /// A failure that is not the system's.
    pub(crate) fn new(action: impl Into<String>, reason: impl Into<String>) -> Failure {
        Failure { step: None, action: action.into(), errno: None, reason: reason.into() }
    }

    /// A failure of the system.
    pub(crate) fn of(action: String, error: &io::Error) -> Failure {
        let reason = error.to_string();
        Failure { step: None, action, errno: error.raw_os_error(), reason }
    }

    /// Says what failed and why.
    pub(crate) fn text(&self) -> String {
        format!("cannot {}: {}", self.action, self.reason)
    }

    /// A failure that another process of the helper reported.
    pub(crate) fn again(
        step: Option<Step>,
        action: String,
        errno: Option<i32>,
        reason: String,
    ) -> Failure {
        Failure { step, action, errno, reason }
    }
}

impl From<Failure> for Response {
    fn from(failure: Failure) -> Response {
        let Failure { step, action, errno, reason } = failure;
        Response::Failed { step, action, errno, reason }
    }
}

impl From<Failure> for SessionResponse {
    fn from(failure: Failure) -> SessionResponse {
        let Failure { action, errno, reason, .. } = failure;
        SessionResponse::Failed { action, errno, reason }
    }
}

/// Says which step towards a container a failure belongs to.
pub(super) trait During<T> {
    /// Names the step, unless one inside it is named.
    fn during(self, step: Step) -> Result<T, Failure>;
}

impl<T> During<T> for Result<T, Failure> {
    fn during(self, step: Step) -> Result<T, Failure> {
        self.map_err(|failure| Failure { step: failure.step.or(Some(step)), ..failure })
    }
}

/// Says what was tried when the system refuses.
pub(super) trait Context<T> {
    /// Names an action, such as `mount /proc`.
    fn because(self, action: &str) -> Result<T, Failure>;

    /// Names an action on a path.
    fn at(self, action: &str, path: impl AsRef<Path>) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn because(self, action: &str) -> Result<T, Failure> {
        self.map_err(|error| {
            let error = error.into();
            Failure {
                step: None,
                action: action.to_owned(),
                errno: error.raw_os_error(),
                reason: error.to_string(),
            }
        })
    }

    fn at(self, action: &str, path: impl AsRef<Path>) -> Result<T, Failure> {
        self.map_err(|error| {
            let error = error.into();
            Failure {
                step: None,
                action: format!("{action} `{}`", path.as_ref().display()),
                errno: error.raw_os_error(),
                reason: error.to_string(),
            }
        })
    }
}
