"""SWE-ReX: a deployment on a session. No server of SWE-ReX and no port is in the session.

    deployment = ImgforgeDeployment(image="debian:12")
    await deployment.start()
    runtime = deployment.runtime

It starts `imgforge session start --swerex`. For SWE-agent, which starts no deployments of other
packages, start one so, and give SWE-agent what `remote` returns.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Optional, Union

from swerex.deployment.config import RemoteDeploymentConfig
from swerex.deployment.remote import RemoteDeployment

from ._binary import VARIABLE, find_binary
from ._errors import InfraError, InvalidRequest
from ._link import StrPath
from ._shared import source
from .results import Instance

__all__ = ["ImgforgeDeployment"]


class ImgforgeDeployment(RemoteDeployment):
    """A `RemoteDeployment` that starts a session, and ends it.

    The session lives outside of this process: `stop` ends it, or `ttl` seconds are over. The other
    parameters are those of `imgforge_sandbox.Client.start`; `timeout` is that of SWE-ReX for a
    request, in seconds.
    """

    def __init__(
        self,
        *,
        image: Optional[str] = None,
        dataset: Optional[str] = None,
        instance_id: Optional[str] = None,
        split: str = "test",
        env: Optional[Mapping[str, str]] = None,
        workdir: Optional[str] = None,
        user: Optional[str] = None,
        network: Optional[str] = None,
        allow: Sequence[str] = (),
        bind: Sequence[str] = (),
        memory: Optional[int] = None,
        cpus: Optional[float] = None,
        pids: Optional[int] = None,
        ttl: float = 8 * 3600,
        timeout: float = 60.0,
        binary: Optional[StrPath] = None,
        logger: Optional[logging.Logger] = None,
    ) -> None:
        """Starts nothing yet. Raises `InvalidRequest` where nothing is named to start from."""
        # The key and the address are known when the session is.
        super().__init__(logger=logger, auth_token="", timeout=timeout)
        start = source(image, dataset, instance_id, split)
        instance = start.get("instance")
        options: dict[str, Union[str, Sequence[str], None]] = {
            "image": image,
            "dataset": instance.dataset if isinstance(instance, Instance) else None,
            "instance-id": instance.instance_id if isinstance(instance, Instance) else None,
            "split": instance.split if isinstance(instance, Instance) else None,
            "env": [f"{name}={value}" for name, value in (env or {}).items()],
            "workdir": workdir,
            "user": user,
            "network": network,
            "allow": allow,
            "bind": bind,
            "memory": None if memory is None else str(memory),
            "cpus": None if cpus is None else str(cpus),
            "pids-limit": None if pids is None else str(pids),
            "ttl": f"{ttl:.0f}s",
        }
        self._start_options = [
            f"--{name}={value}"
            for name, values in options.items()
            for value in ([values] if isinstance(values, str) else values or [])
        ]
        self._binary = binary
        self.session_id: Optional[str] = None
        """The id of the session, for `imgforge session patch` and others; None while none runs."""

    @property
    def remote(self) -> RemoteDeploymentConfig:
        """What a deployment of another process reaches the session with; once it was started."""
        if self.session_id is None:
            raise InvalidRequest("the deployment was not started, or was stopped")
        return self._config

    async def start(self) -> None:
        """Starts the session, and the server that it is reached by where none runs.

        Raises `InvalidRequest`, `InfraError` and `BinaryNotFound`.
        """
        words = ["session", "start", "--swerex", "--json", *self._start_options]
        starting = asyncio.ensure_future(self._imgforge(*words))
        try:
            told = json.loads(await asyncio.shield(starting))
        except asyncio.CancelledError:
            # It would live on, and nobody would know its id.
            told = json.loads(await starting)
            await self._imgforge("session", "stop", told["id"])
            raise
        self.session_id = told["id"]
        self._config = self._config.model_copy(update=told["swerex"])
        await super().start()  # type: ignore[no-untyped-call]

    async def stop(self) -> None:
        """Ends the session. Another call does nothing."""
        session, self.session_id = self.session_id, None
        if session is None:
            return
        try:
            await super().stop()  # type: ignore[no-untyped-call]
        finally:
            await self._imgforge("session", "stop", session)

    async def _imgforge(self, *words: str) -> str:
        environ = {name: value for name, value in os.environ.items() if name != VARIABLE}
        process = await asyncio.create_subprocess_exec(
            str(find_binary(self._binary)),
            *words,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = await process.communicate()
        if process.returncode == 0:
            return out.decode()
        said = err.decode("utf-8", "replace").strip() or f"it ended with {process.returncode}"
        kind = InvalidRequest if process.returncode == 2 else InfraError
        raise kind(f"imgforge {' '.join(words[:2])}: {said}")
