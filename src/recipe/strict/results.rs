//! The files of results that a test command writes, and how they are taken out of a container.
//!
//! A command names such a file by an option of its runner, or the runner has a place for them by
//! convention. When the tests have ended and no process of theirs is left, their user lists what was
//! written since they began; root passes it on behind their output, with its length at the end.

use tree_sitter::{Node, Parser};

use crate::grade::results::{Format, MOST, ResultsFile};

/// The container's file that lists them.
pub const SCRIPT: &str = "/imgforge-results.sh";
/// What they come to.
const TAKEN: &str = "/imgforge-results";

/// How many digits the length has at the end.
const DIGITS: usize = 20;

/// Options that name a file, each with what may stand before the name in the same word.
const OPTIONS: [(&str, Format); 11] = [
    ("--junitxml", Format::Junit),
    ("--junit-xml", Format::Junit),
    ("--junit", Format::Junit),
    ("--log-junit", Format::Junit),
    ("--junitfile", Format::Junit),
    ("--output-junit", Format::Junit),
    ("--xunit-file", Format::Junit),
    ("--xunit", Format::Junit),
    ("--outputFile.junit", Format::Junit),
    ("--gtest_output=xml:", Format::Junit),
    ("--report-log", Format::ReportLog),
];

/// Runners that always write files, and where; a pattern of `find`.
const CONVENTIONS: [(&str, &str); 4] = [
    ("mvn", "*/target/surefire-reports/TEST-*.xml"),
    ("mvnw", "*/target/surefire-reports/TEST-*.xml"),
    ("gradle", "*/build/test-results/*/TEST-*.xml"),
    ("gradlew", "*/build/test-results/*/TEST-*.xml"),
];

/// A file, or several, that a test command writes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Written {
    format: Format,
    /// A pattern of `find`.
    pattern: String,
    /// Whether the command names it, so that it has to be there.
    named: bool,
}

/// The files that a script writes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Results(Vec<Written>);

impl Results {
    /// Reads which files the tests of a script write.
    pub fn of(tests: &str) -> Results {
        let mut parser = Parser::new();
        parser.set_language(&tree_sitter_bash::LANGUAGE.into()).expect("the grammar fits");
        let tree = parser.parse(tests, None).expect("no limit of time is set");
        let mut found = Vec::new();
        let mut waiting = vec![tree.root_node()];
        while let Some(node) = waiting.pop() {
            if node.kind() == "command" {
                of_command(&words(node, tests), &mut found);
            }
            waiting
                .extend((0..node.named_child_count()).filter_map(|at| node.named_child(at as u32)));
        }
        found.dedup();
        Results(found)
    }

    /// Tells whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Renders [`SCRIPT`]: each file as a line with its format and length, and its bytes. A file that
    /// is named and not there is a line with the word `missing`.
    pub fn script(&self, directory: &str) -> String {
        let mut text = format!("cd {} || exit 1\n", crate::quote::shell_quote(directory));
        text.push_str(
            "take() {\n\
             local file found=\n\
             while IFS= read -r -d '' file; do\n\
             found=1\n\
             printf '%s %s\\n' \"$1\" \"$(stat -c %s -- \"$file\")\"\n\
             cat -- \"$file\"\n\
             done < <(find \"$4\" -xdev -type f -path \"$3\" -cnewer /imgforge-state -print0 \
             2>/dev/null | sort -z)\n\
             [ -n \"$found\" ] || [ -z \"$2\" ] || echo missing 0\n\
             }\n",
        );
        for written in &self.0 {
            let (place, pattern) = match written.pattern.strip_prefix('/') {
                Some(_) => ("/", written.pattern.clone()),
                None => (".", format!("*/{}", written.pattern)),
            };
            let (place, pattern) = match place {
                // Only the file's own directory has to be looked through.
                "/" => {
                    let parent = pattern.rsplit_once('/').map_or("/", |(parent, _)| parent);
                    (if parent.is_empty() { "/" } else { parent }.to_owned(), pattern.clone())
                }
                place => (place.to_owned(), pattern),
            };
            let named = if written.named { "1" } else { "" };
            text.push_str(&format!(
                "take {} '{named}' {} {}\n",
                written.format.as_str(),
                crate::quote::shell_quote(&pattern),
                crate::quote::shell_quote(&place),
            ));
        }
        text
    }
}

/// Renders what root runs when the tests have ended: `user` runs a command as theirs.
pub fn pass_on(user: &str) -> String {
    format!(
        "{user} /bin/bash {SCRIPT} 2>/dev/null | head -c {MOST} >{TAKEN}\n\
         cat {TAKEN} >&4\nprintf '%0{DIGITS}d' \"$(stat -c %s {TAKEN})\" >&4\n"
    )
}

/// Returns how many bytes at the end of the tests' output are not theirs: the files with their
/// length. `None` where root did not come to write that.
pub fn length_at_end(end: &[u8], whole: u64) -> Option<u64> {
    let digits = &end[end.len().checked_sub(DIGITS)?..];
    let length: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let length = length.checked_add(DIGITS as u64)?;
    (length <= whole).then_some(length)
}

