//! Python literals: what `repr`, `str` and `pprint` write of lists and dictionaries. They are
//! parsed, never evaluated.
//!
//! Two strings after each other are one string in Python. Here that holds within parentheses, and
//! where `pprint` breaks a long string after a blank; elsewhere it is refused, for it is how the text
//! of a numpy array looks, where they are two.

use super::cell::{Cell, DEEPEST, escaped_byte};

/// Parses a literal.
pub(super) fn parse(text: &str) -> Result<Cell, String> {
    let mut parser = Parser { text, at: 0 };
    parser.blank();
    let value = parser.value(0, false)?;
    parser.blank();
    match parser.rest().chars().next() {
        None => Ok(value),
        Some(found) => Err(parser.wrong(&format!("`{found}` after the value"))),
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

/// A string that is being put together.
#[derive(Default)]
struct Text {
    bytes: Vec<u8>,
    torn: bool,
}

impl Text {
    fn push(&mut self, code: u32) {
        match (char::from_u32(code), escaped_byte(code)) {
            (Some(c), _) => self.bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            (None, Some(byte)) => self.bytes.push(byte),
            (None, None) => self.torn = true,
        }
    }
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn wrong(&self, what: &str) -> String {
        format!("is neither JSON nor a Python literal: {what} at character {}", {
            self.text[..self.at].chars().count() + 1
        })
    }

    fn blank(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn value(&mut self, depth: usize, grouped: bool) -> Result<Cell, String> {
        if depth > DEEPEST {
            return Err(format!("is nested more than {DEEPEST} times"));
        }
        match self.peek() {
            None => Err(self.wrong("it ends")),
            Some(b'[') => Ok(Cell::List(self.items(b']', depth)?.0)),
            Some(b'(') => {
                let (mut items, comma) = self.items(b')', depth)?;
                Ok(match (items.len(), comma) {
                    (1, false) => items.remove(0),
                    _ => Cell::List(items),
                })
            }
            Some(b'{') => self.braces(depth),
            Some(b'\'' | b'"') => self.strings(grouped),
            Some(b'0'..=b'9' | b'+' | b'-' | b'.') => Ok(Cell::Number(self.word().to_owned())),
            Some(_) => {
                let start = self.at;
                let word = self.word();
                if matches!(self.peek(), Some(b'\'' | b'"')) {
                    self.at = start;
                    return self.strings(grouped);
                }
                match word {
                    "None" | "null" | "nan" | "NaN" | "inf" => Ok(Cell::Null),
                    "True" | "true" => Ok(Cell::Bool(true)),
                    "False" | "false" => Ok(Cell::Bool(false)),
                    word => {
                        self.at = start;
                        let shown: String = word.chars().take(40).collect();
                        Err(self.wrong(&format!("`{shown}` is no value")))
                    }
                }
            }
        }
    }

    fn word(&mut self) -> &'a str {
        let rest = self.rest();
        let part = |c: char| c.is_alphanumeric() || "_+-.".contains(c);
        let end = rest.find(|c| !part(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    /// Reads the items of a list or a tuple, and whether there is a comma.
    fn items(&mut self, close: u8, depth: usize) -> Result<(Vec<Cell>, bool), String> {
        self.at += 1;
        let mut items = Vec::new();
        let mut comma = false;
        loop {
            self.blank();
            if self.peek() == Some(close) {
                self.at += 1;
                return Ok((items, comma));
            }
            items.push(self.value(depth + 1, close == b')')?);
            self.blank();
            match self.peek() {
                Some(b',') => {
                    comma = true;
                    self.at += 1;
                }
                Some(found) if found == close => {}
                None => return Err(self.wrong("it ends in a list")),
                Some(_) => return Err(self.wrong("a comma is missing")),
            }
        }
    }

    /// Reads a dictionary or a set.
    fn braces(&mut self, depth: usize) -> Result<Cell, String> {
        self.at += 1;
        let (mut map, mut set) = (Vec::new(), Vec::new());
        loop {
            self.blank();
            if self.peek() == Some(b'}') {
                self.at += 1;
                return Ok(if set.is_empty() { Cell::Map(map) } else { Cell::List(set) });
            }
            let key = self.value(depth + 1, false)?;
            self.blank();
            if self.peek() == Some(b':') {
                let Cell::Text(name) = key else {
                    return Err(self.wrong("a key that is not a string"));
                };
                self.at += 1;
                self.blank();
                let name = String::from_utf8_lossy(&name).into_owned();
                map.push((name, self.value(depth + 1, false)?));
                self.blank();
            } else {
                set.push(key);
            }
            if !(map.is_empty() || set.is_empty()) {
                return Err(self.wrong("a set with keys"));
            }
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {}
                None => return Err(self.wrong("it ends in a dictionary")),
                Some(_) => return Err(self.wrong("a comma is missing")),
            }
        }
    }

    /// Reads a string, and those that are one with it.
    fn strings(&mut self, grouped: bool) -> Result<Cell, String> {
        let mut text = Text::default();
        loop {
            self.string(&mut text)?;
            let end = self.at;
            self.blank();
            let next = self.rest().trim_start_matches(['r', 'R', 'u', 'U']);
            if !next.starts_with(['\'', '"']) {
                break;
            }
            let broken = self.text[end..self.at].contains('\n')
                && text.bytes.last().is_some_and(u8::is_ascii_whitespace);
            if !grouped && !broken {
                return Err(self.wrong("a comma is missing between two strings"));
            }
        }
        Ok(if text.torn { Cell::Torn } else { Cell::Text(text.bytes) })
    }

    fn string(&mut self, text: &mut Text) -> Result<(), String> {
        let mut raw = false;
        while let Some(letter) = self.peek().filter(u8::is_ascii_alphabetic) {
            match letter {
                b'r' | b'R' => raw = true,
                b'u' | b'U' => {}
                _ => return Err(self.wrong("a string of another kind than text")),
            }
            self.at += 1;
        }
        let quote = match self.peek() {
            Some(b'\'') => '\'',
            Some(b'"') => '"',
            _ => return Err(self.wrong("a string without a quote")),
        };
        let long = quote.to_string().repeat(3);
        let close = if self.rest().starts_with(&long) { long } else { quote.to_string() };
        self.at += close.len();
        loop {
            let rest = self.rest();
            if rest.starts_with(&close) {
                self.at += close.len();
                return Ok(());
            }
            let Some(c) = rest.chars().next() else {
                return Err(self.wrong("it ends in a string"));
            };
            match c {
                '\\' if raw => {
                    // The character after it belongs to the string, a quote too.
                    let both: String = rest.chars().take(2).collect();
                    text.bytes.extend_from_slice(both.as_bytes());
                    self.at += both.len();
                }
                '\\' => self.escape(text)?,
                '\n' if close.len() == 1 => return Err(self.wrong("a line ends in a string")),
                c => {
                    text.push(u32::from(c));
                    self.at += c.len_utf8();
                }
            }
        }
    }

    fn escape(&mut self, text: &mut Text) -> Result<(), String> {
        let rest = &self.rest()[1..];
        let Some(c) = rest.chars().next() else {
            return Err(self.wrong("it ends in a string"));
        };
        let hexadecimal = |count: usize| {
            let digits = rest.get(1..1 + count)?;
            let all = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            u32::from_str_radix(digits, 16).ok().filter(|code| all && *code <= 0x10_ffff)
        };
        let (code, length) = match c {
            '\n' => {
                self.at += 2;
                return Ok(());
            }
            '\\' | '\'' | '"' => (u32::from(c), 1),
            'a' => (0x07, 1),
            'b' => (0x08, 1),
            'f' => (0x0c, 1),
            'n' => (0x0a, 1),
            'r' => (0x0d, 1),
            't' => (0x09, 1),
            'v' => (0x0b, 1),
            '0'..='7' => {
                let digits = rest.bytes().take(3).take_while(|byte| (b'0'..=b'7').contains(byte));
                let digits = digits.count();
                (u32::from_str_radix(&rest[..digits], 8).unwrap_or_default(), digits)
            }
            'x' | 'u' | 'U' => {
                let count = match c {
                    'x' => 2,
                    'u' => 4,
                    _ => 8,
                };
                let code = hexadecimal(count).ok_or_else(|| self.wrong("a cut-off escape"))?;
                (code, 1 + count)
            }
            'N' => return Err(self.wrong("a character by its name")),
            // Python keeps the backslash of what is no escape.
            _ => {
                text.push(u32::from('\\'));
                self.at += 1;
                return Ok(());
            }
        };
        text.push(code);
        self.at += 1 + length;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(items: &[&str]) -> Cell {
        Cell::List(items.iter().map(|item| Cell::Text(item.as_bytes().to_vec())).collect())
    }

    #[test]
    fn lists_are_read_as_python_reads_them() {
        let cases: &[(&str, &[&str])] = &[
            ("[]", &[]),
            ("()", &[]),
            ("['a', \"b's\"]", &["a", "b's"]),
            ("['b\\'s', \"say \\\"x\\\"\",]", &["b's", "say \"x\""]),
            ("('a',)", &["a"]),
            (
                "['a\\n\\t\\\\', 'caf\\xe9', '\\u20ac', '\\U0001f600', '\\101', '\\0']",
                &["a\n\t\\", "café", "€", "😀", "A", "\0"],
            ),
            ("['\\d\\%', r'\\n\\'', u'x']", &["\\d\\%", "\\n\\'", "x"]),
            ("['''a\n'b' ''', \"\"\"c\"\"\", '', \"\"]", &["a\n'b' ", "c", "", ""]),
            ("[\n 'a b '\n 'c',\n ('d' 'e')]", &["a b c", "de"]),
            ("['é[x-1]', 'a, b', 'a]']", &["é[x-1]", "a, b", "a]"]),
            ("['a\\\nb']", &["ab"]),
            ("{'a'}", &["a"]),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), Ok(texts(expected)), "{text}");
        }
        assert_eq!(parse("['\\udce9']"), Ok(Cell::List(vec![Cell::Text(vec![0xe9])])));
        assert_eq!(parse("'\\ud83d'"), Ok(Cell::Torn));
        assert_eq!(parse("nan"), Ok(Cell::Null));
        let Ok(Cell::Map(map)) = parse("{'python': 3.10, 'pre': None, 'on': [True, ('a',)]}")
        else {
            panic!("a dictionary is a map")
        };
        assert_eq!(map[0], ("python".into(), Cell::Number("3.10".into())));
        assert_eq!(map[1].1, Cell::Null);
        assert_eq!(map[2].1, Cell::List(vec![Cell::Bool(true), texts(&["a"])]));
    }

    #[test]
    fn what_is_no_literal_is_refused_and_nothing_is_evaluated() {
        let cases = [
            ("['a' 'b']", "a comma is missing between two strings"),
            ("['tests/a.py::a'\n 'tests/b.py::b']", "a comma is missing between two strings"),
            ("array(['a'], dtype=object)", "`array` is no value"),
            ("__import__('os').system('true')", "is no value"),
            ("['a', ", "it ends"),
            ("['a", "it ends in a string"),
            ("['a\n']", "a line ends in a string"),
            ("[b'a']", "another kind than text"),
            ("[f'a']", "another kind than text"),
            ("['x', \u{a5c}\"]", "a string without a quote"),
            ("[_'a'_]", "a string without a quote"),
            ("['\\x4']", "a cut-off escape"),
            ("['\\N{DASH}']", "by its name"),
            ("['a'] + ['b']", "after the value"),
            ("['a'],", "after the value"),
            ("{1: 'a'}", "a key that is not a string"),
            ("tests/a.py::b", "is no value"),
        ];
        for (text, expected) in cases {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert!(parse(&"[".repeat(100_000)).is_err());
    }
}
