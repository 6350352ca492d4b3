"""The sandbox of an executor: one session, checked when it starts, and how commands end in it."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pkgutil
import re
import threading
import time
from dataclasses import dataclass, field
from typing import Dict, List, Mapping, Optional, Sequence, Union

from .. import results
from .._errors import (
    ConnectionLost,
    ImgforgeError,
    InfraError,
    NoSuchSession,
    Refused,
    SessionEnded,
    Unsupported,
)
from ..client import Client
from ..session import Session
from . import _isolation, inside
from ._errors import SandboxUnavailable

WORKSPACE = "/workspace"
HOME = "/workspace/.home"
OWN = "/.imgforge"
"""What is the executor's own in the sandbox: only root writes to it."""
INSIDE = OWN + "/inside"
RESULTS = OWN + "/results"
USER = "1000:1000"
OWNER = (1000, 1000)

_GRACE = 1.0
"""Seconds after a time limit in which the engine kills a command, before the sandbox ends."""

_SET_UP = f"""
set -e
chown {USER} {WORKSPACE}
mkdir -m 755 {INSIDE}
mkdir -m 700 {RESULTS}
cd {WORKSPACE}
"""
# As the user: its home is its own.
_HOME = f"mkdir -m 700 {HOME}"
_GITCONFIG = "[safe]\n\tdirectory = *\n[user]\n\tname = sandbox\n\temail = sandbox@localhost\n"

_SIZE = re.compile(r"(\d+(?:\.\d+)?) *([kmgt]?)(?:i?b)?", re.IGNORECASE)


def size(value: Union[int, str]) -> int:
    """Reads a size as Docker writes it: `2g`, `512m`, or bytes. Raises `ValueError`."""
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            raise ValueError(f"{value!r} is no size: write `2g`, `512m`, or bytes")
        value = int(float(match[1]) * 1024 ** " kmgt".index(match[2].lower() or " "))
    if value < 16 << 20:
        raise ValueError(f"{value} bytes are too few for a sandbox: give it 16 MiB or more")
    return value


@dataclass(frozen=True)
class Limits:
    """What a sandbox may use. `workspace`, `scratch` and `own` are bytes of its directories."""

    memory: Optional[int]
    cpus: Optional[float]
    pids: Optional[int]
    workspace: int
    scratch: int
    own: int
    unenforced: bool = False


@dataclass(frozen=True)
class Network:
    """What a sandbox reaches, as `Client.start` takes it."""

    name: str = "none"
    allow: Sequence[str] = field(default_factory=list)


