"""What a log of pytest says of each test."""

from __future__ import annotations

import re
from typing import Dict, Iterator, List, NamedTuple, Optional

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_COLOUR_OF_R2E = re.compile("\x1b\\[\\d+m")
_COLOUR_OR_RETURN = re.compile(r"\x1b\[[0-9;]*m|\r")

_SUMMARY = re.compile(r"=+ short test summary info =+\s*")
# What comes after a summary: another part of the report, or its last line.
_END = re.compile(
    r"(=+|!+)( .+ (=+|!+))?\s*"
    r"|(\d+ (passed|failed|errors?|skipped|xfailed|xpassed|deselected|warnings?)(, )?)+"
    r" in [\d.]+s.*"
    r"|no tests ran in .*"
)
_LINE = re.compile(r"(PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\s+(.*\S)\s*")
_SUBTEST = re.compile(r"SUBFAIL(?:ED)?(?:\[.*?\]|\(.*?\))?\s+(.*\S)\s*")

# A later one hides an earlier one: the order in which pytest lists them with `-rA`.
_WORSE = ("PASSED", "ERROR", "FAILED")


class TestLine(NamedTuple):
    """A test, and what became of it."""

    status: str
    node: str
    """The id as pytest has it, `FILE::CLASS::NAME[PARAMETERS]`, or a file that cannot be read."""

    @property
    def name(self) -> str:
        """The name as R2E has it: no file, and `.` for `::`. Empty where it is a file."""
        return ".".join(self.node.split("::")[1:])


def without_colours(text: str) -> str:
    """Returns a text without the codes for colours of a terminal."""
    return _COLOUR.sub("", text)


def without_colours_and_returns(text: str) -> str:
    """Returns a text without codes for colours and without carriage returns, as R2E-Gym does."""
    return _COLOUR_OR_RETURN.sub("", text)


def without_plain_colours(text: str) -> str:
    """Returns a text without the codes of one number, as R2E-Gym takes them from names."""
    return _COLOUR_OF_R2E.sub("", text)


def summary_lines(log: str) -> List[TestLine]:
    """Returns the tests that the summaries of pytest in a log list, in their order.

    A summary begins with pytest's own headline, and ends with the next one. A log may have more
    than one: all of them are read, since nobody knows which one pytest wrote.
    """
    return list(_lines(log))


def _lines(log: str) -> Iterator[TestLine]:
    inside = False
    for coloured in log.split("\n"):
        line = without_colours(coloured).rstrip("\r")
        if _SUMMARY.fullmatch(line):
            inside = True
        elif inside and _END.fullmatch(line):
            inside = False
        elif inside:
            found = _LINE.fullmatch(line)
            subtest = None if found else _SUBTEST.fullmatch(line)
            if found:
                yield TestLine(found.group(1), _node(found.group(1), found.group(2)))
            elif subtest:
                yield TestLine("FAILED", _node("FAILED", subtest.group(1)))


def _node(status: str, rest: str) -> str:
    """Returns the id at the start of what follows the status. ` - ` and a message may follow it."""
    if status == "PASSED":
        return rest
    at = rest.find(" - ")
    while at >= 0:
        head = rest[:at]
        # Parameters may have ` - ` in them, and end with a bracket.
        if "::" not in head or "[" not in head or head.endswith("]"):
            return head
        at = rest.find(" - ", at + 1)
    if status in ("FAILED", "ERROR") and "[" in rest and not rest.endswith("]"):
        return rest.split(" - ")[0]
    return rest


def worse(one: Optional[str], other: str) -> str:
    """Returns the worse of two statuses, of `PASSED`, `ERROR` and `FAILED`."""
    if one is None or _WORSE.index(other) > _WORSE.index(one):
        return other
    return one


def statuses(lines: List[TestLine]) -> Dict[str, str]:
    """Returns the worst status of each name, of those that passed, failed or had an error."""
    found: Dict[str, str] = {}
    for line in lines:
        if line.status in _WORSE:
            found[line.name] = worse(found.get(line.name), line.status)
    return found


def statuses_as_r2e(log: Optional[str]) -> Dict[str, str]:
    """Returns the status of each name as R2E-Gym reads them.

    It reads what stands between the first and the second `short test summary info`, takes a word
    anywhere in a line for the status, and of a name that comes twice the last one.
    """
    found: Dict[str, str] = {}
    if log is None or "short test summary info" not in log:
        return found
    for line in log.split("short test summary info")[1].strip().split("\n"):
        name = ".".join(line.split("::")[1:])
        if "PASSED" in line:
            found[name] = "PASSED"
        elif "FAILED" in line:
            found[name.split(" - ")[0]] = "FAILED"
        elif "ERROR" in line:
            found[name.split(" - ")[0]] = "ERROR"
    return found


def statuses_of_pytest(log: str) -> Dict[str, str]:
    """Returns the status of each test as swebench's `parse_log_pytest` reads them."""
    found: Dict[str, str] = {}
    for line in log.split("\n"):
        if line.startswith(("FAILED", "PASSED", "SKIPPED", "ERROR", "XFAIL")):
            words = (line.replace(" - ", " ") if line.startswith("FAILED") else line).split()
            if len(words) > 1:
                found[words[1]] = words[0]
    return found
