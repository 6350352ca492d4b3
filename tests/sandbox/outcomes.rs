//! What becomes of tests.

use serde_json::{Value, json};

use crate::common::needs::is_root;
use crate::space::{Space, list, marker, said, sleeps};

const FILE: &str = r#"
import unittest
import pytest

@pytest.fixture
def torn():
    yield
    raise ValueError

@pytest.fixture
def broken():
    raise ValueError

def test_passes(): pass
def test_fails(): assert 0
def test_torn(torn): pass
def test_broken(broken): pass
@pytest.mark.skip
def test_skipped(): pass
def test_skips(): pytest.skip("now")
@pytest.mark.xfail
def test_xfails(): assert 0
@pytest.mark.xfail
def test_xpasses(): pass
@pytest.mark.xfail(strict=True)
def test_xpasses_strictly(): pass
def test_calls_xfail(): pytest.xfail("now")
def test_exits(): raise SystemExit(0)

class TestUnit(unittest.TestCase):
    def test_passes(self): pass
    def test_fails(self): self.fail()
    @unittest.skip("now")
    def test_skipped(self): pass
    @unittest.expectedFailure
    def test_xfails(self): self.fail()
"#;

const FILES: [(&str, &str); 2] =
    [("tests/test_a.py", FILE), ("tests/test_b.py", "import nothing_of_that_name\n")];

const OUTCOMES: [(&str, &[&str]); 6] = [
    ("passed", &["test_passes", "TestUnit::test_passes"]),
    ("failed", &["test_fails", "test_xpasses_strictly", "test_exits", "TestUnit::test_fails"]),
    ("errors", &["test_torn", "test_broken"]),
    ("skipped", &["test_skipped", "test_skips", "TestUnit::test_skipped"]),
    ("xfailed", &["test_xfails", "test_calls_xfail", "TestUnit::test_xfails"]),
    ("xpassed", &["test_xpasses"]),
];

fn sorted<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut names: Vec<String> = names.into_iter().map(str::to_owned).collect();
    names.sort();
    names
}

fn assert_outcomes(tests: &Value) {
    for (outcome, names) in OUTCOMES {
        let expected: Vec<String> =
            names.iter().map(|name| format!("tests/test_a.py::{name}")).collect();
        let found = list(&tests[outcome]).into_iter().filter(|test| *test != "tests/test_b.py");
        assert_eq!(sorted(found), sorted(expected.iter().map(String::as_str)), "{outcome}");
    }
    assert!(list(&tests["errors"]).contains(&"tests/test_b.py"), "{tests:#}");
}

#[test]
#[ignore = "needs a base image"]
fn every_outcome_is_told_and_what_is_missing() {
    let missing = ["tests/test_b.py::test_x", "tests/test_c.py::test_x", "tests/test_a.py::no"];
    let ids = [&["tests/test_a.py"][..], &missing].concat();
    let tests = Space::new().tests(1, &FILES, &[], &ids);
    assert_eq!(tests["source"], "channel");
    assert_outcomes(&tests);
    // Neither a file nor a test that is missing keeps the others from running.
    assert_eq!(list(&tests["missing"]), missing);
    assert_eq!(
        (&tests["complete"], &tests["returncode"], &tests["problems"]),
        (&json!(true), &json!(1), &json!([]))
    );
    assert!(tests["raw_output"].as_str().unwrap().contains("test_fails"));
}

