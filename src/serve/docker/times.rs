//! Times as Docker's clients write them.

use jiff::{SignedDuration, Timestamp};

/// Reads seconds since 1970 with or without a fraction, a date, or how long it is ago, such as `10m`.
pub(super) fn read(text: &str) -> Option<Timestamp> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time);
    }
    if let Some(time) = seconds(text) {
        return Some(time);
    }
    let ago: SignedDuration = text.parse().ok()?;
    Timestamp::now().checked_sub(ago).ok()
}

fn seconds(text: &str) -> Option<Timestamp> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let nanos: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    Timestamp::new(seconds.parse().ok()?, nanos.parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_seconds_a_date_or_how_long_ago() {
        let right = Timestamp::new(1_700_000_000, 250_000_000).unwrap();
        assert_eq!(read("1700000000.25"), Some(right));
        assert_eq!(read("2023-11-14T22:13:20.25Z"), Some(right));
        let ago = Timestamp::now().as_second() - read("1h30m").unwrap().as_second();
        assert!((5399..=5401).contains(&ago), "{ago}");
        for text in ["", "soon", "1.x", "-"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
