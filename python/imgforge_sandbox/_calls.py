"""The requests of the protocol: their parameters, and how their results are read.

`Session` and `AsyncSession` both stand on them. The names are those of docs/protocol.md.

Requests of one session are done one after another, unless they say otherwise. Here each caller
waits for the answer of its own request, which is order enough for one thread or task. What may take
long says `async`, so that two threads or tasks can use a session at the same time.
"""

from __future__ import annotations

import base64
import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Iterable, Mapping, Optional, Sequence, Union

from ._connection import Call
from ._errors import NoSuchSession, SessionEnded
from .results import (
    Access,
    Change,
    Checkpoint,
    Entry,
    ExecResult,
    Fields,
    Grade,
    InstanceLike,
    Port,
    SessionInfo,
    ShellResult,
    StartInfo,
    Stat,
    as_instance,
)

Command = Union[str, Sequence[str]]
Text = Union[str, bytes]

CONCURRENT = {"async": True}


def encoded(data: Text) -> str:
    """Makes base64 of bytes, or of a text as UTF-8."""
    if isinstance(data, str):
        data = data.encode("utf-8")
    return base64.b64encode(data).decode("ascii")


def given(**params: Any) -> dict[str, Any]:
    """Leaves out what was not given."""
    return {name: value for name, value in params.items() if value is not None}


def of_instance(instance: InstanceLike) -> dict[str, str]:
    instance = as_instance(instance)
    return {
        "dataset": instance.dataset,
        "instance_id": instance.instance_id,
        "split": instance.split,
    }


@dataclass(frozen=True)
class StartOptions:
    """What a session is started with, see `Client.start`."""

    image: Optional[str] = None
    instance: Optional[InstanceLike] = None
    checkpoint: Union[str, Checkpoint, None] = None
    env: Optional[Mapping[str, str]] = None
    workdir: Optional[str] = None
    user: Optional[str] = None
    network: Optional[str] = None
    allow: Optional[Iterable[str]] = None
    publish: Optional[Iterable[Union[str, int]]] = None
    bind: Optional[Iterable[str]] = None
    tmpfs: Optional[Iterable[str]] = None
    read_only: bool = False
    memory: Optional[int] = None
    cpus: Optional[float] = None
    pids: Optional[int] = None
    ttl: Optional[float] = None
    idle: Optional[float] = None
    labels: Optional[Mapping[str, str]] = None

    def name(self) -> str:
        """Returns what people call what it is started from."""
        if self.instance is not None:
            return as_instance(self.instance).instance_id
        if self.checkpoint is not None:
            return f"checkpoint {checkpoint_id(self.checkpoint)}"
        return self.image or "a session"

    def params(self) -> dict[str, Any]:
        """Returns the parameters of `session.start`."""
        return given(
            image=self.image,
            instance=None if self.instance is None else of_instance(self.instance),
            checkpoint=None if self.checkpoint is None else checkpoint_id(self.checkpoint),
            env=None if self.env is None else dict(self.env),
            workdir=self.workdir,
            user=self.user,
            network=self.network,
            allow=_texts("allow", self.allow),
            publish=_texts("publish", self.publish),
            bind=_texts("bind", self.bind),
            tmpfs=_texts("tmpfs", self.tmpfs),
            read_only=self.read_only or None,
            memory=self.memory,
            cpus=self.cpus,
            pids=self.pids,
            ttl=self.ttl,
            idle=self.idle,
            labels=None if self.labels is None else dict(self.labels),
        )


def _texts(name: str, values: Optional[Iterable[Union[str, int]]]) -> Optional[list[str]]:
    if isinstance(values, str):
        # Its letters would be taken one by one.
        raise TypeError(f"`{name}` is a list of texts, not one text")
    return None if values is None else [str(value) for value in values]


def checkpoint_id(checkpoint: Union[str, Checkpoint]) -> str:
    return checkpoint.id if isinstance(checkpoint, Checkpoint) else checkpoint


def start(options: StartOptions) -> Call[StartInfo]:
    return Call("session.start", options.params(), lambda result: started("session.start", result))


def started(what: str, result: Any) -> StartInfo:
    fields = Fields(what, result)
    return StartInfo(
        id=fields.text("session"),
        image=fields.text("image"),
        engine=fields.text("engine"),
        instance=fields.instance_or_none("instance"),
        repository=fields.text_or_none("repository"),
        base=fields.text_or_none("base"),
        ports=[Port(port.text("address"), port.integer("port")) for port in fields.fields("ports")],
        warnings=[str(warning) for warning in fields.items("warnings")],
        start_ms=fields.number_or_none("start_ms"),
    )


def listed() -> Call[list[SessionInfo]]:
    def read(result: Any) -> list[SessionInfo]:
        return [
            SessionInfo(
                id=one.text("session"),
                image=one.text("image"),
                instance=one.instance_or_none("instance"),
                created=one.raw.get("created"),
                labels=one.raw.get("labels") or {},
            )
            for one in Fields("session.ls", result).fields("sessions")
        ]

    return Call("session.ls", {}, read)


