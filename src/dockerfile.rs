//! Dockerfile text: its normal form, and the images that it stands on.
//!
//! The normal form is what enters a key *and* what is built, so that a difference which the key
//! does not see cannot change an image.

use std::collections::BTreeMap;

/// Returns the normal form: no byte order mark, `\n` line ends, no comments, no blank lines, no
/// trailing spaces, a final newline. Parser directives (`# syntax=`, `# escape=`, `# check=`) stay,
/// and comment-like lines inside a heredoc stay.
pub fn normalise(text: &str) -> String {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut normal = String::with_capacity(text.len());
    let mut directives = true;
    let mut open: Vec<Heredoc> = Vec::new();
    for line in text.lines() {
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
        open = heredocs(line);
        normal.push_str(line.trim_end());
        normal.push('\n');
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
    pub fn ends_with(&self, line: &str) -> bool {
        let line = if self.dash { line.trim_start_matches('\t') } else { line };
        line == self.word
    }
}

/// Returns the heredocs that begin on a line, which are words of it: `1<<4` is none.
pub(crate) fn heredocs(line: &str) -> Vec<Heredoc> {
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

/// One instruction with its continuation lines joined.
fn instructions(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut current = String::new();
    for line in normalise(text).lines().filter(|line| !line.starts_with('#')) {
        match line.strip_suffix('\\') {
            Some(start) => {
                current.push_str(start);
                current.push(' ');
            }
            None => {
                current.push_str(line);
                all.push(std::mem::take(&mut current));
            }
        }
    }
    if !current.is_empty() {
        all.push(current);
    }
    all
}

/// Lists the images outside the Dockerfile that its `FROM` and `COPY --from` name, in order and
/// each once, with the arguments before the first `FROM` expanded (`args` win over defaults).
pub fn external_images(text: &str, args: &BTreeMap<String, String>) -> Vec<String> {
    let mut defaults: BTreeMap<String, String> = BTreeMap::new();
    let mut stages: Vec<String> = Vec::new();
    let mut images: Vec<String> = Vec::new();
    let mut add = |image: String, stages: &[String]| {
        let internal = image == "scratch"
            || image.parse::<usize>().is_ok()
            || stages.iter().any(|stage| stage.eq_ignore_ascii_case(&image));
        if !internal && !images.contains(&image) {
            images.push(image);
        }
    };
    for instruction in instructions(text) {
        let mut words = instruction.split_whitespace();
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
                    add(expand(image, &defaults), &stages);
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
                    if let Some(image) = word.strip_prefix("--from=") {
                        add(image.to_owned(), &stages);
                    }
                }
            }
            _ => {}
        }
    }
    images
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
}
