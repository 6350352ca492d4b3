//! Answers: documents, streams, and errors as Docker's clients know them.

use hyper::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::causes;
use crate::engine::EngineError;

pub(super) use crate::serve::answer::{Body, document, empty, stream, streamed, whole};

/// An answer, or an error that is one.
pub(super) type Answer = Result<Response<Body>, Refusal>;

/// An error of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    status: StatusCode,
    message: String,
}

impl Refusal {
    /// The request is wrong: 400.
    pub(super) fn bad(message: impl Into<String>) -> Refusal {
        Refusal { status: StatusCode::BAD_REQUEST, message: message.into() }
    }

    /// What it is about is not there: 404.
    pub(super) fn absent(message: impl Into<String>) -> Refusal {
        Refusal { status: StatusCode::NOT_FOUND, message: message.into() }
    }

    /// It cannot be done as things are: 409.
    pub(super) fn conflict(message: impl Into<String>) -> Refusal {
        Refusal { status: StatusCode::CONFLICT, message: message.into() }
    }

    /// It is not for a client to do: 403.
    pub(super) fn forbidden(message: impl Into<String>) -> Refusal {
        Refusal { status: StatusCode::FORBIDDEN, message: message.into() }
    }

    /// The server failed: 500.
    pub(super) fn failed(message: impl Into<String>) -> Refusal {
        Refusal { status: StatusCode::INTERNAL_SERVER_ERROR, message: message.into() }
    }

    /// It cannot be done by this server, whatever the request is: 503.
    pub(super) fn unavailable(message: impl Into<String>) -> Refusal {
        Refusal { status: StatusCode::SERVICE_UNAVAILABLE, message: message.into() }
    }

    /// It is not served: 501.
    pub(super) fn unserved(message: impl Into<String>) -> Refusal {
        Refusal { status: StatusCode::NOT_IMPLEMENTED, message: message.into() }
    }

    /// Nothing is served at a path: 501.
    pub(super) fn no_route(method: &Method, path: &[&str]) -> Refusal {
        let path = path.join("/");
        Refusal::unserved(format!("`{method} /{path}` is not served by imgforge"))
    }

    /// Returns it as an answer.
    pub(super) fn answer(self) -> Response<Body> {
        document(self.status, &json!({ "message": self.message }))
    }
}

impl From<EngineError> for Refusal {
    fn from(error: EngineError) -> Refusal {
        let message = causes::in_one_line(&error);
        match error {
            EngineError::NoSuchImage { .. }
            | EngineError::NoSuchPath { .. }
            | EngineError::NotFound { .. } => Refusal::absent(message),
            EngineError::Unsupported { .. } => Refusal::unserved(message),
            EngineError::SessionEnded { .. } => Refusal::conflict(message),
            _ => Refusal::failed(message),
        }
    }
}

/// Makes the answer 200 of a JSON document.
pub(super) fn found(value: &Value) -> Answer {
    Ok(document(StatusCode::OK, value))
}

/// Makes the answer 204.
pub(super) fn done() -> Answer {
    Ok(empty(StatusCode::NO_CONTENT))
}
