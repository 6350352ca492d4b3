"""mini-swe-agent: its agent in our environment, with a model whose words are given."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Iterator

os.environ |= {"MSWEA_SILENT_STARTUP": "1", "MSWEA_CONFIGURED": "true"}

import pytest
from mending import DATASET, INSTANCE_ID, MEND, PROOF
from minisweagent.agents.default import DefaultAgent
from minisweagent.environments import get_environment
from minisweagent.exceptions import Submitted
from minisweagent.models.test_models import DeterministicModel, make_output
from procs import ends, marked_sleep, starts

from imgforge_sandbox import InvalidRequest, SessionEnded
from imgforge_sandbox.mini import ImgforgeEnvironment

SUBMIT = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"


def made(**config: Any) -> ImgforgeEnvironment:
    """Makes the environment as mini-swe-agent makes it of a configuration."""
    environment = get_environment(
        {
            "environment_class": "imgforge_sandbox.mini.ImgforgeEnvironment",
            "dataset": DATASET,
            "instance_id": INSTANCE_ID,
            **config,
        }
    )
    assert isinstance(environment, ImgforgeEnvironment)
    return environment


@pytest.fixture
def environment(binary: str) -> Iterator[ImgforgeEnvironment]:
    environment = made(env={"GREETING": "hello"}, forward_env=["FORWARDED", "NOT_THERE"])
    yield environment
    environment.cleanup()
    environment.cleanup()


def agent(environment: ImgforgeEnvironment, *commands: str, **config: Any) -> DefaultAgent:
    outputs = [make_output("next", [{"command": command}]) for command in commands]
    model: Any = DeterministicModel(cost_per_call=0, outputs=outputs)  # type: ignore[no-untyped-call]
    return DefaultAgent(
        model,
        environment,
        system_template="{{cwd}}",
        instance_template="{{task}}",
        cost_limit=0,
        **config,
    )


def test_the_agent_mends_and_submits(environment: ImgforgeEnvironment, tmp_path: Path) -> None:
    works = agent(
        environment,
        "python -m pytest -q; exit 3",
        f"{MEND} && {PROOF}",
        f"{SUBMIT} && git add -A && git diff --cached",
        output_path=tmp_path / "trajectory.json",
    )
    end = works.run("mend it")
    assert end["exit_status"] == "Submitted", end
    session = environment.session
    assert session.client.grade((DATASET, INSTANCE_ID), end["submission"]).resolved
    said = str(works.messages)
    assert "passed" in said
    assert "<returncode>3" in said or "'returncode': 3" in said, said
    trajectory = (tmp_path / "trajectory.json").read_text()
    assert "imgforge_sandbox.mini.ImgforgeEnvironment" in trajectory


def test_results(environment: ImgforgeEnvironment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORWARDED", "too")

    def run(command: str, **options: Any) -> dict[str, Any]:
        return environment.execute({"command": command}, **options)

    told = run("echo $GREETING $FORWARDED; echo err >&2; pwd")
    assert told == {"output": "hello too\nerr\n/testbed\n", "returncode": 0, "exception_info": ""}
    assert run("pwd", cwd="/tmp")["output"] == "/tmp\n"
    assert run("exit 124")["returncode"] == 124
    assert run("exit 124")["exception_info"] == ""
    assert run("kill -9 $$")["returncode"] == 137
    told = run("true", cwd="/no/such/directory")
    assert told["returncode"] == 126
    assert "/no/such/directory" in told["output"]
    assert run(r"printf 'a\377b'")["output"] == "a\ufffdb"


def test_what_takes_too_long_is_killed(environment: ImgforgeEnvironment) -> None:
    command, mark = marked_sleep()
    told = environment.execute({"command": f"echo so far; setsid {command} & {command}"}, timeout=1)
    assert told["returncode"] == -1
    assert told["output"] == "so far\n"
    assert "timed out" in told["exception_info"]
    assert ends(mark)
    assert environment.execute({"command": "echo alive"})["output"] == "alive\n"


def test_a_submission_is_whole_or_none(binary: str) -> None:
    environment = made(max_output=1000)
    command = {"command": f"{SUBMIT}; seq 1 1000"}
    told = environment.execute(command)
    assert told["returncode"] == 0
    assert "not submitted" in told["exception_info"]
    head, _, tail = told["output"].split("\n[... ", 1)[0], "", told["output"].split("...]\n")[1]
    assert head.startswith("COMPLETE_TASK")
    assert tail.endswith("999\n1000\n")
    whole = SUBMIT.removeprefix("echo ") + "\n" + "".join(f"{n}\n" for n in range(1, 1001))
    assert whole.startswith(head)
    assert whole.endswith(tail)
    assert f"\n[... {len(whole) - len(head) - len(tail)} bytes left out ...]\n" in told["output"]
    environment.cleanup()

    environment = made()
    with pytest.raises(Submitted):
        environment.execute(command)
    assert environment.execute({"command": f"{SUBMIT}; false"})["returncode"] == 1
    environment.cleanup()


def test_a_session_that_ends_is_no_output(environment: ImgforgeEnvironment) -> None:
    works = agent(environment, "echo never")
    environment.session.stop()
    with pytest.raises(Exception, match="session") as raised:
        works.run("mend it")
    assert type(raised.value).__module__.startswith("imgforge_sandbox")
    assert works.messages[-1]["extra"]["exit_status"] in ("NoSuchSession", "SessionEnded")


def test_a_session_that_ends_under_a_command(binary: str) -> None:
    environment = made(ttl=2)
    with pytest.raises(SessionEnded):
        environment.execute({"command": "sleep 60"})


def test_what_is_not_cleaned_up_ends_with_its_object(binary: str) -> None:
    environment = made()
    command, mark = marked_sleep()
    environment.execute({"command": f"{command} >/dev/null 2>&1 &"})
    assert starts(mark)
    with pytest.warns(ResourceWarning):
        del environment
    assert ends(mark)


def test_configurations_that_are_none() -> None:
    with pytest.raises(InvalidRequest, match="none of them"):
        made(dataset=None, instance_id=None)
    with pytest.raises(ValueError, match="run_args"):
        made(run_args=["--rm"])
