"""The three rewards of R2E-Gym, as functions of a log.

They say what a log is worth, and know nothing of how it came to be. Whether a run was one at all
(it took too long, the memory was used up, the container died) is not seen in its log: ask before.

With `compat="fixed"` evidence against a patch counts wherever in the log it is, and a row that
expects no test is a `ValueError`. With `compat="exact"` they give what R2E-Gym gives.
"""

from __future__ import annotations

from typing import Callable, Dict, Iterable, Mapping, Optional, Sequence

from ._compat import Compat, compat_of
from ._logs import (
    TestLine,
    statuses,
    statuses_as_r2e,
    summary_lines,
    without_colours,
    without_plain_colours,
    worse,
)

START_MARKER = ">>>>> Start Test Output"
END_MARKER = ">>>>> End Test Output"
BAD_CODES = (
    ">>>>> Patch Apply Failed",
    ">>>>> Reset Failed",
    ">>>>> Tests Errored",
    ">>>>> Tests Timed Out",
)
"""What a log of swebench says where its tests did not run."""

Parser = Callable[[str], Mapping[str, str]]
"""Reads a log: the status of each test, `PASSED`, `FAILED`, `ERROR`, `SKIPPED` or `XFAIL`."""


def reward_r2e(log: str, expected: Mapping[str, str], *, compat: Compat = "fixed") -> float:
    """Returns 1.0 where the tests did what the row expects, no more and no less, else 0.0.

    `expected` is the row's `expected_output_json`: names as R2E has them (no file, `.` for `::`,
    of tests that failed without what follows ` - `) and `PASSED`, `FAILED` or `ERROR`.

    In fixed mode a status is the first word of a line of pytest's summary; a name that comes
    twice has the worst status; parameters may have ` - ` in them; a file that cannot be read is
    an error unless the row expects one; `SKIPPED`, `XFAIL` and `XPASS` count where the row has
    them.
    """
    if compat_of(compat) == "exact":
        return _r2e_exact(log, expected)
    if not expected:
        raise ValueError(
            "the row expects no test (expected_output_json is empty): nothing to grade"
        )
    wanted = {without_colours(name).strip(): status for name, status in expected.items()}
    lines = summary_lines(log)
    found = statuses(lines)
    if "" in found and wanted.get("") != "ERROR":
        return 0.0
    # What R2E noted under no name was no test.
    wanted.pop("", None)
    found.pop("", None)
    seen: Dict[str, str] = {}
    for name, status in found.items():
        key = _key_of(name, wanted)
        if key is None:
            return 0.0
        seen[key] = worse(seen.get(key), status)
    for line in lines:
        if line.status in ("SKIPPED", "XFAIL", "XPASS") and wanted.get(line.name) == line.status:
            seen.setdefault(line.name, line.status)
    return 1.0 if seen == wanted else 0.0


def _key_of(name: str, wanted: Mapping[str, str]) -> Optional[str]:
    """Returns the name that the row has for a test, or nothing where it has none.

    R2E cut the names of tests that failed at the first ` - `, also within parameters.
    """
    if name in wanted:
        return name
    short = name.split(" - ")[0]
    cut = short != name and "[" in short and not short.endswith("]")
    return short if cut and short in wanted else None


def _r2e_exact(log: str, expected: Mapping[str, str]) -> float:
    def normal(statuses: Mapping[str, str]) -> Dict[str, str]:
        plain = {without_plain_colours(name): status for name, status in statuses.items()}
        return {name.split(" - ")[0]: plain[name] for name in sorted(plain)}

    found, wanted = normal(statuses_as_r2e(log)), normal(expected)
    if len(found) != len(wanted):
        return 0.0
    same = all(wanted.get(name) == status for name, status in found.items() if name)
    return 1.0 if same else 0.0


def reward_swesmith(
    log: str,
    fail_to_pass: Sequence[str],
    pass_to_pass: Sequence[str],
    *,
    compat: Compat = "fixed",
) -> float:
    """Returns 1.0 where every test of both lists passes, else 0.0.

    In fixed mode the ids are compared whole. An id without a file stands for all tests of that
    name, and a test that was expected to fail and does (`XFAIL`) passes. In exact mode files are
    left out, and a name is looked up in the names of others.
    """
    if compat_of(compat) == "exact":
        return _swesmith_exact(log, fail_to_pass, pass_to_pass)
    if not fail_to_pass and not pass_to_pass:
        raise ValueError("FAIL_TO_PASS and PASS_TO_PASS are empty: nothing to grade")
    lines = summary_lines(log)
    passes = all(_passes(test, lines) for test in [*fail_to_pass, *pass_to_pass])
    return 1.0 if passes else 0.0


def _passes(test: str, lines: Iterable[TestLine]) -> bool:
    named = [line.status for line in lines if _is(line.node, test)]
    return bool(named) and all(status in ("PASSED", "XFAIL") for status in named)


def _is(node: str, test: str) -> bool:
    return node == test or ("::" not in test and node.split("::", 1)[-1] == test)


def _swesmith_exact(log: str, fail_to_pass: Sequence[str], pass_to_pass: Sequence[str]) -> float:
    found = statuses_as_r2e(log)
    if not found:
        return 0.0
    for test in [*fail_to_pass, *pass_to_pass]:
        name = ".".join(test.split("::")[1:])
        key = name if name in found else next((key for key in found if name in key), None)
        if key is None or found[key] != "PASSED":
            return 0.0
    return 1.0


def reward_swebench(
    log: str,
    fail_to_pass: Sequence[str],
    pass_to_pass: Sequence[str],
    parse: Parser,
    *,
    test_cmd: Optional[str] = None,
    fail_only: bool = False,
    compat: Compat = "fixed",
) -> int:
    """Returns 1 where every test of both lists passes, else 0.

    `parse` is the parser of the repository. It gets what stands between the markers of swebench;
    where they are missing, and in exact mode always, what follows the last `test_cmd`, or the
    whole log where that is not in it. `fail_only`: the log names only tests that fail.

    A test that was skipped: in fixed mode as swebench 5.0.2 has it (one of `fail_to_pass` fails,
    one of `pass_to_pass` does not), in exact mode as those before it (it counts for nothing).
    """
    exact = compat_of(compat) == "exact"
    if not exact and not fail_to_pass and not pass_to_pass:
        raise ValueError("FAIL_TO_PASS and PASS_TO_PASS are empty: nothing to grade")
    bad = any(code in log for code in BAD_CODES)
    if bad and not exact:
        return 0
    output = _test_output(log, test_cmd, use_markers=not exact)
    found: Mapping[str, str] = {} if bad else parse(output)

    def fails(test: str, passing: Sequence[str]) -> bool:
        status = found.get(test)
        if fail_only:
            return status == "FAILED"
        if exact:
            return status is None or status in ("FAILED", "ERROR")
        return status not in passing

    failed = [test for test in fail_to_pass if fails(test, ("PASSED", "XFAIL"))]
    failed += [test for test in pass_to_pass if fails(test, ("PASSED", "XFAIL", "SKIPPED"))]
    return 0 if failed else 1


def _test_output(log: str, test_cmd: Optional[str], *, use_markers: bool) -> str:
    start = log.find(START_MARKER)
    end = log.rfind(END_MARKER)
    if use_markers and 0 <= start < end:
        return log[start + len(START_MARKER) : end]
    return log.split(test_cmd)[-1] if test_cmd else log
