//! Texts as Python reads and writes them: agents and their tools are used to these forms.

/// Tells whether Python takes a character for white space.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Takes white space off both ends, as `str.strip` does.
pub(super) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// Takes white space off the beginning, as `str.lstrip` does.
pub(super) fn strip_start(text: &str) -> &str {
    text.trim_start_matches(is_space)
}

/// Quotes a word for a shell, as `shlex.quote` does, letter by letter.
pub(super) fn quote(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\"'\"'")),
    }
}

/// Writes a text as `repr` does, but for characters beyond ASCII, which stay as they are.
pub(super) fn repr(text: &str) -> String {
    let mark = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut written = String::from(mark);
    for c in text.chars() {
        match c {
            '\\' => written.push_str("\\\\"),
            '\n' => written.push_str("\\n"),
            '\r' => written.push_str("\\r"),
            '\t' => written.push_str("\\t"),
            c if c == mark => written.extend(['\\', c]),
            c if c.is_ascii_control() => written.push_str(&format!("\\x{:02x}", c as u32)),
            c => written.push(c),
        }
    }
    written.push(mark);
    written
}

/// Writes a list of texts as `repr` does.
pub(super) fn repr_list<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let texts: Vec<String> = texts.into_iter().map(repr).collect();
    format!("[{}]", texts.join(", "))
}

/// Splits a text into lines, as `str.splitlines` does.
pub(super) fn lines(text: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_line_end) {
        lines.push(&rest[..at]);
        let end = rest[at..].chars().next().map_or(1, char::len_utf8);
        let end = if rest[at..].starts_with("\r\n") { 2 } else { end };
        rest = &rest[at + end..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

fn is_line_end(c: char) -> bool {
    matches!(c, '\n'..='\r' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_as_python_has_them() {
        assert_eq!(strip(" \u{1f}\u{a0}a b\n"), "a b");
        assert_eq!(quote("a/b-c=1"), "a/b-c=1");
        assert_eq!(quote("it's"), "'it'\"'\"'s'");
        assert_eq!((quote(""), quote("é")), ("''".to_owned(), "'é'".to_owned()));
        assert_eq!(repr("a'b\n"), "\"a'b\\n\"");
        assert_eq!(repr_list(["a", "b'\""]), "['a', 'b\\'\"']");
        assert_eq!(lines("a\r\nb\u{2028}c\n\nd\n"), ["a", "b", "c", "", "d"]);
        assert_eq!(lines(""), Vec::<&str>::new());
    }
}
