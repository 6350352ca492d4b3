//! The commands that an agent may use, as they are read from files.
//!
//! A file is a script, which begins with `#!` and is one command, or a library of shell functions, which
//! ends in `.sh` or begins with `_` and is one command a function. A script describes itself in comments that
//! begin with `# @yaml`, or in its first text between triple quotes; a function in the comments before it that
//! begin with `# @yaml`.

use std::sync::LazyLock;

use indexmap::IndexMap;
use regex::Regex;
use serde::Serialize;
use serde_json::Value;

use super::description::{self, Description, NoDescription};
use super::text::{strip, strip_start};

fn regex(text: &str) -> Regex {
    Regex::new(text).expect("it is an expression")
}

static YAML_BLOCK: LazyLock<Regex> = LazyLock::new(|| regex(r"(?m)^#\s*@yaml\s*\n^#.*(?:\n#.*)*"));
static YAML_TAG: LazyLock<Regex> = LazyLock::new(|| regex(r"\A#\s*@yaml\s*\z"));
static FUNCTION: LazyLock<Regex> =
    LazyLock::new(|| regex(r"\A(\s*)(?:function\s+)?([^\s()]+)\s*\(\) \{\s*\z"));
static COMMENT: LazyLock<Regex> = LazyLock::new(|| regex("(?m)^#"));

/// A command that an agent may use.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Command {
    /// Its name.
    pub name: String,
    /// How it is called: `name <needed> [<other>]`.
    pub signature: Option<String>,
    /// What it does.
    pub docstring: Option<String>,
    /// The line that ends a command of several lines.
    pub end_name: Option<String>,
    /// The arguments by their names, as the file describes them.
    pub arguments: Option<IndexMap<String, Value>>,
    /// The text of the script, or of the function.
    #[serde(skip)]
    pub code: String,
}

/// A file of commands.
#[derive(Debug, Clone, PartialEq)]
pub struct CommandFile {
    /// Its name, without a directory.
    pub name: String,
    /// Its bytes.
    pub data: Vec<u8>,
    /// The commands of it; a file that begins with `_` may have none.
    pub commands: Vec<Command>,
}

/// Why a file of commands cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}{}: {message}", line.map_or(String::new(), |line| format!(":{line}")))]
pub struct CommandFileError {
    /// Its name.
    pub file: String,
    /// The line, which counts from 1, where it is known.
    pub line: Option<usize>,
    /// What is wrong, and what to do.
    pub message: String,
}

impl CommandFile {
    /// Reads a file. Line ends of Windows are taken for line ends.
    pub fn read(name: &str, data: &[u8]) -> Result<CommandFile, CommandFileError> {
        let reader = Reader { file: name };
        if name.is_empty() || [".", ".."].contains(&name) || name.contains(['/', '\'', '\n', '\0'])
        {
            return reader
                .fail(None, "this is no name of a file: leave directories and quotes out");
        }
        let text = std::str::from_utf8(data).or_else(|error| {
            let line =
                data[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
            reader.fail(Some(line), "this is not UTF-8")
        })?;
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let commands = reader.commands(&text)?;
        Ok(CommandFile { name: name.to_owned(), data: data.to_vec(), commands })
    }

    /// Tells whether it is a script, and no library.
    pub(super) fn is_script(&self) -> bool {
        let text = String::from_utf8_lossy(&self.data);
        strip_start(&text).starts_with("#!")
    }
}

/// Reads one file.
struct Reader<'a> {
    file: &'a str,
}

