//! What is answered where a call does not succeed.
//!
//! What SWE-ReX's own runtime would raise travels as status 511 with the name of its class, and is raised
//! by the client. What is no call at all is refused with a status of HTTP and a sentence.

use hyper::StatusCode;
use serde_json::{Map, Value, json};

use crate::causes;
use crate::engine::{EngineError, ExecEnd, NotStarted};

/// A class that the client raises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Nothing more is known: a lost session, a failed engine.
    Swerex,
    /// A limit was reached.
    CommandTimeout,
    /// A command that was to succeed did not.
    NonZeroExitCode,
    /// A command whose exit code was asked for still runs.
    NoExitCode,
    /// The command is no bash.
    BashIncorrectSyntax,
    /// A shell has that name.
    SessionExists,
    /// No shell has that name.
    SessionDoesNotExist,
    /// Python's own.
    FileNotFound,
    /// Python's own.
    IsADirectory,
    /// Python's own.
    NotADirectory,
    /// Python's own.
    Permission,
    /// Python's own, of encodings that are not known.
    Lookup,
    /// Python's own, of bytes that are no text.
    UnicodeDecode,
}

impl Class {
    /// Returns where Python finds it.
    fn path(self) -> &'static str {
        match self {
            Class::Swerex => "swerex.exceptions.SwerexException",
            Class::CommandTimeout => "swerex.exceptions.CommandTimeoutError",
            Class::NonZeroExitCode => "swerex.exceptions.NonZeroExitCodeError",
            Class::NoExitCode => "swerex.exceptions.NoExitCodeError",
            Class::BashIncorrectSyntax => "swerex.exceptions.BashIncorrectSyntaxError",
            Class::SessionExists => "swerex.exceptions.SessionExistsError",
            Class::SessionDoesNotExist => "swerex.exceptions.SessionDoesNotExistError",
            Class::FileNotFound => "builtins.FileNotFoundError",
            Class::IsADirectory => "builtins.IsADirectoryError",
            Class::NotADirectory => "builtins.NotADirectoryError",
            Class::Permission => "builtins.PermissionError",
            Class::Lookup => "builtins.LookupError",
            Class::UnicodeDecode => "builtins.UnicodeDecodeError",
        }
    }
}

/// Why a call did not succeed.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Failure {
    /// The client raises it: 511.
    Raised {
        /// Which class.
        class: Class,
        /// What it says.
        message: String,
        /// Its `extra_info`.
        more: Map<String, Value>,
    },
    /// The request itself is wrong.
    Refused {
        /// The status.
        status: StatusCode,
        /// A sentence.
        detail: String,
    },
}

impl Failure {
    /// A class that the client raises.
    pub(super) fn raised(class: Class, message: impl Into<String>) -> Failure {
        Failure::Raised { class, message: message.into(), more: Map::new() }
    }

    /// Adds to `extra_info`.
    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Failure {
        if let Failure::Raised { more, .. } = &mut self {
            more.insert(name.to_owned(), value.into());
        }
        self
    }

    /// It is no request that this server takes: 400.
    pub(super) fn bad(detail: impl Into<String>) -> Failure {
        Failure::Refused { status: StatusCode::BAD_REQUEST, detail: detail.into() }
    }

    /// Whoever asks may not: 403. It says nothing about what is there.
    pub(super) fn forbidden() -> Failure {
        let detail = "Not authenticated: X-API-Key is not the key of this session".to_owned();
        Failure::Refused { status: StatusCode::FORBIDDEN, detail }
    }

    /// Nothing is served there: 404, or 405 for the wrong method.
    pub(super) fn unserved(status: StatusCode, detail: String) -> Failure {
        Failure::Refused { status, detail }
    }

    /// A command that was not started.
    pub(super) fn not_started(what: &str, why: &NotStarted) -> Failure {
        let class = match why.errno {
            _ if why.program_missing => Class::FileNotFound,
            Some(libc::ENOENT) => Class::FileNotFound,
            Some(libc::EACCES | libc::EPERM) => Class::Permission,
            Some(libc::ENOTDIR) => Class::NotADirectory,
            _ => Class::Swerex,
        };
        Failure::raised(class, format!("cannot start {what}: {}", why.reason))
    }

    /// An end of a command that this server started for itself, and that says nothing about the request.
    pub(super) fn unexpected(what: &str, end: &ExecEnd) -> Failure {
        match end {
            ExecEnd::NotStarted(why) => Failure::not_started(what, why),
            ExecEnd::SessionEnded(how) => {
                Failure::raised(Class::Swerex, format!("the session has ended: {}", how.reason()))
            }
            ExecEnd::TimedOut | ExecEnd::Idle => {
                Failure::raised(Class::CommandTimeout, format!("{what} took too long"))
            }
            ExecEnd::OutOfMemory(_) => {
                let message = format!("the memory limit of the session was reached by {what}");
                Failure::raised(Class::Swerex, message)
            }
            ExecEnd::Exited(code) => {
                Failure::raised(Class::Swerex, format!("{what} ended with exit code {code}"))
            }
            ExecEnd::Signaled(signal) => {
                Failure::raised(Class::Swerex, format!("{what} was ended by signal {signal}"))
            }
        }
    }

    /// Returns the status and the document that say it.
    pub(super) fn answer(&self) -> (StatusCode, Value) {
        match self {
            Failure::Raised { class, message, more } => {
                let raised = json!({
                    "message": message,
                    "class_path": class.path(),
                    "traceback": "",
                    "extra_info": more,
                });
                let status = StatusCode::NETWORK_AUTHENTICATION_REQUIRED;
                (status, json!({ "swerexception": raised }))
            }
            Failure::Refused { status, detail } => (*status, json!({ "detail": detail })),
        }
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Failure {
        let message = causes::in_one_line(&error);
        match error {
            EngineError::NoSuchPath { .. } => Failure::raised(Class::FileNotFound, message),
            _ => Failure::raised(Class::Swerex, message),
        }
    }
}
