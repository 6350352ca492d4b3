"""R2E-Gym's readers of logs and its rewards, and those of this package, side by side.

Exact mode gives what R2E-Gym gives, on some thousand generated inputs. Fixed mode differs, and
every difference has a name here: one without a name fails, and a name that nothing has fails too.
"""

from __future__ import annotations

import importlib
import json
import random
from types import SimpleNamespace
from typing import Any, Dict, Optional, Set

import pytest

from imgforge_sandbox.r2e import _logs, _swebench
from imgforge_sandbox.r2e import row as rows
from imgforge_sandbox.r2e.reward import reward_r2e, reward_swebench, reward_swesmith
from r2e.r2e_gym import R2EGym, outcome

HEAD = "===== short test summary info =====\n"
TESTS = ["t.py::a", "t.py::C::a", "u.py::a", "t.py::b[x - y]", "t.py::b[x - z]", "t.py::ab"]
LOGS = [
    *["collected 3 items\n", "===== 2 passed in 0.12s =====\n", "\n", "===== PASSES =====\n"],
    *[
        "short test summary info\n",
        "all PASSED\n",
        "ERROR later\n",
        "ERROR u.py - ImportError: x\n",
    ],
    *["SKIPPED [1] t.py:3: why\n", "!!!!! Interrupted: 1 error during collection !!!!!\n"],
    *[
        "FAILED t.py::a - AssertionError: expected PASSED\n",
        "\x1b[31mFAILED\x1b[0m t.py::\x1b[1ma\x1b[0m\n",
    ],
]


def some_log(chance: random.Random) -> str:
    lines = [HEAD] if chance.random() < 0.9 else []
    for _ in range(chance.randint(0, 6)):
        status = chance.choice(["PASSED", "PASSED", "PASSED", "FAILED", "ERROR", "XFAIL"])
        message = chance.choice(["", "", " - no", " - 1 - 2"]) if status != "PASSED" else ""
        line = f"{status} {chance.choice(TESTS)}{message}\n"
        lines.append(line if chance.random() < 0.8 else chance.choice([*LOGS, HEAD]))
    return "".join(lines)


def some_expected(chance: random.Random, log: str) -> Dict[str, str]:
    """What a row may expect: what R2E-Gym reads of the log, and now and then another thing."""
    expected = dict(_logs.statuses_as_r2e(log))
    if chance.random() < 0.3:
        test = ".".join(chance.choice(TESTS).split("::")[1:])
        expected[test] = chance.choice(["PASSED", "FAILED", "ERROR", "XFAIL"])
    if expected and chance.random() < 0.3:
        del expected[chance.choice(sorted(expected))]
    if expected and chance.random() < 0.1:
        key = chance.choice(sorted(expected))
        expected[chance.choice(["\x1b[1m{}\x1b[0m", "\x1b[1;32m{}"]).format(key)] = expected.pop(
            key
        )
    return expected


def test_parsed_logs(theirs: R2EGym) -> None:
    chance = random.Random(4)
    for _ in range(5_000):
        log = some_log(chance)
        for repository in ("sympy", "orange3"):
            assert _logs.statuses_as_r2e(log) == theirs.logs.parse_log_fn(repository)(log)
    assert _logs.statuses_as_r2e(None) == theirs.logs.parse_log_pytest(None)


def r2e_difference(log: str, expected: Dict[str, str], exact: float) -> Optional[str]:
    """Why the reward of fixed mode may be another one."""
    if not expected:
        return "a row that expects nothing is an error"
    lines = _logs.summary_lines(log)
    counted = [line for line in lines if line.status in ("PASSED", "FAILED", "ERROR")]
    strict: Dict[str, str] = {}
    for line in counted:
        strict[line.name] = line.status
    loose = _logs.statuses_as_r2e(log)
    if any(set(key) & {"\x1b"} for key in expected):
        return "all colours are left out"
    if log.count("short test summary info") > 1:
        return "all summaries count"
    if len({line.name for line in counted}) < len(counted):
        return "of a name that comes twice the worst counts"
    if "" in loose or "" in expected:
        return "a file that cannot be read is an error, and what is no test is none"
    if any(" - " in key for key in [*strict, *expected]):
        return "parameters are whole"
    if strict != loose:
        return "a status is the first word of a line of the summary"
    if "XFAIL" in expected.values():
        return "expected failures count where the row has them"
    return None


R2E_DIFFERENCES = {
    "a row that expects nothing is an error",
    "all colours are left out",
    "all summaries count",
    "of a name that comes twice the worst counts",
    "a file that cannot be read is an error, and what is no test is none",
    "parameters are whole",
    "a status is the first word of a line of the summary",
    "expected failures count where the row has them",
}


