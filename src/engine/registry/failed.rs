//! Why a request to a registry has no success.

use super::answer::Answer;

/// Why a request has no success.
#[derive(Debug)]
pub(super) enum Failed {
    /// The registry, or its token service, answered so.
    Answer(Answer),
    /// There was no answer, or it broke off.
    Request(reqwest::Error),
    /// There is no such host.
    NoHost,
    /// The answer lacks something.
    Form(&'static str),
}
