//! One value of a row or a prediction, whatever kind of file it comes from.
//!
//! Strings are bytes: what Python's `surrogateescape` wrote as `\udc80` to `\udcff` is the byte
//! again that it stood for.

use std::borrow::Cow;

use serde::de::{self, Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::json;

/// How deep lists and objects may lie in each other.
pub(super) const DEEPEST: usize = 64;

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell {
    /// `null`, `None`, not a number: nothing is said.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, as it is written.
    Number(String),
    /// A string.
    Text(Vec<u8>),
    /// A string with half a surrogate pair, which stands for no text and no byte.
    Torn,
    /// A list.
    List(Vec<Cell>),
    /// An object; equal keys stay.
    Map(Vec<(String, Cell)>),
}

impl Cell {
    /// Makes a value of JSON that is known to be well-formed.
    pub(super) fn of_json(json: &str) -> Result<Cell, String> {
        Cell::at_depth(json, 0)
    }

    fn at_depth(json: &str, depth: usize) -> Result<Cell, String> {
        if depth > DEEPEST {
            return Err(format!("is nested more than {DEEPEST} times"));
        }
        let text = |error: serde_json::Error| json::text_of(&error);
        Ok(match json.as_bytes().first() {
            Some(b'"') => {
                let JsonString(bytes) = serde_json::from_str(json).map_err(text)?;
                bytes.map_or(Cell::Torn, Cell::Text)
            }
            Some(b'[') => {
                let items: Vec<&RawValue> = serde_json::from_str(json).map_err(text)?;
                let items = items.into_iter().map(|item| Cell::at_depth(item.get(), depth + 1));
                Cell::List(items.collect::<Result<_, _>>()?)
            }
            Some(b'{') => {
                let fields: json::Fields<'_> = serde_json::from_str(json).map_err(text)?;
                let fields = fields.0.into_iter().map(|(key, value)| {
                    Ok::<_, String>((key.into_owned(), Cell::at_depth(value.get(), depth + 1)?))
                });
                Cell::Map(fields.collect::<Result<_, _>>()?)
            }
            Some(b't') => Cell::Bool(true),
            Some(b'f') => Cell::Bool(false),
            Some(b'n') | None => Cell::Null,
            Some(_) => Cell::Number(json.to_owned()),
        })
    }

    /// What kind of value it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Cell::Null => "null",
            Cell::Bool(_) => "a boolean",
            Cell::Number(_) => "a number",
            Cell::Text(_) => "a string",
            Cell::Torn => "a string with half a surrogate pair",
            Cell::List(_) => "a list",
            Cell::Map(_) => "an object",
        }
    }
}

/// The text of a JSON string; `None` with half a surrogate pair in it.
struct JsonString(Option<Vec<u8>>);

impl<'de> Deserialize<'de> for JsonString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = JsonString;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<JsonString, E> {
                Ok(JsonString(unescape(bytes).map(Cow::into_owned)))
            }
        }
        // As bytes, serde_json gives half a pair as the three bytes that UTF-8 would have for it.
        deserializer.deserialize_bytes(Visitor)
    }
}

/// Makes bytes of those half surrogate pairs that stand for a byte; `None` when others are there.
pub(super) fn unescape(text: &[u8]) -> Option<Cow<'_, [u8]>> {
    if std::str::from_utf8(text).is_ok() {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = memchr::memchr(0xed, rest) {
        bytes.extend_from_slice(&rest[..at]);
        match rest.get(at..at + 3) {
            Some(&[_, second, third]) if second >= 0xa0 => {
                let unit = 0xd000 | (u32::from(second & 0x3f) << 6) | u32::from(third & 0x3f);
                bytes.push(escaped_byte(unit)?);
                rest = &rest[at + 3..];
            }
            _ => {
                bytes.push(0xed);
                rest = &rest[at + 1..];
            }
        }
    }
    bytes.extend_from_slice(rest);
    Some(Cow::Owned(bytes))
}

/// Returns the byte that half a surrogate pair stands for, as `surrogateescape` has it.
pub(super) fn escaped_byte(unit: u32) -> Option<u8> {
    (0xdc80..=0xdcff).contains(&unit).then_some((unit & 0xff) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_bytes_are_bytes_again_and_other_halves_are_named() {
        let text = |json: &str| Cell::of_json(json).unwrap();
        assert_eq!(text(r#""caf\udce9 \udcff""#), Cell::Text(b"caf\xe9 \xff".to_vec()));
        assert_eq!(text(r#""\udcc3\udca9""#), Cell::Text("é".into()), "as Python encodes it");
        assert_eq!(text(r#""\ud83d\ude00 \ud7ff""#), Cell::Text("😀 \u{d7ff}".into()));
        for half in [r#""a\ud83d""#, r#""\udc41""#, r#""\ude00\ud83d""#] {
            assert_eq!(text(half), Cell::Torn, "{half}");
        }
    }

    #[test]
    fn numbers_stay_as_they_are_written_and_equal_keys_stay() {
        let Cell::Map(fields) = Cell::of_json(r#"{"a": 3.10, "a": [null, true]}"#).unwrap() else {
            panic!("an object is a map")
        };
        assert_eq!(fields[0].1, Cell::Number("3.10".into()));
        assert_eq!(fields[1].1, Cell::List(vec![Cell::Null, Cell::Bool(true)]));
        let deep = "[".repeat(5_000) + &"]".repeat(5_000);
        assert!(super::super::cell_text::read(&deep).is_err());
    }
}
