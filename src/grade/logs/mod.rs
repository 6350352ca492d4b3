//! Parsers of test logs, one table for each language. Names are those of the harness, verbatim.
//!
//! A new format is one function and one row. Most formats are read line by line; a few need the
//! text as a whole, of which [`MAX_TEXT`] bytes are kept.

mod c;
mod go;
mod java;
mod javascript;
mod php;
mod python;
mod ruby;
mod rust;

use std::sync::LazyLock;

use super::closing::{Finding, Watcher};
use super::context::Context;
use super::read_error::ReadError;
use super::text::{regex, without_colours};
use super::{StatusMap, TestStatus};

/// How much of a log a format that needs it whole is read from.
pub const MAX_TEXT: usize = 64 << 20;

/// A parser.
#[derive(Debug)]
pub struct Parser {
    /// The name in datasets.
    pub name: &'static str,
    /// The first name of the format.
    format: &'static str,
    form: Form,
}

/// How a format is read.
#[derive(Debug, Clone, Copy)]
enum Form {
    /// Each line by itself.
    Line(fn(&str, &mut StatusMap)),
    /// Line by line, with what the lines before said.
    Lines(fn() -> Box<dyn LineParser>),
    /// The text as a whole.
    Text(fn(&str, &Context<'_>, &mut StatusMap) -> Result<(), ReadError>),
    /// Another parser of the table, chosen by the instance.
    Chosen(fn(&Context<'_>) -> Option<&'static str>),
}

/// A parser that remembers what earlier lines said.
trait LineParser {
    /// Takes a line without its end.
    fn line(&mut self, line: &str, map: &mut StatusMap);
    /// Takes the end of the log.
    fn finish(&mut self, _map: &mut StatusMap) {}
}

/// A row of a table: the names, the first of which is the format's own, and the form.
type Row = (&'static [&'static str], Form);

/// The tables of all languages.
const TABLES: [&[Row]; 8] = [
    python::ROWS,
    javascript::ROWS,
    c::ROWS,
    go::ROWS,
    java::ROWS,
    php::ROWS,
    ruby::ROWS,
    rust::ROWS,
];

static PARSERS: LazyLock<Vec<Parser>> = LazyLock::new(|| {
    let rows = TABLES.iter().flat_map(|rows| rows.iter());
    rows.flat_map(|(names, form)| {
        names.iter().map(|name| Parser { name, format: names[0], form: *form })
    })
    .collect()
});

/// Returns the parser of a name.
pub fn parser(name: &str) -> Option<&'static Parser> {
    PARSERS.iter().find(|parser| parser.name == name)
}

/// Lists all parsers: each with its name and the name of the first that reads the same format.
pub fn parsers() -> impl Iterator<Item = (&'static str, &'static str)> {
    TABLES
        .into_iter()
        .flat_map(|rows| rows.iter())
        .flat_map(|(names, _)| names.iter().map(|name| (*name, names[0])))
}

impl Parser {
    /// Starts reading a log.
    pub(super) fn reader(&self, context: &Context<'_>) -> Result<Reader, ReadError> {
        let state = match self.form {
            Form::Line(parse) => State::Line(parse),
            Form::Lines(start) => State::Lines(start()),
            Form::Text(parse) => State::Text(parse, String::new()),
            Form::Chosen(choose) => {
                let unknown = || ReadError::UnknownInstance {
                    parser: self.name,
                    instance_id: context.instance_id.to_owned(),
                };
                let chosen = choose(context).and_then(parser).ok_or_else(unknown)?;
                return chosen.reader(context);
            }
        };
        let (instance_id, version) = (context.instance_id.to_owned(), context.version.to_owned());
        // Where tests run the runner themselves, the outermost run's summary decides instead.
        let map = match context.strict && !context.nested() {
            true => StatusMap::strict(),
            false => StatusMap::default(),
        };
        let parse = match self.form {
            Form::Line(parse) => Some(parse),
            _ => None,
        };
        let watcher = Watcher::new(self.format, parse, context);
        Ok(Reader { state, map, instance_id, version, strict: context.strict, watcher })
    }
}

enum State {
    Line(fn(&str, &mut StatusMap)),
    Lines(Box<dyn LineParser>),
    Text(fn(&str, &Context<'_>, &mut StatusMap) -> Result<(), ReadError>, String),
}

/// Takes a log line by line.
pub(super) struct Reader {
    state: State,
    map: StatusMap,
    instance_id: String,
    version: String,
    strict: bool,
    watcher: Option<Watcher>,
}

impl Reader {
    /// Takes a line without its end.
    pub(super) fn line(&mut self, line: &str) {
        if let Some(watcher) = &mut self.watcher {
            watcher.line(line);
        }
        match &mut self.state {
            State::Line(parse) => parse(line, &mut self.map),
            State::Lines(parser) => parser.line(line, &mut self.map),
            State::Text(_, text) => {
                if text.len() + line.len() < MAX_TEXT {
                    text.push_str(line);
                    text.push('\n');
                }
            }
        }
    }

    /// Returns what the log says, and how the runner's own closing goes with it.
    pub(super) fn finish(self) -> Result<(StatusMap, Finding), ReadError> {
        let Reader { state, mut map, instance_id, version, strict, watcher } = self;
        match state {
            State::Line(_) => {}
            State::Lines(mut parser) => parser.finish(&mut map),
            State::Text(parse, mut text) => {
                // The last line has no end.
                text.pop();
                let context =
                    Context { instance_id: &instance_id, version: &version, strict, runs: None };
                parse(&text, &context, &mut map)?;
            }
        }
        let finding = watcher.map(|watcher| watcher.finish(&map)).unwrap_or_default();
        Ok((map, finding))
    }
}

/// Tells what Python takes for white space.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// `str.strip()` of Python.
fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `str.lstrip()` of Python.
fn strip_start(text: &str) -> &str {
    text.trim_start_matches(is_space)
}

/// `str.split()` of Python.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

/// Sets a status by a table of words.
fn set_by(map: &mut StatusMap, test: &str, word: &str, table: &[(&str, TestStatus)]) {
    if let Some((_, status)) = table.iter().find(|(known, _)| *known == word) {
        map.set(test, status.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_name_of_the_harness_has_a_parser_and_no_name_has_two() {
        let names: Vec<&str> = parsers().map(|(name, _)| name).collect();
        assert_eq!(names.len(), 57);
        let mut unique = names.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), names.len());
    }

    proptest! {
        #[test]
        fn no_parser_panics_whatever_it_reads(
            lines in prop::collection::vec(
                prop_oneof![
                    ".{0,30}",
                    "[ \t]{0,6}(✓|✔|✖|✕|ok|not ok|PASS|FAIL|PASSED|ERROR:?|FAILED|SKIPPED|1\\)) ?.{0,20}",
                    "(test_a ... ok|FAIL:|ERROR:|FAIL: |<doctest|</doctest>|Starting browser|  a| x|SUMMARY:|\\{|\\}|<a>|</a>)",
                    "(./node_modules/.bin/mocha tests/run.js --reporter json| ./node_modules/.bin/jest | xvfb-run |running 1 test files)",
                ],
                0..20,
            ),
        ) {
            for (name, _) in parsers() {
                for instance_id in ["jekyll__jekyll-8761", "a-2005", "x"] {
                    for version in ["1.27", "9.5", "2.0", "x"] {
                        let context =
                            Context { instance_id, version, strict: false, runs: None };
                        let Ok(mut reader) = parser(name).unwrap().reader(&context) else { continue };
                        for line in &lines {
                            reader.line(line);
                        }
                        let _ = reader.finish();
                    }
                }
            }
        }
    }
}
