//! The command line as a whole: headings of options, examples, and what is shown where. The options
//! themselves are beside their commands.

use std::fmt::Write as _;

use clap::{Command, CommandFactory as _};

use super::{Cli, complete, variables};

/// What options stand under.
pub(super) mod heading {
    /// Which instances.
    pub(crate) const DATASET: &str = "Dataset";
    /// How tests are run, and of what.
    pub(crate) const RUN: &str = "Run";
    /// What a run may use.
    pub(crate) const LIMITS: &str = "Limits";
    /// Which images are built, and how.
    pub(crate) const BUILD: &str = "Build";
    /// Where repositories and published images come from.
    pub(crate) const SOURCES: &str = "Sources";
    /// Images that go to others and come from them.
    pub(crate) const SHARING: &str = "Sharing";
    /// What is written, and where to.
    pub(crate) const OUTPUT: &str = "Output";
    /// What is taken because scripts of the harness pass it.
    pub(crate) const SWEBENCH: &str = "Swebench";
    /// Options of every command.
    pub(crate) const GLOBAL: &str = "Global";
}

/// Examples of each command, by its path.
const EXAMPLES: &[(&str, &[(&str, &str)])] = &[
    (
        "",
        &[
            ("imgforge doctor", "can this machine do it?"),
            ("imgforge eval -d demo -p gold", "a small bundled dataset, from nothing"),
            ("imgforge plan -d lite", "what would be built?"),
            ("imgforge eval -d lite -p preds.jsonl --run-id first", "build, run, grade, report"),
        ],
    ),
    (
        "plan",
        &[
            ("imgforge plan -d lite", "what would be built?"),
            ("imgforge plan -d lite --repo django/django --explain", "and why?"),
            ("imgforge plan -d lite --namespace swebench", "what would be pulled?"),
            ("imgforge plan -d lite --format dot", "as a graph"),
        ],
    ),
    (
        "build",
        &[
            ("imgforge build -d lite", "all images of all 300 instances"),
            ("imgforge build -d lite -i pallets__flask-4045 -j 4", "those of one, four at once"),
            ("imgforge build -d verified --layers base,env", "without the checkouts"),
            ("imgforge build -d lite --namespace swebench", "pull the published ones"),
            ("imgforge build -d demo --bootstrap", "bases from Debian's packages, not a registry"),
        ],
    ),
    (
        "prewarm",
        &[
            (
                "imgforge prewarm -d lite --from ghcr.io/me/images",
                "pull, and build what is missing",
            ),
            ("imgforge prewarm -d lite --from lite.tar --no-build", "say what is missing"),
        ],
    ),
    (
        "eval",
        &[
            ("imgforge eval -d lite -p preds.jsonl --run-id first", "build, run, grade, report"),
            ("imgforge eval -d lite -p gold -p empty --run-id both", "two models at once"),
            ("imgforge eval -d lite -p preds.jsonl -i sympy__sympy-20590 -t 600", "one instance"),
            ("imgforge eval -d lite -p preds.jsonl --strict --fail-on-suspicion", "trust nobody"),
            (
                "imgforge eval -d lite -p preds.jsonl --runner kubernetes --cache-registry ghcr.io/me",
                "as pods of a cluster",
            ),
        ],
    ),
    (
        "run",
        &[
            ("imgforge run -d lite sympy__sympy-20590 -- git log -1", "a command in its image"),
            ("imgforge run -d lite -p preds.jsonl sympy__sympy-20590 pytest", "with a prediction"),
            ("imgforge run -d demo imgforge__abacus-1 cat setup.py > setup.py", "with pipes"),
        ],
    ),
    (
        "shell",
        &[
            ("imgforge shell -d lite sympy__sympy-20590", "look around; nothing of it stays"),
            ("imgforge shell -d lite sympy__sympy-20590 -p gold --network host", "and reach out"),
        ],
    ),
    (
        "session start",
        &[
            (
                "imgforge session start -d lite -i sympy__sympy-20590 --name fix",
                "in the image of an instance, without its tests",
            ),
            (
                "imgforge session start -d demo -i imgforge__abacus-1 --ttl 2h --idle 30m",
                "until its time is over, or nobody uses it",
            ),
            (
                "imgforge session start -d demo -i imgforge__abacus-1 --swerex",
                "for SWE-agent: what its RemoteDeployment needs",
            ),
        ],
    ),
    (
        "session exec",
        &[
            ("imgforge session exec fix -- git log -1", "a command, and its status"),
            ("imgforge session exec --timeout 10m fix pytest -q", "killed after ten minutes"),
            ("imgforge session exec --json fix pytest -q", "its end and outputs, for a program"),
        ],
    ),
    (
        "session shell",
        &[
            ("imgforge session shell fix", "look around; `exit` leaves the session running"),
            ("imgforge session shell fix -u root -w /tmp", "as another user, elsewhere"),
        ],
    ),
    (
        "session cp",
        &[
            ("imgforge session cp notes.txt fix:/tmp/", "into the session"),
            ("imgforge session cp fix:/testbed/src .", "and out of it"),
        ],
    ),
    ("session diff", &[("imgforge session diff fix", "A added, C changed, D deleted")]),
    (
        "session patch",
        &[
            ("imgforge session patch fix", "what was changed since it began"),
            ("imgforge session patch fix -o fix.patch --no-untracked", "without new files"),
        ],
    ),
    (
        "session apply",
        &[
            ("imgforge session apply fix fix.patch", "all of it, or nothing"),
            ("imgforge session apply fix fix.patch -R", "take it back"),
        ],
    ),
    (
        "session grade",
        &[
            ("imgforge session grade fix", "do the tests of the instance pass?"),
            (
                "imgforge session grade fix --model mine -- --strict --run-id first",
                "with options of `imgforge eval`",
            ),
        ],
    ),
    (
        "session checkpoint",
        &[
            ("imgforge session checkpoint fix", "a copy of its files; what runs goes on"),
            ("imgforge session checkpoint fix --move", "no copy; what runs ends"),
            (
                "imgforge session checkpoint fix --tag registry.example/fixes:1",
                "and an image, to push or to export",
            ),
        ],
    ),
    (
        "session fork",
        &[
            ("imgforge session fork 0123456789ab -n 4", "four sessions from a checkpoint"),
            ("imgforge session fork fix --name try", "one from what `fix` has now"),
        ],
    ),
    (
        "session reset",
        &[
            ("imgforge session reset fix", "back to its image"),
            ("imgforge session reset fix --to 0123456789ab", "back to a checkpoint"),
        ],
    ),
    (
        "session rm",
        &[
            ("imgforge session rm 0123456789ab", "one checkpoint"),
            ("imgforge session rm --all", "all checkpoints"),
        ],
    ),
    (
        "session network",
        &[
            ("imgforge session network fix", "what may it reach, and what was denied?"),
            ("imgforge session network fix --allow pypi.org", "this host, and no other"),
            ("imgforge session network fix --none", "nothing from now on"),
        ],
    ),
    ("session stats", &[("imgforge session stats fix", "processor, memory, disk")]),
    ("session ps", &[("imgforge session ps fix", "what runs in it?")]),
    (
        "session ls",
        &[
            ("imgforge session ls", "which live?"),
            ("imgforge session ls --all", "and why did others end?"),
            ("imgforge session ls --checkpoints", "and what can be forked?"),
        ],
    ),
    (
        "session stop",
        &[
            ("imgforge session stop fix", "end it; nothing of it stays"),
            ("imgforge session stop --all", "end all"),
        ],
    ),
    // Nobody types it.
    ("session keep", &[]),
    (
        "sandbox",
        &[
            ("imgforge sandbox --image IMAGE -- python -c 'print(1)'", "a command"),
            (
                "imgforge sandbox --image IMAGE --repo . --commit COMMIT --tests tests/test_a.py",
                "do these tests pass?",
            ),
            (
                "imgforge sandbox --image IMAGE --repo pallets/flask --commit COMMIT --patch a.diff --tests t.py::a",
                "and with a patch?",
            ),
        ],
    ),
    (
        "serve",
        &[
            (
                "imgforge serve --docker-api --background --print-env",
                "for eval: `docker` runs on imgforge",
            ),
            ("imgforge serve --docker-api unix:///run/me/docker.sock", "in the foreground"),
            ("imgforge serve stop", "end it, and its containers"),
            ("imgforge serve --swerex 127.0.0.1:8000", "the sessions, for SWE-ReX"),
            ("imgforge serve --stdio", "sessions for a program, on its pipe"),
        ],
    ),
    (
        "smoke",
        &[
            ("imgforge smoke --config smoke.toml", "all stages, and what they came to"),
            ("imgforge smoke --config smoke.yaml --artifacts out --json", "for a program"),
            ("imgforge smoke --config smoke.toml --dry-run", "what would compat fixes do?"),
            ("imgforge smoke --config smoke.toml --keep", "then look around in the sandbox"),
        ],
    ),
    (
        "smoke report",
        &[
            ("imgforge smoke report out", "the last run below this directory"),
            ("imgforge smoke report out/20260131-153000-1f3a --json", "this one, for a program"),
        ],
    ),
    (
        "grade",
        &[
            (
                "imgforge grade --log test_output.txt --parser parse_log_pytest",
                "the tests of a log",
            ),
            (
                "imgforge grade --log test_output.txt -d lite -i sympy__sympy-20590 --json",
                "is it resolved?",
            ),
        ],
    ),
    (
        "report",
        &[
            ("imgforge report first", "grade the logs of a run again"),
            ("imgforge report second --against first", "what was gained and lost"),
        ],
    ),
    (
        "dataset ls",
        &[("imgforge dataset ls -d lite --repo django/django", "their ids, versions and commits")],
    ),
    ("dataset show", &[("imgforge dataset show pallets__flask-4045 -d lite", "one row")]),
    (
        "dataset check",
        &[
            ("imgforge dataset check -d mine.jsonl", "are all rows good?"),
            ("imgforge dataset check -d mine.jsonl --gold", "do their own patches resolve them?"),
        ],
    ),
    (
        "lock",
        &[("imgforge lock me/project 1.0 --date 2024-10-15 -o locks/project.txt", "as of a day")],
    ),
    (
        "cache ls",
        &[
            ("imgforge cache ls --kind env --sort size", "the largest environments"),
            ("imgforge cache ls --older-than 30", "what was not used for a month"),
        ],
    ),
    ("cache du", &[("imgforge cache du", "what takes room?")]),
    ("cache why", &[("imgforge cache why 45f203014da5", "what is it made of, and for whom?")]),
    (
        "cache gc",
        &[
            ("imgforge cache gc --keep-bytes 100GB --dry-run", "what would go?"),
            ("imgforge cache gc --keep-days 30", "remove what was not used for a month"),
        ],
    ),
    ("cache rm", &[("imgforge cache rm 45f203014da5 --recursive", "and what stands on it")]),
    (
        "cache pin",
        &[
            ("imgforge cache pin -d lite", "keep the images of a dataset"),
            ("imgforge cache pin", "what is kept?"),
        ],
    ),
    ("cache unpin", &[("imgforge cache unpin -d lite", "keep them no longer")]),
    (
        "cache verify",
        &[
            ("imgforge cache verify", "is every image whole?"),
            ("imgforge cache verify --repair", "remove what is not"),
        ],
    ),
    ("cache push", &[("imgforge cache push ghcr.io/me/images -d lite", "share images")]),
    ("cache pull", &[("imgforge cache pull ghcr.io/me/images -d lite", "take them")]),
    ("cache export", &[("imgforge cache export lite.tar -d lite", "images in one file")]),
    ("cache import", &[("imgforge cache import lite.tar", "and back")]),
    ("cache dir", &[("imgforge cache dir", "what to remove to be rid of all state")]),
    ("cache key", &[("imgforge cache key", "cosign.key, and cosign.pub for others")]),
    (
        "bundle create",
        &[("imgforge bundle create five.bundle -d lite --limit 5", "where there is a network")],
    ),
    ("bundle use", &[("imgforge bundle use five.bundle", "then `-d bundle`, without a network")]),
    (
        "base bootstrap",
        &[("imgforge base bootstrap python:3.11.10-slim-bookworm", "without a registry")],
    ),
    (
        "doctor",
        &[
            ("imgforge doctor", "what is missing, and what to do?"),
            ("imgforge doctor --offline", "without asking the network"),
        ],
    ),
    (
        "clean",
        &[
            ("imgforge clean", "remove what killed runs left"),
            ("imgforge clean --embedded", "remove all images of the embedded engine"),
        ],
    ),
    (
        "completions",
        &[(
            "imgforge completions bash > ~/.local/share/bash-completion/completions/imgforge",
            "names of commands and options",
        )],
    ),
    (
        "man",
        &[
            ("imgforge man > ~/.local/share/man/man1/imgforge.1", "then `man imgforge`"),
            ("imgforge man ~/.local/share/man/man1", "and `man imgforge-eval`"),
        ],
    ),
    ("parsers", &[("imgforge parsers", "the names that `grade --parser` takes")]),
    (
        "schema",
        &[
            ("imgforge schema", "which are there?"),
            ("imgforge schema cache-ls", "what does `imgforge cache ls --json` print?"),
            ("imgforge schema events > events.schema.json", "for a validator"),
        ],
    ),
    (
        "config show",
        &[
            ("imgforge config show", "what is set, and where?"),
            ("imgforge config show --all --json", "every setting, for programs"),
        ],
    ),
];

