"""Smoke runs on the real program: a repository of this machine, in a real sandbox."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Dict, List

import pytest
from fix_scripts import commit_all

from imgforge_sandbox import Client, InfraError, InvalidRequest, NoSuchSmoke
from imgforge_sandbox.smoke import (
    STAGES,
    RepoSpec,
    Resources,
    RunReport,
    SandboxClient,
    SandboxConfig,
    SessionManager,
    TaskSpec,
    Timeouts,
)

IMAGE = os.environ.get("IMGFORGE_SMOKE_IMAGE", "python:3.11-slim-bookworm")

TESTS = """\
import unittest


class T(unittest.TestCase):
    def test_it(self):
        from collections import Mapping
"""

SANDBOX = SandboxConfig(image=IMAGE, resources=Resources(pids=100))
TASK = TaskSpec(test="python -m unittest -v")


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A directory with a repository, whose test needs a fix on Python 3.10 and later."""
    repo = tmp_path / "repo"
    repo.mkdir()
    (repo / "test_it.py").write_text(TESTS)
    # No other run has this commit: what it made would be used again.
    (repo / "once").write_text(str(tmp_path))
    commit_all(repo)
    return tmp_path


def repo(*compat: str) -> RepoSpec:
    return RepoSpec(ref="HEAD", path="repo", compat=list(compat))


def test_a_run_is_done_by_one_call(client: Client, top: Path) -> None:
    with SessionManager(
        SANDBOX, repo("collections-abc"), TASK, name="first", base_dir=top, client=client
    ) as run:
        report = run.run()
    assert report.success, report
    assert [stage.stage for stage in report.stages] == list(STAGES)
    assert all(stage.ok for stage in report.stages)
    assert (report.name, report.failure_stage, report.infra) == ("first", None, False)
    said = json.loads(report.stage("compat").commands[0].stdout)
    assert (said["fix"], said["status"]) == ("collections-abc", "done")
    assert RunReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_the_same_test_fails_without_the_fix(client: Client, top: Path) -> None:
    with SessionManager(SANDBOX, repo(), TASK, base_dir=top, client=client) as run:
        report = run.run()
    assert (report.success, report.failure_stage) == (False, "test")
    assert "cannot import name 'Mapping'" in report.stage("test").commands[0].stderr
    assert report.stage("teardown").ok


