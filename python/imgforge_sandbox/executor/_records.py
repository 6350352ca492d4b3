"""Reads what the recorder wrote to the channel."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Dict, Optional, Set

from . import _verbose

_PHASES = ("setup", "call", "teardown")
_OUTCOMES = ("passed", "xpassed", "skipped", "xfailed", "failed")


@dataclass
class Records:
    """What the recorder wrote.

    `phases` has the worst outcome of each phase of each test. `uncollected` are files that could
    not be collected. `ended` says that the run came to its end. `foreign` counts lines that the
    recorder did not write, or did not write to their end.
    """

    phases: Dict[str, Dict[str, str]] = field(default_factory=dict)
    uncollected: Set[str] = field(default_factory=set)
    ended: bool = False
    foreign: int = 0

    def outcomes(self) -> Dict[str, str]:
        """Returns the outcome of each test that ran to its end, as `_verbose.read`."""
        outcomes = dict.fromkeys(self.uncollected, "error")
        for test, phases in self.phases.items():
            outcome = _outcome(phases)
            if outcome is not None:
                outcomes[test] = outcome
        return outcomes


def read(data: bytes, key: str) -> Records:
    """Reads records that begin with the key. What is not the recorder's counts for nothing."""
    records = Records()
    begin = key.encode("ascii") + b" "
    for line in data.split(b"\n"):
        if not line:
            continue
        if not line.startswith(begin):
            records.foreign += 1
            continue
        try:
            _take(records, json.loads(line[len(begin) :]))
        except (ValueError, KeyError, TypeError):
            records.foreign += 1
    return records


def _take(records: Records, record: Dict[str, Any]) -> None:
    event = record["event"]
    if event == "end":
        records.ended = True
    elif event == "collect":
        records.uncollected.add(str(record["id"]))
    elif event == "test":
        outcome, when = record["outcome"], record["when"]
        if outcome not in _OUTCOMES or when not in _PHASES:
            raise ValueError(f"no outcome: {record!r}")
        phases = records.phases.setdefault(str(record["id"]), {})
        known = phases.get(when, outcome)
        phases[when] = max(known, outcome, key=_verbose.ORDER.index)
    else:
        raise ValueError(f"no record: {record!r}")


def _outcome(phases: Dict[str, str]) -> Optional[str]:
    """Returns the outcome of a test, or None where it did not run to its end."""
    if phases.get("call") == "failed":
        return "failed"
    if "failed" in phases.values():
        return "error"
    for outcome in ("xfailed", "skipped"):
        if outcome in phases.values():
            return outcome
    if any(phase not in phases for phase in _PHASES):
        return None
    return "xpassed" if "xpassed" in phases.values() else "passed"
