"""NeMo Gym: the sandbox provider `imgforge`, which it finds when the package is installed.

    sandbox:
      imgforge: {}

`SandboxSpec.image` is an image that the engine has; `provider_options` may name an instance of a
dataset instead.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import signal as signals
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Optional, Union

from nemo_gym.sandbox.providers.base import (
    SandboxCreateError,
    SandboxCreateVerificationError,
    SandboxEndpoint,
    SandboxExecResult,
    SandboxHandle,
    SandboxPtyError,
    SandboxPtySpec,
    SandboxSpec,
    SandboxStatus,
)

from . import results
from ._errors import ConnectionLost, ImgforgeError, InfraError, NotFound, SessionEnded
from ._shared import put_file, shared_async_client, source
from .aio import AsyncProcess, AsyncSession

__all__ = ["ImgforgeProvider"]

_LOGGER = logging.getLogger(__name__)
_MAX_OUTPUT = 64 << 20
_NO_CODE = 125


@dataclass(frozen=True)
class _Options:
    """What a sandbox may have beside the neutral fields, for all or for one."""

    dataset: Optional[str] = None
    instance_id: Optional[str] = None
    split: str = "test"
    user: Optional[str] = None
    network: Optional[str] = None
    allow: Optional[list[str]] = None
    bind: Optional[list[str]] = None
    tmpfs: Optional[list[str]] = None
    read_only: bool = False
    pids: Optional[int] = None

    @classmethod
    def of(cls, *given: Mapping[str, Any]) -> _Options:
        known = {field.name for field in fields(cls)}
        for options in given:
            unknown = sorted(set(options) - known)
            if unknown:
                raise ValueError(
                    f"sandboxes of imgforge have no option {', '.join(unknown)}; there are "
                    f"{', '.join(sorted(known))}"
                )
        return cls(**{name: value for options in given for name, value in options.items()})


@dataclass(frozen=True)
class _Box:
    session: AsyncSession
    shell: str


class ImgforgeProvider:
    """Sessions as sandboxes of NeMo Gym.

    A command that reaches its limit of time is killed with all that it started; its result has the
    `error_type` `timeout`. What says nothing of the command, such as a session that has ended, is
    an exception of this package, and never a result.
    """

    name = "imgforge"

    def __init__(self, *, default_timeout_s: Optional[float] = None, **options: Any) -> None:
        """Starts nothing yet.

        `options` are for all sandboxes: `user`, `network`, `allow`, `bind`, `tmpfs`, `read_only`,
        `pids`, as for `imgforge_sandbox.Client.start`, and `dataset`, `instance_id` and `split`.
        `SandboxSpec.provider_options` has them for one. `default_timeout_s` is for commands that
        have no limit of time. Raises ValueError for an option that is none.
        """
        self._default_timeout_s = default_timeout_s
        self._options = options
        _Options.of(options)

    async def create(self, spec: SandboxSpec) -> SandboxHandle:
        """Starts a session. Raises `SandboxCreateError`, and ValueError for an unknown option."""
        options = _Options.of(self._options, spec.provider_options)
        try:
            session = await asyncio.wait_for(_start(spec, options), spec.ready_timeout_s)
        except ImgforgeError as error:
            raise SandboxCreateError(str(error)) from error
        except asyncio.TimeoutError as error:
            raise SandboxCreateError(
                f"the session did not start in {spec.ready_timeout_s} seconds"
            ) from error
        try:
            for warning in session.warnings:
                _LOGGER.warning("imgforge: %s", warning)
            if spec.workdir is not None:
                await session.run(["mkdir", "-p", spec.workdir], workdir="/", user="0")
            has_bash = (await session.run(["sh", "-c", "command -v bash"], check=False)).ok
            box = _Box(session, "bash" if has_bash else "sh")
            return SandboxHandle(session.id, self.name, box)
        except BaseException as error:
            await session.stop()
            if isinstance(error, ImgforgeError):
                raise SandboxCreateVerificationError(str(error)) from error
            raise

    async def exec(
        self,
        handle: SandboxHandle,
        command: str,
        *,
        cwd: Optional[str] = None,
        env: Optional[dict[str, str]] = None,
        timeout_s: Optional[float] = None,
        user: Optional[Union[str, int]] = None,
    ) -> SandboxExecResult:
        """Runs a command with bash, or with sh where there is no bash."""
        box = _box(handle)
        limit = self._default_timeout_s if timeout_s is None else timeout_s
        result = await box.session.exec(
            [box.shell, "-c", command],
            workdir=cwd,
            env=env,
            user=None if user is None else str(user),
            timeout=limit,
            max_output=_MAX_OUTPUT,
        )
        return _result(result, limit)

    async def upload_file(self, handle: SandboxHandle, source_path: Path, target_path: str) -> None:
        """Copies a file into the session, with its mode, as a file of root."""
        await put_file(_box(handle).session, source_path, target_path)

    async def download_file(
        self, handle: SandboxHandle, source_path: str, target_path: Path
    ) -> None:
        """Copies a file out of the session."""
        target_path.parent.mkdir(parents=True, exist_ok=True)
        await _box(handle).session.get(source_path, target_path)

    async def status(self, handle: SandboxHandle) -> SandboxStatus:
        """Says whether the session lives."""
        try:
            await _box(handle).session.stat("/")
        except (NotFound, SessionEnded, ConnectionLost):
            # With its server a session is gone too.
            return SandboxStatus.STOPPED
        except InfraError:
            return SandboxStatus.UNKNOWN
        return SandboxStatus.RUNNING

    async def close(self, handle: SandboxHandle) -> None:
        """Ends the session. Another call does nothing."""
        await _box(handle).session.stop()

    async def aclose(self) -> None:
        """Does nothing: the server is that of all providers, and ends with the process."""

    async def pause(self, handle: SandboxHandle) -> None:
        """Lets all processes of the session stand still."""
        await _box(handle).session.pause()

    async def resume(self, handle: SandboxHandle) -> None:
        """Lets them go on."""
        await _box(handle).session.resume()

    async def endpoint(self, handle: SandboxHandle, port: int) -> SandboxEndpoint:
        """Returns the address of a port that `SandboxSpec.ports` names. Raises ValueError."""
        for published in _box(handle).session.ports:
            if published.port == port:
                return SandboxEndpoint(f"http://{published.address}")
        raise ValueError(f"the port {port} is not among the ports of the sandbox")

    async def create_pty(self, handle: SandboxHandle, spec: SandboxPtySpec) -> ImgforgePty:
        """Opens a terminal, or a shell on pipes."""
        box = _box(handle)
        command = [box.shell] if spec.command is None else [box.shell, "-c", spec.command]
        process = await box.session.spawn(
            command,
            workdir=spec.cwd,
            env={"TERM": "xterm-256color", **(spec.env or {})} if spec.pty else spec.env,
            user=None if spec.user is None else str(spec.user),
            tty=(spec.rows, spec.cols) if spec.pty else None,
            stream=True,
        )
        return ImgforgePty(process, spec.pty)


class ImgforgePty:
    """A live terminal, or a program on pipes; a `SandboxPtySession` of NeMo Gym."""

    def __init__(self, process: AsyncProcess, pty: bool) -> None:
        """Use `ImgforgeProvider.create_pty`."""
        self._process = process
        self.session_id = f"pty-{id(process):x}"
        self.mode: Optional[str] = "pty" if pty else "pipe"
        self._closed = False
        self._pieces: dict[str, asyncio.Queue[Optional[bytes]]] = {
            "stdout": asyncio.Queue(),
            "stderr": asyncio.Queue(),
        }
        self._sorting = asyncio.ensure_future(self._sort())

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    async def read(self, *, timeout_s: Optional[float] = None) -> bytes:
        """Returns the next piece of output; it is empty at the end. Raises TimeoutError."""
        return await self._next("stdout", timeout_s)

    async def read_stderr(self, *, timeout_s: Optional[float] = None) -> bytes:
        """Does as `read`, for the error output of a program on pipes."""
        return await self._next("stderr", timeout_s)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while piece := await self.read():
            yield piece

    async def write(self, data: bytes) -> None:
        """Sends bytes to the input."""
        await _pty(self._process.write(data))

    async def resize(self, rows: int, cols: int) -> None:
        """Sets the size of the terminal."""
        await _pty(self._process.resize(rows, cols))

    async def send_signal(self, signal: str) -> None:
        """Sends a signal by its name, such as SIGTERM. Raises ValueError for another text."""
        try:
            number = signals.Signals[signal]
        except KeyError:
            raise ValueError(f"there is no signal {signal!r}") from None
        await _pty(self._process.kill(int(number)))

    async def wait_exit(self, *, timeout_s: Optional[float] = None) -> int:
        """Waits for the end, and returns the exit code. Raises TimeoutError, `SandboxPtyError`."""
        result = await asyncio.wait_for(_pty(self._process.wait()), timeout_s)
        if result.code is None:
            raise SandboxPtyError(f"nobody knows how it ended: {result.end}")
        return int(result.code)

    async def run_detached(
        self, command: str, *, poll_interval_s: float = 15.0
    ) -> tuple[bytes, Optional[int]]:
        """Runs a command in the shell of `create_pty`; returns both its outputs and its code.

        Nothing has to be polled: the connection is a pipe of this machine. Raises `SandboxPtyError`
        where the command ends the shell.
        """
        mark = secrets.token_hex(8)
        # The terminal shows what is typed, in which the marks must not be found.
        tell = f"printf '%s%s%s\\n' '{mark[:8]}' '{mark[8:]}'"
        await self.write(f'{{ {tell} begins\n{command}\n{tell} "$?"\n}} </dev/null 2>&1\n'.encode())
        begin = re.compile(rf"{mark}begins\r?\n".encode())
        end = re.compile(rf"{mark}(\d+)\r?\n".encode())
        output = b""
        while (ended := end.search(output)) is None:
            piece = await self.read()
            if not piece:
                raise SandboxPtyError("the shell ended before the command did")
            output += piece
        began = begin.search(output)
        start = 0 if began is None else began.end()
        return output[start : ended.start()], int(ended[1])

    async def close(self) -> None:
        """Kills what runs. Another call does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._process.running:
            try:
                await self._process.kill()
            except (NotFound, SessionEnded, ConnectionLost):
                # Then it does not run either.
                return

    async def __aenter__(self) -> ImgforgePty:
        return self

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        await self.close()

    async def _sort(self) -> None:
        async for stream, data in self._process.output():
            self._pieces[stream].put_nowait(data)
        for queue in self._pieces.values():
            queue.put_nowait(None)

    async def _next(self, stream: str, timeout_s: Optional[float]) -> bytes:
        queue = self._pieces[stream]
        piece = await asyncio.wait_for(queue.get(), timeout_s)
        if piece is not None:
            return piece
        # The next caller gets the end as well.
        queue.put_nowait(None)
        await _pty(self._process.wait())
        return b""


