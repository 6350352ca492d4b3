//! Dockerfile text: its normal form, and the images that it stands on.
//!
//! The normal form is what enters a key *and* what is built, so that a difference which the key
//! does not see cannot change an image.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

/// Returns the normal form: no byte order mark, `\n` line ends, no comments, no blank lines, no
/// trailing spaces, a final newline. Parser directives (`# syntax=`, `# escape=`, `# check=`) stay,
/// and comment-like lines inside a heredoc stay. The normal form of a normal form is itself.
pub fn normalise(text: &str) -> String {
    let mut normal = String::with_capacity(text.len());
    let mut directives = true;
    let mut open: Vec<Heredoc> = Vec::new();
    // The instruction that goes on in the next line.
    let mut begun = String::new();
    for line in text.lines() {
        let line = line.trim_end_matches('\r');
        let line = if normal.is_empty() { line.trim_start_matches('\u{feff}') } else { line };
        if let Some(first) = open.first() {
            if first.ends_with(line) {
                open.remove(0);
            }
            normal.push_str(line);
            normal.push('\n');
            continue;
        }
        let trimmed = line.trim();
        if trimmed.starts_with('#') {
            if directives && is_directive(trimmed) {
                normal.push_str(trimmed);
                normal.push('\n');
            } else {
                directives = false;
            }
            continue;
        }
        directives = false;
        if trimmed.is_empty() {
            continue;
        }
        let line = line.trim_end();
        normal.push_str(line);
        normal.push('\n');
        match line.strip_suffix('\\') {
            Some(start) => begun.push_str(start),
            None if begun.is_empty() => open = heredocs(line),
            None => open = heredocs(&(std::mem::take(&mut begun) + line)),
        }
    }
    normal
}

fn is_directive(comment: &str) -> bool {
    let body = comment.trim_start_matches('#').trim_start();
    body.split_once('=').is_some_and(|(name, _)| {
        matches!(name.trim().to_ascii_lowercase().as_str(), "syntax" | "escape" | "check")
    })
}

/// A heredoc of a `RUN`, `COPY` or `ADD`.
pub(crate) struct Heredoc {
    /// What ends it.
    pub word: String,
    /// Leading tabs are dropped.
    pub dash: bool,
}

impl Heredoc {
    /// Tells whether `line` ends it.
    pub(crate) fn ends_with(&self, line: &str) -> bool {
        let line = if self.dash { line.trim_start_matches('\t') } else { line };
        line == self.word
    }
}

/// Returns the heredocs that begin on a line, which are words of it: `1<<4` is none.
fn heredocs(line: &str) -> Vec<Heredoc> {
    if !line.contains("<<") {
        return Vec::new();
    }
    let instruction = line.split_whitespace().next().unwrap_or("").to_ascii_uppercase();
    if !matches!(instruction.as_str(), "RUN" | "COPY" | "ADD") {
        return Vec::new();
    }
    let heredoc = |word: &str| {
        let after = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
        let (dash, after) = after.strip_prefix('-').map_or((false, after), |a| (true, a));
        let after = after.strip_prefix(['"', '\'']).unwrap_or(after);
        let word: String =
            after.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        (!word.is_empty()).then_some(Heredoc { word, dash })
    };
    line.split_whitespace().filter_map(heredoc).collect()
}

/// Splits the flags of an instruction from its command.
pub(crate) fn split_flags(arguments: &str) -> (&str, &str) {
    let mut rest = arguments.trim_start();
    while rest.starts_with("--") {
        rest = rest.split_once(char::is_whitespace).map_or("", |(_, rest)| rest.trim_start());
    }
    let at = arguments.len() - rest.len();
    (&arguments[..at], rest)
}

/// One instruction of a normal form, or a parser directive.
pub(crate) struct Instruction<'a> {
    /// Its text, continuation lines joined, without the bodies of heredocs.
    pub text: Cow<'a, str>,
    /// The lines that `text` is written on, the first being 0.
    pub lines: Range<usize>,
    /// All of it as it is written, heredocs and the last line end included.
    pub source: &'a str,
    /// Its heredocs and their lines as they are written: leading tabs may be dropped.
    pub heredocs: Vec<(Heredoc, &'a str)>,
}

