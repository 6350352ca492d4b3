//! A number that takes a while to find out.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a number is taken for the right one.
const FRESH: Duration = Duration::from_secs(1);

/// The number that was found last.
#[derive(Default)]
pub(super) struct Count(Mutex<Option<(usize, Instant)>>);

impl Count {
    /// Returns the number, unless it was found too long ago.
    pub(super) fn fresh(&self) -> Option<usize> {
        let known = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.filter(|(_, found)| found.elapsed() < FRESH).map(|(number, _)| number)
    }

    /// Notes the number.
    pub(super) fn set(&self, number: usize) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((number, Instant::now()));
    }
}