def find(id: str) -> Call[StartInfo]:
    """Looks for a session in the list of the server. What the list does not tell is empty."""

    def read(result: Any) -> StartInfo:
        for one in listed().read(result):
            if one.id == id:
                return StartInfo(one.id, one.image, "", one.instance, None, None, [], [], None)
        raise NoSuchSession(f"the server has no session `{id}`")

    return Call("session.ls", {}, read)


def checkpoints() -> Call[list[Any]]:
    def read(result: Any) -> list[Any]:
        return Fields("checkpoint.ls", result).items("checkpoints")

    return Call("checkpoint.ls", {}, read)


@dataclass(frozen=True)
class ExecOptions:
    """What a command is run with, see `Session.exec`."""

    command: Command
    env: Optional[Mapping[str, str]] = None
    workdir: Optional[str] = None
    user: Optional[str] = None
    timeout: Optional[float] = None
    idle_timeout: Optional[float] = None
    max_output: Optional[int] = None
    keep: Optional[str] = None
    merge: bool = False
    login: bool = False

    def params(self, session: str, name: str) -> dict[str, Any]:
        """Returns the parameters of `session.exec`."""
        is_text = isinstance(self.command, str)
        return given(
            session=session,
            exec=name,
            shell=self.command if is_text else None,
            command=None if is_text else [str(word) for word in self.command],
            login=self.login or None,
            env=None if self.env is None else dict(self.env),
            workdir=self.workdir,
            user=self.user,
            timeout=self.timeout,
            idle_timeout=self.idle_timeout,
            max_output=self.max_output,
            keep=self.keep,
            merge=self.merge or None,
        )


def exec_result(result: Any) -> ExecResult:
    """Reads the result of a command. A session that ended under it is `SessionEnded`."""
    fields = Fields("session.exec", result)
    dropped = Fields("session.exec.dropped", fields.raw.get("dropped") or {})
    read = ExecResult(
        end=fields.text("end"),
        code=fields.integer_or_none("code"),
        signal=fields.integer_or_none("signal"),
        reason=fields.text_or_none("reason"),
        stdout=fields.bytes("stdout"),
        stderr=fields.bytes("stderr"),
        dropped_stdout=dropped.integer("stdout", 0),
        dropped_stderr=dropped.integer("stderr", 0),
        background=bool(fields.bool_or_none("background")),
        started_at=fields.text_or_none("started_at"),
        duration=fields.number_or_none("duration") or 0.0,
        cpu_ms=fields.number_or_none("cpu_ms"),
    )
    if read.end == "session_ended":
        why = f": {read.reason}" if read.reason else ""
        raise SessionEnded(
            f"the session ended while the command ran{why}",
            data=given(how=read.reason),
            result=read,
        )
    return read


def shell_open(
    session: str,
    name: Optional[str],
    env: Optional[Mapping[str, str]],
    workdir: Optional[str],
    user: Optional[str],
    interactive: bool,
) -> Call[tuple[str, Any]]:
    def read(result: Any) -> tuple[str, Any]:
        fields = Fields("shell.open", result)
        return fields.text("shell"), fields.raw.get("process")

    params = given(
        session=session,
        shell=name,
        env=None if env is None else dict(env),
        workdir=workdir,
        user=user,
        interactive=interactive or None,
    )
    return Call("shell.open", params, read)


def shell_run(
    session: str,
    shell: str,
    command: str,
    timeout: Optional[float],
    max_output: Optional[int],
    keep: Optional[str],
) -> Call[ShellResult]:
    def read(result: Any) -> ShellResult:
        fields = Fields("shell.run", result)
        return ShellResult(
            end=fields.text("end"),
            code=fields.integer_or_none("code"),
            output=fields.bytes("output"),
            dropped=fields.integer("dropped", 0),
            duration=fields.number_or_none("duration") or 0.0,
        )

    params = given(
        session=session,
        shell=shell,
        command=command,
        timeout=timeout,
        max_output=max_output,
        keep=keep,
    )
    return Call("shell.run", {**params, **CONCURRENT}, read)


def read(session: str, path: str, max_bytes: Optional[int]) -> Call[bytes]:
    params = given(session=session, path=path, max=max_bytes)
    return Call("file.read", params, lambda result: Fields("file.read", result).bytes("data"))


def write(
    session: str, path: str, data: Text, mode: Optional[int], user: Optional[str]
) -> Call[None]:
    params = given(session=session, path=path, data=encoded(data), mode=mode, user=user)
    return Call("file.write", params, _nothing)


def stat(session: str, path: str) -> Call[Stat]:
    def read(result: Any) -> Stat:
        fields = Fields("file.stat", result)
        return Stat(
            kind=fields.text("kind"),
            size=fields.integer("size"),
            mode=fields.integer("mode"),
            modified=fields.number_or_none("modified") or 0.0,
            target=fields.text_or_none("target"),
        )

    return Call("file.stat", given(session=session, path=path), read)


