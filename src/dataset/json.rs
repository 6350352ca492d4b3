//! JSON as people have it: in lines, in a list, keyed; with a byte order mark, in UTF-16; with the
//! `NaN` that Python writes.
//!
//! `serde_json` reads it, strictly, which is the fast way and nearly always right. What Python adds
//! is taken out of the text first where the strict reading fails: no crate reads both `NaN` and half
//! surrogate pairs. Knows nothing of rows and predictions.

use std::borrow::Cow;
use std::io::{self, BufRead as _, Read as _};
use std::path::Path;

use serde::de::{self, Deserialize, Deserializer};
use serde_json::value::RawValue;

/// The fields of an object, in their order; equal keys stay.
#[derive(Debug)]
pub(super) struct Fields<'a>(pub Vec<(Cow<'a, str>, &'a RawValue)>);

/// One object of a file.
pub(super) struct Item<'a> {
    /// Where it is.
    pub place: Place,
    /// Its fields; `None` where something else than an object is there.
    pub fields: Option<Fields<'a>>,
}

/// Where an item is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The line of the file, from 1.
    pub line: usize,
    /// The number in a list, from 1.
    pub number: Option<usize>,
    /// The key in an object of objects.
    pub key: Option<String>,
}

/// Why a file cannot be read.
#[derive(Debug)]
pub(super) enum JsonError {
    /// It cannot be read at all.
    Read(io::Error),
    /// It is not JSON.
    Malformed {
        /// The line.
        line: usize,
        /// What is wrong.
        what: String,
    },
}

impl From<io::Error> for JsonError {
    fn from(error: io::Error) -> Self {
        JsonError::Read(error)
    }
}

/// Reads the objects of a file, in their order. `lines` is what the file's name says: one object a
/// line. What the file says itself goes before: a list is read as a list.
pub(super) fn read<E: From<JsonError>>(
    path: &Path,
    lines: bool,
    mut take: impl FnMut(Item<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let file = std::fs::File::open(path).map_err(JsonError::from)?;
    let mut file = io::BufReader::with_capacity(1 << 20, file);
    let head = file.fill_buf().map_err(JsonError::from)?;
    let bom = if head.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    let first = head[bom..].iter().find(|byte| !byte.is_ascii_whitespace());
    if !lines || Encoding::of(head) != Encoding::Utf8 || first == Some(&b'[') {
        return read_whole(file, &mut take);
    }
    file.consume(bom);
    let mut line = Vec::new();
    let mut taken = false;
    for number in 1.. {
        line.clear();
        if file.read_until(b'\n', &mut line).map_err(JsonError::from)? == 0 {
            break;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let text = utf8(&line).map_err(|(_, what)| JsonError::Malformed { line: number, what })?;
        let place = Place { line: number, number: None, key: None };
        match fields_of(text) {
            Ok(fields) => take(Item { place, fields: Some(fields) })?,
            Err(error) if error.is_data() => take(Item { place, fields: None })?,
            Err(error) => match relaxed(text) {
                Some(relaxed) => match fields_of(&relaxed) {
                    Ok(fields) => take(Item { place, fields: Some(fields) })?,
                    Err(error) => return Err(JsonError::of(&error, number).into()),
                },
                // An object over several lines: the file is not one of lines.
                None if error.is_eof() && !taken && line.ends_with(b"\n") => {
                    let mut rest = line;
                    rest.splice(..0, std::iter::repeat_n(b'\n', number - 1));
                    return read_whole(io::Cursor::new(rest).chain(file), &mut take);
                }
                None => return Err(JsonError::of(&error, number).into()),
            },
        }
        taken = true;
    }
    Ok(())
}

/// Reads a file that is not one of lines: a list, an object of objects, objects after each other.
fn read_whole<E: From<JsonError>>(
    mut file: impl io::Read,
    take: &mut impl FnMut(Item<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(JsonError::from)?;
    let text = decode(&bytes)?;
    let text = match values(&text) {
        Ok(values) => return take_values(&text, &values, take),
        Err(error) => match relaxed(&text) {
            Some(relaxed) => relaxed,
            None => return Err(error.into()),
        },
    };
    let values = values(&text)?;
    take_values(&text, &values, take)
}

fn values(text: &str) -> Result<Vec<&RawValue>, JsonError> {
    let values = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    values.collect::<Result<_, _>>().map_err(|error| JsonError::of(&error, 1))
}

fn take_values<E: From<JsonError>>(
    text: &str,
    values: &[&RawValue],
    take: &mut impl FnMut(Item<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut lines = Lines { text, at: 0, line: 1 };
    match values {
        [list] if list.get().starts_with('[') => {
            let items: Vec<&RawValue> = parse(list.get())?;
            for (index, raw) in items.into_iter().enumerate() {
                let line = lines.of(raw.get());
                let place = Place { line, number: Some(index + 1), key: None };
                take(Item { place, fields: object(raw.get())? })?;
            }
        }
        [one] if one.get().starts_with('{') => {
            let fields: Fields<'_> = parse(one.get())?;
            let is_object = |raw: &RawValue| raw.get().starts_with('{');
            let own = fields.0.iter().find(|(key, _)| key == "instance_id");
            if let Some((_, raw)) = own
                && is_object(raw)
            {
                let what = "its values are by column, not by row: write it with `to_json(path, \
                            orient=\"records\", lines=True)`";
                return Err(JsonError::Malformed { line: 1, what: what.to_owned() }.into());
            }
            if own.is_some() || !fields.0.iter().any(|(_, raw)| is_object(raw)) {
                let line = lines.of(one.get());
                if !fields.0.is_empty() {
                    let place = Place { line, number: None, key: None };
                    take(Item { place, fields: Some(fields) })?;
                }
                return Ok(());
            }
            for (key, raw) in fields.0 {
                let line = lines.of(raw.get());
                let place = Place { line, number: None, key: Some(key.into_owned()) };
                take(Item { place, fields: object(raw.get())? })?;
            }
        }
        values => {
            for raw in values {
                let place = Place { line: lines.of(raw.get()), number: None, key: None };
                take(Item { place, fields: object(raw.get())? })?;
            }
        }
    }
    Ok(())
}

fn object(raw: &str) -> Result<Option<Fields<'_>>, JsonError> {
    raw.starts_with('{').then(|| parse(raw)).transpose()
}

fn parse<'a, T: Deserialize<'a>>(raw: &'a str) -> Result<T, JsonError> {
    serde_json::from_str(raw).map_err(|error| JsonError::of(&error, 1))
}

fn fields_of(text: &str) -> serde_json::Result<Fields<'_>> {
    serde_json::from_str(text)
}

/// Counts the lines up to parts of a text, which come in their order.
struct Lines<'a> {
    text: &'a str,
    at: usize,
    line: usize,
}

impl Lines<'_> {
    fn of(&mut self, part: &str) -> usize {
        let at = part.as_ptr() as usize - self.text.as_ptr() as usize;
        let between = &self.text.as_bytes()[self.at..at];
        self.line += memchr::memchr_iter(b'\n', between).count();
        self.at = at;
        self.line
    }
}

