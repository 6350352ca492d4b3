//! The script of an evaluation: the dataset's own, or one made from the catalog.
//!
//! Markers, order and the recorded exit status are those of `swebench` 5.x, so that logs can be
//! exchanged. Pure.

use std::collections::BTreeSet;

use crate::catalog::Environment;
use crate::dataset::{Instance, Patch};
use crate::patch::{touched, touched_before};
use crate::quote::shell_quote;

use super::marks::{NOT_READY, NOT_READY_MARK, TEST_PATCH_FILE};
use super::{TESTBED, shell};

/// Before the output of the tests.
pub const START: &str = ">>>>> Start Test Output";
/// After the output of the tests.
pub const END: &str = ">>>>> End Test Output";

/// Files of a test patch that are no tests.
const NOT_TESTS: [&str; 11] =
    [".json", ".png", "csv", ".txt", ".md", ".jpg", ".jpeg", ".pkl", ".yml", ".yaml", ".toml"];

/// Where a script runs.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// In an image that was built here: it has both patches applied and the repository installed.
    Built,
    /// In a published image, which has neither; the model patch is applied before the script.
    Published {
        /// Where the repository is.
        directory: &'a str,
        /// The model patch.
        model_patch: &'a Patch,
        /// Whether an installation can fetch what it needs.
        network: bool,
    },
}

/// Renders shell text that says that the image is not what the row says, and ends the script.
fn not_ready(what: &str) -> String {
    format!("{{ echo {}; exit {NOT_READY}; }}", shell_quote(&format!("{NOT_READY_MARK}{what}")))
}

/// Renders `eval.sh` from the row's own `eval_script`, or else from its environment.
pub fn eval_script(
    instance: &Instance,
    environment: Option<&Environment>,
    place: Place<'_>,
) -> Option<String> {
    let text = match (&instance.eval_script, environment) {
        (Some(own), _) => body(own),
        (None, Some(environment)) => from_environment(instance, environment, place),
        (None, None) => return None,
    };
    let directory = match place {
        Place::Built => TESTBED,
        Place::Published { directory, .. } => directory,
    };
    let lines: Vec<&str> = text.split('\n').collect();
    let commands = shell::commands(&lines);
    let marked =
        |mark: &str| (0..lines.len()).find(|at| commands[*at] && lines[*at].contains(mark));
    let (start, end) = (marked(START).unwrap_or(lines.len()), marked(END));
    let mut script = String::from("#!/bin/bash\nset -uxo pipefail\n");
    for (at, line) in lines.iter().enumerate() {
        if end == Some(at) {
            script.push_str("SWEBENCH_TEST_EXIT_CODE=$?\n");
        }
        script.push_str(line);
        if at < start && commands[at] && !continues(&lines, at) {
            let entered = shell::entered(line).filter(|entered| stays(entered, directory));
            if let Some(entered) = entered {
                script.push_str(" || ");
                script.push_str(&not_ready(&format!("the script cannot enter {entered}")));
            }
        }
        script.push('\n');
        if end == Some(at) {
            script.push_str("echo \">>>>> Test Exit Code: $SWEBENCH_TEST_EXIT_CODE\"\n");
        }
    }
    Some(script)
}

/// Returns a row's own script without its first two lines, which every script here has. All else
/// stays to the byte, here-documents above all; only a script that was saved with CRLF throughout
/// loses it, which no shell takes.
fn body(own: &str) -> String {
    let own = own.trim_start_matches(['\n', '\r']).trim_end();
    let whole = match own.lines().count() > 1
        && own.split('\n').rev().skip(1).all(|line| line.ends_with('\r'))
    {
        true => own.replace("\r\n", "\n"),
        false => own.to_owned(),
    };
    let rest = whole.strip_prefix("#!/bin/bash\n").unwrap_or(&whole);
    rest.strip_prefix("set -uxo pipefail\n").unwrap_or(rest).to_owned()
}

/// Tells whether a line belongs to the command of the line before it.
fn continues(lines: &[&str], at: usize) -> bool {
    let before = at.checked_sub(1).map_or("", |before| lines[before].trim_end());
    before.ends_with(['\\', '|', '&'])
}

/// Tells whether a directory is one that no patch can take away: what is below the repository may
/// be gone, and then the patch is at fault.
fn stays(entered: &str, directory: &str) -> bool {
    let plain = entered.trim_matches(['"', '\'']);
    let below = plain.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'));
    !below && plain.starts_with(['/', '$', '~'])
}

