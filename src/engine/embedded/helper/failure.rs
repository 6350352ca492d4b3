//! Why a helper could not do what it was asked for.

use std::io;
use std::path::Path;

use super::super::task::Answer;

/// What was tried, and why it did not work.
#[derive(Debug)]
pub struct Failure {
    action: String,
    errno: Option<i32>,
    reason: String,
}

impl Failure {
    /// A failure that is not the system's.
    pub fn new(action: impl Into<String>, reason: impl Into<String>) -> Failure {
        Failure { action: action.into(), errno: None, reason: reason.into() }
    }

    /// Says what failed and why.
    pub fn text(&self) -> String {
        format!("cannot {}: {}", self.action, self.reason)
    }

    /// A failure that another process of the helper reported.
    pub fn again(action: String, errno: Option<i32>, reason: String) -> Failure {
        Failure { action, errno, reason }
    }
}

impl From<Failure> for Answer {
    fn from(failure: Failure) -> Answer {
        let Failure { action, errno, reason } = failure;
        Answer::Failed { action, errno, reason }
    }
}

/// Says what was tried when the system refuses.
pub trait Context<T> {
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
                action: format!("{action} `{}`", path.as_ref().display()),
                errno: error.raw_os_error(),
                reason: error.to_string(),
            }
        })
    }
}
