//! The strict form of a script: what may run the model's code is run by a user without rights.
//!
//! A script prepares the run and then runs the tests. Under the strict rules root does of the
//! preparation what only uses programs of the image and files of root's (`cd`, `source` of the
//! environment, `git`); every other command (`pip install`, `make`, whatever is not known) is run by
//! the user of the tests, who can make files in the repository and change none. What such a command
//! leaves (processes, files that reach for the run, packages that the repository does not have) is
//! taken away before anything else runs. The tests are a stage of their own, whose output and exit
//! status only the engine has. Pure, but for the parser of the shell's grammar.

pub mod results;

use tree_sitter::{Node, Parser};

use crate::grade::test_config;
use crate::tree::Change;

use super::marks::{NOT_READY, NOT_READY_MARK};
use super::script::{END, START};
use super::shell;

use results::Results;

/// The user and group that the model's code runs as.
pub const USER: u32 = 65534;

/// The functions that root's script calls.
const ROOT: &str = include_str!("strict/root.sh");

/// Tries the tools that root's library and the list of changes use.
const READY: &str = include_str!("strict/ready.sh");

/// What the user's shells begin with: they take over the state of root's.
const STATE: &str = "{ . /imgforge-state; . /imgforge-home.sh; . /imgforge-settings.sh; } \
                     >/dev/null 2>&1\n";

/// Files of the container.
pub const BEFORE: &str = "/imgforge-before.sh";
/// See [`BEFORE`].
pub const TESTS: &str = "/imgforge-tests.sh";
/// The changes of the model patch, each as its letter, a blank and the path, with a NUL after it.
pub const CHANGES: &str = "/imgforge-changes";
/// The paths that the test patch is about, each with a NUL after it.
const TEST_PATHS: &str = "/imgforge-tests-paths";

/// Commands of the shell, and programs, that change nothing but the shell itself.
const PLAIN: [&str; 38] = [
    ":", "true", "false", "cd", "pushd", "popd", "set", "shopt", "ulimit", "umask", "alias",
    "unalias", "echo", "printf", "test", "[", "wait", "exit", "return", "shift", "read", "hash",
    "type", "command", "trap", "local", "let", "sleep", "date", "which", "pwd", "id", "whoami",
    "uname", "nproc", "basename", "dirname", "break",
];

/// Programs that read and write files, which root runs as long as nothing else has run.
const FILES: [&str; 33] = [
    "sed",
    "cp",
    "mv",
    "rm",
    "mkdir",
    "rmdir",
    "touch",
    "chmod",
    "chown",
    "ln",
    "cat",
    "tee",
    "ls",
    "grep",
    "head",
    "tail",
    "sort",
    "cut",
    "tr",
    "wc",
    "readlink",
    "realpath",
    "locale-gen",
    "update-locale",
    "apt-get",
    "apt",
    "dpkg",
    "ldconfig",
    "tar",
    "unzip",
    "gunzip",
    "dos2unix",
    "update-ca-certificates",
];

/// Commands that set a shell up: they have to be run again in each one.
const SETTINGS: [&str; 16] = [
    "source",
    ".",
    "eval",
    "conda",
    "mamba",
    "micromamba",
    "nvm",
    "fnm",
    "sdk",
    "rvm",
    "rbenv",
    "nodenv",
    "pyenv",
    "asdf",
    "module",
    "deactivate",
];

/// What `git` is asked for without running anything of the repository.
const GIT: [&str; 24] = [
    "add",
    "apply",
    "branch",
    "cat-file",
    "checkout",
    "clean",
    "config",
    "describe",
    "diff",
    "fetch",
    "log",
    "ls-files",
    "ls-tree",
    "mv",
    "reset",
    "restore",
    "rev-parse",
    "rm",
    "show",
    "stash",
    "status",
    "switch",
    "tag",
    "update-index",
];

/// A script in its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Separated {
    /// Root's part, in which calls stand for the commands of the user.
    before: String,
    /// The user's commands, by their numbers.
    commands: Vec<String>,
    /// The tests; `None` where the script has no markers around them.
    tests: Option<String>,
    /// The files of results that they write.
    results: Results,
}

/// A script that cannot be separated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of its script is not what `bash` reads: `{text}`")]
pub struct UnreadableScript {
    /// The line, from 1.
    pub line: usize,
    /// What stands there.
    pub text: String,
}

