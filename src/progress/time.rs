//! Times as people read them. Pure.

/// Returns seconds as `0.4s`, `12s` or `3m05s`.
pub fn seconds(seconds: f64) -> String {
    if seconds < 9.95 {
        format!("{seconds:.1}s")
    } else if seconds < 59.5 {
        format!("{seconds:.0}s")
    } else {
        let whole = seconds.round() as u64;
        format!("{}m{:02}s", whole / 60, whole % 60)
    }
}

/// Returns seconds as a clock does: `0:07`, `12:30` or `1h05m`.
pub(super) fn clock(seconds: u64) -> String {
    match seconds / 60 {
        minutes @ 0..60 => format!("{minutes}:{:02}", seconds % 60),
        minutes => format!("{}h{:02}m", minutes / 60, minutes % 60),
    }
}

/// Returns seconds as exactly as a forecast knows them: `5s`, `40s`, `5m`, `1h20m`.
pub(super) fn about(seconds: f64) -> String {
    let whole = seconds.max(0.0).ceil() as u64;
    if whole <= 90 {
        format!("{}s", whole.next_multiple_of(5).max(5))
    } else if whole < 3570 {
        format!("{}m", (whole + 30) / 60)
    } else {
        let minutes = (whole + 150) / 300 * 5;
        format!("{}h{:02}m", minutes / 60, minutes % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forecast_is_told_no_more_exactly_than_it_is_known() {
        for (seconds, told) in [
            (0.0, "5s"),
            (42.0, "45s"),
            (90.0, "90s"),
            (91.0, "2m"),
            (301.0, "5m"),
            (3540.0, "59m"),
            (3590.0, "1h00m"),
            (4740.0, "1h20m"),
        ] {
            assert_eq!(about(seconds), told, "{seconds}");
        }
        assert_eq!([clock(7), clock(750), clock(3900)], ["0:07", "12:30", "1h05m"]);
    }
}
