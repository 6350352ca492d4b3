"""A secure executor: repositories are cloned, patched and tested in a sandbox, never on this host.

from imgforge_sandbox.executor import SandboxExecutor

with SandboxExecutor(image="debian:12") as executor:
    with executor.workspace(instance) as directory:
        executor.clone_repo("/srv/mirrors/project.git", instance["base_commit"], directory)
        executor.apply_patch(patch, directory)
        result = executor.run_tests(directory, fail_to_pass + pass_to_pass)
        resolved, _, _ = result.check_tests(fail_to_pass, pass_to_pass)

`docs/python.md` says what is guaranteed and what is not.
"""

from __future__ import annotations

from ._commands import ALLOWED_COMMANDS
from ._errors import SandboxEnded, SandboxUnavailable
from ._results import ExecResult, TestResult
from ._sandbox import SandboxExecutor

__all__ = [
    "ALLOWED_COMMANDS",
    "ExecResult",
    "SandboxEnded",
    "SandboxExecutor",
    "SandboxUnavailable",
    "TestResult",
]