/// Who runs a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Root,
    User,
    /// The user, now and before every later command.
    Setting,
}

/// Separates a script that runs in the repository at `directory`.
///
/// # Errors
/// Where the part before the tests is no script of `bash`.
pub fn separate(script: &str, directory: &str) -> Result<Separated, UnreadableScript> {
    let lines: Vec<&str> = script.trim_end_matches('\n').split('\n').collect();
    let starts = shell::commands(&lines);
    let marked = |from: usize, mark: &str| {
        (from..lines.len()).find(|at| starts[*at] && lines[*at].contains(mark))
    };
    let frame = marked(0, START).and_then(|start| Some((start, marked(start, END)?)));
    let own = |line: &&&str| line.starts_with("SWEBENCH_TEST_EXIT_CODE=");
    let tests = frame.map(|(start, end)| {
        let lines: Vec<&str> = lines[start + 1..end].iter().filter(|l| !own(l)).copied().collect();
        lines.join("\n") + "\n"
    });
    let text = match frame {
        Some((start, _)) => lines[..start].join("\n") + "\n",
        None => script.to_owned(),
    };
    let mut parser = Parser::new();
    parser.set_language(&tree_sitter_bash::LANGUAGE.into()).expect("the grammar fits the parser");
    let tree = parser.parse(&text, None).expect("no limit of time is set");
    if let Some(node) = broken(tree.root_node()) {
        let line = node.start_position().row;
        let shown = text.lines().nth(line).unwrap_or_default().chars().take(80).collect();
        return Err(UnreadableScript { line: line + 1, text: shown });
    }
    let mut reader = Reader {
        text: &text,
        directory,
        functions: Vec::new(),
        commands: Vec::new(),
        before: String::new(),
        taken: 0,
        again: false,
    };
    reader.statement(tree.root_node());
    reader.before.push_str(&text[reader.taken..]);
    let results = tests.as_deref().map(Results::of).unwrap_or_default();
    Ok(Separated { before: reader.before, commands: reader.commands, tests, results })
}

/// Finds what the grammar does not know.
fn broken(node: Node<'_>) -> Option<Node<'_>> {
    if node.is_error() || node.is_missing() {
        return Some(node);
    }
    if !node.has_error() {
        return None;
    }
    (0..node.child_count()).filter_map(|at| node.child(at as u32)).find_map(broken)
}

struct Reader<'a> {
    text: &'a str,
    directory: &'a str,
    /// Functions that the script defined, whose commands are separated where they stand.
    functions: Vec<String>,
    commands: Vec<String>,
    before: String,
    /// How much of the text is in `before`.
    taken: usize,
    /// Whether what is read may run after a command that stands below it: loops and functions.
    again: bool,
}

