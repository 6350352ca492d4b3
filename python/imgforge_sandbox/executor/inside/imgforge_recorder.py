"""A plugin of pytest: writes what became of each test to the channel.

An outcome is what happened, not what was reported of it: a plugin or `conftest.py` that turns the
report of a failure into that of a pass changes nothing. In a worker of xdist it puts the outcome
into the report, and the process that has the channel writes it.

PYTEST_DONT_REWRITE: it is imported before pytest starts.
"""

import json
import os
import unittest
from typing import Any, Callable, Dict, Generator, List, Optional

import pytest

CHANNEL = 4
KEY = 5
WORST = ["passed", "xpassed", "skipped", "xfailed", "failed"]
"""Outcomes, from the best to the worst."""

_write: Optional[Callable[[Dict[str, Any]], None]] = None


def start() -> None:
    """Takes the key and the channel. Whoever has not done so writes nothing."""
    global _write
    key = os.read(KEY, 64).decode("ascii")
    os.close(KEY)
    owner = os.getpid()

    def write(record: Dict[str, Any]) -> None:
        # Not in a process that a test forked: the test's own process tells what became of it.
        if os.getpid() != owner:
            return
        data = (key + " " + json.dumps(record) + "\n").encode("ascii")
        while data:
            data = data[os.write(CHANNEL, data) :]

    os.set_inheritable(CHANNEL, False)
    _write = write


def _record(**record: Any) -> None:
    if _write is not None:
        _write(record)


def _worse(one: str, other: str) -> str:
    return max(one, other, key=WORST.index)


def _of_exception(error: Optional[BaseException]) -> str:
    if error is None:
        return "passed"
    if isinstance(error, pytest.xfail.Exception):
        return "xfailed"
    if isinstance(error, (pytest.skip.Exception, unittest.SkipTest)):
        return "skipped"
    return "failed"


def _of_report(report: Any) -> str:
    outcome = report.outcome
    if hasattr(report, "wasxfail"):
        return {"skipped": "xfailed", "passed": "xpassed"}.get(outcome, "failed")
    return outcome if outcome in ("passed", "skipped") else "failed"


def _expects_failure(item: Any) -> bool:
    """Tells whether the test is marked as one that fails, without a condition."""
    if item.config.getoption("runxfail", False) or not hasattr(item, "iter_markers"):
        return False
    marks = item.iter_markers("xfail")
    return any(not mark.args and "condition" not in mark.kwargs for mark in marks)


def _happened(item: Any, call: Any) -> str:
    """Tells what happened in a phase, whatever is reported of it."""
    error = call.excinfo.value if call.excinfo is not None else None
    outcome = _of_exception(error)
    if call.when == "call":
        for error in getattr(item, "_imgforge_raised", ()):
            outcome = _worse(outcome, _of_exception(error))
    return outcome


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: Any) -> Generator[None, Any, None]:
    """Watches the test itself: hooks around it can swallow what it raises."""
    raised: List[BaseException] = []
    item._imgforge_raised = raised
    runtest = item.runtest

    def watched() -> None:
        try:
            runtest()
        except BaseException as error:
            raised.append(error)
            raise
        finally:
            # A method of unittest keeps its failures beside the call.
            raised.extend(excinfo.value for excinfo in getattr(item, "_excinfo", None) or ())

    item.runtest = watched
    yield
    item.runtest = runtest
    del raised[:]


@pytest.hookimpl(hookwrapper=True, trylast=True)
def pytest_pyfunc_call(pyfuncitem: Any) -> Generator[None, Any, None]:
    """Watches the function of the test, inside of the hooks around it."""
    outcome = yield
    error = outcome.excinfo
    if error is not None and hasattr(pyfuncitem, "_imgforge_raised"):
        pyfuncitem._imgforge_raised.append(error[1])


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Generator[None, Any, None]:
    """Takes the worse of what happened and what is reported."""
    happened = _happened(item, call)
    outcome = yield
    report = outcome.get_result()
    reported = _of_report(report)
    # `xfail` is a mark: pytest makes an expected failure of what failed.
    final = reported if happened == "failed" and reported == "xfailed" else None
    final = final or _worse(happened, reported)
    if final == "passed" and call.when == "call" and _expects_failure(item):
        final = "xpassed"
    report.imgforge_outcome = final
    _record(event="test", id=item.nodeid, when=call.when, outcome=final)


def pytest_runtest_logreport(report: Any) -> None:
    """Writes what workers tell, and reports that are made in other ways."""
    outcome = _of_report(report)
    told = getattr(report, "imgforge_outcome", None)
    if told in WORST:
        # A hook may have changed it since then.
        outcome = _worse(told, outcome)
    _record(event="test", id=report.nodeid, when=report.when, outcome=outcome)


def pytest_collectreport(report: Any) -> None:
    """Writes which files could not be collected."""
    if report.outcome == "failed":
        _record(event="collect", id=report.nodeid)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: Any, items: List[Any]) -> None:
    """Keeps the tests that were asked for."""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "run.json")) as file:
        asked = set(json.load(file)["tests"])
    kept = [item for item in items if _is_asked(item.nodeid, asked)]
    left = [item for item in items if not _is_asked(item.nodeid, asked)]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = kept


def _is_asked(test: str, asked: "set[str]") -> bool:
    if test in asked:
        return True
    return any(test[:end] in asked for end, char in enumerate(test) if char in "[:/")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(exitstatus: Any) -> None:
    """Writes that it came to its end."""
    _record(event="end", status=int(exitstatus))
