//! From what Docker's API answers to our errors.
//!
//! Where the API has a status or a code, that decides. A failure of a transfer, a build or a load
//! comes in a stream whose status was 200, as text and mostly nothing else: what daemons are known
//! to say is in one table, [`WORDS`]. Other texts of a daemon that something depends on have a named
//! test here each, with the reason that there is no code.

use bollard::errors::Error;

use crate::engine::EngineError;

/// Tells whether the engine answered that the thing is not there.
pub(super) fn is_not_found(error: &Error) -> bool {
    matches!(error, Error::DockerResponseServerError { status_code: 404, .. })
}

/// Tells whether the engine answered that another client removes the thing at this moment. Docker
/// says `removal of container … is already in progress`; other conflicts have the status 409 as well.
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

/// Tells whether a load failed because the engine lacks a lower layer, which the archive leaves out.
/// A graph driver says `open …: no such file or directory`, a containerd store `content digest …: not
/// found`, both in a stream whose status was 200.
pub(super) fn lacks_layer(message: &str) -> bool {
    message.contains("no such file") || message.contains("not found")
}

/// Tells whether a step of BuildKit ended because another one failed. The step's error is a text in
/// the progress of a build (`context canceled`): the protocol has no state for it.
pub(super) fn is_cancelled(error: &str) -> bool {
    error.contains("context canceled")
}

/// Tells whether a step of BuildKit runs a command. Its progress names a step by the instruction
/// (`[stage-1 2/3] RUN make`) and has no field for the kind.
pub(super) fn runs_command(step: &str) -> bool {
    step.contains("RUN ")
}

/// Tells whether a part of the storage driver's status is of a containerd store. The driver's own name
/// is that of a snapshotter (`overlayfs`); the status has `driver-type`, `io.containerd.snapshotter.v1`.
pub(super) fn is_of_containerd(status: &str) -> bool {
    status.contains("io.containerd.snapshotter")
}

/// Tells whether a part of a pull's progress counts bytes that travel. The bytes of `Extracting` are
/// told in the same fields.
pub(super) fn is_download(status: &str) -> bool {
    status == "Downloading"
}

/// How the builder describes what it keeps of a `FROM` image of the engine's own: an entry of the
/// build cache says only by its description what it holds.
const FROM_IMAGE: &str = "from local ";

/// Tells whether an entry of the build cache holds a `FROM` image of the engine's own.
pub(super) fn is_from_image(description: &str) -> bool {
    description.starts_with(FROM_IMAGE)
}

/// Tells whether an entry of the build cache holds files that the builder put on something else.
pub(super) fn is_copied_files(description: &str) -> bool {
    description == "fileop target"
}

/// Tells whether an entry of the build cache holds what a command left that names `program`: it is
/// described as `mount / from exec`, with the words of the command.
pub(super) fn is_of_command(description: &str, program: &str) -> bool {
    description.starts_with("mount / from exec") && description.contains(program)
}

/// Reads which exit code a failed step of a build had. BuildKit says `exit code: 3`, the builder
/// before it `returned a non-zero code: 3`; both give no number.
/// Tells whether the engine could not start a command because its program is missing. The engine has
/// no code for it: the text is that of Go's `exec.ErrNotFound` and of the kernel's `ENOENT`, which runc
/// passes on; that of a missing directory names `chdir`.
pub(super) fn is_program_missing(message: &str) -> bool {
    let of_program = message.contains("executable file not found")
        || message.contains("no such file or directory") && message.contains("exec");
    of_program && !message.contains("chdir")
}

/// Reads the system's error number of a command that the engine could not start, from the same text.
pub(super) fn start_errno(message: &str) -> Option<i32> {
    let numbers = [
        ("executable file not found", libc::ENOENT),
        ("no such file or directory", libc::ENOENT),
        ("permission denied", libc::EACCES),
        ("exec format error", libc::ENOEXEC),
        ("not a directory", libc::ENOTDIR),
    ];
    numbers.into_iter().find(|(words, _)| message.contains(words)).map(|(_, number)| number)
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
