"""The rewards: one row a case in which R2E-Gym is wrong, and what is right."""

from __future__ import annotations

from typing import Dict, List

import pytest

from imgforge_sandbox.r2e.reward import reward_r2e, reward_swebench, reward_swesmith

HEAD = "===== short test summary info ====="
TAIL = "===== 1 failed, 2 passed in 0.12s ====="


def log(*lines: str, tail: str = TAIL) -> str:
    return "\n".join(["collected 3 items", HEAD, *lines, tail, ""])


PASSED_A = "PASSED r2e_tests/t.py::a"
FAILED_A = "FAILED r2e_tests/t.py::a - AssertionError: no"
PASSED_B = "PASSED r2e_tests/t.py::b"


@pytest.mark.parametrize(
    ("text", "expected", "exact", "fixed"),
    [
        pytest.param(log(PASSED_A), {"a": "PASSED"}, 1, 1, id="as expected"),
        pytest.param(log("PASSED t.py::C::a"), {"C.a": "PASSED"}, 1, 1, id="in a class"),
        pytest.param(log(FAILED_A), {"a": "FAILED"}, 1, 1, id="a failure that is expected"),
        pytest.param(log(FAILED_A), {"a": "PASSED"}, 0, 0, id="a failure that is not"),
        pytest.param(log(PASSED_A), {"a": "PASSED", "b": "PASSED"}, 0, 0, id="one is missing"),
        pytest.param(log(PASSED_A, PASSED_B), {"a": "PASSED"}, 0, 0, id="one more"),
        pytest.param(log(PASSED_A), {"b": "PASSED"}, 0, 0, id="another one"),
        pytest.param("no tests ran", {"a": "PASSED"}, 0, 0, id="no summary"),
        pytest.param(
            log("FAILED t.py::a - AssertionError: expected PASSED"),
            {"a - AssertionError: expected PASSED": "PASSED"},
            1,
            0,
            id="a failure whose message says PASSED",
        ),
        pytest.param(
            log("FAILED t.py::a - AssertionError: expected PASSED"),
            {"a": "PASSED"},
            1,
            0,
            id="the same, as the row has it",
        ),
        pytest.param(
            log(PASSED_A, tail="") + log(FAILED_A),
            {"a": "PASSED"},
            1,
            0,
            id="a forged summary before",
        ),
        pytest.param(
            log(FAILED_A) + log(PASSED_A), {"a": "PASSED"}, 0, 0, id="a forged summary behind"
        ),
        pytest.param(
            "short test summary info\n" + PASSED_A + "\n" + log(FAILED_A),
            {"a": "PASSED"},
            1,
            0,
            id="a forged headline",
        ),
        pytest.param(
            log("PASSED x.py::a", "FAILED y.py::a", PASSED_B),
            {"a": "FAILED", "b": "PASSED"},
            1,
            1,
            id="one name in two files, as pytest lists them",
        ),
        pytest.param(
            log("FAILED y.py::a", "PASSED x.py::a"),
            {"a": "PASSED"},
            1,
            0,
            id="one name in two files, the failure first",
        ),
        pytest.param(
            log(PASSED_A, "ERROR u.py"),
            {"a": "PASSED", "b": "PASSED"},
            1,
            0,
            id="a file that cannot be read stands for a missing test",
        ),
        pytest.param(
            log(PASSED_A, "ERROR u.py - ImportError"),
            {"a": "PASSED", "": "ERROR"},
            1,
            1,
            id="a file that cannot be read, as expected",
        ),
        pytest.param(
            log(PASSED_A), {"a": "PASSED", "": "PASSED"}, 0, 1, id="the row has what was no test"
        ),
        pytest.param(
            log("FAILED t.py::a[x - y]", "PASSED t.py::a[x - z]"),
            {"a[x - y]": "PASSED", "a[x - z]": "PASSED"},
            1,
            0,
            id="parameters that begin alike",
        ),
        pytest.param(
            log("PASSED t.py::a[x - y]", "FAILED t.py::a[x - z] - no"),
            {"a[x - y]": "PASSED", "a[x": "FAILED"},
            1,
            1,
            id="parameters as R2E wrote them into the row",
        ),
        pytest.param(
            log("PASSED t.py::a[x - y]", "PASSED t.py::a[x - z]"),
            {"a[x - y]": "PASSED", "a[x": "FAILED"},
            1,
            0,
            id="the same, and the one that is to fail passes",
        ),
        pytest.param(
            log("FAILED t.py::a[x - y] - assert 1 - 2"),
            {"a[x": "FAILED"},
            1,
            1,
            id="parameters and a message",
        ),
        pytest.param(
            log(PASSED_A), {"\x1b[1;32ma\x1b[0m": "PASSED"}, 0, 1, id="colours of two numbers"
        ),
        pytest.param(
            log(PASSED_A), {"\x1b[1ma\x1b[0m": "PASSED"}, 1, 1, id="colours of one number"
        ),
        pytest.param(
            log("\x1b[32mPASSED\x1b[0m t.py::\x1b[1ma\x1b[0m"),
            {"a": "PASSED"},
            1,
            1,
            id="a log in colours",
        ),
        pytest.param(
            log(PASSED_A, "XFAIL t.py::b - why", "XPASS t.py::c", "SKIPPED [1] t.py:3: why"),
            {"a": "PASSED"},
            1,
            1,
            id="expected failures and skipped tests are left out",
        ),
        pytest.param(
            log(PASSED_A, "XFAIL t.py::b - why"),
            {"a": "PASSED", "b": "XFAIL"},
            0,
            1,
            id="unless the row has them",
        ),
        pytest.param(
            log(PASSED_A, "XFAIL t.py::b"),
            {"a": "PASSED", "b": "PASSED"},
            0,
            0,
            id="an expected failure is no pass",
        ),
        pytest.param(
            log(PASSED_A) + "\nall PASSED, bye\n",
            {"a": "PASSED"},
            0,
            1,
            id="a plugin says PASSED at the end",
        ),
        pytest.param(
            log(PASSED_A, "SUBFAILED[x] t.py::b - no", "PASSED t.py::b"),
            {"a": "PASSED", "b": "PASSED"},
            1,
            0,
            id="a subtest that fails",
        ),
        pytest.param(log(PASSED_A + "\r"), {"a": "PASSED"}, 0, 1, id="carriage returns"),
        pytest.param(
            log(PASSED_A, "ERROR t.py::a - teardown"),
            {"a": "PASSED"},
            0,
            0,
            id="an error behind a pass",
        ),
        pytest.param(
            log("ERROR t.py::a - teardown", PASSED_A),
            {"a": "PASSED"},
            1,
            0,
            id="an error before a pass",
        ),
        pytest.param(
            log(PASSED_A, tail="1 passed in 0.1s") + "\nERROR later\n",
            {"a": "PASSED"},
            0,
            1,
            id="pytest -q",
        ),
    ],
)
def test_r2e(text: str, expected: Dict[str, str], exact: float, fixed: float) -> None:
    assert reward_r2e(text, expected, compat="exact") == exact
    assert reward_r2e(text, expected) == fixed


