"""The part of YAML that descriptions of commands are written in.

This package has no dependencies, so it reads YAML itself: mappings and lists in blocks, text that
is plain, quoted or in a block (`|`, `>`), `[a, b]`, numbers, `true`, `false`, `null`, comments.
What it reads, it reads as PyYAML's `safe_load` does. All else (anchors, tags, `{…}` with content,
several documents, dates, merge keys, tabs) is refused with the line, and never read as something
else.
"""

from __future__ import annotations

import re
from typing import Any, Dict, List, NamedTuple, Optional, Tuple


class YamlError(ValueError):
    """The text is no YAML, or is YAML that is not read here. `line` counts from 0."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


class _Line(NamedTuple):
    number: int
    indent: int
    text: str
    """Without its indent, and without a comment where it has no quotes to look into."""


_TRUE = {"true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"}
_FALSE = {"false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"}
_NULL = {"", "~", "null", "Null", "NULL"}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?[0-9]+\.[0-9]*|\.[0-9]+")
# Numbers and dates of YAML 1.1 that are written in other ways.
_OTHER = re.compile(
    r"[-+]?0b[01_]+|[-+]?0[0-7_]+|[-+]?0x[0-9a-fA-F_]+|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"
    r"|[-+]?(0|[1-9][0-9_]*)|[-+]?([0-9][0-9_]*)\.[0-9_]*([eE][-+][0-9]+)?"
    r"|\.[0-9][0-9_]*([eE][-+][0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
    r"|\d{4}-\d\d?-\d\d?.*|=|<<"
)
_ESCAPES = {
    "0": "\0", "a": "\a", "b": "\b", "t": "\t", "\t": "\t", "n": "\n", "v": "\v", "f": "\f",
    "r": "\r", "e": "\x1b", " ": " ", '"': '"', "/": "/", "\\": "\\", "N": "\x85",
    "_": "\xa0", "L": "\u2028", "P": "\u2029",
}  # fmt: skip
_KEY_END = re.compile(r":(?=\s|$)")
_COMMENT = re.compile(r"(^|\s)#")


def load(text: str) -> Any:
    """Returns what the YAML says; raises `YamlError` where it cannot be read."""
    return _Reader(text).document()


class _Reader:
    def __init__(self, text: str) -> None:
        for at, character in enumerate(text):
            printable = character in "\n\r\x85" or " " <= character <= "~" or character >= "\xa0"
            if (
                not printable
                or 0xD800 <= ord(character) <= 0xDFFF
                or character in "\ufeff\ufffe\uffff"
            ):
                raise YamlError(
                    text.count("\n", 0, at), f"the character {character!r} is not allowed"
                )
            if character in "\r\x85\u2028\u2029":
                raise YamlError(text.count("\n", 0, at), f"the line end {character!r} is not read")
        self.raw = text.split("\n")
        self.at = 0

    def document(self) -> Any:
        line = self.peek()
        if line is None:
            return None
        if not _is_item(line.text) and self.key_of(line) is None:
            raise YamlError(line.number, "there is no `key: value` here")
        value = self.block(line.indent)
        rest = self.peek()
        if rest is not None:
            raise YamlError(rest.number, "this line is not part of what is before it")
        return value

    def peek(self) -> Optional[_Line]:
        """Returns the next line that says something, and goes to it."""
        while self.at < len(self.raw):
            raw = self.raw[self.at]
            text = raw.lstrip(" ")
            if text.strip(" ") and not text.startswith("#"):
                if re.match(r"(---|\.\.\.)(\s|$)", raw) or raw.startswith("%"):
                    raise YamlError(self.at, "several documents are not read")
                return _Line(self.at, len(raw) - len(text), text.rstrip(" "))
            self.at += 1
        return None

    def block(self, indent: int) -> Any:
        line = self.peek()
        assert line is not None
        if _is_item(line.text):
            return self.sequence(indent)
        if self.key_of(line) is not None:
            return self.mapping(indent)
        return self.scalar(line.text, line, indent - 1)

    def mapping(self, indent: int) -> Dict[Any, Any]:
        found: Dict[Any, Any] = {}
        while True:
            line = self.peek()
            if line is None or line.indent < indent:
                return found
            if line.indent > indent:
                raise YamlError(line.number, "this line is indented too far")
            key = self.key_of(line)
            if key is None:
                if _is_item(line.text):
                    raise YamlError(line.number, "a list cannot stand beside `key: value`")
                raise YamlError(line.number, "there is no `key: value` here")
            name, rest = key
            found[name] = self.value(rest, line, indent)

    def sequence(self, indent: int) -> List[Any]:
        found: List[Any] = []
        while True:
            line = self.peek()
            if line is None or line.indent < indent:
                return found
            if line.indent > indent:
                raise YamlError(line.number, "this line is indented too far")
            if not _is_item(line.text):
                return found
            rest = line.text[1:].lstrip(" ")
            inner = line.indent + len(line.text) - len(rest)
            item = _Line(line.number, inner, rest)
            if _is_item(rest) or (rest and self.key_of(item) is not None):
                # A block that begins behind the dash.
                self.raw[self.at] = " " * inner + rest
                found.append(self.block(inner))
            else:
                found.append(self.value(rest, line, indent))

    def value(self, rest: str, line: _Line, indent: int) -> Any:
        """Reads what is behind a key or a dash, which stands at `indent`."""
        if _without_comment(rest) == "":
            self.at += 1
            following = self.peek()
            if following is None:
                return None
            dashes = _is_item(following.text)
            # A list may stand as far left as its key.
            beside = following.indent == indent and dashes and not line.text.startswith("-")
            if following.indent > indent or beside:
                return self.block(following.indent)
            return None
        return self.scalar(rest, line, indent)

    def key_of(self, line: _Line) -> Optional[Tuple[Any, str]]:
        """Returns the key of a line and what follows its colon, or nothing where it has no key."""
        text = line.text
        if text[0] in "\"'":
            end = _end_of_quotes(text)
            if end is None:
                return None
            after = re.match(r" *:(?=\s|$)", text[end:])
            if after is None:
                return None
            return self.quoted([text[:end]], line.number), text[end + after.end() :].strip(" ")
        if text[0] == "?" and (text == "?" or text[1] == " "):
            raise YamlError(line.number, "keys with `?` are not read")
        if text[0] in "[{|>":
            return None
        found = _KEY_END.search(text)
        comment = _COMMENT.search(text)
        if found is None or (comment is not None and comment.start() < found.start()):
            return None
        name = text[: found.start()].rstrip(" ")
        self.check_plain(name, line.number)
        return self.resolved(name, line.number), text[found.end() :].strip(" ")

    def scalar(self, text: str, line: _Line, indent: int) -> Any:
        """Reads a value that begins with `text`; what belongs to it is behind `indent`."""
        if text[0] in "|>":
            return self.literal(text, line, indent)
        if text[0] in "\"'":
            return self.quoted_lines(text, line, indent)
        if text[0] in "[{":
            return self.flow(text, line)
        first = _without_comment(text)
        self.check_plain(first, line.number)
        self.check_no_key(first, line.number)
        self.at += 1
        if first != text.rstrip(" "):
            # A comment ends a plain text.
            return self.resolved(first, line.number)
        lines = [first]
        while self.at < len(self.raw):
            raw = self.raw[self.at]
            more = raw.strip(" ")
            if more:
                depth = len(raw) - len(raw.lstrip(" "))
                if depth <= indent or more.startswith("#"):
                    break
                if re.match(r"(---|\.\.\.)(\s|$)", raw):
                    break
                self.check_no_key(_without_comment(more), self.at)
                lines.append(_without_comment(more))
                self.at += 1
                if lines[-1] != more:
                    break
            else:
                lines.append("")
                self.at += 1
        while lines[-1] == "":
            lines.pop()
        if len(lines) == 1:
            return self.resolved(first, line.number)
        return self.resolved(_folded(lines), line.number)

    def literal(self, text: str, line: _Line, indent: int) -> str:
        """Reads a block of text. It begins in the next line, and its depth is that of this line."""
        header = re.fullmatch(r"([|>])(-?)", _without_comment(text))
        self.at += 1
        first = self.raw[self.at] if self.at < len(self.raw) else ""
        depth = len(first) - len(first.lstrip(" "))
        if header is None or not first.strip(" ") or depth <= indent:
            raise YamlError(line.number, f"{text} is not followed by text that is indented more")
        lines: List[str] = []
        while self.at < len(self.raw):
            raw = self.raw[self.at]
            here = len(raw) - len(raw.lstrip(" "))
            if raw.strip(" ") and here < depth:
                if here > indent and not raw.lstrip(" ").startswith("#"):
                    raise YamlError(self.at, "this line is indented less than the text before it")
                break
            if not raw.strip(" ") and here > depth:
                raise YamlError(self.at, "this line has spaces and nothing else")
            lines.append(raw[depth:])
            self.at += 1
        # The text of the last line may end without a line end.
        ended = self.at < len(self.raw) or (len(lines) > 1 and self.raw[-1].strip(" ") == "")
        while lines[-1] == "":
            lines.pop()
        body = "\n".join(lines) if header.group(1) == "|" else _folded_block(lines)
        return body + ("\n" if ended and not header.group(2) else "")

    def quoted_lines(self, text: str, line: _Line, indent: int) -> str:
        lines = [text]
        whole = text
        self.at += 1
        while True:
            end = _end_of_quotes(whole)
            if end is not None:
                break
            if self.at >= len(self.raw):
                raise YamlError(line.number, "the quotes are not closed")
            raw = self.raw[self.at]
            stripped = raw.strip(" ")
            if stripped and len(raw) - len(raw.lstrip(" ")) <= indent:
                raise YamlError(self.at, "this line is in quotes, and has to be indented more")
            if re.match(r"(---|\.\.\.)(\s|$)", raw):
                raise YamlError(self.at, "several documents are not read")
            lines.append(raw)
            whole = "\n".join(lines)
            self.at += 1
        rest = _without_comment(whole[end:])
        if rest:
            raise YamlError(line.number, f"{rest!r} follows what is in quotes")
        return self.quoted(whole[:end].split("\n"), line.number)

    def quoted(self, lines: List[str], number: int) -> str:
        """Returns what quotes say; `lines` are those between which the line ends are folded."""
        quote = lines[0][0]
        whole = "\n".join(lines)[1:-1]
        if quote == "'":
            return _fold_quoted(whole).replace("''", "'")
        if re.search(r"(^|[^\\])(\\\\)*\\\n", whole):
            raise YamlError(number, "a line end behind a backslash is not read")
        found: List[str] = []
        at = 0
        # Escapes are read after the lines are folded: what they stand for is not folded.
        whole = _fold_quoted(whole)
        while at < len(whole):
            if whole[at] != "\\":
                found.append(whole[at])
                at += 1
                continue
            kind = whole[at + 1]
            if kind in _ESCAPES:
                found.append(_ESCAPES[kind])
                at += 2
                continue
            width = {"x": 2, "u": 4, "U": 8}.get(kind)
            digits = whole[at + 2 : at + 2 + (width or 0)]
            if width is None or not re.fullmatch(rf"[0-9a-fA-F]{{{width}}}", digits):
                raise YamlError(number, f"\\{kind} in quotes means nothing")
            try:
                found.append(chr(int(digits, 16)))
            except (ValueError, OverflowError):
                raise YamlError(number, f"there is no character \\{kind}{digits}") from None
            at += 2 + width
        return "".join(found)

    def flow(self, text: str, line: _Line) -> Any:
        """Reads `[]`, `{}` and lists of plain or quoted words in one line."""
        self.at += 1
        plain = _without_comment(text)
        if plain == "{}":
            return {}
        if not (plain.startswith("[") and plain.endswith("]")):
            raise YamlError(
                line.number, "braces with content, and brackets over lines, are not read"
            )
        inner = plain[1:-1].strip(" ")
        if not inner:
            return []
        found: List[Any] = []
        while True:
            if inner and inner[0] in "\"'":
                end = _end_of_quotes(inner)
                if end is None:
                    raise YamlError(line.number, "the quotes are not closed")
                found.append(self.quoted([inner[:end]], line.number))
            else:
                end = inner.find(",") if "," in inner else len(inner)
                word = inner[:end].strip(" ")
                if not word or re.search(r"[\[\]{}#:?]", word):
                    raise YamlError(
                        line.number, f"{word!r} is not read in a list: put it in quotes"
                    )
                self.check_plain(word, line.number)
                found.append(self.resolved(word, line.number))
            inner = inner[end:].strip(" ")
            if not inner:
                return found
            if inner[0] != ",":
                raise YamlError(line.number, f"{inner!r} follows a word of a list")
            inner = inner[1:].strip(" ")
            if not inner:
                return found

    def check_plain(self, text: str, number: int) -> None:
        bad = (
            not text
            or text[0] in "&*!%@`,]}[{|>\"'"
            or (text[0] in "-?:" and text[1:2] in ("", " "))
        )
        if bad:
            raise YamlError(number, f"{text[:20]!r} is not read: put it in quotes")

    def check_no_key(self, text: str, number: int) -> None:
        if _KEY_END.search(text):
            raise YamlError(number, "there is a second `: ` in this text: put it in quotes")

    def resolved(self, text: str, number: int) -> Any:
        """Returns what a plain text means."""
        if text in _NULL:
            return None
        if text in _TRUE:
            return True
        if text in _FALSE:
            return False
        if _INTEGER.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
        if _OTHER.fullmatch(text):
            raise YamlError(number, f"{text} is not read as a number or date: put it in quotes")
        return text


def _is_item(text: str) -> bool:
    return text == "-" or text.startswith("- ")


def _without_comment(text: str) -> str:
    found = _COMMENT.search(text)
    return (text[: found.start()] if found else text).rstrip(" ")


def _end_of_quotes(text: str) -> Optional[int]:
    """Returns where the quotes that begin a text end, behind them."""
    pattern = r"'(?:[^']|'')*'(?!')" if text[0] == "'" else r'"(?:[^"\\]|\\.)*"'
    found = re.match(pattern, text, re.DOTALL)
    return found.end() if found else None


def _folded(lines: List[str]) -> str:
    """Joins lines: one line end is a space, more are one less."""
    found = lines[0]
    empty = 0
    for line in lines[1:]:
        if line == "":
            empty += 1
            continue
        found += ("\n" * empty if empty else " ") + line
        empty = 0
    return found + "\n" * empty


def _fold_quoted(text: str) -> str:
    if "\n" not in text:
        return text
    lines = text.split("\n")
    middle = [line.strip(" ") for line in lines[1:-1]]
    return _folded_quoted([lines[0].rstrip(" "), *middle, lines[-1].lstrip(" ")])


def _folded_quoted(lines: List[str]) -> str:
    found = lines[0]
    empty = 0
    for at, line in enumerate(lines[1:], 1):
        if line == "" and at < len(lines) - 1:
            empty += 1
            continue
        found += ("\n" * empty if empty else " ") + line
        empty = 0
    return found


def _folded_block(lines: List[str]) -> str:
    """Joins the lines of a block with `>`: those that begin with a space are not folded."""
    found = lines[0]
    before = lines[0]
    empty = 0
    for line in lines[1:]:
        if line == "":
            empty += 1
            continue
        spaced = line[0] == " " or before[0] == " "
        found += ("\n" * (empty + 1) if spaced else "\n" * empty or " ") + line
        before = line
        empty = 0
    return found
