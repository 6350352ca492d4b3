"""A session: a container that lives while you run commands in it."""

from __future__ import annotations

import os
import queue
import threading
import warnings
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Iterable, List, Mapping, Optional, Union

from . import _calls, _pack, _transfer, _unpack
from ._connection import Call, Connection, T
from ._errors import (
    CommandFailed,
    ConnectionLost,
    InvalidRequest,
    NoSuchSession,
    SessionEnded,
)
from ._execute import INLINE_INPUT, OnOutput, Running, piece
from ._task import Task
from .process import Process
from .results import (
    Access,
    Change,
    Checkpoint,
    Entry,
    ExecResult,
    Grade,
    StartInfo,
    Stat,
)
from .shell import Shell

if TYPE_CHECKING:
    from .client import Client

StrPath = Union[str, "os.PathLike[str]"]


class Session:
    """A session of a server. It ends with `stop`, with the `with` block, or with its client.

    Any thread may use it. Commands and shells of several threads run at the same time.

    Every method raises `NoSuchSession` or `SessionEnded` where the session is gone,
    `ConnectionLost` where the server is, and `InfraError` where something failed that says nothing
    of what runs here. Paths of the session are absolute; those of this machine may be relative.

    `info` has what is known since its start. `id`, `image`, `engine`, `instance`, `repository`,
    `base`, `ports`, `warnings` and `start_ms` are fields of it.
    """

    def __init__(self, client: Client, connection: Connection, info: StartInfo) -> None:
        """Use `Client.start`."""
        # The client lives as long as one of its sessions: its end would be theirs.
        self.client = client
        self._connection = connection
        self._stopped = False
        self._owned = True
        self.info = info
        self.id = info.id
        self.image = info.image
        self.engine = info.engine
        self.instance = info.instance
        self.repository = info.repository
        self.base = info.base
        self.ports = info.ports
        self.warnings = info.warnings
        self.start_ms = info.start_ms

    # Commands

    def exec(
        self,
        command: _calls.Command,
        *,
        env: Optional[Mapping[str, str]] = None,
        workdir: Optional[str] = None,
        user: Optional[str] = None,
        stdin: Optional[_calls.Text] = None,
        timeout: Optional[float] = None,
        idle_timeout: Optional[float] = None,
        max_output: Optional[int] = None,
        keep: Optional[str] = None,
        merge: bool = False,
        login: bool = False,
        on_output: Optional[OnOutput] = None,
    ) -> ExecResult:
        """Runs a command to its end.

        `command` is a list of program and arguments, or a text for `sh -c` (with `login` for `bash
        -lc`). `env` is beside the session's variables. `stdin` is the whole input; without it the
        input is empty. After `timeout` seconds in all, or `idle_timeout` seconds without output,
        every process of the command is killed. `max_output` bytes of each output are kept, 10 MiB
        if nothing is said; `keep` says which: `tail` (the default), `head_tail`, or `all`. With
        `merge` both outputs are in `stdout`, in the order in which they were written.

        `on_output` gets `("stdout" | "stderr", bytes)` while the command runs, in this thread. What
        it has not taken yet waits in memory. If it raises, or on Ctrl-C, the command is killed.

        A command that fails, or cannot be started, is a result. Raises `SessionEnded`, with the
        output until then, where the session ends first.
        """
        options = _calls.ExecOptions(
            command=command,
            env=env,
            workdir=workdir,
            user=user,
            timeout=timeout,
            idle_timeout=idle_timeout,
            max_output=max_output,
            keep=keep,
            merge=merge,
            login=login,
        )
        pieces: queue.SimpleQueue[Optional[Mapping[str, Any]]] = queue.SimpleQueue()
        handler = None if on_output is None else pieces.put
        running = Running(self._connection, self.id, options, stdin, handler)
        running.future.add_done_callback(lambda _: pieces.put(None))
        try:
            while on_output is not None:
                params = pieces.get()
                if params is None:
                    break
                on_output(*piece(params))
            result = running.future.result()
        except BaseException:
            if not running.future.done():
                running.kill_and_wait()
            raise
        return _calls.exec_result(result)

    def run(
        self,
        command: _calls.Command,
        *,
        check: bool = True,
        env: Optional[Mapping[str, str]] = None,
        workdir: Optional[str] = None,
        user: Optional[str] = None,
        stdin: Optional[_calls.Text] = None,
        timeout: Optional[float] = None,
        idle_timeout: Optional[float] = None,
        max_output: Optional[int] = None,
        keep: Optional[str] = None,
        merge: bool = False,
        login: bool = False,
        on_output: Optional[OnOutput] = None,
    ) -> ExecResult:
        """Does as `exec`. With `check` it raises `CommandFailed` where the result is not `ok`."""
        result = self.exec(
            command,
            env=env,
            workdir=workdir,
            user=user,
            stdin=stdin,
            timeout=timeout,
            idle_timeout=idle_timeout,
            max_output=max_output,
            keep=keep,
            merge=merge,
            login=login,
            on_output=on_output,
        )
        if check:
            raise_unless_ok(command, result)
        return result

    def spawn(
        self,
        command: _calls.Command,
        *,
        env: Optional[Mapping[str, str]] = None,
        workdir: Optional[str] = None,
        user: Optional[str] = None,
        timeout: Optional[float] = None,
        idle_timeout: Optional[float] = None,
        max_output: Optional[int] = None,
        keep: Optional[str] = None,
        merge: bool = False,
        login: bool = False,
        tty: Optional[tuple[int, int]] = None,
        stream: bool = False,
    ) -> Process:
        """Starts a command whose input is open, and returns when it was started.

        `tty` gives it a terminal of so many rows and columns. `stream` is for `Process.output`. The
        other parameters are those of `exec`.
        """
        options = _calls.ExecOptions(
            command=command,
            env=env,
            workdir=workdir,
            user=user,
            timeout=timeout,
            idle_timeout=idle_timeout,
            max_output=max_output,
            keep=keep,
            merge=merge,
            login=login,
        )
        return Process(self._connection, self.id, options, tty, stream)

    def shell(
        self,
        name: Optional[str] = None,
        *,
        env: Optional[Mapping[str, str]] = None,
        workdir: Optional[str] = None,
        user: Optional[str] = None,
        interactive: bool = False,
    ) -> Shell:
        """Opens a shell, which keeps directory, variables and functions between commands.

        A shell without a name gets one. `interactive` starts it as one at a terminal would be. The
        image needs bash.
        """
        call = _calls.shell_open(self.id, name, env, workdir, user, interactive)
        shell, process = self._connection.call(call)
        return Shell(self._connection, self.id, shell, process)

    # Files

    def read(self, path: str, *, max_bytes: Optional[int] = None) -> bytes:
        """Returns the content of a file. A link is followed.

        Raises `NoSuchPath`, and `LimitExceeded` for more than `max_bytes` (100 MiB).
        """
        return self._call(_calls.read(self.id, path, max_bytes))

    def read_text(self, path: str, *, max_bytes: Optional[int] = None) -> str:
        """Returns a file as text. Raises `UnicodeDecodeError` where it is not UTF-8."""
        return self.read(path, max_bytes=max_bytes).decode("utf-8")

    def write(
        self,
        path: str,
        data: _calls.Text,
        *,
        mode: Optional[int] = None,
        user: Optional[str] = None,
    ) -> None:
        """Writes a file, and makes the directories above it.

        A text is UTF-8. `mode` is 0o644 if nothing is said; `user` is the owner, as `uid:gid` in
        numbers. Else it is the session's user, where that was given in numbers, or root.
        """
        if len(data) <= INLINE_INPUT:
            return self._call(_calls.write(self.id, path, data, mode, user))
        # Longer than a line may be: in pieces.
        return self.write_long(path, data, mode, user, threading.Event())

    def stat(self, path: str) -> Stat:
        """Says what a path is. A link at its end is not followed.

        Raises `NoSuchPath`, and `Unsupported` on Docker.
        """
        return self._call(_calls.stat(self.id, path))

    def list(self, path: str) -> List[Entry]:
        """Lists a directory, by name. Raises `NoSuchPath`."""
        return self._call(_calls.entries(self.id, path))

    def put(self, source: StrPath, target: str, *, owner: Optional[tuple[int, int]] = None) -> None:
        """Copies a file or directory of this machine to `target`, which is its new name.

        Missing directories above it are made. A directory that is there already is added to. Links
        are copied as links; modes and times stay. Owners stay as numbers, or all are `owner`.
        """
        self.put_until(source, target, owner, threading.Event())

    def get(
        self,
        source: str,
        target: StrPath,
        *,
        links: str = "refuse",
        max_bytes: Optional[int] = None,
    ) -> Path:
        """Copies a file or directory of the session to `target`, which is its new name, and returns
        it.

        A file is replaced in one step; a directory must not be there yet. The files are this
        user's; modes and times stay. What comes is not trusted: nothing is written outside of
        `target`. Links that lead out of a directory are refused; `links="skip"` leaves them out,
        and `links="keep"` copies them (follow none of them then). More than `max_bytes` of content
        is `LimitExceeded`.

        Raises `NoSuchPath`, `Refused`, `FileExistsError`, `IsADirectoryError`. Then nothing is
        left.
        """
        return self.get_until(source, target, links, max_bytes, threading.Event())

    # Changes

    def diff(self) -> List[Change]:
        """Lists the paths that differ from the image. Raises `Unsupported` on Docker."""
        return self._call(_calls.diff(self.id))

    def patch(
        self,
        *,
        base: Optional[str] = None,
        exclude: Optional[Iterable[str]] = None,
        untracked: bool = True,
        workdir: Optional[str] = None,
    ) -> bytes:
        """Returns what was changed since the commit `base`, as a patch of git. The bytes are exact.

        Without `base` it is the commit that the session began with. `exclude` has patterns of
        paths. New files are in it, unless `untracked` is false; what git ignores is not. `workdir`
        names another repository. Nothing of the repository is changed. It is empty where nothing
        was changed.
        """
        return self._call(_calls.patch(self.id, base, exclude, untracked, workdir))

    def apply(
        self, patch: _calls.Text, *, reverse: bool = False, workdir: Optional[str] = None
    ) -> str:
        """Applies a patch, or takes it back, and returns what git said. An empty patch does
        nothing.

        Raises `Refused` where it does not apply. Then nothing was changed.
        """
        if not patch.strip():
            return ""
        return self._call(_calls.apply(self.id, patch, reverse, workdir))

    def grade(
        self,
        *,
        model: Optional[str] = None,
        timeout: Optional[float] = None,
        strict: bool = False,
    ) -> Grade:
        """Grades the patch of the session in a fresh container, as `imgforge eval` does.

        The session has to be of an instance; it lives on. `timeout` is in seconds, for the tests.
        Where there is no verdict, `resolved` is None: that is not False.
        """
        call = _calls.grade(session=self.id, model=model, timeout=timeout, strict=strict)
        return self._shown(call, f"grading {self.name}")

    # Checkpoints

    def checkpoint(self, *, move: bool = False) -> Checkpoint:
        """Makes a checkpoint of the files. No process is in it.

        With `move` nothing is copied: what runs ends, and the session goes on from the checkpoint.
        """
        return self._shown(_calls.checkpoint(self.id, move), f"checkpoint of {self.name}")

    def fork(self, n: int = 1) -> List[Session]:
        """Makes a checkpoint of now, and returns `n` sessions that start from it.

        The checkpoint stays, as those of `checkpoint` do: `info.checkpoint` of the sessions has its
        id.
        """
        infos = self._shown(_calls.fork(n, session=self.id), f"forking {self.name}")
        return [Session(self.client, self._connection, info) for info in infos]

    def reset(self, to: Union[str, Checkpoint, None] = None) -> None:
        """Goes back to what the session was started from, or to a checkpoint. What runs ends."""
        self._shown(_calls.reset(self.id, to), f"resetting {self.name}")

    # The session

    def network(self, allow: Optional[Iterable[str]] = None) -> Access:
        """Says what it may reach, and what it was denied. `allow` replaces the list of hosts.

        Raises `Refused` where the session was started without the network `proxy`.
        """
        return self._call(_calls.network(self.id, allow))

    def pause(self) -> None:
        """Lets all of its processes stand still. Raises `Unsupported` on Docker."""
        self._call(_calls.simple("session.pause", session=self.id))

    def resume(self) -> None:
        """Lets them go on."""
        self._call(_calls.simple("session.resume", session=self.id))

    def stats(self) -> Mapping[str, Any]:
        """Says what it uses: `cpu_ms`, `memory_bytes` and more. Raises `Unsupported` on Docker."""
        return self._call(_calls.document("session.stats", self.id))

    def processes(self) -> List[Any]:
        """Lists its processes, as `imgforge session ps --json`. Raises `Unsupported` on Docker."""
        return self._call(_calls.processes(self.id))

    def wait(self) -> str:
        """Waits until it ends, and says how."""
        return self._call(_calls.ended("session.wait", self.id))

    def stop(self) -> str:
        """Ends it, and says how it ended. Nothing of it is left. Another call does nothing."""
        if not self.mark_stopped():
            return ""
        try:
            return self._call(_calls.ended("session.stop", self.id))
        except (NoSuchSession, SessionEnded, ConnectionLost):
            return ""

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.stop()

    def __del__(self) -> None:
        # It may run in any thread, at any time: it sends, and does not wait.
        if getattr(self, "_stopped", True) or not self._owned:
            return
        self._stopped = True
        if self._connection.is_open:
            warnings.warn(f"{self!r} was not stopped", ResourceWarning, source=self, stacklevel=2)
            self._connection.post("session.stop", {"session": self.id})

    def __repr__(self) -> str:
        return f"<Session {self.id} of {self.image}>"

    # What `AsyncSession` uses too; not for others.

    def mark_stopped(self) -> bool:
        """Notes that it is being stopped; tells whether it was not before."""
        stopped, self._stopped = self._stopped, True
        return not stopped

    @property
    def name(self) -> str:
        """What people call it: its instance, or its id."""
        return self.instance.instance_id if self.instance else f"session {self.id}"

    def disown(self) -> None:
        """Lets it live when the object goes away."""
        self._owned = False

    def _call(self, call: Call[T]) -> T:
        return self._connection.call(call)

    def _shown(self, call: Call[T], name: str) -> T:
        return Task(self._connection, call, name).result()

    def put_until(
        self,
        source: StrPath,
        target: str,
        owner: Optional[tuple[int, int]],
        cancelled: threading.Event,
    ) -> None:
        """Does as `put`, until `cancelled` is set."""
        path = Path(source)
        # What is not there is said before anything is sent.
        os.lstat(path)
        directory, name = _split(target)
        _transfer.put(
            self._connection,
            self.id,
            directory,
            lambda send: _pack.pack(path, name, owner, send),
            cancelled,
        )

    def write_long(
        self,
        path: str,
        data: _calls.Text,
        mode: Optional[int],
        user: Optional[str],
        cancelled: threading.Event,
    ) -> None:
        """Writes a file in pieces, until `cancelled` is set."""
        content = data.encode("utf-8") if isinstance(data, str) else data
        directory, name = _split(path)
        if user is None:
            # Whose it is, the server decides: of an empty file, which is replaced.
            self._call(_calls.write(self.id, path, b"", mode, None))
            user = self.run(["stat", "-c", "%u:%g", path], user="0:0").text.strip()
        owner = _owner(user)
        _transfer.put(
            self._connection,
            self.id,
            directory,
            lambda send: _pack.pack_bytes(
                content, name, 0o644 if mode is None else mode, owner, send
            ),
            cancelled,
        )

    def get_until(
        self,
        source: str,
        target: StrPath,
        links: str,
        max_bytes: Optional[int],
        cancelled: threading.Event,
    ) -> Path:
        """Does as `get`, until `cancelled` is set."""
        path = Path(target)
        _transfer.get(
            self._connection,
            self.id,
            source,
            lambda stream, check: _unpack.unpack(
                stream, path, links=links, max_bytes=max_bytes, check=check
            ),
            cancelled,
        )
        return path


def raise_unless_ok(command: _calls.Command, result: ExecResult) -> None:
    """Raises `CommandFailed` for a command that did not end with code 0."""
    if result.ok:
        return
    words = command if isinstance(command, str) else " ".join(command)
    how = f"code {result.code}" if result.end == "exited" else result.end
    said = (result.stderr or result.stdout)[-2000:].decode("utf-8", "replace").strip()
    raise CommandFailed(f"`{words}`: {how}" + (f"\n{said}" if said else ""), result=result)


def _split(path: str) -> tuple[str, str]:
    try:
        return _pack.split(path)
    except ValueError as error:
        raise InvalidRequest(str(error)) from None


def _owner(user: str) -> tuple[int, int]:
    uid, separator, gid = user.partition(":")
    if not uid.isdecimal() or (separator and not gid.isdecimal()):
        raise InvalidRequest(f"{user!r} is no owner", hint="write it in numbers, as 1000:1000")
    return int(uid), int(gid or uid)
