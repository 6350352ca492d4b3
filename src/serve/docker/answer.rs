//! Answers: documents, streams, and errors as Docker's clients know them.

use std::io;

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt as _};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::causes;
use crate::engine::EngineError;

/// The body of an answer.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

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

/// Makes an answer of a JSON document.
pub(super) fn document(status: StatusCode, value: &Value) -> Response<Body> {
    let mut text = value.to_string();
    text.push('\n');
    let mut response = Response::new(whole(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Makes the answer 200 of a JSON document.
pub(super) fn found(value: &Value) -> Answer {
    Ok(document(StatusCode::OK, value))
}

/// Makes an answer without a body.
pub(super) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(whole(Bytes::new()));
    *response.status_mut() = status;
    response
}

/// Makes the answer 204.
pub(super) fn done() -> Answer {
    Ok(empty(StatusCode::NO_CONTENT))
}

/// Makes a body of bytes.
pub(super) fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// Makes a body of pieces that come; the head of the answer is sent before the first.
pub(super) fn stream(pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Body {
    StreamBody::new(pieces.map_ok(Frame::data)).boxed_unsync()
}

/// Makes the answer 200 of pieces that come.
pub(super) fn streamed(
    content_type: &'static str,
    pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> Response<Body> {
    let mut response = Response::new(stream(pieces));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
