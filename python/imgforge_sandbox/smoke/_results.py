"""What a smoke run comes to: its commands, its stages, and the report of all of it.

The dictionaries are those of `imgforge smoke --json`; `imgforge schema smoke` describes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Optional

from ._fields import Record, absent

STAGES = ("start", "clone", "checkout", "compat", "setup", "test", "teardown")
"""The stages of a run, in their order."""


@dataclass(frozen=True)
class Truncated(Record):
    """How many bytes of the outputs are missing between their heads and their tails."""

    stdout: int
    stderr: int


@dataclass(frozen=True)
class CommandResult(Record):
    """A command that ran in the sandbox, or could not.

    `cmd` is program and arguments, `env` what it had beside the variables of the image. `end` is
    `exited`, `signaled`, `timed_out`, `idle`, `out_of_memory`, `not_started` or `session_ended`;
    `exit` and `signal` are None where there is none. `stdout` and `stderr` are text: what is not
    UTF-8 is replaced. `duration` is in seconds, `timestamp` of RFC 3339. `log` is the file of this
    result below the artifacts of the run. Secrets are masked.
    """

    cmd: List[str]
    cwd: str
    env: Dict[str, str]
    end: str
    stdout: str
    stderr: str
    duration: float
    timestamp: str
    truncated: Truncated
    exit: Optional[int] = absent()
    signal: Optional[int] = absent()
    log: Optional[str] = absent()

    @property
    def ok(self) -> bool:
        """Whether it ended by itself with code 0."""
        return self.end == "exited" and self.exit == 0


@dataclass(frozen=True)
class StageResult(Record):
    """A stage, and how it ended.

    `status` is `ok`, `failed`, `skipped`, or `infra_error`: then nothing is known of what the stage
    was to find out. `reason` says why, or what is remarkable. `logs` are files below the artifacts.
    """

    stage: str
    status: str
    started: str
    duration: float
    commands: List[CommandResult]
    logs: List[str]
    reason: Optional[str] = absent()

    @property
    def ok(self) -> bool:
        """Whether all of it was done, and came to what it was to come to."""
        return self.status == "ok"


@dataclass(frozen=True)
class Versions(Record):
    """What took part: empty where it was not found out, None where the image has none."""

    imgforge: str
    engine: str
    kernel: str
    python: Optional[str] = absent()
    git: Optional[str] = absent()


@dataclass(frozen=True)
class RunImage(Record):
    """The image: as it was named, and the engine's id of it."""

    ref: str
    digest: Optional[str]


@dataclass(frozen=True)
class RunRepository(Record):
    """The repository: where it came from, what was asked for, and which commit that was."""

    source: str
    ref: str
    commit: Optional[str]


@dataclass(frozen=True)
class SessionStats(Record):
    """What the sandbox used, where the engine measures it: milliseconds, and bytes."""

    cpu_ms: int
    system_cpu_ms: int
    memory_bytes: int
    most_memory_bytes: Optional[int]
    processes: int
    written_bytes: int


@dataclass(frozen=True)
class RunReport(Record):
    """The report of a run.

    `success` says that every stage was done and the tests did what they were to do.
    `failure_stage` is the first that failed, None where none did; `failure_reason` says why there
    is no success.
    """

    schema: int
    run_id: str
    started: str
    duration: Optional[float]
    expected_fail: bool
    dry_run: bool
    versions: Versions
    image: RunImage
    repo: RunRepository
    session: Optional[SessionStats]
    stages: List[StageResult]
    success: bool
    failure_stage: Optional[str]
    failure_reason: Optional[str]
    name: Optional[str] = absent()

    @property
    def infra(self) -> bool:
        """Whether it has no success for a reason that says nothing of the repository."""
        return any(stage.status == "infra_error" for stage in self.stages)

    def stage(self, name: str) -> StageResult:
        """Returns the result of a stage by its name. Raises `KeyError`."""
        for result in self.stages:
            if result.stage == name:
                return result
        raise KeyError(name)

    def to_dict(self) -> Dict[str, Any]:
        """Returns the JSON object, as `imgforge smoke --json` prints it."""
        return super().to_dict()
