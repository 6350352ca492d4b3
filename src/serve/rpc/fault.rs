//! The errors of the protocol.

use serde::Serialize;
use serde_json::{Value, json};

use crate::causes;
use crate::engine::EngineError;
use crate::session::StartError;
use crate::session::directory::DirectoryError;
use crate::session::git::GitError;

/// The code of errors that JSON-RPC has none for.
const FAILED: i32 = -32000;

/// An error, as a client gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    code: i32,
    kind: Kind,
    message: String,
    hint: Option<String>,
    /// What else `data` has, by its name.
    more: Option<Box<(&'static str, Value)>>,
}

/// What kind of error it is: what programs decide by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// No request, an unknown method or parameter, a value that is not allowed.
    Invalid,
    /// The version of the protocol is not known.
    Protocol,
    /// No session of that id, or no more.
    NoSuchSession,
    /// No shell of that name, or no more.
    NoSuchShell,
    /// No command of that name, or no more.
    NoSuchExec,
    /// No checkpoint of that id.
    NoSuchCheckpoint,
    /// The engine has no image of that name.
    NoSuchImage,
    /// No smoke run of that name, or no more.
    NoSuchSmoke,
    /// The dataset has no such instance, or there is no such dataset.
    NoSuchInstance,
    /// A path of a session that is not there.
    NoSuchPath,
    /// The session has ended.
    SessionEnded,
    /// More than is allowed.
    Limit,
    /// It cannot be done, now and later.
    Refused,
    /// This engine cannot do it.
    Unsupported,
    /// It failed, and that says nothing of what runs in the session.
    Infra,
}

impl Fault {
    /// Makes an error of a kind that JSON-RPC does not know.
    pub fn new(kind: Kind, message: impl Into<String>) -> Fault {
        Fault { code: FAILED, kind, message: message.into(), hint: None, more: None }
    }

    /// What was sent is no JSON.
    pub(super) fn no_json(message: impl Into<String>) -> Fault {
        Fault { code: -32700, ..Fault::new(Kind::Invalid, message) }
    }

    /// What was sent is no request.
    pub(super) fn no_request(message: impl Into<String>) -> Fault {
        Fault { code: -32600, ..Fault::new(Kind::Invalid, message) }
    }

    /// There is no such method.
    pub(super) fn no_method(method: &str, known: &[&str]) -> Fault {
        let near = crate::nearest::nearest(method, known.iter().copied());
        let hint = near.map(|near| format!("did you mean `{near}`?"));
        let message = format!("there is no method `{method}`");
        Fault { code: -32601, hint, ..Fault::new(Kind::Invalid, message) }
    }

    /// A parameter is missing, unknown, or has a value that is not allowed.
    pub(super) fn bad_params(message: impl Into<String>) -> Fault {
        Fault { code: -32602, ..Fault::new(Kind::Invalid, message) }
    }

    /// The version of the protocol is not known.
    pub(super) fn protocol(asked: u32, known: u32) -> Fault {
        let message = format!("protocol {asked} is not known here, {known} is");
        let fault = Fault { code: -32001, ..Fault::new(Kind::Protocol, message) };
        fault
            .with("supported", json!([known]))
            .hint("install versions of imgforge and of its client that belong together")
    }

    /// Says what would help.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Fault {
        Fault { hint: Some(hint.into()), ..self }
    }

    /// Says in which method it was found.
    pub(super) fn in_place(self, method: &str) -> Fault {
        Fault { message: format!("{method}: {}", self.message), ..self }
    }

    /// Returns the line that tells it where there is no request for it to answer.
    pub fn line(&self) -> String {
        json!({ "jsonrpc": "2.0", "id": null, "error": self.document() }).to_string()
    }

    fn with(self, name: &'static str, value: Value) -> Fault {
        Fault { more: Some(Box::new((name, value))), ..self }
    }

    /// Returns what kind of error it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the error object of an answer.
    pub(super) fn document(&self) -> Value {
        let mut data = json!({ "kind": self.kind });
        if let Some(hint) = &self.hint {
            data["hint"] = json!(hint);
        }
        if let Some(more) = &self.more {
            let (name, value) = &**more;
            data[*name] = value.clone();
        }
        json!({ "code": self.code, "message": self.message, "data": data })
    }
}

impl From<EngineError> for Fault {
    fn from(error: EngineError) -> Fault {
        let (kind, more) = match &error {
            EngineError::NoSuchPath { path } => (Kind::NoSuchPath, Some(("path", json!(path)))),
            EngineError::NoSuchImage { .. } | EngineError::NotFound { .. } => {
                (Kind::NoSuchImage, None)
            }
            EngineError::SessionEnded { how, .. } => {
                (Kind::SessionEnded, Some(("how", json!(how.reason()))))
            }
            EngineError::Refused { .. } | EngineError::Reference(_) => (Kind::Refused, None),
            EngineError::Unsupported { .. } => (Kind::Unsupported, None),
            _ => (Kind::Infra, None),
        };
        let (hint, more) = (error.hint(), more.map(Box::new));
        Fault { hint, more, ..Fault::new(kind, causes::in_one_line(&error)) }
    }
}

impl From<StartError> for Fault {
    fn from(error: StartError) -> Fault {
        match error {
            StartError::Engine(error) => error.into(),
            error => {
                let hint = error.hint();
                Fault { hint, ..Fault::new(Kind::Infra, causes::in_one_line(&error)) }
            }
        }
    }
}

impl From<GitError> for Fault {
    fn from(error: GitError) -> Fault {
        match error {
            GitError::Engine(error) => error.into(),
            GitError::Refused(_) => Fault::new(Kind::Refused, causes::in_one_line(&error)),
        }
    }
}

impl From<DirectoryError> for Fault {
    fn from(error: DirectoryError) -> Fault {
        let kind = match &error {
            DirectoryError::NoCheckpoint(_) | DirectoryError::Several { .. } => {
                Kind::NoSuchCheckpoint
            }
            _ => Kind::Infra,
        };
        Fault::new(kind, causes::in_one_line(&error))
    }
}
