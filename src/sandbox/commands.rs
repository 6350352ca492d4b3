//! Which programs a sandbox starts by name. It is a lint, not a border: the sandbox is that.

/// The programs that [`Sandbox::run`](super::Sandbox::run) starts, by name.
///
/// With `python` or `git` anything can be run, so this finds slips and no attacks.
pub const ALLOWED_COMMANDS: [&str; 18] = [
    "cat", "chmod", "cp", "diff", "find", "git", "grep", "head", "ls", "mkdir", "mv", "patch",
    "pip", "pytest", "python", "python3", "tail", "wc",
];

/// Why a command is not started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAllowed {
    /// There is no program.
    #[error("Empty command")]
    Empty,
    /// A word has a zero byte, which no program can get.
    #[error("A command cannot have NUL bytes")]
    ZeroByte,
    /// The program is none of [`ALLOWED_COMMANDS`], or a path outside of `PATH`.
    #[error(
        "Command '{0}' is not in the allowed command whitelist: {list}",
        list = ALLOWED_COMMANDS.join(", ")
    )]
    Program(String),
}

/// Checks the first word of a command: a name, or a path in one of the directories `path`.
pub(super) fn check(command: &[String], path: &[String]) -> Result<(), NotAllowed> {
    let program = command.first().filter(|word| !word.is_empty()).ok_or(NotAllowed::Empty)?;
    if command.iter().any(|word| word.contains('\0')) {
        return Err(NotAllowed::ZeroByte);
    }
    let (directory, name) = match program.rsplit_once('/') {
        Some(("", name)) => (Some("/"), name),
        Some((directory, name)) => (Some(directory), name),
        None => (None, program.as_str()),
    };
    let is_known = ALLOWED_COMMANDS.contains(&name);
    // `/usr/bin/../../workspace/git` is in no directory of PATH either: it is compared as it is.
    let is_in_path = directory.is_none_or(|directory| path.iter().any(|one| one == directory));
    match is_known && is_in_path {
        true => Ok(()),
        false => Err(NotAllowed::Program(program.clone())),
    }
}

/// What is searched where nothing is known of the image yet.
pub(super) const DEFAULT_PATH: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(words: &[&str]) -> Result<(), NotAllowed> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        check(&words, &["/usr/local/bin".to_owned(), "/usr/bin".to_owned()])
    }

    #[test]
    fn programs_of_the_list_are_started_by_name_or_from_path() {
        for words in [
            &["git", "log", "-1"][..],
            &["/usr/bin/git", "status"],
            &["python", "-c", "print('a; b')"],
            // There is no shell: these are arguments.
            &["ls", ";", "rm", "-rf", "/"],
        ] {
            assert_eq!(checked(words), Ok(()), "{words:?}");
        }
    }

    #[test]
    fn other_programs_are_refused() {
        for program in [
            "rm",
            "bash",
            "/workspace/evil/git",
            "./git",
            "evil/git",
            "/usr/bin/../../workspace/evil/git",
            "/usr/bin//../bin/git",
            "//usr/bin/git",
            "/git",
            "/tmp/python",
            "GIT",
            "git\n",
            "git ",
            "PATH=/workspace",
        ] {
            let refused = checked(&[program, "x"]);
            assert_eq!(refused, Err(NotAllowed::Program(program.to_owned())));
            let said = refused.unwrap_err().to_string();
            assert!(said.contains("is not in the allowed command whitelist: cat, chmod"), "{said}");
        }
        assert_eq!(checked(&[]), Err(NotAllowed::Empty));
        assert_eq!(checked(&["", "a"]), Err(NotAllowed::Empty));
        assert_eq!(checked(&["git", "a\0b"]), Err(NotAllowed::ZeroByte));
    }
}
