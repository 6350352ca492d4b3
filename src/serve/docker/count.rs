//! A number that takes a while to find out.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a number is taken for the right one.
const FRESH: Duration = Duration::from_secs(60);

/// The number that was found last.
#[derive(Default)]
pub(super) struct Count(Mutex<Known>);

#[derive(Default)]
struct Known {
    number: usize,
    asked: Option<Instant>,
}

impl Count {
    fn with<T>(&self, work: impl FnOnce(&mut Known) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells whether it is to be found out anew; whoever is told so does it.
    pub(super) fn is_due(&self) -> bool {
        self.with(|known| {
            let is_due = known.asked.is_none_or(|asked| asked.elapsed() > FRESH);
            if is_due {
                known.asked = Some(Instant::now());
            }
            is_due
        })
    }

    /// Notes the number.
    pub(super) fn set(&self, number: usize) {
        self.with(|known| known.number = number);
    }

    /// Returns the last number; 0 before there was one.
    pub(super) fn last(&self) -> usize {
        self.with(|known| known.number)
    }
}
