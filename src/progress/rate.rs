//! How fast bytes move, over the last seconds. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use indicatif::HumanBytes;

/// What the rate is measured over.
const WINDOW: Duration = Duration::from_secs(5);

/// A count of bytes that grows, looked at now and then.
#[derive(Debug, Clone)]
pub(super) struct Rate {
    begin: u64,
    looks: VecDeque<(Instant, u64)>,
}

impl Rate {
    /// Begins where the count is.
    pub(super) fn new(count: u64) -> Rate {
        Rate { begin: count, looks: VecDeque::new() }
    }

    /// Takes a look at the count; returns the bytes since the beginning, and those of a second.
    pub(super) fn look(&mut self, now: Instant, count: u64) -> (u64, u64) {
        self.looks.push_back((now, count));
        while self.looks.len() > 2 && now.saturating_duration_since(self.looks[1].0) >= WINDOW {
            self.looks.pop_front();
        }
        let (then, before) = self.looks[0];
        let seconds = now.saturating_duration_since(then).as_secs_f64();
        let rate = if seconds > 0.0 { (count - before) as f64 / seconds } else { 0.0 };
        (count - self.begin, rate as u64)
    }

    /// Returns `45 MiB, 4.1 MiB/s`; empty where nothing moved.
    pub(super) fn text((bytes, rate): (u64, u64)) -> String {
        match (bytes, rate) {
            (0, _) => String::new(),
            (bytes, 0) => HumanBytes(bytes).to_string(),
            (bytes, rate) => format!("{}, {}/s", HumanBytes(bytes), HumanBytes(rate)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut rate = Rate::new(100);
        assert_eq!(rate.look(at(0), 100), (0, 0));
        assert_eq!(rate.look(at(2), 300), (200, 100));
        for second in 3..=20 {
            rate.look(at(second), 300);
        }
        assert_eq!(rate.look(at(21), 300), (200, 0));
        assert_eq!(Rate::text((0, 5)), "");
        assert_eq!(Rate::text((2 << 20, 1 << 20)), "2.00 MiB, 1.00 MiB/s");
    }
}
