"""Leaves out the tests of providers whose framework is not installed.

IMGFORGE_PROVIDERS has the names of providers, separated by commas, whose tests are not left out: a
framework that is missing is a failure then. `./check-providers` installs them.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

FRAMEWORKS = {
    "inspect": "inspect_ai",
    "mini": "minisweagent",
    "harbor": "harbor",
    "swerex": "swerex",
    "verifiers": "verifiers",
    "nemo": "nemo_gym",
}

_asked = set(filter(None, os.environ.get("IMGFORGE_PROVIDERS", "").split(",")))
if _asked - FRAMEWORKS.keys():
    raise pytest.UsageError(
        f"IMGFORGE_PROVIDERS names {', '.join(sorted(_asked - FRAMEWORKS.keys()))}; there are "
        f"{', '.join(FRAMEWORKS)}"
    )
_missing = [
    provider
    for provider, module in FRAMEWORKS.items()
    if provider not in _asked and find_spec(module) is None
]
_left_out = [
    path.name
    for path in Path(__file__).parent.glob("test_*.py")
    if any(path.stem.removeprefix("test_").split("_")[0] == name for name in _missing)
]
collect_ignore = _left_out


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says what was left out."""
    if _left_out:
        terminalreporter.write_line(f"left out, no framework: {', '.join(sorted(_left_out))}")
