"""How results are read."""

from __future__ import annotations

from typing import Any

import pytest

from imgforge_sandbox import (
    ExecResult,
    Grade,
    Instance,
    NoVerdict,
    ProtocolError,
    SessionEnded,
    _calls,
)
from imgforge_sandbox.results import as_instance


def answer(**more: Any) -> dict[str, Any]:
    return {
        "end": "exited",
        "code": 0,
        "signal": None,
        "reason": None,
        "stdout": "/w==",
        "stderr": "",
        "dropped": {"stdout": 3, "stderr": 0},
        "background": False,
        "started_at": "2026-01-01T00:00:00Z",
        "duration": 0.5,
        "cpu_ms": 3,
        **more,
    }


def test_a_result_has_all_fields() -> None:
    result = _calls.exec_result(answer(field_of_a_later_version=1))
    assert result == ExecResult(
        end="exited",
        code=0,
        stdout=b"\xff",
        stderr=b"",
        dropped_stdout=3,
        started_at="2026-01-01T00:00:00Z",
        duration=0.5,
        cpu_ms=3,
    )
    assert result.ok
    assert result.text == "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("end", "code"),
    [("exited", 1), ("timed_out", 124), ("signaled", 137), ("out_of_memory", 0), ("idle", 0)],
)
def test_what_did_not_end_well_is_not_ok(end: str, code: int) -> None:
    assert not _calls.exec_result(answer(end=end, code=code)).ok


def test_a_session_that_ended_is_no_result() -> None:
    with pytest.raises(SessionEnded, match="its time is over") as caught:
        _calls.exec_result(answer(end="session_ended", code=None, reason="its time is over"))
    assert caught.value.how == "its time is over"
    assert caught.value.result is not None
    assert caught.value.result.stdout == b"\xff"


@pytest.mark.parametrize(
    "wrong",
    [
        {"end": None},
        {"end": 3},
        {"code": "0"},
        {"code": True},
        {"stdout": None},
        {"stdout": "not base64!"},
        {"duration": "long"},
        {"background": 1},
    ],
)
def test_a_field_of_another_type_is_an_error(wrong: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        _calls.exec_result(answer(**wrong))


def graded(resolved: Any) -> Grade:
    result = {"resolved": resolved, "verdict": "v", "reason": "r", "tests": None, "seconds": 1.5}
    call = _calls.grade(session="s", model=None, timeout=None, strict=False)
    return call.read(result)


def test_no_verdict_is_no_reward() -> None:
    assert graded(True).reward == 1.0
    assert graded(False).reward == 0.0
    with pytest.raises(NoVerdict, match="v: r") as caught:
        _ = graded(None).reward
    assert caught.value.grade.resolved is None
    for wrong in ("false", 0, 1):
        with pytest.raises(ProtocolError):
            graded(wrong)


def test_an_instance_may_be_a_tuple() -> None:
    assert as_instance(("d", "i")) == Instance("d", "i", "test")
    assert as_instance(("d", "i", "dev")) == Instance("d", "i", "dev")
    assert as_instance(Instance("d", "i")) == Instance("d", "i")


def test_what_was_not_given_is_not_sent() -> None:
    assert _calls.StartOptions(image="a").params() == {"image": "a"}
    assert _calls.StartOptions(image="a", publish=[8000], cpus=0.5, env={}).params() == {
        "image": "a",
        "publish": ["8000"],
        "cpus": 0.5,
        "env": {},
    }
    assert _calls.ExecOptions("ls").params("s", "e") == {"session": "s", "exec": "e", "shell": "ls"}
    assert _calls.ExecOptions(["ls"], timeout=1).params("s", "e") == {
        "session": "s",
        "exec": "e",
        "command": ["ls"],
        "timeout": 1,
    }
