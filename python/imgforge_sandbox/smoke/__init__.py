"""Typed smoke runs: a repository at a commit, in a sandbox of its own, set up and tested.

from imgforge_sandbox.smoke import RepoSpec, SandboxConfig, SessionManager, TaskSpec

sandbox = SandboxConfig(image="python:3.11-slim-bookworm", network=["pypi.org"])
repo = RepoSpec(url="pallets/click", ref="8.1.7")
task = TaskSpec(setup=["pip install . pytest"], test="pytest -q")
with SessionManager(sandbox, repo, task) as run:
    print(run.run().success)

It is what `imgforge smoke --config FILE` does; `python -m imgforge_sandbox.run_smoke` is the same.
"""

from __future__ import annotations

from ._client import SandboxClient
from ._config import CommandLine, RepoSpec, Resources, SandboxConfig, TaskSpec, Timeouts
from ._manager import SessionManager
from ._results import (
    STAGES,
    CommandResult,
    RunImage,
    RunReport,
    RunRepository,
    SessionStats,
    StageResult,
    Truncated,
    Versions,
)

__all__ = [
    "STAGES",
    "CommandLine",
    "CommandResult",
    "RepoSpec",
    "Resources",
    "RunImage",
    "RunReport",
    "RunRepository",
    "SandboxClient",
    "SandboxConfig",
    "SessionManager",
    "SessionStats",
    "StageResult",
    "TaskSpec",
    "Timeouts",
    "Truncated",
    "Versions",
]
