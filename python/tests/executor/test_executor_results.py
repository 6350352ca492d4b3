"""Results of tests, and what they prove."""

from __future__ import annotations

import dataclasses
from typing import Any, Sequence

import pytest

from imgforge_sandbox.executor import ExecResult, TestResult
from imgforge_sandbox.executor._results import below, checked_ids

RESULT = TestResult(
    passed=[
        "t/a.py::one",
        "t/a.py::many[1]",
        "t/a.py::many[2]",
        "t/a.py::C::x",
        "t/a.py::mixed[1]",
    ],
    failed=["t/a.py::two", "t/a.py::mixed[2]"],
    errors=["t/b.py"],
    skipped=["t/a.py::skip"],
    xfailed=["t/a.py::xfail"],
    xpassed=["t/a.py::xpass"],
    raw_output="",
    elapsed_seconds=1.0,
    returncode=1,
)


@pytest.mark.parametrize(
    ("test", "passed"),
    [
        ("t/a.py::one", True),
        ("t/a.py::two", False),
        ("t/a.py::many[1]", True),
        ("t/a.py::many", True),
        ("t/a.py::C", True),
        ("t/a.py::C::x", True),
        ("t/a.py::mixed[1]", True),
        ("t/a.py::mixed", False),
        ("t/a.py", False),
        ("t/b.py", False),
        ("t/b.py::lost", False),
        # No other test stands for one that is missing.
        ("t/a.py::on", False),
        ("t/a.py::many[3]", False),
        ("t/a.py::many[", False),
        ("", False),
        ("t/a.py::skip", False),
        ("t/a.py::xfail", False),
        ("t/a.py::xpass", False),
    ],
)
def test_what_passed(test: str, passed: bool) -> None:
    assert RESULT.check_tests([test]) == (passed, {test: passed}, {})
    assert RESULT.check_tests(["t/a.py::one"], [test]) == (
        passed,
        {"t/a.py::one": True},
        {test: passed},
    )


def test_no_tests_prove_nothing() -> None:
    empties: tuple[Sequence[str], ...] = ([], ())
    for empty in empties:
        with pytest.raises(ValueError, match="fail_to_pass is empty"):
            RESULT.check_tests(empty, ["t/a.py::one"])
        with pytest.raises(ValueError, match="test_ids is empty"):
            checked_ids(empty)
    # The characters of a text are no ids.
    with pytest.raises(ValueError, match="fail_to_pass is one text"):
        RESULT.check_tests("t/a.py::one")
    with pytest.raises(ValueError, match="pass_to_pass is one text"):
        RESULT.check_tests(["t/a.py::one"], "t/a.py::one")
    nothing = TestResult([], [], [], "", 0.0)
    assert not nothing.all_passed
    assert nothing.check_tests(["t/a.py::one"])[0] is False


def test_all_passed() -> None:
    good = TestResult(["t/a.py::one"], [], [], "", 1.0, returncode=0)
    assert good.all_passed
    assert not RESULT.all_passed
    changed: tuple[dict[str, Any], ...] = (
        {"passed": []},
        {"failed": ["x"]},
        {"errors": ["x"]},
        {"missing": ["x"]},
        {"problems": ["x"]},
        {"timed_out": True},
        {"out_of_memory": True},
        {"complete": False},
    )
    for changes in changed:
        assert not dataclasses.replace(good, **changes).all_passed, changes


def test_success_of_a_command() -> None:
    good = ExecResult("ls", 0, "", "", 0.1)
    assert good.success
    assert not dataclasses.replace(good, returncode=1).success
    assert not dataclasses.replace(good, timed_out=True).success
    assert not dataclasses.replace(good, out_of_memory=True).success


@pytest.mark.parametrize(
    "test", ["/etc/test_a.py", "../test_a.py", "t/../../a.py", "-p", "", "::a", "t/a.py\0"]
)
def test_what_is_no_id(test: str) -> None:
    with pytest.raises(ValueError, match="is no id of a test"):
        checked_ids([test])


def test_ids_are_made_equal() -> None:
    ids = checked_ids(["./t//a.py::one[../x//y]", "t/a.py::one[../x//y]", "t/b.py"])
    assert ids == ["t/a.py::one[../x//y]", "t/b.py"]


def test_below() -> None:
    assert below("t/a.py::b[c]", "t/a.py::b")
    assert below("t/a.py::b", "t")
    assert not below("t/a.pyx::b", "t/a.py")
    assert not below("t/a.py::bc", "t/a.py::b")
