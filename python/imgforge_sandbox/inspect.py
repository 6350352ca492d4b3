"""Inspect: the sandbox `imgforge`.

    from inspect_ai.util import SandboxEnvironmentSpec
    from imgforge_sandbox.inspect import ImgforgeConfig

    Task(..., sandbox=SandboxEnvironmentSpec("imgforge", ImgforgeConfig(image="debian:12")))

`inspect eval --sandbox imgforge` takes `imgforge.yaml`, which has the fields of `ImgforgeConfig`,
or a compose file of one service. Inspect finds the sandbox when the package is installed.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import posixpath
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Awaitable, Literal, Optional, TypeVar, Union, overload

from inspect_ai.util import (
    ExecResult,
    OutputLimitExceededError,
    SandboxEnvironment,
    SandboxEnvironmentConfigType,
    SandboxEnvironmentLimits,
    SandboxUnavailableError,
    concurrency,
    sandboxenv,
)
from pydantic import BaseModel
from typing_extensions import override

from . import results
from ._errors import (
    ConnectionLost,
    InfraError,
    LimitExceeded,
    NoSuchPath,
    NoSuchSession,
    Refused,
    SessionEnded,
)
from ._inspect_config import COMPOSE_FILES, FILES, ImgforgeConfig, resolve
from ._shared import shared_async_client
from .aio import AsyncSession

__all__ = ["ImgforgeConfig", "ImgforgeSandbox"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_WRITE_SECONDS = 600.0
_LINKS = 40

# A user may have put programs of the same names into a directory of PATH.
_PINNED = f"PATH={_SYSTEM_PATH}; export PATH; LC_ALL=C; export LC_ALL; unset CDPATH; "
_WHERE = _PINNED + "pwd -P && id -u"
# `cat` follows links and keeps the owner and the mode of a file that is there.
_WRITE = (
    _PINNED + 'd=${1%/*}; mkdir -p -- "${d:-/}" || exit 90; '
    'if [ -d "$1" ]; then exit 91; fi; exec cat >"$1"'
)
_READABLE = _PINNED + '[ -r "$1" ]'


@sandboxenv(name="imgforge")
class ImgforgeSandbox(SandboxEnvironment):
    """A session of imgforge as a sandbox of Inspect.

    A command that reaches its limit of time is killed with all that it started. Of more output than
    is allowed the end is kept. What says nothing of the command, such as a session that has ended,
    is a `SandboxUnavailableError`, and never a result.
    """

    def __init__(self, session: AsyncSession, working_dir: str, is_root: bool) -> None:
        super().__init__()
        self.session = session
        """The session: for patches, grades and checkpoints."""
        self.working_dir = working_dir
        """Where commands start, and what relative paths are relative to."""
        self._is_root = is_root

    @override
    @classmethod
    def config_files(cls) -> list[str]:
        return [*FILES, *COMPOSE_FILES]

    @override
    @classmethod
    def is_docker_compatible(cls) -> bool:
        return True

    @override
    @classmethod
    def config_deserialize(cls, config: dict[str, Any]) -> BaseModel:
        return ImgforgeConfig.model_validate(config)

    @override
    @classmethod
    def default_concurrency(cls) -> Optional[int]:
        return 2 * (os.cpu_count() or 1)

    @override
    @classmethod
    async def task_init(
        cls, task_name: str, config: Optional[SandboxEnvironmentConfigType]
    ) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError(
                "the sandbox `imgforge` needs asyncio\nhint: unset INSPECT_ASYNC_BACKEND"
            ) from None
        # A server that cannot be started is said before the first sample.
        await shared_async_client()

    @override
    @classmethod
    async def sample_init(
        cls,
        task_name: str,
        config: Optional[SandboxEnvironmentConfigType],
        metadata: dict[str, str],
    ) -> dict[str, SandboxEnvironment]:
        options = resolve(config, metadata).start_options()
        client = await shared_async_client()
        session = await client.start(**options, labels={"inspect_task": task_name})
        try:
            for warning in session.warnings:
                logger.warning("imgforge: %s", warning)
            told = await session.exec(["/bin/sh", "-c", _WHERE], timeout=60)
            where = told.text.split("\n")
            if not told.ok or len(where) != 3:
                raise InfraError(
                    f"the sandbox does not say where commands start: {told}",
                    hint="the image needs /bin/sh and id",
                )
            return {"default": cls(session, where[0], where[1] == "0")}
        except BaseException:
            await session.stop()
            raise

    @override
    @classmethod
    async def sample_cleanup(
        cls,
        task_name: str,
        config: Optional[SandboxEnvironmentConfigType],
        environments: dict[str, SandboxEnvironment],
        interrupted: bool,
    ) -> None:
        for environment in environments.values():
            await environment.as_type(ImgforgeSandbox).session.stop()

    @override
    @classmethod
    async def cli_cleanup(cls, id: Optional[str]) -> None:
        print("imgforge: nothing is left over; sandboxes end with the process that started them")

    @override
    async def exec(
        self,
        cmd: list[str],
        input: Optional[Union[str, bytes]] = None,
        cwd: Optional[str] = None,
        env: Optional[dict[str, str]] = None,
        user: Optional[str] = None,
        timeout: Optional[int] = None,
        timeout_retry: bool = True,
        concurrency: bool = True,
    ) -> ExecResult[str]:
        """Runs a command. Nothing is tried again: no call hangs without a command that does."""
        async with _turn(concurrency):
            result = await _available(
                self.session.exec(
                    cmd,
                    stdin=input,
                    workdir=posixpath.join(self.working_dir, cwd or ""),
                    env=env,
                    user=user or None,
                    timeout=timeout,
                    max_output=SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE,
                )
            )
        return _outcome(result, timeout)

    @override
    async def write_file(self, file: str, contents: Union[str, bytes]) -> None:
        """Writes a file as the user of the sandbox, through links. A new one has the usual mode."""
        path = self._path(file)
        data = contents.encode("utf-8") if isinstance(contents, str) else contents
        told = await _available(
            self.session.exec(
                ["/bin/sh", "-c", _WRITE, "sh", path],
                stdin=data,
                workdir="/",
                timeout=_WRITE_SECONDS,
            )
        )
        if told.end == "timed_out":
            raise TimeoutError(f"{file} was not written in {_WRITE_SECONDS:.0f} seconds")
        if told.ok:
            return
        said = told.stderr_text.strip()
        if told.code == 91 or "Is a directory" in said:
            raise IsADirectoryError(errno.EISDIR, "Is a directory", file)
        for number in (errno.EACCES, errno.EROFS, errno.ENOSPC, errno.ENOTDIR, errno.EEXIST):
            if os.strerror(number) in said:
                # OSError makes the subclass of the number: PermissionError for EACCES.
                raise OSError(number, said, file)
        raise RuntimeError(f"{file} was not written: {told.end}, {told.code}: {said}")

    @overload
    async def read_file(self, file: str, text: Literal[True] = True) -> str: ...

    @overload
    async def read_file(self, file: str, text: Literal[False]) -> bytes: ...

    @override
    async def read_file(self, file: str, text: bool = True) -> Union[str, bytes]:
        """Reads a file. No program of the sandbox is needed for its content."""
        path = self._path(file)
        try:
            data = await _available(
                self.session.read(path, max_bytes=SandboxEnvironmentLimits.MAX_READ_FILE_SIZE)
            )
        except NoSuchPath:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", file) from None
        except LimitExceeded:
            raise OutputLimitExceededError(
                SandboxEnvironmentLimits.MAX_READ_FILE_SIZE_STR, None
            ) from None
        except Refused as error:
            found = await self._target(path)
            if found is not None and found.kind == "directory":
                raise IsADirectoryError(errno.EISDIR, "Is a directory", file) from None
            raise OSError(errno.EINVAL, str(error), file) from None
        if not await self._may_read(path):
            raise PermissionError(errno.EACCES, "Permission denied", file)
        return data.decode("utf-8") if text else data

    @override
    def default_polling_interval(self) -> float:
        return 0.2

    def _path(self, file: str) -> str:
        return posixpath.join(self.working_dir, file)

    async def _may_read(self, path: str) -> bool:
        if not self._is_root:
            told = await _available(
                self.session.exec(["/bin/sh", "-c", _READABLE, "sh", path], workdir="/", timeout=60)
            )
            return told.ok
        # Root reads everything. As in Inspect's Docker sandbox, what its owner may not read counts
        # as not readable.
        found = await self._target(path)
        return found is None or bool(found.mode & 0o400)

    async def _target(self, path: str) -> Optional[results.Stat]:
        """Says what a path is, or where its links lead."""
        for _ in range(_LINKS):
            try:
                found = await _available(self.session.stat(path))
            except NoSuchPath:
                return None
            if found.kind != "link" or found.target is None:
                return found
            path = posixpath.join(posixpath.dirname(path), found.target)
        return None


def _turn(wanted: bool) -> AbstractAsyncContextManager[Any]:
    """Waits for a turn: commands run on this machine."""
    if not wanted:
        return nullcontext()
    return concurrency("imgforge", max(2 * (os.cpu_count() or 1), 4))


async def _available(call: Awaitable[T]) -> T:
    """Waits for a call. What says nothing of what runs in the sandbox says that it is gone."""
    try:
        return await call
    except (ConnectionLost, NoSuchSession, SessionEnded, InfraError) as error:
        raise SandboxUnavailableError(f"the sandbox cannot run it: {error}") from error


def _outcome(result: results.ExecResult, timeout: Optional[int]) -> ExecResult[str]:
    """Makes Inspect's result, or raises what its contract says."""
    if result.end == "timed_out":
        late = TimeoutError(f"Command timed out after {timeout} seconds")
        partial = result.text + result.stderr_text
        if partial:
            # Inspect shows it to the model.
            late.truncated_output = partial  # type: ignore[attr-defined]
        raise late
    stderr = result.stderr_text
    if result.end == "not_started":
        reason = result.reason or "it could not be started"
        if result.code == 126 and "permission denied" in reason.lower():
            raise PermissionError(errno.EACCES, f"Permission denied: {reason}")
        stderr += reason + "\n"
    elif result.end == "out_of_memory":
        stderr += "imgforge: the memory limit of the sandbox was reached\n"
    if result.code is None:
        raise SandboxUnavailableError(f"nobody knows how the command ended: {result.end}")
    return ExecResult(result.ok, result.code, result.text, stderr)