class Box:
    """A sandbox. After `stop` nothing of it is left."""

    def __init__(
        self,
        client: Client,
        image: str,
        limits: Limits,
        network: Network,
        env: Mapping[str, str],
    ) -> None:
        """Starts it. Raises `SandboxUnavailable` where it would not keep what it promises."""
        tmpfs = [
            f"{WORKSPACE}:size={limits.workspace},exec,mode=755",
            f"/tmp:size={limits.scratch},exec,mode=1777",
            f"{OWN}:size={limits.own},mode=755",
        ]
        self.limits = limits
        try:
            self.session: Session = client.start(
                image=image,
                read_only=True,
                tmpfs=tmpfs,
                user=USER,
                workdir=WORKSPACE,
                network=network.name,
                allow=network.allow or None,
                memory=limits.memory,
                cpus=limits.cpus,
                pids=limits.pids,
                env={**_environment(limits), **env},
                labels={"imgforge.executor": "1"},
            )
        except (InfraError, Refused, Unsupported) as error:
            raise _unavailable(error) from error
        try:
            self._set_up(client.engine, limits)
        except SandboxUnavailable:
            self.stop()
            raise
        except ImgforgeError as error:
            self.stop()
            raise _unavailable(error) from error

    def _set_up(self, engine: str, limits: Limits) -> None:
        probed = self.session.exec(_isolation.PROBE, user="0:0", timeout=60)
        wrong = ["the kernel's files of the sandbox cannot be read: its image needs `sh` and `cat`"]
        if probed.ok:
            wrong = _isolation.unenforced(
                engine,
                probed.text,
                self.session.warnings,
                memory=limits.memory,
                cpus=limits.cpus,
                pids=limits.pids,
            )
        if wrong and not limits.unenforced:
            raise SandboxUnavailable(
                "the sandbox would not be as it was asked for: " + "; ".join(wrong),
                hint="run imgforge as root or with delegated control groups (`imgforge doctor` "
                "says how), or take it as it is with SandboxExecutor(unenforced=True)",
            )
        self.unenforced = wrong
        for command, user in ((_SET_UP, "0:0"), (_HOME, USER)):
            done = self.session.exec(command, user=user, workdir="/", timeout=60)
            if not done.ok:
                raise SandboxUnavailable(
                    f"the sandbox cannot be set up: {done.stderr_text.strip() or done.reason}",
                    hint="the image needs `sh`, `chown` and `mkdir`",
                )
        self.write(f"{OWN}/gitconfig", _GITCONFIG)
        # git before 2.32 reads no other file for the system.
        self.session.write(f"{HOME}/.gitconfig", _GITCONFIG, user=USER)
        for name in ("collector", "start_tests", "imgforge_recorder"):
            self.write(f"{INSIDE}/{name}.py", _program(name))

    def write(self, path: str, data: Union[str, bytes]) -> None:
        """Writes a file of the executor's own: it is root's."""
        self.session.write(path, data, user="0:0")

    def run(
        self,
        command: Sequence[str],
        *,
        directory: str,
        timeout: float,
        user: str = USER,
        stdin: Optional[bytes] = None,
        merge: bool = False,
    ) -> results.ExecResult:
        """Runs a command.

        At the time limit its processes are killed; where that takes too long the sandbox ends.
        Either way the result is `timed_out`. Raises `SessionEnded` where the sandbox ends earlier.
        """
        started = time.monotonic()
        # A fork bomb makes processes faster than they can be killed one by one.
        watch = threading.Timer(timeout + _GRACE, self.stop)
        watch.daemon = True
        watch.start()
        try:
            return self.session.exec(
                list(command),
                workdir=directory,
                user=user,
                stdin=stdin,
                timeout=timeout,
                merge=merge,
            )
        except (InfraError, SessionEnded, NoSuchSession) as error:
            seconds = time.monotonic() - started
            if isinstance(error, ConnectionLost) or seconds < timeout:
                raise
            # It ran at the time limit, and the sandbox was ended for that.
            self.stop()
            kept = error.result if isinstance(error, SessionEnded) else None
            kept = kept or results.ExecResult("timed_out", None, b"", b"", duration=seconds)
            return dataclasses.replace(kept, end="timed_out")
        finally:
            watch.cancel()

    def sweep(self) -> None:
        """Kills what runs as the user. Where that fails the whole sandbox ends."""
        deadline = time.monotonic() + 5
        try:
            while True:
                self.session.exec("kill -9 -1", workdir="/", timeout=5)
                if not self._left():
                    return
                if time.monotonic() > deadline:
                    break
        except ImgforgeError:
            pass
        self.stop()

    def _left(self) -> List[object]:
        try:
            return [one for one in self.session.processes() if one.get("uid") != 0]
        except Unsupported:
            # The engine is Docker: what `kill` was sent to is gone.
            return []

    @property
    def stopped(self) -> bool:
        """Whether it has ended."""
        return self._stopped

    _stopped = False

    def stop(self) -> None:
        """Ends it, with all that runs in it. Another call does nothing."""
        if self._stopped:
            return
        self._stopped = True
        with contextlib.suppress(NoSuchSession, SessionEnded, ConnectionLost):
            self.session.stop()


def _environment(limits: Limits) -> Dict[str, str]:
    env = {"HOME": HOME, "GIT_CONFIG_SYSTEM": f"{OWN}/gitconfig", "GIT_TERMINAL_PROMPT": "0"}
    if limits.cpus is not None:
        # The limit is one of time, so that all processors are seen: this is what programs read.
        most = str(max(1, math.ceil(limits.cpus)))
        env["OMP_NUM_THREADS"] = env["PYTHON_CPU_COUNT"] = most
        env["PYTEST_XDIST_AUTO_NUM_WORKERS"] = most
    return env


def _program(name: str) -> bytes:
    data = pkgutil.get_data(inside.__name__, name + ".py")
    if data is None:
        raise InfraError(
            f"the package has no program `{name}`", hint="install imgforge-sandbox again"
        )
    return data


def _unavailable(error: ImgforgeError) -> SandboxUnavailable:
    hint = error.hint or "`imgforge doctor` says what is missing"
    return SandboxUnavailable(f"there is no sandbox: {error.message}", hint=hint, data=error.data)
