//! Text of logs: patterns as Python reads them, and colours.

use regex::{Regex, RegexBuilder};

/// Compiles a pattern in which `\s` is what Python takes for white space.
pub(super) fn pattern(text: &str) -> Regex {
    let text = text.replace(r"\s", r"[\s\x1c-\x1f]");
    RegexBuilder::new(&text).size_limit(64 << 20).build().expect("the patterns are constant")
}

macro_rules! regex {
    ($text:expr) => {{
        static PATTERN: std::sync::LazyLock<regex::Regex> =
            std::sync::LazyLock::new(|| $crate::grade::text::pattern($text));
        &*PATTERN
    }};
}
pub(super) use regex;

/// Removes what colours text on a terminal.
pub(super) fn without_colours(text: &str) -> std::borrow::Cow<'_, str> {
    regex!(r"\x1B(?:[@-Z\\-_]|\[[0-?]*[ -/]*[@-~])").replace_all(text, "")
}