def test_r2e_with_nothing_expected() -> None:
    assert reward_r2e("nothing", {}, compat="exact") == 1.0
    with pytest.raises(ValueError, match="nothing to grade"):
        reward_r2e("nothing", {})


@pytest.mark.parametrize(
    ("lines", "fail_to_pass", "pass_to_pass", "exact", "fixed"),
    [
        pytest.param(
            ["PASSED t.py::a", "PASSED t.py::b"], ["t.py::a"], ["t.py::b"], 1, 1, id="all pass"
        ),
        pytest.param(
            ["PASSED t.py::a", "FAILED t.py::b"], ["t.py::a"], ["t.py::b"], 0, 0, id="one fails"
        ),
        pytest.param(["PASSED t.py::a"], ["t.py::a"], ["t.py::b"], 0, 0, id="one is missing"),
        pytest.param([], ["t.py::a"], [], 0, 0, id="an empty log"),
        pytest.param(
            ["PASSED t.py::test_ab"], ["t.py::test_a"], [], 1, 0, id="a name within another"
        ),
        pytest.param(
            ["PASSED t.py::x"], ["test_a"], [], 1, 0, id="an id without a file, and no such test"
        ),
        pytest.param(["PASSED t.py::a"], ["a"], [], 1, 1, id="an id without a file"),
        pytest.param(
            ["FAILED u.py::b", "PASSED t.py::a"], ["a"], [], 0, 1, id="an id without a file, later"
        ),
        pytest.param(
            ["PASSED t.py::a", "FAILED u.py::a"],
            ["a"],
            [],
            0,
            0,
            id="an id without a file, one fails",
        ),
        pytest.param(["PASSED u.py::a"], ["t.py::a"], [], 1, 0, id="the test of another file"),
        pytest.param(
            ["FAILED u.py::a", "PASSED t.py::a"],
            ["t.py::a"],
            ["u.py::a"],
            1,
            0,
            id="two files, one fails",
        ),
        pytest.param(
            ["PASSED t.py::a", "XFAIL t.py::b"],
            ["t.py::a"],
            ["t.py::b"],
            0,
            1,
            id="an expected failure",
        ),
        pytest.param(
            ["PASSED t.py::a", "SKIPPED [1] t.py:9: why"],
            ["t.py::a"],
            ["t.py::b"],
            0,
            0,
            id="skipped",
        ),
        pytest.param(
            ["PASSED t.py::a", "FAILED t.py::b - not PASSED"],
            ["t.py::a", "t.py::b"],
            [],
            1,
            0,
            id="a failure whose message says PASSED",
        ),
    ],
)
def test_swesmith(
    lines: List[str], fail_to_pass: List[str], pass_to_pass: List[str], exact: float, fixed: float
) -> None:
    text = log(*lines)
    assert reward_swesmith(text, fail_to_pass, pass_to_pass, compat="exact") == exact
    assert reward_swesmith(text, fail_to_pass, pass_to_pass) == fixed


