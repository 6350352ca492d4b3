"""verifiers: its runtime on a session, to be lent to agents.

    async with provision(ImgforgeConfig(image="debian:12")) as runtime:
        trace = await agent.run(task, runtime=runtime)

The kinds of runtime that a configuration of verifiers may name are a closed list; this one is made
by the program that runs the agent.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Literal, Optional, TypeVar

from pydantic_config import BaseConfig
from verifiers.v1.errors import SandboxError
from verifiers.v1.runtimes import DockerRuntimeInfo
from verifiers.v1.runtimes.base import (
    SERVICE_PORT,
    ProgramResult,
    Runtime,
    RuntimeProcess,
    register,
)

from . import results
from ._errors import ImgforgeError
from ._shared import shared_async_client, source
from .aio import AsyncProcess, AsyncSession

__all__ = ["ImgforgeConfig", "ImgforgeRuntime", "provision"]

T = TypeVar("T")

_MAX_OUTPUT = 64 << 20
_TERM = 15
_WRITE = 'd=$(dirname -- "$1") && mkdir -p -- "$d" && cat >"$1"'


class ImgforgeConfig(BaseConfig):
    """What a runtime is started with: `image`, or `dataset` and `instance_id`.

    `workdir` is made where it is missing; without one commands start where the image says. `cpu`
    may be 1.5, `memory` is in GB (of 2^30 bytes). With the network `host` programs in the session
    reach this machine, as an agent that calls its model from there has to; `allow` has the hosts
    that are reached otherwise. After `ttl` seconds the session ends.
    """

    type: Literal["imgforge"] = "imgforge"
    image: Optional[str] = None
    dataset: Optional[str] = None
    instance_id: Optional[str] = None
    split: str = "test"
    workdir: Optional[str] = None
    user: Optional[str] = None
    cpu: Optional[float] = None
    memory: Optional[float] = None
    pids: Optional[int] = None
    network: Optional[Literal["none", "host", "proxy", "bridge"]] = None
    allow: Optional[list[str]] = None
    ttl: Optional[float] = None


class _Process(RuntimeProcess):
    def __init__(self, process: AsyncProcess) -> None:
        self._process = process
        self._pieces: dict[str, asyncio.Queue[Optional[bytes]]] = {
            "stdout": asyncio.Queue(),
            "stderr": asyncio.Queue(),
        }
        self.stdout = self._stream("stdout")
        self.stderr = self._stream("stderr")
        self._sorting = asyncio.ensure_future(self._sort())

    async def write(self, data: bytes) -> None:
        await _sandbox(self._process.write(data), "write to the process")

    async def wait(self) -> int:
        return _code(await _sandbox(self._process.wait(), "wait for the process"))

    async def poll(self) -> Optional[int]:
        return None if self._process.running else await self.wait()

    async def terminate(self) -> None:
        await self._signal(_TERM)

    async def kill(self) -> None:
        await self._signal(None)

    async def _signal(self, number: Optional[int]) -> None:
        if self._process.running:
            await _sandbox(self._process.kill(number), "signal the process")

    async def _sort(self) -> None:
        async for stream, data in self._process.output():
            self._pieces[stream].put_nowait(data)
        for queue in self._pieces.values():
            queue.put_nowait(None)

    async def _stream(self, name: str) -> AsyncIterator[bytes]:
        while (data := await self._pieces[name].get()) is not None:
            yield data


class ImgforgeRuntime(Runtime):
    """A session as a runtime of verifiers.

    A command whose task is cancelled is killed with all that it started. What says nothing of the
    command, such as a session that has ended, is a `SandboxError`, and never a result. Of each
    output the last 64 MiB are kept.
    """

    is_local = True
    supports_user: ClassVar[bool] = True

    def __init__(self, config: ImgforgeConfig, name: Optional[str] = None) -> None:
        """Starts nothing yet. `name` is for people. Raises `InvalidRequest`."""
        super().__init__(name)
        source(config.image, config.dataset, config.instance_id, config.split)
        self.config = config
        # A trace could not be read again with a kind that is not on the list of verifiers. A
        # container of an image is what comes nearest; `id` is that of the session.
        self.info = DockerRuntimeInfo(image=config.image or "", workdir=config.workdir)
        self._session: Optional[AsyncSession] = None

    @property
    def session(self) -> AsyncSession:
        """The session: for patches, grades and checkpoints."""
        if self._session is None:
            raise SandboxError("the runtime was not started, or was stopped")
        return self._session

    async def start(self) -> None:
        """Starts the session."""
        config = self.config
        client = await shared_async_client()
        start = client.start(
            **source(config.image, config.dataset, config.instance_id, config.split),
            workdir=config.workdir,
            user=config.user,
            cpus=config.cpu,
            memory=None if config.memory is None else int(config.memory * (1 << 30)),
            pids=config.pids,
            network=config.network,
            allow=config.allow,
            publish=None if self.published_port is None else [self.published_port],
            ttl=config.ttl,
            labels={"verifiers_runtime": self.name},
        )
        self._session = await _sandbox(start, "start a session")
        self.info.id = self._session.id
        self.info.image = self._session.image
        if config.workdir is not None:
            made = await self._exec(["mkdir", "-p", config.workdir], {}, workdir="/", user="0")
            if not made.ok:
                raise SandboxError(f"mkdir {config.workdir!r}: {made.stderr_text.strip()}")

    async def teardown(self) -> None:
        """Ends the session. Another call does nothing. At the end of the process it ends anyway."""
        session, self._session = self._session, None
        if session is not None:
            await session.stop()

    async def run(self, argv: list[str], env: dict[str, str]) -> ProgramResult:
        """Runs a command to its end."""
        result = await self._exec(argv, self.process_env(env))
        stderr = result.stderr_text
        if result.end == "not_started":
            stderr += f"{result.reason}\n"
        elif result.end == "out_of_memory":
            stderr += "imgforge: the memory limit of the runtime was reached\n"
        return ProgramResult(_code(result), result.text, stderr)

    async def open_process(self, argv: list[str], env: dict[str, str]) -> RuntimeProcess:
        """Starts a command with an open input."""
        started = self.session.spawn(argv, env=self.process_env(env), user=self.user, stream=True)
        return _Process(await _sandbox(started, "start a process"))

    async def run_background(self, argv: list[str], env: dict[str, str], log: str) -> None:
        """Starts a command that runs until the session ends; its output is in the file `log`."""
        script = f"{shlex.join(argv)} >{shlex.quote(log)} 2>&1 </dev/null &"
        result = await self._exec(["sh", "-c", script], self.process_env(env))
        if not result.ok:
            raise SandboxError(f"background process: {result.stderr_text.strip()}")

    async def _read(self, path: str, max_bytes: Optional[int] = None) -> bytes:
        program = ["cat"] if max_bytes is None else ["head", "-c", str(max_bytes)]
        result = await self._exec([*program, "--", path], {}, keep="all")
        if not result.ok:
            raise SandboxError(f"read {path!r}: {_said(result)}")
        return result.stdout

    async def write(self, path: str, data: bytes) -> None:
        """Writes a file, and makes the directories above it."""
        result = await self._exec(["sh", "-c", _WRITE, "sh", path], {}, stdin=data)
        if not result.ok:
            raise SandboxError(f"write {path!r}: {_said(result)}")

    @property
    def published_port(self) -> Optional[int]:
        """The port of a server in the session, where it has a network of its own."""
        return None if self.config.network == "host" else SERVICE_PORT

    async def expose(self, port: int) -> str:
        """Returns the URL at which this machine reaches a server in the session."""
        if self.config.network == "host":
            return f"http://127.0.0.1:{port}"
        for published in self.session.ports:
            if published.port == port:
                # It is `address:port` of this machine.
                return f"http://{published.address}"
        raise SandboxError(f"the port {port} is not published; that is {SERVICE_PORT}")

    async def _exec(
        self, argv: list[str], env: dict[str, str], **options: Any
    ) -> results.ExecResult:
        options = {"user": self.user, "max_output": _MAX_OUTPUT, **options}
        return await _sandbox(self.session.exec(argv, env=env, **options), f"run {argv[0]}")


@asynccontextmanager
async def provision(
    config: ImgforgeConfig, name: Optional[str] = None, env: Optional[dict[str, str]] = None
) -> AsyncIterator[ImgforgeRuntime]:
    """Starts a runtime, and ends it. `env` is for all of its processes."""
    runtime = ImgforgeRuntime(config, name)
    register(runtime)
    runtime.env = dict(env or {})
    try:
        await runtime.start()
        yield runtime
    finally:
        await runtime.stop()


async def _sandbox(call: Awaitable[T], what: str) -> T:
    """Waits for a call; what goes wrong in it is an error of the sandbox."""
    try:
        return await call
    except ImgforgeError as error:
        raise SandboxError(f"cannot {what}: {error}") from error


def _code(result: results.ExecResult) -> int:
    if result.code is None:
        raise SandboxError(f"nobody knows how the command ended: {result.end}")
    return result.code


def _said(result: results.ExecResult) -> str:
    return (result.stderr_text.strip() or result.reason or result.end)[-500:]
