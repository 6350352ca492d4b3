"""What calls return."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any, Mapping, Optional, Sequence, Union

from ._errors import NoVerdict, ProtocolError


@dataclass(frozen=True)
class Instance:
    """An instance of a dataset."""

    dataset: str
    instance_id: str
    split: str = "test"


@dataclass(frozen=True)
class Port:
    """A port of a session that this machine reaches at `address`."""

    address: str
    port: int


@dataclass(frozen=True)
class ExecResult:
    """How a command ended, and what it printed.

    `end` is `exited`, `signaled`, `timed_out`, `idle`, `out_of_memory` or `not_started`. A session
    that ended under the command is the exception `SessionEnded` instead.

    `code` is the exit code of `exited` and `out_of_memory`, 128 + signal of `signaled`, 126 or 127
    of `not_started`, and 124 of the limits of time; None where there is none. `dropped_stdout` and
    `dropped_stderr` count the bytes that are missing. `background` says that a process which it
    left behind holds an output. `started_at` is a time of RFC 3339, `duration` is in seconds,
    `cpu_ms` in milliseconds of processor time, or None where the engine does not tell.
    """

    end: str
    code: Optional[int]
    stdout: bytes
    stderr: bytes
    signal: Optional[int] = None
    reason: Optional[str] = None
    dropped_stdout: int = 0
    dropped_stderr: int = 0
    background: bool = False
    started_at: Optional[str] = None
    duration: float = 0.0
    cpu_ms: Optional[float] = None

    @property
    def ok(self) -> bool:
        """Whether it ended by itself with code 0."""
        return self.end == "exited" and self.code == 0

    @property
    def text(self) -> str:
        """`stdout` as text; what is not UTF-8 is replaced."""
        return self.stdout.decode("utf-8", "replace")

    @property
    def stderr_text(self) -> str:
        """`stderr` as text; what is not UTF-8 is replaced."""
        return self.stderr.decode("utf-8", "replace")


@dataclass(frozen=True)
class ShellResult:
    """How a command of a shell ended.

    `end` is `exited`, `timed_out` (the shell lives on) or `shell_ended` (the next command needs a
    new shell). `code` is None where there is none. `dropped` counts the bytes that are missing.
    """

    end: str
    code: Optional[int]
    output: bytes
    dropped: int = 0
    duration: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether it ended by itself with code 0."""
        return self.end == "exited" and self.code == 0

    @property
    def text(self) -> str:
        """The output as text; what is not UTF-8 is replaced."""
        return self.output.decode("utf-8", "replace")


@dataclass(frozen=True)
class Stat:
    """What a path is. A link at its end is not followed; `target` is where it leads.

    `kind` is `file`, `directory`, `link` or another kind. `size` is in bytes, `mode` has the
    permissions, `modified` is in seconds since 1970.
    """

    kind: str
    size: int
    mode: int
    modified: float
    target: Optional[str]


@dataclass(frozen=True)
class Entry:
    """An entry of a directory: `kind` as for `Stat`, `size` in bytes."""

    name: str
    kind: str
    size: int


