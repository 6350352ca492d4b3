"""A session, used as R2E-Gym uses its containers."""

from __future__ import annotations

import posixpath
from typing import List, Mapping, Optional, Sequence, Union

from .._errors import CommandFailed, InfraError, SessionEnded
from ..results import ExecResult
from ..session import Session
from .errors import OutOfMemory, TimedOut

DOCKER_PATH = (
    "/root/.venv/bin:/root/.local/bin:/root/.cargo/bin:"
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)
"""Where programs are looked for, in every command."""

GIT_TIMEOUT = 120.0
"""Seconds for what is done beside the commands of an agent."""


class Box:
    """A session with the directories of R2E-Gym.

    `repo_path` is the repository, `alt_path` is where the tests are.
    """

    def __init__(self, session: Session, repo_path: str, alt_path: str) -> None:
        self.session = session
        self.repo_path = repo_path
        self.alt_path = alt_path

    def execute(
        self,
        command: Union[str, Sequence[str]],
        timeout: Optional[float],
        *,
        workdir: Optional[str] = None,
        merge: bool = True,
        keep: Optional[str] = None,
        stdin: Optional[bytes] = None,
        env: Optional[Mapping[str, str]] = None,
        must_start: bool = True,
    ) -> ExecResult:
        """Runs a list of words, or a text for bash, with R2E-Gym's PATH, in the repository.

        Raises `SessionEnded`, and `InfraError` where a text is not even started; unless
        `must_start` is false: an agent may have removed the directory.
        """
        words: List[str] = (
            ["/bin/bash", "-c", command] if isinstance(command, str) else list(command)
        )
        result = self.session.exec(
            words,
            env={"PATH": DOCKER_PATH, **(env or {})},
            workdir=self.repo_path if workdir is None else workdir,
            timeout=timeout,
            merge=merge,
            keep=keep,
            stdin=stdin,
        )
        if must_start and isinstance(command, str) and result.end == "not_started":
            raise InfraError(
                f"/bin/bash does not start in {workdir or self.repo_path}: {result.reason}",
                hint="images of R2E-Gym have bash, and the repository in /testbed: see repo_path",
            )
        return result

    def git(
        self,
        script: str,
        *,
        stdin: Optional[bytes] = None,
        env: Optional[Mapping[str, str]] = None,
    ) -> bytes:
        """Runs a script that has to work, and returns what it printed, whole.

        Raises `CommandFailed` where it does not end with 0.
        """
        result = self.execute(script, GIT_TIMEOUT, merge=False, keep="all", stdin=stdin, env=env)
        if not result.ok:
            said = result.stderr_text.strip()
            raise CommandFailed(
                f"`{script}` in {self.repo_path}: {result.end} {result.code}: {said}", result=result
            )
        return result.stdout

    def log_of(
        self, command: Union[str, Sequence[str]], timeout: float, *, merge: bool = True
    ) -> ExecResult:
        """Runs tests to their end, whole output included.

        Raises `TimedOut`, `OutOfMemory` and `InfraError` where there was no end of theirs: what
        they printed until then is no log to grade.
        """
        try:
            result = self.execute(command, timeout, keep="all", merge=merge)
        except SessionEnded as error:
            raise InfraError(f"the session ended under the tests: {error.message}") from error
        if result.end in ("timed_out", "idle"):
            raise TimedOut(timeout, result.text)
        if result.end == "out_of_memory":
            raise OutOfMemory(result.text)
        if result.end == "not_started":
            raise InfraError(f"the tests do not start: {result.reason}")
        missing = result.dropped_stdout + result.dropped_stderr
        if missing:
            raise InfraError(f"{missing} bytes of the log of the tests are missing")
        return result


def absolute(path: str) -> str:
    """Returns a path of a session: a name alone is in `/`."""
    return posixpath.join("/", path)
