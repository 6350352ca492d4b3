"""Harbor: its environment on a session.

    harbor run -p TASK -a AGENT -e imgforge_sandbox.harbor:ImgforgeEnvironment

The task names an image that the engine has (`docker_image`), or an option names another one.
"""

from __future__ import annotations

import asyncio
import codecs
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, Optional, Union, cast

from harbor.environments.base import (
    BaseEnvironment,
    ExecResult,
    OutputCallback,
    OutputStream,
    SandboxBuildFailedError,
)
from harbor.environments.capabilities import (
    EnvironmentCapabilities,
    EnvironmentResourceCapabilities,
)
from harbor.environments.definition import should_use_prebuilt_docker_image
from harbor.environments.options import EnvironmentOptions
from harbor.models.task.config import NetworkMode, NetworkPolicy

from . import results
from ._binary import find_binary
from ._errors import BinaryNotFound, InfraError
from ._execute import OnOutput
from ._shared import ROOT, put_file, shared_async_client, shared_client, source
from .aio import AsyncSession

__all__ = ["ImgforgeEnvironment", "ImgforgeOptions"]

_MAX_OUTPUT = 64 << 20


class ImgforgeOptions(EnvironmentOptions):
    """Options of the environment (`--ek NAME=VALUE`).

    `image`, or `dataset` and `instance_id`, is started from instead of the task's `docker_image`.
    `public_network` says what a task with the network `public` gets on the embedded engine, which
    has no network of its own: `none`, or `host`, which has the servers of this machine's loopback
    as well. `pids` limits processes and threads; after `ttl` seconds the session ends.
    """

    image: Optional[str] = None
    dataset: Optional[str] = None
    instance_id: Optional[str] = None
    split: str = "test"
    public_network: Optional[Literal["none", "host"]] = None
    pids: Optional[int] = None
    ttl: Optional[float] = None


