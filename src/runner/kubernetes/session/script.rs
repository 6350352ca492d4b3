//! The scripts around the commands of a session.
//!
//! A cluster runs a command in a container, and nothing more: it has no other user, no directory and no
//! variables for it, and its word on how it ended may be lost, or be "success" where output is missing. So
//! each command has a script around it that does this and says, on both outputs, when all was written.

use std::collections::BTreeMap;

use crate::engine::Outputs;
use crate::engine::exec_mark::MARK;

use super::super::script::OUTPUTS;

/// Runs a command: the word, the input (`-` for none, `=` for what the client holds, or a file), the user,
/// and the command line.
///
/// Its own standard output stays open to the end of the command: a runtime drops the input of a command
/// that closed its output. It is in another session than the command, which no signal to the command's
/// processes reaches.
const AROUND: &str = r#"word=$1 input=$2 user=$3
shift 3
no() {
    printf '%s!%s.' "$word" "$1"
    printf '%s!%s.' "$word" "$1" >&2
    exit 125
}
command -v setsid >/dev/null || no setsid
case $input in
-) exec </dev/null ;;
=) ;;
*) [ -r "$input" ] || no input; exec <"$input"; rm -f "$input" ;;
esac
case $user in
'' | 0 | root | 0:0 | root:root | 0:root | root:0) ;;
*)
    command -v setpriv >/dev/null || no setpriv
    name=${user%%:*} group= home=/ known= groups=--clear-groups
    case $user in *:*) group=${user#*:} ;; esac
    while IFS=: read -r one _ number own _ at _; do
        if [ "$one" = "$name" ] || [ "$number" = "$name" ]; then
            known=$one home=$at
            [ -n "$group" ] || { group=$own groups=--init-groups; }
            break
        fi
    done </etc/passwd
    [ -n "$known" ] || case $name in *[!0-9]*) no user ;; esac
    set -- setpriv --reuid "$name" --regid "${group:-0}" $groups -- env "HOME=${home:-/}" "$@"
    ;;
esac
trap : HUP INT QUIT TERM USR1 USR2 ALRM
setsid "$@"
code=$?
printf '%s%s.' "$word" "$code"
printf '%s%s.' "$word" "$code" >&2
"#;

