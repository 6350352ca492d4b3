"""Grades of patches, on the real program."""

from __future__ import annotations

import json
import subprocess

import pytest
from shared import INSTANCE

from imgforge_sandbox import Client, NoSuchInstance, NoVerdict, Refused, Session


@pytest.fixture(scope="module")
def gold(binary: str) -> str:
    """The patch that resolves the instance."""
    shown = subprocess.run(
        [binary, "dataset", "show", "-d", INSTANCE.dataset, INSTANCE.instance_id, "--json"],
        check=True,
        capture_output=True,
    )
    patch = json.loads(shown.stdout)["patch"]
    assert isinstance(patch, str)
    return patch


def test_the_gold_patch_resolves_it(client: Client, session: Session, gold: str) -> None:
    session.apply(gold)
    for grade in (session.grade(), client.grade(INSTANCE, gold)):
        assert (grade.resolved, grade.verdict, grade.reward) == (True, "resolved", 1.0)
        assert b"test_signs" in grade.log
        assert grade.tests
    # The session lives on, without the tests.
    assert session.exec("grep -q test_signs tests/test_parser.py").code == 1


def test_what_does_not_resolve_it(client: Client, session: Session) -> None:
    session.write("/testbed/new.py", "x = 1\n")
    grade = session.grade()
    assert (grade.resolved, grade.verdict, grade.reward) == (False, "unresolved", 0.0)
    grade = client.grade(INSTANCE, b"")
    assert (grade.resolved, grade.verdict) == (False, "empty_patch")
    grade = client.grade(INSTANCE, "--- a/nothing\n+++ b/nothing\n@@ -1 +1 @@\n-a\n+b\n")
    assert (grade.resolved, grade.verdict) == (False, "patch_refused")


def test_tests_that_never_end(client: Client, session: Session) -> None:
    session.write("/testbed/src/abacus/__init__.py", "import time\ntime.sleep(1000)\n")
    grade = session.grade(timeout=2.5)
    assert grade.verdict == "timed_out"
    if grade.resolved is None:
        with pytest.raises(NoVerdict, match="timed_out"):
            _ = grade.reward
    else:
        assert grade.reward == 0.0


def test_what_cannot_be_graded(client: Client, session: Session) -> None:
    with pytest.raises(NoSuchInstance):
        client.grade(("demo", "nothing"), "x")
    session.write("/testbed/latin.txt", b"\xe4\n")
    with pytest.raises(Refused, match="UTF-8"):
        session.grade()
    with client.start(image=session.image) as other, pytest.raises(Refused):
        other.grade()
