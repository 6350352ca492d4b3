//! The script of an evaluation: the dataset's own, or one made from the catalog.
//!
//! Markers, order and the recorded exit status are those of `swebench` 5.x, so that logs can be
//! exchanged. Pure.

use std::collections::BTreeSet;

use crate::catalog::Environment;
use crate::dataset::{Instance, Patch};
use crate::grade::reach::reached_paths;
use crate::grade::strict::{fence_end, fence_start};
use crate::patch::touched;

use super::{TESTBED, shell_quote};

/// Before the output of the tests.
pub const START: &str = ">>>>> Start Test Output";
/// After the output of the tests.
pub const END: &str = ">>>>> End Test Output";

/// Files of a test patch that are no tests.
const NOT_TESTS: [&str; 11] =
    [".json", ".png", "csv", ".txt", ".md", ".jpg", ".jpeg", ".pkl", ".yml", ".yaml", ".toml"];

/// Renders `eval.sh` from the row's own `eval_script`, or else from its environment.
pub fn eval_script(instance: &Instance, environment: Option<&Environment>) -> Option<String> {
    let lines: Vec<String> = match (&instance.eval_script, environment) {
        (Some(own), _) => own
            .trim()
            .split('\n')
            .map(|line| line.strip_suffix('\r').unwrap_or(line))
            .filter(|line| !matches!(*line, "#!/bin/bash" | "set -uxo pipefail"))
            .map(str::to_owned)
            .collect(),
        (None, Some(environment)) => from_environment(instance, environment),
        (None, None) => return None,
    };
    let mut script = String::from("#!/bin/bash\nset -uxo pipefail\n");
    let mut recorded = false;
    for line in lines {
        if !recorded && line.contains(END) {
            script.push_str("SWEBENCH_TEST_EXIT_CODE=$?\n");
            script.push_str(&line);
            script.push_str("\necho \">>>>> Test Exit Code: $SWEBENCH_TEST_EXIT_CODE\"\n");
            recorded = true;
        } else {
            script.push_str(&line);
            script.push('\n');
        }
    }
    Some(script)
}

