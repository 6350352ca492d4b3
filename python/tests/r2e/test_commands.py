"""Files of commands: the table of what each kind of file is."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, List, Optional

import pytest

from imgforge_sandbox.r2e import Command, CommandFileError, ParseCommandBash

Write = Callable[[str, str], Path]

DESCRIBED = """#!/usr/bin/env python3
# @yaml
# docstring: opens a file
# arguments:
#   path:
#     type: string
#     description: which file
#     required: true
#   line:
#     type: integer
#     description: which line
#     required: false
print("x")
"""


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode())
        return path

    return write


def read(path: Path) -> List[Command]:
    return ParseCommandBash().parse_command_file(path)


def fails(path: Path, line: Optional[int], message: str) -> None:
    with pytest.raises(CommandFileError, match=message) as caught:
        read(path)
    assert (caught.value.path, caught.value.line) == (str(path), line)
    where = str(path) if line is None else f"{path}:{line}"
    assert str(caught.value).startswith(f"{where}: ")


def test_a_script_with_a_description(write: Write) -> None:
    [command] = read(write("a.b.py", DESCRIBED))
    assert (command.name, command.docstring) == ("a.b", "opens a file")
    assert command.signature == "a.b <path> [<line>]"
    assert command.code == DESCRIBED
    assert command.end_name is None
    assert command.arguments is not None
    assert command.arguments["line"] == {
        "type": "integer",
        "description": "which line",
        "required": False,
    }


def test_a_signature_that_is_given_is_kept(write: Write) -> None:
    text = DESCRIBED.replace("# arguments", "# signature: open PATH\n# end_name: end\n# arguments")
    [command] = read(write("open", text))
    assert (command.signature, command.end_name) == ("open PATH", "end")


def test_without_arguments_there_is_no_signature(write: Write) -> None:
    [command] = read(write("x.py", "#!/bin/sh\n# @yaml\n# docstring: it\n"))
    assert (command.signature, command.arguments) == (None, None)


@pytest.mark.parametrize("quotes", ['"""', "'''"])
def test_a_script_with_a_text_in_quotes(write: Write, quotes: str) -> None:
    text = (
        f"#!/usr/bin/python3\nx = 1\n{quotes}\n Opens.\n\nMore. {quotes}\n{quotes}Second{quotes}\n"
    )
    [command] = read(write("open.py", text))
    assert (command.name, command.signature) == ("open", "open")
    assert (command.docstring, command.code) == ("Opens.\n\nMore.", text)


def test_a_description_comes_before_quotes(write: Write) -> None:
    [command] = read(write("x.py", DESCRIBED + '"""Other."""\n'))
    assert command.docstring == "opens a file"


def test_a_script_that_says_nothing(write: Write) -> None:
    fails(write("x.py", "#!/bin/sh\necho\n"), None, "does not describe itself")
    assert read(write("_x.py", "#!/bin/sh\necho\n")) == []


def test_two_descriptions(write: Write) -> None:
    text = DESCRIBED + "\n# @yaml\n# docstring: again\n"
    fails(write("x.py", text), 15, "a second @yaml")


@pytest.mark.parametrize("name", ["x.py", "x", "x.txt", "x.sh.bak"])
def test_what_is_neither_script_nor_library(write: Write, name: str) -> None:
    fails(write(name, '"""A tool."""\n'), 1, "no script.* and no library")


def test_a_private_file_may_be_a_library(write: Write) -> None:
    assert [command.name for command in read(write("_tools", "f() {\n}\n"))] == ["f"]
    assert read(write("_nothing", "x=1\n")) == []


def test_a_script_may_begin_with_empty_lines(write: Write) -> None:
    [command] = read(write("x.py", "\n\n" + DESCRIBED))
    assert command.name == "x"


def test_a_shell_script_is_one_command(write: Write) -> None:
    text = '#!/bin/bash\n: """Runs."""\nf() {\n}\n'
    assert [command.name for command in read(write("tool.sh", text))] == ["tool"]


LIBRARY = """# Helpers. This is no description: there is no @yaml.
x=1
# @yaml
# docstring: greets
# arguments:
#   name:
#     required: true
greet() {
    if [ "$1" ]; then
        {
            echo "hi $1"
        }
    fi
}

# a note
plain () {
    true
}
function other() {
    true
}
function ignored {
    true
}
  inner() {
    true
  }
"""


