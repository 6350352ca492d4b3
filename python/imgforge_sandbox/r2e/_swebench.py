"""The parser of the logs of a repository, as swebench has it."""

from __future__ import annotations

import importlib
from typing import Any, Dict, Mapping, NamedTuple, Optional, Tuple

from .._errors import Unsupported
from ._logs import statuses_of_pytest
from .reward import BAD_CODES, Parser
from .row import TestSpec


class Rules(NamedTuple):
    """How the log of a repository is read."""

    parse: Parser
    test_cmd: Optional[str]
    """The command after whose last mention the output of the tests begins."""
    fail_only: bool
    """The log names only tests that fail."""


def rules_of(row: Mapping[str, Any], tests: TestSpec) -> Rules:
    """Returns the rules for a row.

    A row whose `log_parser` is `parse_log_pytest` needs nothing. For others the package swebench,
    3.0.2 to 4.1.0, has to be installed: raises `Unsupported` where it is not, or does not know the
    repository.
    """
    if row.get("log_parser") == "parse_log_pytest":
        return Rules(statuses_of_pytest, None, row.get("eval_type") == "fail_only")
    try:
        parsers: Any = importlib.import_module("swebench.harness.log_parsers")
        constants: Any = importlib.import_module("swebench.harness.constants")
        of_repository, specs = parsers.MAP_REPO_TO_PARSER, constants.MAP_REPO_VERSION_TO_SPECS
        fail_only = tests.repo in constants.FAIL_ONLY_REPOS
    except (ImportError, AttributeError) as error:
        raise Unsupported(
            f"the logs of {tests.repo} are read by swebench, which cannot be used: {error}",
            hint="pip install 'swebench>=3,<5'; later ones have no parsers by repository",
        ) from error
    try:
        parser = of_repository[tests.repo]
        test_cmd = specs[tests.repo][tests.version]["test_cmd"]
    except KeyError as error:
        raise Unsupported(
            f"swebench does not know {tests.repo} {tests.version}",
            hint="its version may be too old, or the row is not of SWE-bench",
        ) from error
    return Rules(
        lambda log: dict(parser(log, tests)),
        test_cmd[-1] if isinstance(test_cmd, list) else test_cmd,
        fail_only,
    )


def read_log(row: Mapping[str, Any], tests: TestSpec, log: str) -> Tuple[Dict[str, str], bool]:
    """Returns the status of each test, and whether the log is one of tests that ran."""
    if any(code in log for code in BAD_CODES):
        return {}, False
    rules = rules_of(row, tests)
    output = log.split(rules.test_cmd)[-1] if rules.test_cmd else log
    return dict(rules.parse(output)), True
