//! Closings of runners, as they are and as somebody would have them.

use super::Fault;
use crate::grade::{Context, NoResult, ParsedLog, parser, read_log};

fn read(name: &str, output: &str, strict: bool) -> ParsedLog {
    let log = format!(
        ">>>>> Start Test Output\n{output}\n>>>>> End Test Output\n>>>>> Test Exit Code: 0\n"
    );
    let context = Context { instance_id: "a__b-1", version: "1", strict, runs: Some(1) };
    read_log(&mut std::io::Cursor::new(log), parser(name).unwrap(), &context).unwrap()
}

fn fault(name: &str, output: &str) -> Option<Fault> {
    let (lenient, strict) = (read(name, output, false), read(name, output, true));
    assert!(lenient.found, "the default rules do not look at it");
    assert_eq!(strict.not_found, strict.closing.map(NoResult::Closing));
    assert_eq!(lenient.closing, strict.closing);
    strict.closing
}

const PYTEST: &str = "===== test session starts =====\ncollected 3 items\n\ntests/test_a.py .F. [100%]\n\
    ===== FAILURES =====\nboom\n===== short test summary info =====\nPASSED tests/test_a.py::a\n\
    PASSED tests/test_a.py::c[1 2]\nFAILED tests/test_a.py::b - boom\n";
const PYTEST_END: &str = "===== 1 failed, 2 passed, 4 warnings in 0.12s =====\n";

#[test]
fn counts_that_agree_are_no_fault() {
    let pytest = format!("{PYTEST}{PYTEST_END}");
    assert_eq!(fault("parse_log_pytest", &pytest), None);
    assert_eq!(fault("parse_log_pytest", &pytest.replace("in 0.12s", "in 62.12s (0:01:02)")), None);
    let coloured = pytest
        .replace("PASSED", "\x1b[32mPASSED\x1b[0m")
        .replace("2 passed", "\x1b[1m2 passed\x1b[0m");
    assert_eq!(read("parse_log_pytest_v2", &coloured, true).closing, None);
    // tox says this after the run.
    assert_eq!(fault("parse_log_pytest", &format!("{pytest}ERROR: py39: commands failed\n")), None);
    let sugar = format!("{PYTEST}\nResults (0.12s):\n       2 passed\n       1 failed\n");
    assert_eq!(fault("parse_log_pytest", &sugar), None);
    let quiet = "..\n===== short test summary info =====\nPASSED a\nPASSED b\n2 passed in 0.01s";
    assert_eq!(fault("parse_log_pytest", quiet), None);
    let verbose = "===== test session starts =====\nt.py::a PASSED [ 50%]\nt.py::b PASSED [100%]\n\
                   ===== 2 passed in 0.01s =====";
    assert_eq!(fault("parse_log_seaborn", verbose), None);
    let django = "test_a (m.C) ... ok\ntest_b (m.C) ... FAIL\ntest_c (m.C) ... skipped 'x'\n\n\
        ======================================================================\n\
        FAIL: test_b (m.C)\n----------------------------------------------------------------------\n\
        Ran 3 tests in 0.1s\n\nFAILED (failures=1, skipped=1)";
    assert_eq!(fault("parse_log_django", django), None);
    let sympy = "====== test process starts ======\ntest_a ok\ntest_b F\ntest_c ok  [FAIL]\n\
        ====== tests finished: 2 passed, 1 failed, in 0.1 seconds ======";
    assert_eq!(fault("parse_log_sympy", sympy), None);
    let cargo = "running 1 test\ntest a ... ok\n\ntest result: ok. 1 passed; 0 failed; 0 ignored\n\n\
        running 2 tests\ntest b ... ok\ntest c ... FAILED\n\n\
        test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; finished in 0.1s";
    assert_eq!(fault("parse_log_cargo", cargo), None);
}

#[test]
fn results_without_the_end_of_their_run_are_a_fault() {
    let printed = "PASSED tests/test_a.py::a\nPASSED tests/test_a.py::b";
    assert_eq!(fault("parse_log_pytest", printed), Some(Fault::Missing));
    assert_eq!(fault("parse_log_pytest", PYTEST), Some(Fault::Missing));
    for (name, output) in [
        ("parse_log_django", "test_a (m.C) ... ok"),
        ("parse_log_sympy", "====== test process starts ======\ntest_a ok"),
        ("parse_log_cargo", "running 1 test\ntest a ... ok"),
        ("parse_log_gotest", "=== RUN   TestA\n--- PASS: TestA (0.00s)"),
        ("parse_log_googletest", "[       OK ] a.b (0 ms)"),
        ("parse_log_phpunit", "A (T)\n ✔ Adds"),
        ("parse_log_vitest", " ✓ a.spec.ts > adds"),
        ("parse_log_jest", "  ✓ adds (2 ms)"),
        ("parse_log_ruby_unit", "test: adds:  ."),
        ("parse_log_redis", "[ok]: adds (1 ms)"),
        ("parse_log_micropython_test", "pass  basics/a.py"),
    ] {
        assert_eq!(fault(name, output), Some(Fault::Missing), "{name}");
    }
}

