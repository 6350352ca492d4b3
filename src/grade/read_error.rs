//! Why a log cannot be read.

use std::io;

/// The reason for which a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error("cannot read the log")]
    Io(#[from] io::Error),
    /// The parser knows only some instances.
    #[error("`{parser}` does not know the format of instance `{instance_id}`")]
    UnknownInstance {
        /// The name of the parser, as in datasets.
        parser: &'static str,
        /// The `instance_id` that the parser was asked for.
        instance_id: String,
    },
    /// A part of the log that must be well-formed is not.
    #[error("`{parser}` finds a part of the log that is not {format}")]
    Malformed {
        /// The name of the parser, as in datasets.
        parser: &'static str,
        /// `XML` or `JSON`.
        format: &'static str,
    },
}