#[test]
#[ignore = "needs a base image"]
fn the_status_is_0_where_all_passed_that_were_asked_for() {
    let space = Space::new();
    let commit = space.repository("r", &FILES);
    let run = |status, more: &[&str]| {
        let words = [&["--repo", "./r", "--commit", &commit], more].concat();
        let output = space.run(&words);
        assert_eq!(output.status.code(), Some(status), "{more:?}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let passes = "tests/test_a.py::test_passes";
    assert_eq!(run(0, &["--tests", passes]), format!("PASSED {passes}\n"));
    run(
        0,
        &["--pytest-option=-k", "--pytest-option=passes", "--tests", "tests/test_a.py::TestUnit"],
    );
    // What was skipped did not pass, nor what is not there.
    let skipped = "tests/test_a.py::test_skips";
    assert_eq!(
        run(1, &["--tests", passes, skipped]),
        format!("PASSED {passes}\nSKIPPED {skipped}\n")
    );
    assert_eq!(run(1, &["--tests", "t.py::x"]), "MISSING t.py::x\n");
    run(1, &["--tests", "tests/test_a.py::test_xpasses"]);
}

#[test]
#[ignore = "needs a base image"]
fn parameters_of_any_characters_round_trip() {
    let texts = [
        "a b",
        "c/d",
        "e,f",
        "g.h",
        "i::j",
        "[k]",
        "]",
        "x PASSED [ 50%]",
        "l\\nm",
        "\\\\",
        "'",
        "",
        "\u{e4}\u{4e2d}",
    ];
    let values: Vec<String> = texts.iter().map(|text| format!("\"{text}\"")).collect();
    let file = format!(
        "import pytest\n@pytest.mark.parametrize('n, text', list(enumerate([{}])))\n\
         def test_many(n, text):\n    assert n % 2 == 0\n",
        values.join(", ")
    );
    let space = Space::new();
    let tests = space.tests(1, &[("t.py", &file)], &[], &["t.py"]);
    let (passed, failed) = (list(&tests["passed"]), list(&tests["failed"]));
    assert_eq!((passed.len(), failed.len()), (texts.len().div_ceil(2), texts.len() / 2));
    // What was told is taken again, by name.
    let again = space.tests(0, &[("t.py", &file)], &[], &passed);
    assert_eq!(again["passed"], tests["passed"]);
    assert_eq!(again["missing"], json!([]));
}

#[test]
#[ignore = "needs a base image"]
fn what_is_printed_is_read_where_the_image_has_no_pytest_of_root() {
    // A pytest of the workspace: nothing is kept from whoever brought it.
    let fake = "
import sys
print('tests/test_a.py::test_x PASSED [100%]')
sys.exit(0)
";
    let space = Space::new();
    let files = [("pytest/__init__.py", ""), ("pytest/__main__.py", fake), ("tests/test_a.py", "")];
    let commit = space.repository("r", &files);
    let words = ["sandbox", "--image", crate::common::needs::BASE, "-m", "512m", "--repo", "./r"];
    let mut words = [&words[..], &["--commit", &commit, "--tests", "tests/test_a.py"]].concat();
    if !is_root() {
        words.push("--unenforced");
    }
    let mut command = space.command(&words);
    let output = command.env("IMGFORGE_JSON", "1").output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", said(&output)));
    assert_eq!(document["tests"]["source"], "text", "{document:#}");
    assert_eq!(list(&document["tests"]["passed"]), ["tests/test_a.py::test_x"]);
    // Without any pytest there is no result.
    let commit = space.repository("bare", &[("t.py", "def test_a(): pass\n")]);
    let words = ["sandbox", "--image", crate::common::needs::BASE, "-m", "512m", "--unenforced"];
    let words =
        [&words[..], &["--repo", "./bare", "--commit", &commit, "--tests", "t.py"]].concat();
    let output = space.command(&words).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("pytest"), "{}", said(&output));
}

#[test]
#[ignore = "needs a base image"]
fn at_the_time_limit_what_was_recorded_is_kept() {
    let marker = marker();
    let file = format!(
        "
import os, subprocess, time
def test_first(): pass
def test_hangs():
    subprocess.Popen(['sleep', '{marker}'], start_new_session=True)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execvp('sleep', ['sleep', '{marker}'])
        os._exit(0)
    print('hangs', flush=True)
    time.sleep(1000)
def test_last(): pass
"
    );
    let options = ["--timeout", "4s", "--pytest-option=-s"];
    let ids = ["t.py::test_first", "t.py::test_hangs", "t.py::test_last"];
    let tests = Space::new().tests(124, &[("t.py", &file)], &options, &ids);
    assert_eq!((&tests["timed_out"], &tests["complete"]), (&json!(true), &json!(false)));
    assert_eq!(list(&tests["passed"]), ["t.py::test_first"]);
    assert_eq!(list(&tests["missing"]), ids[1..]);
    assert!(tests["raw_output"].as_str().unwrap().contains("hangs"), "{tests:#}");
    assert!(!sleeps(&marker));
}

#[test]
#[ignore = "needs a base image"]
fn a_lack_of_memory_is_no_verdict() {
    let eat = "x = bytearray(900 << 20)";
    let child = format!("subprocess.call([sys.executable, '-c', '{eat}'])");
    for (text, is_complete) in [(eat, false), (child.as_str(), true)] {
        let file = format!(
            "import subprocess, sys\ndef test_first(): pass\ndef test_eats():\n    {text}\n"
        );
        let tests = Space::new().tests(137, &[("t.py", &file)], &["-m", "300m"], &["t.py"]);
        assert_eq!((&tests["out_of_memory"], &tests["all_passed"]), (&json!(true), &json!(false)));
        if is_root() {
            assert!(list(&tests["passed"]).contains(&"t.py::test_first"), "{tests:#}");
            assert_eq!(tests["complete"], is_complete, "{tests:#}");
        }
    }
}

#[test]
#[ignore = "needs a base image"]
fn more_ids_than_a_command_line_of_the_container_takes() {
    let file = "import pytest\n@pytest.mark.parametrize('n', range(2000))\ndef test_n(n): pass\n";
    let ids: Vec<String> = (0..2000).map(|n| format!("t.py::test_n[{n}]")).collect();
    let other: Vec<String> =
        (0..1000).map(|n| format!("t.py::test_{}[{n}]", "m".repeat(500))).collect();
    let all: Vec<&str> = ids.iter().chain(&other).map(String::as_str).collect();
    let tests = Space::new().tests(1, &[("t.py", file)], &[], &all);
    assert_eq!(sorted(list(&tests["passed"])), sorted(ids.iter().map(String::as_str)));
    assert_eq!(list(&tests["missing"]).len(), 1000);
}
