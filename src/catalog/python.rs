//! Python versions, to the patch level: which one suits what was asked for.

/// Returns the minor version: `3.9` of `3.9.20`.
pub(crate) fn minor(python: &str) -> &str {
    match python.match_indices('.').nth(1) {
        Some((at, _)) => &python[..at],
        None => python,
    }
}

/// Tells whether the Python that is used is the one that was asked for: `3.9.20` is a `3.9`, and
/// `3.9.2` is no `3.9.20`.
pub(crate) fn suits(asked: &str, used: &str) -> bool {
    asked == used || (asked == minor(asked) && asked == minor(used))
}

/// Tells whether a version is below another minor one, as in `(3, 6)`.
pub(super) fn is_below(python: &str, bound: (u32, u32)) -> bool {
    let mut parts = python.split('.').map(str::parse::<u32>);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < bound,
        (Some(Ok(major)), None) => major < bound.0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minor_version_is_suited_by_every_patch_of_it_and_a_patch_by_itself_alone() {
        for (asked, used) in [("3.9", "3.9.20"), ("3.9.20", "3.9.20"), ("3.9", "3.9")] {
            assert!(suits(asked, used), "{asked} {used}");
        }
        for (asked, used) in
            [("3.9.20", "3.9.2"), ("3.9.20", "3.9"), ("3.6", "3.9"), ("3.1", "3.11.10")]
        {
            assert!(!suits(asked, used), "{asked} {used}");
        }
        assert!(is_below("2.7", (3, 6)) && is_below("3.5.6", (3, 6)) && is_below("2", (3, 6)));
        assert!(!is_below("3.6", (3, 6)) && !is_below("3.10", (3, 6)) && !is_below("", (3, 6)));
    }
}