/// What follows the options of the command line itself.
pub(super) const MORE: &str = "\
Options are read from IMGFORGE_… variables as well: IMGFORGE_ENGINE=docker, IMGFORGE_JSON=1. A flag wins \
over its variable, and that over images.toml; `imgforge config show` says what counts.

Completions of datasets, instances, runs, parsers and keys as well: `source <(COMPLETE=bash imgforge)` in \
~/.bashrc, and so for zsh; `COMPLETE=fish imgforge | source` for fish.";

/// Options of every command that mean nothing to some: they are taken there, and not listed.
const MEANINGLESS: &[(&str, &[&str])] = &[
    ("plan", &["output_dir"]),
    ("grade", &["config", "overlay", "engine", "output_dir", "verbose"]),
    ("report", &["engine", "verbose"]),
    ("dataset ls", &["config", "overlay", "engine", "output_dir", "verbose"]),
    ("dataset show", &["config", "overlay", "engine", "output_dir", "verbose"]),
    ("lock", &["engine", "output_dir", "verbose"]),
    ("cache ls", &["output_dir", "offline", "verbose"]),
    ("cache du", &["output_dir", "offline", "verbose"]),
    ("cache why", &["output_dir", "offline", "verbose"]),
    ("cache gc", &["output_dir", "offline", "verbose"]),
    ("cache rm", &["output_dir", "offline", "verbose"]),
    ("cache pin", &["output_dir", "verbose"]),
    ("cache unpin", &["output_dir", "verbose"]),
    ("cache verify", &["output_dir", "offline", "verbose"]),
    ("cache push", &["output_dir", "offline", "verbose"]),
    ("cache pull", &["output_dir", "offline", "verbose"]),
    ("cache export", &["output_dir", "verbose"]),
    ("cache import", &["output_dir", "verbose"]),
    ("cache dir", &["config", "overlay", "engine", "output_dir", "offline", "quiet", "verbose"]),
    (
        "cache key",
        &["config", "overlay", "state_dir", "output_dir", "offline", "engine", "verbose"],
    ),
    ("bundle use", &["config", "overlay", "engine", "output_dir", "offline", "verbose"]),
    ("base bootstrap", &["output_dir"]),
    ("doctor", &["output_dir", "verbose"]),
    ("clean", &["output_dir", "offline", "verbose"]),
    ("run", &["json"]),
    ("shell", &["json"]),
    ("session shell", &["json"]),
    ("session cp", &["json"]),
    ("session apply", &["json"]),
    // It prints what `eval` prints.
    ("session grade", &["json"]),
    ("session keep", &["json"]),
    ("serve", &["output_dir", "json", "verbose"]),
    ("smoke", &["output_dir", "verbose"]),
    (
        "smoke report",
        &["config", "overlay", "state_dir", "output_dir", "offline", "engine", "verbose"],
    ),
    (
        "man",
        &["config", "overlay", "state_dir", "output_dir", "offline", "engine", "json", "verbose"],
    ),
    ("parsers", &["config", "overlay", "state_dir", "output_dir", "offline", "engine", "verbose"]),
    ("schema", &["config", "overlay", "state_dir", "output_dir", "offline", "engine", "verbose"]),
    (
        "completions",
        &[
            "config",
            "overlay",
            "state_dir",
            "output_dir",
            "offline",
            "engine",
            "json",
            "quiet",
            "verbose",
        ],
    ),
];

