//! Why a key cannot be used, and what would help.

use std::path::PathBuf;

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Its file cannot be read.
    #[error("cannot read the key `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not PEM.
    #[error("it is not a key in PEM")]
    NotPem,
    /// A private key stands where a public one belongs, or the other way round.
    #[error("it is a `{found}`, not a {wanted} key")]
    OtherHalf {
        /// The label of the PEM block.
        found: String,
        /// `public` or `private`.
        wanted: &'static str,
    },
    /// Of another algorithm, or damaged.
    #[error("it is not an ECDSA key on P-256, or it is damaged")]
    OtherAlgorithm,
    /// The password does not open it.
    #[error("the password does not open it")]
    Password,
    /// It is sealed in a way that is not known, or that would take too much memory.
    #[error("it is sealed in a way that is not known: {0}")]
    Sealed(String),
}

impl KeyError {
    /// Returns what would help.
    pub fn hint(&self) -> &'static str {
        match self {
            KeyError::OtherHalf { wanted: "public", .. } => {
                "images are verified with the public key, such as cosign.pub"
            }
            KeyError::OtherHalf { .. } => {
                "images are signed with the private key, such as cosign.key"
            }
            KeyError::Password => "the password is in COSIGN_PASSWORD, or asked for on a terminal",
            _ => "`imgforge cache key` makes a pair, and so does `cosign generate-key-pair`",
        }
    }
}
