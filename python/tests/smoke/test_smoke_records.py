"""Configurations and reports as JSON: the same there and back, and nothing unknown."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Dict

import pytest

from imgforge_sandbox import InvalidRequest, smoke
from imgforge_sandbox.smoke import (
    CommandResult,
    RepoSpec,
    Resources,
    RunReport,
    SandboxConfig,
    StageResult,
    TaskSpec,
    Timeouts,
)

SCHEMAS = Path(__file__).parents[3] / "schemas"

COMMAND: Dict[str, Any] = {
    "cmd": ["true"],
    "cwd": "/testbed",
    "env": {"A": "b"},
    "exit": 0,
    "end": "exited",
    "stdout": "",
    "stderr": "",
    "duration": 0.5,
    "timestamp": "2026-01-01T00:00:00Z",
    "truncated": {"stdout": 0, "stderr": 3},
    "log": "test/1.json",
}

STAGE: Dict[str, Any] = {
    "stage": "test",
    "status": "ok",
    "started": "2026-01-01T00:00:00Z",
    "duration": 1.0,
    "commands": [COMMAND],
    "logs": ["test/1.stdout"],
}

REPORT: Dict[str, Any] = {
    "schema": 1,
    "run_id": "one",
    "started": "2026-01-01T00:00:00Z",
    "duration": None,
    "expected_fail": False,
    "dry_run": False,
    "versions": {"imgforge": "0.1.0", "engine": "embedded 0.1.0", "kernel": "6.1"},
    "image": {"ref": "a:1", "digest": None},
    "repo": {"source": "a/b", "ref": "main", "commit": None},
    "session": None,
    "stages": [STAGE],
    "success": False,
    "failure_stage": None,
    "failure_reason": "the run is not finished",
}


def test_a_report_is_the_same_there_and_back() -> None:
    report = RunReport.from_dict(REPORT)
    assert report.to_dict() == REPORT
    assert report.stage("test").commands[0] == CommandResult.from_dict(COMMAND)
    assert report.stage("test").commands[0].ok
    assert not report.infra
    with pytest.raises(KeyError):
        report.stage("setup")
    killed = {**COMMAND, "signal": 9, "end": "signaled"}
    del killed["exit"], killed["log"]
    assert CommandResult.from_dict(killed).to_dict() == killed


@pytest.mark.parametrize(
    ("kind", "definition"),
    [
        (RunReport, "smoke_run"),
        (StageResult, "smoke_stage_result"),
        (CommandResult, "smoke_command"),
        (smoke.Truncated, "smoke_truncated"),
    ],
)
def test_fields_are_those_of_the_schema(kind: Any, definition: str) -> None:
    schema = json.loads((SCHEMAS / "protocol.schema.json").read_text())["$defs"][definition]
    fields = {field.name: field for field in dataclasses.fields(kind)}
    assert set(fields) == set(schema["properties"])
    absent = {name for name, field in fields.items() if field.metadata.get("absent")}
    assert absent == set(fields) - set(schema["required"])


def test_a_configuration_is_the_same_there_and_back() -> None:
    sandbox = SandboxConfig(
        image="a:1",
        name="one",
        env={"A": "b"},
        timeouts=Timeouts(command="90s"),
        resources=Resources(memory="2g", cpus=1.5, pids=100),
        network=["pypi.org"],
    )
    assert SandboxConfig.from_dict(sandbox.to_dict()) == sandbox
    assert sandbox.to_dict()["timeouts"] == {"command": "90s", "stage": 3600.0}
    repo = RepoSpec(ref="main", url="a/b", patches=["a.patch"])
    assert repo.to_dict() == {"ref": "main", "url": "a/b", "patches": ["a.patch"]}
    assert RepoSpec.from_dict(repo.to_dict()) == repo
    task = TaskSpec(test=["pytest", "-q"], setup=["pip install .", ["make"]], expected_fail=True)
    assert TaskSpec.from_dict(task.to_dict()) == task
    # What can be left out has the default that the program has.
    assert SandboxConfig.from_dict({"image": "a"}) == SandboxConfig("a")
    assert TaskSpec.from_dict({"test": "make"}) == TaskSpec("make")


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        (SandboxConfig, {"imgae": "a"}, "`imgae`: SandboxConfig has no such key"),
        (SandboxConfig, {}, "`image`: it is missing"),
        (SandboxConfig, {"image": 1}, "`image`: a text is needed, not 1"),
        (
            SandboxConfig,
            {"image": "a", "timeouts": {"comand": 1}},
            "`timeouts.comand`: Timeouts has no such key",
        ),
        (
            SandboxConfig,
            {"image": "a", "timeouts": {"command": True}},
            "`timeouts.command`: a number is needed, not True",
        ),
        (SandboxConfig, {"image": "a", "resources": []}, "`resources`: an object is needed"),
        (SandboxConfig, {"image": "a", "env": {"A": 1}}, "`env.A`: a text is needed, not 1"),
        (RepoSpec, {"ref": "a", "patches": "a.patch"}, "`patches`: a list is needed"),
        (TaskSpec, {"test": "a", "setup": [["a"], 3]}, "`setup[1]`: a text is needed, not 3"),
        (TaskSpec, {"test": "a", "expected_fail": 1}, "`expected_fail`: true or false is needed"),
        (RunReport, {**REPORT, "stages": [{**STAGE, "commands": [{}]}]}, "`stages[0].commands[0]."),
        (RunReport, [], "an object is needed, not []"),
    ],
)
def test_what_is_wrong_is_named(kind: Any, data: Any, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        kind.from_dict(data)
    assert caught.value.message.startswith(message)


def test_the_nearest_key_is_named() -> None:
    with pytest.raises(InvalidRequest, match="did you mean `network`"):
        SandboxConfig.from_dict({"image": "a", "netwrok": "none"})
    with pytest.raises(ValueError, match="known are cpus, memory, pids"):
        SandboxConfig.from_dict({"image": "a", "resources": {"zzz": 1}})


def test_all_that_is_public_is_documented() -> None:
    for name in smoke.__all__:
        value = getattr(smoke, name)
        if isinstance(value, type):
            # A dataclass without a text of its own gets its signature as one.
            assert value.__doc__, name
            assert not value.__doc__.startswith(f"{name}("), name
