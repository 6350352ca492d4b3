"""R2E-Gym's reader of files of commands, and that of this package, side by side.

Exact mode gives what R2E-Gym gives, on some thousand generated inputs. Fixed mode differs, and
every difference has a name here: one without a name fails, and a name that nothing has fails too.
"""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any, Callable, Dict, List, Set, Tuple

from imgforge_sandbox.r2e import CommandFileError, ParseCommandBash
from r2e.r2e_gym import R2EGym, outcome

FILES = [
    *[
        "#!/bin/sh\n",
        "#!/usr/bin/env python3\n",
        "\n",
        "\n",
        "x=1\n",
        "# note\n",
        "# a: b\n",
        "#\n",
    ],
    *["# @yaml\n", "# @yaml\n", "#@yaml\n", "# docstring: does it\n", "# docstring: does it\n"],
    *[
        "# signature: f <x>\n",
        "# end_name: end\n",
        "# arguments:\n",
        "#   p:\n",
        "#     required: true\n",
    ],
    *[
        "#     required: false\n",
        "#     type: string\n",
        "# docstring: |\n",
        "#   more\n",
        "# docstring: 5\n",
    ],
    *["f() {\n", "  g() {\n", "h () {\n", "function k() {\n", "function m {\n", "    echo hi\n"],
    *[
        "}\n",
        "}\n",
        "  }\n",
        "    }\n",
        "  {\n",
        '"""',
        "'''",
        "text",
        "# {a: b}\n",
        "# x: &y z\n",
        "# : :\n",
    ],
    *["# @yaml\n# docstring: d\n# arguments:\n#   p:\n#     required: true\nf() {\n  echo\n}\n"],
    *["#!/bin/sh\n# @yaml\n# docstring: d\n# arguments:\n#   p:\n#     required: false\n#   q:\n"],
]
# What makes sense by itself, so that not all is an error.
WHOLE = [
    *[
        "f() {\n  echo\n}\n",
        "h () {\n  echo\n}\n",
        "function k() {\n  {\n    echo\n  }\n}\n",
        "\n",
        "x=1\n",
    ],
    "# @yaml\n# docstring: d\n# arguments:\n#   p:\n#     required: true\nf() {\n  echo\n}\n",
    "# @yaml\n# signature: g <x>\n# docstring: |\n#   d\n#   e\n# end_name: end\n"
    "g() {\n  echo\n}\n",
]
SCRIPTS = [
    '#!/bin/sh\n: """\nSays so.\n"""\n',
    "#!/usr/bin/env python3\n# @yaml\n# docstring: d\n",
    "#!/bin/sh\n\n# @yaml\n# docstring: d\n# arguments:\n#   p:\n#     required: true\n"
    "#   q:\n#     required: no\n",
    "\n#!/bin/sh\n# @yaml\n# signature: s\n# end_name: 5\n# docstring: d\n\necho\n",
]
NAMES = ["a.sh", "a.sh", "a.b.sh", "a.py", "a.b.py", "tool", "_x", "_x.sh", "_x.py", ".sh"]


def some_file(chance: random.Random) -> str:
    kind = chance.random()
    if kind < 0.4:
        return "".join(chance.choice(FILES) for _ in range(chance.randint(0, 14)))
    text = chance.choice(SCRIPTS) if kind > 0.7 else ""
    text += "".join(chance.choice(WHOLE) for _ in range(chance.randint(0, 4)))
    # Now and then one more line somewhere.
    if chance.random() < 0.3:
        lines = text.splitlines(keepends=True)
        lines.insert(chance.randint(0, len(lines)), chance.choice(FILES))
        text = "".join(lines)
    return text


def commands_of(parser: Any, path: Path) -> Callable[[], List[Dict[str, Any]]]:
    return lambda: [command.to_dict() for command in parser.parse_command_file(str(path))]


def file_difference(text: str, their: Tuple[str, Any], fixed: Tuple[str, Any]) -> str:
    """The name of a difference of fixed mode."""
    if their[0] == "raised" and fixed == ("raised", "CommandFileError"):
        return "an error names the file and the line"
    if fixed[0] == "raised":
        if re.search(
            r"^(\s*)(function )?\S+ ?\(\) \{", text, re.MULTILINE
        ) and not text.lstrip().startswith("#!"):
            # A block of the same depth, or a description that R2E-Gym does not read.
            return "a function ends at its own depth, and what is wrong in it is an error"
        return "a description is text and `required` is true or false, else it is an error"
    if their[0] == "raised":
        return "comments without @yaml are no description"
    if [command["name"] for command in fixed[1]] != [command["name"] for command in their[1]]:
        return "`f () {` and `function f() {` are f, and a function ends at its own depth"
    without = [[{**c, "code": ""} for c in commands] for commands in (their[1], fixed[1])]
    if without[0] == without[1]:
        return "the code of a function has its line ends"
    return "comments without @yaml are no description"


FILE_DIFFERENCES = {
    "an error names the file and the line",
    "a function ends at its own depth, and what is wrong in it is an error",
    "a description is text and `required` is true or false, else it is an error",
    "comments without @yaml are no description",
    "`f () {` and `function f() {` are f, and a function ends at its own depth",
    "the code of a function has its line ends",
}


def test_files_of_commands(theirs: R2EGym, tmp_path: Path) -> None:
    chance = random.Random(3)
    named: Set[str] = set()
    read = 0
    parser = theirs.commands.ParseCommandBash()
    for _ in range(6_000):
        text = some_file(chance)
        path = tmp_path / chance.choice(NAMES)
        path.write_text(text)
        their = outcome(commands_of(parser, path))
        read += their[0] == "returned" and bool(their[1])
        exact = outcome(commands_of(ParseCommandBash(compat="exact"), path))
        # An error of this package is a ValueError, as theirs.
        assert exact == their or (exact[1], their[1]) == ("CommandFileError", "ValueError"), text
        fixed = outcome(commands_of(ParseCommandBash(), path))
        if fixed != their:
            named.add(file_difference(text, their, fixed))
    assert read > 1_000
    assert named == FILE_DIFFERENCES


def test_the_tools_of_r2e_gym(theirs: R2EGym) -> None:
    tools = sorted((theirs.source / "agenthub" / "tools").rglob("*.py"))
    tools = [tool for tool in tools if not tool.name.startswith("__")]
    assert len(tools) >= 4
    parser = theirs.commands.ParseCommandBash()
    for tool in tools:
        their = outcome(commands_of(parser, tool))
        assert outcome(commands_of(ParseCommandBash(compat="exact"), tool)) == their
        fixed = outcome(commands_of(ParseCommandBash(), tool))
        assert fixed == their or (their[0], fixed) == ("raised", ("raised", "CommandFileError"))


def test_docs(theirs: R2EGym) -> None:
    parser = theirs.commands.ParseCommandBash()
    for tool in sorted((theirs.source / "agenthub" / "tools").glob("*.py")):
        if tool.name.startswith("__"):
            continue
        their = parser.parse_command_file(str(tool))
        ours = ParseCommandBash().parse_command_file(tool)
        assert outcome(ParseCommandBash().generate_command_docs, ours) == outcome(
            parser.generate_command_docs, their
        )


def test_the_error_of_a_file_is_a_value_error() -> None:
    assert issubclass(CommandFileError, ValueError)
