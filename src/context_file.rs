//! Files of build contexts: what catalogs name, recipes make and engines build from.

/// A file of a build context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextFile {
    /// Relative to the context, with `/`.
    pub path: String,
    /// Whether the owner may execute it.
    pub executable: bool,
    /// The bytes.
    pub bytes: Vec<u8>,
}
