//! The known name that resembles a mistaken one: "did you mean".

/// How alike two names must be.
const ALIKE: f64 = 0.75;

/// Returns the candidate that resembles `name` most, when one does; of equals the first by name.
pub(crate) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(score, _)| *score > ALIKE)
        .max_by(|one, other| one.0.total_cmp(&other.0).then_with(|| other.1.cmp(one.1)))
        .map(|(_, candidate)| candidate.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_found_and_something_else_is_not() {
        let known = ["parse_log_pytest", "parse_log_cargo"];
        assert_eq!(nearest("parse_log_pytst", known).as_deref(), Some("parse_log_pytest"));
        assert_eq!(nearest("xyz", known), None);
    }
}
