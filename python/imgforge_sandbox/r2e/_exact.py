"""Commands as R2E-Gym runs them, for exact mode."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, List, Optional, Tuple

from .._errors import ImgforgeError
from ..results import ExecResult
from . import _setup
from ._logs import without_colours_and_returns

if TYPE_CHECKING:
    from .runtime import DockerRuntime

# What R2E-Gym waits beside the limit of `timeout`, in seconds.
GRACE = 5.0


def words(command: str, timeout: float) -> List[str]:
    """Returns the words of a command: its first program alone is under the limit."""
    return ["/bin/sh", "-c", f"timeout {timeout} {command}"]


def run(
    runtime: DockerRuntime, code: str, timeout: float, args: str, workdir: Optional[str]
) -> Tuple[str, str]:
    """Runs a command, and returns its output and code. An engine that fails is code -1."""
    try:
        result = runtime.box.execute(
            words(f"{code} {args}", timeout), timeout + GRACE, workdir=workdir, keep="all"
        )
    except ImgforgeError as error:
        return f"Error: {error!r}", "-1"
    output = told(result)
    if result.end == "timed_out" or result.code == 124:
        return too_long(timeout), "-1"
    if result.code != 0:
        return output, f"Error: Exit code {result.code}"
    return without_colours_and_returns(output), "0"


def demux_run(
    runtime: DockerRuntime, code: str, timeout: float, args: str, workdir: Optional[str]
) -> Tuple[str, str, str]:
    """Runs a program without a shell, and returns its outputs and code."""
    try:
        result = runtime.box.execute(
            shlex.split(f"timeout {timeout} {code} {args}"),
            timeout + GRACE,
            workdir=workdir,
            merge=False,
            keep="all",
        )
    except (ImgforgeError, ValueError) as error:
        return f"Error: {error!r}", f"Error: {error!r}", "-1"
    if result.end == "timed_out":
        return "Error: TimeoutError()", "Error: TimeoutError()", "-1"
    exit_code = "0" if result.code == 0 else f"Error: Exit code {result.code}"
    return told(result), result.stderr_text, exit_code


def too_long(timeout: float) -> str:
    """Returns what an agent is told of a command that took too long."""
    return f"The command took too long to execute (>{timeout}s)"


def told(result: ExecResult) -> str:
    """Returns the output, or why there is none: a directory that is not there, for example."""
    if result.end == "not_started" and result.reason:
        return result.reason
    return result.text


def set_up(runtime: DockerRuntime) -> List[_setup.SetupStep]:
    """Runs R2E-Gym's commands in a new container. What fails is noted, and ignored."""
    steps: List[_setup.SetupStep] = []
    commands = list(_setup.commands_as_r2e(runtime.kind, runtime.repo_path, runtime.alt_path))
    if runtime.swesmith:
        box = runtime.box
        commands = ["git fetch", f"git checkout {runtime.ds['base_commit']}", *commands]
        script = _setup.swesmith_script(runtime.ds, runtime.test_spec, box)
        box.session.write("/run_tests.sh", script)
    for command in commands:
        output, code = runtime.run(command)
        steps.append(_setup.SetupStep(command, "ok" if code == "0" else "failed", output))
    return steps
