"""The exceptions: which kind is which, and that they survive a pipe between processes."""

from __future__ import annotations

import pickle

import pytest

import imgforge_sandbox as package
from imgforge_sandbox import InfraError, _errors


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("invalid", package.InvalidRequest),
        ("protocol", package.VersionMismatch),
        ("no_such_session", package.NoSuchSession),
        ("no_such_shell", package.NoSuchShell),
        ("no_such_exec", package.NoSuchExec),
        ("no_such_checkpoint", package.NoSuchCheckpoint),
        ("no_such_smoke", package.NoSuchSmoke),
        ("no_such_image", package.NoSuchImage),
        ("no_such_instance", package.NoSuchInstance),
        ("no_such_path", package.NoSuchPath),
        ("session_ended", package.SessionEnded),
        ("limit", package.LimitExceeded),
        ("refused", package.Refused),
        ("unsupported", package.Unsupported),
        ("infra", package.InfraError),
        ("of a later version", package.ImgforgeError),
    ],
)
def test_a_kind_is_a_class(kind: str, expected: type[package.ImgforgeError]) -> None:
    error = _errors.of_answer(
        {"code": -32000, "message": "it failed", "data": {"kind": kind, "hint": "do this"}}
    )
    assert type(error) is expected
    assert error.hint == "do this"
    assert str(error) == "it failed\nhint: do this"


def test_what_the_server_says_more_is_there() -> None:
    def of(kind: str, **data: object) -> package.ImgforgeError:
        return _errors.of_answer({"message": "m", "data": {"kind": kind, **data}})

    path = of("no_such_path", path="/a")
    assert isinstance(path, package.NoSuchPath)
    assert path.path == "/a"
    ended = of("session_ended", how="its time is over")
    assert isinstance(ended, package.SessionEnded)
    assert ended.how == "its time is over"
    version = of("protocol", supported=[2, 3])
    assert isinstance(version, package.VersionMismatch)
    assert version.supported == [2, 3]


@pytest.mark.parametrize("error", [None, 3, "text", {}, {"data": 3}, {"message": 3}])
def test_an_error_that_is_none_is_an_error(error: object) -> None:
    assert isinstance(_errors.of_answer(error), package.ImgforgeError)


def test_what_is_infrastructure_has_one_base() -> None:
    kinds = [getattr(package, name) for name in package.__all__]
    infra = {kind for kind in kinds if isinstance(kind, type) and issubclass(kind, InfraError)}
    assert infra == {
        InfraError,
        package.ConnectionLost,
        package.BinaryNotFound,
        package.ProtocolError,
        package.VersionMismatch,
    }


def test_they_can_be_pickled() -> None:
    result = package.ExecResult("exited", 1, b"\xff", b"")
    grade = package.Grade(None, "error", "why", None)
    for error in (
        package.ConnectionLost("m", hint="h", stderr="said"),
        package.SessionEnded("m", data={"how": "x"}, result=result),
        package.CommandFailed("m", result=result),
        package.NoVerdict("m", grade=grade),
        package.NoSuchPath("m", data={"path": "/a"}),
    ):
        # The second way is that of Gymnasium.
        for again in (pickle.loads(pickle.dumps(error)), type(error)(error)):  # type: ignore
            assert type(again) is type(error)
            assert again.__dict__ == error.__dict__
            assert str(again) == str(error)
            assert again.args == error.args
