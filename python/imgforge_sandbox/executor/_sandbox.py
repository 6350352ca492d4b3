"""The secure executor."""

from __future__ import annotations

import posixpath
import re
import secrets
import shlex
import threading
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Iterable, Iterator, List, Mapping, Optional, Sequence, Union

from .. import results
from .._errors import InfraError, Refused, SessionEnded
from .._link import StrPath
from ..client import Client
from . import _box, _commands, _pytest, _repository
from ._errors import SandboxEnded, SandboxUnavailable
from ._results import ExecResult, TestResult, checked_ids

_COMMIT = re.compile(r"[0-9A-Za-z_][\w./+-]*")
_NO_NAME = re.compile(r"[^A-Za-z0-9_.-]+")


class SandboxExecutor:
    """Clones, patches and tests repositories in a sandbox. Nothing of that is done on this host.

    A sandbox is a session with a read-only root, the directories `/workspace` and `/tmp` in memory,
    the user 1000, no capabilities and no new privileges, and by default no network. It starts at
    the first call that needs it. It ends with `cleanup`, at the end of a `workspace` block or of
    the `with` block, and at a time limit: then all that runs in it is gone, and the workspace too.

    Where there is no sandbox, or not one with these limits, `SandboxUnavailable` is raised. A
    command is never run on this host instead. An exception is never a result: it says nothing of
    the tests.

    Any thread may use it; calls are done one after another.
    """

    def __init__(
        self,
        image: str = "code-agent-sandbox:latest",
        timeout: float = 60,
        memory_limit: Union[str, int, None] = "2g",
        cpu_limit: Optional[float] = 2.0,
        network: str = "none",
        use_docker: bool = True,
        *,
        allow: Iterable[str] = (),
        pids_limit: Optional[int] = 512,
        workspace_size: Union[str, int, None] = None,
        tmp_size: Union[str, int, None] = None,
        env: Optional[Mapping[str, str]] = None,
        mirrors: Optional[StrPath] = None,
        unenforced: bool = False,
        client: Optional[Client] = None,
        binary: Optional[StrPath] = None,
        state_dir: Optional[StrPath] = None,
    ) -> None:
        """Takes the settings. Nothing is started yet.

        `timeout` is in seconds, for each command. `memory_limit` (`2g`, or bytes) is for all that
        runs in the sandbox and all that is in its directories: `workspace_size` is half of it if
        nothing is said, and `tmp_size` an eighth, at most 256 MiB. `cpu_limit` is a number of
        processors. None is no limit. `network` and `allow` are those of `Client.start`. With
        `use_docker` the engine is the one that imgforge takes by itself: Docker where one is chosen
        or answers, else the embedded one. Without it, it is the embedded one.

        `env` has further variables; none come from this process. `mirrors` is a directory where
        `clone_repo` finds `owner/name`, as `owner__name.git` or `owner/name.git`. `unenforced`
        takes a sandbox as well whose limits are not enforced: `unenforced_limits` names them.
        `client` is a client of yours; else one is made with `binary` and `state_dir`.

        Raises `ValueError` for settings that have no meaning.
        """
        if not timeout > 0:
            raise ValueError(f"timeout is {timeout!r}: give more than 0 seconds")
        if cpu_limit is not None and not cpu_limit > 0:
            raise ValueError(f"cpu_limit is {cpu_limit!r}: give a number of processors, as 1.5")
        memory = None if memory_limit is None else _box.size(memory_limit)
        whole = memory or 2 << 30
        workspace = whole // 2 if workspace_size is None else _box.size(workspace_size)
        scratch = min(256 << 20, whole // 8) if tmp_size is None else _box.size(tmp_size)
        own = min(128 << 20, whole // 8)
        if memory is not None and workspace + scratch + own >= memory:
            # Full directories would take the sandbox along.
            raise ValueError(
                f"workspace_size, tmp_size and {own} bytes for results are more than memory_limit"
            )
        loader = [name for name in env or {} if name.startswith("LD_")]
        if loader:
            # They would count for what runs as root of the sandbox, too.
            raise ValueError(
                f"env has {', '.join(loader)}: set what is for the loader in a command"
            )
        self.image = image
        self.timeout = timeout
        self._limits = _box.Limits(
            memory=memory,
            cpus=cpu_limit,
            pids=pids_limit,
            workspace=workspace,
            scratch=scratch,
            own=own,
            unenforced=unenforced,
        )
        self._network = _box.Network(network, list(allow))
        self._env = dict(env or {})
        self._mirrors = None if mirrors is None else Path(mirrors)
        self._use_docker = use_docker
        self._binary = binary
        self._state_dir = state_dir
        self._client = client
        self._owns_client = client is None
        self._box: Optional[_box.Box] = None
        self._directory = _box.WORKSPACE
        self._ended: Optional[str] = None
        self._path: Optional[List[str]] = None
        self._lock = threading.RLock()

    # Workspaces

    @contextmanager
    def workspace(self, instance: Union[Mapping[str, Any], str, None] = None) -> Iterator[str]:
        """Gives a directory for `clone_repo` and the other calls, in a fresh sandbox.

        It is named after the `instance_id` of the instance. At the end of the block the sandbox
        ends.
        """
        name = instance.get("instance_id") if isinstance(instance, Mapping) else instance
        name = _NO_NAME.sub("_", str(name or "repo")).lstrip(".-") or "repo"
        directory = posixpath.join(_box.WORKSPACE, name)
        with self._lock:
            self._end()
            self._ended = None
            self._started()
            self._directory = directory
        try:
            yield directory
        finally:
            with self._lock:
                self._end()

    def clone_repo(
        self,
        repo: str,
        base_commit: str,
        workspace_dir: Optional[str] = None,
        *,
        depth: Optional[int] = None,
    ) -> ExecResult:
        """Makes a repository in the workspace, at a commit.

        `repo` is a path of this host, a name in `mirrors`, or a URL, which needs a network that
        reaches it. From this host objects and references are copied as files: no git runs here,
        and neither the repository's configuration nor its hooks go along. `base_commit` is any
        commit of it. The clone has that commit and what came before it (`depth` commits of it),
        and nothing later. It starts a sandbox where the last one has ended.

        A commit that is not there is a result. Raises `FileNotFoundError` and `ValueError` for what
        is no repository.
        """
        if not _COMMIT.fullmatch(base_commit) or ".." in base_commit:
            raise ValueError(f"{base_commit!r} is no commit: give the id of one")
        if depth is not None and depth < 1:
            raise ValueError(f"depth is {depth}: give a number of commits, or None for all")
        remote = _repository.is_remote(repo)
        if remote and self._network.name == "none" and not self._network.allow:
            raise ValueError(
                f"the sandbox has no network to reach {repo}: give a path of this host, or "
                "`mirrors`, or start it with `network='proxy'` and `allow`"
            )
        local = None if remote else _repository.find(repo, self._mirrors)
        with self._lock:
            self._ended = None
            directory = self._inside(workspace_dir)
            box = self._started()
            command = f"git clone {repo} {directory} && git checkout {base_commit}"
            source = repo
            if local is not None:
                source = f"{_box.WORKSPACE}/.source-{secrets.token_hex(8)}"
                made = self._do(box, ["mkdir", "-p", source], command)
                if not made.success:
                    return made
                for name in _repository.parts(local):
                    box.session.put(local / name, f"{source}/{name}", owner=_box.OWNER)
                text = _repository.configuration(local)
                box.session.write(f"{source}/config", text, user=_box.USER)
            arguments = [source, directory, base_commit, str(depth or "")]
            script = ["sh", "-c", _repository.CLONE, "sh", *arguments]
            done = self._do(box, script, command)
            if local is not None and not box.stopped:
                self._do(box, ["rm", "-rf", source], command)
            self._directory = directory
            return done

    def apply_patch(self, patch_text: str, workspace_dir: Optional[str] = None) -> ExecResult:
        """Applies a patch, as a whole or not at all. One that does not apply is a result."""
        with self._lock:
            box = self._running()
            command = ["git", "apply", "--verbose", "--whitespace=nowarn", "-"]
            # What is not UTF-8 came in by `surrogateescape`, if at all.
            data = patch_text.encode("utf-8", "surrogateescape")
            return self._do(box, command, "git apply", workspace_dir, data)

    # Commands

    def run(
        self,
        command: Union[str, Sequence[str]],
        workspace_dir: Optional[str] = None,
        *,
        timeout: Optional[float] = None,
    ) -> ExecResult:
        """Runs a program of `ALLOWED_COMMANDS` in the workspace, without a shell.

        A text is split into words as a shell does. The program is one of the image: a path has to
        be in a directory of its PATH. What it leaves in the background is killed when it ends. At
        the time limit the whole sandbox ends.

        Raises `ValueError` for other commands. The list finds slips; what is allowed can run
        anything.
        """
        with self._lock:
            # A slip is found without a sandbox.
            words = _commands.checked(command, self._path or _DEFAULT_PATH)
            box = self._running()
            words = _commands.checked(command, self._search_path(box))
            return self._do(box, words, shlex.join(words), workspace_dir, timeout=timeout)

    def run_tests(
        self,
        workspace_dir: Union[str, Sequence[str], None] = None,
        test_ids: Optional[Sequence[str]] = None,
        extra_args: Sequence[str] = (),
        *,
        timeout: Optional[float] = None,
    ) -> TestResult:
        """Runs tests with pytest: `run_tests(ids)`, or `run_tests(directory, ids)`.

        The ids are those of pytest, from the workspace: `tests/test_a.py::test_b[1]`; one without
        parameters, of a class or of a file stands for all below it. `extra_args` are options of
        pytest. What the tests recorded decides, not what they printed; `docs/python.md` says what
        that does not protect from.

        Raises `ValueError` where there is no id, `SandboxEnded` where there is no sandbox, and
        `InfraError` where the tests could not be run: that is no result.
        """
        if test_ids is None and workspace_dir is not None and not isinstance(workspace_dir, str):
            workspace_dir, test_ids = None, workspace_dir
        if workspace_dir is not None and not isinstance(workspace_dir, str):
            raise ValueError("the directory of the workspace is a text")
        tests = checked_ids(test_ids if test_ids is not None else [])
        with self._lock:
            box = self._running()
            wanted = _pytest.Run(
                directory=self._inside(workspace_dir),
                tests=tests,
                options=list(extra_args),
                timeout=self.timeout if timeout is None else timeout,
            )
            try:
                result = _pytest.run(box, wanted)
            except SessionEnded as error:
                self._end(f"it ended while tests ran: {error.how}")
                raise
            if result.timed_out:
                self._end(f"its tests ran for more than {wanted.timeout:g}s")
            elif box.stopped or (result.out_of_memory and result.returncode is None):
                self._end("its tests had more memory than they may, or could not be ended")
            return result

    # The end

    def cleanup(self) -> None:
        """Ends the sandbox, and the client that was made for it. Another call does nothing."""
        with self._lock:
            self._end()
            if self._owns_client and self._client is not None:
                self._client.close()
                self._client = None

    def __enter__(self) -> SandboxExecutor:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.cleanup()

    @property
    def unenforced_limits(self) -> List[str]:
        """What the sandbox does not enforce, in sentences. It starts one where none runs."""
        with self._lock:
            return list(self._started().unenforced)

    # Not for others

    def _started(self) -> _box.Box:
        if self._box is not None and not self._box.stopped:
            return self._box
        try:
            if self._client is None:
                engine = None if self._use_docker else "embedded"
                self._client = Client(self._binary, engine=engine, state_dir=self._state_dir)
        except (InfraError, Refused) as error:
            raise SandboxUnavailable(
                f"there is no engine: {error.message}",
                hint=error.hint or "`imgforge doctor` says what is missing",
            ) from error
        self._box = _box.Box(self._client, self.image, self._limits, self._network, self._env)
        return self._box

    def _running(self) -> _box.Box:
        if self._ended is not None:
            raise SandboxEnded(
                f"the sandbox has ended, and its workspace with it: {self._ended}",
                hint="clone_repo starts the next one",
            )
        return self._started()

    def _end(self, why: Optional[str] = None) -> None:
        box, self._box = self._box, None
        self._ended = why
        self._directory = _box.WORKSPACE
        if box is not None:
            box.stop()

    def _inside(self, directory: Optional[str]) -> str:
        """Returns a directory of the workspace. Raises `ValueError` for another one."""
        if directory is None:
            if self._directory != _box.WORKSPACE:
                return self._directory
            return posixpath.join(_box.WORKSPACE, "repo")
        path = posixpath.normpath(posixpath.join(_box.WORKSPACE, directory))
        if not path.startswith(_box.WORKSPACE + "/") or path == _box.HOME:
            raise ValueError(
                f"{directory!r} is not in the workspace: name a directory below {_box.WORKSPACE}"
            )
        return path

    def _search_path(self, box: _box.Box) -> List[str]:
        """Returns the directories of PATH in the sandbox that the user cannot write to."""
        if self._path is None:
            said = box.session.exec('printf %s "$PATH"', workdir="/", timeout=60)
            own = (_box.WORKSPACE, "/tmp", "/dev")
            self._path = [
                path
                for path in said.text.split(":")
                if path.startswith("/") and not path.startswith(own)
            ]
        return self._path

    def _do(
        self,
        box: _box.Box,
        words: Sequence[str],
        shown: str,
        workspace_dir: Optional[str] = None,
        stdin: Optional[bytes] = None,
        timeout: Optional[float] = None,
    ) -> ExecResult:
        limit = self.timeout if timeout is None else timeout
        directory = self._inside(workspace_dir)
        if words[0] in ("sh", "mkdir", "rm"):
            directory = _box.WORKSPACE
        try:
            done = box.run(words, directory=directory, timeout=limit, stdin=stdin)
            if done.end != "timed_out":
                box.sweep()
        except SessionEnded as error:
            self._end(f"it ended while `{shown}` ran: {error.how}")
            if error.result is None or not _pytest.of_memory(error):
                raise
            return _told(shown, error.result, limit, out_of_memory=True)
        if done.end == "timed_out":
            self._end(f"`{shown}` ran for more than {limit:g}s")
        elif box.stopped:
            self._end(f"what `{shown}` left in the background could not be killed otherwise")
        return _told(shown, done, limit, out_of_memory=done.end == "out_of_memory")


_DEFAULT_PATH = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
]


def _told(shown: str, done: results.ExecResult, limit: float, *, out_of_memory: bool) -> ExecResult:
    timed_out = done.end == "timed_out"
    stderr = done.stderr_text
    if timed_out:
        stderr += (
            "" if not stderr or stderr.endswith("\n") else "\n"
        ) + f"TIMEOUT after {limit:g}s"
    elif done.end == "not_started" and done.reason:
        stderr += done.reason
    code = done.code
    if timed_out or code is None:
        code = 137 if out_of_memory else -1
    return ExecResult(
        command=shown,
        returncode=code,
        stdout=done.text,
        stderr=stderr,
        elapsed_seconds=done.duration,
        timed_out=timed_out,
        out_of_memory=out_of_memory,
        truncated=bool(done.dropped_stdout or done.dropped_stderr),
    )