/// Reads the instructions of a normal form, see [`normalise`].
pub(crate) fn instructions(normal: &str) -> Vec<Instruction<'_>> {
    let mut all = Vec::new();
    let mut lines = Lines { text: normal, start: 0, count: 0 };
    loop {
        let (start, at) = (lines.start, lines.count);
        let Some(line) = lines.next() else { return all };
        let mut text = Cow::Borrowed(line);
        while !line.starts_with('#') && text.ends_with('\\') {
            // A word may go on in the next line.
            let joined = text.to_mut();
            joined.pop();
            let Some(next) = lines.next() else { break };
            joined.push_str(next);
        }
        let written = at..lines.count;
        let mut found = Vec::new();
        for heredoc in heredocs(&text) {
            let (from, mut to) = (lines.start, lines.start);
            while let Some(line) = lines.next() {
                if heredoc.ends_with(line) {
                    break;
                }
                to = lines.start;
            }
            found.push((heredoc, &normal[from..to]));
        }
        let source = &normal[start..lines.start];
        all.push(Instruction { text, lines: written, source, heredocs: found });
    }
}

/// The lines of a text, and how far it was read.
struct Lines<'a> {
    text: &'a str,
    /// Where the next line begins.
    start: usize,
    /// How many there were.
    count: usize,
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let line = self.text[self.start..].split_inclusive('\n').next()?;
        self.start += line.len();
        self.count += 1;
        Some(line.strip_suffix('\n').unwrap_or(line))
    }
}

/// Where a Dockerfile names an image that is not a stage of it.
struct Reference {
    /// The lines of the instruction.
    lines: Range<usize>,
    /// The word as it is written: `python:${VERSION}`, `--from=docker/uv:1`.
    word: String,
    /// The image that is meant.
    image: String,
}

/// Reads where a normal form names images outside of it; see [`external_images`].
fn references(normal: &str, args: &BTreeMap<String, String>) -> Vec<Reference> {
    let mut defaults: BTreeMap<String, String> = BTreeMap::new();
    let mut stages: Vec<String> = Vec::new();
    let mut found: Vec<Reference> = Vec::new();
    for Instruction { text, lines, .. } in instructions(normal) {
        let mut add = |word: &str, image: String, stages: &[String]| {
            let internal = image == "scratch"
                || image.parse::<usize>().is_ok()
                || stages.iter().any(|stage| stage.eq_ignore_ascii_case(&image));
            if !internal {
                found.push(Reference { lines: lines.clone(), word: word.to_owned(), image });
            }
        };
        let mut words = text.split_whitespace();
        match words.next().unwrap_or("").to_ascii_uppercase().as_str() {
            "ARG" if stages.is_empty() => {
                for word in words {
                    let (name, default) = word.split_once('=').unwrap_or((word, ""));
                    let value = args.get(name).cloned();
                    let value = value.unwrap_or_else(|| default.trim_matches('"').to_owned());
                    defaults.insert(name.to_owned(), value);
                }
            }
            "FROM" => {
                let words: Vec<&str> = words.filter(|word| !word.starts_with("--")).collect();
                if let Some(image) = words.first() {
                    add(image, expand(image, &defaults), &stages);
                }
                let named = words.get(1).is_some_and(|word| word.eq_ignore_ascii_case("as"));
                stages.push(if named {
                    words.get(2).unwrap_or(&"").to_string()
                } else {
                    String::new()
                });
            }
            "COPY" | "ADD" => {
                for word in words.take_while(|word| word.starts_with("--")) {
                    if let Some(image) = word.strip_prefix(COPY_FROM) {
                        add(word, image.to_owned(), &stages);
                    }
                }
            }
            _ => {}
        }
    }
    found
}