impl<'a> Reader<'a> {
    fn of(&self, node: Node<'_>) -> &'a str {
        &self.text[node.byte_range()]
    }

    fn children<'t>(node: Node<'t>) -> impl Iterator<Item = Node<'t>> {
        (0..node.named_child_count()).filter_map(move |at| node.named_child(at as u32))
    }

    /// Reads a statement, and those in it.
    fn statement(&mut self, node: Node<'_>) {
        let again = self.again;
        let loops =
            ["function_definition", "for_statement", "c_style_for_statement", "while_statement"];
        self.again |= loops.contains(&node.kind());
        self.statement_here(node);
        self.again = again;
    }

    fn statement_here(&mut self, node: Node<'_>) {
        match node.kind() {
            "comment" | "heredoc_body" => {}
            "function_definition" => {
                if let Some(name) = node.child_by_field_name("name") {
                    self.functions.push(self.of(name).to_owned());
                }
                if let Some(body) = node.child_by_field_name("body") {
                    self.statement(body);
                }
            }
            "for_statement" | "case_statement" | "c_style_for_statement" => {
                let inner = ["do_group", "case_item", "compound_statement"];
                let head = Self::children(node).filter(|child| !inner.contains(&child.kind()));
                if head.map(|child| self.who(child)).any(|who| who != Who::Root) {
                    return self.give(node, Who::User);
                }
                for child in Self::children(node).filter(|child| inner.contains(&child.kind())) {
                    self.statement(child);
                }
            }
            "case_item" => {
                // Its patterns are no statements.
                let word = ["word", "raw_string", "string", "concatenation", "extglob_pattern"];
                for child in Self::children(node).filter(|child| !word.contains(&child.kind())) {
                    self.statement(child);
                }
            }
            "program" | "list" | "if_statement" | "elif_clause" | "else_clause"
            | "while_statement" | "do_group" | "compound_statement" | "negated_command" => {
                for child in Self::children(node) {
                    self.statement(child);
                }
            }
            _ => {
                let who = self.who(node);
                self.give(node, who);
            }
        }
    }

    /// Leaves a statement where it is, or puts a call in its place.
    fn give(&mut self, node: Node<'_>, who: Who) {
        if who == Who::Root {
            return;
        }
        let name = if who == Who::Setting { "setting" } else { "nobody" };
        let number = self.commands.len();
        self.commands.push(self.of(node).trim_end_matches('\n').to_owned());
        self.before.push_str(&self.text[self.taken..node.start_byte()]);
        self.before.push_str(&format!("{{ imgforge_{name} {number} \"$@\"; }} 2>/dev/null"));
        // A here-document ends with the end of its line.
        if self.of(node).ends_with('\n') {
            self.before.push('\n');
        }
        self.taken = node.end_byte();
    }

    /// Tells who runs a statement: root, if all commands in it are of root's.
    fn who(&self, node: Node<'_>) -> Who {
        let setting = matches!(
            node.kind(),
            "variable_assignment" | "variable_assignments" | "declaration_command"
        );
        let mut who = Who::Root;
        let mut waiting = vec![node];
        while let Some(next) = waiting.pop() {
            let found = match next.kind() {
                "command" => self.of_command(next),
                // What is written may be a link by now.
                "file_redirect" if self.is_late() && self.writes(next) => Who::User,
                _ => Who::Root,
            };
            if found != Who::Root {
                who = match found {
                    Who::Setting if next == node => Who::Setting,
                    _ if setting => Who::Setting,
                    _ => Who::User,
                };
            }
            waiting.extend(Self::children(next));
        }
        who
    }

    /// Tells whether the user's commands may have run before what is read.
    fn is_late(&self) -> bool {
        self.again || !self.commands.is_empty()
    }

    fn writes(&self, redirect: Node<'_>) -> bool {
        let text = self.of(redirect);
        let target = redirect.child_by_field_name("destination").map(|node| self.of(node));
        text.contains('>')
            && target.is_none_or(|target| {
                !target.starts_with("/dev/")
                    && !target.chars().all(|c| c.is_ascii_digit() || c == '-')
            })
    }

    fn of_command(&self, node: Node<'_>) -> Who {
        let Some(name) = node.child_by_field_name("name") else { return Who::Root };
        let text = self.of(name).trim_matches(['"', '\'']);
        let short = ["/bin/", "/usr/bin/", "/usr/sbin/", "/sbin/", "/usr/local/bin/"];
        let text = short.iter().find_map(|start| text.strip_prefix(start)).unwrap_or(text);
        let words: Vec<&str> = Self::children(node)
            .filter(|child| *child != name && child.kind() != "variable_assignment")
            .map(|child| self.of(child).trim_matches(['"', '\'']))
            .collect();
        let first = words.first().copied().unwrap_or_default();
        match text {
            "git" => {
                let sub = git_command(&words);
                if GIT.contains(&sub) { Who::Root } else { Who::User }
            }
            "source" | "." if self.is_outside(first) => Who::Root,
            "conda" | "mamba" | "micromamba" => match first {
                "activate" | "deactivate" | "shell.bash" | "shell" => Who::Root,
                _ => Who::User,
            },
            // What it runs is read as a command of its own.
            "eval" if words.len() == 1 && first.starts_with("$(conda ") => Who::Root,
            "command" if words.iter().any(|word| !word.starts_with('-')) && first != "-v" => {
                Who::User
            }
            "trap" => Who::User,
            name if PLAIN.contains(&name) => Who::Root,
            name if FILES.contains(&name) && !self.is_late() => Who::Root,
            name if self.functions.iter().any(|known| known == name) => Who::Root,
            name if SETTINGS.contains(&name) => Who::Setting,
            _ => Who::User,
        }
    }

    /// Tells whether a file is not one of the repository's.
    fn is_outside(&self, file: &str) -> bool {
        let home =
            file.starts_with("~/") || file.starts_with("$HOME/") || file.starts_with("${HOME}/");
        let below = file.strip_prefix(self.directory).is_some_and(|rest| rest.starts_with('/'));
        let plain = !file.split('/').any(|part| part == "..");
        plain && (home || file.starts_with('/') && !below && !file.starts_with("/tmp/"))
    }
}