impl JsonError {
    /// Takes what `serde_json` says of a text that begins at a line of the file.
    fn of(error: &serde_json::Error, first: usize) -> Self {
        let line = first + error.line().saturating_sub(1);
        let mut what = text_of(error);
        if error.is_eof() {
            what = "it ends in the middle of a value, so it is cut off".to_owned();
        } else if error.column() > 0 {
            what.push_str(&format!(" (column {})", error.column()));
        }
        JsonError::Malformed { line, what }
    }
}

/// Returns what `serde_json` says, without the place.
pub(super) fn text_of(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&place).unwrap_or(&text).to_owned()
}

/// Writes `null` for the numbers that Python writes and JSON does not have; `None` when there are
/// none outside of strings.
pub(super) fn relaxed(text: &str) -> Option<String> {
    let mut out = String::new();
    let mut copied = 0;
    let mut at = 0;
    let bytes = text.as_bytes();
    while let Some(next) = memchr::memchr3(b'"', b'N', b'I', &bytes[at..]) {
        at += next;
        let rest = &bytes[at..];
        if rest[0] == b'"' {
            at = end_of_string(bytes, at + 1);
            continue;
        }
        let word = ["NaN", "Infinity"].into_iter().find(|word| rest.starts_with(word.as_bytes()));
        let Some(word) = word else {
            at += 1;
            continue;
        };
        let minus = word == "Infinity" && at > 0 && bytes[at - 1] == b'-';
        out.push_str(&text[copied..at - usize::from(minus)]);
        out.push_str("null");
        at += word.len();
        copied = at;
    }
    if copied == 0 {
        return None;
    }
    out.push_str(&text[copied..]);
    Some(out)
}

