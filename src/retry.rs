//! Trying again what may go better the next time: one policy for registries, the hub and git.
//!
//! Each transfer is tried again at one level, the one that knows what its failures mean. `backon`
//! counts; the pauses double, with some chance in them, and are never shorter than the other side
//! asks for.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use reqwest::header::{HeaderMap, RETRY_AFTER};

/// How often something is tried, and how long the first pause is; the next ones double.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tries {
    pub attempts: usize,
    pub first: Duration,
}

/// Transfers: without them there is nothing.
pub(crate) const TRANSFER: Tries = Tries { attempts: 5, first: Duration::from_secs(1) };

/// Questions that somebody waits for, and whose answer can be done without.
pub(crate) const QUESTION: Tries = Tries { attempts: 4, first: Duration::from_millis(400) };

/// The longest pause that the other side may ask for; who asks for more is not asked again.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Numbers of seconds above it are times since 1970: Docker Hub sends such.
const EPOCH_SECONDS: u64 = 1_000_000_000;

/// A failure that knows whether it may be gone at the next try.
pub(crate) trait Passing {
    /// Tells whether the next try may go better.
    fn may_pass(&self) -> bool;

    /// How long the other side asks to wait.
    fn asked_pause(&self) -> Option<Duration> {
        None
    }
}

impl Tries {
    /// Returns how pauses grow.
    pub(crate) fn pauses(self) -> ExponentialBuilder {
        ExponentialBuilder::new()
            .with_min_delay(self.first)
            .with_factor(2.0)
            .with_max_times(self.attempts.saturating_sub(1))
            .with_jitter()
    }
}

/// Tries again while failures may pass; `told` hears of each failure and the pause after it.
pub(crate) async fn retried<T, E, F>(
    tries: Tries,
    told: impl FnMut(&E, Duration),
    transfer: impl FnMut() -> F,
) -> Result<T, E>
where
    E: Passing,
    F: Future<Output = Result<T, E>>,
{
    transfer
        .retry(tries.pauses())
        .sleep(tokio::time::sleep)
        .when(E::may_pass)
        .adjust(|error, next| match (error.asked_pause(), next) {
            (Some(asked), Some(_)) if asked > LONGEST_PAUSE => None,
            // Who was told the same as others does not come back at the same moment.
            (Some(asked), Some(next)) => {
                Some(next.max(asked.mul_f64(rand::random_range(1.0..1.1))))
            }
            (None, next) => next,
            (Some(_), None) => None,
        })
        .notify(told)
        .await
}

/// Returns how long a server asks to wait: `Retry-After` in seconds, as a date, or as a time since
/// 1970.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let now = jiff::Timestamp::now();
    let until = match text.parse::<f64>() {
        Ok(seconds) if seconds < EPOCH_SECONDS as f64 => {
            return Duration::try_from_secs_f64(seconds).ok();
        }
        Ok(time) => jiff::Timestamp::from_second(time as i64).ok()?,
        Err(_) => jiff::fmt::rfc2822::parse(text).ok()?.timestamp(),
    };
    Some(Duration::try_from(until.duration_since(now)).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Busy(Option<Duration>);

    impl Passing for Busy {
        fn may_pass(&self) -> bool {
            true
        }

        fn asked_pause(&self) -> Option<Duration> {
            self.0
        }
    }

    async fn pauses_of(asked: Option<Duration>, attempts: usize) -> Vec<Duration> {
        let mut pauses = Vec::new();
        let told = |_: &Busy, pause| pauses.push(pause);
        let tries = Tries { attempts, first: Duration::from_millis(100) };
        let ended: Result<(), Busy> = retried(tries, told, || async { Err(Busy(asked)) }).await;
        assert!(ended.is_err());
        pauses
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_double_and_are_never_shorter_than_what_is_asked_for() {
        let grown = pauses_of(None, 5).await;
        assert_eq!(grown.len(), 4);
        for (pause, least) in grown.iter().zip([100, 200, 400, 800]) {
            let least = Duration::from_millis(least);
            assert!(*pause >= least && *pause <= least * 2, "{grown:?}");
        }
        let asked = Duration::from_secs(7);
        let heeded = pauses_of(Some(asked), 4).await;
        assert_eq!(heeded.len(), 3);
        assert!(heeded.iter().all(|pause| *pause >= asked && *pause < asked * 2), "{heeded:?}");
        assert!(pauses_of(Some(Duration::from_secs(3600)), 4).await.is_empty());
    }

    #[test]
    fn a_server_asks_for_seconds_a_date_or_a_time() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(of("7"), Some(Duration::from_secs(7)));
        assert_eq!(of(" 0 "), Some(Duration::ZERO));
        assert_eq!(of("soon"), None);
        assert_eq!(of("-1"), None);
        assert_eq!(of("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        let near = |wait: Option<Duration>| {
            let wait = wait.unwrap();
            assert!(wait > Duration::from_secs(25) && wait <= Duration::from_secs(31), "{wait:?}");
        };
        let then = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(30);
        near(of(&then.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()));
        near(of(&then.as_second().to_string()));
    }
}
