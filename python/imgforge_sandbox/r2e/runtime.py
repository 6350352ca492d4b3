"""R2E-Gym's `DockerRuntime`, over a session of imgforge."""

from __future__ import annotations

import logging
import os
import posixpath
import re
import secrets
import shlex
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

from .._errors import ImgforgeError, InfraError, Unsupported
from ..client import Client
from ..results import ExecResult
from ..session import Session
from . import _changes, _exact, _setup, _swebench
from ._box import Box, absolute
from ._compat import Compat, compat_of
from ._instance import grade, instance_of
from ._logs import statuses, statuses_as_r2e, summary_lines, without_colours_and_returns
from .errors import TimedOut
from .reward import reward_r2e, reward_swebench, reward_swesmith
from .row import (
    Kind,
    TestSpec,
    commit_of,
    expected_of,
    image_of,
    instruction_of,
    repository_of,
    tests_of,
)

CMD_TIMEOUT = 120
"""Seconds that a command has where nothing is said."""

BACKENDS = ("docker", "embedded", "kubernetes")
_NAME_LENGTH = 63


class DockerRuntime:
    """A container of a row of R2E-Gym, SWE-bench or SWE-smith, for an agent.

    `session` is the session behind it, `repo_name`, `docker_image` and `commit` are what the row
    says, `swebench_verified` and `swesmith` say its kind, and `setup_steps` has what was done to
    the new container.

    In fixed mode an engine that fails is an exception, in every method: `InfraError`,
    `SessionEnded`, `ConnectionLost`. In exact mode `run` and `demux_run` return it as text, as
    R2E-Gym does; a reward is an exception even then.
    """

    def __init__(
        self,
        ds: Mapping[str, Any],
        repo_path: str = "/testbed",
        alt_path: str = "/root",
        docker_image: Optional[str] = None,
        command: Union[str, List[str]] = "/bin/bash",
        logger: Optional[logging.Logger] = None,
        backend: str = "docker",
        *,
        compat: Compat = "fixed",
        client: Optional[Client] = None,
        dataset: Optional[str] = None,
        **options: Any,
    ) -> None:
        """Starts the container and sets it up.

        `ds` is the row. `repo_path` is the repository and `alt_path` the directory of the tests.
        `backend` is `docker`, `embedded` or `kubernetes`; with a `client` it is the client's. Pods
        take the instance of a `dataset`, or an image by its digest.
        `command` is kept and not used: a session needs no command of its own. `options` are those
        of `Client.start`, such as `memory` and `network`; `environment` is another name of `env`.

        `dataset` names the dataset of imgforge that the row is of. Then the row needs no image: the
        container is that of the instance, whose tests are not in it, and its reward is the verdict
        of `imgforge eval`.

        Raises `ValueError` for a row that does not say what is needed, and what `Client.start`
        raises.
        """
        if not ds:
            raise ValueError("ds is empty: a runtime needs the row of a dataset")
        self.compat: Compat = compat_of(compat)
        self.ds = ds
        self.repo_path = repo_path
        self.alt_path = alt_path
        self.command = command
        self.logger = logger if logger is not None else logging.getLogger("DockerRuntime")
        self._instance = None if dataset is None else instance_of(ds, dataset)
        if self._instance is not None and self.compat == "exact":
            raise ValueError("R2E-Gym knows no datasets of imgforge: leave dataset= out")
        image, kind = self._image_and_kind(docker_image)
        self.docker_image = image
        self.kind: Kind = kind
        self.swebench_verified = self.kind == "swebench"
        self.swesmith = self.kind == "swesmith"
        self.repo_name = repository_of(ds, self.kind)
        self.commit = commit_of(ds, self.kind, self.compat)
        self.test_spec: TestSpec = tests_of(ds)
        self.docker_kwargs = dict(options)
        if "environment" in self.docker_kwargs:
            self.docker_kwargs["env"] = self.docker_kwargs.pop("environment")
        self.setup_steps: List[_setup.SetupStep] = []
        self.current_commit: Optional[str] = None
        self._base: Optional[str] = None
        self._startup_file: Optional[str] = None
        self._box: Optional[Box] = None
        self._owns_client = client is None
        self.client = client if client is not None else _client_of(backend)
        self.backend = self.client.engine
        name = self._instance[1] if self._instance else self.docker_image
        self.container_name = self._get_container_name(name)
        try:
            self.start_container(
                self.docker_image, command, self.container_name, **self.docker_kwargs
            )
            self.setup_env()
        except BaseException:
            self.close()
            raise
        self.logger.info("started %s of %s", self.container_name, self.docker_image)

    def _image_and_kind(self, docker_image: Optional[str]) -> Tuple[str, Kind]:
        if self._instance is None:
            return image_of(self.ds, docker_image, self.compat)
        # The image is known when the container was started.
        return "", "swebench"

    # The container

    @property
    def session(self) -> Session:
        """The session of now. Raises `InfraError` where it was stopped."""
        return self.box.session

    @staticmethod
    def _get_container_name(image_name: str) -> str:
        """Returns a name for a container: of the image, at most 63 characters, never twice."""
        plain = re.sub(r"[^a-zA-Z0-9_.-]+", "-", image_name).lstrip("_.-") or "image"
        return f"{plain[: _NAME_LENGTH - 11].rstrip('_.-')}-{secrets.token_hex(5)}"

    def start_container(
        self, docker_image: str, command: Union[str, List[str]], ctr_name: str, **options: Any
    ) -> None:
        """Starts a container; one that runs is stopped before. A new one is never an old one."""
        self.stop_container()
        labels = {**(options.pop("labels", None) or {}), "name": ctr_name}
        if self._instance is None:
            session = self.client.start(image=docker_image, labels=labels, **options)
        else:
            session = self.client.start(instance=self._instance, labels=labels, **options)
            self.docker_image = session.image
        self._box = Box(session, self.repo_path, self.alt_path)

    def stop_container(self) -> None:
        """Ends the container. Nothing of it is left. Another call does nothing."""
        box, self._box = self._box, None
        self._base = self._startup_file = None
        if box is not None:
            box.session.stop()

    def reset(self) -> None:
        """Starts over, from the image. In exact mode the new container is not set up."""
        self.start_container(
            self.docker_image, self.command, self.container_name, **self.docker_kwargs
        )
        if self.compat == "fixed":
            self.setup_env()

    def close(self) -> None:
        """Ends the container, and the client where it is this runtime's own."""
        self.stop_container()
        if self._owns_client:
            self.client.close()

    def __enter__(self) -> DockerRuntime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def box(self) -> Box:
        """The session of now, as commands use it. Raises `InfraError` where it was stopped."""
        if self._box is None:
            raise InfraError("the container was stopped", hint="call reset(), or make a new one")
        return self._box

    def setup_env(self) -> None:
        """Makes the container ready for an agent. `setup_steps` has what was done.

        In fixed mode the tests of R2E's images are not left in it: they are in the image, and a
        reward is of a new container. What needs a network is skipped where there is none. Raises
        `InfraError` where the repository is not as it has to be.

        In exact mode R2E-Gym's commands are run, and what fails is ignored.
        """
        box = self.box
        if self.compat == "exact":
            self.alt_path = box.alt_path = "/" if self.swebench_verified else self.alt_path
            self.setup_steps = _exact.set_up(self)
            return
        self.setup_steps = self._set_up(box, for_grading=False)
        self._base = _changes.note_base(box)

    def _set_up(self, box: Box, *, for_grading: bool) -> List[_setup.SetupStep]:
        if self.swebench_verified:
            self.alt_path = box.alt_path = "/"
        network = self.docker_kwargs.get("network") or "none"
        has_network = network != "none" or bool(self.docker_kwargs.get("allow"))
        setup = _setup.Setup(box, self.ds, for_grading=for_grading, has_network=has_network)
        return setup.run(self.kind, self.test_spec)

    # Commands

    def run(
        self,
        code: str,
        timeout: float = CMD_TIMEOUT,
        args: str = "",
        workdir: Optional[str] = None,
        type: Optional[str] = None,
    ) -> Tuple[str, str]:
        """Runs a command of the shell, and returns its output, with that of errors, and its code.

        The code is `"0"`, `"Error: Exit code N"`, or `"-1"` where `timeout` seconds were not
        enough: the whole command is killed then, and its output until then follows the message.
        Of an output of more than 10 MiB the end is kept. What succeeds has its codes for colours
        and its carriage returns removed. `type` is not used.
        """
        if self.compat == "exact":
            return _exact.run(self, code, timeout, args, workdir)
        result = self._execute(code, timeout, args, workdir, merge=True)
        output = _exact.told(result)
        if result.end == "timed_out":
            return _partial(timeout, output), "-1"
        if result.ok:
            output = without_colours_and_returns(output)
        return output, _code(result)

    def demux_run(
        self,
        code: str,
        timeout: float = CMD_TIMEOUT,
        args: str = "",
        workdir: Optional[str] = None,
    ) -> Tuple[str, str, str]:
        """Runs a command as `run` does, and returns the two outputs apart, and the code.

        Nothing is removed from them. In exact mode there is no shell.
        """
        if self.compat == "exact":
            return _exact.demux_run(self, code, timeout, args, workdir)
        result = self._execute(code, timeout, args, workdir, merge=False)
        if result.end == "timed_out":
            return _partial(timeout, result.text), result.stderr_text, "-1"
        return _exact.told(result), result.stderr_text, _code(result)

    def _execute(
        self, code: str, timeout: float, args: str, workdir: Optional[str], *, merge: bool
    ) -> ExecResult:
        if timeout is None or timeout <= 0:
            raise ValueError(f"timeout is {timeout}: it is seconds, more than 0")
        text = f"{code} {args}" if args else code
        env = {"BASH_ENV": self._startup_file} if self._startup_file else None
        return self.box.execute(
            text, timeout, workdir=workdir, merge=merge, env=env, must_start=False
        )

    def set_startup_file(self, path: str) -> None:
        """Lets every shell of `run` and `demux_run` read a file of the container first."""
        self._startup_file = path

    # Files

    def copy_to_container(self, src_path: Union[str, os.PathLike[str]], dest_path: str) -> None:
        """Copies a file or directory of this machine to `dest_path`, which is its new name.

        A name alone is in `/`. Missing directories are made; in exact mode they are `NoSuchPath`.
        Modes, times and links stay; all is root's.
        """
        target = absolute(dest_path)
        session = self.session
        if self.compat == "exact":
            session.stat(posixpath.dirname(target))
        session.put(src_path, target, owner=(0, 0))

    def read_file(self, rel_file_path: str) -> str:
        """Returns a file of `alt_path` as text. Raises `NoSuchPath`."""
        path = posixpath.join("/", self.alt_path, rel_file_path)
        return self.session.read(path).decode("utf-8", "replace")

    def create_file(self, file_path: str, content: str) -> Tuple[str, str]:
        """Writes a file; a path that does not begin with `/` is one of `/`. Returns `("", "0")`."""
        self.session.write(absolute(file_path), _bytes(content))
        return "", "0"

    # Patches and commits

    def apply_patch(self, patch: Union[str, bytes], *, whitespace: str = "fix") -> Tuple[str, str]:
        """Applies a patch, and returns the output and code of git.

        `git apply --whitespace=fix` removes spaces at the ends of the lines that are added, as
        R2E-Gym does; `whitespace="nowarn"` takes them as they are. An empty patch does nothing.
        """
        if not re.fullmatch(r"[a-z-]+", whitespace):
            raise ValueError(f"whitespace is {whitespace!r}: it is fix, nowarn, warn or error")
        return self._apply(patch, f"--whitespace={whitespace}")

    def reverse_patch(self, patch: Union[str, bytes]) -> Tuple[str, str]:
        """Takes a patch back, and returns the output and code of git."""
        return self._apply(patch, "-R")

    def _apply(self, patch: Union[str, bytes], option: str) -> Tuple[str, str]:
        data = _bytes(patch)
        if self.compat == "fixed" and not data.strip():
            return "", "0"
        path = f"/tmp/imgforge-{secrets.token_hex(8)}.patch"
        box = self.box
        box.session.write(path, data)
        try:
            return self.run(f"git apply {option} {path}")
        finally:
            box.execute(["rm", "-f", path], CMD_TIMEOUT)

    def get_patch(self) -> str:
        """Returns what differs from the last commit, new files included, and stages it.

        Bytes that are not UTF-8 are surrogates, which `apply_patch` takes. Raises `CommandFailed`
        where git fails. In exact mode the error is returned as the patch, there are no binary
        files in it, and it has no carriage returns.
        """
        if self.compat == "exact":
            return self.run("git add -A && git diff --cached")[0]
        patch = self.box.git(
            "git add -A && git diff --cached --binary --no-color --no-ext-diff --no-textconv"
        )
        return patch.decode("utf-8", "surrogateescape")

    def checkout(self, commit_hash: str) -> Tuple[str, str]:
        """Checks a commit or branch out, and returns the output and code of git."""
        if self.compat == "exact":
            return self.run(f"git checkout {commit_hash}")
        if commit_hash.startswith("-"):
            raise ValueError(f"{commit_hash!r} is no commit")
        return self.run(f"git checkout {shlex.quote(commit_hash)}")

    def start_new_branch(self, branch_name: str = "exp") -> Tuple[str, str]:
        """Notes the commit of now for `soft_git_reset`, and gives git a name for commits.

        It makes no branch, as in R2E-Gym.
        """
        self.run("git config --global user.email 'you@example.com'")
        self.run("git config --global user.name 'Your Name'")
        output, code = self.run("git rev-parse HEAD")
        self.current_commit = output.strip()
        return output, code

    def commit_after_step(self, step_idx: int) -> Tuple[str, str]:
        """Commits all changes, with the number as the message. Without changes git fails."""
        staged = self.run("git add .")
        if self.compat == "fixed" and staged[1] != "0":
            return staged
        return self.run(f"git commit -m '{step_idx}'")

    def undo_last_commit(self) -> Tuple[str, str]:
        """Goes back to the commit before the last one. The changes are lost."""
        return self.run("git reset --hard HEAD~1")

    def get_current_commit_hash(self) -> str:
        """Returns the commit of now. Raises `CommandFailed`; in exact mode it returns the error."""
        if self.compat == "exact":
            return self.run("git rev-parse HEAD")[0].strip()
        return self.box.git("git rev-parse HEAD").decode().strip()

    def soft_git_reset(self) -> Tuple[str, str]:
        """Goes back to the commit that `start_new_branch` noted. The changes stay, staged."""
        if self.current_commit is None:
            raise ValueError("there is no commit to go back to: call start_new_branch() before")
        return self.run(f"git reset --soft {self.current_commit}")

    # Tests and rewards

    def get_task_instruction(self) -> str:
        """Returns what is between `[ISSUE]` and `[/ISSUE]` of the row, or the whole statement."""
        return instruction_of(self.ds)

    def run_tests(self, timeout: float = 300) -> Tuple[str, str]:
        """Runs the tests of the image on what the agent changed; returns their output and code.

        In fixed mode they run in a new container with these changes; raises `TimedOut`,
        `OutOfMemory`, `InfraError`. In exact mode they run in this one. The output has no codes
        for colours and no carriage returns.
        """
        if self.compat == "exact":
            output, code = self.run(f"bash {self.alt_path}/run_tests.sh", timeout=timeout)
            return without_colours_and_returns(output), code
        result = self._test(timeout)
        return without_colours_and_returns(result.text), _code(result)

    def demux_run_tests(self) -> Tuple[str, str, str]:
        """Runs the tests as `run_tests` does; returns the two outputs apart, and the code."""
        if self.compat == "exact":
            stdout, stderr, code = self.demux_run(f"bash {self.alt_path}/run_tests.sh")
        else:
            result = self._test(CMD_TIMEOUT, merge=False)
            stdout, stderr, code = result.text, result.stderr_text, _code(result)
        return without_colours_and_returns(stdout), without_colours_and_returns(stderr), code

    def run_swebv_regression(
        self, run_tests_regression: Optional[str] = None, timeout: float = 300
    ) -> str:
        """Runs a script, else that of the row (`run_tests_regression`), and returns its output."""
        script = run_tests_regression
        if script is None:
            script = str(self.ds["run_tests_regression"])
        self.session.write("/run_tests_regression.sh", _bytes(script), mode=0o755)
        return self.run("/run_tests_regression.sh", timeout=timeout)[0]

    def get_logs_eval(self, test_spec: TestSpec, content: str) -> Tuple[Dict[str, str], bool]:
        """Reads a log of SWE-bench: the status of each test, and whether the tests ran at all."""
        return _swebench.read_log(self.ds, test_spec, content)

    def parse_logs(self, log_output: str) -> Dict[str, str]:
        """Returns the status of each test of a log, by the rules of the row's kind."""
        if self.swebench_verified:
            return self.get_logs_eval(self.test_spec, log_output)[0]
        if self.compat == "exact":
            return statuses_as_r2e(log_output)
        return statuses(summary_lines(log_output))

    def reset_swesmith_tests(self) -> None:
        """Takes the files of the tests of a row of SWE-smith from the base commit again."""
        _setup.restore_test_files(self.box, str(self.ds["base_commit"]), self.test_spec)

    def _calculate_reward(self, get_test_output: bool = False, timeout: float = 300) -> Any:
        """Returns the reward of what is in the container: 1.0 or 0.0, of SWE-bench 1 or 0.

        With `get_test_output` it is the reward and the output of the tests; the reward of
        SWE-bench is a bool then. The tests have `timeout` seconds.

        In fixed mode they run in a new container of the image, with the changes of this one. What
        git ignores is not carried over. Where the tests did not run to their end there is no
        reward, in both modes: raises `TimedOut`, `OutOfMemory`, `InfraError`.
        """
        if self._instance is not None:
            return self._calculate_reward_of_instance(get_test_output, timeout)
        if self.kind == "swebench":
            return self._calculate_reward_swebench(get_test_output, timeout)
        if self.kind == "swesmith":
            return self._calculate_reward_swesmith(get_test_output, timeout)
        return self._calculate_reward_r2e(get_test_output, timeout)

    def _calculate_reward_r2e(self, get_test_output: bool = False, timeout: float = 300) -> Any:
        found = self.ds.get("expected_output_json")
        text = None if found is not None else self._expected_of_image()
        expected = expected_of(self.ds, text)
        if self.compat == "fixed" and not expected:
            raise ValueError("the row expects no test: nothing to grade")
        log = without_colours_and_returns(self._test(timeout).text)
        reward = reward_r2e(log, expected, compat=self.compat)
        return (reward, log) if get_test_output else reward

    def _calculate_reward_swebench(
        self, get_test_output: bool = False, timeout: float = 300
    ) -> Any:
        rules = _swebench.rules_of(self.ds, self.test_spec)
        log = self._log(self._test(timeout))
        reward = reward_swebench(
            log,
            self.test_spec.FAIL_TO_PASS,
            self.test_spec.PASS_TO_PASS,
            rules.parse,
            test_cmd=rules.test_cmd,
            fail_only=rules.fail_only,
            compat=self.compat,
        )
        return (bool(reward), log) if get_test_output else reward

    def _calculate_reward_swesmith(
        self, get_test_output: bool = False, timeout: float = 300
    ) -> Any:
        log = self._log(self._test(timeout))
        reward = reward_swesmith(
            log, self.test_spec.FAIL_TO_PASS, self.test_spec.PASS_TO_PASS, compat=self.compat
        )
        return (reward, log) if get_test_output else reward

    def _calculate_reward_of_instance(
        self, get_test_output: bool = False, timeout: float = 300
    ) -> Any:
        assert self._instance is not None
        resolved, log = grade(self.client, self._instance, self._changes(), timeout)
        return (resolved, log) if get_test_output else int(resolved)

    def _log(self, result: ExecResult) -> str:
        # What succeeds loses its colours in R2E-Gym's `run`, and what fails does not.
        return without_colours_and_returns(result.text) if result.ok else result.text

    def _expected_of_image(self) -> str:
        """Returns what the image expects, where the row does not say it."""
        name = "expected_test_output.json"
        try:
            return self.read_file(name)
        except ImgforgeError as error:
            raise ValueError(
                f"the row has no expected_output_json, and the image no {self.alt_path}/{name}"
            ) from error

    def _changes(self) -> bytes:
        """Returns what was changed since the setup."""
        box = self.box
        if self._base is None:
            raise InfraError("the container was not set up", hint="call setup_env()")
        without = _setup.NOT_OF_AGENTS if self.kind == "r2e" else ()
        return _changes.changes(box, self._base, without)

    def _test(self, timeout: float, *, merge: bool = True) -> ExecResult:
        """Runs the tests, in a new container or in this one."""
        box = self.box
        if self._instance is not None:
            raise Unsupported(
                "the tests of an instance are imgforge's, and not in an image",
                hint="_calculate_reward(get_test_output=True) has their log",
            )
        if self.compat == "exact":
            if self.swesmith:
                self.reset_swesmith_tests()
            result = box.log_of(_exact.words(self._test_command(), timeout), timeout + _exact.GRACE)
            if result.code == 124:
                raise TimedOut(timeout, result.text)
            return result
        patch = self._changes()
        options = {**self.docker_kwargs}
        labels = {**(options.pop("labels", None) or {}), "name": f"{self.container_name}-tests"}
        with self.client.start(image=self.docker_image, labels=labels, **options) as session:
            fresh = Box(session, self.repo_path, self.alt_path)
            self._set_up(fresh, for_grading=True)
            _changes.carry(patch, fresh)
            if self.kind == "r2e":
                _setup.put_tests_back(fresh)
            if self.swesmith:
                _setup.restore_test_files(fresh, str(self.ds["base_commit"]), self.test_spec)
            return fresh.log_of(self._test_command(), timeout, merge=merge)

    def _test_command(self) -> str:
        if self.kind == "r2e":
            return f"bash {shlex.quote(self.alt_path)}/run_tests.sh"
        return "/run_tests.sh"


def _client_of(backend: str) -> Client:
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}: it is one of {', '.join(BACKENDS)}")
    return Client(backend=backend)


def _code(result: ExecResult) -> str:
    return "0" if result.ok else f"Error: Exit code {result.code}"


def _partial(timeout: float, output: str) -> str:
    long = _exact.too_long(timeout)
    return f"{long}\n{output}" if output else long


def _bytes(text: Union[str, bytes]) -> bytes:
    if isinstance(text, bytes):
        return text
    return text.encode("utf-8", "surrogateescape")
