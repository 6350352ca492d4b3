"""The environment: an agent acts with the commands that it has."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Iterator

import pytest

from imgforge_sandbox import Client
from imgforge_sandbox.r2e import Action, CommandFileError, EnvArgs, RepoEnv, TimedOut
from r2e import images

TOOL = """#!/bin/sh
# @yaml
# docstring: tells what it was given
# arguments:
#   command:
#     required: true
for word; do echo "[$word]"; done
"""
LIBRARY = """# @yaml
# docstring: greets
greet() {
    echo "hi $2"
    here=$(pwd)
}
where() {
    echo "in $(pwd)"
}
"""


@pytest.fixture
def tools(tmp_path: Path) -> list[Path]:
    files = {
        "tool.py": TOOL,
        "other.sh": TOOL,
        "lib.sh": LIBRARY,
        "late": "\n\n" + TOOL,
        "finish.py": '#!/bin/sh\n: """Ends."""\n',
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return [tmp_path / name for name in files]


@pytest.fixture
def env(client: Client, r2e_image: str, tools: list[Path]) -> Iterator[RepoEnv]:
    with RepoEnv(EnvArgs(images.r2e_row(r2e_image)), client=client) as env:
        env.add_commands(tools)
        yield env


def test_commands_can_be_called(env: RepoEnv) -> None:
    assert [command.name for command in env.commands] == [
        "tool",
        "other",
        "greet",
        "where",
        "late",
        "finish",
    ]
    for name in ("tool", "other", "late"):
        action = Action(name, {"command": "a b", "x": "it's\n$(id)"})
        output, code, seconds = env.run_action(action, timeout=30)
        assert (output, code) == ("[a b]\n[--x]\n[it's\n$(id)]\n", "0")
        assert 0 < seconds < 30
    # A function of a library is there in every shell.
    assert env.run_action(Action("greet", {"name": "you"}), 30)[:2] == ("hi you\n", "0")
    assert env.run_action(Action("where", {}), 30)[:2] == ("in /testbed\n", "0")


def test_commands_are_there_after_a_reset(env: RepoEnv) -> None:
    env.runtime.run("touch /testbed/x")
    first = env.runtime.session.id
    assert env.reset() == "Environment reset"
    assert env.runtime.session.id != first
    assert env.runtime.run("ls /testbed/x")[1] == "Error: Exit code 2"
    assert env.run_action(Action("tool", {"command": "a"}), 30)[:2] == ("[a]\n", "0")
    assert env.run_action(Action("greet", {"name": "you"}), 30)[:2] == ("hi you\n", "0")
    assert env._observation == {"output": "Environment reset"}
    assert env._state == {"state": None}


def test_more_commands_are_added(env: RepoEnv, tmp_path: Path) -> None:
    (tmp_path / "more.py").write_text(TOOL)
    (tmp_path / "tool.py").write_text('#!/bin/sh\n: """New."""\necho new\n')
    env.add_commands([tmp_path / "more.py", tmp_path / "tool.py"])
    names = [command.name for command in env.commands]
    assert names == ["other", "greet", "where", "late", "finish", "more", "tool"]
    assert env.commands[-1].docstring == "New."
    assert env.run_action(Action("tool", {}), 30)[:2] == ("new\n", "0")


def test_nothing_is_installed_of_files_that_are_wrong(env: RepoEnv, tmp_path: Path) -> None:
    (tmp_path / "fine").write_text(TOOL)
    (tmp_path / "wrong").write_text("no script")
    with pytest.raises(CommandFileError, match="wrong:1"):
        env.add_commands([tmp_path / "fine", tmp_path / "wrong"])
    assert env.runtime.run("fine")[1] == "Error: Exit code 127"
    assert "fine" not in [command.name for command in env.commands]


def test_what_is_refused_is_told(env: RepoEnv) -> None:
    observation, reward, done, info = env.step(Action("no_such", {}))
    assert observation.error_code == "-1"
    assert "input action must be one of allowed actions" in str(observation)
    assert (reward, done) == (0, False)
    assert set(info) == {"total_time"}
    observation = env.step(Action("tool", {"a;touch /hacked": "1"}))[0]
    assert (observation.error_code, "no valid name" in str(observation)) == ("-1", True)
    assert env.runtime.run("ls /hacked")[1] == "Error: Exit code 2"
    assert env.run_action(Action("", {}), 30) == ("", "0", 0.0)


def test_it_is_over_after_finish(env: RepoEnv) -> None:
    assert env.step(Action("finish_later", {}))[2] is False
    observation, _, done, _ = env.step(Action("finish", {"command": "submit"}))
    assert (str(observation), done) == ("<<< Finished >>>", True)
    assert env.check_done()
    # It stays so, and steps are allowed.
    assert env.step(Action("tool", {}))[2] is True
    env.reset()
    assert not env.check_done()


def test_a_step_has_a_limit(env: RepoEnv, tmp_path: Path) -> None:
    (tmp_path / "slow").write_text('#!/bin/sh\n: """Waits."""\necho so far\nsleep 60\n')
    env.add_commands([tmp_path / "slow"])
    env.step_timeout = 1
    observation = env.step(Action("slow", {}))[0]
    assert observation.bash_output == "The command took too long to execute (>1s)\nso far\n"
    assert env.step(Action("slow", {}), timeout=2)[3]["total_time"] >= 2
    assert env.step(Action("slow", {}), timeout=0)[3]["total_time"] < 2


def test_an_agent_mends_the_bug(env: RepoEnv, r2e_image: str) -> None:
    assert env.get_task_instruction() == "\nmend add\n"
    assert env.get_stats()["docker_image"] == r2e_image
    assert env.compute_reward() == 0.0
    env.runtime.run("sed -i 's/a - b/a + b/' calc.py")
    assert env.compute_reward() == 1.0
    env.runtime.run("echo 'import time; time.sleep(60)' >> calc.py")
    env.reward_timeout = 3
    with pytest.raises(TimedOut):
        env.compute_reward()


def test_repo_path_and_image_are_honoured(client: Client, r2e_image: str) -> None:
    args = EnvArgs({"repo_name": "x", "expected_output_json": "{}"}, "/testbed/", r2e_image)
    with RepoEnv(args, client=client) as env:
        assert (env.runtime.repo_path, env.runtime.docker_image) == ("/testbed/", r2e_image)
    with pytest.raises(AttributeError):
        args.repo_path = "/other"  # type: ignore[misc]


def test_quiet_means_quiet(
    client: Client, r2e_image: str, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("quiet")
    with RepoEnv(EnvArgs(images.r2e_row(r2e_image)), logger, verbose=False, client=client) as env:
        env.step(Action("no_such", {}))
    assert caplog.records == []


@pytest.mark.slow
def test_exact_mode(client: Client, r2e_image: str, tools: list[Path]) -> None:
    pytest.importorskip("yaml", reason="needs PyYAML, as exact mode does")
    args = EnvArgs(images.r2e_row(r2e_image), "/elsewhere", "no/such:image")
    with RepoEnv(args, client=client, compat="exact") as env:
        assert (env.runtime.repo_path, env.runtime.docker_image) == ("/testbed", r2e_image)
        env.add_commands(tools[:1])
        env.add_commands(tools[1:3])
        assert [command.name for command in env.commands] == ["other", "greet", "where"]
        # The file is there, under a name that is not the command's.
        assert env.run_action(Action("other", {}), 30)[1] == "Error: Exit code 127"
        assert env.run_action(Action("greet", {}), 30)[1] == "Error: Exit code 127"
        assert env.run_action(Action("tool", {}), 30)[:2] == ("", -1)
        assert env.run_action(Action("", {}), 30) == ("", 0, 0)
        env.add_commands(tools[:1])
        assert env.run_action(Action("tool", {"command": "a"}), 30)[:2] == ("[a]\n", "0")
        assert env.step(Action("finish_later", {}))[2] is True
        env.reset()
        assert [command.name for command in env.commands] == ["tool"]
        assert env.run_action(Action("tool", {}), 30)[1] == "Error: Exit code 127"