def entries(session: str, path: str) -> Call[list[Entry]]:
    def read(result: Any) -> list[Entry]:
        return [
            Entry(one.text("name"), one.text("kind"), one.integer("size", 0))
            for one in Fields("file.list", result).fields("entries")
        ]

    return Call("file.list", given(session=session, path=path), read)


def diff(session: str) -> Call[list[Change]]:
    def read(result: Any) -> list[Change]:
        return [
            Change(one.text("path"), one.text("kind"))
            for one in Fields("session.diff", result).fields("changes")
        ]

    return Call("session.diff", {"session": session}, read)


def patch(
    session: str,
    base: Optional[str],
    exclude: Optional[Iterable[str]],
    untracked: bool,
    workdir: Optional[str],
) -> Call[bytes]:
    params = given(
        session=session,
        base=base,
        exclude=_texts("exclude", exclude),
        untracked=None if untracked else False,
        workdir=workdir,
    )
    return Call("session.patch", params, lambda r: Fields("session.patch", r).bytes("patch"))


def apply(session: str, patch: Text, reverse: bool, workdir: Optional[str]) -> Call[str]:
    params = given(session=session, patch=encoded(patch), reverse=reverse or None, workdir=workdir)
    return Call(
        "session.apply",
        params,
        lambda r: Fields("session.apply", r).text_or_none("output") or "",
    )


def checkpoint(session: str, move: bool) -> Call[Checkpoint]:
    def read(result: Any) -> Checkpoint:
        fields = Fields("session.checkpoint", result)
        return Checkpoint(
            id=fields.text("checkpoint"),
            image=fields.text("image"),
            parent=fields.text_or_none("parent"),
            ms=fields.number_or_none("ms"),
        )

    return Call("session.checkpoint", given(session=session, move=move or None), read)


def fork(
    n: int, session: Optional[str] = None, checkpoint: Optional[str] = None
) -> Call[list[StartInfo]]:
    def read(result: Any) -> list[StartInfo]:
        fields = Fields("session.fork", result)
        made = fields.text("checkpoint")
        return [
            dataclasses.replace(started("session.fork", one), checkpoint=made)
            for one in fields.items("sessions")
        ]

    return Call("session.fork", given(session=session, checkpoint=checkpoint, n=n), read)


def reset(session: str, to: Union[str, Checkpoint, None]) -> Call[None]:
    params = given(session=session, to=None if to is None else checkpoint_id(to))
    return Call("session.reset", params, _nothing)


def network(session: str, allow: Optional[Iterable[str]]) -> Call[Access]:
    def read(result: Any) -> Access:
        fields = Fields("session.network", result)
        allowed = [str(host) for host in fields.items("allowed")]
        denied = Fields("session.network.denied", fields.raw.get("denied"))
        return Access(allowed, {host: denied.integer(host) for host in denied.raw})

    return Call("session.network", given(session=session, allow=_texts("allow", allow)), read)


def grade(
    *,
    session: Optional[str] = None,
    instance: Optional[InstanceLike] = None,
    patch: Optional[Text] = None,
    model: Optional[str],
    timeout: Optional[float],
    strict: bool,
) -> Call[Grade]:
    def read(result: Any) -> Grade:
        fields = Fields("grade", result)
        return Grade(
            resolved=fields.bool_or_none("resolved"),
            verdict=fields.text("verdict"),
            reason=fields.text_or_none("reason"),
            hint=fields.text_or_none("hint"),
            tests=fields.raw.get("tests"),
            log=next((fields.bytes(name) for name in ("output", "log") if name in fields.raw), b""),
            seconds=fields.number_or_none("seconds"),
            cached=bool(fields.bool_or_none("cached")),
            raw=fields.raw,
        )

    params = given(
        session=session,
        instance=None if instance is None else of_instance(instance),
        patch=None if patch is None else encoded(patch),
        model=model,
        # Whole seconds, and not fewer.
        timeout=None if timeout is None else math.ceil(timeout),
        strict=strict or None,
    )
    method = "instance.grade" if session is None else "session.grade"
    return Call(method, {**params, **CONCURRENT}, read)


def document(method: str, session: Optional[str] = None) -> Call[Mapping[str, Any]]:
    """A call whose result is as the command line prints it."""
    return Call(method, given(session=session), lambda result: Fields(method, result).raw)


def processes(session: str) -> Call[list[Any]]:
    def read(result: Any) -> list[Any]:
        return Fields("session.processes", result).items("processes")

    return Call("session.processes", {"session": session}, read)


def ended(method: str, session: str) -> Call[str]:
    """`session.stop` and `session.wait`: the result is how it ended."""

    def read(result: Any) -> str:
        return Fields(method, result).text_or_none("how") or ""

    extra = CONCURRENT if method == "session.wait" else {}
    return Call(method, {"session": session, **extra}, read)


def simple(method: str, **params: Any) -> Call[None]:
    """A call without a result."""
    return Call(method, given(**params), _nothing)


def _nothing(result: Any) -> None:
    del result