class ImgforgeEnvironment(BaseEnvironment):
    """A session as an environment of Harbor.

    A command that reaches its limit of time is killed with all that it started, and is a
    `RuntimeError`, as in Harbor's Docker environment. What says nothing of the command, such as a
    session that has ended, is an exception of this package, and never a result. Links that lead out
    of a directory are left out of what is downloaded.
    """

    options_model = ImgforgeOptions
    options: ImgforgeOptions

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        policies = [kwargs.get("network_policy"), *(kwargs.get("phase_network_policies") or [])]
        modes = {policy.network_mode for policy in policies if policy is not None}
        # What is open cannot be closed later, and the other way round.
        self._can_switch = NetworkMode.PUBLIC not in (modes or {NetworkMode.PUBLIC})
        self._session: Optional[AsyncSession] = None
        super().__init__(*args, **kwargs)

    @staticmethod
    def type() -> str:
        """Returns the name of this kind of environment."""
        return "imgforge"

    @property
    def capabilities(self) -> EnvironmentCapabilities:
        """What is supported. Networks that change from phase to phase: unless one is `public`."""
        return EnvironmentCapabilities(
            disable_internet=True,
            network_allowlist=True,
            network_allowlist_hostnames=True,
            network_allowlist_wildcard_hostnames=True,
            dynamic_network_policy=self._can_switch,
            mounted=True,
        )

    @classmethod
    def resource_capabilities(cls) -> EnvironmentResourceCapabilities:
        """Processors and memory are limited; nothing is reserved."""
        return EnvironmentResourceCapabilities(
            cpu_limit=True, memory_limit=True, fractional_cpus=True
        )

    @classmethod
    def preflight(cls, kwargs: Optional[dict[str, Any]] = None) -> None:
        """Says before the first trial that the program is missing, or that an option is none."""
        super().preflight(kwargs)
        try:
            find_binary()
        except BinaryNotFound as error:
            raise SystemExit(str(error)) from error

    @property
    def session(self) -> AsyncSession:
        """The session: for patches, grades and checkpoints. Raises where it was not started."""
        if self._session is None:
            raise RuntimeError("the environment was not started, or was stopped")
        return self._session

    def _validate_definition(self) -> None:
        self._source(force_build=False)

    def _source(self, force_build: bool) -> dict[str, Any]:
        named = self.options.image or self.options.dataset or self.options.instance_id
        image = self.task_env_config.docker_image
        if named:
            image = self.options.image
        elif not should_use_prebuilt_docker_image(
            self.environment_dir, docker_image=image, force_build=force_build
        ):
            raise SandboxBuildFailedError(
                "sessions do not build images of tasks\nhint: build it, and name it in "
                "`docker_image` of task.toml, or with `--ek image=NAME`"
            )
        options = self.options
        return source(image, options.dataset, options.instance_id, options.split)

    async def start(self, force_build: bool) -> None:
        """Starts the session."""
        if self.task_env_config.storage_mb:
            self.logger.warning("imgforge: nothing limits what a session writes to the disk")
        start = self._source(force_build)
        client = await shared_async_client()
        memory_mb = self._effective_memory_mb
        self._session = await client.start(
            **start,
            env=self._startup_env(),
            workdir=self.task_env_config.workdir,
            bind=[self._bind(mount) for mount in self._host_mounts],
            memory=None if memory_mb is None else memory_mb << 20,
            cpus=self._effective_cpus,
            pids=self.options.pids,
            ttl=self.options.ttl,
            labels={"harbor_session": self.session_id},
            **self._network(),
        )
        try:
            for warning in self.session.warnings:
                self.logger.warning(f"imgforge: {warning}")
            made = await self.ensure_dirs(self._mount_targets(writable_only=True))
            if made is not None and made.return_code != 0:
                raise RuntimeError(f"the directories of Harbor cannot be made: {made}")
            await self._upload_environment_dir_after_start()
        except BaseException:
            await self.stop(delete=True)
            raise

    async def stop(self, delete: bool) -> None:
        """Ends the session. Another call does nothing."""
        session, self._session = self._session, None
        if session is None:
            return
        if not delete:
            self.logger.warning("imgforge: the session ends all the same; none outlives Harbor")
        await session.stop()

    async def exec(
        self,
        command: str,
        cwd: Optional[str] = None,
        env: Optional[dict[str, str]] = None,
        timeout_sec: Optional[int] = None,
        user: Optional[Union[str, int]] = None,
    ) -> ExecResult:
        """Runs a command with bash. Of each output the last 64 MiB are kept."""
        user = self._resolve_user(user)
        async with _streamed(self._output_callback()) as on_output:
            result = await self.session.exec(
                ["bash", "-c", command],
                workdir=cwd,
                env=self._merge_env(env),
                user=None if user is None else str(user),
                timeout=timeout_sec,
                max_output=_MAX_OUTPUT,
                on_output=on_output,
            )
        if result.end == "timed_out":
            raise RuntimeError(f"Command timed out after {timeout_sec} seconds")
        return self._outcome(result)

    def _outcome(self, result: results.ExecResult) -> ExecResult:
        if result.dropped_stdout or result.dropped_stderr:
            self.logger.warning(
                f"imgforge: {result.dropped_stdout} bytes of the output were dropped, and "
                f"{result.dropped_stderr} of the error output"
            )
        stderr = result.stderr_text
        if result.end == "not_started":
            stderr += f"{result.reason}\n"
        elif result.end == "out_of_memory":
            stderr += "imgforge: the memory limit of the environment was reached\n"
        if result.code is None:
            raise InfraError(f"nobody knows how the command ended: {result.end}")
        return ExecResult(stdout=result.text, stderr=stderr, return_code=result.code)

    async def upload_file(self, source_path: Union[Path, str], target_path: str) -> None:
        """Copies a file into the session, with its mode, as a file of root."""
        await put_file(self.session, source_path, target_path)

    async def upload_dir(self, source_dir: Union[Path, str], target_dir: str) -> None:
        """Adds what is in a directory to a directory of the session, as files of root."""
        target = target_dir.rstrip("/")
        if target:
            await self.session.put(source_dir, target, owner=ROOT)
            return
        for path in Path(source_dir).iterdir():
            await self.session.put(path, f"/{path.name}", owner=ROOT)

    async def download_file(self, source_path: str, target_path: Union[Path, str]) -> None:
        """Copies a file out of the session."""
        target = Path(target_path)
        target.parent.mkdir(parents=True, exist_ok=True)
        await self.session.get(source_path, target)

    async def download_dir(self, source_dir: str, target_dir: Union[Path, str]) -> None:
        """Adds what is in a directory of the session to a directory of this machine."""
        target = Path(target_dir)
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".imgforge-") as place:
            got = await self.session.get(source_dir, Path(place) / "got", links="skip")
            await asyncio.to_thread(shutil.copytree, got, target, symlinks=True, dirs_exist_ok=True)

    async def _apply_network_policy(self, network_policy: NetworkPolicy) -> None:
        await self.session.network(allow=network_policy.allowed_hosts)

    def _network(self) -> dict[str, Any]:
        """Returns the network to start with."""
        policies = [self._network_policy, *self._phase_network_policies]
        modes = {policy.network_mode for policy in policies}
        if modes == {NetworkMode.NO_NETWORK}:
            return {"network": "none"}
        if NetworkMode.PUBLIC not in modes:
            return {"network": "proxy", "allow": self._network_policy.allowed_hosts}
        if shared_client().engine == "docker":
            return {"network": self.options.public_network or "bridge"}
        network = self.options.public_network
        if network is None:
            raise ValueError(
                "the task asks for a public network, which sessions have in two ways only\n"
                "hint: `--ek public_network=none` for none at all, or `--ek public_network=host` "
                "for that of this machine, with the servers of its loopback; or let the task say "
                "which hosts it needs: network_mode = 'allowlist'"
            )
        return {"network": network}

    @staticmethod
    def _bind(mount: Any) -> str:
        if mount["type"] != "bind":
            raise ValueError(f"sessions have no mounts but files of this machine: {mount}")
        path = Path(mount["source"]).expanduser().resolve()
        return f"{path}:{mount['target']}" + (":ro" if mount.get("read_only") else "")


@asynccontextmanager
async def _streamed(callback: Optional[OutputCallback]) -> AsyncIterator[Optional[OnOutput]]:
    """Gives pieces of output to a callback, one after another, as text."""
    if callback is None:
        yield None
        return
    pieces: asyncio.Queue[Optional[tuple[str, bytes]]] = asyncio.Queue()

    async def give() -> None:
        make = codecs.getincrementaldecoder("utf-8")
        decoders = {name: make("replace") for name in ("stdout", "stderr")}
        while True:
            taken = await pieces.get()
            for name in decoders if taken is None else (taken[0],):
                data = b"" if taken is None else taken[1]
                text = decoders[name].decode(data, final=taken is None)
                if text:
                    await callback(text, cast(OutputStream, name))
            if taken is None:
                return

    giving = asyncio.ensure_future(give())
    try:
        yield lambda name, data: pieces.put_nowait((name, data))
        pieces.put_nowait(None)
        await giving
    finally:
        giving.cancel()