/// Commands whose options have a variable each. Others remove something, or are about one thing that
/// is named every time.
const WITH_VARIABLES: [&str; 6] = ["plan", "build", "prewarm", "eval", "dataset", "config"];

/// Takes `-1` after an option for a number as its value, so that the error is about the number: the
/// parser reads it as an option that does not exist otherwise.
fn negative_as_values(command: Command) -> Command {
    let command =
        command.mut_args(|arg| match !arg.is_positional() && arg.get_action().takes_values() {
            true => arg.allow_negative_numbers(true),
            false => arg,
        });
    command.mut_subcommands(negative_as_values)
}

/// Makes the command line as it is parsed and shown.
pub fn command() -> Command {
    let command = variables::named(Cli::command(), &WITH_VARIABLES);
    let command = complete::with_candidates(variables::readable(negative_as_values(command)));
    let mut command = with_examples(command, "");
    for (path, ids) in MEANINGLESS {
        let hidden: Vec<_> = command
            .get_arguments()
            .filter(|arg| ids.contains(&arg.get_id().as_str()))
            .map(|arg| arg.clone().hide(true))
            .collect();
        let path: Vec<&str> = path.split(' ').collect();
        command = at(command, &path, &|command| command.args(hidden.iter().cloned()));
    }
    command
}

