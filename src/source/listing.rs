//! The listing of a tree of git, with everything below it.

use std::collections::BTreeMap;

use super::layer::FileMode;

/// The kind of a tree entry that is not a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryKind {
    File(FileMode),
    Symlink,
    Submodule,
}

impl EntryKind {
    /// Returns the mode as git writes it.
    pub(super) fn mode(self) -> u32 {
        match self {
            EntryKind::File(FileMode::Plain) => 0o100644,
            EntryKind::File(FileMode::Executable) => 0o100755,
            EntryKind::Symlink => 0o120000,
            EntryKind::Submodule => 0o160000,
        }
    }
}

/// A tree with everything below it.
pub(super) struct Listing {
    /// Ids and bytes of the trees, the root first.
    pub trees: Vec<([u8; 20], Vec<u8>)>,
    /// The paths of the directories below the root, sorted.
    pub directories: Vec<Vec<u8>>,
    /// All other entries, by path.
    pub files: BTreeMap<Vec<u8>, (EntryKind, [u8; 20])>,
}

impl Listing {
    /// Returns the id of the tree itself.
    pub(super) fn root(&self) -> &[u8; 20] {
        &self.trees.first().expect("the tree itself is the first").0
    }

    /// Lists the blobs of files and links.
    pub(super) fn blobs(&self) -> impl Iterator<Item = [u8; 20]> {
        let files = self.files.values();
        files.filter(|(kind, _)| *kind != EntryKind::Submodule).map(|(_, id)| *id)
    }
}
