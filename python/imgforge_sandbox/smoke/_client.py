"""Sandboxes by the command line: `imgforge session`, one call a process."""

from __future__ import annotations

import json
import os
import re
import subprocess
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

from .._binary import VARIABLE, find_binary
from .._errors import ImgforgeError, InfraError, InvalidRequest, ProtocolError
from .._link import StrPath
from ._config import SandboxConfig
from ._results import CommandResult, Truncated

_SECRET = re.compile("TOKEN|KEY|SECRET|PASSWORD", re.IGNORECASE)
MASK = "***"
"""What stands for a secret."""

_WRONG = 2
"""The status of the program where what it was asked for is wrong."""


class SandboxClient:
    """Sandboxes that live until they are stopped, also when this process ends.

    Each call runs `imgforge session` once. Whoever has many commands takes `Client`, which keeps
    one server.
    """

    def __init__(
        self,
        binary: Optional[StrPath] = None,
        *,
        engine: Optional[str] = None,
        state_dir: Optional[StrPath] = None,
    ) -> None:
        """Finds the program, as `Client` does. Raises `BinaryNotFound`."""
        self._argv = [str(find_binary(binary))]
        if engine is not None:
            self._argv += ["--engine", engine]
        if state_dir is not None:
            self._argv += ["--state-dir", os.fspath(state_dir)]

    def run(self, sandbox: SandboxConfig) -> str:
        """Starts a sandbox, and returns its id. `sandbox.timeouts` are for whoever runs commands.

        Raises `InvalidRequest` for what is wrong with it, and `InfraError`.
        """
        words = ["--image", sandbox.image, "--workdir", sandbox.workdir]
        if sandbox.name is not None:
            words += ["--name", sandbox.name]
        if isinstance(sandbox.network, str):
            words += ["--network", sandbox.network]
        else:
            words += [f"--allow={host}" for host in sandbox.network]
        limits = sandbox.resources
        for option, value in [
            ("--memory", limits.memory),
            ("--cpus", limits.cpus),
            ("--pids-limit", limits.pids),
        ]:
            if value is not None:
                words += [option, str(value)]
        env, environ = _variables(sandbox.env)
        return str(self._document(["start", *words, *env], environ)["id"])

    def exec(
        self,
        sandbox: str,
        command: Union[str, Sequence[str]],
        *,
        cwd: Optional[str] = None,
        env: Optional[Mapping[str, str]] = None,
        user: Optional[str] = None,
        timeout: Optional[float] = None,
        max_output: Optional[int] = None,
    ) -> CommandResult:
        """Runs a command: a text for `/bin/sh -c`, or a list of program and arguments.

        At `timeout` seconds it is killed with all that it started. A command that fails is a
        result. Raises `InfraError` where nobody could run it.
        """
        cmd = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
        if not cmd:
            raise InvalidRequest("the command is empty", hint="name a program")
        words: List[str] = []
        for option, value in [
            ("--workdir", cwd),
            ("--user", user),
            ("--timeout", None if timeout is None else f"{round(timeout * 1000)}ms"),
            ("--max-output", max_output),
        ]:
            if value is not None:
                words += [option, str(value)]
        given, environ = _variables(env or {})
        argv = ["exec", *words, *given, sandbox, "--", *cmd]
        said = self._document(argv, environ)
        end, code, signal = _end_of(said["end"])
        return CommandResult(
            cmd=cmd,
            cwd=cwd or "",
            env={name: MASK if _is_secret(name) else text for name, text in (env or {}).items()},
            end=end,
            stdout=said["stdout"],
            stderr=said["stderr"],
            duration=said["duration_seconds"],
            timestamp=said["started_at"],
            truncated=Truncated(**said["dropped"]),
            exit=code,
            signal=signal,
        )

    def cp(self, *paths: StrPath) -> None:
        """Copies files into a sandbox and out of it, as `imgforge session cp`.

        `cp("a", "b", "ID:/dir")` copies in, `cp("ID:/file", "here")` copies out.
        """
        self._call(["cp", *(str(os.fspath(path)) for path in paths)])

    def stop(self, *sandboxes: str) -> None:
        """Ends sandboxes. Nothing of them is left. Raises `InvalidRequest` for one that is gone."""
        if not sandboxes:
            raise InvalidRequest("no sandbox is named", hint="name one; `ps` lists them")
        self._call(["stop", *sandboxes])

    def rm(self, *sandboxes: str) -> None:
        """Sees to it that sandboxes are gone: one that is not there any more is no error."""
        living = {name for one in self.ps() for name in (one["id"], one["name"])}
        wanted = [sandbox for sandbox in sandboxes if sandbox in living]
        if wanted:
            self._call(["stop", *wanted])

    def ps(self, all: bool = False) -> List[Dict[str, Any]]:
        """Lists sandboxes, as `imgforge session ls --json`: `id`, `name`, `image` and more.

        With `all` those as well that ended by themselves in the last day.
        """
        return list(self._document(["ls", *(["--all"] if all else [])]))

    def _document(self, words: Sequence[str], environ: Optional[Mapping[str, str]] = None) -> Any:
        """Runs a subcommand, and returns the document that it prints."""
        out, said, status = self._start(["--json", *words], environ)
        try:
            document = json.loads(out)
        except ValueError as error:
            raise ProtocolError(
                f"the program printed what is no document: {(out or said)[:200]!r}",
                hint="is it imgforge? `imgforge --version` says so",
            ) from error
        # A document with this only field is told from all others.
        if isinstance(document, dict) and list(document) == ["error"]:
            failed = document["error"]
            message = ": ".join([failed["message"], *failed["causes"]])
            raise _failed(words[0], status, message, failed["hint"])
        return document

    def _call(self, words: Sequence[str]) -> None:
        """Runs a subcommand that prints nothing."""
        _, said, status = self._start(words, None)
        if status != 0:
            raise _failed(words[0], status, said.strip() or f"it ended with status {status}", None)

    def _start(
        self, words: Sequence[str], environ: Optional[Mapping[str, str]]
    ) -> Tuple[str, str, int]:
        env = {**os.environ, **(environ or {})}
        # It is for this package: the program warns of variables that it does not know.
        env.pop(VARIABLE, None)
        ended = subprocess.run(
            [*self._argv, "--quiet", "session", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=env,
        )
        out, said = ended.stdout.decode("utf-8", "replace"), ended.stderr.decode("utf-8", "replace")
        return out, said, ended.returncode


def _failed(what: str, status: int, message: str, hint: Optional[str]) -> ImgforgeError:
    kind = InvalidRequest if status == _WRONG else InfraError
    return kind(f"imgforge session {what}: {message}", hint=hint)


def _variables(env: Mapping[str, str]) -> Tuple[List[str], Dict[str, str]]:
    """The options for variables. Secrets go by the environment: everybody sees arguments."""
    words: List[str] = []
    environ: Dict[str, str] = {}
    for name, text in env.items():
        if _is_secret(name):
            words += ["--env", name]
            environ[name] = text
        else:
            words += ["--env", f"{name}={text}"]
    return words, environ


def _is_secret(name: str) -> bool:
    return _SECRET.search(name) is not None


def _end_of(end: Any) -> Tuple[str, Optional[int], Optional[int]]:
    """How a command ended: in a word, its exit code, and its signal."""
    if isinstance(end, str):
        return end, None, None
    ((kind, value),) = end.items()
    if kind == "signaled":
        return kind, None, value
    if kind == "not_started":
        return kind, 127 if value["program_missing"] else 126, None
    if kind == "session_ended":
        raise InfraError(f"the sandbox has ended: {value}")
    return kind, value if isinstance(value, int) else None, None
