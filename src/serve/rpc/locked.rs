//! Locks that are held for a moment.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes a lock. Who panics with one leaves nothing half done.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
