//! The commands of fixes, run as a smoke run gives them, on a Python of this machine.
//!
//! What each fix does in every case is in `python/tests/smoke/`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use imgforge::smoke::compat::Fix;

/// Runs the only command of a fix, with a directory before PATH.
fn run(fix: &str, tree: &Path, bin: &Path, dry_run: bool) -> serde_json::Value {
    let commands = fix.parse::<Fix>().unwrap().commands(tree, dry_run);
    let [command] = &commands[..] else { panic!("{commands:?}") };
    let mut started = Command::new(&command.argv[0])
        .args(&command.argv[1..])
        .envs(&command.env)
        .env("PATH", format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    started.stdin.take().unwrap().write_all(&command.stdin).unwrap();
    let output = started.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let tree = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(tree.path().join(name), text).unwrap();
    }
    tree
}

/// Finds a Python that has pytest.
fn python() -> &'static str {
    let has_pytest = |python: &&str| {
        let output = Command::new(python).args(["-c", "import pytest"]).output();
        output.is_ok_and(|output| output.status.success())
    };
    ["python3", "/usr/bin/python3"]
        .into_iter()
        .find(has_pytest)
        .expect("no python3 has pytest: install `python3-pytest`")
}

/// Makes a directory where that Python is `python`.
fn directory_of_python() -> tempfile::TempDir {
    let bin = tree(&[("python", &format!("#!/bin/sh\nexec {} \"$@\"\n", python()))]);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(bin.path().join("python"), mode).unwrap();
    bin
}

#[test]
#[ignore = "needs pytest"]
fn the_rewrite_is_one_command_that_says_what_it_did() {
    let bin = directory_of_python();
    let tree = tree(&[("a.py", "from collections import Mapping, deque\n")]);
    let text = || std::fs::read_to_string(tree.path().join("a.py")).unwrap();
    let fix = |dry_run| run("collections-abc=rewrite", tree.path(), bin.path(), dry_run);
    let dry = fix(true);
    assert_eq!((&dry["status"], &dry["dry_run"]), (&"would do".into(), &true.into()));
    assert_eq!(text(), "from collections import Mapping, deque\n");
    assert_eq!(fix(false)["status"], "done");
    assert_eq!(text(), "from collections import deque\nfrom collections.abc import Mapping\n");
    assert_eq!(fix(false)["status"], "nothing to do");
}

#[test]
#[ignore = "needs pytest"]
fn a_dry_run_of_the_shim_says_what_it_would_do() {
    let tree = tree(&[]);
    let shim = run("collections-abc", tree.path(), directory_of_python().path(), true);
    assert_eq!(shim["fix"], "collections-abc");
    assert_ne!(shim["status"], "done");
}

const WARNS: &str = "import warnings\n\n\ndef test_it():\n    warnings.warn('old', UserWarning)\n";

/// Runs pytest with variables in a directory where warnings are errors.
fn pytest(env: &BTreeMap<String, String>, ini: &str, arguments: &[&str]) -> Output {
    let ini = format!("[pytest]\n{ini}");
    let tree = tree(&[("pytest.ini", &ini), ("test_it.py", WARNS)]);
    Command::new(python())
        .args(["-m", "pytest", "-p", "no:cacheprovider"])
        .args(arguments)
        .current_dir(tree.path())
        .env_remove("PYTEST_ADDOPTS")
        .envs(env)
        .output()
        .unwrap()
}

#[test]
#[ignore = "needs pytest"]
fn no_warning_fails_a_test_whatever_the_configuration_says() {
    let none = BTreeMap::new();
    let only_python = BTreeMap::from([("PYTHONWARNINGS".to_owned(), "ignore".to_owned())]);
    let mut fixed = BTreeMap::from([("PYTEST_ADDOPTS".to_owned(), "-v".to_owned())]);
    Fix::NoWarnings.add_test_env(&mut fixed);
    assert_eq!(Fix::NoWarnings.commands(Path::new("/testbed"), false), []);
    for ini in ["filterwarnings = error\n", "addopts = -W error\n"] {
        assert_eq!(pytest(&none, ini, &[]).status.code(), Some(1), "{ini}");
        // The variable of Python alone does not reach the filters of pytest.
        assert_eq!(pytest(&only_python, ini, &[]).status.code(), Some(1), "{ini}");
        let output = pytest(&fixed, ini, &[]);
        assert_eq!(output.status.code(), Some(0), "{ini}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("::test_it PASSED"), "{output:?}");
    }
    // Who asks for errors on the command line of the tests gets them.
    assert_eq!(pytest(&fixed, "", &["-W", "error"]).status.code(), Some(1));
}