/// Renders the script of a row that has none, as `swebench` 4.1 does.
///
/// An image that was built here has the patches applied and the repository installed; only an
/// installation that copies it is made again.
fn from_environment(instance: &Instance, environment: &Environment, place: Place<'_>) -> String {
    let activate = ["source /opt/miniconda3/bin/activate", "conda activate testbed"];
    let published = matches!(place, Place::Published { .. });
    let directory = match place {
        Place::Built => TESTBED.to_owned(),
        Place::Published { directory, .. } => shell_quote(directory),
    };
    let mut lines: Vec<String> = activate.map(str::to_owned).to_vec();
    lines.push(format!("cd {directory}"));
    lines.extend(environment.eval_commands.iter().cloned());
    lines.push(format!("git config --global --add safe.directory {directory}"));
    lines.push(format!("cd {directory}"));
    lines.extend(["git status".to_owned(), "git show".to_owned()]);
    lines.push(format!("git -c core.fileMode=false diff {}", instance.base_commit));
    lines.extend(activate.map(str::to_owned));
    // Rows of SWE-rebench say so of their own commands.
    let locale = match published && instance.install_config.is_some() {
        true => "LANG=C.UTF-8 LC_ALL=C.UTF-8 ",
        false => "",
    };
    for command in &environment.install {
        match place {
            Place::Built if copies(command) => lines.push(command.clone()),
            Place::Built => {}
            Place::Published { network, model_patch, .. } => {
                let mut line = format!("{locale}{command}");
                // Without a network an installation may fail that succeeds with one, and then the
                // tests see what the image was published with.
                if !network && (copies(command) || is_built(&[model_patch, &instance.test_patch])) {
                    line.push_str(" || ");
                    line.push_str(&not_ready(
                        "the installation fails, and it had no network to fetch from",
                    ));
                }
                lines.push(line);
            }
        }
    }
    let reset = match touched_before(instance.test_patch.as_bytes()).as_slice() {
        [] => "echo \"No test files to reset\"".to_owned(),
        paths => {
            let paths: Vec<String> =
                paths.iter().map(|path| shell_quote(&String::from_utf8_lossy(path))).collect();
            format!("git checkout {} {}", instance.base_commit, paths.join(" "))
        }
    };
    if published {
        lines.push(reset.clone());
        lines.extend(apply_tests(&instance.test_patch));
    }
    lines.push(format!(": '{START}'"));
    let mut command = format!("{locale}{}", environment.test_command);
    for directive in directives(instance) {
        command.push(' ');
        command.push_str(&shell_quote(&directive));
    }
    lines.push(command);
    lines.push(format!(": '{END}'"));
    if published {
        lines.push(reset);
    }
    lines.join("\n")
}

/// Renders the command that applies the test patch, which stands in it to the byte. Its files are
/// as they were at the base commit: where it does not apply, the image is not the row's.
fn apply_tests(test_patch: &Patch) -> Option<String> {
    let not_ready = not_ready("the test patch does not apply to it");
    let bytes = test_patch.non_blank()?;
    let Ok(test_patch) = std::str::from_utf8(bytes.as_bytes()) else {
        return Some(format!("git apply -v {TEST_PATCH_FILE} || {not_ready}"));
    };
    let mut end = "EOF_114329324912".to_owned();
    while test_patch.lines().any(|line| line == end) {
        end.push('_');
    }
    let newline = if test_patch.ends_with('\n') { "" } else { "\n" };
    Some(format!("git apply -v - <<'{end}' || {not_ready}\n{test_patch}{newline}{end}"))
}

/// Returns the test patch where it comes as a file: a script is text, and this patch is not.
pub fn test_patch_file(instance: &Instance, place: Place<'_>) -> Option<Patch> {
    let made = matches!(place, Place::Published { .. }) && instance.eval_script.is_none();
    let patch = instance.test_patch.non_blank().filter(|_| made)?;
    std::str::from_utf8(patch.as_bytes()).is_err().then_some(patch)
}

/// Tells whether an installation copies the repository, so that tests do not see later changes.
fn copies(command: &str) -> bool {
    let mut words = command.split_whitespace();
    !words.any(|word| matches!(word, "-e" | "--editable" | "develop"))
}