/// Becomes the command, with its user and variables: the word, the directory, the outputs, and the command.
const WITHIN: &str = r#"word=$1 directory=$2 outputs=$3 found=
shift 3
cd -- "$directory" 2>/dev/null || { printf '%s!directory.' "$word" >&2; exit 126; }
case $1 in
*/*)
    if [ -e "$1" ]; then
        [ -x "$1" ] && [ ! -d "$1" ] || { printf '%s!access.' "$word" >&2; exit 126; }
        found=1
    fi
    ;;
*) command -v -- "$1" >/dev/null 2>&1 && found=1 ;;
esac
[ -n "$found" ] || { printf '%s!program.' "$word" >&2; exit 127; }
printf '%s+.' "$word" >&2
case $outputs in
separate) ;;
merged) exec 2>&1 ;;
*) eval "exec $outputs>&2"; exec 2>&1 ;;
esac
exec "$@"
"#;

/// Keeps what is given in a file, and says its SHA-256.
pub(super) const KEEP: &str = r#"umask 077
mkdir -p "${2%/*}" && head -c "$1" >"$2"
sha256sum <"$2" | cut -c1-64
"#;

/// Unpacks a file to a directory, with owners, modes and times.
pub(super) const UNPACK: &str = r#"[ -d "$2" ] || { rm -f "$1"; exit 44; }
tar -xpf "$1" -C "$2" --numeric-owner
code=$?
rm -f "$1"
[ $code = 0 ] || exit 45
"#;

/// Packs a path to the standard output, and says the SHA-256 of that on the other.
pub(super) const PACK: &str = r#"[ -e "$1/$2" ] || [ -L "$1/$2" ] || exit 44
umask 077
work=$3
mkdir -p "$work" && mkfifo "$work/copy" || exit 45
sha256sum <"$work/copy" >"$work/sum" &
{ tar -C "$1" -cf - --numeric-owner -- "$2" 2>"$work/said"; echo $? >"$work/code"; } | tee "$work/copy"
wait
read -r code <"$work/code"
[ "$code" = 0 ] || cat "$work/said" >&2
cut -c1-64 "$work/sum" >&2
rm -rf "$work"
[ "$code" = 0 ] || exit 45
"#;

/// The exit code of scripts where a path is not there.
pub(super) const MISSING: i32 = 44;

/// What a command is run with.
pub(super) struct Around<'a> {
    pub word: &'a str,
    pub mark: &'a str,
    pub input: &'a str,
    pub user: &'a str,
    pub directory: &'a str,
    pub outputs: &'a str,
    pub variables: &'a BTreeMap<String, String>,
    pub command: &'a [String],
}

/// Returns how the outputs are told to the script; `None` for a terminal.
pub(super) fn outputs(outputs: Outputs) -> Option<String> {
    match outputs {
        Outputs::Separate => Some("separate".to_owned()),
        Outputs::Merged => Some("merged".to_owned()),
        Outputs::MergedWithControl(number) => Some(number.to_string()),
        Outputs::Terminal(_) => None,
    }
}

/// Tells whether a shell passes a variable on: it drops those whose names are none of its own.
pub(super) fn is_name(name: &str) -> bool {
    !name.starts_with(|first: char| first.is_ascii_digit())
        && name.chars().all(|one| one.is_ascii_alphanumeric() || one == '_')
}

/// Returns a path for what is given to a command, or taken from one.
pub(super) fn path(word: &str) -> String {
    format!("{OUTPUTS}/kept/{word}")
}

impl Around<'_> {
    /// Returns the command line that a cluster is asked to run.
    pub(super) fn words(&self) -> Vec<String> {
        let mut words: Vec<String> =
            ["/bin/sh", "-c", AROUND, "sh", self.word, self.input, self.user, "env"]
                .map(str::to_owned)
                .to_vec();
        words.push(format!("{MARK}={}", self.mark));
        words.extend(self.variables.iter().map(|(name, value)| format!("{name}={value}")));
        let within = ["/bin/sh", "-c", WITHIN, "sh", self.word, self.directory, self.outputs];
        words.extend(within.map(str::to_owned));
        words.extend_from_slice(self.command);
        words
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Output};

    use super::*;

    fn run(directory: &str, outputs: &str, command: &[&str]) -> Output {
        let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
        let variables = BTreeMap::from([("A_B".to_owned(), "c d".to_owned())]);
        let around = Around {
            word: "WORD",
            mark: "m",
            input: "-",
            user: "",
            directory,
            outputs,
            variables: &variables,
            command: &command,
        };
        let words = around.words();
        Command::new(&words[0]).args(&words[1..]).output().unwrap()
    }

    fn texts(output: &Output) -> (String, String) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (text(&output.stdout), text(&output.stderr))
    }

    #[test]
    fn both_outputs_say_the_code_when_all_was_written() {
        let ran = run("/", "separate", &["sh", "-c", "env | grep '^A_B'; pwd; echo e >&2; exit 3"]);
        let expected = ("A_B=c d\n/\nWORD3.".to_owned(), "WORD+.e\nWORD3.".to_owned());
        assert_eq!(texts(&ran), expected);
        let killed = run("/", "merged", &["sh", "-c", "echo e >&2; kill -INT 0; kill -9 $$"]);
        let (out, error) = texts(&killed);
        assert!(out.starts_with("e\nWORD1"), "{out}");
        assert!(error.starts_with("WORD+.WORD1") && error.ends_with('.'), "{error}");
        let control = run("/", "9", &["sh", "-c", "echo out; echo e >&2; echo c >&9"]);
        let expected = ("out\ne\nWORD0.".to_owned(), "WORD+.c\nWORD0.".to_owned());
        assert_eq!(texts(&control), expected);
    }

    #[test]
    fn what_cannot_be_run_is_told_and_nothing_runs() {
        for (directory, program, reason) in [
            ("/none", "true", "directory"),
            ("/", "no-such-program", "program"),
            ("/", "/etc/passwd", "access"),
            ("/", "/none/there", "program"),
        ] {
            let (_, error) = texts(&run(directory, "separate", &[program]));
            assert!(error.starts_with(&format!("WORD!{reason}.WORD12")), "{program}: {error}");
        }
    }
}
