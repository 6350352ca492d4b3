//! From what Docker's API answers to our errors.
//!
//! Where the API has a status or a code, that decides. A failure of a transfer, a build or a load
//! comes in a stream whose status was 200, as text and mostly nothing else: what daemons are known
//! to say is in one table, [`WORDS`].

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
        Error::DockerResponseServerError { status_code, message } => match meaning(message) {
            Some(Meaning::NoSpace) => EngineError::NoSpace { action: action.to_owned() },
            Some(Meaning::Final | Meaning::Absent | Meaning::Denied) => {
                EngineError::Refused { action: action.to_owned(), reason: message.clone() }
            }
            _ if *status_code >= 500 => {
                EngineError::Transient { action: action.to_owned(), source: error.into() }
            }
            _ => EngineError::Refused { action: action.to_owned(), reason: message.clone() },
        },
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
    let action = action.to_owned();
    match meaning(message) {
        Some(Meaning::NoSpace) => EngineError::NoSpace { action },
        Some(Meaning::Limited | Meaning::Passing) => {
            EngineError::Transient { action, source: message.to_owned().into() }
        }
        _ => EngineError::Refused { action, reason: message.to_owned() },
    }
}

/// What a daemon's text means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A disk is full, the engine's or a program's.
    NoSpace,
    /// A registry lets this client do no more for now.
    Limited,
    /// It may be gone at the next try.
    Passing,
    /// A registry does not have the image.
    Absent,
    /// A registry wants other credentials.
    Denied,
    /// It will be the same at the next try, also where the status says "server error".
    Final,
}

/// What daemons say, in the order in which it is looked for, compared in lower case. The words of
/// registries begin with the code of the distribution specification, which a daemon writes in lower
/// case without underscores.
const WORDS: [(Meaning, &[&str]); 6] = [
    (Meaning::NoSpace, &["no space left on device", "disk quota exceeded"]),
    (
        Meaning::Limited,
        // The last one: a proxy's answer, without the document that a registry sends along.
        &[
            "toomanyrequests",
            "too many requests",
            "status code 429",
            "http status: 429",
            "parsing http 429 response",
        ],
    ),
    (
        Meaning::Passing,
        &[
            "parsing http 5",
            "status code 5",
            "server misbehaving",
            "500 internal",
            "502 bad",
            "503 service",
            "504 gateway",
            "received unexpected http status: 5",
            "connection reset",
            "connection refused",
            "i/o timeout",
            "tls handshake timeout",
            "unexpected eof",
            "temporary failure",
            "graceful_stop",
            "transport is closing",
        ],
    ),
    (
        Meaning::Denied,
        &[
            "unauthorized:",
            "denied:",
            "pull access denied",
            "no basic auth",
            "401 unauthorized",
            "403 forbidden",
        ],
    ),
    (
        Meaning::Absent,
        &["manifest unknown", "name unknown", "repository name not known", "404 not found"],
    ),
    (Meaning::Final, &["no such image", "invalid diffid", "no such file", "not found"]),
];

/// Tells what a daemon's text means, where it is known.
pub(super) fn meaning(message: &str) -> Option<Meaning> {
    let lower = message.to_ascii_lowercase();
    let found = WORDS.iter().find(|(_, words)| words.iter().any(|word| lower.contains(word)));
    found.map(|(meaning, _)| *meaning)
}

/// Tells whether words are about a full disk, the engine's or a program's.
pub(super) fn is_no_space(message: &str) -> bool {
    meaning(message) == Some(Meaning::NoSpace)
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