def test_rewards_of_r2e(theirs: R2EGym) -> None:
    chance = random.Random(5)
    named: Set[str] = set()
    ones = 0
    for _ in range(6_000):
        log = some_log(chance)
        expected = some_expected(chance, log)
        row = {"repo_name": "sympy", "expected_output_json": json.dumps(expected)}
        runtime = theirs.runtime_of(row, log)
        their = outcome(runtime._calculate_reward_r2e)
        # Their run has no colours when the reward is computed.
        seen = _logs.without_colours_and_returns(log)
        exact = reward_r2e(seen, expected, compat="exact")
        ones += exact == 1.0
        if theirs.is_first:
            # The first release compares the name that is empty as well, and looks for every name.
            if "" not in _logs.statuses_as_r2e(seen):
                assert their in (("returned", exact), ("raised", "KeyError"))
                assert exact == 0.0 or their[0] == "returned"
        else:
            assert their == ("returned", exact), log
        fixed = outcome(reward_r2e, seen, expected)
        if fixed != ("returned", exact):
            reason = r2e_difference(seen, expected, exact)
            assert reason is not None, (seen, expected, exact, fixed)
            named.add(reason)
    assert ones > 1_000
    assert named == R2E_DIFFERENCES


def test_rewards_of_swesmith(theirs: R2EGym) -> None:
    if theirs.is_first:
        pytest.skip("needs an R2E-Gym after its first release, with SWE-smith")
    chance = random.Random(6)
    ones = fewer = more = 0
    for _ in range(5_000):
        log = some_log(chance)
        lists = [
            [chance.choice([*TESTS, "a", "b[x"]) for _ in range(chance.randint(0, 2))] for _ in "fp"
        ]
        row = {
            **{"image_name": "x", "repo_name": "x", "base_commit": "0" * 40},
            **{"FAIL_TO_PASS": lists[0], "PASS_TO_PASS": lists[1]},
        }
        exact = reward_swesmith(log, lists[0], lists[1], compat="exact")
        assert theirs.runtime_of(row, log)._calculate_reward_swesmith() == exact, (log, lists)
        ones += exact == 1.0
        if not any(lists):
            with pytest.raises(ValueError, match="nothing to grade"):
                reward_swesmith(log, lists[0], lists[1])
            continue
        fixed = reward_swesmith(log, lists[0], lists[1])
        fewer += fixed < exact
        more += fixed > exact
        if fixed > exact:
            # Never a pass but of tests that are in the log under their own names, and passed.
            found = _logs.summary_lines(log)
            for test in lists[0] + lists[1]:
                named = [
                    line.status
                    for line in found
                    if line.node == test
                    or ("::" not in test and line.node.partition("::")[2] == test)
                ]
                assert named
                assert set(named) <= {"PASSED", "XFAIL"}
    assert ones > 500
    assert fewer > 100
    assert more > 0


def test_rewards_of_swebench(theirs: R2EGym) -> None:
    constants = theirs.runtime.MAP_REPO_VERSION_TO_SPECS["pallets/flask"]
    version = sorted(constants)[-1]
    command = constants[version]["test_cmd"]
    parser = theirs.runtime.MAP_REPO_TO_PARSER["pallets/flask"]
    pieces = [
        f"{command} t.py\n",
        ">>>>> Tests Errored\n",
        ">>>>> Start Test Output\n",
        "SKIPPED t.py::a\n",
    ]
    pieces += [
        f"{status} {test}\n" for status in ("PASSED", "FAILED", "XFAIL") for test in TESTS[:3]
    ]
    chance = random.Random(7)
    ones = 0
    for _ in range(4_000):
        log = "".join(chance.choice(pieces) for _ in range(chance.randint(0, 6)))
        lists = [[chance.choice(TESTS[:3]) for _ in range(chance.randint(0, 2))] for _ in "fp"]
        runtime = theirs.runtime_of({}, log)
        runtime.test_spec = SimpleNamespace(
            repo="pallets/flask",
            version=version,
            instance_id="x",
            FAIL_TO_PASS=lists[0],
            PASS_TO_PASS=lists[1],
        )
        exact = reward_swebench(
            log,
            lists[0],
            lists[1],
            lambda text: parser(text, None),
            test_cmd=command,
            compat="exact",
        )
        assert runtime._calculate_reward_swebench() == exact, log
        ones += exact
    assert ones > 200


def test_logs_of_swebench(theirs: R2EGym) -> None:
    row = {"repo": "pallets/flask", "version": "2.3", "FAIL_TO_PASS": [], "PASS_TO_PASS": []}
    tests = rows.tests_of(row)
    rules = _swebench.rules_of(row, tests)
    pieces = [f"{rules.test_cmd} t.py\n", ">>>>> Tests Errored\n", "PASSED t.py::a\n", "x\n"]
    pieces += ["FAILED t.py::a - no\n", "PASSED t.py::b\n", "ERROR t.py::c\n"]
    chance = random.Random(9)
    read = 0
    for _ in range(2_000):
        log = "".join(chance.choice(pieces) for _ in range(chance.randint(0, 6)))
        their = theirs.runtime_of({}, log).get_logs_eval(tests, log)
        assert _swebench.read_log(row, tests, log) == their
        read += len(their[0])
    assert read > 1_000


def test_the_parser_of_swebench(theirs: R2EGym) -> None:
    parsers: Any = importlib.import_module("swebench.harness.log_parsers.python")
    chance = random.Random(8)
    for _ in range(3_000):
        log = some_log(chance)
        assert _logs.statuses_of_pytest(log) == parsers.parse_log_pytest(log, None)
