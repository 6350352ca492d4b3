//! What this process owns and uses.
//!
//! What a piece of work drops half-way stays in the engine, and has the name of this process on it, as all has
//! that others of its work use. What was dropped is told from that only when nothing is in use.

use std::sync::{Arc, LazyLock};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// Whoever uses something reads.
static USES: LazyLock<Arc<RwLock<()>>> = LazyLock::new(Arc::default);

/// Something that is in use: a session, or what a run makes.
#[derive(Debug)]
pub(crate) struct InUse(#[expect(dead_code, reason = "it is held")] OwnedRwLockReadGuard<()>);

/// Nothing is in use, and nothing will be as long as this lives.
#[derive(Debug)]
pub(crate) struct NothingInUse(
    #[expect(dead_code, reason = "it is held")] OwnedRwLockWriteGuard<()>,
);

/// Begins to use something. It waits while what was dropped is removed.
pub(crate) async fn begin() -> InUse {
    InUse(USES.clone().read_owned().await)
}

/// Tells whether nothing is in use.
pub(crate) fn nothing() -> Option<NothingInUse> {
    USES.clone().try_write_owned().ok().map(NothingInUse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_in_use_is_not_taken_for_dropped() {
        // Other tests of this process may use something as well.
        let used = begin().await;
        let more = begin().await;
        assert!(nothing().is_none());
        drop(used);
        assert!(nothing().is_none());
        drop(more);
    }
}