/// Changes the command at a path.
fn at(command: Command, path: &[&str], change: &dyn Fn(Command) -> Command) -> Command {
    match path {
        [] => change(command),
        // Unlike `mut_subcommand` this keeps the order.
        [name, rest @ ..] => command.mut_subcommands(|command| match command.get_name() == *name {
            true => at(command, rest, change),
            false => command,
        }),
    }
}

/// Returns the examples of the command at a path, each with what it is for.
pub(super) fn examples(path: &str) -> &'static [(&'static str, &'static str)] {
    EXAMPLES.iter().find(|(of, _)| *of == path).map_or(&[], |(_, examples)| *examples)
}

/// Adds its examples to a command and to those below it.
fn with_examples(command: Command, path: &str) -> Command {
    let command = match examples(path) {
        [] => command,
        examples => {
            let mut text = section(&command, "Examples", examples);
            if path.is_empty() {
                let _ = write!(text, "\n{MORE}\n");
            }
            command.after_help(text)
        }
    };
    command.mut_subcommands(|command| {
        let path = format!("{path} {}", command.get_name()).trim().to_owned();
        with_examples(command, &path)
    })
}

/// Writes a section as the parser writes those of options.
fn section(command: &Command, title: &str, lines: &[(&str, &str)]) -> String {
    let styles = command.get_styles();
    let (header, literal) = (styles.get_header(), styles.get_literal());
    let mut text = format!("{header}{title}:{header:#}\n");
    for (line, what) in lines {
        // A long example has its purpose on a line of its own.
        let gap = match line.len() {
            0..56 => " ".repeat(58 - line.len()),
            _ => format!("\n{}", " ".repeat(10)),
        };
        let _ = writeln!(text, "  {literal}{line}{literal:#}{gap}{what}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lists the paths of the commands that do something without a command below them.
    fn leaves(command: &Command, path: &str) -> Vec<String> {
        let own = !command.has_subcommands() || !command.is_subcommand_required_set();
        let mut found: Vec<String> = own.then(|| path.to_owned()).into_iter().collect();
        for one in command.get_subcommands() {
            found.extend(leaves(one, format!("{path} {}", one.get_name()).trim()));
        }
        found
    }

    #[test]
    fn the_command_line_holds_together() {
        command().debug_assert();
    }

    #[test]
    fn every_command_has_examples_and_they_parse() {
        let mut paths: Vec<&str> = EXAMPLES.iter().map(|(path, _)| *path).collect();
        assert_eq!(paths.remove(0), "");
        assert_eq!(paths, leaves(&command(), ""));
        for (path, examples) in EXAMPLES {
            for (line, _) in *examples {
                assert!(line.starts_with(format!("imgforge {path}").trim()), "{line}");
                let line = line.split(" > ").next().unwrap();
                let words = line.split(' ');
                command().try_get_matches_from(words).unwrap_or_else(|error| panic!("{error}"));
            }
        }
    }

    /// Returns the help of a command.
    fn help_of(path: &str) -> String {
        let words = ["imgforge"].into_iter().chain(path.split(' ')).chain(["--help"]);
        let error = command().try_get_matches_from(words.filter(|word| !word.is_empty()));
        error.unwrap_err().render().to_string()
    }

    #[test]
    fn options_stand_under_headings_in_order() {
        for (path, expected) in [
            ("eval", "Dataset Run Limits Sources Sharing Build Output Swebench Global"),
            ("build", "Dataset Build Sources Sharing Output Swebench Global"),
            ("prewarm", "Dataset Build Sources Sharing Output Swebench Global"),
            ("plan", "Dataset Build Sources Sharing Output Swebench Global"),
            ("dataset check", "Dataset Run Limits Sources Sharing Build Output Global"),
            ("shell", "Arguments Dataset Run Limits Sources Sharing Build Output Global"),
            ("cache push", "Arguments Dataset Sources Sharing Global"),
        ] {
            let help = help_of(path);
            let is_heading = |line: &&str| line.ends_with(':') && !line.starts_with(' ');
            let found: Vec<&str> =
                help.lines().filter(is_heading).map(|line| line.trim_end_matches(':')).collect();
            assert_eq!(found.join(" "), format!("{expected} Examples"), "{path}");
        }
    }

    #[test]
    fn what_means_nothing_to_a_command_is_not_listed_and_taken_all_the_same() {
        for (path, ids) in MEANINGLESS {
            let help = help_of(path);
            for id in *ids {
                let long = format!("--{}", id.replace('_', "-"));
                assert!(!help.contains(&format!("{long} ")), "{path} {long}: {help}");
            }
            assert!(help.contains("--color"), "{path}");
        }
        for line in [
            "imgforge --engine embedded --state-dir /x completions bash",
            "imgforge completions bash --engine embedded --json",
            "imgforge --engine docker grade --log a --parser b -v",
        ] {
            command().try_get_matches_from(line.split(' ')).unwrap();
        }
    }

    #[test]
    fn what_is_said_before_a_command_counts_where_it_is_hidden() {
        let line = "imgforge --json grade --log a --parser b --engine docker";
        let matches = command().try_get_matches_from(line.split(' ')).unwrap();
        let cli = <Cli as clap::FromArgMatches>::from_arg_matches(&matches).unwrap();
        assert!(cli.global.json);
        assert_eq!(cli.global.engine, super::super::EngineChoice::Docker);
    }
}
