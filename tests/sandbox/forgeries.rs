//! What a repository does to turn a failing test into a pass, and that it is none.
//!
//! The table is that of the Python package's tests, too.

use serde_json::{Value, json};

use crate::space::{Space, list};

const WRONG: &str = "test_w.py::test_wrong";

fn table() -> Value {
    serde_json::from_str(include_str!("forgeries.json")).unwrap()
}

#[test]
#[ignore = "needs a base image"]
fn a_forgery_makes_no_pass() {
    let (space, table) = (Space::new(), table());
    let cases = table["cases"].as_array().unwrap();
    assert!(cases.len() > 15);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let files = case["files"].as_object().unwrap();
        let mut all = vec![("test_w.py", table["test"].as_str().unwrap())];
        for (file, text) in files {
            all.retain(|(other, _)| other != file);
            all.push((file, text.as_str().unwrap()));
        }
        let repository = name.replace(' ', "-");
        let commit = space.repository(&repository, &all);
        let repository = format!("./{repository}");
        let words = ["--repo", &repository, "--commit", &commit, "--tests", "test_w.py"];
        let tests = space.json(1, &words)["tests"].clone();
        assert_eq!(tests["source"], "channel", "{name}");
        assert_eq!(tests["asked"], json!({ "test_w.py": false }), "{name}: {tests:#}");
        // Nor is it by another list.
        for outcome in ["passed", "skipped", "xfailed", "xpassed"] {
            assert!(!list(&tests[outcome]).contains(&WRONG), "{name}: {tests:#}");
        }
        let failed = list(&tests["failed"]);
        if case["fooled"] == true {
            let printed = tests["raw_output"].as_str().unwrap();
            assert!(printed.contains(&format!("{WRONG} PASSED")), "{name}: {printed}");
            assert!(failed.contains(&WRONG), "{name}: {tests:#}");
        }
        if case["told"] == true {
            assert!(failed.contains(&WRONG), "{name}: {tests:#}");
            assert!(list(&tests["passed"]).contains(&"test_w.py::test_right"), "{name}: {tests:#}");
        }
        if case["problems"] == true {
            assert_ne!(tests["problems"], json!([]), "{name}");
        }
    }
}

#[test]
#[ignore = "needs a base image"]
fn a_forgery_makes_no_pass_of_tests_that_are_no_functions() {
    let swallow = "
import pytest
@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    outcome = yield
    outcome.force_result(None)
    if hasattr(item, '_excinfo'):
        item._excinfo = None
";
    let file = "
import unittest
class TestUnit(unittest.TestCase):
    def test_wrong(self):
        self.fail()
    def test_right(self): pass
def wrong():
    '''
    >>> 1
    2
    '''
";
    let files = [("test_w.py", file), ("conftest.py", swallow)];
    let options = ["--pytest-option=--doctest-modules"];
    let tests = Space::new().tests(1, &files, &options, &["test_w.py"]);
    let mut failed = list(&tests["failed"]);
    failed.sort_unstable();
    assert_eq!(failed, ["test_w.py::TestUnit::test_wrong", "test_w.py::test_w.wrong"]);
    assert_eq!(list(&tests["passed"]), ["test_w.py::TestUnit::test_right"]);
}

#[test]
#[ignore = "needs a base image"]
fn code_in_the_process_of_the_tests_can_replace_a_test() {
    // What docs/sandbox.md says it does not protect from.
    let replace = "
import pytest
@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    return True
";
    let table = table();
    let files = [("test_w.py", table["test"].as_str().unwrap()), ("conftest.py", replace)];
    let tests = Space::new().tests(0, &files, &[], &["test_w.py"]);
    assert!(list(&tests["passed"]).contains(&WRONG), "{tests:#}");
}

#[test]
#[ignore = "needs a base image"]
fn tests_cannot_reach_the_results() {
    let file = r#"
import os, stat
import pytest
OWN = "/.imgforge"
def test_files():
    assert os.getuid() == 1000
    for directory in OWN, OWN + "/inside", OWN + "/results":
        assert not os.access(directory, os.W_OK), directory
    assert not os.access(OWN + "/results", os.R_OK | os.X_OK)
    for name in os.listdir(OWN + "/inside"):
        assert not os.access(os.path.join(OWN, "inside", name), os.W_OK), name
def test_channel():
    # It is written to, and nothing else.
    assert stat.S_ISFIFO(os.fstat(4).st_mode)
    for flags in os.O_RDONLY, os.O_RDWR:
        with pytest.raises(OSError):
            os.open("/proc/self/fd/4", flags)
    with pytest.raises(OSError):
        os.read(4, 1)
    with pytest.raises(OSError):
        os.ftruncate(4, 0)
def test_collector():
    parent = os.getppid()
    assert b"collector.py" in open(f"/proc/{parent}/cmdline", "rb").read()
    for path in "mem", "environ", "fd/0":
        with pytest.raises(OSError):
            open(f"/proc/{parent}/{path}", "rb").read(1)
    for signal in 9, 15, 19:
        with pytest.raises(PermissionError):
            os.kill(parent, signal)
    # The key is in no argument and no variable.
    for name in "environ", "cmdline":
        assert b"key" not in open(f"/proc/self/{name}", "rb").read().lower()
"#;
    let tests = Space::new().tests(0, &[("t.py", file)], &[], &["t.py"]);
    assert_eq!(list(&tests["passed"]).len(), 3, "{tests:#}");
}

#[test]
#[ignore = "needs a base image"]
fn records_without_end_end_the_tests() {
    let flood = "import os\nwhile True: os.write(4, b'x' * 65536 + b'\\n')\n";
    let table = table();
    let test = table["test"].as_str().unwrap();
    let tests =
        Space::new().tests(1, &[("test_w.py", test), ("conftest.py", flood)], &[], &["test_w.py"]);
    assert_eq!((&tests["passed"], &tests["complete"]), (&json!([]), &json!(false)));
    let problems = list(&tests["problems"]);
    assert!(problems.iter().any(|problem| problem.contains("too much")), "{problems:?}");
}