def test_stages_are_done_one_by_one_and_in_order(client: Client, top: Path) -> None:
    task = TaskSpec(test="python -m unittest -v", setup=["echo $A >made", ["cat", "made"]])
    sandbox = SandboxConfig(image=IMAGE, env={"A": "b", "MY_SECRET": "hunter22"})
    kept, events = top / "kept", top / "events.ndjson"
    with SessionManager(
        sandbox,
        repo("collections-abc=rewrite"),
        task,
        base_dir=top,
        artifacts=kept,
        events=events,
        client=client,
    ) as run:
        with pytest.raises(InvalidRequest, match="`start` is next"):
            run.run_tests()
        assert run.start().stage == "start"
        assert [result.stage for result in run.prepare_repo()] == ["clone", "checkout"]
        assert run.apply_compat().ok
        setup = run.run_setup()
        assert [command.stdout for command in setup.commands] == ["", "b\n"]
        assert setup.commands[0].env["MY_SECRET"] == "***"
        half = run.report()
        assert (half.success, half.failure_reason) == (False, "the run is not finished")
        assert run.run_tests().ok
        assert run.teardown().ok
        report = run.run()
        assert report.success
        assert run.artifacts == str(kept / run.run_id)
    saved = subprocess.run(
        [os.environ["IMGFORGE_BIN"], "--json", "smoke", "report", str(kept / run.run_id)],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert RunReport.from_dict(json.loads(saved.stdout)) == report
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    assert (lines[0]["event"], lines[-1]["event"]) == ("run_started", "run_finished")


@pytest.mark.parametrize(
    ("sandbox", "spec", "task", "said"),
    [
        (SandboxConfig(image=""), repo(), TASK, "`sandbox.image`"),
        (SANDBOX, RepoSpec(ref="a", path="repo", url="a/b"), TASK, "both `url` and `path`"),
        (SANDBOX, repo("no-warning"), TASK, "did you mean `no-warnings`"),
        (SANDBOX, repo(), TaskSpec(test=""), "`task.test`"),
        (SandboxConfig(IMAGE, timeouts=Timeouts(command=-1)), repo(), TASK, "`sandbox.timeouts"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(
    client: Client, top: Path, sandbox: SandboxConfig, spec: RepoSpec, task: TaskSpec, said: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        SessionManager(sandbox, spec, task, base_dir=top, client=client)
    assert said in str(caught.value)


@pytest.mark.slow
def test_an_image_that_is_not_there_is_a_failed_stage(client: Client, top: Path) -> None:
    sandbox = SandboxConfig(image="localhost:1/no/such:1")
    with SessionManager(sandbox, repo(), TASK, base_dir=top, client=client) as run:
        report = run.run()
    assert report.failure_stage == "start"
    assert {stage.status for stage in report.stages[1:6]} == {"skipped"}


def test_a_closed_run_has_ended_also_while_a_stage_is_under_way(client: Client, top: Path) -> None:
    task = TaskSpec(test="true", setup=["sleep 600"])
    run = SessionManager(SANDBOX, repo(), task, base_dir=top, client=client)
    for stage in [run.start, run.prepare_repo, run.apply_compat]:
        stage()
    setups: List[Any] = []
    thread = threading.Thread(target=lambda: setups.append(run.run_setup()))
    thread.start()
    time.sleep(0.5)
    began = time.monotonic()
    run.close()
    run.close()
    thread.join()
    assert time.monotonic() - began < 20
    assert (setups[0].status, setups[0].reason) == ("infra_error", "interrupted")
    with pytest.raises(NoSuchSmoke):
        run.report()


@pytest.fixture
def sandboxes(binary: str) -> SandboxClient:
    return SandboxClient(binary)


def test_a_sandbox_of_the_command_line(sandboxes: SandboxClient, tmp_path: Path) -> None:
    config = SandboxConfig(image=IMAGE, env={"A": "b c", "MY_TOKEN": "hunter22"})
    sandbox = sandboxes.run(config)
    try:
        (listed,) = [one for one in sandboxes.ps() if one["id"] == sandbox]
        assert listed["image"] == IMAGE
        ran = sandboxes.exec(sandbox, "echo $A $MY_TOKEN; pwd; exit 3")
        assert (ran.end, ran.exit, ran.ok) == ("exited", 3, False)
        assert ran.stdout == "b c hunter22\n/testbed\n"
        ran = sandboxes.exec(
            sandbox, ["env"], cwd="/tmp", env={"X_KEY": "sesame12", "Y": "1"}, user="65534"
        )
        assert (ran.ok, ran.cwd, ran.env) == (True, "/tmp", {"X_KEY": "***", "Y": "1"})
        assert {"X_KEY=sesame12", "Y=1"} <= set(ran.stdout.splitlines())
        for command, timeout, expected in [
            ("sleep 60", 0.5, ("timed_out", None, None)),
            (["no-such-program"], None, ("not_started", 127, None)),
        ]:
            ran = sandboxes.exec(sandbox, command, timeout=timeout)
            assert (ran.end, ran.exit, ran.signal) == expected
        killed = sandboxes.exec(sandbox, "kill -9 $$")
        # Docker tells it as a shell does.
        known = [("signaled", None, 9), ("exited", 137, None)]
        assert (killed.end, killed.exit, killed.signal) in known
        capped = sandboxes.exec(sandbox, "head -c 100000 /dev/zero", max_output=1000)
        assert capped.truncated.stdout == 99_000
        (tmp_path / "a").write_text("there and back")
        sandboxes.cp(tmp_path / "a", f"{sandbox}:/tmp/b")
        sandboxes.cp(f"{sandbox}:/tmp/b", tmp_path / "c")
        assert (tmp_path / "c").read_text() == "there and back"
    finally:
        sandboxes.stop(sandbox)
    sandboxes.rm(sandbox)
    assert sandbox not in [one["id"] for one in sandboxes.ps()]
    with pytest.raises(InvalidRequest, match=f"there is no session `{sandbox}`"):
        sandboxes.stop(sandbox)
    with pytest.raises(InfraError, match="there is no session"):
        sandboxes.exec(sandbox, "true")
    with pytest.raises(InfraError, match="no/such"):
        sandboxes.run(SandboxConfig(image="no/such:image"))


def test_a_configuration_file_is_run_by_the_module(binary: str, top: Path) -> None:
    config: Dict[str, Any] = {
        "sandbox": SANDBOX.to_dict(),
        "repo": repo("collections-abc").to_dict(),
        "task": TASK.to_dict(),
    }
    path = top / "run.json"
    path.write_text(json.dumps(config))
    module = [sys.executable, "-m", "imgforge_sandbox.run_smoke"]
    argv = [*module, "--config", str(path), "--json"]
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run(argv, capture_output=True, cwd=str(top), env=here)
    assert ended.returncode == 0, ended
    assert RunReport.from_dict(json.loads(ended.stdout)).success
    config["repo"]["compat"] = []
    path.write_text(json.dumps(config))
    assert subprocess.run(argv, capture_output=True, cwd=str(top), env=here).returncode == 2
    del config["repo"]["compat"]
    path.write_text(json.dumps(config))
    assert subprocess.run(argv, capture_output=True, cwd=str(top), env=here).returncode == 1
    nowhere = {**here, "IMGFORGE_BIN": "/no/such"}
    ended = subprocess.run(argv, capture_output=True, env=nowhere)
    assert (ended.returncode, b"/no/such is not there" in ended.stderr) == (3, True)
