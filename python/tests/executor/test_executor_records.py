"""What the recorder wrote, and what others wrote into its channel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from imgforge_sandbox.executor import inside
from imgforge_sandbox.executor._records import read

KEY = "k" * 32


def lines(*records: dict[str, Any], key: str = KEY) -> bytes:
    return b"".join(f"{key} {json.dumps(record)}\n".encode() for record in records)


def phases(test: str, **outcomes: str) -> bytes:
    each = {"setup": "passed", "call": "passed", "teardown": "passed", **outcomes}
    return lines(
        *({"event": "test", "id": test, "when": when, "outcome": each[when]} for when in each)
    )


@pytest.mark.parametrize(
    ("outcomes", "result"),
    [
        ({}, "passed"),
        ({"call": "failed"}, "failed"),
        ({"call": "failed", "teardown": "failed"}, "failed"),
        ({"setup": "failed"}, "error"),
        ({"teardown": "failed"}, "error"),
        ({"setup": "skipped"}, "skipped"),
        ({"call": "skipped"}, "skipped"),
        ({"call": "xfailed"}, "xfailed"),
        ({"call": "xpassed"}, "xpassed"),
        ({"call": "xpassed", "teardown": "failed"}, "error"),
    ],
)
def test_outcomes(outcomes: dict[str, str], result: str) -> None:
    assert read(phases("a", **outcomes), KEY).outcomes() == {"a": result}


def test_a_phase_that_is_missing() -> None:
    whole = phases("a").splitlines(keepends=True)
    for missing in range(3):
        rest = b"".join(line for number, line in enumerate(whole) if number != missing)
        assert read(rest, KEY).outcomes() == {}


def test_the_worst_of_several_counts() -> None:
    for data in (
        phases("a") + phases("a", call="failed"),
        phases("a", call="failed") + phases("a"),
    ):
        assert read(data, KEY).outcomes() == {"a": "failed"}


def test_without_the_key_nothing_counts() -> None:
    forged = lines({"event": "end", "status": 0}, key="x" * 32) + b"\xff\xfe\n{}\n"
    forged += b'{"event": "test", "id": "b", "when": "call", "outcome": "passed"}\n'
    records = read(phases("a", call="failed") + forged, KEY)
    assert records.outcomes() == {"a": "failed"}
    assert (records.foreign, records.ended) == (4, False)


@pytest.mark.parametrize(
    "record",
    [
        b"{",
        b"[]",
        b"1",
        b"{}",
        b'{"event": "test", "id": "a", "when": "call", "outcome": "resolved"}',
        b'{"event": "test", "id": "a", "when": "never", "outcome": "passed"}',
        b'{"event": "test", "id": "a"}',
        b'{"event": "what"}',
    ],
)
def test_what_is_no_record(record: bytes) -> None:
    records = read(KEY.encode() + b" " + record, KEY)
    assert (records.foreign, records.outcomes()) == (1, {})


@pytest.mark.parametrize("directory", [".", "nowhere"])
def test_what_cannot_be_started_is_no_result(tmp_path: Path, directory: str) -> None:
    """The collector says so: it is not the exit code of tests."""
    config = {
        "argv": [str(tmp_path / "none")],
        "directory": str(tmp_path / directory),
        "key": KEY,
        "records": str(tmp_path / "records"),
        "status": str(tmp_path / "status"),
        "most": 1000,
        "uid": os.geteuid(),
        "gid": os.getegid(),
    }
    collector = Path(inside.__file__ or "").parent / "collector.py"
    subprocess.run(
        [sys.executable, "-I", "-S", str(collector)],
        input=json.dumps(config).encode(),
        check=True,
        timeout=60,
    )
    status = json.loads((tmp_path / "status").read_text())
    # A plain user fails one step earlier.
    assert "FileNotFoundError" in status["error"] or "PermissionError" in status["error"]


def test_the_end_and_what_was_not_collected() -> None:
    records = read(lines({"event": "collect", "id": "a.py"}, {"event": "end", "status": 1}), KEY)
    assert records.ended
    assert records.outcomes() == {"a.py": "error"}
