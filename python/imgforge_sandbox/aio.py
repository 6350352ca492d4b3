"""The same for asyncio: `AsyncClient`, `AsyncSession`, `AsyncShell` and `AsyncProcess`.

They stand on the connection of `Client`, which has threads of its own; nothing blocks the event
loop. A command whose task is cancelled is killed, and the cancellation comes when it is dead.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import (
    Any,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    List,
    Mapping,
    Optional,
    Sequence,
    Union,
)

from . import _calls
from ._connection import Call, Connection, T
from ._errors import ConnectionLost, NoSuchSession, NotFound, SessionEnded
from ._execute import INLINE_INPUT, OnOutput, Running, piece
from ._link import Connect, Link, Spawn, StrPath
from ._progress import ProgressOption
from ._task import AsyncTask
from ._task import result_of as _result
from .client import Client, stop_unused
from .results import (
    Access,
    Change,
    Checkpoint,
    Entry,
    ExecResult,
    Grade,
    InstanceLike,
    SessionInfo,
    ShellResult,
    StartInfo,
    Stat,
    as_instance,
)
from .session import Session, raise_unless_ok
from .shell import Shell


class _Taker:
    """Lets `on_output` have pieces in the event loop, until it raises."""

    def __init__(self, on_output: OnOutput) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_output = on_output
        self.failed: asyncio.Future[None] = self._loop.create_future()

    def __call__(self, params: Mapping[str, Any]) -> None:
        """Takes a notification, in the thread that reads."""
        self._loop.call_soon_threadsafe(self._take, params)

    def _take(self, params: Mapping[str, Any]) -> None:
        if self.failed.done():
            return
        try:
            self._on_output(*piece(params))
        except Exception as error:
            self.failed.set_exception(error)


async def _result_or_kill(
    future: Future[Any], kill: Callable[[], None], taker: Optional[_Taker] = None
) -> Any:
    """Waits for a command. If it is given up, `kill` ends it first, in a thread.

    It is given up where the task is cancelled, and where its output is not taken.
    """
    try:
        if taker is None:
            return await _result(future)
        waiting = asyncio.ensure_future(_result(future))
        try:
            await asyncio.wait({waiting, taker.failed}, return_when=asyncio.FIRST_COMPLETED)
            if taker.failed.done():
                taker.failed.result()
            return await waiting
        finally:
            waiting.cancel()
    except BaseException:
        if not future.done():
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, kill))
        raise


class AsyncProcess:
    """A command of `AsyncSession.spawn`."""

    def __init__(
        self,
        connection: Connection,
        session: str,
        options: _calls.ExecOptions,
        tty: Optional[tuple[int, int]],
        stream: bool,
    ) -> None:
        self._connection = connection
        self._session = session
        self._pieces: asyncio.Queue[Optional[tuple[str, bytes]]] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        taker = _Taker(lambda *taken: self._pieces.put_nowait(taken)) if stream else None
        self._running = Running(connection, session, options, None, taker, keep_open=True, tty=tty)

        def ended(future: Future[Any]) -> None:
            del future
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._pieces.put_nowait, None)

        self._running.future.add_done_callback(ended)

    async def started(self) -> AsyncProcess:
        """Waits until it was started."""
        await _result_or_kill(self._running.started, self._running.kill_and_wait)
        return self

    async def write(self, data: _calls.Text) -> None:
        """Does as `Process.write`."""
        await self._do("exec.input", data=_calls.encoded(data))

    async def close_stdin(self) -> None:
        """Does as `Process.close_stdin`."""
        await self._do("exec.close_input")

    async def resize(self, rows: int, columns: int) -> None:
        """Does as `Process.resize`."""
        await self._do("exec.resize", rows=rows, columns=columns)

    async def kill(self, signal: Optional[int] = None) -> None:
        """Does as `Process.kill`."""
        await _result(self._running.signal(signal))

    async def output(self) -> AsyncIterator[tuple[str, bytes]]:
        """Does as `Process.output`."""
        while True:
            taken = await self._pieces.get()
            if taken is None:
                self._pieces.put_nowait(None)
                return
            yield taken

    async def wait(self) -> ExecResult:
        """Waits for its end and returns its result. A task that is cancelled leaves it running."""
        return _calls.exec_result(await _result(self._running.future))

    @property
    def running(self) -> bool:
        """Whether its end is not known yet."""
        return not self._running.future.done()

    async def _do(self, method: str, **params: Any) -> None:
        params.update(session=self._session, exec=self._running.name)
        await _result(self._connection.submit(method, params))


class AsyncShell:
    """A shell of a session, see `Shell`. Commands of several tasks run one by one."""

    def __init__(self, shell: Shell, connection: Connection) -> None:
        self._shell = shell
        self._connection = connection
        self._turn: Optional[asyncio.Lock] = None
        self.name = shell.name
        self.process = shell.process

    async def run(
        self,
        command: str,
        *,
        timeout: Optional[float] = None,
        max_output: Optional[int] = None,
        keep: Optional[str] = None,
        on_output: Optional[OnOutput] = None,
    ) -> ShellResult:
        """Does as `Shell.run`. `on_output` runs in the event loop. Cancelling kills it."""
        call = _calls.shell_run(
            self._shell.session_id, self.name, command, timeout, max_output, keep
        )
        if self._turn is None:
            self._turn = asyncio.Lock()
        async with self._turn:
            params = dict(call.params)
            key = ("output", self._shell.session_id, self.name)
            taker = None
            if on_output is not None:
                params["stream"] = True
                taker = _Taker(on_output)
                self._connection.subscribe(key, taker)
            try:
                future = self._connection.submit(call.method, params)
                result = await _result_or_kill(
                    future, lambda: self._shell.kill_and_wait(future), taker
                )
            finally:
                self._connection.unsubscribe(key)
            return call.read(result)

    async def interrupt(self) -> None:
        """Does as `Shell.interrupt`."""
        await self._do("shell.interrupt")

    async def kill(self) -> None:
        """Does as `Shell.kill`."""
        await self._do("shell.kill")

    async def close(self) -> None:
        """Does as `Shell.close`."""
        try:
            await self._do("shell.close")
        except (NotFound, SessionEnded, ConnectionLost):
            return

    async def __aenter__(self) -> AsyncShell:
        return self

    async def __aexit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        await self.close()

    async def _do(self, method: str) -> None:
        params = {"session": self._shell.session_id, "shell": self.name}
        await _result(self._connection.submit(method, params))


class AsyncSession:
    """A session, see `Session`. Tasks may use it at the same time, of one event loop or several."""

    def __init__(self, session: Session, connection: Connection) -> None:
        """Use `AsyncClient.start`."""
        self._session = session
        self._connection = connection
        self.info = session.info
        self.id = session.id
        self.image = session.image
        self.engine = session.engine
        self.instance = session.instance
        self.repository = session.repository
        self.base = session.base
        self.ports = session.ports
        self.warnings = session.warnings
        self.start_ms = session.start_ms

    # Commands

    async def exec(
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
        """Does as `Session.exec`. `on_output` runs in the event loop. Cancelling kills it."""
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
        taker = None if on_output is None else _Taker(on_output)
        running = Running(self._connection, self.id, options, stdin, taker)
        result = await _result_or_kill(running.future, running.kill_and_wait, taker)
        return _calls.exec_result(result)

    async def run(
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
        """Does as `Session.run`."""
        result = await self.exec(
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

    async def spawn(
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
    ) -> AsyncProcess:
        """Does as `Session.spawn`."""
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
        process = AsyncProcess(self._connection, self.id, options, tty, stream)
        return await process.started()

    async def shell(
        self,
        name: Optional[str] = None,
        *,
        env: Optional[Mapping[str, str]] = None,
        workdir: Optional[str] = None,
        user: Optional[str] = None,
        interactive: bool = False,
    ) -> AsyncShell:
        """Does as `Session.shell`."""
        call = _calls.shell_open(self.id, name, env, workdir, user, interactive)
        shell, process = await self._call(call)
        return AsyncShell(Shell(self._connection, self.id, shell, process), self._connection)

    # Files

    async def read(self, path: str, *, max_bytes: Optional[int] = None) -> bytes:
        """Does as `Session.read`."""
        return await self._call(_calls.read(self.id, path, max_bytes))

    async def read_text(self, path: str, *, max_bytes: Optional[int] = None) -> str:
        """Does as `Session.read_text`."""
        return (await self.read(path, max_bytes=max_bytes)).decode("utf-8")

    async def write(
        self,
        path: str,
        data: _calls.Text,
        *,
        mode: Optional[int] = None,
        user: Optional[str] = None,
    ) -> None:
        """Does as `Session.write`."""
        if len(data) <= INLINE_INPUT:
            return await self._call(_calls.write(self.id, path, data, mode, user))
        return await self._in_thread(
            lambda cancelled: self._session.write_long(path, data, mode, user, cancelled)
        )

    async def stat(self, path: str) -> Stat:
        """Does as `Session.stat`."""
        return await self._call(_calls.stat(self.id, path))

    async def list(self, path: str) -> List[Entry]:
        """Does as `Session.list`."""
        return await self._call(_calls.entries(self.id, path))

    async def put(
        self, source: StrPath, target: str, *, owner: Optional[tuple[int, int]] = None
    ) -> None:
        """Does as `Session.put`."""
        await self._in_thread(
            lambda cancelled: self._session.put_until(source, target, owner, cancelled)
        )

    async def get(
        self,
        source: str,
        target: StrPath,
        *,
        links: str = "refuse",
        max_bytes: Optional[int] = None,
    ) -> Path:
        """Does as `Session.get`."""
        return await self._in_thread(
            lambda cancelled: self._session.get_until(source, target, links, max_bytes, cancelled)
        )

    # Changes

    async def diff(self) -> List[Change]:
        """Does as `Session.diff`."""
        return await self._call(_calls.diff(self.id))

    async def patch(
        self,
        *,
        base: Optional[str] = None,
        exclude: Optional[Iterable[str]] = None,
        untracked: bool = True,
        workdir: Optional[str] = None,
    ) -> bytes:
        """Does as `Session.patch`."""
        return await self._call(_calls.patch(self.id, base, exclude, untracked, workdir))

    async def apply(
        self, patch: _calls.Text, *, reverse: bool = False, workdir: Optional[str] = None
    ) -> str:
        """Does as `Session.apply`."""
        if not patch.strip():
            return ""
        return await self._call(_calls.apply(self.id, patch, reverse, workdir))

    async def grade(
        self,
        *,
        model: Optional[str] = None,
        timeout: Optional[float] = None,
        strict: bool = False,
    ) -> Grade:
        """Does as `Session.grade`."""
        call = _calls.grade(session=self.id, model=model, timeout=timeout, strict=strict)
        return await self._shown(call, f"grading {self._session.name}")

    # Checkpoints

    async def checkpoint(self, *, move: bool = False) -> Checkpoint:
        """Does as `Session.checkpoint`."""
        return await self._shown(
            _calls.checkpoint(self.id, move), f"checkpoint of {self._session.name}"
        )

    async def fork(self, n: int = 1) -> List[AsyncSession]:
        """Does as `Session.fork`."""
        call = _calls.fork(n, session=self.id)
        infos = await self._shown(call, f"forking {self._session.name}")
        return [self._sibling(info) for info in infos]

    async def reset(self, to: Union[str, Checkpoint, None] = None) -> None:
        """Does as `Session.reset`."""
        await self._shown(_calls.reset(self.id, to), f"resetting {self._session.name}")

    # The session

    async def network(self, allow: Optional[Iterable[str]] = None) -> Access:
        """Does as `Session.network`."""
        return await self._call(_calls.network(self.id, allow))

    async def pause(self) -> None:
        """Does as `Session.pause`."""
        await self._call(_calls.simple("session.pause", session=self.id))

    async def resume(self) -> None:
        """Does as `Session.resume`."""
        await self._call(_calls.simple("session.resume", session=self.id))

    async def stats(self) -> Mapping[str, Any]:
        """Does as `Session.stats`."""
        return await self._call(_calls.document("session.stats", self.id))

    async def processes(self) -> List[Any]:
        """Does as `Session.processes`."""
        return await self._call(_calls.processes(self.id))

    async def wait(self) -> str:
        """Does as `Session.wait`."""
        return await self._call(_calls.ended("session.wait", self.id))

    async def stop(self) -> str:
        """Does as `Session.stop`."""
        if not self._session.mark_stopped():
            return ""
        try:
            return await self._call(_calls.ended("session.stop", self.id))
        except (NoSuchSession, SessionEnded, ConnectionLost):
            return ""

    async def __aenter__(self) -> AsyncSession:
        return self

    async def __aexit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        await self.stop()

    def __repr__(self) -> str:
        return f"<AsyncSession {self.id} of {self.image}>"

    def disown(self) -> None:
        """Lets it live when the object goes away; for `AsyncClient`."""
        self._session.disown()

    def _sibling(self, info: StartInfo) -> AsyncSession:
        session = Session(self._session.client, self._connection, info)
        return AsyncSession(session, self._connection)

    async def _call(self, call: Call[T]) -> T:
        return call.read(await _result(self._connection.submit(call.method, call.params)))

    async def _shown(self, call: Call[T], name: str) -> T:
        return await AsyncTask(self._connection, call, name).outcome()

    async def _in_thread(self, work: Callable[[threading.Event], T]) -> T:
        """Runs a transfer in a thread. If the task is cancelled, it ends at its next piece."""
        cancelled = threading.Event()
        loop = asyncio.get_running_loop()
        waiting = loop.run_in_executor(None, work, cancelled)
        waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            cancelled.set()
            raise


class AsyncClient:
    """Starts sessions, see `Client`. The server is started when it is used first, or by `connect`.

    Use it as `async with AsyncClient() as client:`.
    """

    def __init__(
        self,
        binary: Optional[StrPath] = None,
        *,
        engine: Optional[str] = None,
        backend: Optional[str] = None,
        state_dir: Optional[StrPath] = None,
        options: Sequence[str] = (),
        env: Optional[Mapping[str, str]] = None,
        progress: ProgressOption = True,
    ) -> None:
        """Takes what `Client` takes. Nothing is started yet. `progress` is in the event loop."""
        spawn = Spawn(binary, engine, state_dir, options, env, backend)
        self._client = Client.on_link(Link(spawn, progress))

    @classmethod
    def on_link(cls, link: Link) -> AsyncClient:
        """Makes a client of a link, which connects when it is used."""
        client = cls.__new__(cls)
        client._client = Client.on_link(link)
        return client

    async def connect(self) -> AsyncClient:
        """Starts the server, or connects to it. Raises as `Client`."""
        await self._connected()
        return self

    async def start(
        self,
        *,
        image: Optional[str] = None,
        instance: Optional[InstanceLike] = None,
        checkpoint: Union[str, Checkpoint, None] = None,
        env: Optional[Mapping[str, str]] = None,
        workdir: Optional[str] = None,
        user: Optional[str] = None,
        network: Optional[str] = None,
        allow: Optional[Iterable[str]] = None,
        publish: Optional[Iterable[Union[str, int]]] = None,
        bind: Optional[Iterable[str]] = None,
        tmpfs: Optional[Iterable[str]] = None,
        read_only: bool = False,
        memory: Optional[int] = None,
        cpus: Optional[float] = None,
        pids: Optional[int] = None,
        ttl: Optional[float] = None,
        idle: Optional[float] = None,
        labels: Optional[Mapping[str, str]] = None,
    ) -> AsyncSession:
        """Does as `Client.start`. If the task is cancelled, the session ends once it is there."""
        options = _calls.StartOptions(
            image=image,
            instance=instance,
            checkpoint=checkpoint,
            env=env,
            workdir=workdir,
            user=user,
            network=network,
            allow=allow,
            publish=publish,
            bind=bind,
            tmpfs=tmpfs,
            read_only=read_only,
            memory=memory,
            cpus=cpus,
            pids=pids,
            ttl=ttl,
            idle=idle,
            labels=labels,
        )
        connection = await self._connected()
        task = AsyncTask(connection, _calls.start(options), f"starting {options.name()}")
        try:
            info = await task.outcome()
        except BaseException:
            stop_unused(connection, task.future)
            raise
        return self._session(connection, info)

    async def fork(self, checkpoint: Union[str, Checkpoint], n: int = 1) -> List[AsyncSession]:
        """Does as `Client.fork`."""
        connection = await self._connected()
        id = _calls.checkpoint_id(checkpoint)
        call = _calls.fork(n, checkpoint=id)
        infos = await AsyncTask(connection, call, f"forking {id}").outcome()
        return [self._session(connection, info) for info in infos]

    async def session(self, id: str) -> AsyncSession:
        """Does as `Client.session`."""
        connection = await self._connected()
        session = self._session(connection, await self._call(_calls.find(id)))
        session.disown()
        return session

    async def sessions(self) -> List[SessionInfo]:
        """Does as `Client.sessions`."""
        return await self._call(_calls.listed())

    async def grade(
        self,
        instance: InstanceLike,
        patch: _calls.Text,
        *,
        model: Optional[str] = None,
        timeout: Optional[float] = None,
        strict: bool = False,
    ) -> Grade:
        """Does as `Client.grade`."""
        call = _calls.grade(
            instance=instance, patch=patch, model=model, timeout=timeout, strict=strict
        )
        name = f"grading {as_instance(instance).instance_id}"
        return await AsyncTask(await self._connected(), call, name).outcome()

    async def checkpoints(self) -> List[Any]:
        """Does as `Client.checkpoints`."""
        return await self._call(_calls.checkpoints())

    async def remove_checkpoint(self, checkpoint: Union[str, Checkpoint]) -> None:
        """Does as `Client.remove_checkpoint`."""
        id = _calls.checkpoint_id(checkpoint)
        await self._call(_calls.simple("checkpoint.remove", checkpoint=id))

    async def close(self) -> None:
        """Does as `Client.close`."""
        await asyncio.get_running_loop().run_in_executor(None, self._client.close)

    async def __aenter__(self) -> AsyncClient:
        return await self.connect()

    async def __aexit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        await self.close()

    def __await__(self) -> Generator[Any, None, AsyncClient]:
        return self.connect().__await__()

    async def _connected(self) -> Connection:
        return await asyncio.get_running_loop().run_in_executor(None, self._client.link.get)

    def _session(self, connection: Connection, info: StartInfo) -> AsyncSession:
        return AsyncSession(Session(self._client, connection, info), connection)

    async def _call(self, call: Call[T]) -> T:
        connection = await self._connected()
        return call.read(await _result(connection.submit(call.method, call.params)))


async def connect(url: str, *, progress: ProgressOption = True) -> AsyncClient:
    """Does as `imgforge_sandbox.connect`."""
    return await AsyncClient.on_link(Link(Connect(url), progress)).connect()
