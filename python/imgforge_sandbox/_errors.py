"""The exceptions of the package.

An exception is never a result. A command that fails is an `ExecResult`; what is raised says that
something else went wrong. Whoever computes rewards must not take an exception for a reward of 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping, Optional, Sequence

if TYPE_CHECKING:
    from .results import ExecResult, Grade


class ImgforgeError(Exception):
    """The base of all exceptions of this package.

    `hint` says what to do, or is None. `data` is what else the server said of it.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: Optional[str] = None,
        data: Optional[Mapping[str, Any]] = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.data: dict[str, Any] = dict(data or {})
        if isinstance(message, ImgforgeError):
            # `multiprocessing` and Gymnasium raise what came out of a process as kind(error).
            self.args = message.args
            self.__dict__.update(message.__dict__)

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.args, self.__dict__)


def _restored(
    kind: type[ImgforgeError], args: tuple[Any, ...], state: dict[str, Any]
) -> ImgforgeError:
    """Makes an exception again that was pickled, whatever its `__init__` takes."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class InfraError(ImgforgeError):
    """It failed, and that says nothing of what runs in the session. It may work another time."""


class ConnectionLost(InfraError):
    """The server, or the connection to it, is gone. Its sessions are gone with it.

    `stderr` is the end of what the server printed, where this process started it.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: Optional[str] = None,
        data: Optional[Mapping[str, Any]] = None,
        stderr: str = "",
    ) -> None:
        self.stderr = stderr
        super().__init__(message, hint=hint, data=data)


class BinaryNotFound(InfraError):
    """There is no program `imgforge`, or it cannot be run."""


class ProtocolError(InfraError):
    """The server sent what is no answer, or says that a request is none."""


class VersionMismatch(ProtocolError):
    """The server and this package have no version of the protocol in common.

    `supported` are the versions of the server, where it told them.
    """

    @property
    def supported(self) -> Sequence[int]:
        """The versions that the server knows; empty where it did not say."""
        known = self.data.get("supported")
        return list(known) if isinstance(known, list) else []


class InvalidRequest(ImgforgeError, ValueError):
    """A parameter or its value is not allowed."""


class NotFound(ImgforgeError):
    """What was named is not there, or no more."""


class NoSuchSession(NotFound):
    """The server has no session of this id, or no more."""


class NoSuchShell(NotFound):
    """The session has no shell of this name, or no more."""


class NoSuchExec(NotFound):
    """The session has no command of this name, or no more."""


class NoSuchCheckpoint(NotFound):
    """There is no checkpoint of this id."""


class NoSuchSmoke(NotFound):
    """The server has no smoke run of this name, or it was closed."""


class NoSuchImage(NotFound):
    """The engine has no image of this name."""


class NoSuchInstance(NotFound):
    """The dataset has no such instance, or there is no such dataset."""


class NoSuchPath(NotFound):
    """The path is not there in the session."""

    @property
    def path(self) -> Optional[str]:
        """The path, where the server told it."""
        path = self.data.get("path")
        return path if isinstance(path, str) else None


class SessionEnded(ImgforgeError):
    """The session has ended. What ran in it has no result.

    `result` is the unfinished result of the command that ran then, with its output until then; None
    where no command ran.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: Optional[str] = None,
        data: Optional[Mapping[str, Any]] = None,
        result: Optional[ExecResult] = None,
    ) -> None:
        self.result = result
        super().__init__(message, hint=hint, data=data)

    @property
    def how(self) -> Optional[str]:
        """How it ended, where the server told it."""
        how = self.data.get("how")
        return how if isinstance(how, str) else None


class LimitExceeded(ImgforgeError):
    """It is more than is allowed: a file that is too long, for example."""


class Refused(ImgforgeError):
    """It cannot be done, now and later."""


class Unsupported(ImgforgeError):
    """This engine cannot do it."""


class NoVerdict(ImgforgeError):
    """A patch was not judged, so that there is no reward. `grade` says why.

    It may be the fault of the patch, such as tests that never end: decide what that is worth.
    """

    grade: Grade

    def __init__(
        self, message: str, *, grade: Optional[Grade] = None, hint: Optional[str] = None
    ) -> None:
        if grade is not None:
            self.grade = grade
        super().__init__(message, hint=hint)


class CommandFailed(ImgforgeError):
    """A command of `run(check=True)` did not end with code 0. `result` is its result."""

    result: ExecResult

    def __init__(self, message: str, *, result: Optional[ExecResult] = None) -> None:
        if result is not None:
            self.result = result
        super().__init__(message)


_BY_KIND: dict[str, type[ImgforgeError]] = {
    "invalid": InvalidRequest,
    "protocol": VersionMismatch,
    "no_such_session": NoSuchSession,
    "no_such_shell": NoSuchShell,
    "no_such_exec": NoSuchExec,
    "no_such_checkpoint": NoSuchCheckpoint,
    "no_such_smoke": NoSuchSmoke,
    "no_such_image": NoSuchImage,
    "no_such_instance": NoSuchInstance,
    "no_such_path": NoSuchPath,
    "session_ended": SessionEnded,
    "limit": LimitExceeded,
    "refused": Refused,
    "unsupported": Unsupported,
    "infra": InfraError,
}


def of_answer(error: object) -> ImgforgeError:
    """Makes the exception of an error of the protocol; of an unknown kind, the base class."""
    if not isinstance(error, dict):
        return ProtocolError(f"the server sent an error that is none: {error!r}")
    data = error.get("data")
    data = data if isinstance(data, dict) else {}
    message, hint = error.get("message"), data.get("hint")
    kind = _BY_KIND.get(str(data.get("kind")), ImgforgeError)
    return kind(
        message if isinstance(message, str) else f"the server sent no message: {error!r}",
        hint=hint if isinstance(hint, str) else None,
        data=data,
    )
