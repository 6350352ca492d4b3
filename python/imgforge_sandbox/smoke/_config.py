"""What a smoke run is told: the sandbox, the repository and the task."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Union

from ._fields import Record, absent

CommandLine = Union[str, List[str]]
"""A text for `/bin/sh -c`, or a list of program and arguments for no shell."""

Time = Union[float, str]
"""Seconds, or a text such as `90s`, `30m` or `2h`."""


@dataclass(frozen=True)
class Timeouts(Record):
    """How long a command, and a stage with all of its commands, may take."""

    command: Time = 600.0
    stage: Time = 3600.0


@dataclass(frozen=True)
class Resources(Record):
    """Limits of all processes together. What is None has no limit.

    `memory` is in bytes, or a text such as `512m` or `4g`; `cpus` may be 1.5; `pids` counts
    processes and threads.
    """

    memory: Union[int, str, None] = absent()
    cpus: Union[float, str, None] = absent()
    pids: Optional[int] = absent()


@dataclass(frozen=True)
class SandboxConfig(Record):
    """The container that a run has for itself.

    `image` is pulled where the engine does not have it. `name` is what reports call the run.
    `workdir` is where the repository comes to: the image has nothing there. `env` is for all
    commands. `network` is `none`, `host`, `bridge`, or a list of hosts that are reached over HTTP
    and HTTPS, such as `["pypi.org", "files.pythonhosted.org"]`.
    """

    image: str
    name: Optional[str] = absent()
    workdir: str = "/testbed"
    env: Dict[str, str] = field(default_factory=dict)
    timeouts: Timeouts = field(default_factory=Timeouts)
    resources: Resources = field(default_factory=Resources)
    network: Union[str, List[str]] = "none"


@dataclass(frozen=True)
class RepoSpec(Record):
    """The repository: `url` or `path`, and not both.

    `url` is one that git understands, or `owner/name` of GitHub; `path` is a directory of this
    machine. `ref` is a branch, a tag, `HEAD`, or the 40 digits of a commit. `patches` are files
    that are applied to it, in this order. `compat` are fixes that are made then, such as
    `collections-abc` or `pytest-min=6.2.5`: docs/compat.md has them.
    """

    ref: str
    url: Optional[str] = absent()
    path: Optional[str] = absent()
    patches: List[str] = field(default_factory=list)
    compat: List[str] = field(default_factory=list)

    def to_dict(self) -> Dict[str, Any]:
        """Returns the JSON object. A list that is empty is left out."""
        return _without_empty(super().to_dict())


@dataclass(frozen=True)
class TaskSpec(Record):
    """What is done in the sandbox: the commands of `setup`, then `test`.

    With `expected_fail` the tests are to fail: then a test that fails is a success, and tests that
    pass, or that nobody could run, are none. `env` is for these commands, beside the sandbox's.
    """

    test: CommandLine
    setup: List[CommandLine] = field(default_factory=list)
    expected_fail: bool = False
    env: Dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> Dict[str, Any]:
        """Returns the JSON object. A list that is empty is left out."""
        return _without_empty(super().to_dict())


def _without_empty(plain: Dict[str, Any]) -> Dict[str, Any]:
    return {key: value for key, value in plain.items() if value != []}
