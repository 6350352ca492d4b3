"""R2E-Gym's `RepoEnv`: an agent acts, and is told what came of it."""

from __future__ import annotations

import logging
import os
import posixpath
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

from ..client import Client
from ._compat import Compat, compat_of
from .action import Action
from .commands import Command, ParseCommandBash
from .observation import Observation
from .runtime import DockerRuntime

_BIN = "/usr/local/bin"
_LIBRARIES = "/usr/local/lib/imgforge-commands.sh"

StrPath = Union[str, "os.PathLike[str]"]


@dataclass(frozen=True)
class EnvArgs:
    """Which row an environment is of.

    `repo_path` and `docker_image` are taken instead of `/testbed` and the image of the row. In
    exact mode they are not, as in R2E-Gym.
    """

    ds: Mapping[str, Any]
    repo_path: Optional[str] = None
    docker_image: Optional[str] = None


class RepoEnv:
    """An environment: a container of a row, and the commands that an agent may use in it."""

    def __init__(
        self,
        args: EnvArgs,
        logger: Optional[logging.Logger] = None,
        backend: str = "docker",
        verbose: bool = True,
        step_timeout: float = 90,
        reward_timeout: float = 300,
        *,
        compat: Compat = "fixed",
        client: Optional[Client] = None,
        **options: Any,
    ) -> None:
        """Starts the container.

        `backend`, `client` and `options` are those of `DockerRuntime`. `step_timeout` and
        `reward_timeout` are seconds. Without `verbose` nothing is logged.
        """
        self.compat: Compat = compat_of(compat)
        self.logger = logger if logger is not None else logging.getLogger("RepoEnv")
        if not verbose:
            self.logger.setLevel(logging.CRITICAL)
        self.args = args
        self.backend = backend
        self.step_timeout = step_timeout
        self.reward_timeout = reward_timeout
        self.done = False
        self.observation: Union[Observation, str, None] = None
        self.state: Any = None
        self.commands: List[Command] = []
        self.cmd_parser = ParseCommandBash(compat=self.compat)
        self._client = client
        self._options = options
        self._files: List[str] = []
        self._libraries: List[str] = []
        self.runtime = self._start()

    def _start(self) -> DockerRuntime:
        chosen: Dict[str, Any] = {}
        if self.compat == "fixed":
            if self.args.repo_path is not None:
                chosen["repo_path"] = self.args.repo_path
            if self.args.docker_image is not None:
                chosen["docker_image"] = self.args.docker_image
        return DockerRuntime(
            ds=self.args.ds,
            command=["/bin/bash", "-l"],
            logger=self.logger,
            backend=self.backend,
            compat=self.compat,
            client=self._client,
            **chosen,
            **self._options,
        )

    def reset(self) -> str:
        """Starts over with a new container, and returns `Environment reset`.

        The commands are installed again. In exact mode they are not, though `commands` has them.
        """
        if self.compat == "exact":
            self.runtime.close()
            self.runtime = self._start()
        else:
            self.runtime.reset()
            self._libraries = []
            for file in self._files:
                self._install(file)
        self.observation = "Environment reset"
        self.state = None
        self.done = False
        return self.observation

    def add_commands(self, cmd_files: Sequence[StrPath]) -> None:
        """Installs commands from files, in `/usr/local/bin`, and adds them to `commands`.

        A script (`#!`) is installed without `.py`, and under the name of its command. A library of
        functions is read by every shell that runs a command. All files are read before the first
        one is installed: raises `CommandFileError` for one that is wrong. A command that is there
        already is replaced. In exact mode `commands` is replaced as a whole, and the functions of
        libraries cannot be called.
        """
        files = [os.fspath(file) for file in cmd_files]
        added = [command for file in files for command in self.cmd_parser.parse_command_file(file)]
        for file in files:
            self._install(file)
        self._files += [file for file in files if file not in self._files]
        if self.compat == "exact":
            self.commands = added
            return
        names = {command.name for command in added}
        kept = [command for command in self.commands if command.name not in names]
        # Of two in one call the last one counts, as the last one is installed.
        self.commands = kept + list({command.name: command for command in added}.values())

    def _install(self, file: str) -> None:
        name = os.path.basename(file)
        stem, extension = os.path.splitext(name)
        is_script = self._is_shebang_script(file)
        if self.compat == "exact":
            self._install_as_r2e(file, name, extension == ".py" or is_script)
            return
        target = posixpath.join(_BIN, stem if extension == ".py" else name)
        data = Path(file).read_bytes()
        is_command = data.strip().startswith(b"#!")
        # The kernel looks for `#!` at the very beginning.
        data = data.lstrip() if is_command else data
        session = self.runtime.session
        session.write(target, data, mode=0o755)
        if not is_command:
            if target not in self._libraries:
                self._libraries.append(target)
            lines = "".join(f". '{path}'\n" for path in self._libraries)
            session.write(_LIBRARIES, lines)
            self.runtime.set_startup_file(_LIBRARIES)
            return
        called = posixpath.join(_BIN, name.rsplit(".", 1)[0])
        if called != target and not name.startswith("_"):
            session.write(called, data, mode=0o755)

    def _install_as_r2e(self, file: str, name: str, is_script: bool) -> None:
        extension = os.path.splitext(name)[1]
        path = f"{_BIN}/{name[:-3] if extension == '.py' else name}"
        self.runtime.copy_to_container(file, path)
        if is_script or extension != ".sh":
            self.runtime.run(f"chmod +x {path}")
        if not is_script:
            self.runtime.run(f"bash -c 'source {path}'")

    def _is_shebang_script(self, cmd_file: str) -> bool:
        """Whether the first line of a file begins with `#!`."""
        with open(cmd_file, "rb") as file:
            return file.readline().strip().startswith(b"#!")

    def run_action(self, action: Action, timeout: float) -> Tuple[str, Any, float]:
        """Runs an action, and returns its output, its code and how many seconds it took.

        What is refused (a command that was not added, a parameter without a name) has the reason
        as its output and the code `"-1"`; in exact mode no output, and -1. An action without a
        name is no output and `"0"`; in exact mode 0.
        """
        exact = self.compat == "exact"
        if not action.function_name:
            return ("", 0, 0) if exact else ("", "0", 0.0)
        start = time.monotonic()
        try:
            command = self._command_of(action)
        except ValueError as error:
            self.logger.error("the action is refused: %s", error)
            seconds = time.monotonic() - start
            return ("", -1, seconds) if exact else (str(error), "-1", seconds)
        output, code = self.runtime.run(command, timeout=timeout)
        return output, code, time.monotonic() - start

    def _command_of(self, action: Action) -> str:
        allowed = [command.name for command in self.commands]
        if action.function_name not in allowed:
            raise ValueError(
                "Invalid Action: input action must be one of allowed actions \n "
                f"Allowed actions: {allowed} \n Input action: {action.function_name}\t"
            )
        return action.to_bashcmd()

    def step(
        self, action: Action, timeout: Optional[float] = None
    ) -> Tuple[Observation, int, bool, Dict[str, Any]]:
        """Runs an action; returns what is seen, 0, whether it is over, and `total_time` in seconds.

        `timeout` is in seconds, else `step_timeout`. It is over after `finish` or `submit`, and
        stays so until `reset`; in exact mode after every name that has one of them in it.
        """
        output, code, seconds = self.run_action(action, timeout or self.step_timeout)
        observation = Observation(output, code, action)
        self.observation = observation
        name = action.function_name
        if self.compat == "exact":
            self.done = self.done or "finish" in name.lower() or "submit" in name.lower()
        else:
            self.done = self.done or name in ("finish", "submit")
        reward = self.calculate_reward(observation)
        return observation, reward, self.done, {"total_time": seconds}

    def compute_reward(self, timeout: Optional[float] = None) -> Any:
        """Returns the reward of what the agent did, as `DockerRuntime._calculate_reward` does.

        The tests have `timeout` seconds, else `reward_timeout`. Raises `TimedOut`, `OutOfMemory`
        and `InfraError` where there is no reward.
        """
        return self.runtime._calculate_reward(timeout=timeout or self.reward_timeout)

    def calculate_reward(self, obs: Observation) -> int:
        """Returns 0: a step has no reward of its own."""
        return 0

    def check_done(self) -> bool:
        """Returns whether it is over."""
        return self.done

    def get_task_instruction(self) -> str:
        """Returns what the agent has to do."""
        return self.runtime.get_task_instruction()

    def get_stats(self) -> Mapping[str, Any]:
        """Returns the row."""
        return self.runtime.ds

    @property
    def _observation(self) -> Dict[str, Any]:
        return {"output": self.observation}

    @property
    def _state(self) -> Dict[str, Any]:
        return {"state": self.state}

    def close(self) -> None:
        """Ends the container. Another call does nothing."""
        self.runtime.close()

    def __enter__(self) -> RepoEnv:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
