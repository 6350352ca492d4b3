//! From the words of an engine to our errors.

use bollard::errors::Error;

use crate::engine::EngineError;

/// Tells whether the engine answered that the thing is not there.
pub(super) fn is_not_found(error: &Error) -> bool {
    matches!(error, Error::DockerResponseServerError { status_code: 404, .. })
}

/// Tells whether the engine answered that another client removes the thing at this moment.
pub(super) fn is_being_removed(error: &Error) -> bool {
    matches!(error, Error::DockerResponseServerError { status_code: 409, message }
        if message.contains("already in progress"))
}

/// Classes an error that came while the engine was asked to do `action`.
pub(super) fn failed(action: &str, error: Error) -> EngineError {
    match &error {
        Error::DockerResponseServerError { status_code, message } => {
            if is_no_space(message) {
                EngineError::NoSpace { action: action.to_owned() }
            } else if *status_code >= 500 && !is_final(message) {
                EngineError::Transient { action: action.to_owned(), source: error.into() }
            } else {
                EngineError::Refused { action: action.to_owned(), reason: message.clone() }
            }
        }
        Error::DockerStreamError { error: message } => said(action, message),
        Error::JsonDataError { message, .. } => {
            EngineError::Refused { action: action.to_owned(), reason: message.clone() }
        }
        // What is left is a connection that broke or never came to be.
        _ => EngineError::Transient { action: action.to_owned(), source: error.into() },
    }
}

/// Classes an error that came in a stream which had begun well.
pub(super) fn said(action: &str, message: &str) -> EngineError {
    if is_no_space(message) {
        return EngineError::NoSpace { action: action.to_owned() };
    }
    if is_passing(message) {
        let source = message.to_owned().into();
        return EngineError::Transient { action: action.to_owned(), source };
    }
    EngineError::Refused { action: action.to_owned(), reason: message.to_owned() }
}

/// Tells whether words are about a full disk, the engine's or a program's.
pub(super) fn is_no_space(message: &str) -> bool {
    let words = ["no space left on device", "disk quota exceeded"];
    words.iter().any(|words| message.to_ascii_lowercase().contains(words))
}

/// Words of an error 500 that will be the same at the next try.
fn is_final(message: &str) -> bool {
    ["No such image", "invalid diffID", "no such file", "manifest unknown", "not found"]
        .iter()
        .any(|words| message.contains(words))
}

/// Words of a failure that may be gone at the next try.
pub(super) fn is_passing(message: &str) -> bool {
    const WORDS: [&str; 21] = [
        "toomanyrequests",
        "Too Many Requests",
        "status code 429",
        "HTTP status: 429",
        // The answer of a proxy, without the document that a registry sends along.
        "parsing HTTP 429 response",
        "parsing HTTP 5",
        "status code 5",
        "server misbehaving",
        "500 Internal",
        "502 Bad",
        "503 Service",
        "504 Gateway",
        "received unexpected HTTP status: 5",
        "connection reset",
        "connection refused",
        "i/o timeout",
        "TLS handshake timeout",
        "unexpected EOF",
        "Temporary failure",
        "graceful_stop",
        "transport is closing",
    ];
    WORDS.iter().any(|words| message.contains(words))
}

/// Reads which exit code a failed step of a build had.
pub(super) fn exit_code(message: &str) -> Option<i64> {
    let words = ["exit code: ", "returned a non-zero code: "];
    words.iter().find_map(|words| {
        let at = message.rfind(words)? + words.len();
        let digits: String = message[at..].chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_what_may_pass_and_from_a_refusal() {
        let no_space = said("load", "write /x: no space left on device");
        assert!(matches!(no_space, EngineError::NoSpace { .. }));
        assert!(said("pull", "toomanyrequests: slow down").is_transient());
        assert!(!said("pull", "manifest unknown").is_transient());
    }

    #[test]
    fn exit_codes_of_both_builders_are_read() {
        let buildkit = "executor failed running [/bin/sh -c false]: exit code: 3";
        assert_eq!(exit_code(buildkit), Some(3));
        assert_eq!(exit_code("The command 'x' returned a non-zero code: 7"), Some(7));
        assert_eq!(exit_code("dockerfile parse error"), None);
    }
}