/// Returns where a string ends whose text begins at `at`.
fn end_of_string(bytes: &[u8], mut at: usize) -> usize {
    while let Some(next) = memchr::memchr2(b'"', b'\\', bytes.get(at..).unwrap_or_default()) {
        at += next;
        if bytes[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    bytes.len()
}

/// How text is written as bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Utf8,
    Utf16 { big: bool },
    Utf32 { big: bool },
}

impl Encoding {
    /// Tells by the byte order mark, or by where the zeros of the first two characters are.
    fn of(bytes: &[u8]) -> Self {
        match bytes {
            [0, 0, 0xfe, 0xff, ..] | [0, 0, 0, _, ..] => Encoding::Utf32 { big: true },
            [0xff, 0xfe, 0, 0, ..] | [_, 0, 0, 0, ..] => Encoding::Utf32 { big: false },
            [0xfe, 0xff, ..] | [0, _, ..] => Encoding::Utf16 { big: true },
            [0xff, 0xfe, ..] | [_, 0, ..] => Encoding::Utf16 { big: false },
            _ => Encoding::Utf8,
        }
    }
}

/// Makes text of a file's bytes, without its byte order mark.
pub(super) fn decode(bytes: &[u8]) -> Result<Cow<'_, str>, JsonError> {
    let malformed = |line: usize, what: &str| JsonError::Malformed { line, what: what.to_owned() };
    let text = match Encoding::of(bytes) {
        Encoding::Utf8 => {
            let text = utf8(bytes).map_err(|(at, what)| JsonError::Malformed {
                line: 1 + memchr::memchr_iter(b'\n', &bytes[..at]).count(),
                what,
            })?;
            Cow::Borrowed(text)
        }
        Encoding::Utf16 { big } => {
            let (units, rest) = bytes.as_chunks::<2>();
            if !rest.is_empty() {
                return Err(malformed(1, "it is UTF-16 and ends within a character"));
            }
            let units = units.iter().map(|unit| match big {
                true => u16::from_be_bytes(*unit),
                false => u16::from_le_bytes(*unit),
            });
            let text: Result<String, _> = char::decode_utf16(units).collect();
            Cow::Owned(text.map_err(|_| malformed(1, "it is not whole UTF-16"))?)
        }
        Encoding::Utf32 { big } => {
            let (units, rest) = bytes.as_chunks::<4>();
            let text = units.iter().map(|unit| {
                char::from_u32(match big {
                    true => u32::from_be_bytes(*unit),
                    false => u32::from_le_bytes(*unit),
                })
            });
            let text: Option<String> = text.collect();
            let text = text.filter(|_| rest.is_empty());
            Cow::Owned(text.ok_or_else(|| malformed(1, "it is not whole UTF-32"))?)
        }
    };
    Ok(match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.strip_prefix('\u{feff}').unwrap_or(text)),
        Cow::Owned(text) => match text.strip_prefix('\u{feff}') {
            Some(rest) => Cow::Owned(rest.to_owned()),
            None => Cow::Owned(text),
        },
    })
}