/// The option of `COPY` that names an image.
const COPY_FROM: &str = "--from=";

/// Lists the images outside the Dockerfile that its `FROM` and `COPY --from` name, in order and
/// each once, with the arguments before the first `FROM` expanded (`args` win over defaults).
pub fn external_images(text: &str, args: &BTreeMap<String, String>) -> Vec<String> {
    let mut images: Vec<String> = Vec::new();
    for Reference { image, .. } in references(&normalise(text), args) {
        if !images.contains(&image) {
            images.push(image);
        }
    }
    images
}

/// Returns the normal form with the names of `names` in place of the images outside the Dockerfile
/// that are its keys; see [`external_images`].
pub fn with_names(
    text: &str,
    args: &BTreeMap<String, String>,
    names: &BTreeMap<String, String>,
) -> String {
    let normal = normalise(text);
    let mut lines: Vec<String> = normal.lines().map(str::to_owned).collect();
    for Reference { lines: at, word, image } in references(&normal, args) {
        let Some(name) = names.get(&image) else { continue };
        let option = if word.starts_with(COPY_FROM) { COPY_FROM } else { "" };
        let renamed = format!("{option}{name}");
        // Only the first such word: a stage may have the name of its image.
        if !lines[at.clone()].iter_mut().any(|line| replace_word(line, &word, &renamed)) {
            // It is written over several lines.
            let joined: String =
                lines[at.clone()].iter().map(|line| line.trim_end_matches('\\')).collect();
            lines[at.clone()].fill(String::new());
            lines[at.start] = joined;
            replace_word(&mut lines[at.start], &word, &renamed);
        }
    }
    normalise(&lines.iter().map(|line| format!("{line}\n")).collect::<String>())
}

/// Replaces the first word of a line that is `word`; tells whether there is one.
fn replace_word(line: &mut String, word: &str, new: &str) -> bool {
    let mut pieces = line.split_inclusive(char::is_whitespace);
    if !pieces.any(|piece| piece.trim_end() == word) {
        return false;
    }
    let rest: String = pieces.collect();
    let end = line.len() - rest.len();
    let start = line[..end].trim_end().len() - word.len();
    line.replace_range(start..start + word.len(), new);
    true
}

