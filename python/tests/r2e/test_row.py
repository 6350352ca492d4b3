"""Rows: what kind, which image, which tests."""

from __future__ import annotations

from typing import Any, Dict, Optional

import pytest

from imgforge_sandbox.r2e import row as rows
from imgforge_sandbox.r2e._compat import Compat

R2E = {"docker_image": "ns/sympy:abc", "repo_name": "sympy", "expected_output_json": "{}"}
SWEBENCH = {"docker_image": "mirror/x:1", "repo": "a/b", "version": "1", "FAIL_TO_PASS": "[]"}
SWESMITH = {"image_name": "swesmith.x86_64.a__b.123", "repo": "a/b", "FAIL_TO_PASS": []}
EXPANDED = "jyangballin/swesmith.x86_64.a_1776_b.123:latest"


@pytest.mark.parametrize(
    ("row", "given", "fixed", "exact"),
    [
        (R2E, None, ("ns/sympy:abc", "r2e"), ("ns/sympy:abc", "r2e")),
        (R2E, "other:1", ("other:1", "r2e"), ("other:1", "r2e")),
        (SWEBENCH, None, ("mirror/x:1", "swebench"), ("mirror/x:1", "r2e")),
        (
            {**R2E, "docker_image": "swebench-mirror/sympy:1"},
            None,
            ("swebench-mirror/sympy:1", "r2e"),
            ("swebench-mirror/sympy:1", "swebench"),
        ),
        (SWESMITH, None, (EXPANDED, "swesmith"), (EXPANDED, "swesmith")),
        (SWESMITH, "my/swesmith:1", ("my/swesmith:1", "swesmith"), (EXPANDED, "swesmith")),
        (
            {**SWESMITH, "image_name": "ns/swesmith.a__b:1"},
            None,
            ("ns/swesmith.a__b:1", "swesmith"),
            ("jyangballin/ns/swesmith.a_1776_b:1:latest", "swesmith"),
        ),
    ],
)
def test_image_and_kind(row: Dict[str, Any], given: Optional[str], fixed: Any, exact: Any) -> None:
    assert rows.image_of(row, given, "fixed") == fixed
    assert rows.image_of(row, given, "exact") == exact


@pytest.mark.parametrize("compat", ["fixed", "exact"])
def test_a_row_without_an_image(compat: Compat) -> None:
    with pytest.raises(ValueError, match="neither docker_image nor image_name"):
        rows.image_of({"repo_name": "x"}, None, compat)


def test_the_repository() -> None:
    assert rows.repository_of(R2E, "r2e") == "sympy"
    assert rows.repository_of(SWEBENCH, "swebench") == "a/b"
    with pytest.raises(ValueError, match="the row has no repo_name"):
        rows.repository_of({}, "r2e")


def test_the_commit() -> None:
    assert rows.commit_of({"parsed_commit_content": '{"a": 1}'}, "r2e", "fixed") == {"a": 1}
    assert rows.commit_of({"parsed_commit": '{"a": 1}'}, "swebench", "exact") == {"a": 1}
    assert rows.commit_of({}, "r2e", "fixed") is None
    assert rows.commit_of({}, "swesmith", "exact") is None
    with pytest.raises(KeyError):
        rows.commit_of({}, "r2e", "exact")


def test_lists_of_tests() -> None:
    tests = rows.tests_of({"FAIL_TO_PASS": '["a"]', "PASS_TO_PASS": ("b", "c")})
    assert (tests.FAIL_TO_PASS, tests.PASS_TO_PASS) == (["a"], ["b", "c"])
    assert rows.tests_of({}).FAIL_TO_PASS == []
    with pytest.raises(ValueError, match="FAIL_TO_PASS"):
        rows.tests_of({"FAIL_TO_PASS": [1]})


def test_what_is_expected() -> None:
    assert rows.expected_of({"expected_output_json": '{"a": "PASSED"}'}) == {"a": "PASSED"}
    assert rows.expected_of({}, '{"a": "PASSED"}') == {"a": "PASSED"}
    with pytest.raises(ValueError, match="no mapping"):
        rows.expected_of({"expected_output_json": "[]"})


@pytest.mark.parametrize(
    ("statement", "instruction"),
    [
        ("a [ISSUE]b\nc[/ISSUE] d", "b\nc"),
        ("[ISSUE][/ISSUE]", ""),
        ("no issue", "no issue"),
        ("[ISSUE]open", "[ISSUE]open"),
        ("[ISSUE]a[/ISSUE] b [ISSUE]c[/ISSUE]", "a[/ISSUE] b [ISSUE]c"),
    ],
)
def test_the_instruction(statement: str, instruction: str) -> None:
    assert rows.instruction_of({"problem_statement": statement}) == instruction