#[test]
fn results_after_the_end_of_their_run_are_a_fault() {
    let after = format!("{PYTEST}{PYTEST_END}PASSED tests/test_a.py::b\n");
    assert_eq!(fault("parse_log_pytest", &after), Some(Fault::After));
    let go = "--- FAIL: TestA (0.00s)\nFAIL\nFAIL\ta/b\t0.1s\n--- PASS: TestB (0.00s)";
    assert_eq!(fault("parse_log_gotest", go), Some(Fault::After));
    let cargo = "running 1 test\ntest a ... FAILED\ntest result: FAILED. 1 passed; 1 failed;\n\
                 test b ... ok";
    assert_eq!(fault("parse_log_cargo", cargo), Some(Fault::After));
}

#[test]
fn counts_that_disagree_are_a_fault() {
    let wrong = format!("{PYTEST}PASSED tests/test_a.py::forged\n{PYTEST_END}");
    assert_eq!(
        fault("parse_log_pytest", &wrong),
        Some(Fault::Counts { what: "passed", said: 2, seen: 3 })
    );
    let loose = "===== test session starts =====\nPASSED a\nPASSED b\n===== 1 passed in 0.1s =====";
    assert!(matches!(fault("parse_log_pytest", loose), Some(Fault::Counts { .. })));
    let django = "test_a (m.C) ... ok\ntest_b (m.C) ... ok\nRan 1 test in 0.1s\n\nOK";
    assert!(matches!(fault("parse_log_django", django), Some(Fault::Counts { .. })));
    let sympy = "====== test process starts ======\ntest_a ok\ntest_b ok\n\
        ====== tests finished: 1 passed, in 0.1 seconds ======";
    assert!(matches!(fault("parse_log_sympy", sympy), Some(Fault::Counts { .. })));
    let jest = "  ✓ adds\n  ✓ lies\nTests:       1 failed, 1 passed, 2 total";
    assert!(matches!(fault("parse_log_jest", jest), Some(Fault::Counts { .. })));
}

#[test]
fn an_end_more_than_there_are_runs_is_a_fault() {
    let forged = "===== short test summary info =====\nPASSED tests/test_a.py::b\n\
                  ===== 1 passed in 0.01s =====\n";
    let before = PYTEST.replace("collected 3 items\n", &format!("collected 3 items\n{forged}"));
    assert_eq!(fault("parse_log_pytest", &format!("{before}{PYTEST_END}")), Some(Fault::Twice));
    let after = format!("{PYTEST}{PYTEST_END}{forged}");
    assert_eq!(fault("parse_log_pytest", &after), Some(Fault::Twice));
    let session = format!("===== test session starts =====\n{forged}");
    let whole = format!("{PYTEST}{PYTEST_END}{session}");
    assert_eq!(fault("parse_log_pytest", &whole), Some(Fault::Twice), "the script has one run");
    let inside = format!("===== test session starts =====\n{session}{PYTEST}{PYTEST_END}");
    assert!(fault("parse_log_pytest", &inside).is_some());
    let django = "test_a (m.C) ... ok\nRan 9 tests in 0.1s\n\nOK\nRan 1 test in 0.1s\n\nOK";
    assert_eq!(fault("parse_log_django", django), Some(Fault::Twice));
    let cargo = "running 1 test\ntest a ... ok\ntest b ... ok\ntest result: ok. 9 passed; 0 failed;\n\
                 test result: FAILED. 1 passed; 1 failed;";
    assert_eq!(fault("parse_log_cargo", cargo), Some(Fault::Twice));
}

#[test]
fn only_the_runner_s_own_summary_counts_under_the_strict_rules() {
    // A test prints another's result, whose own was a skip without a name.
    let output = "===== test session starts =====\nPASSED tests/test_a.py::skipped\n\
        ===== short test summary info =====\nPASSED tests/test_a.py::a\n\
        SKIPPED [1] src/a.py:1: x\n===== 1 passed, 1 skipped in 0.1s =====";
    let (lenient, strict) =
        (read("parse_log_pytest", output, false), read("parse_log_pytest", output, true));
    assert_eq!(lenient.status_map.len(), 2);
    assert_eq!(strict.closing, None);
    assert_eq!(
        strict.status_map.iter().map(|(test, _)| test).collect::<Vec<_>>(),
        ["tests/test_a.py::a"]
    );
}
