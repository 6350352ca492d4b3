"""Observations: letter by letter."""

from __future__ import annotations

from typing import Any, Optional

import pytest

from imgforge_sandbox.r2e import CONTINUE_MSG, Action, Observation

LINE = "-" * 50


def told(name: str, output: Optional[str], code: Any = "0", lines: int = 40) -> str:
    return str(Observation(output, code, Action(name, {}), lines))


def numbers(first: int, last: int) -> str:
    return "\n".join(str(number) for number in range(first, last + 1))


def test_who_calls_nothing_is_told_to() -> None:
    assert told("", "out") == CONTINUE_MSG
    assert CONTINUE_MSG == (
        "\nYou forgot to use a function call in your response. \n"
        "YOU MUST USE A FUNCTION CALL IN EACH RESPONSE.\n\n"
        "IMPORTANT: YOU SHOULD NEVER ASK FOR HUMAN HELP.\n"
    )


@pytest.mark.parametrize("name", ["finish", "submit"])
def test_the_end(name: str) -> None:
    assert told(name, "out") == "<<< Finished >>>"


@pytest.mark.parametrize("name", ["execute_bash", "bash"])
def test_a_shell_has_its_exit_code(name: str) -> None:
    assert told(name, "a\nb\n", "Error: Exit code 3") == (
        f"Exit code: Error: Exit code 3\nExecution output of [{name}]:\na\nb\n"
    )


def test_another_tool_has_none_and_is_never_cut() -> None:
    assert (
        told("search", numbers(1, 99), "-1") == f"Execution output of [search]:\n{numbers(1, 99)}"
    )


def test_80_lines_are_whole_and_81_are_not() -> None:
    head = "Exit code: 0\nExecution output of [bash]:\n"
    assert told("bash", numbers(1, 80)) == head + numbers(1, 80)
    assert told("bash", numbers(1, 81)) == (
        f"{head}{numbers(1, 40)}\n{LINE}\n"
        f"<Observation truncated in middle for saving context>\n{LINE}\n{numbers(42, 81)}"
    )
    assert told("bash", numbers(1, 3), lines=1) == (
        f"{head}1\n{LINE}\n<Observation truncated in middle for saving context>\n{LINE}\n3"
    )


@pytest.mark.parametrize("output", ["", None])
def test_no_output(output: Optional[str]) -> None:
    assert told("bash", output) == f"Exit code: 0\nExecution output of [bash]:\n{output}"
