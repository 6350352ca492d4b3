//! What an agent asks for: a function and its parameters.

use std::sync::LazyLock;

use indexmap::IndexMap;
use regex::Regex;

use super::text::{quote, repr, strip};

/// What `finish` and `submit` are in the shell.
const FINISHED: &str = "echo '<<<Finished>>>'";

/// White space as Python has it.
const SPACE: &str = r"[\s\x1c-\x1f]*";

static FUNCTION: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(&format!("<function{SPACE}={SPACE}([^>]+)>")).expect("it is an expression")
});

/// A parameter, or what ends the block of a function.
static PIECE: LazyLock<Regex> = LazyLock::new(|| {
    let text = format!(
        "(?s)<parameter{SPACE}={SPACE}([^>]+)>(.*?)</parameter>|(</function>|<function{SPACE}=)"
    );
    Regex::new(&text).expect("it is an expression")
});

/// A function with parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    /// The name of the function; empty where the agent called none.
    pub function: String,
    /// The parameters in the order in which they came, each key once.
    pub parameters: IndexMap<String, String>,
}

/// Why an action is no command of a shell.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAction {
    /// A key would not be an option of a command.
    #[error(
        "the parameter {} of {function} has no valid name: use letters, digits, _ and -, first a letter \
         or _",
        repr(key)
    )]
    Key {
        /// The key.
        key: String,
        /// The name of the function.
        function: String,
    },
    /// A name or a value has a NUL.
    #[error("{0} has a NUL in it: no program can be given one")]
    Nul(String),
}

impl Action {
    /// Reads the first block `<function=NAME><parameter=KEY>VALUE</parameter>…</function>` of a text. Text around
    /// it is left out. Names and values lose the white space at their ends, a value ends at the first
    /// `</parameter>`, and of a key that comes twice the last value counts.
    pub fn read(text: &str) -> Action {
        let Some(found) = FUNCTION.captures(text) else {
            return Action { function: String::new(), parameters: IndexMap::new() };
        };
        let (whole, name) = (found.get(0).expect("it matched"), &found[1]);
        let mut parameters = IndexMap::new();
        for piece in PIECE.captures_iter(&text[whole.end()..]) {
            let (Some(key), Some(value)) = (piece.get(1), piece.get(2)) else { break };
            parameters.insert(strip(key.as_str()).to_owned(), strip(value.as_str()).to_owned());
        }
        Action { function: strip(name).to_owned(), parameters }
    }

    /// Tells whether it is the last one of an agent.
    pub fn is_end(&self) -> bool {
        matches!(self.function.as_str(), "finish" | "submit")
    }

    /// Returns the command for the shell: the name, `command` where it is there, `--KEY VALUE`. An empty name is
    /// an empty command; `finish` and `submit` are an `echo`.
    pub fn command(&self) -> Result<String, BadAction> {
        if self.function.is_empty() {
            return Ok(String::new());
        }
        if self.is_end() {
            return Ok(FINISHED.to_owned());
        }
        let quoted = |what: &str, text: &str| match text.contains('\0') {
            true => Err(BadAction::Nul(what.to_owned())),
            false => Ok(quote(text)),
        };
        let mut words = vec![quoted("function", &self.function)?];
        if let Some(command) = self.parameters.get("command") {
            words.push(quoted("command", command)?);
        }
        for (key, value) in self.parameters.iter().filter(|(key, _)| *key != "command") {
            if !is_key(key) {
                let function = self.function.clone();
                return Err(BadAction::Key { key: key.clone(), function });
            }
            words.push(format!("--{key}"));
            words.push(quoted(key, value)?);
        }
        Ok(words.join(" "))
    }
}

fn is_key(key: &str) -> bool {
    let is_first = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'_';
    let is_next = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    key.as_bytes().first().is_some_and(is_first) && key.bytes().all(is_next)
}
