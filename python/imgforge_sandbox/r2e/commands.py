"""The commands that an agent may use, as they are read from files.

A file is a script, which begins with `#!` and is one command, or a library of shell functions,
which ends in `.sh` or begins with `_` and is one command a function. A script describes itself in
comments that begin with `# @yaml`, or in its first text between triple quotes; a function in the
comments before it that begin with `# @yaml`.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
from pathlib import Path
from typing import Any, Dict, List, Mapping, NoReturn, Optional, Tuple, Union

from . import _yaml
from ._compat import Compat, compat_of

_YAML_BLOCK = re.compile(r"^#\s*@yaml\s*\n^#.*(?:\n#.*)*", re.MULTILINE)
_QUOTES = re.compile(r'(["\']{3})(.*?)\1', re.DOTALL | re.MULTILINE)
_YAML_TAG = re.compile(r"#\s*@yaml\s*")
_FUNCTION = re.compile(r"(\s*)(?:function\s+)?([^\s()]+)\s*\(\) \{\s*")


class CommandFileError(ValueError):
    """A file of commands cannot be read. `path` names it, and `line` counts from 1, where known."""

    def __init__(self, path: str, line: Optional[int], message: str) -> None:
        where = path if line is None else f"{path}:{line}"
        super().__init__(f"{where}: {message}")
        self.path = path
        self.line = line


@dataclasses.dataclass(frozen=True)
class Command:
    """A command that an agent may use."""

    code: str
    """The text of the script, or of the function."""
    name: str
    docstring: Optional[str] = None
    end_name: Optional[str] = None
    """The line that ends a command of several lines."""
    arguments: Optional[Dict[Any, Any]] = None
    """The arguments by their names, as the file describes them."""
    signature: Optional[str] = None
    """How it is called: `name <needed> [<other>]`."""

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Command:
        """Returns the command of these fields. What is to be text is made text."""
        names = [field.name for field in dataclasses.fields(cls)]
        unknown = [name for name in fields if name not in names]
        if unknown:
            raise ValueError(f"a command has no {unknown[0]!r}: it has {', '.join(names)}")
        made: Dict[str, Any] = {
            name: value if name == "arguments" or value is None else str(value)
            for name, value in fields.items()
        }
        return cls(**made)

    def to_dict(self) -> Dict[str, Any]:
        """Returns its fields."""
        return dataclasses.asdict(self)


class ParseCommandBash:
    """Reads files of commands.

    In fixed mode every error is a `CommandFileError` with the file and the line, and the YAML that
    is read is a part of it (text, numbers, lists, mappings; no anchors, no tags). In exact mode
    errors are what R2E-Gym raises, and PyYAML has to be installed where a file has YAML.
    """

    def __init__(self, *, compat: Compat = "fixed") -> None:
        self.compat: Compat = compat_of(compat)

    def parse_command_file(self, path: Union[str, os.PathLike[str]]) -> List[Command]:
        """Returns the commands of a file. A file that begins with `_` may have none."""
        name = os.fspath(path)
        contents = self._read(name)
        private = Path(name).name.startswith("_")
        if not contents.strip().startswith("#!"):
            if Path(name).suffix != ".sh" and not private:
                self._fail(
                    name,
                    1,
                    "this is no script, since it does not begin with `#!`, and no library of shell "
                    "functions, since it does not end in .sh: begin it with #!/usr/bin/env python3 "
                    "or the like, or rename it",
                )
            return self.parse_bash_functions(name, contents)
        commands = self.parse_script_yaml(name, contents)
        if not commands:
            commands = self.parse_script_markdown(name, contents)
        if not commands and not private:
            self._fail(
                name,
                None,
                "this script does not describe itself: give it comments that begin with `# @yaml`, "
                "or a text in triple quotes; or begin its name with `_` if it is no command",
            )
        return commands

    def parse_script_yaml(self, path: str, contents: str) -> List[Command]:
        """Returns the command of a script that has a block `# @yaml`, or nothing."""
        blocks = list(_YAML_BLOCK.finditer(contents))
        if not blocks:
            return []
        if len(blocks) > 1:
            self._fail(
                path,
                contents.count("\n", 0, blocks[1].start()) + 1,
                "a second @yaml: a script is one command, and has one",
            )
        text = re.sub(r"^#", "", blocks[0].group(), flags=re.MULTILINE)
        line = contents.count("\n", 0, blocks[0].start()) + 1
        described = self._described(path, line, text.replace("@yaml", ""))
        # R2E-Gym asserts it.
        assert described is not None
        name = _stem(path)
        fields = self._fields(path, line, described)
        signature = described.get("signature", None)
        if signature is None and fields["arguments"] is not None:
            signature = self._signature(path, line, name, fields["arguments"])
        return [
            Command.from_dict({"code": contents, "name": name, "signature": signature, **fields})
        ]

    def parse_script_markdown(self, path: str, contents: str) -> List[Command]:
        """Returns the command of a script that has a text in triple quotes, or nothing."""
        found = _QUOTES.search(contents)
        if found is None:
            return []
        name = _stem(path)
        return [Command(code=contents, name=name, docstring=found.group(2).strip(), signature=name)]

    def parse_bash_functions(self, path: str, contents: str) -> List[Command]:
        """Returns the functions of a library of the shell.

        A function begins with a line that ends in `() {`, and ends with the next line that is `}`:
        in fixed mode one that is indented as the first, in exact mode any.
        """
        if self.compat == "exact":
            return self._functions_as_r2e(contents)
        return self._functions(path, contents)

    def generate_command_docs(self, commands: List[Command], **kwargs: Any) -> str:
        """Returns `SIGNATURE - DOCSTRING` of each command that has one, a line each.

        `kwargs` are filled into the texts, as `str.format` does.
        """
        lines = [
            f"{command.signature or command.name} - {command.docstring.format(**kwargs)}\n"
            for command in commands
            if command.docstring is not None
        ]
        return "".join(lines)

    def _read(self, path: str) -> str:
        if self.compat == "exact":
            with open(path) as file:
                return file.read()
        with open(path, "rb") as file:
            data = file.read()
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise CommandFileError(path, line, f"this is not UTF-8: {error.reason}") from None
        return text.replace("\r\n", "\n").replace("\r", "\n")

    def _fail(self, path: str, line: Optional[int], message: str) -> NoReturn:
        raise CommandFileError(path, line, message)

    def _described(self, path: str, line: int, text: str) -> Any:
        """Reads the YAML that begins at a line."""
        if self.compat == "exact":
            return _pyyaml().safe_load(text)
        try:
            described = _yaml.load(text)
        except _yaml.YamlError as error:
            raise CommandFileError(path, line + error.line, error.message) from None
        if not isinstance(described, dict):
            self._fail(path, line, "@yaml is followed by no description: write `docstring: …`")
        return described

    def _fields(self, path: str, line: int, described: Mapping[Any, Any]) -> Dict[str, Any]:
        """Returns what a description has, without the signature."""
        if self.compat == "fixed":
            if described.get("docstring") is None:
                self._fail(path, line, "the description has no docstring: write `docstring: …`")
            for name in ("docstring", "end_name", "signature"):
                if isinstance(described.get(name), (dict, list)):
                    self._fail(path, line, f"{name} is no text")
        return {
            "docstring": described["docstring"],
            "end_name": described.get("end_name", None),
            "arguments": described.get("arguments", None),
        }

    def _signature(self, path: str, line: int, name: str, arguments: Any) -> str:
        if self.compat == "fixed":
            if not isinstance(arguments, dict):
                self._fail(path, line, "arguments is no mapping: write `name: {…}` as a block")
            for argument, settings in arguments.items():
                if not isinstance(settings, dict) or not isinstance(settings.get("required"), bool):
                    self._fail(
                        path,
                        line,
                        f"the argument {argument} does not say `required: true` or false",
                    )
        words = [name]
        for argument, settings in arguments.items():
            words.append(f"<{argument}>" if settings["required"] else f"[<{argument}>]")
        return " ".join(words)

    def _functions(self, path: str, contents: str) -> List[Command]:
        lines = contents.split("\n")
        commands: List[Command] = []
        description: Optional[Tuple[int, List[str]]] = None
        at = 0
        while at < len(lines):
            line = lines[at]
            if _YAML_TAG.fullmatch(line):
                if description is not None:
                    self._fail(path, at + 1, "a second @yaml before one function: remove one")
                begin = at
                at += 1
                while at < len(lines) and lines[at].startswith("#"):
                    if _YAML_TAG.fullmatch(lines[at]):
                        self._fail(path, at + 1, "a second @yaml before one function: remove one")
                    at += 1
                description = (begin + 1, ["", *(line[1:] for line in lines[begin + 1 : at])])
                continue
            head = _FUNCTION.fullmatch(line)
            at += 1
            if head is None:
                continue
            end = at
            closing = head.group(1) + "}"
            while end < len(lines) and lines[end].rstrip() != closing:
                end += 1
            if end == len(lines):
                self._fail(
                    path,
                    at,
                    f"the function {head.group(2)} does not end: it needs a line that is `}}`, "
                    "indented as its first line",
                )
            name = head.group(2)
            fields: Dict[str, Any] = {}
            signature: Any = name
            if description is not None:
                number, texts = description
                described = self._described(path, number, "\n".join(texts))
                fields = self._fields(path, number, described)
                if described.get("signature") is not None:
                    signature = described["signature"]
                elif fields["arguments"] is not None:
                    signature = self._signature(path, number, name, fields["arguments"])
            code = "\n".join(lines[at - 1 : end + 1])
            commands.append(
                Command.from_dict({"code": code, "name": name, "signature": signature, **fields})
            )
            description = None
            at = end + 1
        return commands

    def _functions_as_r2e(self, contents: str) -> List[Command]:
        lines = contents.split("\n")
        commands: List[Command] = []
        comments: List[str] = []
        at = 0
        while at < len(lines):
            line = lines[at]
            at += 1
            if line.startswith("# "):
                comments.append(line[2:])
            elif line.strip().endswith("() {"):
                name = line.split()[0][:-2]
                code = line
                while lines[at].strip() != "}":
                    code += lines[at]
                    at += 1
                code += lines[at]
                fields: Dict[str, Any] = {}
                signature: Any = name
                described = self._described("", 0, "\n".join(comments).replace("@yaml", ""))
                if described is not None:
                    fields = self._fields("", 0, described)
                    if "signature" in described:
                        signature = described["signature"]
                    elif fields["arguments"] is not None:
                        signature = self._signature("", 0, name, fields["arguments"])
                commands.append(
                    Command.from_dict(
                        {"code": code, "name": name, "signature": signature, **fields}
                    )
                )
                comments = []
        return commands


def _stem(path: str) -> str:
    return Path(path).name.rsplit(".", 1)[0]


def _pyyaml() -> Any:
    try:
        return importlib.import_module("yaml")
    except ImportError:
        raise ImportError(
            'compat="exact" reads YAML with PyYAML, as R2E-Gym does: pip install pyyaml'
        ) from None