async def _start(spec: SandboxSpec, options: _Options) -> AsyncSession:
    resources = spec.resources
    if spec.entrypoint:
        raise SandboxCreateError("in a session nothing runs but commands: it has no entrypoint")
    if resources.gpu:
        raise SandboxCreateError("sessions have no GPU")
    if resources.disk_gib:
        _LOGGER.warning("imgforge: nothing limits what a session writes to the disk")
    image = None if spec.image is None else spec.image.removeprefix("docker://")
    memory = resources.memory_mib
    client = await shared_async_client()
    return await client.start(
        **source(image, options.dataset, options.instance_id, options.split),
        env=spec.env,
        workdir=spec.workdir,
        user=options.user,
        network=options.network,
        allow=options.allow,
        publish=list(spec.ports),
        bind=options.bind,
        tmpfs=options.tmpfs,
        read_only=options.read_only,
        memory=None if memory is None else memory << 20,
        cpus=resources.cpu,
        pids=options.pids,
        ttl=spec.ttl_s,
        labels={str(name): str(value) for name, value in spec.metadata.items()},
    )


def _box(handle: SandboxHandle) -> _Box:
    if not isinstance(handle.raw, _Box):
        raise TypeError(f"{handle!r} is no sandbox of imgforge")
    return handle.raw


def _result(result: results.ExecResult, limit: Optional[float]) -> SandboxExecResult:
    stdout, stderr = result.text, result.stderr_text
    for name, dropped in (("output", result.dropped_stdout), ("errors", result.dropped_stderr)):
        if dropped:
            _LOGGER.warning("imgforge: %d bytes of the %s were dropped", dropped, name)
    if result.end == "timed_out":
        stderr += f"command timed out after {limit:g}s\n"
        return SandboxExecResult(stdout, stderr, _NO_CODE, "timeout")
    if result.end == "not_started":
        stderr += f"{result.reason}\n"
    elif result.end == "out_of_memory":
        stderr += "imgforge: the memory limit of the sandbox was reached\n"
    if result.code is None:
        raise InfraError(f"nobody knows how the command ended: {result.end}")
    return SandboxExecResult(stdout, stderr, result.code)


async def _pty(call: Any) -> Any:
    """Waits for a call; what goes wrong in it is an error of the terminal."""
    try:
        return await call
    except ImgforgeError as error:
        raise SandboxPtyError(str(error)) from error
