"""What a row of a dataset says: its kind, its image, its tests."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, List, Literal, Mapping, Optional, Tuple

from ._compat import Compat

Kind = Literal["r2e", "swebench", "swesmith"]
"""Whose images and whose rules: R2E's own, SWE-bench's, or SWE-smith's."""

_ISSUE = re.compile(r"\[ISSUE\](.*)\[/ISSUE\]", re.DOTALL)


@dataclass(frozen=True)
class TestSpec:
    """What a row of SWE-bench or SWE-smith expects of which tests."""

    # No class of tests, for pytest.
    __test__ = False

    instance_id: str
    repo: str
    version: str
    FAIL_TO_PASS: List[str]
    PASS_TO_PASS: List[str]


def image_of(
    row: Mapping[str, Any], docker_image: Optional[str], compat: Compat
) -> Tuple[str, Kind]:
    """Returns the image of a row, and of which kind the row is.

    `docker_image` is taken first, then the row's `docker_image`, then its `image_name`; an
    `image_name` of SWE-smith without a `/` is one of `jyangballin` on Docker Hub. Raises
    `ValueError` where none of them is there.

    In fixed mode the fields of the row say its kind: `FAIL_TO_PASS` and `version` are SWE-bench's,
    `FAIL_TO_PASS` alone is SWE-smith's. In exact mode the words `swebench` and `swesmith` in the
    name of the image do, and the image of SWE-smith is always that of `image_name`.
    """
    named = docker_image or row.get("docker_image") or row.get("image_name")
    if not named:
        raise ValueError(
            "the row names no image: it has neither docker_image nor image_name; "
            "give one of them, or docker_image=…"
        )
    image = str(named)
    if compat == "exact":
        if "docker_image" in row:
            image = docker_image or str(row["docker_image"])
        if "swesmith" in image:
            return _of_swesmith(str(row["image_name"])), "swesmith"
        return image, "swebench" if "swebench" in image else "r2e"
    kind = kind_of(row)
    from_name = not docker_image and not row.get("docker_image")
    if kind == "swesmith" and from_name and "/" not in image:
        image = _of_swesmith(image)
    return image, kind


def _of_swesmith(image_name: str) -> str:
    return f"jyangballin/{image_name.replace('__', '_1776_')}:latest"


def kind_of(row: Mapping[str, Any]) -> Kind:
    """Returns the kind of a row, by its fields."""
    if "FAIL_TO_PASS" not in row:
        return "r2e"
    return "swebench" if "version" in row else "swesmith"


def repository_of(row: Mapping[str, Any], kind: Kind) -> str:
    """Returns the name of the repository: `repo_name` in a row of R2E, `repo` in others."""
    field = "repo_name" if kind == "r2e" else "repo"
    if field not in row:
        raise ValueError(f"the row has no {field}")
    return str(row[field])


def commit_of(row: Mapping[str, Any], kind: Kind, compat: Compat) -> Any:
    """Returns what the row has of the commit that mended it, or None where it has nothing.

    It is the JSON of R2E's `ParsedCommit`. In exact mode a row without it is a `KeyError`.
    """
    if kind == "swesmith":
        return None
    field = "parsed_commit" if kind == "swebench" else "parsed_commit_content"
    if compat == "fixed" and field not in row:
        return None
    return json.loads(row[field])


def tests_of(row: Mapping[str, Any]) -> TestSpec:
    """Returns the tests of a row. The lists may be JSON in a text."""
    return TestSpec(
        instance_id=str(row.get("instance_id", "")),
        repo=str(row.get("repo", "")),
        version=str(row.get("version", "")),
        FAIL_TO_PASS=_list(row, "FAIL_TO_PASS"),
        PASS_TO_PASS=_list(row, "PASS_TO_PASS"),
    )


def _list(row: Mapping[str, Any], field: str) -> List[str]:
    value = row.get(field, [])
    if isinstance(value, str):
        value = json.loads(value)
    # A column of a table is an array, not a list.
    tests = list(value)
    if not all(isinstance(test, str) for test in tests):
        raise ValueError(f"{field} of the row is no list of texts")
    return tests


def expected_of(row: Mapping[str, Any], text: Optional[str] = None) -> Mapping[str, str]:
    """Returns what a row of R2E expects: its `expected_output_json`, or else `text`."""
    found = row.get("expected_output_json", text)
    expected = json.loads(found) if isinstance(found, str) else found
    if not isinstance(expected, dict):
        raise ValueError("expected_output_json of the row is no mapping of tests to statuses")
    return {str(test): str(status) for test, status in expected.items()}


def instruction_of(row: Mapping[str, Any]) -> str:
    """Returns what is between `[ISSUE]` and `[/ISSUE]` of `problem_statement`, or all of it."""
    statement = str(row["problem_statement"])
    found = _ISSUE.search(statement)
    return found.group(1) if found else statement
