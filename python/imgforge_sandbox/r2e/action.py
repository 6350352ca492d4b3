"""What an agent asks for: a function and its parameters."""

from __future__ import annotations

import re
import shlex
from typing import Any, Dict, Mapping, Optional

from ._compat import Compat, compat_of

FINISHED_COMMAND = "echo '<<<Finished>>>'"
"""What `finish` and `submit` are in the shell."""

_FUNCTION = re.compile(r"<function\s*=\s*([^>]+)>")
_PARAMETER = re.compile(r"<parameter\s*=\s*([^>]+)>(.*?)</parameter>", re.DOTALL)
# A parameter, or what ends the block of a function.
_PIECE = re.compile(
    r"<parameter\s*=\s*([^>]+)>(.*?)</parameter>|(</function>|<function\s*=)", re.DOTALL
)
_KEY = re.compile(r"[A-Za-z_][\w-]*", re.ASCII)


class Action:
    """A function with parameters.

    `compat="fixed"` reads only the first block of a text, and refuses parameters whose name is not
    one. `compat="exact"` does as R2E-Gym does: it takes the parameters of all blocks, and puts
    their names into the shell as they are.
    """

    function_name: str
    parameters: Dict[str, Any]

    def __init__(
        self,
        function_name: str,
        parameters: Mapping[str, Any],
        function_id: Optional[str] = None,
        *,
        compat: Compat = "fixed",
    ) -> None:
        """`function_id` is not used: R2E-Gym takes it, and drops it."""
        self.function_name = function_name
        self.parameters = dict(parameters)
        self.compat: Compat = compat_of(compat)

    @classmethod
    def from_string(cls, action_str: str, *, compat: Compat = "fixed") -> Action:
        """Reads `<function=NAME><parameter=KEY>VALUE</parameter>…</function>`.

        Text around it is left out. Names and values lose the white space at their ends, a value
        ends at the first `</parameter>`, and of a key that comes twice the last value counts.
        Without `<function=` the name is empty.
        """
        function = _FUNCTION.search(action_str)
        name = function.group(1).strip() if function else ""
        parameters: Dict[str, str] = {}
        if compat_of(compat) == "exact":
            for key, value in _PARAMETER.findall(action_str):
                parameters[key.strip()] = value.strip()
        elif function:
            for piece in _PIECE.finditer(action_str, function.end()):
                if piece.group(3):
                    break
                parameters[piece.group(1).strip()] = piece.group(2).strip()
        return cls(name, parameters, compat=compat)

    def to_dict(self) -> Dict[str, object]:
        """Returns `{"function": …, "parameters": {…}}`."""
        return {"function": self.function_name, "parameters": self.parameters}

    def to_xml_string(self) -> str:
        """Returns the text that `from_string` reads, a parameter a line."""
        lines = [f"<function={self.function_name}>"]
        lines += [
            f"  <parameter={key}>{value}</parameter>" for key, value in self.parameters.items()
        ]
        return "\n".join([*lines, "</function>"])

    def to_bashcmd(self) -> str:
        """Returns the command for the shell: the name, `command` where it is there, `--KEY VALUE`.

        An empty name is an empty command. `finish` and `submit` are an `echo`.

        Raises `ValueError` where a name or a value cannot be in a command: a key that is not
        letters, digits, `_` and `-`, or text with a NUL or half a surrogate pair in it. In exact
        mode nothing is refused, and keys are not quoted.
        """
        if not self.function_name:
            return ""
        if self.function_name in ("finish", "submit"):
            return FINISHED_COMMAND
        fixed = self.compat == "fixed"
        words = [self._quoted("function", self.function_name)]
        command = self.parameters.get("command")
        if command is not None:
            words.append(self._quoted("command", str(command) if fixed else command))
        for key, value in self.parameters.items():
            if key == "command":
                continue
            if fixed and not _KEY.fullmatch(key):
                raise ValueError(
                    f"the parameter {key!r} of {self.function_name} has no valid name: "
                    "use letters, digits, _ and -, first a letter or _"
                )
            words += [f"--{key}", self._quoted(key, str(value))]
        return " ".join(words)

    def _quoted(self, what: str, text: str) -> str:
        if self.compat == "fixed":
            if "\0" in text:
                raise ValueError(f"{what} has a NUL in it: no program can be given one")
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"{what} is not text that UTF-8 can hold: {error.reason}"
                ) from None
        return shlex.quote(text)

    def __str__(self) -> str:
        return self.to_xml_string()

    def __repr__(self) -> str:
        return f"Action({self.function_name!r}, {self.parameters!r})"
