"""mini-swe-agent: its environment on a session.

environment:
  environment_class: imgforge_sandbox.mini.ImgforgeEnvironment
  image: debian:12            # or dataset and instance_id
  cwd: /testbed
"""

from __future__ import annotations

import os
import platform
from typing import Any, Optional

from minisweagent.exceptions import Submitted
from minisweagent.utils.serialize import recursive_merge
from pydantic import BaseModel, ConfigDict

from ._shared import shared_client, source
from .results import ExecResult

__all__ = ["ImgforgeEnvironment", "ImgforgeEnvironmentConfig"]

_BESIDE = {
    "user",
    "network",
    "allow",
    "bind",
    "tmpfs",
    "read_only",
    "memory",
    "cpus",
    "pids",
    "ttl",
}
_SUBMIT = "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"


class ImgforgeEnvironmentConfig(BaseModel):
    """What the environment is started with: `image`, or `dataset` and `instance_id`.

    `cwd` is where commands start, else where the image says. `env` and the variables of this
    process that `forward_env` names are for all commands. `timeout` is in seconds, for a command;
    `ttl` is in seconds, for the whole session. `interpreter` gets the command as its last argument.
    Of each output `max_output` bytes are kept, half from the beginning and half from the end. The
    other fields are those of `imgforge_sandbox.Client.start`; `memory` is in bytes.
    """

    model_config = ConfigDict(extra="forbid")

    image: Optional[str] = None
    dataset: Optional[str] = None
    instance_id: Optional[str] = None
    split: str = "test"
    cwd: str = ""
    env: dict[str, str] = {}
    forward_env: list[str] = []
    timeout: float = 30
    interpreter: list[str] = ["bash", "-lc"]
    max_output: int = 10 << 20
    user: Optional[str] = None
    network: Optional[str] = None
    allow: Optional[list[str]] = None
    bind: Optional[list[str]] = None
    tmpfs: Optional[list[str]] = None
    read_only: bool = False
    memory: Optional[int] = None
    cpus: Optional[float] = None
    pids: Optional[int] = None
    ttl: Optional[float] = None

    def start_options(self) -> dict[str, Any]:
        """Returns the parameters of `Client.start`. Raises `InvalidRequest`."""
        return {
            **source(self.image, self.dataset, self.instance_id, self.split),
            **self.model_dump(include=_BESIDE),
            "workdir": self.cwd or None,
        }


class ImgforgeEnvironment:
    """A session as an environment of mini-swe-agent.

    A command that reaches its limit of time is killed with all that it started; the agent is told.
    What says nothing of the command, such as a session that has ended, is an exception of this
    package, which ends the agent's run: it is no output.
    """

    def __init__(
        self,
        *,
        config_class: type[ImgforgeEnvironmentConfig] = ImgforgeEnvironmentConfig,
        **kwargs: Any,
    ) -> None:
        """Starts the session. `kwargs` are the fields of `ImgforgeEnvironmentConfig`."""
        self.config = config_class(**kwargs)
        self.session = shared_client().start(**self.config.start_options())
        """The session: for patches, grades and checkpoints."""

    def execute(
        self, action: dict[str, Any], cwd: str = "", *, timeout: Optional[float] = None
    ) -> dict[str, Any]:
        """Runs the `command` of an action, both outputs in one.

        Returns `output`, `returncode` and `exception_info`; at the limit of time `returncode` is
        -1. Raises `Submitted` where the agent hands its work in.
        """
        limit = timeout or self.config.timeout
        forwarded = {
            name: os.environ[name] for name in self.config.forward_env if name in os.environ
        }
        result = self.session.exec(
            [*self.config.interpreter, action.get("command", "")],
            workdir=cwd or None,
            env={**forwarded, **self.config.env},
            timeout=limit,
            max_output=self.config.max_output,
            keep="head_tail",
            merge=True,
        )
        output = self._told(result, limit)
        self._check_finished(result, output)
        return output

    def get_template_vars(self, **kwargs: Any) -> dict[str, Any]:
        """Returns what templates of prompts may name. The kernel is that of this machine."""
        merged: dict[str, Any] = recursive_merge(
            self.config.model_dump(), platform.uname()._asdict(), kwargs
        )
        return merged

    def serialize(self) -> dict[str, Any]:
        """Returns what a trajectory says of the environment."""
        kind = type(self)
        return {
            "info": {
                "config": {
                    "environment": self.config.model_dump(mode="json"),
                    "environment_type": f"{kind.__module__}.{kind.__name__}",
                }
            }
        }

    def cleanup(self) -> None:
        """Ends the session. Another call does nothing."""
        self.session.stop()

    def _told(self, result: ExecResult, limit: float) -> dict[str, Any]:
        text = result.text
        if result.dropped_stdout:
            head = result.stdout[: self.config.max_output // 2].decode("utf-8", "replace")
            tail = result.stdout[self.config.max_output // 2 :].decode("utf-8", "replace")
            text = f"{head}\n[... {result.dropped_stdout} bytes left out ...]\n{tail}"
        if result.end == "not_started":
            text += f"{result.reason}\n"
        elif result.end == "out_of_memory":
            text += "\n[killed: the memory limit was reached]\n"
        told: dict[str, Any] = {"output": text, "returncode": result.code, "exception_info": ""}
        if result.end == "timed_out":
            said = f"the command timed out after {limit:g} seconds"
            told.update(
                returncode=-1,
                exception_info=f"An error occurred while executing the command: {said}",
                extra={"exception_type": "TimeoutExpired", "exception": said},
            )
        return told

    def _check_finished(self, result: ExecResult, output: dict[str, Any]) -> None:
        lines = output["output"].lstrip().splitlines(keepends=True)
        if not result.ok or not lines or lines[0].strip() != _SUBMIT:
            return
        if result.dropped_stdout:
            # A patch without its middle is another patch.
            output["exception_info"] = (
                f"It was not submitted: it is longer than {self.config.max_output} bytes."
            )
            return
        submission = "".join(lines[1:])
        raise Submitted(
            {
                "role": "exit",
                "content": submission,
                "extra": {"exit_status": "Submitted", "submission": submission},
            }
        )