/// Reads what [`pass_on`] passed on.
pub fn read(mut bytes: &[u8]) -> Vec<ResultsFile> {
    bytes = &bytes[..bytes.len().saturating_sub(DIGITS)];
    let mut files = Vec::new();
    while !bytes.is_empty() {
        let record = memchr::memchr(b'\n', bytes).and_then(|at| {
            let (format, length) = std::str::from_utf8(&bytes[..at]).ok()?.split_once(' ')?;
            let rest = &bytes[at + 1..];
            let length: usize = length.parse().ok().filter(|length| *length <= rest.len())?;
            Some((Format::of(format), &rest[..length], &rest[length..]))
        });
        let Some((format, content, rest)) = record else {
            files.push(ResultsFile::Missing);
            break;
        };
        files.push(match format {
            Some(format) => ResultsFile::Written(format, content.to_vec()),
            None => ResultsFile::Missing,
        });
        bytes = rest;
    }
    files
}

/// Lists the words of a command; what the shell would replace is not known.
fn words<'a>(node: Node<'_>, text: &'a str) -> Vec<Option<&'a str>> {
    let mut words = Vec::new();
    for child in (0..node.named_child_count()).filter_map(|at| node.named_child(at as u32)) {
        if child.kind() == "variable_assignment" || child.kind().ends_with("redirect") {
            continue;
        }
        let word = &text[child.byte_range()];
        let plain = !word.contains(['$', '`', '*', '?', '[', '\\', '{']);
        words.push(plain.then(|| word.trim_matches(['"', '\''])));
    }
    words
}

fn of_command(words: &[Option<&str>], found: &mut Vec<Written>) {
    let mut words = words.iter().copied().peekable();
    let program = words.peek().copied().flatten().and_then(|word| word.rsplit('/').next());
    for (name, pattern) in CONVENTIONS {
        if program == Some(name) {
            found.push(Written {
                format: Format::Junit,
                pattern: pattern[2..].into(),
                named: false,
            });
        }
    }
    while let Some(word) = words.next() {
        let Some(word) = word else { continue };
        for (option, format) in OPTIONS {
            let Some(rest) = word.strip_prefix(option) else { continue };
            let name = match rest.strip_prefix('=') {
                Some(name) => name,
                None if option.ends_with(':') => rest,
                None if rest.is_empty() => match words.peek() {
                    Some(Some(next)) if !next.starts_with('-') => next,
                    _ => continue,
                },
                None => continue,
            };
            let name = name.trim_matches(['"', '\'']);
            let name = name.strip_prefix("./").unwrap_or(name);
            // A name that leads up is not looked for.
            if !name.is_empty() && !name.split('/').any(|part| part == "..") {
                found.push(Written { format, pattern: name.to_owned(), named: true });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(tests: &str) -> Vec<(Format, String, bool)> {
        let Results(found) = Results::of(tests);
        found.into_iter().map(|w| (w.format, w.pattern, w.named)).collect()
    }

    #[test]
    fn files_are_named_by_the_options_of_runners() {
        for (command, file) in [
            ("pytest -rA --junitxml=report.xml tests", "report.xml"),
            ("cd a && python -m pytest --junit-xml './out/r.xml' | tee log", "out/r.xml"),
            ("vendor/bin/phpunit --log-junit /tmp/r.xml", "/tmp/r.xml"),
            ("gotestsum --junitfile=unit.xml ./...", "unit.xml"),
            ("./tests --gtest_output=xml:r.xml", "r.xml"),
        ] {
            assert_eq!(of(command), [(Format::Junit, file.to_owned(), true)], "{command}");
        }
        let log = (Format::ReportLog, "log.json".to_owned(), true);
        assert_eq!(of("pytest --report-log=log.json"), [log]);
        for none in
            ["pytest -rA", "pytest --junitxml=$OUT", "echo --junitxml", "pytest --junit-prefix=a"]
        {
            assert_eq!(of(none), [], "{none}");
        }
    }

    #[test]
    fn maven_and_gradle_have_places_of_their_own() {
        let pattern = "target/surefire-reports/TEST-*.xml".to_owned();
        assert_eq!(of("./mvnw -q test -pl a"), [(Format::Junit, pattern, false)]);
    }

    #[test]
    fn what_is_passed_on_is_read_again() {
        let passed = b"junit 4\n<a/>report-log 3\n{}\nmissing 0\n00000000000000000038";
        let length = length_at_end(passed, passed.len() as u64).unwrap();
        assert_eq!(length, passed.len() as u64);
        let [
            ResultsFile::Written(Format::Junit, xml),
            ResultsFile::Written(Format::ReportLog, log),
            ResultsFile::Missing,
        ] = &read(passed)[..]
        else {
            panic!("{:?}", read(passed));
        };
        assert_eq!((xml.as_slice(), log.as_slice()), (&b"<a/>"[..], &b"{}\n"[..]));
        assert_eq!(length_at_end(b"no length", 9), None);
        assert_eq!(length_at_end(b"00000000000000000044", 20), None);
        // A file that was cut is not whole.
        assert_eq!(read(b"junit 9\n<a/>00000000000000000012"), [ResultsFile::Missing]);
    }
}