/// Expands `$NAME`, `${NAME}`, `${NAME:-default}` and `${NAME:+other}`.
fn expand(text: &str, values: &BTreeMap<String, String>) -> String {
    let value = |name: &str| values.get(name).filter(|value| !value.is_empty());
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some((inside, after)) = rest.strip_prefix('{').and_then(|r| r.split_once('}')) {
            if let Some((name, default)) = inside.split_once(":-") {
                out.push_str(value(name).map_or(default, String::as_str));
            } else if let Some((name, other)) = inside.split_once(":+") {
                out.push_str(value(name).map_or("", |_| other));
            } else {
                out.push_str(value(inside).map_or("", String::as_str));
            }
            rest = after;
        } else {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let (name, after) = rest.split_at(end.unwrap_or(rest.len()));
            out.push_str(value(name).map_or("", String::as_str));
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_blank_lines_and_line_ends_are_not_part_of_the_normal_form() {
        let plain = "FROM debian\nRUN a \\\n  b\n";
        let decorated =
            "\u{feff}# a base\r\n\r\nFROM debian  \r\n# why\r\nRUN a \\\r\n# inside\r\n  b\r\n\r\n";
        assert_eq!(normalise(decorated), plain);
        assert_eq!(normalise(plain), plain);
    }

    #[test]
    fn parser_directives_stay_and_late_ones_are_comments() {
        assert_eq!(
            normalise("# syntax=docker/dockerfile:1\n# note\n# escape=`\nFROM a\n# syntax=x\n"),
            "# syntax=docker/dockerfile:1\nFROM a\n"
        );
    }

    #[test]
    fn heredoc_bodies_are_kept_to_the_letter() {
        let text = "FROM a\nRUN <<EOF\n# not a comment\n\n  x  \nEOF\n# comment\nRUN b\n";
        assert_eq!(normalise(text), "FROM a\nRUN <<EOF\n# not a comment\n\n  x  \nEOF\nRUN b\n");
    }

    #[test]
    fn a_heredoc_of_an_instruction_of_several_lines_is_kept_to_the_letter() {
        let text = "FROM a\nRUN b && \\\n# why\n  cat <<EOF \\\n  > /c\n# kept\n\nEOF\n# comment\n";
        assert_eq!(normalise(text), "FROM a\nRUN b && \\\n  cat <<EOF \\\n  > /c\n# kept\n\nEOF\n");
    }

    #[test]
    fn the_normal_form_has_no_other_one() {
        for text in [
            "\n\u{feff}FROM a\n",
            "\u{feff}\u{feff}# why\n\u{feff}FROM a\n",
            "FROM a\nRUN <<EOF\nx\r\r\nEOF\r\r\nRUN b",
        ] {
            let normal = normalise(text);
            assert_eq!(normalise(&normal), normal, "{text:?}");
        }
    }

    #[test]
    fn a_shift_in_a_command_begins_no_heredoc() {
        let text = "FROM a\nRUN echo $((1<<EOF)) <<<x\n# comment\nRUN b\n";
        assert_eq!(normalise(text), "FROM a\nRUN echo $((1<<EOF)) <<<x\nRUN b\n");
    }

    #[test]
    fn a_changed_instruction_changes_the_normal_form() {
        assert_ne!(normalise("FROM a\nRUN b\n"), normalise("FROM a\nRUN c\n"));
    }

    #[test]
    fn external_images_are_found_with_arguments_expanded() {
        let text = "ARG PYTHON=3.11\nARG SUITE=bookworm\n\
                    FROM python:${PYTHON}-slim-$SUITE AS build\nRUN x\n\
                    FROM build AS two\nCOPY --from=build /a /a\n\
                    COPY --from=docker/uv:1 /uv /uv\nFROM scratch\n";
        let args = BTreeMap::from([("PYTHON".to_owned(), "3.9".to_owned())]);
        assert_eq!(external_images(text, &args), ["python:3.9-slim-bookworm", "docker/uv:1"]);
    }

    #[test]
    fn the_body_of_a_heredoc_names_no_image() {
        let text =
            "FROM a\nRUN <<EOF python3\nfrom pathlib import Path\nEOF\nCOPY --from=b /b /b\n";
        assert_eq!(external_images(text, &BTreeMap::new()), ["a", "b"]);
    }

    #[test]
    fn images_outside_get_other_names_and_nothing_else_does() {
        let text = "ARG V=3\n# why\nFROM --platform=x \\\n  python:$V   AS one\nRUN <<EOF\nFROM node\n\
                    EOF\nFROM node AS node\nRUN echo node\nCOPY --from=one /a /a\n\
                    COPY --chown=1 --from=uv:1 \\\n  uv:1 /b\nFROM other\n";
        let name = |image: &str, name: &str| (image.to_owned(), name.to_owned());
        let names = [name("python:3", "f:1"), name("node", "f:2"), name("uv:1", "f:3")].into();
        assert_eq!(
            with_names(text, &BTreeMap::new(), &names),
            "ARG V=3\nFROM --platform=x \\\n  f:1   AS one\nRUN <<EOF\nFROM node\n\
             EOF\nFROM f:2 AS node\nRUN echo node\nCOPY --from=one /a /a\n\
             COPY --chown=1 --from=f:3 \\\n  uv:1 /b\nFROM other\n"
        );
        assert_eq!(with_names(text, &BTreeMap::new(), &BTreeMap::new()), normalise(text));
        let text = "FROM a\nFROM py\\\nthon:3 AS x\nRUN b\n";
        assert_eq!(external_images(text, &BTreeMap::new()), ["a", "python:3"]);
        assert_eq!(with_names(text, &BTreeMap::new(), &names), "FROM a\nFROM f:1 AS x\nRUN b\n");
    }
}