/// Returns the text, or where it is not UTF-8 and what to say of it.
fn utf8(bytes: &[u8]) -> Result<&str, (usize, String)> {
    std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        let byte = bytes[at];
        (at, format!("it holds the byte 0x{byte:02x}, which is not UTF-8: write it as UTF-8"))
    })
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(Key(key)) = map.next_key()? {
                    fields.push((key, map.next_value()?));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// A key; half surrogate pairs in it are replaced, for no field is called so.
struct Key<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Key<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_bytes<E: de::Error>(self, bytes: &'de [u8]) -> Result<Key<'de>, E> {
                Ok(Key(String::from_utf8_lossy(bytes)))
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(String::from_utf8_lossy(bytes).into_owned())))
            }
        }
        deserializer.deserialize_bytes(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a file of that name; each item as `line:number:key:fields`.
    fn items(name: &str, bytes: &[u8]) -> Result<Vec<String>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let mut items = Vec::new();
        let read = read(&path, name.ends_with("jsonl"), |item| {
            let number = item.place.number.map_or(String::new(), |number| format!("#{number}"));
            let key = item.place.key.unwrap_or_default();
            let fields = match item.fields {
                None => "other".to_owned(),
                Some(fields) => {
                    let one = |(key, raw): &(Cow<'_, str>, &RawValue)| format!("{key}={raw}");
                    fields.0.iter().map(one).collect::<Vec<_>>().join(",")
                }
            };
            items.push(format!("{}{number}{key}:{fields}", item.place.line));
            Ok::<(), JsonError>(())
        });
        match read {
            Ok(()) => Ok(items),
            Err(JsonError::Malformed { line, what }) => Err(format!("{line}: {what}")),
            Err(JsonError::Read(error)) => Err(error.to_string()),
        }
    }

    #[test]
    fn every_form_is_read_whatever_the_file_is_called() {
        let utf16 = |text: &str, big: bool, bom: bool| -> Vec<u8> {
            let units = bom.then_some(0xfeff).into_iter().chain(text.encode_utf16());
            units.flat_map(|u| if big { u.to_be_bytes() } else { u.to_le_bytes() }).collect()
        };
        let utf32: Vec<u8> =
            "\u{feff}{\"a\": 1}".chars().flat_map(|c| (c as u32).to_le_bytes()).collect();
        let cases: Vec<(Vec<u8>, &[&str])> = vec![
            ("{\"a\": 1}\n\n{\"a\": 2}".into(), &["1:a=1", "3:a=2"]),
            ("\n[{\"a\": 1},\n {\"a\": 2}]\n".into(), &["2#1:a=1", "3#2:a=2"]),
            ("\u{feff}{\"a\": 1}\r\n{\"a\": 2}\r\n".into(), &["1:a=1", "2:a=2"]),
            ("\u{feff}[{\"a\": 1}]".into(), &["1#1:a=1"]),
            (utf16("{\"a\": \"é\"}", false, true), &["1:a=\"é\""]),
            (utf16("[{\"a\": 1}]", true, true), &["1#1:a=1"]),
            (utf16("{\"a\": 1}\n{\"a\": 2}", false, false), &["1:a=1", "2:a=2"]),
            (utf32, &["1:a=1"]),
            ("{\n \"x\": {\"a\": 1},\n \"x\": {}}".into(), &["2x:a=1", "3x:"]),
            ("\n{\n \"a\": 1}\n{\n\n\"a\": 2}".into(), &["2:a=1", "4:a=2"]),
            ("{\"instance_id\": \"x\", \"b\": {}}".into(), &["1:instance_id=\"x\",b={}"]),
            (
                "{\"a\": NaN, \"b\": [-Infinity, \"NaN\\\\\", Infinity]}".into(),
                &["1:a=null,b=[null, \"NaN\\\\\", null]"],
            ),
            (
                "{\"a\": \"\\udce9\", \"\\ud800\": 1e999}".into(),
                &["1:a=\"\\udce9\",\u{fffd}\u{fffd}\u{fffd}=1e999"],
            ),
            ("{\"a\": 1}{\"a\": 2}".into(), &["1:a=1", "1:a=2"]),
            ("[]".into(), &[]),
            ("{}".into(), &[]),
            ("".into(), &[]),
            ("\n \n".into(), &[]),
        ];
        for (text, expected) in &cases {
            for name in ["p.json", "p.jsonl"] {
                let shown = String::from_utf8_lossy(text);
                let read = items(name, text);
                if name == "p.jsonl" && [&b"{}"[..], b"{\"a\": 1}{\"a\": 2}"].contains(&&text[..]) {
                    continue;
                }
                let keyed = text.starts_with(b"{\n \"x\"");
                assert!(keyed || read.is_ok(), "{name}: {shown}: {read:?}");
                assert_eq!(read.unwrap(), *expected, "{name}: {shown}");
            }
        }
    }

    #[test]
    fn what_is_not_json_is_named_by_the_line_of_the_file() {
        let cases = [
            ("{\"a\": 1}\n{\"a\": tru}\n", "2: expected ident (column"),
            ("{\"a\": 1}\n{\"a\": \"b", "2: it ends in the middle of a value, so it is cut off"),
            ("{\"a\": 1}\n{\"a\": 1}\n{\"a\":", "3: it ends in the middle"),
            ("[{\"a\": 1},\n {\"a\"", "2: it ends in the middle of a value, so it is cut off"),
            ("{\"instance_id\": {\"0\": \"x\"}, \"b\": {\"0\": 1}}", "its values are by column"),
        ];
        for (text, expected) in cases {
            for name in ["p.json", "p.jsonl"] {
                if name == "p.jsonl" && expected.starts_with("its") {
                    continue;
                }
                let error = items(name, text.as_bytes()).unwrap_err();
                assert!(error.contains(expected), "{name}: {text}: {error}");
            }
        }
        let latin1 = b"{\"a\": 1}\n{\"a\": \"caf\xe9\"}\n";
        for name in ["p.json", "p.jsonl"] {
            let error = items(name, latin1).unwrap_err();
            assert!(error.starts_with("2: it holds the byte 0xe9"), "{error}");
        }
        assert!(items("p.json", b"\xff\xfe{\0a").unwrap_err().contains("UTF-16"));
    }
}
