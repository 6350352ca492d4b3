//! Words that people read: numbers with their nouns.

/// Writes a number with its noun: `1 image`, `2 images`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{ending}")
}

/// Returns the verb that goes with a number: `is` or `are`.
pub(crate) fn are(number: usize) -> &'static str {
    if number == 1 { "is" } else { "are" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular_and_all_else_plural() {
        assert_eq!(
            [0, 1, 2].map(|n: usize| count(n, "image")),
            ["0 images", "1 image", "2 images"]
        );
        assert_eq!([1, 2].map(are), ["is", "are"]);
    }
}
