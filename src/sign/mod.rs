//! Signatures in the forms that cosign and its relatives read: keys, signed payloads, attestations.
//!
//! Everything here is made of bytes and gives bytes; where they are kept is not known here. A signature
//! is of the digest of an image's manifest, so it is of the image's content and not of its name.

mod bundle;
mod dsse;
mod error;
mod key;
mod sealed;
mod simple;

pub use bundle::{BUNDLE, Bundle};
pub use dsse::{DSSE, Envelope, IN_TOTO, Statement, Subject};
pub use error::KeyError;
pub use key::{PrivateKey, PublicKey};
pub use simple::{SIG, SIGNATURE, SIMPLE_SIGNING, SimplePayload, config};

/// The predicate of a statement that says no more than that its subject is signed: what cosign 3 makes
/// of an image's signature.
pub const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";

/// Why something is not the signature of an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotSigned {
    /// It has no signature.
    #[error("it has no signature")]
    Unsigned,
    /// It has signatures, of other keys.
    #[error("it is signed by another key")]
    OtherKey,
    /// A trusted key signed that, and not this image.
    #[error("its signature is for another image, `{digest}`")]
    OtherImage {
        /// The digest that was signed.
        digest: String,
    },
    /// What is in a signature's place is none.
    #[error("what is there for a signature is none: {reason}")]
    Malformed {
        /// What is wrong with it.
        reason: String,
    },
}

impl NotSigned {
    /// Makes the reason of something that is not in the form of a signature.
    pub fn malformed(reason: impl std::fmt::Display) -> NotSigned {
        NotSigned::Malformed { reason: reason.to_string() }
    }

    /// How much it says: of several reasons the one that says most is told.
    pub fn rank(&self) -> u8 {
        match self {
            NotSigned::Unsigned => 0,
            NotSigned::Malformed { .. } => 1,
            NotSigned::OtherKey => 2,
            NotSigned::OtherImage { .. } => 3,
        }
    }
}