/// Tells whether patches change what an installation compiles or registers.
fn is_built(patches: &[&Patch]) -> bool {
    const SOURCES: [&str; 10] =
        [".c", ".cc", ".cpp", ".h", ".hpp", ".pyx", ".pxd", ".pxi", ".f", ".rs"];
    const RECIPES: [&str; 4] = ["setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in"];
    let paths = patches.iter().flat_map(|patch| touched(patch.as_bytes()).paths);
    paths.into_iter().any(|path| {
        let path = String::from_utf8_lossy(&path);
        SOURCES.iter().any(|end| path.ends_with(end)) || RECIPES.contains(&&*path)
    })
}

/// Renders shell text that enters the repository, or ends the container with [`NOT_READY`]. A
/// published image may have the repository in its own working directory: there `/testbed` is made to
/// lead to it.
pub fn enter(place: Place<'_>, instance: &Instance) -> String {
    let directory = match place {
        Place::Built => TESTBED,
        Place::Published { directory, .. } => directory,
    };
    let quoted = shell_quote(directory);
    let failure = not_ready(&format!("it has no directory {directory}"));
    if matches!(place, Place::Built) || directory != TESTBED || instance.workdir.is_some() {
        return format!("cd {quoted} || {failure}\n");
    }
    let commit = &instance.base_commit;
    format!(
        "if ! cd {quoted} 2>/dev/null; then\n\
         [ \"$(git rev-parse --show-toplevel)\" = \"$(pwd -P)\" ] \
         && git cat-file -e '{commit}^{{commit}}' && ln -s \"$(pwd -P)\" {quoted} && cd {quoted} \
         || {failure}\nfi\n"
    )
}

/// Lists the tests that the test patch is about, as the test command wants them named.
fn directives(instance: &Instance) -> Vec<String> {
    let paths = touched(instance.test_patch.as_bytes()).kept;
    let paths = paths.iter().map(|path| String::from_utf8_lossy(path).into_owned());
    let tests = paths.filter(|path| !NOT_TESTS.iter().any(|end| path.ends_with(end)));
    if instance.repo != "django/django" {
        return tests.collect();
    }
    tests
        .map(|path| {
            let path = path.strip_suffix(".py").unwrap_or(&path);
            path.strip_prefix("tests/").unwrap_or(path).replace('/', ".")
        })
        .collect()
}

/// Renders shell text that brings the files of the test patch back to the base commit, where the
/// script patches them: tests win over what a model did to them. In a published image a row's own
/// script finds what the harness would show it.
pub fn reset_tests(instance: &Instance, place: Place<'_>) -> Option<String> {
    if instance.eval_script.is_some() != matches!(place, Place::Built) {
        return None;
    }
    let paths = touched(instance.test_patch.as_bytes()).paths;
    let names: Vec<String> =
        paths.iter().map(|path| shell_quote(&String::from_utf8_lossy(path))).collect();
    if names.is_empty() {
        return None;
    }
    Some(reset(&instance.base_commit, &names))
}

/// Renders shell text that brings the files of the expected tests back to the base commit, as
/// SWE-smith does, but for those that the test patch is about.
pub fn restore_tests(instance: &Instance) -> Option<String> {
    let patched = touched(instance.test_patch.as_bytes()).paths;
    let all = instance.FAIL_TO_PASS.iter().chain(&instance.PASS_TO_PASS);
    let files: BTreeSet<&str> = all
        .filter_map(|test| test.split_once("::").map(|(file, _)| file))
        .filter(|file| !patched.contains(file.as_bytes()))
        .collect();
    let quoted: Vec<String> = files.into_iter().map(shell_quote).collect();
    (!quoted.is_empty()).then(|| reset(&instance.base_commit, &quoted))
}

/// Renders shell text that brings paths back to `commit`; what is not there is removed. Without the
/// commit it ends with [`NOT_READY`].
pub fn reset(commit: &str, quoted: &[String]) -> String {
    format!(
        "git cat-file -e '{commit}^{{commit}}' || exit {NOT_READY}\nfor path in {}; do\n\
         if git cat-file -e \"{commit}:$path\"; then git checkout -q {commit} -- \"$path\"\n\
         else rm -rf -- \"$path\"; git rm -q --cached --ignore-unmatch -- \"$path\"; fi\ndone\n",
        quoted.join(" ")
    )
}

#[cfg(test)]
mod tests;
