//! Whether a container whose main command has ended is started again, and when.

use std::sync::{Mutex, PoisonError};

use bollard_stubs::models::{RestartPolicy, RestartPolicyNameEnum as Name};
use tokio::time::{Duration, Instant};

/// The first wait; each one is twice as long as the one before.
const FIRST: Duration = Duration::from_millis(100);

/// The longest wait.
const LONGEST: Duration = Duration::from_secs(60);

/// A main command that ran so long begins with the first wait again.
const RAN: Duration = Duration::from_secs(10);

/// What is known of starts.
pub(super) struct Restarting(Mutex<Known>);

struct Known {
    /// Somebody stopped it.
    is_given_up: bool,
    times: u64,
    delay: Duration,
    began: Option<Instant>,
}

impl Restarting {
    /// Of a container that was never started.
    pub(super) fn new() -> Restarting {
        Restarting(Mutex::new(Known { is_given_up: false, times: 0, delay: FIRST, began: None }))
    }

    fn with<T>(&self, work: impl FnOnce(&mut Known) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Somebody starts it.
    pub(super) fn begin(&self) {
        self.with(|known| {
            let began = Some(Instant::now());
            *known = Known { is_given_up: false, times: 0, delay: FIRST, began };
        });
    }

    /// Somebody stops it: it is not started again.
    pub(super) fn give_up(&self) {
        self.with(|known| known.is_given_up = true);
    }

    /// It is started again.
    pub(super) fn count(&self) {
        self.with(|known| {
            known.times += 1;
            known.began = Some(Instant::now());
        });
    }

    /// Returns how often it was started again.
    pub(super) fn times(&self) -> u64 {
        self.with(|known| known.times)
    }

    /// Returns how long it is waited for now.
    pub(super) fn delay(&self) -> Duration {
        self.with(|known| {
            if known.began.is_some_and(|began| began.elapsed() >= RAN) {
                known.delay = FIRST;
            }
            let now = known.delay;
            known.delay = (now * 2).min(LONGEST);
            now
        })
    }

    /// Tells whether it is to be started again after it ended with a code.
    pub(super) fn is_due(&self, policy: &RestartPolicy, code: i32) -> bool {
        let most =
            policy.maximum_retry_count.and_then(|most| u64::try_from(most).ok()).unwrap_or(0);
        self.with(|known| {
            !known.is_given_up
                && match policy.name {
                    Some(Name::ALWAYS | Name::UNLESS_STOPPED) => true,
                    Some(Name::ON_FAILURE) => code != 0 && (most == 0 || known.times < most),
                    Some(Name::EMPTY | Name::NO) | None => false,
                }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_says_when_and_somebody_who_stops_it_has_the_last_word() {
        let policy = |name, most| RestartPolicy { name: Some(name), maximum_retry_count: most };
        let restarting = Restarting::new();
        restarting.begin();
        assert!(restarting.is_due(&policy(Name::ALWAYS, None), 0));
        assert!(!restarting.is_due(&policy(Name::NO, None), 1));
        assert!(!restarting.is_due(&policy(Name::ON_FAILURE, Some(1)), 0));
        assert!(restarting.is_due(&policy(Name::ON_FAILURE, Some(1)), 1));
        restarting.count();
        assert!(!restarting.is_due(&policy(Name::ON_FAILURE, Some(1)), 1));
        assert!(restarting.is_due(&policy(Name::ON_FAILURE, None), 1));
        assert_eq!((restarting.delay(), restarting.delay()), (FIRST, FIRST * 2));
        restarting.give_up();
        assert!(!restarting.is_due(&policy(Name::UNLESS_STOPPED, None), 1));
        restarting.begin();
        assert_eq!(restarting.times(), 0);
    }
}
