//! Whether this process may use the network: one answer for the whole of it.

use std::sync::atomic::{AtomicBool, Ordering};

static OFFLINE: AtomicBool = AtomicBool::new(false);

/// What is said of things that are not fetched.
pub(crate) const WHY: &str = "nothing is fetched with --offline";

/// Keeps the process from the network, from now on.
pub(crate) fn stay() {
    OFFLINE.store(true, Ordering::Relaxed);
}

/// Tells whether the process keeps from the network.
pub(crate) fn is_on() -> bool {
    OFFLINE.load(Ordering::Relaxed)
}