impl Reader<'_> {
    fn fail<T>(&self, line: Option<usize>, message: &str) -> Result<T, CommandFileError> {
        Err(CommandFileError { file: self.file.to_owned(), line, message: message.to_owned() })
    }

    fn of_description(&self, line: usize) -> impl Fn(NoDescription) -> CommandFileError + '_ {
        move |error| CommandFileError {
            file: self.file.to_owned(),
            line: Some(line + error.line),
            message: error.message,
        }
    }

    fn commands(&self, text: &str) -> Result<Vec<Command>, CommandFileError> {
        let is_private = self.file.starts_with('_');
        if !strip(text).starts_with("#!") {
            if !is_private && !has_end(self.file, ".sh") {
                return self.fail(
                    Some(1),
                    "this is no script, since it does not begin with `#!`, and no library of shell functions, \
                     since it does not end in .sh: begin it with #!/usr/bin/env python3 or the like, or rename \
                     it",
                );
            }
            return self.functions(text);
        }
        if let Some(command) = self.described_script(text)? {
            return Ok(vec![command]);
        }
        if let Some(docstring) = quoted(text) {
            let name = self.stem();
            return Ok(vec![Command {
                code: text.to_owned(),
                signature: Some(name.clone()),
                name,
                docstring: Some(strip(docstring).to_owned()),
                end_name: None,
                arguments: None,
            }]);
        }
        match is_private {
            true => Ok(Vec::new()),
            false => self.fail(
                None,
                "this script does not describe itself: give it comments that begin with `# @yaml`, or a text in \
                 triple quotes; or begin its name with `_` if it is no command",
            ),
        }
    }

    /// Returns the command of a script that has a block `# @yaml`.
    fn described_script(&self, text: &str) -> Result<Option<Command>, CommandFileError> {
        let mut blocks = YAML_BLOCK.find_iter(text);
        let line_of = |at: usize| text[..at].matches('\n').count() + 1;
        let Some(block) = blocks.next() else { return Ok(None) };
        if let Some(second) = blocks.next() {
            let message = "a second @yaml: a script is one command, and has one";
            return self.fail(Some(line_of(second.start())), message);
        }
        let described = COMMENT.replace_all(block.as_str(), "").replace("@yaml", "");
        let line = line_of(block.start());
        let (name, code) = (self.stem(), text.to_owned());
        self.command(name, code, line, &described).map(Some)
    }

    /// Makes a command of its description, which begins at a line.
    fn command(
        &self,
        name: String,
        code: String,
        line: usize,
        described: &str,
    ) -> Result<Command, CommandFileError> {
        let failed = self.of_description(line);
        let description = description::read(described).map_err(&failed)?;
        let signature = description.signature_of(&name).map_err(&failed)?;
        let Description { docstring, end_name, arguments, .. } = description;
        Ok(Command { name, signature, docstring: Some(docstring), end_name, arguments, code })
    }

    /// Returns the functions of a library of the shell. A function begins with a line that ends in `() {`, and
    /// ends with the next line that is `}`, indented as the first.
    fn functions(&self, text: &str) -> Result<Vec<Command>, CommandFileError> {
        const TWICE: &str = "a second @yaml before one function: remove one";
        let lines: Vec<&str> = text.split('\n').collect();
        let mut commands = Vec::new();
        let mut description: Option<(usize, String)> = None;
        let mut at = 0;
        while at < lines.len() {
            if YAML_TAG.is_match(lines[at]) {
                if description.is_some() {
                    return self.fail(Some(at + 1), TWICE);
                }
                let begin = at;
                let mut described = String::new();
                at += 1;
                while at < lines.len() && lines[at].starts_with('#') {
                    if YAML_TAG.is_match(lines[at]) {
                        return self.fail(Some(at + 1), TWICE);
                    }
                    described.push('\n');
                    described.push_str(&lines[at][1..]);
                    at += 1;
                }
                description = Some((begin + 1, described));
                continue;
            }
            let head = at;
            at += 1;
            let Some(found) = FUNCTION.captures(lines[head]) else { continue };
            let (closing, name) = (format!("{}}}", &found[1]), found[2].to_owned());
            let length = lines[at..].iter().position(|line| line.trim_end() == closing);
            let Some(length) = length else {
                let message = format!(
                    "the function {name} does not end: it needs a line that is `}}`, indented as its first line"
                );
                return self.fail(Some(head + 1), &message);
            };
            let code = lines[head..=at + length].join("\n");
            at += length + 1;
            commands.push(match description.take() {
                Some((line, described)) => {
                    let mut command = self.command(name, code, line, &described)?;
                    let own = command.name.clone();
                    command.signature.get_or_insert(own);
                    command
                }
                None => Command {
                    signature: Some(name.clone()),
                    name,
                    docstring: None,
                    end_name: None,
                    arguments: None,
                    code,
                },
            });
        }
        Ok(commands)
    }

    /// The name of the command that a script is.
    fn stem(&self) -> String {
        stem(self.file).to_owned()
    }
}

/// Returns a name without what follows its last dot.
pub(super) fn stem(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

/// Tells whether a name ends so, and has something before it.
pub(super) fn has_end(name: &str, end: &str) -> bool {
    name.strip_suffix(end).is_some_and(|stem| !stem.trim_matches('.').is_empty())
}

/// Returns the first text between triple quotes of either kind.
fn quoted(text: &str) -> Option<&str> {
    let is_quote = |byte: &u8| matches!(byte, b'"' | b'\'');
    let bytes = text.as_bytes();
    (0..bytes.len().saturating_sub(2)).find_map(|start| {
        let quotes =
            bytes[start..start + 3].iter().all(is_quote).then(|| &text[start..start + 3])?;
        let rest = &text[start + 3..];
        rest.find(quotes).map(|end| &rest[..end])
    })
}
