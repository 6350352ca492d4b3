"""Runs tests in a sandbox, and makes a result of what they recorded and printed."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence

from .. import results
from .._errors import InfraError, NoSuchPath, SessionEnded
from . import _box, _isolation, _records, _verbose
from ._results import TestResult, below

_FIND_PYTHON = "command -v python || command -v python3"
_PROBE = "import sys, pytest; print('%d.%d' % sys.version_info[:2], pytest.__version__)"
_TEXT = [
    "sh",
    "-c",
    'p=$(command -v python || command -v python3) && exec "$p" -m pytest "$@"',
    "sh",
]


@dataclass
class Run:
    """Tests that are to be run: their ids, from the directory, and further options of pytest."""

    directory: str
    tests: Sequence[str]
    options: Sequence[str]
    timeout: float

    @property
    def files(self) -> List[str]:
        """The files that the tests are in."""
        return list(dict.fromkeys(test.partition("::")[0] for test in self.tests))

    @property
    def all_options(self) -> List[str]:
        """The options of pytest. One file that cannot be collected does not end the run."""
        fixed = ["-v", "--continue-on-collection-errors", "--rootdir", self.directory]
        return [*fixed, *self.options]


def of_memory(error: SessionEnded) -> bool:
    """Tells whether a session ended because its processes had more memory than they may."""
    return "more memory than" in f"{error.how} {error.message}"


def run(box: _box.Box, wanted: Run) -> TestResult:
    """Runs the tests. Raises `SessionEnded` where the sandbox ends for another reason than memory.

    The channel needs pytest where the user cannot write; with a pytest of its own in the workspace
    what was printed is read instead.
    """
    # Without a user of its own the tests could reach the records.
    python = None if _isolation.ONE_USER in box.unenforced else _python(box)
    if python is None:
        return _by_text(box, wanted)
    return _by_channel(box, wanted, python)


def _python(box: _box.Box) -> Optional[str]:
    """Finds the interpreter that has pytest, in the image. Nothing that the user wrote is asked."""
    found = box.session.exec(_FIND_PYTHON, user="0:0", workdir="/", timeout=60)
    python = found.text.strip()
    if not found.ok or not python.startswith("/") or python.startswith((_box.WORKSPACE, "/tmp")):
        return None
    probed = box.session.exec([python, "-I", "-c", _PROBE], workdir="/", timeout=60)
    if probed.end != "exited":
        raise InfraError(f"`{python}` could not be asked for its pytest: {probed.end}")
    if not probed.ok:
        return None
    version = probed.text.split()[0].split(".")
    return python if (int(version[0]), int(version[1])) >= (3, 6) else None


def _by_channel(box: _box.Box, wanted: Run, python: str) -> TestResult:
    key = secrets.token_hex(16)
    # No name that the tests of an earlier run may know.
    name = secrets.token_hex(8)
    records, status = f"{_box.RESULTS}/{name}.records", f"{_box.RESULTS}/{name}.status"
    document = {"tests": list(wanted.tests), "files": wanted.files, "options": wanted.all_options}
    box.write(f"{_box.INSIDE}/run.json", json.dumps(document))
    config = {
        "argv": [python, "-I", f"{_box.INSIDE}/start_tests.py"],
        "directory": wanted.directory,
        "key": key,
        "records": records,
        "status": status,
        "most": box.limits.own // 4,
        "uid": _box.OWNER[0],
        "gid": _box.OWNER[1],
    }
    command = [python, "-I", "-S", f"{_box.INSIDE}/collector.py"]
    try:
        done = box.run(
            command,
            directory="/",
            timeout=wanted.timeout,
            user="0:0",
            stdin=json.dumps(config).encode(),
            merge=True,
        )
    except SessionEnded as error:
        if not of_memory(error):
            raise
        # What was recorded went with the sandbox.
        return _result(wanted, {}, error.result, how=None, source="channel", problems=[])
    if box.stopped:
        # At the time limit, with what was recorded.
        return _result(wanted, {}, done, how=None, source="channel", problems=[])
    kept = _records.read(_read(box, records), key)
    how = json.loads(_read(box, status) or b"null")
    if done.end != "timed_out":
        box.sweep()
    failed = done.text[-2000:].strip() if how is None and done.end == "exited" else None
    failed = how.get("error") if how is not None else failed
    if failed:
        raise InfraError(f"the tests could not be started: {failed}")
    outcomes = kept.outcomes()
    problems = _problems(outcomes, kept, how, done)
    return _result(
        wanted, outcomes, done, how=how, source="channel", problems=problems, ended=kept.ended
    )


def _read(box: _box.Box, path: str) -> bytes:
    try:
        return box.session.read(path, max_bytes=128 << 20)
    except NoSuchPath:
        return b""


def _problems(
    outcomes: Dict[str, str],
    kept: _records.Records,
    how: Optional[Dict[str, Any]],
    done: results.ExecResult,
) -> List[str]:
    """Finds what does not fit together. A pass that does not fit is none."""
    problems = []
    if kept.foreign:
        problems.append(f"{kept.foreign} records were not written by the recorder, or not whole")
    if how is not None and how.get("flooded"):
        problems.append("the tests were ended: they recorded too much")
    wrong = [test for test, outcome in outcomes.items() if outcome in ("failed", "error")]
    code = how.get("code") if how is not None else None
    if wrong and code == 0:
        problems.append(f"the test runner ended with code 0, and {len(wrong)} tests did not pass")
    if not wrong and code == 1 and kept.ended:
        problems.append("the test runner ended with code 1, and no test of the record failed")
    printed = _verbose.read(done.text)
    for test, outcome in outcomes.items():
        if outcome == "passed" and printed.get(test) in ("failed", "error"):
            outcomes[test] = printed[test]
            problems.append(f"{test} was recorded as passed, and printed as {printed[test]}")
    return problems


def _by_text(box: _box.Box, wanted: Run) -> TestResult:
    command = [*_TEXT, *wanted.all_options, "--", *wanted.files]
    try:
        done = box.run(command, directory=wanted.directory, timeout=wanted.timeout, merge=True)
    except SessionEnded as error:
        if not of_memory(error):
            raise
        printed = error.result.text if error.result is not None else ""
        outcomes = _verbose.read(printed)
        return _result(wanted, outcomes, error.result, how=None, source="text", problems=[])
    if done.end == "not_started":
        raise InfraError(f"the tests could not be started: {done.reason}")
    if done.end != "timed_out":
        box.sweep()
    ended = done.end == "exited"
    how = {"code": done.code if ended else None}
    outcomes = _verbose.read(done.text)
    asked = set(wanted.tests)
    outcomes = {
        test: outcome
        for test, outcome in outcomes.items()
        if outcome == "error" or any(below(test, one) for one in asked)
    }
    return _result(wanted, outcomes, done, how=how, source="text", problems=[], ended=ended)


def _result(
    wanted: Run,
    outcomes: Dict[str, str],
    done: Optional[results.ExecResult],
    *,
    how: Optional[Dict[str, Any]],
    source: str,
    problems: List[str],
    ended: bool = False,
) -> TestResult:
    def of(*names: str) -> List[str]:
        return [test for test, outcome in outcomes.items() if outcome in names]

    code = how.get("code") if how is not None else None
    missing = [one for one in wanted.tests if not any(below(test, one) for test in outcomes)]
    return TestResult(
        passed=of("passed"),
        failed=of("failed"),
        errors=of("error"),
        skipped=of("skipped"),
        xfailed=of("xfailed"),
        xpassed=of("xpassed"),
        missing=missing,
        raw_output=done.text if done is not None else "",
        elapsed_seconds=done.duration if done is not None else 0.0,
        timed_out=done is not None and done.end == "timed_out",
        out_of_memory=done is None or done.end in ("out_of_memory", "session_ended"),
        complete=ended and code in (0, 1, 5),
        returncode=code,
        source=source,
        problems=problems,
    )