/// Returns what `git` is asked for.
fn git_command<'a>(words: &[&'a str]) -> &'a str {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "-c" | "-C" => drop(words.next()),
            word if word.starts_with('-') => {}
            word => return word,
        }
    }
    ""
}

impl Separated {
    /// Renders what the container takes: path and content. `test_paths` are those that the test
    /// patch is about.
    pub fn files(&self, directory: &str, test_paths: &[Vec<u8>]) -> Vec<(String, Vec<u8>)> {
        let nobody = if self.commands.is_empty() { "" } else { "1" };
        let before = format!(
            "{ROOT}\n{}\nimgforge_directory={}\ncd \"$imgforge_directory\" || exit 1\n\
             imgforge_list_modules\nimgforge_restore\nimgforge_prepare\ncd /\n{}\n\
             {{ imgforge_finish \"{nobody}\"; }} 2>/dev/null\n",
            test_config::shell_function(),
            crate::quote::shell_quote(directory),
            self.before,
        );
        let mut files = vec![
            (BEFORE.to_owned(), before.into_bytes()),
            (TEST_PATHS.to_owned(), with_nul(test_paths.iter().map(Vec::as_slice))),
        ];
        for (number, command) in self.commands.iter().enumerate() {
            let text = format!("{STATE}{command}\n");
            files.push((format!("/imgforge-command-{number}.sh"), text.into_bytes()));
        }
        if let Some(tests) = &self.tests {
            let text = format!("[ -e /imgforge-state ] || exit 1\n{STATE}{tests}");
            files.push((TESTS.to_owned(), text.into_bytes()));
        }
        if self.writes_results() {
            let text = self.results.script(directory);
            files.push((results::SCRIPT.to_owned(), text.into_bytes()));
        }
        files
    }

    /// Tells whether the tests write files of results, which follow their output on its channel.
    pub fn writes_results(&self) -> bool {
        !self.results.is_empty()
    }

    /// Renders what the container runs: root's part, then `nonce` on file descriptor 4, then the tests
    /// with that as their output.
    pub fn command(&self, nonce: &str) -> String {
        let user = format!("setpriv --reuid={USER} --regid={USER} --clear-groups --no-new-privs");
        let mut text = format!("cd /\n/bin/bash {BEFORE} || exit $?\n");
        if self.tests.is_some() {
            text.push_str(&format!(
                "printf %s '{nonce}' >&4\n{user} /bin/bash {TESTS} >&4 2>&1 4>&-\ncode=$?\n\
                 {user} /bin/sh -c 'kill -KILL -1' 2>/dev/null\n"
            ));
            if self.writes_results() {
                text.push_str(&results::pass_on(&user));
            }
            text.push_str("exit $code\n");
        }
        text
    }
}

/// Renders `/bin/sh` text that ends the container with [`NOT_READY`] where its tools cannot do what
/// the rules need: without their lists nothing would be undone, and nobody would know.
pub fn ready() -> String {
    format!(
        "(\n{READY}) >/dev/null 2>&1 || {{ echo '{NOT_READY_MARK}strict evaluations need bash, \
         setpriv of util-linux, and find, xargs, sort, comm, sed and grep of GNU in it, and two \
         user ids'; exit {NOT_READY}; }}\n"
    )
}

/// Renders [`CHANGES`].
pub fn changes_file(changes: &[Change]) -> Vec<u8> {
    let lines = changes.iter().map(|change| {
        let letter = change.happened.letter();
        [letter.to_string().as_bytes(), b" ", &change.path].concat()
    });
    with_nul(lines.collect::<Vec<_>>().iter().map(Vec::as_slice))
}

fn with_nul<'a>(items: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    items.flat_map(|item| item.iter().copied().chain([0])).collect()
}

#[cfg(test)]
mod tests;