/// The instance image has the patches applied and the repository installed; only an installation
/// that copies it has to be made again.
fn from_environment(instance: &Instance, environment: &Environment) -> Vec<String> {
    let activate = ["source /opt/miniconda3/bin/activate", "conda activate testbed"];
    let mut lines: Vec<String> = activate.map(str::to_owned).to_vec();
    lines.push(format!("cd {TESTBED}"));
    lines.extend(environment.eval_commands.iter().cloned());
    lines.push(format!("git config --global --add safe.directory {TESTBED}"));
    lines.push(format!("cd {TESTBED}"));
    lines.extend(["git status".to_owned(), "git show".to_owned()]);
    lines.push(format!("git -c core.fileMode=false diff {}", instance.base_commit));
    lines.extend(activate.map(str::to_owned));
    let copies = |command: &String| {
        !command.split_whitespace().any(|word| word == "-e" || word == "--editable")
    };
    lines.extend(environment.install.iter().filter(|command| copies(command)).cloned());
    lines.push(format!(": '{START}'"));
    let mut command = environment.test_command.clone();
    for directive in directives(instance) {
        command.push(' ');
        command.push_str(&shell_quote(&directive));
    }
    lines.push(command);
    lines.push(format!(": '{END}'"));
    lines
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

/// Renders shell text that brings the files which the script itself patches back to the base
/// commit, so that it finds what it would find in a bare checkout.
pub fn reset_tests(instance: &Instance) -> Option<String> {
    instance.eval_script.as_ref()?;
    let paths = touched(instance.test_patch.as_bytes()).paths;
    let names: Vec<String> =
        paths.iter().map(|path| shell_quote(&String::from_utf8_lossy(path))).collect();
    if names.is_empty() {
        return None;
    }
    Some(reset(&instance.base_commit, &names))
}

/// Renders shell text that brings back what a model patch changed of the configuration of the
/// tests, and returns the paths.
pub fn restore_configuration(
    instance: &Instance,
    model_patch: &Patch,
) -> Option<(String, Vec<String>)> {
    let tests = touched(instance.test_patch.as_bytes()).paths;
    let paths: Vec<String> = reached_paths(model_patch.as_bytes())
        .into_iter()
        .map(|(path, _)| path)
        .filter(|path| !tests.contains(path.as_bytes()))
        .collect();
    if paths.is_empty() {
        return None;
    }
    let quoted: Vec<String> = paths.iter().map(|path| shell_quote(path)).collect();
    Some((reset(&instance.base_commit, &quoted), paths))
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

/// The user that strict tests run as.
const NOBODY: &str = "setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs";

/// Renders a script whose tests run as a user without rights, between fences that only root can
/// print: `word` is one that nobody can guess. `None` where the script has no markers.
pub fn fenced(script: &str, word: &str) -> Option<String> {
    let lines: Vec<&str> = script.lines().collect();
    let start = lines.iter().position(|line| line.contains(START))?;
    let end = start + lines[start..].iter().position(|line| line.contains(END))?;
    let own = |line: &&&str| line.starts_with("SWEBENCH_TEST_EXIT_CODE=");
    let tests: Vec<&str> =
        lines[start + 1..end].iter().filter(|line| !own(line)).copied().collect();
    let rest = lines[end + 1..].iter().filter(|line| !line.contains("SWEBENCH_TEST_EXIT_CODE"));
    let mut text = lines[..start].join("\n");
    let (fence_start, fence_end) = (fence_start(word), fence_end(word));
    text.push_str(&format!(
        "\n{{ set +x; }} 2>/dev/null\n\
         cat >/imgforge-tests.sh <<'END_{word}'\n{}\nEND_{word}\n\
         mkdir -p /tmp/imgforge-home\n\
         chown -R 65534:65534 {TESTBED} /tmp/imgforge-home 2>/dev/null\n\
         echo '{fence_start}'\n\
         HOME=/tmp/imgforge-home {NOBODY} /bin/bash -uxo pipefail /imgforge-tests.sh\n\
         code=$?\n\
         {NOBODY} /bin/sh -c 'kill -KILL -1' 2>/dev/null\n\
         echo '{fence_end}'$code\n",
        tests.join("\n"),
    ));
    for line in rest {
        text.push_str(line);
        text.push('\n');
    }
    Some(text)
}

/// Renders shell text that brings paths back to `commit`; what is not there is removed.
pub fn reset(commit: &str, quoted: &[String]) -> String {
    format!(
        "cd {TESTBED}\nfor path in {}; do\n\
         if git cat-file -e \"{commit}:$path\"; then git checkout -q {commit} -- \"$path\"\n\
         else rm -rf -- \"$path\"; git rm -q --cached --ignore-unmatch -- \"$path\"; fi\ndone\n",
        quoted.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEST_PATCH: &str = "diff --git a/tests/a_test.py b/tests/a_test.py\n\
        --- a/tests/a_test.py\n+++ b/tests/a_test.py\n@@ -1 +1 @@\n-a\n+b\n\
        diff --git a/tests/data.json b/tests/data.json\n--- a/tests/data.json\n+++ b/tests/data.json\n\
        @@ -1 +1 @@\n-a\n+b\n";

    fn instance() -> Instance {
        Instance {
            instance_id: "a__b-1".into(),
            repo: "a/b".into(),
            base_commit: "c".repeat(40),
            test_patch: TEST_PATCH.into(),
            ..Instance::default()
        }
    }

    #[test]
    fn the_rows_own_script_gets_the_exit_status_recorded_as_the_harness_does() {
        let own = "#!/bin/bash\nset -uxo pipefail\ncd /testbed\n: '>>>>> Start Test Output'\n\
                   pytest\n: '>>>>> End Test Output'\ngit checkout x\n\n";
        let instance = Instance { eval_script: Some(own.into()), ..instance() };
        insta::assert_snapshot!(eval_script(&instance, None).unwrap(), @r#"
        #!/bin/bash
        set -uxo pipefail
        cd /testbed
        : '>>>>> Start Test Output'
        pytest
        SWEBENCH_TEST_EXIT_CODE=$?
        : '>>>>> End Test Output'
        echo ">>>>> Test Exit Code: $SWEBENCH_TEST_EXIT_CODE"
        git checkout x
        "#);
        assert!(reset_tests(&instance).unwrap().contains("for path in tests/a_test.py"));
    }

    #[test]
    fn data_files_of_a_test_patch_are_not_named_to_the_test_command() {
        assert_eq!(directives(&instance()), ["tests/a_test.py"]);
        let django = Instance {
            repo: "django/django".into(),
            test_patch: TEST_PATCH.replace("a_test", "x/tests").into(),
            ..instance()
        };
        assert_eq!(directives(&django), ["x.tests"]);
    }

    #[test]
    fn strict_tests_run_as_nobody_between_fences() {
        let own = "cd /testbed\n: '>>>>> Start Test Output'\npytest a\n: '>>>>> End Test Output'\n\
                   git checkout x\n";
        let instance = Instance { eval_script: Some(own.into()), ..instance() };
        let script = eval_script(&instance, None).unwrap();
        let fenced = fenced(&script, "w").unwrap();
        assert!(!fenced.contains(">>>>>"), "{fenced}");
        let place = |text: &str| fenced.find(text).unwrap_or_else(|| panic!("{text}: {fenced}"));
        assert!(place("echo 'imgforge-fence w start'") < place("setpriv"));
        assert!(place("\npytest a\n") < place("echo 'imgforge-fence w end '$code"));
        assert!(fenced.ends_with("git checkout x\n"), "{fenced}");
    }

    #[test]
    fn configuration_that_a_patch_changes_is_brought_back_but_for_the_test_patchs_own() {
        let patch = "diff --git a/conftest.py b/conftest.py\n--- a/conftest.py\n+++ b/conftest.py\n\
                     @@ -1 +1 @@\n-a\n+b\n";
        let (text, paths) = restore_configuration(&instance(), &patch.into()).unwrap();
        assert_eq!(paths, ["conftest.py"]);
        assert!(text.contains("git checkout -q"), "{text}");
        let own = Instance { test_patch: patch.into(), ..instance() };
        assert_eq!(restore_configuration(&own, &patch.into()), None);
    }

    #[test]
    fn without_script_and_environment_there_is_nothing_to_run() {
        assert_eq!(eval_script(&instance(), None), None);
        assert_eq!(reset_tests(&instance()), None);
    }
}