def test_swesmith_with_nothing_expected() -> None:
    assert reward_swesmith(log("PASSED t.py::a"), [], [], compat="exact") == 1.0
    with pytest.raises(ValueError, match="nothing to grade"):
        reward_swesmith(log("PASSED t.py::a"), [], [])


def words(text: str) -> Dict[str, str]:
    """A parser: each line is a status and a test."""
    return {
        name: status
        for status, _, name in (line.partition(" ") for line in text.split("\n"))
        if name
    }


START, END = ">>>>> Start Test Output", ">>>>> End Test Output"


@pytest.mark.parametrize(
    ("text", "exact", "fixed"),
    [
        pytest.param("PASSED a\nPASSED b", 1, 1, id="both pass"),
        pytest.param("FAILED a\nPASSED b", 0, 0, id="one fails"),
        pytest.param("PASSED a\nERROR b", 0, 0, id="one has an error"),
        pytest.param("PASSED a", 0, 0, id="one is missing"),
        pytest.param("", 0, 0, id="an empty log"),
        pytest.param("The command took too long to execute (>300s)", 0, 0, id="a log of nothing"),
        pytest.param("SKIPPED a\nPASSED b", 1, 0, id="F2P skipped"),
        pytest.param("PASSED a\nSKIPPED b", 1, 1, id="P2P skipped"),
        pytest.param("XFAIL a\nXFAIL b", 1, 1, id="expected failures"),
        pytest.param("XPASS a\nPASSED b", 1, 0, id="a status that is not known"),
        pytest.param(
            "PASSED a\nPASSED b\n>>>>> Patch Apply Failed", 0, 0, id="the patch did not apply"
        ),
        pytest.param(
            "PASSED a\nPASSED b\n>>>>> Tests Timed Out", 0, 0, id="the tests took too long"
        ),
        pytest.param("PASSED a\nrun it\nPASSED b", 0, 0, id="before the test command"),
        pytest.param("FAILED a\nrun it\nPASSED a\nPASSED b", 1, 1, id="after the test command"),
        pytest.param(
            f"{START}\nFAILED a\nPASSED b\n{END}\nPASSED a", 1, 0, id="behind the markers"
        ),
        pytest.param(
            f"{START}\nPASSED b\nFAILED a\nrun it\nPASSED a\nPASSED b\n{END}",
            1,
            1,
            id="the test command within the markers: what comes last counts",
        ),
        pytest.param(
            f"{START}\nFAILED a\nrun it\nPASSED b\n{END}",
            0,
            0,
            id="the test command within the markers",
        ),
    ],
)
def test_swebench(text: str, exact: int, fixed: int) -> None:
    assert reward_swebench(text, ["a"], ["b"], words, test_cmd="run it", compat="exact") == exact
    assert reward_swebench(text, ["a"], ["b"], words, test_cmd="run it") == fixed


def test_swebench_of_tests_that_are_named_only_when_they_fail() -> None:
    for compat in ("exact", "fixed"):
        assert reward_swebench("", ["a"], ["b"], words, fail_only=True, compat=compat) == 1
        assert reward_swebench("FAILED b", ["a"], ["b"], words, fail_only=True, compat=compat) == 0
    # R2E-Gym reads nothing of a log that says so, and nothing is no failure.
    bad = ">>>>> Tests Errored"
    assert reward_swebench(bad, ["a"], ["b"], words, fail_only=True, compat="exact") == 1
    assert reward_swebench(bad, ["a"], ["b"], words, fail_only=True) == 0


def test_swebench_with_nothing_expected() -> None:
    assert reward_swebench("", [], [], words, compat="exact") == 1
    with pytest.raises(ValueError, match="nothing to grade"):
        reward_swebench("", [], [], words)