def test_a_library_of_functions(write: Write) -> None:
    commands = read(write("lib.sh", LIBRARY))
    assert [(command.name, command.signature) for command in commands] == [
        ("greet", "greet <name>"),
        ("plain", "plain"),
        ("other", "other"),
        ("inner", "inner"),
    ]
    assert commands[0].docstring == "greets"
    assert commands[1].docstring is None
    assert commands[1].code == "plain () {\n    true\n}"
    assert commands[0].code.endswith("    fi\n}")
    assert commands[3].code == "  inner() {\n    true\n  }"


def test_a_description_of_a_function_may_have_empty_comments(write: Write) -> None:
    text = "# a note\n# @yaml\n# docstring: |\n#   one\n#\n#   two\n\nf() {\n}\n"
    [command] = read(write("lib.sh", text))
    assert command.docstring == "one\n\ntwo"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("x=1\nf() {\n  echo\n", 2, "the function f does not end"),
        ("# @yaml\n# docstring: a\n# @yaml\n# docstring: b\nf() {\n}\n", 3, "a second @yaml"),
        ("# @yaml\n# docstring: a\nx=1\n# @yaml\n# docstring: b\nf() {\n}\n", 4, "a second @yaml"),
        ("# @yaml\n# signature: f\nf() {\n}\n", 1, "no docstring"),
        ("# @yaml\n# docstring: a\n# b\nf() {\n}\n", 3, "no `key: value` here"),
        ("# @yaml\n# docstring: &a b\nf() {\n}\n", 2, "put it in quotes"),
        (
            "# @yaml\n# docstring: a\n# arguments:\n#   p:\n#     type: x\nf() {\n}\n",
            1,
            "argument p",
        ),
        ("# @yaml\n# docstring: a\n# arguments: p\nf() {\n}\n", 1, "arguments is no mapping"),
        ("# @yaml\n# docstring: [a]\nf() {\n}\n", 1, "docstring is no text"),
        ("# @yaml\nf() {\n}\n", 1, "no description"),
    ],
)
def test_a_library_that_is_wrong(write: Write, text: str, line: int, message: str) -> None:
    fails(write("lib.sh", text), line, message)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("# @yaml\n# signature: f\n", 2, "no docstring"),
        ("# @yaml\n# docstring: a: b\n", 3, "second `: `"),
        ("# @yaml\n# docstring: 'a\n", 3, "not closed"),
        ("# @yaml\n# - a\n", 2, "no description"),
        ("# @yaml\n# docstring: a\n# arguments:\n#   p: {}\n", 2, "argument p"),
        ("# @yaml\n# docstring: a\n# arguments:\n#   p:\n#     required: 1\n", 2, "argument p"),
        ("# @yaml\n# docstring: 2001-01-01\n", 3, "number or date"),
    ],
)
def test_a_description_that_is_wrong(write: Write, text: str, line: int, message: str) -> None:
    fails(write("x.py", "#!/bin/sh\n" + text), line, message)


def test_what_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_bytes(b"#!/bin/sh\n\n# \xff\n")
    fails(path, 3, "not UTF-8")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "x.py")


def test_line_ends_of_windows(write: Write) -> None:
    [command] = read(write("lib.sh", "f() {\r\n  true\r\n}\r\n"))
    assert command.code == "f() {\n  true\n}"


def test_docs(write: Write) -> None:
    parser = ParseCommandBash()
    commands = [
        Command(code="", name="a", docstring="opens {what}", signature="a <x>"),
        Command(code="", name="b", docstring="ends"),
        Command(code="", name="c"),
    ]
    assert parser.generate_command_docs(commands, what="files") == "a <x> - opens files\nb - ends\n"


def test_a_command_and_its_fields() -> None:
    command = Command(code="c", name="n", arguments={"a": {"required": True}})
    assert Command.from_dict(command.to_dict()) == command
    assert Command.from_dict({"code": "c", "name": 5}).name == "5"
    with pytest.raises(ValueError, match="no 'nmae'"):
        Command.from_dict({"code": "c", "nmae": "n"})


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("lib.sh", "f() {\n", IndexError),
        ("lib.sh", "# note\nf() {\n}\n", TypeError),
        ("lib.sh", "# a: b\nf() {\n}\n", KeyError),
        ("x.py", "#!/bin/sh\n# @yaml\n# signature: f\n", KeyError),
        ("x.py", "#!/bin/sh\n# @yaml\n# docstring: f\n# arguments:\n#   p: {}\n", KeyError),
    ],
)
def test_exact_mode_fails_as_r2e_gym(
    write: Write, name: str, text: str, error: type[Exception]
) -> None:
    pytest.importorskip("yaml", reason="needs PyYAML, as exact mode does")
    with pytest.raises(error) as caught:
        ParseCommandBash(compat="exact").parse_command_file(write(name, text))
    assert type(caught.value) is error
