"""The list of allowed commands."""

from __future__ import annotations

import pytest

from imgforge_sandbox.executor import ALLOWED_COMMANDS
from imgforge_sandbox.executor._commands import checked

PATH = ["/usr/local/bin", "/usr/bin"]


def test_there_are_eighteen() -> None:
    assert len(ALLOWED_COMMANDS) == 18
    assert {"git", "python", "pip", "pytest", "find", "cp", "chmod"} <= ALLOWED_COMMANDS


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("git log -1", ["git", "log", "-1"]),
        ("/usr/bin/git status", ["/usr/bin/git", "status"]),
        (["python", "-c", "print('a; b')"], ["python", "-c", "print('a; b')"]),
        ("grep 'a b' file", ["grep", "a b", "file"]),
        # There is no shell: these are arguments.
        ("ls ; rm -rf /", ["ls", ";", "rm", "-rf", "/"]),
    ],
)
def test_what_is_allowed(command: object, words: list[str]) -> None:
    assert checked(command, PATH) == words  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "command",
    [
        "rm -rf /",
        "bash -c true",
        "/workspace/evil/git status",
        "./git status",
        "evil/git status",
        "/usr/bin/../../workspace/evil/git",
        "/usr/bin//../bin/git",
        "//usr/bin/git",
        "/tmp/python",
        "GIT status",
        "git\n",
        "'git '",
        "sudo git",
        "PATH=/workspace git",
    ],
)
def test_what_is_refused(command: str) -> None:
    words = [command] if command == "git\n" else command
    with pytest.raises(ValueError, match="is not in the allowed command whitelist: cat, chmod"):
        checked(words, PATH)


@pytest.mark.parametrize("command", ["", "   ", [], [""], "''"])
def test_no_command(command: object) -> None:
    with pytest.raises(ValueError, match="Empty command"):
        checked(command, PATH)  # type: ignore[arg-type]


def test_what_no_program_can_get() -> None:
    with pytest.raises(ValueError, match="NUL"):
        checked(["git", "a\0b"], PATH)
    with pytest.raises(ValueError, match="quotation"):
        checked("git 'a", PATH)