@dataclass(frozen=True)
class Change:
    """A path that differs from the image: `kind` is `added`, `modified` or `deleted`."""

    path: str
    kind: str


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint. It is an image as well; `ms` is how many milliseconds it took."""

    id: str
    image: str
    parent: Optional[str] = None
    ms: Optional[float] = None


@dataclass(frozen=True)
class Access:
    """What a session may reach, and how often it was denied what else: `host:port` and a number."""

    allowed: list[str]
    denied: Mapping[str, int]


@dataclass(frozen=True)
class Grade:
    """The grade of a patch.

    `resolved` is None where there is no verdict. That is not False: the patch was not judged, and
    whoever needs a reward has to try again or leave the row out.

    `verdict` is that of the report, `reason` says why there is no better one, and `hint` what to do
    about it. `tests` is as in the
    harness's report, or None where none were read. `log` is the end of what the tests printed,
    `seconds` is how long they took. `cached` says that an earlier run of the same inputs was
    graded. `raw` is the whole answer.
    """

    resolved: Optional[bool]
    verdict: str
    reason: Optional[str]
    tests: Any
    log: bytes = b""
    seconds: Optional[float] = None
    cached: bool = False
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)
    hint: Optional[str] = None

    @property
    def reward(self) -> float:
        """1.0 where it is resolved, 0.0 where it is not. Raises `NoVerdict` where nobody knows."""
        if self.resolved is None:
            why = f": {self.reason}" if self.reason else ""
            raise NoVerdict(
                f"there is no verdict of the patch: {self.verdict}{why}", grade=self, hint=self.hint
            )
        return 1.0 if self.resolved else 0.0


@dataclass(frozen=True)
class SessionInfo:
    """A session in the list of a server. `created` is as the server tells it."""

    id: str
    image: str
    instance: Optional[Instance]
    created: Any
    labels: Mapping[str, str]


@dataclass(frozen=True)
class StartInfo:
    """What is known of a session since its start.

    `image` is what it stands on. `repository` is the directory where commands start, where that is
    a repository of git `base` is its commit. `warnings` are what the engine said, such as limits
    that it cannot enforce. `start_ms` is in milliseconds. `checkpoint` is the id of the checkpoint
    that `fork` made or took.
    """

    id: str
    image: str
    engine: str
    instance: Optional[Instance]
    repository: Optional[str]
    base: Optional[str]
    ports: Sequence[Port]
    warnings: Sequence[str]
    start_ms: Optional[float]
    checkpoint: Optional[str] = None


InstanceLike = Union[Instance, "tuple[str, str]", "tuple[str, str, str]"]


def as_instance(instance: InstanceLike) -> Instance:
    """Takes an instance as a tuple as well: dataset, id, and the split if it is not `test`."""
    return instance if isinstance(instance, Instance) else Instance(*instance)


class Fields:
    """Reads the fields of a result. A field that is missing or of another type is an error."""

    def __init__(self, what: str, value: Any) -> None:
        if not isinstance(value, dict):
            raise ProtocolError(f"{what}: the server sent {value!r}")
        self._what = what
        self.raw: dict[str, Any] = value

    def _wrong(self, name: str, wanted: str) -> ProtocolError:
        return ProtocolError(
            f"{self._what}: `{name}` is {self.raw.get(name)!r}, not {wanted}",
            hint="install versions of imgforge and imgforge-sandbox that belong together",
        )

    def text(self, name: str) -> str:
        value = self.raw.get(name)
        if not isinstance(value, str):
            raise self._wrong(name, "a text")
        return value

    def text_or_none(self, name: str) -> Optional[str]:
        return None if self.raw.get(name) is None else self.text(name)

    def integer(self, name: str, default: Optional[int] = None) -> int:
        value = self.raw.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._wrong(name, "a whole number")
        return value

    def integer_or_none(self, name: str) -> Optional[int]:
        return None if self.raw.get(name) is None else self.integer(name)

    def number_or_none(self, name: str) -> Optional[float]:
        value = self.raw.get(name)
        if value is None:
            return None
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise self._wrong(name, "a number")
        return value

    def bytes(self, name: str) -> bytes:
        try:
            return base64.b64decode(self.text(name), validate=True)
        except ValueError as error:
            raise self._wrong(name, "base64") from error

    def items(self, name: str) -> list[Any]:
        value = self.raw.get(name)
        if not isinstance(value, list):
            raise self._wrong(name, "a list")
        return value

    def fields(self, name: str) -> list[Fields]:
        return [Fields(f"{self._what}.{name}", item) for item in self.items(name)]

    def bool_or_none(self, name: str) -> Optional[bool]:
        value = self.raw.get(name)
        if value is not None and not isinstance(value, bool):
            raise self._wrong(name, "true, false or null")
        return value

    def instance_or_none(self, name: str) -> Optional[Instance]:
        if self.raw.get(name) is None:
            return None
        part = Fields(f"{self._what}.{name}", self.raw[name])
        return Instance(
            part.text("dataset"), part.text("instance_id"), part.text_or_none("split") or "test"
        )
