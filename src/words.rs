//! Words that people read: numbers with their nouns.

/// Writes a number with its noun: `1 image`, `2 images`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{ending}")
}

/// The most characters of a foreign text that are shown.
const SHOWN: usize = 80;

/// Writes a text of others so that it can stand in a line: without control characters, and cut.
pub(crate) fn shown(text: &str) -> String {
    let plain = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    let mut shown: String = text.chars().take(SHOWN).map(plain).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

/// Returns the verb that goes with a number: `is` or `are`.
pub(crate) fn are(number: usize) -> &'static str {
    if number == 1 { "is" } else { "are" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_stays_in_its_line() {
        assert_eq!(shown("a\u{1b}[31mb\nc"), "a\\u{1b}[31mb\\nc");
        assert_eq!(shown("ä-1"), "ä-1");
        assert_eq!(shown(&"x".repeat(5000)), "x".repeat(80) + "…");
    }

    #[test]
    fn one_is_singular_and_all_else_plural() {
        assert_eq!(
            [0, 1, 2].map(|n: usize| count(n, "image")),
            ["0 images", "1 image", "2 images"]
        );
        assert_eq!([1, 2].map(are), ["is", "are"]);
    }
}
