//! The rows of the demo dataset against real Python: what fails before the gold patch and passes
//! after it.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use imgforge::dataset::{Instance, demo};

/// Runs a program with `input` and returns whether it succeeded, and its standard output.
fn run(command: &mut Command, input: &str) -> (bool, String) {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let Ok(mut child) = command.spawn() else { return (false, String::new()) };
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

/// Finds a Python that has what the repositories of the demo import.
fn python() -> &'static str {
    let imports = "import attr, jinja2, pytest, yaml";
    ["python3", "/usr/bin/python3"]
        .into_iter()
        .find(|python| run(Command::new(python).args(["-c", imports]), "").0)
        .expect("no python3 has all modules: install `python3-{pytest,attr,jinja2,yaml}`")
}

fn git(dir: &Path, args: &[&str], input: &str) {
    let mut command = Command::new("git");
    command.current_dir(dir).env("GIT_CONFIG_GLOBAL", "/dev/null").args(args);
    assert!(run(&mut command, input).0, "git {args:?}");
}

/// Runs the tests of the test patch; the verdict of each by its id.
fn verdicts(python: &str, dir: &Path, instance: &Instance) -> BTreeMap<String, bool> {
    let test_patch = instance.test_patch.to_string_lossy();
    let files = test_patch.lines().filter_map(|line| line.strip_prefix("+++ b/"));
    let mut command = Command::new(python);
    command
        .current_dir(dir)
        .env("PYTHONPATH", format!("{0}:{0}/src", dir.display()))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .args(["-m", "pytest", "-rA", "-p", "no:cacheprovider"])
        .args(files);
    let (_, output) = run(&mut command, "");
    let lines = output.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let verdict = words.next().filter(|word| matches!(*word, "PASSED" | "FAILED"))?;
        Some((words.next()?.to_owned(), verdict == "PASSED"))
    });
    lines.collect()
}

#[test]
#[ignore = "needs pytest"]
fn the_gold_patch_makes_the_failing_tests_pass() {
    let python = python();
    let space = tempfile::tempdir().unwrap();
    let demo = demo::materialise(&space.path().join("demo")).unwrap();
    for instance in &demo.dataset.instances {
        let id = &instance.instance_id;
        let dir = space.path().join(id);
        let source = &demo.mirrors[&instance.repo][0];
        git(space.path(), &["clone", "-q", source, id], "");
        git(&dir, &["checkout", "-q", &instance.base_commit], "");
        git(&dir, &["apply", "-"], &instance.test_patch.to_string_lossy());
        let before = verdicts(python, &dir, instance);
        git(&dir, &["apply", "-"], &instance.patch.to_string_lossy());
        let after = verdicts(python, &dir, instance);
        for test in &instance.FAIL_TO_PASS {
            assert_ne!(before.get(test), Some(&true), "{id}: {test} passes before");
            assert_eq!(after.get(test), Some(&true), "{id}: {test} fails after");
        }
        for test in &instance.PASS_TO_PASS {
            assert_eq!(before.get(test), Some(&true), "{id}: {test} fails before");
            assert_eq!(after.get(test), Some(&true), "{id}: {test} fails after");
        }
    }
}
