"""Which commands `SandboxExecutor.run` takes. It is a lint, not a border: the sandbox is that."""

from __future__ import annotations

import posixpath
import shlex
from typing import List, Sequence, Union

ALLOWED_COMMANDS = frozenset(
    {
        "cat",
        "chmod",
        "cp",
        "diff",
        "find",
        "git",
        "grep",
        "head",
        "ls",
        "mkdir",
        "mv",
        "patch",
        "pip",
        "pytest",
        "python",
        "python3",
        "tail",
        "wc",
    }
)
"""The programs that `SandboxExecutor.run` starts.

With `python` or `git` anything can be run, so this finds slips and no attacks.
"""


def checked(command: Union[str, Sequence[str]], path: Sequence[str]) -> List[str]:
    """Splits a command into words, as a shell does, and checks the first of them.

    A program is named by its name, or by a path in one of the directories `path`. Raises
    `ValueError` for what is not allowed, and for what is no command.
    """
    words = shlex.split(command) if isinstance(command, str) else list(command)
    if not words or not words[0]:
        raise ValueError("Empty command")
    if any("\0" in word for word in words):
        raise ValueError("A command cannot have NUL bytes")
    program = words[0]
    directory, name = posixpath.split(program)
    if name not in ALLOWED_COMMANDS:
        raise _refused(program)
    # `/usr/bin/../../workspace/git` is in no directory of PATH either: it is compared as it is.
    if directory and directory not in path:
        raise _refused(program)
    return words


def _refused(program: str) -> ValueError:
    allowed = ", ".join(sorted(ALLOWED_COMMANDS))
    return ValueError(f"Command '{program}' is not in the allowed command whitelist: {allowed}")
