"""Reads what `pytest -v` prints."""

from __future__ import annotations

import re
from typing import Dict

_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_WORDS = "PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS"
_PERCENT = r"\[ *\d+%\]"
# `tests/test_a.py::test_b[c d] PASSED [ 50%]`, with a reason behind some words.
_PLAIN = re.compile(rf"(?P<id>\S.*?::.*) (?P<word>{_WORDS})(?: \(.*\))?(?: +{_PERCENT})?\s*")
# `[gw0] [ 50%] PASSED tests/test_a.py::test_b[c d]`, of workers of xdist.
_WORKER = re.compile(rf"\[gw\d+\](?: +{_PERCENT})? (?P<word>{_WORDS}) (?P<id>\S.*?::.*?)\s*")
# `ERROR tests/test_a.py - ImportError: …`, of the summary: it could not be collected.
_COLLECT = re.compile(r"ERROR (?P<id>[^\s:]+\.py)(?: - .*)?")

_OUTCOMES = {
    "PASSED": "passed",
    "XPASS": "xpassed",
    "SKIPPED": "skipped",
    "XFAIL": "xfailed",
    "ERROR": "error",
    "FAILED": "failed",
}
ORDER = list(_OUTCOMES.values())
"""Outcomes, from the best to the worst."""


def read(text: str) -> Dict[str, str]:
    """Returns the outcome of each test: `passed`, `xpassed`, `skipped`, `xfailed`, `error` or
    `failed`.

    The worst counts where there are several. The ids are as pytest printed them, with parameters of
    any characters. Whoever prints such lines in a test is believed.
    """
    outcomes: Dict[str, str] = {}
    for line in _COLOUR.sub("", text).split("\n"):
        line = line.rstrip("\r")
        match = _WORKER.fullmatch(line) or _PLAIN.fullmatch(line)
        word = match["word"] if match else "ERROR"
        match = match or _COLLECT.fullmatch(line)
        if match is None:
            continue
        outcome, test = _OUTCOMES[word], match["id"]
        outcomes[test] = max(outcomes.get(test, outcome), outcome, key=ORDER.index)
    return outcomes
