"""The table of cases that the tests of `imgforge serve` read too: the two cannot differ."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from imgforge_sandbox.r2e import Action, CommandFileError, Observation, ParseCommandBash

TABLE = json.loads((Path(__file__).parents[3] / "tests" / "gym" / "cases.json").read_text())


@pytest.mark.parametrize("case", TABLE["actions"])
def test_actions(case: dict[str, Any]) -> None:
    action = Action.from_string(case["text"])
    assert action.function_name == case["function"]
    assert list(action.parameters.items()) == [tuple(pair) for pair in case["parameters"]]
    if "refused" in case:
        with pytest.raises(ValueError, match=rf"\A{re.escape(case['refused'])}\Z"):
            action.to_bashcmd()
    else:
        assert action.to_bashcmd() == case["command"]


@pytest.mark.parametrize("case", TABLE["files"])
def test_files_of_commands(case: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / case["name"]
    path.write_bytes(case["text"].encode())
    if "error" not in case:
        commands = ParseCommandBash().parse_command_file(path)
        assert [command.to_dict() for command in commands] == case["commands"]
        return
    with pytest.raises(CommandFileError) as caught:
        ParseCommandBash().parse_command_file(path)
    assert caught.value.line == case["error"]["line"]
    if case["error"]["message"] is not None:
        assert str(caught.value).endswith(f": {case['error']['message']}")


@pytest.mark.parametrize("case", TABLE["observations"])
def test_observations(case: dict[str, Any]) -> None:
    action = Action(case["function"], {})
    assert str(Observation(case["output"], case["code"], action)) == case["text"]
